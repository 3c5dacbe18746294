"""Files in and out: photos (JPEG, PNG, WebP, TIFF, AVIF; HEIC in) and disparity maps.

What a file is, its content says, not its name. Limits are checked before pixels are decoded. OpenCV
is slow to import and imported only where it is needed, as is all that a plain JPEG does not take.

A disparity PNG is 16-bit grey: d = lo + v / 65535 (hi - lo), with the numbers lo and hi in its text
chunks "lo" and "hi" (0 and 1 where absent).
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import math
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from argan import colour, planes
from argan.errors import Error, InputError
from argan.files import check_readable, write_atomic
from argan.metadata import settle_exif, settle_xmp, xmp_orientation

MAX_PIXELS = 150_000_000  # a 100 MP camera fits; a decompression bomb does not
MAX_PIXELS_PER_BYTE = 10_000  # Deflate's black comes to 1000, WebP's has no limit
UNSUSPICIOUS = 16_000_000  # pixels are soon decoded
SUFFIXES = {  # of photos that are written
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF",
    ".tiff": "TIFF", ".avif": "AVIF",
}  # fmt: skip
READ_SUFFIXES = (*SUFFIXES, ".heic", ".heif", ".hif")
SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "AVIF": ".avif"}
QUALITY = {"JPEG": 95, "WEBP": 95, "AVIF": 90}  # if not given; the rest is lossless
AVIF_SPEED = 8  # of 10: 6, Pillow's, takes twice as long for 5 % fewer bytes
MAP_SUFFIXES = (".npy", ".png")
ColorMap = Literal["inferno", "viridis"]

HEAD = 64  # bytes that say what a file is
PLUGINS = {"WEBP": "WebPImagePlugin", "TIFF": "TiffImagePlugin", "AVIF": "AvifImagePlugin"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}
STRIP = 128  # rows copied at once
MAX_JPEG_SEGMENT = 65533
ORIENTATION = 0x0112  # EXIF tag
# From pixels as stored to upright pixels, by the value of the tag.
UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


class UnknownFormat(InputError):
    """A file that is no photo of a format that can be read."""


class TooManyPixels(InputError):
    """A photo above the limit. Nothing of it was decoded."""


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """An upright photo as it was stored.

    pixels  [H, W, 3] uint8, uint16 or float32, in the colour space of `icc`; where that is None,
            sRGB, in float32 linear light of its primaries, which may go beyond 1
    alpha   [H, W] of the same dtype, or None
    icc     colour profile, or None
    exif    EXIF block with its orientation reset, or None
    format  "JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF" or, made in memory, ""
    xmp     XMP packet with its orientation reset, or None
    several whether the file holds further pictures, which are not read
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    format: str = ""
    xmp: bytes | None = None
    several: bool = False

    @property
    def space(self) -> colour.Space:
        linear = self.icc is None and self.pixels.dtype.kind == "f"
        return colour.LINEAR if linear else colour.read(self.icc)

    def save(
        self, path: str | os.PathLike[str], quality: int | None = None, bits: int | None = None
    ) -> None:
        """See `argan.photo.save`."""
        save(path, self, quality, bits)


# ---------------------------------------------------------------- in


def load(path: str | os.PathLike[str]) -> Photo:
    """Read a photo file, turned upright. MissingFileError; UnknownFormat, TooManyPixels (of more
    than MAX_PIXELS), or else InputError for one that is damaged or cut short; MissingExtraError for
    HEIC without the extra `heif`."""
    path = Path(path)
    check_readable(path, "a photo")
    with path.open("rb") as file:
        return _decode(file, str(path), MAX_PIXELS)


def decode(data: bytes, name: str = "the photo", max_pixels: int | None = None) -> Photo:
    """`load` for the bytes of a file; `name` is what errors call it."""
    return _decode(io.BytesIO(data), name, MAX_PIXELS if max_pixels is None else max_pixels)


def find_format(head: bytes) -> str | None:
    """"JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF" or None, by the first HEAD bytes of a file."""
    if head.startswith(b"\xff\xd8"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[4:8] == b"ftyp":
        major, length = head[8:12], int.from_bytes(head[:4])
        others = {head[at : at + 4] for at in range(16, min(length, len(head)), 4)}
        if major in AVIF_BRANDS or (major in (b"mif1", b"msf1") and others & AVIF_BRANDS):
            return "AVIF"
        if major in HEIC_BRANDS:
            return "HEIF"
    return None


def _decode(file: IO[bytes], name: str, most: int) -> Photo:
    kind = find_format(file.read(HEAD))
    if kind is None:
        raise UnknownFormat(
            f"{name} is not a JPEG, PNG, WebP, TIFF, HEIC or AVIF photo; convert it to one of these"
        )
    if kind == "AVIF":
        _check_avif()
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters in a file is decided here
            if kind == "HEIF":
                from argan import heif

                return heif.decode(file.read(heif.MAX_BYTES + 1), name, most)
            if kind == "TIFF":
                return _decode_tiff(file, name, most)
            return _decode_plain(file, kind, name, most)
    except Error:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, most) from error
    except UnidentifiedImageError as error:
        told = f"no sound {kind} header"
        raise InputError(f"{name} is damaged or cut short ({told}); get it again") from error
    except Exception as error:  # the readers raise many kinds on a damaged file
        told = " ".join(str(error).split())
        raise InputError(f"{name} is damaged or cut short ({told}); get it again") from error


def _check_avif() -> None:
    from PIL import features

    if not features.check("avif"):
        raise InputError("this Pillow has no AVIF; run: pip install --upgrade pillow")


def _decode_plain(file: IO[bytes], kind: str, name: str, most: int) -> Photo:
    deep = kind == "PNG" and _is_16_bit_png(file)
    if kind in PLUGINS:  # Pillow would look for it among all that it has
        importlib.import_module(f"PIL.{PLUGINS[kind]}")
    with Image.open(file, formats=[kind]) as image:
        check_pixels(image.size, name, most, file)
        image.load()
        # Pillow brings 16-bit colour down to 8; OpenCV keeps it, but may accept a file cut short,
        # so it reads only what Pillow has read to its end.
        return from_file(image, kind, _deep_png_colours(image, file) if deep else _colours(image))


def _decode_tiff(file: IO[bytes], name: str, most: int) -> Photo:
    from argan import tiff

    try:
        directory = tiff.read_directory(file)
    except InputError as error:
        raise InputError(f"{name} can't be read: {error}") from error
    check_pixels((directory.width, directory.height), name, most, file)
    file.seek(0)
    if directory.deep:
        colours = _deep_colours(tiff.decode(file.read(), directory), directory.icc)
        if directory.premultiplied:
            colours = _unmultiplied(colours)
        if not np.isfinite(colours[0]).all():
            raise InputError(f"{name} holds NaN or infinity; fill those pixels first")
    else:
        importlib.import_module(f"PIL.{PLUGINS['TIFF']}")
        with Image.open(file, formats=["TIFF"]) as image:
            image.load()  # turns it upright
            colours = _colours(image)
    xmp = settle_xmp(directory.xmp) if directory.xmp else None
    return Photo(*colours, directory.exif, "TIFF", xmp, directory.several)


def check_pixels(
    size: tuple[int, int], name: str, most: int, file: IO[bytes] | None = None
) -> None:
    """Raise TooManyPixels, or InputError where there are too few bytes for so many."""
    pixels = size[0] * size[1]
    if pixels > most:
        raise _too_large(name, most)
    if file is not None and pixels > UNSUSPICIOUS:
        at, length = file.tell(), file.seek(0, io.SEEK_END)
        file.seek(at)
        if pixels > length * MAX_PIXELS_PER_BYTE:
            raise InputError(
                f"{name} claims {pixels / 1e6:.0f} million pixels in {length} bytes, which no photo"
                " has; get it again"
            )


def _too_large(name: str, most: int) -> TooManyPixels:
    return TooManyPixels(
        f"{name} has more than {most / 1e6:g} million pixels; make it smaller first"
    )


def _is_16_bit_png(file: IO[bytes]) -> bool:
    head = file.read(25)
    file.seek(0)
    return head[24:] == b"\x10"


Colours = tuple[NDArray[Any], NDArray[Any] | None, bytes | None]  # pixels, alpha, ICC profile


def from_pil(image: Image.Image) -> Photo:
    """A Pillow image of any 8-bit mode -> Photo, turned upright."""
    try:
        exif = image.getexif()  # it may have been changed since the file was read
        block = exif.tobytes() if len(exif) else None
    except Exception:  # a damaged EXIF block is no reason to refuse the photo
        block = None
    return _upright(image, image.format or "", _colours(image), block)


def from_file(image: Image.Image, kind: str, colours: Colours | None = None) -> Photo:
    """A picture that Pillow has just read, with its metadata byte for byte -> Photo."""
    block = image.info.get("exif")
    if block is None and "Raw profile type exif" in image.info:  # a PNG of ImageMagick
        try:
            block = image.getexif().tobytes()
        except Exception:  # as in `from_pil`
            block = None
    return _upright(image, kind, _colours(image) if colours is None else colours, block)


def _upright(image: Image.Image, kind: str, colours: Colours, block: bytes | None) -> Photo:
    orientation, exif = settle_exif(block) if block else (None, None)
    packet = image.info.get("xmp")
    packet = packet.encode() if isinstance(packet, str) else packet
    if packet and orientation is None and kind not in ("AVIF", "HEIF"):  # these turn by boxes
        orientation = xmp_orientation(packet)
    turn = UPRIGHT.get(orientation) if orientation else None
    pixels, alpha, icc = colours
    if turn:
        pixels = np.ascontiguousarray(turn(pixels))
        alpha = None if alpha is None else np.ascontiguousarray(turn(alpha))
    # What follows the first picture in a JPEG is a preview, a gain map or a depth map.
    several = image.format != "MPO" and getattr(image, "is_animated", False)
    kind = "JPEG" if kind == "MPO" else kind
    return Photo(pixels, alpha, icc, exif, kind, settle_xmp(packet) if packet else None, several)


def _colours(image: Image.Image) -> Colours:
    icc = image.info.get("icc_profile") or None
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise InputError(f"a picture of mode {image.mode} has no colours; convert it to RGB")
    alpha = None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = np.array(rgba.getchannel("A"))
        image = image.convert("L") if image.mode in ("L", "LA") else rgba
    if image.mode in ("1", "L", "CMYK", "LAB"):  # the profile is not of RGB: it ends here
        image, icc = _to_srgb(image, icc), None
    return _pixels(image if image.mode == "RGB" else image.convert("RGB")), alpha, icc


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """An RGB image -> [H, W, 3], in strips: Pillow's way there makes three copies."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, STRIP):
        bottom = min(top + STRIP, height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return pixels


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    if image.mode == "1" or (icc is None and image.mode != "LAB"):
        return image
    lab = image.mode == "LAB"
    try:
        source = ImageCms.createProfile("LAB") if lab else io.BytesIO(icc or b"")
        return ImageCms.profileToProfile(  # type: ignore[return-value]
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):  # a profile that does not fit counts as none
        return image


def _deep_png_colours(image: Image.Image, file: IO[bytes]) -> Colours:
    import cv2

    image.thumbnail((1, 1), Image.Resampling.NEAREST)  # what it has read is not needed: memory
    stored = cv2.imdecode(np.frombuffer(_bare_png(file), np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16:
        raise ValueError("16-bit pixels that OpenCV can't read")
    return _deep_colours(rgb_of(stored), image.info.get("icc_profile") or None)


def rgb_of(stored: NDArray[Any]) -> NDArray[Any]:
    """OpenCV's BGR or BGRA [H, W, 3 or 4] as RGB or RGBA, in its place; grey as it is."""
    if stored.ndim == 3:
        for rows in stored:
            rows[:, :3] = rows[:, 2::-1]
    return stored


def _deep_colours(stored: NDArray[Any], icc: bytes | None) -> Colours:
    """Grey [H, W], RGB or RGBA [H, W, 3 or 4] of uint16 or a float -> its colours."""
    if stored.dtype.kind == "f":
        with np.errstate(over="ignore"):
            stored = stored.astype(np.float32, copy=False)
    if stored.ndim == 2:
        grey = np.repeat(stored[..., None], 3, axis=2)
        if grey.dtype == np.uint16:
            grey, _ = colour.read_grey(icc).enter(grey)
        return grey, None, None
    alpha = stored[..., 3].copy() if stored.shape[2] == 4 else None
    return np.ascontiguousarray(stored[..., :3]), alpha, icc


def _unmultiplied(colours: Colours) -> Colours:
    """Pixels that were stored times alpha."""
    pixels, alpha, icc = colours
    if alpha is None:
        return colours
    top = 1.0 if pixels.dtype.kind == "f" else float(np.iinfo(pixels.dtype).max)
    factor = top / np.maximum(alpha, np.finfo(np.float32).tiny).astype(np.float64)
    straight = np.where(alpha[..., None] > 0, pixels * factor[..., None], 0)
    if pixels.dtype.kind != "f":
        straight = np.rint(np.minimum(straight, top))
    return straight.astype(pixels.dtype), alpha, icc


def _bare_png(file: IO[bytes]) -> bytearray:
    """A PNG's pixels alone, with sound checksums: of all else libpng prints complaints."""
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    kept = bytearray(file.read(8))
    while len(head := file.read(8)) == 8:
        size, name = int.from_bytes(head[:4]) + 4, head[4:]
        if name not in (b"IHDR", b"tRNS", b"IDAT", b"IEND"):
            file.seek(size, io.SEEK_CUR)
            continue
        body = memoryview(file.read(min(size, length)))
        if zlib.crc32(body[:-4], zlib.crc32(name)) != int.from_bytes(body[-4:]):
            raise ValueError("a checksum is wrong")
        kept += head
        kept += body
    return kept


# ---------------------------------------------------------------- out


def to_pil(photo: Photo) -> Image.Image:
    """An 8-bit Pillow image, RGB or RGBA, with profile, EXIF and XMP in its `info`."""
    pixels = _to_bits(photo, 8)
    if photo.alpha is not None:
        pixels = np.dstack([pixels, _whole(photo.alpha, 8)])
    image = Image.fromarray(pixels)
    blocks = {"icc_profile": photo.icc, "exif": photo.exif, "xmp": photo.xmp}
    image.info.update({name: block for name, block in blocks.items() if block is not None})
    return image


def to_16_bits(photo: Photo) -> Photo:
    """A photo of 8 bits as one of 16, so that its blur gets finer steps; others as they are."""
    if photo.pixels.dtype != np.uint8:
        return photo
    alpha = None if photo.alpha is None else _whole(photo.alpha, 16)
    return dataclasses.replace(photo, pixels=_whole(photo.pixels, 16), alpha=alpha)


def _to_bits(photo: Photo, bits: int) -> NDArray[Any]:
    """The pixels as whole numbers."""
    pixels = photo.pixels
    if pixels.dtype.kind == "f" and photo.icc is None:  # light, but numbers are written in sRGB
        pixels = np.asarray(colour.SRGB.encode(np.clip(pixels, 0, 1)), np.float32)
    return _whole(pixels, bits)


def _whole(values: NDArray[Any], bits: int) -> NDArray[Any]:
    if values.dtype.kind == "f":
        top = (1 << bits) - 1
        codes = np.rint(np.clip(values, 0, 1) * top)
        return np.asarray(codes, np.uint8 if bits == 8 else np.uint16)
    if values.dtype == np.uint16 and bits == 8:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.dtype == np.uint8 and bits == 16:
        return values.astype(np.uint16) * np.uint16(257)
    return values


def check_photo_suffix(path: Path) -> None:
    """Raise InputError unless `save` can write a file of that name."""
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InputError(
            f"{path} has no ending that can be written; use .jpg, .png, .webp, .tif or .avif"
        )
    if kind == "AVIF":
        _check_avif()


def check_output(kind: str, quality: int | None, bits: int | None) -> None:
    """Raise InputError unless `encode` can do that for a photo that fits."""
    if quality is not None and kind not in QUALITY:
        raise InputError(f"{SUFFIX[kind]} is lossless: give no quality, or use .jpg, .webp, .avif")
    if quality is not None and not 1 <= quality <= 100:
        raise InputError(f"quality {quality}: give 1 to 100")
    if bits not in (None, 8, 16):
        raise InputError(f"{bits} bits: give 8 or 16")
    if bits == 16 and kind in QUALITY:
        raise InputError(f"{SUFFIX[kind]} holds 8 bits; use .png or .tif for 16")


def save(
    path: str | os.PathLike[str],
    photo: Photo,
    quality: int | None = None,
    bits: int | None = None,
) -> None:
    """Write what `encode` makes, in the format that the name says, whole or not at all."""
    path = Path(path)
    check_photo_suffix(path)
    try:
        data = encode(photo, SUFFIXES[path.suffix.lower()], quality, bits)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    write_atomic(path, data)


def encode(
    photo: Photo, kind: str, quality: int | None = None, bits: int | None = None
) -> bytes:
    """The bytes of a file, with profile, EXIF and XMP.

    kind     "JPEG", "PNG", "WEBP", "TIFF" or "AVIF". JPEG has no alpha: what was transparent
             becomes white
    quality  1 to 100 of the lossy ones; QUALITY if not given
    bits     8 or 16 per channel; as the photo if not given, where the format can: 16 in PNG and
             TIFF, float32 in TIFF, else 8
    """
    check_output(kind, quality, bits)
    deep = bits == 16 or (bits is None and photo.pixels.dtype != np.uint8)
    try:
        if kind == "TIFF":
            return _encode_tiff(photo, bits)
        if kind == "PNG" and deep:
            return _encode_deep_png(photo)
        return _encode(to_pil(photo), kind, photo, quality)
    except (OSError, ValueError, struct.error) as error:  # a side of 65500 (JPEG), 16383 (WebP) ...
        raise InputError(f"{SUFFIX[kind]} can't hold this photo ({error}); use .png") from error


def _encode(image: Image.Image, kind: str, photo: Photo, quality: int | None) -> bytes:
    options: dict[str, Any] = {"exif": photo.exif or b"", "icc_profile": photo.icc}
    if kind in QUALITY:
        options |= {"quality": quality or QUALITY[kind], "xmp": photo.xmp or b""}
    if kind == "JPEG":
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
        for block, own in (("exif", 0), ("xmp", 29)):
            if len(options[block]) + own > MAX_JPEG_SEGMENT:
                options[block] = b""
        options |= {"subsampling": 0}
    if kind == "WEBP":
        options |= {"exact": True}
    if kind == "AVIF":
        options |= {"subsampling": "4:4:4", "speed": AVIF_SPEED}
    if kind == "PNG" and photo.xmp:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", photo.xmp.decode())
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _encode_tiff(photo: Photo, bits: int | None) -> bytes:
    from argan import tiff

    pixels, alpha = photo.pixels, photo.alpha
    if bits is not None:
        pixels = _to_bits(photo, bits)
        alpha = None if alpha is None else _whole(alpha, bits)
    return tiff.encode(pixels, alpha, photo.icc, photo.exif, photo.xmp)


def _encode_deep_png(photo: Photo) -> bytes:
    """Pillow writes no 16-bit colour and OpenCV no profile: OpenCV's file, chunks added."""
    import cv2

    layers = _to_bits(photo, 16)[..., ::-1]
    if photo.alpha is not None:
        layers = np.dstack([layers, _whole(photo.alpha, 16)])
    data = cv2.imencode(".png", layers)[1].ravel().data
    extra = b""
    if photo.icc:
        extra += _png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(photo.icc))
    if photo.exif:
        extra += _png_chunk(b"eXIf", photo.exif.removeprefix(b"Exif\0\0"))
    if photo.xmp:
        extra += _png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + photo.xmp)
    header = 8 + 25  # signature and IHDR, which comes first
    return b"".join([data[:header], extra, data[header:]])


def _png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


# ---------------------------------------------------------------- disparity maps


def load_disparity(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read a map [H, W], larger = nearer, from .npy or a 16-bit grey PNG. InputError where it is
    neither, or holds NaN or infinity."""
    path = Path(path)
    check_readable(path, "a disparity map (.npy or 16-bit .png)")
    check_map_suffix(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disparity = _read_npy(path) if path.suffix.lower() == ".npy" else _read_map_png(path)
    if not planes.extremes(disparity)[2]:
        raise InputError(f"{path} holds NaN or infinity; fill those pixels first")
    return disparity


def check_map_suffix(path: Path) -> None:
    """Raise InputError unless a disparity map can have that name."""
    if path.suffix.lower() not in MAP_SUFFIXES:
        raise InputError(f"{path} has no ending of a disparity map; use .npy or .png")


def _read_npy(path: Path) -> NDArray[np.float32]:
    try:
        # Mapped, so that the shape is checked against the file's size before memory is taken.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # as in `load`
        raise InputError(f"{path} is not a .npy array; write it with numpy.save") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim != 2:
        raise InputError(f"{path} holds no [H, W] array of numbers; save one map per file")
    if not 0 < array.size <= MAX_PIXELS:
        raise InputError(f"{path} has shape {array.shape}; give 1 to {MAX_PIXELS} pixels")
    if array.dtype == np.float32:
        del array
        return np.asarray(np.load(path, allow_pickle=False), np.float32, order="C")
    return np.array(array, np.float32)  # float64 out of its range becomes infinity


def _read_map_png(path: Path) -> NDArray[np.float32]:
    wanted = f"{path} is not a 16-bit grey PNG; write one with: argan depth PHOTO -o {path.name}"
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(str(path), MAX_PIXELS)
            if image.mode != "I;16":
                raise InputError(wanted)
            values = np.array(image, np.float32)
            text: dict[str, str] = getattr(image, "text", {})
            lo, hi = float(text.get("lo", 0)), float(text.get("hi", 1))
    except InputError:
        raise
    except Exception as error:  # as in `load`
        raise InputError(wanted) from error
    return (lo + values / np.float32(65535) * (hi - lo)).astype(np.float32)


def save_disparity(
    path: str | os.PathLike[str],
    disparity: NDArray[Any],
    colormap: ColorMap | None = None,
    units: str | None = None,
) -> None:
    """Write what `encode_disparity` makes."""
    path = Path(path)
    check_map_suffix(path)
    kind = "npy" if path.suffix.lower() == ".npy" else "png"
    try:
        data = encode_disparity(disparity, kind, colormap, units)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    write_atomic(path, data)


def encode_disparity(
    disparity: NDArray[Any],
    kind: str,
    colormap: ColorMap | None = None,
    units: str | None = None,
) -> bytes:
    """A map [H, W] as "npy" (float32), as 16-bit "png", with `units` in a text chunk, or, to look
    at, as colours in a "png"."""
    buffer = io.BytesIO()
    if kind == "npy":
        if colormap:
            raise InputError("a colour map is a picture; use .png")
        np.save(buffer, disparity.astype(np.float32), allow_pickle=False)
    elif colormap:
        Image.fromarray(to_colours(disparity, colormap)).save(buffer, "PNG")
    else:
        values, lo, hi = _spread(disparity, 65535)
        text = PngImagePlugin.PngInfo()
        for name, value in {"lo": repr(lo), "hi": repr(hi), "units": units}.items():
            if value:
                text.add_text(name, value)
        Image.fromarray(values.astype(np.uint16)).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def to_colours(disparity: NDArray[Any], colormap: ColorMap = "inferno") -> NDArray[np.uint8]:
    """A map [H, W] from its least to its largest value as sRGB uint8 [H, W, 3]; bright = near."""
    import cv2

    values, _, _ = _spread(disparity, 255)
    maps = {"inferno": cv2.COLORMAP_INFERNO, "viridis": cv2.COLORMAP_VIRIDIS}
    bgr = cv2.applyColorMap(values.astype(np.uint8), maps[colormap])
    return np.ascontiguousarray(bgr[..., ::-1]).astype(np.uint8)


def _spread(disparity: NDArray[Any], top: int) -> tuple[NDArray[Any], float, float]:
    """Values 0 to `top`, rounded, and the disparities (lo, hi) that the two ends stand for."""
    lo, hi = float(disparity.min()), float(disparity.max())
    if not math.isfinite(lo + hi):
        raise InputError("the disparity holds NaN or infinity")
    values = np.rint((disparity.astype(np.float64) - lo) * (top / (hi - lo) if hi > lo else 0.0))
    return values, lo, hi
