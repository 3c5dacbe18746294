"""Does a lens with a learnt depth make better shallow photos of deep ones than CycleGAN does?

    argan data split-by-blur photos128.zip -o split
    argan train cycle-gan --deep split/deep --shallow split/shallow --out runs/cycle
    python benchmarks/deep_to_shallow.py --run runs/cycle --split split [--model default] -o out

Deep photos as CycleGAN (Zhu et al. 2017) translates them, and as `argan refocus` takes them at some
f-numbers, its focus found by itself; all at the size of the CycleGAN run. Of each:
    FID, KID     against shallow photos, as `argan evaluate` has them
    background   its sharpness (`split_by_blur`) as a share of what it was, median; below 1: blurred
    centre       PSNR to the photo as it was, dB, of the middle half of width and height, median: a
                 subject in focus stays what it is
Writes OUT/deep_to_shallow.json and OUT/deep_to_shallow.png: random photos, a column each, and a row
for each way. Whatever photos a model learnt from may be among them: its record says.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import argan
from argan.errors import Error
from argan_train import checkpoint, image_metrics
from argan_train.cycle_gan import load_translator, translate
from argan_train.evaluate_generator import real_photos
from argan_train.pictures import image_rows
from argan_train.split_by_blur import background_sharpness

COLUMNS, SHOWN = 12, 128  # photos on the picture, and px of each


def refocused(photos: Tensor, model: argan.Refocuser, f_number: float) -> Tensor:
    """uint8 [N, 3, S, S] -> the same through the lens."""
    pictures = photos.permute(0, 2, 3, 1).contiguous().numpy()
    bar = tqdm(pictures, f"f/{f_number:g}", unit="photo", disable=None)
    taken = [np.asarray(model.refocus(picture, f_number=f_number).image) for picture in bar]
    return torch.from_numpy(np.stack(taken)).permute(0, 3, 1, 2)


def kept_and_blurred(before: Tensor, after: Tensor) -> dict[str, float]:
    """Medians over photos uint8 [N, 3, S, S]."""
    size = before.shape[-1]
    middle = slice(size // 4, size - size // 4)
    gap = (before.double() - after.double())[..., middle, middle] / 255
    centre = -10 * gap.square().mean(dim=(1, 2, 3)).clamp(min=1e-10).log10()
    pairs = zip(before.numpy(), after.numpy(), strict=True)
    shares = [background_sharpness(b) / background_sharpness(a) for a, b in pairs]
    known = [share for share in shares if math.isfinite(share)]
    return {"background": float(np.median(known)), "centre_db": float(centre.median())}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a cycle-gan run")
    parser.add_argument("--split", type=Path, required=True, help="what split-by-blur made")
    parser.add_argument("--model", default="default", help="a bundle")
    parser.add_argument("--f-numbers", type=float, nargs="+", default=[1.8, 0.9])
    parser.add_argument("--count", type=int, help="photos of each kind (half of the shallow ones)")
    parser.add_argument("--seed", type=int, default=0, help="which photos")
    parser.add_argument("-o", "--out", type=Path, default=Path("out"))
    options = parser.parse_args()
    try:
        device = torch.device("cpu")
        translator, config = load_translator(options.run, device)
        shallow, others, about = real_photos(
            str(options.split / "shallow"), config.size, options.count, options.seed
        )
        deep, _, about_deep = real_photos(
            str(options.split / "deep"), config.size, len(shallow), options.seed
        )
        model = argan.load(options.model)
        ways = {"as they are": deep, "CycleGAN": translate(translator, deep, device)}
        for f_number in options.f_numbers:
            ways[f"argan, f/{f_number:g}"] = refocused(deep, model, f_number)
        network = image_metrics.efficientnet_lite0(device)
        known = image_metrics.features(network, shallow, device, "shallow photos")
        figures = {}
        for name, pictures in (ways | {"other shallow photos": others}).items():
            features = image_metrics.features(network, pictures, device, name)
            scores = image_metrics.scores(known, features, network.name, options.seed)
            figures[name] = scores | (kept_and_blurred(deep, pictures) if name in ways else {})
    except Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    record = checkpoint.read_json(options.run / "config.json")
    (options.out / "deep_to_shallow.json").write_text(json.dumps({
        "run": {k: record[k] for k in ("settings", "steps", "seconds", "device", "threads")},
        "model": options.model, "photos": {"shallow": about, "deep": about_deep},
        "count": len(deep), "seed": options.seed, "figures": figures,
    }, indent=1) + "\n")  # fmt: skip
    rows = [image_rows(pictures[:COLUMNS] / 255) for pictures in ways.values()]
    picture = Image.fromarray(np.concatenate(rows))
    scale = max(1, SHOWN // config.size)
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(
        options.out / "deep_to_shallow.png"
    )
    columns = [c for c in figures["as they are"] if not c.endswith("_std")]
    about = f"{len(deep)} photos"
    print(f"{about:<22}" + "".join(f"{c.replace(f'_{network.name}', ''):>12}" for c in columns))
    for name, scores in figures.items():
        print(f"{name:<22}" + "".join(f"{scores.get(c, math.nan):12.2f}" for c in columns))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
