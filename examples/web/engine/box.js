/** Rectangles of pixels; `planes.Box` of the Python runtime. */

/** @typedef {Readonly<{y0: number, y1: number, x0: number, x1: number}>} Box */

/** @param {number} y0 @param {number} y1 @param {number} x0 @param {number} x1 @returns {Box} */
export const box = (y0, y1, x0, x1) => ({ y0, y1, x0, x1 });

/** All of a picture. @param {{height: number, width: number}} picture */
export const frame = ({ height, width }) => box(0, height, 0, width);

/** @param {Box} b */
export const sizeOf = (b) => ({ height: b.y1 - b.y0, width: b.x1 - b.x0 });

/** @param {Box} b @param {number} by @param {{height: number, width: number}} within */
export const grown = (b, by, { height, width }) =>
  box(
    Math.max(b.y0 - by, 0),
    Math.min(b.y1 + by, height),
    Math.max(b.x0 - by, 0),
    Math.min(b.x1 + by, width),
  );

/** @param {Box} b */
export const shrunk = (b, factor = 2) =>
  box(
    Math.ceil(b.y0 / factor),
    Math.ceil(b.y1 / factor),
    Math.ceil(b.x0 / factor),
    Math.ceil(b.x1 / factor),
  );

/** `b` from the corner of `outer`, which is in px `factor` times as large.
 * @param {Box} b @param {Box} outer */
export const seenFrom = (b, outer, factor = 1) =>
  box(
    b.y0 - factor * outer.y0,
    b.y1 - factor * outer.y0,
    b.x0 - factor * outer.x0,
    b.x1 - factor * outer.x0,
  );

/** Squares of at most `side` px.
 * @param {{height: number, width: number}} picture @param {number} side */
export function tiles({ height, width }, side) {
  const boxes = [];
  for (let y = 0; y < height; y += side)
    for (let x = 0; x < width; x += side)
      boxes.push(box(y, Math.min(y + side, height), x, Math.min(x + side, width)));
  return boxes;
}
