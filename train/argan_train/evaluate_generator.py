"""How near are a generator's photographs to photos, and has its disparity collapsed?

`argan evaluate RUN` of an AR-GAN: `image_metrics` of its photographs beside those of other photos
of the same kind, the measures of collapse, and on the toy world a judge's opinion of the disparity.
Of a CycleGAN: the same metrics of its shallow versions of deep photos, beside the deep photos as
they are, and on the toy world the distance from the true photographs of the same scenes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor
from tqdm import tqdm

from argan.errors import InputError
from argan_train import checkpoint, image_metrics, judge
from argan_train.ar_gan import draw_photographs, load_generator
from argan_train.config import ArGanConfig
from argan_train.cycle_gan import load_translator, translate
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
        images = self.figures["images"]
        source = self.figures["data"]["source"]
        about = f"{self.figures['count']} photographs, {self.figures['count']} photos of {source}"
        lines = [about, f"{'':<26}" + "".join(f"{name:>14}" for name in images)]
        for key in next(iter(images.values())):
            values = "".join(f"{scores[key]:14.3f}" for scores in images.values())
            lines.append(f"{key:<26}" + values)
        if "disparity" in self.figures:
            disparity = self.figures["disparity"]
            lines += ["disparity"] + [f"{k:<26}{v:14.3f}" for k, v in disparity.items()]
        if "psnr_db" in self.figures:
            lines.append("PSNR against the true photograph of the scene (dB)")
            lines += [f"{name:<26}{v:14.2f}" for name, v in self.figures["psnr_db"].items()]
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
    figures = {
        "method": "ar-gan",
        "weights_sha256": checkpoint.sha256(run / "ema.safetensors"),
        "data": photos,
        **_compared(real, {"generated": taken, "other photos": others}, seed, network, device),
        "disparity": {} if config.mixture == "plain" else _disparity_figures(image, disparity),
    }
    trained_on = checkpoint.read_json(run / "config.json")["data"]["source"]
    if trained_on == "toy" and config.mixture != "plain":
        figures["judge"] = judge.rows(judge.train(config.size), image, disparity)
    drawn = draw(generator.cpu(), config, COLUMNS * BLOCKS, seed)["grid"]
    text = f"random samples, seed {seed}: sharp image, disparity (white = near), photograph"
    return GeneratorEvaluation(figures, _page(drawn, real, text))


def evaluate_translator(
    run: Path,
    data: str,
    photos: str,
    count: int | None,
    seed: int,
    network: image_metrics.FeatureNetwork,
    device: torch.device,
) -> GeneratorEvaluation:
    """A CycleGAN run: as many deep `photos`, translated, against `count` shallow photos of `data`
    (see `real_photos`). "toy" knows the true photographs of its deep photos."""
    generator, config = load_translator(run, device)
    real, others, about = real_photos(data, config.size, count, seed, blur_probability=1)
    truth = None
    if photos == "toy":
        deep, truth = _toy_pairs(config.size, len(real))
        about_deep: dict[str, Any] = {"source": "toy", "seed": UNSEEN_SEED + 1}
    else:
        deep, _, about_deep = real_photos(photos, config.size, len(real), seed)
    made = translate(generator, deep, device)
    sets = {"translated": made, "as they are": deep, "other photos": others}
    figures = {
        "method": "cycle-gan",
        "weights_sha256": checkpoint.sha256(run / "ema.safetensors"),
        "data": about,
        "photos": about_deep,
        **_compared(real, sets, seed, network, device),
    }
    if truth is not None:
        figures["psnr_db"] = {"translated": _psnr(made, truth), "as they are": _psnr(deep, truth)}
    shown = COLUMNS * BLOCKS
    rows = np.concatenate([image_rows(x[:shown] / 255) for x in (deep, made)])
    text = "random deep photos and what the generator makes of them"
    return GeneratorEvaluation(figures, _page(rows, real, text))


def _toy_pairs(size: int, count: int) -> tuple[Tensor, Tensor]:
    """The same scenes through a pinhole and through a wide lens: uint8 [count, 3, S, S]."""
    world = ToyWorld(size, seed=UNSEEN_SEED + 1, blur_probability=1)
    batches = [world.batch(250) for _ in range(-(-count // 250))]
    sharp = torch.from_numpy(np.concatenate([batch.sharp for batch in batches])[:count])
    taken = torch.from_numpy(np.concatenate([batch.image for batch in batches])[:count])
    return (sharp * 255 + 0.5).to(torch.uint8), (taken * 255 + 0.5).to(torch.uint8)


def _psnr(pictures: Tensor, truth: Tensor) -> float:
    """Mean over pictures uint8 [N, 3, S, S], dB."""
    squared = (pictures.double() - truth.double()).square().mean(dim=(1, 2, 3)) / 255**2
    return float((-10 * squared.clamp(min=1e-10).log10()).mean())


def _compared(
    real: Tensor,
    sets: dict[str, Tensor],
    seed: int,
    network: image_metrics.FeatureNetwork,
    device: torch.device,
) -> dict[str, Any]:
    """Figures of sets of pictures against photos, all uint8 [N, 3, S, S]; none of empty sets."""
    known = image_metrics.features(network, real, device, "photos")
    return {
        "count": len(real),
        "seed": seed,
        "features": {"network": network.name, "size": network.size, "sha256": network.sha256},
        "images": {
            name: image_metrics.scores(
                known, image_metrics.features(network, pictures, device, name), network.name, seed
            )
            for name, pictures in sets.items()
            if len(pictures)
        },
    }


def real_photos(
    source: str, size: int, count: int | None, seed: int, blur_probability: float = 0.5
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """`count` photos, as many others or none where there are not enough, both uint8 [N, 3, S, S],
    and what they are. "toy" draws pictures that no training has seen, `blur_probability` of them
    through a wide lens."""
    if count is not None and count < 2:
        raise InputError(f"--count {count}: give at least 2")
    if source == "toy":
        count = count or MOST_PHOTOGRAPHS
        world = ToyWorld(size, UNSEEN_SEED, blur_probability)
        parts = [torch.from_numpy(world.batch(250).image) for _ in range(-(-2 * count // 250))]
        photos = (torch.cat(parts) * 255 + 0.5).to(torch.uint8)
        return photos[:count], photos[count : 2 * count], {"source": "toy", "seed": UNSEEN_SEED}
    loaded, found = load_photos(source, size)
    count = count or min(MOST_PHOTOGRAPHS, len(loaded) // 2)
    if count < 2:
        raise InputError(f"{source} has {len(loaded)} photos, too few to compare with: give 4")
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


def _page(drawn: NDArray[np.uint8], photos: Tensor, text: str) -> Image.Image:
    """Rows of BLOCKS * COLUMNS pictures [H, W, 3], a row of photos below."""
    size = photos.shape[-1]
    width = COLUMNS * size
    blocks = [drawn[:, left : left + width] for left in range(0, drawn.shape[1], width)]
    rows = [_as_wide(block, width) for block in [*blocks, image_rows(photos[:COLUMNS] / 255)]]
    picture = Image.fromarray(np.concatenate(rows))
    scale = max(1, SHOWN // size)
    picture = picture.resize((width * scale, picture.height * scale), Image.Resampling.NEAREST)
    page = ImageOps.expand(picture, (0, 16, 0, 0), "black")
    ImageDraw.Draw(page).text((2, 2), f"{text}; last row: photos")
    return page


def _as_wide(row: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    return np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)))
