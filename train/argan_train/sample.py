"""`argan sample RUN`: what a generator has learnt, as pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from argan_train import checkpoint
from argan_train.ar_gan import load_generator, photograph_smoothly
from argan_train.config import ArGanConfig
from argan_train.networks import Generator
from argan_train.pictures import disparity_rows, image_rows

EXAMPLES = """examples:
  argan sample runs/flowers -o out
  argan sample weights/flowers64 -o out --count 16 --seed 3
"""
APERTURES = (0.0, 0.5, 1.0, 1.5)  # of the strength trained with
FOCI = (0.0, -0.5, -1.0)  # shares of the largest |D|: the subject, half way, the background


@torch.no_grad()
def draw(generator: Generator, config: ArGanConfig, count: int, seed: int) -> dict[str, np.ndarray]:
    """Pictures uint8 [H, W, 3] by name, one column per latent."""
    z = torch.randn(count, generator.latent, generator=torch.Generator().manual_seed(seed))
    image, disparity = generator(z)
    limit = generator.max_blur_px

    def taken(blur: Tensor) -> np.ndarray:
        return image_rows(photograph_smoothly(generator, config, image, blur))

    depth = disparity_rows(disparity, -limit, limit)
    return {
        "grid": np.concatenate([image_rows(image), depth, taken(disparity)]),
        "aperture": np.concatenate([taken(disparity * s) for s in APERTURES]),
        "focus": np.concatenate([taken(disparity - f * limit) for f in FOCI]),
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "argan sample", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Draw grid.png (deep image, disparity with white = near, shallow image),"
        " aperture.png and focus.png (sweeps down the rows) of an AR-GAN run.",
    )  # fmt: skip
    parser.add_argument("run", type=Path, help="folder of an ar-gan run")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder")
    parser.add_argument("--count", type=int, default=12, help="latents (default: 12)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    generator, config = load_generator(arguments.run, torch.device("cpu"))
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, picture in draw(generator, config, arguments.count, arguments.seed).items():
        path = arguments.output / f"{name}.png"
        Image.fromarray(picture).save(path)
        print(path)
    about = checkpoint.read_json(arguments.run / "config.json")
    print(f"{about['method']} after {about['steps']} steps")
    return 0
