"""The network's small map brought to the photo's size."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from argan.errors import InputError, ShapeError


def edge_aware(
    disparity: NDArray[np.float32], guide: NDArray[np.generic]
) -> NDArray[np.float32]:
    """disparity [h, w], guide: the photo [H, W, 3] -> disparity [H, W]."""
    if disparity.ndim != 2 or guide.ndim != 3 or guide.shape[2] != 3:
        raise ShapeError(
            f"disparity {disparity.shape} and photo {guide.shape}: give [h, w] and [H, W, 3]"
        )
    if not np.isfinite(disparity).all():
        raise InputError("the disparity has NaN or infinite values; fill them first")
    size = (guide.shape[1], guide.shape[0])
    return np.asarray(cv2.resize(np.asarray(disparity, np.float32), size), np.float32)
