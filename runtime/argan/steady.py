"""Disparity of a clip made steady: what a network says of one frame differs from what it says of
the next, in scale and offset as a whole and by some noise in each place.

Each frame's map is first brought to the scale and offset of the map before it, and then averaged
with that map, moved to where things are now. Motion is optical flow between the two frames (dense
inverse search, Kroeger et al. 2016). Where flow and its reverse disagree, or the colours do, a
place was hidden before: there the frame's own map counts alone, so that outlines which move leave
no trail. As each alignment is to a map that is itself aligned, errors would add up; so scale and
offset return slowly to the network's own.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# Chosen on clips of two oracle scenes, see benchmarks/video.py.
AVERAGED_S = 0.4  # time constant of the average
RETURN_S = 4.0  # time constant with which scale and offset return to the network's own
FLOW_PX = 320  # longer side of the frames between which motion is measured
AGREE_PX = 1.0  # of such a frame: flow and its reverse
AGREE_COLOUR = 5.0  # times the usual difference of a moved frame and the next
NOISE = 2.0  # of 255, that such a difference has at least
REFITS = 5  # of scale and offset, each without what the one before can't explain
CUT = 0.25  # share of a frame that is found in the one before; with less the scene has changed


class Steady:
    """Call it with each frame's map in turn."""

    def __init__(self) -> None:
        self.flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # type: ignore[attr-defined]
        self.before: tuple[NDArray[np.uint8], Array] | None = None
        self.scale, self.offset = 1.0, 0.0
        self.motion: Array | None = None
        self.cut = True

    def __call__(self, disparity: Array, frame: NDArray[Any], seconds: float) -> Array:
        """The map [h, w] of a frame [H, W, 3], uint8 or uint16, and the time since the last one
        -> the steady map [h, w]. `cut` then says whether a scene begins with it; `motion` is, if
        not, where each pixel was before, as (x, y) in parts of the width and height [h, w, 2]."""
        grey = _grey(frame)
        steady = disparity
        self.cut, self.motion = True, None
        if self.before is not None:
            there, seen = _movement(self.flow, grey, self.before[0], disparity.shape)
            if seen.mean() >= CUT:
                self.cut, self.motion = False, there
                steady = self._joined(disparity, _moved(self.before[1], there), seen, seconds)
        if self.cut:
            self.scale, self.offset = 1.0, 0.0
        self.before = grey, steady
        return steady

    def _joined(self, disparity: Array, before: Array, seen: Array, seconds: float) -> Array:
        scale, offset = fit(disparity, before, seen)
        back = 1 - math.exp(-seconds / RETURN_S)
        self.scale, self.offset = scale + back * (1 - scale), offset - back * offset
        own = np.float32(self.scale) * disparity + np.float32(self.offset)
        kept = np.float32(math.exp(-seconds / AVERAGED_S)) * seen
        return np.asarray(own + kept * (before - own), np.float32)


def fit(x: Array, y: Array, weight: Array) -> tuple[float, float]:
    """(a, b) with a x + b = y for most of the pixels, by weights in 0..1.

    a is the ratio of the two spreads: noise is in both, and least squares would make a too small,
    again with every frame.
    """
    sure = weight >= np.median(weight)
    (x_lo, x_mid, x_hi), (y_lo, y_mid, y_hi) = (
        np.percentile(values[sure], (25, 50, 75)) for values in (x, y)
    )
    a = float((y_hi - y_lo) / (x_hi - x_lo)) if x_hi > x_lo else 1.0
    b = float(y_mid - a * x_mid)
    for _ in range(REFITS):
        residual = np.abs(a * x + b - y)
        usual = max(float(np.median(residual)), 1e-6)
        trust = weight / (1 + (residual / (2 * usual)) ** 2).astype(np.float64)  # Cauchy's
        total = trust.sum()
        mean_x, mean_y = (float((trust * v).sum() / total) for v in (x, y))
        spread_x, spread_y = (
            float((trust * (v - mean) ** 2).sum() / total) for v, mean in ((x, mean_x), (y, mean_y))
        )
        if spread_x < 1e-12 or spread_y < 1e-12:
            return 1.0, mean_y - mean_x
        a = math.sqrt(spread_y / spread_x)
        b = mean_y - a * mean_x
    return a, b


def _grey(frame: NDArray[Any]) -> NDArray[np.uint8]:
    scale = FLOW_PX / max(frame.shape[:2])
    size = tuple(max(16, round(side * scale)) for side in frame.shape[1::-1])
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    if frame.dtype == np.uint16:
        small = (small.astype(np.uint16) >> 8).astype(np.uint8)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def _movement(
    flow: Any, now: NDArray[np.uint8], before: NDArray[np.uint8], shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Where each pixel was [h, w, 2] in parts of the size, and how surely it was seen there, 0..1
    [h, w]."""
    height, width = now.shape
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # its result depends on their number
    try:
        back, forth = flow.calc(now, before, None), flow.calc(before, now, None)
    finally:
        cv2.setNumThreads(threads)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    there_x, there_y = x + back[..., 0], y + back[..., 1]

    def taken(plane: NDArray[Any]) -> Array:
        how = cv2.INTER_LINEAR
        moved = cv2.remap(plane, there_x, there_y, how, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(moved, np.float32)

    gap = np.hypot(*np.moveaxis(back + taken(forth), 2, 0))
    colour = np.asarray(cv2.blur(np.abs(now - taken(before)), (3, 3)), np.float32)
    usual = AGREE_COLOUR * (NOISE + float(np.median(colour)))
    seen = np.exp(-((gap / AGREE_PX) ** 2) - (colour / usual) ** 2)
    seen[(there_x < 0) | (there_y < 0) | (there_x > width - 1) | (there_y > height - 1)] = 0
    size = shape[1], shape[0]
    there = np.dstack([(there_x + 0.5) / width, (there_y + 0.5) / height])
    return (
        np.asarray(cv2.resize(there, size, interpolation=cv2.INTER_AREA), np.float32),
        np.asarray(cv2.resize(seen, size, interpolation=cv2.INTER_AREA), np.float32),
    )


def _moved(plane: Array, there: Array) -> Array:
    height, width = plane.shape
    x, y = there[..., 0] * width - 0.5, there[..., 1] * height - 0.5
    moved = cv2.remap(plane, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)
