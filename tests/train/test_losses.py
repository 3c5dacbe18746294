"""Losses against values worked out by hand."""

import math

import torch

from argan_train import losses


def test_prior_is_flat_in_the_centre_and_falls_off_behind() -> None:
    prior = losses.center_focus_prior(8, radius=0.3, slope_px=2.0, limit_px=1.5)[0, 0]
    assert prior[4, 4] == 0  # r = 0.18
    r = math.hypot(0.625, 0.125)
    torch.testing.assert_close(float(prior[4, 6]), -2.0 * (r - 0.3))
    assert prior[0, 0] == -1.5  # r = 1.24 would be -1.87: held at the limit


def test_g_prior_is_the_mean_square() -> None:
    assert losses.g_prior(torch.full((2, 1, 4, 4), 3.0), torch.ones(1, 1, 4, 4)) == 4.0


def test_r1_of_a_linear_critic_is_half_its_squared_slope() -> None:
    slope = torch.randn(3, 4, 4)
    real = torch.rand(5, 3, 4, 4, requires_grad=True)
    logits = (real * slope).sum(dim=(1, 2, 3))
    torch.testing.assert_close(losses.d_r1(real, logits), 0.5 * slope.square().sum())


def test_adversarial_losses_at_a_hesitant_and_at_a_sure_critic() -> None:
    zero, sure = torch.zeros(4), torch.full((4,), 20.0)
    torch.testing.assert_close(float(losses.d_main(zero, zero)), 2 * math.log(2))
    assert losses.d_main(sure, -sure) < 1e-6 < losses.d_main(-sure, sure)
    assert losses.g_main(sure) < 1e-6 < losses.g_main(-sure)


def test_gradient_loss_ignores_a_shift_and_sees_a_moved_outline() -> None:
    step = torch.zeros(1, 1, 8, 8)
    step[..., 4:] = 1
    assert losses.gradient_loss(step + 0.3, step) < 1e-6
    assert losses.gradient_loss(step.roll(1, -1), step) > 0.05
