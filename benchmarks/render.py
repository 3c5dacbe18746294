"""`argan render` beside the PyTorch light field: seconds and peak memory of each whole process.

    python benchmarks/render.py [--megapixels 12] [--out out]

Both get the same JPEG and the same float32 disparity (.npy), made here from a fixed seed, read
them, render and write a JPEG; each is a process of its own, and the least of three runs counts.
The PyTorch program is the published renderer written plainly: 5x5 views by grid_sample, one
disparity map, the mean taken on the way; in sRGB, as published. Its radius is the same.
CPU seconds are user + system time of the process and are the figure to trust on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

RUNS = 3
FOCUS = 0.6  # disparity of the subject
RADIUS = 0.015  # of the photo's width, at the disparity farthest from the focus
LIMITS = {"time": 1 / 4, "memory": 0.6}  # argan's share of the reference


@dataclass(frozen=True)
class Cost:
    cpu_s: float
    wall_s: float
    peak_mib: float


def width_of(megapixels: float) -> int:
    return round((megapixels * 1e6 * 4 / 3) ** 0.5)


def scene(megapixels: float) -> tuple[np.ndarray, np.ndarray]:
    """A 4:3 photo with detail of every size, and a floor, a subject and something in front."""
    width = width_of(megapixels)
    height = width * 3 // 4
    rng = np.random.default_rng(0)
    photo = np.zeros((height, width, 3), np.float32)
    for cell in (1, 4, 16, 64, 256):
        small = rng.random((-(-height // cell), -(-width // cell), 3), dtype=np.float32)
        photo += cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC) / 5
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)
    disparity = 0.25 * y
    subject = ((x - 0.5) / 0.18) ** 2 + ((y - 0.5) / 0.35) ** 2 < 1
    disparity[subject] = FOCUS + 0.05 * np.sin(60 * x[subject])
    disparity[((x - 0.15) / 0.08) ** 2 + ((y - 0.75) / 0.15) ** 2 < 1] = 1.0
    return np.clip(photo * 255, 0, 255).astype(np.uint8), disparity


def write_scene(folder: str, megapixels: str) -> None:
    """In a process of its own: the peak memory of a process counts for those that it starts."""
    photo, disparity = scene(float(megapixels))
    cv2.imwrite(f"{folder}/in.jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 92])
    np.save(f"{folder}/disparity.npy", disparity)


def light_field(photo: str, disparity: str, blur: str, out: str) -> None:
    """The reference process."""
    import torch
    from PIL import Image
    from torch.nn.functional import grid_sample

    with Image.open(photo) as file:
        image = torch.from_numpy(np.array(file)).permute(2, 0, 1)[None].float().div_(255)
    shift = float(blur) * (torch.from_numpy(np.load(disparity)) - FOCUS)
    height, width = shift.shape
    x, y = torch.linspace(-1, 1, width), torch.linspace(-1, 1, height)[:, None]
    mean = torch.zeros_like(image)
    steps = (-1, -0.5, 0, 0.5, 1)
    with torch.inference_mode():
        for u, v in ((u, v) for v in steps for u in steps):
            across = x + shift * (u * 2 / (width - 1))
            down = y + shift * (v * 2 / (height - 1))
            grid = torch.stack([across, down], dim=-1)[None]
            view = grid_sample(image, grid, padding_mode="border", align_corners=True)
            mean.add_(view, alpha=1 / len(steps) ** 2)
        result = mean[0].mul_(255).round_().byte().permute(1, 2, 0).numpy()
    Image.fromarray(result).save(out, quality=92)


def measure(command: list[str]) -> Cost:
    """Least seconds of RUNS, largest peak."""
    costs = [one_run(command) for _ in range(RUNS)]
    return Cost(
        min(cost.cpu_s for cost in costs),
        min(cost.wall_s for cost in costs),
        max(cost.peak_mib for cost in costs),
    )


def one_run(command: list[str]) -> Cost:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss in bytes or KiB
    return Cost(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / unit)


def compare(megapixels: float) -> dict[str, Cost]:
    with tempfile.TemporaryDirectory() as folder:
        this = [sys.executable, __file__]
        subprocess.run([*this, "--scene", folder, str(megapixels)], check=True)
        photo, disparity, out = f"{folder}/in.jpg", f"{folder}/disparity.npy", f"{folder}/out.jpg"
        # The background's disparity reaches 0; K = radius / |d - focus|.
        blur = str(RADIUS * width_of(megapixels) / FOCUS)
        argan = [sys.executable, "-m", "argan", "render", photo, "--disparity", disparity]
        argan += ["--focus-disparity", str(FOCUS), "--blur", blur, "-o", out, "--force"]
        return {
            "argan render": measure(argan),
            "argan render, preview": measure([*argan, "--quality", "preview"]),
            "PyTorch light field 5x5": measure([*this, "--reference", photo, disparity, blur, out]),
        }


def table(costs: dict[str, Cost]) -> str:
    reference = costs["PyTorch light field 5x5"]
    lines = ["| program | CPU s | wall s | peak MiB | CPU ratio | memory ratio |", "|" + "---|" * 6]
    for name, cost in costs.items():
        lines.append(
            f"| {name} | {cost.cpu_s:.2f} | {cost.wall_s:.2f} | {cost.peak_mib:.0f}"
            f" | {reference.cpu_s / cost.cpu_s:.1f}x faster"
            f" | {cost.peak_mib / reference.peak_mib:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--scene", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--reference", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scene:
        write_scene(*options.scene)
        return 0
    if options.reference:
        light_field(*options.reference)
        return 0
    costs = compare(options.megapixels)
    ours, reference = costs["argan render"], costs["PyTorch light field 5x5"]
    shares = {
        "time": ours.cpu_s / reference.cpu_s,
        "memory": ours.peak_mib / reference.peak_mib,
    }
    print(f"{options.megapixels:g} MP, radius up to {100 * RADIUS:g} % of the width\n")
    print(table(costs))
    print(f"\nlimits: at least {1 / LIMITS['time']:g}x faster, {LIMITS['memory']} of the memory")
    record = {
        "megapixels": options.megapixels,
        "costs": {name: asdict(cost) for name, cost in costs.items()},
        "share_of_reference": shares,
        "limits": LIMITS,
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform()},
        "versions": {p: version(p) for p in ("argan", "numpy", "opencv-python-headless", "torch")},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "render.json").write_text(json.dumps(record, indent=1) + "\n")
    return int(any(shares[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    raise SystemExit(main())
