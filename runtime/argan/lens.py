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

import ctypes
import math
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from argan import highlights as clipped
from argan import native, planes, slices
from argan.errors import InputError, ShapeError
from argan.optics import ROUND, Aperture, Pupil
from argan.planes import EPSILON, Box, frame

Array = NDArray[np.float32]
Image = NDArray[Any]  # uint8, uint16 or float32

TILE = 512  # px, a multiple of 4: smaller tiles see too much twice, larger ones leave the cache
TILES = 8  # a photo has at least: threads then end at about the same time
BAND = 64  # rows of a smaller size that one thread takes at a time
EVEN = 1 / 40  # of the diagonal: the pupil counts as the same there
SHARP = 0.1  # px: a smaller radius is no blur, the photo's own pixels are kept
NOTHING = 1e-3  # coverage below this adds less than one 8-bit level
HIDES = 1.0  # px of radius: surfaces farther apart hide each other
SLOPING = 0.05  # px of radius per px: what slopes less, such as a wall, does not hide itself
SOFTENING = 1.5  # px^2: halving and doubling widen a disc as much; taken off the squared radius
ROWS = 256  # of a strip, at least, and a multiple: smaller sizes see the same px in each, nearly
STRIPS = (1024, 512, ROWS)  # rows
PROCESS_BYTES = 100 << 20  # of Python, its libraries and a network
TILE_BYTES = 24 << 20  # that a thread needs
PIXEL_BYTES = 7  # that all smaller sizes need for a pixel of a strip
SURROUNDINGS = {"final": clipped.WIDTH, "preview": clipped.WIDTH // 4}  # see `highlights`


@dataclass(frozen=True)
class Slices:
    """Radii of the slices: px of full size, and px of any smaller size (each octave alike)."""

    fine: tuple[float, ...]
    octave: tuple[float, ...]

    @property
    def signed(self) -> tuple[float, ...]:
        """Those of full size, back to front; the outermost two stand for all smaller sizes."""
        side = (*self.fine, 2 * self.octave[0])
        return (*(-r for r in reversed(side)), 0.0, *side)

    @property
    def reduced(self) -> tuple[float, ...]:
        """Those of one smaller size; the last stands for all that are smaller still."""
        return (*self.octave, 2 * self.octave[0])

    @property
    def halo(self) -> int:
        """px a tile sees beyond itself: reach of a half-size slice and of doubling, twice."""
        return 4 * math.ceil((self.octave[-1] + 2.5) / 2)


# Chosen on 8 of the 12 oracle scenes.
SLICES = {
    "final": Slices(
        fine=(0.7, 1.4, 2.2, 3.0, 3.8, 4.6, 5.4, 6.2, 7.1, 8.0, 9.0, 10.0, 11.0),
        octave=(6.0, 6.8, 7.6, 8.6, 9.7, 11.0),
    ),
    "preview": Slices(fine=(1.0, 2.0, 3.2), octave=(2.0, 2.5, 3.2)),
}


# ---------------------------------------------------------------- the paper's model

Sample = tuple[float, float, float]  # u right, v down, weight


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
        source = _Strip(image, maps[:, box.y0 : box.y1], samples, box)
        for i, (u, v, _) in enumerate(samples):
            views[i, box.y0 : box.y1] = source.mean(slice(i, i + 1), [(u, v, 1.0)])

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
        source = _Strip(image, maps[:, box.y0 : box.y1], samples, box)
        mean[box.y0 : box.y1] = source.mean(slice(None), samples)

    with _workers(threads) as pool:
        _run(strip, _strips(image.shape), pool)
    return mean


def _light_field_maps(
    image: Array, disparity: Array, aperture: Aperture
) -> tuple[Array, list[Sample]]:
    samples = aperture.samples()
    if image.ndim != 3 or not 1 <= image.shape[2] <= 4:
        raise ShapeError(f"image {image.shape}: give [H, W, C] with 1 to 4 channels")
    if disparity.shape[-2:] != image.shape[:2] or disparity.shape[:-2] not in ((), (len(samples),)):
        raise ShapeError(
            f"disparity {disparity.shape} does not match image {image.shape[:2]}"
            f" (one map, or one for each of {len(samples)} views)"
        )
    _finite_extremes("disparity", disparity)
    return np.broadcast_to(disparity, (len(samples), *image.shape[:2])), samples


def _strips(shape: tuple[int, ...]) -> list[Box]:
    rows = 128  # a strip of a 4000 px wide view with 4 channels takes 8 MB
    height, width = shape[:2]
    return [Box(y, min(y + rows, height), 0, width) for y in range(0, height, rows)]


class _Strip:
    """Some rows of all views: maps [V, rows, W] px."""

    def __init__(self, image: Array, maps: Array, samples: list[Sample], box: Box) -> None:
        distinct = maps[:1] if maps.strides[0] == 0 else maps  # one map for all views?
        reach = max(abs(v) for _, v, _ in samples) * float(np.abs(distinct).max())
        seen = box.grown(math.ceil(min(reach, image.shape[0])) + 1, image.shape)
        self.box, self.maps, self.top, self.channels = box, maps, seen.y0, image.shape[2]
        # What its views look at, with 4 channels: they take half the time of 3.
        self.source = np.zeros((seen.y1 - seen.y0, image.shape[1], 4), np.float32)
        self.source[..., : self.channels] = image[seen.y0 : seen.y1]

    def mean(self, views: slice, samples: list[Sample]) -> Array:
        """Sum of those views by the weights of `samples`: [rows, W, C]."""
        compiled, maps = native.library(), self.maps[views]
        (rows, width), total = self.box.shape, np.zeros((*self.box.shape, 4), np.float32)
        if compiled is not None:
            points = np.array(samples, np.float32)
            one = maps.strides[0] == 0
            dense = np.ascontiguousarray(maps[:1] if one else maps, np.float32)
            compiled.argan_light_field(
                self.source.ctypes.data, len(self.source), width, dense.ctypes.data,
                0 if one else rows * width, self.box.y0 - self.top, rows, points.ctypes.data,
                len(points), total.ctypes.data,
            )  # fmt: skip
            return total[..., : self.channels]
        import cv2

        across = np.arange(width, dtype=np.float32)
        down = np.arange(rows, dtype=np.float32)[:, None] + np.float32(self.box.y0 - self.top)
        for disparity, (u, v, weight) in zip(maps, samples, strict=True):
            x = np.clip(across + np.float32(u) * disparity, 0, width - 1)
            y = np.clip(down + np.float32(v) * disparity, 0, len(self.source) - 1)
            view = cv2.remap(self.source, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            total += np.float32(weight) * view
        return total[..., : self.channels]


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
    max_memory: int | None = None,
    out: Image | None = None,
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
    max_memory MiB that the whole process may take; the photo is then done in strips of rows, whose
               seams can't be seen.
    out        where the result goes; it may be `pixels`, which saves that much memory.

    ShapeError where sizes don't fit, InputError for another type of photo or a disparity with
    NaN. OpenCV's own threads are off for the time of the call.
    """
    lowest, highest = _check_render(pixels, disparity, focus, blur, highlights, out)
    lens = _Lens(pupil, focus, blur, SLICES[quality], disparity.shape[:2])
    ends = lens.square(np.array([[lowest, highest]], np.float32))[1:]
    result = np.empty(pixels.shape, pixels.dtype) if out is None else out
    if max(abs(end) for end in ends) < SHARP**2:
        result[:] = pixels
        return result
    # glibc: freeing a block ends the habit of giving smaller ones, as of tiles, back at once
    np.empty((31 if max_memory is None else 5) << 20, np.uint8)
    photo = _Photo(pixels, disparity, clipped.recovery(pixels, highlights, SURROUNDINGS[quality]))
    threads = threads or len(os.sched_getaffinity(0))
    strip = None
    if max_memory is not None:
        fresh = result.nbytes if out is None else 0
        strip, threads = _plan(photo, _margin(lens, ends), max_memory, threads, fresh)
    elif out is not None and np.may_share_memory(out, pixels):
        strip = photo.shape[0]
    with _workers(threads) as pool:
        if strip is None:
            _photograph(photo, lens, ends, slice(0, photo.shape[0]), result, pool)
        else:
            _in_strips(photo, lens, ends, result, strip, pool)
    return result


def _check_render(
    pixels: Image,
    disparity: Array,
    focus: float,
    blur: float,
    highlights: float,
    out: Image | None,
) -> tuple[float, float]:
    """The least and the largest disparity."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ShapeError(f"photo {pixels.shape}: give [H, W, 3]")
    if disparity.shape != pixels.shape[:2]:
        raise ShapeError(f"disparity {disparity.shape} does not match photo {pixels.shape[:2]}")
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(f"photo of type {pixels.dtype}: give uint8, uint16 or float32")
    if not (math.isfinite(focus) and math.isfinite(blur)):
        raise InputError(f"focus {focus} and blur {blur}: give finite numbers")
    if out is not None and (out.shape != pixels.shape or out.dtype != pixels.dtype):
        raise ShapeError(f"out {out.shape}, {out.dtype}: give the photo's shape and type")
    if not 0 <= highlights < math.inf:
        raise InputError(f"highlights {highlights}: give 0 or more")
    if pixels.dtype == np.float32:
        _finite_extremes("photo", pixels)
    return _finite_extremes("disparity", disparity)


def _finite_extremes(name: str, values: Array) -> tuple[float, float]:
    lowest, highest, finite = planes.extremes(np.asarray(values, np.float32))
    if not finite:
        raise InputError(f"the {name} has NaN or infinite values; fill them first")
    return lowest, highest


@contextmanager
def _workers(threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """A pool for tiles, and no threads of OpenCV's own inside each tile."""
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        if native.library() is not None:
            yield pool
            return
        import cv2

        before = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            yield pool
        finally:
            cv2.setNumThreads(before)


def _run(work: Callable[[Box], None], boxes: Iterable[Box], pool: ThreadPoolExecutor) -> None:
    for _ in pool.map(work, boxes):
        pass


def _tiles(shape: tuple[int, ...]) -> list[Box]:
    """Squares of a side that is good for the cache and for threads."""
    side = min(TILE, 64 * math.ceil(math.sqrt(shape[0] * shape[1] / TILES) / 64))
    return [
        Box(y, min(y + side, shape[0]), x, min(x + side, shape[1]))
        for y in range(0, shape[0], side)
        for x in range(0, shape[1], side)
    ]


def _bands(shape: tuple[int, ...]) -> list[Box]:
    return [Box(y, min(y + BAND, shape[0]), 0, shape[1]) for y in range(0, shape[0], BAND)]


@dataclass(frozen=True)
class _Lens:
    pupil: Pupil
    focus: float
    blur: float
    radii: Slices
    shape: tuple[int, int]  # of the whole photo
    top: int = 0  # row of it at which the part at hand begins

    def square(self, disparity: Array) -> tuple[Array, float, float]:
        """The signed squared radius, its least and its largest value; a radius above the photo's
        size changes nothing that can be seen."""
        return planes.squared(disparity, self.focus, self.blur, max(self.shape))

    @property
    def beyond(self) -> float:
        """Squared radius from which on nothing is left for half size."""
        return (2 * self.radii.reduced[-1]) ** 2

    @cached_property
    def stops(self) -> list[float]:
        """Signed squared radii of the full-size slices."""
        return slices.squares(self.radii.signed)

    def full(self, box: Box) -> slices.Stack:
        """The slices of full size, for a part of the photo."""
        radii = self.radii.signed
        return slices.stack(radii, (None, *radii[1:-1], None), self.pupil, self._field(box, 1))

    def octave(self, side: int, box: Box, scale: int) -> slices.Stack:
        """Those of a smaller size, in front (side 1) or behind (-1), for a part of the photo, whose
        px are `scale` of the photo's."""
        radii: list[float | None] = [
            side * math.sqrt(radius**2 - SOFTENING) for radius in self.radii.octave
        ]
        stops = [side * radius for radius in self.radii.reduced]
        order = slice(None, None, side)
        return slices.stack(
            tuple(stops[order]), tuple([*radii, None][order]), self.pupil,
            self._field(box, scale), side > 0,
        )  # fmt: skip

    def parts(self, box: Box, scale: int) -> list[Box]:
        """Parts of it in which the pupil counts as one and the same; its px are `scale` of the
        photo's."""
        if not self.pupil.cat_eye:
            return [box]
        side = max(16, EVEN * math.hypot(*self.shape) / scale)
        rows, columns = (
            [a + (b - a) * i // n for i in range(n + 1)]
            for a, b in (box[:2], box[2:]) for n in [math.ceil((b - a) / side)]
        )  # fmt: skip
        return [Box(*y, *x) for y in pairwise(rows) for x in pairwise(columns)]

    def _field(self, box: Box, scale: int) -> tuple[float, float]:
        """Where a part of the photo lies: from the middle, in half diagonals; 0 where the pupil is
        the same everywhere."""
        if not self.pupil.cat_eye:
            return 0.0, 0.0
        height, width = self.shape
        x, y = scale * (box.x0 + box.x1) - width, scale * (box.y0 + box.y1) + 2 * self.top - height
        return x / math.hypot(height, width), y / math.hypot(height, width)


@dataclass(frozen=True)
class _Photo:
    """A photo, or some rows of it, from `top` on."""

    pixels: Image
    disparity: Array
    recovery: clipped.Recovery | None
    top: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.disparity.shape

    def light(self, box: Box) -> Array:
        """Linear light [3, h, w] of a part, also where the photo is clipped."""
        part = self.pixels[box.at]
        light = planes.decoded(part)
        if self.recovery is not None:
            self.recovery.apply(light, part, self.top + box.y0, box.x0)
        return light


_Layer = tuple[Array, Array]  # premultiplied colour and coverage [4, h, w], squared radius [h, w]


class _Far(NamedTuple):
    """What is too blurred for half size, at a quarter of it; None where there is nothing."""

    back: Array | None  # [4, h, w]: premultiplied colour, and what is clear of it
    front: Array | None  # [4, h, w]: the same
    hidden: Array | None  # [3, h, w]: colours of the farthest surface around each place


def _photograph(
    photo: _Photo, lens: _Lens, ends: tuple[float, float], rows: slice, result: Image,
    pool: ThreadPoolExecutor,
) -> None:  # fmt: skip
    """Those rows of the photo -> result. ends: the extremes of the signed squared radius."""
    far = _far(photo, lens, ends, pool)

    def finish(part: Box) -> None:
        box = Box(part.y0 + rows.start, part.y1 + rows.start, part.x0, part.x1)
        light = _finished(_Tile(photo, lens, box), far)
        if light is None:
            result[part.at] = photo.pixels[box.at]
        else:
            planes.encode(light[:3], result[part.at])

    _run(finish, _tiles(result.shape), pool)


# ---- memory


def _in_strips(
    photo: _Photo, lens: _Lens, ends: tuple[float, float], result: Image, strip: int,
    pool: ThreadPoolExecutor,
) -> None:  # fmt: skip
    """`_photograph` in strips of some rows; `result` may be the photo."""
    height = photo.shape[0]
    margin = _margin(lens, ends)
    above = photo.pixels[:0]  # rows that the result may have replaced already
    for y0 in range(0, height, strip):
        y1 = min(y0 + strip, height)
        top, bottom = max(y0 - margin, 0), min(y1 + margin, height)
        pixels = np.concatenate([above, photo.pixels[y0:bottom]])
        above = pixels[max(y1 - margin, 0) - top : y1 - top].copy()
        part = _Photo(pixels, photo.disparity[top:bottom], photo.recovery, top)
        rows = slice(y0 - top, y1 - top)
        _photograph(part, replace(lens, top=top), ends, rows, result[y0:y1], pool)


def _margin(lens: _Lens, ends: tuple[float, float]) -> int:
    """Rows that a strip looks at beyond its own: what is that far away can't be seen in it."""
    radius = math.sqrt(max(abs(end) for end in ends))
    return ROWS * math.ceil((3 * radius + lens.radii.halo) / ROWS)


def _plan(photo: _Photo, margin: int, max_memory: int, threads: int, fresh: int) -> tuple[int, int]:
    """Rows of a strip, and threads, such that the process stays within `max_memory` MiB; `fresh`:
    bytes of a result of its own. Strips depend on the arguments alone, and so do the bytes that
    come out, but where the process holds so much already that it could not go on with them."""
    height, width = photo.shape
    limit, pixels = max_memory << 20, photo.pixels.nbytes + photo.disparity.nbytes + fresh

    def work(strip: int) -> int:
        rows = min(strip + 2 * margin, height)
        return rows * width * (PIXEL_BYTES + 3 * photo.pixels.itemsize) + TILE_BYTES

    fitting = [s for s in (height, *STRIPS) if PROCESS_BYTES + pixels + work(s) <= limit]
    held = max(_resident() + fresh, PROCESS_BYTES + pixels)
    strip = next((s for s in fitting if held + work(s) <= limit), STRIPS[-1])
    spare = limit - held - work(strip)
    if spare < 0:
        least = math.ceil((held + work(strip)) / 2**20)
        raise InputError(
            f"{max_memory} MiB are too few for this photo and blur; give {least} or more"
        )
    return strip, min(threads, 1 + spare // TILE_BYTES)


def _resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not say."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc: what it keeps for later would count
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    except (AttributeError, OSError, TypeError):
        return 0


# ---- tiles


class _Tile:
    """A piece of the photo and what it sees beyond itself, its halo."""

    def __init__(self, photo: _Photo, lens: _Lens, box: Box) -> None:
        self.photo, self.lens, self.box = photo, lens, box
        self.outer = box.grown(lens.radii.halo, photo.shape)
        self.square, self.lowest, self.highest = lens.square(photo.disparity[self.outer.at])
        # Of the half size: what is enlarged for this tile, and that with its halo.
        self.half_outer = self.outer.shrunk()
        self.half = box.shrunk().grown(1, Box(0, photo.shape[0], 0, photo.shape[1]).shrunk()[1::2])

    @cached_property
    def light(self) -> Array:
        """[3, h, w], with the halo."""
        return self.photo.light(self.outer)

    def lay_octave(self, total: Array, side: int) -> None:
        """Lay the half-size slices of one side behind `total`, which is at `half`."""
        stops, shape = self.lens.stops, self.half_outer.shape
        layer, square = np.empty((4, *shape), np.float32), np.empty(shape, np.float32)
        low, high = stops[-2:]
        planes.shrink(
            self.light, None, self.square, frame(self.square), (layer, square),
            side=side, low=low, high=high,
        )  # fmt: skip
        for part in self.lens.parts(self.half, 2):
            slices.add(
                part.of(total, self.half), layer[:3], layer[3], square,
                self.lens.octave(side, part, 2), part.seen_from(self.half_outer),
            )  # fmt: skip


def _finished(tile: _Tile, far: _Far) -> Array | None:
    """Linear light [3+, h, w], or None where the photo stays as it is."""
    spill = _spill(tile, far.front)
    if spill is None and max(-tile.lowest, tile.highest) < SHARP**2:
        return None
    stops = tile.lens.stops
    total = None
    if spill is not None or tile.highest > stops[-2]:
        total = planes.enlarged(_front(tile, spill), 2, tile.box.seen_from(tile.half, 2))
    if tile.lowest < stops[-1] and tile.highest > stops[0]:
        total = planes.nothing(tile.box.shape) if total is None else total
        for part in tile.lens.parts(tile.box, 1):
            slices.add(
                part.of(total, tile.box), tile.light, None, tile.square,
                tile.lens.full(part), part.seen_from(tile.outer),
            )  # fmt: skip
    if far.back is not None:
        back = _back(tile, far.back)
        if total is None:
            total = planes.enlarged(*back)
        else:
            planes.lay_under(total, *back)
    assert total is not None, "every radius belongs to a slice"
    clear = float(total[3].max())
    if clear > NOTHING:
        if far.hidden is not None:
            planes.lay_under(total, far.hidden, 4, tile.box)
        else:
            total[:3] /= np.maximum(1 - total[3], EPSILON)
    return total


def _front(tile: _Tile, spill: Array | None) -> Array:
    """All in front of the full-size slices, at half size: premultiplied colour and what is
    clear."""
    total = planes.nothing(tile.half.shape) if spill is None else spill
    if tile.highest > tile.lens.stops[-2] and tile.lowest < tile.lens.beyond:
        tile.lay_octave(total, 1)
    return total


def _back(tile: _Tile, far: Array) -> tuple[Array, int, Box]:
    """All behind the full-size slices: premultiplied colour and what is clear, how much smaller
    that is, and where in it the tile is."""
    if tile.lowest >= tile.lens.stops[1] or tile.highest <= -tile.lens.beyond:
        return far, 4, tile.box
    total = planes.nothing(tile.half.shape)
    tile.lay_octave(total, -1)
    planes.lay_under(total, far, 2, tile.half)
    return total, 2, tile.box.seen_from(tile.half, 2)


def _spill(tile: _Tile, front: Array | None) -> Array | None:
    """What the far front lets fall on this tile, at half size."""
    if front is None:
        return None
    y, x = tile.half.shrunk().grown(1, front.shape[1:]).at
    if float(front[3, y, x].min()) > 1 - NOTHING:
        return None
    return planes.enlarged(front, 2, tile.half)


# ---- a quarter of the size and less: whole images


def _far(photo: _Photo, lens: _Lens, ends: tuple[float, float], pool: ThreadPoolExecutor) -> _Far:
    everything, sides = _reduced(photo, lens, ends, pool)
    hidden = pool.submit(_hidden, everything)
    back, front = (_far_side(sides.pop(side), side, lens, pool) for side in (-1, 1))
    return _Far(back, front, hidden.result())


def _reduced(
    photo: _Photo, lens: _Lens, ends: tuple[float, float], pool: ThreadPoolExecutor
) -> tuple[_Layer | None, dict[int, _Layer | None]]:
    """A quarter of the size: everything, and what is too blurred for full size behind (-1) and in
    front (1); None where there is nothing of it, or no need."""
    stops = lens.stops
    quarter = frame(photo.disparity).shrunk(4).shape

    def layer_if(there: bool) -> _Layer | None:
        if not there:
            return None
        return np.zeros((4, *quarter), np.float32), np.zeros(quarter, np.float32)

    everything = layer_if(ends[1] > HIDES**2)
    sides = {-1: layer_if(ends[0] < stops[1]), 1: layer_if(ends[1] > stops[-2])}

    def reduce(box: Box) -> None:
        outer = box.grown(4, photo.shape)
        square, lowest, highest = lens.square(photo.disparity[outer.at])
        least, most = {-1: -highest, 1: lowest}, {-1: -lowest, 1: highest}
        wanted = [(into, side) for side, into in sides.items() if into and most[side] > stops[-2]]
        if everything is None and not wanted:
            return
        light, part = photo.light(outer), box.seen_from(outer)
        y, x = box.shrunk(4).at

        def shrink(into: _Layer, side: int, low: float) -> None:
            layer, smaller = into[0][:, y, x], into[1][y, x]
            planes.shrink(
                light, None, square, part, (layer, smaller),
                factor=4, smooth=True, side=side, low=low, high=stops[-1],
            )  # fmt: skip

        if everything is not None:
            shrink(everything, 1, -math.inf)
        for into, side in wanted:
            if everything is not None and least[side] >= stops[-1]:  # all pixels count
                for target, source in zip(into, everything, strict=True):
                    target[..., y, x] = source[..., y, x]
            else:
                shrink(into, side, stops[-2])

    _run(reduce, _tiles(photo.shape), pool)
    return everything, sides


def _far_side(
    sums: _Layer | None, side: int, lens: _Lens, pool: ThreadPoolExecutor
) -> Array | None:
    """All slices of one side that are blurred at a quarter of the size and less."""
    if sums is None:
        return None
    layer, square = sums
    octave = lens.radii.octave
    layer *= planes.ramp(side * square, *slices.squares([octave[-1] / 2, octave[0]]))
    if float(layer[3].max()) <= NOTHING:
        return planes.nothing(square.shape) if side < 0 else None
    return _smaller(layer, square, side, 4, lens, pool)


def _smaller(
    layer: Array, square: Array, side: int, scale: int, lens: _Lens, pool: ThreadPoolExecutor
) -> Array:
    """Slices of this size and all smaller ones, those in front (side 1) or behind (-1): layer
    [4, h, w], square [h, w] px^2 of this size -> premultiplied colour, and what is clear."""
    low, high = slices.squares(lens.radii.reduced[-2:])
    whole, deeper = frame(square), None
    if float((side * square).max()) > low:
        small = whole.shrunk().shape
        half, half_square = np.empty((4, *small), np.float32), np.empty(small, np.float32)
        planes.shrink(
            layer[:3], layer[3], square, whole, (half, half_square),
            smooth=True, side=side, low=low, high=high,
        )  # fmt: skip
        if float(half[3].max()) > NOTHING:
            deeper = _smaller(half, half_square, side, 2 * scale, lens, pool)
    if side > 0 and deeper is not None:
        total, deeper = planes.enlarged(deeper, 2, whole), None
    else:
        total = planes.nothing(square.shape)

    def lay(band: Box) -> None:
        for part in lens.parts(band, scale):
            octave = lens.octave(side, part, scale)
            slices.add(part.of(total), layer[:3], layer[3], square, octave, part)

    _run(lay, _bands(square.shape), pool)
    if deeper is not None:
        planes.lay_under(total, deeper, 2, whole)
    return total


def _hidden(layer: _Layer | None) -> Array | None:
    """Colours of the farthest surface near each place: [3, h, w]; the layer changes."""
    if layer is None:
        return None
    surfaces, square = layer
    np.copysign(np.sqrt(np.abs(square, out=surfaces[3]), out=surfaces[3]), square, out=surfaces[3])
    surfaces[3] *= 4  # radius, px of full size
    lowest, highest, _ = planes.extremes(surfaces[3])
    _keep_farthest(surfaces, max(-lowest, highest))
    return surfaces[:3]


def _keep_farthest(surfaces: Array, reach: float, pitch: int = 4) -> None:
    """Colour and radius [4, h, w] become those of the farthest surface within `reach` px of each
    place, smoothed; its px are `pitch` of the photo's."""
    if reach > 1 and max(surfaces.shape[1:]) > 1:
        hides = max(HIDES, SLOPING * pitch)
        around = planes.farthest_of_four(surfaces, hides)
        _keep_farthest(around, reach / 2, 2 * pitch)
        planes.keep_farthest(surfaces, around, hides)
