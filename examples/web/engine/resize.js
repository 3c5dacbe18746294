/** Pictures of another size, as OpenCV's `resize` makes them. */

/** One plane, row by row. @typedef {{data: Float32Array, height: number, width: number}} Plane */
/** @typedef {{height: number, width: number}} Size */
/** Which px each place is made of, and how much of each.
 * @typedef {{first: Int32Array, count: Int32Array, weights: Float64Array, most: number}} Taps */

/** Bilinear, edges clamped (INTER_LINEAR).
 * @param {number} from @param {number} to @returns {Taps} */
export function linearTaps(from, to) {
  return twoTaps(from, to, (i) => ((i + 0.5) * from) / to - 0.5);
}

/** By area (INTER_AREA); where that enlarges, OpenCV's kind of bilinear. @param {number} from
 * @param {number} to @param {boolean} shrinks in both directions @returns {Taps} */
function areaTaps(from, to, shrinks) {
  const scale = from / to;
  if (!shrinks)
    return twoTaps(from, to, (i) => {
      const left = Math.floor(i * scale);
      const part = i + 1 - (left + 1) / scale;
      return left + (part <= 0 ? 0 : part - Math.floor(part));
    });
  const most = Math.ceil(scale) + 1;
  const taps = emptyTaps(to, most);
  for (let i = 0; i < to; i++) {
    const start = i * scale;
    const end = Math.min(start + scale, from);
    const first = Math.floor(start + 1e-9);
    const last = Math.min(Math.ceil(end - 1e-9), from);
    taps.first[i] = first;
    taps.count[i] = last - first;
    for (let k = first; k < last; k++)
      taps.weights[i * most + k - first] =
        (Math.min(k + 1, end) - Math.max(k, start)) / (end - start);
  }
  return taps;
}

/** @param {number} from @param {number} to @param {(i: number) => number} place of i, px */
function twoTaps(from, to, place) {
  const taps = emptyTaps(to, 2);
  for (let i = 0; i < to; i++) {
    const at = Math.min(Math.max(place(i), 0), from - 1);
    const first = Math.min(Math.floor(at), Math.max(from - 2, 0));
    taps.first[i] = first;
    taps.count[i] = Math.min(2, from);
    taps.weights[2 * i] = 1 - (at - first);
    taps.weights[2 * i + 1] = at - first;
  }
  return taps;
}

/** @param {number} to @param {number} most @returns {Taps} */
const emptyTaps = (to, most) => ({
  first: new Int32Array(to),
  count: new Int32Array(to),
  weights: new Float64Array(to * most),
  most,
});

/** @param {Size} from @param {Size} to @returns {[Taps, Taps]} down, across */
function areaBoth(from, to) {
  const shrinks = from.height >= to.height && from.width >= to.width;
  return [areaTaps(from.height, to.height, shrinks), areaTaps(from.width, to.width, shrinks)];
}

/** @param {Size} from @param {Size} to @returns {[Taps, Taps]} */
const linearBoth = (from, to) => [
  linearTaps(from.height, to.height),
  linearTaps(from.width, to.width),
];

/** `count` interleaved channels out of `stride`.
 * @param {ArrayLike<number>} source @param {Size} from
 * @param {Size} to @param {number} stride @param {number} count @param {[Taps, Taps]} taps
 * @param {Float32Array | Uint8ClampedArray} result rounds where it holds bytes */
function resample(source, from, to, stride, count, [down, across], result) {
  const line = new Float64Array(from.width * count);
  for (let y = 0, out = 0; y < to.height; y++) {
    line.fill(0);
    for (let k = 0; k < down.count[y]; k++) {
      const weight = down.weights[y * down.most + k];
      if (weight === 0) continue;
      const row = (down.first[y] + k) * from.width * stride;
      if (count === 1) for (let x = 0; x < from.width; x++) line[x] += weight * source[row + x];
      else
        for (let x = 0; x < from.width; x++)
          for (let p = 0; p < count; p++)
            line[x * count + p] += weight * source[row + x * stride + p];
    }
    for (let x = 0; x < to.width; x++) {
      const base = x * across.most;
      for (let p = 0; p < count; p++, out++) {
        let sum = 0;
        let at = across.first[x] * count + p;
        for (let k = 0; k < across.count[x]; k++, at += count)
          sum += across.weights[base + k] * line[at];
        result[out] = sum;
      }
    }
  }
}

/**
 * @param {Plane} plane @param {Size} to @param {(from: Size, to: Size) => [Taps, Taps]} how
 * @returns {Plane} */
function plane(plane, to, how) {
  const data = new Float32Array(to.height * to.width);
  resample(plane.data, plane, to, 1, 1, how(plane, to), data);
  return { data, height: to.height, width: to.width };
}

/** @param {Plane} source @param {Size} to */
export const area = (source, to) => plane(source, to, areaBoth);

/** @param {Plane} source @param {Size} to */
export const linear = (source, to) => plane(source, to, linearBoth);

/** sRGB bytes.
 * @typedef {{pixels: Uint8ClampedArray, height: number, width: number}} Pixels */

/** @param {Pixels} photo RGBA or RGB @param {Size} to @param {4 | 3} channels of the photo
 * @param {(from: Size, to: Size) => [Taps, Taps]} how @returns {Pixels} RGB */
function bytes(photo, to, channels, how) {
  const pixels = new Uint8ClampedArray(3 * to.height * to.width);
  resample(photo.pixels, photo, to, channels, 3, how(photo, to), pixels);
  return { pixels, height: to.height, width: to.width };
}

/** @param {Pixels} photo @param {Size} to @param {4 | 3} [channels] */
export const areaBytes = (photo, to, channels = 4) => bytes(photo, to, channels, areaBoth);

/** @param {Pixels} photo @param {Size} to @param {4 | 3} [channels] */
export const linearBytes = (photo, to, channels = 4) => bytes(photo, to, channels, linearBoth);
