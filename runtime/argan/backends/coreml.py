"""Core ML, by coremltools; on macOS only."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from argan.backends import Port, Signature, Tensors
from argan.errors import BundleError, MissingExtraError


class CoreML:
    """`package` is the content of a .mlpackage, {name within it: content}."""

    def __init__(self, package: Mapping[str, bytes]) -> None:
        try:
            from coremltools.models import MLModel
        except ImportError as error:
            raise MissingExtraError("coremltools", "coreml") from error
        folder = tempfile.mkdtemp(suffix=".mlpackage")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        for name, data in package.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        try:
            self.model = MLModel(folder)
            about = self.model.get_spec().description
        except Exception as error:  # coremltools and Core ML raise what they like
            raise BundleError(f"Core ML can't load the model: {_brief(error)}") from error
        function = Signature("", _ports(about.input), _ports(about.output))
        self.signatures: tuple[Signature, ...] = (function,)

    def run(self, inputs: Tensors, signature: str = "") -> Tensors:
        given: dict[str, Any] = {
            name: value if value.dtype != np.uint8 else Image.fromarray(value[0].transpose(1, 2, 0))
            for name, value in inputs.items()
        }
        try:
            return dict(self.model.predict(given))
        except Exception as error:
            raise BundleError(f"Core ML can't run the model: {_brief(error)}") from error


def _ports(features: Iterable[Any]) -> tuple[Port, ...]:
    return tuple(_port(feature) for feature in features)


def _port(feature: Any) -> Port:
    """An image is uint8 [1, 3, H, W]. Flexible sides are free; whether a size is among them is what
    Core ML itself says when it runs."""
    if feature.type.WhichOneof("Type") == "imageType":
        return Port(feature.name, (1, 3, None, None), np.dtype(np.uint8))
    array = feature.type.multiArrayType
    flexible = array.WhichOneof("ShapeFlexibility") is not None
    sides = [None if flexible and axis >= 2 else int(side) for axis, side in enumerate(array.shape)]
    shape = tuple(sides) if sides else (1, None, None, None)  # of an output it may not be known
    return Port(feature.name, shape, np.dtype(np.float32))


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
