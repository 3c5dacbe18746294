"""`golden.npz` of a bundle: what a graph is given and what PyTorch made of it.

    image            float32 [1, 3, H, W], sRGB in 0..1      disparity          [1, 1, H, W]
and, where the bundle has the refocus graph,
    refocus_image, focus [1], blur [1]                       bokeh [1, 3, H, W], refocus_disparity
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from argan.backends import Tensors
from argan.bundle import MAX_SIDE, Bundle
from argan.errors import BundleError

FILE = "golden.npz"
MAX_BYTES = 1 << 28  # of all arrays, unpacked
NAMES = {
    "disparity": ({"image": "image"}, {"disparity": "disparity"}),
    "refocus": (
        {"image": "refocus_image", "focus": "focus", "blur": "blur"},
        {"bokeh": "bokeh", "disparity": "refocus_disparity"},
    ),
}
CHANNELS = {"image": 3, "bokeh": 3, "disparity": 1}


@dataclass(frozen=True)
class Example:
    """What a graph takes and what it should give, as `argan.backends.Backend.run` has them."""

    inputs: Tensors
    outputs: Tensors


def read(content: Bundle) -> dict[str, Example]:
    """{graph: example} of a bundle; empty where it has no golden.npz. BundleError for a file that
    is not what it should be; nothing of it is run, and no more is unpacked than MAX_BYTES."""
    if FILE not in content.files:
        return {}
    try:
        arrays = _arrays(content.files[FILE])
    except Exception as error:  # zipfile, its decompressors and numpy raise many kinds
        _fail(f"can't be read ({error})")
    graphs = {variant.graph for variant in content.variants}
    return {
        graph: _example(arrays, *NAMES[graph])
        for graph in NAMES
        if graph in graphs or graph == "disparity"
    }


def _fail(problem: str) -> NoReturn:
    raise BundleError(f"{FILE} {problem}; export the bundle again")


def _arrays(data: bytes) -> Tensors:
    """As numpy.load, but sizes are checked before memory is taken, and float32 is all there is."""
    arrays, left = {}, MAX_BYTES
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            left -= member.file_size
            if left < 0:
                raise ValueError(f"it holds more than {MAX_BYTES >> 20} MiB")
            with archive.open(member) as file:
                body = file.read(member.file_size)
            arrays[member.filename.removesuffix(".npy")] = _array(member.filename, body)
    return arrays


def _array(name: str, body: bytes) -> NDArray[np.float32]:
    file, npy = io.BytesIO(body), cast(Any, np.lib.format)
    if npy.read_magic(file) != (1, 0):
        raise ValueError(f"{name} is no .npy of version 1.0")
    shape, transposed, dtype = npy.read_array_header_1_0(file)
    if dtype != np.float32 or transposed:
        raise ValueError(f"{name} is {dtype}, not float32 in C order")
    values = body[file.tell() :]
    if len(values) != 4 * math.prod(shape):
        raise ValueError(f"{name} says it is {list(shape)}, which its size is not")
    return np.frombuffer(values, np.float32).reshape(shape)


def _example(arrays: Tensors, takes: dict[str, str], gives: dict[str, str]) -> Example:
    absent = sorted({*takes.values(), *gives.values()} - arrays.keys())
    if absent:
        _fail(f"has no {absent[0]!r}")
    height, width = (*arrays[takes["image"]].shape, 0, 0, 0, 0)[2:4]
    if not 0 < min(height, width) <= max(height, width) <= MAX_SIDE:
        _fail(f"has an image of shape {list(arrays[takes['image']].shape)}")
    for name, stored in {**takes, **gives}.items():
        wanted = (1, CHANNELS[name], height, width) if name in CHANNELS else (1,)
        if arrays[stored].shape != wanted:
            _fail(f"has {stored!r} of shape {list(arrays[stored].shape)}, not {list(wanted)}")
        if not np.isfinite(arrays[stored]).all():
            _fail(f"has NaN or infinity in {stored!r}")
    image = arrays[takes["image"]]
    if image.min() < 0 or image.max() > 1:
        _fail(f"has an image of {image.min():g} to {image.max():g}, not 0 to 1")
    return Example(
        {name: arrays[stored] for name, stored in takes.items()},
        {name: arrays[stored] for name, stored in gives.items()},
    )
