"""`argan sample RUN`: what a generator has learnt, as pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from argan.errors import InputError
from argan_train import checkpoint, options
from argan_train.ar_gan import load_generator, photograph_smoothly
from argan_train.config import ArGanConfig
from argan_train.cycle_gan import load_translator, translate
from argan_train.data import load_photos
from argan_train.networks import Generator
from argan_train.pictures import disparity_rows, image_rows
from argan_train.toy import UNSEEN_SEED, ToyWorld

EXAMPLES = """examples:
  argan sample runs/flowers -o out
  argan sample weights/flowers64 -o out --count 16 --seed 3
  argan sample runs/cycle -o out --photos split/deep
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


def draw_translations(run: Path, source: str, count: int, seed: int) -> dict[str, np.ndarray]:
    """Pictures uint8 [H, W, 3] by name, one column per photo of `source`, or of the toy world."""
    generator, config = load_translator(run, torch.device("cpu"))
    if source == "toy":
        sharp = ToyWorld(config.size, UNSEEN_SEED + seed).batch(count).sharp
        photos = (torch.from_numpy(sharp) * 255 + 0.5).to(torch.uint8)
    else:
        loaded = torch.from_numpy(load_photos(source, config.size)[0])
        order = torch.randperm(len(loaded), generator=torch.Generator().manual_seed(seed))
        photos = loaded[order[:count]]
    shallow = translate(generator, photos, torch.device("cpu"))
    return {"grid": np.concatenate([image_rows(photos / 255), image_rows(shallow / 255)])}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "argan sample", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Draw grid.png (deep image, disparity with white = near, shallow image),"
        " aperture.png and focus.png (sweeps down the rows) of an AR-GAN run; grid.png (deep photo,"
        " its shallow version) of a CycleGAN run.",
    )  # fmt: skip
    parser.add_argument("run", type=Path, help="folder of an ar-gan or cycle-gan run")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a folder")
    parser.add_argument("--count", type=options.whole(1), default=12,
                        help="latents or photos (default: 12)")  # fmt: skip
    parser.add_argument("--seed", type=options.seed, default=0, metavar="S", help="(default: 0)")
    parser.add_argument("--photos", help='for a cycle-gan run: deep photos to translate, or "toy"')
    arguments = parser.parse_args(argv)
    checkpoint.check_folder(arguments.output)
    about = checkpoint.read_json(arguments.run / "config.json")
    if about.get("method") == "cycle-gan":
        if arguments.photos is None:
            raise InputError('no photos: pass --photos, a folder or a zip of deep ones, or "toy"')
        pictures = draw_translations(
            arguments.run, arguments.photos, arguments.count, arguments.seed
        )
    elif arguments.photos is not None:
        raise InputError(f"--photos is for cycle-gan runs, {arguments.run} is not: leave it out")
    else:
        generator, config = load_generator(arguments.run, torch.device("cpu"))
        pictures = draw(generator, config, arguments.count, arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        path = arguments.output / f"{name}.png"
        Image.fromarray(picture).save(path)
        print(path)
    print(f"{about['method']} after {about['steps']} steps")
    return 0
