"""The reference renderer in numpy: slow, readable, float64 inside; the judge in tests.

`lens.py` has the fast ones, `argan_train.render` the differentiable one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from argan.errors import ShapeError
from argan.optics import Aperture

Array = NDArray[np.floating]


def sample(image: Array, shift_x: Array, shift_y: Array) -> Array:
    """I(x + shift), bilinear with clamped edges: image [H, W, C], shifts [H, W] px -> [H, W, C]."""
    height, width = image.shape[:2]
    x = np.clip(np.arange(width)[None, :] + np.asarray(shift_x, np.float64), 0, width - 1)
    y = np.clip(np.arange(height)[:, None] + np.asarray(shift_y, np.float64), 0, height - 1)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    top = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    bottom = image[y1, x0] * (1 - fx) + image[y1, x1] * fx
    return np.asarray(top * (1 - fy) + bottom * fy)


def views(image: Array, disparity: Array, aperture: Aperture) -> Array:
    """L(x, u) = I(x + u M(x, u)): image [H, W, C], disparity px [H, W] or [V, H, W] (one map per
    view) -> [V, H, W, C]."""
    samples = aperture.samples()
    if disparity.shape[-2:] != image.shape[:2] or disparity.shape[:-2] not in ((), (len(samples),)):
        raise ShapeError(
            f"disparity {disparity.shape} does not match image {image.shape[:2]}"
            f" (one map, or one for each of {len(samples)} views)"
        )
    maps = np.broadcast_to(disparity, (len(samples), *image.shape[:2]))
    shifts = zip(samples, maps, strict=True)
    return np.stack([sample(image, u * d, v * d) for (u, v, _), d in shifts])


def light_field(image: Array, disparity: Array, aperture: Aperture) -> Array:
    """The paper's photograph, the weighted mean of the views: -> [H, W, C]."""
    weights = [weight for _, _, weight in aperture.samples()]
    return np.asarray(np.tensordot(weights, views(image, disparity, aperture), axes=1))


def view_disparity(disparity: Array, aperture: Aperture) -> Array:
    """D_u(x) = D(x + u D(x)), the disparity of each view before expansion: [H, W] -> [V, H, W]."""
    return views(disparity[..., None], disparity, aperture)[..., 0]
