/** Filters of a plane, as OpenCV has them. */

/** @typedef {import("./resize.js").Plane} Plane */

/** @param {Plane} like @returns {Plane} */
const empty = ({ height, width }) => ({ data: new Float32Array(height * width), height, width });

/** @param {number} at @param {number} size */
const clamped = (at, size) => Math.min(Math.max(at, 0), size - 1);

/** BORDER_REFLECT_101. @param {number} at @param {number} size */
function reflected(at, size) {
  if (size === 1) return 0;
  let inside = at;
  while (inside < 0 || inside >= size) inside = inside < 0 ? -inside : 2 * (size - 1) - inside;
  return inside;
}

/** A separable filter, the same weights down and across.
 * @param {Plane} plane @param {number[]} weights odd
 * @param {(at: number, size: number) => number} border @returns {Plane} */
function separable(plane, weights, border) {
  const { data, height, width } = plane;
  const reach = (weights.length - 1) / 2;
  const across = empty(plane);
  const result = empty(plane);
  for (let k = -reach; k <= reach; k++) {
    const weight = weights[k + reach];
    for (let x = 0; x < width; x++) {
      const from = border(x + k, width);
      for (let y = 0; y < height; y++)
        across.data[y * width + x] += weight * data[y * width + from];
    }
  }
  for (let k = -reach; k <= reach; k++) {
    const weight = weights[k + reach];
    for (let y = 0; y < height; y++) {
      const from = border(y + k, height) * width;
      for (let x = 0; x < width; x++) result.data[y * width + x] += weight * across.data[from + x];
    }
  }
  return result;
}

/** cv2.blur. @param {Plane} plane @param {number} side odd */
export const boxBlur = (plane, side) => separable(plane, Array(side).fill(1 / side), reflected);

/** cv2.GaussianBlur of that variance, edges clamped; too little is none (upsample._blurred).
 * @param {Plane} plane @param {number} variance px^2 */
export function gaussian(plane, variance) {
  if (variance < 0.01) return plane;
  const reach = (Math.round(8 * Math.sqrt(variance) + 1) | 1) >> 1; // cv2's size for float32
  const bell = Array.from({ length: 2 * reach + 1 }, (_, k) =>
    Math.exp(-((k - reach) ** 2) / (2 * variance)),
  );
  const sum = bell.reduce((a, b) => a + b);
  return separable(plane, bell.map((w) => w / sum), clamped);
}

/** cv2.erode or cv2.dilate with a square window. @param {Plane} plane @param {number} side odd
 * @param {(...values: number[]) => number} choose Math.min or Math.max @returns {Plane} */
function extreme(plane, side, choose) {
  const { data, height, width } = plane;
  const reach = (side - 1) / 2;
  const across = empty(plane);
  const result = empty(plane);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      let found = data[y * width + x];
      for (let k = Math.max(x - reach, 0); k <= Math.min(x + reach, width - 1); k++)
        found = choose(found, data[y * width + k]);
      across.data[y * width + x] = found;
    }
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      let found = across.data[y * width + x];
      for (let k = Math.max(y - reach, 0); k <= Math.min(y + reach, height - 1); k++)
        found = choose(found, across.data[k * width + x]);
      result.data[y * width + x] = found;
    }
  return result;
}

/** @param {Plane} plane @param {number} side */
export const erode = (plane, side) => extreme(plane, side, Math.min);
/** @param {Plane} plane @param {number} side */
export const dilate = (plane, side) => extreme(plane, side, Math.max);

/** Slopes to the right and down (cv2.Sobel, scale 1/8) and cv2.Laplacian / 2, edges clamped.
 * @param {Plane} plane */
export function derivatives(plane) {
  const { data, height, width } = plane;
  const [right, down, spread] = [empty(plane), empty(plane), empty(plane)];
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const at = (/** @type {number} */ dy, /** @type {number} */ dx) =>
        data[clamped(y + dy, height) * width + clamped(x + dx, width)];
      const i = y * width + x;
      right.data[i] =
        (at(-1, 1) - at(-1, -1) + 2 * (at(0, 1) - at(0, -1)) + at(1, 1) - at(1, -1)) / 8;
      down.data[i] =
        (at(1, -1) - at(-1, -1) + 2 * (at(1, 0) - at(-1, 0)) + at(1, 1) - at(-1, 1)) / 8;
      spread.data[i] = (at(0, -1) + at(0, 1) + at(-1, 0) + at(1, 0) - 4 * at(0, 0)) / 2;
    }
  return { right, down, spread };
}

/** The plane seen `right` and `down` px farther on, bicubic (cv2.warpAffine). @param {Plane} plane
 * @param {number} right @param {number} down @returns {Plane} */
export function shifted(plane, right, down) {
  const { data, height, width } = plane;
  const across = empty(plane);
  const result = empty(plane);
  const [x0, y0] = [Math.floor(right), Math.floor(down)];
  const [byX, byY] = [cubic(right - x0), cubic(down - y0)];
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let k = 0; k < 4; k++)
        across.data[y * width + x] += byX[k] * data[y * width + clamped(x + x0 + k - 1, width)];
  for (let y = 0; y < height; y++)
    for (let k = 0; k < 4; k++) {
      const from = clamped(y + y0 + k - 1, height) * width;
      for (let x = 0; x < width; x++) result.data[y * width + x] += byY[k] * across.data[from + x];
    }
  return result;
}

/** OpenCV's cubic weights, a = -0.75. @param {number} t */
function cubic(t) {
  const near = (/** @type {number} */ d) => (1.25 * d - 2.25) * d * d + 1;
  const far = (/** @type {number} */ d) => ((-0.75 * d + 3.75) * d - 6) * d + 3;
  return [far(1 + t), near(t), near(1 - t), far(2 - t)];
}
