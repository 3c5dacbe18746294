"""The light-field renderer in torch: differentiable in the image and in the disparity.

The same equation, signs and edge rule as `argan.render`, the reference in numpy that judges it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from argan.optics import Aperture


def views(image: Tensor, disparity: Tensor, points: Tensor) -> Tensor:
    """L(x, u) = I(x + u M(x, u)): image [N, C, H, W], disparity px [N, V, H, W] (one map per view;
    [N, 1, H, W] serves them all), points of the pupil (right, down) [V, 2], or [N, V, 2] where each
    image has its own -> [N, V, C, H, W]."""
    n, channels, height, width = image.shape
    exact = torch.promote_types(image.dtype, torch.float32)  # half precision can't hold a position
    u = points.to(exact).expand(n, -1, 2)[:, :, None, None]
    shift = disparity.to(exact)[..., None] * u  # [N, V, H, W, 2]
    x = torch.arange(width, device=image.device) + shift[..., 0]
    y = torch.arange(height, device=image.device)[:, None] + shift[..., 1]
    # grid_sample wants -1 and 1 at the centres of the outermost pixels (align_corners=True).
    grid = torch.stack([x * (2 / max(width - 1, 1)) - 1, y * (2 / max(height - 1, 1)) - 1], dim=-1)
    # All views of an image in one tall grid: one gather, and the image is never copied.
    count = grid.shape[1]
    sampled = F.grid_sample(
        image.to(exact),
        grid.reshape(n, count * height, width, 2),
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return sampled.reshape(n, channels, count, height, width).transpose(1, 2)


def pupil(aperture: Aperture, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Points [V, 2] and weights [V] (sum 1) of the aperture."""
    samples = torch.tensor(aperture.samples(), dtype=torch.float32, device=device)
    return samples[:, :2], samples[:, 2]


def light_field(image: Tensor, disparity: Tensor, aperture: Aperture) -> Tensor:
    """image [N, 3, H, W], disparity px [N, V, H, W] -> the views [N, V, 3, H, W]."""
    return views(image, disparity, pupil(aperture, image.device)[0])


def photograph(
    image: Tensor, disparity: Tensor, points: Tensor, weights: Tensor, linear: bool = False
) -> Tensor:
    """The weighted mean of the views: image [N, 3, H, W], disparity px [N, V or 1, H, W]. As
    published the mean is taken of sRGB values; `linear` takes it of light, as a sensor does."""
    seen = views(srgb_to_linear(image) if linear else image, disparity, points)
    mean = (seen * weights[:, None, None, None]).sum(dim=1)
    return linear_to_srgb(mean) if linear else mean


def view_disparity(disparity: Tensor, points: Tensor) -> Tensor:
    """D_u(x) = D(x + u D(x)), each view's own map: [N, 1, H, W] px -> [N, V, H, W] px.

    A blurred pixel beside a sharp subject finds the subject's D = 0 on its way there, and keeps its
    own colour: what is in front does not smear over what is behind.
    """
    return views(disparity, disparity, points)[:, :, 0]


def srgb_to_linear(colour: Tensor) -> Tensor:
    """IEC 61966-2-1, 0..1; the gradient is finite everywhere."""
    high = ((colour.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(colour <= 0.04045, colour / 12.92, high)


def linear_to_srgb(light: Tensor) -> Tensor:
    """IEC 61966-2-1, 0..1; the gradient is finite everywhere."""
    high = 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(light <= 0.0031308, light * 12.92, high)
