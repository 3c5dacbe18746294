"""What a photo clipped, guessed: light above white is what makes blurred lights bright discs.

Two guesses, both from the photo alone, made on at most about a million of its pixels:

- Some of a pixel's channels are clipped, as in a red petal in the sun: the colour is that of the
  bright surfaces around, scaled to fit the channels that are not clipped.
- All are clipped: a small spot on darker surroundings is a light and gets `LIGHT` times white
  more; a large area, such as the sky or a window, gets nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from argan import native, planes
from argan.planes import Array, Box, Image

# Chosen on 8 of the 12 oracle scenes.
WIDTH = 1024  # px of the longer side at which surroundings are looked at, at most
BRIGHT = 3  # times squared, a pixel's light weighs its colour: those just below white count
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

    def apply(self, light: Array, pixels: Image, top: int, left: int) -> None:
        """Change linear light [3, h, w] where the pixels [h, w, 3], which start at row `top` and
        column `left` of the photo, are clipped."""
        compiled = native.library()
        if compiled is not None and pixels.dtype == np.uint8:
            rows = planes.with_dense_rows(pixels)
            compiled.argan_recover(
                rows.ctypes.data, rows.strides[0], *rows.shape[:2], self.around.ctypes.data,
                *self.around.shape[:2], 1 / self.stride, top, left, MOST, light.ctypes.data,
            )  # fmt: skip
            return
        y, x = np.nonzero(_brightest(pixels) >= self.white)
        if not len(y):
            return
        around = self._at(y + top, x + left)
        is_clipped, colour = pixels[y, x] >= self.white, light[:, y, x].T
        known = np.where(is_clipped, 0, around[:, :3])
        fit = (known * colour).sum(1) / np.maximum((known * known).sum(1), 1e-6)
        guess = np.clip(fit[:, None] * around[:, :3], 1, MOST)
        every = np.all(is_clipped, axis=1)[:, None]
        guess = np.where(every, 1 + around[:, 3:], guess)
        light[:, y, x] = np.where(is_clipped, guess, colour).T

    def _at(self, y: NDArray[np.intp], x: NDArray[np.intp]) -> Array:
        """`around` at pixels of the photo, bilinear: [n, 4]."""
        (top, bottom, down), (left, right, across) = (
            _between((places + np.float32(0.5)) * np.float32(1 / self.stride), size)
            for places, size in zip((y, x), self.around.shape, strict=False)
        )
        upper, lower = (
            self.around[row, left] * (1 - across) + self.around[row, right] * across
            for row in (top, bottom)
        )
        return np.asarray(upper * (1 - down) + lower * down, np.float32)


def _between(edges: Array, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
    """Places in px from the edge -> the px before and after, and the part of the latter [n, 1]."""
    before = np.floor(edges - np.float32(0.5)).astype(int)
    part = edges - np.float32(0.5) - before
    a, b = (np.clip(before + k, 0, size - 1) for k in (0, 1))
    return a, b, np.asarray(part, np.float32)[:, None]


def _brightest(pixels: Image) -> Image:
    brightest: Image = np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
    return brightest


def recovery(pixels: Image, strength: float = 1.0, width: int = WIDTH) -> Recovery | None:
    """What to add to the clipped pixels of a photo; None where nothing is. A float photo with light
    above 1 has its highlights already."""
    white = 1.0 if pixels.dtype == np.float32 else float(np.iinfo(pixels.dtype).max)
    if strength == 0 or (pixels.dtype == np.float32 and float(pixels.max()) > 1):
        return None
    longer = max(pixels.shape[:2])
    stride = max(1, -(-longer // width))
    sample = np.ascontiguousarray(pixels[stride // 2 :: stride, stride // 2 :: stride])
    if not sample.size:
        return None
    some = _brightest(sample) >= white
    if not some.any():
        return None
    light = planes.decoded(sample)
    weight = np.maximum(np.maximum(light[0], light[1]), light[2])
    for _ in range(BRIGHT):
        weight *= weight
    weight[some] = 0
    light *= weight
    around = np.empty((*weight.shape, 4), np.float32)
    around[..., :3] = np.moveaxis(filled(light, weight, SURE), 0, 2)
    every = np.minimum(np.minimum(sample[..., 0], sample[..., 1]), sample[..., 2]) >= white
    window, core = (max(1, round(part * longer / stride)) | 1 for part in (SURROUNDINGS, CORE))
    crowd, compact = _share_of(every, window), _share_of(every, core)
    above = LIGHT * np.clip(1 - crowd / CROWDED, 0, 1) * np.clip(1.5 * compact - 0.5, 0, 1)
    around[..., 3] = strength * above
    return Recovery(around, stride, white)


def _share_of(flags: NDArray[np.bool_], window: int) -> Array:
    """Part of the window around each place that is set; mirrored beyond the edge."""
    padded = np.pad(flags, (window // 2 + 1, window // 2), mode="reflect")
    sums = padded.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    inside = sums[window:, window:] - sums[:-window, window:]
    inside += sums[:-window, :-window] - sums[window:, :-window]
    return np.asarray(inside * np.float32(1 / window**2), np.float32)


def filled(colour: Array, weight: Array, sure: float) -> Array:
    """Colour [3, h, w] times weight, weight [h, w] -> colour; where there is little weight, colours
    from around. A weight of 1 / sure counts as enough."""
    own = colour / np.maximum(weight, 1e-9)
    if max(weight.shape) == 1:
        return np.asarray(own, np.float32)
    height, width = weight.shape
    small = (-(-height // 2), -(-width // 2))
    half, ignored = np.empty((4, *small), np.float32), np.empty(small, np.float32)
    whole = Box(0, height, 0, width)
    planes.shrink(colour, weight, np.zeros_like(weight), whole, (half, ignored))
    around = planes.enlarged(filled(half[:3], half[3], sure), 2, whole)
    return np.asarray(around + np.minimum(sure * weight, 1) * (own - around), np.float32)
