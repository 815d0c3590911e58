// @ts-check
/** The list of cases on the left: marks, filters, and which one comes next. */

/** @typedef {{key: string, id: string, patient: string, side: string, volume: boolean, state: string, comment: string, second: boolean,
 *   numbers: any, truth: boolean}} Row */

export const MARKS = { open: '○', accepted: '✓', corrected: '✎', rejected: '✕', redraw: '↻', unsure: '?', skipped: '→' };
const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

export class Queue {
  /** @param {(key: string) => void} onChoose */
  constructor(onChoose) {
    /** @type {Row[]} */ this.rows = [];
    this.current = ''; this.onChoose = onChoose;
    $('state').append(new Option('any state', ''), ...Object.keys(MARKS).map((name) => new Option(name, name)));
    for (const id of ['search', 'state', 'trust', 'size', 'side', 'class', 'patients']) $(id).addEventListener('input', () => this.draw());
    $('cases').addEventListener('keydown', (/** @type {any} */ event) => { const item = event.target.closest('li'); if (item && (event.key === 'Enter' || event.key === ' ')) { event.preventDefault(); onChoose(item.dataset.key); } });
    $('cases').addEventListener('click', (/** @type {any} */ event) => { const item = event.target.closest('li'); if (item) onChoose(item.dataset.key); });
  }
  /** @param {{cases: Row[], done: number, total: number, minutes: number|null}} found */
  take(found) {
    this.rows = found.cases;
    const marked = found.cases.map((row) => row.numbers.pixels || 0).filter((pixels) => pixels > 0).sort((a, b) => a - b);
    this.middle = marked[marked.length >> 1] || 0;
    $('side').hidden = !found.cases.some((row) => row.side);
    const classes = [...new Set(found.cases.map((row) => row.numbers.class).filter(Boolean))], chosen = $('class').value;
    $('class').hidden = classes.length < 2;
    $('class').replaceChildren(new Option('all classes', ''), ...classes.map((name) => new Option(name, name)));
    $('class').value = classes.includes(chosen) ? chosen : '';
    this.progress(found);
    this.draw();
  }
  /** @param {{done: number, total: number, minutes: number|null}} found */
  progress({ done, total, minutes }) {
    $('done').style.width = `${total ? 100 * done / total : 0}%`;
    const left = minutes === null ? '' : minutes < 1 ? ', less than a minute left' : `, about ${minutes < 90 ? `${Math.round(minutes)} minutes` : `${Math.round(minutes / 60)} hours`} left`;
    $('left').textContent = `${done} of ${total} reviewed${left}`;
  }
  /** @param {Row} row */
  passes(row) {
    const words = $('search').value.trim().toLowerCase(), pixels = row.numbers.pixels || 0, size = $('size').value;
    const named = `${row.id} ${$('patients').checked ? row.patient : ''}`.toLowerCase();
    return (!words || named.includes(words)) && (!$('state').value || row.state === $('state').value)
      && (!$('trust').value || ($('trust').value === 'doubtful') === !!row.numbers.doubtful)
      && (!size || (size === 'empty' ? pixels === 0 : size === 'large' ? pixels >= this.middle && pixels > 0 : pixels < this.middle && pixels > 0))
      && (!$('class').value || row.numbers.class === $('class').value) && (!$('side').value || row.side === $('side').value);
  }
  draw() {
    const patients = $('patients').checked;
    $('cases').replaceChildren(...this.rows.filter((row) => this.passes(row)).map((row) => {
      const item = document.createElement('li'), sure = row.numbers.confidence;
      item.dataset.key = row.key; item.tabIndex = 0;
      item.className = row.numbers.doubtful ? 'doubtful' : '';
      item.setAttribute('aria-current', String(row.key === this.current));
      item.title = `${row.id}\n${row.state}${row.numbers.doubtful ? ', doubtful' : ''}${row.second ? ', second opinion' : ''}`;
      const parts = [['mark', MARKS[/** @type {keyof typeof MARKS} */ (row.state)]], ['name', row.numbers.class ? row.id.slice(row.numbers.class.length + 1) : row.id],
        ['sure', sure === undefined ? '–' : `${Math.round(100 * sure)} %${row.numbers.doubtful ? ' !' : ''}`],
        ['under', [row.numbers.class || '', patients && row.patient !== row.id ? row.patient : '', row.numbers.volume_ml !== undefined ? `${row.numbers.volume_ml.toFixed(row.numbers.volume_ml < 10 ? 2 : 1)} ml` : row.numbers.pixels ? `${row.numbers.pixels} px` : 'nothing marked',
          row.side, row.second ? 'second opinion' : ''].filter(Boolean).join(' · ')]];
      item.append(...parts.map(([name, text]) => Object.assign(document.createElement('span'), { className: name, textContent: text })));
      return item;
    }));
  }
  /** @param {string} key */
  mark(key) {
    this.current = key;
    for (const item of $('cases').children) {
      item.setAttribute('aria-current', String(item.dataset.key === key));
      if (item.dataset.key === key) item.scrollIntoView({ block: 'nearest' });
    }
  }
  /** @param {string} key */
  row(key) { return this.rows.find((row) => row.key === key); }
  /** The case after (1) or before (-1) the one that is seen; with `open` the next that is not decided. @param {number} step @param {boolean} [open] */
  next(step, open) {
    const seen = this.rows.filter((row) => this.passes(row) || row.key === this.current);
    const at = seen.findIndex((row) => row.key === this.current);
    const order = step > 0 ? [...seen.slice(at + 1), ...seen.slice(0, Math.max(0, at))] : seen.slice(0, Math.max(0, at)).reverse();
    const fits = order.find((row) => !open || row.state === 'open') || (open ? order.find((row) => row.state === 'skipped') : undefined);
    return fits ? fits.key : '';
  }
}
