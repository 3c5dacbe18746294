/** What a photo clipped, guessed; `highlights.recovery` of Python, whose comments say why. */

import { frame } from "./box.js";

/** @typedef {import("./native.js").Planes} Planes */
/** [h, w, 4]: colour around, light above white.
 * @typedef {{around: Planes, stride: number}} Recovery */

const SQUARED = 3; // BRIGHT
const SURE = 64;
export const MOST = 2.5;
const LIGHT = 8;
const SURROUNDINGS = 0.05;
const CROWDED = 0.12;
const CORE = 0.006;
const WHITE = 255;

/** @param {import("./native.js").Native} native
 * @param {{pixels: Uint8ClampedArray, height: number, width: number}} photo RGBA
 * @param {number} strength @param {number} width at which surroundings are looked at
 * @returns {Recovery | null} in the compiled code's memory; null where nothing is clipped */
export function recovery(native, photo, strength, width) {
  const longer = Math.max(photo.height, photo.width);
  const stride = Math.max(1, Math.ceil(longer / width));
  const sample = sampled(photo, stride);
  const { some, every } = clipped(sample.rgb);
  if (strength === 0 || !some.includes(1)) return null;

  const around = native.planes(4, sample);
  native.scoped(() => {
    const colours = bright(native, sample, some);
    const size = sample.height * sample.width;
    const into = native.view(around);
    for (let p = 0; p < 3; p++) {
      const plane = native.view(colours, p);
      for (let i = 0; i < size; i++) into[4 * i + p] = plane[i];
    }
    const window = (/** @type {number} */ part) =>
      Math.max(1, roundEven((part * longer) / stride)) | 1;
    const crowd = shareOf(every, sample, window(SURROUNDINGS));
    const compact = shareOf(every, sample, window(CORE));
    for (let i = 0; i < size; i++)
      into[4 * i + 3] =
        strength * LIGHT * unit(1 - crowd[i] / CROWDED) * unit(1.5 * compact[i] - 0.5);
  });
  return { around, stride };
}

/** Every `stride`-th pixel, RGB.
 * @param {{pixels: Uint8ClampedArray, height: number, width: number}} photo
 * @param {number} stride */
function sampled({ pixels, height, width }, stride) {
  const start = Math.floor(stride / 2);
  const size = {
    height: Math.ceil((height - start) / stride),
    width: Math.ceil((width - start) / stride),
  };
  const rgb = new Uint8Array(3 * size.height * size.width);
  for (let y = start, to = 0; y < height; y += stride)
    for (let x = start; x < width; x += stride, to += 3) {
      const from = 4 * (y * width + x);
      rgb[to] = pixels[from];
      rgb[to + 1] = pixels[from + 1];
      rgb[to + 2] = pixels[from + 2];
    }
  return { rgb, ...size };
}

/** Where some, and where all channels are white. @param {Uint8Array} rgb */
function clipped(rgb) {
  const some = new Uint8Array(rgb.length / 3);
  const every = new Uint8Array(rgb.length / 3);
  for (let i = 0; i < some.length; i++) {
    const count =
      Number(rgb[3 * i] === WHITE) +
      Number(rgb[3 * i + 1] === WHITE) +
      Number(rgb[3 * i + 2] === WHITE);
    some[i] = Number(count > 0);
    every[i] = Number(count === 3);
  }
  return { some, every };
}

/** Colours of bright surfaces around each place: 3 planes.
 * @param {import("./native.js").Native} native
 * @param {{rgb: Uint8Array, height: number, width: number}} sample @param {Uint8Array} some */
function bright(native, sample, some) {
  const colour = native.decoded(native.put(sample.rgb), sample);
  const weight = native.planes(1, sample);
  const [r, g, b] = [0, 1, 2].map((p) => native.view(colour, p));
  const weights = native.view(weight);
  for (let i = 0; i < weights.length; i++) {
    let w = Math.max(r[i], g[i], b[i]);
    for (let k = 0; k < SQUARED; k++) w = Math.fround(w * w);
    if (some[i]) w = 0;
    weights[i] = w;
    r[i] *= w;
    g[i] *= w;
    b[i] *= w;
  }
  return filled(native, colour, weight.at, SURE);
}

/** highlights.filled: colour times weight -> colour, from around where there is little weight.
 *
 * @param {import("./native.js").Native} native @param {Planes} colour
 * @param {number} weight where it lies
 * @param {number} sure @returns {Planes} */
function filled(native, colour, weight, sure) {
  const { height, width } = colour;
  const size = height * width;
  let around = null;
  if (Math.max(height, width) > 1) {
    const small = { height: Math.ceil(height / 2), width: Math.ceil(width / 2) };
    const half = { layer: native.planes(4, small), square: native.planes(1, small) };
    const none = native.planes(1, colour);
    native.view(none).fill(0);
    native.shrink(colour, weight, none, frame(colour), half, frame(small), {});
    const deeper = filled(
      native,
      half.layer,
      half.layer.at + 12 * small.height * small.width,
      sure,
    );
    around = native.enlarged({ ...deeper, count: 3 }, 2, frame(colour));
  }
  const result = native.planes(3, colour);
  const weights = native.floats(weight, size);
  for (let p = 0; p < 3; p++) {
    const from = native.view(colour, p);
    const to = native.view(result, p);
    const there = around && native.view(around, p);
    for (let i = 0; i < size; i++) {
      const own = from[i] / Math.max(weights[i], 1e-9);
      to[i] = there ? there[i] + Math.min(sure * weights[i], 1) * (own - there[i]) : own;
    }
  }
  return result;
}

/** highlights._share_of: part of the window around each place that is set; mirrored at edges.
 *
 * @param {Uint8Array} flags @param {{height: number, width: number}} size
 * @param {number} window odd */
function shareOf(flags, { height, width }, window) {
  const reach = (window - 1) / 2;
  const share = new Float32Array(height * width);
  const lines = new Int32Array(height * width); // sums along each row
  for (let y = 0; y < height; y++)
    for (let x = 0, sum = 0; x < width; x++) {
      if (x === 0)
        for (let k = -reach; k <= reach; k++) sum += flags[y * width + mirrored(k, width)];
      else
        sum +=
          flags[y * width + mirrored(x + reach, width)] -
          flags[y * width + mirrored(x - reach - 1, width)];
      lines[y * width + x] = sum;
    }
  const sums = new Int32Array(width);
  for (let y = 0; y < height; y++) {
    if (y === 0)
      for (let k = -reach; k <= reach; k++) add(sums, lines, mirrored(k, height) * width, 1);
    else {
      add(sums, lines, mirrored(y + reach, height) * width, 1);
      add(sums, lines, mirrored(y - reach - 1, height) * width, -1);
    }
    for (let x = 0; x < width; x++) share[y * width + x] = sums[x] / window ** 2;
  }
  return share;
}

/** @param {Int32Array} sums @param {Int32Array} lines @param {number} from @param {number} sign */
function add(sums, lines, from, sign) {
  for (let x = 0; x < sums.length; x++) sums[x] += sign * lines[from + x];
}

/** NumPy's "reflect". @param {number} at @param {number} size */
function mirrored(at, size) {
  if (size === 1) return 0;
  const period = 2 * (size - 1);
  const inside = ((at % period) + period) % period;
  return inside < size ? inside : period - inside;
}

/** @param {number} value */
const unit = (value) => Math.min(Math.max(value, 0), 1);

/** Python's round: halves go to the even number. @param {number} value */
export function roundEven(value) {
  const floor = Math.floor(value);
  const part = value - floor;
  return part === 0.5 ? floor + (floor % 2) : Math.round(value);
}
