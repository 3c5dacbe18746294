/**
 * The photograph: `lens.render` of the Python runtime, whose comments say how and why. The names
 * are its names; the inner loops are its compiled ones (`native.js`).
 *
 * The photo and its disparity stay outside of the compiled code's memory, which holds tiles, and
 * whole images of a quarter of the size and less.
 */

import { frame, grown, seenFrom, shrunk, sizeOf, tiles } from "./box.js";
import { MOST, recovery } from "./highlights.js";
import { squares, stack } from "./slices.js";

/** @typedef {import("./box.js").Box} Box */
/** @typedef {import("./native.js").Planes} Planes */
/** @typedef {import("./slices.js").Stack} Stack */
/** @typedef {import("./photo.js").Photo} Photo */
/** Premultiplied colour and coverage; squared radius.
 * @typedef {{layer: Planes, square: Planes}} Layer */
/** What is too blurred for half size, at a quarter of it.
 * @typedef {{back: Planes | null, front: Planes | null, hidden: Planes | null}} Far */
/** @typedef {object} Settings
 * @property {number} focus the disparity that is sharp
 * @property {number} blur K: px of blur-disc radius per unit of disparity
 * @property {number} blades 0: round
 * @property {number} highlights how much of the guessed light of clipped highlights is added
 * @property {"final" | "preview"} quality
 */

const TILE = 512; // px, a multiple of 4
const TILES = 8; // a photo has at least
const SHARP = 0.1; // px
const NOTHING = 1e-3;
const HIDES = 1.0; // px
const SLOPING = 0.05; // px per px
const SOFTENING = 1.5; // px^2
const EPSILON = 1e-6;
const SURROUNDINGS = { final: 1024, preview: 256 };

/** Radii of the slices, px: see `lens.Slices`. */
const SLICES = {
  final: {
    fine: [0.7, 1.4, 2.2, 3.0, 3.8, 4.6, 5.4, 6.2, 7.1, 8.0, 9.0, 10.0, 11.0],
    octave: [6.0, 6.8, 7.6, 8.6, 9.7, 11.0],
  },
  preview: { fine: [1.0, 2.0, 3.2], octave: [2.0, 2.5, 3.2] },
};

/** Make the photograph, tile by tile; yields the part that is done, 0..1, after each.
 * @param {import("./native.js").Native} native
 *
 * @param {Photo} photo @param {Float32Array} disparity of the photo's size
 * @param {Settings} settings
 * @returns {Generator<number, Uint8ClampedArray, void>} RGBA */
export function* render(native, photo, disparity, settings) {
  const lens = new Lens(native, photo, settings);
  const ends = lens.ends(disparity);
  const out = photo.pixels.slice();
  if (Math.max(...ends.map(Math.abs)) < SHARP ** 2) return out;

  const mark = native.mark();
  try {
    const work = new Rendering(native, photo, disparity, lens);
    work.recovery = recovery(native, photo, settings.highlights, SURROUNDINGS[settings.quality]);
    const boxes = tiles(photo, sideOf(photo));
    let done = 0;
    const far = yield* work.far(ends, function* () {
      yield ++done / (2 * boxes.length);
    });
    for (const box of boxes) {
      native.scoped(() => work.finish(box, far, out));
      yield ++done / (2 * boxes.length);
    }
  } finally {
    native.release(mark); // also where nobody wants the rest
  }
  return out;
}

/** Side of tiles. @param {{height: number, width: number}} photo */
const sideOf = ({ height, width }) =>
  Math.min(TILE, 64 * Math.ceil(Math.sqrt((height * width) / TILES) / 64));

/** The slices, for one setting. */
class Lens {
  /**
   * @param {import("./native.js").Native} native @param {Photo} photo @param {Settings} settings */
  constructor(native, photo, { focus, blur, blades, quality }) {
    const { fine, octave } = SLICES[quality];
    this.focus = focus;
    this.blur = blur;
    this.limit = Math.max(photo.height, photo.width); // a radius above it changes nothing
    const side = [...fine, 2 * octave[0]];
    const signed = [...side.map((r) => -r).reverse(), 0, ...side];
    this.octaveRadii = octave;
    this.reduced = [...octave, 2 * octave[0]];
    this.halo = 4 * Math.ceil((octave[octave.length - 1] + 2.5) / 2);
    this.beyond = (2 * this.reduced[this.reduced.length - 1]) ** 2;
    this.stops = squares(signed);
    this.full = stack(native, signed, [null, ...signed.slice(1, -1), null], blades);
    this.octave = { [-1]: this.#octave(native, -1, blades), [1]: this.#octave(native, 1, blades) };
  }

  /** Those of a smaller size, in front (1) or behind (-1).
   * @param {import("./native.js").Native} native
   * @param {-1 | 1} side @param {number} blades */
  #octave(native, side, blades) {
    /** @type {(number | null)[]} */
    const radii = [...this.octaveRadii.map((r) => side * Math.sqrt(r ** 2 - SOFTENING)), null];
    const stops = this.reduced.map((r) => side * r);
    if (side < 0) {
      radii.reverse();
      stops.reverse();
    }
    return stack(native, stops, radii, blades, side > 0);
  }

  /** The extremes of the signed squared radius. @param {Float32Array} disparity */
  ends(disparity) {
    let lowest = Infinity;
    let highest = -Infinity;
    for (let i = 0; i < disparity.length; i++) {
      const d = disparity[i];
      if (d < lowest) lowest = d;
      if (d > highest) highest = d;
      if (d - d !== 0) throw new Error("the disparity has NaN or infinite values");
    }
    return squares(
      [lowest, highest].map((d) =>
        Math.min(Math.max((d - this.focus) * this.blur, -this.limit), this.limit),
      ),
    );
  }
}

/** A piece of the photo and what it sees beyond itself: see `lens._Tile`.
 * @typedef {object} Tile
 * @property {Box} box @property {Box} outer @property {Planes} square
 * @property {number} lowest @property {number} highest
 * @property {Box} halfOuter @property {Box} half
 * @property {() => Planes} light
 */

class Rendering {
  /** @param {import("./native.js").Native} native @param {Photo} photo
   * @param {Float32Array} disparity @param {Lens} lens */
  constructor(native, photo, disparity, lens) {
    this.native = native;
    this.photo = photo;
    this.disparity = disparity;
    this.lens = lens;
    /** @type {import("./highlights.js").Recovery | null} */
    this.recovery = null;
  }

  /** RGB bytes of a part. @param {Box} part */
  #rgb(part) {
    const { height, width } = sizeOf(part);
    const at = this.native.allocate(3 * height * width);
    const rgb = this.native.bytes(at, 3 * height * width);
    const { pixels, width: stride } = this.photo;
    for (let y = 0, to = 0; y < height; y++) {
      let from = 4 * ((part.y0 + y) * stride + part.x0);
      for (let x = 0; x < width; x++, from += 4, to += 3) {
        rgb[to] = pixels[from];
        rgb[to + 1] = pixels[from + 1];
        rgb[to + 2] = pixels[from + 2];
      }
    }
    return at;
  }

  /** _Photo.light. @param {Box} part */
  light(part) {
    const rgb = this.#rgb(part);
    const light = this.native.decoded(rgb, sizeOf(part));
    if (this.recovery)
      this.native.recover(
        light,
        rgb,
        part.y0,
        part.x0,
        this.recovery.around,
        this.recovery.stride,
        MOST,
      );
    return light;
  }

  /** @param {Box} part */
  #square(part) {
    return this.native.squared(this.disparity, this.photo, part, this.lens);
  }

  /** A finished tile, into the result.
   * @param {Box} box @param {Far} far @param {Uint8ClampedArray} out */
  finish(box, far, out) {
    const light = this.#finished(this.#tile(box), far);
    if (!light) return;
    const { height, width } = sizeOf(box);
    const at = this.native.allocate(3 * height * width);
    this.native.encode(light, at);
    const rgb = this.native.bytes(at, 3 * height * width);
    for (let y = 0, from = 0; y < height; y++) {
      let to = 4 * ((box.y0 + y) * this.photo.width + box.x0);
      for (let x = 0; x < width; x++, from += 3, to += 4) {
        out[to] = rgb[from];
        out[to + 1] = rgb[from + 1];
        out[to + 2] = rgb[from + 2];
      }
    }
  }

  // ---- tiles

  /** @param {Box} box @returns {Tile} */
  #tile(box) {
    const outer = grown(box, this.lens.halo, this.photo);
    /** @type {Planes | undefined} */
    let light;
    return {
      box,
      outer,
      ...this.#square(outer),
      halfOuter: shrunk(outer),
      half: grown(shrunk(box), 1, sizeOf(shrunk(frame(this.photo)))),
      light: () => (light ??= this.light(outer)),
    };
  }

  /** Lay the half-size slices of one side behind `total`.
   * @param {Tile} tile @param {Planes} total @param {-1 | 1} side */
  #layOctave(tile, total, side) {
    const size = sizeOf(tile.halfOuter);
    const layer = this.native.planes(4, size);
    const square = this.native.planes(1, size);
    const [low, high] = this.lens.stops.slice(-2);
    const whole = frame(tile.square);
    this.native.shrink(tile.light(), 0, tile.square, whole, { layer, square }, frame(size), {
      side,
      low,
      high,
    });
    const part = seenFrom(tile.half, tile.halfOuter);
    const coverage = layer.at + 12 * size.height * size.width;
    this.native.addSlices(total, layer, coverage, square, this.lens.octave[side], part);
  }

  /** Linear light, or null where the photo stays as it is. @param {Tile} tile @param {Far} far */
  #finished(tile, far) {
    const { native, lens } = this;
    const spill = this.#spill(tile, far.front);
    if (!spill && Math.max(-tile.lowest, tile.highest) < SHARP ** 2) return null;
    const { stops } = lens;
    let total = null;
    if (spill || tile.highest > stops[stops.length - 2])
      total = native.enlarged(this.#front(tile, spill), 2, seenFrom(tile.box, tile.half, 2));
    if (tile.lowest < stops[stops.length - 1] && tile.highest > stops[0]) {
      total ??= native.nothing(sizeOf(tile.box));
      native.addSlices(
        total,
        tile.light(),
        0,
        tile.square,
        lens.full,
        seenFrom(tile.box, tile.outer),
      );
    }
    if (far.back) {
      const back = this.#back(tile, far.back);
      if (total) native.layUnder(total, back.planes, back.factor, back.part);
      else total = native.enlarged(back.planes, back.factor, back.part);
    }
    if (!total) throw new Error("every radius belongs to a slice");
    const clear = native.view(total, 3);
    if (clear.some((left) => left > NOTHING)) {
      if (far.hidden) native.layUnder(total, far.hidden, 4, tile.box);
      else
        for (let p = 0; p < 3; p++) {
          const plane = native.view(total, p);
          for (let i = 0; i < plane.length; i++) plane[i] /= Math.max(1 - clear[i], EPSILON);
        }
    }
    return total;
  }

  /** All in front of the full-size slices, at half size.
   * @param {Tile} tile @param {Planes | null} spill */
  #front(tile, spill) {
    const total = spill ?? this.native.nothing(sizeOf(tile.half));
    if (
      tile.highest > this.lens.stops[this.lens.stops.length - 2] &&
      tile.lowest < this.lens.beyond
    )
      this.#layOctave(tile, total, 1);
    return total;
  }

  /** All behind the full-size slices. @param {Tile} tile @param {Planes} far */
  #back(tile, far) {
    if (tile.lowest >= this.lens.stops[1] || tile.highest <= -this.lens.beyond)
      return { planes: far, factor: 4, part: tile.box };
    const total = this.native.nothing(sizeOf(tile.half));
    this.#layOctave(tile, total, -1);
    this.native.layUnder(total, far, 2, tile.half);
    return { planes: total, factor: 2, part: seenFrom(tile.box, tile.half, 2) };
  }

  /** What the far front lets fall on this tile, at half size.
   * @param {Tile} tile @param {Planes | null} front */
  #spill(tile, front) {
    if (!front) return null;
    const part = grown(shrunk(tile.half), 1, front);
    const clear = this.native.view(front, 3);
    let least = Infinity;
    for (let y = part.y0; y < part.y1; y++)
      for (let x = part.x0; x < part.x1; x++) least = Math.min(least, clear[y * front.width + x]);
    return least > 1 - NOTHING ? null : this.native.enlarged(front, 2, tile.half);
  }

  // ---- a quarter of the size and less: whole images

  /** lens._far.
   * @param {number[]} ends @param {() => Generator<number, void, void>} step after each tile
   * @returns {Generator<number, Far, void>} */
  *far(ends, step) {
    const { everything, sides } = yield* this.#reduced(ends, step);
    // Sides first: `hidden` changes what they may share with it.
    const [back, front] = [this.#farSide(sides[-1], -1), this.#farSide(sides[1], 1)];
    return { back, front, hidden: this.#hidden(everything) };
  }

  /** lens._reduced. @param {number[]} ends @param {() => Generator<number, void, void>} step */
  *#reduced([lowest, highest], step) {
    const { native, lens, photo } = this;
    const { stops } = lens;
    const [low, high] = stops.slice(-2);
    const quarter = sizeOf(shrunk(frame(photo), 4));
    const layerIf = (/** @type {boolean} */ there) => {
      if (!there) return null;
      const made = { layer: native.planes(4, quarter), square: native.planes(1, quarter) };
      native.view(made.layer).fill(0);
      native.view(made.square).fill(0);
      return made;
    };
    const everything = layerIf(highest > HIDES ** 2);
    const sides = { [-1]: layerIf(lowest < stops[1]), [1]: layerIf(highest > low) };
    for (const box of tiles(photo, sideOf(photo))) {
      native.scoped(() => {
        const outer = grown(box, 4, photo);
        const { square, lowest, highest } = this.#square(outer);
        const most = { [-1]: -lowest, [1]: highest };
        const wanted = /** @type {const} */ ([-1, 1]).filter(
          (side) => sides[side] && most[side] > low,
        );
        if (!everything && !wanted.length) return;
        const light = this.light(outer);
        const part = seenFrom(box, outer);
        const place = shrunk(box, 4);
        const shrink = (
          /** @type {Layer} */ into,
          /** @type {-1 | 1} */ side,
          /** @type {number} */ from,
        ) =>
          native.shrink(light, 0, square, part, into, place, {
            factor: 4,
            smooth: true,
            side,
            low: from,
            high,
          });
        if (everything) shrink(everything, 1, -Infinity);
        for (const side of wanted) shrink(/** @type {Layer} */ (sides[side]), side, low);
      });
      yield* step();
    }
    return { everything, sides };
  }

  /** lens._far_side. @param {Layer | null} sums @param {-1 | 1} side */
  #farSide(sums, side) {
    if (!sums) return null;
    const { layer, square } = sums;
    const octave = this.lens.octaveRadii;
    const [low, high] = squares([octave[octave.length - 1] / 2, octave[0]]);
    const radii = this.native.view(square);
    for (let p = 0; p < 4; p++) {
      const plane = this.native.view(layer, p);
      for (let i = 0; i < plane.length; i++)
        plane[i] *= Math.min(Math.max((side * radii[i] - low) / (high - low), 0), 1);
    }
    if (!this.native.view(layer, 3).some((covered) => covered > NOTHING))
      return side < 0 ? this.native.nothing(square) : null;
    return this.#smaller(layer, square, side);
  }

  /** lens._smaller.
   * @param {Planes} layer @param {Planes} square @param {-1 | 1} side @returns {Planes} */
  #smaller(layer, square, side) {
    const { native, lens } = this;
    const [low, high] = squares(lens.reduced.slice(-2));
    const whole = frame(square);
    const coverage = (/** @type {Planes} */ of) => of.at + 12 * of.height * of.width;
    let deeper = null;
    if (native.view(square).some((radius) => side * radius > low)) {
      const small = sizeOf(shrunk(whole));
      const half = { layer: native.planes(4, small), square: native.planes(1, small) };
      native.shrink(layer, coverage(layer), square, whole, half, frame(small), {
        smooth: true,
        side,
        low,
        high,
      });
      if (native.view(half.layer, 3).some((covered) => covered > NOTHING))
        deeper = this.#smaller(half.layer, half.square, side);
    }
    const inFront = side > 0 && deeper;
    const total = inFront ? native.enlarged(inFront, 2, whole) : native.nothing(square);
    native.addSlices(total, layer, coverage(layer), square, lens.octave[side]);
    if (deeper && !inFront) native.layUnder(total, deeper, 2, whole);
    return total;
  }

  /** lens._hidden: colours of the farthest surface near each place; the layer changes.
   * @param {Layer | null} sums */
  #hidden(sums) {
    if (!sums) return null;
    const radius = this.native.view(sums.layer, 3);
    const square = this.native.view(sums.square);
    let reach = 0;
    for (let i = 0; i < radius.length; i++) {
      radius[i] = 4 * Math.sign(square[i]) * Math.sqrt(Math.abs(square[i])); // px of full size
      reach = Math.max(reach, Math.abs(radius[i]));
    }
    this.#keepFarthest(sums.layer, reach);
    return { ...sums.layer, count: 3 };
  }

  /** lens._keep_farthest. @param {Planes} surfaces @param {number} reach */
  #keepFarthest(surfaces, reach, pitch = 4) {
    if (reach <= 1 || Math.max(surfaces.height, surfaces.width) <= 1) return;
    const hides = Math.max(HIDES, SLOPING * pitch);
    const around = this.native.farthestOfFour(surfaces, hides);
    this.#keepFarthest(around, reach / 2, 2 * pitch);
    this.native.keepFarthest(surfaces, around, hides);
  }
}
