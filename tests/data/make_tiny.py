"""Makes tiny.argan, the bundle of the tests: luminance, smoothed by a 3x3 mean, as disparity.

Needs the onnx package:  python tests/data/make_tiny.py
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from argan import bundle

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def model() -> bytes:
    """image [1, 3, H, W] in 0..1 -> disparity [1, 1, H, W] in 0..1."""
    kernel = np.repeat(LUMA[None, :, None, None], 9, axis=2).reshape(1, 3, 3, 3) / 9
    graph = helper.make_graph(
        [
            helper.make_node("Pad", ["image", "pads"], ["wide"], mode="edge"),
            helper.make_node("Conv", ["wide", "kernel"], ["disparity"], kernel_shape=[3, 3]),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [helper.make_tensor_value_info("disparity", TensorProto.FLOAT, [1, 1, "H", "W"])],
        [
            numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "pads"),
            numpy_helper.from_array(kernel.astype(np.float32), "kernel"),
        ],
    )
    opset = helper.make_opsetid("", 18)
    built = helper.make_model(graph, opset_imports=[opset], ir_version=10, producer_name="argan")
    onnx.checker.check_model(built, full_check=True)
    return bytes(built.SerializeToString(deterministic=True))


MANIFEST = {
    "name": "tiny",
    "task": "disparity",
    "inputs": [
        {
            "name": "image", "shape": [1, 3, "H", "W"], "dtype": "float32", "layout": "NCHW",
            "range": [0, 1], "colour": "sRGB", "multiple_of": 32, "nominal": 64,
        }
    ],
    "outputs": [
        {
            "name": "disparity", "shape": [1, 1, "H", "W"], "dtype": "float32",
            "meaning": "affine inverse depth, larger = nearer", "range": [0.0, 0.5],
        }
    ],
    "optics": {"f_number": 1.8},
    "calibration": None,
    "source": {"checkpoint": None, "run": "hand-made: brighter is nearer"},
    "tools": {"onnx": onnx.__version__},
    "licence": {"weights": "Apache-2.0", "data": "none was used"},
    "refocus": None,
    "variants": {
        "onnx-fp32": {
            "graph": "disparity", "format": "onnx", "precision": "fp32", "file": "model.fp32.onnx",
            "layout": "NCHW", "dtype": "float32", "sizes": None,
        }
    },
}  # fmt: skip

if __name__ == "__main__":
    bundle.write(Path(__file__).parent / "tiny.argan", MANIFEST, {"model.fp32.onnx": model()})
