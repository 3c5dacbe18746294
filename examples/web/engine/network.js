/** A photo's disparity by the network of a bundle, run by ONNX Runtime Web. */

import { BundleError } from "./bundle.js";
import { roundEven } from "./highlights.js";
import { areaBytes, linearBytes } from "./resize.js";
import { members } from "./zip.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
/** @typedef {import("./bundle.js").Variant} Variant */
/** @typedef {import("./resize.js").Pixels} Photo RGBA */
/** @typedef {import("./resize.js").Plane} Plane */

const SHORTEST_PX = 64; // as in argan.refocus
const LONGEST_NOMINAL = 8;
const GPU_NOMINAL = 256; // a smaller network is done before a GPU has started
const MOST_THREADS = 4;
const EXACT = 2e-3; // of the disparity's range, RMS: what golden.npz and the answer may differ by
const QUANTISED = 2e-2;

export class Network {
  /** The most exact network of a bundle that runs here and passes the bundle's own check.
   * @param {Bundle} bundle */
  static async load(bundle) {
    const usable = bundle.variants.filter(
      (v) =>
        v.format === "onnx" &&
        v.graph === "disparity" &&
        v.layout === "NCHW" &&
        v.dtype === "float32",
    );
    if (!usable.length)
      throw new BundleError(
        `The model ${bundle.name} has no ONNX variant for browsers. Export one: argan export --to onnx`,
      );
    const failures = [];
    for (const provider of await providers(bundle))
      for (const variant of usable) {
        try {
          const network = new Network(
            bundle,
            variant,
            await session(bundle, variant, provider),
            provider,
          );
          await network.#check();
          return network;
        } catch (error) {
          failures.push(error instanceof Error ? error.message : String(error));
        }
      }
    throw new BundleError(
      `The model ${bundle.name} does not run in this browser: ${failures[failures.length - 1]}`,
    );
  }

  /**
   * @param {Bundle} bundle @param {Variant} variant @param {{ort: any, session: any}} opened
   * @param {string} provider */
  constructor(bundle, variant, { ort, session }, provider) {
    this.bundle = bundle;
    this.variant = variant;
    this.provider = provider;
    this.ort = ort;
    this.session = session;
  }

  /** Disparity where 0 is typically the farthest thing, 1 the nearest, at the network's size.
   * @param {Photo} photo @returns {Promise<Plane>} */
  async disparity(photo) {
    const { height, width } = networkSize(photo, this.bundle.image, this.variant.sizes);
    const shrinks = photo.height * photo.width > height * width;
    const { pixels } = (shrinks ? areaBytes : linearBytes)(photo, { height, width });
    const size = height * width;
    const planes = new Float32Array(3 * size);
    for (let i = 0; i < size; i++)
      for (let p = 0; p < 3; p++) planes[p * size + i] = pixels[3 * i + p] / 255;
    return this.#run(planes, height, width);
  }

  /**
   * @param {Float32Array} planes sRGB [3, H, W] in 0..1 @param {number} height
   * @param {number} width */
  async #run(planes, height, width) {
    const { image, disparity } = this.bundle;
    const answers = await this.session.run({
      [image.name]: new this.ort.Tensor("float32", planes, [1, 3, height, width]),
    });
    const answer = answers[disparity.name];
    if (!answer || String(answer.dims) !== `1,1,${height},${width}`)
      throw new BundleError(
        `The model ${this.bundle.name} answers otherwise than its manifest says. Export it again.`,
      );
    const data = Float32Array.from(
      answer.data,
      (d) => (d - disparity.lo) / (disparity.hi - disparity.lo),
    );
    if (!data.every(Number.isFinite))
      throw new BundleError("The model gave NaN or infinity for this photo. Use another model.");
    return { data, height, width };
  }

  /** Compare with what PyTorch made of the example in the bundle. */
  async #check() {
    const golden = this.bundle.files.get("golden.npz");
    if (!golden) return;
    const files = members(golden);
    const { shape, values } = array(files.get("image.npy"));
    const expected = array(files.get("disparity.npy")).values;
    const { lo, hi } = this.bundle.disparity;
    const { data } = await this.#run(values, shape[2], shape[3]);
    const squares = data.reduce((sum, d, i) => sum + (d - (expected[i] - lo) / (hi - lo)) ** 2, 0);
    const limit = this.variant.precision.startsWith("fp") ? EXACT : QUANTISED;
    if (data.length !== expected.length || !(Math.sqrt(squares / data.length) <= limit))
      throw new BundleError("its answer differs from the one that came with it");
  }
}

/** "webgpu" first where it is worth its start. @param {Bundle} bundle */
async function providers({ image }) {
  const gpu = /** @type {any} */ (globalThis.navigator)?.gpu;
  const large = image.nominal >= GPU_NOMINAL;
  return large && gpu && (await gpu.requestAdapter()) ? ["webgpu", "wasm"] : ["wasm"];
}

/** @param {Bundle} bundle @param {Variant} variant @param {string} provider */
async function session(bundle, variant, provider) {
  const ort = await import(new URL(`../ort/ort.${provider}.min.mjs`, import.meta.url).href);
  ort.env.wasm.wasmPaths = new URL("../ort/", import.meta.url).href;
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated
    ? Math.min(navigator.hardwareConcurrency, MOST_THREADS)
    : 1;
  ort.env.logLevel = "error";
  const model = bundle.files.get(variant.file);
  /** @type {Record<string, unknown>} */
  const options = { executionProviders: [provider] };
  // Weights become float32 once, and not anew in every run.
  if (variant.precision === "int8-weights") options.extra = { session: { disable_quant_qdq: "1" } };
  return { ort, session: await ort.InferenceSession.create(model, options) };
}

/** A float32 .npy of version 1.0 (golden._array). @param {Uint8Array | undefined} body */
function array(body) {
  const header =
    body && new TextDecoder("latin1").decode(body.subarray(10, 10 + body[8] + 256 * body[9]));
  const found = header?.match(/'descr': '<f4', 'fortran_order': False, 'shape': \((.*?)\)/);
  if (!body || !found) throw new BundleError("golden.npz can't be read");
  const shape = found[1].split(",").filter((side) => side.trim()).map(Number);
  return { shape, values: new Float32Array(body.slice(10 + body[8] + 256 * body[9]).buffer) };
}

/** refocus.network_size. @param {{height: number, width: number}} photo
 * @param {import("./bundle.js").Image} port @param {[number, number][] | null} sizes */
export function networkSize({ height, width }, port, sizes) {
  if (sizes) {
    const strange = sizes.map((size) => ({
      size,
      shape: Math.round(1e6 * Math.abs(Math.log((size[0] * width) / (size[1] * height)))),
      area: Math.abs(Math.log((size[0] * size[1]) / port.nominal ** 2)),
    }));
    const [{ size }] = strange.sort((a, b) => a.shape - b.shape || a.area - b.area);
    return { height: size[0], width: size[1] };
  }
  const scale = port.nominal / Math.sqrt(height * width);
  const side = (/** @type {number} */ length) => {
    const steps = roundEven(
      Math.min(length * scale, port.nominal * LONGEST_NOMINAL) / port.multipleOf,
    );
    return Math.max(steps, Math.ceil(SHORTEST_PX / port.multipleOf)) * port.multipleOf;
  };
  return { height: port.height ?? side(height), width: port.width ?? side(width) };
}
