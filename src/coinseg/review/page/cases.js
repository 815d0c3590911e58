// @ts-check
/** The case pages: scans are paged through and decided in the browser alone; decisions stay in this browser and go out as review.csv. */

/** @typedef {{at: number, image: string, mask: string, truth?: string}} Slice */
/** @typedef {{id: string, class: string, draft: string, side: string, volume: boolean, axis: string, shape: number[], aspect: number, apart: number|null, first: number,
 *   colour: boolean, ct: boolean, knots: number[][], numbers: any, said: any, slices: Slice[]}} Case */

const WINDOWS = [['soft tissue', 40, 400], ['lung', -600, 1500], ['bone', 500, 2000], ['liver', 60, 160], ['brain', 40, 80]];
const SIDES = { axial: ['R', 'L', 'A', 'P'], coronal: ['R', 'L', 'S', 'I'], sagittal: ['A', 'P', 'S', 'I'] };
const MARKS = { accepted: '✓', rejected: '✕', unsure: '?' };
const COLUMNS = ['rank', 'case', 'confidence', 'doubtful', 'volume_ml', 'pixels', 'draft', 'decision', 'comment', 'reviewer', 'time', 'seconds'];
const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));
const data = JSON.parse($('data').textContent), cases = /** @type {Case[]} */ (data.cases);
const key = `coinseg-cases-${document.body.dataset.identity}`, canvas = $('picture'), paper = document.createElement('canvas');
/** @typedef {{state: string, comment: string, time: string, seconds: number, who?: string}} Said  `who` had given a name when it was decided */
/** @type {{[id: string]: Said}} */ let decided = {};
let kept = true, current = 0, place = 0, blinking = false, since = Date.now(), drawing = 0;
let shownWindow = /** @type {number[]} */ ([]), saved = true, decider = '';
/** @type {Map<string, Promise<ImageData>>} */ const pictures = new Map();

// --- what is kept

function remember() {
  try { localStorage.setItem(key, JSON.stringify(decided)); localStorage.setItem('coinseg-reviewer', $('reviewer').value); kept = true; } catch { kept = false; }
  $('warning').hidden = kept;
  $('warning').textContent = 'This browser keeps nothing of this page: download review.csv before you close it.';
}
function recall() {
  try { $('reviewer').value = localStorage.getItem('coinseg-reviewer') || ''; } catch { /* nobody yet */ }
  others();
}
/** Take over what another tab decided of these cases. */
function others() {
  try { if (kept) decided = { ...decided, ...JSON.parse(localStorage.getItem(key) || '{}') }; } catch { /* this tab's alone */ }
}
/** Keep what is said of a case. @param {string} id @param {Said} said */
function keep(id, said) { others(); decided[id] = said; saved = false; remember(); }
/** Who decides from now on. What was decided before by nobody with a name is his; what another name decided, where both are the same person. */
function rename() {
  others();
  const now = $('reviewer').value.trim(), before = Object.values(decided).filter((said) => said.state), theirs = before.filter((said) => said.who && said.who === decider);
  for (const said of before) said.who ||= now;
  if (now && now !== decider && theirs.length && confirm(`${theirs.length} cases were decided as ${decider}. Are ${decider} and ${now} the same person?`)) for (const said of theirs) said.who = now;
  decider = now; saved = false;
  remember();
}
/** A cell of a table: what a spreadsheet would run as a formula has a quote before it. @param {any} value */
function cell(value) {
  let text = value === null || value === undefined ? '' : String(value);
  if (/^[=+\-@\t\r\n]/.test(text) && !/^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
function table() {
  const who = $('reviewer').value.trim();
  const rows = cases.map((one, i) => {
    const { confidence, doubtful, volume_ml, pixels } = one.numbers, said = decided[one.id];
    const start = [i + 1, one.id, confidence, doubtful === null ? null : Number(doubtful), volume_ml, pixels, one.draft];
    return said && said.state ? [...start, said.state, said.comment, said.who || who, said.time, said.seconds] : [...start, '', said ? said.comment : '', '', '', ''];
  });
  return [COLUMNS, ...rows].map((row) => row.map(cell).join(',')).join('\n') + '\n';
}
function download() {
  const link = document.createElement('a'), url = URL.createObjectURL(new Blob([table()], { type: 'text/csv' }));
  link.href = url; link.download = 'review.csv'; link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  saved = true;
}

// --- pictures

/** @param {string} packed @param {number} count */
function unpackRuns(packed, count) {
  const mask = new Uint8Array(count);
  let at = 0, inside = 0, length = 0, shift = 0;
  for (const letter of atob(packed)) {
    const byte = letter.charCodeAt(0);
    length += (byte & 127) * 2 ** shift; shift += 7;
    if (byte > 127) continue;
    if (inside) mask.fill(1, at, at + length);
    at += length; inside = 1 - inside; length = 0; shift = 0;
  }
  return mask;
}
/** @param {string} image @returns {Promise<ImageData>} */
function pixels(image) {
  const found = pictures.get(image);
  if (found) return found;
  if (pictures.size > 400) pictures.clear();
  const promise = (async () => {
    const picture = new Image();
    picture.src = `data:image/webp;base64,${image}`;
    await picture.decode();
    const area = new OffscreenCanvas(picture.naturalWidth, picture.naturalHeight), pen = /** @type {OffscreenCanvasRenderingContext2D} */ (area.getContext('2d'));
    pen.drawImage(picture, 0, 0);
    return pen.getImageData(0, 0, area.width, area.height);
  })();
  pictures.set(image, promise);
  return promise;
}
/** Grey values of the page to those of the screen, for a window in the units of the scan. @param {Case} one */
function greys(one) {
  const table = new Uint8ClampedArray(256), [low, high] = shownWindow;
  for (let code = 0; code < 256; code++) {
    let k = 1;
    while (k < one.knots.length - 1 && code > one.knots[k][1]) k++;
    const [[v0, g0], [v1, g1]] = [one.knots[k - 1], one.knots[k]];
    table[code] = 255 * ((v0 + (code - g0) / (g1 - g0) * (v1 - v0)) - low) / (high - low);
  }
  return table;
}
async function draw() {
  const turn = ++drawing, one = cases[current], slice = one && one.slices[place];
  if (!slice) return;
  const blinked = blinking && one.said && one.said.at === slice.at;
  const picture = await pixels(blinked ? one.said.image : slice.image);
  if (turn !== drawing) return;
  const seen = new ImageData(new Uint8ClampedArray(picture.data), picture.width, picture.height);
  if (!one.colour) {
    const table = greys(one);
    for (let i = 0; i < seen.data.length; i += 4) seen.data[i] = seen.data[i + 1] = seen.data[i + 2] = table[picture.data[i]];
  }
  paper.width = seen.width; paper.height = seen.height;
  /** @type {CanvasRenderingContext2D} */ (paper.getContext('2d')).putImageData(seen, 0, 0);
  const ratio = window.devicePixelRatio || 1, wide = Math.round(canvas.clientWidth * ratio), tall = Math.round(canvas.clientHeight * ratio);
  canvas.width = wide; canvas.height = tall;
  const [, rows, columns] = one.shape, across = Math.min((wide - 16 * ratio) / columns, (tall - 16 * ratio) / (rows * one.aspect)), down = across * one.aspect;
  const left = (wide - columns * across) / 2, top = (tall - rows * down) / 2, pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
  pen.imageSmoothingQuality = 'high';
  pen.drawImage(paper, left, top, columns * across, rows * down);
  const turned = new DOMMatrix([across, 0, 0, down, left, top]);
  if ($('mask').checked && slice.mask) region(pen, unpackRuns(slice.mask, rows * columns), rows, columns, turned, '#e69f00', [], ratio, $('fill').checked);
  if ($('truth').checked && slice.truth) region(pen, unpackRuns(slice.truth, rows * columns), rows, columns, turned, '#ffffff', [2, 4], ratio, false);
  $('badge').hidden = !blinked;
  $('badge').textContent = blinked ? `counterfactual: f ${one.said.before.toFixed(2)} → ${one.said.after.toFixed(2)}` : '';
  document.body.dataset.drawn = `${one.id} ${slice.at}${blinked ? ' counterfactual' : ''}`;
}
/** @param {CanvasRenderingContext2D} pen @param {Uint8Array} mask @param {number} rows @param {number} columns @param {DOMMatrix} turned
 *  @param {string} colour @param {number[]} dash @param {number} ratio @param {boolean} filled */
function region(pen, mask, rows, columns, turned, colour, dash, ratio, filled) {
  if (filled) {
    const layer = new OffscreenCanvas(columns, rows), inner = /** @type {OffscreenCanvasRenderingContext2D} */ (layer.getContext('2d'));
    const picture = inner.createImageData(columns, rows), alpha = Math.round(2.55 * Number($('opacity').value));
    for (let i = 0; i < mask.length; i++) if (mask[i]) picture.data.set([230, 159, 0, alpha], 4 * i);
    inner.putImageData(picture, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.setTransform(turned); pen.drawImage(layer, 0, 0); pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.imageSmoothingEnabled = true;
  }
  const path = new Path2D();
  path.addPath(outline(mask, rows, columns), turned);
  pen.lineCap = 'round'; pen.setLineDash(dash.map((part) => part * ratio));
  pen.strokeStyle = 'rgb(0 0 0 / .6)'; pen.lineWidth = 3.4 * ratio; pen.stroke(path);
  pen.strokeStyle = colour; pen.lineWidth = 1.8 * ratio; pen.stroke(path);
  pen.setLineDash([]);
}

// --- the case that is seen

/** @param {number} to */
function slide(to) {
  const one = cases[current];
  place = Math.max(0, Math.min(one.slices.length - 1, to));
  const slice = one.slices[place];
  if (one.said && one.said.at !== slice.at) blinking = false;
  $('slider').value = place;
  const rest = one.slices.length < one.shape[0] ? `, ${one.slices.length} of ${one.shape[0]} are here` : '';
  $('number').textContent = one.volume ? `slice ${slice.at} (0 to ${one.shape[0] - 1}${rest})` : `${one.shape[2]} × ${one.shape[1]} px`;
  $('blink').setAttribute('aria-pressed', String(blinking));
  draw();
  for (const near of [place + 1, place - 1]) if (one.slices[near]) pixels(one.slices[near].image);
}
function count() {
  const seen = cases.filter(ofClass), done = seen.filter((one) => decided[one.id]?.state).length;
  const rest = data.total > cases.length ? ` (of ${data.total}, those most worth a minute)` : '';
  $('progress').textContent = cases.length ? `${done} of ${seen.length} decided${$('class').value && ` (${$('class').value})`}${rest}` : 'no cases';
  return done;
}
/** Whether a case is of the class that is looked at. @param {Case} one */
const ofClass = (one) => !$('class').value || one.class === $('class').value;
/** What a case is called beside its class, which its id begins with. @param {Case} one */
const nameOf = (one) => one.class ? one.id.slice(one.class.length + 1) : one.id;
function list() {
  const wanted = $('filter').value;
  $('cases').replaceChildren(...cases.flatMap((one, i) => {
    const state = decided[one.id]?.state || '';
    if (!ofClass(one) || (wanted === 'open' && state && i !== current) || (wanted === 'doubtful' && !one.numbers.doubtful)) return [];
    const item = document.createElement('li'), sure = one.numbers.confidence;
    item.dataset.at = String(i); item.tabIndex = 0; item.title = `${one.id}${state ? `: ${state}` : ''}`;
    item.className = one.numbers.doubtful ? 'doubtful' : '';
    item.setAttribute('aria-current', String(i === current));
    const parts = [['mark', MARKS[/** @type {keyof typeof MARKS} */ (state)] || '○'], ['name', nameOf(one)], ['sure', sure === null ? '–' : `${Math.round(100 * sure)} %${one.numbers.doubtful ? ' !' : ''}`]];
    item.append(...parts.map(([name, text]) => Object.assign(document.createElement('span'), { className: name, textContent: text })));
    if (one.class) item.children[1].append(Object.assign(document.createElement('span'), { className: 'class', textContent: one.class }));
    return [item];
  }));
  const item = $('cases').querySelector('[aria-current=true]'), box = $('cases');  // the list alone is scrolled, never the page
  if (item && (item.offsetTop < box.scrollTop + box.offsetTop || item.offsetTop + item.offsetHeight > box.scrollTop + box.offsetTop + box.clientHeight)) box.scrollTop = item.offsetTop - box.offsetTop - 40;
}
function facts() {
  const one = cases[current], { confidence, doubtful, doubts, pixels: marked, volume_ml, components } = one.numbers, said = decided[one.id];
  $('title').textContent = nameOf(one);
  const rows = [['class', one.class || null], ['confidence', confidence === null ? null : `${Math.round(100 * confidence)} %${doubtful ? ', doubtful' : ''}`],
    ['marked', marked === null ? null : volume_ml === null ? `${marked} px` : `${Number(volume_ml.toPrecision(3))} ml`], ['parts', components], ['split', one.side || null],
    ['slices', one.volume ? `${one.shape[0]}, ${one.axis}${one.apart ? `, ${Math.round(100 * one.apart) / 100} mm apart` : ''}` : null]];
  $('numbers').replaceChildren(...rows.filter(([, value]) => value !== null && value !== undefined).flatMap(([name, value]) => [
    Object.assign(document.createElement('dt'), { textContent: name }), Object.assign(document.createElement('dd'), { textContent: value })]));
  $('doubts').textContent = (doubts || []).join('; ');
  $('comment').value = said ? said.comment : '';
  for (const button of document.querySelectorAll('#decide [data-state]')) button.setAttribute('aria-pressed', String(said?.state === /** @type {any} */ (button).dataset.state));
}
/** @param {number} to */
function open(to) {
  current = Math.max(0, Math.min(cases.length - 1, to)); blinking = false; since = Date.now();
  const one = cases[current];
  shownWindow = one.ct ? [-160, 240] : [one.knots[0][0], one.knots[one.knots.length - 1][0]];
  $('slider').max = one.slices.length - 1; $('slider').disabled = one.slices.length < 2; $('slider').hidden = !one.volume;
  $('blink').hidden = !one.said;
  $('truth').parentElement.hidden = !one.slices.some((slice) => 'truth' in slice);
  const sides = one.volume ? SIDES[/** @type {keyof typeof SIDES} */ (one.axis)] : ['', '', '', ''];
  ['left', 'right', 'top', 'bottom'].forEach((side, i) => { /** @type {any} */ (document.querySelector(`.side.${side}`)).textContent = sides[i]; });
  $('windows').replaceChildren(...(one.ct ? WINDOWS : []).map(([name], i) => {
    const button = Object.assign(document.createElement('button'), { textContent: `${name} ${i + 1}` });
    button.addEventListener('click', () => preset(i));
    return button;
  }));
  preset(0, true);
  facts(); list(); count();
  slide(one.slices.findIndex((slice) => slice.at === one.first));
  if (location.hash.slice(1) !== encodeURIComponent(one.id)) history.replaceState(null, '', `#${encodeURIComponent(one.id)}`);
}
/** @param {number} i @param {boolean} [quiet] */
function preset(i, quiet) {
  const buttons = $('windows').children;
  if (!buttons[i]) return;
  const [, centre, width] = /** @type {any} */ (WINDOWS[i]);
  shownWindow = [centre - width / 2, centre + width / 2];
  [...buttons].forEach((button, k) => button.setAttribute('aria-pressed', String(k === i)));
  if (!quiet) draw();
}
/** To the next case of the class, or the one before. @param {number} by */
function step(by) {
  let to = current + by;
  while (cases[to] && !ofClass(cases[to])) to += by;
  if (cases[to]) open(to);
}
/** @param {string} state */
function decide(state) {
  const one = cases[current], before = decided[one.id], same = before?.state === state;
  const seconds = Math.round(((before?.seconds || 0) + Math.min(600, (Date.now() - since) / 1000)) * 10) / 10;
  keep(one.id, { state: same ? '' : state, comment: $('comment').value.trim(), time: new Date().toISOString().slice(0, 19) + '+00:00', seconds, who: $('reviewer').value.trim() });
  const left = cases.map((_, i) => i).filter((i) => ofClass(cases[i]) && !decided[cases[i].id]?.state);
  if (same || !left.length) { facts(); list(); count(); since = Date.now(); return; }
  open(left.find((i) => i > current) ?? left[0]);
}
function blink() {
  const one = cases[current];
  if (!one.said) return;
  const on = !blinking;
  slide(one.slices.findIndex((slice) => slice.at === one.said.at));
  blinking = on;
  $('blink').setAttribute('aria-pressed', String(on));
  draw();
}

const KEYS = /** @type {{[key: string]: () => void}} */ ({
  arrowup: () => slide(place + 1), arrowdown: () => slide(place - 1), pageup: () => slide(place + 5), pagedown: () => slide(place - 5),
  home: () => slide(0), end: () => slide(1e9), a: () => decide('accepted'), r: () => decide('rejected'), u: () => decide('unsure'),
  n: () => step(1), p: () => step(-1), b: blink, m: () => $('mask').click(), t: () => $('truth').click(), f: () => $('fill').click(),
  '[': () => { $('opacity').value -= 10; draw(); }, ']': () => { $('opacity').value = Number($('opacity').value) + 10; draw(); },
});
addEventListener('keydown', (event) => {
  const typing = /** @type {any} */ (event.target).matches('input:not([type=checkbox]), select, textarea') && event.target !== $('slider');
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !cases.length) return;
  if (event.key >= '1' && event.key <= '5') preset(Number(event.key) - 1);
  else if (event.key === 'Enter' && /** @type {any} */ (event.target).matches('li')) open(Number(/** @type {any} */ (event.target).dataset.at));
  else if (KEYS[event.key.toLowerCase()]) { event.preventDefault(); KEYS[event.key.toLowerCase()](); }
});
let swipe = 0;
$('stage').addEventListener('wheel', (/** @type {WheelEvent} */ event) => { event.preventDefault(); if (cases.length) slide(place - Math.sign(event.deltaY)); }, { passive: false });
$('stage').addEventListener('pointerdown', (/** @type {PointerEvent} */ event) => { swipe = event.clientY; });
$('stage').addEventListener('pointermove', (/** @type {PointerEvent} */ event) => {
  if (!event.buttons || Math.abs(event.clientY - swipe) < 12 || !cases.length) return;
  slide(place + Math.sign(swipe - event.clientY)); swipe = event.clientY;
});
$('slider').addEventListener('input', () => slide(Number($('slider').value)));
for (const id of ['mask', 'truth', 'fill', 'opacity']) $(id).addEventListener('input', draw);
for (const button of document.querySelectorAll('#decide [data-state]')) button.addEventListener('click', () => decide(/** @type {any} */ (button).dataset.state));
$('next').addEventListener('click', () => step(1)); $('before').addEventListener('click', () => step(-1));
$('blink').addEventListener('click', blink);
$('comment').addEventListener('change', () => {
  const id = cases[current].id, said = decided[id] || { state: '', time: '', seconds: 0 };
  keep(id, { ...said, comment: $('comment').value.trim() });
});
$('reviewer').addEventListener('change', rename);
addEventListener('storage', (event) => { if (event.key === key && cases.length) { others(); list(); count(); if (document.activeElement !== $('comment')) facts(); } });
$('filter').addEventListener('change', list);
$('class').addEventListener('change', () => {
  const first = cases.findIndex((one) => ofClass(one) && !decided[one.id]?.state);
  open(ofClass(cases[current]) ? current : first >= 0 ? first : cases.findIndex(ofClass));
});
$('save').addEventListener('click', download);
$('cases').addEventListener('click', (/** @type {any} */ event) => { const item = event.target.closest('li'); if (item) open(Number(item.dataset.at)); });
addEventListener('resize', draw);
addEventListener('hashchange', () => { const at = cases.findIndex((one) => location.hash.slice(1) === encodeURIComponent(one.id)); if (at >= 0 && at !== current) open(at); });
addEventListener('beforeunload', (event) => { if (!kept && !saved) event.preventDefault(); });

const classes = [...new Set(cases.map((one) => one.class))].sort();
$('class').append(...classes.filter(Boolean).map((name) => Object.assign(document.createElement('option'), { value: name, textContent: name })));
$('class').hidden = classes.length < 2;
recall();
decider = $('reviewer').value.trim();
if (cases.length) {
  const asked = cases.findIndex((one) => location.hash.slice(1) === encodeURIComponent(one.id));
  remember();
  open(asked >= 0 ? asked : Math.max(0, cases.findIndex((one) => !decided[one.id]?.state)));
} else count();
