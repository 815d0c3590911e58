// @ts-check
/** What the pointer does on the picture: brush and eraser, polygon, clicks of tools, window, pan and zoom. */

import { newName } from './server.js';
import { Stroke } from './mask.js';

const SAVED_MS = 700; // a long stroke is sent in parts

export class Pointer {
  /** @param {import('./view.js').View} view
   *  @param {{onStroke: (stroke: Stroke, tool: string, gesture: string) => void, onClick: (tool: string, row: number, column: number) => void,
   *    onSlices: (steps: number) => void, onWindow: () => void, onHover: (row: number, column: number) => void, onRefused: (message: string) => void}} to */
  constructor(view, to) {
    this.view = view; this.to = to; this.tool = 'look'; this.size = 9;
    /** @type {Stroke|null} */ this.stroke = null;
    /** @type {any} */ this.last = null;
    this.mode = ''; this.id = -1; this.since = 0; this.turned = 0; this.space = false; this.gesture = '';
    const canvas = view.canvas;
    canvas.addEventListener('pointerdown', (event) => this.down(event));
    canvas.addEventListener('pointermove', (event) => this.move(event));
    for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, (event) => this.up(/** @type {PointerEvent} */ (event)));
    canvas.addEventListener('pointerleave', () => { if (view.cursor) { view.cursor = null; view.draw(); } });
    canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
    canvas.addEventListener('contextmenu', (event) => event.preventDefault());
    canvas.addEventListener('dblclick', () => this.closePolygon());
  }
  /** @param {string} tool */
  choose(tool) { this.tool = tool; this.view.polygon = null; this.view.cursor = null; this.view.draw(); }

  /** Whether another finger, or the hand beside the pen, touches while one draws. @param {PointerEvent} event */
  isOther(event) { return this.mode !== '' && event.pointerId !== this.id; }
  /** @param {PointerEvent} event */
  down(event) {
    const view = this.view;
    if (!view.case || !view.mask || this.isOther(event)) return;
    this.id = event.pointerId;
    view.canvas.focus();
    view.canvas.setPointerCapture(event.pointerId);
    this.last = event;
    const [row, column] = view.under(event);
    if (event.button === 2) this.mode = 'window';
    else if (event.button === 1 || this.space || this.tool === 'look') this.mode = 'pan';
    else if (this.tool === 'brush' || this.tool === 'eraser') {
      const [, rows, columns] = view.shape;
      this.mode = 'draw'; this.since = performance.now(); this.gesture = newName();
      // The other button of a pen, or shift, turns the brush round.
      this.stroke = new Stroke(rows, columns, (this.tool === 'brush') !== event.shiftKey);
      this.paint(row, column, row, column);
    } else if (this.tool === 'polygon') { (view.polygon ||= []).push([row, column]); view.draw(); }
    else this.to.onClick(this.tool, Math.floor(row), Math.floor(column));
  }
  /** @param {PointerEvent} event */
  move(event) {
    const view = this.view;
    if (!view.case || this.isOther(event)) return;
    const [row, column] = view.under(event);
    this.to.onHover(Math.floor(row), Math.floor(column));
    if (this.tool === 'brush' || this.tool === 'eraser') view.cursor = { row, column, size: this.size };
    if (this.mode === 'pan') view.pan(event.clientX - this.last.clientX, event.clientY - this.last.clientY);
    else if (this.mode === 'window') {
      const [low, high] = view.window, width = high - low, step = Math.max(width, 1) / 300;
      const middle = (low + high) / 2 + (event.clientY - this.last.clientY) * step, wide = Math.max(width / 1e3 + 1e-6, width + (event.clientX - this.last.clientX) * step * 2);
      view.window = [middle - wide / 2, middle + wide / 2];
      view.paint(); view.draw(); this.to.onWindow();
    } else if (this.mode === 'draw' && this.stroke) {
      for (const each of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
        const from = view.under(this.last), to = view.under(each);
        this.paint(from[0], from[1], to[0], to[1]);
        this.last = each;
      }
      if (performance.now() - this.since > SAVED_MS) this.send();
    } else if (view.cursor) view.soon();
    this.last = event;
  }
  /** @param {PointerEvent} event */
  up(event) {
    if (this.isOther(event)) return;
    if (this.mode === 'draw') this.send();
    this.mode = ''; this.stroke = null; this.last = event;
  }
  /** @param {number} r0 @param {number} c0 @param {number} r1 @param {number} c1 */
  paint(r0, c0, r1, c1) {
    const view = this.view;
    if (!this.stroke || !view.mask) return;
    this.stroke.brush(r0, c0, r1, c1, this.size, view.aspect, view.mask);
    view.cursor = { row: r1, column: c1, size: this.size };
    view.soon();
  }
  /** Send what was drawn so far, and go on with a new part. */
  send() {
    if (this.stroke && !this.stroke.isEmpty) { this.to.onStroke(this.stroke, this.tool, this.gesture); this.stroke.clear(); }
    this.since = performance.now();
  }
  /** Send what was drawn, and end the stroke: what is seen changes. */
  finish() { this.send(); this.mode = ''; this.stroke = null; }
  /** Fill the polygon; with shift it is taken away. @param {boolean} [away] */
  closePolygon(away) {
    const view = this.view, points = view.polygon, [, rows, columns] = view.shape;
    view.polygon = null;
    if (this.tool !== 'polygon' || !points || !view.mask) return;
    if (points.length < 3) { this.to.onRefused('a polygon needs three corners'); view.draw(); return; }
    const stroke = new Stroke(rows, columns, !away);
    stroke.polygon(points, view.mask);
    if (!stroke.isEmpty) this.to.onStroke(stroke, 'polygon', newName());
    view.draw();
  }
  /** @param {WheelEvent} event */
  wheel(event) {
    event.preventDefault();
    if (!this.view.case) return;
    if (event.ctrlKey || event.metaKey || !this.view.case.volume) { this.view.zoomAt(Math.exp(-event.deltaY / 300), event); return; }
    this.turned += event.deltaMode ? event.deltaY * 40 : event.deltaY; // a touch pad turns in small steps
    const steps = Math.trunc(this.turned / 40);
    if (steps) { this.turned = 0; this.to.onSlices(Math.abs(event.deltaY) >= 100 || event.deltaMode ? Math.sign(steps) : steps); }
  }
}
