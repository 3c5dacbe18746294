"""HEIC and HEIF files, by pi-heif (extra `heif`): the photo, and the depth map beside it.

pi-heif brings libheif and libde265 (LGPL-3.0), which decode; it writes nothing. It does not give
the metadata of a depth map, so these are found here, in the boxes of the file (ISO/IEC 23008-12).
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from argan import photo
from argan.errors import InputError, MissingExtraError

MAX_BYTES = 256 << 20
MAX_ITEMS = 10_000  # a 12 MP iPhone photo has 55
DEPTH_TYPES = (
    b"urn:mpeg:hevc:2015:auxid:2\0",
    b"urn:mpeg:avc:2015:auxid:2\0",
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth\0",
)


class DepthImage(NamedTuple):
    """A depth map as it is coded.

    values  [h, w], upright, from 0 to `top`
    top     the largest integer of its bit depth: 255 at 8 bits
    size    (width, height) of the upright photo
    coding  what the video codec says (representation_type, d_min, d_max, ...), or None
    xmp     the XMP packet of the map, or None
    """

    values: NDArray[np.float32]
    top: int
    size: tuple[int, int]
    coding: dict[str, Any] | None
    xmp: bytes | None


def is_heif(head: bytes) -> bool:
    """Whether a file that begins with these 12 bytes is HEIC or HEIF."""
    return head[4:8] == b"ftyp" and head[8:12] in photo.HEIC_BRANDS


def decode(data: bytes, name: str, most: int) -> photo.Photo:
    """A photo, upright, 8 bit; see `photo.decode`. MissingExtraError without pi-heif."""
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} has more than {MAX_BYTES >> 20} MB; use a smaller file")
    try:
        image = _open(data)
        photo.check_pixels(image.size, name, most)
        # Turned by libheif, as the file's boxes say; pi-heif resets EXIF's orientation.
        return photo.from_file(_decode(image), "HEIF")
    except photo.TooManyPixels:
        raise
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def read_depth(data: bytes) -> DepthImage | None:
    """The depth map of a HEIF file's photo, or None. InputError, MissingExtraError."""
    image = _open(data)
    if not image.info.get("depth_images"):
        return None
    stored = image.info["depth_images"][0]
    if stored.size[0] * stored.size[1] > photo.MAX_PIXELS:
        raise InputError("its depth map has too many pixels; use --source model")
    values = _plane(stored)
    try:
        boxes = _boxes(data)
    except (struct.error, IndexError, KeyError, ValueError) as error:
        raise _damaged("its boxes") from error
    if not boxes.depth_turns:  # libheif has turned it by its own; without any, it is as the photo
        for name, value in boxes.photo_turns:
            values = _turned(values, name, value)
    top = 255 if stored.mode == "L" else (1 << boxes.bits) - 1
    coding = stored.info.get("metadata") or None
    return DepthImage(np.ascontiguousarray(values), top, image.size, coding, boxes.xmp)


def _plane(stored: Any) -> NDArray[np.float32]:
    """The pixels of a grey image: L or I;10, I;12, I;16."""
    try:
        pixels = np.frombuffer(stored.data, np.uint8 if stored.mode == "L" else np.uint16)
        (width, height), stride = stored.size, stored.stride // pixels.itemsize
        if stored.mode[0] not in "LI" or width > stride:
            raise ValueError(f"a depth map of mode {stored.mode}")
        return pixels[: height * stride].reshape(height, stride)[:, :width].astype(np.float32)
    except Exception as error:
        raise _damaged(error) from error


def _open(data: bytes) -> Any:
    """The primary image, not decoded yet: its size is checked before."""
    try:
        import pi_heif  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("pi-heif", "heif") from error
    try:
        # Without these two options pi-heif 1.4 writes beyond its memory where the bit depth that a
        # file states is not that of its pixels.
        file = pi_heif.open_heif(io.BytesIO(data), remove_stride=False, hdr_to_16bit=False)
        image = file[file.primary_index]
    except Exception as error:  # of many kinds
        raise _damaged(error) from error
    if not 0 < image.size[0] * image.size[1] <= photo.MAX_PIXELS:
        raise InputError(f"it has no pixels, or over {photo.MAX_PIXELS // 1_000_000} million")
    return image


def _decode(image: Any) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decoded: Image.Image = image.to_pillow()
            return decoded
    except Exception as error:
        raise _damaged(error) from error


def _damaged(why: object) -> InputError:
    told = " ".join(str(why).split())  # libheif's messages have several lines
    return InputError(f"the HEIF file is damaged or cut short ({told}); get it again")


def _turned(values: NDArray[Any], name: bytes, value: int) -> NDArray[Any]:
    if name == b"irot":
        return np.rot90(values, value & 3)  # anticlockwise
    return values[:, ::-1] if value & 1 else values[::-1]  # imir


# ---------------------------------------------------------------- boxes

Transforms = list[tuple[bytes, int]]  # of an item, in their order: (irot or imir, value)


def _children(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end of the body) of the boxes in data[start:end]."""
    for _ in range(MAX_ITEMS):
        if start + 8 > end:
            return
        length, name = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if length == 1:
            length, body = struct.unpack_from(">Q", data, body)[0], body + 8
        stop = end if length == 0 else start + length
        if not body <= stop <= end:
            raise ValueError("a box ends outside of its parent")
        yield name, body, stop
        start = stop
    raise ValueError("too many boxes")


class Boxes(NamedTuple):
    photo_turns: Transforms
    depth_turns: Transforms
    bits: int
    xmp: bytes | None


def _boxes(data: bytes) -> Boxes:
    """What the file's boxes say of its photo and of the depth map."""
    meta = {name: (b, e) for name, b, e in _children(data, 0, len(data))}[b"meta"]
    box = {name: (b, e) for name, b, e in _children(data, meta[0] + 4, meta[1])}
    primary = _number(data, box[b"pitm"][0] + 4, 4 if data[box[b"pitm"][0]] else 2)
    references = list(_references(data, *box[b"iref"]))
    properties = _properties(data, *box[b"iprp"])
    depth = min(
        item
        for kind, item, targets in references
        if kind == b"auxl" and primary in targets and _is_depth(properties.get(item, []))
    )
    xmp = None
    for kind, item, targets in references:
        if kind == b"cdsc" and depth in targets:
            content = _content(data, box, item)
            if b"<x:xmpmeta" in content[:2000] or b"<rdf:RDF" in content[:2000]:
                xmp = content
    photo_turns, depth_turns = (
        [(name, body[0]) for name, body in properties.get(item, []) if name in (b"irot", b"imir")]
        for item in (primary, depth)
    )
    codec = dict(properties[depth]).get(b"hvcC", bytes(18))
    return Boxes(photo_turns, depth_turns, 8 + (codec[17] & 7), xmp)


def _number(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise ValueError("cut short")
    return int.from_bytes(data[at : at + size])


def _is_depth(properties: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"auxC" and body[4:].startswith(DEPTH_TYPES) for name, body in properties)


def _references(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, set[int]]]:
    """(kind, from item, to items)."""
    size = 4 if data[start] else 2
    for kind, b, _ in _children(data, start + 4, end):
        count = _number(data, b + size, 2)
        first = b + size + 2
        yield (
            kind,
            _number(data, b, size),
            {_number(data, first + size * i, size) for i in range(count)},
        )


def _properties(data: bytes, start: int, end: int) -> dict[int, list[tuple[bytes, bytes]]]:
    """Of each item its properties (name, body), in their order."""
    found: dict[int, list[tuple[bytes, bytes]]] = {}
    store: list[tuple[bytes, bytes]] = []
    for name, b, e in _children(data, start, end):
        if name == b"ipco":
            store = [(kind, data[b2:e2]) for kind, b2, e2 in _children(data, b, e)]
        if name != b"ipma":
            continue
        id_size, index_size = 4 if data[b] else 2, 2 if data[b + 3] & 1 else 1
        count, at = min(_number(data, b + 4, 4), MAX_ITEMS), b + 8
        for _ in range(count):
            item, entries = _number(data, at, id_size), _number(data, at + id_size, 1)
            at += id_size + 1
            for _ in range(entries):
                index = _number(data, at, index_size) & (0x7FFF if index_size == 2 else 0x7F)
                at += index_size
                if 0 < index <= len(store):
                    found.setdefault(item, []).append(store[index - 1])
    return found


def _content(data: bytes, box: dict[bytes, tuple[int, int]], wanted: int) -> bytes:
    """The bytes of an item, by the box iloc; empty where they are not in this file."""
    at = box[b"iloc"][0]
    version, sizes = data[at], _number(data, at + 4, 2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    id_size = 4 if version == 2 else 2
    count, at = min(_number(data, at + 6, id_size), MAX_ITEMS), at + 6 + id_size
    for _ in range(count):
        item, at = _number(data, at, id_size), at + id_size
        method = _number(data, at, 2) & 15 if version else 0
        at += 4 if version else 2  # construction method, data reference
        base, at = _number(data, at, base_size), at + base_size
        extents, at = _number(data, at, 2), at + 2
        pieces = []
        for _ in range(extents):
            at += index_size
            offset, at = _number(data, at, offset_size), at + offset_size
            length, at = _number(data, at, length_size), at + length_size
            pieces.append((base + offset, length))
        if item == wanted:
            start, end = (0, len(data)) if method == 0 else box.get(b"idat", (0, 0))
            if method > 1 or len(pieces) > 16:
                return b""
            return b"".join(data[start + o : min(start + o + n, end)] for o, n in pieces)
    return b""
