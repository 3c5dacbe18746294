"""How near are a generator's photographs to photos, and has its disparity collapsed?

`argan evaluate RUN` of an AR-GAN: `image_metrics` of its photographs beside those of other photos
of the same kind, the measures of collapse, and on the toy world a judge's opinion of the disparity.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor
from tqdm import tqdm

from argan.errors import InputError
from argan_train import checkpoint, image_metrics, judge
from argan_train.ar_gan import draw_photographs, load_generator
from argan_train.config import ArGanConfig
from argan_train.data import load_photos
from argan_train.metrics import baselines, collapse
from argan_train.networks import Generator
from argan_train.pictures import image_rows
from argan_train.sample import draw
from argan_train.toy import UNSEEN_SEED, ToyWorld

MOST_PHOTOGRAPHS = 5000  # unless a count asks for more
LOOKED_AT = 256  # samples whose disparity is looked at
BATCH = 64  # photographs drawn at a time
COLUMNS, BLOCKS = 12, 2  # samples on the page
SHOWN = 128  # px of a picture there, at least


@dataclass(frozen=True)
class GeneratorEvaluation:
    """figures: what evaluation.json holds; page: samples as they come, none picked."""

    figures: dict[str, Any]
    page: Image.Image

    def table(self) -> str:
        images, disparity = self.figures["images"], self.figures["disparity"]
        source = self.figures["data"]["source"]
        about = f"{self.figures['count']} photographs, {self.figures['count']} photos of {source}"
        lines = [about, f"{'':<26}" + "".join(f"{name:>14}" for name in images)]
        for key in images["generated"]:
            values = "".join(f"{scores[key]:14.3f}" for scores in images.values())
            lines.append(f"{key:<26}" + values)
        lines += ["disparity"] + [f"{k:<26}{v:14.3f}" for k, v in disparity.items()]
        if "judge" in self.figures:
            lines.append(f"{'against a judge':<26}{'rel RMSE':>14}{'Spearman':>14}")
            for name, scores in self.figures["judge"].items():
                lines.append(f"{name:<26}{scores['rel_rmse']:14.3f}{scores['spearman']:14.3f}")
        return "\n".join(lines)


def evaluate_generator(
    run: Path,
    data: str,
    count: int | None,
    seed: int,
    network: image_metrics.FeatureNetwork,
    device: torch.device,
) -> GeneratorEvaluation:
    """An AR-GAN run against `count` photos of `data` (see `real_photos`)."""
    generator, config = load_generator(run, device)
    real, others, photos = real_photos(data, config.size, count, seed)
    taken, image, disparity = _drawn(generator, config, len(real), seed, device)
    known = image_metrics.features(network, real, device, "photos")
    sets = {"generated": taken} | ({"other photos": others} if len(others) else {})
    figures = {
        "method": "ar-gan",
        "weights_sha256": checkpoint.sha256(run / "ema.safetensors"),
        "data": photos,
        "count": len(real),
        "seed": seed,
        "features": {"network": network.name, "size": network.size, "sha256": network.sha256},
        "images": {
            name: image_metrics.scores(
                known, image_metrics.features(network, pictures, device, name), network.name, seed
            )
            for name, pictures in sets.items()
        },
        "disparity": {} if config.mixture == "plain" else _disparity_figures(image, disparity),
    }
    trained_on = checkpoint.read_json(run / "config.json")["data"]["source"]
    if trained_on == "toy" and config.mixture != "plain":
        figures["judge"] = judge.rows(judge.train(config.size), image, disparity)
    return GeneratorEvaluation(figures, _page(generator.cpu(), config, real, seed))


def real_photos(
    source: str, size: int, count: int | None, seed: int
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """`count` photos, as many others or none where there are not enough, both uint8 [N, 3, S, S],
    and what they are. "toy" draws pictures that no training has seen."""
    if count is not None and count < 2:
        raise InputError(f"--count {count}: give at least 2")
    if source == "toy":
        count = count or MOST_PHOTOGRAPHS
        world = ToyWorld(size, seed=UNSEEN_SEED)
        parts = [torch.from_numpy(world.batch(250).image) for _ in range(-(-2 * count // 250))]
        photos = (torch.cat(parts) * 255 + 0.5).to(torch.uint8)
        return photos[:count], photos[count : 2 * count], {"source": "toy", "seed": UNSEEN_SEED}
    loaded, found = load_photos(source, size)
    count = count or min(MOST_PHOTOGRAPHS, len(loaded) // 2)
    if count > len(loaded):
        raise InputError(f"--count {count}: {source} has {len(loaded)} photos; give at most that")
    order = torch.randperm(len(loaded), generator=torch.Generator().manual_seed(seed))
    chosen = torch.from_numpy(loaded)[order]
    others = chosen[count : 2 * count] if 2 * count <= len(loaded) else chosen[:0]
    about = {"source": Path(source).name, "photos": len(loaded), "sha256": found.sha256}
    return chosen[:count], others, about


def _drawn(
    generator: Generator, config: ArGanConfig, count: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Photographs uint8 [count, 3, S, S], as the discriminator met them in training, and the images
    and disparities of the first LOOKED_AT, on the CPU."""
    rng = torch.Generator(device).manual_seed(seed)
    taken: list[Tensor] = []
    images: list[Tensor] = []
    disparities: list[Tensor] = []
    with tqdm(total=count, desc="draw", unit="picture", disable=None) as bar:
        for start in range(0, count, BATCH):
            n = min(BATCH, count - start)
            photograph, image, disparity = draw_photographs(generator, config, n, rng)
            taken.append((photograph.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu())
            if start < LOOKED_AT:
                images.append(image.cpu())
                disparities.append(disparity.cpu())
            bar.update(n)
    return torch.cat(taken), torch.cat(images)[:LOOKED_AT], torch.cat(disparities)[:LOOKED_AT]


def _disparity_figures(image: Tensor, disparity: Tensor) -> dict[str, float]:
    """The measures of `metrics.collapse`, and the deviation over samples as a share of the width,
    which compares across sizes."""
    size = disparity.shape[-1]
    figures = collapse(image, disparity, baselines(size, size)["radial"])
    return figures | {"variation_of_width": figures["variation_px"] / size}


def _page(generator: Generator, config: ArGanConfig, photos: Tensor, seed: int) -> Image.Image:
    """Random samples on the CPU: sharp image, disparity, photograph; a row of photos below."""
    size = photos.shape[-1]
    grid = np.split(draw(generator, config, COLUMNS * BLOCKS, seed)["grid"], BLOCKS, axis=1)
    real = image_rows(photos[:COLUMNS] / 255)
    missing = grid[0].shape[1] - real.shape[1]
    rows = Image.fromarray(np.concatenate([*grid, np.pad(real, ((0, 0), (0, missing), (0, 0)))]))
    scale = max(1, SHOWN // size)
    rows = rows.resize((rows.width * scale, rows.height * scale), Image.Resampling.NEAREST)
    page = ImageOps.expand(rows, (0, 16, 0, 0), "black")
    text = f"random samples, seed {seed}: sharp image, disparity (white = near), photograph"
    ImageDraw.Draw(page).text((2, 2), f"{text}; last row: photos")
    return page
