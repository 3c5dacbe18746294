/**
 * The engine, in a worker of its own so that the page never freezes: model, photo, preview, save.
 *
 * A message {id, task, ...} is answered by {id, result} or {id, error}, and {id, share} on the way.
 * One task runs at a time; one that nobody waits for any more ends early with the result null.
 */

import { BundleError, read } from "./bundle.js";
import { blurOf, focusOf } from "./controls.js";
import { encodeDepth } from "./depth_png.js";
import { withExif } from "./exif.js";
import { render } from "./lens.js";
import { Native } from "./native.js";
import { Network } from "./network.js";
import { bitmapOf, decode, encode, PhotoError } from "./photo.js";
import { areaBytes } from "./resize.js";
import { cutAlong, enlarged } from "./upsample.js";

/** @typedef {import("./photo.js").Photo} Photo */
/** @typedef {import("./resize.js").Plane} Plane */
/** @typedef {object} Look
 * @property {{x: number, y: number} | null} point shares of width and height; null: automatic
 * @property {number} fNumber @property {number} blades 0: round @property {number} highlights 0 to 1
 */
/** @typedef {{share: (share: number) => void, stale: () => boolean}} Task */
/** @typedef {object} Opened
 * @property {Blob} file @property {Photo} photo @property {Plane} map the network's
 * @property {Photo} small the preview @property {Plane} disparity of the preview
 */

const PREVIEW_PX = 1e6;
const PAUSE_MS = 30; // between looks at the messages that came
const INFERNO = ["000004", "280b54", "65156e", "9f2a63", "d44842", "f57d15", "fac127", "fcffa4"];

/** @type {Promise<Native> | undefined} */
let compiled;
/** @type {Network | undefined} */
let network;
/** @type {Opened | undefined} */
let opened;

/** @param {string} name @returns {Promise<Response>} */
async function part(name) {
  const response = await fetch(new URL(`../${name}`, import.meta.url));
  if (!response.ok) throw new Error(`${name} is missing`);
  return response;
}

const native = () =>
  (compiled ??= part("lens.wasm").then(async (it) => Native.load(await it.arrayBuffer())));

/** Work through a generator of shares; null if nobody wants the result any more.
 * @template T @param {Generator<number, T, void>} steps @param {Task} task */
async function paced(steps, task) {
  let last = performance.now();
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
    if (performance.now() - last < PAUSE_MS) continue;
    task.share(step.value);
    await new Promise((resume) => setTimeout(resume));
    if (task.stale()) {
      steps.return(/** @type {any} */ (null));
      return null;
    }
    last = performance.now();
  }
}

/** @param {Plane} map @param {Photo} photo @param {Task} task @returns {Promise<Plane | null>} */
async function atSizeOf(map, photo, task) {
  const data = await paced(enlarged(cutAlong(map, photo), photo), task);
  return data && { data, height: photo.height, width: photo.width };
}

/** At most PREVIEW_PX. @param {Photo} photo @returns {Photo} */
function reduced(photo) {
  const scale = Math.sqrt(PREVIEW_PX / (photo.height * photo.width));
  if (scale >= 1) return photo;
  const side = (/** @type {number} */ length) => Math.max(Math.round(length * scale), 1);
  const {
    pixels: rgb,
    height,
    width,
  } = areaBytes(photo, { height: side(photo.height), width: side(photo.width) });
  const pixels = new Uint8ClampedArray(4 * height * width).fill(255);
  for (let i = 0; i < height * width; i++) pixels.set(rgb.subarray(3 * i, 3 * i + 3), 4 * i);
  return { pixels, height, width };
}

/** The nearest bright, the farthest dark. @param {Plane} disparity @returns {Photo} */
function coloured({ data, height, width }) {
  const stops = INFERNO.map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const palette = Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * (stops.length - 1);
    const i = Math.min(Math.floor(place), stops.length - 2);
    return stops[i].map((from, p) => from + (place - i) * (stops[i + 1][p] - from));
  });
  const lo = data.reduce((a, b) => Math.min(a, b), Infinity);
  const hi = data.reduce((a, b) => Math.max(a, b), -Infinity);
  const pixels = new Uint8ClampedArray(4 * data.length).fill(255);
  data.forEach((d, i) =>
    pixels.set(palette[hi > lo ? Math.round((255 * (d - lo)) / (hi - lo)) : 0], 4 * i),
  );
  return { pixels, height, width };
}

/**
 * @param {Photo} photo @param {Plane} disparity @param {Look} look
 * @param {"final" | "preview"} quality @param {Task} task
 * @returns {Promise<{photo: Photo, focus: number} | null>} */
async function exposed(photo, disparity, look, quality, task) {
  const focus = focusOf(disparity, look.point);
  const blur = blurOf(look.fNumber, photo.width);
  const { blades, highlights } = look;
  const steps = render(await native(), photo, disparity.data, {
    focus,
    blur,
    blades,
    highlights,
    quality,
  });
  const pixels = await paced(steps, task);
  return pixels && { photo: { ...photo, pixels }, focus };
}

/** What there is to open and to develop. @returns {Opened} */
function theOpened() {
  if (!opened) throw new PhotoError("Open a photo first.");
  return opened;
}

const tasks = {
  /** Take the model of the page, or another. @param {{file?: File}} given */
  async model({ file }) {
    const data = file
      ? await file.arrayBuffer()
      : await (await part("default.argan")).arrayBuffer();
    const bundle = await read(new Uint8Array(data), file?.name ?? "of this page");
    network = await Network.load(bundle);
    await native();
    return {
      name: bundle.name,
      fNumber: bundle.fNumber,
      variant: network.variant.name,
      provider: network.provider,
    };
  },

  /** @param {{file: Blob}} given @param {Task} task */
  async open({ file }, task) {
    if (!network) throw new BundleError("No model is loaded. Reload the page.");
    const photo = await decode(file);
    task.share(0.2);
    const map = await network.disparity(photo);
    task.share(0.4);
    const small = reduced(photo);
    const disparity = await atSizeOf(map, small, task);
    if (!disparity) return null;
    opened = { file, photo, map, small, disparity };
    const [before, depth] = await Promise.all([small, coloured(disparity)].map(bitmapOf));
    return { height: photo.height, width: photo.width, before, depth };
  },

  /** A preview. @param {{look: Look, quality: "final" | "preview"}} given @param {Task} task */
  async look({ look, quality }, task) {
    const { small, disparity } = theOpened();
    // A quick one is always finished, so that a slider that is being pulled shows something.
    const unhurried = quality === "final" ? task : { ...task, stale: () => false };
    const made = await exposed(small, disparity, look, quality, unhurried);
    return made && { after: await bitmapOf(made.photo), focus: made.focus };
  },

  /** The whole photo, as a file.
   * @param {{look: Look, format: "jpeg" | "png" | "depth", exif: boolean}} given
   * @param {Task} task */
  async save({ look, format, exif }, task) {
    const { file, photo, map } = theOpened();
    const phase = (/** @type {number} */ from, /** @type {number} */ to) => ({
      ...task,
      share: (/** @type {number} */ share) => task.share(from + share * (to - from)),
    });
    const disparity = await atSizeOf(map, photo, phase(0, 0.2));
    if (!disparity) return null;
    if (format === "depth") return encodeDepth(disparity);
    const made = await exposed(photo, disparity, look, "final", phase(0.2, 0.95));
    if (!made) return null;
    const blob = await encode(made.photo, format);
    return exif && format === "jpeg" ? withExif(blob, file) : blob;
  },
};

/** The newest message of each task: an older one is out of date. @type {Record<string, number>} */
const newest = {};
let queue = Promise.resolve();

/** @param {any} message */
async function answer(message) {
  const { id, task } = message;
  const stale = () => newest[task] !== id || (task !== "model" && newest.open > id);
  /** @type {any} */
  let reply;
  try {
    const share = (/** @type {number} */ share) => postMessage({ id, share });
    const run = /** @type {(given: any, task: Task) => Promise<any>} */ (
      tasks[/** @type {keyof typeof tasks} */ (task)]
    );
    reply = { id, result: stale() ? null : await run(message, { share, stale }) };
  } catch (error) {
    reply = { id, error: wording(error) };
  }
  const bitmaps = Object.values(reply.result ?? {}).filter((value) => value instanceof ImageBitmap);
  postMessage(reply, { transfer: bitmaps });
}

/** @param {unknown} error */
function wording(error) {
  if (error instanceof BundleError || error instanceof PhotoError) return error.message;
  if (error instanceof RangeError || error instanceof WebAssembly.RuntimeError)
    return "There is not enough memory for this photo. Close other pages, or choose a smaller one.";
  const what = error instanceof Error ? error.message : error;
  return `Something went wrong (${what}). Reload the page and try again.`;
}

addEventListener("message", ({ data }) => {
  newest[data.task] = data.id;
  if (data.task !== "cancel") queue = queue.then(() => answer(data));
  else newest.save = data.id;
});
