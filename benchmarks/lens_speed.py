"""The lens: CPU seconds, wall seconds and peak memory, beside the light field in PyTorch.

    python benchmarks/lens_speed.py [--megapixels 1 4 12 50] [--threads 2] [--out out]

Three tables, of one seeded scene (a floor, a subject and something in front; radii up to 1.5 % of
the width). Photo and disparity in memory, by size: one warm-up on a corner, then the least of three
runs. The same by radius, at 12 MP. And whole processes, from start-up to the written JPEG, with the
disparity read from .npy; the PyTorch program is the published renderer written plainly (5x5 views
by grid_sample, one map, the mean taken on the way, in sRGB), and left out at 50 MP.

Every figure is of a process of its own and the peak is the whole process's; "scene" is what it
holds before anything is rendered. CPU seconds are the figure to trust on a busy machine. Writes
lens_speed.json and lens_speed.png.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

from argan.chart import Bar, bars

RUNS = 3
FOCUS = 0.6  # disparity of the subject
RADIUS = 0.015  # of the photo's width, at the disparity farthest from the focus
RADII = (2, 5, 10, 20, 40, 80, 160)  # px, at 12 MP
PYTORCH = "PyTorch light field 5x5"
METHODS = ("scene", "final", "preview", "light field 5x5", PYTORCH)
MAX_MEMORY = 600  # MiB, for 50 MP


@dataclass(frozen=True)
class Cost:
    cpu_s: float
    wall_s: float
    peak_mib: float


# ---- the scene


def width_of(megapixels: float) -> int:
    return round((megapixels * 1e6 * 4 / 3) ** 0.5)


def scene(megapixels: float) -> tuple[np.ndarray, np.ndarray]:
    """A 4:3 photo with detail of every size, and its disparity."""
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
    photo, disparity = scene(float(megapixels))
    cv2.imwrite(f"{folder}/in.jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 92])
    np.save(f"{folder}/disparity.npy", disparity)


@contextmanager
def scene_of(megapixels: float) -> Iterator[str]:
    """A folder with photo and disparity, made by another process: its peak is not ours, which
    would count for the processes that we start."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--scene", folder, str(megapixels)]
        subprocess.run(command, check=True)
        yield folder


# ---- the renderers: photo uint8, disparity, K, threads -> picture


def pytorch(photo: np.ndarray, disparity: np.ndarray, blur: float, threads: int) -> np.ndarray:
    import torch
    from torch.nn.functional import grid_sample

    torch.set_num_threads(threads)
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float().div_(255)
    shift = blur * (torch.from_numpy(disparity) - FOCUS)
    height, width = shift.shape
    x, y = torch.linspace(-1, 1, width), torch.linspace(-1, 1, height)[:, None]
    mean = torch.zeros_like(image)
    steps = (-1, -0.5, 0, 0.5, 1)
    with torch.inference_mode():
        for u, v in ((u, v) for v in steps for u in steps):
            across, down = x + shift * (u * 2 / (width - 1)), y + shift * (v * 2 / (height - 1))
            grid = torch.stack([across, down], dim=-1)[None]
            view = grid_sample(image, grid, padding_mode="border", align_corners=True)
            mean.add_(view, alpha=1 / len(steps) ** 2)
        return np.asarray(mean[0].mul_(255).round_().byte().permute(1, 2, 0).numpy())


def renderer(method: str) -> Callable[[np.ndarray, np.ndarray, float, int], np.ndarray]:
    if method == PYTORCH:
        return pytorch
    from argan import lens
    from argan.optics import PUBLISHED

    def light_field(
        photo: np.ndarray, disparity: np.ndarray, blur: float, threads: int
    ) -> np.ndarray:
        image, shift = photo / np.float32(255), np.float32(blur) * (disparity - np.float32(FOCUS))
        return lens.light_field(image, shift, PUBLISHED, threads)

    def render(photo: np.ndarray, disparity: np.ndarray, blur: float, threads: int) -> np.ndarray:
        return lens.render(
            photo, disparity, focus=FOCUS, blur=blur, quality=method, threads=threads
        )

    return light_field if method == "light field 5x5" else render


# ---- measuring


def child(method: str, folder: str, radius: float, threads: int) -> Cost:
    """This process is the one that is measured."""
    photo, disparity = cv2.imread(f"{folder}/in.jpg"), np.load(f"{folder}/disparity.npy")
    costs = [(0.0, 0.0)]
    if method != "scene":
        run = renderer(method)
        run(photo[:300, :400].copy(), disparity[:300, :400].copy(), 10, threads)
        costs = []
        for _ in range(RUNS):
            cpu, wall = time.process_time(), time.perf_counter()
            run(photo, disparity, radius / FOCUS, threads)
            costs.append((time.process_time() - cpu, time.perf_counter() - wall))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Cost(min(cpu for cpu, _ in costs), min(wall for _, wall in costs), mib(peak))


def in_memory(method: str, folder: str, radius: float, threads: int) -> Cost:
    command = [sys.executable, __file__, "--child", method, folder, str(radius)]
    done = subprocess.run(
        [*command, "--threads", str(threads)], check=True, capture_output=True, text=True
    )
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def whole(command: list[str]) -> Cost:
    """A process from its start to its end: least seconds of RUNS, largest peak."""
    costs = []
    for _ in range(RUNS):
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
        costs.append(Cost(usage.ru_utime + usage.ru_stime, wall, mib(usage.ru_maxrss)))
    return Cost(
        min(cost.cpu_s for cost in costs),
        min(cost.wall_s for cost in costs),
        max(cost.peak_mib for cost in costs),
    )


def mib(peak: int) -> float:
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # ru_maxrss in bytes or KiB


def processes(megapixels: float, folder: str, threads: int) -> dict[str, Cost]:
    """Whole processes, which read and write files."""
    photo, disparity, out = (f"{folder}/{name}" for name in ("in.jpg", "disparity.npy", "out.jpg"))
    blur = str(RADIUS * width_of(megapixels) / FOCUS)  # the background's disparity reaches 0
    argan = [sys.executable, "-m", "argan", "render", photo, "--disparity", disparity]
    argan += ["--focus-disparity", str(FOCUS), "--blur", blur, "-o", out, "--force"]
    argan += ["--threads", str(threads)]
    if megapixels >= 50:
        limited = f"argan render --max-memory {MAX_MEMORY}"
        return {limited: whole([*argan, "--max-memory", str(MAX_MEMORY)])}
    reference = [sys.executable, __file__, "--reference", photo, disparity, blur, out]
    return {
        "argan render": whole(argan),
        "argan render, preview": whole([*argan, "--quality", "preview"]),
        PYTORCH: whole([*reference, "--threads", str(threads)]),
    }


def reference(photo: str, disparity: str, blur: str, out: str, threads: int) -> None:
    from PIL import Image

    with Image.open(photo) as file:
        pixels = np.array(file)
    result = pytorch(pixels, np.load(disparity), float(blur), threads)
    Image.fromarray(result).save(out, quality=95, subsampling=0)


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def heading(*cells: str) -> None:
    print()
    row(*cells)
    print("|" + "---|" * len(cells))


def figures(cost: Cost, beside: Cost | None) -> list[str]:
    said = [f"{cost.cpu_s:.3f}", f"{cost.wall_s:.3f}", f"{cost.peak_mib:.0f}"]
    if beside is None or not cost.cpu_s:
        return [*said, "", ""]
    return [*said, f"{beside.cpu_s / cost.cpu_s:.1f}", f"{cost.peak_mib / beside.peak_mib:.2f}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 12, 50])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out"))
    for hidden, count in (("--scene", 2), ("--child", 3), ("--reference", 4)):
        parser.add_argument(hidden, nargs=count, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scene:
        write_scene(*options.scene)
        return 0
    if options.child:
        method, folder, radius = options.child
        print(json.dumps(asdict(child(method, folder, float(radius), options.threads))))
        return 0
    if options.reference:
        reference(*options.reference, options.threads)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    record: dict[str, dict[str, dict[str, Cost]]] = {"in memory": {}, "by radius": {}, "whole": {}}
    columns = ("CPU s", "wall s", "peak MiB", "times faster than PyTorch", "of its memory")
    heading("MP, in memory", "renderer", *columns)
    for megapixels in options.megapixels:
        methods = METHODS if megapixels < 50 else METHODS[:3]
        radius = RADIUS * width_of(megapixels)
        with scene_of(megapixels) as folder:
            costs = {m: in_memory(m, folder, radius, options.threads) for m in methods}
            record["in memory"][f"{megapixels:g} MP"] = costs
            for method, cost in costs.items():
                row(f"{megapixels:g}", method, *figures(cost, costs.get(PYTORCH)))
    heading("MP, whole process", "program", *columns)
    for megapixels in options.megapixels:
        if megapixels >= 12:
            with scene_of(megapixels) as folder:
                costs = processes(megapixels, folder, options.threads)
            record["whole"][f"{megapixels:g} MP"] = costs
            for program, cost in costs.items():
                row(f"{megapixels:g}", program, *figures(cost, costs.get(PYTORCH)))
    heading("radius px, 12 MP", "renderer", "CPU s")
    with scene_of(12) as folder:
        for radius in RADII:
            costs = {m: in_memory(m, folder, radius, options.threads) for m in METHODS[1:3]}
            record["by radius"][f"{radius} px"] = costs
            for method, cost in costs.items():
                row(radius, method, f"{cost.cpu_s:.2f}")
    facts = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": version("torch")}
    plain = {
        group: {
            key: {name: asdict(cost) for name, cost in costs.items()} for key, costs in of.items()
        }
        for group, of in record.items()
    }
    (options.out / "lens_speed.json").write_text(json.dumps(facts | plain, indent=1) + "\n")
    panels = {
        f"CPU seconds, {group}": {
            key: [Bar(name, cost.cpu_s) for name, cost in costs.items() if cost.cpu_s]
            for key, costs in of.items()
        }
        for group, of in record.items()
    }
    (options.out / "lens_speed.png").write_bytes(bars(panels))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
