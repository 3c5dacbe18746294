"""Writes hevc.json: two HEVC stills of a few bytes, a photo of four coloured quarters and a map of
four grey ones, each with its decoder's settings (hvcC). Needs pillow-heif, which encodes, in an
environment of its own: python tests/data/make_hevc.py
"""

import base64
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image

SEI = (39, 40)  # the encoder's advertisement


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while start < end:
        length, name = struct.unpack_from(">I4s", data, start)
        yield name, start + 8, start + length
        start += length


def still(pixels: np.ndarray) -> dict[str, object]:
    buffer = io.BytesIO()
    chroma = 420 if pixels.ndim == 3 else 444
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(buffer, quality=60, chroma=chroma)
    data = buffer.getvalue()
    outer = {name: (b, e) for name, b, e in boxes(data, 0, len(data))}
    inner = {name: (b, e) for name, b, e in boxes(data, outer[b"meta"][0] + 4, outer[b"meta"][1])}
    store = {name: (b, e) for name, b, e in boxes(data, *inner[b"iprp"])}[b"ipco"]
    settings = {name: data[b:e] for name, b, e in boxes(data, *store)}[b"hvcC"]
    (at, end), units = outer[b"mdat"], b""
    while at < end:
        length = int.from_bytes(data[at : at + 4])
        if data[at + 4] >> 1 & 63 not in SEI:
            units += data[at : at + 4 + length]
        at += 4 + length
    return {
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "hvcC": base64.b64encode(settings).decode(),
        "data": base64.b64encode(units).decode(),
    }


def quarters(values: list, height: int, width: int) -> np.ndarray:
    block = np.array(values, np.uint8)
    block = block.reshape(2, 2, *block.shape[1:])
    return block.repeat(height // 2, axis=0).repeat(width // 2, axis=1)


if __name__ == "__main__":
    colours = [[220, 40, 40], [40, 200, 40], [40, 40, 220], [230, 220, 60]]
    stills = {
        "photo": still(quarters(colours, 96, 128)),
        "depth": still(quarters([40, 100, 160, 220], 72, 96)),
    }
    Path(__file__).with_name("hevc.json").write_text(json.dumps(stills, indent=1) + "\n")
