"""EXIF and XMP of a photo that has been turned upright and blurred.

Both stay as they are, byte for byte: what cameras hide in MakerNotes often counts from the start of
the block and breaks where that is written anew. Changed is what is no longer true: the orientation
becomes 1, the small picture of the old photo goes (EXIF's second directory), and so does XMP on
what was appended to the file, such as depth maps, gain maps and films.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from argan import xmp
from argan.errors import InputError

PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112
THUMBNAIL, THUMBNAIL_BYTES = 0x0201, 0x0202
SHORT, LONG = 3, 4
MAX_BYTES = 16 << 20  # of one block; JPEG holds 64 KB
MAX_ENTRIES = 1000

GOOGLE = "http://ns.google.com/photos/"
STALE = (  # namespaces, or how they begin
    GOOGLE + "1.0/depthmap/", GOOGLE + "1.0/image/", GOOGLE + "1.0/focus/",
    GOOGLE + "1.0/camera/", GOOGLE + "1.0/container/", GOOGLE + "dd/",
    "http://ns.adobe.com/hdr-gain-map/", "http://ns.apple.com/HDRGainMap/",
    "http://ns.apple.com/pixeldatainfo/", "http://ns.apple.com/depthData/",
)  # fmt: skip
XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)(\d+)")


def settle_exif(block: bytes) -> tuple[int | None, bytes | None]:
    """-> its orientation, None where it says nothing, and the block with orientation 1 and without
    its thumbnail; None where it is damaged. With or without "Exif" before it."""
    data = bytearray(block.removeprefix(PREFIX).removeprefix(PREFIX))
    if not 8 <= len(data) <= MAX_BYTES or bytes(data[:2]) not in (b"II", b"MM"):
        return None, None
    order = "<" if data[:2] == b"II" else ">"
    orientation, thumbnail = None, {}
    try:
        (first,) = struct.unpack_from(order + "I", data, 4)
        for tag, kind, count, at in _entries(data, order, first):
            if tag == ORIENTATION and kind in (SHORT, LONG) and count == 1:
                form = order + ("H" if kind == SHORT else "I")
                (orientation,) = struct.unpack_from(form, data, at)
                struct.pack_into(form, data, at, 1)
        link = first + 2 + 12 * struct.unpack_from(order + "H", data, first)[0]
        (second,) = struct.unpack_from(order + "I", data, link)
        struct.pack_into(order + "I", data, link, 0)
    except struct.error:
        return None, None
    try:
        for tag, _, _, at in _entries(data, order, second) if second else ():
            (thumbnail[tag],) = struct.unpack_from(order + "I", data, at)
    except struct.error:
        pass  # without a link it is out of reach
    _blank(data, thumbnail.get(THUMBNAIL, 0), thumbnail.get(THUMBNAIL_BYTES, 0))
    return orientation, PREFIX + bytes(data)


def _blank(data: bytearray, start: int, size: int) -> None:
    """Take a JPEG out of the block: off its end, else by zeros."""
    if data[start : start + 2] != b"\xff\xd8":
        return
    if start + size >= len(data):
        del data[start:]
    else:
        data[start : start + size] = bytes(size)


def _entries(data: bytearray, order: str, start: int) -> Iterator[tuple[int, int, int, int]]:
    """(tag, type, count, place of its value if that is small) of a directory."""
    (count,) = struct.unpack_from(order + "H", data, start)
    for i in range(min(count, MAX_ENTRIES)):
        at = start + 2 + 12 * i
        yield *struct.unpack_from(order + "HHI", data, at), at + 8


def xmp_orientation(packet: bytes) -> int | None:
    found = XMP_ORIENTATION.search(packet)
    return int(found[2]) if found and len(found[2]) == 1 else None


def settle_xmp(packet: bytes) -> bytes | None:
    """The packet without what is no longer true; None where it is damaged."""
    if len(packet) > MAX_BYTES:
        return None
    packet = packet.rstrip(b"\0")  # of some writers; no XML
    try:
        packet.decode("utf-8")
        if b"HasExtendedXMP" in packet or any(name.encode() in packet for name in STALE):
            packet = xmp.without(packet, STALE)
    except (UnicodeDecodeError, InputError):
        return None
    return XMP_ORIENTATION.sub(rb"\g<1>1", packet)
