/** Members of a zip that are stored, not compressed: bundles and `golden.npz`. */

export class ZipError extends Error {}

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const LOCAL = 0x04034b50;
const LINK = 0o120000;
const KIND = 0o170000;
const MAX_FILES = 1000;

/** @param {string} problem @returns {never} */
function fail(problem) {
  throw new ZipError(problem);
}

/**
 * @param {Uint8Array} data @param {(name: string) => void} checkName
 * @returns {Map<string, Uint8Array>} */
export function members(data, checkName = () => {}) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const { count, at } = directory(view);
  if (count > MAX_FILES) fail(`has more than ${MAX_FILES} files`);
  const found = new Map();
  const folded = new Set();
  let entry = at;
  let total = 0;
  try {
    for (let i = 0; i < count; i++) {
      if (view.getUint32(entry, true) !== ENTRY)
        fail("is not a whole zip file (its list of files is broken)");
      const u16 = (/** @type {number} */ o) => view.getUint16(entry + o, true);
      const u32 = (/** @type {number} */ o) => view.getUint32(entry + o, true);
      const name = text(data.subarray(entry + 46, entry + 46 + u16(28)));
      const size = u32(24);
      checkName(name);
      if (((u32(38) >>> 16) & KIND) === LINK) fail(`has a link, ${name}`);
      if (u16(10) !== 0 || u16(8) & 1 || u32(20) !== size)
        fail(`has ${name} compressed or encrypted, not stored`);
      if (folded.has(name.toLowerCase())) fail(`has ${name} twice`);
      total += size;
      if (total > data.length) fail("has members that overlap");
      folded.add(name.toLowerCase());
      found.set(name, member(data, view, u32(42), size));
      entry += 46 + u16(28) + u16(30) + u16(32);
    }
  } catch (error) {
    if (error instanceof RangeError) fail("is not a whole zip file (it ends too early)");
    throw error;
  }
  return found;
}

/** Where the list of files is. @param {DataView} view */
function directory(view) {
  const earliest = Math.max(0, view.byteLength - 22 - 0xffff);
  for (let at = view.byteLength - 22; at >= earliest; at--)
    if (view.getUint32(at, true) === END)
      return { count: view.getUint16(at + 10, true), at: view.getUint32(at + 16, true) };
  return fail("is not a zip file");
}

/**
 * @param {Uint8Array} data @param {DataView} view @param {number} local where its header is
 * @param {number} size */
function member(data, view, local, size) {
  if (view.getUint32(local, true) !== LOCAL)
    fail("is not a whole zip file (a file is not where the list says)");
  const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
  if (start + size > data.length) fail("is not a whole zip file (it ends too early)");
  return data.subarray(start, start + size);
}

/** @param {Uint8Array} bytes */
function text(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return fail("has a file whose name is not text");
  }
}
