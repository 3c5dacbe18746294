/** The camera's notes in a JPEG (EXIF 2.32), taken over to another one. */

const SOI = 0xffd8;
const APP1 = 0xffe1;
const SOS = 0xffda;
const HEADER = "Exif\0\0";
const ORIENTATION = 0x0112;

/** The JPEG with the EXIF of `original`, upright and without its thumbnail; as it is if there is none.
 * @param {Blob} jpeg @param {Blob} original @returns {Promise<Blob>} */
export async function withExif(jpeg, original) {
  const found = segment(new Uint8Array(await original.arrayBuffer()));
  const exif = found && upright(found);
  return exif ? new Blob([jpeg.slice(0, 2), exif, jpeg.slice(2)], { type: jpeg.type }) : jpeg;
}

/** The APP1 segment with EXIF, or null. @param {Uint8Array<ArrayBuffer>} data */
function segment(data) {
  const view = new DataView(data.buffer);
  if (data.length < 4 || view.getUint16(0) !== SOI) return null;
  let at = 2;
  while (at + 10 <= data.length && data[at] === 0xff) {
    const marker = view.getUint16(at);
    const end = at + 2 + view.getUint16(at + 2);
    if (marker === SOS || end > data.length) return null;
    if (
      marker === APP1 &&
      new TextDecoder("latin1").decode(data.subarray(at + 4, at + 10)) === HEADER
    )
      return data.slice(at, end);
    at = end;
  }
  return null;
}

/** Orientation 1, no thumbnail (it would show the old photo); null where it can't be read.
 * @param {Uint8Array<ArrayBuffer>} exif */
function upright(exif) {
  const view = new DataView(exif.buffer, 10);
  try {
    const little = view.getUint16(0) === 0x4949;
    const first = view.getUint32(4, little);
    const count = view.getUint16(first, little);
    for (let i = 0; i < count; i++) {
      const entry = first + 2 + 12 * i;
      if (view.getUint16(entry, little) === ORIENTATION) view.setUint16(entry + 8, 1, little);
    }
    view.setUint32(first + 2 + 12 * count, 0, little); // the next directory is the thumbnail's
    return exif;
  } catch {
    return null;
  }
}
