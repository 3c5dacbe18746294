/**
 * The network's small map brought to the photo's size, its outlines where the photo has them:
 * `upsample.edge_aware` of Python, whose comments say how and why; the names are its names.
 */

import { boxBlur, derivatives, dilate, erode, gaussian, shifted } from "./filters.js";
import { roundEven } from "./highlights.js";
import { area, areaBytes, linear, linearBytes, linearTaps } from "./resize.js";

/** @typedef {import("./resize.js").Plane} Plane */
/** @typedef {import("./resize.js").Size} Size */
/** @typedef {import("./resize.js").Pixels} Photo RGBA */
/** A surface, base + step / (1 + exp(-odds)).
 * @typedef {{base: Plane, step: Plane, odds: Plane}} Cut */

const VOTE_SCALE = 3;
const VOTE_PX = 500_000;
const REACH = 4;
const VOTERS = Array.from({ length: 25 }, (_, i) => {
  const distance = Math.sqrt((i + 0.5) / 25);
  const angle = i * Math.PI * (3 - Math.sqrt(5));
  return { dy: distance * Math.sin(angle), dx: distance * Math.cos(angle) };
});
const SIDES = 5;
const COLOUR_SIGMA = 0.12;
const SURE = 0.3;
const LEAST_STEP = 0.05;
const STEEPNESS = 3;
const FAINT = 0.05;
const MEASURED = 2;
const USUAL_BLUR = 1.0;
const MOST_BLUR = 4.0;
const OWN_BLUR = 0.1;
const SHARPENED = 3;
const NARROW = 2;
const LEVELS = 5;
const ROUNDED = 2000;
const TILE = 128; // px of the vote
const STRIP = 64; // rows between two yields

/** Plane by plane, place by place.
 * @param {(...values: number[]) => number} of @param {...Plane} planes @returns {Plane} */
function map(of, ...planes) {
  const [{ height, width }] = planes;
  const data = new Float32Array(height * width);
  const [a, b, c] = planes.map((plane) => plane.data);
  if (!b) for (let i = 0; i < data.length; i++) data[i] = of(a[i]);
  else if (!c) for (let i = 0; i < data.length; i++) data[i] = of(a[i], b[i]);
  else for (let i = 0; i < data.length; i++) data[i] = of(a[i], b[i], c[i]);
  return { data, height, width };
}

/** @param {number} value */
const clip = (value, low = 0, high = 1) => Math.min(Math.max(value, low), high);

/** What is cut along the photo, ready to be enlarged to its size or another.
 * @param {Plane} disparity @param {Photo} guide */
export function cutAlong(disparity, guide) {
  let small = disparity;
  let [lowest, highest] = [Infinity, -Infinity];
  for (const d of disparity.data) {
    lowest = Math.min(lowest, d);
    highest = Math.max(highest, d);
  }
  if (highest === lowest) {
    const flat = map(() => 0, small);
    return { cut: { base: flat, step: flat, odds: flat }, lowest, highest };
  }
  const fits = {
    height: Math.min(small.height, guide.height),
    width: Math.min(small.width, guide.width),
  };
  if (fits.height < small.height || fits.width < small.width) small = area(small, fits);
  small = map((d) => (d - lowest) / (highest - lowest), small);
  const registered = register(small, colours(guide, small));
  const scale = clip(Math.sqrt(VOTE_PX / small.data.length), 1, VOTE_SCALE);
  const size = {
    height: Math.min(roundEven(scale * small.height), guide.height),
    width: Math.min(roundEven(scale * small.width), guide.width),
  };
  const raw = cutOf(registered.moved, registered.blur, colours(guide, size));
  return { cut: levelled(raw, registered.moved, registered.blur), lowest, highest };
}

/** Cut.enlarged: the surface at that size, in strips; yields the part done, 0..1.
 * @param {{cut: Cut, lowest: number, highest: number}} found @param {Size} size
 * @returns {Generator<number, Float32Array, void>} */
export function* enlarged({ cut, lowest, highest }, { height, width }) {
  const range = highest - lowest;
  const step = map((b, s) => (clip(b + s) - clip(b)) * range, cut.base, cut.step);
  const base = map((b) => clip(b) * range + lowest, cut.base);
  const [down, across] = [linearTaps(base.height, height), linearTaps(base.width, width)];
  const lines = [base, step, cut.odds].map((plane) => ({
    plane,
    line: new Float64Array(plane.width + 1),
  }));
  const steeper = Math.max(width / cut.odds.width, 1); // a preview may be smaller than the vote
  const result = new Float32Array(height * width);
  for (let y = 0; y < height; y++) {
    const upper = down.first[y];
    const part = down.weights[2 * y + 1];
    for (const { plane, line } of lines) {
      const [a, b] = [upper, Math.min(upper + 1, plane.height - 1)].map((row) => row * plane.width);
      for (let x = 0; x < plane.width; x++)
        line[x] = plane.data[a + x] * (1 - part) + plane.data[b + x] * part;
    }
    const [bases, steps, odds] = lines.map(({ line }) => line);
    for (let x = 0, out = y * width; x < width; x++, out++) {
      const i = across.first[x];
      const p = across.weights[2 * x + 1];
      const s = steps[i] + p * (steps[i + 1] - steps[i]);
      let value = bases[i] + p * (bases[i + 1] - bases[i]);
      if (s !== 0) value += s / (1 + Math.exp(-steeper * (odds[i] + p * (odds[i + 1] - odds[i]))));
      result[out] = value;
    }
    if (y % STRIP === STRIP - 1) yield (y + 1) / height;
  }
  const reach = Math.floor(width / ROUNDED);
  return reach ? dilate({ data: result, height, width }, 2 * reach + 1).data : result;
}

/** @param {Cut} cut */
const surface = (cut) =>
  map((base, step, odds) => base + step / (1 + Math.exp(-odds)), cut.base, cut.step, cut.odds);

/** _cut: a map 0..1 cut along colours, at their size. @param {Plane} small @param {number} blur
 * @param {Plane[]} colours @returns {Cut} */
function cutOf(small, blur, colours) {
  let sharp = small;
  for (let i = 0; i < SHARPENED; i++)
    sharp = map((sharp, small, soft) => sharp + small - soft, sharp, small, gaussian(sharp, blur));
  const opened = dilate(erode(small, SIDES), SIDES);
  const closed = erode(dilate(small, SIDES), SIDES);
  const beyond = (/** @type {Plane} */ plain) => map((s, p) => s + NARROW * (s - p), small, plain);
  const low = erode(beyond(closed), SIDES);
  const high = dilate(beyond(opened), SIDES);
  sharp = map((value, low, high) => Math.min(Math.max(value, low), high), sharp, low, high);

  const { far, step, soft } = sides(sharp, colours[0]);
  const outline = map((s) => clip(s / LEAST_STEP - 1), step);
  const odds = oddsOf(soft, outline, colours, colours[0].width / small.width);
  const plain = map((far, soft, step) => far + soft * step, far, soft, step);
  return {
    base: map((plain, outline, far) => plain + outline * (far - plain), plain, outline, far),
    step: map((outline, step) => outline * step, outline, step),
    odds,
  };
}

/** _registered: the map moved to where the photo has its edges, and its blur.
 * @param {Plane} small @param {Plane[]} colours */
function register(small, colours) {
  let [right, down, blur, moved] = [0, 0, USUAL_BLUR, small];
  for (let i = 0; i < MEASURED; i++) {
    const soft = gaussian(surface(cutOf(moved, 0, colours)), blur);
    const slopes = derivatives(soft);
    const gap = map((a, b) => a - b, moved, soft);
    const found = leastSquares(
      [map((s) => -s, slopes.right), map((s) => -s, slopes.down), slopes.spread],
      gap,
      1e-6 * small.data.length,
    );
    right = clip(right + 1.5 * found[0], -1, 1);
    down = clip(down + 1.5 * found[1], -1, 1);
    blur = clip(blur + found[2], 0, MOST_BLUR);
    moved = shifted(small, right, down);
  }
  return { moved, blur: Math.max(blur - OWN_BLUR, 0) };
}

/** x of (E E^T + ridge) x = E gap.
 * @param {Plane[]} effects three @param {Plane} gap @param {number} ridge */
function leastSquares(effects, gap, ridge) {
  const dot = (/** @type {Plane} */ a, /** @type {Plane} */ b) =>
    a.data.reduce((sum, v, i) => sum + v * b.data[i], 0);
  const matrix = effects.map((a, i) => effects.map((b, j) => dot(a, b) + (i === j ? ridge : 0)));
  const target = effects.map((effect) => dot(effect, gap));
  const determinant = (/** @type {number[][]} */ [[a, b, c], [d, e, f], [g, h, i]]) =>
    a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  const whole = determinant(matrix);
  return target.map(
    (_, j) =>
      determinant(matrix.map((row, i) => row.map((v, k) => (k === j ? target[i] : v)))) / whole,
  ); // Cramer's rule
}

/** _levelled: with the levels with which it, blurred, is the map.
 * @param {Cut} cut @param {Plane} small
 * @param {number} blur @returns {Cut} */
function levelled(cut, small, blur) {
  const around = (/** @type {Plane} */ plane) => boxBlur(plane, LEVELS);
  const shown = gaussian(area(surface(cut), small), blur);
  const [mean, target] = [around(shown), around(small)];
  const products = around(map((a, b) => a * b, shown, small));
  const squares = around(map((a) => a * a, shown));
  const common = map((both, m, t) => both - m * t, products, mean, target);
  const variance = map((s, m) => s - m * m, squares, mean);
  const slope = map((c, v) => clip((c + 1e-4) / (v + 1e-4), 0.5, 3), common, variance);
  const offset = linear(around(map((t, s, m) => t - s * m, target, slope, mean)), cut.base);
  const slopes = linear(around(slope), cut.base);
  return {
    base: map((s, b, o) => s * b + o, slopes, cut.base, offset),
    step: map((s, step) => s * step, slopes, cut.step),
    odds: cut.odds,
  };
}

/** _sides: the far side, the step to the near side, and where between them the map lies.
 * @param {Plane} small @param {Size} size */
function sides(small, size) {
  const far = linear(boxBlur(erode(small, SIDES), 3), size);
  const near = linear(boxBlur(dilate(small, SIDES), 3), size);
  const level = linear(small, size);
  const step = map((near, far) => Math.max(near - far, 0), near, far);
  const soft = map(
    (level, far, step) => clip((level - far) / Math.max(step, 1e-12)),
    level,
    far,
    step,
  );
  return { far, step, soft };
}

/** _odds and _votes: log-odds of near against far. @param {Plane} soft @param {Plane} outline
 *
 * @param {Plane[]} colours @param {number} pitch px of these for one px of the map
 * @returns {Plane} */
function oddsOf(soft, outline, colours, pitch) {
  const { height, width } = soft;
  const margin = roundEven(REACH * pitch);
  const [red, green, blue] = colours.map((plane) => plane.data);
  const near = map((s) => clip((s - 1) / SURE + 1), soft).data;
  const far = map((s) => clip(1 - s / SURE), soft).data;
  const voting = Array.from({ length: Math.ceil(height / TILE) }, () =>
    Array(Math.ceil(width / TILE)).fill(false),
  );
  outline.data.forEach((there, i) => {
    if (there) voting[Math.floor(i / width / TILE)][Math.floor((i % width) / TILE)] = true;
  });
  const voters = VOTERS.map(({ dy, dx }) => ({
    down: roundEven(dy * margin),
    right: roundEven(dx * margin),
    distance: (dy * dy + dx * dx) * (2 * COLOUR_SIGMA) ** 2,
  }));
  return {
    height,
    width,
    data: soft.data.map((level, i) => {
      const prior = clip(level, 0.02, 0.98);
      const odds = Math.log(prior / (1 - prior));
      const [y, x] = [Math.floor(i / width), i % width];
      if (!voting[Math.floor(y / TILE)][Math.floor(x / TILE)]) return STEEPNESS * odds;
      let [forNear, forFar] = [FAINT, FAINT];
      for (const { down, right, distance } of voters) {
        const j = clip(y + down, 0, height - 1) * width + clip(x + right, 0, width - 1);
        if (near[j] === 0 && far[j] === 0) continue;
        const apart =
          (red[i] - red[j]) ** 2 + (green[i] - green[j]) ** 2 + (blue[i] - blue[j]) ** 2;
        const vote = Math.exp((distance + apart) / (-2 * COLOUR_SIGMA ** 2));
        forNear += vote * near[j];
        forFar += vote * far[j];
      }
      return STEEPNESS * (odds + Math.log(forNear / forFar));
    }),
  };
}

/** _colours: the photo at that size, three planes in 0..1.
 * @param {Photo} guide @param {Size} size @returns {Plane[]} */
function colours(guide, { height, width }) {
  const often = Math.min(Math.floor(guide.height / height), Math.floor(guide.width / width)) > 3;
  const rgb = often
    ? areaBytes(linearBytes(guide, { height: 2 * height, width: 2 * width }), { height, width }, 3)
    : areaBytes(guide, { height, width });
  return [0, 1, 2].map((p) => ({
    height,
    width,
    data: Float32Array.from({ length: height * width }, (_, i) => rgb.pixels[3 * i + p] / 255),
  }));
}
