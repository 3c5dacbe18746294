"""How good is a model? A depth network against known disparities, a generator against photos.

    argan evaluate MODEL --data DIR -o OUT

of a depth network, any predict(photo), measures on the toy world (seeds that no training uses) and
on what lies in DIR: eval-depth.zip, oracle-public/ and portrait-masks.zip, beside the baselines.
OUT/evaluation.png has the best, median and worst of each kind.

    argan evaluate RUN --data PHOTOS -o OUT

of an AR-GAN compares its photographs with photos (`image_metrics`), beside what other photos of
the same kind score, and says whether its disparity has collapsed; on the toy world a judge says how
good it is. OUT/evaluation.png has samples as they come, none picked.

    argan evaluate RUN --data SHALLOW --photos DEEP -o OUT

of a CycleGAN compares its shallow versions of deep photos with shallow photos.

All print a table and write OUT/evaluation.json. For measuring only: none of this may choose, start
or teach a network that ships.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps
from tqdm import tqdm

import argan
from argan.errors import InputError, MissingFileError
from argan_train import checkpoint, image_metrics, options
from argan_train.ar_gan_dr import refocuser
from argan_train.evaluate_generator import (
    MOST_PHOTOGRAPHS,
    GeneratorEvaluation,
    evaluate_generator,
    evaluate_translator,
)
from argan_train.metrics import baselines, depth_scores, spearman, subject_in_front
from argan_train.toy import UNSEEN_SEED, ToyBatch, ToyWorld

Photo = NDArray[np.uint8]  # [H, W, 3] sRGB
Disparity = NDArray[np.floating]  # [H, W], larger = nearer
Predict = Callable[[Photo], Disparity]
Scores = dict[str, dict[str, float]]  # {method: {metric: value}}

OFF_CENTRE = 0.6  # of the half width: the subject is whole, the frame's centre is background
PEOPLE = "portraits people"
HEADINGS = {
    "rel_rmse": "rel RMSE",
    "spearman": "Spearman",
    "abs_rel": "AbsRel",
    "delta1": "delta1",
    "side": "SIDE",
    "in_front": "in front",
    "crop": "crop",
}
CROP = 0.7  # of either side, in one of the corners in turn
TILE = (128, 96)  # px of a picture on the page

EXAMPLES = """examples:
  argan evaluate default --data DIR -o out                      the depth network that ships
  argan evaluate runs/flowers-dr --only toy -o out
  argan evaluate runs/flowers --data photos.zip -o out          a generator
  argan evaluate runs/flowers --data photos.zip -o out --count 1000 --seed 1
  argan evaluate runs/flowers --data photos.zip -o out --inception inception-2015-12-05.pt
  argan evaluate runs/smoke/gan-0 --data toy -o out
  argan evaluate runs/cycle --data split/shallow --photos split/deep -o out
"""


@dataclass(frozen=True)
class Scene:
    """A photo with its true disparity.

    group      the row of the table it counts in
    name       of the photo; `sequence` is the scene that it is a frame of
    image      uint8 [H, W, 3] sRGB
    disparity  [H, W], up to scale (and shift, unless `ratios`)
    valid      [H, W], where the truth is known
    ratios     disparity 0 is infinitely far, so that depth = 1 / disparity up to scale
    """

    group: str
    name: str
    sequence: str
    image: Photo
    disparity: Disparity
    valid: NDArray[np.bool_]
    ratios: bool


@dataclass(frozen=True)
class Frame:
    """What one scene gave: scores, and [photo, truth, prediction] small enough to keep."""

    group: str
    name: str
    sequence: str
    scores: Scores
    tiles: list[Image.Image]


@dataclass(frozen=True)
class Evaluation:
    frames: list[Frame]

    def groups(self) -> dict[str, list[Frame]]:
        out: dict[str, list[Frame]] = {}
        for frame in self.frames:
            out.setdefault(frame.group, []).append(frame)
        return out

    def means(self) -> dict[str, Scores]:
        """{group: {method: {metric: mean over scenes}}}; a scene is the mean of its frames."""
        return {group: _mean_of_scenes(frames) for group, frames in self.groups().items()}

    def table(self) -> str:
        columns = "".join(f"{heading:>10}" for heading in HEADINGS.values())
        lines = [f"{'set':<20}{'scenes':>6}  {'method':<12}{columns}"]
        for group, frames in self.groups().items():
            start = f"{group:<20}{len({frame.sequence for frame in frames}):>6}"
            for method, scores in _mean_of_scenes(frames).items():
                cells = [f"{scores[key]:.3f}" if key in scores else "-" for key in HEADINGS]
                lines.append(f"{start:<26}  {method:<12}" + "".join(f"{c:>10}" for c in cells))
                start = ""
        return "\n".join(lines)

    @property
    def figures(self) -> dict[str, Any]:
        return {
            "means": self.means(),
            "frames": [{"group": f.group, "name": f.name, "scores": f.scores} for f in self.frames],
        }

    @property
    def page(self) -> Image.Image:
        """Per group the best, the median and the worst: photo, truth, prediction, near = white."""
        groups = self.groups()
        width, height = 9 * (TILE[0] + 2), TILE[1] + 28
        page = Image.new("RGB", (width, height * len(groups)), "black")
        draw = ImageDraw.Draw(page)
        for row, (group, frames) in enumerate(groups.items()):
            ranked = sorted(frames, key=_badness)
            picks = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
            for column, (rank, frame) in enumerate(picks.items()):
                left, top = column * width // 3, row * height
                model = frame.scores["model"]
                quality = f"{model['rel_rmse']:.2f} / {model['spearman']:.2f}"
                draw.text((left + 2, top), f"{group}, {rank}: {frame.name}")
                draw.text((left + 2, top + 12), f"relative RMSE / Spearman {quality}")
                for i, tile in enumerate(frame.tiles):
                    page.paste(tile, (left + i * (TILE[0] + 2), top + 26))
        return page


def crop_agreement(predict: Predict, image: Photo, whole: Disparity, corner: int) -> float:
    """Rank correlation of a crop's disparity with that part of the whole photo's: does the map go
    along when the subject leaves the centre? 1 = exactly; one that knows only the centre does not.
    """
    height, width = (round(CROP * side) for side in image.shape[:2])
    rows = slice(-height, None) if corner & 1 else slice(height)
    columns = slice(-width, None) if corner & 2 else slice(width)
    cropped = predict(np.ascontiguousarray(image[rows, columns]))
    return spearman(cropped.ravel(), whole[rows, columns].ravel())


def evaluate(predict: Predict, scenes: Iterable[Scene]) -> Evaluation:
    """predict(uint8 [H, W, 3]) -> disparity [H, W], any scale and shift, larger = nearer."""
    frames = []
    for corner, scene in enumerate(tqdm(scenes, "evaluate", unit="photo", disable=None)):
        height, width = scene.image.shape[:2]
        predicted = predict(scene.image)
        maps = {"model": predicted} | baselines(height, width)
        scores = {
            name: depth_scores(map_, scene.disparity, scene.valid, scene.ratios)
            for name, map_ in maps.items()
        }
        scores["model"]["crop"] = crop_agreement(predict, scene.image, predicted, corner)
        if scene.group == PEOPLE:
            for name, map_ in maps.items():
                scores[name]["in_front"] = subject_in_front(map_, scene.disparity > 0.5)
        # Nobody has said that the people's photos may be shown: their maps only.
        photo = np.zeros_like(scene.image) if scene.group == PEOPLE else scene.image
        truth = np.where(scene.valid, scene.disparity, scene.disparity[scene.valid].min())
        tiles = [_tile(photo), _tile(_grey(truth)), _tile(_grey(predicted))]
        frames.append(Frame(scene.group, scene.name, scene.sequence, scores, tiles))
    return Evaluation(frames)


def toy_scenes(count: int = 64, size: int = 64) -> Iterator[Scene]:
    """Toy pictures: the same scenes sharp and through a wide lens, and sharp ones off centre."""
    world = ToyWorld(size, seed=UNSEEN_SEED, blur_probability=1.0)
    centred, aside = world.batch(count), world.batch(count, off_centre=OFF_CENTRE)
    yield from _toy_group("toy sharp", centred, centred.sharp)
    yield from _toy_group("toy blurred", centred, centred.image)
    yield from _toy_group("toy off centre", aside, aside.sharp)


def eval_depth_scenes(path: Path) -> Iterator[Scene]:
    """eval-depth.zip: measured and rendered scenes; value = gt * scale + offset, 0 = no truth."""
    with _open_zip(path) as archive:
        for name, row in json.loads(archive.read("index.json")).items():
            truth = _read_image(archive, f"{name}/gt.png").astype(np.float64)
            valid, value = truth > 0, truth * row["scale"] + row["offset"]
            disparity = 1 / np.where(valid, value, 1) if row["type"] == "depth" else value
            yield Scene(
                group=f"eval-depth {_kind(name)}",
                name=name,
                # Frames of one NYU or ICL sequence are near-duplicates.
                sequence=re.sub(r"_\d+$", "", name) if name.startswith(("nyu", "icl")) else name,
                image=_read_photo(archive, f"{name}/image"),
                disparity=disparity,
                valid=valid,
                # A disparity with an offset is zero at some finite depth.
                ratios=row["type"] == "depth" or row["offset"] == 0,
            )


def oracle_scenes(path: Path) -> Iterator[Scene]:
    """oracle-public/: ray-traced scenes, the sharp photo; 1/z = lo + v/65535 (hi - lo)."""
    folders = sorted(folder.parent for folder in path.glob("*/scene.json"))
    if not folders:
        raise MissingFileError(f"{path}: no scenes there; --data wants the folder that holds it")
    for folder in folders:
        if folder.name.endswith("_big"):  # one of the others again
            continue
        scene = json.loads((folder / "scene.json").read_text())
        low, high = scene["inv_depth_lo"], scene["inv_depth_hi"]
        with Image.open(folder / "disp.png") as stored, Image.open(folder / "aif.png") as photo:
            disparity = low + np.asarray(stored, np.float64) / 65535 * (high - low)
            image = np.asarray(photo.convert("RGB"))
        kind = "flowers" if scene["family"] == "flowers" else "other"
        known = np.ones(disparity.shape, bool)
        yield Scene(f"oracle {kind}", folder.name, folder.name, image, disparity, known, True)


def portrait_scenes(path: Path) -> Iterator[Scene]:
    """portrait-masks.zip: photos of people; the mask stands for the disparity, 1 = the person."""
    with _open_zip(path) as archive:
        masks = sorted(name for name in archive.namelist() if name.endswith("_mask.png"))
        for mask_name in masks:
            stem = mask_name.removesuffix("_mask.png")
            mask = _read_image(archive, mask_name) > 0
            name, image = Path(stem).name, _read_photo(archive, stem)
            known = np.ones(mask.shape, bool)
            yield Scene(PEOPLE, name, name, image, mask.astype(np.float64), known, False)


SETS: dict[str, tuple[str, Callable[[Path], Iterator[Scene]]]] = {
    "eval-depth": ("eval-depth.zip", eval_depth_scenes),
    "oracle": ("oracle-public", oracle_scenes),
    "portraits": ("portrait-masks.zip", portrait_scenes),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "argan evaluate", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Depth metrics of a depth network, beside those of no model at all; or how near"
        " a generator's photographs are to photos.",
    )  # fmt: skip
    parser.add_argument("model", metavar="BUNDLE|RUN", help="a .argan bundle, or a run folder")
    parser.add_argument("--data", metavar="DATA",
                        help="for a depth network a folder with "
                        + ", ".join(file for file, _ in SETS.values())
                        + ' (default: $ARGAN_DATA); for a generator its photos: a folder, a zip or'
                        ' "toy"')  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="a folder")
    depth = parser.add_argument_group("for a depth network")
    depth.add_argument("--only", nargs="+", choices=["toy", *SETS], help="leave out others")
    images = parser.add_argument_group("for a generator")
    images.add_argument("--count", type=int, metavar="N", help="photographs, and as many photos"
                        f" (default: half of the photos, at most {MOST_PHOTOGRAPHS:,}; figures"
                        " compare at one count alone)")  # fmt: skip
    images.add_argument("--seed", type=options.seed, metavar="S", help="(default: 0)")
    images.add_argument("--inception", type=Path, metavar="FILE", help="StyleGAN2-ADA's"
                        " inception-2015-12-05.pt, for its features in place of"
                        " EfficientNet-Lite0's")  # fmt: skip
    images.add_argument("--photos", metavar="DEEP", help="for a cycle-gan run: the deep photos to"
                        ' translate, or "toy"')  # fmt: skip
    images.add_argument("--device", type=options.device,
                        help="(default: cuda where there is one, else cpu)")  # fmt: skip
    arguments = parser.parse_args(argv)
    checkpoint.check_folder(arguments.output)
    generator = _method(arguments.model) in ("ar-gan", "cycle-gan")
    for_generators = ("count", "seed", "inception", "photos", "device")
    for name in ("only",) if generator else for_generators:
        if getattr(arguments, name) is not None:
            kind = "depth networks" if generator else "generators"
            raise InputError(
                f"--{name} is for {kind}, which {arguments.model} is not: leave it out"
            )
    result = measure_generator(arguments) if generator else measure_depth(arguments)
    print(result.table())
    write(arguments.output, result.figures, result.page)
    return 0


def measure_depth(arguments: argparse.Namespace) -> Evaluation:
    model = open_model(arguments.model)
    scenes = open_sets(
        arguments.only or ["toy", *SETS], arguments.data or os.environ.get("ARGAN_DATA")
    )
    return evaluate(model.depth, scenes)


def measure_generator(arguments: argparse.Namespace) -> GeneratorEvaluation:
    if arguments.data is None:
        raise InputError('no photos: pass --data, a folder or a zip of them, or "toy"')
    translates = _method(arguments.model) == "cycle-gan"
    if translates != (arguments.photos is not None):
        raise InputError(
            f"{arguments.model} translates photos: pass --photos, a folder or a zip of deep ones"
            if translates else f"--photos is for cycle-gan runs, {arguments.model} is not one"
        )  # fmt: skip
    device = arguments.device or torch.device(options.usual_device())
    network = (
        image_metrics.inception(arguments.inception, device)
        if arguments.inception
        else image_metrics.efficientnet_lite0(device)
    )
    run, data, count, seed = (
        Path(arguments.model), arguments.data, arguments.count, arguments.seed or 0,
    )  # fmt: skip
    if arguments.photos is None:
        return evaluate_generator(run, data, count, seed, network, device)
    return evaluate_translator(run, data, arguments.photos, count, seed, network, device)


def write(folder: Path, figures: dict[str, Any], page: Image.Image) -> None:
    """evaluation.json and evaluation.png, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "evaluation.png.partial"
    try:
        page.save(partial, "PNG")
        os.replace(partial, folder / "evaluation.png")
    finally:
        partial.unlink(missing_ok=True)
    checkpoint.write_json(folder / "evaluation.json", figures)


def open_model(path: str) -> argan.Refocuser:
    """A bundle, or the run folder of an AR-GAN-DR."""
    return refocuser(Path(path)) if (Path(path) / "config.json").is_file() else argan.load(path)


def open_sets(names: list[str], data: Path | str | None) -> Iterator[Scene]:
    """The scenes of the sets; says at once, before anything runs, what is not there."""
    files = {name: SETS[name] for name in names if name in SETS}
    if files and data is None:
        wanted = ", ".join(file for file, _ in files.values())
        raise InputError(f"no data: pass --data DIR, a folder with {wanted}, or --only toy")
    for name, (file, _) in files.items():
        if not (Path(str(data)) / file).exists():
            raise MissingFileError(f"{data} has no {file}: pass its folder as --data DIR, or leave"
                                   f" {name} out with --only")  # fmt: skip

    def scenes() -> Iterator[Scene]:
        if "toy" in names:
            yield from toy_scenes()
        for file, read in files.values():
            yield from read(Path(str(data)) / file)

    return scenes()


def _kind(name: str) -> str:
    """flowers, rooms or other, from a name in eval-depth's index."""
    if name.startswith("render"):
        return "flowers"
    return "rooms" if name.startswith(("middlebury", "nyu", "icl")) else "other"


def _method(model: str) -> str | None:
    """Of a run folder; None for a bundle."""
    path = Path(model) / "config.json"
    return checkpoint.read_json(path).get("method") if path.is_file() else None


def _badness(frame: Frame) -> tuple[float, float]:
    model = frame.scores["model"]
    return model["rel_rmse"], -model["spearman"]  # many a bad map has a relative RMSE of just 1


def _toy_group(group: str, batch: ToyBatch, pictures: NDArray[np.float32]) -> Iterator[Scene]:
    images = (pictures * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1)
    for i, image in enumerate(images):
        disparity = batch.disparity[i, 0]
        known = np.ones(disparity.shape, bool)
        yield Scene(group, str(i), str(i), np.ascontiguousarray(image), disparity, known, True)


def _mean_of_scenes(frames: list[Frame]) -> Scores:
    """{method: {metric: mean over scenes}}, each scene the mean of its frames. A metric that some
    scene lacks is the mean over the others."""
    out: Scores = {}
    for method in frames[0].scores:
        out[method] = {}
        for metric in HEADINGS:
            scenes: dict[str, list[float]] = {}
            for frame in frames:
                if metric in frame.scores[method]:
                    scenes.setdefault(frame.sequence, []).append(frame.scores[method][metric])
            if scenes:
                out[method][metric] = float(np.mean([np.mean(s) for s in scenes.values()]))
    return out


def _open_zip(path: Path) -> zipfile.ZipFile:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is not a zip: fetch it again")
    return zipfile.ZipFile(path)


def _read_image(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with Image.open(io.BytesIO(archive.read(name))) as image:
        return np.asarray(image)


def _read_photo(archive: zipfile.ZipFile, stem: str) -> Photo:
    """stem.png or stem.jpg -> uint8 [H, W, 3]."""
    name = next(n for n in (f"{stem}.png", f"{stem}.jpg") if n in archive.NameToInfo)
    with Image.open(io.BytesIO(archive.read(name))) as image:
        return np.asarray(image.convert("RGB"))


def _grey(disparity: Disparity) -> Photo:
    """The whole range of a map from black to white: uint8 [H, W]."""
    low, high = float(disparity.min()), float(disparity.max())
    return ((disparity - low) / max(high - low, 1e-12) * 255 + 0.5).astype(np.uint8)


def _tile(pixels: Photo) -> Image.Image:
    return ImageOps.pad(Image.fromarray(pixels).convert("RGB"), TILE)
