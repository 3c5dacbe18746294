"""XMP in JPEG files: the packet and its extension (XMP specification, part 3, 1.1.3).

The packet fills at most one segment. What is larger is in the extension: cut into segments that
name it by its MD5 sum, as does the packet's xmpNote:HasExtendedXMP.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from argan.errors import InputError

PACKET = b"http://ns.adobe.com/xap/1.0/\0"
EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
META = "adobe:ns:meta/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
NOTE = "http://ns.adobe.com/xmp/note/"
PREFIXES = {  # as everybody writes them: some readers look for the text "GDepth:Data"
    "x": META,
    "rdf": RDF,
    "xmpNote": NOTE,
    "GDepth": "http://ns.google.com/photos/1.0/depthmap/",
    "GImage": "http://ns.google.com/photos/1.0/image/",
    "GFocus": "http://ns.google.com/photos/1.0/focus/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "Container": "http://ns.google.com/photos/1.0/container/",
    "Item": "http://ns.google.com/photos/1.0/container/item/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
}
for _prefix, _uri in PREFIXES.items():
    ElementTree.register_namespace(_prefix, _uri)

MAX_BYTES = 32 << 20  # a 12 MP photo and its depth in base64 take about 10 MB
MAX_TAGS = 100_000  # of elements, and of attributes: each costs many times its text in memory
MAX_SEGMENT = 65533
PART = 65400  # of an extension, per segment

EOI, SOS, APP0, APP1 = 0xD9, 0xDA, 0xE0, 0xE1
MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd9\xff])", re.DOTALL)  # one with a length
AFTER_SCAN = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
MAX_SEGMENTS = 5000  # 32 MB of XMP are 500
DAMAGED = "the JPEG is damaged or cut short; get it again"


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end of its body) of a JPEG's segments up to its first scan. InputError where
    they are cut short."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = MARKER.match(data, at)
        if found is None:
            break
        start = found.end() + 2
        at = found.end() + int.from_bytes(data[found.end() : start])
        if not start <= at <= len(data):
            break
        yield found[1][0], start, at
        if found[1][0] == SOS:
            return
    raise InputError(DAMAGED)


def end_of_image(data: bytes) -> int:
    """Where a JPEG's first picture ends and what is appended begins."""
    *_, (_, _, at) = segments(data)
    for _ in range(MAX_SEGMENTS):
        found = AFTER_SCAN.search(data, at)
        if found is None:
            break
        at = found.end()
        if found[1][0] == EOI:
            return at
        at += int.from_bytes(data[at : at + 2])  # tables between scans
    raise InputError(DAMAGED)


def parse(text: bytes) -> Element:
    """A packet's tree. InputError unless it is plain XML, without a document type."""
    if len(text) > MAX_BYTES:
        raise InputError(f"its XMP has more than {MAX_BYTES >> 20} MB")
    try:
        xml = text.decode("utf-8").strip("\ufeff\0 \t\r\n")
        if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
            raise InputError("its XMP declares a document type, which XMP has not")
        if xml.count("<") > MAX_TAGS or xml.count("=") > MAX_TAGS:
            raise InputError(f"its XMP has more than {MAX_TAGS:,} elements or attributes")
        return ElementTree.fromstring(xml)
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"its XMP is damaged ({error})") from error


def read(data: bytes) -> list[Element]:
    """The XMP trees of a JPEG file: of its packet, then of its extension; empty where it has none.
    InputError for what is damaged, cut short or larger than MAX_BYTES."""
    packet, parts = _find(data)
    if packet is None:
        return []
    trees = [parse(packet)]
    guid = properties(trees, NOTE).get("HasExtendedXMP")
    if guid:
        trees.append(parse(_join(parts.get(guid.encode(), []))))
    return trees


def _find(data: bytes) -> tuple[bytes | None, dict[bytes, list[tuple[int, int, bytes]]]]:
    """The packet, and by its name the parts of each extension: (whole length, offset, bytes)."""
    packet: bytes | None = None
    parts: dict[bytes, list[tuple[int, int, bytes]]] = {}
    for marker, start, end in segments(data):
        if marker != APP1:
            continue
        if packet is None and data.startswith(PACKET, start):
            packet = data[start + len(PACKET) : end]
        elif data.startswith(EXTENSION, start):
            head = start + len(EXTENSION)
            if end < head + 40:
                raise InputError("its extended XMP is cut short")
            whole, offset = struct.unpack(">II", data[head + 32 : head + 40])
            parts.setdefault(data[head : head + 32], []).append(
                (whole, offset, data[head + 40 : end])
            )
    return packet, parts


def _join(parts: list[tuple[int, int, bytes]]) -> bytes:
    """The parts of an extension in their order; none may lack, overlap or differ on the length."""
    parts = sorted(set(parts))
    joined = b"".join(part for _, _, part in parts)
    expected = 0
    for whole, offset, part in parts:
        if offset != expected or whole != len(joined):
            break
        expected += len(part)
    if not parts or expected != len(joined):
        raise InputError("its extended XMP has parts that are missing or do not fit together")
    return joined


def properties(
    trees: Sequence[Element], namespace: str, most: int = MAX_TAGS
) -> dict[str, str]:
    """The simple properties of a namespace, wherever they are: attributes, or elements with text.
    The first of a name counts; `most` elements are looked at."""
    found: dict[str, str] = {}
    start = f"{{{namespace}}}"
    for tree in trees:
        for element in islice(tree.iter(), most):
            if element.tag.startswith(start) and len(element) == 0:
                found.setdefault(element.tag[len(start) :], (element.text or "").strip())
            for name, value in element.attrib.items():
                if name.startswith(start):
                    found.setdefault(name[len(start) :], value)
    return found


def write(data: bytes, namespace: str, small: dict[str, str], large: dict[str, str]) -> bytes:
    """A JPEG file with these properties in place of all that it has of the namespace: `small` in
    the packet, `large` in the extension. The rest of its XMP stays, pixels stay as they are."""
    trees = read(data)
    packet, extension = (trees[i] if len(trees) > i else _tree() for i in (0, 1))
    for tree, added in ((packet, small), (extension, large)):
        _drop(tree, f"{{{namespace}}}")
        _drop(tree, f"{{{NOTE}}}HasExtendedXMP")
        _description(tree).attrib.update({f"{{{namespace}}}{k}": v for k, v in added.items()})
    body = ElementTree.tostring(extension)
    guid = hashlib.md5(body, usedforsecurity=False).hexdigest().upper().encode()
    _description(packet).set(f"{{{NOTE}}}HasExtendedXMP", guid.decode())
    inserted = _segment(PACKET + ElementTree.tostring(packet))
    for at in range(0, len(body), PART):
        head = EXTENSION + guid + struct.pack(">II", len(body), at)
        inserted += _segment(head + body[at : at + PART])

    old = [
        (start - 4, end)
        for marker, start, end in segments(data)
        if marker == APP1 and data.startswith((PACKET, EXTENSION), start)
    ]
    at = 2  # behind JFIF and EXIF, which have to come first
    for marker, start, end in segments(data):
        if marker != APP0 and not (marker == APP1 and data.startswith(b"Exif", start)):
            break
        at = end
    pieces, begin = [data[:at], inserted], at
    for start, end in old:
        pieces.append(data[begin:start])
        begin = end
    return b"".join([*pieces, data[begin:]])


def without(packet: bytes, namespaces: Sequence[str]) -> bytes:
    """A packet without the properties of namespaces that begin so, and without its reference to an
    extension. InputError where it is damaged."""
    tree = parse(packet)
    for namespace in namespaces:
        _drop(tree, "{" + namespace)
    _drop(tree, f"{{{NOTE}}}HasExtendedXMP")
    return ElementTree.tostring(tree)


def _tree() -> Element:
    tree = Element(f"{{{META}}}xmpmeta")
    SubElement(SubElement(tree, f"{{{RDF}}}RDF"), f"{{{RDF}}}Description", {f"{{{RDF}}}about": ""})
    return tree


def _description(tree: Element) -> Element:
    found = next(tree.iter(f"{{{RDF}}}Description"), None)
    if found is None:
        raise InputError("its XMP has no rdf:Description; remove its XMP first")
    return found


def _drop(tree: Element, start: str) -> None:
    for element in tree.iter():
        for name in [name for name in element.attrib if name.startswith(start)]:
            del element.attrib[name]
        for child in [child for child in element if child.tag.startswith(start)]:
            element.remove(child)


def _segment(body: bytes) -> bytes:
    if len(body) > MAX_SEGMENT:
        raise InputError("its XMP has no room for more; remove its XMP first")
    return b"\xff" + bytes([APP1]) + struct.pack(">H", len(body) + 2) + body
