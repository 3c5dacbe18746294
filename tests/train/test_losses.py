"""Losses against values worked out by hand."""

import math

import pytest
import torch

from argan.metrics import spearman
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


def test_cross_entropy_by_hand_and_of_what_is_not_a_number() -> None:
    predicted = torch.tensor([0.25, 1.0, 0.0]).view(1, 1, 1, 3).requires_grad_()
    target = torch.tensor([0.5, 1.0, 0.0]).view(1, 1, 1, 3)
    loss = losses.cross_entropy(predicted, target)
    assert loss.item() == pytest.approx(-0.5 * math.log(0.25 * 0.75) / 3)
    loss.backward()
    assert predicted.grad is not None and predicted.grad.isfinite().all()
    broken = torch.tensor([0.25, math.nan, 0.0]).view(1, 1, 1, 3)
    assert math.isnan(losses.cross_entropy(broken, target))
    assert math.isnan(losses.cross_entropy(target, broken))


def test_the_distance_of_ranks_is_spearmans_and_sees_order_within_a_subject() -> None:
    rng = torch.Generator().manual_seed(0)
    target = torch.rand(3, 1, 24, 32, generator=rng) * 0.9 + 0.05
    order = torch.arange(24 * 32)
    order[:384] = order[:384][torch.randperm(384, generator=rng)]  # the same values, elsewhere
    predicted = target.flatten(1)[:, order].view_as(target).requires_grad_()
    distance = losses.rank_distance(predicted, target)
    expected = [(1 - spearman(p, t)) / 6 for p, t in zip(
        predicted.detach().flatten(1).numpy(), target.flatten(1).numpy(), strict=True)]  # fmt: skip
    assert distance.item() == pytest.approx(sum(expected) / 3, rel=0.005)  # seen: 0.001
    assert losses.rank_distance(target, target) < 1e-9
    distance.backward()
    assert predicted.grad is not None and predicted.grad.isfinite().all()

    # By hand: 65 values, each the next rank, and what lies half-way between two is half a rank off.
    values = torch.linspace(1, 3, losses.RANKS + 1).square()
    between = torch.cat([(values[1:] + values[:-1]) / 2, values[-1:]])
    known, said = (x.sigmoid().view(1, 1, 5, -1) for x in (values, between))
    by_hand = (0.5 / losses.RANKS) ** 2 * losses.RANKS / (losses.RANKS + 1)
    assert losses.rank_distance(said, known).item() == pytest.approx(by_hand, rel=0.01)

    subject = 0.97 + 0.02 * target  # all of it near: cross-entropy hardly tells one from the other
    turned = subject.flip(-1)
    entropy = losses.cross_entropy(turned, subject) - losses.cross_entropy(subject, subject)
    assert entropy < 0.002 and 0.1 < losses.rank_distance(turned, subject)


def test_the_distance_of_ranks_without_order_at_the_ends_and_of_what_is_not_a_number() -> None:
    flat, ends = torch.full((1, 1, 8, 8), 0.5), torch.eye(8)[None, None]
    assert losses.rank_distance(flat, flat) == 0
    for predicted, target in ((ends, flat), (flat, ends), (ends, ends)):
        learns = predicted.clone().requires_grad_()
        losses.rank_distance(learns, target).backward()
        assert learns.grad is not None and learns.grad.isfinite().all()
    assert math.isnan(losses.rank_distance(flat * math.nan, flat))
    assert math.isnan(losses.rank_distance(flat, flat * math.nan))


def test_gradient_loss_ignores_a_shift_and_sees_a_moved_outline() -> None:
    step = torch.zeros(1, 1, 8, 8)
    step[..., 4:] = 1
    assert losses.gradient_loss(step + 0.3, step) < 1e-6
    assert losses.gradient_loss(step.roll(1, -1), step) > 0.05


def test_scale_and_shift_cost_nothing_but_shape_does() -> None:
    target = torch.rand(2, 1, 8, 8)
    loss = losses.scale_and_shift_invariant
    each = torch.tensor([0.3, 3.0]).view(2, 1, 1, 1)  # a scale and a shift of its own
    assert float(loss(each * target + each, target)) < 1e-5
    assert float(loss(-target, target)) > 1
    # By hand: medians 0, mean deviations 2/3 and 1.
    a, b = torch.tensor([-1.0, 0, 1]).view(1, 1, 1, 3), torch.tensor([-1.0, 0, 2]).view(1, 1, 1, 3)
    assert float(loss(a, b)) == pytest.approx((0.5 + 0 + 0.5) / 3)


def test_a_step_of_disparity_is_cheap_at_an_edge_of_the_image() -> None:
    disparity = torch.zeros(1, 1, 4, 4)
    disparity[..., 2:] = 1.0
    flat, edge = torch.zeros(1, 3, 4, 4), disparity.expand(-1, 3, -1, -1)
    smoothness = losses.edge_aware_smoothness
    assert float(smoothness(disparity, flat)) == pytest.approx(1 / 3)
    assert float(smoothness(disparity, edge)) == pytest.approx(math.exp(-10) / 3)
    assert float(smoothness(disparity, edge.transpose(2, 3))) == pytest.approx(1 / 3)


def test_what_is_nearer_again_on_the_way_out_costs_its_rise() -> None:
    y, x = torch.meshgrid(*[torch.arange(9.0) - 4] * 2, indexing="ij")
    y_between, x_between = torch.meshgrid(*[torch.arange(8.0) - 3.5] * 2, indexing="ij")
    r = torch.hypot(x_between, y_between)
    bowl = (x**2 + y**2)[None, None] / 2  # dD/dr = r
    assert float(losses.g_rise(bowl)) == pytest.approx(float(r.mean()))
    assert float(losses.g_rise(-bowl)) == 0
    slope = (3 * x - 2 * y)[None, None]
    outward = ((3 * x_between - 2 * y_between) / r).clamp(min=0).mean()
    assert float(losses.g_rise(slope)) == pytest.approx(float(outward))
    inside = (torch.hypot(x, y - 1) < 3.2).float()[None, None]  # a subject beside the centre
    hole = (torch.hypot(x, y - 1) < 1.2).float()[None, None]
    assert float(losses.g_rise(inside)) == 0 < float(losses.g_rise(inside - hole))
