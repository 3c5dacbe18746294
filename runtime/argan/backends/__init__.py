"""What runs a network: one file per format, and one way in and out for all of them.

A model file has tensors of its own: names such as "args_0", channels first or last, whole numbers
with a scale. `open_variant` hides that: what it opens takes and gives the tensors that
`argan.bundle` describes, whatever the file wants.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from argan.bundle import Bundle, Variant
from argan.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from argan.refocus import Refocuser

Tensors = dict[str, NDArray[Any]]


class Backend(Protocol):
    """A graph ready to run, in the tensors of the bundle's manifest."""

    def run(self, inputs: Tensors) -> Tensors:
        """ "image" [1, 3, H, W] float32, sRGB in 0..1, and for the refocus graph "focus" [1] and
        "blur" [1] -> "disparity" [1, 1, H, W] float32, and "bokeh" [1, 3, H, W]. ShapeError for a
        size that the graph doesn't take, BundleError where it can't be run."""
        ...


@dataclass(frozen=True)
class Port:
    """A tensor of a model file; None is a free side. With a scale that is not 0, it stands for the
    values scale * (stored - zero_point)."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    scale: float = 0.0
    zero_point: int = 0


@dataclass(frozen=True)
class Signature:
    """A function of a model file: ONNX and Core ML have one, TFLite may have one per size."""

    name: str
    inputs: tuple[Port, ...]  # in the file's order
    outputs: tuple[Port, ...]


class Model(Protocol):
    """A model file, loaded."""

    signatures: tuple[Signature, ...]

    def run(self, inputs: Tensors, signature: str = ...) -> Tensors:
        """In the file's own names, types and layout. BundleError where it fails."""
        ...


def missing(format: str) -> str | None:
    """Why models of that format can't run here, with the command that helps; None: they can."""
    try:
        _check_present(format)
    except (MissingExtraError, InputError) as error:
        return str(error)
    return None


def open_variant(content: Bundle, variant: Variant, *, threads: int | None = None) -> Backend:
    """A variant of a bundle, ready to run; `threads` None means every core. MissingExtraError or
    InputError where its format can't run here, BundleError where its file is not what it says."""
    from argan.adapter import Adapted
    from argan.backends.canonical import Canonical

    _check_present(variant.format)
    data = content.package(variant) if variant.format == "coreml" else content.model(variant)
    model = open_model(variant.format, data, threads=threads)
    if content.adapter:
        return Adapted(model, content, content.adapter)
    return Canonical(model, content, variant)


def open_model(
    format: str, data: bytes | Mapping[str, bytes], *, threads: int | None = None
) -> Model:
    """A model file as it is; of coreml the files of its folder."""
    if isinstance(data, Mapping):
        from argan.backends.coreml import CoreML

        return CoreML(data)
    if format == "tflite":
        from argan.backends.tflite import TFLite

        return TFLite(data, threads=threads)
    from argan.backends.onnx import Onnx

    return Onnx(data, threads=threads)


def open_run(run: Path, threads: int | None = None) -> Refocuser:
    """A training run in PyTorch, without an export. The package that can is found by its entry
    point, "torch" of the group "argan.backends". MissingExtraError where there is none."""
    for entry in entry_points(group="argan.backends", name="torch"):
        try:
            refocuser: Refocuser = entry.load()(run, threads)
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "torch", "train") from error
        return refocuser
    raise MissingExtraError("torch", "train")


def _check_present(format: str) -> None:
    if format == "tflite":
        from argan.backends.tflite import PACKAGES

        if not any(map(_found, PACKAGES)):
            raise MissingExtraError("a TFLite interpreter", "tflite")
    elif format == "coreml":
        if sys.platform != "darwin":
            raise InputError("Core ML needs macOS; here use an ONNX or TFLite variant")
        if not _found("coremltools"):
            raise MissingExtraError("coremltools", "coreml")


def _found(module: str) -> bool:
    return find_spec(module.partition(".")[0]) is not None
