"""All the model files of a bundle: a graph in several formats and precisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from argan.backends import Tensors
from argan.bundle import FORMATS
from argan.errors import InputError, MissingExtraError
from argan_export import to_onnx
from argan_export.network import EightBit
from argan_export.quantize import Inputs, search
from argan_train.ar_gan_dr import MULTIPLE

# What each format can be had in, most exact first.
PRECISIONS = {
    "onnx": ("fp32", "fp16", "int8-weights", "int8"),
    "tflite": ("fp32", "fp16", "int8", "int8-io"),
    "coreml": ("fp32", "fp16", "int8", "palette6"),
}
CALIBRATED = {("onnx", "int8"), ("tflite", "int8"), ("tflite", "int8-io")}
LARGEST = 2048  # px of a side of a Core ML package of free size


@dataclass(frozen=True)
class Graph:
    """What is exported.

    name      "disparity" or "refocus", see `argan.bundle`
    network   in evaluation mode
    inputs    {name: example}, in the order of the network's arguments
    outputs   names of what it gives
    sizes     (H, W) that it is made for. The disparity graph's are those of TFLite alone: the
              other formats take it at any multiple of 32
    within    name of the submodule that may be in int8; "": all of it
    """

    name: str
    network: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    within: str = ""

    @property
    def free(self) -> bool:
        return self.name == "disparity"

    def answers(self, inputs: Tensors) -> Tensors:
        """What PyTorch makes of named inputs; on one thread, for the last bits depend on it."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.no_grad():
                results = self.network(*(torch.from_numpy(inputs[name]) for name in self.inputs))
        finally:
            torch.set_num_threads(threads)
        results = results if isinstance(results, tuple) else (results,)
        return {name: y.numpy() for name, y in zip(self.outputs, results, strict=True)}


@dataclass(frozen=True)
class Calibration:
    """Photos as the graph takes them, to find ranges with and to choose by; and how much of the
    signal int8 may lose, `argan_export.quantize.Search.max_drop`."""

    calibrate: Sequence[Inputs]
    hold_out: Sequence[Inputs]
    max_drop: float


@dataclass(frozen=True)
class Made:
    """A variant: its name, its fields in the manifest, its files, and how its int8 was found."""

    name: str
    fields: dict[str, Any]
    files: dict[str, bytes]
    search: dict[str, Any] | None


def meant(formats: Sequence[str], precisions: Sequence[str]) -> list[tuple[str, str]]:
    """The (format, precision) that these mean together: "int8-io" of ONNX and TFLite is TFLite's,
    "tflite-fp16" that of TFLite alone.
    InputError for a word that means nothing here."""
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"no format {name!r}; give {', '.join(FORMATS)}")
    pairs = [
        (f, p) for f in formats for p in PRECISIONS[f] if not {p, f"{f}-{p}"}.isdisjoint(precisions)
    ]
    understood = {word for f, p in pairs for word in (p, f"{f}-{p}")}
    for precision in precisions:
        if precision not in understood:
            there = "; ".join(f"{f} has {', '.join(PRECISIONS[f])}" for f in formats)
            raise InputError(f"no precision {precision!r}: {there}")
    return pairs


def make(
    graph: Graph,
    format: str,
    precisions: Sequence[str],
    calibration: Calibration | None,
    dtype: str,
) -> Iterator[Made]:
    """The variants of one format. dtype, "float32" or "uint8", is that of an ONNX or TFLite image;
    int8-io and Core ML take whole numbers in any case. calibration: needed for CALIBRATED alone.
    MissingExtraError where the format's converter is not installed."""
    makers = {"onnx": _onnx, "tflite": _tflite, "coreml": _coreml}
    prefix = "" if graph.free else f"{graph.name}-"
    try:
        for precision, content, found in makers[format](graph, precisions, calibration, dtype):
            file = f"{prefix or 'model-'}".removesuffix("-") + f".{precision}{FORMATS[format]}"
            whole = dtype == "uint8" or precision == "int8-io" or format == "coreml"
            fields = {
                "graph": graph.name, "format": format, "precision": precision, "file": file,
                "layout": "NHWC" if format == "tflite" else "NCHW",
                "dtype": "uint8" if whole else "float32",
                "sizes": None if graph.free and format != "tflite" else [*map(list, graph.sizes)],
            }  # fmt: skip
            files = {file: content}
            if not isinstance(content, bytes):
                files = {f"{file}/{name}": data for name, data in content.items()}
            yield Made(f"{prefix}{format}-{precision}", fields, files, found)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or format, "export") from error


# Precision, file or files of a package, report of the search.
Files = Iterator[tuple[str, Any, dict[str, Any] | None]]


def _onnx(
    graph: Graph, precisions: Sequence[str], calibration: Calibration | None, dtype: str
) -> Files:
    network, inputs, within = _typed(graph, dtype)
    multiple = MULTIPLE if graph.free else None
    model = to_onnx.to_onnx(network, inputs, graph.outputs, multiple=multiple)
    for precision in precisions:
        if precision == "int8":
            yield precision, *_int8(to_onnx.OnnxGraph(model, within), calibration)
        elif precision == "int8-weights":
            yield precision, to_onnx.to_int8_weights(model), None
        else:
            yield precision, to_onnx.to_fp16(model) if precision == "fp16" else model, None


def _tflite(
    graph: Graph, precisions: Sequence[str], calibration: Calibration | None, dtype: str
) -> Files:
    from argan_export.to_tflite import TFLiteGraph, to_fp16, to_tflite

    network, inputs, within = _typed(graph, dtype)
    model = to_tflite(network, inputs, graph.outputs, graph.sizes)
    for precision in precisions:
        if precision in ("int8", "int8-io"):
            quantizable = TFLiteGraph(model, within, integer_ports=precision == "int8-io")
            yield precision, *_int8(quantizable, calibration)
        else:
            yield precision, to_fp16(model) if precision == "fp16" else model, None


def _coreml(
    graph: Graph, precisions: Sequence[str], calibration: Calibration | None, dtype: str
) -> Files:
    from argan_export.to_coreml import to_coreml

    flexible = (MULTIPLE, LARGEST) if graph.free else None
    for precision in precisions:
        package = to_coreml(
            graph.network, graph.inputs, graph.outputs, precision=precision, flexible=flexible
        )
        yield precision, package, None


def _int8(graph: Any, calibration: Calibration | None) -> tuple[bytes, dict[str, Any]]:
    assert calibration is not None
    ranges, found = search(graph, calibration.calibrate, calibration.hold_out, calibration.max_drop)
    layers = [layer for layer in graph.layers if layer not in found.kept]
    return graph.quantized(ranges, layers), found.report()


def _typed(graph: Graph, dtype: str) -> tuple[nn.Module, dict[str, Tensor], str]:
    """The network for an image of that type, its examples, and where its `within` is now."""
    inputs = dict(graph.inputs)
    if dtype == "float32":
        return graph.network, inputs, graph.within
    inputs["image"] = (inputs["image"] * 255).round().to(torch.uint8)
    within = f"network.{graph.within}" if graph.within else "network"
    return EightBit(graph.network).eval(), inputs, within
