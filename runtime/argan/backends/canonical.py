"""A model file behind the tensors of a bundle's manifest: names, layout, whole numbers, sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from argan.backends import Model, Port, Signature, Tensors
from argan.bundle import Bundle, Variant
from argan.errors import BundleError, ShapeError

TAKES = {"disparity": ("image",), "refocus": ("image", "focus", "blur")}
GIVES = {"disparity": ("disparity",), "refocus": ("bokeh", "disparity")}
CHANNELS = {"image": 3, "disparity": 1, "bokeh": 3}  # what is not here is [1]
SIDES = {"NCHW": (2, 3), "NHWC": (1, 2)}  # the axes of height and width


class Canonical:
    """The backend: a model file of our own."""

    def __init__(self, model: Model, content: Bundle, variant: Variant) -> None:
        self.model, self.variant = model, variant
        self.multiple_of = content.image.multiple_of
        self.ports = {signature.name: self._ports(signature) for signature in model.signatures}
        for size in variant.sizes or ():
            if find_signature(model.signatures, variant.layout, size) is None:
                raise BundleError(
                    f"variant {variant.name} can't take its size {size[0]}x{size[1]}; export it"
                    " again"
                )

    def run(self, inputs: Tensors) -> Tensors:
        size = check_image(inputs["image"], self.variant, self.multiple_of)
        signature = find_signature(self.model.signatures, self.variant.layout, size)
        if signature is None:
            raise ShapeError(f"an image of {size[0]}x{size[1]}: {self.variant.name} can't take it")
        takes, gives = self.ports[signature.name]
        given = {port.name: encode(self._in(inputs[name]), port) for name, port in takes.items()}
        answers = self.model.run(given, signature.name)
        return {name: self._out(decode(answers[port.name], port)) for name, port in gives.items()}

    def _ports(self, signature: Signature) -> tuple[dict[str, Port], dict[str, Port]]:
        """What it takes and what it gives, by our names."""
        graph, layout = self.variant.graph, self.variant.layout
        takes = _match(signature.inputs, TAKES[graph], layout)
        gives = _match(signature.outputs, GIVES[graph], layout)
        if takes is None or gives is None:
            raise BundleError(
                f"variant {self.variant.name} is no {graph} graph in {layout}: its file takes"
                f" {_shapes(signature.inputs)} and gives {_shapes(signature.outputs)}"
            )
        if (takes["image"].dtype.kind == "f") != (self.variant.dtype == "float32"):
            raise BundleError(
                f"variant {self.variant.name} says its image is {self.variant.dtype}; its file"
                f" takes {takes['image'].dtype}"
            )
        return takes, gives

    def _in(self, value: NDArray[Any]) -> NDArray[Any]:
        nhwc = self.variant.layout == "NHWC" and value.ndim == 4
        return value.transpose(0, 2, 3, 1) if nhwc else value

    def _out(self, value: NDArray[np.float32]) -> NDArray[np.float32]:
        nhwc = self.variant.layout == "NHWC"
        return np.ascontiguousarray(value.transpose(0, 3, 1, 2)) if nhwc else value


def check_image(image: NDArray[Any], variant: Variant, multiple_of: int) -> tuple[int, int]:
    """(height, width) of a [1, 3, H, W] that the variant takes; else ShapeError."""
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise ShapeError(f"an image of shape {list(image.shape)}: give [1, 3, H, W]")
    height, width = image.shape[2:]
    if variant.sizes is not None and (height, width) not in variant.sizes:
        sizes = ", ".join(f"{h}x{w}" for h, w in variant.sizes)
        raise ShapeError(f"an image of {height}x{width}: {variant.name} takes {sizes}")
    if variant.sizes is None and (height % multiple_of or width % multiple_of):
        raise ShapeError(f"an image of {height}x{width}: give multiples of {multiple_of}")
    return height, width


def find_signature(
    signatures: Sequence[Signature], layout: str, size: tuple[int, int]
) -> Signature | None:
    """The one whose image may be of that size."""
    for signature in signatures:
        for port in signature.inputs:
            if len(port.shape) == 4:
                sides = (port.shape[axis] for axis in SIDES[layout])
                if all(side in (None, n) for side, n in zip(sides, size, strict=True)):
                    return signature
    return None


def encode(value: NDArray[Any], port: Port) -> NDArray[Any]:
    """What a port stores for a float32 value. Whole numbers without a scale are 0..255 for 0..1."""
    if port.dtype.kind == "f":
        return np.ascontiguousarray(value, dtype=port.dtype)
    limits = np.iinfo(port.dtype)
    stored = np.rint(value / np.float32(port.scale or 1 / 255)) + port.zero_point
    return np.ascontiguousarray(np.clip(stored, limits.min, limits.max), dtype=port.dtype)


def decode(stored: NDArray[Any], port: Port) -> NDArray[np.float32]:
    """float32 of what a port stores. Whole numbers without a scale are 0..255 for 0..1."""
    if port.dtype.kind == "f":
        return stored.astype(np.float32, copy=False)
    return (stored.astype(np.float32) - port.zero_point) * np.float32(port.scale or 1 / 255)


def _match(ports: Sequence[Port], names: tuple[str, ...], layout: str) -> dict[str, Port] | None:
    """Which port is which: by name where the names are ours, else each name takes the first port
    of its shape, in the file's order. None where that doesn't come out even."""
    if len(ports) != len(names):
        return None
    left = {port.name: port for port in ports}
    ours = left.keys() == set(names)
    found = {}
    for name in names:
        fitting = [n for n, p in left.items() if _fits(name, p, layout) and (n == name or not ours)]
        if not fitting:
            return None
        found[name] = left.pop(fitting[0])
    return found


def _fits(name: str, port: Port, layout: str) -> bool:
    if name not in CHANNELS:
        return len(port.shape) == 1
    if len(port.shape) != 4:
        return False
    first, last = port.shape[1], port.shape[3]
    channels, other = (first, last) if layout == "NCHW" else (last, first)
    return channels == CHANNELS[name] or (channels is None and other != CHANNELS[name])


def _shapes(ports: Sequence[Port]) -> str:
    def one(port: Port) -> str:
        sides = ", ".join("?" if side is None else str(side) for side in port.shape)
        return f"{port.name} {port.dtype} [{sides}]"

    return ", ".join(map(one, ports))
