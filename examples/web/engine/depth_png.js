/** A disparity map as a 16-bit grey PNG, as `argan depth` writes and `argan render` reads it. */

/** d = lo + v / 65535 (hi - lo).
 * @param {import("./resize.js").Plane} disparity @returns {Promise<Blob>} */
export async function encodeDepth({ data, height, width }) {
  let [lo, hi] = [Infinity, -Infinity];
  for (const d of data) {
    lo = Math.min(lo, d);
    hi = Math.max(hi, d);
  }
  const scale = hi > lo ? 65535 / (hi - lo) : 0;
  const lines = new DataView(new ArrayBuffer(height * (1 + 2 * width)));
  for (let y = 0, at = 0, i = 0; y < height; y++) {
    lines.setUint8(at++, 0); // no filter
    for (let x = 0; x < width; x++, i++, at += 2)
      lines.setUint16(at, Math.round((data[i] - lo) * scale));
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 16); // bits; grey, deflate, no interlace are 0
  const deflated = new Blob([lines]).stream().pipeThrough(new CompressionStream("deflate"));
  const texts = Object.entries({ lo: String(lo), hi: String(hi), units: "relative" });
  return new Blob(
    [
      Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10),
      chunk("IHDR", new Uint8Array(header.buffer)),
      ...texts.map(([name, value]) => chunk("tEXt", new TextEncoder().encode(`${name}\0${value}`))),
      chunk("IDAT", new Uint8Array(await new Response(deflated).arrayBuffer())),
      chunk("IEND", new Uint8Array()),
    ],
    { type: "image/png" },
  );
}

/** @param {string} name @param {Uint8Array} body */
function chunk(name, body) {
  const whole = new Uint8Array(12 + body.length);
  const view = new DataView(whole.buffer);
  view.setUint32(0, body.length);
  whole.set(new TextEncoder().encode(name), 4);
  whole.set(body, 8);
  view.setUint32(8 + body.length, crc(whole.subarray(4, 8 + body.length)));
  return whole;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** @param {Uint8Array} bytes */
function crc(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}
