"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os

import onnxruntime as ort

from argan.backends import Tensors
from argan.errors import BundleError


class Onnx:
    """`model` is an ONNX file's content; `threads` None means every core."""

    def __init__(self, model: bytes, *, threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.inter_op_num_threads = 1
        # Waiting threads would burn the cores that the renderer works on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # fatal: everything else comes as an exception
        try:
            self.session = ort.InferenceSession(model, options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no common base of its errors
            raise BundleError(f"onnxruntime can't load the model: {_brief(error)}") from error

    def run(self, inputs: Tensors) -> Tensors:
        try:
            outputs = self.session.run(None, dict(inputs))
        except Exception as error:
            raise BundleError(f"onnxruntime can't run the model: {_brief(error)}") from error
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, outputs, strict=True))


def _brief(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
