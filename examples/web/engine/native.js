/**
 * The compiled inner loops of the lens: `runtime/argan/native.cpp`, built for WebAssembly.
 *
 * Its memory is a stack. What is taken is given back in one go, to a mark (`scoped`, `release`).
 */

import { frame, sizeOf } from "./box.js";

/** @typedef {import("./box.js").Box} Box */
/** Planes of floats in the memory of the compiled code, each of height x width.
 * @typedef {{at: number, count: number, height: number, width: number}} Planes */

const VERSION = 3; // of the functions' arguments, as in native.py
const EPSILON = 1e-6; // planes.EPSILON
const LEAST = 0.005; // slices.LEAST
const LEVELS = 4096; // planes.LEVELS

export class Native {
  /** @param {BufferSource} code lens.wasm */
  static async load(code) {
    const { instance } = await WebAssembly.instantiate(code);
    return new Native(/** @type {any} */ (instance.exports));
  }

  /** @param {any} compiled */
  constructor(compiled) {
    const found = compiled.argan_native_version();
    if (found !== VERSION) throw new Error(`lens.wasm is of version ${found}, not ${VERSION}`);
    this.compiled = compiled;
    this.decoding = this.put(decoding());
    this.encoding = this.put(encoding());
  }

  // ---- memory

  /** @param {number} size */
  allocate(size) {
    return this.compiled.argan_allocate(size);
  }

  mark() {
    return this.compiled.argan_allocate(0);
  }

  /** @param {number} mark */
  release(mark) {
    this.compiled.argan_release(mark);
  }

  /** Run `work`, then give back all that it took. @template T @param {() => T} work @returns {T} */
  scoped(work) {
    const mark = this.mark();
    try {
      return work();
    } finally {
      this.release(mark);
    }
  }

  /** A view, good until memory is taken again. @param {number} at @param {number} count */
  floats(at, count) {
    return new Float32Array(this.compiled.memory.buffer, at, count);
  }

  /** @param {number} at @param {number} count */
  bytes(at, count) {
    return new Uint8Array(this.compiled.memory.buffer, at, count);
  }

  /** A copy of an array. @param {Float64Array | Float32Array | Int32Array | Uint8Array} values */
  put(values) {
    const at = this.allocate(values.byteLength);
    this.bytes(at, values.byteLength).set(
      new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    );
    return at;
  }

  /** @param {number} count @param {{height: number, width: number}} size @returns {Planes} */
  planes(count, { height, width }) {
    return { at: this.allocate(4 * count * height * width), count, height, width };
  }

  /** The floats of planes, or of one. @param {Planes} planes @param {number} [which] */
  view(planes, which) {
    const size = planes.height * planes.width;
    return which === undefined
      ? this.floats(planes.at, planes.count * size)
      : this.floats(planes.at + 4 * which * size, size);
  }

  /** planes.nothing: a picture with nothing in it yet, all of it clear.
   * @param {{height: number, width: number}} size */
  nothing(size) {
    const total = this.planes(4, size);
    this.view(total).fill(0);
    this.view(total, 3).fill(1);
    return total;
  }

  // ---- the functions; each gives back what it took for itself

  /** planes.squared: disparity of a part of a photo -> squared radius in px^2, with its sign; the
   * least and the largest.
   * @param {Float32Array} disparity of `photo` @param {{height: number, width: number}} photo
   * @param {Box} part @param {{focus: number, blur: number, limit: number}} lens */
  squared(disparity, photo, part, { focus, blur, limit }) {
    const size = sizeOf(part);
    const square = this.planes(1, size);
    const [lowest, highest] = this.scoped(() => {
      const range = this.allocate(8);
      const view = this.view(square);
      for (let y = 0; y < size.height; y++) {
        const from = (part.y0 + y) * photo.width + part.x0;
        view.set(disparity.subarray(from, from + size.width), y * size.width);
      }
      this.compiled.argan_squared(
        square.at, size.width, size.height, size.width, focus, blur, limit, square.at, range,
      );
      return [...this.floats(range, 2)];
    });
    return { square, lowest, highest };
  }

  /** planes.decoded: sRGB [h, w, 3] -> linear, 3 planes.
   * @param {number} pixels @param {{height: number, width: number}} size */
  decoded(pixels, size) {
    const light = this.planes(3, size);
    this.compiled.argan_decode(
      pixels,
      3 * size.width,
      size.height,
      size.width,
      this.decoding,
      light.at,
    );
    return light;
  }

  /** planes.encode: linear light -> sRGB [h, w, 3]. @param {Planes} light @param {number} pixels */
  encode(light, pixels) {
    const { height, width } = light;
    this.scoped(() =>
      this.compiled.argan_encode(
        light.at, height * width, width, height, width, this.encoding, LEVELS, pixels, 3 * width,
      ),
    );
  }

  /** highlights.Recovery.apply.
   * @param {Planes} light of `pixels`, which start at (top, left) of the photo
   *
   * @param {number} pixels @param {Planes} around 4 values for each px, interleaved
   * @param {number} stride
   * @param {number} most */
  recover(light, pixels, top = 0, left = 0, around, stride, most) {
    this.compiled.argan_recover(
      pixels, 3 * light.width, light.height, light.width, around.at, around.height, around.width,
      1 / stride, top, left, most, light.at,
    );
  }

  /** planes.shrink.
   * @param {Planes} colour 3 planes @param {number} coverage where it lies; 0: all is covered
   * @param {Planes} square @param {Box} part
   * @param {{layer: Planes, square: Planes}} into @param {Box} place of it
   * @param {{factor?: number, smooth?: boolean, side?: number, low?: number, high?: number}} how */
  shrink(colour, coverage, square, part, into, place, how) {
    const { factor = 2, smooth = false, side = 1, low = -Infinity, high = Infinity } = how;
    const { height, width } = sizeOf(place);
    const plane = into.layer.height * into.layer.width;
    const corner = 4 * (place.y0 * into.layer.width + place.x0);
    this.scoped(() =>
      this.compiled.argan_shrink(
        colour.at, coverage, square.at, square.height, square.width, part.y0, part.x0, side, low,
        high, factor, Number(smooth), EPSILON, into.layer.at + corner, into.square.at + corner,
        height, width, plane, into.layer.width,
      ),
    );
  }

  /** planes.enlarged: the part at `part` of planes enlarged by 2 or 4. @param {Planes} planes
   * @param {number} factor @param {Box} part */
  enlarged(planes, factor, part) {
    const result = this.planes(planes.count, sizeOf(part));
    this.#enlarge(planes, factor, part, result, 0);
    return result;
  }

  /** planes.lay_under: `deeper`, enlarged, seen through what is clear of `total`.
   * @param {Planes} total @param {Planes} deeper @param {number} factor @param {Box} part */
  layUnder(total, deeper, factor, part) {
    this.#enlarge(deeper, factor, part, total, 1);
  }

  /**
   * @param {Planes} planes @param {number} factor @param {Box} part @param {Planes} into
   * @param {number} under */
  #enlarge(planes, factor, part, into, under) {
    const { height, width } = sizeOf(part);
    this.scoped(() =>
      this.compiled.argan_enlarge(
        planes.at, planes.count, planes.height, planes.width, factor, part.y0, part.x0, into.at,
        height, width, into.height * into.width, into.width, under,
      ),
    );
  }

  /** planes.farthest_of_four. @param {Planes} surfaces @param {number} hides */
  farthestOfFour(surfaces, hides) {
    const half = this.planes(4, {
      height: Math.ceil(surfaces.height / 2),
      width: Math.ceil(surfaces.width / 2),
    });
    this.compiled.argan_farthest_of_four(
      surfaces.at,
      surfaces.height,
      surfaces.width,
      hides,
      EPSILON,
      half.at,
    );
    return half;
  }

  /** planes.keep_farthest. @param {Planes} surfaces @param {Planes} around @param {number} hides */
  keepFarthest(surfaces, around, hides) {
    this.scoped(() =>
      this.compiled.argan_keep_farthest(
        surfaces.at,
        surfaces.height,
        surfaces.width,
        around.at,
        hides,
      ),
    );
  }

  /** slices.spans of several radii, by the pupil that discs have in common: even light, one ring.
   * @param {Float64Array} radii px @param {Int32Array} reaches
   *
   * @param {Float64Array} discs [n, 3]: right, down, radius
   * @param {number} fine thin columns of a px */
  spans(radii, reaches, discs, fine) {
    return this.scoped(() => {
      const columns = reaches.reduce((sum, reach) => sum + 2 * reach + 1, 0);
      const spans = this.allocate(8 * columns);
      const weights = this.allocate(4 * radii.length);
      this.compiled.argan_spans(
        this.put(radii), this.put(reaches), this.put(reaches.map(() => 1)), radii.length,
        this.put(discs), discs.length / 3, this.put(Float64Array.of(1)), fine, spans, weights,
      );
      return {
        spans: this.floats(spans, 2 * columns).slice(),
        weights: this.floats(weights, radii.length).slice(),
      };
    });
  }

  /** slices.add: lay slices behind what `total`, the part at `part` of the layer, holds already.
   * @param {Planes} total @param {Planes} colour at least 3 planes
   * @param {number} coverage where it lies; 0: all is covered @param {Planes} square
   * @param {import("./slices.js").Stack} stack @param {Box} [part] */
  addSlices(total, colour, coverage, square, stack, part = frame(square)) {
    this.scoped(() => {
      const [place, bounds, reaches, rings, spans, weights] = [
        Int32Array.of(part.y0, part.y1, part.x0, part.x1), stack.bounds, stack.reaches, stack.rings,
        stack.spans, stack.weights,
      ].map((values) => this.put(values));
      this.compiled.argan_add_slices(
        colour.at, coverage, square.at, square.height, square.width, place, stack.reaches.length,
        bounds, reaches, rings, spans, weights, Number(stack.front), LEAST, total.at,
        total.height * total.width, total.width,
      );
    });
  }
}

/** planes.linear (IEC 61966-2-1). @param {number} srgb */
export const linear = (srgb) => (srgb <= 0.04045 ? srgb / 12.92 : ((srgb + 0.055) / 1.055) ** 2.4);

/** planes.srgb (IEC 61966-2-1). @param {number} light */
const srgb = (light) => (light <= 0.0031308 ? light * 12.92 : 1.055 * light ** (1 / 2.4) - 0.055);

const decoding = () => Float32Array.from({ length: 256 }, (_, level) => linear(level / 255));

/** sRGB by the square root of light. */
const encoding = () =>
  Uint8Array.from({ length: LEVELS }, (_, i) =>
    Math.round(255 * Math.min(srgb((i / (LEVELS - 1)) ** 2), 1)),
  );
