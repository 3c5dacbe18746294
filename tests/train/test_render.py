"""The differentiable renderer's gradients; its values are judged in tests/parity."""

import pytest
import torch
from torch.autograd.gradcheck import GradcheckError
from torch.nn import functional as F

from argan.optics import Aperture
from argan_train import render
from argan_train.toy import ToyWorld

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


def test_only_with_each_views_own_disparity_does_the_true_outline_render_best() -> None:
    """Toy photographs, true optics, against the renderer given outlines too narrow, true, too wide:
    with one disparity for all views a subject a pixel too wide is nearer to the photograph, so that
    a generator learns wide subjects. Errors near the outline."""
    world = ToyWorld(32, seed=3, blur_probability=1.0, mid_plane=False).batch(96)
    sharp, photo = torch.from_numpy(world.sharp), torch.from_numpy(world.image)
    subject = (torch.from_numpy(world.alpha) > 0.5).float()
    depth = torch.from_numpy(world.disparity)
    blur = torch.from_numpy(world.lens)[:, None, None, None] * (depth.amin((1, 2, 3), True) - depth)
    blur = blur.amin((1, 2, 3), True)
    wide, narrow = F.max_pool2d(subject, 3, 1, 1), -F.max_pool2d(-subject, 3, 1, 1)
    near = F.max_pool2d(subject, 7, 1, 3) - narrow
    points, weights = render.pupil(Aperture("disc", 16))

    def error(outline: torch.Tensor, own: bool) -> float:
        disparity = blur * (1 - outline)
        if own:
            disparity = render.view_disparity(disparity, points)
        taken = render.photograph(sharp, disparity, points, weights)
        return float(((taken - photo).square() * near).sum() / near.sum() / 3)

    shared, own = (
        [error(outline, each) for outline in (narrow, subject, wide)] for each in (False, True)
    )
    assert shared[2] < 0.6 * shared[1], "the trap; 0.45 seen"
    assert own[1] < 0.9 * own[2] and own[1] < 0.5 * own[0], "0.76 and 0.19 seen"
    assert own[1] < 0.5 * shared[1], "0.36 seen"
