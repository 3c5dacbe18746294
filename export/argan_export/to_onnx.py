"""PyTorch -> ONNX, with the gap between the two measured at once."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxslim
import torch
from torch.export import Dim

from argan.backends.onnx import Onnx
from argan_export.graph import DepthGraph
from argan_train.ar_gan_dr import MULTIPLE

OPSET = 18


def to_onnx(graph: DepthGraph) -> bytes:
    """One file, dynamic H and W in multiples of 32."""
    sides = {2: Dim("h", min=1, max=64) * MULTIPLE, 3: Dim("w", min=1, max=64) * MULTIPLE}
    example = torch.zeros(1, 3, 4 * MULTIPLE, 6 * MULTIPLE)
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(
            graph.network, (example,), path, dynamo=True, opset_version=OPSET, external_data=False,
            input_names=["image"], output_names=["disparity"], dynamic_shapes=(sides,),
        )  # fmt: skip
        model = onnxslim.slim(path)
    onnx.checker.check_model(model)
    del model.metadata_props[:]
    del model.graph.value_info[:]  # as large as the weights, and spelt differently each time
    return bytes(model.SerializeToString(deterministic=True))


def gap(graph: DepthGraph, model: bytes, image: torch.Tensor) -> dict[str, float]:
    """Largest difference and PSNR (dB, peak 1) between PyTorch and ONNX Runtime on one image."""
    with torch.no_grad():
        expected = graph.network(image).numpy()
    got = Onnx(model).run({"image": image.numpy()})["disparity"]
    error = np.abs(got.astype(np.float64) - expected)
    psnr = -10 * np.log10(max(float((error**2).mean()), 1e-30))
    return {"max_abs": float(f"{error.max():.3g}"), "psnr_db": round(float(psnr), 1)}


@contextlib.contextmanager
def quiet():  # type: ignore[no-untyped-def]
    """The exporter chats on stdout and warns of its own internals."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
