/** What is blurred by which pupil; `optics.Pupil`, `slices.stack` and `slices.spans` of Python. */

/** Slices, the nearest first: see `slices.Stack`.
 * @typedef {object} Stack
 * @property {Float32Array} bounds [n, 3] squared radii of the slice behind, its own, the one in front
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

/** slices.spans: from where to where the pupil covers each column of px, and what it weighs.
 * @param {number} radius px; negative: turned by pi @param {number} blades */
export function spansOf(radius, blades) {
  if (radius === 0) return { reach: 0, spans: [-0.5, 0.5], weight: 1 };
  const reach = Math.ceil(Math.abs(radius) + 0.5);
  const parts = discs(blades).map(([x, y, r]) => [radius * x, radius * y, (radius * r) ** 2]);
  const spans = [];
  let area = 0;
  for (let column = 0; column <= 2 * reach; column++) {
    let length = 0;
    let middle = 0;
    for (let thin = 0; thin < FINE; thin++) {
      const x = column + (thin + 0.5) / FINE - reach - 0.5;
      let top = -Infinity;
      let bottom = Infinity;
      for (const [across, down, squared] of parts) {
        const left = squared - (x - across) ** 2;
        const half = left > 0 ? Math.sqrt(left) : -Infinity;
        top = Math.max(top, down - half);
        bottom = Math.min(bottom, down + half);
      }
      if (bottom > top) {
        length += (bottom - top) / FINE;
        middle += ((bottom - top) * (top + bottom)) / 2 / FINE;
      }
    }
    middle /= Math.max(length, 1e-9);
    spans.push(middle - length / 2, middle + length / 2);
    area += length;
  }
  return { reach, spans, weight: 1 / area };
}

/** slices.stack. @param {readonly number[]} stops signed radii, rising
 * @param {readonly (number | null)[]} radii px, the blur of each; null is left out
 * @param {number} blades @returns {Stack} */
export function stack(stops, radii, blades, front = false) {
  const ends = [-Infinity, ...squares(stops), Infinity];
  const bounds = [];
  const pupils = [];
  for (let i = stops.length - 1; i >= 0; i--) {
    const radius = radii[i];
    if (radius === null) continue;
    bounds.push(...ends.slice(i, i + 3));
    pupils.push(spansOf(radius, blades));
  }
  return {
    bounds: Float32Array.from(bounds),
    reaches: Int32Array.from(pupils, (pupil) => pupil.reach),
    rings: Int32Array.from(pupils, () => 1),
    spans: Float32Array.from(pupils.flatMap((pupil) => pupil.spans)),
    weights: Float32Array.from(pupils, (pupil) => pupil.weight),
    front,
  };
}
