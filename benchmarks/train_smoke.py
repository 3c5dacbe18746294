"""Does AR-GAN learn depth? On the toy world the answer is exact, and takes 15 minutes on two cores.

    python benchmarks/train_smoke.py [--steps N] [--seed S] [--out runs/smoke]

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

import numpy as np
import torch
from torch.nn import functional as F

from argan_train import cli, metrics
from argan_train.ar_gan import load_generator
from argan_train.ar_gan_dr import refocuser
from argan_train.evaluate import evaluate, toy_scenes
from argan_train.networks import DepthNet
from argan_train.toy import ToyWorld

SIZE = 32  # px of the toy pictures
SEEN = 64  # px at which networks look at them
JUDGE_SEED = 5_000  # training counts its seeds from 0, evaluation from 10,000


def enlarge(pictures: torch.Tensor) -> torch.Tensor:
    return F.interpolate(pictures, size=(SEEN, SEEN), mode="bilinear")


def train_judge(steps: int = 500) -> DepthNet:
    """A depth network taught by the toy world's true disparity."""
    torch.manual_seed(0)
    world, network = ToyWorld(SIZE, seed=JUDGE_SEED), DepthNet(16)
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        batch = world.batch(16)
        image, truth = (enlarge(torch.from_numpy(x)) for x in (batch.sharp, batch.disparity))
        loss = F.l1_loss(network(image), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


def mean_scores(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """[N, S, S] against [N, S, S] -> relative RMSE, Spearman."""
    known = np.ones(truth.shape[1:], bool)
    scores = [
        metrics.depth_scores(p, t, known, ratios=False)
        for p, t in zip(predicted, truth, strict=True)
    ]
    return tuple(float(np.mean([s[key] for s in scores])) for key in ("rel_rmse", "spearman"))  # type: ignore[return-value]


def generated_rows(run: Path, judge: DepthNet) -> dict[str, tuple[float, float]]:
    """The generator's disparity, and the radial prior, against the judge's on generated images."""
    generator, config = load_generator(run, torch.device("cpu"))
    z = torch.randn(256, config.latent, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        image, disparity = generator(z)
        judged = F.interpolate(judge(enlarge(image)), size=(SIZE, SIZE), mode="area")[:, 0].numpy()
        unseen = ToyWorld(SIZE, seed=JUDGE_SEED + 1).batch(256)
        own = judge(enlarge(torch.from_numpy(unseen.sharp)))
        own = F.interpolate(own, size=(SIZE, SIZE), mode="area")[:, 0].numpy()
    radial = np.broadcast_to(metrics.baselines(SIZE, SIZE)["radial"], judged.shape)
    return {
        "generated disparity": mean_scores(disparity[:, 0].numpy(), judged),
        "radial prior, same images": mean_scores(radial, judged),
        "the judge's own error": mean_scores(own, unseen.disparity[:, 0]),
    }


def distilled_rows(run: Path) -> dict[str, tuple[float, float]]:
    """The distilled network on unseen scenes."""
    means = evaluate(refocuser(run).depth, toy_scenes(256, SIZE)).means()
    rows = {}
    for group, methods in means.items():
        for method, name in {"model": "distilled disparity", "radial": "radial prior"}.items():
            rows[f"{name}, {group}"] = (methods[method]["rel_rmse"], methods[method]["spearman"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", help="of AR-GAN (default: the preset's)")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--out", type=Path, default=Path("runs/smoke"))
    arguments = parser.parse_args()
    start = time.monotonic()
    gan, student = (
        arguments.out / f"gan-{arguments.seed}",
        arguments.out / f"student-{arguments.seed}",
    )
    steps = ["--steps", arguments.steps] if arguments.steps else []
    common = ["--seed", arguments.seed]
    code = cli.train(
        ["ar-gan", "--preset", "toy32", "--data", "toy", "--out", str(gan), *common, *steps]
    )
    code = code or cli.train(
        ["ar-gan-dr", "--preset", "dr32", "--teacher", str(gan), "--out", str(student), *common]
    )
    if code:
        raise SystemExit(code)
    rows = generated_rows(gan, train_judge()) | {"constant": (1.0, 0.0)} | distilled_rows(student)
    print(f"{'':40}{'rel RMSE':>10}{'Spearman':>10}")
    for name, (error, spearman) in rows.items():
        print(f"{name:40}{error:10.3f}{spearman:10.3f}")
    minutes = (time.monotonic() - start) / 60
    print(f"{minutes:.1f} minutes, seed {arguments.seed}; pictures in {gan}/samples")
    record = {"rows": rows, "minutes": round(minutes, 1)}
    (arguments.out / f"result-{arguments.seed}.json").write_text(
        json.dumps(record, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
