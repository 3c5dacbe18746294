"""`argan export RUN -o NAME.argan`."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from argan import bundle
from argan.errors import Error, InputError, MissingFileError
from argan.files import check_writable
from argan.optics import REFERENCE_F_NUMBER
from argan.verify import Report, verify
from argan.verify.diagnose import COARSE
from argan_export import calibration
from argan_export.card import NO_LICENCE, card, figures
from argan_export.graph import DepthGraph, depth_graph, golden_input, refocus_graph
from argan_export.layered import Layered
from argan_export.variants import CALIBRATED, Calibration, Graph, Made, make, meant
from argan_train import options
from argan_train.ar_gan_dr import MULTIPLE

EXAMPLES = """examples:
  argan export runs/flowers-dr -o flowers.argan
  argan export runs/flowers-dr -o flowers.argan --to onnx,tflite,coreml \\
      --precision fp32,fp16,int8 --calibration photos/
  argan export runs/flowers-dr -o camera.argan --to tflite,coreml --precision fp16 --refocus 512
  argan evaluate flowers.argan --data DIR -o out && argan export runs/flowers-dr -o flowers.argan \\
      --evaluation out/evaluation.json --licence LICENSE-WEIGHTS

precisions:
  fp32, fp16     of weights; of ONNX and Core ML also of what is computed
  int8           weights and activations; what suffers stays in float32. Core ML: weights
  int8-io        TFLite: the same, and whole numbers go in and come out
  int8-weights   ONNX: weights alone, arithmetic in float32
  palette6       Core ML: weights of 64 values per layer
  tflite-fp16    and so on: of one format alone

exit codes: 0, 1 where a variant misses its limit (`argan verify` says why), 2 bad usage or input
"""
TOOLS = (
    "torch", "onnx", "onnxscript", "onnxslim", "onnxconverter-common", "onnxruntime",
    "litert-torch", "ai-edge-litert", "ai-edge-quantizer", "coremltools",
)  # fmt: skip


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "argan export", description="Export a run as a bundle.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("run", type=Path, help="folder of an ar-gan-dr run")
    parser.add_argument("-o", "--output", type=Path, required=True, help="NAME.argan")
    parser.add_argument(
        "--to", default="onnx", metavar="FORMATS", help="of onnx, tflite, coreml (onnx)"
    )
    parser.add_argument(
        "--precision", default="fp32", metavar="PRECISIONS", help="see below (fp32)"
    )
    parser.add_argument(
        "--input", choices=("float32", "uint8"), default="float32",
        help="the image of ONNX and TFLite files: 0..1, or 0..255 (float32)",
    )  # fmt: skip
    parser.add_argument(
        "--sizes", metavar="HxW,...",
        help="of the TFLite files (square and 4:3, about as large as the network was made for)",
    )  # fmt: skip
    parser.add_argument(
        "--refocus", metavar="HxW",
        help="also the whole chain, photo, focus and blur to bokeh, at this size",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", type=Path, metavar="PHOTOS", help="folder, zip or tar of photos, for int8"
    )
    parser.add_argument(
        "--count", type=options.whole(1), default=96, help="of these photos that are used (96)"
    )
    parser.add_argument(
        "--max-drop", type=float, default=0.05, metavar="SHARE",
        help="of the disparity's deviation that int8 may lose on photos not calibrated on (0.05)",
    )  # fmt: skip
    parser.add_argument("--seed", type=options.seed, default=0, help="of the choice of photos (0)")
    parser.add_argument(
        "--evaluation", type=Path, help="evaluation.json of argan evaluate, for the card"
    )
    parser.add_argument("--licence", type=Path, help="text that becomes LICENSE-WEIGHTS")
    try:
        report = export(parser.parse_args(argv))
    except Error as error:
        print(f"argan: {error}", file=sys.stderr)
        return 2
    return 0 if report.passed else 1


def export(a: argparse.Namespace) -> Report:
    """Write the bundle, and say how near each variant is to PyTorch. The bundle is written in any
    case: what misses its limit is for `argan verify` to explain."""
    if a.output.suffix != ".argan":
        raise InputError(f"{a.output}: a bundle is called NAME.argan")
    for path in (a.evaluation, a.licence):
        if path and not path.is_file():
            raise MissingFileError(f"no file at {path}")
    check_writable(a.output)
    scores = evaluation(a.evaluation) if a.evaluation else None
    pairs = meant(a.to.split(","), a.precision.split(","))
    if not CALIBRATED.isdisjoint(pairs) and a.calibration is None:
        raise InputError("int8 activations need photos to be calibrated on: give --calibration")
    run = depth_graph(a.run)
    graphs = [run.graph(sizes(a.sizes) if a.sizes else usual_sizes(run.nominal))]
    if a.refocus:
        graphs.append(refocus_graph(run, *sizes(a.refocus)[0]))
    photos = None
    if not CALIBRATED.isdisjoint(pairs):
        photos = calibration.photos(a.calibration, a.count, run.nominal, a.seed, cache())
    made: list[Made] = []
    for graph in graphs:
        for format in dict.fromkeys(format for format, _ in pairs):
            precisions = [p for f, p in pairs if f == format]
            calibrated = None
            if photos and not CALIBRATED.isdisjoint((format, p) for p in precisions):
                calibrated = calibrate(photos, graph, format, run, a.max_drop)
            for variant in make(graph, format, precisions, calibrated, a.input):
                size = sum(map(len, variant.files.values()))
                print(f"{variant.name}: {size / 1e3:.0f} kB", flush=True)
                made.append(variant)
    files = {"golden.npz": golden(graphs, run)}
    files["LICENSE-WEIGHTS"] = a.licence.read_bytes() if a.licence else NO_LICENCE.encode()
    if photos:
        searches = {variant.name: variant.search for variant in made if variant.search}
        text = json.dumps({"photos": photos.record, "variants": searches}, indent=1, sort_keys=True)
        files["quantization.json"] = text.encode()
    for variant in made:
        files |= variant.files
    about = manifest(a.output.stem, run, made, graphs)
    report = verify(bundle.assemble(about, files))
    measure(about["variants"], report, scores)
    files["CARD.md"] = card(a.output.stem, run, about["variants"], files, scores).encode()
    bundle.write(a.output, about, files)
    print(f"{a.output}: {sum(map(len, files.values())) / 1e6:.1f} MB")
    for result in report.results:
        print(f"  {result.variant.name}: {said(result)}")
    coarse = {r.variant.name for r in report.results if COARSE in {f.name for f in r.faults}}
    if any(variant.search for variant in made if variant.name in coarse):
        print(f"int8 is finer with a smaller --max-drop, such as {a.max_drop / 3:.2g}:"
              " it keeps more layers in float")  # fmt: skip
    return report


def evaluation(path: Path) -> dict[str, Any]:
    """What `argan evaluate` wrote of a depth network."""
    try:
        scores: dict[str, Any] = json.loads(path.read_text())
        figures(scores)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is not the evaluation.json of a depth network, as argan evaluate writes it"
        ) from None
    return scores


def said(result: Any) -> str:
    """In a few words, how near a variant is to PyTorch."""
    if result.not_checked:
        return f"not checked: {result.not_checked}"
    decibels = ", ".join(f"{name} {gap['psnr_db']:.1f} dB" for name, gap in result.golden.items())
    faults = ", ".join(fault.name for fault in result.faults)
    missed = ", ".join(f"{c.name} {c.measured}" for c in result.checks if not c.passed)
    return f"{decibels} to PyTorch" + (f"; MISSED: {faults or missed}" if not result.passed else "")


def measure(
    variants: dict[str, dict[str, Any]], report: Report, scores: dict[str, Any] | None
) -> None:
    """Enter into the manifest's variants what was measured, to a few digits: the last ones differ
    from one processor to the next."""
    for result in report.results:
        fields = variants[result.variant.name]
        fields["parity"] = {
            output: {"psnr_db": round(gap["psnr_db"], 1), "max_abs": float(f"{gap['max_abs']:.2g}")}
            for output, gap in result.golden.items()
        }
    if scores and "onnx-fp32" in variants:
        variants["onnx-fp32"]["accuracy"] = {
            group: {metric: round(value, 4) for metric, value in row["model"].items()}
            for group, row in scores["means"].items()
        }


def sizes(text: str) -> list[tuple[int, int]]:
    """ "256x256,192x320" or "512", a square -> [(height, width)]."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", part.strip())
        height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not height or not width or height % MULTIPLE or width % MULTIPLE:
            raise InputError(f"size {part!r}: give HxW in multiples of {MULTIPLE}, as 256x256")
        found.append((height, width))
    return found


def usual_sizes(nominal: int) -> list[tuple[int, int]]:
    """Square, landscape and portrait of 4:3, of about nominal^2 px."""
    shapes = [np.empty(shape, np.uint8) for shape in ((1, 1), (3, 4), (4, 3))]
    return list(dict.fromkeys(calibration.nominal_size(s, nominal, MULTIPLE) for s in shapes))


def calibrate(
    photos: calibration.Photos, graph: Graph, format: str, run: DepthGraph, max_drop: float
) -> Calibration:
    """Photos as a graph takes them: two thirds to calibrate on, the rest to choose by. Where the
    graph has sizes, a photo is seen at the one nearest to its shape."""
    others = {name: x.numpy() for name, x in graph.inputs.items() if name != "image"}

    def size(photo: Any) -> tuple[int, int]:
        if graph.free and format == "onnx":
            return calibration.nominal_size(photo, run.nominal, MULTIPLE)
        shape = photo.shape[0] / photo.shape[1]
        return min(graph.sizes, key=lambda s: abs(np.log(s[0] / s[1] / shape)))

    taken = [{"image": calibration.network_image(p, size(p)), **others} for p in photos.images]
    share = max(1, len(taken) * 2 // 3)
    return Calibration(taken[:share], taken[share:] or taken, max_drop)


def golden(graphs: Sequence[Graph], run: DepthGraph) -> bytes:
    """Inputs and what PyTorch makes of them, as `argan.golden` reads them, so that any port can
    check itself."""
    arrays: dict[str, Any] = {}
    for graph in graphs:
        height, width = (run.nominal, run.nominal) if graph.free else graph.sizes[0]
        inputs = {name: x.numpy() for name, x in graph.inputs.items()}
        inputs["image"] = golden_input(height, width).numpy()
        prefix = "" if graph.free else "refocus_"
        answers = graph.answers(inputs)
        arrays |= {f"{prefix}image": inputs.pop("image"), **inputs}
        arrays |= {f"{prefix}disparity": answers.pop("disparity"), **answers}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def manifest(
    name: str, run: DepthGraph, made: Sequence[Made], graphs: Sequence[Graph]
) -> dict[str, Any]:
    """bundle.json, but for what `bundle.write` fills in; `argan.bundle` documents its fields."""
    refocus = next((graph for graph in graphs if not graph.free), None)
    return {
        "name": name,
        "task": "disparity",
        "inputs": [{
            "name": "image", "shape": [1, 3, "H", "W"], "dtype": "float32", "layout": "NCHW",
            "range": [0, 1], "colour": "sRGB", "multiple_of": MULTIPLE, "nominal": run.nominal,
        }],
        "outputs": [{
            "name": "disparity", "shape": [1, 1, "H", "W"], "dtype": "float32",
            "meaning": "affine inverse depth, larger = nearer", "range": list(run.range),
        }],
        "refocus": refocus and {"max_blur": max_blur(*refocus.sizes[0])},
        "optics": {"f_number": REFERENCE_F_NUMBER},
        "calibration": None,
        "source": {"checkpoint": run.checkpoint, "run": run.run},
        "tools": tools(),
        "licence": {
            "weights": "see LICENSE-WEIGHTS",
            "data": ", ".join(
                f"{about['data']['source']} sha256 {about['data'].get('sha256', '-')}"
                for about in run.record["data"]["teachers"].values()
            ),
        },
        "variants": {variant.name: variant.fields for variant in made},
    }  # fmt: skip


def max_blur(height: int, width: int) -> float:
    return round(Layered(height, width).largest_radius / width, 4)


def tools() -> dict[str, str]:
    """Versions of those that are installed."""
    found = {}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cache() -> Path:
    """Where chosen photos are kept, so that the next export need not choose again."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "argan"
