"""Does AR-GAN learn depth? On the toy world the answer is exact, and takes minutes.

    python benchmarks/train_smoke.py [--steps N] [--student-steps N] [--seed S] [--out runs/smoke]

Trains AR-GAN and AR-GAN-DR on toy pictures without depth, then prints the error of both disparities
beside a constant and the radial prior: relative RMSE after the best scale and shift (1 = a
constant) and Spearman correlation. The distilled network meets unseen scenes, whose truth is
known. What the generator draws has no truth: its disparity is compared with a judge's, a network
that was taught by true depth (for this table alone), whose own error stands beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from argan_train import cli, judge
from argan_train.ar_gan import load_generator
from argan_train.ar_gan_dr import refocuser
from argan_train.evaluate import evaluate, toy_scenes

SIZE = 32  # px of the toy pictures
Scores = dict[str, dict[str, float]]


def generated_rows(run: Path) -> Scores:
    """The generator's disparity, and the radial prior, against a judge's on generated images."""
    generator, config = load_generator(run, torch.device("cpu"))
    z = torch.randn(256, config.latent, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        image, disparity = generator(z)
    return judge.rows(judge.train(SIZE), image, disparity)


def distilled_rows(run: Path) -> Scores:
    """The distilled network on unseen scenes."""
    means = evaluate(refocuser(run).depth, toy_scenes(256, SIZE)).means()
    rows = {}
    for group, methods in means.items():
        for method, name in {"model": "distilled disparity", "radial": "radial prior"}.items():
            rows[f"{name}, {group}"] = {k: methods[method][k] for k in ("rel_rmse", "spearman")}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", default="3000", help="of AR-GAN; its preset has 9000")
    parser.add_argument("--student-steps", default="900", help="of AR-GAN-DR; its preset has 2500")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--out", type=Path, default=Path("runs/smoke"))
    arguments = parser.parse_args()
    start = time.monotonic()
    gan, student = (
        arguments.out / f"gan-{arguments.seed}",
        arguments.out / f"student-{arguments.seed}",
    )
    common = ["--seed", arguments.seed, "--steps"]
    code = cli.train(
        ["ar-gan", "--preset", "toy32", "--data", "toy", "--out", str(gan), *common,
         arguments.steps]
    )  # fmt: skip
    code = code or cli.train(
        ["ar-gan-dr", "--preset", "dr32", "--teacher", str(gan), "--out", str(student), *common,
         arguments.student_steps]
    )  # fmt: skip
    if code:
        raise SystemExit(code)
    constant = {"constant": {"rel_rmse": 1.0, "spearman": 0.0}}
    rows = generated_rows(gan) | constant | distilled_rows(student)
    print(f"{'':40}{'rel RMSE':>10}{'Spearman':>10}")
    for name, scores in rows.items():
        print(f"{name:40}{scores['rel_rmse']:10.3f}{scores['spearman']:10.3f}")
    minutes = (time.monotonic() - start) / 60
    print(f"{minutes:.1f} minutes, seed {arguments.seed}; pictures in {gan}/samples")
    record = {"rows": rows, "minutes": round(minutes, 1)}
    (arguments.out / f"result-{arguments.seed}.json").write_text(
        json.dumps(record, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
