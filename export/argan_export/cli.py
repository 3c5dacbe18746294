"""`argan export RUN -o NAME.argan`."""

from __future__ import annotations

import argparse
import io
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from argan import bundle
from argan.errors import Error, InputError, MissingFileError
from argan.optics import REFERENCE_F_NUMBER
from argan_export.card import NO_LICENCE, card
from argan_export.graph import DepthGraph, depth_graph, golden_input
from argan_export.to_onnx import gap, to_onnx
from argan_train.ar_gan_dr import MULTIPLE

EXAMPLES = """examples:
  argan export runs/flowers-dr -o flowers.argan
  argan evaluate flowers.argan --data DIR -o out && argan export runs/flowers-dr -o flowers.argan \\
      --evaluation out/evaluation.json --licence LICENSE-WEIGHTS
"""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "argan export", description="Export a run as a bundle.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("run", type=Path, help="folder of an ar-gan-dr run")
    parser.add_argument("-o", "--output", type=Path, required=True, help="NAME.argan")
    parser.add_argument(
        "--evaluation", type=Path, help="evaluation.json of argan evaluate, for the card"
    )
    parser.add_argument("--licence", type=Path, help="text that becomes LICENSE-WEIGHTS")
    arguments = parser.parse_args(argv)
    try:
        summary = export(arguments.run, arguments.output, arguments.evaluation, arguments.licence)
    except Error as error:
        print(f"argan: {error}", file=sys.stderr)
        return 2
    print(summary)
    return 0


def export(run: Path, output: Path, evaluation: Path | None, licence: Path | None) -> str:
    """Write the bundle; -> one line about it."""
    if output.suffix != ".argan":
        raise InputError(f"{output}: a bundle is called NAME.argan")
    for path in (evaluation, licence):
        if path and not path.is_file():
            raise MissingFileError(f"no file at {path}")
    graph = depth_graph(run)
    model, image = to_onnx(graph), golden_input(graph)
    parity = gap(graph, model, image)
    scores = json.loads(evaluation.read_text()) if evaluation else None
    files = {
        "model.fp32.onnx": model,
        "golden.npz": golden(graph, image),
        "CARD.md": card(output.stem, graph, parity, scores).encode(),
        "LICENSE-WEIGHTS": licence.read_bytes() if licence else NO_LICENCE.encode(),
    }
    variant: dict[str, Any] = {
        "graph": "disparity", "format": "onnx", "precision": "fp32", "file": "model.fp32.onnx",
        "layout": "NCHW", "dtype": "float32", "sizes": None, "parity": parity,
    }  # fmt: skip
    if scores:
        variant["accuracy"] = {
            group: {metric: round(value, 4) for metric, value in row["model"].items()}
            for group, row in scores["means"].items()
        }
    bundle.write(output, manifest(output.stem, graph, {"onnx-fp32": variant}), files)
    size = sum(map(len, files.values())) / 1e6
    return f"{output}: {size:.1f} MB, ONNX against PyTorch {parity['psnr_db']} dB"


def golden(graph: DepthGraph, image: torch.Tensor) -> bytes:
    """Input and expected output, so that any port can check itself: .npz with image, disparity."""
    with torch.no_grad():
        disparity = graph.network(image)
    buffer = io.BytesIO()
    np.savez(buffer, image=image.numpy(), disparity=disparity.numpy())
    return buffer.getvalue()


def manifest(name: str, graph: DepthGraph, variants: dict[str, object]) -> dict[str, object]:
    """bundle.json, but for what `bundle.write` fills in; `argan.bundle` documents its fields."""
    return {
        "name": name,
        "task": "disparity",
        "inputs": [{
            "name": "image", "shape": [1, 3, "H", "W"], "dtype": "float32", "layout": "NCHW",
            "range": [0, 1], "colour": "sRGB", "multiple_of": MULTIPLE, "nominal": graph.nominal,
        }],
        "outputs": [{
            "name": "disparity", "shape": [1, 1, "H", "W"], "dtype": "float32",
            "meaning": "affine inverse depth, larger = nearer", "range": list(graph.range),
        }],
        "optics": {"f_number": REFERENCE_F_NUMBER},
        "refocus": None,
        "calibration": None,
        "source": {"checkpoint": graph.checkpoint, "run": graph.run},
        "tools": {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxslim")},
        "licence": {
            "weights": "see LICENSE-WEIGHTS",
            "data": ", ".join(
                f"{about['data']['source']} sha256 {about['data'].get('sha256', '-')}"
                for about in graph.record["data"]["teachers"].values()
            ),
        },
        "variants": variants,
    }  # fmt: skip
