"""PyTorch -> TFLite in float32, float16 and int8, with one signature per size.

Pictures are [1, H, W, C], as phones have them. The converter knows no free sizes: each pair of
sides is a signature "sHxW" of its own, and all share their weights.

With integer ports ("int8-io") a host gives and takes int8 by the scale and zero point of each
port: level = round(value / scale) + zero point. An image in 0..1 has scale 1 / 255 and zero point
-128, so that a camera's byte b becomes b - 128 and nothing is lost; a sigmoid's output, as the
disparity is, has scale 1 / 256 and zero point -128.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import flatbuffers
import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_quantizer import qtyping, quantizer, recipe
from ai_edge_quantizer.qtyping import TFLOperationName as OpName
from numpy.typing import NDArray
from torch import Tensor, nn

from argan.backends import Signature, Tensors
from argan.backends.canonical import decode, encode, find_signature
from argan.backends.tflite import TFLite
from argan_export.calibration import Activations, Range
from argan_export.network import ChannelsLast, fold_batch_norms
from argan_export.quantize import Inputs
from argan_export.quiet import quiet

ALIGNMENT = 16  # bytes, of a buffer with weights: the schema's
LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D")
FLOAT32 = schema.TensorType.FLOAT32
KINDS = {code: name for name, code in vars(schema.BuiltinOperator).items() if name[0] != "_"}


def to_tflite(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    sizes: Sequence[tuple[int, int]],
) -> bytes:
    """inputs: an example of each, in the order of `network`'s arguments; those of rank 4 are
    pictures, of which the channels and the type count. sizes: (height, width) of each signature."""
    with quiet():
        import litert_torch  # takes seconds

    folded = fold_batch_norms(network)
    wrapped = ChannelsLast(folded, outputs).eval()
    converter: Any = litert_torch
    for height, width in sizes:
        examples = {
            name: torch.zeros(1, height, width, x.shape[1], dtype=x.dtype) if x.ndim == 4 else x
            for name, x in inputs.items()
        }
        converter = converter.signature(f"s{height}x{width}", wrapped, sample_kwargs=examples)
    with quiet(), TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        converter.convert().export(str(path))
        return _packed(_renamed(path.read_bytes(), _convolutions(folded, inputs)))


def to_fp16(model: bytes) -> bytes:
    """Weights in float16, unpacked when the model is loaded; arithmetic as the phone has it."""
    half = qtyping.TensorQuantizationConfig(
        num_bits=16, symmetric=True, dtype=qtyping.TensorDataType.FLOAT
    )
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=half,
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    return _quantized(model, [".*"], config, "float_casting", {})


@dataclass(frozen=True)
class Op:
    """An operation of a model: its kind, the tensors it takes and gives (not its constants), and
    the path of the PyTorch module that it comes from."""

    kind: str
    graph: int
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    path: str


class TFLiteGraph:
    """A float32 model of `to_tflite` that can be quantised, as `argan_export.quantize.Graph`.

    A range counts for all signatures. What is neither a layer nor next to one that stays in float
    is quantised as well.

    within         name of a submodule; only what it computes, not for example a renderer
    integer_ports  whole numbers go in and come out of a graph that takes and gives one picture
    """

    def __init__(
        self,
        model: bytes,
        within: str = "",
        output: str = "disparity",
        integer_ports: bool = False,
    ) -> None:
        self.model, self.output, self.integer_ports = model, output, integer_ports
        self.flat = schema.ModelT.InitFromPackedBuf(model, 0)
        self.backend = TFLite(model, threads=1)
        prefix = f"{within}." if within else ""
        self.ops = [op for op in _ops(self.flat) if f"{op.path}.".startswith(prefix)]
        self.layers = list(dict.fromkeys(op.path for op in self.ops if op.kind in LAYERS))
        # The graphs are one graph at several sizes: what a tensor is called in the first.
        first = [name for op in self.ops if op.graph == 0 for name in (*op.takes, *op.gives)]
        every = [name for op in self.ops for name in (*op.takes, *op.gives)]
        self.common = {name: first[i % len(first)] for i, name in enumerate(every)}

    def activations(self, inputs: Sequence[Inputs]) -> Activations:
        interpreter = Interpreter(
            model_content=self.model,
            num_threads=1,
            experimental_preserve_all_tensors=True,
            # Delegates don't keep what lies between.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        main = {s.signatureKey.decode(): s.subgraphIndex for s in self.flat.signatureDefs}
        for one in inputs:
            signature, given = self._given(self.backend, one)
            interpreter.get_signature_runner(signature.name)(**given)
            graph = main[signature.name]
            yield {
                self.common[name]: np.array(interpreter.get_tensor(index, graph))
                for index, tensor in enumerate(self.flat.subgraphs[graph].tensors)
                if (name := tensor.name.decode()) in self.common and tensor.type == FLOAT32
            }

    def run(self, model: bytes, inputs: Sequence[Inputs]) -> list[NDArray[np.float32]]:
        backend, results = TFLite(model, threads=1), []
        for one in inputs:
            signature, given = self._given(backend, one)
            port = next(port for port in signature.outputs if port.name == self.output)
            answer = decode(backend.run(given, signature.name)[self.output], port)
            results.append(np.ascontiguousarray(answer.transpose(0, 3, 1, 2)))
        return results

    def quantized(self, ranges: Mapping[str, Range], layers: Collection[str]) -> bytes:
        ranges = {name: ranges[common] for name, common in self.common.items() if common in ranges}
        scopes = [f"^{re.escape(';'.join(op.gives))};$" for op in self._quantized_ops(set(layers))]
        if self.integer_ports:
            images = [
                graph.tensors[i].name.decode()
                for graph in self.flat.subgraphs
                for i in graph.inputs
                if graph.tensors[i].type == FLOAT32  # not bytes already
            ]
            ranges |= dict.fromkeys(images, (0.0, 1.0))
            scopes += [f"^{re.escape(name)};$" for name in images]
        config = qtyping.OpQuantizationConfig.from_dict(recipe.static_wi8_ai8()[0]["op_config"])
        float_ports = () if self.integer_ports else (OpName.INPUT, OpName.OUTPUT)
        return _quantized(
            self.model, scopes, config, "min_max_uniform_quantize", ranges, float_ports
        )

    def _quantized_ops(self, layers: set[str]) -> list[Op]:
        """These layers, and the ops that no chain of others connects to another layer."""
        rest = [op for op in self.ops if op.kind not in LAYERS]
        in_float = {
            name
            for op in self.ops
            if op.kind in LAYERS and op.path not in layers
            for name in (*op.takes, *op.gives)
        }
        while touched := [op for op in rest if not in_float.isdisjoint((*op.takes, *op.gives))]:
            in_float.update(name for op in touched for name in (*op.takes, *op.gives))
            rest = [op for op in rest if op not in touched]
        return [op for op in self.ops if op.path in layers and op.kind in LAYERS or op in rest]

    @staticmethod
    def _given(backend: TFLite, inputs: Inputs) -> tuple[Signature, Tensors]:
        """The signature for an image of that size, and what it takes."""
        height, width = inputs["image"].shape[2:]
        signature = find_signature(backend.signatures, "NHWC", (height, width))
        assert signature is not None, f"no signature for {height}x{width}"
        return signature, {
            port.name: encode(
                x.transpose(0, 2, 3, 1) if (x := inputs[port.name]).ndim == 4 else x, port
            )
            for port in signature.inputs
        }


def _quantized(
    model: bytes,
    scopes: Sequence[str],
    config: qtyping.OpQuantizationConfig,
    algorithm: str,
    ranges: Mapping[str, Range],
    float_ports: Sequence[OpName] = (),
) -> bytes:
    """scopes: patterns of the ops, which are called by what they give. An input or an output is an
    op to the tool, called as the tensor."""
    tool = quantizer.Quantizer(model)
    for scope in scopes:
        tool.update_quantization_recipe(scope, OpName.ALL_SUPPORTED, config, algorithm)
    for port in float_ports:
        tool.update_quantization_recipe(".*", port, algorithm_key="no_quantize")
    ends = {
        name: {"min": np.full((1, 1, 1, 1), lo, np.float32),
               "max": np.full((1, 1, 1, 1), hi, np.float32)}
        for name, (lo, hi) in ranges.items()
    }  # fmt: skip
    with quiet():
        result = tool.quantize(ends, enable_progress_bar=False, enable_progress_report=False)
    data = np.frombuffer(result.quantized_model, np.uint8)
    flat = schema.ModelT.InitFromPackedBuf(bytes(data), 0)
    for buffer in flat.buffers:  # the tool puts weights behind the model: back into it
        if buffer.size:
            buffer.data = data[buffer.offset : buffer.offset + buffer.size]
            buffer.offset = buffer.size = 0
    original = schema.ModelT.InitFromPackedBuf(model, 0)
    for before, after in zip(original.signatureDefs, flat.signatureDefs, strict=True):
        # The tool forgets an output that another op takes as well. Its place stays the same.
        places = list(original.subgraphs[before.subgraphIndex].outputs)
        now = flat.subgraphs[after.subgraphIndex].outputs
        for old, new in zip(before.outputs, after.outputs, strict=True):
            new.tensorIndex = int(now[places.index(old.tensorIndex)])
    return _packed(flat)


def _ops(flat: schema.ModelT) -> list[Op]:
    found: list[Op] = []
    for number, graph in enumerate(flat.subgraphs):
        paths = {name: "" for name in _names(graph, graph.inputs)}
        for op in graph.operators:
            gives = _names(graph, op.outputs)
            takes = _names(graph, [i for i in op.inputs if i >= 0 and _is_variable(flat, graph, i)])
            # An output's own name says nothing: it belongs to what it is made of.
            path = _path(gives[0]) if "/" in gives[0] else paths[takes[0]]
            paths |= dict.fromkeys(gives, path)
            found.append(Op(_kind(flat, op), number, takes, gives, path))
    return found


def _is_variable(flat: schema.ModelT, graph: schema.SubGraphT, index: int) -> bool:
    return flat.buffers[graph.tensors[index].buffer].data is None


def _names(graph: schema.SubGraphT, indices: Sequence[int]) -> tuple[str, ...]:
    return tuple(graph.tensors[i].name.decode() for i in indices)


# ---------------------------------------------------------------- names and bytes


def _convolutions(network: nn.Module, inputs: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Of all `nn.Conv2d`, in the order in which they run: the module's name, and the name as the
    converter knows it, which leaves out every `nn.ModuleList` on the way, so that several may have
    one."""
    modules = dict(network.named_modules())
    called: list[tuple[str, str]] = []

    def short(name: str) -> str:
        parts = name.split(".")
        paths = [".".join(parts[: i + 1]) for i in range(len(parts))]
        return ".".join(part for part, path in zip(parts, paths, strict=True)
                        if not isinstance(modules[path], nn.ModuleList))  # fmt: skip

    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append((name, short(name))))
        for name, module in modules.items()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        network(*inputs.values())
    for hook in hooks:
        hook.remove()
    return called


def _renamed(model: bytes, convolutions: Sequence[tuple[str, str]]) -> schema.ModelT:
    """The converter calls a tensor by hundreds of letters; here it is "sHxW/PATH:INDEX", PATH being
    that of the PyTorch module that made it. Inputs and outputs keep their names."""
    flat = schema.ModelT.InitFromPackedBuf(model, 0)
    for signature in flat.signatureDefs:
        graph = flat.subgraphs[signature.subgraphIndex]
        places = [op.outputs[0] for op in graph.operators if _kind(flat, op) in LAYERS]
        paths = [
            _module_path(tensor.name.decode(), index in places)
            for index, tensor in enumerate(graph.tensors)
        ]
        for short in {short for name, short in convolutions if name != short}:
            # Those that the converter gives one name are in a chain, and keep their order.
            names = [name for name, other in convolutions if other == short]
            found = [index for index in places if paths[index] == short]
            for index, name in zip(found, names, strict=True):
                paths[index] = name
        for index, (tensor, path) in enumerate(zip(graph.tensors, paths, strict=True)):
            if index not in (*graph.inputs, *graph.outputs):
                tensor.name = f"{signature.signatureKey.decode()}/{path}:{index}".encode()
    return flat


def _module_path(name: str, layer: bool) -> str:
    """ "a.ChannelsLast/b.DepthNet_network/c.Sequential_stem/d.Conv2d_0;3" -> "stem.0". Of several
    modules that became one op, the convolution where it is a layer, else the outermost."""
    parts = [part.partition(";")[0].split("/") for part in name.split(";;")]
    convolutions = [part for part in parts if "Conv2d" in part[-1]]
    part = convolutions[0] if layer and convolutions else min(parts, key=len)
    return ".".join(module.rpartition(".")[2].partition("_")[2] for module in part[2:])


def _kind(flat: schema.ModelT, op: schema.OperatorT) -> str:
    return KINDS[flat.operatorCodes[op.opcodeIndex].builtinCode]


def _path(name: str) -> str:
    return name.partition("/")[2].rpartition(":")[0]


class _SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """Writes equal vectors once: each signature has the same scales, zero points and names."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:
        key = (x.dtype.str, x.tobytes())
        if key not in self.written:
            if x.dtype == np.uint8:  # weights, of whatever type
                self.StartVector(1, len(x), ALIGNMENT)
                self.head -= len(x)
                self.Bytes[self.head : self.head + len(x)] = key[1]
                self.written[key] = self.EndVector()
            else:
                self.written[key] = super().CreateNumpyVector(x)
        return self.written[key]


def _packed(flat: schema.ModelT) -> bytes:
    builder = _SharingBuilder()
    builder.Finish(flat.Pack(builder), b"TFL3")
    return bytes(builder.Output())
