"""What metric depth needs beside it: depth maps in metres, and the lens that the photo names."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from argan import photo
from argan.errors import InputError
from argan.optics import Camera

EXIF_IFD = 0x8769
FOCAL_LENGTH = 0x920A  # mm
FOCAL_LENGTH_35MM = 0xA405  # mm, of the same angle of view across 36 x 24 mm
PIXEL_X, PIXEL_Y = 0xA002, 0xA003  # size of the photo when these were written
FOCAL_PLANE_X, FOCAL_PLANE_UNIT = 0xA20E, 0xA210  # sensor pixels per unit
UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # inch if not given; 4 and 5 are in use, not in EXIF
FULL_FRAME_MM = 36.0  # the longer side
FULL_FRAME_DIAGONAL_MM = math.hypot(FULL_FRAME_MM, 24)

# What no camera has is a slip of the writer and counts as not there.
FOCAL_MM = (0.5, 3000.0)
SENSOR_MM = (1.0, 200.0)  # the longer side
AGREEMENT = 0.1  # the 35 mm equivalent is a whole number: 24 is 23.5 to 24.5


@dataclass(frozen=True)
class Lens:
    """What a photo's EXIF block says of its lens, in mm; None where it is missing or absurd."""

    focal_mm: float | None = None
    sensor_mm: float | None = None  # the longer side


def read_lens(exif: bytes | None, height: int, width: int) -> Lens:
    """The lens of a photo with that EXIF block. Turned or upright is the same: longer sides go with
    longer sides.

    The sensor is FocalPlaneXResolution's, for that is exact. It is wrong where a program has made
    the photo smaller without it, so where FocalLengthIn35mmFilm differs by more than 10 %, that
    decides; so it does alone. It compares diagonals (CIPA DCG-001).
    """
    tags = _tags(exif)
    focal = _within(FOCAL_MM, _number(tags, FOCAL_LENGTH))
    longer = max(height, width)
    diagonals = None
    equivalent = _within(FOCAL_MM, _number(tags, FOCAL_LENGTH_35MM))
    if focal and equivalent:
        diagonal = FULL_FRAME_DIAGONAL_MM * focal / equivalent
        diagonals = _within(SENSOR_MM, diagonal * longer / math.hypot(height, width))
    pixels = max(_number(tags, PIXEL_X) or 0, _number(tags, PIXEL_Y) or 0) or longer
    density = _number(tags, FOCAL_PLANE_X)
    unit = UNIT_MM.get(int(_number(tags, FOCAL_PLANE_UNIT) or 2))
    pitch = _within(SENSOR_MM, pixels / density * unit) if density and unit else None
    if pitch and diagonals and abs(pitch / diagonals - 1) > AGREEMENT:
        pitch = None
    return Lens(focal, pitch or diagonals)


def find_camera(
    exif: bytes | None,
    shape: tuple[int, ...],
    focal_length: float | None = None,
    sensor_width: float | None = None,
    full_frame: bool = False,
) -> tuple[Camera, str]:
    """The camera of a photo of `shape` [H, W, ...] and a word on where each fact is from: what is
    given in mm (the sensor by its longer side), else EXIF. InputError for what is in neither.

    full_frame   where nothing is given, the lens that shows the same on a sensor 36 mm wide
    """
    lens = read_lens(exif, shape[0], shape[1])
    focal, sensor = focal_length or lens.focal_mm, sensor_width or lens.sensor_mm
    lacks = []
    if focal is None:
        lacks.append(("its focal length", "--focal-length MM"))
    if sensor is None:
        lacks.append(("the size of its sensor", "--sensor-width MM (36 is full frame)"))
    if focal is None or sensor is None:
        facts, options = (" and ".join(words) for words in zip(*lacks, strict=True))
        raise InputError(f"the photo does not say {facts}: give {options}")
    if full_frame and not (focal_length or sensor_width):
        focal *= FULL_FRAME_MM / sensor
        return Camera(focal, FULL_FRAME_MM), f"lens {focal:.3g} mm, full frame (EXIF's view)"
    said = [
        f"{name} {value:.4g} mm ({'given' if given else 'EXIF'})"
        for name, value, given in (("lens", focal, focal_length), ("sensor", sensor, sensor_width))
    ]
    return Camera(focal, sensor), ", ".join(said)


def _tags(exif: bytes | None) -> dict[int, Any]:
    if not exif:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged block has nothing to say
        try:
            block = Image.Exif()
            block.load(exif)
            return dict(block.get_ifd(EXIF_IFD))
        except Exception:
            return {}


def _number(tags: dict[int, Any], tag: int) -> float | None:
    """A finite number above 0, or None: for text, several values, n/0, 0 ("unknown") as well."""
    try:
        value = float(tags[tag])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return value if 0 < value < math.inf else None


def _within(limits: tuple[float, float], value: float | None) -> float | None:
    return value if value is not None and limits[0] <= value <= limits[1] else None


def load_depth(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read a depth map [H, W], metres along the optical axis in .npy or whole millimetres in a
    16-bit grey PNG -> 1/z in 1/m. InputError where it is neither, or a depth is not above 0."""
    path = Path(path)
    depth = photo.load_disparity(path)
    if path.suffix.lower() == ".png":
        with Image.open(path) as image:
            if "lo" in getattr(image, "text", {}):
                raise InputError(f"{path} is a disparity, of argan depth; it is no depth in mm")
        depth *= np.float32(65.535)  # load_disparity has made 0..1 of it
    return inverse_depth(depth, str(path))


def inverse_depth(depth: NDArray[Any], name: str = "the depth map") -> NDArray[np.float32]:
    """1/z of metres. InputError where a depth is not above 0, or NaN; infinity is far, 1/z = 0."""
    if not (depth > 0).all():
        raise InputError(f"{name} has depths that are not above 0 m; fill those pixels first")
    with np.errstate(over="ignore"):  # the lens refuses infinity
        return np.reciprocal(depth.astype(np.float32))
