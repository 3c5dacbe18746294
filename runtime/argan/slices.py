"""One slice of the photo: blurred by the pupil and laid behind what is in front of it.

Every pixel belongs to the two slices whose radii lie around its own. A slice's coverage at a place
is the part it has of all that is not hidden there by nearer slices:

    coverage = blur(share) / blur(1 - shares of all nearer slices)

with both blurred by the slice's own pupil. So a surface goes on behind the outline of what hides
part of it, with its own colours, and takes none from there. Front to back, each slice then fills
its coverage of what those before it left clear, which is exact where coverages are independent
(two surfaces at different depths), and also on one sloping surface: a slice with half the pixels
in front leaves half clear, and the next one covers all of what is not hidden.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from argan import native
from argan.optics import Pupil

Array = NDArray[np.float32]

LEAST = 0.005  # of the pupil: a smaller part says too little about what goes on behind an outline
RINGS = 8  # of a pupil with a rim brighter or darker than its middle
FINE = 16  # thin columns of a pixel


def add(
    total: Array,
    layer: Array,
    square: Array,
    stops: list[float],
    index: int,
    radius: float,
    pupil: Pupil,
    field: tuple[float, float] = (0.0, 0.0),
    front: bool = False,
) -> None:
    """Lay slice `index` behind what `total` holds already.

    total   [4, h, w]: premultiplied colour, and what is still clear; changed.
    layer   [4, h, w]: premultiplied colour and coverage of all surfaces of this size.
    square  [h, w]: squared radius of each pixel, with the sign of the radius.
    stops   signed radii of the slices, rising; the first and the last stand for all beyond.
    radius  signed, px: the blur of this slice.
    field   where in the photo, see `Pupil.discs`.
    front   whether the layer leaves out what is behind it (else: what is in front of it).
    """
    below, at, above = (
        math.copysign(stops[i] ** 2, stops[i]) if 0 <= i < len(stops) else math.inf * (i - index)
        for i in (index - 1, index, index + 1)
    )
    ways = spans(radius, pupil, field)
    compiled = native.library()
    if compiled is None:
        add_numpy(total, layer, square, below, at, above, ways, front)
        return
    extent, weights = ways
    compiled.argan_add_slice(
        layer.ctypes.data, square.ctypes.data, *square.shape, below, at, above, int(front),
        extent.ctypes.data, weights.ctypes.data, len(weights), extent.shape[1] // 2, LEAST,
        total.ctypes.data,
    )  # fmt: skip


def add_numpy(
    total: Array,
    layer: Array,
    square: Array,
    below: float,
    at: float,
    above: float,
    ways: tuple[Array, Array],
    front: bool,
) -> None:
    """`add` without the compiled functions; their reference."""
    taken = (square > below) & (square < above) & (layer[3] > 0)
    rows, columns = np.flatnonzero(taken.any(axis=1)), np.flatnonzero(taken.any(axis=0))
    if not len(rows):
        return
    kernel = filter_of(*ways)
    reach = len(kernel) // 2
    # What the slice can reach, and what is needed to blur that.
    inner, outer = (
        tuple(slice(max(int(a[0]) - by, 0), int(a[-1]) + 1 + by) for a in (rows, columns))
        for by in (reach + 1, 2 * reach + 1)
    )
    here = ramp(square[outer], below, at)
    nearer = ramp(square[outer], at, above)
    base = layer[:, outer[0], outer[1]]
    unhidden = (1 if front else base[3]) - base[3] * nearer
    planes = [*(base * (here - nearer)), np.asarray(unhidden, np.float32)]
    if reach:
        planes = [cv2.filter2D(p, -1, kernel, borderType=cv2.BORDER_REPLICATE) for p in planes]
    target = total[:, inner[0], inner[1]]
    y, x = (i.start - o.start for i, o in zip(inner, outer, strict=True))
    seen = slice(y, y + target.shape[1]), slice(x, x + target.shape[2])
    *colour, share, unhidden = (plane[seen] for plane in planes)
    weight = target[3] / np.maximum(unhidden, LEAST)
    for into, plane in zip(target, colour, strict=False):
        into += weight * plane
    target[3] = np.clip(target[3] - weight * share, 0, 1)


def ramp(square: Array, low: float, high: float) -> Array:
    """0 up to `low`, 1 from `high` on; linear in the squared radius, the variance of a disc, so
    that a mixture of two neighbouring discs is as wide as the disc between them."""
    if low == -math.inf:
        return np.ones_like(square)
    if high == math.inf:
        return np.zeros_like(square)
    return np.asarray(np.clip((square - np.float32(low)) * np.float32(1 / (high - low)), 0, 1))


@lru_cache(maxsize=2048)
def spans(radius: float, pupil: Pupil, field: tuple[float, float]) -> tuple[Array, Array]:
    """The pupil at |radius| px, turned by pi if negative, as nested rings: [rings, columns, 2],
    from where to where each column of px is covered, and [rings], what each adds; all sum to 1."""
    if radius == 0:
        return np.array([[[-0.5, 0.5]]], np.float32), np.ones(1, np.float32)
    reach = math.ceil(abs(radius) + 0.5)
    x = (np.arange((2 * reach + 1) * FINE) + 0.5) / FINE - reach - 0.5
    count = RINGS if pupil.rim else 1
    extent = np.zeros((count, 2 * reach + 1, 2), np.float32)
    for ring in range(count):
        size = radius * (ring + 1) / count
        top, bottom = np.full_like(x, -math.inf), np.full_like(x, math.inf)
        for across, down, of_disc in pupil.discs(field):
            squared = (size * of_disc) ** 2 - (x - size * across) ** 2
            half = np.where(squared > 0, np.sqrt(np.maximum(squared, 0)), -math.inf)
            top, bottom = (
                np.maximum(top, size * down - half),
                np.minimum(bottom, size * down + half),
            )
        # The mean of FINE thin columns: as long in all, and around the same middle.
        length = np.maximum(bottom - top, 0)
        with np.errstate(invalid="ignore"):
            centre = np.where(length > 0, (top + bottom) / 2, 0)
        columns = length.reshape(-1, FINE).mean(1)
        middle = (length * centre).reshape(-1, FINE).mean(1)
        middle /= np.maximum(columns, 1e-9)
        extent[ring] = np.stack([middle - columns / 2, middle + columns / 2], axis=1)
    # Light at the middle of each ring; a ring adds what those outside of it lack.
    light = [pupil.light((ring + 0.5) / count) for ring in range(count)]
    weights = np.array([a - b for a, b in zip(light, [*light[1:], 0.0], strict=True)])
    weights /= (weights * (extent[..., 1] - extent[..., 0]).sum(1)).sum()
    return extent, weights.astype(np.float32)


def filter_of(extent: Array, weights: Array) -> Array:
    """The same pupil as a filter [rows, columns]."""
    reach = extent.shape[1] // 2
    y = np.arange(-reach, reach + 1)
    covered = np.minimum(extent[..., 1:], y + 0.5) - np.maximum(extent[..., :1], y - 0.5)
    kernel = (weights[:, None, None] * np.maximum(covered, 0)).sum(0)
    return np.ascontiguousarray(kernel.T, np.float32)
