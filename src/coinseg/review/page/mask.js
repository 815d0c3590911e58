// @ts-check
/** Masks of a slice in the browser: one byte a pixel, 0 or 1, row by row. */

/** The bytes of packed bits. @param {Uint8Array} bits @param {number} count */
export function unpack(bits, count) {
  const mask = new Uint8Array(count);
  for (let i = 0; i < count; i++) mask[i] = (bits[i >> 3] >> (7 - (i & 7))) & 1;
  return mask;
}
/** The packed bits of bytes. @param {Uint8Array} mask */
export function pack(mask) {
  const bits = new Uint8Array((mask.length + 7) >> 3);
  for (let i = 0; i < mask.length; i++) if (mask[i]) bits[i >> 3] |= 128 >> (i & 7);
  return bits;
}
/** The first row with something in it, and the row behind the last one. @param {Uint8Array} mask @param {number} columns */
export const rowsOf = (mask, columns) => [Math.max(0, Math.floor(mask.indexOf(1) / columns)), Math.floor(mask.lastIndexOf(1) / columns) + 1];
/** The outline along the edges of pixels, in pixels; straight runs are one line. @param {Uint8Array} mask @param {number} rows @param {number} columns */
export function outline(mask, rows, columns) {
  const path = new Path2D(), [first, behind] = rowsOf(mask, columns); // a lesion is small: the rest of the slice is not looked at
  const at = (/** @type {number} */ r, /** @type {number} */ c) => r >= 0 && c >= 0 && r < rows && c < columns && mask[r * columns + c] ? 1 : 0;
  for (let r = first; r <= behind; r++) {
    for (let c = 0, from = -1; c <= columns; c++) {
      const edge = c < columns && at(r - 1, c) !== at(r, c);
      if (edge && from < 0) from = c;
      if (!edge && from >= 0) { path.moveTo(from, r); path.lineTo(c, r); from = -1; }
    }
  }
  for (let c = 0; c <= columns; c++) {
    for (let r = first, from = -1; r <= behind; r++) {
      const edge = r < rows && at(r, c - 1) !== at(r, c);
      if (edge && from < 0) from = r;
      if (!edge && from >= 0) { path.moveTo(c, from); path.lineTo(c, r); from = -1; }
    }
  }
  return path;
}

/** A stroke that is being drawn: pixels of one slice that become `value`. */
export class Stroke {
  /** @param {number} rows @param {number} columns @param {boolean} value */
  constructor(rows, columns, value) {
    this.rows = rows; this.columns = columns; this.value = value;
    this.drawn = new Uint8Array(rows * columns);
    this.clear();
  }
  clear() { this.drawn.fill(0); this.top = this.rows; this.left = this.columns; this.bottom = -1; this.right = -1; }
  get isEmpty() { return this.bottom < 0; }
  /** @param {number} r @param {number} c @param {Uint8Array} mask */
  set(r, c, mask) {
    if (r < 0 || c < 0 || r >= this.rows || c >= this.columns) return;
    this.drawn[r * this.columns + c] = 1; mask[r * this.columns + c] = this.value ? 1 : 0;
    this.top = Math.min(this.top, r); this.bottom = Math.max(this.bottom, r);
    this.left = Math.min(this.left, c); this.right = Math.max(this.right, c);
  }
  /** A round brush from one place to the next, in pixels; `aspect` is the height of a pixel by its width. Its middle counts always.
   *  @param {number} r0 @param {number} c0 @param {number} r1 @param {number} c1 @param {number} size @param {number} aspect @param {Uint8Array} mask */
  brush(r0, c0, r1, c1, size, aspect, mask) {
    const radius = size / 2, steps = Math.max(1, Math.ceil(Math.hypot(r1 - r0, c1 - c0) / Math.max(0.5, radius / 2)));
    for (let s = 0; s <= steps; s++) {
      const r = r0 + (r1 - r0) * s / steps, c = c0 + (c1 - c0) * s / steps;
      this.set(Math.floor(r), Math.floor(c), mask);
      for (let y = Math.floor(r - radius / aspect); y <= r + radius / aspect; y++) {
        for (let x = Math.floor(c - radius); x <= c + radius; x++) {
          if (Math.hypot((y + 0.5 - r) * aspect, x + 0.5 - c) <= radius) this.set(y, x, mask);
        }
      }
    }
  }
  /** The pixels whose middle lies in a polygon (even-odd). @param {number[][]} points row and column of each @param {Uint8Array} mask */
  polygon(points, mask) {
    for (let r = 0; r < this.rows; r++) {
      const y = r + 0.5, crossings = [];
      for (let i = 0; i < points.length; i++) {
        const [r0, c0] = points[i], [r1, c1] = points[(i + 1) % points.length];
        if ((r0 > y) !== (r1 > y)) crossings.push(c0 + (y - r0) / (r1 - r0) * (c1 - c0));
      }
      crossings.sort((a, b) => a - b);
      for (let i = 0; i + 1 < crossings.length; i += 2) {
        for (let c = Math.max(0, Math.ceil(crossings[i] - 0.5)); c + 0.5 < crossings[i + 1] && c < this.columns; c++) this.set(r, c, mask);
      }
    }
  }
  /** The drawn pixels of the smallest box around them. */
  cut() {
    const rows = this.bottom - this.top + 1, columns = this.right - this.left + 1, part = new Uint8Array(rows * columns);
    for (let r = 0; r < rows; r++) {
      const from = (this.top + r) * this.columns + this.left;
      part.set(this.drawn.subarray(from, from + columns), r * columns);
    }
    return { top: this.top, left: this.left, rows, columns, bits: pack(part) };
  }
}
