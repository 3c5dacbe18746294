"""Depth that a photo file brings from its phone, and argan's own put there.

read      HEIC and HEIF with an auxiliary depth image (iPhone portraits), and JPEG with GDepth XMP
          or Dynamic Depth 1.0 (Android)
write     a JPEG with a disparity as GDepth

Apple's disparity is 1/z in 1/m, also where its accuracy is said to be "relative": right in order,
less so in size. GDepth and Dynamic Depth code a distance z by a value v in 0..1, 1 = white = far:
    RangeInverse  1/z = 1/near - v (1/near - 1/far)
    RangeLinear   z = near + v (far - near)
in metres only where they say so; the cameras that leave the unit out have none.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from argan import heif, photo, xmp
from argan.errors import InputError
from argan.files import check_readable

Disparity = NDArray[np.float32]

GDEPTH = "http://ns.google.com/photos/1.0/depthmap/"
GIMAGE = "http://ns.google.com/photos/1.0/image/"
DYNAMIC = "http://ns.google.com/photos/dd/1.0/"  # Dynamic Depth 1.0
CONTAINER = "http://ns.google.com/photos/1.0/container/"
CONTAINERS = {  # namespace of the directory: that of its items
    DYNAMIC + "container/": DYNAMIC + "item/",
    CONTAINER: CONTAINER + "item/",
}
APPLE_PIXELS = "http://ns.apple.com/pixeldatainfo/1.0/"
APPLE_DEPTH = "http://ns.apple.com/depthData/1.0/"

METRES = {"m": 1.0, "meters": 1.0, "mm": 1e-3, "millimeters": 1e-3}
MAX_BYTES = heif.MAX_BYTES
MAX_MAP_PIXELS = 64_000_000
MAX_LISTED = 32  # cameras and appended files that are looked at: work has to be bounded
MAX_STRUCT = 100  # elements of one of them
MAX_STRETCH = 1.5  # between the shapes of photo and map; 4:3 to 16:9 is 1.33, to 3:4 is 1.78
WRITTEN_SIDE = 2048  # px: 16-bit maps of a larger photo are made smaller
FARTHEST = 1e-4  # 1/m: what is farther is written as 10 km
RELATIVE_FAR = 100.0  # far / near of a map without a unit


@dataclass(frozen=True, eq=False)
class EmbeddedDepth:
    """Depth that a photo brings.

    disparity   [h, w], upright, of its own size, larger = nearer; holes are NaN. 1/z in 1/m where
                `metric`, else relative: 0 and 1 are the farthest and the nearest that its coding
                can say
    metric      whether it is in 1/m
    kind        "GDepth", "Dynamic Depth" or "HEIF depth"
    accuracy    what an iPhone says of it, "relative" or "absolute"; else None
    confidence  [h, w] in 0..1, or None; where it is 0 the disparity is a hole
    original    the photo before the phone changed it, which the map belongs to, or None
    """

    disparity: Disparity
    metric: bool
    kind: str
    accuracy: str | None = None
    confidence: NDArray[np.float32] | None = None
    original: photo.Photo | None = None

    @property
    def words(self) -> str:
        unit = "in 1/m" if self.metric else "relative"
        accuracy = f", of {self.accuracy} accuracy" if self.accuracy else ""
        return f"of the photo ({self.kind}, {unit}{accuracy})"

    def filled(self) -> Disparity:
        """Without holes: each gets the farther of the nearest values left and right of it, for what
        a camera pair can't see lies behind; in a row without any value, above and below it."""
        return _fill_rows(_fill_rows(self.disparity).T).T


def _fill_rows(disparity: Disparity) -> Disparity:
    known = ~np.isnan(disparity)
    columns = np.arange(disparity.shape[1])
    last = np.maximum.accumulate(np.where(known, columns, -1), axis=1)
    reverse = np.where(known, columns, len(columns))[:, ::-1]
    following = np.minimum.accumulate(reverse, axis=1)[:, ::-1]
    rows = np.arange(disparity.shape[0])[:, None]
    left = np.where(last >= 0, disparity[rows, np.maximum(last, 0)], np.nan)
    right = np.where(
        following < len(columns), disparity[rows, np.minimum(following, len(columns) - 1)], np.nan
    )
    return np.where(known, disparity, np.fmin(left, right)).astype(np.float32)


def read(source: str | os.PathLike[str] | bytes) -> EmbeddedDepth | None:
    """The depth that a photo file (a path, or its bytes) brings; None where it brings none.

    InputError, in one line, for depth that is damaged, cut short, too large, or of a coding that is
    not known; MissingFileError; MissingExtraError for HEIC without the extra `heif`.
    """
    if isinstance(source, bytes):
        return _read(source)
    path = Path(source)
    check_readable(path, "a photo")
    with path.open("rb") as file:
        head = file.read(12)
        if not (head.startswith(b"\xff\xd8") or heif.is_heif(head)):
            return None
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has more than {MAX_BYTES >> 20} MB; use a smaller file")
        data = head + file.read()
    try:
        return _read(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read(data: bytes) -> EmbeddedDepth | None:
    if heif.is_heif(data[:12]):
        found = _read_heif(data)
    elif data.startswith(b"\xff\xd8"):
        trees = xmp.read(data)
        found = _read_gdepth(data, trees) or _read_dynamic(data, trees)
    else:
        return None
    if found is not None and np.isnan(found.disparity).all():
        raise InputError("its depth map has no valid value")
    return found


# ---------------------------------------------------------------- HEIF


def _read_heif(data: bytes) -> EmbeddedDepth | None:
    stored = heif.read_depth(data)
    if stored is None:
        return None
    _check_shape(stored.values.shape, stored.size)
    trees = [xmp.parse(stored.xmp)] if stored.xmp else []
    said = xmp.properties(trees, APPLE_PIXELS)
    accuracy = xmp.properties(trees, APPLE_DEPTH).get("Accuracy")
    if "FloatMaxValue" in said:
        lo, hi = _number(said, "FloatMinValue"), _number(said, "FloatMaxValue")
        first, last = _number(said, "IntMinValue", 0), _number(said, "IntMaxValue", stored.top)
        if not (-math.inf < lo < hi < math.inf and -math.inf < first < last < math.inf):
            raise InputError("its depth map has an empty range")
        step = (hi - lo) / (last - first)
        values = np.float32(lo) + (stored.values - np.float32(first)) * np.float32(step)
        kind = said.get("AuxiliaryImageType", "disparity")
        if kind not in ("depth", "disparity"):
            raise InputError(f"its depth map is of the type {kind[:20]!r}, which is not known")
        if kind == "depth":
            values = _inverse(values)
        return EmbeddedDepth(values, True, "HEIF depth", accuracy)
    # ISO/IEC 23008-2, depth representation: 0 and 1 are 1/z and disparity, 2 is z, 3 is a table.
    if stored.coding and stored.coding.get("representation_type", 0) not in (0, 1):
        raise InputError("its depth map is coded in a way that is not known; use --source model")
    return EmbeddedDepth(stored.values / np.float32(stored.top), False, "HEIF depth", accuracy)


# ---------------------------------------------------------------- GDepth


def _read_gdepth(data: bytes, trees: Sequence[Element]) -> EmbeddedDepth | None:
    said = xmp.properties(trees, GDEPTH)
    if "Data" not in said:
        return None
    turn, size, exif = _container(data)
    image = xmp.properties(trees, GIMAGE).get("Data")
    original = _original(_decode_base64(image), turn, exif) if image else None
    confidence = said.get("Confidence")
    return _range_depth(
        "GDepth", said, turn, size, _decode_base64(said["Data"]),
        _decode_base64(confidence) if confidence else None, original,
    )  # fmt: skip


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise InputError("a picture in its XMP is no base64") from error


# ---------------------------------------------------------------- Dynamic Depth


def _read_dynamic(data: bytes, trees: Sequence[Element]) -> EmbeddedDepth | None:
    for tree in trees:
        for element in _first(tree, DYNAMIC + "camera/", "DepthMap"):
            said = _struct(element, DYNAMIC + "depthmap/")
            if said.get("ItemSemantic", "Depth") == "Depth" and "DepthURI" in said:
                return _dynamic_depth(data, trees, said)
    return None


def _dynamic_depth(
    data: bytes, trees: Sequence[Element], said: dict[str, str]
) -> EmbeddedDepth | None:
    items = _items(data, trees)

    def resource(uri: str) -> bytes:
        start, end = items.get(uri, (0, 0))
        if not 0 < start < end <= len(data):
            raise InputError("what its depth refers to is not in the file; was it cut short?")
        return data[start:end]

    turn, size, exif = _container(data)
    original = None
    for tree in trees:
        for camera in _first(tree, DYNAMIC + "camera/", "Image"):
            image = _struct(camera, DYNAMIC + "image/")
            if image.get("ItemSemantic") == "Original" and image.get("ItemURI") in items:
                original = _original(resource(image["ItemURI"]), turn, exif)
    confidence = said.get("ConfidenceURI")
    return _range_depth(
        "Dynamic Depth", said, turn, size, resource(said["DepthURI"]),
        resource(confidence) if confidence else None, original,
    )  # fmt: skip


def _items(data: bytes, trees: Sequence[Element]) -> dict[str, tuple[int, int]]:
    """Where the files are that are appended to a JPEG, by their URI: one behind the other, from the
    end of the first picture on."""
    places: dict[str, tuple[int, int]] = {}
    at = xmp.end_of_image(data)
    for tree in trees:
        for container, namespace in CONTAINERS.items():
            for directory in _first(tree, container, "Directory"):
                for index, entry in enumerate(_first(directory, xmp.RDF, "li")):
                    item = _struct(entry, namespace)
                    length = _whole(item, "Length") if index else 0
                    uri = item.get("DataURI") or item.get("URI")
                    if uri and length:
                        places.setdefault(uri, (at, at + length))
                    at += length + _whole(item, "Padding")
                if places:
                    return places
    return places


def _first(tree: Element, namespace: str, name: str) -> list[Element]:
    return list(islice(tree.iter(f"{{{namespace}}}{name}"), MAX_LISTED))


def _struct(element: Element, namespace: str) -> dict[str, str]:
    return xmp.properties([element], namespace, MAX_STRUCT)


# ---------------------------------------------------------------- what both of Google's share


def _range_depth(
    kind: str,
    said: dict[str, str],
    turn: int,
    size: tuple[int, int],
    picture: bytes,
    confidence: bytes | None,
    original: photo.Photo | None,
) -> EmbeddedDepth:
    v, hole = _decode_map(picture)
    coding = said.get("Format", "RangeInverse")
    unit = said.get("Units", "").lower()
    near, far = _number(said, "Near"), _number(said, "Far")
    metric = unit in METRES or unit == "diopters"
    if coding not in ("RangeInverse", "RangeLinear"):
        raise InputError(f"its depth map is coded as {coding[:20]!r}, which is not known")
    if unit == "diopters":  # near and far are 1/z themselves
        near, far = (1 / end if end > 0 else math.inf for end in (near, far))
        coding = {"RangeInverse": "RangeLinear", "RangeLinear": "RangeInverse"}[coding]
    scale = METRES.get(unit, 1.0)
    near, far = near * scale, far * scale
    if not (0 <= near < far and near < math.inf) or (near == 0 and coding == "RangeInverse"):
        raise InputError(f"its depth map goes from {near:g} to {far:g}, which is no range")
    if coding == "RangeInverse":
        inverse = np.float32(1 / near) - v * np.float32(1 / near - 1 / far)
    elif far < math.inf:
        inverse = _inverse(np.float32(near) + v * np.float32(far - near))
    else:
        raise InputError("its depth map goes to infinity in even steps, which is no range")
    inverse[hole] = np.nan
    sure = None
    if confidence is not None:
        sure, _ = _decode_map(confidence)
        if sure.shape != inverse.shape:
            sure = _resized(sure, inverse.shape[::-1])
        inverse[sure == 0] = np.nan
    if not metric and not np.isnan(inverse).all():
        highest = 1 / near if near else float(np.nanmax(inverse))
        inverse = (inverse - np.float32(1 / far)) / np.float32(max(highest - 1 / far, 1e-12))
        inverse = np.clip(inverse, 0, 1)  # of rounding
    _check_shape(inverse.shape, size)
    return EmbeddedDepth(
        _upright(inverse, turn), metric, kind, None, None if sure is None else _upright(sure, turn),
        original,
    )  # fmt: skip


def _container(data: bytes) -> tuple[int, tuple[int, int], bytes | None]:
    """-> a JPEG's orientation (1 to 8), its (width, height) as stored, its EXIF made upright."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
                exif = image.getexif()
                turn = exif.get(photo.ORIENTATION)
                exif[photo.ORIENTATION] = 1
                block = exif.tobytes()
                size = image.size
        except Exception as error:
            raise InputError(f"the JPEG is damaged or cut short ({error})") from error
    return turn if isinstance(turn, int) and turn in photo.UPRIGHT else 1, size, block


def _upright(values: NDArray[Any], turn: int) -> NDArray[Any]:
    turned = photo.UPRIGHT[turn](values) if turn in photo.UPRIGHT else values
    return np.ascontiguousarray(turned)


def _original(picture: bytes, turn: int, exif: bytes | None) -> photo.Photo:
    image = _open(picture, photo.MAX_PIXELS)
    taken = image.convert("RGB")
    return photo.Photo(
        _upright(np.asarray(taken), turn), None, image.info.get("icc_profile"), exif, "JPEG"
    )


def _decode_map(picture: bytes) -> tuple[Disparity, NDArray[np.bool_]]:
    """A grey picture -> its values in 0..1 [h, w], and where it is transparent."""
    image = _open(picture, MAX_MAP_PIXELS)
    if image.mode.startswith("I"):
        values = np.asarray(image, np.float32) / np.float32(65535)
    else:
        values = np.asarray(image.convert("L"), np.float32) / np.float32(255)
    hole = np.zeros(values.shape, np.bool_)
    if image.has_transparency_data:
        hole = np.asarray(image.convert("RGBA").getchannel("A")) == 0
    return values, hole


def _open(picture: bytes, most: int) -> Image.Image:
    """A decoded PNG or JPEG; what its file says it is may be wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(picture), formats=["PNG", "JPEG"])
            if image.width * image.height > most:
                raise InputError(f"a picture in it has more than {most // 1_000_000} M pixels")
            image.load()
            return image
        except InputError:
            raise
        except Exception as error:  # Pillow's readers raise many kinds on a damaged file
            raise InputError(f"a picture in it is damaged or cut short ({error})") from error


def _check_shape(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    stretch = shape[1] * size[1] / max(shape[0] * size[0], 1)
    if not 1 / MAX_STRETCH < stretch < MAX_STRETCH:
        raise InputError(
            f"its depth map is {shape[1]}x{shape[0]} and the photo {size[0]}x{size[1]}: they do"
            " not belong together"
        )


def _resized(values: Disparity, size: tuple[int, int]) -> Disparity:
    import cv2  # slow to import

    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32)


def _inverse(depth: Disparity) -> Disparity:
    """1/z; NaN where z is not above 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(depth > 0, np.float32(1) / depth, np.float32(np.nan)).astype(np.float32)


def _number(said: dict[str, str], name: str, otherwise: float | None = None) -> float:
    try:
        value = float(said[name]) if name in said or otherwise is None else otherwise
    except (KeyError, ValueError) as error:
        raise InputError(f"its depth map does not say its {name}; use --source model") from error
    if math.isnan(value):
        raise InputError(f"its depth map has no number for {name}; use --source model")
    return value


def _whole(said: dict[str, str], name: str) -> int:
    text = said.get(name, "0").strip() or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InputError(f"an item of its directory has the {name} {text[:20]!r}")
    return int(text)


# ---------------------------------------------------------------- writing


def write(data: bytes, disparity: NDArray[Any], *, metric: bool) -> bytes:
    """A JPEG file with a disparity [h, w] as GDepth, in place of one that it has. Its pixels and
    all other metadata stay.

    disparity  upright, of the photo or smaller, larger = nearer; in 1/m where `metric`. Stored in
               16 bits and at most WRITTEN_SIDE px; what is beyond 10 km becomes 10 km. A disparity
               that is not metric is written without a unit, and read back as 0 to 1
    """
    if disparity.ndim != 2 or not disparity.size or not np.isfinite(disparity).all():
        raise InputError("the disparity has to be [H, W], without NaN and infinity")
    turn, size, _ = _container(data)
    back = {6: 8, 8: 6}.get(turn, turn)
    stored = _upright(disparity.astype(np.float32), back)
    _check_shape(stored.shape, size)
    scale = WRITTEN_SIDE / max(stored.shape)
    if scale < 1:
        small = (max(1, round(stored.shape[1] * scale)), max(1, round(stored.shape[0] * scale)))
        stored = _resized(stored, small)
    if metric:
        stored = np.maximum(stored, np.float32(FARTHEST))
    lo, hi = float(stored.min()), float(stored.max())
    hi = max(hi, lo + 1e-3 * max(abs(lo), FARTHEST))  # an even map is a range, too
    v = (hi - stored.astype(np.float64)) / (hi - lo)
    buffer = io.BytesIO()
    Image.fromarray(np.rint(v * 65535).astype(np.uint16)).save(buffer, "PNG")
    near, far = (1 / hi, 1 / lo) if metric else (1.0, RELATIVE_FAR)
    small_ones = {
        "Format": "RangeInverse", "Near": repr(near), "Far": repr(far), "Mime": "image/png",
        "MeasureType": "OpticalAxis", "ImageWidth": str(size[0]), "ImageHeight": str(size[1]),
        "Software": "argan",
    }  # fmt: skip
    if metric:
        small_ones["Units"] = "m"
    picture = base64.b64encode(buffer.getvalue()).decode()
    return xmp.write(data, GDEPTH, small_ones, {"Data": picture})
