"""TIFF files with more than 8 bits: Pillow reads and writes none in colour.

OpenCV decodes, after the limits have been checked here; what is written is Deflate in strips (TIFF
6.0, and Adobe's Technical Note 3 for floats), its directory made by Pillow.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from argan.errors import InputError
from argan.photo import rgb_of

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 277, 278, 279
PLANAR, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 284, 317, 322, 323, 324, 325
EXTRA, FORMAT, XMP, ICC, EXIF_IFD, GPS_IFD, INTEROP_IFD = 338, 339, 700, 34675, 34665, 34853, 40965
ORIENTATION = 274
# Of EXIF's first directory: description, make, model, orientation, resolution and its unit,
# software, date, artist, rating, copyright, Windows' title to subject.
KEPT = (
    270, 271, 272, ORIENTATION, 282, 283, 296, 305, 306, 315, 18246, 33432, *range(40091, 40096)
)  # fmt: skip

FLOAT = 3  # sample format
BLACK_IS_ZERO, RGB = 1, 2  # photometric
PREMULTIPLIED, STRAIGHT = 1, 2  # extra sample
MAX_SAMPLES = 8
MAX_TILE = 4096  # px of a side, for a small picture
STRIP = 64  # rows
COMPRESSIONS = (1, 5, 8, 32773, 32946)  # none, LZW, Deflate, PackBits, Deflate as it once was
ADVICE = "save it anew as RGB of 8 or 16 bits or float32, with LZW or Deflate"
DEFLATE, BY_DIFFERENCE = 8, 2


class Directory(NamedTuple):
    """What a TIFF file's first directory says. `deep`: more than 8 bits, which OpenCV reads."""

    width: int
    height: int
    samples: int
    deep: bool
    premultiplied: bool
    orientation: int
    several: bool
    icc: bytes | None
    xmp: bytes | None
    exif: bytes | None


def read_directory(file: IO[bytes]) -> Directory:
    """ValueError where there is none that makes sense, InputError for kinds of TIFF that can't be
    read. Nothing is decoded."""
    ifd, head = _load(file)
    width, height = _whole(ifd, WIDTH), _whole(ifd, HEIGHT)
    samples, kind = _whole(ifd, SAMPLES, 1), _whole(ifd, FORMAT, 1)
    bits = _whole(ifd, BITS, 1)
    if not (width > 0 and height > 0 and 0 < samples <= MAX_SAMPLES):
        raise ValueError(f"a picture of {width}x{height} with {samples} samples")
    across, down = _whole(ifd, TILE_WIDTH, 0), _whole(ifd, TILE_HEIGHT, 0)
    if across * down > max(MAX_TILE**2, 4 * width * height):
        raise ValueError(f"tiles of {across}x{down}")
    photometric = _whole(ifd, PHOTOMETRIC, 0)
    deep = bits > 8 and photometric in (0, BLACK_IS_ZERO, RGB)
    if deep:
        _check_kind(ifd, photometric, samples, bits, kind)
        _check_places(ifd, file)
    elif bits > 16 or kind == FLOAT:
        raise InputError(f"samples of {bits} bits that are not RGB; {ADVICE}")
    icc, packet = ifd.get(ICC), ifd.get(XMP)
    return Directory(
        width, height, samples, deep, _whole(ifd, EXTRA, 0) == PREMULTIPLIED,
        _whole(ifd, ORIENTATION, 1), ifd.next != 0,
        icc if isinstance(icc, bytes) else None, packet if isinstance(packet, bytes) else None,
        _exif(ifd, head, file),
    )  # fmt: skip


def _load(file: IO[bytes]) -> tuple[Any, bytes]:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file.seek(0)
    head = file.read(8)
    if 43 in head[2:4]:  # BigTIFF
        head += file.read(8)
    ifd = ImageFileDirectory_v2(head)
    file.seek(ifd.next)
    ifd.load(file)
    return ifd, head


def _whole(ifd: Any, tag: int, otherwise: int | None = None) -> int:
    value = ifd.get(tag, otherwise)
    first = value[0] if isinstance(value, tuple) and value else value
    if not isinstance(first, int):
        raise ValueError(f"no number for tag {tag}")
    if tag in (BITS, FORMAT) and isinstance(value, tuple) and set(value) != {first}:
        raise ValueError("samples that differ")
    return first


def _check_kind(ifd: Any, photometric: int, samples: int, bits: int, kind: int) -> None:
    """What OpenCV reads, and reads rightly."""
    compression = _whole(ifd, COMPRESSION, 1)
    if (bits, kind) not in ((16, 1), (32, FLOAT), (64, FLOAT)):
        raise InputError(f"samples of {bits} bits and format {kind}; {ADVICE}")
    if (photometric, samples) not in ((BLACK_IS_ZERO, 1), (RGB, 3), (RGB, 4)):
        raise InputError(f"{samples} samples of {bits} bits and colours {photometric}; {ADVICE}")
    if compression not in COMPRESSIONS or (samples > 1 and _whole(ifd, PLANAR, 1) != 1):
        raise InputError(f"its compression ({compression}), or one plane per channel; {ADVICE}")


def _check_places(ifd: Any, file: IO[bytes]) -> None:
    """OpenCV does not complain where the pixels end before the picture does."""
    size = file.seek(0, 2)
    tiled = TILE_OFFSETS in ifd
    offsets = ifd.get(TILE_OFFSETS if tiled else STRIP_OFFSETS, ())
    counts = ifd.get(TILE_BYTES if tiled else STRIP_BYTES, ())
    if not offsets or len(offsets) != len(counts):
        raise ValueError("pixels that are nowhere")
    if any(offset + count > size for offset, count in zip(offsets, counts, strict=True)):
        raise ValueError("pixels behind its end")


def _exif(ifd: Any, head: bytes, file: IO[bytes]) -> bytes | None:
    """The tags of a photo, but for those that say how it is stored, as an EXIF block."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        exif = Image.Exif()
        for tag in KEPT:
            if tag in ifd:
                exif[tag] = 1 if tag == ORIENTATION else ifd[tag]
        for tag in (EXIF_IFD, GPS_IFD):
            if tag in ifd:
                inner = ImageFileDirectory_v2(head, group=tag)
                file.seek(_whole(ifd, tag))
                inner.load(file)
                exif[tag] = {k: v for k, v in inner.items() if k != INTEROP_IFD}
        return exif.tobytes() if len(exif) else None
    except Exception:  # damaged tags are no reason to refuse a photo
        return None


def decode(data: bytes, directory: Directory) -> NDArray[Any]:
    """The pixels of a `deep` one, [H, W] or [H, W, 3 or 4] of uint16 or a float, as OpenCV gives
    them: turned upright. ValueError."""
    import cv2

    with _silence(cv2):
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype.kind not in "uf" or stored.dtype == np.uint8:
        raise ValueError("pixels that OpenCV can't read")
    if {*stored.shape[:2]} != {directory.width, directory.height}:
        raise ValueError("pixels of another size")
    return rgb_of(stored)


@contextmanager
def _silence(cv2: Any) -> Iterator[None]:
    log = cv2.utils.logging
    level = log.getLogLevel()
    log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        log.setLogLevel(level)


def encode(
    pixels: NDArray[Any],
    alpha: NDArray[Any] | None,
    icc: bytes | None,
    exif: bytes | None,
    xmp: bytes | None,
) -> bytes:
    """A file with pixels [H, W, 3] of uint8, uint16 or float32, alpha [H, W] of the same."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    samples = 3 if alpha is None else 4
    whole = pixels.dtype.kind == "u"
    strips = []
    for top in range(0, len(pixels), STRIP):
        rows = pixels[top : top + STRIP]
        if alpha is not None:
            rows = np.dstack([rows, alpha[top : top + STRIP]])
        if whole:
            first = np.zeros_like(rows[:, :1])
            rows = np.diff(rows, axis=1, prepend=first)  # modulo its range
        strips.append(zlib.compress(rows.astype(rows.dtype.newbyteorder("<")).tobytes(), 4))
    starts = np.cumsum([0, *map(len, strips)])

    ifd: Any = ImageFileDirectory_v2(b"II*\0\x08\0\0\0")
    for tag, value in _described(exif).items():
        ifd[tag] = value
    ifd[WIDTH], ifd[HEIGHT] = pixels.shape[1], pixels.shape[0]
    ifd[BITS] = (8 * pixels.itemsize,) * samples
    ifd[COMPRESSION], ifd[PREDICTOR] = DEFLATE, BY_DIFFERENCE if whole else 1
    ifd[PHOTOMETRIC], ifd[PLANAR], ifd[SAMPLES] = RGB, 1, samples
    ifd[FORMAT] = (1 if whole else FLOAT,) * samples
    if alpha is not None:
        ifd[EXTRA] = STRAIGHT
    ifd[ROWS_PER_STRIP] = STRIP
    ifd[STRIP_OFFSETS] = tuple(map(int, starts[:-1]))  # from the directory's end
    ifd[STRIP_BYTES] = tuple(map(len, strips))
    for tag, block in ((ICC, icc), (XMP, xmp)):
        if block:
            ifd[tag] = block
    return b"".join([b"II*\0\x08\0\0\0", ifd.tobytes(8), *strips])


def _described(exif: bytes | None) -> dict[int, Any]:
    """The tags of an EXIF block, as Pillow takes them."""
    if exif is None:
        return {}
    block = Image.Exif()
    try:
        block.load(exif)
        found: dict[int, Any] = {tag: block[tag] for tag in KEPT if tag in block}
        for tag in (EXIF_IFD, GPS_IFD):
            inner = block.get_ifd(tag)
            if inner:
                found[tag] = {k: v for k, v in inner.items() if k != INTEROP_IFD}
    except Exception:  # as in `_exif`
        return {}
    return found
