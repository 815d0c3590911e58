// @ts-check
/** The desk: puts the parts of the page together. */

import { Outbox, Refused, begin, cubes, get, newName, post, reviewer } from './server.js';
import { View } from './view.js';
import { Pointer } from './draw.js';
import { Queue } from './queue.js';
import { Solid } from './solid.js';
import { askName, make, showExport, showGate, showKeys, showSummary } from './dialogs.js';

const TITLES = {
  look: 'Drag to move the picture; no tool', component: 'Click on a part of the mask to delete it', fill: 'Click into a closed outline to fill it', polygon: 'Click corners, Enter or a double click closes; Shift Enter takes away',
  interpolate: 'Draw the slices between two that you corrected', clear: 'Nothing is marked', draft: 'Back to the draft of coinseg', file: 'Take a mask that was corrected elsewhere', holes: 'Fill the holes of the mask', grow: 'One pixel larger', shrink: 'One pixel smaller',
};
const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));
const STATES = [['accepted', 'Accept', 'A'], ['rejected', 'Reject', 'R'], ['redraw', 'Redraw', 'D'], ['unsure', 'Unsure', 'U'], ['skipped', 'Skip', 'S']];
const WINDOWS = [['soft tissue', 40, 400], ['lung', -600, 1500], ['bone', 500, 2000], ['liver', 60, 160], ['brain', 40, 80]];
const LAYERS = [['mask', 'mask', 'M'], ['draft', 'draft of coinseg', 'O'], ['truth', 'truth', 'T'], ['confidence', 'confidence', 'G'], ['difference', 'difference', 'H'], ['counterfactual', 'counterfactual', 'B']];
const TOOLS = [['look', 'Look', 'W'], ['brush', 'Brush', 'Q'], ['eraser', 'Eraser', 'E'], ['polygon', 'Polygon', 'Y'], ['fill', 'Fill', 'L'], ['component', 'Part', 'X']];
const ACTS = [['undo', 'Undo', 'Z'], ['redo', 'Redo', '⇧Z'], ['grow', 'Grow', ''], ['shrink', 'Shrink', ''], ['holes', 'Fill holes', ''], ['interpolate', 'Between', 'I'], ['clear', 'Clear', ''], ['draft', 'Draft', ''], ['file', 'File', '']];

/** @type {any} */ let opened = null;
let since = 0, edits = 0, deciding = false, reading = false, slid = false, kinds = /** @type {string[]} */ ([]), plane3d = false, opening = 0;
/** @type {Set<number>} */ let corrected = new Set();
/** @type {Map<string, string>} comments that were begun, of cases that are not decided with them */ const notes = new Map();

/** @param {string} message @param {boolean} [good] */
function tell(message, good) {
  $('toast').textContent = message; $('toast').className = good ? 'good' : ''; $('toast').hidden = false;
  clearTimeout(tell.timer); tell.timer = setTimeout(() => { $('toast').hidden = true; }, good ? 1800 : 7000);
}
tell.timer = 0;
const trouble = (/** @type {any} */ error) => {
  if (error instanceof Refused && [401, 403, 421].includes(error.status)) showGate(error.message, error.login);
  else tell(error instanceof Refused ? error.message : 'the server does not answer; start `coinseg review` again and open the address it prints');
};

const view = new View($('picture'), tell, drawn);
const solid = new Solid($('solid'), tell);
const queue = new Queue((key) => open(key));
const pointer = new Pointer(view, {
  onStroke(stroke, tool, gesture) {
    const { top, left, rows, columns, bits } = stroke.cut(), name = newName(), key = opened.key;
    const words = new URLSearchParams({ plane: view.plane, index: String(view.index), top: String(top), left: String(left), rows: String(rows), columns: String(columns), value: stroke.value ? '1' : '0', tool, name, gesture });
    if (view.plane === 'axial') corrected.add(view.index);
    view.forgetMasks(true);
    edits++;
    outbox.add(key, `/api/cases/${key}/strokes?${words}`, bits);
  },
  onClick: (tool, row, column) => use(tool, { row, column }),
  onSlices: (steps) => go(view.index + steps),
  onWindow: corners,
  onHover: hover,
  onRefused: tell,
});
const outbox = new Outbox((waiting, problem) => {
  $('saved').textContent = problem ? `${waiting} not saved yet: ${problem}` : waiting ? 'saving' : opened ? 'saved' : '';
  $('saved').className = problem ? 'bad' : '';
}, (answer, stroke) => { if (opened && stroke.key === opened.key && stroke.who === reviewer()) state(answer); }, (message) => { tell(message); view.forgetMasks(); view.show(); });

// --- cases

async function refresh() {
  const found = await get('/api/queue');
  kinds = found.kinds;
  queue.take(found);
  return found;
}
/** @param {string} key */
async function open(key) {
  const turn = ++opening;
  reading = true;
  pointer.finish();
  await outbox.empty();
  queue.mark(key);
  $('busy').hidden = false; $('empty').hidden = true;
  try {
    const found = await get(`/api/cases/${key}`);
    if (turn !== opening) return;
    pointer.finish(); // what was begun meanwhile is of the case before
    slid = false;
    if (opened && $('comment').value !== (queue.row(opened.key)?.comment ?? '')) notes.set(opened.key, $('comment').value);
    opened = found; edits = found.edits; since = performance.now(); corrected = new Set();
    const row = queue.row(key);
    view.open(found);
    $('comment').value = notes.get(key) ?? (row ? row.comment : ''); $('corner-br').textContent = '';
    panel();
    setPlane('axial', false);
    state(found);
    await view.show();
    if (found.note) tell(`${found.id}: ${found.note}`);
    const next = queue.next(1, true);
    if (next) post(`/api/cases/${next}/ahead`).catch(() => {});
  } catch (error) { if (turn === opening) { opened = null; view.close(); $('title').textContent = queue.row(key)?.id || ''; trouble(error); } } finally { if (turn === opening) { reading = false; $('busy').hidden = true; } }
}
/** The numbers that change with the mask; another tab's changes are fetched. @param {any} answer */
function state(answer) {
  if (!opened) return;
  const elsewhere = answer.edits !== edits && outbox.waiting.length === 0;
  Object.assign(opened, answer);
  if (elsewhere) { edits = answer.edits; view.forgetMasks(); view.show(); }
  $('saved').textContent = outbox.waiting.length ? 'saving' : 'saved';
  for (const [name, count] of [['undo', opened.undo], ['redo', opened.redo]]) $(`act-${name}`).disabled = !count;
  numbersOf();
}
function numbersOf() {
  const row = queue.row(opened.key), of = row ? row.numbers : {}, round = (/** @type {any} */ v) => (v === undefined || v === null ? '–' : v.toFixed(2));
  const [slices, rows, columns] = opened.planes.axial;
  const lines = [['image score', round(of.highest_posterior ?? of.highest_f)], ['confidence', `${round(of.confidence)}${of.doubtful ? ' doubtful' : ''}`],
    ['volume', opened.ml === null ? null : `${opened.ml.toFixed(opened.ml < 10 ? 2 : 1)} ml`], ['marked', `${opened.pixels} ${opened.volume ? 'voxels' : 'pixels'}`],
    ['size', opened.volume ? `${columns} × ${rows} × ${slices}` : `${columns} × ${rows}`], ['voxel', opened.volume ? `${[...opened.spacing].reverse().map((/** @type {number} */ s) => +s.toFixed(2)).join(' × ')} mm` : null],
    ['decided', row && row.state !== 'open' ? row.state : null]];
  $('numbers').replaceChildren(...lines.filter(([, value]) => value !== null).flatMap(([name, value]) => [make('dt', { textContent: name }), make('dd', { textContent: value })]));
  $('doubts').textContent = (of.doubts || []).join('; ');
}
/** What the panel on the right offers for a case. */
function panel() {
  $('title').textContent = opened.id;
  $('layers').replaceChildren(...LAYERS.filter(([name]) => opened.layers.includes(name)).map(([name, words, key]) => {
    const box = make('input', { type: 'checkbox', id: `layer-${name}`, checked: view.shown[/** @type {'mask'} */ (name)] });
    box.addEventListener('change', () => layer(name));
    return make('label', { className: name }, box, make('i'), make('span', { textContent: words }), make('kbd', { textContent: key }));
  }));
  const presets = opened.colour ? [] : opened.ct ? WINDOWS : [['auto', 0, 0]];
  $('windows').replaceChildren(...[...presets, ...(opened.colour ? [] : [['all', 0, 0]])].map(([name, , ], i) => {
    const button = make('button', { textContent: name, title: `Window (${i + 1})` });
    button.addEventListener('click', () => preset(i));
    return button;
  }));
  $('threshold-row').hidden = !opened.layers.includes('confidence');
  $('threshold').value = 50; $('threshold-value').textContent = '50 %';
  $('whole').parentElement.hidden = !opened.volume;
  $('act-interpolate').hidden = !opened.volume;
  const planes = [...Object.keys(opened.planes), ...(opened.volume ? ['3-D'] : [])];
  $('planes').replaceChildren(...(opened.volume ? planes : []).map((name) => {
    const button = make('button', { textContent: name });
    button.addEventListener('click', () => setPlane(name));
    return button;
  }));
}
/** @param {string} name @param {boolean} [draw] */
async function setPlane(name, draw = true) {
  if (!opened) return;
  pointer.finish();
  plane3d = name === '3-D';
  $('picture').hidden = plane3d; $('solid').hidden = !plane3d;
  for (const id of ['corner-tl', 'corner-tr', 'corner-bl', 'corner-br']) $(id).hidden = plane3d;
  for (const button of $('planes').children) button.setAttribute('aria-pressed', String(button.textContent === name));
  $('slider').hidden = $('number').hidden = plane3d;
  if (plane3d) {
    $('busy').hidden = false;
    try { await outbox.empty(); solid.load(await cubes(`/api/cases/${opened.key}/solid`)); } catch (error) { trouble(error); }
    $('busy').hidden = true;
    return;
  }
  if (view.plane !== name) {
    view.plane = /** @type {any} */ (name); view.fit(); view.mask = null; view.parts = null; view.polygon = null;
    view.index = name === 'axial' ? opened.first : view.shape[0] >> 1;
    view.shown.counterfactual = view.shown.difference = false;
  }
  for (const button of $('planes').children) button.setAttribute('aria-pressed', String(button.textContent === name));
  $('slider').max = view.shape[0] - 1; $('strip').hidden = !opened.volume;
  if (draw) await view.show();
}
/** @param {number} index */
async function go(index) {
  if (!opened || plane3d) return;
  const to = Math.max(0, Math.min(view.shape[0] - 1, index)), step = to < view.index ? -1 : 1;
  if (to === view.index) return;
  pointer.send(); view.polygon = null; view.mask = null; view.index = to; // nothing is drawn onto a slice that is not seen yet
  $('slider').value = to; $('number').textContent = `${to + 1} / ${view.shape[0]}`;
  await view.show(step);
}
/** The next slice that has something of the mask. @param {number} step */
async function nextMarked(step) {
  for (let index = view.index + step; index >= 0 && index < view.shape[0]; index += step) {
    const mask = await view.slice('mask', index);
    if (mask.some((/** @type {number} */ value) => value)) { go(index); return; }
  }
  tell('no further slice is marked', true);
}

// --- layers and windows

/** @param {string} name */
async function layer(name) {
  const key = /** @type {'mask'} */ (name);
  if (!opened || !opened.layers.includes(name)) return;
  view.shown[key] = !view.shown[key];
  const asks = view.shown[key] && (name === 'counterfactual' || name === 'difference');
  if (asks) { $('busy').hidden = false; $('busy').textContent = 'asking the model about this slice'; }
  await view.show();
  $('busy').hidden = true; $('busy').textContent = 'reading the scan';
}
/** @param {number} at */
function preset(at) {
  if (!opened || opened.colour) return;
  const list = opened.ct ? WINDOWS : [['auto']];
  if (at < list.length) {
    const [name, centre, width] = /** @type {any} */ (list[at]);
    view.window = name === 'auto' ? [...opened.window] : [centre - width / 2, centre + width / 2];
  } else if (at === list.length && view.parts?.image) {
    let low = Infinity, high = -Infinity;
    for (const value of view.parts.image) { if (value < low) low = value; if (value > high) high = value; }
    view.window = [low, high > low ? high : low + 1];
  } else return;
  view.paint(); view.draw(); corners();
}
function corners() {
  if (!opened) return;
  const [low, high] = view.window, ends = { axial: 'A R L P', coronal: 'S R L I', sagittal: 'S A P I' }[view.plane].split(' ');
  $('corner-tl').textContent = opened.id;
  $('corner-tr').textContent = opened.volume ? `${view.plane}\n${view.index + 1} / ${view.shape[0]}` : '';
  $('corner-bl').textContent = opened.colour ? 'colour' : `W ${Math.round(high - low)}  L ${Math.round((low + high) / 2)}`;
  if (opened.volume) $('corner-tr').textContent += `\n${ends[0]} up, ${ends[1]} left`;
}
function drawn() {
  corners();
  $('slider').value = view.index; $('number').textContent = opened.volume ? `${view.index + 1} / ${view.shape[0]}` : '';
  for (const [name] of LAYERS) { const box = $(`layer-${name}`); if (box) box.checked = view.shown[/** @type {'mask'} */ (name)]; }
  const blinks = view.shown.counterfactual && view.parts.counterfactual;
  $('badge').hidden = !blinks; $('badge').textContent = 'counterfactual';
}
/** @param {number} row @param {number} column */
function hover(row, column) {
  const [, rows, columns] = view.shape, inside = row >= 0 && column >= 0 && row < rows && column < columns && view.parts?.image;
  const at = row * columns + column, image = view.parts?.image;
  const value = !inside ? '' : opened.colour ? `${image[3 * at]} ${image[3 * at + 1]} ${image[3 * at + 2]}` : `${+image[at].toFixed(2)}${opened.ct ? ' HU' : ''}`;
  const sure = inside && view.parts.confidence ? `  ${view.parts.confidence[at]} %` : '';
  $('corner-br').textContent = inside ? `${value}${sure}\n${column}, ${row}` : '';
}

// --- corrections and decisions

/** @param {string} tool @param {any} [more] */
async function use(tool, more = {}) {
  if (!opened) return;
  const between = tool === 'interpolate' ? neighbours() : [0, 0];
  pointer.finish();
  if (!between) { tell('correct a slice before and one behind this one first, then interpolate between them'); return; }
  // What was seen when it was asked for: another case may be open before the answer is there.
  const one = opened, amount = tool === 'shrink' ? -1 : 1, name = tool === 'shrink' ? 'grow' : tool;
  const words = { tool: name, plane: view.plane, index: view.index, whole: $('whole').checked && opened.volume, row: 0, column: 0, amount, name: newName(), first: between[0], last: between[1], ...more };
  try {
    await outbox.empty();
    const before = one.edits, answer = await post(`/api/cases/${one.key}/tool`, words);
    if (opened === one && answer.edits !== before && words.plane === 'axial' && !words.whole && tool !== 'interpolate') corrected.add(words.index);
    await changed(answer, one);
  } catch (error) { trouble(error); } finally { if (tool === 'threshold' && opened === one && view.preview !== null) { view.preview = null; view.draw(); } }
}
/** The corrected slices around the one that is seen: of the axial plane. */
function neighbours() {
  const list = [...corrected].sort((a, b) => a - b);
  if (view.plane !== 'axial' || list.length < 2) return null;
  const before = list.filter((i) => i <= view.index).pop(), behind = list.find((i) => i > view.index);
  return before === undefined || behind === undefined ? (list.length === 2 ? list : null) : [before, behind];
}
/** @param {any} answer @param {any} one the case it is of */
async function changed(answer, one) { if (opened !== one) return; edits = answer.edits; view.preview = null; view.forgetMasks(); state(answer); await view.show(); }
/** @param {boolean} redo */
async function undo(redo) {
  if (!opened) return;
  const one = opened;
  pointer.finish();
  await outbox.empty();
  try { await changed(await post(`/api/cases/${one.key}/${redo ? 'redo' : 'undo'}`), one); } catch (error) { trouble(error); }
}
/** @param {string} name */
async function decide(name) {
  // A key that is pressed twice must not decide the next case, which nobody has seen yet.
  if (!opened) return;
  if (deciding || reading || view.case !== opened || !view.parts) { tell('not decided: the case is still being read', true); return; }
  deciding = true;
  const one = opened, key = one.key, comment = $('comment').value, turn = opening;
  try {
    pointer.send();
    await outbox.empty();
    const seconds = (performance.now() - since) / 1000;
    const answer = await post(`/api/cases/${key}/decision`, { state: name, comment, seconds, edits: one.edits });
    notes.delete(key);
    tell(`${one.id}: ${answer.state}`, true);
    const next = queue.next(1, true);
    await refresh();
    if (turn !== opening) return; // another case was asked for meanwhile
    if (next) await open(next);
    else { queue.mark(key); panel(); numbersOf(); since = performance.now(); tell('every case of the list is decided', true); }
  } catch (error) { trouble(error); if (error instanceof Refused && error.status === 400) { const found = await get(`/api/cases/${key}`); if (opened === one) state(found); } } finally { deciding = false; }
}
async function fromFile() {
  const one = opened, input = make('input', { type: 'file', accept: opened.volume ? '.nii,.gz,.nrrd,.mha' : '.png' });
  input.addEventListener('change', async () => {
    const [file] = input.files;
    if (!file) return;
    try {
      const answer = await post(`/api/cases/${one.key}/mask?${new URLSearchParams({ file: file.name, name: newName() })}`, file);
      await changed(answer, one);
      if (answer.note) tell(`${file.name}: ${answer.note}`);
    } catch (error) { trouble(error); }
  });
  input.click();
}
/** @param {string} name */
function choose(name) {
  pointer.choose(name);
  $('picture').style.cursor = name === 'look' ? 'grab' : name === 'brush' || name === 'eraser' ? 'none' : 'crosshair';
  for (const [each] of TOOLS) $(`tool-${each}`).setAttribute('aria-pressed', String(each === name));
}
/** @param {number} size */
function brush(size) { pointer.size = Math.max(1, Math.min(120, size)); $('brush').value = pointer.size; $('brush-size').textContent = pointer.size; if (view.cursor) { view.cursor.size = pointer.size; view.draw(); } }

// --- keys and buttons

/** @type {Record<string, () => void>} */
const KEYS = {
  n: () => { const key = queue.next(1); if (key) open(key); }, p: () => { const key = queue.next(-1); if (key) open(key); },
  arrowup: () => go(view.index - 1), arrowdown: () => go(view.index + 1), pageup: () => go(view.index - 10), pagedown: () => go(view.index + 10),
  home: () => go(0), end: () => go(view.shape[0] - 1), j: () => nextMarked(1), k: () => nextMarked(-1),
  v: () => { const names = [...$('planes').children].map((button) => button.textContent), at = names.indexOf(plane3d ? '3-D' : view.plane); if (names.length) setPlane(names[(at + 1) % names.length]); },
  0: () => { view.fit(); view.draw(); }, '+': () => middleZoom(1.25), '=': () => middleZoom(1.25), '-': () => middleZoom(0.8),
  f: () => { view.filled = !view.filled; view.draw(); }, ',': () => brush(pointer.size - (pointer.size > 12 ? 4 : 1)), '.': () => brush(pointer.size + (pointer.size >= 12 ? 4 : 1)),
  i: () => use('interpolate'), c: () => $('comment').focus(), '?': showKeys, enter: () => pointer.closePolygon(), escape: () => { view.polygon = null; view.draw(); },
  ...Object.fromEntries(STATES.map(([name, , key]) => [key.toLowerCase(), () => decide(name)])),
  ...Object.fromEntries(LAYERS.map(([name, , key]) => [key.toLowerCase(), () => layer(name)])),
  ...Object.fromEntries(TOOLS.map(([name, , key]) => [key.toLowerCase(), () => choose(name)])),
  ...Object.fromEntries([1, 2, 3, 4, 5, 6].map((i) => [String(i), () => preset(i - 1)])),
};
/** @param {number} factor */
function middleZoom(factor) { const box = $('picture').getBoundingClientRect(); view.zoomAt(factor, { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 }); }
document.addEventListener('keydown', (event) => {
  const at = /** @type {HTMLElement} */ (event.target), key = event.key.toLowerCase();
  if ($('dialog').open) return;
  if (at instanceof Element && at.matches('textarea, input[type="search"], input[type="text"], select')) { if (key === 'escape') at.blur(); return; }
  if ((event.ctrlKey || event.metaKey) && (key === 'z' || key === 'y')) { event.preventDefault(); undo(key === 'y' || event.shiftKey); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  // What has the focus keeps its own keys, for who works without a mouse.
  if ((key === ' ' || key === 'enter') && at.matches('button, input[type="checkbox"], #cases li')) return;
  if (key.startsWith('arrow') && at.matches('input[type="range"]')) return;
  if (key === ' ') { pointer.space = true; event.preventDefault(); return; }
  if (key === 'z') { undo(event.shiftKey); return; }
  if (key === 'enter' && event.shiftKey) { pointer.closePolygon(true); return; }
  if (KEYS[key]) { if (!event.repeat || key.startsWith('arrow') || key.startsWith('page')) KEYS[key](); event.preventDefault(); }
});
document.addEventListener('keyup', (event) => { if (event.key === ' ') pointer.space = false; });

function build() {
  /** @param {string} into @param {string} prefix @param {string[][]} list @param {(name: string) => void} act */
  const buttons = (into, prefix, list, act) => $(into).replaceChildren(...list.map(([name, words, key]) => {
    const button = make('button', { id: `${prefix}-${name}`, className: name, title: `${/** @type {any} */ (TITLES)[name] || words}${key ? ` (${key})` : ''}` }, words, ...(key ? [' ', make('kbd', { textContent: key })] : []));
    button.addEventListener('click', () => { act(name); $('picture').focus(); });
    return button;
  }));
  buttons('decisions', 'decide', STATES, decide);
  buttons('tools', 'tool', TOOLS, choose);
  buttons('acts', 'act', ACTS, (name) => (name === 'undo' || name === 'redo' ? undo(name === 'redo') : name === 'file' ? fromFile() : use(name)));
  choose('look');
  $('slider').addEventListener('input', () => go(Number($('slider').value)));
  $('opacity').addEventListener('input', () => { view.opacity = $('opacity').value / 100; if (view.parts) { view.paint(); view.draw(); } });
  $('brush').addEventListener('input', () => brush(Number($('brush').value)));
  $('threshold').addEventListener('input', async () => { slid = true; $('threshold-value').textContent = `${$('threshold').value} %`; view.preview = Number($('threshold').value); await view.show(); });
  // A slider that is let go where it was taken says no "change", and its preview would stay over the mask.
  const settle = () => { if (slid) { slid = false; use('threshold', { amount: Number($('threshold').value) }); } };
  $('threshold').addEventListener('change', settle);
  for (const name of ['pointerup', 'pointercancel', 'blur']) $('threshold').addEventListener(name, () => setTimeout(settle));
  $('help').addEventListener('click', showKeys);
  $('summary').addEventListener('click', () => showSummary().catch(trouble));
  $('export').addEventListener('click', () => showExport(kinds, tell).catch(trouble));
  $('who').addEventListener('click', async () => { await askName(true); opened = null; view.close(); notes.clear(); start(); });
  for (const id of ['slider', 'opacity', 'brush', 'threshold']) $(id).addEventListener('pointerup', () => $('picture').focus());
  // Another tab may have drawn meanwhile.
  window.addEventListener('focus', async () => { const one = opened; if (one && !outbox.waiting.length) { try { const { edits: now, undo: u, redo: r, pixels, ml } = await get(`/api/cases/${one.key}`); if (opened === one) state({ edits: now, undo: u, redo: r, pixels, ml }); } catch { /* said when something is done */ } } });
  window.addEventListener('beforeunload', (event) => { pointer.send(); if (outbox.waiting.length) event.preventDefault(); });
}
async function start() {
  try {
    $('who').textContent = reviewer();
    const found = await refresh();
    outbox.adopt(found.desk);
    const first = found.cases.find((/** @type {any} */ row) => row.state === 'open') || found.cases[0];
    if (first) await open(first.key);
    else { $('empty').hidden = false; $('empty').textContent = 'There is no case for you:\nother reviewers have decided all of them.'; }
  } catch (error) { trouble(error); }
}
begin();
build();
try { await get('/api/summary'); await askName(); await start(); } catch (error) { trouble(error); }
Object.assign(window, { desk: { view, outbox, queue, solid, state: () => opened } });
