/** What a photographer sets, and what that comes to: `controls` and `optics` of Python. */

import { roundEven } from "./highlights.js";
import { area } from "./resize.js";

/** @typedef {import("./resize.js").Plane} Plane */

const FOCUS_WINDOW = 0.01; // half of its side, as a share of the photo's shorter side
const AUTO_SHARE = 0.8;
const AUTO_SPREAD = 0.2;
const AUTO_PX = 256;
const REFERENCE_F_NUMBER = 1.8;
const REFERENCE_STRENGTH = 0.02;

/** optics.blur_of_f_number: K in px of radius per unit of disparity.
 * @param {number} fNumber @param {number} width */
export const blurOf = (fNumber, width) =>
  (REFERENCE_STRENGTH * width * REFERENCE_F_NUMBER) / fNumber;

/** The disparity to be sharp: around a point of the photo, or found. @param {Plane} disparity
 * @param {{x: number, y: number} | null} point shares of the width and the height */
export function focusOf(disparity, point) {
  if (!point) return autoFocus(disparity);
  const at = (/** @type {number} */ share, /** @type {number} */ size) =>
    Math.min(Math.max(Math.floor(share * size), 0), size - 1);
  return disparityAt(disparity, at(point.x, disparity.width), at(point.y, disparity.height));
}

/** controls.disparity_at: the median around a px.
 * @param {Plane} disparity @param {number} x @param {number} y */
function disparityAt({ data, height, width }, x, y) {
  const reach = Math.max(1, roundEven(FOCUS_WINDOW * Math.min(height, width)));
  const around = [];
  for (let row = Math.max(0, y - reach); row <= Math.min(y + reach, height - 1); row++)
    for (let column = Math.max(0, x - reach); column <= Math.min(x + reach, width - 1); column++)
      around.push(data[row * width + column]);
  around.sort((a, b) => a - b);
  const middle = around.length / 2;
  return (around[Math.ceil(middle) - 1] + around[Math.floor(middle)]) / 2;
}

/** controls.auto_focus: the nearest sizeable thing near the centre. @param {Plane} disparity */
function autoFocus(disparity) {
  const small = area(disparity, {
    height: Math.min(disparity.height, AUTO_PX),
    width: Math.min(disparity.width, AUTO_PX),
  });
  const bell = (/** @type {number} */ i, /** @type {number} */ size) =>
    Math.exp(-((size > 1 ? i / (size - 1) - 0.5 : 0) ** 2) / (2 * AUTO_SPREAD ** 2));
  const weight = Float64Array.from(
    small.data,
    (_, i) => bell(Math.floor(i / small.width), small.height) * bell(i % small.width, small.width),
  );
  const order = Uint32Array.from(small.data.keys()).sort((a, b) => small.data[a] - small.data[b]);
  let left = AUTO_SHARE * weight.reduce((sum, w) => sum + w, 0);
  return small.data[order.find((i) => (left -= weight[i]) <= 0) ?? order[order.length - 1]];
}
