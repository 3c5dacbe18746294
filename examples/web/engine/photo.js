/** Pictures in and out: the browser's own decoders and encoders. */

/** sRGB as RGBA bytes.
 * @typedef {{pixels: Uint8ClampedArray, height: number, width: number}} Photo */

export class PhotoError extends Error {}

const MOST_PX = 64e6; // RGBA of it is 256 MB
const MOST_BYTES = 200e6;
const JPEG_QUALITY = 0.95;
const HEIC = /^ftyp(heic|heix|hevc|mif1|msf1)/;

/** @param {number} count */
const millions = (count) => Math.round(count / 1e6);

/** Upright, in sRGB, on white. @param {Blob} file @returns {Promise<Photo>} */
export async function decode(file) {
  if (file.size > MOST_BYTES)
    throw new PhotoError(
      `This file has ${millions(file.size)} MB. Choose one of at most ${millions(MOST_BYTES)} MB.`,
    );
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    const start = await file.slice(4, 12).text();
    throw new PhotoError(
      HEIC.test(start)
        ? "This browser can't read HEIC. Open a JPEG, or use Safari."
        : "This file is not a photo that the browser can read. Choose a JPEG, PNG or WebP.",
    );
  }
  const { height, width } = bitmap;
  if (height * width > MOST_PX) {
    bitmap.close();
    throw new PhotoError(
      `This photo has ${millions(height * width)} megapixels. Choose one of at most ${millions(MOST_PX)}.`,
    );
  }
  const context = canvas({ height, width });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { pixels: context.getImageData(0, 0, width, height).data, height, width };
}

/** @param {Photo} photo @param {"jpeg" | "png"} format @returns {Promise<Blob>} */
export function encode(photo, format) {
  const context = canvas(photo);
  context.putImageData(imageData(photo), 0, 0);
  return context.canvas.convertToBlob({ type: `image/${format}`, quality: JPEG_QUALITY });
}

/** For the page to show. @param {Photo} photo */
export const bitmapOf = (photo) => createImageBitmap(imageData(photo));

/** @param {Photo} photo */
const imageData = ({ pixels, height, width }) =>
  new ImageData(/** @type {Uint8ClampedArray<ArrayBuffer>} */ (pixels), width, height);

/** @param {{height: number, width: number}} size */
function canvas({ height, width }) {
  const context = new OffscreenCanvas(width, height).getContext("2d", {
    alpha: false,
    willReadFrequently: true,
  });
  if (!context)
    throw new PhotoError(
      "This browser has no memory left for the photo. Close other pages, or choose a smaller one.",
    );
  return context;
}
