"""Disparity maps out: 16-bit PNG, .npy, OpenEXR, a colour map, or inside a photo.

    .png    16-bit grey, d = lo + v / 65535 (hi - lo); lo, hi and units in its text chunks
    .npy    float32 [H, W]
    .exr    one float32 channel "Y"; the attribute "units" is text
Units are "1/m", where 1/d is the distance along the optical axis, or "relative". OpenCV's wheels
are built without OpenEXR: its scan lines and ZIP are written here (openexr.com, file layout).
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from argan import embedded, photo
from argan.errors import InputError
from argan.files import write_atomic

SUFFIXES = (".png", ".npy", ".exr")
EXR_BLOCK = 16  # lines that are compressed together


def check_suffix(path: Path) -> None:
    """Raise InputError unless `save` can write a file of that name."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} has no ending of a disparity map; use .png, .npy or .exr")


def check_jpeg_suffix(path: Path) -> None:
    """Raise InputError unless `save_in_photo` can write a file of that name."""
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        raise InputError(f"{path}: depth can be put into JPEG files alone; use .jpg")


def save(
    path: Path,
    disparity: NDArray[Any],
    *,
    metric: bool = False,
    colormap: photo.ColorMap | None = None,
) -> None:
    """Write a map [H, W], in 1/m where `metric`; with `colormap` a PNG to look at."""
    check_suffix(path)
    units = "1/m" if metric else "relative"
    if colormap and path.suffix.lower() != ".png":
        raise InputError(f"{path}: a colour map is a picture; use .png")
    if not np.isfinite(disparity).all():
        raise InputError("the disparity holds NaN or infinity")
    if path.suffix.lower() == ".exr":
        write_atomic(path, _encode_exr(disparity, units))
    else:
        photo.save_disparity(path, disparity, colormap, units)


def save_in_photo(path: Path, source: Path, disparity: NDArray[Any], *, metric: bool) -> None:
    """Write the photo `source` with a disparity embedded (`embedded.write`): a JPEG as it is, any
    other as JPEG of quality 95."""
    check_jpeg_suffix(path)
    data = source.read_bytes()
    if not data.startswith(b"\xff\xd8"):
        data = photo.encode(photo.load(source), "JPEG")
    write_atomic(path, embedded.write(data, disparity, metric=metric))


def _encode_exr(disparity: NDArray[Any], units: str) -> bytes:
    """Single part, scan lines from the top, ZIP."""
    height, width = disparity.shape
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    attributes = [
        ("channels", "chlist", b"Y\0" + struct.pack("<iB3x2i", 2, 0, 1, 1) + b"\0"),
        ("compression", "compression", b"\3"),
        ("dataWindow", "box2i", window),
        ("displayWindow", "box2i", window),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1)),
        ("comments", "string", b"disparity; larger = nearer"),
        ("units", "string", units.encode()),
    ]
    header = struct.pack("<2i", 20000630, 2)
    for name, kind, value in attributes:
        header += name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value))
        header += value
    header += b"\0"

    lines = disparity.astype("<f4")
    blocks = [_exr_block(lines[y : y + EXR_BLOCK]) for y in range(0, height, EXR_BLOCK)]
    at = len(header) + 8 * len(blocks)
    offsets, body = b"", []
    for i, block in enumerate(blocks):
        offsets += struct.pack("<Q", at)
        body.append(struct.pack("<2i", i * EXR_BLOCK, len(block)) + block)
        at += 8 + len(block)
    return b"".join([header, offsets, *body])


def _exr_block(lines: NDArray[Any]) -> bytes:
    """Even bytes, then odd ones; differences; deflate. As it was where that is no smaller."""
    plain = np.frombuffer(lines.tobytes(), np.uint8)
    mixed = np.concatenate([plain[::2], plain[1::2]])
    mixed[1:] = np.diff(mixed) + np.uint8(128)
    packed = zlib.compress(mixed.tobytes())
    return packed if len(packed) < plain.size else plain.tobytes()
