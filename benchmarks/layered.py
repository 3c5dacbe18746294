"""How much does the lens lose as a graph for phones? `argan_export.layered` beside `argan.lens`.

    python benchmarks/layered.py --data ../shared/data/oracle-public [--sizes 512 1024] [--out out]

Quality: the 36 thin-lens renders of `lens_quality.py`, given the true disparity, and given one
degraded as a network would do it; "rest": scenes that no parameter of either was chosen on.
Cost: one frame of 4:3, that many px wide, in ONNX Runtime (fp32) and in TFLite (XNNPACK), one
thread, with the lens' own final and preview on the same frame: the least of five, CPU ms. Files in
kB. Writes layered.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from lens_quality import (
    CHOSEN_ON,
    FAULTS,
    Case,
    degraded,
    eight_bit,
    from_degraded,
    load,
    mean,
    ours,
    scores,
)

from argan import lens, upsample
from argan.backends.onnx import Onnx
from argan.backends.tflite import TFLite
from argan_export.layered import EdgeAware, Layered
from argan_export.to_onnx import to_onnx
from argan_export.to_tflite import to_tflite

RUNS = 5
AS_A_NETWORK = FAULTS["as a network"]


def planes(picture: np.ndarray) -> torch.Tensor:
    """[H, W, C] -> [1, C, H, W]"""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32))


@torch.no_grad()
def layered(case: Case) -> np.ndarray:
    return render(case, planes(case.scene.disparity[..., None]), case.focus, case.blur)


@torch.no_grad()
def layered_degraded(case: Case) -> np.ndarray:
    """`EdgeAware` takes disparity of about 0..1, as `RefocusGraph` normalises it."""
    lowest, extent = float(case.scene.disparity.min()), float(np.ptp(case.scene.disparity))
    small = degraded(case.scene.disparity, int(case.scene.name.rpartition("_")[2]), *AS_A_NETWORK)
    photo = planes(case.scene.photo / np.float32(255))
    seen = torch.nn.functional.interpolate(photo, size=small.shape, mode="area")
    small_planes = planes(((small - lowest) / extent)[..., None])
    full = EdgeAware(*case.scene.disparity.shape).eval()(small_planes, seen, photo)
    return render(case, full, (case.focus - lowest) / extent, case.blur * extent)


def render(case: Case, disparity: torch.Tensor, focus: float, blur: float) -> np.ndarray:
    graph = Layered(*case.scene.disparity.shape).eval()
    photo = planes(case.scene.photo / np.float32(255))
    picture = graph(photo, disparity, torch.tensor([focus]), torch.tensor([blur]))
    return eight_bit(picture[0].permute(1, 2, 0).numpy())


QUALITY: dict[str, Callable[[Case], np.ndarray]] = {
    "lens, final": ours,
    "lens, preview": lambda case: ours(case, quality="preview"),
    "layered": layered,
    "lens, degraded disparity": from_degraded(upsample.edge_aware, *AS_A_NETWORK),
    "layered, degraded disparity": layered_degraded,
}


def cost(width: int) -> dict[str, float]:
    """CPU ms of each, and kB of the files."""
    height = width * 3 // 4
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.random((12, 16, 3), np.float32), (width, height))
    disparity = cv2.resize(rng.random((6, 8), np.float32), (width, height))
    inputs = {
        "image": planes(photo), "disparity": planes(disparity[..., None]),
        "focus": torch.tensor([0.5]), "blur": torch.tensor([0.02 * width]),
    }  # fmt: skip
    graph = Layered(height, width).eval()
    onnx = to_onnx(graph, inputs, ["bokeh"], multiple=None)
    tflite = to_tflite(graph, inputs, ["bokeh"], [(height, width)])
    first = {name: x.numpy() for name, x in inputs.items()}
    last = {
        name: np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x
        for name, x in first.items()
    }
    by_onnx, by_tflite = Onnx(onnx, threads=1), TFLite(tflite, threads=1)
    pixels, by_lens = eight_bit(photo), {"focus": 0.5, "blur": 0.02 * width, "threads": 1}
    return {
        "lens, final": least_ms(lambda: lens.render(pixels, disparity, **by_lens)),
        "lens, preview": least_ms(
            lambda: lens.render(pixels, disparity, quality="preview", **by_lens)
        ),
        "ONNX Runtime": least_ms(lambda: by_onnx.run(first)),
        "TFLite": least_ms(lambda: by_tflite.run(last, f"s{height}x{width}")),
        "ONNX kB": len(onnx) / 1000,
        "TFLite kB": len(tflite) / 1000,
    }


def least_ms(call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(RUNS):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)
    return 1000 * min(times)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/oracle-public"))
    parser.add_argument("--sizes", type=int, nargs="*", default=[512, 1024], help="widths, px")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    folders = sorted(f for f in options.data.glob("*_[0-9][0-9]") if f.is_dir())
    if not folders:
        raise SystemExit(f"no scenes in {options.data}; give the folder of oracle-public by --data")
    cases = [case for folder in folders for case in load(folder)]
    rest = [i for i, case in enumerate(cases) if case.scene.name not in CHOSEN_ON]
    print("| renderer | PSNR | SSIM | edges | halo | PSNR, rest | SSIM, rest |\n|" + "---|" * 7)
    quality = {}
    for name, method in QUALITY.items():
        rows = scores(method, cases)
        few = [rows[i] for i in rest]
        quality[name] = {key: mean(rows, key) for key in rows[0]}
        quality[name] |= {f"{key}, rest": mean(few, key) for key in ("psnr", "ssim")}
        values = quality[name]
        print(
            f"| {name} | {values['psnr']:.2f} | {values['ssim']:.4f} | {values['edges']:.2f}"
            f" | {values['halo']:.2f} | {values['psnr, rest']:.2f} | {values['ssim, rest']:.4f} |",
            flush=True,
        )
    costs = {width: cost(width) for width in options.sizes}
    for i, (width, found) in enumerate(costs.items()):
        if i == 0:
            print(f"\n| px | {' | '.join(found)} |\n|" + "---|" * (1 + len(found)))
        size = f"{width} x {width * 3 // 4}"
        print(f"| {size} | " + " | ".join(f"{value:.0f}" for value in found.values()) + " |")
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"quality": quality, "cost": costs}
    (options.out / "layered.json").write_text(json.dumps(record, indent=1) + "\n")
    return int(quality["layered"]["psnr"] < quality["lens, final"]["psnr"] - 1)


if __name__ == "__main__":
    raise SystemExit(main())
