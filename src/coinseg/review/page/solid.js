// @ts-check
/** The scan in three dimensions: its brightest voxels along every ray, and the mask in orange, drawn by WebGL 2. Drag turns it. */

const VERTEX = `#version 300 es
in vec2 at; out vec2 place; void main() { place = at; gl_Position = vec4(at, 0.0, 1.0); }`;
const FRAGMENT = `#version 300 es
precision highp float; precision highp sampler3D;
in vec2 place; out vec4 colour;
uniform sampler3D scan; uniform sampler3D mask; uniform mat3 turn; uniform vec3 size; uniform vec2 screen; uniform float zoom; uniform float opacity;
void main() {
  vec3 from = turn * vec3(place * screen / zoom, -1.0), along = turn * vec3(0.0, 0.0, 1.0);
  float grey = 0.0, hit = 0.0, depth = 0.0; const int steps = 220;
  for (int i = 0; i < steps; i++) {
    float t = 2.0 * float(i) / float(steps - 1);
    vec3 p = (from + along * t) / size * 0.5 + 0.5;
    if (all(greaterThanEqual(p, vec3(0.0))) && all(lessThanEqual(p, vec3(1.0)))) {
      grey = max(grey, texture(scan, p).r);
      float inside = texture(mask, p).r;
      if (inside > 0.3 && hit == 0.0) { hit = 1.0; depth = t; }
    }
  }
  vec3 tone = vec3(grey * 0.85);
  colour = vec4(mix(tone, vec3(0.90, 0.62, 0.0) * (1.25 - 0.45 * depth), hit * opacity), 1.0);
}`;

export class Solid {
  /** @param {HTMLCanvasElement} canvas @param {(message: string) => void} onTrouble */
  constructor(canvas, onTrouble) {
    this.canvas = canvas; this.onTrouble = onTrouble;
    this.yaw = 0.5; this.pitch = 0.25; this.zoom = 1; this.size = [1, 1, 1];
    /** @type {WebGL2RenderingContext|null} */ this.gl = null;
    let last = /** @type {any} */ (null);
    canvas.addEventListener('pointerdown', (event) => { last = event; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener('pointerup', () => { last = null; });
    canvas.addEventListener('pointermove', (event) => {
      if (!last) return;
      this.yaw += (event.clientX - last.clientX) / 150;
      this.pitch = Math.max(-1.5, Math.min(1.5, this.pitch + (event.clientY - last.clientY) / 150));
      last = event; this.draw();
    });
    canvas.addEventListener('wheel', (event) => { event.preventDefault(); this.zoom = Math.max(0.5, Math.min(6, this.zoom * Math.exp(-event.deltaY / 400))); this.draw(); }, { passive: false });
    new ResizeObserver(() => this.draw()).observe(canvas);
  }
  start() {
    const gl = this.canvas.getContext('webgl2', { preserveDrawingBuffer: true });
    if (!gl) { this.onTrouble('this browser has no WebGL 2, which the view in 3-D needs'); return null; }
    const program = /** @type {WebGLProgram} */ (gl.createProgram());
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = /** @type {WebGLShader} */ (gl.createShader(/** @type {number} */ (kind)));
      gl.shaderSource(shader, /** @type {string} */ (text)); gl.compileShader(shader); gl.attachShader(program, shader);
    }
    gl.linkProgram(program); gl.useProgram(program);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
    const at = gl.getAttribLocation(program, 'at');
    gl.enableVertexAttribArray(at); gl.vertexAttribPointer(at, 2, gl.FLOAT, false, 0, 0);
    this.program = program; this.gl = gl;
    return gl;
  }
  /** @param {{shape: number[], data: Uint8Array}} cubes */
  load({ shape, data }) {
    const gl = this.gl || this.start();
    if (!gl || !this.program) return;
    const [depth, height, width] = shape, count = depth * height * width, most = Math.max(...shape);
    this.size = [width / most, height / most, depth / most];
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    ['scan', 'mask'].forEach((name, i) => {
      gl.activeTexture(gl.TEXTURE0 + i);
      gl.bindTexture(gl.TEXTURE_3D, gl.createTexture());
      gl.texImage3D(gl.TEXTURE_3D, 0, gl.R8, width, height, depth, 0, gl.RED, gl.UNSIGNED_BYTE, data.subarray(i * count, (i + 1) * count));
      for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T, gl.TEXTURE_WRAP_R]) gl.texParameteri(gl.TEXTURE_3D, side, gl.CLAMP_TO_EDGE);
      for (const filter of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_3D, filter, gl.LINEAR);
      gl.uniform1i(gl.getUniformLocation(/** @type {WebGLProgram} */ (this.program), name), i);
    });
    this.ready = true; this.opacity = 0.9;
    this.draw();
  }
  draw() {
    const gl = this.gl;
    if (!gl || !this.program || !this.ready || this.canvas.hidden) return;
    const ratio = Math.min(1.5, window.devicePixelRatio || 1), wide = Math.round(this.canvas.clientWidth * ratio), tall = Math.round(this.canvas.clientHeight * ratio);
    if (this.canvas.width !== wide || this.canvas.height !== tall) { this.canvas.width = wide; this.canvas.height = tall; }
    gl.viewport(0, 0, wide, tall);
    const least = Math.min(wide, tall), [a, b] = [this.yaw, this.pitch], program = this.program;
    // Columns of the turn: right, up and ahead of the eye in voxels (x to the left of the patient, y back, z down).
    const right = [Math.cos(a), Math.sin(a), 0], ahead = [-Math.sin(a) * Math.cos(b), Math.cos(a) * Math.cos(b), Math.sin(b)];
    const up = [right[1] * ahead[2] - right[2] * ahead[1], right[2] * ahead[0] - right[0] * ahead[2], right[0] * ahead[1] - right[1] * ahead[0]].map((v) => -v);
    gl.uniformMatrix3fv(gl.getUniformLocation(program, 'turn'), false, [...right, ...up, ...ahead]);
    gl.uniform3fv(gl.getUniformLocation(program, 'size'), this.size);
    gl.uniform2fv(gl.getUniformLocation(program, 'screen'), [wide / least, tall / least]);
    gl.uniform1f(gl.getUniformLocation(program, 'zoom'), this.zoom);
    gl.uniform1f(gl.getUniformLocation(program, 'opacity'), /** @type {number} */ (this.opacity));
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }
}
