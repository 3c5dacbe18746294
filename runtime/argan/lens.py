"""The fast renderers: `light_field`, the paper's model, and `render`, the photograph.

Signs, units and pupil are those of `optics.py`; `render.py` has the slow reference.

How `render` works. The photo is cut into soft slices by blur radius. A slice holds its pixels'
colour times their share in it, and the share itself, its coverage; it is blurred as a whole by
the anti-aliased pupil of its radius. Slices with a radius up to 4.5 px are blurred at full size,
those up to 9 px at half size, up to 18 px at a quarter, and so on: the cost hardly depends on the
radius. From front to back each slice fills what those before it left clear: neighbouring parts of
one sloping surface then add up to exactly one, and something blurred in front lets through what
is behind it. What stays clear behind an outline was hidden in the photo: the blurred background
is divided by its coverage there, so that it takes no colour from the subject, and where it has
none at all, colours from around the hole fill it.
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

from argan.errors import InputError, ShapeError
from argan.optics import Aperture

Array = NDArray[np.float32]
Image = NDArray[Any]  # uint8, uint16 or float32

TILE = 512  # px, a multiple of 4: smaller tiles see too much twice, larger ones leave the cache
HALO = 12  # px a tile sees beyond itself: reach of a half-size slice (5) and of doubling (1), twice
SHARP = 0.1  # px: a smaller radius is no blur, the photo's own pixels are kept
NOTHING = 1e-3  # coverage below this adds less than one 8-bit level
EPSILON = 1e-6
SURE = 4  # a coverage of 1/4 is enough to take a hole's colour from its own neighbourhood
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


# Chosen on 9 of the 12 oracle scenes: closer slices or a finer size for each add less than 0.1 dB.
# Discs up to 4.5 px are 11x11 filters, the largest that OpenCV computes directly; the next size
# takes five times as long.
SLICES = {
    "final": Slices(fine=(1.0, 2.0, 3.0, 4.5), octave=(3.0, 3.6, 4.5)),
    "preview": Slices(fine=(1.0, 2.5), octave=(2.0, 2.5)),
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
    blades: int = 0,
    rotation: float = 0.0,
    quality: Literal["final", "preview"] = "final",
    threads: int | None = None,
) -> Image:
    """The photograph as a lens focused at disparity `focus` would have taken it.

    pixels     sRGB [H, W, 3], uint8, uint16 or float32; the result has the same type. 0..1 in
               float32, and above 1 where highlights are known beyond the photo's white.
    disparity  float32 [H, W], larger = nearer.
    blur       K: px of blur-disc radius per unit of disparity.
    blades     0 for a round pupil, 3 to 11 for a polygon with its corners on the disc's rim.
    rotation   of the polygon in radians, from right towards down.
    quality    "preview" has fewer slices.
    threads    all cores if None; the result does not depend on it.

    ShapeError where sizes don't fit, InputError for another type of photo or a disparity with
    NaN. OpenCV's own threads are off for the time of the call.
    """
    _check_render(pixels, disparity, focus, blur, blades)
    pupil = Aperture("polygon", 1, blades, rotation) if blades else Aperture("disc", 1)
    lens = _Lens(pupil, focus, blur, SLICES[quality], limit=max(disparity.shape))
    if float(np.abs(lens.extremes(disparity)).max()) < SHARP:
        return pixels.copy()
    # glibc: freeing a block of this size ends the habit of giving every tile's memory back
    np.empty(31 << 20, np.uint8)
    with _workers(threads) as pool:
        return _photograph(pixels, disparity, lens, pool)


def _check_render(pixels: Image, disparity: Array, focus: float, blur: float, blades: int) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ShapeError(f"photo {pixels.shape}: give [H, W, 3]")
    if disparity.shape != pixels.shape[:2]:
        raise ShapeError(f"disparity {disparity.shape} does not match photo {pixels.shape[:2]}")
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(f"photo of type {pixels.dtype}: give uint8, uint16 or float32")
    if not (math.isfinite(focus) and math.isfinite(blur)):
        raise InputError(f"focus {focus} and blur {blur}: give finite numbers")
    if blades and not 3 <= blades <= 11:
        raise InputError(f"a pupil with {blades} blades: give 3 to 11, or 0 for a round one")
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


def _tiles(shape: tuple[int, ...]) -> list[Box]:
    return [
        Box(y, min(y + TILE, shape[0]), x, min(x + TILE, shape[1]))
        for y in range(0, shape[0], TILE)
        for x in range(0, shape[1], TILE)
    ]


@dataclass(frozen=True)
class _Lens:
    pupil: Aperture
    focus: float
    blur: float
    slices: Slices
    limit: int  # px; a radius above the photo's size changes nothing that can be seen

    def radius(self, disparity: Array) -> Array:
        """D in px."""
        with np.errstate(over="ignore"):
            signed = (disparity - np.float32(self.focus)) * np.float32(self.blur)
        return np.asarray(np.clip(signed, -self.limit, self.limit), np.float32)

    def extremes(self, disparity: Array) -> Array:
        return self.radius(np.array([disparity.min(), disparity.max()], np.float32))


class _Far(NamedTuple):
    """What is too blurred for full size, at a quarter of it; None where there is nothing."""

    back: Array | None  # [4, h, w]: colour, also where nothing is seen of it, and coverage
    front: Array | None  # [4, h, w]: premultiplied colour and coverage
    hidden: Array | None  # [3, h, w]: the colours around what `front` hides


@dataclass(frozen=True)
class _Tile:
    """A piece of the photo with its halo."""

    pixels: Image
    D: Array  # [h, w], px
    box: Box

    @cached_property
    def photo(self) -> Array:
        """[4, h, w], linear, and coverage 1."""
        return _decode(self.pixels)

    @property
    def whole(self) -> Box:
        return self.box.seen_from(self.box)


def _photograph(pixels: Image, disparity: Array, lens: _Lens, pool: ThreadPoolExecutor) -> Image:
    far = _far(pixels, disparity, lens, pool)
    result = np.empty_like(pixels)

    def finish(box: Box) -> None:
        outer = box.grown(HALO, pixels.shape)
        rows, columns = box.seen_from(outer).at
        tile = _Tile(pixels[outer.at], lens.radius(disparity[outer.at]), outer)
        linear = _finished(tile, far, lens)
        if linear is None:
            result[box.at] = pixels[box.at]
        else:
            result[box.at] = _encode(linear[:, rows, columns], pixels.dtype)

    _run(finish, _tiles(pixels.shape), pool)
    return result


def _finished(tile: _Tile, far: _Far, lens: _Lens) -> Array | None:
    """Linear light [3, h, w], or None where the photo stays as it is."""
    spill = _spill(far.front, tile.box)
    if spill is None and float(np.abs(tile.D).max()) < SHARP:
        return None
    behind, *shares, before = _shares(tile.D, lens.slices.signed)
    total, clear = _empty(tile.D.shape)
    for r, share in reversed(list(zip(lens.slices.signed[1:-1], shares, strict=True))):
        if share is not None:
            _add(total, clear, tile.photo, share, r, lens.pupil)
    back = None
    if far.back is not None and float(clear.max()) > NOTHING:
        back = _back(tile, behind, far.back, lens)
    colour, coverage = np.split(_through(total, clear, back), [3])
    if before is not None and far.hidden is not None:
        hidden = (1 - coverage) * np.maximum(2 * before - 1, 0)
        colour += hidden * (_enlarged(far.hidden, 4, tile.box) - colour)
    if before is not None or spill is not None:
        front = _front(tile, before, spill, lens)
        colour *= 1 - front[3]
        colour += front[:3]
    return colour


def _back(tile: _Tile, share: Array | None, far: Array, lens: _Lens) -> Array:
    """All behind the full-size slices: colour and coverage [4, h, w]."""
    back = _enlarged(far, 2, tile.box.halved())
    if share is not None and -float(tile.D.max()) < 2 * lens.slices.reduced[-1]:
        layer, radius = _halved(_shared(tile.photo, share), -tile.D)
        total, clear = _empty(radius.shape)
        _add_octave(total, clear, layer, radius, -1, lens)
        back = _through(total, clear, back)
    return _enlarged(back, 2, tile.whole)


def _front(tile: _Tile, share: Array | None, spill: Array | None, lens: _Lens) -> Array:
    """All in front of the full-size slices: premultiplied colour and coverage [4, h, w]."""
    half = tile.box.halved()
    total = spill
    if total is None:
        total = np.zeros((4, half.y1 - half.y0, half.x1 - half.x0), np.float32)
    if share is not None:
        layer, radius = _halved(_shared(tile.photo, share), tile.D)
        _add_octave(total, 1 - total[3], layer, radius, 1, lens)
    return _enlarged(total, 2, tile.whole)


def _spill(front: Array | None, box: Box) -> Array | None:
    """What the far front lets fall on this tile, at half size."""
    if front is None:
        return None
    y, x = box.halved().halved().grown(1, front.shape[1:]).at
    if float(front[3, y, x].max()) < NOTHING:
        return None
    return _enlarged(front, 2, box.halved())


# ---- a quarter of the size and less: whole images


def _far(pixels: Image, disparity: Array, lens: _Lens, pool: ThreadPoolExecutor) -> _Far:
    farthest, nearest = lens.extremes(disparity)
    edge = lens.slices.fine[-1]
    quarter = tuple(-(-size // 4) for size in disparity.shape)
    # Premultiplied colour, coverage, and coverage times radius of each side; colour of all.
    behind = np.zeros((5, *quarter), np.float32) if farthest < -edge else None
    before = np.zeros((5, *quarter), np.float32) if nearest > edge else None
    everything = np.zeros((3, *quarter), np.float32) if nearest > edge else None

    def reduce(box: Box) -> None:
        D = lens.radius(disparity[box.at])
        stops = lens.slices.signed
        shares = _shares(D, [*stops[:2], *stops[-2:]])
        y, x = box.halved().halved().at
        photo = _decode(pixels[box.at])
        for target, share in ((behind, shares[0]), (before, shares[-1])):
            if target is not None and share is not None:
                layer = _shared(photo, share)
                target[:4, y, x] = _half(_half(layer), smooth=True)
                target[4, y, x] = _half(_half((share * np.abs(D))[None]), smooth=True)
        if everything is not None:
            everything[:, y, x] = _half(_half(photo[:3]), smooth=True)

    _run(reduce, _tiles(pixels.shape), pool)
    back = pool.submit(_far_back, behind, lens)
    front = pool.submit(_far_front, before, lens)
    hidden = pool.submit(_hidden, everything, before)
    return _Far(back.result(), front.result(), hidden.result())


def _far_back(sums: Array | None, lens: _Lens) -> Array | None:
    """Colour and coverage; where nothing far is seen, the colours of what is less far."""
    if sums is None:
        return None
    layer, share, radius = _beyond_half_size(sums, lens)
    result: Array = np.concatenate([_filled(sums[:4]), np.zeros_like(sums[3:4])])
    if share is not None:
        far = _smaller(layer * share, radius, -1, lens)
        result[:3] += np.minimum(SURE * far[3], 1) * (far[:3] - result[:3])
        result[3] = far[3]
    return result


def _far_front(sums: Array | None, lens: _Lens) -> Array | None:
    if sums is None:
        return None
    layer, share, radius = _beyond_half_size(sums, lens)
    return None if share is None else _smaller(layer * share, radius, 1, lens)


def _hidden(everything: Array | None, before: Array | None) -> Array | None:
    if everything is None or before is None:
        return None
    visible = np.concatenate([everything - before[:3], 1 - before[3:4]])
    return _filled(np.maximum(visible, 0))


def _beyond_half_size(sums: Array, lens: _Lens) -> tuple[Array, Array | None, Array]:
    """Premultiplied [4, h, w], the share of it too blurred for half size, radius in its own px."""
    radius = sums[4] / np.maximum(4 * sums[3], EPSILON)
    octave = lens.slices.octave
    return sums[:4], _shares(radius, [octave[-1] / 2, octave[0]])[1], radius


def _smaller(layer: Array, radius: Array, side: int, lens: _Lens) -> Array:
    """Slices of this size and all smaller ones: layer [4, h, w], radius [h, w] px of this size.

    In front (side 1): premultiplied colour and coverage. Behind (-1): colour and coverage, with
    colour also where the coverage is 0.
    """
    rest = _shares(radius, lens.slices.reduced)[-1]
    deeper = None
    if rest is not None and float((rest * layer[3]).max()) > NOTHING:
        half, half_radius = _halved(layer * rest, radius, smooth=True)
        deeper = _enlarged(_smaller(half, half_radius, side, lens), 2, _frame(layer))
    if side > 0:
        total = np.zeros_like(layer) if deeper is None else deeper
        _add_octave(total, 1 - total[3], layer, radius, side, lens)
        return total
    total, clear = _empty(radius.shape)
    _add_octave(total, clear, layer, radius, side, lens)
    if deeper is None:
        return np.concatenate([_filled(total), np.minimum(total[3:], 1)])
    return _through(total, clear, deeper)


def _frame(planes: Array) -> Box:
    return Box(0, planes.shape[1], 0, planes.shape[2])


# ---- slices


def _shares(radius: Array, stops: list[float]) -> list[Array | None]:
    """What part of a pixel belongs to the slice at each stop (rising, signed radii); sum 1.

    None where no pixel does. Linear in radius^2, the variance of a disc, so that a mixture of two
    neighbouring discs is as wide as the disc between them.
    """
    square = np.copysign(radius * radius, radius)
    lowest, highest = float(square.min()), float(square.max())
    edges = [math.copysign(r * r, r) for r in stops]
    shares: list[Array | None] = []
    here: Array | float = 1.0  # the part of the pixel at this stop or above
    for low, high in zip(edges, [*edges[1:], math.inf], strict=True):
        above: Array | float = 0.0
        if lowest >= high:
            above = 1.0
        elif highest > low and high < math.inf:
            ramp: Array = square - np.float32(low)
            ramp *= np.float32(1 / (high - low))
            above = np.clip(ramp, 0, 1, out=ramp)
        share = np.asarray(here - above, np.float32)
        shares.append(share if cv2.hasNonZero(np.atleast_2d(share)) else None)
        here = above
    return shares


def _shared(layer: Array, share: Array) -> Array:
    """A share of a layer; a share of all is a number and costs nothing."""
    return layer if share.ndim == 0 else layer * share


def _empty(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """A picture with nothing in it yet [4, h, w], and what is clear of it."""
    return np.zeros((4, *shape), np.float32), np.ones(shape, np.float32)


def _add_octave(
    total: Array, clear: Array, layer: Array, radius: Array, side: int, lens: _Lens
) -> None:
    """Adds the slices of one smaller size, the nearest first; radius in px of this size."""
    radii = lens.slices.reduced
    parts = list(zip(radii, _shares(radius, radii), strict=True))[:-1]
    for r, share in parts[::-side]:
        if share is not None:
            softened = math.copysign(math.sqrt(r * r - SOFTENING), side)
            _add(total, clear, layer, share, softened, lens.pupil)


def _add(
    total: Array, clear: Array, layer: Array, share: Array, radius: float, pupil: Aperture
) -> None:
    """Adds to `total` what it leaves clear of the slice behind it: that share of a layer
    [4, h, w], blurred. Only where there is any of it."""
    y, x = _around(share, layer.shape[1:], math.ceil(abs(radius) + 0.5)).at
    part = share if share.ndim == 0 else share[y, x]
    piece = _blurred(layer[:, y, x] * part, radius, pupil)
    free = clear[y, x]
    seen = np.minimum(piece[3], free)
    free -= seen
    seen /= np.maximum(piece[3], EPSILON)
    piece *= seen
    total[:, y, x] += piece


def _around(share: Array, shape: tuple[int, ...], reach: int) -> Box:
    """The rectangle that a share of a picture takes up once it is blurred."""
    if share.ndim == 0:
        return Box(0, shape[0], 0, shape[1])
    y, x = np.flatnonzero(share.max(axis=1)), np.flatnonzero(share.max(axis=0))
    taken = Box(int(y[0]), int(y[-1]) + 1, int(x[0]), int(x[-1]) + 1)
    return taken.grown(reach, shape)


def _through(front: Array, clear: Array, back: Array | None) -> Array:
    """`back` seen through the clear part of `front` (premultiplied) -> colour and coverage.

    What the back covers fills the clear part; as much again counts as hidden and looks alike. Of
    what then remains clear nothing is known: the colours found so far are all there is to see.
    """
    if back is None:
        return np.concatenate([front[:3] / np.maximum(front[3], EPSILON), front[3:]])
    if not cv2.hasNonZero(front[3]):
        return back
    seen = np.maximum(np.minimum(clear, SURE * back[3]), NOTHING * clear)
    result: Array = back * seen
    result[:3] += front[:3]
    result[:3] /= np.maximum(front[3] + seen, EPSILON)
    np.minimum(front[3] + back[3], 1, out=result[3])
    return result


def _blurred(layer: Array, radius: float, pupil: Aperture) -> Array:
    """The layer itself, changed."""
    if radius:
        kernel = _kernel(radius, pupil)
        for plane in layer:
            cv2.filter2D(plane, -1, kernel, dst=plane, borderType=cv2.BORDER_REPLICATE)
    return layer


@lru_cache(maxsize=64)
def _kernel(radius: float, pupil: Aperture) -> Array:
    """The pupil as a filter with a rim at |radius| px, anti-aliased; turned by pi if negative."""
    reach = math.ceil(abs(radius) + 0.5)
    fine = 8  # sub-pixels a side: coverage to 1/64
    steps = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    x, y = np.meshgrid(steps, steps)
    if pupil.shape == "polygon":
        x, y = math.copysign(1, radius) * x, math.copysign(1, radius) * y
        sides = [pupil.rotation + (i + 0.5) * math.tau / pupil.blades for i in range(pupil.blades)]
        distance = np.max([x * math.cos(a) + y * math.sin(a) for a in sides], axis=0)
        inside = distance <= abs(radius) * pupil.rim(sides[0])
    else:
        inside = np.hypot(x, y) <= abs(radius)
    coverage = inside.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean((1, 3))
    return np.asarray(coverage / coverage.sum(), np.float32)


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


def _filled(layer: Array) -> Array:
    """Premultiplied [4, h, w] -> colour [3, h, w]; holes take the colours around them."""
    if max(layer.shape[1:]) == 1:
        around = layer[:3] / np.maximum(layer[3], EPSILON)
    else:
        around = _enlarged(_filled(_half(layer)), 2, _frame(layer))
    colour = layer[:3] / np.maximum(layer[3], EPSILON)
    return np.asarray(around + np.minimum(SURE * layer[3], 1) * (colour - around), np.float32)


# ---- light


def _decode(pixels: Image) -> Array:
    """sRGB [h, w, 3] -> linear, and coverage 1: [4, h, w]."""
    linear = np.ones((4, *pixels.shape[:2]), np.float32)
    for source, target in zip(cv2.split(pixels), linear[:3], strict=True):
        if pixels.dtype == np.float32:
            target[:] = _linear(np.maximum(source, 0))
        else:
            cv2.LUT(source, _decoding(256 if pixels.dtype == np.uint8 else 65536), dst=target)
    return linear


def _encode(linear: Array, dtype: np.dtype[Any]) -> Image:
    """Linear [3, h, w] -> sRGB [h, w, 3]."""
    light = np.asarray(cv2.merge(list(linear)), np.float32)
    if dtype == np.float32:
        return _srgb(light)
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
