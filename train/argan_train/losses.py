"""The losses in named phases. Logits are higher for photos; disparities are in px."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def d_main(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Discriminator, -log C(photo) - log(1 - C(fake)), non-saturating logistic form."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def d_r1(real: Tensor, real_logits: Tensor) -> Tensor:
    """R1, 1/2 |grad C(photo)|^2 (Mescheder et al. 2018); `real` must require a gradient."""
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    return 0.5 * gradient.square().sum(dim=(1, 2, 3)).mean()


def g_main(fake_logits: Tensor) -> Tensor:
    """Generator, -log C(fake)."""
    return F.softplus(-fake_logits).mean()


def center_focus_prior(
    size: int, radius: float, slope_px: float, limit_px: float, device: torch.device | str = "cpu"
) -> Tensor:
    """D_p(r) = 0 within `radius`, -slope (r - radius) beyond (Kaneko 2021): [1, 1, S, S] px.

    r is the distance from the centre in half widths (1 at the middle of a side), slope_px is px per
    half width; the map stays within the disparity's own limit.
    """
    axis = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
    r = torch.hypot(axis[:, None], axis[None, :])
    return -(slope_px * (r - radius)).clamp(0, limit_px)[None, None]


def g_prior(disparity: Tensor, prior: Tensor) -> Tensor:
    """Mean squared distance of the disparity from the prior, px^2."""
    return (disparity - prior).square().mean()


def g_center(disparity: Tensor, prior: Tensor) -> Tensor:
    """The prior's flat part alone: mean squared disparity where D_p = 0, px^2."""
    flat = (prior == 0).to(disparity.dtype)
    return (disparity.square() * flat).mean() / flat.mean()


def g_blur_share(disparity: Tensor, limit_px: float, share: float) -> Tensor:
    """Squared shortfall, below `share`, of each sample's mean background disparity, mean(-D)/limit.

    All in focus is a perfect solution of the game too, once the generator draws blurred backgrounds
    itself. This asks that something lies behind the focal plane, and leaves open what. [N, 1, S, S]
    """
    behind = (-disparity / limit_px).mean(dim=(1, 2, 3))
    return (share - behind).clamp(min=0).square().mean()


def g_smoothness(disparity: Tensor) -> Tensor:
    """Total variation, mean |step| between neighbours in px: a hole inside a subject costs its rim.
    [N, 1, S, S]"""
    across, down = disparity.diff(dim=-1).abs().mean(), disparity.diff(dim=-2).abs().mean()
    return across + down


def g_rise(disparity: Tensor) -> Tensor:
    """How much the disparity rises on the way out from the centre: the mean of max(0, dD/dr), px
    per px. Along each ray things only get farther, which forbids holes in a subject and in-focus
    outlines around blurred petals, and leaves its shape open. [N, 1, S, S]"""
    down = (disparity[..., 1:, :] - disparity[..., :-1, :]).unfold(-1, 2, 1).mean(-1)
    across = (disparity[..., 1:] - disparity[..., :-1]).unfold(-2, 2, 1).mean(-1)
    axis = torch.arange(down.shape[-1], device=disparity.device) - (down.shape[-1] - 1) / 2
    r = torch.hypot(axis[:, None], axis[None, :]).clamp(min=0.5)
    return ((down * axis[:, None] + across * axis[None, :]) / r).clamp(min=0).mean()


def cross_entropy(predicted: Tensor, target: Tensor) -> Tensor:
    """Binary, of disparities as probabilities; NaN where one is NaN, so that the loop can say which
    loss it was: torch's own raises an error that doesn't. Both [N, 1, H, W] 0..1."""
    known = F.binary_cross_entropy(predicted.nan_to_num(), target.nan_to_num())
    return known + 0 * (predicted + target).sum()


def gradient_loss(predicted: Tensor, target: Tensor, scales: int = 3) -> Tensor:
    """L1 between the spatial gradients at several scales: keeps outlines where they are (Li and
    Snavely 2018). Both [N, 1, H, W]."""
    gap, total = predicted - target, predicted.new_zeros(())
    for _ in range(scales):
        total = total + (gap[..., 1:] - gap[..., :-1]).abs().mean()
        total = total + (gap[..., 1:, :] - gap[..., :-1, :]).abs().mean()
        gap = F.avg_pool2d(gap, 2)
    return total / scales


def scale_and_shift_invariant(predicted: Tensor, target: Tensor) -> Tensor:
    """L1 after each map's median is brought to 0 and its mean absolute deviation to 1 (Ranftl et
    al. 2020): disparities that differ in scale and shift alone cost nothing. Both [N, 1, H, W]."""

    def normal(x: Tensor) -> Tensor:
        x = x.flatten(1)
        from_median = x - x.median(dim=1, keepdim=True).values
        return from_median / from_median.abs().mean(dim=1, keepdim=True).clamp(min=1e-3)

    return (normal(predicted) - normal(target)).abs().mean()


RANKS = 64  # that a map's values are told apart by
LEAST_APART = 0.02  # between two of these, in logits: what lies closer has no order
BEYOND = 0.1  # the ends of the ranks, for values that the target has not


def rank_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of ranks, 0..1: both maps through the target's cumulative histogram, as
    in histogram equalisation. Cross-entropy says nothing of an order within what is near
    throughout, a flower say, and this does as much of it as of anything else: where the two have
    one histogram, it is (1 - Spearman) / 6. Both [N, 1, H, W] 0..1; the gradient is of predicted.
    """
    logits, known = (torch.logit(x.flatten(1), 1e-4) for x in (predicted, target))
    ranks = torch.linspace(0, 1, RANKS + 1, device=known.device)
    places = (ranks * (known.shape[1] - 1)).long()
    quantiles = known.sort(dim=1).values[:, places].contiguous()

    def rank(x: Tensor) -> Tensor:
        below = (torch.searchsorted(quantiles, x.detach()) - 1).clamp(0, RANKS - 1)
        low, high = quantiles.gather(1, below), quantiles.gather(1, below + 1)
        part = (x - low) / (high - low).clamp(min=LEAST_APART)
        return (ranks[below] + part / RANKS).clamp(-BEYOND, 1 + BEYOND)

    return (rank(logits) - rank(known)).square().mean()


def edge_aware_smoothness(disparity: Tensor, image: Tensor) -> Tensor:
    """mean |step of the disparity| exp(-10 |step of the image|) (Godard et al. 2017): a step costs
    little where the image has one too. [N, 1, H, W], [N, 3, H, W]"""
    total = disparity.new_zeros(())
    for dim in (-1, -2):
        colour = image.diff(dim=dim).abs().mean(dim=1, keepdim=True)
        total = total + (disparity.diff(dim=dim).abs() * torch.exp(-10 * colour)).mean()
    return total
