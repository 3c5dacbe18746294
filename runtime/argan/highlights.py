"""What a photo clipped, guessed: light above white is what makes blurred lights bright discs.

Two guesses, both from the photo alone, made on at most about a million of its pixels:

- Some of a pixel's channels are clipped, as in a red petal in the sun: the colour is that of the
  bright surfaces around, scaled to fit the channels that are not clipped.
- All are clipped: a small spot on darker surroundings is a light and gets `LIGHT` times white
  more; a large area, such as the sky or a window, gets nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Image = NDArray[Any]  # sRGB [H, W, 3]: uint8, uint16 or float32

# Chosen on 8 of the 12 oracle scenes.
WIDTH = 1024  # px of the longer side at which surroundings are looked at, about
BRIGHT = 8  # power of a pixel's light that weighs its colour: those just below white count
SURE = 64  # one such pixel in that many is enough
MOST = 2.5  # times white, for some clipped channels
LIGHT = 8.0  # times white that a light has above white
SURROUNDINGS = 0.05  # of the longer side: window in which a light's spot is small
CROWDED = 0.12  # part of that window that is white: no light any more
CORE = 0.006  # of the longer side: a light is at least as wide in both directions


@dataclass(frozen=True)
class Recovery:
    """around [h, w, 4]: colour of bright unclipped surfaces, and light above white; one pixel of
    it for `stride` of the photo's."""

    around: Array
    stride: int
    white: float

    def apply(self, linear: Array, pixels: Image, top: int, left: int) -> None:
        """Change linear light [3+, h, w] where the pixels [h, w, 3], which start at row `top` and
        column `left` of the photo, are clipped."""
        brightest = cv2.max(cv2.max(*cv2.split(pixels)[:2]), cv2.split(pixels)[2])
        some = np.flatnonzero(brightest >= self.white)
        if not len(some):
            return
        step = 1 / self.stride
        grid = np.array([[step, 0, (left + 0.5) * step - 0.5], [0, step, (top + 0.5) * step - 0.5]])
        size = pixels.shape[1::-1]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        around = cv2.warpAffine(
            self.around, grid, size, flags=flags, borderMode=cv2.BORDER_REPLICATE
        ).reshape(-1, 4)[some]
        is_clipped = pixels.reshape(-1, 3)[some] >= self.white
        planes = linear[:3].reshape(3, -1)
        colour = planes[:, some].T
        known = np.where(is_clipped, 0, around[:, :3])
        fit = (known * colour).sum(1) / np.maximum((known * known).sum(1), 1e-6)
        guess = np.clip(fit[:, None] * around[:, :3], 1, MOST)
        every = np.all(is_clipped, axis=1)[:, None]
        guess = np.where(every, 1 + around[:, 3:], guess)
        planes[:, some] = np.where(is_clipped, guess, colour).T


def recovery(
    pixels: Image, decode: Callable[[Image], Array], strength: float = 1.0
) -> Recovery | None:
    """What to add to the clipped pixels of a photo; None where nothing is. decode: sRGB -> linear
    [3+, h, w]. A float photo with light above 1 has its highlights already."""
    white = 1.0 if pixels.dtype == np.float32 else float(np.iinfo(pixels.dtype).max)
    if strength == 0 or (pixels.dtype == np.float32 and float(pixels.max()) > 1):
        return None
    longer = max(pixels.shape[:2])
    stride = max(1, round(longer / WIDTH))
    sample = np.ascontiguousarray(pixels[stride // 2 :: stride, stride // 2 :: stride])
    if not sample.size:
        return None
    clipped: NDArray[np.bool_] = np.greater_equal(sample, white)
    some, every = clipped.any(2), np.asarray(clipped.all(2), np.float32)
    if not some.any():
        return None
    light = decode(sample)[:3]
    weight = np.where(some, 0, light.max(0) ** BRIGHT)
    weighed = np.concatenate([light * weight, weight[None]]).astype(np.float32)
    colour = np.moveaxis(filled(weighed, SURE), 0, 2)
    window, core = (max(1, round(part * longer / stride)) | 1 for part in (SURROUNDINGS, CORE))
    crowd = cv2.blur(every, (window, window))
    compact = np.clip(1.5 * cv2.blur(every, (core, core)) - 0.5, 0, 1)
    above = LIGHT * np.clip(1 - crowd / CROWDED, 0, 1) * compact
    around = np.dstack([colour, strength * above]).astype(np.float32)
    return Recovery(np.ascontiguousarray(around), stride, white)


def filled(layer: Array, sure: float) -> Array:
    """Premultiplied [n + 1, h, w], the last plane its weight -> colour [n, h, w]; where there is
    little weight, colours from around. A weight of 1 / sure counts as enough."""
    colour = layer[:-1] / np.maximum(layer[-1], 1e-9)
    if max(layer.shape[1:]) == 1:
        return np.asarray(colour, np.float32)
    height, width = layer.shape[1:]
    even = np.pad(layer, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    size = (even.shape[2] // 2, even.shape[1] // 2)
    half = np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in even])
    coarse = filled(np.asarray(half, np.float32).reshape(len(layer), size[1], size[0]), sure)
    large = [cv2.resize(p, even.shape[2:0:-1], interpolation=cv2.INTER_LINEAR) for p in coarse]
    around = np.stack(large)[:, :height, :width]
    part = np.minimum(sure * layer[-1], 1)
    return np.asarray(around + part * (colour - around), np.float32)
