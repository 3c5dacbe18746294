"""Shapes, ranges, and that gradients reach what they should."""

import pytest
import torch
from torch.nn import functional as F

from argan_train import losses
from argan_train.networks import (
    DepthExpansion,
    DepthNet,
    Discriminator,
    Generator,
    batch_deviation,
    doubled_conv,
    stage_channels,
)


def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(size=16, width=4, latent=6, depth_size=8, max_blur_px=2.0)


def test_the_generator_makes_an_image_and_a_smooth_disparity() -> None:
    image, disparity = generator()(torch.randn(3, 6))
    assert image.shape == (3, 3, 16, 16) and disparity.shape == (3, 1, 16, 16)
    assert 0 <= image.min() and image.max() <= 1
    assert disparity.abs().max() <= 2.0


def test_the_adversarial_loss_reaches_the_disparity_through_the_lens() -> None:
    from argan.optics import Aperture
    from argan_train import render

    network, critic = generator(), Discriminator(16, 4)
    image, disparity = network(torch.randn(4, 6))
    points, weights = render.pupil(Aperture("disc", 4))
    losses.g_main(critic(render.photograph(image, disparity, points, weights))).backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in network.depth_head.parameters()
    )


def test_expansion_starts_as_the_identity_and_learns() -> None:
    expansion, disparity = DepthExpansion(views=4), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(expansion(disparity), disparity)
    expansion(disparity).square().sum().backward()
    assert expansion.outer.weight.grad is not None and expansion.outer.weight.grad.abs().sum() > 0


def test_the_discriminator_sees_a_collapse() -> None:
    one = torch.rand(1, 8, 4, 4)
    assert batch_deviation(one.expand(4, -1, -1, -1)).max() < 1e-3
    assert batch_deviation(torch.rand(4, 8, 4, 4)).min() > 0.1


@pytest.mark.parametrize("height, width", [(32, 32), (64, 96)])
def test_depth_net_takes_any_multiple_of_32(height: int, width: int) -> None:
    disparity = DepthNet(4).eval()(torch.rand(1, 3, height, width))
    assert disparity.shape == (1, 1, height, width)
    assert 0 < disparity.min() and disparity.max() < 1


def test_channels_double_down_to_four_times_the_width() -> None:
    assert stage_channels(64, 8) == {4: 32, 8: 32, 16: 32, 32: 16, 64: 8}
    with pytest.raises(ValueError, match="power of two"):
        stage_channels(48, 8)


def test_the_doubled_convolution_is_enlarging_then_convolving() -> None:
    conv, x = torch.nn.Conv2d(3, 5, 3, padding=1).double(), torch.randn(2, 3, 4, 6).double()
    plain = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(doubled_conv(x, conv), plain)
    gradients = [
        torch.autograd.grad(out.square().sum(), list(conv.parameters()))
        for out in (doubled_conv(x, conv), plain)
    ]
    torch.testing.assert_close(*gradients)
