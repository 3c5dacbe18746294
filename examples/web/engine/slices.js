/** What is blurred by which pupil; `optics.Pupil` and `slices.stack` of Python. */

/** Slices, the nearest first: see `slices.Stack`.
 * @typedef {object} Stack
 *
 * @property {Float32Array} bounds [n, 3] squared radii: of the slice behind, its own, in front
 * @property {Int32Array} reaches of the pupils, px
 * @property {Int32Array} rings of the pupils: 1
 * @property {Float32Array} spans of all columns of all pupils, one after the other
 * @property {Float32Array} weights of the pupils
 * @property {boolean} front
 */

const FINE = 16; // thin columns of a px
const STRAIGHT = 1e-4; // curvature of a straight blade

/** @param {readonly number[]} radii */
export const squares = (radii) => radii.map((r) => r * Math.abs(r));

/** optics.Pupil.discs: what all of them share is the pupil. @param {number} blades 0: round
 * @returns {[number, number, number][]} right, down, radius */
function discs(blades) {
  /** @type {[number, number, number][]} */
  const found = [[0, 0, 1]];
  if (!blades) return found;
  const half = Math.PI / blades;
  const radius = 1 / STRAIGHT;
  const inward = Math.cos(half) - Math.sqrt(radius ** 2 - Math.sin(half) ** 2);
  for (let i = 0; i < blades; i++) {
    const angle = (2 * i + 1) * half;
    found.push([inward * Math.cos(angle), inward * Math.sin(angle), radius]);
  }
  return found;
}

/** slices.reach. @param {number} radius */
const reachOf = (radius) => (radius ? Math.ceil(Math.abs(radius) + 0.5) : 0);

/** slices.stack. @param {import("./native.js").Native} native
 * @param {readonly number[]} stops signed radii, rising
 * @param {readonly (number | null)[]} radii px, the blur of each; null is left out
 * @param {number} blades @returns {Stack} */
export function stack(native, stops, radii, blades, front = false) {
  const ends = [-Infinity, ...squares(stops), Infinity];
  const bounds = [];
  const taken = [];
  for (let i = stops.length - 1; i >= 0; i--) {
    const radius = radii[i];
    if (radius === null) continue;
    bounds.push(...ends.slice(i, i + 3));
    taken.push(radius);
  }
  const reaches = Int32Array.from(taken, reachOf);
  const { spans, weights } = native.spans(
    Float64Array.from(taken),
    reaches,
    Float64Array.from(discs(blades).flat()),
    FINE,
  );
  return {
    bounds: Float32Array.from(bounds),
    reaches,
    rings: reaches.map(() => 1),
    spans,
    weights,
    front,
  };
}
