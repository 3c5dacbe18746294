"""Photos to measure on, with the true disparity where it is known.

A folder holds photos, in folders of its own if it likes. The truth about PHOTO.jpg, where there is
one, lies beside it as `argan depth` would write it, of the same size:

    PHOTO_depth.npy  [H, W], disparity, larger = nearer, 0 = infinitely far; NaN: not known
    PHOTO_depth.png  16-bit grey, d = lo + v / 65535 (hi - lo), text chunks lo and hi; v = 0: not
                     known

Or it, or a zip, holds index.json, {name: {"type", "scale", "offset"}}, and for each name
NAME/image.png (or .jpg) and NAME/gt.png, 16-bit grey: gt * scale + offset is the disparity, or,
where type is "depth", the depth; gt = 0: not known.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from argan import photo
from argan.errors import InputError, MissingFileError, ShapeError

INDEX = "index.json"


@dataclass(frozen=True, eq=False)
class Truth:
    """disparity [H, W], up to scale, known where `valid`; `ratios`: its zero is infinitely far."""

    disparity: NDArray[np.float64]
    valid: NDArray[np.bool_]
    ratios: bool


@dataclass(frozen=True, eq=False)
class Scene:
    """A photo, uint8 or uint16 [H, W, 3] sRGB, upright."""

    name: str
    pixels: NDArray[Any]
    truth: Truth | None


def read(path: Path) -> Iterator[Scene]:
    """The scenes of a folder or a zip, in the order of their names; what is missing is said before
    the first is read. MissingFileError or InputError."""
    if not path.exists():
        raise MissingFileError(f"{path} does not exist; name a folder of photos")
    if path.is_file():
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path} is neither a folder of photos nor a zip with {INDEX}")
        return _zipped(path)
    if (path / INDEX).is_file():
        return _indexed((path / INDEX).read_bytes(), lambda name: _bytes(path / name), str(path))
    photos = sorted(
        file for file in path.rglob("*")
        if file.suffix.lower() in photo.SUFFIXES and not file.stem.endswith("_depth")
    )  # fmt: skip
    if not photos:
        raise InputError(f"{path} holds no JPEG, PNG or WebP photos")
    return (_beside(file, str(file.relative_to(path))) for file in photos)


def _beside(file: Path, name: str) -> Scene:
    pixels = photo.load(file).pixels
    for ending in photo.MAP_SUFFIXES:
        depth = file.with_name(f"{file.stem}_depth{ending}")
        if depth.is_file():
            return Scene(name, pixels, _truth(depth, pixels))
    return Scene(name, pixels, None)


def _truth(file: Path, pixels: NDArray[Any]) -> Truth:
    if file.suffix == ".npy":
        try:
            disparity = np.array(np.load(file, allow_pickle=False), np.float64)
        except Exception as error:  # as in `photo.load_disparity`
            raise InputError(f"{file} is no .npy of numbers; write it with numpy.save") from error
        valid = np.isfinite(disparity)
    else:
        disparity = photo.load_disparity(file).astype(np.float64)
        with Image.open(file) as stored:
            valid = np.array(stored) > 0
    if disparity.shape != pixels.shape[:2]:
        raise ShapeError(
            f"{file} has the shape {list(disparity.shape)}, its photo {list(pixels.shape[:2])};"
            " give both one size"
        )
    return Truth(disparity, valid, bool(disparity[valid].min(initial=np.inf) > 0))


def _bytes(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _zipped(path: Path) -> Iterator[Scene]:
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        if INDEX not in names:
            raise InputError(f"{path} is a zip without {INDEX}; unpack it and name the folder")
        yield from _indexed(
            archive.read(INDEX), lambda name: archive.read(name) if name in names else None,
            str(path),
        )  # fmt: skip


def _indexed(index: bytes, read: Callable[[str], bytes | None], where: str) -> Iterator[Scene]:
    try:
        rows = dict(json.loads(index))
        for name, row in sorted(rows.items()):
            image = read(f"{name}/image.png") or read(f"{name}/image.jpg")
            truth = read(f"{name}/gt.png")
            if image is None or truth is None:
                raise InputError(f"{where} has no image or no gt.png of {name}")
            with Image.open(io.BytesIO(image)) as opened:
                pixels = np.array(opened.convert("RGB"))
            with Image.open(io.BytesIO(truth)) as opened:
                stored = np.array(opened, np.float64)
            valid, value = stored > 0, stored * row["scale"] + row["offset"]
            depth = row["type"] == "depth"
            yield Scene(name, pixels, Truth(
                disparity=1 / np.where(valid, value, 1) if depth else value,
                valid=valid,
                # A disparity with an offset is zero at some finite depth.
                ratios=depth or row["offset"] == 0,
            ))  # fmt: skip
    except (KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: {INDEX} or a file of it is damaged ({error})") from error
