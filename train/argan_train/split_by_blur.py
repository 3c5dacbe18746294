"""`argan data split-by-blur`: of one pile of photos, those with a sharp background and those with a
blurred one.

The files are copied as they are; those in between, and those whose border shows nothing, are left
out. Chosen by a figure, so look at the page that is written beside them.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import argan
from argan.errors import InputError
from argan_train.data import Source, decode_square, each_photo, examples, open_photos, why
from argan_train.prepare import (
    REPORT,
    check_free,
    check_place,
    leads_out,
    new_name,
    place,
    temporary_sibling,
)

TILES = 8  # along a side; the 28 at the border are looked at
LEAST_CONTRAST = 2.0  # of 255 from pixel to pixel, RMS: below, a tile shows noise alone
LEAST_TILES = 0.5  # share of the border's tiles that must show something
LUMA = (0.299, 0.587, 0.114)  # Rec. 601
PAGE = "page.png"
COLUMNS, ROWS = 12, 2  # photos of each kind on the page


def background_sharpness(picture: NDArray[np.uint8]) -> float:
    """How sharp is the background of a photo uint8 [3, S, S], S a multiple of 8? About 0.5, much
    blurred, to 2, detail of single pixels; NaN where the border shows too little to tell.

    RMS Laplacian over RMS gradient: the mean frequency of what is there, in radians per px, weighed
    by its contrast, so that contrast itself cancels out. The lower quartile over tiles at the
    border, where the background is: captions, stems and petals there are sharper than it. Not
    compared with the centre: behind smooth petals every background would pass for a sharp one.
    """
    grey = np.tensordot(np.array(LUMA, np.float32), picture.astype(np.float32), axes=1)
    wide = np.pad(grey, 1, mode="edge")
    right, below = wide[1:-1, 2:] - grey, wide[2:, 1:-1] - grey
    laplacian = wide[1:-1, :-2] + wide[:-2, 1:-1] + right + below - 2 * grey
    gradient_energy = _border_tiles(right**2 + below**2)
    seen = gradient_energy >= LEAST_CONTRAST**2
    if seen.mean() < LEAST_TILES:
        return math.nan
    squared = _border_tiles(laplacian**2)[seen] / gradient_energy[seen]
    return float(np.quantile(np.sqrt(squared), 0.25))


def _border_tiles(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[S, S] -> means over the border's tiles [28]."""
    side = values.shape[0] // TILES
    means = values.reshape(TILES, side, TILES, side).mean(axis=(1, 3))
    inner = np.zeros((TILES, TILES), bool)
    inner[1:-1, 1:-1] = True
    border: NDArray[np.float32] = means[~inner]
    return border


@dataclass(frozen=True)
class SplitReport:
    """What became of each photo.

    source     name of the folder or archive
    size       px of the centre square that was looked at
    share      of those that can be told, in each set
    sharpness  {name in the source: background_sharpness}, rising
    each       how many are in each set: the first of `sharpness` and the last
    plain      names of those that can't be told
    dropped    {name in the source: why it could not be read}
    """

    source: str
    size: int
    share: float
    sharpness: dict[str, float]
    each: int
    plain: list[str]
    dropped: dict[str, str]

    @property
    def sets(self) -> dict[str, list[str]]:
        names = list(self.sharpness)
        return {"shallow": names[: self.each], "deep": names[len(names) - self.each :]}

    @property
    def thresholds(self) -> dict[str, float]:
        """The most of the shallow set and the least of the deep one."""
        sets = self.sets
        return {
            "shallow": self.sharpness[sets["shallow"][-1]],
            "deep": self.sharpness[sets["deep"][0]],
        }

    def to_json(self) -> bytes:
        record = {
            "argan": argan.__version__,
            "source": self.source,
            "settings": {"size": self.size, "share": self.share},
            "kept": {name: len(photos) for name, photos in self.sets.items()},
            "thresholds": self.thresholds,
            "dropped": self.dropped,
            "plain": self.plain,
            "background_sharpness": self.sharpness,
        }
        return (json.dumps(record, indent=1) + "\n").encode()

    def __str__(self) -> str:
        at = self.thresholds
        between = len(self.sharpness) - 2 * self.each
        lines = [
            f"shallow  {self.each:7,}   background sharpness up to {at['shallow']:.3f}",
            f"between  {between:7,}   left out",
            f"deep     {self.each:7,}   background sharpness from {at['deep']:.3f}",
            f"plain    {len(self.plain):7,}   left out: the border shows too little to tell",
        ]
        if self.dropped:
            lines.append(f"dropped  {len(self.dropped):7,}   {examples(self.dropped)}")
        return "\n".join(lines)


def split(
    source: str | Path, out: Path, size: int = 128, share: float = 0.3, overwrite: bool = False
) -> SplitReport:
    """The photos at `source` (see `open_photos`), copied to the folders out/deep and out/shallow,
    `share` of those that can be told to each; with report.json and page.png.

    size  px of the centre square at which backgrounds are looked at; best the size to train at

    All or nothing: made in a temporary sibling, then renamed. InputError where `out` exists and not
    `overwrite`, where it lies in `source`, or where too few photos are left.
    """
    if size < 4 * TILES or size % TILES:
        raise InputError(f"photos of {size} px: give a multiple of {TILES} from {4 * TILES}")
    if not 0 < share <= 0.5:
        raise InputError(f"a share of {share}: give more than 0, at most 0.5")
    out = Path(os.path.realpath(out))
    if out.suffix.lower() in (".zip", ".tar"):
        raise InputError(f"{out}: two sets go into a folder; name one")
    replaced = check_free(out, overwrite)
    check_place(Path(source), out, replaced)
    with temporary_sibling(out) as work:
        with ExitStack() as stack:
            photos = open_photos(source, stack)
            report = measure(photos, Path(source), size, share)
            folder = work / out.name
            for name, chosen in report.sets.items():
                copy(photos, chosen, folder / name)
            draw_page(photos, report).save(folder / PAGE)
            (folder / REPORT).write_bytes(report.to_json())
        place(work, out, replaced)
        return report


def measure(photos: Source, path: Path, size: int, share: float) -> SplitReport:
    links = [name for name in photos.names if path.is_dir() and leads_out(path, name)]
    dropped = photos.dropped | dict.fromkeys(links, "a link out of the folder")
    own = Source(sorted(set(photos.names).difference(links)), photos.read, {})
    found: dict[str, float] = {}
    for name, result in each_photo(
        own, path.name, lambda data: background_sharpness(decode_square(data, size))
    ):
        if isinstance(result, Exception):
            dropped[name] = why(result)
        else:
            found[name] = result
    plain = [name for name, value in found.items() if math.isnan(value)]
    told = sorted(set(found).difference(plain), key=lambda name: (found[name], name))
    each = int(share * len(told))
    if each == 0:
        more = f"; dropped: {examples(dropped)}" if dropped else ""
        raise InputError(
            f"{path}: the background of {len(told)} photos can be told, {len(plain)} are plain:"
            f" give more photos{more}"
        )
    ranked = {name: found[name] for name in told}
    return SplitReport(path.name, size, share, ranked, each, plain, dropped)


def copy(photos: Source, names: list[str], folder: Path) -> None:
    """The files as they are, under names that suit any file system."""
    taken: set[str] = set()
    for name in names:
        path = folder / new_name(name, PurePosixPath(name).suffix.lower(), taken)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photos.read(name))


def draw_page(photos: Source, report: SplitReport) -> Image.Image:
    """Photos of each kind, evenly from its least sharp background to its sharpest, none picked."""
    names = list(report.sharpness)
    between = names[report.each : len(names) - report.each]
    kinds = {"shallow": report.sets["shallow"], "between, left out": between,
             "deep": report.sets["deep"], "plain, left out": report.plain}  # fmt: skip
    size, line = report.size, 16
    page = Image.new("RGB", (COLUMNS * size, len(kinds) * (ROWS * size + line)), "black")
    draw = ImageDraw.Draw(page)
    for kind, (title, members) in enumerate(kinds.items()):
        top = kind * (ROWS * size + line)
        values = [report.sharpness[name] for name in members if name in report.sharpness]
        spread = f", background sharpness {values[0]:.3f} to {values[-1]:.3f}" if values else ""
        draw.text((2, top + 2), f"{title}: {len(members):,} photos{spread}", fill="white")
        count = min(len(members), COLUMNS * ROWS)
        for i, at in enumerate(np.linspace(0, len(members) - 1, count).round().astype(int)):
            square = decode_square(photos.read(members[at]), size).transpose(1, 2, 0)
            place_at = (i % COLUMNS * size, top + line + i // COLUMNS * size)
            page.paste(Image.fromarray(square), place_at)
    return page
