"""What can be told from a variant's file: its size, the types of its weights, what computes it, and
whether its layers are as strong as the reference's."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from argan import weights
from argan.bundle import Bundle, Variant
from argan.errors import BundleError
from argan.verify.diagnose import LAYER
from argan.verify.result import Array, Check, Fault, Result
from argan.verify.subject import Subject, files

# Of the file, against fp32 of the same graph and format; and what the graph itself takes.
MAX_SIZE = {
    "fp16": 0.55, "int8-weights": 0.35, "int8": 0.35, "int8-io": 0.35, "palette6": 0.35,
}  # fmt: skip
GRAPH_BYTES = 150_000
WHOLE = ("int8", "uint8", "int4", "uint4", "uint6", "uint3", "uint2", "uint1")
NARROW = {
    "fp16": ("float16", "bfloat16"),
    "int8": WHOLE, "int8-io": WHOLE, "int8-weights": WHOLE, "palette6": WHOLE,
}  # fmt: skip
MAX_GAIN = 0.05  # largest seen from rounding to 8 bits: 0.0003
SAME_LAYER = 0.98  # cosine; least seen where 8 bits lie between two tensors: 0.99998
TIE = 1e-4  # of cosines
IN_INT8 = ("QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "QGemm")
IN_FLOATS = ("Conv", "FusedConv", "ConvTranspose", "MatMul", "Gemm", "FusedGemm", "FusedMatMul")
# What a failed check means.
FAULTS = {
    "types of the weights": "not actually quantised",
    "file size": "not actually quantised",
    "kernels": "fell back to reference kernels",
    "strength of the layers": LAYER,
}


def inspect(subject: Subject, reference: Subject | None, running: Sequence[Subject]) -> None:
    """Adds what is found to the subject's result; `running` are all that could be loaded."""
    content, variant, result = subject.content, subject.variant, subject.result
    try:
        result.dtypes = weights.census(files(content, variant), variant.format)
    except BundleError as error:
        result.checks.append(Check("types of the weights", False, str(error)))
        return
    checks = [types(result), file_size(result, running), kernels(subject)]
    if reference is not None and reference is not subject:
        strength, result.likeness = layers(content, variant, reference.variant)
        checks.append(strength)
    for check in checks:
        if check is None:
            continue
        result.checks.append(check)
        fault = FAULTS[check.name]
        if not check.passed and fault not in [f.name for f in result.faults]:
            result.faults.append(Fault(fault, f"{check.measured}, wanted {check.limit}"))


def types(result: Result) -> Check | None:
    """Most of the weights' bytes are of the type that the precision says."""
    narrow = NARROW.get(result.variant.precision)
    if narrow is None:
        return None
    held = sum(result.dtypes.get(dtype, 0) for dtype in narrow)
    wide = sum(
        size for dtype, size in result.dtypes.items()
        if dtype in weights.FLOATS and dtype not in narrow
    )  # fmt: skip
    listed = ", ".join(f"{size:,} B {dtype}" for dtype, size in sorted(result.dtypes.items()))
    return Check("types of the weights", held > wide, listed, f"most of them {narrow[0]}")


def file_size(result: Result, running: Sequence[Subject]) -> Check | None:
    """Against the same in fp32, where there is that."""
    ours, share = result.variant, MAX_SIZE.get(result.variant.precision)
    whole = [
        s.result for s in running
        if (s.variant.graph, s.variant.format, s.variant.precision)
        == (ours.graph, ours.format, "fp32")
    ]  # fmt: skip
    if share is None or not whole:
        return None
    most = int(share * whole[0].bytes) + GRAPH_BYTES
    limit = f"<= {most:,} B ({share:g} of {whole[0].variant.name}, and {GRAPH_BYTES:,})"
    return Check("file size", result.bytes <= most, f"{result.bytes:,} B", limit)


def kernels(subject: Subject) -> Check | None:
    """TFLite: has a delegate such as XNNPACK taken the graph? ONNX Runtime: does an int8 model
    compute in int8? None where that can't be told."""
    variant, model = subject.variant, getattr(subject.backend, "model", None)
    if variant.format == "tflite":
        details = getattr(getattr(model, "interpreter", None), "_get_ops_details", None)
        if details is None:  # an interpreter may lack it: it is not documented
            return None
        parts = sum(op["op_name"] == "DELEGATE" for op in details())
        return Check("kernels", parts > 0, f"{parts} delegated parts", ">= 1 (XNNPACK)")
    if variant.format == "onnx" and variant.precision in ("int8", "int8-io"):
        ops = _optimised(subject.content.model(variant))
        whole, real = (sum(op in kind for op in ops) for kind in (IN_INT8, IN_FLOATS))
        return Check(
            "kernels", whole >= real, f"{whole} layers in int8, {real} in floats", "most in int8"
        )
    return None


def _optimised(model: bytes) -> list[str]:
    """The ops that ONNX Runtime makes of a model on this CPU."""
    with tempfile.TemporaryDirectory() as folder:
        options: Any = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder, "model.onnx"))
        ort.InferenceSession(model, options, ["CPUExecutionProvider"])
        return weights.operators(Path(folder, "model.onnx").read_bytes())


def layers(content: Bundle, variant: Variant, reference: Variant) -> tuple[Check | None, float]:
    """Are the layers as strong as the reference's? And how like them, by the least cosine. They are
    matched by their values: names and formats may differ. None, nan where none can be compared."""
    if "coreml" in (variant.format, reference.format):
        return None, math.nan
    theirs = _reals(content.model(reference), reference.format).values()
    gains, likeness = {}, []
    for name, ours in _reals(content.model(variant), variant.format).items():
        flat = ours.ravel()
        candidates = [
            other for tensor in theirs if tensor.size == ours.size
            for other in _arrangements(tensor)
        ]  # fmt: skip
        if not candidates:  # a table of one converter's, such as a border
            continue
        cosines = [_cosine(flat, other) for other in candidates]
        likeness.append(max(cosines))
        alike = [
            float(flat @ other / (other @ other))
            for other, cosine in zip(candidates, cosines, strict=True)
            if cosine >= max(SAME_LAYER, likeness[-1] - TIE)
        ]
        if alike:  # of several that differ in strength alone, the one that is meant
            gains[name] = min(alike, key=lambda gain: abs(gain - 1))
    if not gains:
        return None, min(likeness, default=0.0)
    worst = max(gains, key=lambda name: abs(gains[name] - 1))
    check = Check(
        "strength of the layers", abs(gains[worst] - 1) <= MAX_GAIN,
        f"{worst}: {gains[worst]:.3f} times {reference.name}'s, the farthest of {len(gains)}",
        f"within {MAX_GAIN:.0%}",
    )  # fmt: skip
    return check, min(likeness)


def _cosine(a: Array, b: Array) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _reals(data: bytes, format: str) -> dict[str, Array]:
    """The weights of the layers: constants of two and more axes."""
    tensors = {}
    for weight in weights.read(data, format):
        if len(weight.shape) >= 2 and math.prod(weight.shape) > 1:
            values = weights.values(data, weight)
            if values is not None and values.any() and np.isfinite(values).all():
                tensors[weight.name] = values
    return tensors


def _arrangements(tensor: Array) -> list[Array]:
    """A layer's weights, flat, in the orders of axes that ONNX and TFLite have, its own first."""
    orders: dict[int, tuple[tuple[int, ...], ...]] = {
        2: ((0, 1), (1, 0)),
        4: ((0, 1, 2, 3), (0, 2, 3, 1), (1, 2, 3, 0), (0, 3, 1, 2), (3, 0, 1, 2)),
    }
    return [tensor.transpose(order).ravel() for order in orders.get(tensor.ndim, ())]
