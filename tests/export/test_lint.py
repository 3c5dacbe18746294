"""What leaves a phone's accelerators is found, with a planted graph for each rule; no more."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("ai_edge_litert")

import flatbuffers
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from argan import bundle
from argan_export import lint

ROOT = Path(__file__).parents[2]
Found = list[tuple[str, str]]  # severity and "op: reason"


def check(graphs: list[lint.Graph], target: str) -> Found:
    rule = lint.RULES[graphs[0].format][target]
    return [(f.severity, f"{f.op}: {f.reason}") for graph in graphs for f in rule(graph)]


def counted(found: Found) -> Found:
    return [one for one in found if one[0] != "note"]


# ---------------------------------------------------------------- .tflite


class Port:
    """A tensor of a graph in the making; with a value it is constant."""

    def __init__(self, shape: Any, dtype: str = "FLOAT32", value: Any = None, **free: Any) -> None:
        self.shape, self.dtype, self.value, self.free = list(shape), dtype, value, free


def ints(value: Any) -> Port:
    return Port(np.shape(value), "INT32", np.array(value, np.int32))


def tflite(*ops: tuple[str, list[Port], list[Port], dict[str, Any]]) -> bytes:
    """ops: name, inputs, outputs, options. What no op gives and has no value is an input."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.operatorCodes = 3, [schema.BufferT()], []
    graph.name, graph.tensors, graph.operators = "main", [], []
    places: dict[Port, int] = {}

    def place(port: Port) -> int:
        if port not in places:
            places[port] = len(graph.tensors)
            tensor = schema.TensorT()
            tensor.name, tensor.shape = f"t{places[port]}", port.shape
            tensor.type, tensor.buffer = getattr(schema.TensorType, port.dtype), 0
            tensor.shapeSignature = port.free.get("signature")
            if port.value is not None:
                buffer = schema.BufferT()
                buffer.data = np.frombuffer(np.ascontiguousarray(port.value).tobytes(), np.uint8)
                tensor.buffer = len(model.buffers)
                model.buffers.append(buffer)
            if port.dtype in ("INT8", "INT16"):
                tensor.quantization = schema.QuantizationParametersT()
                tensor.quantization.scale = [port.free.get("scale", 1 / 16)]
                tensor.quantization.zeroPoint = [port.free.get("zero", 0)]
            graph.tensors.append(tensor)
        return places[port]

    for name, inputs, outputs, options in ops:
        code, op = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = options.pop("version", 1)
        if name == "CUSTOM":
            code.customCode = options.pop("code")
        op.opcodeIndex = len(model.operatorCodes)
        op.inputs, op.outputs = [place(p) for p in inputs], [place(p) for p in outputs]
        table = options.pop("table", name.title().replace("_", "") + "Options")
        if hasattr(schema, f"{table}T"):
            op.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            op.builtinOptions = getattr(schema, f"{table}T")()
            for key, value in options.items():
                assert hasattr(op.builtinOptions, key)
                setattr(op.builtinOptions, key, value)
        model.operatorCodes.append(code)
        graph.operators.append(op)
    made = {i for op in graph.operators for i in op.outputs}
    graph.inputs = [i for port, i in places.items() if i not in made and port.value is None]
    graph.outputs = [places[port] for port in ops[-1][2]]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


PICTURE = (1, 8, 8, 4)


def picture(dtype: str = "FLOAT32", shape: Any = PICTURE, **free: Any) -> Port:
    return Port(shape, dtype, **free)


def one(op: str, *inputs: Port, out: Port | None = None, **options: Any) -> bytes:
    return tflite((op, list(inputs), [out or picture(inputs[0].dtype)], options))


WIDE = picture(shape=(1, 10, 10, 4))
PADDINGS = ints([[0, 0], [1, 1], [1, 1], [0, 0]])
HALF = picture(shape=(1, 4, 4, 4))


def mixed(dtype: str) -> bytes:
    """int8, then a float op, then int8 again."""
    a, b, c, d = picture("INT8"), picture(), picture(dtype), picture("INT8")
    return tflite(
        ("DEQUANTIZE", [a], [b], {}), ("EXP", [b], [c], {}), ("QUANTIZE", [c], [d], {}),
        ("TANH", [d], [picture("INT8", scale=1 / 128)], {}),
    )  # fmt: skip


def float_tail() -> bytes:
    a, b = picture("INT8"), picture()
    return tflite(("DEQUANTIZE", [a], [b], {}), ("EXP", [b], [picture()], {}))


def half_weights() -> bytes:
    stored, weights = (
        Port((4, 1, 1, 4), "FLOAT16", np.ones((4, 1, 1, 4), np.float16)),
        Port((4, 1, 1, 4)),
    )
    bias = Port((4,), value=np.zeros(4, np.float32))
    return tflite(
        ("DEQUANTIZE", [stored], [weights], {}),
        ("CONV_2D", [picture(), weights, bias], [picture()],
         {"table": "Conv2DOptions", "strideH": 1, "strideW": 1}),
    )  # fmt: skip


def conv(weights: Port, **ports: Port) -> bytes:
    bias = Port((4,), value=np.zeros(4, np.float32))
    return one("CONV_2D", picture(), weights, bias, table="Conv2DOptions", strideH=1, strideW=1)


@pytest.mark.parametrize(
    "target, data, reason",
    [
        ("gpu", one("GATHER_ND", picture(), ints([[0, 1]]), out=picture(shape=(1, 8, 4))),
         "has no GATHER_ND"),
        ("gpu", one("CUSTOM", picture(), code="Warp"), "has no Warp"),
        ("gpu", one("ROUND", picture()), "has no ROUND"),
        ("gpu", one("RELU", picture(shape=(1, 2, 2, 8, 4)), out=picture(shape=(1, 2, 2, 8, 4))),
         "rank 5, above 4"),
        ("gpu", one("RELU", picture(shape=(1, 8, 20000, 1)), out=picture(shape=(1, 8, 20000, 1))),
         "longer than 16384"),
        ("gpu", one("CAST", picture(), out=picture("INT64")), "int64 is computed"),
        ("gpu", one("RELU", picture("INT64")), "input: int64 is computed"),
        ("gpu", one("RELU", picture("INT16")), "int16 is computed"),
        ("gpu", one("RELU", picture(shape=(4, 8, 8, 4)), out=picture(shape=(4, 8, 8, 4))),
         "a batch of 4"),
        ("gpu", one("RELU", picture(signature=[1, -1, -1, 4])), "a side is free"),
        ("gpu", one("SLICE", picture(shape=(8, 8)), ints([0, 0]), ints([4, 4]),
                    out=picture(shape=(4, 4))), "rank 2, not 3 or 4"),
        ("gpu", one("STRIDED_SLICE", picture(), ints([0] * 4), ints(PICTURE), ints([1] * 4),
                    shrinkAxisMask=1, out=picture(shape=(8, 8, 4))), "adds or drops axes"),
        ("gpu", one("PAD", picture(shape=(8, 4)), ints([[1, 1], [0, 0]]),
                    out=picture(shape=(10, 4))), "paddings [2, 2]"),
        ("gpu", one("MIRROR_PAD", picture(), PADDINGS, mode=1, out=WIDE), "SYMMETRIC"),
        ("gpu", one("RESIZE_BILINEAR", picture(), ints([4, 4]), alignCorners=True,
                    halfPixelCenters=True, out=HALF), "align_corners with half_pixel_centers"),
        ("gpu", one("SOFTMAX", picture(), beta=2.0), "beta is 2"),
        ("gpu", one("GATHER", picture(), ints([[0, 1]]), axis=1,
                    out=picture(shape=(1, 1, 2, 8, 4))), "indices of other than one axis"),
        ("gpu", one("DEPTHWISE_CONV_2D", picture(shape=(1, 8, 8, 2)),
                    Port((1, 1, 1, 4), value=np.ones(4, np.float32)),
                    Port((4,), value=np.ones(4, np.float32)), table="DepthwiseConv2DOptions",
                    depthMultiplier=2, strideW=1, strideH=1), "several outputs per channel"),
        ("gpu", one("MUL", picture(shape=(1, 8, 1, 4)), picture(shape=(1, 1, 8, 4)),
                    out=picture()), "both factors are broadcast"),
        ("nnapi", one("GATHER_ND", picture(), ints([[0, 1]]), out=picture(shape=(1, 8, 4))),
         "has no GATHER_ND"),
        ("nnapi", one("RELU", picture(shape=(1, 2, 2, 8, 4)), out=picture(shape=(1, 2, 2, 8, 4))),
         "rank 5, above 4"),
        ("nnapi", one("RELU", picture(signature=[1, -1, -1, 4])), "a side is free"),
        ("nnapi", one("EXP", picture("INT8")), "EXP in float alone"),
        ("nnapi", one("RELU", picture("INT16")), "int16 is computed"),
        ("nnapi", mixed("FLOAT32"), "EXP: float between quantised ops"),
        ("nnapi", conv(Port((4, 1, 1, 4), "INT8", np.ones((4, 1, 1, 4), np.int8))),
         "int8 weights on float pictures"),
        ("xnnpack", one("GATHER_ND", picture(), ints([[0, 1]]), out=picture(shape=(1, 8, 4))),
         "no GATHER_ND in float"),
        ("xnnpack", one("MAXIMUM", picture("INT8"), picture("INT8"),
                        table="MaximumMinimumOptions"), "no MAXIMUM in int8"),
        ("xnnpack", one("RELU", picture("INT16")), "no int16"),
        ("xnnpack", one("RELU", picture(signature=[1, -1, -1, 4])), "a side is free"),
        ("xnnpack", one("STRIDED_SLICE", picture(), ints([0] * 4), ints(PICTURE),
                        ints([1, 2, 2, 1]), out=HALF), "without gaps"),
    ],
)  # fmt: skip
def test_tflite(target: str, data: bytes, reason: str) -> None:
    found = check(lint.read_tflite(data), target)
    assert any(reason in text for _, text in counted(found)), found


@pytest.mark.parametrize(
    "target, data",
    [
        ("gpu", one("RESIZE_BILINEAR", picture(), ints([4, 4]), halfPixelCenters=True, out=HALF)),
        ("gpu", one("MUL", picture(), picture(shape=(1, 1, 1, 4)))),
        ("gpu", one("MIRROR_PAD", picture(), PADDINGS, mode=0, out=WIDE)),
        ("gpu", one("PAD", picture(), PADDINGS, out=WIDE)),
        ("gpu", half_weights()),
        ("nnapi", half_weights()),
        ("nnapi", float_tail()),
        ("nnapi", one("TANH", picture("INT8"), out=picture("INT8", scale=1 / 128))),
        ("xnnpack", half_weights()),
        ("xnnpack", mixed("FLOAT32")),
        ("xnnpack", one("STRIDED_SLICE", picture(), ints([0] * 4), ints([1, 4, 4, 4]),
                        ints([1] * 4), out=HALF)),
    ],
)  # fmt: skip
def test_tflite_that_is_fine(target: str, data: bytes) -> None:
    assert not counted(check(lint.read_tflite(data), target))


def test_a_float_graph_is_noted_for_an_npu() -> None:
    (note,) = check(lint.read_tflite(one("RELU", picture())), "nnapi")
    assert note == ("note", "graph: an NPU for int8 takes no float graph")


UNARY = "ABS CEIL COS ELU EXP FLOOR GELU HARD_SWISH LOG LOGISTIC NEG RELU RELU6 RELU_N1_TO_1 ROUND"
UNARY += " RSQRT SIGN SIN SQRT SQUARE TANH"
BINARY = "ADD SUB MUL DIV POW SQUARED_DIFFERENCE FLOOR_DIV FLOOR_MOD"
SINGLE = {
    **{op: lambda dtype, op=op: one(op, picture(dtype)) for op in UNARY.split()},
    **{op: lambda dtype, op=op: one(op, picture(dtype), picture(dtype)) for op in BINARY.split()},
    **{op: lambda dtype, op=op: one(op, picture(dtype), picture(dtype),
                                    table="MaximumMinimumOptions")
       for op in ("MAXIMUM", "MINIMUM")},
    **{op: lambda dtype, op=op: one(op, picture(dtype), picture(dtype),
                                    out=picture("BOOL")) for op in ("GREATER", "LESS", "EQUAL")},
    **{op: lambda dtype, op=op: one(op, picture(dtype), ints([1, 2]), table="ReducerOptions",
                                    keepDims=True, out=picture(dtype, shape=(1, 1, 1, 4)))
       for op in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")},
    **{op: lambda dtype, op=op: one(op, picture(dtype), table="Pool2DOptions", padding=1,
                                    strideW=2, strideH=2, filterWidth=2, filterHeight=2,
                                    out=picture(dtype, shape=(1, 4, 4, 4)))
       for op in ("AVERAGE_POOL_2D", "MAX_POOL_2D")},
    **{op: lambda dtype, op=op: one(op, picture(dtype), ints([16, 16]), halfPixelCenters=True,
                                    out=picture(dtype, shape=(1, 16, 16, 4)))
       for op in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")},
    "PAD": lambda dtype: one("PAD", picture(dtype), PADDINGS,
                             out=picture(dtype, shape=(1, 10, 10, 4))),
    "MIRROR_PAD": lambda dtype: one("MIRROR_PAD", picture(dtype), PADDINGS,
                                    out=picture(dtype, shape=(1, 10, 10, 4))),
    "CONCATENATION": lambda dtype: one("CONCATENATION", picture(dtype), picture(dtype), axis=3,
                                       out=picture(dtype, shape=(1, 8, 8, 8))),
    "TRANSPOSE": lambda dtype: one("TRANSPOSE", picture(dtype), ints([0, 3, 1, 2]),
                                   out=picture(dtype, shape=(1, 4, 8, 8))),
    "RESHAPE": lambda dtype: one("RESHAPE", picture(dtype), ints([1, 64, 4]),
                                 newShape=[1, 64, 4], out=picture(dtype, shape=(1, 64, 4))),
    "SLICE": lambda dtype: one("SLICE", picture(dtype), ints([0, 1, 1, 0]), ints([1, 4, 4, 4]),
                               out=picture(dtype, shape=(1, 4, 4, 4))),
    "STRIDED_SLICE": lambda dtype: one("STRIDED_SLICE", picture(dtype), ints([0, 0, 0, 0]),
                                       ints(PICTURE), ints([1, 2, 2, 1]),
                                       out=picture(dtype, shape=(1, 4, 4, 4))),
    "GATHER": lambda dtype: one("GATHER", picture(dtype), ints([0, 1]), axis=1,
                                out=picture(dtype, shape=(1, 2, 8, 4))),
    "GATHER_ND": lambda dtype: one("GATHER_ND", picture(dtype), ints([[0, 1]]),
                                   out=picture(dtype, shape=(1, 8, 4))),
    "TILE": lambda dtype: one("TILE", picture(dtype), ints([1, 2, 1, 1]),
                              out=picture(dtype, shape=(1, 16, 8, 4))),
    "SQUEEZE": lambda dtype: one("SQUEEZE", picture(dtype), squeezeDims=[0],
                                 out=picture(dtype, shape=(8, 8, 4))),
    "SELECT_V2": lambda dtype: one("SELECT_V2", picture("BOOL"), picture(dtype), picture(dtype),
                                   out=picture(dtype)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter:UserWarning")
@pytest.mark.parametrize("op", SINGLE)
def test_xnnpack_takes_what_lint_says_it_takes(op: str) -> None:
    """The interpreter is asked: does it hand the op to XNNPACK?"""
    data = SINGLE[op]("FLOAT32")
    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    taken = any(one["op_name"] == "DELEGATE" for one in interpreter._get_ops_details())
    assert taken == (not check(lint.read_tflite(data), "xnnpack"))


# ---------------------------------------------------------------- .onnx


def onnx_model(
    nodes: list[Any], inputs: dict[str, Any], constants: dict[str, Any], dtype: int = 1
) -> bytes:
    graph = helper.make_graph(
        [helper.make_node(n[0], n[1], n[2], name=n[0], **n[3]) for n in nodes], "g",
        [helper.make_tensor_value_info(k, dtype, shape) for k, shape in inputs.items()],
        [helper.make_tensor_value_info(nodes[-1][2][0], dtype, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()


IMAGE = {"x": [1, 4, 8, 8]}
W = np.ones((4, 4, 3, 3), np.float32)
TWICE = {"s": np.array([1, 1, 2, 2], np.float32)}


def node(op: str, constants: dict[str, Any] | None = None, *inputs: str, **attributes: Any):
    names = ["x", *inputs, *(constants or {})]
    return onnx_model([(op, names, ["y"], attributes)], IMAGE, constants or {})


def resize(**attributes: Any) -> bytes:
    return node("Resize", TWICE, "", **{"mode": "linear", **attributes})


def quantised(middle: list[Any], **constants: Any) -> bytes:
    """QuantizeLinear, DequantizeLinear, `middle` from "f" to "g", QuantizeLinear, DequantizeLinear,
    Conv with quantised weights."""
    scale, zero = np.float32(0.1), np.uint8(128)
    nodes = [
        ("QuantizeLinear", ["x", "s", "z"], ["q"], {}),
        ("DequantizeLinear", ["q", "s", "z"], ["f"], {}),
        *middle,
        ("QuantizeLinear", ["g", "s", "z"], ["r"], {}),
        ("DequantizeLinear", ["r", "s", "z"], ["h"], {}),
        ("DequantizeLinear", ["w", "s", "zw"], ["wf"], {}),
        ("Conv", ["h", "wf"], ["y"], {}),
    ]
    fixed = {"s": scale, "z": zero, "zw": np.int8(0), "w": W.astype(np.int8), **constants}
    return onnx_model(nodes, IMAGE, fixed)


CONV = ("Conv", ["f", "w2"], ["c"], {"pads": [1] * 4})


@pytest.mark.parametrize(
    "target, data, reason",
    [
        ("nnapi", onnx_model([("GridSample", ["x", "g"], ["y"], {})],
                             {**IMAGE, "g": [1, 8, 8, 2]}, {}), "has no GridSample"),
        ("nnapi", node("ConvTranspose", {"w": W}), "has no ConvTranspose"),
        ("nnapi", node("HardSwish"), "has no HardSwish"),
        ("nnapi", node("Pad", {"p": np.array([0, 0, 1, 1] * 2)}, mode="reflect"),
         "mode is reflect"),
        ("nnapi", node("DepthToSpace", blocksize=2, mode="CRD"), "CRD"),
        ("nnapi", resize(coordinate_transformation_mode="pytorch_half_pixel"),
         "linear with pytorch_half_pixel"),
        ("nnapi", resize(mode="nearest"), "nearest with half_pixel"),
        ("nnapi", resize(mode="cubic"), "cubic"),
        ("nnapi", resize(antialias=1), "antialias"),
        ("nnapi", node("Resize", {"s": np.array([2, 2], np.float32)}, "", mode="linear",
                       axes=[2, 3]), "some axes"),
        ("nnapi", onnx_model([("Shape", ["x"], ["n"], {}),
                              ("Resize", ["x", "", "", "n"], ["y"], {"mode": "linear"})],
                             IMAGE, {}), "computed when it runs"),
        ("nnapi", onnx_model([("Shape", ["x"], ["n"], {}),
                              ("Cast", ["n"], ["y"], {"to": TensorProto.FLOAT})], IMAGE, {}),
         "Shape: int64 is computed"),
        ("nnapi", onnx_model([("Conv", ["x", "w"], ["y"], {})],
                             {**IMAGE, "w": [4, 4, 3, 3]}, {}), "weights are computed"),
        ("nnapi", onnx_model([("Conv", ["x", "w"], ["y"], {})], {"x": [1, 4, 8]},
                             {"w": W[..., 0]}), "1-D"),
        ("nnapi", onnx_model([("Reshape", ["x", "n"], ["y"], {})], IMAGE,
                             {"n": np.array([1, 2, 2, 8, 8])}), "rank 5, above 4"),
        ("nnapi", onnx_model([("Relu", ["x"], ["y"], {})], {"x": [2, 4, 8, 8]}, {}),
         "a batch of 2"),
        ("xnnpack", onnx_model([("GridSample", ["x", "g"], ["y"], {})],
                               {**IMAGE, "g": [1, 8, 8, 2]}, {}), "has no GridSample"),
        ("xnnpack", node("ScatterND", {"i": np.zeros((1, 1), np.int64),
                                       "u": np.zeros((1, 4, 8, 8), np.float32)}),
         "has no ScatterND"),
        ("xnnpack", resize(mode="nearest"), "nearest"),
        ("xnnpack", resize(mode="cubic"), "cubic"),
        ("xnnpack", onnx_model([("MaxPool", ["x"], ["y"], {"kernel_shape": [2]})],
                               {"x": [1, 4, 8]}, {}), "1-D"),
        ("ane", node("HardSwish"), "has no HardSwish"),
        ("ane", node("Pad", {"p": np.array([0, 0, 1, 1] * 2)}), "has no Pad"),
        ("ane", resize(antialias=1), "antialias"),
        ("ane", onnx_model([("Reshape", ["x", "n"], ["y"], {})], IMAGE,
                           {"n": np.array([1, 2, 2, 4, 2, 8])}), "rank 6, above 5"),
    ],
)  # fmt: skip
def test_onnx(target: str, data: bytes, reason: str) -> None:
    found = check(lint.read_onnx(data), target)
    assert any(reason in text for _, text in counted(found)), found


@pytest.mark.parametrize("target", ["nnapi", "xnnpack", "ane"])
@pytest.mark.parametrize(
    "data",
    [
        node("Conv", {"w": W}),
        resize(coordinate_transformation_mode="half_pixel"),
        node("Clip", {"a": np.float32(0), "b": np.float32(6)}),
        quantised([CONV, ("Clip", ["c", "a", "b"], ["g"], {})], w2=W, a=np.float32(0),
                  b=np.float32(6)),
    ],
)  # fmt: skip
def test_onnx_that_is_fine(target: str, data: bytes) -> None:
    assert not counted(check(lint.read_onnx(data), target))


@pytest.mark.parametrize(
    "target, data, text",
    [
        ("nnapi", onnx_model([("Relu", ["x"], ["y"], {})], {"x": [1, 4, "H", "W"]}, {}),
         "graph: a side is free"),
        ("ane", onnx_model([("Relu", ["x"], ["y"], {})], {"x": [1, 4, "H", "W"]}, {}),
         "graph: a side is free"),
        ("nnapi", onnx_model([("Relu", ["x"], ["y"], {})], IMAGE, {}, TensorProto.FLOAT16),
         "graph: the NNAPI provider takes float32 and 8 bits"),
        ("xnnpack", onnx_model([("Relu", ["x"], ["y"], {})], IMAGE, {}, TensorProto.FLOAT16),
         "graph: the CPU's kernels take float32"),
        ("ane", quantised([CONV, ("Relu", ["c"], ["g"], {})], w2=W),
         "graph: the Core ML provider has no quantised ops"),
        ("nnapi", quantised([CONV, ("Sigmoid", ["c"], ["g"], {})], w2=W),
         "Sigmoid: float between quantised ops"),
    ],
)  # fmt: skip
def test_onnx_notes(target: str, data: bytes, text: str) -> None:
    found = check(lint.read_onnx(data), target)
    assert [severity for severity, said in found if said.startswith(text)] == ["note"], found


# ---------------------------------------------------------------- .mlpackage


def mil(build: Callable[..., Any], *shapes: tuple[int, ...], half: bool = True) -> lint.Graph:
    from argan_export.quiet import quiet

    pytest.importorskip("coremltools")
    with quiet():
        import coremltools as ct
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.mil import Function, types

        kind = types.fp16 if half else types.fp32
        takes = {
            name: mb.placeholder(shape, kind) for name, shape in zip("xy", shapes, strict=False)
        }
        with Function(takes, ct.target.iOS16) as function:
            function.set_outputs([build(mb, *function.inputs.values())])
    return lint.coreml_graph(function)


SHAPE = (1, 4, 8, 8)


def island(mb: Any, x: Any) -> Any:
    wide = mb.exp(x=mb.cast(x=mb.relu(x=x), dtype="fp32"))
    return mb.relu(x=mb.cast(x=wide, dtype="fp16"))


@pytest.mark.parametrize(
    "build, reason",
    [
        (lambda mb, x: mb.band_part(x=x, lower=1, upper=1), "no band_part"),
        (lambda mb, x: mb.gather(x=x, indices=[0, 2], axis=1), "has gather from A14 on"),
        (lambda mb, x: mb.sin(x=x), "has sin from A15 on"),
        (lambda mb, x: mb.expand_dims(x=mb.expand_dims(x=x, axes=[0]), axes=[0]),
         "rank 6, above 5"),
        (lambda mb, x: mb.tile(x=x, reps=[1, 1, 1, 4000]), "longer than 16384"),
        (lambda mb, x: mb.pad(x=x, pad=[1, 1, 1, 1], mode="reflect"), "reflects edges"),
        (lambda mb, x: mb.conv(x=x, weight=np.ones((4, 1, 15, 1), np.float16), groups=4,
                               pad_type="same"), "more than 13 px"),
        (lambda mb, x: mb.reduce_argmax(x=x, axis=1), "int32 is computed"),
        (lambda mb, x: mb.shape(x=x), "no shape"),
        (island, "exp: float32 between float16"),
    ],
)  # fmt: skip
def test_coreml(build: Callable[..., Any], reason: str) -> None:
    found = check([mil(build, SHAPE)], "ane")
    assert any(reason in text for _, text in counted(found)), found


def test_coreml_that_is_fine() -> None:
    def build(mb: Any, x: Any) -> Any:
        scaled = mb.mul(x=x, y=np.float32(1 / 255))  # of an image, before it all
        y = mb.cast(x=scaled, dtype="fp16")
        y = mb.conv(x=y, weight=np.ones((4, 4, 3, 3), np.float16), pad_type="same")
        y = mb.pad(x=mb.relu6(x=y), pad=[1, 1, 1, 1], mode="replicate")
        return mb.cast(x=y, dtype="fp32")

    assert check([mil(build, SHAPE, half=False)], "ane") == []


def test_coreml_notes() -> None:
    graph = mil(lambda mb, x: mb.relu(x=x), SHAPE, half=False)
    assert check([graph], "ane") == [("note", "graph: the Neural Engine computes no float32")]


# ---------------------------------------------------------------- the command


def run(*argv: str | Path) -> int:
    return lint.main([str(arg) for arg in argv])


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_exit_codes_and_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine = write(tmp_path / "fine.tflite", one("RELU", picture()))
    assert run(fine) == 0
    assert capsys.readouterr().out.startswith(
        "fine.tflite (gpu, nnapi, xnnpack): 1 note\n  note     nnapi    graph: an NPU"
    )
    gather = one("GATHER_ND", picture(), ints([[0, 1]]), out=picture(shape=(1, 8, 4)))
    bad = write(tmp_path / "bad.tflite", gather)
    assert run(bad, "--target", "gpu") == 1
    assert capsys.readouterr().out == (
        "bad.tflite (gpu): 1 error\n"
        "  error    gpu      GATHER_ND: the GPU delegate has no GATHER_ND\n"
        "                    fix: shift by slicing and padding, or by a depthwise convolution"
        " (t2)\n"
    )


def test_equal_findings_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c = picture(), picture(), picture()
    data = tflite(("ROUND", [a], [b], {}), ("ROUND", [b], [c], {}))
    assert run(write(tmp_path / "m.tflite", data), "--json", "--target", "gpu") == 1
    model = json.loads(capsys.readouterr().out)["models"]["m.tflite"]
    assert model == {
        "targets": ["gpu"],
        "findings": [{
            "target": "gpu", "severity": "error", "op": "ROUND",
            "reason": "the GPU delegate has no ROUND", "fix": lint.REWRITE, "where": ["t1", "t2"],
        }],
    }  # fmt: skip


@pytest.mark.parametrize("name", ["runtime/argan/models/default.argan", "tests/data/formats.argan"])
def test_our_own_bundles_are_clean(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    files = bundle.read(ROOT / name).files
    assert run(ROOT / name) == 0
    said = capsys.readouterr().out
    assert all(
        f"{file} (nnapi, xnnpack, ane): " in said for file in files if file.endswith(".onnx")
    )


def test_a_bundle_that_is_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bundle.read(ROOT / "tests/data/formats.argan")
    folder = tmp_path / "x.argan"
    folder.mkdir()
    for name, data in content.files.items():
        write(folder / name, data)
    (folder / "bundle.json").write_text(json.dumps(content.manifest))
    assert run(folder, "--target", "gpu") == 0
    said = capsys.readouterr().out
    assert "model.fp32.tflite (gpu): clean" in said
    assert "model.fp32.onnx: not checked" in said


@pytest.mark.parametrize(
    "name, data, argv, message",
    [
        ("nowhere.onnx", None, [], "does not exist"),
        ("x.txt", b"", [], ".onnx, .tflite, .mlpackage or .argan"),
        ("x.onnx", b"\xff\xff", [], "damaged"),
        ("x.onnx", b"", [], "no .onnx file"),
        ("x.tflite", b"", [], "no .tflite file"),
        ("x.tflite", one("RELU", picture())[:60], [], "damaged"),
        ("x.tflite", one("PAD", picture()), [], "damaged"),
        ("x.argan", b"", [], "zip"),
        ("x.mlpackage", b"", [], "give an .onnx"),
        ("x.tflite", one("RELU", picture()), ["--target", "tpu"], "gpu,nnapi,xnnpack,ane"),
        ("x.tflite", one("RELU", picture()), ["--target", "ane"], "nothing to check for ane"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line_and_exit_code_2(
    name: str, data: bytes | None, argv: list[str], message: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / name
    if data is not None:
        write(path, data)
    assert run(path, *argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and error.startswith("argan: ")


@pytest.mark.parametrize(
    "name, package, extra",
    [("model.fp32.tflite", "ai_edge_litert", "tflite"), ("model.fp32.onnx", "onnx", "export")],
)
def test_a_missing_package_is_named(
    name: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = write(tmp_path / name, bundle.read(ROOT / "tests/data/formats.argan").files[name])
    monkeypatch.setitem(sys.modules, package, None)
    assert run(path) == 2
    said = capsys.readouterr().err
    assert f'{package} is not installed; run: pip install "argan[{extra}]"' in said


def test_every_signature_is_read() -> None:
    data = bundle.read(ROOT / "tests/data/formats.argan").files["model.fp32.tflite"]
    assert [graph.inputs[0].shape[2:] for graph in lint.read_tflite(data)] == [
        (64, 64), (64, 96), (96, 64),
    ]  # fmt: skip
