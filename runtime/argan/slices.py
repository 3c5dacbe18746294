"""Slices of the photo: each blurred by the pupil and laid behind what is in front of it.

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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from argan import native
from argan.optics import Pupil
from argan.planes import Box, ramp

Array = NDArray[np.float32]
Whole = NDArray[np.int32]

LEAST = 0.005  # of the pupil: a smaller part says too little about what goes on behind an outline
RINGS = 8  # of a pupil with a rim brighter or darker than its middle
FINE = 16  # thin columns of a pixel


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices, the nearest first.

    bounds  [n, 3]: squared radii, with the radius' sign, of the slice behind, its own, and the
            slice in front; infinite where there is none
    radii   signed px, the blur of each, by the pupil as it is seen from field: see `spans`
    front   whether the layer leaves out what is behind it (else: what is in front of it)
    """

    bounds: Array
    radii: tuple[float, ...]
    pupil: Pupil
    field: tuple[float, float]
    front: bool

    @cached_property
    def packed(self) -> tuple[Whole, Whole, Array, Array]:
        """Reach and number of rings of each, spans and weights of all, compiled."""
        compiled = native.library()
        assert compiled is not None
        reaches = np.array([reach(radius) for radius in self.radii], np.int32)
        light = np.array(ring_light(self.pupil))
        rings = np.where(np.array(self.radii) == 0, 1, len(light)).astype(np.int32)
        radii, discs = np.array(self.radii), np.array(self.pupil.discs(self.field))
        extents = np.empty((int((rings * (2 * reaches + 1)).sum()), 2), np.float32)
        weights = np.empty(int(rings.sum()), np.float32)
        compiled.argan_spans(
            radii.ctypes.data, reaches.ctypes.data, rings.ctypes.data, len(radii),
            discs.ctypes.data, len(discs), light.ctypes.data, FINE, extents.ctypes.data,
            weights.ctypes.data,
        )  # fmt: skip
        return reaches, rings, extents, weights


@lru_cache(maxsize=512)
def stack(
    stops: Sequence[float],
    radii: Sequence[float | None],
    pupil: Pupil,
    field: tuple[float, float] = (0.0, 0.0),
    front: bool = False,
) -> Stack:
    """stops: signed radii of the slices, rising; the first and the last stand for all beyond.
    radii: signed px, the blur of each; None for a slice that is left out. field: where in the
    photo, see `Pupil.discs`."""
    ends = (-math.inf, *squares(stops), math.inf)
    taken = [i for i in reversed(range(len(stops))) if radii[i] is not None]
    return Stack(
        np.array([ends[i : i + 3] for i in taken], np.float32),
        tuple(radius for i in taken if (radius := radii[i]) is not None),
        pupil, field, front,
    )  # fmt: skip


def squares(stops: Sequence[float]) -> list[float]:
    return [math.copysign(r * r, r) for r in stops]


def add(
    total: Array, colour: Array, coverage: Array | None, square: Array, slices: Stack, part: Box
) -> None:
    """Lay slices behind what `total` holds already.

    total     [4, n, m]: premultiplied colour, and what is still clear; changed
    colour    [3, h, w], premultiplied, of all surfaces of this size; total is at its `part`
    coverage  [h, w], 1 if None
    square    [h, w]: squared radius of each pixel, with the sign of the radius
    """
    compiled = native.library()
    if compiled is None:
        for bounds, radius in zip(slices.bounds, slices.radii, strict=True):
            ways = spans(radius, slices.pupil, slices.field)
            add_numpy(total, colour, coverage, square, bounds, ways, slices.front, part)
        return
    reaches, rings, extents, weights = slices.packed
    bounds, place = slices.bounds, np.array(part, np.int_)
    compiled.argan_add_slices(
        colour.ctypes.data, None if coverage is None else coverage.ctypes.data,
        square.ctypes.data, *square.shape, place.ctypes.data, len(bounds), bounds.ctypes.data,
        reaches.ctypes.data, rings.ctypes.data, extents.ctypes.data, weights.ctypes.data,
        int(slices.front), LEAST, total.ctypes.data, total.strides[0] // 4, total.strides[1] // 4,
    )  # fmt: skip


def add_numpy(
    total: Array,
    colour: Array,
    coverage: Array | None,
    square: Array,
    bounds: Array,
    ways: tuple[Array, Array],
    front: bool,
    part: Box,
) -> None:
    """One slice of `add` without the compiled functions; their reference."""
    below, at, above = (float(bound) for bound in bounds)
    kernel = filter_of(*ways)
    around = part.grown(len(kernel) // 2, square.shape)
    squared = square[around.at]
    base = np.ones_like(squared) if coverage is None else coverage[around.at]
    if not ((squared > below) & (squared < above) & (base > 0)).any():
        return
    here, nearer = ramp(squared, below, at), ramp(squared, at, above)
    unhidden = (1 if front else base) - base * nearer
    share = here - nearer
    planes = [*(colour[(slice(None), *around.at)] * share), base * share, unhidden]
    if len(kernel) > 1:
        planes = [_blurred(plane, kernel, around, part) for plane in planes]
    *light, share, unhidden = planes
    weight = total[3] / np.maximum(unhidden, LEAST)
    for into, plane in zip(total, light, strict=False):
        into += weight * plane
    total[3] = np.clip(total[3] - weight * share, 0, 1)


def _blurred(plane: Array, kernel: Array, around: Box, part: Box) -> Array:
    """The plane at `around` blurred -> at `part`; beyond the whole its edge goes on."""
    import cv2  # slow to import, and needed here alone

    wide = cv2.filter2D(plane, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(wide[part.seen_from(around).at])


def reach(radius: float) -> int:
    """px of a pupil beyond its middle one."""
    return math.ceil(abs(radius) + 0.5) if radius else 0


def ring_light(pupil: Pupil) -> list[float]:
    """What each nested ring adds: light at its middle, less what those around it give."""
    count = RINGS if pupil.rim else 1
    light = [pupil.light((ring + 0.5) / count) for ring in range(count)]
    return [a - b for a, b in zip(light, [*light[1:], 0.0], strict=True)]


@lru_cache(maxsize=2048)
def spans(radius: float, pupil: Pupil, field: tuple[float, float]) -> tuple[Array, Array]:
    """The pupil at |radius| px, turned by pi if negative, as nested rings: [rings, columns, 2],
    from where to where each column of px is covered, and [rings], what each adds; all sum to 1."""
    if radius == 0:
        return np.array([[[-0.5, 0.5]]], np.float32), np.ones(1, np.float32)
    light = np.array(ring_light(pupil))
    x = (np.arange((2 * reach(radius) + 1) * FINE) + 0.5) / FINE - reach(radius) - 0.5
    extent = np.empty((len(light), 2 * reach(radius) + 1, 2), np.float32)
    for ring in range(len(light)):
        size = radius * (ring + 1) / len(light)
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
    light /= (light * (extent[..., 1] - extent[..., 0]).sum(1)).sum()
    return extent, light.astype(np.float32)


def filter_of(extent: Array, weights: Array) -> Array:
    """The same pupil as a filter [rows, columns]."""
    y = np.arange(extent.shape[1]) - extent.shape[1] // 2
    covered = np.minimum(extent[..., 1:], y + 0.5) - np.maximum(extent[..., :1], y - 0.5)
    kernel = (weights[:, None, None] * np.maximum(covered, 0)).sum(0)
    return np.ascontiguousarray(kernel.T, np.float32)
