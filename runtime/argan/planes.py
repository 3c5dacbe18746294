"""Light as planes, float32 [n, h, w]: decoded, shrunk, enlarged, laid under, encoded.

What is here in NumPy is the reference of the compiled functions in `native.cpp`, which do the same
where the install has them. A picture may be cut anywhere: no result depends on where.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from argan import native

Array = NDArray[np.float32]
Image = NDArray[Any]  # sRGB [H, W, 3]: uint8, uint16 or float32

EPSILON = 1e-6
LEVELS = 4096  # of the square root of light, nearly even to the eye: 1/20 of an 8-bit level


class Box(NamedTuple):
    """Rows y0 to y1 and columns x0 to x1 of an image."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def at(self) -> tuple[slice, slice]:
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def shape(self) -> tuple[int, int]:
        return self.y1 - self.y0, self.x1 - self.x0

    def grown(self, by: int, shape: tuple[int, ...]) -> Box:
        return Box(
            max(self.y0 - by, 0),
            min(self.y1 + by, shape[0]),
            max(self.x0 - by, 0),
            min(self.x1 + by, shape[1]),
        )

    def shrunk(self, factor: int = 2) -> Box:
        return Box(*(-(-edge // factor) for edge in self))

    def of(self, planes: Array, outer: Box | None = None) -> Array:
        """Its part of [n, h, w], which are those of `outer`; of a whole image if not given."""
        return planes[(slice(None), *(self.seen_from(outer) if outer else self).at)]

    def seen_from(self, outer: Box, factor: int = 1) -> Box:
        """`outer` in px `factor` times as large."""
        y, x = factor * outer.y0, factor * outer.x0
        return Box(self.y0 - y, self.y1 - y, self.x0 - x, self.x1 - x)


def frame(planes: Array) -> Box:
    """All of [..., h, w]."""
    return Box(0, planes.shape[-2], 0, planes.shape[-1])


def nothing(shape: tuple[int, ...]) -> Array:
    """A picture with nothing in it yet, all of it clear: [4, h, w]."""
    total = np.zeros((4, *shape), np.float32)
    total[3] = 1
    return total


# ---- the blur's radius


def extremes(values: Array) -> tuple[float, float, bool]:
    """The least and the largest value, and whether all are finite."""
    compiled = native.library()
    if compiled is None:
        # A sum is finite only if all of its terms are. float64 can't overflow here.
        finite = math.isfinite(float(np.sum(values, dtype=np.float64)))
        return float(values.min()), float(values.max()), finite
    found = np.empty(2, np.float32)
    dense = np.ascontiguousarray(values)
    finite = compiled.argan_extremes(dense.ctypes.data, dense.size, found.ctypes.data)
    return float(found[0]), float(found[1]), bool(finite)


def squared(
    disparity: Array, focus: float, blur: float, limit: float
) -> tuple[Array, float, float]:
    """[h, w] -> the squared radius in px^2 with the radius' sign, its least and its largest value;
    radii end at `limit`."""
    compiled = native.library()
    if compiled is None:
        with np.errstate(over="ignore"):
            radius = (disparity - np.float32(focus)) * np.float32(blur)
        radius = np.clip(radius, -limit, limit)
        square = np.asarray(radius * np.abs(radius), np.float32)
        return square, float(square.min()), float(square.max())
    rows = with_dense_rows(disparity)
    square, found = np.empty(disparity.shape, np.float32), np.empty(2, np.float32)
    compiled.argan_squared(
        rows.ctypes.data, rows.strides[0] // 4, *rows.shape, focus, blur, limit,
        square.ctypes.data, found.ctypes.data,
    )  # fmt: skip
    return square, float(found[0]), float(found[1])


def ramp(square: Array, low: float, high: float) -> Array:
    """0 up to `low`, 1 from `high` on; linear in the squared radius, the variance of a disc, so
    that a mixture of two neighbouring discs is as wide as the disc between them."""
    if low == -math.inf:
        return np.ones_like(square)
    if high == math.inf:
        return np.zeros_like(square)
    return np.asarray(np.clip((square - np.float32(low)) * np.float32(1 / (high - low)), 0, 1))


# ---- sizes


def shrink(
    colour: Array,
    coverage: Array | None,
    square: Array,
    part: Box,
    into: tuple[Array, Array],
    *,
    factor: int = 2,
    smooth: bool = False,
    side: int = 1,
    low: float = -math.inf,
    high: float = math.inf,
) -> None:
    """What a layer has beyond some radius, 2 or 4 times smaller: its own pixels at `part`, which
    starts at a pixel of the smaller size.

    colour [3, h, w], premultiplied; coverage [h, w], 1 if None; square [h, w]: squared radius
    into    layer [4, n, m] and square [n, m] of the smaller size, whose radius is the mean of what
            is covered, in its own px
    smooth  means reach half a large pixel further (weights 1 3 3 1 or 1 1 3 3 3 3 1 1): a light
            then keeps its place between the large pixels
    side    1 or -1: of the radii that count; each pixel's share rises from the squared radius
            `low` to `high`; all count if they are infinite
    """
    layer, smaller = into
    compiled = native.library()
    if compiled is not None:
        compiled.argan_shrink(
            colour.ctypes.data, _address(coverage), square.ctypes.data, *square.shape,
            part.y0, part.x0, side, low, high, factor, int(smooth), EPSILON,
            layer.ctypes.data, smaller.ctypes.data, *smaller.shape,
            layer.strides[0] // 4, layer.strides[1] // 4,
        )  # fmt: skip
        return
    share = ramp(side * square, low, high)
    covered = share if coverage is None else share * coverage
    radius = np.copysign(np.sqrt(np.abs(square)), square)
    taps = np.repeat([1, 3, 3, 1] if smooth else [0, 1, 1, 0], factor // 2)
    planes = np.concatenate([colour * share, covered[None], (covered * radius)[None]])
    for axis, (start, count) in ((1, (part.y0, layer.shape[1])), (2, (part.x0, layer.shape[2]))):
        last = planes.shape[axis] - 1
        at = start - factor // 2 + factor * np.arange(count)
        planes = sum(
            np.float32(tap / taps.sum()) * planes.take(np.clip(at + k, 0, last), axis)
            for k, tap in enumerate(taps)
        )
    layer[:] = planes[:4]
    mean = planes[4] / np.maximum(factor * planes[3], EPSILON)
    smaller[:] = mean * np.abs(mean)


def enlarged(planes: Array, factor: int, box: Box) -> Array:
    """The part at `box` of planes enlarged by 2 or 4, bilinear: [n, h, w]."""
    result = np.empty((len(planes), *box.shape), np.float32)
    compiled = native.library()
    if compiled is not None:
        _enlarge(compiled, planes, factor, box, result, under=False)
        return result
    for axis, (start, end) in ((1, box[:2]), (2, box[2:])):
        place = (np.arange(start, end) + 0.5) / factor - 0.5
        before = np.floor(place).astype(int)
        part = np.asarray(place - before, np.float32).reshape((-1, 1) if axis == 1 else -1)
        last = planes.shape[axis] - 1
        a, b = (planes.take(np.clip(before + k, 0, last), axis) for k in (0, 1))
        planes = a + part * (b - a)
    return planes


def lay_under(total: Array, deeper: Array, factor: int, box: Box) -> None:
    """`deeper`, enlarged as by `enlarged`, seen through what is clear of `total` [4, h, w], which
    changes. With three planes, `deeper` leaves nothing clear."""
    compiled = native.library()
    if compiled is not None:
        _enlarge(compiled, deeper, factor, box, total, under=True)
        return
    large = enlarged(deeper, factor, box)
    total[:3] += total[3] * large[:3]
    total[3] *= large[3] if len(large) == 4 else 0


def _enlarge(
    compiled: Any, planes: Array, factor: int, box: Box, result: Array, *, under: bool
) -> None:
    source = np.ascontiguousarray(planes)
    compiled.argan_enlarge(
        source.ctypes.data, *source.shape, factor, box.y0, box.x0, result.ctypes.data,
        *box.shape, result.strides[0] // 4, result.strides[1] // 4, int(under),
    )  # fmt: skip


# ---- hidden surfaces


def farthest_of_four(surfaces: Array, hides: float) -> Array:
    """[4, h, w] colour and radius px -> the same at half size: of each 2x2 px the mean of those
    about as far as the farthest. Twice `hides` px nearer is another surface."""
    _, height, width = surfaces.shape
    half = np.empty((4, -(-height // 2), -(-width // 2)), np.float32)
    compiled = native.library()
    if compiled is not None:
        compiled.argan_farthest_of_four(
            surfaces.ctypes.data, height, width, hides, EPSILON, half.ctypes.data
        )
        return half
    even = np.pad(surfaces, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    four = [even[:, y::2, x::2] for y in (0, 1) for x in (0, 1)]
    lowest = np.minimum(np.minimum(four[0][3], four[1][3]), np.minimum(four[2][3], four[3][3]))
    weights = [np.clip(2 - (child[3] - lowest) / hides, EPSILON, 1) for child in four]
    half[:] = sum(w * child for w, child in zip(weights, four, strict=True)) / sum(weights)
    return half


def keep_farthest(surfaces: Array, around: Array, hides: float) -> None:
    """Surfaces [4, h, w] become what is around, given at half size, where that is farther."""
    compiled = native.library()
    if compiled is not None:
        compiled.argan_keep_farthest(
            surfaces.ctypes.data, *surfaces.shape[1:], around.ctypes.data, hides
        )
        return
    large = enlarged(around, 2, frame(surfaces))
    surfaces[:] = large + np.clip(2 - (surfaces[3] - large[3]) / hides, 0, 1) * (surfaces - large)


# ---- light


def decoded(pixels: Image) -> Array:
    """sRGB [h, w, 3] -> linear [3, h, w]."""
    light = np.empty((3, *pixels.shape[:2]), np.float32)
    compiled = native.library()
    if compiled is not None and pixels.dtype == np.uint8:
        rows = with_dense_rows(pixels)
        compiled.argan_decode(
            rows.ctypes.data, rows.strides[0], *rows.shape[:2], _decoding(256).ctypes.data,
            light.ctypes.data,
        )  # fmt: skip
    elif pixels.dtype == np.float32:
        light[:] = np.moveaxis(linear(np.maximum(pixels, 0)), 2, 0)
    else:
        light[:] = np.moveaxis(_decoding(int(np.iinfo(pixels.dtype).max) + 1)[pixels], 2, 0)
    return light


def encode(light: Array, pixels: Image) -> None:
    """Linear [3, h, w] -> sRGB [h, w, 3], into `pixels`."""
    compiled = native.library()
    if pixels.dtype == np.float32:
        pixels[:] = np.moveaxis(srgb(np.maximum(light, 0)), 0, 2)
    elif pixels.dtype == np.uint16:
        pixels[:] = np.moveaxis(np.round(srgb(np.clip(light, 0, 1)) * 65535), 0, 2)
    elif compiled is not None:
        table = _encoding()
        compiled.argan_encode(
            light.ctypes.data, light.strides[0] // 4, light.strides[1] // 4, *light.shape[1:],
            table.ctypes.data, len(table), pixels.ctypes.data, pixels.strides[0],
        )  # fmt: skip
    else:
        levels = np.sqrt(np.clip(light, 0, 1)) * np.float32(LEVELS - 1) + np.float32(0.5)
        pixels[:] = np.moveaxis(_encoding()[levels.astype(np.uint16)], 0, 2)


@lru_cache
def _decoding(levels: int) -> Array:
    return linear(np.arange(levels, dtype=np.float32) / np.float32(levels - 1))


@lru_cache
def _encoding() -> NDArray[np.uint8]:
    roots = np.arange(LEVELS, dtype=np.float32) / np.float32(LEVELS - 1)
    return np.round(255 * np.minimum(srgb(roots * roots), 1)).astype(np.uint8)


def linear(srgb: Array) -> Array:
    """IEC 61966-2-1."""
    power = ((srgb + 0.055) / 1.055) ** 2.4
    return np.where(srgb <= 0.04045, srgb / 12.92, power).astype(np.float32)


def srgb(linear: Array) -> Array:
    """IEC 61966-2-1."""
    power = 1.055 * linear ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, linear * 12.92, power).astype(np.float32)


# ---- what compiled functions take


def with_dense_rows(values: NDArray[Any]) -> NDArray[Any]:
    """The same [h, w, ...], where it must with a copy: pixels of a row follow each other."""
    dense = np.empty(values.shape[1:], values.dtype).strides
    in_order = values.strides[1:] == dense and values.strides[0] >= 0
    return values if in_order else np.ascontiguousarray(values)


def _address(values: Array | None) -> int | None:
    return None if values is None else int(values.ctypes.data)
