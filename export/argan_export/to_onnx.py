"""PyTorch -> ONNX in float32, float16 and int8.

int8 has our own placement of the QuantizeLinear and DequantizeLinear nodes, because the usual one
loses twice on ONNX Runtime's CPU kernels (the trained default network, 256 x 256):
- Its int8 Resize truncates where it should round: 8 dB. Enlargements stay in float here.
- Without VNNI instructions (most x86 before 2019) it adds pairs of products of a uint8 and an int8
  in 16 bits, and clips: 5 dB more. Weights of dense convolutions are scaled here so that no pair is
  too large, which costs them most of a bit: 0.4 dB. Depthwise kernels add in 32 bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxslim
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnxconverter_common import float16
from torch import Tensor, nn
from torch.export import Dim

from argan.backends import Tensors
from argan.backends.canonical import encode
from argan.backends.onnx import Onnx
from argan_export.calibration import Activations, Range, affine
from argan_export.network import fold_batch_norms
from argan_export.quantize import Inputs
from argan_export.quiet import quiet
from argan_train.ar_gan_dr import MULTIPLE
from argan_train.qat import WEIGHT, weight_scale

OPSET = 18
SUFFIX = ".weight"  # of a layer's weights
MOST_BIAS = 1 << 30  # in int32, with room for the sum of products
SMALLEST_WEIGHT = 128  # values; fewer are not worth their scales


def to_onnx(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    multiple: int | None = MULTIPLE,
) -> bytes:
    """One file. inputs: an example of each, in the order of `network`'s arguments; those of rank 4
    are pictures [1, C, H, W], all of one size, whose H and W may be any multiples of `multiple`;
    where that is None, they are the examples'."""
    shapes = None
    if multiple:
        sides = {2: Dim("h", min=1, max=64) * multiple, 3: Dim("w", min=1, max=64) * multiple}
        shapes = tuple(sides if x.ndim == 4 else {} for x in inputs.values())
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(
            fold_batch_norms(network), tuple(inputs.values()), path,
            dynamo=True, opset_version=OPSET, external_data=False,
            input_names=list(inputs), output_names=list(outputs),
            dynamic_shapes=shapes,
        )  # fmt: skip
        model = onnxslim.slim(path)
    del model.metadata_props[:]
    del model.graph.value_info[:]  # as large as the weights, and spelt differently each time
    return _bytes(model)


def to_fp16(model: bytes) -> bytes:
    """Weights and arithmetic in float16; inputs and outputs stay as they are."""
    with quiet():
        half = float16.convert_float_to_float16(
            onnx.load_from_string(model), keep_io_types=True, disable_shape_infer=True
        )
    # An output that other nodes read as well: these are to read it before it is float32 again.
    outputs = {value.name for value in half.graph.output}
    narrow = {n.output[0]: n.input[0] for n in half.graph.node if n.output[0] in outputs}
    for node in half.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = narrow.get(name, name)
    return _bytes(half)


def to_int8_weights(model: bytes) -> bytes:
    """Weights in int8, a scale per output channel; arithmetic in float32. Small; no faster, and as
    fast only where they are enlarged once (ONNX Runtime: session.disable_quant_qdq)."""
    small = onnx.load_from_string(model)
    weights = [w for w in small.graph.initializer if w.name.endswith(SUFFIX)]
    nodes = []
    for weight in weights:
        values = numpy_helper.to_array(weight)
        if values.ndim == 4 and values.size >= SMALLEST_WEIGHT:
            small.graph.initializer.remove(weight)
            scale = _scale(values)
            added, node = _stored(weight.name, _levels(values, scale), scale)
            small.graph.initializer.extend(added)
            nodes.append(node)
    _replace(small.graph.node, [*nodes, *small.graph.node])
    return _bytes(small)


class OnnxGraph:
    """A float32 model whose convolutions can be quantised, as `argan_export.quantize.Graph`.

    within  name of a submodule; only the layers in it, not for example a renderer's kernels
    """

    def __init__(self, model: bytes, within: str = "", output: str = "disparity") -> None:
        self.model, self.output = model, output
        self.proto = onnx.load_from_string(model)
        self.weights = {i.name: numpy_helper.to_array(i) for i in self.proto.graph.initializer}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in self.proto.graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        prefix = f"{within}." if within else ""
        self.convolutions = {
            node.input[1].removesuffix(SUFFIX): node
            for node in self.proto.graph.node
            if node.op_type == "Conv"
            and node.input[1] in self.weights
            and node.input[1].startswith(prefix)
            and node.input[1].endswith(SUFFIX)
        }
        self.layers = list(self.convolutions)

    def activations(self, inputs: Sequence[Inputs]) -> Activations:
        watched = onnx.load_from_string(self.model)
        names = self._quantized_tensors(self.layers)
        given = {value.name for value in (*watched.graph.input, *watched.graph.output)}
        watched.graph.output.extend(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in sorted(names - given)
        )
        backend = Onnx(watched.SerializeToString(), threads=1)
        for one in inputs:
            found = {**one, **backend.run(_encoded(backend, one))}
            yield {name: found[name] for name in sorted(names)}

    def run(self, model: bytes, inputs: Sequence[Inputs]) -> list[NDArray[np.float32]]:
        backend = Onnx(model, threads=1)
        return [backend.run(_encoded(backend, one))[self.output] for one in inputs]

    def quantized(self, ranges: Mapping[str, Range], layers: Collection[str]) -> bytes:
        tensors = self._quantized_tensors(layers)
        scales = {name: affine(*ranges[name]) for name in tensors}
        model = onnx.load_from_string(self.model)
        nodes: list[NodeProto] = []
        constants: list[onnx.TensorProto] = []
        replaced: set[str] = set()  # weights and biases that are stored in int8 and int32

        def quantize(name: str) -> None:
            scale, zero = scales[name]
            constants.append(numpy_helper.from_array(np.array(scale), f"{name}_scale"))
            constants.append(numpy_helper.from_array(np.array(zero, np.uint8), f"{name}_zero"))
            parameters = [f"{name}_scale", f"{name}_zero"]
            nodes.append(_node("QuantizeLinear", [name, *parameters], f"{name}_levels"))
            nodes.append(
                _node("DequantizeLinear", [f"{name}_levels", *parameters], _quantized(name))
            )

        def store(name: str, levels: NDArray[np.integer], scale: NDArray[np.float32]) -> None:
            added, node = _stored(name, levels, scale)
            constants.extend(added)
            nodes.append(node)
            replaced.add(name)

        for value in model.graph.input:
            if value.name in tensors:
                quantize(value.name)
        chosen = {self.convolutions[layer].input[1] for layer in layers}
        for node in model.graph.node:
            if node.op_type == "Conv" and node.input[1] in chosen:
                weight = self.weights[node.input[1]]
                bias = [self.weights[name].astype(np.float64) for name in node.input[2:]]
                input_scale = scales[node.input[0]][0]
                safe = weight_scale(torch.tensor(weight)).numpy()
                needed = [np.abs(b) / (MOST_BIAS * input_scale) for b in bias]
                scale = np.max([safe, *needed], axis=0).astype(np.float32)
                unit = scale * input_scale  # of the products, to whose sum the bias is added
                store(node.input[1], _levels(weight, scale), scale)
                for name, b in zip(node.input[2:], bias, strict=True):
                    store(name, np.rint(b / unit).astype(np.int32), unit)
            for i, name in enumerate(node.input):
                if name in tensors:
                    node.input[i] = _quantized(name)
            nodes.append(node)
            for name in node.output:
                if name in tensors:
                    quantize(name)
        kept = [constant for constant in model.graph.initializer if constant.name not in replaced]
        _replace(model.graph.node, nodes)
        _replace(model.graph.initializer, [*kept, *constants])
        return _bytes(model)

    def _quantized_tensors(self, layers: Collection[str]) -> set[str]:
        """What these layers take and give, and the sums and concatenations that lie between."""
        chosen = {self.convolutions[layer].input[1] for layer in layers}
        found: set[str] = set()
        for node in self.proto.graph.node:
            if node.op_type == "Conv" and node.input[1] in chosen:
                found |= {node.input[0], self._activated(node.output[0])}
        for node in self.proto.graph.node:
            # Before a layer; after one, or after another sum.
            if node.op_type == "Concat" and node.output[0] in found:
                found |= set(node.input)
            if node.op_type == "Add" and found.issuperset(node.input):
                found.add(node.output[0])
        return found

    def _activated(self, name: str) -> str:
        """A convolution's output after its activation, which int8 arithmetic has for nothing."""
        users = self.consumers.get(name, [])
        if len(users) == 1 and users[0].op_type in ("Clip", "Relu"):
            return str(users[0].output[0])
        return name


def _encoded(backend: Onnx, inputs: Inputs) -> Tensors:
    """In the types that the file takes."""
    return {port.name: encode(inputs[port.name], port) for port in backend.signatures[0].inputs}


def _scale(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """[O, ...] -> the scale of each output channel [O] that uses all of int8."""
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    return (np.maximum(largest, 1e-8) / WEIGHT).astype(np.float32)


def _levels(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """[O, ...] in units of each channel's scale [O]."""
    per_channel = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / per_channel), -WEIGHT, WEIGHT).astype(np.int8)


def _stored(
    name: str, levels: NDArray[np.integer], scale: NDArray[np.float32]
) -> tuple[list[onnx.TensorProto], NodeProto]:
    """A constant as whole numbers, a scale per channel of its first axis, and the node that makes
    the constant of that name of them."""
    parts = {f"{name}_levels": levels, f"{name}_scale": scale,
             f"{name}_zero": np.zeros(len(scale), levels.dtype)}  # fmt: skip
    constants = [numpy_helper.from_array(value, part) for part, value in parts.items()]
    return constants, _node("DequantizeLinear", list(parts), name, axis=0)


def _quantized(name: str) -> str:
    return f"{name}_quantized"


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], name=output, **attributes)


def _replace(field, values) -> None:  # type: ignore[no-untyped-def]  # a protobuf's
    kept = list(values)
    del field[:]
    field.extend(kept)


def _bytes(model: ModelProto) -> bytes:
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
