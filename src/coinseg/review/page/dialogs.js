// @ts-check
/** What is asked and told in a dialog: the name, keys, the summary, the export; and the page of who may not come in. */

import { begin, get, post, reviewer, setReviewer, useToken } from './server.js';

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));
export const KEYS = [
  ['Decide', [['A', 'accept'], ['R', 'reject: nothing there'], ['D', 'to be redrawn'], ['U', 'not sure'], ['S', 'skip'], ['C', 'comment'], ['N, P', 'next, previous case']]],
  ['Look', [['wheel, ↑ ↓', 'slices'], ['Page ↑ ↓', 'ten slices'], ['J, K', 'next, previous slice of the mask'], ['V', 'axial, coronal, sagittal, 3-D'],
    ['Ctrl wheel, + −', 'zoom'], ['0', 'fit'], ['Space drag', 'pan'], ['right drag', 'window'], ['1 … 6', 'windows']]],
  ['Layers', [['M', 'mask'], ['F', 'contour or filled'], ['O', 'draft of coinseg'], ['B', 'blink: image and counterfactual'], ['H', 'difference'], ['G', 'confidence'], ['T', 'truth']]],
  ['Correct', [['Q', 'brush (Shift: erase)'], ['E', 'eraser'], [', .', 'smaller, larger'], ['Y', 'polygon; Enter closes, Shift Enter erases'], ['L', 'fill an outline'], ['X', 'delete a component'],
    ['I', 'between two corrected slices'], ['W', 'look, nothing else'], ['Z, Shift Z', 'undo, redo']]],
];
/** @param {string} tag @param {any} [properties] @param {(Node|string)[]} children */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
/** Show a dialog; resolves with its answer. @param {Node[]} body @param {string} ok @returns {Promise<string>} */
export function show(body, ok = 'Close') {
  $('dialog-body').replaceChildren(...body);
  $('dialog-ok').textContent = ok;
  $('dialog').returnValue = '';
  if (!$('dialog').open) $('dialog').showModal();
  return new Promise((resolve) => $('dialog').addEventListener('close', () => resolve($('dialog').returnValue), { once: true }));
}
export function showKeys() {
  const parts = KEYS.map(([title, keys]) => make('div', { className: 'part' }, make('h3', { textContent: title }), .../** @type {any} */ (keys).map(
    (/** @type {string[]} */ [key, what]) => make('div', {}, make('span', { textContent: what }), make('kbd', { textContent: key })))));
  return show([make('h2', { textContent: 'Keys' }), make('div', { className: 'keys' }, ...parts)]);
}
/** Ask for the name until there is one. */
export async function askName(/** @type {boolean} */ again = false) {
  while (again || !reviewer()) {
    again = false;
    const field = make('input', { type: 'text', maxLength: 60, value: reviewer(), autocomplete: 'off', ariaLabel: 'Your name' });
    setTimeout(() => field.focus());
    await show([make('h2', { textContent: 'Who is looking?' }), make('p', { textContent: 'Your name stands beside what you decide. Masks of another reviewer are not changed by you.' }), field], 'Begin');
    if (field.value.trim()) setReviewer(field.value);
  }
}
export async function showSummary() {
  const found = await get('/api/summary'), states = ['accepted', 'corrected', 'rejected', 'redraw', 'unsure', 'skipped', 'stale'];
  const row = (/** @type {string} */ tag, /** @type {any[]} */ cells) => make('tr', {}, ...cells.map((cell) => make(tag, { textContent: String(cell ?? '–') })));
  const number = (/** @type {number|null} */ value) => (value === null ? '–' : value.toFixed(2));
  const people = Object.entries(found.reviewers);
  const body = [make('h2', { textContent: 'Summary' })];
  body.push(people.length ? make('table', {}, row('th', ['reviewer', ...states.slice(0, 6), 'changed since']), ...people.map(([name, counts]) => row('td', [name, ...states.map((state) => /** @type {any} */ (counts)[state] || 0)])))
    : make('p', { textContent: 'Nothing was decided yet.' }));
  if (found.agreement.length) {
    body.push(make('h2', { textContent: 'Agreement' }), make('table', {}, row('th', ['reviewers', 'cases of both', 'mean Dice', 'kappa: lesion or none']),
      ...found.agreement.map((/** @type {any} */ one) => row('td', [one.reviewers.join(' and '), one.cases, number(one.dice), number(one.kappa)]))));
  }
  return show(body);
}
const EXPORTS = {
  masks: ['Masks', 'NIfTI or PNG in the geometry of the scans'], 'dicom-seg': ['DICOM SEG', 'beside their series'], rtstruct: ['RTSTRUCT', 'contours for radiotherapy'],
  nnunet: ['nnU-Net', 'a raw data set, version 2: move it into nnUNet_raw'], prompts: ['Prompts', 'boxes and points as JSON'], csv: ['Decisions', 'a table'],
};
/** @param {string[]} kinds @param {(message: string, good?: boolean) => void} tell */
export async function showExport(kinds, tell) {
  const choose = async (/** @type {string} */ kind) => {
    $('dialog').close();
    try {
      const found = await post(`/api/export/${kind}`);
      const lines = [make('h2', { textContent: `${found.cases} cases written` }), make('p', { textContent: found.folder })];
      if (found.left_out.length) lines.push(make('p', { textContent: `Left out: ${found.left_out.slice(0, 5).join('; ')}${found.left_out.length > 5 ? ` and ${found.left_out.length - 5} more` : ''}` }));
      show(lines);
    } catch (error) { tell(/** @type {Error} */ (error).message); }
  };
  const buttons = kinds.map((kind) => {
    const [name, what] = EXPORTS[/** @type {keyof typeof EXPORTS} */ (kind)];
    const button = make('button', { type: 'button' }, name, make('small', { textContent: what }));
    button.dataset.kind = kind;
    button.addEventListener('click', () => choose(kind));
    return button;
  });
  return show([make('h2', { textContent: 'Export what was reviewed' }), make('p', { textContent: 'Accepted and corrected masks; rejected cases are written empty. Each export is a new folder beside the decisions.' }), make('div', { className: 'choices' }, ...buttons)]);
}
/** The page of who may not come in. @param {string} message @param {boolean} login */
export function showGate(message, login) {
  const gate = make('div', { id: 'gate' });
  if (!login) gate.append(make('div', {}, make('h2', { textContent: 'This is the desk of coinseg' }), make('p', { textContent: message })));
  else {
    const field = make('input', { type: 'password', autocomplete: 'current-password', ariaLabel: 'Password' }), said = make('p');
    const form = make('form', {}, make('h2', { textContent: 'The desk of coinseg' }), field, make('button', { textContent: 'Come in' }), said);
    form.addEventListener('submit', async (/** @type {Event} */ event) => {
      event.preventDefault();
      try { useToken((await post('/api/login', { password: field.value })).token); location.reload(); } catch (error) { said.textContent = /** @type {Error} */ (error).message; }
    });
    gate.append(form);
  }
  document.body.replaceChildren(gate);
}
export { begin };
