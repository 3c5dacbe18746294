"""Files in and out: photos (JPEG, PNG, WebP) and disparity maps (.npy, 16-bit PNG).

OpenCV is slow to import and imported only where it is needed.

A disparity PNG is 16-bit grey: d = lo + v / 65535 (hi - lo), with the numbers lo and hi in its text
chunks "lo" and "hi" (0 and 1 where absent).
"""

from __future__ import annotations

import dataclasses
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

from argan import planes
from argan.errors import InputError
from argan.files import check_readable, write_atomic

MAX_PIXELS = 150_000_000  # a 100 MP camera fits; a decompression bomb does not
SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
MAP_SUFFIXES = (".npy", ".png")
ColorMap = Literal["inferno", "viridis"]

STRIP_BYTES = 120_000  # copied at once: memory of more is new each time, and costs page faults
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


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """An upright photo as it was stored.

    pixels  [H, W, 3] uint8 or uint16, in the colour space of `icc`, sRGB where that is None
    alpha   [H, W] of the same dtype, or None
    icc     colour profile, or None
    exif    EXIF block with its orientation reset, or None
    format  "JPEG", "PNG", "WEBP" or, made in memory, ""
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    format: str = ""

    def save(self, path: str | os.PathLike[str]) -> None:
        """See `argan.photo.save`."""
        save(path, self)


def load(path: str | os.PathLike[str]) -> Photo:
    """Read a JPEG, PNG or WebP file, turned upright. MissingFileError, or InputError for a file
    that is no photo, is cut short, or holds more than MAX_PIXELS."""
    path = Path(path)
    check_readable(path, "a photo")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters in a file is decided here
            return _decode(path, file)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path} is not a JPEG, PNG or WebP photo; convert it to one of these"
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(_too_large(path)) from error
    except Exception as error:  # Pillow's readers raise many kinds on a damaged file
        raise InputError(f"{path} is damaged or cut short ({error}); get it again") from error


def _decode(path: Path, file: IO[bytes]) -> Photo:
    deep = _is_16_bit_png(file)
    with Image.open(file, formats=sorted(set(SUFFIXES.values()))) as image:
        if image.width * image.height > MAX_PIXELS:
            raise InputError(_too_large(path))
        image.load()
        # Pillow brings 16-bit colour down to 8; OpenCV keeps it, but may accept a file cut short,
        # so it reads only what Pillow has read to its end.
        return _upright(image, _deep_colours(image, file) if deep else _colours(image))


def _too_large(path: Path) -> str:
    return f"{path} has more than {MAX_PIXELS // 1_000_000} million pixels; make it smaller first"


def _is_16_bit_png(file: IO[bytes]) -> bool:
    head = file.read(25)
    file.seek(0)
    return head.startswith(b"\x89PNG") and head[24:] == b"\x10"


Colours = tuple[NDArray[Any], NDArray[Any] | None, bytes | None]  # pixels, alpha, ICC profile


def from_pil(image: Image.Image) -> Photo:
    """A Pillow image of any 8-bit mode -> Photo, turned upright."""
    return _upright(image, _colours(image))


def _upright(image: Image.Image, colours: Colours) -> Photo:
    try:
        exif = image.getexif()
        orientation = exif.get(ORIENTATION)
        if orientation is not None:
            exif[ORIENTATION] = 1
        block = exif.tobytes() if len(exif) else None
    except Exception:  # a damaged EXIF block is no reason to refuse the photo
        orientation, block = None, None
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    pixels, alpha, icc = colours
    if turn:
        pixels = np.ascontiguousarray(turn(pixels))
        alpha = None if alpha is None else np.ascontiguousarray(turn(alpha))
    return Photo(pixels, alpha, icc, block, "JPEG" if image.format == "MPO" else image.format or "")


def _colours(image: Image.Image) -> Colours:
    icc = image.info.get("icc_profile") or None
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise InputError(f"a picture of mode {image.mode} has no colours; convert it to RGB")
    alpha = None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha = np.array(rgba.getchannel("A"))
        image = image.convert("L") if image.mode in ("L", "LA") else rgba
    if image.mode in ("1", "L", "CMYK"):  # the profile is one of grey or ink: it ends here
        image, icc = _to_srgb(image, icc), None
    return _pixels(image if image.mode == "RGB" else image.convert("RGB")), alpha, icc


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """An RGB image -> [H, W, 3], in strips: Pillow's way there makes three copies."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, STRIP_BYTES // (4 * width))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return pixels


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    if icc is None or image.mode == "1":
        return image
    try:
        return ImageCms.profileToProfile(  # type: ignore[return-value]
            image, io.BytesIO(icc), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):  # a profile that does not fit counts as none
        return image


def _deep_colours(image: Image.Image, file: IO[bytes]) -> Colours:
    import cv2

    file.seek(0)
    bare = np.frombuffer(_bare_png(file.read()), np.uint8)
    stored = cv2.imdecode(bare, cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16:
        raise ValueError("16-bit pixels that OpenCV can't read")
    if stored.ndim == 2:
        return np.repeat(stored[..., None], 3, axis=2), None, None
    alpha = stored[..., 3].copy() if stored.shape[2] == 4 else None
    return np.ascontiguousarray(stored[..., 2::-1]), alpha, image.info.get("icc_profile") or None


def _bare_png(data: bytes) -> bytes:
    """A PNG's pixels alone, with sound checksums: of all else libpng prints complaints."""
    kept, at = data[:8], 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : end - 4]
        if name in (b"IHDR", b"tRNS", b"IDAT", b"IEND"):
            if _png_chunk(name, body) != data[at:end]:
                raise ValueError("a checksum is wrong")
            kept += data[at:end]
        at = end
    return kept


def to_pil(photo: Photo) -> Image.Image:
    """An 8-bit Pillow image, RGB or RGBA, with profile and EXIF in its `info`."""
    pixels = _to_8_bit(photo.pixels)
    if photo.alpha is not None:
        pixels = np.dstack([pixels, _to_8_bit(photo.alpha)])
    image = Image.fromarray(pixels)
    image.info.update(
        {k: v for k, v in (("icc_profile", photo.icc), ("exif", photo.exif)) if v is not None}
    )
    return image


def _to_8_bit(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values


def check_photo_suffix(path: Path) -> None:
    """Raise InputError unless `save` can write a file of that name."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} has no ending that can be written; use .jpg, .png or .webp")


def save(path: str | os.PathLike[str], photo: Photo) -> None:
    """Write .jpg (quality 95), .png (16 bit stay 16) or .webp, whole or not at all, with profile
    and EXIF. JPEG has no alpha: what was transparent becomes white."""
    path = Path(path)
    check_photo_suffix(path)
    kind = SUFFIXES[path.suffix.lower()]
    if kind == "PNG" and photo.pixels.dtype == np.uint16:
        data = _encode_deep_png(photo)
    else:
        try:
            data = _encode(to_pil(photo), kind, photo)
        except (OSError, ValueError) as error:  # a side of 65500 (JPEG) or 16383 (WebP) and more
            raise InputError(f"{path} can't hold this photo ({error}); use .png") from error
    write_atomic(path, data)


def _encode(image: Image.Image, kind: str, photo: Photo) -> bytes:
    options: dict[str, Any] = {"exif": photo.exif or b"", "icc_profile": photo.icc}
    if kind == "JPEG":
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
        if len(options["exif"]) > 65533:  # a JPEG segment ends there
            options["exif"] = b""
        options |= {"quality": 95, "subsampling": 0}
    if kind == "WEBP":
        options |= {"quality": 95, "exact": True}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _encode_deep_png(photo: Photo) -> bytes:
    """Pillow writes no 16-bit colour and OpenCV no profile: OpenCV's file, two chunks added."""
    import cv2

    layers = photo.pixels[..., ::-1]
    if photo.alpha is not None:
        layers = np.dstack([layers, photo.alpha])
    data = cv2.imencode(".png", layers)[1].tobytes()
    extra = b""
    if photo.icc:
        extra += _png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(photo.icc))
    if photo.exif:
        extra += _png_chunk(b"eXIf", photo.exif.removeprefix(b"Exif\0\0"))
    header = 8 + 25  # signature and IHDR, which comes first
    return data[:header] + extra + data[header:]


def _png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


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
                raise InputError(_too_large(path))
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
    path: str | os.PathLike[str], disparity: NDArray[Any], colormap: ColorMap | None = None
) -> None:
    """Write a map [H, W] as .npy (float32), as 16-bit PNG, or, to look at, as colours in a PNG."""
    path = Path(path)
    check_map_suffix(path)
    buffer = io.BytesIO()
    if path.suffix.lower() == ".npy":
        if colormap:
            raise InputError(f"{path}: a colour map is a picture; use .png")
        np.save(buffer, disparity.astype(np.float32), allow_pickle=False)
    elif colormap:
        Image.fromarray(to_colours(disparity, colormap)).save(buffer, "PNG")
    else:
        values, lo, hi = _spread(disparity, 65535)
        text = PngImagePlugin.PngInfo()
        text.add_text("lo", repr(lo))
        text.add_text("hi", repr(hi))
        Image.fromarray(values.astype(np.uint16)).save(buffer, "PNG", pnginfo=text)
    write_atomic(path, buffer.getvalue())


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
