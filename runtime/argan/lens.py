"""The fast renderers: `light_field`, the paper's model, and `render`, the photograph.

Signs, units and pupil are those of `optics.py`; `render.py` has the slow reference.

How `render` works. Every pixel belongs to two slices, those whose blur radii lie around its own.
A slice is blurred as a whole by the pupil of its radius and laid behind the slices in front of it;
`slices.py` says how much it covers, and why a blurred background takes no colour from the subject.
Slices with a radius up to 11 px are blurred at full size, those up to 22 px at half size, up to
44 px at a quarter, and so on: the cost hardly depends on the radius. What no slice covers was
hidden behind something blurred: colours of the farthest surface around fill it.
The full-size work is done in tiles that fit in the cache; whole images are kept only at a quarter
of the size and less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from argan import slices
from argan.errors import InputError, ShapeError
from argan.highlights import Recovery, recovery
from argan.optics import ROUND, Aperture, Pupil

Array = NDArray[np.float32]
Image = NDArray[Any]  # uint8, uint16 or float32

TILE = 512  # px, a multiple of 4: smaller tiles see too much twice, larger ones leave the cache
EVEN = 1 / 40  # of the diagonal: the pupil counts as the same there
HALO = 28  # px a tile sees beyond itself: reach of a half-size slice (12) and of doubling, twice
SHARP = 0.1  # px: a smaller radius is no blur, the photo's own pixels are kept
NOTHING = 1e-3  # coverage below this adds less than one 8-bit level
EPSILON = 1e-6
HIDES = 1.0  # px of radius: surfaces farther apart hide each other
SOFTENING = 1.5  # px^2: halving and doubling widen a disc as much; taken off the squared radius
TENT = np.array([1, 2, 1], np.float32) / 4


@dataclass(frozen=True)
class Slices:
    """Radii of the slices: px of full size, and px of any smaller size (each octave alike)."""

    fine: tuple[float, ...]
    octave: tuple[float, ...]

    @property
    def signed(self) -> list[float]:
        """Those of full size, back to front; the outermost two stand for all smaller sizes."""
        side = [*self.fine, 2 * self.octave[0]]
        return [*(-r for r in reversed(side)), 0.0, *side]

    @property
    def reduced(self) -> list[float]:
        """Those of one smaller size; the last stands for all that are smaller still."""
        return [*self.octave, 2 * self.octave[0]]


# Chosen on 8 of the 12 oracle scenes.
SLICES = {
    "final": Slices(
        fine=(0.7, 1.4, 2.2, 3.0, 3.8, 4.6, 5.4, 6.2, 7.1, 8.0, 9.0, 10.0, 11.0),
        octave=(6.0, 6.8, 7.6, 8.6, 9.7, 11.0),
    ),
    "preview": Slices(fine=(1.0, 2.0, 3.2), octave=(2.0, 2.5, 3.2)),
}


class Box(NamedTuple):
    """Rows y0 to y1 and columns x0 to x1 of an image."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def at(self) -> tuple[slice, slice]:
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def grown(self, by: int, shape: tuple[int, ...]) -> Box:
        return Box(
            max(self.y0 - by, 0),
            min(self.y1 + by, shape[0]),
            max(self.x0 - by, 0),
            min(self.x1 + by, shape[1]),
        )

    def halved(self) -> Box:
        return Box(*(-(-edge // 2) for edge in self))

    def seen_from(self, outer: Box) -> Box:
        y, x = outer.y0, outer.x0
        return Box(self.y0 - y, self.y1 - y, self.x0 - x, self.x1 - x)


# ---------------------------------------------------------------- the paper's model


def light_field_views(
    image: Array, disparity: Array, aperture: Aperture, threads: int | None = None
) -> Array:
    """L(x, u) = I(x + u M(x, u)): image [H, W, C], C <= 4, disparity px [H, W] or [V, H, W]
    (one map per view) -> [V, H, W, C].

    ShapeError where the sizes don't fit, InputError where a disparity is not finite.
    """
    maps, samples = _light_field_maps(image, disparity, aperture)
    views = np.empty((len(samples), *image.shape), np.float32)

    def strip(box: Box) -> None:
        for i, view in enumerate(_strip_views(image, maps, samples, box)):
            views[i, box.y0 : box.y1] = view[..., : image.shape[2]]

    with _workers(threads) as pool:
        _run(strip, _strips(image.shape), pool)
    return views


def light_field(
    image: Array, disparity: Array, aperture: Aperture, threads: int | None = None
) -> Array:
    """The weighted mean of the views: image [H, W, C], C <= 4, disparity px [H, W] or [V, H, W]
    -> [H, W, C].

    ShapeError where the sizes don't fit, InputError where a disparity is not finite.
    """
    maps, samples = _light_field_maps(image, disparity, aperture)
    mean = np.empty(image.shape, np.float32)

    def strip(box: Box) -> None:
        total = np.zeros((box.y1 - box.y0, image.shape[1], 4), np.float32)
        views = _strip_views(image, maps, samples, box)
        for view, (_, _, weight) in zip(views, samples, strict=True):
            cv2.scaleAdd(view, weight, total, total)
        mean[box.y0 : box.y1] = total[..., : image.shape[2]]

    with _workers(threads) as pool:
        _run(strip, _strips(image.shape), pool)
    return mean


def _light_field_maps(
    image: Array, disparity: Array, aperture: Aperture
) -> tuple[Array, list[tuple[float, float, float]]]:
    samples = aperture.samples()
    if image.ndim != 3 or not 1 <= image.shape[2] <= 4:
        raise ShapeError(f"image {image.shape}: give [H, W, C] with 1 to 4 channels")
    if disparity.shape[-2:] != image.shape[:2] or disparity.shape[:-2] not in ((), (len(samples),)):
        raise ShapeError(
            f"disparity {disparity.shape} does not match image {image.shape[:2]}"
            f" (one map, or one for each of {len(samples)} views)"
        )
    _check_finite("disparity", disparity)
    return np.broadcast_to(disparity, (len(samples), *image.shape[:2])), samples


def _strips(shape: tuple[int, ...]) -> list[Box]:
    rows = 64  # a strip of a 4000 px wide view with 4 channels takes 4 MB
    height, width = shape[:2]
    return [Box(y, min(y + rows, height), 0, width) for y in range(0, height, rows)]


def _strip_views(
    image: Array, maps: Array, samples: list[tuple[float, float, float]], box: Box
) -> Iterator[Array]:
    """One strip of every view, [rows, W, 4]."""
    height, width = image.shape[:2]
    rows = slice(box.y0, box.y1)
    distinct = maps[:1, rows] if maps.strides[0] == 0 else maps[:, rows]  # one map for all views?
    reach = max(abs(v) for _, v, _ in samples) * float(np.abs(distinct).max())
    seen = box.grown(math.ceil(min(reach, height)) + 1, image.shape[:2])
    # remap takes 4 channels in half the time of 3; the spare ones stay 0
    source = np.zeros((seen.y1 - seen.y0, width, 4), np.float32)
    source[..., : image.shape[2]] = image[seen.y0 : seen.y1]
    across = np.arange(width, dtype=np.float32)
    down = np.arange(box.y0, box.y1, dtype=np.float32)[:, None]
    for disparity, (u, v, _) in zip(maps[:, rows], samples, strict=True):
        x = np.clip(across + np.float32(u) * disparity, 0, width - 1, dtype=np.float32)
        y = np.clip(down + np.float32(v) * disparity, 0, height - 1, dtype=np.float32) - seen.y0
        view = cv2.remap(source, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        yield np.asarray(view, np.float32)


# ---------------------------------------------------------------- the photograph


def render(
    pixels: Image,
    disparity: Array,
    *,
    focus: float,
    blur: float,
    pupil: Pupil = ROUND,
    highlights: float = 1.0,
    quality: Literal["final", "preview"] = "final",
    threads: int | None = None,
) -> Image:
    """The photograph as a lens focused at disparity `focus` would have taken it.

    pixels     sRGB [H, W, 3], uint8, uint16 or float32; the result has the same type. 0..1 in
               float32, and above 1 where highlights are known beyond the photo's white.
    disparity  float32 [H, W], larger = nearer.
    blur       K: px of blur-disc radius per unit of disparity.
    pupil      shape and light of the blur discs; round and even if not given.
    highlights how much of what is guessed of clipped light is added: see `highlights`. 0: nothing.
    quality    "preview" has fewer slices.
    threads    all cores if None; the result does not depend on it.

    ShapeError where sizes don't fit, InputError for another type of photo or a disparity with
    NaN. OpenCV's own threads are off for the time of the call.
    """
    _check_render(pixels, disparity, focus, blur, highlights)
    lens = _Lens(pupil, focus, blur, SLICES[quality], disparity.shape)
    if float(np.abs(lens.extremes(disparity)).max()) < SHARP:
        return pixels.copy()
    # glibc: freeing a block of this size ends the habit of giving every tile's memory back
    np.empty(31 << 20, np.uint8)
    with _workers(threads) as pool:
        return _photograph(pixels, disparity, lens, recovery(pixels, _decode, highlights), pool)


def _check_render(
    pixels: Image, disparity: Array, focus: float, blur: float, highlights: float
) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ShapeError(f"photo {pixels.shape}: give [H, W, 3]")
    if disparity.shape != pixels.shape[:2]:
        raise ShapeError(f"disparity {disparity.shape} does not match photo {pixels.shape[:2]}")
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(f"photo of type {pixels.dtype}: give uint8, uint16 or float32")
    if not (math.isfinite(focus) and math.isfinite(blur)):
        raise InputError(f"focus {focus} and blur {blur}: give finite numbers")
    if not 0 <= highlights < math.inf:
        raise InputError(f"highlights {highlights}: give 0 or more")
    _check_finite("disparity", disparity)
    if pixels.dtype == np.float32:
        _check_finite("photo", pixels)


def _check_finite(name: str, values: Array) -> None:
    # A sum is finite only if all of its terms are: no array of flags. float64 can't overflow here.
    if not math.isfinite(float(np.sum(values, dtype=np.float64))):
        raise InputError(f"the {name} has NaN or infinite values; fill them first")


@contextmanager
def _workers(threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """A pool for tiles, and no threads of OpenCV's own inside each tile."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with ThreadPoolExecutor(threads or cv2.getNumberOfCPUs()) as pool:
            yield pool
    finally:
        cv2.setNumThreads(before)


def _run(work: Callable[[Box], None], boxes: list[Box], pool: ThreadPoolExecutor) -> None:
    for _ in pool.map(work, boxes):
        pass


def _tiles(shape: tuple[int, ...], side: int = TILE) -> list[Box]:
    return [
        Box(y, min(y + side, shape[0]), x, min(x + side, shape[1]))
        for y in range(0, shape[0], side)
        for x in range(0, shape[1], side)
    ]


def _even_block(shape: tuple[int, ...]) -> int:
    """Side of a tile in which the pupil counts as one and the same, a multiple of 4."""
    return max(16, 4 * round(EVEN * math.hypot(*shape[:2]) / 4))


@dataclass(frozen=True)
class _Lens:
    pupil: Pupil
    focus: float
    blur: float
    slices: Slices
    shape: tuple[int, ...]  # of the photo

    def field(self, box: Box, shape: tuple[int, ...] | None = None) -> tuple[float, float]:
        """Where a part of the photo, or of a smaller one of that shape, lies: from the middle, in
        half diagonals; 0 where the pupil is the same everywhere."""
        if not self.pupil.cat_eye:
            return 0.0, 0.0
        height, width = shape or self.shape
        diagonal = math.hypot(height, width)
        return (box.x0 + box.x1 - width) / diagonal, (box.y0 + box.y1 - height) / diagonal

    def radius(self, disparity: Array) -> Array:
        """D in px; a radius above the photo's size changes nothing that can be seen."""
        limit = max(self.shape)
        with np.errstate(over="ignore"):
            signed = (disparity - np.float32(self.focus)) * np.float32(self.blur)
        return np.asarray(np.clip(signed, -limit, limit), np.float32)

    def extremes(self, disparity: Array) -> Array:
        return self.radius(np.array([disparity.min(), disparity.max()], np.float32))


class _Far(NamedTuple):
    """What is too blurred for half size, at a quarter of it; None where there is nothing."""

    back: Array | None  # [4, h, w]: premultiplied colour, and what is clear of it
    front: Array | None  # [4, h, w]: the same
    hidden: Array | None  # [3, h, w]: colours of the farthest surface around each place


@dataclass(frozen=True)
class _Tile:
    """A piece of the photo with its halo."""

    pixels: Image
    D: Array  # [h, w], px
    box: Box
    recovery: Recovery | None

    @cached_property
    def photo(self) -> Array:
        """[4, h, w], linear, and coverage 1."""
        return _decode(self.pixels, self.box, self.recovery)

    @cached_property
    def square(self) -> Array:
        """The squared radius with the radius' sign."""
        return np.asarray(self.D * np.abs(self.D), np.float32)

    @property
    def whole(self) -> Box:
        return self.box.seen_from(self.box)


def _photograph(
    pixels: Image,
    disparity: Array,
    lens: _Lens,
    recovery: Recovery | None,
    pool: ThreadPoolExecutor,
) -> Image:
    far = _far(pixels, disparity, lens, recovery, pool)
    result = np.empty_like(pixels)

    def finish(box: Box) -> None:
        outer = box.grown(HALO, pixels.shape)
        rows, columns = box.seen_from(outer).at
        tile = _Tile(pixels[outer.at], lens.radius(disparity[outer.at]), outer, recovery)
        linear = _finished(tile, far, lens)
        if linear is None:
            result[box.at] = pixels[box.at]
        else:
            result[box.at] = _encode(linear[:, rows, columns], pixels.dtype)

    _run(
        finish,
        _tiles(pixels.shape, _even_block(pixels.shape) if lens.pupil.cat_eye else TILE),
        pool,
    )
    return result


def _finished(tile: _Tile, far: _Far, lens: _Lens) -> Array | None:
    """Linear light [3, h, w], or None where the photo stays as it is."""
    spill = _spill(far.front, tile.box)
    if spill is None and float(np.abs(tile.D).max()) < SHARP:
        return None
    stops = lens.slices.signed
    nearest, farthest = float(tile.D.max()), float(tile.D.min())
    total = None
    if spill is not None or nearest > stops[-2]:
        total = _enlarged(_front(tile, spill, lens), 2, tile.whole)
    if total is None:
        total = _nothing(tile.D.shape)
    field = lens.field(tile.box)
    for i in range(len(stops) - 2, 0, -1):
        if stops[i - 1] < nearest and farthest < stops[i + 1]:
            slices.add(total, tile.photo, tile.square, stops, i, stops[i], lens.pupil, field)
    colour, clear = total[:3], total[3]
    if far.back is not None and float(clear.max()) > NOTHING:
        back = _back(tile, far.back, lens)
        colour += clear * back[:3]
        clear *= back[3]
    if float(clear.max()) > NOTHING:
        if far.hidden is not None:
            colour += clear * _enlarged(far.hidden, 4, tile.box)
        else:
            colour /= np.maximum(1 - clear, EPSILON)
    return colour


def _back(tile: _Tile, far: Array, lens: _Lens) -> Array:
    """All behind the full-size slices: premultiplied colour and what is clear."""
    stops = lens.slices.signed
    if float(tile.D.min()) >= stops[1] or -float(tile.D.max()) >= 2 * lens.slices.reduced[-1]:
        return _enlarged(far, 4, tile.box)
    share = 1 - slices.ramp(tile.square, *_squares(stops[:2]))
    layer, radius = _halved(tile.photo * share, -tile.D)
    total = _octave(_nothing(radius.shape), layer, radius, -1, lens, lens.field(tile.box))
    return _enlarged(_under(total, _enlarged(far, 2, tile.box.halved())), 2, tile.whole)


def _front(tile: _Tile, spill: Array | None, lens: _Lens) -> Array:
    """All in front of the full-size slices, at half size: premultiplied colour and what is
    clear."""
    half = tile.box.halved()
    total = spill
    if total is None:
        total = _nothing((half.y1 - half.y0, half.x1 - half.x0))
    stops = lens.slices.signed
    if float(tile.D.max()) > stops[-2] and float(tile.D.min()) < 2 * lens.slices.reduced[-1]:
        share = slices.ramp(tile.square, *_squares(stops[-2:]))
        layer, radius = _halved(tile.photo * share, tile.D)
        _octave(total, layer, radius, 1, lens, lens.field(tile.box))
    return total


def _spill(front: Array | None, box: Box) -> Array | None:
    """What the far front lets fall on this tile, at half size."""
    if front is None:
        return None
    y, x = box.halved().halved().grown(1, front.shape[1:]).at
    if float(front[3, y, x].min()) > 1 - NOTHING:
        return None
    return _enlarged(front, 2, box.halved())


# ---- a quarter of the size and less: whole images


def _far(
    pixels: Image,
    disparity: Array,
    lens: _Lens,
    recovery: Recovery | None,
    pool: ThreadPoolExecutor,
) -> _Far:
    farthest, nearest = lens.extremes(disparity)
    stops = lens.slices.signed
    quarter = tuple(-(-size // 4) for size in disparity.shape)
    # Premultiplied colour, coverage, and coverage times radius of each side; colour and radius of
    # all.
    behind = np.zeros((5, *quarter), np.float32) if farthest < stops[1] else None
    before = np.zeros((5, *quarter), np.float32) if nearest > stops[-2] else None
    everything = np.zeros((4, *quarter), np.float32) if nearest > HIDES else None

    def reduce(box: Box) -> None:
        D = lens.radius(disparity[box.at])
        y, x = box.halved().halved().at
        photo = _decode(pixels[box.at], box, recovery)
        lowest, highest = float(D.min()), float(D.max())
        whole = None
        if everything is not None or highest <= stops[0] or lowest >= stops[-1]:
            whole = _quartered(photo, D)
        if everything is not None and whole is not None:
            everything[:3, y, x], everything[3, y, x] = whole[:3], whole[4]
        for layer, some, every, sign in (
            (behind, lowest < stops[1], highest <= stops[0], -1),
            (before, highest > stops[-2], lowest >= stops[-1], 1),
        ):
            if layer is not None and every and whole is not None:
                layer[:4, y, x], layer[4, y, x] = whole[:4], sign * whole[4]
            elif layer is not None and some:
                share = slices.ramp(D * np.abs(D), *_squares(stops[:2] if sign < 0 else stops[-2:]))
                share = 1 - share if sign < 0 else share
                layer[:, y, x] = _quartered(photo * share, sign * share * D)

    _run(reduce, _tiles(pixels.shape), pool)
    back = pool.submit(_far_side, behind, -1, lens)
    front = pool.submit(_far_side, before, 1, lens)
    hidden = pool.submit(_hidden, everything)
    return _Far(back.result(), front.result(), hidden.result())


def _quartered(planes: Array, radius: Array) -> Array:
    stacked = np.concatenate([planes, radius[None]])
    return _half(_half(stacked), smooth=True)


def _far_side(sums: Array | None, side: int, lens: _Lens) -> Array | None:
    """All slices of one side that are blurred at a quarter of the size and less."""
    if sums is None:
        return None
    radius = sums[4] / np.maximum(4 * sums[3], EPSILON)
    octave = lens.slices.octave
    share = slices.ramp(radius * radius, *_squares([octave[-1] / 2, octave[0]]))
    layer = sums[:4] * share
    if float(layer[3].max()) <= NOTHING:
        return _nothing(radius.shape) if side < 0 else None
    return _smaller(layer, radius, side, lens)


def _smaller(layer: Array, radius: Array, side: int, lens: _Lens) -> Array:
    """Slices of this size and all smaller ones, those in front (side 1) or behind (-1): layer
    [4, h, w], radius [h, w] px of this size -> premultiplied colour, and what is clear."""
    share = slices.ramp(radius * radius, *_squares(lens.slices.reduced[-2:]))
    rest = np.asarray(layer * share, np.float32)
    deeper = None
    if float(rest[3].max()) > NOTHING:
        half, half_radius = _halved(rest, radius, smooth=True)
        deeper = _enlarged(_smaller(half, half_radius, side, lens), 2, _frame(layer))
    if side > 0 and deeper is not None:
        return _whole_octave(deeper, layer, radius, side, lens)
    total = _whole_octave(_nothing(radius.shape), layer, radius, side, lens)
    return total if deeper is None else _under(total, deeper)


def _hidden(sums: Array | None) -> Array | None:
    """Colours of the farthest surface near each place; sums [4, h, w]: colour, radius."""
    if sums is None:
        return None
    return _farthest(sums, float(np.abs(sums[3]).max()))[:3]


def _farthest(planes: Array, reach: float) -> Array:
    """The farthest surface within `reach` px of each place, smoothed: [4, h, w] colour, radius."""
    if reach <= 1 or max(planes.shape[1:]) == 1:
        return planes
    height, width = planes.shape[1:]
    even = np.pad(planes, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    four = [even[:, y::2, x::2] for y in (0, 1) for x in (0, 1)]
    lowest = np.minimum(np.minimum(four[0][3], four[1][3]), np.minimum(four[2][3], four[3][3]))
    weights = [np.clip(2 - (child[3] - lowest) / HIDES, EPSILON, 1) for child in four]
    mean = sum(w * child for w, child in zip(weights, four, strict=True)) / sum(weights)
    around = _enlarged(_farthest(np.asarray(mean, np.float32), reach / 2), 2, _frame(planes))
    own = np.clip(2 - (planes[3] - around[3]) / HIDES, 0, 1)
    return np.asarray(around + own * (planes - around), np.float32)


def _frame(planes: Array) -> Box:
    return Box(0, planes.shape[1], 0, planes.shape[2])


# ---- slices


def _squares(stops: list[float]) -> list[float]:
    return [math.copysign(r * r, r) for r in stops]


def _nothing(shape: tuple[int, ...]) -> Array:
    """A picture with nothing in it yet, all of it clear: [4, h, w]."""
    total = np.zeros((4, *shape), np.float32)
    total[3] = 1
    return total


def _under(total: Array, deeper: Array) -> Array:
    """`deeper` seen through what is clear of `total`, which changes."""
    total[:3] += total[3] * deeper[:3]
    total[3] *= deeper[3]
    return total


def _octave(
    total: Array,
    layer: Array,
    radius: Array,
    side: int,
    lens: _Lens,
    field: tuple[float, float],
) -> Array:
    """Lays the slices of one smaller size behind `total`, the nearest first; radius in px of this
    size."""
    radii = lens.slices.reduced
    stops = radii if side > 0 else [-r for r in reversed(radii)]
    square = np.asarray(side * radius * radius, np.float32)
    layer = np.ascontiguousarray(layer, np.float32)
    for i in reversed(range(len(stops))):
        if abs(stops[i]) != radii[-1]:
            softened = math.copysign(math.sqrt(stops[i] ** 2 - SOFTENING), side)
            slices.add(total, layer, square, stops, i, softened, lens.pupil, field, side > 0)
    return total


def _whole_octave(total: Array, layer: Array, radius: Array, side: int, lens: _Lens) -> Array:
    """`_octave` for the whole photo, where the pupil may change from place to place."""
    shape = radius.shape
    if not lens.pupil.cat_eye:
        return _octave(total, layer, radius, side, lens, (0.0, 0.0))
    result = np.empty_like(total)
    for box in _tiles(shape, _even_block(shape)):
        outer = box.grown(math.ceil(lens.slices.reduced[-1]) + 1, shape)
        (y, x), (rows, columns) = outer.at, box.seen_from(outer).at
        part = total[:, y, x].copy()
        _octave(part, layer[:, y, x], radius[y, x], side, lens, lens.field(box, shape))
        result[:, box.at[0], box.at[1]] = part[:, rows, columns]
    return result


# ---- sizes


def _half(planes: Array, smooth: bool = False) -> Array:
    """[n, h, w] -> [n, ceil(h / 2), ceil(w / 2)]: means of 2x2.

    With `smooth`, means weighted 1 3 3 1: a light then keeps its place between the large pixels.
    """
    height, width = planes.shape[1:]
    if smooth and height > 2 and width > 2:
        planes = np.stack(
            [cv2.sepFilter2D(p, -1, TENT, TENT, borderType=cv2.BORDER_REPLICATE) for p in planes]
        )
    if height % 2 or width % 2:
        planes = np.pad(planes, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    size = ((width + 1) // 2, (height + 1) // 2)
    result = np.empty((len(planes), size[1], size[0]), np.float32)
    for source, target in zip(planes, result, strict=True):
        cv2.resize(source, size, dst=target, interpolation=cv2.INTER_AREA)
    return result


def _halved(layer: Array, radius: Array, smooth: bool = False) -> tuple[Array, Array]:
    """A premultiplied layer and the mean radius of what it covers, both at half size."""
    half = _half(layer, smooth)
    weighted = _half((layer[3] * radius)[None], smooth)[0]
    return half, weighted / np.maximum(2 * half[3], EPSILON)


def _enlarged(planes: Array, factor: int, box: Box) -> Array:
    """The part at `box` of planes enlarged by 2 or 4, bilinear: [n, h, w]."""
    height, width = planes.shape[1:]
    y0, y1 = max(box.y0 // factor - 1, 0), min(-(-box.y1 // factor) + 1, height)
    x0, x1 = max(box.x0 // factor - 1, 0), min(-(-box.x1 // factor) + 1, width)
    size = (factor * (x1 - x0), factor * (y1 - y0))
    y, x = box.y0 - factor * y0, box.x0 - factor * x0
    result = np.empty((len(planes), box.y1 - box.y0, box.x1 - box.x0), np.float32)
    for source, target in zip(planes[:, y0:y1, x0:x1], result, strict=True):
        large = cv2.resize(source, size, interpolation=cv2.INTER_LINEAR)
        target[:] = large[y : y + target.shape[0], x : x + target.shape[1]]
    return result


# ---- light


def _decode(pixels: Image, box: Box | None = None, recovery: Recovery | None = None) -> Array:
    """sRGB [h, w, 3] -> linear, and coverage 1: [4, h, w]; the photo's part at `box`, with what was
    clipped there."""
    linear = np.ones((4, *pixels.shape[:2]), np.float32)
    for source, target in zip(cv2.split(pixels), linear[:3], strict=True):
        if pixels.dtype == np.float32:
            target[:] = _linear(np.maximum(source, 0))
        else:
            cv2.LUT(source, _decoding(256 if pixels.dtype == np.uint8 else 65536), dst=target)
    if recovery is not None and box is not None:
        recovery.apply(linear, pixels, box.y0, box.x0)
    return linear


def _encode(linear: Array, dtype: np.dtype[Any]) -> Image:
    """Linear [3, h, w] -> sRGB [h, w, 3]."""
    light = np.asarray(cv2.merge(list(linear)), np.float32)
    if dtype == np.float32:
        return _srgb(np.maximum(light, 0))
    np.clip(light, 0, 1, out=light)
    if dtype == np.uint16:
        return np.round(_srgb(light) * 65535).astype(np.uint16)
    light *= 65535  # 1/20 of an 8-bit level in the shadows, where the curve is steepest
    return np.asarray(cv2.LUT(light.astype(np.uint16), _encoding()))


@lru_cache
def _decoding(levels: int) -> Array:
    return _linear(np.arange(levels, dtype=np.float32) / np.float32(levels - 1))


@lru_cache
def _encoding() -> NDArray[np.uint8]:
    middles = (np.arange(65536, dtype=np.float32) + np.float32(0.5)) / np.float32(65535)
    return np.round(255 * np.minimum(_srgb(middles), 1)).astype(np.uint8)


def _linear(srgb: Array) -> Array:
    """IEC 61966-2-1."""
    power = ((srgb + 0.055) / 1.055) ** 2.4
    return np.where(srgb <= 0.04045, srgb / 12.92, power).astype(np.float32)


def _srgb(linear: Array) -> Array:
    power = 1.055 * linear ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, linear * 12.92, power).astype(np.float32)
