/** The photo on the page: before, after, depth, and the focus, which taps and keys move. */

/** @typedef {{x: number, y: number}} Point shares of the width and the height */

const STEP = 0.02;
const LARGE_STEP = 0.1;
const MARKER_MS = 1500;
/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** @param {string} id @returns {any} */
const element = (id) => document.getElementById(id);

export class View {
  #photo = element("photo");
  #marker = element("marker");
  #divider = element("divider");
  /** @type {Point | null} */
  #point = null;
  #fading = 0;

  /** @param {(point: Point | null) => void} onFocus null: automatic */
  constructor(onFocus) {
    this.onFocus = onFocus;
    this.#photo.addEventListener("click", (/** @type {MouseEvent} */ event) => this.#tap(event));
    this.#photo.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) =>
      this.#key(event),
    );
    this.#divider.addEventListener("input", () => this.#split());
  }

  /** @param {string} view result, compare or depth */
  set view(view) {
    this.#photo.dataset.view = view;
  }

  /** Another photo.
   * @param {{before: ImageBitmap, depth: ImageBitmap, height: number, width: number}} opened */
  open({ before, depth, height, width }) {
    this.#photo.style.setProperty("--ratio", String(width / height));
    this.#draw("after", null, before);
    this.#draw("before", before);
    this.#draw("depth", depth);
    this.point = null;
  }

  /** @param {ImageBitmap} after */
  develop(after) {
    this.#draw("after", after);
  }

  get point() {
    return this.#point;
  }

  set point(point) {
    this.#point = point;
    this.#marker.hidden = !point;
    if (!point) return;
    this.#marker.style.setProperty("--x", `${100 * point.x}%`);
    this.#marker.style.setProperty("--y", `${100 * point.y}%`);
    this.#marker.classList.remove("faded");
    clearTimeout(this.#fading);
    this.#fading = setTimeout(() => this.#marker.classList.add("faded"), MARKER_MS);
  }

  /**
   * @param {string} id @param {ImageBitmap | null} bitmap null: nothing, of the size of `like`
   * @param {ImageBitmap | null} like */
  #draw(id, bitmap, like = bitmap) {
    const canvas = element(id);
    if (like) [canvas.width, canvas.height] = [like.width, like.height];
    canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
  }

  /** @param {MouseEvent} event */
  #tap(event) {
    if (event.target === this.#divider) return;
    const { left, top, width, height } = this.#photo.getBoundingClientRect();
    this.#choose({ x: (event.clientX - left) / width, y: (event.clientY - top) / height });
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.target === this.#divider) return;
    const arrow = ARROWS[event.key];
    if (arrow) {
      const step = event.shiftKey ? LARGE_STEP : STEP;
      const { x, y } = this.#point ?? { x: 0.5, y: 0.5 };
      this.#choose({ x: x + step * arrow[0], y: y + step * arrow[1] });
    } else if (event.key === "Escape") this.#choose(null);
    else return;
    event.preventDefault();
  }

  /** @param {Point | null} point */
  #choose(point) {
    const inside = (/** @type {number} */ share) => Math.min(Math.max(share, 0), 1);
    this.point = point && { x: inside(point.x), y: inside(point.y) };
    this.onFocus(this.point);
  }

  #split() {
    this.#photo.style.setProperty("--split", `${this.#divider.value}%`);
  }
}
