// @ts-check
/** Draws one slice of a case: the image in its window, maps and masks over it, at any zoom. Slices are fetched ahead. */

import { numbers } from './server.js';
import { outline, rowsOf, unpack } from './mask.js';

/** @typedef {{axial?: number[], coronal?: number[], sagittal?: number[]}} Planes  slices, rows, columns of each plane */
/** @typedef {{key: string, id: string, volume: boolean, spacing: number[], colour: boolean, planes: any, type: string,
 *   window: number[], ct: boolean, first: number, layers: string[], edits: number, undo: number, redo: number, pixels: number, ml: number|null}} Case */

const MOST = 220e6, AHEAD = 8, TOGETHER = 4;
export const COLOURS = { mask: '#e69f00', draft: '#56b4e9', truth: '#f4f4f4' };
const DASHES = { mask: [], draft: [7, 4], truth: [2, 4] };
const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 182, 100], [254, 232, 56]];
const MAGMA = [[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]];

/** @param {number[][]} anchors */
function ramp(anchors) {
  const table = new Uint8Array(256 * 3);
  for (let i = 0; i < 256; i++) {
    const at = i / 255 * (anchors.length - 1), low = Math.min(anchors.length - 2, Math.floor(at)), part = at - low;
    for (let k = 0; k < 3; k++) table[i * 3 + k] = anchors[low][k] + (anchors[low + 1][k] - anchors[low][k]) * part;
  }
  return table;
}
const RAMPS = { confidence: ramp(CIVIDIS), difference: ramp(MAGMA) };

export class View {
  /** @param {HTMLCanvasElement} canvas @param {(message: string) => void} onTrouble @param {() => void} onDrawn */
  constructor(canvas, onTrouble, onDrawn) {
    this.canvas = canvas; this.onTrouble = onTrouble; this.onDrawn = onDrawn;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
    this.paper = document.createElement('canvas');
    /** @type {Map<string, any>} */ this.kept = new Map();
    /** @type {Map<string, {promise: Promise<any>, abort: AbortController}>} */ this.coming = new Map();
    this.bytes = 0;
    /** @type {Case|null} */ this.case = null;
    /** @type {'axial'|'coronal'|'sagittal'} */ this.plane = 'axial';
    this.index = 0; this.shown = { mask: true, draft: false, truth: false, confidence: false, difference: false, counterfactual: false };
    this.filled = true; this.opacity = 0.35; this.window = [0, 255]; this.zoom = 1; this.centre = [0.5, 0.5];
    /** @type {Uint8Array|null} */ this.mask = null;
    /** @type {number|null} */ this.preview = null;
    /** @type {number[][]|null} */ this.polygon = null;
    /** @type {{row: number, column: number, size: number}|null} */ this.cursor = null;
    /** @type {any} what was fetched of the slice */ this.parts = null;
    this.drawnMs = 0; this.asked = 0; this.frame = 0;
    new ResizeObserver(() => this.draw()).observe(canvas);
  }
  get shape() { return this.case ? /** @type {number[]} */ (this.case.planes[this.plane]) : [0, 0, 0]; }
  /** Millimetres of a pixel, down and across. */
  get pixel() {
    if (!this.case) return [1, 1];
    const [z, y, x] = this.case.spacing;
    return this.plane === 'axial' ? [y, x] : this.plane === 'coronal' ? [z, x] : [z, y];
  }
  get aspect() { const [down, across] = this.pixel; return down / across; }

  /** @param {Case} one */
  open(one) {
    for (const { abort } of this.coming.values()) abort.abort();
    this.kept.clear(); this.coming.clear(); this.bytes = 0;
    this.case = one; this.plane = 'axial'; this.index = one.first; this.window = [...one.window]; this.mask = null; this.parts = null;
    this.preview = null; this.polygon = null; // which are of the case before
    this.shown = { ...this.shown, truth: false, draft: false, counterfactual: false };
    this.fit();
  }
  /** Show nothing: what was seen is not the case that is asked for. */
  close() { this.case = null; this.mask = null; this.parts = null; this.draw(); }
  fit() { this.zoom = 1; this.centre = [0.5, 0.5]; }

  // --- slices

  /** @param {string} what @param {number} index */
  url(what, index) {
    const base = `/api/cases/${/** @type {Case} */ (this.case).key}`;
    return what === 'image' ? `${base}/image/${this.plane}/${index}` : `${base}/layers/${what}/${this.plane}/${index}`;
  }
  /** One slice, from memory or from the server. @param {string} what @param {number} index @returns {Promise<any>} */
  slice(what, index) {
    const url = this.url(what, index), kept = this.kept.get(url);
    if (kept) { this.kept.delete(url); this.kept.set(url, kept); return Promise.resolve(kept); }
    const coming = this.coming.get(url);
    if (coming) return coming.promise;
    const abort = new AbortController(), [, rows, columns] = this.shape, one = this.case;
    const promise = numbers(url, abort.signal).then((data) => {
      if (this.coming.get(url)?.abort === abort) this.coming.delete(url);
      const value = ['mask', 'draft', 'truth'].includes(what) ? unpack(/** @type {Uint8Array} */ (data), rows * columns) : data;
      if (this.case === one && !abort.signal.aborted) { this.kept.set(url, value); this.bytes += value.byteLength; this.trim(); }
      return value;
    }, (error) => { this.coming.delete(url); throw error; });
    this.coming.set(url, { promise, abort });
    promise.catch(() => {});
    return promise;
  }
  trim() {
    for (const [url, value] of this.kept) {
      if (this.bytes <= MOST) break;
      this.kept.delete(url); this.bytes -= value.byteLength;
    }
  }
  /** Forget the masks that may have changed; with a plane and index all but that slice. @param {boolean} [butThis] */
  forgetMasks(butThis) {
    const own = this.case ? this.url('mask', this.index) : '';
    if (!butThis) this.mask = null; // nothing is drawn onto what may have changed
    for (const url of [...this.coming.keys()].filter((u) => u.includes('/layers/mask/'))) {
      this.coming.get(url)?.abort.abort(); this.coming.delete(url);
    }
    for (const [url, value] of this.kept) {
      if (url.includes('/layers/mask/') && !(butThis && url === own)) { this.kept.delete(url); this.bytes -= value.byteLength; }
    }
  }
  needed() {
    const layers = ['draft', 'truth', 'confidence', 'difference'].filter((name) => this.shown[/** @type {keyof View['shown']} */ (name)]);
    if (this.preview !== null && !layers.includes('confidence')) layers.push('confidence');
    return ['image', 'mask', ...layers, ...(this.shown.counterfactual ? ['counterfactual'] : [])];
  }
  /** Fetch what the slice needs, draw it, and fetch its neighbours. @param {number} [towards] 1 or -1, where the next one will be */
  async show(towards = 1) {
    const one = this.case;
    if (!one) return;
    const turn = ++this.asked, began = performance.now(), names = this.needed();
    const found = await Promise.all(names.map((name) => this.slice(name, this.index).catch((error) => {
      if (error.name === 'AbortError') return null;
      if (name in this.shown && name !== 'mask') this.shown[/** @type {keyof View['shown']} */ (name)] = false;
      this.onTrouble(error.message);
      return null;
    })));
    if (turn !== this.asked || one !== this.case) return;
    this.parts = Object.fromEntries(names.map((name, i) => [name, found[i]]));
    if (!this.parts.image) return;
    this.mask = this.parts.mask;
    this.paint();
    this.draw();
    this.drawnMs = performance.now() - began;
    this.onDrawn();
    this.ahead(towards);
  }
  /** @param {number} towards */
  ahead(towards) {
    const [slices] = this.shape;
    for (let step = 1; step <= AHEAD && this.coming.size < TOGETHER * 2; step++) {
      for (const index of step <= 2 ? [this.index + towards * step, this.index - towards * step] : [this.index + towards * step]) {
        if (index < 0 || index >= slices) continue;
        for (const what of ['image', 'mask']) if (!this.kept.has(this.url(what, index))) this.slice(what, index).catch(() => {});
      }
    }
  }

  // --- pixels

  /** The image, with the maps mixed in, on paper of the size of the slice. */
  paint() {
    if (!this.parts) return; // the case is being read
    const [, rows, columns] = this.shape, one = /** @type {Case} */ (this.case);
    if (this.paper.width !== columns || this.paper.height !== rows) { this.paper.width = columns; this.paper.height = rows; }
    const paper = /** @type {CanvasRenderingContext2D} */ (this.paper.getContext('2d'));
    const picture = paper.createImageData(columns, rows), out = picture.data;
    const blinked = this.shown.counterfactual && this.parts.counterfactual;
    const source = blinked ? this.parts.counterfactual : this.parts.image, [low, high] = this.window, scale = 255 / Math.max(1e-9, high - low);
    const colour = one.colour && source.length === 3 * rows * columns; // a run on grey paints a colour image grey
    for (let i = 0, n = rows * columns; i < n; i++) {
      if (colour) { out[4 * i] = source[3 * i]; out[4 * i + 1] = source[3 * i + 1]; out[4 * i + 2] = source[3 * i + 2]; }
      else out[4 * i] = out[4 * i + 1] = out[4 * i + 2] = (source[i] - low) * scale;
      out[4 * i + 3] = 255;
    }
    if (this.shown.confidence && this.parts.confidence) this.mix(out, this.parts.confidence, 1 / 100, RAMPS.confidence);
    if (this.shown.difference && this.parts.difference) this.mix(out, this.parts.difference, 2, RAMPS.difference);
    paper.putImageData(picture, 0, 0);
  }
  /** Mix a map in; where it is small the image stays as it is. @param {Uint8ClampedArray} out @param {any} map @param {number} scale @param {Uint8Array} table */
  mix(out, map, scale, table) {
    for (let i = 0; i < map.length; i++) {
      const value = Math.min(1, map[i] * scale);
      if (value < 0.02) continue;
      const share = Math.min(0.85, 0.25 + 0.75 * value) * Math.min(1, 2 * this.opacity + 0.15), at = Math.round(value * 255) * 3;
      for (let k = 0; k < 3; k++) out[4 * i + k] = out[4 * i + k] * (1 - share) + table[at + k] * share;
    }
  }
  /** Screen pixels of an image pixel, and where the image begins. */
  place() {
    const [, rows, columns] = this.shape, ratio = window.devicePixelRatio || 1;
    const wide = this.canvas.clientWidth * ratio, tall = this.canvas.clientHeight * ratio;
    const across = Math.min((wide - 24 * ratio) / columns, (tall - 24 * ratio) / (rows * this.aspect)) * this.zoom, down = across * this.aspect;
    return { wide, tall, across, down, left: wide / 2 - this.centre[1] * columns * across, top: tall / 2 - this.centre[0] * rows * down, ratio };
  }
  /** Row and column, with fractions, under a pointer. @param {{clientX: number, clientY: number}} event */
  under(event) {
    const box = this.canvas.getBoundingClientRect(), { across, down, left, top, ratio } = this.place();
    return [((event.clientY - box.top) * ratio - top) / down, ((event.clientX - box.left) * ratio - left) / across];
  }
  /** Draw with the next frame, once however often it is asked for: a pointer moves faster than a slice is drawn. */
  soon() { this.frame ||= requestAnimationFrame(() => { this.frame = 0; this.draw(); }); }
  draw() {
    const { wide, tall, across, down, left, top, ratio } = this.place(), [, rows, columns] = this.shape, context = this.context;
    if (this.canvas.width !== Math.round(wide) || this.canvas.height !== Math.round(tall)) {
      this.canvas.width = Math.round(wide); this.canvas.height = Math.round(tall);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, wide, tall);
    if (!this.case || !this.parts || !this.parts.image) return;
    context.imageSmoothingEnabled = across < 6;
    context.imageSmoothingQuality = 'high';
    context.drawImage(this.paper, left, top, columns * across, rows * down);
    for (const name of /** @type {('truth'|'draft'|'mask')[]} */ (['mask', 'draft', 'truth'])) {
      if (this.shown[name] && this.parts[name]) this.region(name, name === 'mask' ? this.previewed() : this.parts[name], { across, down, left, top, ratio });
    }
    if (this.polygon) this.lines(this.polygon, { across, down, left, top, ratio });
    if (this.cursor) {
      const { row, column, size } = this.cursor;
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.lineWidth = 1.2 * ratio; context.strokeStyle = '#fff';
      context.beginPath();
      context.ellipse(left + column * across, top + row * down, Math.max(1, size / 2 * across), Math.max(1, size / 2 * across), 0, 0, 7);
      context.stroke();
    }
  }
  /** The mask, or what the slider would make of it. */
  previewed() {
    const sure = this.parts.confidence;
    if (this.preview === null || !sure) return this.mask || this.parts.mask;
    return Uint8Array.from(sure, (value) => (value >= /** @type {number} */ (this.preview) ? 1 : 0));
  }
  /** @param {'truth'|'draft'|'mask'} name @param {Uint8Array} mask @param {any} at */
  region(name, mask, { across, down, left, top, ratio }) {
    const [, rows, columns] = this.shape, context = this.context, path = new Path2D();
    const bare = this.filled && !['counterfactual', 'difference', 'confidence'].some((map) => this.shown[/** @type {keyof View['shown']} */ (map)]);
    if (name === 'mask' && bare) { // over a map the contour alone: what it hides is what is looked for
      const [first, behind] = rowsOf(mask, columns), count = Math.max(1, behind - first), part = mask.subarray(first * columns, behind * columns);
      const layer = new OffscreenCanvas(columns, count), pen = /** @type {OffscreenCanvasRenderingContext2D} */ (layer.getContext('2d'));
      const picture = pen.createImageData(columns, count), alpha = Math.round(255 * this.opacity);
      for (let i = 0; i < part.length; i++) if (part[i]) { picture.data[4 * i] = 230; picture.data[4 * i + 1] = 159; picture.data[4 * i + 3] = alpha; }
      pen.putImageData(picture, 0, 0);
      context.imageSmoothingEnabled = false;
      context.drawImage(layer, left, top + first * down, columns * across, count * down);
    }
    path.addPath(outline(mask, rows, columns), new DOMMatrix([across, 0, 0, down, left, top]));
    context.lineCap = 'round';
    context.setLineDash(DASHES[name].map((part) => part * ratio));
    context.strokeStyle = 'rgb(0 0 0 / .55)'; context.lineWidth = 3.4 * ratio; context.stroke(path);
    context.strokeStyle = COLOURS[name]; context.lineWidth = 1.7 * ratio; context.stroke(path);
    context.setLineDash([]);
  }
  /** @param {number[][]} points @param {any} at */
  lines(points, { across, down, left, top, ratio }) {
    const context = this.context;
    context.beginPath();
    points.forEach(([row, column], i) => context[i ? 'lineTo' : 'moveTo'](left + column * across, top + row * down));
    context.strokeStyle = '#fff'; context.lineWidth = 1.5 * ratio; context.setLineDash([5 * ratio, 4 * ratio]); context.stroke(); context.setLineDash([]);
  }
  /** Zoom about a place of the screen. @param {number} factor @param {{clientX: number, clientY: number}} event */
  zoomAt(factor, event) {
    const [row, column] = this.under(event), before = this.zoom, [, rows, columns] = this.shape;
    this.zoom = Math.max(0.5, Math.min(40, this.zoom * factor));
    const share = before / this.zoom;
    this.centre = [row / rows + (this.centre[0] - row / rows) * share, column / columns + (this.centre[1] - column / columns) * share];
    this.draw();
  }
  /** @param {number} dx @param {number} dy in pixels of the page */
  pan(dx, dy) {
    const { across, down, ratio } = this.place(), [, rows, columns] = this.shape;
    this.centre = [this.centre[0] - dy * ratio / down / rows, this.centre[1] - dx * ratio / across / columns];
    this.draw();
  }
}
