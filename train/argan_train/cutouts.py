"""Real photos as lessons: the subjects that a first student sees in them, cut out along colours,
and scenes put together of such cut-outs. Nobody labels anything.

A student of AR-GAN alone has seen generated pictures only. On real photos it finds the subject, but
roughly; a cut by colours from there (GrabCut) has the photo's own outline. What was cut out covers
what it is put before: such scenes have subjects off the centre, several depths, and backgrounds as
sharp and as colourful as the subject. Self-training (Xie et al. 2020, "Noisy Student") with
cut-and-paste (Ghiasi et al. 2021).

Assumed, and not learnt: that the background is a ground which comes nearer downwards, by an amount
drawn for each scene up to `ground`.

Images [N, 3, S, S] sRGB 0..1, disparities [N, 1, S, S] 0..1, 1 = the nearest subject.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from argan.errors import InputError
from argan_train import augment
from argan_train.augment import chance, uniform

ROUNDS = 3  # of GrabCut
SURE = 0.1  # share of the pixels, nearest and farthest, that the cut may not move
AGREEMENT = 0.5  # intersection over union of the cut and what it started from: less is a failure
AREA = (0.05, 0.8)  # of a frame, that a subject covers
LOOSE = 0.04  # share of the frame's border that a subject may touch to be put elsewhere
FEWEST = 16  # cut-outs that scenes can be made of
BATCH = 32
MOST = 8192  # photos that are cut out, spread over all: 7 minutes of one core at 96 px

# What a scene is made of: a background, the subject and, often, another one between them.
WIDE = (0.5, 2.5)  # of a photo, that the background's width shows; beyond its border it is mirrored
SUBJECTS = (  # disparity; the source's width over the picture's; how often
    ((0.35, 0.75), (1.4, 3.5), 0.6),
    ((0.9, 1.0), (0.8, 2.2), 1.0),
)
BEHIND = 0.25  # most by which the background's own subject is nearer than its ground
SOFT = 0.3  # share of backgrounds out of focus
HORIZON = (-0.5, 0.6)  # of the height, from the top, where the ground begins
COMPOSED = 2 / 3  # of the lessons; the others are photos as they were taken


@dataclass(frozen=True)
class Cutouts:
    """photos uint8 [M, 3, S, S], masks bool [M, 1, S, S]; loose int64 [K]: those whose subject is
    whole, and may be put elsewhere."""

    photos: Tensor
    masks: Tensor
    loose: Tensor

    def draw(self, n: int, rng: torch.Generator, loose: bool = False) -> tuple[Tensor, Tensor]:
        """n images and their subjects' masks [n, 1, S, S], 0 or 1."""
        among = len(self.loose) if loose else len(self.photos)
        pick = torch.randint(among, (n,), generator=rng, device=rng.device).to(self.photos.device)
        pick = self.loose[pick] if loose else pick
        image, mask = self.photos[pick].to(rng.device), self.masks[pick].to(rng.device)
        return image.float() / 255, mask.float()


def cut_out(
    photos: Tensor, disparity_of: Callable[[Tensor], Tensor], bar: tqdm | None = None
) -> Cutouts:
    """photos uint8 [M, 3, S, S]; disparity_of: images -> disparities [N, 1, S, S], of a student;
    bar: to show the photos on, in place of one of its own.

    Photos in which the cut does not agree with the disparity, or leaves hardly anything or hardly a
    background, are left out. InputError if too few are left.
    """
    spread = torch.linspace(0, len(photos) - 1, min(len(photos), MOST)).round().long()
    photos = photos[spread.to(photos.device)]
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
            for index, mask in enumerate(pool.map(segment, pixels, disparity[:, 0].cpu().numpy())):
                if mask is not None:
                    kept.append(start + index)
                    masks.append(mask)
            shown.update(len(some))
    if bar is None:
        shown.close()
    all_masks = torch.from_numpy(np.array(masks).reshape(len(masks), 1, *photos.shape[2:]))
    edge = torch.cat(
        [all_masks[..., 0, :], all_masks[..., -1, :], all_masks[..., 0], all_masks[..., -1]], dim=-1
    )
    loose = torch.nonzero(edge.float().mean(dim=(1, 2)) < LOOSE)[:, 0]
    if len(loose) < FEWEST:
        raise InputError(
            f"the student cut {len(masks)} of {len(photos)} photos, and {len(loose)} subjects are"
            f" whole: at least {FEWEST} are needed; give more photos, or a longer trained --student"
        )
    device = photos.device
    return Cutouts(photos[torch.tensor(kept)], all_masks.to(device), loose.to(device))


def segment(
    photo: NDArray[np.uint8], disparity: NDArray[np.float32]
) -> NDArray[np.bool_] | None:
    """The subject of photo [H, W, 3]: GrabCut (Rother, Kolmogorov and Blake 2004), begun from what
    is nearer than Otsu's threshold of disparity [H, W]. None where it fails."""
    span = np.ptp(disparity)
    if span == 0:
        return None
    level = ((disparity - disparity.min()) / span * 255).astype(np.uint8)
    threshold, _ = cv2.threshold(level, 0, 255, cv2.THRESH_OTSU)
    near = level > threshold
    labels = np.where(near, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[level <= np.quantile(level, SURE)] = cv2.GC_BGD
    labels[level >= np.quantile(level, 1 - SURE)] = cv2.GC_FGD
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


def lesson(
    cutouts: Cutouts, n: int, size: int, zoom: float, ground: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images [n, 3, size, size] and disparities [n, 1, size, size]."""
    composed = round(n * COMPOSED)
    parts = []
    if composed:
        parts.append(compose(cutouts, composed, size, ground, rng))
    if composed < n:
        image, disparity = augment.crop(*cutouts.draw(n - composed, rng), size, (1, zoom), rng)
        image = augment.recolour_apart(image, disparity, 0.5, rng)
        parts.append((image, torch.maximum(disparity, slope(n - composed, size, ground, rng))))
    images, disparities = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(disparities)


def slope(n: int, size: int, ground: float, rng: torch.Generator) -> Tensor:
    """The disparity of a ground that comes nearer downwards. [n, 1, size, 1]"""
    down = (torch.arange(size, device=rng.device) + 0.5).view(1, 1, size, 1) / size
    horizon = uniform(rng, n, *HORIZON)
    return uniform(rng, n, 0, ground) * ((down - horizon) / (1 - horizon)).clamp(0, 1)


def compose(
    cutouts: Cutouts, n: int, size: int, ground: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Scenes: a photo as background, and cut-outs before it, each in colours of its own."""
    image, mask = place(*cutouts.draw(n, rng), size, WIDE, 1.0, "reflection", rng)
    image = augment.defocus(augment.recolour(image, rng), SOFT, rng)
    disparity = slope(n, size, ground, rng) + mask * uniform(rng, n, 0, BEHIND)
    for nearness, scale, often in SUBJECTS:
        subject, alpha = place(*cutouts.draw(n, rng, loose=True), size, scale, 0.8, "zeros", rng)
        alpha = alpha * chance(rng, n, often)
        image = alpha * augment.recolour(subject, rng) + (1 - alpha) * image
        level = torch.maximum(uniform(rng, n, *nearness), disparity)
        disparity = torch.where(alpha > 0.5, level, disparity)
    return image, disparity.clamp(0, 1)


def place(
    image: Tensor, mask: Tensor, size: int, scale: tuple[float, float], reach: float,
    beyond: str, rng: torch.Generator,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Each picture somewhere in a frame of `size` px, mirrored at random; the frame's width is
    `scale` (log-uniform) of the picture's, and the picture's centre within `reach` of the frame's,
    in half widths."""
    n = len(image)
    share = torch.exp(uniform(rng, n, math.log(scale[0]), math.log(scale[1]))).view(n, 1)
    centre_x, centre_y = (uniform(rng, n, -reach, reach).view(n, 1) for _ in range(2))
    mirror = torch.where(chance(rng, n, 0.5), -1.0, 1.0).view(n, 1)
    axis = (torch.arange(size, device=rng.device) + 0.5) / size * 2 - 1
    x, y = (axis - centre_x) * share * mirror, (axis - centre_y) * share
    out = augment.sampled(torch.cat([image, mask], dim=1), x, y, beyond)
    return out[:, :3], out[:, 3:]
