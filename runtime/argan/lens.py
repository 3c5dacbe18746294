"""The fast renderers: `light_field`, the paper's model, and `render`, the photograph.

Signs, units and pupil are those of `optics.py`; `render.py` has the slow reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from argan.errors import InputError, ShapeError
from argan.optics import Aperture

Array = NDArray[np.float32]

STRIP_ROWS = 64  # a strip of a 4000 px wide view is 4 MB: it stays in the last-level cache
OCTAVE = (3, 4)  # slice radii in px of every coarser level: the discs of one differ by 1 px
FULL = (4, 3, 2, 1, 0, -1, -2, -3, -4)  # slices at full resolution, front to back
EPSILON = 1e-6
ENCODE_STEPS = 65535


# ---------------------------------------------------------------- the paper's model


def light_field_views(
    image: Array, disparity: Array, aperture: Aperture, threads: int | None = None
) -> Array:
    """L(x, u) = I(x + u M(x, u)): image [H, W, C], disparity px [H, W] or [V, H, W] -> [V, H, W, C].

    ShapeError where the sizes don't fit, InputError where a disparity is not finite.
    """
    source, maps, samples = _light_field_inputs(image, disparity, aperture)
    views = np.empty((len(samples), *image.shape), np.float32)

    def strip(rows: slice) -> None:
        for view, (u, v, _) in enumerate(samples):
            views[view, rows] = _sample(source, maps[view, rows], rows, u, v)[..., : image.shape[2]]

    _over_strips(strip, image.shape[0], threads)
    return views


def light_field(
    image: Array, disparity: Array, aperture: Aperture, threads: int | None = None
) -> Array:
    """The weighted mean of the views: image [H, W, C], disparity px [H, W] or [V, H, W] -> [H, W, C].

    ShapeError where the sizes don't fit, InputError where a disparity is not finite.
    """
    source, maps, samples = _light_field_inputs(image, disparity, aperture)
    mean = np.empty(image.shape, np.float32)

    def strip(rows: slice) -> None:
        total = np.zeros((rows.stop - rows.start, *source.shape[1:]), np.float32)
        for view, (u, v, weight) in enumerate(samples):
            cv2.scaleAdd(_sample(source, maps[view, rows], rows, u, v), weight, total, total)
        mean[rows] = total[..., : image.shape[2]]

    _over_strips(strip, image.shape[0], threads)
    return mean


def _light_field_inputs(
    image: Array, disparity: Array, aperture: Aperture
) -> tuple[Array, Array, list[tuple[float, float, float]]]:
    samples = aperture.samples()
    if image.ndim != 3 or not 1 <= image.shape[2] <= 4:
        raise ShapeError(f"image {image.shape}: give [H, W, C] with 1 to 4 channels")
    if disparity.shape[-2:] != image.shape[:2] or disparity.shape[:-2] not in ((), (len(samples),)):
        raise ShapeError(
            f"disparity {disparity.shape} does not match image {image.shape[:2]}"
            f" (one map, or one for each of {len(samples)} views)"
        )
    maps = np.broadcast_to(disparity, (len(samples), *image.shape[:2]))
    _check_finite(disparity)
    source = np.asarray(image, np.float32)
    if source.shape[2] != 4:  # remap takes 4 channels in half the time of 3
        source = np.dstack([source, *[source[..., :1]] * (4 - source.shape[2])])
    return source, maps, samples


def _sample(source: Array, disparity: Array, rows: slice, u: float, v: float) -> Array:
    """One strip of one view; edges clamp."""
    height, width = source.shape[:2]
    x = np.multiply(disparity, u, dtype=np.float32)
    x += np.arange(width, dtype=np.float32)
    y = np.multiply(disparity, v, dtype=np.float32)
    y += np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
    np.clip(x, 0, width - 1, out=x)
    np.clip(y, 0, height - 1, out=y)
    view = cv2.remap(source, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(view, np.float32)


def _over_strips(work, height: int, threads: int | None) -> None:  # type: ignore[no-untyped-def]
    strips = [slice(y, min(y + STRIP_ROWS, height)) for y in range(0, height, STRIP_ROWS)]
    with _one_opencv_thread(), ThreadPoolExecutor(threads or cv2.getNumberOfCPUs()) as pool:
        list(pool.map(work, strips))


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


# ---------------------------------------------------------------- the photograph


def render(
    pixels: NDArray[np.generic],
    disparity: Array,
    *,
    focus: float,
    blur: float,
    blades: int = 0,
    rotation: float = 0.0,
    quality: Literal["final", "preview"] = "final",
    threads: int | None = None,
) -> NDArray[np.generic]:
    """The photograph a lens focused at `focus` would have taken.

    pixels     sRGB [H, W, 3], uint8, uint16 or float32 in 0..1; the result has the same type.
    disparity  [H, W], larger = nearer; blur is K, px of disc radius per unit of disparity.
    blades     0 for a round pupil, else 3 to 11; rotation in radians, from right towards down.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ShapeError(f"photo {pixels.shape}: give [H, W, 3]")
    if disparity.shape != pixels.shape[:2]:
        raise ShapeError(f"disparity {disparity.shape} does not match photo {pixels.shape[:2]}")
    _check_finite(disparity)
    D = np.asarray(blur * (np.asarray(disparity, np.float32) - focus), np.float32)
    largest = float(max(pixels.shape[:2]))
    D = np.clip(D, -largest, largest)
    if np.abs(D).max() < 0.25:
        return pixels.copy()
    pupil = Aperture("polygon", 1, blades, rotation) if blades else Aperture("disc", 1)
    photo = np.dstack([_decode(pixels), np.ones_like(D)])
    result = _encode(_compose(photo, D, pupil), pixels.dtype)
    sharp = np.abs(D) <= 0
    return result if not sharp.all() else pixels.copy()


def _check_finite(disparity: Array) -> None:
    if not np.isfinite(disparity).all():
        raise InputError("the disparity has NaN or infinite values; fill them first")


def _decode(pixels: NDArray[np.generic]) -> Array:
    if pixels.dtype == np.uint8:
        return np.asarray(cv2.LUT(pixels, _linear(np.arange(256, dtype=np.float32) / 255)))
    if pixels.dtype == np.uint16:
        return np.asarray(_linear(np.arange(65536, dtype=np.float32) / 65535)[pixels])
    if pixels.dtype == np.float32:
        return _linear(np.asarray(pixels, np.float32))
    raise InputError(f"photo of type {pixels.dtype}: give uint8, uint16 or float32")


def _linear(srgb: Array) -> Array:
    """IEC 61966-2-1."""
    high = ((srgb + 0.055) / 1.055) ** 2.4
    return np.where(srgb <= 0.04045, srgb / 12.92, high).astype(np.float32)


def _srgb(linear: Array) -> Array:
    return np.where(
        linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055
    ).astype(np.float32)


def _encode(linear: Array, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    srgb = _srgb(np.clip(linear, 0, 1))
    if dtype == np.float32:
        return srgb
    return np.round(srgb * np.iinfo(dtype).max).astype(dtype)


@lru_cache(maxsize=64)
def _kernel(radius: float, pupil: Aperture) -> Array:
    """The pupil as a filter of `radius` px, anti-aliased, sum 1; a negative radius turns it by pi."""
    reach = math.ceil(abs(radius) + 0.5)
    fine = 8  # sub-pixels a side: coverage to 1/64
    steps = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    x, y = np.meshgrid(steps, steps)
    if pupil.shape == "polygon":
        sector = 2 * math.pi / pupil.blades
        middles = [pupil.rotation + (i + 0.5) * sector for i in range(pupil.blades)]
        sign = math.copysign(1, radius)
        across = np.max([sign * (x * math.cos(a) + y * math.sin(a)) for a in middles], axis=0)
        inside = across <= abs(radius) * pupil.rim(middles[0])
    else:
        inside = np.hypot(x, y) <= abs(radius)
    cells = inside.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean((1, 3))
    return np.asarray(cells / cells.sum(), np.float32)


def _blur(layer: Array, radius: float, pupil: Aperture) -> Array:
    if radius == 0:
        return layer
    kernel = _kernel(radius, pupil)
    return np.asarray(cv2.filter2D(layer, -1, kernel, borderType=cv2.BORDER_REPLICATE))


def _half(a: Array) -> Array:
    h, w = a.shape[:2]
    even = cv2.copyMakeBorder(a, 0, h % 2, 0, w % 2, cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(even, ((w + 1) // 2, (h + 1) // 2), interpolation=cv2.INTER_AREA))


def _double(a: Array, shape: tuple[int, ...]) -> Array:
    size = (a.shape[1] * 2, a.shape[0] * 2)
    return np.asarray(cv2.resize(a, size, interpolation=cv2.INTER_LINEAR)[: shape[0], : shape[1]])


def _fill(layer: Array) -> Array:
    """Premultiplied [h, w, 4] -> colour [h, w, 3] everywhere: holes take the nearest colours."""
    alpha = layer[..., 3:]
    if max(layer.shape[:2]) <= 2:
        total = layer.sum((0, 1))
        coarse = np.broadcast_to(total[:3] / max(total[3], EPSILON), (*layer.shape[:2], 3))
    else:
        coarse = _double(_fill(_half(layer)), layer.shape)
    sure = np.minimum(1, 4 * alpha)
    return np.asarray(layer[..., :3] / np.maximum(alpha, EPSILON) * sure + (1 - sure) * coarse)


def _add(total: Array, clear: Array, layer: Array) -> None:
    """The layer behind `total` adds what the clear part of each pixel lets through."""
    alpha = layer[..., 3]
    seen = np.minimum(alpha, clear)
    total += layer * (seen / np.maximum(alpha, EPSILON))[..., None]
    clear -= seen


def _behind(front: Array, clear: Array, back: Array) -> Array:
    """`back` [.., colour, certainty] through the clear part of `front`; result likewise."""
    through = clear * np.maximum(back[..., 3], 1e-4)
    total = np.maximum(front[..., 3] + through, EPSILON)[..., None]
    colour = (front[..., :3] + through[..., None] * back[..., :3]) / total
    return np.dstack([colour, np.minimum(front[..., 3] + through, 1)])


def _level(layer: Array, radius: Array, level: int, side: int, pupil: Aperture) -> Array:
    """Slices at 1/2^level size of one side of the focus; radius in px of full size.

    In front (side 1): premultiplied [h, w, 4]. Behind (side -1): colour and certainty.
    """
    scale = 2**level
    near, far = (scale * r for r in OCTAVE)
    beyond = 2 * near
    weights = {near: np.clip((far - radius) / (far - near), 0, 1)}
    rest = np.clip((radius - far) / (beyond - far), 0, 1)
    weights[far] = 1 - weights[near] - rest
    coarse = None
    if float((rest * layer[..., 3]).max()) > 1e-3:
        deeper = _half(layer * rest[..., None])
        mean = _half(radius * rest * layer[..., 3]) / np.maximum(deeper[..., 3], EPSILON)
        coarse = _level(deeper, np.maximum(mean, beyond), level + 1, side, pupil)
    total, clear = np.zeros_like(layer), np.ones(layer.shape[:2], np.float32)
    if side > 0 and coarse is not None:
        total = _double(coarse, layer.shape).copy()
        clear -= total[..., 3]
    for r in (far, near) if side > 0 else (near, far):
        _add(total, clear, _blur(layer * weights[r][..., None], side * r / scale, pupil))
    if side > 0:
        return total
    if coarse is None:
        return np.dstack([_fill(total), np.minimum(total[..., 3], 1)])
    return _behind(total, clear, _double(coarse, layer.shape))


def _side(photo: Array, D: Array, share: Array, side: int, pupil: Aperture) -> Array | None:
    """One side of the focus beyond the full-size slices, at half size; None where it is empty."""
    if float(share.max()) < 1e-3:
        return None
    layer = _half(photo * share[..., None])
    mean = _half(np.abs(D) * share) / np.maximum(layer[..., 3], EPSILON)
    return _level(layer, np.maximum(mean, 2 * OCTAVE[0]), 1, side, pupil)


def _compose(photo: Array, D: Array, pupil: Aperture) -> Array:
    """photo linear [H, W, 4], alpha 1; D signed radius px [H, W] -> linear [H, W, 3]."""
    last, coarse = FULL[0], 2 * OCTAVE[0]
    before = np.clip((D - last) / (coarse - last), 0, 1)
    behind = np.clip((-D - last) / (coarse - last), 0, 1)
    total, clear = np.zeros_like(photo), np.ones_like(D)
    near = np.clip(D, -last, last)
    for r in FULL:
        weight = np.clip(1 - np.abs(near - r), 0, 1) * (1 - before - behind)
        if float(weight.max()) > 1e-3:
            _add(total, clear, _blur(photo * weight[..., None], r, pupil))
    back = _side(photo, D, behind, -1, pupil)
    colour = (
        _fill(total) if back is None else _behind(total, clear, _double(back, D.shape))[..., :3]
    )
    front = _side(photo, D, before, 1, pupil)
    if front is None:
        return colour
    shown = (1 - before)[..., None]
    hidden = _fill(_half(_half(np.dstack([colour * shown, shown]))))
    half = ((D.shape[0] + 1) // 2, (D.shape[1] + 1) // 2)
    colour = colour * shown + _double(_double(hidden, half), D.shape) * (1 - shown)
    spill = _double(front, D.shape)
    return np.asarray(spill[..., :3] + (1 - spill[..., 3:]) * colour)
