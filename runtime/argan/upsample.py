"""The network's small map brought to the photo's size, its outlines where the photo has them.

Near an edge of the small map every pixel belongs to one of two surfaces, the nearest and the
farthest in its neighbourhood; what lies between them is the network's blur. Each pixel is given to
the side whose sure pixels around it look more like it, weighed against what the map itself says.
The vote is taken at three times the map's size, and only its log-odds are brought to full size,
where the outline is then cut: it is as sharp as the photo, not as the vote.
Away from edges the map is only enlarged, bilinear.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from argan.errors import InputError, ShapeError

Array = NDArray[np.float32]
Image = NDArray[Any]  # uint8, uint16 or float32

# Chosen on 9 of the 12 oracle scenes, with their disparity degraded as a network would; the
# PSNR is flat around them (within 0.1 dB for changes by a third).
VOTE_SCALE = 3  # size of the vote, in sizes of the map: 768 px wide for a map of 256
REACH = 4  # px of the map: a network's edge is about this wide
VOTERS = [  # every second px within reach, as on a chessboard: all of them vote no better
    (dy, dx)
    for dy in range(-REACH, REACH + 1)
    for dx in range(-REACH, REACH + 1)
    if dy * dy + dx * dx <= REACH * REACH and (dy + dx) % 2 == 0
]
SIDES = 7  # px of the map: window in which the nearest and the farthest are looked for
COLOUR_SIGMA = 0.12  # of sRGB in 0..1
SURE = 0.3  # part of the step from far to near within which a pixel counts as sure of its side
LEAST_STEP = 0.05  # of the map's range: smaller steps are no outlines; 0.1 and more are
STEEPNESS = 3  # of the cut
FAINT = 1e-3  # odds where nothing nearby looks like the pixel: the map alone decides
TILE = 128  # px of the vote: its planes stay in a second-level cache
STRIP = 32  # rows at full size


def edge_aware(disparity: Array, guide: Image) -> Array:
    """disparity [h, w] of any size, guide: the photo, sRGB uint8, uint16 or float in 0..1
    [H, W, 3] -> disparity [H, W].

    ShapeError for other shapes, InputError where the disparity is not finite.
    """
    _check(disparity, guide)
    height, width = guide.shape[:2]
    small = np.asarray(disparity, np.float32)
    size = (min(VOTE_SCALE * small.shape[1], width), min(VOTE_SCALE * small.shape[0], height))
    lowest, highest = float(small.min()), float(small.max())
    if highest == lowest:
        return np.full((height, width), lowest, np.float32)
    far, step, soft = _sides(small, size)
    outline = np.clip(step / (LEAST_STEP * (highest - lowest)) - 1, 0, 1)
    odds = _odds(soft, outline, _colours(guide, size), size[0] / small.shape[1])
    plain = far + soft * step
    return _cut(plain + outline * (far - plain), outline * step, STEEPNESS * odds, (height, width))


def _check(disparity: Array, guide: Image) -> None:
    if disparity.ndim != 2 or guide.ndim != 3 or guide.shape[2] != 3 or not disparity.size:
        raise ShapeError(
            f"disparity {disparity.shape} and photo {guide.shape}: give [h, w] and [H, W, 3]"
        )
    if not np.isfinite(disparity).all():
        raise InputError("the disparity has NaN or infinite values; fill them first")


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
                odds[tile] += _votes([np.ascontiguousarray(a[outer]) for a in around], pitch)
    return np.asarray(odds, np.float32)


def _votes(around: list[Array], pitch: float) -> Array:
    """Log-odds from colour alone: three colours, sure near and sure far, with their margin."""
    margin = round(REACH * pitch)
    height, width = (size - 2 * margin for size in around[0].shape)
    here = [plane[margin : margin + height, margin : margin + width] for plane in around[:3]]
    near, far = np.full((2, height, width), FAINT, np.float32)
    for dy, dx in VOTERS:
        top, left = margin + round(dy * pitch), margin + round(dx * pitch)
        *there, near_there, far_there = (
            plane[top : top + height, left : left + width] for plane in around
        )
        unlike = np.zeros((height, width), np.float32)
        for a, b in zip(here, there, strict=True):
            difference = a - b
            difference *= difference
            unlike += difference
        unlike *= -1 / (2 * COLOUR_SIGMA**2)
        unlike -= (dy * dy + dx * dx) / (REACH * REACH / 2)  # Gaussian of sigma REACH / 2
        vote = np.exp(unlike, out=unlike)
        near += vote * near_there
        far += vote * far_there
    return np.asarray(np.log(near / far), np.float32)


def _cut(base: Array, step: Array, odds: Array, shape: tuple[int, int]) -> Array:
    """base + step / (1 + exp(-odds)), each brought to `shape` first; in strips."""
    result = np.empty(shape, np.float32)
    for top in range(0, shape[0], STRIP):
        rows = np.arange(top, min(top + STRIP, shape[0]))
        strip = result[top : top + STRIP]
        strip[:] = _rows(base, rows, shape)
        height = _rows(step, rows, shape)
        if cv2.hasNonZero(height):
            against = _rows(odds, rows, shape)
            np.negative(against, out=against)
            cv2.exp(against, dst=against)
            against += 1
            height /= against
            strip += height
    return result


def _rows(planes: Array, rows: NDArray[np.int_], shape: tuple[int, int]) -> Array:
    """Those rows of a map enlarged to `shape`, bilinear with clamped edges."""
    height = planes.shape[0]
    y = np.clip((rows + 0.5) * height / shape[0] - 0.5, 0, height - 1)
    upper = np.minimum(y.astype(int), max(height - 2, 0))
    part = (y - upper).astype(np.float32)[:, None]
    lines = planes[upper] * (1 - part) + planes[np.minimum(upper + 1, height - 1)] * part
    return _resized(lines, (shape[1], len(rows)))


def _colours(guide: Image, size: tuple[int, int]) -> Array:
    small = cv2.resize(guide, size, interpolation=cv2.INTER_AREA)
    scale = np.iinfo(guide.dtype).max if guide.dtype.kind == "u" else 1
    return np.ascontiguousarray(np.moveaxis(small.astype(np.float32) / np.float32(scale), 2, 0))


def _resized(plane: Array, size: tuple[int, int]) -> Array:
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR), np.float32)


def _bordered(plane: Array, by: int) -> Array:
    return np.asarray(cv2.copyMakeBorder(plane, by, by, by, by, cv2.BORDER_REPLICATE), np.float32)
