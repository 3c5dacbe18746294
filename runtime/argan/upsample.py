"""The network's small map brought to the photo's size, its outlines where the photo has them.

Near an edge of the small map every pixel belongs to one of two surfaces, the nearest and the
farthest in its neighbourhood; what lies between them is the network's blur. Each pixel is given to
the side whose sure pixels around it look more like it, weighed against what the map itself says.

What was cut along the photo, blurred again, must be the map. Wherever it is not, the map is at
fault as a whole (a network's map is often half a pixel off, and how soft it is differs from one to
the next: both are measured, and undone before the cut), or the two levels are: a blurred map shows
too little of the step at narrow things. Where map and photo disagree on an outline's place, the
photo is right.

All this is done at three times the map's size at most. Only three planes are brought to full size,
where the outline is then cut: it is as sharp as the photo, not as the vote.
Away from edges the map is only enlarged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from argan.errors import InputError, ShapeError

Array = NDArray[np.float32]
Image = NDArray[Any]  # uint8, uint16 or float32

# Chosen on the oracle scenes, with their disparity degraded as a network would. The share of the
# loss that is recovered is flat around them (2 points for changes by a third); chosen for each kind
# of scene on the two others, they recover as much of it within 3 points.
VOTE_SCALE = 3  # size of the vote, in sizes of the map: 768 px wide for a map of 256,
VOTE_PX = 500_000  # and less for larger maps: this many, or the map's own
REACH = 4  # px of the map: a network's edge is about this wide
VOTERS = [  # spread evenly over the disc (Vogel 1979): a lattice would show in fine texture
    (math.sqrt(share) * math.sin(turn), math.sqrt(share) * math.cos(turn))
    for share, turn in (((i + 0.5) / 25, i * math.pi * (3 - math.sqrt(5))) for i in range(25))
]
SIDES = 5  # px of the map: window in which the nearest and the farthest are looked for
COLOUR_SIGMA = 0.12  # of sRGB in 0..1
SURE = 0.3  # part of the step from far to near within which a pixel counts as sure of its side
LEAST_STEP = 0.05  # of the map's range: smaller steps are no outlines; twice that and more are
STEEPNESS = 3  # of the cut, times the size of the photo in sizes of the vote
FAINT = 0.05  # odds where nothing nearby looks like the pixel: the map alone decides
MEASURED = 2  # times that shift and blur are measured
USUAL_BLUR = 1.0  # px^2 of the map: variance at which the measuring starts
MOST_BLUR = 4.0  # px^2
OWN_BLUR = 0.1  # px^2: a cut at the map's size is this soft itself
SHARPENED = 3  # steps of van Cittert's deconvolution
NARROW = 2  # times what a ridge rises above its surroundings, that sharpening may add
LEVELS = 5  # px of the map: window in which the two levels are fitted
ROUNDED = 2000  # px of a photo's width for each px by which its outlines are set outwards
TILE = 128  # px of the vote: its planes stay in a second-level cache
STRIP = 32  # rows at full size


def edge_aware(disparity: Array, guide: Image) -> Array:
    """disparity [h, w] of any size, guide: the photo, sRGB uint8, uint16 or float in 0..1
    [H, W, 3] -> disparity [H, W], within the range of what was given.

    ShapeError for other shapes, InputError where the disparity is not finite.
    """
    _check(disparity, guide)
    height, width = guide.shape[:2]
    small = np.asarray(disparity, np.float32)
    lowest, highest = float(small.min()), float(small.max())
    if highest == lowest:
        return np.full((height, width), lowest, np.float32)
    if small.shape[0] > height or small.shape[1] > width:
        small = _shrunk(small, (min(small.shape[0], height), min(small.shape[1], width)))
    small = (small - np.float32(lowest)) / np.float32(highest - lowest)
    small, blur = _registered(small, _colours(guide, small.shape[::-1]))
    scale = min(max((VOTE_PX / small.size) ** 0.5, 1), VOTE_SCALE)
    size = min(round(scale * small.shape[1]), width), min(round(scale * small.shape[0]), height)
    cut = _levelled(_cut(small, blur, _colours(guide, size)), small, blur)
    return cut.enlarged((height, width), lowest, highest)


def _check(disparity: Array, guide: Image) -> None:
    if disparity.ndim != 2 or guide.ndim != 3 or guide.shape[2] != 3 or not disparity.size:
        raise ShapeError(
            f"disparity {disparity.shape} and photo {guide.shape}: give [h, w] and [H, W, 3]"
        )
    if not np.isfinite(disparity).all():
        raise InputError("the disparity has NaN or infinite values; fill them first")


@dataclass
class Cut:
    """A surface, base + step / (1 + exp(-odds)): three planes of one size."""

    base: Array
    step: Array
    odds: Array

    def surface(self) -> Array:
        return self.base + _share(self.odds) * self.step

    def enlarged(self, shape: tuple[int, int], lowest: float, highest: float) -> Array:
        """The surface at that size, 0..1 of it as lowest..highest; in strips."""
        top = np.clip(self.base + self.step, 0, 1)
        base = np.clip(self.base, 0, 1)
        step = (top - base) * np.float32(highest - lowest)
        steeper = np.float32(shape[1] / self.odds.shape[1])
        base = base * np.float32(highest - lowest) + np.float32(lowest)
        # In a photo of many pixels those of an outline are a mixture, and go with what is in front:
        # left behind, and sharp there, they would draw it as a line.
        reach = shape[1] // ROUNDED
        window = np.ones((2 * reach + 1,) * 2, np.uint8)
        result = np.empty(shape, np.float32)
        for first in range(0, shape[0], STRIP):
            last = min(first + STRIP, shape[0])
            rows = np.arange(max(first - reach, 0), min(last + reach, shape[0]))
            strip = _rows(base, rows, shape)
            height = _rows(step, rows, shape)
            if cv2.hasNonZero(height):
                against = _rows(self.odds, rows, shape)
                against *= -steeper
                cv2.exp(against, dst=against)
                against += 1
                height /= against
                strip += height
            if reach:
                strip = np.asarray(cv2.dilate(strip, window), np.float32)
            result[first:last] = strip[first - rows[0] : last - rows[0]]
        return result


def _cut(small: Array, blur: float, colours: Array) -> Cut:
    """A map 0..1 [h, w] cut along colours [3, H, W], at their size."""
    sharp = small
    for _ in range(SHARPENED):
        sharp = sharp + small - _blurred(sharp, blur)
    # It rings beside a step, and the ring would pass for a side. Narrow things alone, of which the
    # map shows too little, may go beyond its values around.
    window = np.ones((SIDES, SIDES), np.uint8)
    ridges, valleys = (
        small - cv2.morphologyEx(small, kind, window) for kind in (cv2.MORPH_OPEN, cv2.MORPH_CLOSE)
    )
    sharp = np.clip(
        sharp,
        cv2.erode(small + NARROW * valleys, window),
        cv2.dilate(small + NARROW * ridges, window),
    )
    size = colours.shape[2], colours.shape[1]
    far, step, soft = _sides(sharp, size)
    outline = np.clip(step / LEAST_STEP - 1, 0, 1)
    odds = STEEPNESS * _odds(soft, outline, colours, size[0] / small.shape[1])
    plain = far + soft * step
    return Cut(plain + outline * (far - plain), outline * step, odds)


def _registered(small: Array, colours: Array) -> tuple[Array, float]:
    """The map moved to where the photo has its edges, and its blur, a variance in px^2; both found
    by least squares (Lucas and Kanade 1981) between the map and its cut, at the map's size."""
    shift, blur = np.zeros(2), USUAL_BLUR
    moved = small
    for _ in range(MEASURED):
        soft = _blurred(_cut(moved, 0, colours).surface(), blur)
        slopes = [
            cv2.Sobel(soft, cv2.CV_32F, dx, 1 - dx, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
            for dx in (1, 0)
        ]
        spread = cv2.Laplacian(soft, cv2.CV_32F, scale=1 / 2, borderType=cv2.BORDER_REPLICATE)
        effects = np.stack([-slopes[0], -slopes[1], spread]).reshape(3, -1).astype(np.float64)
        normal = effects @ effects.T + 1e-6 * small.size * np.eye(3)
        found = np.linalg.solve(normal, effects @ (moved - soft).ravel())
        # A cut keeps a third of the map's shift: the vote heeds the map, too.
        shift = np.clip(shift + 1.5 * found[:2], -1, 1)
        blur = float(np.clip(blur + found[2], 0, MOST_BLUR))
        there = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
        how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        moved = np.asarray(
            cv2.warpAffine(small, there, small.shape[::-1], None, how, cv2.BORDER_REPLICATE),
            np.float32,
        )
    return moved, max(blur - OWN_BLUR, 0)


def _levelled(cut: Cut, small: Array, blur: float) -> Cut:
    """With the levels with which it, blurred, is the map: a least-squares line in each window."""
    size = cut.base.shape[1], cut.base.shape[0]

    def around(plane: Array) -> Array:
        return np.asarray(cv2.blur(plane, (LEVELS, LEVELS)), np.float32)

    shown = _blurred(_shrunk(cut.surface(), small.shape), blur)
    mean, target = around(shown), around(small)
    common = around(shown * small) - mean * target
    variance = around(shown * shown) - mean * mean
    slope = np.asarray(np.clip((common + 1e-4) / (variance + 1e-4), 0.5, 3), np.float32)
    offset = _resized(around(target - slope * mean), size)
    slope = _resized(around(slope), size)
    return Cut(slope * cut.base + offset, slope * cut.step, cut.odds)


def _sides(small: Array, size: tuple[int, int]) -> tuple[Array, Array, Array]:
    """At the vote's size: the far side, the step to the near side, and where between them the
    enlarged map lies, 0..1."""
    window = np.ones((SIDES, SIDES), np.uint8)
    far, near = (cv2.blur(f(small, window), (3, 3)) for f in (cv2.erode, cv2.dilate))
    level, far, near = (_resized(np.asarray(a, np.float32), size) for a in (small, far, near))
    step = np.maximum(near - far, 0)
    soft = np.clip((level - far) / np.maximum(step, 1e-12), 0, 1)
    return far, step, soft


def _odds(soft: Array, outline: Array, colours: Array, pitch: float) -> Array:
    """Log-odds of near against far: what the map says, and whose sure pixels look alike.

    soft, outline [h, w]: 0 where no vote is needed; colours [3, h, w]; pitch: px of these for
    one px of the map.
    """
    margin = round(REACH * pitch)
    sure = [np.clip((soft - 1) / SURE + 1, 0, 1), np.clip(1 - soft / SURE, 0, 1)]
    around = [_bordered(plane, margin) for plane in (*colours, *sure)]
    prior = np.clip(soft, 0.02, 0.98)
    odds = np.log(prior / (1 - prior))
    for y in range(0, soft.shape[0], TILE):
        for x in range(0, soft.shape[1], TILE):
            tile = slice(y, y + TILE), slice(x, x + TILE)
            if outline[tile].any():
                outer = slice(y, y + TILE + 2 * margin), slice(x, x + TILE + 2 * margin)
                odds[tile] += _votes([np.ascontiguousarray(a[outer]) for a in around], margin)
    return np.asarray(odds, np.float32)


def _votes(around: list[Array], margin: int) -> Array:
    """Log-odds from colour alone: three colours, sure near and sure far, with their margin,
    the reach of a vote."""
    height, width = (size - 2 * margin for size in around[0].shape)
    here = [plane[margin : margin + height, margin : margin + width] for plane in around[:3]]
    near, far = np.full((2, height, width), FAINT, np.float32)
    difference, vote = np.empty((2, height, width), np.float32)
    for dy, dx in VOTERS:
        top, left = margin + round(dy * margin), margin + round(dx * margin)
        *there, near_there, far_there = (
            plane[top : top + height, left : left + width] for plane in around
        )
        # Gaussian of sigma REACH / 2
        vote.fill((dy * dy + dx * dx) * (2 * COLOUR_SIGMA) ** 2)
        for a, b in zip(here, there, strict=True):
            cv2.subtract(a, b, dst=difference)
            cv2.accumulateSquare(difference, vote)
        vote *= -1 / (2 * COLOUR_SIGMA**2)
        cv2.exp(vote, dst=vote)
        cv2.accumulateProduct(vote, near_there, near)
        cv2.accumulateProduct(vote, far_there, far)
    return np.asarray(np.log(near / far), np.float32)


def _rows(planes: Array, rows: NDArray[np.int_], shape: tuple[int, int]) -> Array:
    """Those rows of a map enlarged to `shape`, bilinear with clamped edges."""
    height = planes.shape[0]
    y = np.clip((rows + 0.5) * height / shape[0] - 0.5, 0, height - 1)
    upper = np.minimum(y.astype(int), max(height - 2, 0))
    part = (y - upper).astype(np.float32)[:, None]
    lines = planes[upper] * (1 - part) + planes[np.minimum(upper + 1, height - 1)] * part
    return _resized(lines, (shape[1], len(rows)))


def _colours(guide: Image, size: tuple[int, int]) -> Array:
    """The photo at that size (width, height): [3, h, w] in 0..1."""
    if min(guide.shape[0] // size[1], guide.shape[1] // size[0]) > 3:  # 16 px of each are enough
        guide = cv2.resize(guide, (2 * size[0], 2 * size[1]), interpolation=cv2.INTER_LINEAR)
    small = cv2.resize(guide, size, interpolation=cv2.INTER_AREA)
    scale = np.iinfo(guide.dtype).max if guide.dtype.kind == "u" else 1
    return np.ascontiguousarray(np.moveaxis(small.astype(np.float32) / np.float32(scale), 2, 0))


def _share(odds: Array) -> Array:
    return np.asarray(1 / (1 + cv2.exp(-odds)), np.float32)


def _blurred(plane: Array, variance: float) -> Array:
    if variance < 0.01:
        return plane
    soft = cv2.GaussianBlur(plane, (0, 0), variance**0.5, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(soft, np.float32)


def _shrunk(plane: Array, shape: tuple[int, int]) -> Array:
    return np.asarray(cv2.resize(plane, shape[::-1], interpolation=cv2.INTER_AREA), np.float32)


def _resized(plane: Array, size: tuple[int, int]) -> Array:
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR), np.float32)


def _bordered(plane: Array, by: int) -> Array:
    return np.asarray(cv2.copyMakeBorder(plane, by, by, by, by, cv2.BORDER_REPLICATE), np.float32)
