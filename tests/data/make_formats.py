"""Makes formats.argan: one function in every format and every way in and out that a backend meets.

disparity is luminance, smoothed by a kernel that no flip or swap of channels leaves as it is, and
bokeh = blur * image + focus: no lens, but it tells its inputs apart. Needs the packages onnx and
ai-edge-litert, no torch:  python tests/data/make_formats.py
"""

from pathlib import Path

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as tfl
from make_tiny import LUMA, MANIFEST
from onnx import TensorProto, helper, numpy_helper

from argan import bundle

SIZES = ((64, 64), (64, 96), (96, 64))
BLOT = np.array([[1, 2, 1], [0, 6, 2], [0, 1, 0]], np.float32) / 13
FLOAT = TensorProto.FLOAT
KERNEL = LUMA[None, :, None, None] * BLOT  # [1, 3, 3, 3]: out, in, height, width
IN_SCALE, IN_ZERO = 1 / 255, -128  # of the int8 image
OUT_SCALE, OUT_ZERO = 1 / 240, -120  # of the int8 disparity


# ---------------------------------------------------------------- ONNX


def onnx_model(graph: str, nodes: list, constants: dict, image: tuple, outputs: dict) -> bytes:
    """image: name, type, shape; outputs: {name: shape}."""
    name, kind, shape = image
    inputs = [helper.make_tensor_value_info(name, kind, shape)]
    if graph == "refocus":
        inputs += [helper.make_tensor_value_info(n, FLOAT, [1]) for n in ("focus", "blur")]
    built = helper.make_model(
        helper.make_graph(
            [helper.make_node(*node[:3], **node[3]) for node in nodes],
            graph,
            inputs,
            [helper.make_tensor_value_info(n, FLOAT, shape) for n, shape in outputs.items()],
            [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10, producer_name="argan",
    )  # fmt: skip
    onnx.checker.check_model(built, full_check=True)
    return bytes(built.SerializeToString(deterministic=True))


NCHW, MAP = [1, 3, "H", "W"], [1, 1, "H", "W"]
SMOOTH = ("Conv", ["image", "kernel"], ["disparity"], {"pads": [1, 1, 1, 1]})
ONNX = {
    "model.fp32.onnx": onnx_model(
        "disparity", [SMOOTH], {"kernel": KERNEL}, ("image", FLOAT, NCHW), {"disparity": MAP}
    ),
    "refocus.fp32.onnx": onnx_model(
        "refocus",
        [
            SMOOTH,
            ("Mul", ["image", "blur"], ["blurred"], {}),
            ("Add", ["blurred", "focus"], ["bokeh"], {}),
        ],
        {"kernel": KERNEL},
        ("image", FLOAT, NCHW),
        {"bokeh": NCHW, "disparity": MAP},
    ),
    # The image as a camera has it.
    "model.uint8.onnx": onnx_model(
        "disparity",
        [
            ("Cast", ["image"], ["levels"], {"to": FLOAT}),
            ("Div", ["levels", "white"], ["unit"], {}),
            ("Transpose", ["unit"], ["planes"], {"perm": [0, 3, 1, 2]}),
            ("Conv", ["planes", "kernel"], ["map"], {"pads": [1, 1, 1, 1]}),
            ("Transpose", ["map"], ["disparity"], {"perm": [0, 2, 3, 1]}),
        ],
        {"kernel": KERNEL, "white": np.float32(255)},
        ("image", TensorProto.UINT8, [1, "H", "W", 3]),
        {"disparity": [1, "H", "W", 1]},
    ),
    # Somebody else's: names of its own, all sides free, a map of half the size and rank 3.
    "foreign.onnx": onnx_model(
        "foreign",
        [
            ("Conv", ["pixels", "kernel"], ["map"], {"pads": [1, 1, 1, 1]}),
            ("AveragePool", ["map"], ["half"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
            ("Squeeze", ["half", "one"], ["depth"], {}),
        ],
        {"kernel": KERNEL, "one": np.array([1])},
        ("pixels", FLOAT, ["N", "C", "H", "W"]),
        {"depth": ["N", "h", "w"]},
    ),
}


# ---------------------------------------------------------------- TFLite

CODES = {
    name: getattr(tfl.BuiltinOperator, name) for name in ("CONV_2D", "TRANSPOSE", "MUL", "ADD")
}


class File:
    """A .tflite file in the making; graphs that are added share its constants."""

    def __init__(self) -> None:
        self.model = tfl.ModelT()
        self.model.version, self.model.description = 3, "argan"
        self.model.buffers = [tfl.BufferT()]  # the first is empty by convention
        self.model.operatorCodes, self.model.subgraphs, self.model.signatureDefs = [], [], []
        for code in CODES.values():
            about = tfl.OperatorCodeT()
            about.builtinCode = about.deprecatedBuiltinCode = code
            about.version = 3 if code == CODES["CONV_2D"] else 1
            self.model.operatorCodes.append(about)
        self.constants: dict[str, int] = {}

    def buffer(self, name: str, value: np.ndarray) -> int:
        if name not in self.constants:
            buffer = tfl.BufferT()
            buffer.data = np.frombuffer(value.tobytes(), np.uint8)
            self.constants[name] = len(self.model.buffers)
            self.model.buffers.append(buffer)
        return self.constants[name]

    def data(self) -> bytes:
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


class Graph:
    """One function of a file."""

    def __init__(self, file: File, name: str) -> None:
        self.file, self.graph = file, tfl.SubGraphT()
        self.graph.name = name
        self.graph.tensors, self.graph.operators = [], []

    def tensor(self, name, shape, dtype="FLOAT32", scale=None, zero=0, value=None) -> int:
        tensor = tfl.TensorT()
        tensor.name, tensor.shape, tensor.type = name, list(shape), getattr(tfl.TensorType, dtype)
        tensor.buffer = 0 if value is None else self.file.buffer(name, value)
        if scale is not None:
            tensor.quantization = tfl.QuantizationParametersT()
            tensor.quantization.scale = [scale]
            tensor.quantization.zeroPoint = [zero]
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(self, code: str, inputs: list[int], output: int) -> int:
        operator = tfl.OperatorT()
        operator.opcodeIndex = list(CODES).index(code)
        operator.inputs, operator.outputs = inputs, [output]
        if code == "CONV_2D":
            options = tfl.Conv2DOptionsT()
            options.padding, options.strideH, options.strideW = tfl.Padding.SAME, 1, 1
            operator.builtinOptionsType = tfl.BuiltinOptions.Conv2DOptions
            operator.builtinOptions = options
        self.graph.operators.append(operator)
        return output

    def transposed(self, name: str, source: int, order: list[int], shape) -> int:
        value = np.array(order, np.int32)
        axes = self.tensor(f"order {order}", [4], "INT32", value=value)
        return self.op("TRANSPOSE", [source, axes], self.tensor(name, shape))

    def done(self, takes: dict[str, int], gives: dict[str, int], signature: str | None) -> None:
        self.graph.inputs, self.graph.outputs = list(takes.values()), list(gives.values())
        self.file.model.subgraphs.append(self.graph)
        if signature:
            about = tfl.SignatureDefT()
            about.signatureKey = signature
            about.subgraphIndex = len(self.file.model.subgraphs) - 1
            about.inputs, about.outputs = maps(takes), maps(gives)
            self.file.model.signatureDefs.append(about)


def maps(ports: dict[str, int]) -> list:
    listed = []
    for name, index in ports.items():
        entry = tfl.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        listed.append(entry)
    return listed


def float_model(graph: str, sizes) -> bytes:
    """As the converter for PyTorch makes them: NCHW outside, names that say nothing, a signature
    per size."""
    file = File()
    for height, width in sizes:
        g = Graph(file, f"s{height}x{width}")
        image = g.tensor("args_0", [1, 3, height, width])
        takes, gives = {"args_0": image}, {}
        pixels = g.transposed("pixels", image, [0, 2, 3, 1], [1, height, width, 3])
        kernel = g.tensor("kernel", [1, 3, 3, 3], value=KERNEL.transpose(0, 2, 3, 1).copy())
        bias = g.tensor("bias", [1], value=np.zeros(1, np.float32))
        answer = g.op("CONV_2D", [pixels, kernel, bias], g.tensor("map", [1, height, width, 1]))
        if graph == "refocus":
            takes |= {f"args_{i}": g.tensor(f"args_{i}", [1]) for i in (1, 2)}
            blurred = g.op(
                "MUL", [image, takes["args_2"]], g.tensor("blurred", [1, 3, height, width])
            )
            gives["output_0"] = g.op(
                "ADD", [blurred, takes["args_1"]], g.tensor("bokeh", [1, 3, height, width])
            )
        gives[f"output_{len(gives)}"] = g.transposed(
            "planes", answer, [0, 3, 1, 2], [1, 1, height, width]
        )
        g.done(takes, gives, g.graph.name)
    return file.data()


def int8_model(height: int, width: int) -> bytes:
    """Whole numbers in and out, NHWC, no signature."""
    file = File()
    g = Graph(file, "main")
    scale = float(np.abs(KERNEL).max() / 127)
    levels = np.rint(KERNEL.transpose(0, 2, 3, 1) / scale).astype(np.int8)
    image = g.tensor("image", [1, height, width, 3], "INT8", IN_SCALE, IN_ZERO)
    kernel = g.tensor("kernel", levels.shape, "INT8", scale, value=levels)
    bias = g.tensor("bias", [1], "INT32", IN_SCALE * scale, value=np.zeros(1, np.int32))
    answer = g.tensor("disparity", [1, height, width, 1], "INT8", OUT_SCALE, OUT_ZERO)
    g.op("CONV_2D", [image, kernel, bias], answer)
    g.done({"image": image}, {"disparity": answer}, None)
    return file.data()


def variant(format: str, precision: str, file: str, **other: object) -> dict[str, object]:
    common = {"graph": "disparity", "layout": "NCHW", "dtype": "float32", "sizes": None}
    return common | {"format": format, "precision": precision, "file": file} | other


VARIANTS = {
    "onnx-fp32": variant("onnx", "fp32", "model.fp32.onnx"),
    "onnx-uint8": variant("onnx", "int8-io", "model.uint8.onnx", layout="NHWC", dtype="uint8"),
    "onnx-refocus": variant("onnx", "fp32", "refocus.fp32.onnx", graph="refocus"),
    "tflite-fp32": variant("tflite", "fp32", "model.fp32.tflite", sizes=SIZES),
    "tflite-int8": variant(
        "tflite", "int8-io", "model.int8.tflite", layout="NHWC", dtype="uint8", sizes=SIZES[1:2]
    ),
    "tflite-refocus": variant(
        "tflite", "fp32", "refocus.fp32.tflite", graph="refocus", sizes=SIZES[:1]
    ),
}  # fmt: skip

FILES = {
    **ONNX,
    "model.fp32.tflite": float_model("disparity", SIZES),
    "model.int8.tflite": int8_model(*SIZES[1]),
    "refocus.fp32.tflite": float_model("refocus", SIZES[:1]),
}

if __name__ == "__main__":
    manifest = MANIFEST | {
        "name": "formats",
        "refocus": {"max_blur": 0.05},
        "variants": VARIANTS,
        "tools": {"onnx": onnx.__version__},
    }
    bundle.write(Path(__file__).parent / "formats.argan", manifest, FILES)
