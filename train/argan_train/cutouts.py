"""Real photos as lessons: the subjects that a first student sees in them, cut out along colours,
and scenes put together of such cut-outs. Nobody labels anything.

A student of AR-GAN alone has seen generated pictures only. On real photos it finds the subject, but
roughly; a cut by colours from there (GrabCut) has the photo's own outline. What was cut out covers
what it is put before: such scenes have subjects off the centre, several depths, and backgrounds as
sharp and as colourful as the subject. Self-training (Xie et al. 2020, "Noisy Student") with
cut-and-paste (Ghiasi et al. 2021).

Assumed, and not learnt: that the background is a ground which comes nearer downwards, by an amount
drawn for each scene up to `ground`, or such that the nearest subject stands upon it, and that most
farther ones do; and what carries a subject, and is as near: where subjects are said to be
`standing`, as people are, a body below them; and a share of them, as of flowers, have `stems`, and
tufts of leaves grow between them. Scenes make stems, tufts, and the bodies where a photo ends.

Images [N, 3, S, S] sRGB 0..1, disparities [N, 1, S, S] 0..1, 1 = the nearest subject.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from argan.errors import InputError, MissingFileError
from argan_train import augment, checkpoint, distributed
from argan_train.augment import chance, uniform
from argan_train.config import ArGanDrConfig

ROUNDS = 3  # of GrabCut
SURE = 0.1  # share of the pixels, nearest and farthest, that the cut may not move
AGREEMENT = 0.5  # intersection over union of the cut and what it started from: less is a failure
AREA = (0.05, 0.8)  # of a frame, that a subject covers
LOOSE = 0.04  # share of the frame's border that a subject may touch to be put elsewhere
FEWEST = 16  # cut-outs that scenes can be made of
BATCH = 32
KEPT = "cutouts.safetensors"  # of a run's folder
MOST = 8192  # photos that are cut out, spread over all: 7 minutes of one core at 96 px

# A standing subject and its body, which may be dark before dark: where the cut looks for it.
TOP = 0.02  # quantile of the subject's rows, above which is hardly any of it
CHIN = 0.9  # quantile of the subject's rows, below which there is only the body
FACE = 1.25  # of its width above its middle row, from its top: no lower is the chin
CORE = 0.35  # of that width, to either side of its middle, at the chin: surely the body
SLOPING = 0.8  # px to either side, for each px downwards, by which that widens
BREADTH = 1.0  # of that width, to which it widens
SHOULDERS = 1.5  # px to either side, for each px downwards: perhaps the body
HAIR = 0.4  # of that width, above its top and to both sides together: perhaps hair, or a hat
ARMS = 0.15  # share of the frame's left or right border that the body may touch
FEET = (0.0, 1.6)  # where its photo ends in a scene: 0 is half way down, 1 the frame's lower border
HIPS = (0.7, 1.5)  # width of the body that is made below that, over its width there
TALL = (1.0, 5.0)  # its height, over the same
WHOLE = (0.8, 4.5)  # as CLOSE below: a face fills its photo, and is little of a whole figure's
DRESSED = 0.5  # share of them in colours of another photo, in place of those above

# Of a subject that is not standing: its stem, where it has one, and the leaf that this may have.
LENGTH = (0.5, 3.0)  # from the subject's middle to the stem's foot, over the subject's height
THICK = (0.03, 0.12)  # over the subject's width
LEANING = 0.4  # of its length, that the foot is aside at most
BENT = 0.6  # the same of its bow
LEAVES = 0.5  # share of the stems
LEAF = (0.2, 0.6)  # its length, over the subject's width; it is a quarter as wide
SHADE = 0.35  # of the light, that is missing at the rim of a stem

# A tuft of leaves or of blades, which grows where the ground is as near as it is.
BLADES = 8
GROWN = (0.2, 1.2)  # its height in frames, where its disparity is 1
SPREAD = (0.1, 0.8)  # to either side, over its height
BROAD = (0.04, 0.4)  # a blade's or leaf's width over its height
UNEVEN = 0.3  # of its brightness, by which one is lighter or darker than the others
BELOW = 0.3  # of the frame's height, most by which it begins below the frame

# What a scene is made of: a background, farther subjects, the nearest one, and a lens.
WIDE = (0.5, 2.5)  # of a photo, that the background's width shows; beyond its border it is mirrored
NEAREST = (0.9, 1.0)  # disparity of the nearest subject
CLOSE = (0.8, 2.2)  # its source's width over the picture's
FARTHER = 6  # subjects and tufts, at most
OFTEN = 0.5  # each of them
GREEN = 0.4  # share of those that are tufts, where subjects have stems
FIELD = 0.25  # share of scenes with all of them, each the nearest subject once more or a tuft
DISTANCE = (1.2, 4.0)  # of a farther one over the nearest one's: it has a part of its disparity
ALIKE = 0.5  # share of the farther ones that are the nearest once more, as much smaller as farther
SMALLER = (1.4, 3.5)  # the other ones' source's width over the picture's
BEHIND = 0.4  # most by which the background's own subject is nearer than its ground
LENS = (0.3, 2.5)  # px, sigma of what is a whole disparity out of focus
WIDE_OPEN = 0.4  # share of scenes taken with such a lens; in the others everything is sharp
FOCUSED = 0.75  # of those, on the nearest subject; the others anywhere
HORIZON = (-0.5, 0.6)  # of the height, from the top, where the ground begins
LAID = 0.6  # share of scenes whose ground is a photo of its own, laid flat
UPON = 0.6  # of those, share in which the nearest subject stands upon it; all with a stem
STOOD = 0.7  # share of the farther ones that stand where a ground is as near as they are
PATTERN = (0.7, 5.0)  # of that photo's width, that the ground's lowest row shows
FOCAL = (0.4, 2.0)  # focal length of the camera that sees it, in half widths of the frame
COARSE = (1, 4, 16)  # px of the photo that are one of the ground's, near and farther away
VANISHING = 0.04  # of the way from the horizon to the lower border, above which all is alike


@dataclass(frozen=True)
class Cutouts:
    """photos uint8 [M, 3, S, S], masks bool [M, 1, S, S]; loose int64 [K]: those whose subject is
    whole, and may be put elsewhere; standing: with its body, which the lower border cuts."""

    photos: Tensor
    masks: Tensor
    loose: Tensor
    standing: bool = False

    def draw(self, n: int, rng: torch.Generator, loose: bool = False) -> tuple[Tensor, Tensor]:
        """n images and their subjects' masks [n, 1, S, S], 0 or 1."""
        among = len(self.loose) if loose else len(self.photos)
        pick = torch.randint(among, (n,), generator=rng, device=rng.device).to(self.photos.device)
        pick = self.loose[pick] if loose else pick
        image, mask = self.photos[pick].to(rng.device), self.masks[pick].to(rng.device)
        return image.float() / 255, mask.float()

    def draw_background(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """n images to put others before, and what in them is nearer than the rest. Standing
        subjects are taken out: a face that fills the frame is near, whoever stands before it."""
        image, mask = self.draw(n, rng)
        return (emptied(image, mask), torch.zeros_like(mask)) if self.standing else (image, mask)


def cut_out(
    photos: Tensor, disparity_of: Callable[[Tensor], Tensor], bar: tqdm | None = None,
    standing: bool = False, keep: Path | None = None, of: str = "",
) -> Cutouts:  # fmt: skip
    """photos uint8 [M, 3, S, S]; disparity_of: images -> disparities [N, 1, S, S], of a student;
    bar: to show the photos on, in place of one of its own; standing: each with its body; keep: a
    file that remembers the masks, for a run that is resumed; of: which student's and photos'
    they are.

    Photos in which the cut does not agree with the disparity, or leaves hardly anything or hardly a
    background, are left out. InputError if too few are left.
    """
    spread = torch.linspace(0, len(photos) - 1, min(len(photos), MOST)).round().long()
    photos = photos[spread.to(photos.device)]
    about = hashlib.sha256(f"{of} {list(photos.shape)} {standing}".encode()).digest()
    found = read_masks(keep, about, photos.shape[-1]) if keep else None
    kept, masks = found or cut_each(photos, disparity_of, bar, standing)
    touched = torch.stack([line.float().mean(dim=(1, 2)) for line in (
        masks[..., 0, :], masks[..., -1, :], masks[..., 0], masks[..., -1]
    )])  # fmt: skip
    if standing:
        whole = (touched[0] < LOOSE) & (touched[2:].amax(dim=0) < ARMS)
    else:
        whole = touched.mean(dim=0) < LOOSE
    loose = torch.nonzero(whole)[:, 0]
    if len(loose) < FEWEST:
        raise InputError(
            f"the student cut {len(masks)} of {len(photos)} photos, and {len(loose)} subjects are"
            f" whole: at least {FEWEST} are needed; give more photos, or a longer trained --student"
        )
    if keep and not found and distributed.rank() == 0:
        keep.parent.mkdir(parents=True, exist_ok=True)
        packed = torch.from_numpy(np.packbits(masks.numpy(), axis=-1))
        about_them = torch.frombuffer(bytearray(about), dtype=torch.uint8)
        checkpoint.save_tensors(keep, {"kept": kept, "masks": packed, "of": about_them}, {})
    device = photos.device
    return Cutouts(photos[kept.to(device)], masks.to(device), loose.to(device), standing)


def cut_of(record: Mapping[str, Any]) -> str:
    """Which student and which photos a second round has: what `cut_out` is to be told."""
    return f"{record['student']['sha256']} {record['photos']}"


def read_masks(path: Path, about: bytes, size: int) -> tuple[Tensor, Tensor] | None:
    """What `cut_each` made, if it is about the same, and whole."""
    try:
        stored = checkpoint.load_tensors(path)
    except (MissingFileError, InputError):  # none, or damaged: they are made anew
        return None
    if bytes(stored["of"].numpy()) != about:
        return None
    masks = np.unpackbits(stored["masks"].numpy(), axis=-1, count=size).astype(bool)
    return stored["kept"], torch.from_numpy(masks)


def cut_each(
    photos: Tensor, disparity_of: Callable[[Tensor], Tensor], bar: tqdm | None, standing: bool
) -> tuple[Tensor, Tensor]:
    """int64 [K], which photos could be cut, and bool [K, 1, S, S], their masks."""
    kept: list[int] = []
    masks: list[NDArray[np.bool_]] = []
    own = {"desc": "cut out", "total": len(photos), "unit": "photo", "disable": None}
    shown = tqdm(**own) if bar is None else bar
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for start in range(0, len(photos), BATCH):
            some = photos[start : start + BATCH]
            image = some.float() / 255
            with torch.no_grad():
                disparity = (disparity_of(image) + disparity_of(image.flip(-1)).flip(-1)) / 2
            pixels = some.permute(0, 2, 3, 1).cpu().numpy()
            cut = pool.map(segment, pixels, disparity[:, 0].cpu().numpy(), repeat(standing))
            for index, mask in enumerate(cut):
                if mask is not None:
                    kept.append(start + index)
                    masks.append(mask)
            shown.update(len(some))
    if bar is None:
        shown.close()
    shape = (len(masks), 1, *photos.shape[2:])
    return torch.tensor(kept, dtype=torch.int64), torch.from_numpy(np.array(masks).reshape(shape))


def segment(
    photo: NDArray[np.uint8], disparity: NDArray[np.float32], standing: bool = False
) -> NDArray[np.bool_] | None:
    """The subject of photo [H, W, 3]: GrabCut (Rother, Kolmogorov and Blake 2004), begun from what
    is nearer than Otsu's threshold of disparity [H, W]; standing: and from its body. None where it
    fails."""
    span = np.ptp(disparity)
    if span == 0:
        return None
    level = ((disparity - disparity.min()) / span * 255).astype(np.uint8)
    threshold, _ = cv2.threshold(level, 0, 255, cv2.THRESH_OTSU)
    near = level > threshold
    core, around = body(near) if standing else (np.zeros_like(near), np.zeros_like(near))
    farthest = (level <= np.quantile(level, SURE)) & ~around
    nearest = (level >= np.quantile(level, 1 - SURE)) | core
    near |= around
    labels = np.where(near, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[farthest], labels[nearest] = cv2.GC_BGD, cv2.GC_FGD
    cv2.setRNGSeed(0)  # of the colours' first clusters
    colours = np.zeros((1, 65)), np.zeros((1, 65))  # models of both sides, made and not needed
    photo, mode = np.ascontiguousarray(photo), cv2.GC_INIT_WITH_MASK
    try:
        cv2.grabCut(photo, labels, (0, 0, 0, 0), *colours, ROUNDS, mode)  # the rectangle is unused
    except cv2.error:  # one of the sides has no pixels
        return None
    mask = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    agreement = (mask & near).sum() / max(1, (mask | near).sum())
    if agreement < AGREEMENT or not AREA[0] < mask.mean() < AREA[1]:
        return None
    return mask


def body(near: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of the largest part of what is near [H, W], which is a head: where its body surely is, and
    where the body, or hair, may be."""
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(near.astype(np.uint8))
    rows, columns = np.nonzero(parts == 1 + np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
    top, middle = np.quantile(rows, (TOP, 0.5))
    left, right = np.quantile(columns[rows <= middle], (0.05, 0.95))
    width = right - left
    y, x = np.indices(near.shape)
    below = y - min(np.quantile(rows, CHIN), top + FACE * width)
    aside = np.abs(x - (left + right) / 2)
    core = (below >= 0) & (aside < np.minimum(CORE * width + SLOPING * below, BREADTH * width))
    around = (below >= 0) & (aside < width / 2 + SHOULDERS * below)
    above = y - top
    around |= (-HAIR * width < above) & (above < width / 2) & (aside < (1 + HAIR) * width / 2)
    return core, core | around


def lesson(
    cutouts: Cutouts, n: int, config: ArGanDrConfig, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images [n, 3, S, S] and disparities [n, 1, S, S] of the config's size S."""
    size, ground = config.size, config.ground
    composed = round(n * config.composed)
    parts = []
    if composed:
        parts.append(compose(cutouts, composed, size, ground, config.stems, rng))
    if composed < n:
        image, disparity = cutouts.draw(n - composed, rng)
        image, disparity = augment.crop(image, disparity, size, (1, config.zoom), rng)
        image = augment.recolour_apart(image, disparity, 0.5, rng)
        parts.append((image, torch.maximum(disparity, slope(n - composed, size, ground, rng))))
    images, disparities = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(disparities)


def slope(n: int, size: int, ground: float, rng: torch.Generator) -> Tensor:
    """The disparity of a ground that comes nearer downwards. [n, 1, size, 1]"""
    horizon = uniform(rng, n, *HORIZON)
    return uniform(rng, n, 0, ground) * descent(rows_of(size, rng.device), horizon)


def rows_of(size: int, device: torch.device) -> Tensor:
    """The middle of each row of a frame whose height is 1. [1, 1, size, 1]"""
    return (torch.arange(size, device=device) + 0.5).view(1, 1, size, 1) / size


def descent(row: Tensor, horizon: Tensor) -> Tensor:
    """From 0 at the horizon, and above it, to 1 at the frame's lower border, which is row 1, and
    more below it: what the disparity of a plane is proportional to."""
    return ((row - horizon) / (1 - horizon)).clamp(min=0)


def laid(picture: Tensor, down: Tensor, rng: torch.Generator) -> Tensor:
    """Each picture [n, 3, S, S] as a plane that is seen from above, so that `descent` [n, 1, H, 1]
    is its disparity: the farther, the smaller its pattern. [n, 3, H, H]; nothing of use above the
    horizon."""
    n, size = len(picture), down.shape[2]
    near = down.clamp(min=VANISHING).view(n, size, 1)
    width = scales(rng, n, PATTERN).view(n, 1, 1) / near  # of the picture's, that a row shows
    focal = uniform(rng, n, *FOCAL).view(n, 1, 1)
    axis = (torch.arange(size, device=down.device) + 0.5) / size * 2 - 1
    x = width * axis + uniform(rng, n, -1, 1).view(n, 1, 1)
    y = (width * focal + uniform(rng, n, -1, 1).view(n, 1, 1)).expand_as(x)
    grid = torch.stack([x, y], dim=-1)
    # How many of the picture's pixels are one of the frame's, as the coarser ones count them.
    level = torch.log(width * (focal / near).clamp(min=1)) / math.log(COARSE[1] / COARSE[0])
    level = level.clamp(0, len(COARSE) - 1)[:, None]
    out = torch.zeros(n, 3, size, size, device=down.device)
    for i, by in enumerate(COARSE):
        coarse = F.avg_pool2d(picture, by)
        seen = F.grid_sample(coarse, grid, padding_mode="reflection", align_corners=False)
        out += (1 - (level - i).abs()).clamp(min=0) * seen
    return out


def compose(
    cutouts: Cutouts, n: int, size: int, ground: float, stems: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Scenes: a photo as background, and cut-outs before it, each in colours of its own, taken
    through a lens.

    A flower twice as far has half the disparity and half the size: what is farther is often the
    nearest subject once more, and is as much smaller.
    """
    open_lens = chance(rng, n, WIDE_OPEN) * uniform(rng, n, *LENS)
    focus = torch.where(chance(rng, n, FOCUSED), 1.0, uniform(rng, n, 0, 1))

    def blurred(picture: Tensor, level: Tensor) -> Tensor:
        return augment.gaussian(picture, open_lens * (level - focus).abs())

    def colours() -> Tensor:
        """Of what carries a subject, or grows: another photo's. Black where nothing does."""
        if not (cutouts.standing or stems):
            return torch.zeros(n, 3, size, size, device=rng.device)
        cloth, mask = cutouts.draw_background(n, rng)
        cloth, _ = place(cloth, mask, size, scales(rng, n, WIDE), 1.0, "reflection", False, rng)
        return augment.recolour(cloth, rng)

    def placed(
        picture: Tensor, mask: Tensor, scale: Tensor, cloth: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A subject and its alpha, with all that carries it, and where its stem's foot is."""
        subject, alpha = place(picture, mask, size, scale, 0.8, "zeros", cutouts.standing, rng)
        subject = augment.recolour(subject, rng)
        if cutouts.standing:
            return *embodied(subject, alpha, cloth, rng), torch.zeros_like(scale)
        if stems:
            return stemmed(subject, alpha, cloth, stems, rng)
        return subject, alpha, torch.zeros_like(scale)

    nearest, near_mask = cutouts.draw(n, rng, loose=True)
    near_level = uniform(rng, n, *NEAREST)
    near_scale = scales(rng, n, WHOLE if cutouts.standing else CLOSE)
    near_subject, near_alpha, foot = placed(nearest, near_mask, near_scale, colours())
    image, floor, disparity = behind(cutouts, near_alpha, foot, near_level, ground, blurred, rng)

    distances = torch.stack([scales(rng, n, DISTANCE) for _ in range(FARTHER)])
    subjects, field = [], chance(rng, n, FIELD)
    for distance in distances.sort(dim=0, descending=True).values:  # the farthest first
        alike = field | chance(rng, n, ALIKE)
        other, other_mask = cutouts.draw(n, rng, loose=True)
        scale = torch.where(alike, near_scale * distance, scales(rng, n, SMALLER))
        other = torch.where(alike, nearest, other)
        other_mask = torch.where(alike, near_mask, other_mask)
        there = field | chance(rng, n, OFTEN)
        cloth = colours()
        subject, alpha, _ = placed(other, other_mask, scale, cloth)
        level = near_level / distance
        subject, alpha = stood(subject, alpha, level, floor, rng)
        if stems and not cutouts.standing:
            green = chance(rng, n, GREEN)
            tuft, its_alpha = grown(level, floor, cloth, rng)
            subject = torch.where(green, tuft, subject)
            alpha = torch.where(green, its_alpha, alpha)
        subjects.append((subject, alpha * there, level))
    subjects.append((near_subject, near_alpha, near_level))

    for subject, alpha, above in subjects:
        level = torch.maximum(above, lowest(alpha, floor))  # before what it stands upon
        disparity = torch.where(alpha > 0.5, torch.maximum(level, disparity), disparity)
        covering = torch.cat([alpha * subject, alpha], dim=1)
        covering = blurred(covering, level)
        image = covering[:, :3] + (1 - covering[:, 3:]) * image
    return image.clamp(0, 1), disparity.clamp(0, 1)


def behind(
    cutouts: Cutouts, alpha: Tensor, foot: Tensor, near_level: Tensor, ground: float,
    blurred: Callable[[Tensor, Tensor], Tensor], rng: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What a scene's subjects are before: image, the disparity of its ground [n, 1, S, 1], and of
    all of it. alpha [n, 1, S, S], foot and near_level [n, 1, 1, 1] are the nearest subject's;
    blurred(image, disparity): as the lens takes it."""
    n, size = len(alpha), alpha.shape[-1]
    image, mask = cutouts.draw_background(n, rng)
    image, mask = place(image, mask, size, scales(rng, n, WIDE), 1.0, "reflection", False, rng)
    far = torch.zeros_like(near_level)
    image = blurred(augment.recolour(image, rng), far)
    mask = mask * uniform(rng, n, 0, BEHIND)
    horizon, nearness = uniform(rng, n, *HORIZON), uniform(rng, n, 0, ground)
    down = descent(rows_of(size, rng.device), horizon)
    if ground:
        with_ground = chance(rng, n, LAID)
        floor, _ = cutouts.draw_background(n, rng)
        floor = laid(augment.recolour(floor, rng), down, rng)
        covered = with_ground & (down > 0)
        stem = foot > 0
        touching = torch.where(stem, descent(foot, horizon), lowest(alpha, down))
        upon = with_ground & (stem | chance(rng, n, UPON)) & (touching > 0)
        upon &= not cutouts.standing
        nearness = torch.where(upon, (near_level / touching).clamp(max=1), nearness)
        floor = torch.lerp(blurred(floor, far), blurred(floor, nearness), down)
        image = torch.where(covered, floor, image)
        mask = mask * ~covered
    return image, nearness * down, nearness * down + mask


def emptied(image: Tensor, mask: Tensor) -> Tensor:
    """Images [n, 3, S, S] without their subjects, mask [n, 1, S, S]: in their place is what lies
    half a frame beside them, and where that is subject as well, the colours around."""
    size = image.shape[-1]
    rim = 2 * (size // 24) + 1  # the cut may have left hair, and colours bleed
    mask = F.max_pool2d(mask, rim, 1, rim // 2)
    weight = F.avg_pool2d(1 - mask, 4)  # these colours are coarse
    around = F.avg_pool2d(image * (1 - mask), 4)
    for _ in range(size // 4):  # each pixel that knows nothing asks its neighbours
        unknown = weight == 0
        if not unknown.any():
            break
        around = torch.where(unknown, F.avg_pool2d(around, 3, 1, 1), around)
        weight = torch.where(unknown, F.avg_pool2d(weight, 3, 1, 1), weight)
    # All subject: black.
    around = F.interpolate(around / weight.clamp(min=1e-6), size=(size, size), mode="bilinear")
    beside, taken = image.roll(size // 2, dims=3), mask.roll(size // 2, dims=3)
    fill = torch.where(taken > 0, around, beside)
    soft = F.avg_pool2d(F.pad(mask, [rim // 2] * 4, mode="replicate"), rim, 1)
    return image * (1 - soft) + fill * soft


def stood(
    subject: Tensor, alpha: Tensor, level: Tensor, floor: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Subjects [n, 3, S, S] and their alpha, most of them moved up or down to where their lowest
    row is upon a ground, floor [n, 1, S, 1], that is as near as they are, level [n, 1, 1, 1]. Not
    where the ground is nowhere so near, nor those that the lower border cuts."""
    n, size = len(alpha), alpha.shape[-1]
    rows = torch.arange(size, device=alpha.device).view(1, 1, size, 1)
    there = (alpha > 0.5).any(dim=3, keepdim=True)
    last = (there * rows).amax(dim=2, keepdim=True)
    to = (floor < level).sum(dim=2, keepdim=True)  # the first row that is so near
    moved = chance(rng, n, STOOD) & (to < size) & ~there[:, :, -1:]
    source = rows - torch.where(moved, to - last, 0)
    inside = (source >= 0) & (source < size)
    both = torch.cat([subject, alpha], dim=1)
    both = both.gather(2, source.clamp(0, size - 1).expand_as(both)) * inside
    return both[:, :3], both[:, 3:]


def lowest(alpha: Tensor, down: Tensor) -> Tensor:
    """Of a ground, down [n, 1, S, 1], what is at the lowest row of each subject, of alpha
    [n, 1, S, S]; 0 of nothing. [n, 1, 1, 1]"""
    rows = (alpha > 0.5).any(dim=3, keepdim=True)
    return (rows * down).amax(dim=2, keepdim=True)


def embodied(
    subject: Tensor, alpha: Tensor, cloth: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Subjects [n, 3, S, S] and their alpha, with a body below where their photos end: as wide as
    they are there, of about the colour that they have there, or of the cloth, with its pattern."""
    n, size = len(alpha), alpha.shape[-1]
    inside = alpha[:, 0] > 0.5
    rows = torch.arange(size, device=alpha.device)
    last = (inside.any(dim=2) * rows).amax(dim=1)  # [n]
    hem = inside & ((last[:, None] - rows).abs() <= 2)[:, :, None]  # what lies just above
    columns = hem.any(dim=1)
    left = torch.where(columns, rows, size).amin(dim=1)
    right = torch.where(columns, rows, -1).amax(dim=1)
    centre = ((left + right) / 2).view(n, 1, 1)
    width = (right - left + 1).view(n, 1, 1)  # below 0 of nothing, which gets no body
    below = (rows - last[:, None] + 1).view(n, size, 1)  # the last row, too: half of it is border
    tall = uniform(rng, n, *TALL)[:, 0] * width
    half = width / 2 * (1 + (uniform(rng, n, *HIPS)[:, 0] - 1) * (below / width).clamp(0, 1))
    body = ((below > 0) & (below < tall) & ((rows - centre).abs() < half))[:, None]
    colour = (subject * hem[:, None]).sum((2, 3), keepdim=True)
    colour = colour / hem.sum((1, 2)).clamp(min=1).view(n, 1, 1, 1)
    other = cloth.mean(dim=(2, 3), keepdim=True)
    colour, pattern = torch.where(chance(rng, n, DRESSED), other, colour), cloth - other
    made = (colour + pattern * uniform(rng, n, 0, 1)).clamp(0, 1)
    return torch.where(body, made, subject), torch.maximum(alpha, body.float())


def stemmed(
    subject: Tensor, alpha: Tensor, cloth: Tensor, share: float, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Subjects [n, 3, S, S] and their alpha [n, 1, S, S], a share with a stem behind it and perhaps
    a leaf, in about one of the colours of the cloth [n, 3, S, S]; and the row of the stem's foot in
    frames' heights, 0 where there is none. [n, 1, 1, 1]"""
    n, size = len(alpha), alpha.shape[-1]
    at = torch.arange(size, device=alpha.device) + 0.5
    x, y = at.view(1, 1, 1, size), at.view(1, 1, size, 1)
    inside = (alpha > 0.5).float()
    area = inside.sum(dim=(2, 3), keepdim=True)
    centre_x, centre_y = (
        (inside * a).sum(dim=(2, 3), keepdim=True) / area.clamp(min=1) for a in (x, y)
    )
    width, height = (
        inside.amax(dim=d, keepdim=True).sum(dim=(2, 3), keepdim=True).clamp(min=1) for d in (2, 3)
    )
    length = uniform(rng, n, *LENGTH) * height
    lean, bow = uniform(rng, n, -LEANING, LEANING), uniform(rng, n, -BENT, BENT)

    def stem_x(along: Tensor) -> Tensor:
        return centre_x + length * along * (lean + bow * (1 - along))

    along = (y - centre_y) / length  # 0 in the subject's middle, 1 at the foot
    half = (uniform(rng, n, *THICK) * width / 2).clamp(min=0.5)
    off = (x - stem_x(along)).abs()
    stem = (half - off + 0.5).clamp(0, 1) * (along > 0) * (along < 1)

    # An ellipse that begins at the stem and points upwards.
    half_leaf = uniform(rng, n, *LEAF) * width / 2
    where = uniform(rng, n, 0.3, 0.9)
    turned = uniform(rng, n, 0.1, 0.9) * math.pi
    forth, up = torch.cos(turned), -torch.sin(turned)
    from_x = x - stem_x(where) - half_leaf * forth
    from_y = y - centre_y - where * length - half_leaf * up
    far = (((from_x * forth + from_y * up) / half_leaf) ** 2
           + ((from_x * up - from_y * forth) / (half_leaf / 4)) ** 2)  # fmt: skip
    leaf = (far < 1) & chance(rng, n, LEAVES)

    there = chance(rng, n, share) & (area > 0)
    made = torch.where(there, torch.maximum(stem, leaf.float()), 0)
    colour = cloth.mean(dim=(2, 3), keepdim=True)
    colour = colour + (cloth - colour) * uniform(rng, n, 0, 1)
    colour = colour * (1 - SHADE * (off / half).clamp(max=1) ** 2)
    together = alpha + (1 - alpha) * made
    subject = (alpha * subject + (1 - alpha) * made * colour) / together.clamp(min=1e-6)
    foot = (centre_y + length) / size
    return subject, together, torch.where(there, foot, 0)


def grown(
    level: Tensor, floor: Tensor, cloth: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Tufts as near as level [n, 1, 1, 1] says: images [n, 3, S, S], in colours of the cloth, and
    alpha [n, 1, S, S]. They begin where the ground, floor [n, 1, S, 1], is as near, or below the
    frame, and are the taller the nearer they are. All leaves of a tuft begin in one row, or one
    above the other."""
    n, size = len(cloth), cloth.shape[-1]
    at = torch.arange(size, device=cloth.device) + 0.5
    x, y = at.view(1, 1, 1, size), at.view(1, 1, size, 1)

    def each(low: float, high: float) -> Tensor:
        """Of each blade. [n, BLADES, 1, 1]"""
        return uniform(rng, n * BLADES, low, high).view(n, BLADES, 1, 1)

    row = (floor < level).sum(dim=2, keepdim=True)
    row = torch.where(row < size, row, size * (1 + uniform(rng, n, 0, BELOW)))
    height = uniform(rng, n, *GROWN) * level * size
    tall = height * each(0.4, 1)
    along = (row - each(0, 1) * chance(rng, n, 0.5) * height - y) / tall  # 0 at the foot, 1 the tip
    middle = uniform(rng, n, 0, size) + each(-1, 1) * uniform(rng, n, *SPREAD) * height
    middle = middle + tall * along * (each(-LEANING, LEANING) + each(-BENT, BENT) * along)
    profile = torch.where(chance(rng, n, 0.5), 1 - along, 4 * along * (1 - along))  # blade, leaf
    half = scales(rng, n, BROAD) * tall / 2 * profile
    inside = (half - (x - middle).abs() + 0.5).clamp(0, 1) * (along > 0) * (along < 1)
    alpha, which = inside.max(dim=1, keepdim=True)
    light = each(1 - UNEVEN, 1 + UNEVEN).expand_as(inside).gather(1, which)
    colour = cloth.mean(dim=(2, 3), keepdim=True)
    colour = colour + (cloth - colour) * uniform(rng, n, 0, 1)
    return (light * colour).clamp(0, 1), alpha


def scales(rng: torch.Generator, n: int, between: tuple[float, float]) -> Tensor:
    """[n, 1, 1, 1], log-uniform."""
    return torch.exp(uniform(rng, n, math.log(between[0]), math.log(between[1])))


def place(
    image: Tensor, mask: Tensor, size: int, scale: Tensor, reach: float, beyond: str,
    standing: bool, rng: torch.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Each picture somewhere in a frame of `size` px, mirrored at random; the frame's width is
    `scale` [N, 1, 1, 1] of the picture's, and the picture's centre within `reach` of the frame's,
    in half widths; standing: it ends where FEET says."""
    n = len(image)
    share = scale.view(n, 1)
    centre_x, centre_y = (uniform(rng, n, -reach, reach).view(n, 1) for _ in range(2))
    if standing:
        centre_y = uniform(rng, n, *FEET).view(n, 1) - 1 / share
    mirror = torch.where(chance(rng, n, 0.5), -1.0, 1.0).view(n, 1)
    axis = (torch.arange(size, device=rng.device) + 0.5) / size * 2 - 1
    x, y = (axis - centre_x) * share * mirror, (axis - centre_y) * share
    out = augment.sampled(torch.cat([image, mask], dim=1), x, y, beyond)
    return out[:, :3], out[:, 3:]
