"""What is each part of AR-GAN good for? The same training with one part changed, over seeds.

    python benchmarks/ablation.py --data toy --seeds 0 1 2 --student --workers 2
    python benchmarks/ablation.py --data photos.zip --preset flowers64-prior --rows ar-gan plain

Each cell is a run in OUT/ROW-SEED: cells that are finished are kept, interrupted ones resumed. Then
all are scored alike:
    FID, KID           of photographs, as `argan evaluate` draws and compares them
    D                  relative RMSE (1 = a constant) of the generated disparity against a judge's,
                       and the radial prior's on the same images; on the toy world alone
    student            relative RMSE on unseen toy scenes of a network distilled from the run
                       (--student), of sharp ones and of sharp ones off centre
    variation          deviation of the disparity over samples, px
    copy, edges        its correlation with the prior and with outlines (`metrics.collapse`)
Figures are means over seeds, +- half their range. Writes OUT/ablation.json and OUT/ablation.png:
random samples of each row's first seed, the same latents in all: sharp image, disparity (white =
near), photograph. A row without a depth of field has no disparity: "-".
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm
from train_smoke import distilled_rows

from argan.errors import Error, InputError
from argan.files import write_atomic
from argan_train import checkpoint, image_metrics, judge, metrics
from argan_train.ar_gan import draw_photographs, load_generator
from argan_train.config import ArGanConfig, ArGanDrConfig, load_preset
from argan_train.evaluate_generator import BATCH, LOOKED_AT, real_photos
from argan_train.image_metrics import FeatureNetwork, Features
from argan_train.loop import MAY_CHANGE
from argan_train.networks import DepthNet, Generator
from argan_train.sample import draw

ROWS: dict[str, dict[str, Any]] = {
    "ar-gan": {},
    "plain": {"mixture": "plain"},
    "no-mixture": {"mixture": "none"},
    "no-prior": {"prior_weight": 0.0, "prior_final": 0.0},
    "published-losses": {
        "center_weight": 0.0, "smoothness_weight": 0.0, "blur_share_weight": 0.0
    },
    "s-uniform": {"mixture": "uniform"},
    "random-views": {"pupil": "random"},
    "random-views-no-prior": {"pupil": "random", "prior_weight": 0.0, "prior_final": 0.0},
    "rise": {"pupil": "random", "prior_weight": 0.0, "prior_final": 0.0, "rise_weight": 1.0},
    "grid-5x5": {"pupil": "grid", "views": 5},
    "linear-light": {"light": "linear"},
    "no-occlusion": {"occlusion": False},
}  # fmt: skip
COLUMNS = {
    "fid": "FID",
    "kid_x1000": "KID x1000",
    "judged_rel_rmse": "D",
    "radial_rel_rmse": "radial",
    "student_rel_rmse": "student",
    "student_aside_rel_rmse": "off centre",
    "variation_px": "variation",
    "prior_correlation": "copy",
    "edge_correlation": "edges",
    "hours": "hours",
}
SHOWN = 12  # samples on the page
Figures = dict[str, float]


@dataclass(frozen=True)
class Cell:
    row: str
    seed: int
    run: Path
    config: ArGanConfig

    @property
    def has_disparity(self) -> bool:
        return self.config.mixture != "plain"

    @property
    def student(self) -> Path:
        return self.run / "student"


class Trainer:
    """Runs the cells' trainings, each in a process of its own, and ends them when it is ended."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.running: list[subprocess.Popen[bytes]] = []
        self.ended = False

    def train(self, cell: Cell) -> None:
        """The cell's run and, where asked for, its student's, up to their last step."""
        options, seed = self.options, ["--seed", str(cell.seed)]
        if not finished(cell.run, cell.config, options.data):
            settings = [x for name, value in ROWS[cell.row].items() for x in option(name, value)]
            steps = option("steps", cell.config.steps)
            method = ["ar-gan", "--preset", options.preset, "--data", options.data]
            self.launch(cell.run, [*method, *seed, *steps, *settings])
            if not finished(cell.run, cell.config, options.data):
                raise Error(f"{cell.run} was stopped: the same command again goes on from there")
        if options.student and cell.has_disparity:
            config = student_config(options, cell.seed)
            if not finished(cell.student, config):
                method = ["ar-gan-dr", "--preset", options.student, "--teacher", str(cell.run)]
                self.launch(cell.student, [*method, *seed])
                if not finished(cell.student, config):
                    raise Error(f"{cell.student} was stopped: the same command again goes on")

    def launch(self, run: Path, arguments: list[str]) -> None:
        """`argan train`; what it says goes to RUN/train.log."""
        if self.ended:
            raise Error(f"{run} was not begun")
        run.mkdir(parents=True, exist_ok=True)
        resume = ["--resume"] if (run / "state.safetensors").exists() else []
        machine = ["--threads", str(self.options.threads), "--device", self.options.device]
        command = [sys.executable, "-m", "argan_train", "train", *arguments, "--out", str(run)]
        environment = os.environ | {"OMP_NUM_THREADS": str(self.options.threads)}
        with (run / "train.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, *machine, *resume], stdout=log, stderr=log, env=environment,
                start_new_session=True,  # Ctrl-C comes once, from `train_all`
            )  # fmt: skip
            self.running.append(process)
            if process.wait():
                raise Error(f"{run} failed: {run / 'train.log'} says why")

    def train_all(self, cells: Sequence[Cell]) -> dict[Cell, str]:
        """Several at once. -> what went wrong, by cell"""
        failed: dict[Cell, str] = {}
        with ThreadPoolExecutor(self.options.workers) as pool:
            jobs = {pool.submit(self.train, cell): cell for cell in cells}
            try:
                for job in tqdm(as_completed(jobs), "train", len(jobs), unit="cell", disable=None):
                    if isinstance(error := job.exception(), Error):
                        failed[jobs[job]] = str(error)
                        print(f"ablation: {error}", file=sys.stderr)
                    else:
                        job.result()
            except BaseException:  # Ctrl-C, SIGTERM: the runs save and stop, too
                self.ended = True
                pool.shutdown(wait=False, cancel_futures=True)
                for process in self.running:
                    process.terminate()
                raise
        return failed


def option(name: str, value: Any) -> list[str]:
    return [f"--{name.replace('_', '-')}", str(value)]


def finished(run: Path, config: ArGanConfig | ArGanDrConfig, data: str | None = None) -> bool:
    """Has the run taken its last step? A run that was something else is an error."""
    if not (run / "state.safetensors").exists():
        return False
    record = checkpoint.read_json(run / "config.json")
    wanted = asdict(config)
    found = asdict(type(config)()) | record["settings"]  # a newer setting had its default
    changed = [
        k for k in wanted
        if (k == "steps" or k not in MAY_CHANGE) and wanted[k] != found.get(k)
    ]  # fmt: skip
    if data is not None and record["data"]["source"] != Path(data).name:
        changed.append("data")
    if changed:
        raise InputError(
            f"{run} was trained with other settings ({', '.join(changed)}): give another --out"
        )
    return record["steps"] >= config.steps


def student_config(options: argparse.Namespace, seed: int) -> ArGanDrConfig:
    return load_preset(ArGanDrConfig, options.student, {"seed": seed})


class Yardstick:
    """What all cells are measured against, made once."""

    def __init__(
        self, data: str, size: int, count: int | None, device: torch.device, inception: Path | None
    ) -> None:
        self.device = device
        self.network: FeatureNetwork = (
            image_metrics.inception(inception, device)
            if inception
            else image_metrics.efficientnet_lite0(device)
        )
        photos, others, about = real_photos(data, size, count, seed=0)
        self.count = len(photos)
        self.known = self.features(photos, "photos")
        self.others = self.compare(others, "other photos") if len(others) else {}
        self.judge: DepthNet | None = judge.train(size) if data == "toy" else None
        self.about = {"data": about, "count": self.count, "features": self.network.name,
                      "features_sha256": self.network.sha256}  # fmt: skip

    def features(self, pictures: Tensor, label: str) -> Features:
        return image_metrics.features(self.network, pictures, self.device, label)

    def compare(self, pictures: Tensor, label: str) -> Figures:
        """uint8 [count, 3, S, S] -> figures without the network's name in theirs."""
        name = self.network.name
        scores = image_metrics.scores(self.known, self.features(pictures, label), name)
        return {key.replace(f"_{name}", ""): value for key, value in scores.items()}


@torch.no_grad()
def pictures(
    generator: Generator, config: ArGanConfig, count: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Photographs uint8 [count, 3, S, S]; of the first LOOKED_AT the sharp image and disparity."""
    rng = torch.Generator(device).manual_seed(0)
    drawn = [
        [part.cpu() for part in draw_photographs(generator, config, n, rng)]
        for n in [BATCH] * (count // BATCH) + [count % BATCH] * (count % BATCH > 0)
    ]
    taken, image, disparity = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    photographs = (taken.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
    return photographs, image[:LOOKED_AT], disparity[:LOOKED_AT]


def score(cell: Cell, yardstick: Yardstick, student: bool) -> Figures:
    """All figures of a finished cell; kept in its folder for as long as nothing has changed."""
    student = student and cell.has_disparity
    weights = [cell.run / "ema.safetensors"]
    weights += [cell.student / "ema.safetensors"] if student else []
    about = yardstick.about | {"weights_sha256": [checkpoint.sha256(path) for path in weights]}
    kept = cell.run / "score.json"
    if kept.exists() and (before := checkpoint.read_json(kept))["about"] == about:
        return before["figures"]
    generator, config = load_generator(cell.run, yardstick.device)
    taken, image, disparity = pictures(generator, config, yardstick.count, yardstick.device)
    figures = yardstick.compare(taken, f"{cell.row}, seed {cell.seed}")
    if cell.has_disparity:
        radial = metrics.baselines(config.size, config.size)["radial"]
        figures |= metrics.collapse(image, disparity, radial)
        if yardstick.judge is not None:
            judged = judge.rows(yardstick.judge, image, disparity)
            figures["judged_rel_rmse"] = judged["generated disparity"]["rel_rmse"]
            figures["judged_spearman"] = judged["generated disparity"]["spearman"]
            figures["radial_rel_rmse"] = judged["radial prior, same images"]["rel_rmse"]
    if student:
        rows = distilled_rows(cell.student)
        figures["student_rel_rmse"] = rows["distilled disparity, toy sharp"]["rel_rmse"]
        figures["student_aside_rel_rmse"] = rows["distilled disparity, toy off centre"]["rel_rmse"]
    figures["hours"] = checkpoint.read_json(cell.run / "config.json")["seconds"] / 3600
    checkpoint.write_json(kept, {"about": about, "figures": figures})
    return figures


def spread(cells: Sequence[Figures]) -> dict[str, tuple[float, float]]:
    """{figure: (mean, half the range) over seeds}."""
    out = {}
    for key in cells[0]:
        values = [figures[key] for figures in cells]
        out[key] = (float(np.mean(values)), (max(values) - min(values)) / 2)
    return out


def table(rows: dict[str, list[Figures]], others: Figures) -> str:
    """Rows by name, with the figures of each seed; `others`: of other photos."""
    lines = ["| row | seeds | " + " | ".join(COLUMNS.values()) + " |"]
    lines.append("|" + "---|" * (len(COLUMNS) + 2))
    for name, cells in (rows | ({"other photos": [others]} if others else {})).items():
        figures = spread(cells)
        texts = [figure(*figures[key], len(cells)) if key in figures else "-" for key in COLUMNS]
        lines.append(f"| {name} | {len(cells)} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def figure(mean: float, half_range: float, seeds: int) -> str:
    digits = 1 if abs(mean) >= 10 else 2
    return f"{mean:.{digits}f}" + (f" +- {half_range:.{digits}f}" if seeds > 1 else "")


def page(cells: Sequence[Cell]) -> Image.Image:
    """One strip per cell: sharp images, disparities, photographs; of plain GANs images alone."""
    strips = []
    for cell in cells:
        generator, config = load_generator(cell.run, torch.device("cpu"))
        grid = draw(generator, config, SHOWN, seed=0)["grid"]
        if not cell.has_disparity:
            grid[config.size :] = 0
        strips.append(Image.fromarray(grid))
    scale, head = max(1, 64 // cells[0].config.size), 16
    width, height = strips[0].width * scale, strips[0].height * scale
    whole = Image.new("RGB", (width, (height + head) * len(cells)), "black")
    pen = ImageDraw.Draw(whole)
    for i, (cell, strip) in enumerate(zip(cells, strips, strict=True)):
        top = i * (height + head)
        pen.text((2, top + 2), f"{cell.row}, seed {cell.seed}: sharp, disparity, photograph")
        whole.paste(strip.resize((width, height), Image.Resampling.NEAREST), (0, top + head))
    return whole


def machines(cells: Sequence[Cell]) -> str:
    """The devices that trained the cells, with their threads."""
    records = [checkpoint.read_json(cell.run / "config.json") for cell in cells]
    found = {f"{record['device']}, {record['threads']} threads" for record in records}
    return "; ".join(sorted(found))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help='a folder or zip of photos, or "toy"')
    parser.add_argument("--preset", default="toy32-prior")
    parser.add_argument("--steps", type=int, help="(default: the preset's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument(
        "--student", nargs="?", const="dr32", metavar="PRESET", help="distil (dr32)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--count", type=int, help="photographs compared (see argan evaluate)")
    parser.add_argument("--inception", type=Path, help="features for FID (see argan evaluate)")
    parser.add_argument("--workers", type=int, default=1, help="cells at once")
    parser.add_argument("--threads", type=int, help="of each cell (default: 1 of several)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    options.threads = options.threads or (1 if options.workers > 1 else os.cpu_count() or 1)
    try:
        return ablate(options)
    except Error as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ablation: stopped, the same command again goes on from there", file=sys.stderr)
        return 130


def ablate(options: argparse.Namespace) -> int:
    steps = {} if options.steps is None else {"steps": options.steps}
    cells = [
        Cell(row, seed, options.out / f"{row}-{seed}",
             load_preset(ArGanConfig, options.preset, steps | {"seed": seed} | ROWS[row]))
        for seed in options.seeds for row in options.rows
    ]  # fmt: skip
    # What may be wrong is better known before hours of training.
    for cell in cells:
        finished(cell.run, cell.config, options.data)
    size, device = cells[0].config.size, torch.device(options.device)
    yardstick = Yardstick(options.data, size, options.count, device, options.inception)
    failed = Trainer(options).train_all(cells)
    trained = [cell for cell in cells if cell not in failed]
    if not trained:
        raise Error("no cell was trained")
    figures = {cell: score(cell, yardstick, bool(options.student)) for cell in trained}
    rows = {
        row: [figures[cell] for cell in trained if cell.row == row]
        for row in options.rows if any(cell.row == row for cell in trained)
    }  # fmt: skip
    first = [next(cell for cell in trained if cell.row == row) for row in rows]
    hours = sum(f["hours"] for f in figures.values())
    print(table(rows, yardstick.others))
    print(f"\n{hours:.1f} hours of training without the students, {options.workers} at once, on"
          f" {machines(trained)}; {cells[0].config.steps} steps, preset {options.preset},"
          f" {yardstick.count} photographs, {yardstick.network.name} features")  # fmt: skip
    picture = io.BytesIO()
    page(first).save(picture, "PNG")
    write_atomic(options.out / "ablation.png", picture.getvalue())
    record = {
        "preset": options.preset,
        "steps": cells[0].config.steps,
        "student": options.student,
        "yardstick": yardstick.about,
        "other photos": yardstick.others,
        "rows": {
            row: {
                "settings": ROWS[row],
                "seeds": {str(c.seed): figures[c] for c in trained if c.row == row},
                "mean_and_half_range": spread(cells_of_row),
            }
            for row, cells_of_row in rows.items()
        },
        "failed": {f"{cell.row}-{cell.seed}": why for cell, why in failed.items()},
        "hours": hours,
        "workers": options.workers,
        "machines": machines(trained),
        "versions": {"torch": torch.__version__, "numpy": np.__version__,
                     "python": platform.python_version()},
    }  # fmt: skip
    checkpoint.write_json(options.out / "ablation.json", record)
    return int(bool(failed))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise SystemExit(main())
