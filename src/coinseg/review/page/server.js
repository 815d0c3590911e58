// @ts-check
/** Talks to the server. Strokes go out in their order, and stay in this browser until the server has said that it kept them. */

/** @typedef {{key: string, url: string, body: string, place: string, who: string, desk: string}} Waiting  a stroke that was not
 *  acknowledged: its bits in base64, who drew it, on which desk */

const TOKEN = 'coinseg-token', NAME = 'coinseg-reviewer', OUTBOX = 'coinseg-waiting-';
let token = '', name = '';

/** An answer of the server that says what is wrong. */
export class Refused extends Error {
  /** @param {string} message @param {number} status @param {boolean} [login] */
  constructor(message, status, login) { super(message); this.status = status; this.login = !!login; }
}

/** Take the token of the address; it goes on with the tab, not into a history or a link. So does the name: another tab may be another person's. */
export function begin() {
  const given = new URLSearchParams(location.hash.slice(1)).get('token');
  if (given) sessionStorage.setItem(TOKEN, given);
  token = sessionStorage.getItem(TOKEN) || '';
  name = sessionStorage.getItem(NAME) || localStorage.getItem(NAME) || '';
  sessionStorage.setItem(NAME, name);
}
/** @param {string} given */
export function useToken(given) { token = given; sessionStorage.setItem(TOKEN, given); }
export const reviewer = () => name;
/** @param {string} given */
export const setReviewer = (given) => { name = given.trim(); for (const place of [sessionStorage, localStorage]) place.setItem(NAME, name); };
/** A name for a stroke that no other has. */
export const newName = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, '0')).join('');

/** @param {string} url @param {{method?: string, body?: any}} [options] @param {AbortSignal} [signal] @param {string} [who] */
async function ask(url, options = {}, signal, who = reviewer()) {
  const headers = { Authorization: `Bearer ${token}`, 'X-Reviewer': encodeURIComponent(who) };
  const answer = await fetch(url, { ...options, headers, signal, credentials: 'omit', cache: 'no-store' });
  if (answer.ok) return answer;
  let said = { error: `the server answered ${answer.status}`, login: false };
  try { said = await answer.json(); } catch { /* no JSON: the status says it */ }
  throw new Refused(said.error, answer.status, said.login);
}
/** @param {string} url @returns {Promise<any>} */
export const get = async (url) => (await ask(url)).json();
/** @param {string} url @param {any} [body] @param {string} [who] @returns {Promise<any>} */
export const post = async (url, body, who) =>
  (await ask(url, { method: 'POST', body: body === undefined || body instanceof Blob ? body : JSON.stringify(body) }, undefined, who)).json();

const KINDS = { uint8: Uint8Array, int16: Int16Array, float32: Float32Array };
/** Numbers of a slice, or its bits as they are packed. @param {string} url @param {AbortSignal} [signal] */
export async function numbers(url, signal) {
  const answer = await ask(url, {}, signal), type = answer.headers.get('X-Type') || 'uint8', data = await answer.arrayBuffer();
  return type === 'bool' ? new Uint8Array(data) : new (KINDS[/** @type {keyof typeof KINDS} */ (type)])(data);
}
/** Scan and mask as cubes. @param {string} url */
export async function cubes(url) {
  const answer = await ask(url);
  return { shape: (answer.headers.get('X-Shape') || '').split(',').map(Number), data: new Uint8Array(await answer.arrayBuffer()) };
}

/** What waits in this browser; a stroke that is sent twice counts once. @returns {Waiting[]} */
function stored() {
  const names = Object.keys(localStorage).filter((name) => name.startsWith(OUTBOX)).sort();
  return names.flatMap((name) => { try { return [{ ...JSON.parse(localStorage.getItem(name) || ''), place: name }]; } catch { return []; } });
}

/** Sends strokes one after the other; tells `onState(waiting, trouble)`, and `onKept(answer, key)` for each that was kept. */
export class Outbox {
  /** @param {(waiting: number, trouble: string) => void} onState @param {(answer: any, stroke: Waiting) => void} onKept
   *  @param {(message: string) => void} onLost */
  constructor(onState, onKept, onLost) {
    /** @type {Waiting[]} */ this.waiting = []; this.desk = ''; this.onState = onState; this.onKept = onKept; this.onLost = onLost; this.busy = false;
  }
  /** Take over what waited for this desk, also of tabs that were closed. @param {string} desk */
  adopt(desk) {
    this.desk = desk;
    const known = new Set(this.waiting.map((one) => one.place));
    this.waiting.unshift(...stored().filter((one) => one.desk === desk && !known.has(one.place)));
    this.send();
  }
  /** @param {string} key @param {string} url @param {Uint8Array} bits */
  add(key, url, bits) {
    let text = '';
    for (let i = 0; i < bits.length; i += 8192) text += String.fromCharCode(...bits.subarray(i, i + 8192));
    const stroke = { key, url, body: btoa(text), place: `${OUTBOX}${Date.now()}-${newName()}`, who: reviewer(), desk: this.desk };
    this.waiting.push(stroke);
    this.send(); // which only begins: no answer comes before the browser has kept it
    try { localStorage.setItem(stroke.place, JSON.stringify(stroke)); } catch { /* the memory has it still */ }
  }
  /** Send what waits; again after a pause where the server does not answer. */
  async send() {
    if (this.busy) return;
    this.busy = true;
    try {
      while (this.waiting.length) {
        const [next] = this.waiting;
        this.onState(this.waiting.length, '');
        try {
          const bits = Uint8Array.from(atob(next.body), (c) => c.charCodeAt(0));
          const answer = await post(next.url, new Blob([bits]), next.who);
          this.done(next);
          this.onKept(answer, next);
        } catch (error) {
          const refused = error instanceof Refused;
          if (refused && error.status >= 400 && error.status < 500 && ![401, 403, 421].includes(error.status)) {
            this.done(next);
            this.onLost(error.message);
            continue;
          }
          this.onState(this.waiting.length, refused ? error.message : 'the server does not answer');
          setTimeout(() => this.send(), 1500);
          return;
        }
      }
      this.onState(0, '');
    } finally { this.busy = false; }
  }
  /** @param {Waiting} stroke */
  done(stroke) { this.waiting = this.waiting.filter((one) => one !== stroke); localStorage.removeItem(stroke.place); }
  /** Resolves when everything was sent. */
  async empty() { while (this.waiting.length) await new Promise((resolve) => setTimeout(resolve, 20)); }
}
