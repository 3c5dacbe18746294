"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime as ort

from argan.backends import Port, Signature, Tensors
from argan.errors import BundleError

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


class Onnx:
    """`model` is an ONNX file's content; `threads` None means every core."""

    def __init__(self, model: bytes, *, threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.inter_op_num_threads = 1
        # Waiting threads would burn the cores that the renderer works on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Where weights alone are in int8, they become float32 once, and not anew in every run.
        if b"QuantizeLinear" not in model:  # "DequantizeLinear" has a small q
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        options.log_severity_level = 4  # fatal: everything else comes as an exception
        try:
            self.session = ort.InferenceSession(model, options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no common base of its errors
            raise BundleError(f"onnxruntime can't load the model: {_brief(error)}") from error
        inputs = tuple(_port(node) for node in self.session.get_inputs())
        outputs = tuple(_port(node) for node in self.session.get_outputs())
        self.signatures: tuple[Signature, ...] = (Signature("", inputs, outputs),)

    def run(self, inputs: Tensors, signature: str = "") -> Tensors:
        try:
            outputs = self.session.run(None, dict(inputs))
        except Exception as error:
            raise BundleError(f"onnxruntime can't run the model: {_brief(error)}") from error
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, outputs, strict=True))


def _port(node: ort.NodeArg) -> Port:
    if node.type not in TYPES:
        raise BundleError(f"the model's {node.name} is a {node.type}, not a float or 8-bit tensor")
    shape = tuple(side if isinstance(side, int) else None for side in node.shape)
    return Port(node.name, shape, np.dtype(TYPES[node.type]))


def _brief(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
