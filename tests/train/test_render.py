"""The differentiable renderer's gradients; its values are judged in tests/parity."""

import pytest
import torch
from torch.autograd.gradcheck import GradcheckError

from argan.optics import Aperture
from argan_train import render

POINTS, WEIGHTS = render.pupil(Aperture("disc", 5))


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Disparities whose samples stay off the pixel grid, where bilinear weights have a kink."""
    rng = torch.Generator().manual_seed(3)
    image = torch.rand(1, 2, 5, 7, generator=rng, dtype=torch.float64)
    disparity = 0.3 + 0.4 * torch.rand(1, 1, 5, 7, generator=rng, dtype=torch.float64)
    return image.requires_grad_(), disparity.requires_grad_()


def test_gradients_match_finite_differences() -> None:
    def photograph(image: torch.Tensor, disparity: torch.Tensor) -> torch.Tensor:
        return render.photograph(image, disparity, POINTS.double(), WEIGHTS.double())

    assert torch.autograd.gradcheck(photograph, scene(), eps=1e-6, atol=1e-6)


def test_a_wrong_gradient_fails_the_check() -> None:
    def detached(image: torch.Tensor, disparity: torch.Tensor) -> torch.Tensor:
        light = render.photograph(image, disparity.detach(), POINTS.double(), WEIGHTS.double())
        return light + 0 * disparity.sum()

    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(detached, scene(), eps=1e-6, atol=1e-6)


def test_view_disparity_is_the_disparity_sampled_by_itself() -> None:
    _, disparity = scene()
    points = torch.tensor([[1.0, 0.0]])
    seen = render.view_disparity(disparity, points)[0, 0]
    d = disparity[0, 0]
    share = d[2, 3]  # D(x + D(x)) between pixel 3 and pixel 4
    torch.testing.assert_close(seen[2, 3], (1 - share) * d[2, 3] + share * d[2, 4])
