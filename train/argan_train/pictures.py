"""Grids for people to look at: uint8 [H, W, 3]."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def image_rows(images: Tensor) -> np.ndarray:
    """images [N, 3, H, W] in 0..1 -> one row of them."""
    row = torch.cat(list((images.clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu()), dim=2)
    return np.ascontiguousarray(row.permute(1, 2, 0).numpy())


def disparity_rows(disparity: Tensor, low: float, high: float) -> np.ndarray:
    """disparity [N, 1, H, W] -> one row in grey, `low` black and `high` white."""
    grey = (disparity - low) / (high - low)
    return image_rows(grey.expand(-1, 3, -1, -1))
