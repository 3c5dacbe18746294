/**
 * The bundle NAME.argan, read and checked: `argan.bundle` of the Python runtime, where the format
 * is written down. Everything is checked before anything is run.
 */

import { members, ZipError } from "./zip.js";

export class BundleError extends Error {}

/** @typedef {object} Image
 * @property {string} name @property {number | null} height null: any @property {number | null} width
 * @property {number} multipleOf @property {number} nominal
 */
/** @typedef {object} Variant
 *
 * @property {string} name @property {string} graph @property {string} format
 * @property {string} precision
 * @property {string} file @property {string} layout @property {string} dtype
 * @property {[number, number][] | null} sizes [H, W]; null: any
 */
/** @typedef {object} Bundle
 * @property {string} name @property {Map<string, Uint8Array>} files
 * @property {Image} image @property {{name: string, lo: number, hi: number}} disparity
 * @property {number} fNumber @property {Variant[]} variants most exact first
 */

const SCHEMA = 2;
const MANIFEST = "bundle.json";
const MAX_BYTES = 1 << 29;
const MAX_MANIFEST_BYTES = 1 << 20;
const MAX_SIDE = 8192;
const GRAPHS = ["disparity", "refocus"];
/** @type {Record<string, string>} */
const ENDINGS = { onnx: ".onnx", tflite: ".tflite", coreml: ".mlpackage" };
const PRECISIONS = ["fp32", "fp16", "int8-weights", "int8", "int8-io", "palette6"];
const NAME = /^[A-Za-z0-9_-][A-Za-z0-9_.-]*(\/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$/;

/** @param {string} problem @returns {never} */
function fail(problem) {
  throw new BundleError(problem);
}

/**
 * @param {Uint8Array} data a zip @param {string} called what people call the file
 * @returns {Promise<Bundle>} */
export async function read(data, called) {
  try {
    if (data.length > MAX_BYTES) fail(`has more than ${MAX_BYTES >> 20} MiB`);
    return await parse(members(data, checkName));
  } catch (error) {
    if (!(error instanceof BundleError || error instanceof ZipError)) throw error;
    throw new BundleError(`The model ${called} ${error.message}. Get or export it again.`);
  }
}

/** @param {string} name */
function checkName(name) {
  if (name.length > 200 || !NAME.test(name))
    fail(`has a file of forbidden name, ${name.slice(0, 200)}`);
}

/** @param {Map<string, Uint8Array>} files @returns {Promise<Bundle>} */
async function parse(files) {
  const manifest = manifestOf(files.get(MANIFEST));
  files.delete(MANIFEST);
  if (manifest.schema !== SCHEMA)
    fail(`has schema ${manifest.schema} where this page reads ${SCHEMA}`);
  await checkFiles(object(manifest, "files"), files);
  for (const name of ["name", "task", "argan"]) text(manifest, name);
  for (const name of ["source", "tools", "licence"]) object(manifest, name);
  if (manifest.task !== "disparity") fail(`is for the task ${manifest.task}, not disparity`);
  if (manifest.calibration !== null) fail(`has a calibration, which schema ${SCHEMA} doesn't know`);
  const fNumber = number(object(manifest, "optics").f_number, "f_number");
  if (fNumber <= 0) fail(`has f_number ${fNumber}, not a positive one`);
  const image = imageOf(only(manifest, "inputs"));
  const disparity = disparityOf(only(manifest, "outputs"));
  const variants = variantsOf(object(manifest, "variants"), files, image.multipleOf);
  const { refocus } = manifest;
  if (refocus !== null && !isObject(refocus)) fail("has no object or null refocus");
  if (variants.some((v) => v.graph === "refocus") !== (refocus !== null))
    fail("says otherwise of the refocus graph than its variants");
  if (refocus !== null && !(0 < number(refocus.max_blur, "max_blur") && refocus.max_blur <= 1))
    fail(`has max_blur ${refocus.max_blur}, not a share of the width`);
  return { name: manifest.name, files, image, disparity, fNumber, variants };
}

/** @param {Uint8Array | undefined} data @returns {Record<string, any>} */
function manifestOf(data) {
  if (!data || data.length > MAX_MANIFEST_BYTES) return fail(`has no ${MANIFEST} of at most 1 MiB`);
  try {
    const json = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
    const manifest = JSON.parse(json);
    if (repeats(json)) fail(`has a ${MANIFEST} in which a key occurs twice`);
    return isObject(manifest) ? manifest : fail(`has a ${MANIFEST} that is no object`);
  } catch (error) {
    if (error instanceof BundleError) throw error;
    return fail(`has a ${MANIFEST} that is not JSON`);
  }
}

/** Whether an object of this JSON has a key twice. @param {string} json that is well formed */
function repeats(json) {
  /** @type {(Set<string> | null)[]} */
  const open = [];
  const tokens = json.match(/"(?:[^"\\]|\\.)*"(\s*:)?|[{}[\]]/g) ?? [];
  for (const token of tokens) {
    const keys = open[open.length - 1];
    if (token === "{") open.push(new Set());
    else if (token === "[") open.push(null);
    else if (token === "}" || token === "]") open.pop();
    else if (keys && token.endsWith(":")) {
      const key = JSON.parse(token.slice(0, -1).trimEnd());
      if (keys.has(key)) return true;
      keys.add(key);
    }
  }
  return false;
}

/** @param {Record<string, any>} listed @param {Map<string, Uint8Array>} files */
async function checkFiles(listed, files) {
  for (const name of Object.keys(listed))
    if (!files.has(name)) fail(`has ${name} listed but missing`);
  for (const [name, data] of files) {
    if (!Object.hasOwn(listed, name)) fail(`has ${name} not listed`);
    const { sha256, bytes } = listed[name] ?? {};
    if (bytes !== data.length || sha256 !== (await fingerprint(data)))
      fail(`has ${name} with a size or sha256 other than listed: it was changed`);
  }
}

/** SHA-256 in hex digits. @param {Uint8Array} data */
async function fingerprint(data) {
  const digest = await crypto.subtle.digest("SHA-256", /** @type {BufferSource} */ (data));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {Record<string, any>} listed @param {Map<string, Uint8Array>} files
 * @param {number} multipleOf */
function variantsOf(listed, files, multipleOf) {
  if (!Object.keys(listed).length) fail("has no variant");
  /** @type {Variant[]} */
  const variants = [];
  for (const [name, fields] of Object.entries(listed)) {
    if (!isObject(fields) || !NAME.test(name))
      fail(`has an unreadable variant ${name.slice(0, 200)}`);
    const oneOf = (/** @type {string} */ key, /** @type {string[]} */ allowed) =>
      allowed.includes(fields[key])
        ? fields[key]
        : fail(`has a variant whose ${key} is not one of ${allowed.join(", ")}`);
    const format = oneOf("format", Object.keys(ENDINGS));
    const file = text(fields, "file");
    if (!file.endsWith(ENDINGS[format]))
      fail(`has a ${format} variant in ${file}, not in a ${ENDINGS[format]}`);
    const inside = [...files.keys()].some((f) => f.startsWith(`${file}/`));
    if (!(format === "coreml" ? inside : files.has(file)))
      fail(`has no file ${file} for its variant ${name}`);
    variants.push({
      name,
      file,
      format,
      graph: oneOf("graph", GRAPHS),
      precision: oneOf("precision", PRECISIONS),
      layout: oneOf("layout", ["NCHW", "NHWC"]),
      dtype: oneOf("dtype", ["float32", "uint8"]),
      sizes: sizesOf(fields, multipleOf),
    });
  }
  if (new Set(variants.map((v) => `${v.graph} ${v.format} ${v.precision}`)).size < variants.length)
    fail("has two variants of one graph, format and precision");
  return variants.sort((a, b) => PRECISIONS.indexOf(a.precision) - PRECISIONS.indexOf(b.precision));
}

/**
 * @param {Record<string, any>} fields @param {number} multipleOf
 * @returns {[number, number][] | null} */
function sizesOf({ sizes }, multipleOf) {
  if (sizes === null) return null;
  if (!Array.isArray(sizes) || !sizes.length) return fail("has a variant of no size");
  const fits = (/** @type {any} */ n) => isSide(n) && n % multipleOf === 0;
  for (const size of sizes)
    if (!Array.isArray(size) || size.length !== 2 || !size.every(fits))
      fail(`has a variant of size ${size}, not [H, W] in steps of ${multipleOf}`);
  return sizes;
}

/** @param {Record<string, any>} port @returns {Image} */
function imageOf(port) {
  const [height, width] = sidesOf(port, 3);
  const { layout, range, colour, multiple_of: multipleOf, nominal } = port;
  if (layout !== "NCHW" || String(range) !== "0,1" || colour !== "sRGB")
    fail("has an input other than NCHW, 0..1, sRGB");
  if (!(isSide(multipleOf) && multipleOf <= 256 && isSide(nominal) && multipleOf <= nominal))
    fail(`has an input of nominal size ${nominal} in steps of ${multipleOf}`);
  return { name: text(port, "name"), height, width, multipleOf, nominal };
}

/** @param {Record<string, any>} port */
function disparityOf(port) {
  sidesOf(port, 1);
  const { range } = port;
  if (!Array.isArray(range) || range.length !== 2) fail("has an output of no range of two numbers");
  const [lo, hi] = range.map((/** @type {any} */ end) => number(end, "range"));
  if (!(lo < hi)) fail(`has an output of range ${range}, which is empty`);
  return { name: text(port, "name"), lo, hi };
}

/** Height and width; null where they are free.
 * @param {Record<string, any>} port @param {number} channels */
function sidesOf({ shape, dtype }, channels) {
  if (
    dtype !== "float32" ||
    !Array.isArray(shape) ||
    shape.length !== 4 ||
    shape[0] !== 1 ||
    shape[1] !== channels
  )
    fail(`has a tensor ${shape} of ${dtype}, not float32 [1, ${channels}, H, W]`);
  return ["H", "W"].map((free, i) => {
    const side = shape[2 + i];
    if (side === free) return null;
    return isSide(side)
      ? side
      : fail(`has a tensor ${shape}, whose sides are not H, W or 1 to ${MAX_SIDE}`);
  });
}

/** @param {any} value */
const isSide = (value) => Number.isInteger(value) && value >= 1 && value <= MAX_SIDE;

/** @param {any} value */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** @param {Record<string, any>} fields @param {string} name @returns {Record<string, any>} */
const object = (fields, name) =>
  isObject(fields[name]) ? fields[name] : fail(`has no object ${name}`);

/** @param {Record<string, any>} fields @param {string} name @returns {string} */
const text = (fields, name) =>
  typeof fields[name] === "string" ? fields[name] : fail(`has no text ${name}`);

/** @param {any} value @param {string} name @returns {number} */
const number = (value, name) =>
  typeof value === "number" && Math.abs(value) < 1e30
    ? value
    : fail(`has ${value} for ${name}, which is no number`);

/** @param {Record<string, any>} manifest @param {string} name @returns {Record<string, any>} */
function only(manifest, name) {
  const ports = manifest[name];
  return Array.isArray(ports) && ports.length === 1 && isObject(ports[0])
    ? ports[0]
    : fail(`has ${name} that are not one object`);
}
