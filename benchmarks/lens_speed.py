"""`argan.lens.render` with photo and disparity in memory: CPU seconds, wall seconds, peak memory.

By size of the photo and by radius, beside the light field in PyTorch.

    python benchmarks/lens_speed.py [--megapixels 1 4 12 50] [--threads 2] [--out out]

Every figure is of a process of its own (the scene of `render.py`, one warm-up on a corner of it,
then the least of three runs); the peak is the whole process's, and "scene" is what it holds before
anything is rendered. At 50 MP the light field is left out. CPU seconds are the
figure to trust on a busy machine. Writes lens_speed.json and two plots.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import render as whole_process

METHODS = ("scene", "final", "preview", "PyTorch light field 5x5")
RADII = (2, 5, 10, 20, 40, 80, 160)  # px, at 12 MP
RUNS = 3


def light_field(photo: np.ndarray, disparity: np.ndarray, blur: float) -> np.ndarray:
    """As published, one view at a time, with the mean taken on the way."""
    import torch
    from torch.nn.functional import grid_sample

    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float().div_(255)
    shift = blur * (torch.from_numpy(disparity) - whole_process.FOCUS)
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


def child(method: str, folder: str, radius: float, threads: int) -> None:
    photo, disparity = cv2.imread(f"{folder}/in.jpg"), np.load(f"{folder}/disparity.npy")
    costs = [(0.0, 0.0)]
    if method != "scene":
        if method in ("final", "preview"):
            from argan import lens

            def once(photo: np.ndarray, disparity: np.ndarray, blur: float) -> None:
                lens.render(
                    photo, disparity, focus=whole_process.FOCUS, blur=blur, quality=method,
                    threads=threads,
                )  # fmt: skip
        else:
            import torch

            torch.set_num_threads(threads)
            once = light_field
        once(photo[:300, :400].copy(), disparity[:300, :400].copy(), 10)
        costs = []
        for _ in range(RUNS):
            cpu, wall = time.process_time(), time.perf_counter()
            once(photo, disparity, radius / whole_process.FOCUS)
            costs.append((time.process_time() - cpu, time.perf_counter() - wall))
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    cpu, wall = min(costs)
    print(json.dumps({"cpu_s": cpu, "wall_s": wall, "peak_mib": peak}))


@contextmanager
def scene_of(megapixels: float) -> Iterator[str]:
    """A folder with photo and disparity, made by another process: its peak is not ours."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, whole_process.__file__, "--scene", folder, str(megapixels)]
        subprocess.run(command, check=True)
        yield folder


def measure(method: str, folder: str, radius: float, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", method, folder, str(radius)]
    done = subprocess.run(
        [*command, "--threads", str(threads)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def plot(path: Path, title: str, lines: dict[str, list[tuple[float, float]]]) -> None:
    """x and y on scales of powers of two, labelled at each point."""
    size, margin = (720, 480), 70
    picture = np.full((size[1], size[0], 3), 255, np.uint8)
    points = np.log2([point for line in lines.values() for point in line])
    low, span = points.min(0), np.maximum(np.ptp(points, axis=0), 1e-6)
    colours = ((200, 80, 0), (0, 140, 0), (0, 0, 200))
    for (name, line), colour in zip(lines.items(), colours, strict=False):
        at = (np.log2(line) - low) / span * (np.array(size) - 2 * margin) + margin
        corners = [(round(x), round(size[1] - y)) for x, y in at]
        for a, b in zip(corners, corners[1:], strict=False):
            cv2.line(picture, a, b, colour, 2, cv2.LINE_AA)
        for (x, y), (value, seconds) in zip(corners, line, strict=True):
            cv2.circle(picture, (x, y), 4, colour, -1, cv2.LINE_AA)
            text(picture, f"{value:g}: {seconds:.2g} s", (x - 30, y - 10), colour)
        text(picture, name, (margin, 50 + 18 * list(lines).index(name)), colour)
    text(picture, title, (margin, 25), (0, 0, 0))
    cv2.imwrite(str(path), picture)


def text(picture: np.ndarray, words: str, at: tuple[int, int], colour: tuple[int, ...]) -> None:
    cv2.putText(picture, words, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4, 12, 50])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        method, folder, radius = options.child
        child(method, folder, float(radius), options.threads)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    record: dict[str, dict[str, dict[str, float]]] = {"size": {}, "radius": {}}
    print("| MP | renderer | CPU s | wall s | peak MiB |\n|" + "---|" * 5)
    for megapixels in options.megapixels:
        radius = whole_process.RADIUS * whole_process.width_of(megapixels)
        with scene_of(megapixels) as folder:
            for method in METHODS:
                if method in METHODS[:3] or megapixels < 50:
                    cost = measure(method, folder, radius, options.threads)
                    record["size"][f"{megapixels:g} MP, {method}"] = cost
                    print(
                        f"| {megapixels:g} | {method} | {cost['cpu_s']:.2f} |"
                        f" {cost['wall_s']:.2f} | {cost['peak_mib']:.0f} |",
                        flush=True,
                    )
    print("\n| radius px, 12 MP | renderer | CPU s |\n|---|---|---|")
    with scene_of(12) as folder:
        for radius in RADII:
            for method in METHODS[1:3]:
                cost = measure(method, folder, radius, options.threads)
                record["radius"][f"{radius} px, {method}"] = cost
                print(f"| {radius} | {method} | {cost['cpu_s']:.2f} |", flush=True)
    (options.out / "lens_speed.json").write_text(json.dumps(record, indent=1) + "\n")
    for group, unit in (("size", " MP"), ("radius", " px")):
        lines = {
            method: [
                (float(key.partition(unit)[0]), cost["cpu_s"])
                for key, cost in record[group].items()
                if key.endswith(method) and cost["cpu_s"] > 0
            ]
            for method in METHODS[1:]
        }
        lines = {method: line for method, line in lines.items() if line}
        plot(options.out / f"lens_speed_{group}.png", f"CPU s by {group} ({unit.strip()})", lines)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
