"""`argan lint FILE`: which ops, shapes and types of a model leave a phone's accelerators, and why.

target    of .tflite                        of .onnx (ONNX Runtime)      of .mlpackage
gpu       LiteRT's GPU delegate             -                            -
nnapi     NNAPI and the NPUs behind it      NNAPI execution provider     -
xnnpack   LiteRT's fast kernels on the CPU  XNNPACK execution provider   -
ane       -                                 Core ML execution provider   Apple's Neural Engine

error     the op runs elsewhere, and the picture is carried there and back
warning   it may run elsewhere, or slowly
note      depends on how the file is loaded or which variant is chosen; doesn't count

Where the facts come from, as of 2026:
gpu       tensorflow/compiler/mlir/lite/tools/versioning/gpu_compatibility.cc, the delegate's check
nnapi     .tflite: NNAPIDelegateKernel::Validate in tensorflow/lite/delegates/nnapi/
          nnapi_delegate.cc; .onnx: nnapi_supported_ops.md and resize_op_builder.cc of onnxruntime.
          Android 15 deprecates NNAPI; makers' own delegates take about the same ops
xnnpack   .tflite: measured op by op with ai-edge-litert 2.3.0 (is it delegated?); .onnx: the
          provider's page of the documentation and its resize.cc
ane       .onnx: coreml_supported_mlprogram_ops.md of onnxruntime. .mlpackage: Apple documents no
          list; the op catalogue and limits of ANEForge, measured on M1 to M5, and Apple's answer on
          flexible sizes (developer forums, 724930)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from argan import bundle
from argan.errors import BundleError, Error, InputError, MissingExtraError, MissingFileError

TARGETS = ("gpu", "nnapi", "xnnpack", "ane")
SEVERITIES = ("error", "warning", "note")
LARGEST_SIDE = 16384
EXAMPLES = """examples:
  argan lint flowers.argan
  argan lint model.int8.tflite --target gpu,nnapi
  argan lint model.fp16.mlpackage --json
exit code: 0 clean (notes don't count), 1 errors or warnings, 2 a file that can't be read
"""


# ---------------------------------------------------------------- a graph, whatever its format


@dataclass(frozen=True)
class Tensor:
    """shape: None is a free side, () unknown or a scalar. dtype: numpy's name, "" where unknown."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    constant: bool = False
    value: Sequence[int] = ()  # of a constant of type int32


@dataclass(frozen=True)
class Node:
    op: str
    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fed(self) -> set[str]:
        """Types of the inputs that are not constant."""
        return {t.dtype for t in self.inputs if not t.constant}


@dataclass(frozen=True)
class Graph:
    format: str  # "tflite", "onnx" or "coreml"
    nodes: tuple[Node, ...]
    inputs: tuple[Tensor, ...]

    @property
    def flexible(self) -> bool:
        """Has the caller a choice of sizes?"""
        return any(None in t.shape for t in self.inputs)

    @property
    def computed(self) -> set[str]:
        """Types of all that is not constant."""
        return {t.dtype for node in self.nodes for t in node.outputs} | {
            t.dtype for t in self.inputs
        }


class Finding(NamedTuple):
    severity: str
    op: str
    reason: str
    fix: str
    where: str


def error(node: Node, reason: str, how: str) -> Finding:
    return Finding("error", node.op, reason, how, node.name)


def warning(node: Node, reason: str, how: str) -> Finding:
    return Finding("warning", node.op, reason, how, node.name)


def note(graph: Graph, reason: str, how: str, severity: str = "note") -> Finding:
    """Of the graph as a whole."""
    return Finding(severity, "graph", reason, how, ", ".join(t.name for t in graph.inputs))


# ---------------------------------------------------------------- what each accelerator has

FLOATS, WHOLE = frozenset(("float16", "float32")), frozenset(("int8", "uint8"))
GPU = frozenset(
    "ABS ADD ADD_N ATAN2 AVERAGE_POOL_2D BATCH_MATMUL CAST CEIL CONCATENATION CONV_2D COS CUMSUM"
    " DENSIFY DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU"
    " EMBEDDING_LOOKUP EQUAL EXP FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GELU GREATER"
    " GREATER_EQUAL HARD_SWISH LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGISTIC LSTM MAXIMUM"
    " MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL ONE_HOT PACK PAD PADV2 POW PRELU"
    " QUANTIZE REDUCE_MAX REDUCE_MIN REDUCE_PROD RELU RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR"
    " RESIZE_NEAREST_NEIGHBOR RSQRT SELECT SELECT_V2 SIGN SIN SLICE SOFTMAX SPACE_TO_DEPTH SPLIT"
    " SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE STABLEHLO_CLAMP STRIDED_SLICE SUB SUM TANH TILE"
    " TRANSPOSE TRANSPOSE_CONV".split()
)
NNAPI = frozenset(
    "ABS ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND CAST CONCATENATION"
    " CONV_2D DENSIFY DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV ELU EMBEDDING_LOOKUP EQUAL"
    " EXP EXPAND_DIMS FLOOR FULLY_CONNECTED GATHER GREATER GREATER_EQUAL HARD_SWISH"
    " HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL"
    " LOCAL_RESPONSE_NORMALIZATION LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LSH_PROJECTION"
    " LSTM MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 POW PRELU"
    " QUANTIZE REDUCE_ANY REDUCE_MAX REDUCE_MIN REDUCE_PROD RELU RELU6 RELU_N1_TO_1 RESHAPE"
    " RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 RNN RSQRT SELECT SIN SLICE SOFTMAX"
    " SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH"
    " TILE TOPK_V2 TRANSPOSE TRANSPOSE_CONV".split()
)
NNAPI_FLOAT = frozenset("ABS DIV EXP LOG NEG POW RSQRT SIN SQRT".split())  # never quantised
XNNPACK_FLOAT = frozenset(
    "ABS ADD AVERAGE_POOL_2D BATCH_MATMUL CEIL CONCATENATION CONV_2D COS DEPTHWISE_CONV_2D"
    " DEPTH_TO_SPACE DEQUANTIZE DIV ELU EXP FLOOR FULLY_CONNECTED GELU HARD_SWISH LEAKY_RELU LOG"
    " LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL NEG PAD PRELU QUANTIZE REDUCE_MAX REDUCE_MIN"
    " RELU RELU6 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR ROUND RSQRT SIN SLICE SOFTMAX"
    " SPACE_TO_DEPTH SPLIT SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TRANSPOSE"
    " TRANSPOSE_CONV".split()
)
XNNPACK_INT8 = frozenset(
    "ADD CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE FULLY_CONNECTED"
    " LEAKY_RELU LOGISTIC MAX_POOL_2D MEAN MUL PAD QUANTIZE REDUCE_MAX REDUCE_MIN RESHAPE"
    " RESIZE_BILINEAR SLICE SPACE_TO_DEPTH SPLIT STRIDED_SLICE SUB SUM TANH TRANSPOSE"
    " TRANSPOSE_CONV".split()
)
ORT_NNAPI = frozenset(
    "Abs Add AveragePool Cast Clip Concat Conv DepthToSpace DequantizeLinear Div Elu Exp Flatten"
    " Floor Gather Gemm GlobalAveragePool GlobalMaxPool Identity Log MatMul MaxPool Max Min Mul"
    " Neg Pad Pow PRelu QLinearConv QLinearMatMul QuantizeLinear Relu Reshape Resize Sigmoid Sin"
    " Slice Softmax Sqrt Squeeze Sub Tanh Transpose Unsqueeze QLinearAdd QLinearAveragePool"
    " QLinearSigmoid".split()
)
ORT_COREML = frozenset(
    "Add ArgMax AveragePool Cast Clip Concat Conv ConvTranspose Cos DepthToSpace Ceil Div Elu Erf"
    " Exp FusedConv GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool GridSample"
    " GroupNormalization HardSigmoid Identity InstanceNormalization LayerNormalization LeakyRelu"
    " MatMul MaxPool Max Mul Pow PRelu QuickGelu Range Reciprocal ReduceMax ReduceMean ReduceSum"
    " Relu Reshape Resize Round Shape Sigmoid Sin Slice Softmax Softplus Split Sqrt Squeeze Sub"
    " Tanh Tile Transpose Unsqueeze".split()
)
ORT_SLOW = frozenset(
    "Einsum GRU GatherElements GatherND GridSample If LSTM Loop NonZero RNN Scan ScatterElements"
    " ScatterND".split()
)
FUSED = frozenset("Clip DequantizeLinear QuantizeLinear Relu".split())  # with their neighbours
PLANAR = frozenset("AveragePool Conv ConvTranspose MaxPool QLinearConv".split())
ANE_NEVER = frozenset(
    "acos acosh asin asinh atanh band_part cond constexpr_cast cosh gru list_gather list_length"
    " list_read list_scatter list_write logical_and logical_or logical_xor lstm make_list mod"
    " non_maximum_suppression non_zero one_hot random_bernoulli random_categorical random_normal"
    " reduce_prod reverse_sequence rnn scatter scatter_along_axis scatter_nd shape sinh"
    " sliding_windows tan while_loop".split()
)
ANE_SOME = {  # op: from which chips on
    **dict.fromkeys(
        "affine argsort crop_resize gather gather_along_axis gather_nd resample topk".split(), "A14"
    ),
    **dict.fromkeys("cos random_uniform reduce_argmin sin".split(), "A15"),
}

ANE_KERNEL = 13

INDEXING = "shift by slicing and padding, or by a depthwise convolution"
FIXES = {
    **dict.fromkeys(
        "GATHER GATHER_ND SCATTER_ND Gather GatherND GatherElements ScatterND ScatterElements"
        " GridSample gather gather_nd gather_along_axis resample scatter scatter_nd".split(),
        INDEXING,
    ),
    **dict.fromkeys(
        "MIRROR_PAD Pad pad".split(), "repeat the edge: concatenate slices, or pad by a constant"
    ),
    "ConvTranspose": "enlarge by Resize, then convolve",
    "HardSwish": "train with ReLU6",
    "LOGICAL_NOT": "compare the other way round",
    "POW": "EXP(y * LOG(x)), for x > 0",
    "RESIZE_NEAREST_NEIGHBOR": "RESIZE_BILINEAR",
    "SELECT": "mask * a + (1 - mask) * b, with a mask from MINIMUM and MAXIMUM",
    "SELECT_V2": "mask * a + (1 - mask) * b, with a mask from MINIMUM and MAXIMUM",
    "SQUEEZE": "RESHAPE",
    "EXPAND_DIMS": "RESHAPE",
    "BROADCAST_TO": "let ADD or MUL broadcast by itself",
    "TILE": "let ADD or MUL broadcast by itself",
    "shape": "fix the sizes at export",
}
FIX_SIDES = "fix them when loading: add_free_dimension_override_by_name"
REWRITE = "write it with ops that are there, or move it out of the graph"


def fix(op: str) -> str:
    return FIXES.get(op, REWRITE)


# ---------------------------------------------------------------- rules for all formats


def missing(graph: Graph, ops: frozenset[str], who: str) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.op not in ops:
            yield error(node, f"{who} has no {node.op}", fix(node.op))


def tensors(graph: Graph, rank: int) -> Iterator[Finding]:
    """What no accelerator takes, of all that is computed."""
    ports = Node("input", "input", (), graph.inputs)
    for node in (ports, *graph.nodes):
        for t in node.outputs:
            if len(t.shape) > rank:
                yield error(node, f"a tensor of rank {len(t.shape)}, above {rank}", "merge axes")
            if max((side or 0 for side in t.shape), default=0) > LARGEST_SIDE:
                yield error(node, f"a side longer than {LARGEST_SIDE}", "work in tiles")
            if t.dtype in ("int64", "float64"):
                how = "use int32 or float32, or fold it into a constant"
                yield error(node, f"{t.dtype} is computed", how)
    for t in graph.inputs:
        if len(t.shape) == 4 and t.shape[0] not in (1, None):
            reason = f"a batch of {t.shape[0]}: many fast paths are for one picture"
            yield warning(ports, reason, "export for a batch of 1")


def between(graph: Graph, dtypes: frozenset[str]) -> set[str]:
    """Names of the nodes that come after and before tensors of such types and give none."""
    after: set[str] = set()
    for node in graph.nodes:
        if node.fed & dtypes or any(t.name in after for t in node.inputs):
            after |= {t.name for t in node.outputs}
    before: set[str] = set()
    for node in reversed(graph.nodes):
        if any(t.dtype in dtypes or t.name in before for t in node.outputs):
            before |= {t.name for t in node.inputs}
    return {
        node.name
        for node in graph.nodes
        for t in node.outputs
        if t.dtype not in dtypes and t.name in after & before
    }


# ---------------------------------------------------------------- rules for .tflite


def static(graph: Graph) -> Iterator[Finding]:
    if graph.flexible:
        how = "export one signature per size"
        yield note(graph, "a side is free: delegates take fixed sizes alone", how, "error")


def tflite_gpu(graph: Graph) -> Iterator[Finding]:
    yield from static(graph)
    yield from missing(graph, GPU, "the GPU delegate")
    yield from tensors(graph, rank=4)
    for node in graph.nodes:
        for reason, how in gpu_limits(node):
            yield error(node, reason, how)


def gpu_limits(node: Node) -> Iterator[tuple[str, str]]:
    """-> reason, fix."""
    given, options = [t.shape for t in node.inputs], node.attributes
    if "int16" in node.fed:
        yield "int16 is computed", "use float16, float32 or int8"
    if node.op in ("SLICE", "STRIDED_SLICE") and len(given[0]) not in (3, 4):
        yield f"of a tensor of rank {len(given[0])}, not 3 or 4", "reshape it to rank 4"
    masks = ("ellipsisMask", "newAxisMask", "shrinkAxisMask")
    if node.op == "STRIDED_SLICE" and any(options.get(mask) for mask in masks):
        yield "it adds or drops axes", "slice with all axes, then RESHAPE"
    if node.op in ("PAD", "PADV2", "MIRROR_PAD") and given[1] not in ((3, 2), (4, 2)):
        yield f"paddings {list(given[1])}, not [4, 2]", "pad a tensor of rank 4"
    if node.op == "MIRROR_PAD" and options.get("mode", 0) != 0:
        yield "its mode is SYMMETRIC", fix(node.op)
    if (
        node.op == "RESIZE_BILINEAR"
        and options.get("alignCorners")
        and options.get("halfPixelCenters")
    ):
        yield "align_corners with half_pixel_centers", "half_pixel_centers alone"
    if node.op == "SOFTMAX" and options.get("beta", 1) != 1:
        yield f"beta is {options['beta']:g}", "scale its input instead"
    if node.op == "GATHER" and (len(given[1]) != 1 or node.inputs[0].dtype == "int32"):
        yield "of whole numbers, or by indices of other than one axis", INDEXING
    if node.op == "DEPTHWISE_CONV_2D" and options.get("depthMultiplier", 1) != 1 != given[0][3]:
        yield "several outputs per channel", "concatenate convolutions of one each"
    if node.op == "MUL" and len(given[0]) == len(given[1]):
        pairs = [(a or 0, b or 0) for a, b in zip(*given, strict=True)]
        if any(a < b for a, b in pairs) and any(a > b for a, b in pairs):
            yield "both factors are broadcast", "make one of them full-size"


def tflite_nnapi(graph: Graph) -> Iterator[Finding]:
    yield from static(graph)
    yield from missing(graph, NNAPI, "NNAPI")
    yield from tensors(graph, rank=4)
    islands = between(graph, WHOLE)
    if not graph.computed & WHOLE:
        yield note(graph, "an NPU for int8 takes no float graph", "use the int8 file there")
    for node in graph.nodes:
        if node.op in NNAPI_FLOAT and node.fed & WHOLE:
            yield error(node, f"NNAPI has {node.op} in float alone", "leave it unquantised")
        if "int16" in node.fed:
            yield error(node, "int16 is computed", "use int8")
        if node.fed & FLOATS and any(t.constant and t.dtype == "int8" for t in node.inputs):
            how = "quantise the pictures too (static int8), or use fp16"
            yield error(node, "int8 weights on float pictures", how)
        elif node.name in islands and node.op not in ("QUANTIZE", "DEQUANTIZE"):
            reason = "float between quantised ops: off an NPU for int8 and back"
            yield warning(node, reason, "quantise it as well")


def tflite_xnnpack(graph: Graph) -> Iterator[Finding]:
    yield from static(graph)
    for node in graph.nodes:
        kind, ops = ("int8", XNNPACK_INT8) if node.fed & WHOLE else ("float", XNNPACK_FLOAT)
        if "int16" in node.fed:
            yield warning(node, "XNNPACK computes no int16: slow kernels do", "use int8")
        elif node.op not in ops:
            reason = f"XNNPACK has no {node.op} in {kind}: slower kernels do it"
            yield warning(node, reason, fix(node.op))
        elif node.op == "STRIDED_SLICE" and any(step != 1 for step in node.inputs[3].value):
            reason = "XNNPACK slices without gaps alone"
            yield warning(node, reason, "an average pool, or a convolution")


# ---------------------------------------------------------------- rules for .onnx


def onnx_nnapi(graph: Graph) -> Iterator[Finding]:
    yield from missing(graph, ORT_NNAPI, "the NNAPI provider")
    yield from tensors(graph, rank=4)
    if graph.flexible:
        yield note(graph, "a side is free: NNAPI takes fixed sizes alone", FIX_SIDES)
    if "float16" in graph.computed:
        how = "use the fp32 or int8 file there"
        yield note(graph, "the NNAPI provider takes float32 and 8 bits, no float16", how)
    makers = {t.name: node.op for node in graph.nodes for t in node.outputs}
    islands = between(graph, WHOLE)
    for node in graph.nodes:
        for reason, how in (*planar(node), *nnapi_limits(node)):
            yield error(node, reason, how)
        sources = {makers.get(t.name) for t in node.inputs if not t.constant}
        if node.name in islands and node.op not in FUSED and sources != {"DequantizeLinear"}:
            reason = "float between quantised ops: NNAPI takes it, an NPU for int8 hands it back"
            how = "quantise it as well, if the NPU is worth its rounding"
            yield Finding("note", node.op, reason, how, node.name)


def nnapi_limits(node: Node) -> Iterator[tuple[str, str]]:
    options = node.attributes
    if node.op == "Pad" and options.get("mode", "constant") != "constant":
        yield f"its mode is {options['mode']}, not constant", fix(node.op)
    if node.op == "DepthToSpace" and options.get("mode", "DCR") != "DCR":
        yield "its mode is CRD", "permute the channels before it, for mode DCR"
    if node.op == "Resize":
        mode = options.get("mode", "nearest")
        grid = options.get("coordinate_transformation_mode", "half_pixel")
        rounding = options.get("nearest_mode", "round_prefer_floor")
        if mode == "linear" and grid not in ("half_pixel", "align_corners", "asymmetric"):
            yield f"linear with {grid}", "linear with half_pixel"
        if mode == "nearest" and (grid, rounding) != ("asymmetric", "floor"):
            yield f"nearest with {grid} and {rounding}", "linear with half_pixel"
        yield from resize_limits(node)


def resize_limits(node: Node) -> Iterator[tuple[str, str]]:
    """Of a Resize, whatever the provider."""
    if node.attributes.get("mode") == "cubic":
        yield "cubic", "linear"
    if node.attributes.get("antialias"):
        yield "antialias", "an average pool"
    if node.attributes.get("axes"):
        yield "sizes of some axes", "scales of all axes"
    if not any(t.constant and t.shape != (0,) for t in node.inputs[1:]):
        yield "its size is computed when it runs", "give constant scales"


def planar(node: Node) -> Iterator[tuple[str, str]]:
    if node.op in PLANAR and len(node.inputs[0].shape) not in (0, 4):
        yield f"{len(node.inputs[0].shape) - 2}-D; only 2-D is there", "reshape to rank 4"
    if node.op in ("Conv", "ConvTranspose") and not node.inputs[1].constant:
        yield "its weights are computed", "constant weights"


def onnx_xnnpack(graph: Graph) -> Iterator[Finding]:
    """What this provider leaves to ORT's other kernels on the same CPU costs nothing, but where it
    is heavy."""
    if "float16" in graph.computed:
        reason = "the CPU's kernels take float32 and 8 bits, and convert float16 around each op"
        yield note(graph, reason, "use the fp32 or int8 file there")
    for node in graph.nodes:
        limits = list(planar(node))
        if node.op == "Resize":
            limits += resize_limits(node)
            if node.attributes.get("mode", "nearest") == "nearest":
                limits.append(("nearest", "linear"))
        if node.op in ORT_SLOW:
            limits.append((f"XNNPACK has no {node.op}, and ORT's own is slow", fix(node.op)))
        for reason, how in limits:
            yield warning(node, reason, how)


def onnx_ane(graph: Graph) -> Iterator[Finding]:
    stored = ("QuantizeLinear", "DequantizeLinear")
    rest = Graph(graph.format, tuple(n for n in graph.nodes if n.op not in stored), graph.inputs)
    if rest != graph:
        how = "use the fp32 file there, or an .mlpackage"
        yield note(graph, "the Core ML provider has no quantised ops", how)
    if graph.flexible:
        yield note(graph, "a side is free: Core ML prefers fixed sizes", FIX_SIDES)
    yield from missing(rest, ORT_COREML, "the Core ML provider")
    yield from tensors(rest, rank=5)
    for node in rest.nodes:
        for reason, how in resize_limits(node) if node.op == "Resize" else ():
            yield error(node, reason, how)


# ---------------------------------------------------------------- rules for .mlpackage


def coreml_ane(graph: Graph) -> Iterator[Finding]:
    yield from tensors(graph, rank=5)
    if graph.flexible:
        how = "make the usual size the default, or list the sizes (EnumeratedShapes)"
        yield note(graph, "a range of sizes: the Neural Engine runs the default one alone", how)
    if "float16" not in graph.computed:
        yield note(graph, "the Neural Engine computes no float32", "use the fp16 file there")
    islands = between(graph, frozenset(("float16",)))
    for node in graph.nodes:
        if node.op in ANE_NEVER:
            yield error(node, f"the Neural Engine has no {node.op}", fix(node.op))
        if node.op in ANE_SOME:
            reason = f"the Neural Engine has {node.op} from {ANE_SOME[node.op]} on, within limits"
            yield warning(node, reason, fix(node.op))
        if node.name in islands and node.op != "cast":
            reason = "float32 between float16 ops: off the Neural Engine and back"
            yield warning(node, reason, "compute it in float16")
        if node.op != "cast" and any(t.dtype == "int32" for t in node.outputs):
            yield warning(node, "int32 is computed", "fold it into a constant")
        if node.op == "pad" and node.attributes["mode"] == "reflect":
            yield warning(node, "the Neural Engine reflects edges from A14 on", fix(node.op))
        if node.op == "conv" and max(node.inputs[1].shape[2:]) > ANE_KERNEL:  # type: ignore[type-var,operator]
            reason = f"a kernel of more than {ANE_KERNEL} px, which the oldest don't take"
            yield warning(node, reason, "several smaller ones, or a smaller picture")


Rule = Callable[[Graph], Iterator[Finding]]
RULES: dict[str, dict[str, Rule]] = {
    "tflite": {"gpu": tflite_gpu, "nnapi": tflite_nnapi, "xnnpack": tflite_xnnpack},
    "onnx": {"nnapi": onnx_nnapi, "xnnpack": onnx_xnnpack, "ane": onnx_ane},
    "coreml": {"ane": coreml_ane},
}


# ---------------------------------------------------------------- reading


def read_tflite(data: bytes) -> list[Graph]:
    """One per signature."""
    from ai_edge_litert import schema_py_generated as schema

    if data[4:8] != b"TFL3":
        raise BundleError("no .tflite file; export it again")
    try:
        model = schema.ModelT.InitFromPackedBuf(data)
        return [tflite_graph(schema, model, graph) for graph in model.subgraphs]
    except Exception as problem:  # whatever reading beyond the end raises
        raise BundleError(f"damaged ({type(problem).__name__}); export it again") from problem


def tflite_graph(schema: Any, model: Any, graph: Any) -> Graph:
    ops = {code: name for name, code in vars(schema.BuiltinOperator).items() if name[0] != "_"}
    dtypes = {code: name.lower() for name, code in vars(schema.TensorType).items()}
    made = {*graph.inputs, *(i for op in graph.operators for i in op.outputs)}

    def tensor(i: int) -> Tensor:
        t = graph.tensors[i]
        sides = [] if t.shape is None else t.shape if t.shapeSignature is None else t.shapeSignature
        shape = tuple(None if side < 0 else int(side) for side in sides)
        stored = model.buffers[t.buffer].data if dtypes[t.type] == "int32" else None
        value = [] if stored is None else np.asarray(stored, np.uint8).view(np.int32).tolist()
        return Tensor(text(t.name), shape, dtypes[t.type], i not in made, value)

    nodes = []
    for op in graph.operators:
        code = model.operatorCodes[op.opcodeIndex]
        name = ops[max(code.builtinCode, code.deprecatedBuiltinCode)]
        inputs = tuple(tensor(i) for i in op.inputs if i >= 0)
        outputs = tuple(tensor(i) for i in op.outputs)
        options = vars(op.builtinOptions) if op.builtinOptions else {}
        shown = text(code.customCode) if name == "CUSTOM" else name
        nodes.append(Node(shown, outputs[0].name, inputs, outputs, options))
    return Graph("tflite", tuple(nodes), tuple(tensor(i) for i in graph.inputs))


def text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def read_onnx(data: bytes) -> list[Graph]:
    import onnx
    from onnx import helper, numpy_helper, shape_inference

    try:
        graph = shape_inference.infer_shapes(onnx.load_from_string(data), data_prop=True).graph
    except Exception as problem:  # protobuf's, and onnx's own
        raise BundleError(f"damaged ({type(problem).__name__}); export it again") from problem
    if not graph.node:
        raise BundleError("no .onnx file with a graph; export it again")
    known: dict[str, Tensor] = {}
    for port in (*graph.input, *graph.value_info, *graph.output):
        kind = port.type.tensor_type
        shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
        known[port.name] = Tensor(port.name, shape, dtype)
    for weight in graph.initializer:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(weight.data_type)).name
        known[weight.name] = Tensor(weight.name, tuple(weight.dims), dtype, constant=True)
    nodes = []
    for op in graph.node:
        inputs, outputs = (
            tuple(known.get(name, Tensor(name, (), "")) for name in names if name)
            for names in (op.input, op.output)
        )
        if op.op_type in ("Constant", "DequantizeLinear") and all(t.constant for t in inputs):
            values = [numpy_helper.to_array(a.t).shape for a in op.attribute if a.name == "value"]
            shape = inputs[0].shape if inputs else (*values, ())[0]
            known[op.output[0]] = Tensor(op.output[0], shape, outputs[0].dtype, constant=True)
            continue
        options = {a.name: helper.get_attribute_value(a) for a in op.attribute}
        options = {k: text(v) if isinstance(v, bytes) else v for k, v in options.items()}
        nodes.append(Node(op.op_type, op.name or op.output[0], inputs, outputs, options))
    ports = (known[port.name] for port in graph.input)
    return [Graph("onnx", tuple(nodes), tuple(t for t in ports if not t.constant))]


def read_coreml(files: Mapping[str, bytes]) -> list[Graph]:
    from argan_export import mil_eval

    return [coreml_graph(mil_eval.read(files)[1])]


def coreml_graph(function: Any) -> Graph:
    """Of a pymil function, see `mil_eval.read`."""
    from coremltools.converters.mil.mil.types import builtin_to_string

    from argan_export.mil_eval import sides

    kinds = {op.op_type for op in function.operations}
    constant = {kind for kind in kinds if kind.startswith("const")} - ANE_NEVER

    def tensor(var: Any) -> Tensor:
        dtype = builtin_to_string(var.dtype).replace("fp", "float")
        fixed = var.op is not None and var.op.op_type in constant
        return Tensor(var.name, sides(var), dtype, fixed)

    nodes = []
    for op in function.operations:
        given = {name: var for name, var in op.inputs.items() if var is not None}
        lists = [v if isinstance(v, list | tuple) else [v] for v in given.values()]
        inputs = tuple(tensor(var) for variables in lists for var in variables)
        options = {name: getattr(var, "val", None) for name, var in given.items()}
        if op.op_type not in constant:
            outputs = tuple(tensor(var) for var in op.outputs)
            nodes.append(Node(op.op_type, op.name, inputs, outputs, options))
    return Graph("coreml", tuple(nodes), tuple(map(tensor, function.inputs.values())))


READERS: dict[str, Callable[[Any], list[Graph]]] = {
    ".onnx": read_onnx,
    ".tflite": read_tflite,
    ".mlpackage": read_coreml,
}


def models(path: Path) -> dict[str, bytes | dict[str, bytes]]:
    """The model files in what `path` names: content, or of an .mlpackage its files."""
    if not path.exists():
        raise MissingFileError(f"{path} does not exist; name a model or a bundle")
    if path.suffix == ".argan":
        members = bundle.read(path).files
    elif path.suffix == ".mlpackage" and path.is_dir():
        files = (p for p in sorted(path.rglob("*")) if p.is_file())
        members = {p.relative_to(path.parent).as_posix(): p.read_bytes() for p in files}
    elif path.suffix in (".onnx", ".tflite") and path.is_file():
        members = {path.name: path.read_bytes()}
    else:
        raise InputError(f"{path}: give an .onnx, .tflite, .mlpackage or .argan")
    found: dict[str, Any] = {}
    for name, data in members.items():
        folder, inside, member = name.partition(".mlpackage/")
        if inside:
            found.setdefault(f"{folder}.mlpackage", {})[member] = data
        elif Path(name).suffix in READERS:
            found[name] = data
    return found


# ---------------------------------------------------------------- the command


def lint(path: Path, targets: Sequence[str] = TARGETS) -> dict[str, Any]:
    """{"file", "models": {name: {"targets": those that apply, "findings": [...]}}}, for JSON;
    equal findings are one, with the places."""
    results: dict[str, Any] = {}
    for name, content in sorted(models(path).items()):
        where = path if name == path.name else path / name
        try:
            graphs = READERS[Path(name).suffix](content)
            rules = {t: rule for t, rule in RULES[graphs[0].format].items() if t in targets}
            results[name] = {"targets": list(rules), "findings": collected(graphs, rules)}
        except BundleError as problem:
            raise BundleError(f"{where}: {problem}") from problem
        except ModuleNotFoundError as problem:
            extra = {".onnx": "export", ".tflite": "tflite"}.get(where.suffix, "export,coreml")
            raise MissingExtraError(str(problem.name), extra) from problem
        except (IndexError, KeyError) as problem:  # an op without what all of its kind have
            raise BundleError(f"{where}: damaged ({problem!r}); export it again") from problem
    if not any(one["targets"] for one in results.values()):
        raise InputError(f"{path} has nothing to check for {','.join(targets)}")
    return {"file": str(path), "models": results}


def collected(graphs: Sequence[Graph], rules: Mapping[str, Rule]) -> list[dict[str, Any]]:
    places: dict[tuple[str, ...], list[str]] = {}
    for target, rule in rules.items():
        for graph in graphs:
            for found in rule(graph):
                places.setdefault((target, *found[:-1]), []).append(found.where)
    findings = [
        dict(zip(("target", *Finding._fields), (*key, where), strict=True))
        for key, where in places.items()
    ]
    return sorted(findings, key=lambda one: SEVERITIES.index(str(one["severity"])))


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    for name, model in result["models"].items():
        counts = Counter(one["severity"] for one in model["findings"])
        said = ", ".join(f"{n} {severity}{'s' * (n > 1)}" for severity, n in counts.items())
        targets = ", ".join(model["targets"])
        yield f"{name} ({targets}): {said or 'clean'}" if targets else f"{name}: not checked"
        for one in model["findings"]:
            first, more = one["where"][0], len(one["where"]) - 1
            where = f"{first} and {more} more" if more else first
            yield f"  {one['severity']:8} {one['target']:8} {one['op']}: {one['reason']}"
            yield f"  {'':17} fix: {one['fix']} ({where})"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "argan lint", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Ops, shapes and types of a model that leave a phone's accelerators.",
    )  # fmt: skip
    parser.add_argument("file", type=Path, help=".onnx, .tflite, .mlpackage or a bundle, .argan")
    parser.add_argument("--target", default=",".join(TARGETS), help="some of %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(argv)
    targets = arguments.target.split(",")
    try:
        for target in targets:
            if target not in TARGETS:
                raise InputError(f"no target {target!r}; use some of {','.join(TARGETS)}")
        result = lint(arguments.file, targets)
    except Error as problem:
        print(f"argan: {problem}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=1) if arguments.json else "\n".join(lines(result)))
    counted = [f for m in result["models"].values() for f in m["findings"]]
    return int(any(found["severity"] != "note" for found in counted))
