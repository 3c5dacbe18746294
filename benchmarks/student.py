"""What is each loss and each lesson of AR-GAN-DR good for? One student per row, of one teacher.

    python benchmarks/student.py --teacher runs/smoke/gan-0 --steps 900 --seeds 0 1

Every row has the same teacher, steps and seeds, and one thing changed. Each cell is a run in
OUT/ROW-SEED: finished ones are kept, an interrupted one is resumed by the same command. Scored on
unseen toy scenes, whose depth is known: relative RMSE after the best scale and shift (1 = a
constant) / Spearman correlation, of sharp scenes, of the same through a wide lens and of sharp ones
with the subject off centre, beside the radial prior. Figures are means over seeds, +- half their
range. Writes OUT/student.json.

True depth measures here and does nothing else: no network that ships is chosen by this table.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from ablation import Figures, finished, option, spread
from train_smoke import distilled_rows

from argan.errors import Error, InputError
from argan_train import checkpoint, cli
from argan_train.config import ArGanDrConfig, load_preset

ROWS: dict[str, dict[str, Any]] = {
    "preset": {},
    "l1": {"level": "l1"},
    "ssi": {"level": "ssi"},
    "no-gradient": {"gradient_weight": 0.0},
    "smoothness": {"smoothness_weight": 0.1},
    "rendered": {"render_weight": 2.0},
    "consistency": {},  # with photos of the toy world, unlabelled
    "no-paste": {"paste": 0.0},
    "no-zoom": {"zoom": 1.0},
    "no-narrowing": {"narrow": 0},
    "no-snap": {"snap": 0.0},
    "no-filling": {"fill_holes": False},
    "blur-jpeg": {"blur": 0.2, "jpeg": 0.3},
    "light-decoder": {"decoder": "light"},
    # A second round: the first row's student goes on, as the preset has it or with other lessons.
    # Its photos are of the toy world, unlabelled.
    "second": {},
    # As long, and nothing cut out.
    "second-generated": {"cutout_share": 0.0, "consistency_weight": 0.0},
    "second-real": {"cutout_share": 1.0},
    "second-scenes": {"composed": 1.0},
    "second-whole": {"composed": 0.0},
    "second-inconsistent": {"consistency_weight": 0.0},
    "second-unranked": {"rank_weight": 0.0},
}
WITH_PHOTOS = ("consistency",)
GROUPS = {"toy sharp": "sharp", "toy blurred": "blurred", "toy off centre": "off centre"}


def settings(options: argparse.Namespace, row: str, seed: int) -> dict[str, Any]:
    steps = {} if options.steps is None else {"steps": options.steps}
    return ROWS[row] | steps | {"seed": seed}


def train(options: argparse.Namespace, row: str, seed: int) -> Path:
    """The cell's run, up to its last step."""
    run = options.out / f"{row}-{seed}"
    chosen = settings(options, row, seed)
    config = load_preset(ArGanDrConfig, options.preset, chosen)
    if finished(run, config):
        return run
    words = ["ar-gan-dr", "--preset", options.preset, "--teacher", str(options.teacher)]
    words += [word for name, value in chosen.items() for word in option(name, value)]
    second = row.startswith("second")
    if second:
        words += ["--student", str(train(options, "preset", seed))]
    words += ["--photos", "toy"] if second or row in WITH_PHOTOS else []
    words += ["--out", str(run), "--resume", "--device", options.device]
    print(f"{row}, seed {seed}", file=sys.stderr)
    if cli.train([*words, "--threads", str(options.threads)]):
        raise Error(f"{run} failed")
    if not finished(run, config):
        raise Error(f"{run} was stopped: the same command again goes on from there")
    return run


def score(run: Path) -> Figures:
    """Kept in the run for as long as its weights are the same."""
    digest, kept = checkpoint.sha256(run / "ema.safetensors"), run / "score.json"
    if kept.exists() and (before := checkpoint.read_json(kept))["weights_sha256"] == digest:
        return before["figures"]
    figures = {
        f"{method}, {group}, {metric}": value
        for name, scores in distilled_rows(run).items()
        for method, _, group in [name.partition(", ")]
        for metric, value in scores.items()
    }
    figures["minutes"] = checkpoint.read_json(run / "config.json")["seconds"] / 60
    checkpoint.write_json(kept, {"weights_sha256": digest, "figures": figures})
    return figures


def table(rows: dict[str, list[Figures]]) -> str:
    lines = ["| row | seeds | " + " | ".join(GROUPS.values()) + " | minutes |"]
    lines.append("|" + "---|" * (len(GROUPS) + 3))
    for row, cells in rows.items():
        figures = spread(cells)
        texts = [pair(figures, "distilled disparity", group) for group in GROUPS]
        minutes = f"{figures['minutes'][0]:.1f}"
        lines.append(f"| {row} | {len(cells)} | " + " | ".join(texts) + f" | {minutes} |")
    radial = spread([cell for cells in rows.values() for cell in cells])
    texts = [pair(radial, "radial prior", group) for group in GROUPS]
    lines.append("| radial prior | - | " + " | ".join(texts) + " | - |")
    return "\n".join(lines)


def pair(figures: dict[str, tuple[float, float]], method: str, group: str) -> str:
    """ "0.63 +- 0.02 / 0.58"."""
    mean, half_range = figures[f"{method}, {group}, rel_rmse"]
    plus = f" +- {half_range:.3f}" if half_range else ""
    return f"{mean:.3f}{plus} / {figures[f'{method}, {group}, spearman'][0]:.2f}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=Path, required=True, help="AR-GAN's run on the toy world")
    parser.add_argument("--preset", default="dr32")
    parser.add_argument("--steps", type=int, help="(default: the preset's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path, default=Path("runs/student-ablation"))
    parser.add_argument("--threads", type=int, default=cli.threads_here())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    try:
        return ablate(options)
    except Error as error:
        print(f"student: {error}", file=sys.stderr)
        return 2


def ablate(options: argparse.Namespace) -> int:
    about = checkpoint.read_json(options.teacher / "config.json")
    if about["data"].get("source") != "toy":
        raise InputError(f"{options.teacher} has not learnt the toy world, whose depth is known")
    for row in options.rows:  # what may be wrong is better known before hours of training
        load_preset(ArGanDrConfig, options.preset, settings(options, row, 0))
    rows = {
        row: [score(train(options, row, seed)) for seed in options.seeds] for row in options.rows
    }
    preset = load_preset(ArGanDrConfig, options.preset, settings(options, options.rows[0], 0))
    print(table(rows))
    print(f"\npreset {options.preset}, {preset.steps} steps of {preset.batch}, teacher"
          f" {options.teacher.name} of {about['steps']} steps; {platform.machine()},"
          f" {options.threads} threads")  # fmt: skip
    record = {
        "preset": options.preset,
        "steps": preset.steps,
        "teacher": checkpoint.sha256(options.teacher / "ema.safetensors"),
        "rows": {
            row: {"settings": ROWS[row],
                  "seeds": dict(zip(map(str, options.seeds), cells, strict=True)),
                  "mean_and_half_range": spread(cells)}
            for row, cells in rows.items()
        },
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }  # fmt: skip
    checkpoint.write_json(options.out / "student.json", record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
