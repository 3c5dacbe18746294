"""How good is a disparity? `argan.metrics` with baselines, and two measures of collapse."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from argan.errors import InputError, ShapeError
from argan.metrics import depth_scores, pearson, ranks, spearman

__all__ = [
    "baselines", "collapse", "depth_scores", "pearson", "spearman", "subject_in_front",
]  # fmt: skip

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]

PRIOR_RADIUS = 0.35  # r_th in half widths, the training's default (ArGanConfig.prior_radius)
BORDER_RADIUS = 0.8  # in half widths: the middle of a side is at 1, a corner at 1.41


def subject_in_front(predicted: Array, subject: Mask) -> float:
    """Share of pairs of a pixel inside the subject's mask and one outside in which the former is
    nearer, ties counting half: [H, W] -> 1 = always, 1/2 = a constant. (The medians of both would
    not do: for nearly every centred portrait the radial prior puts them in order.)"""
    if predicted.shape != subject.shape:
        raise ShapeError(f"disparity {predicted.shape} does not match mask {subject.shape}")
    inside = int(subject.sum())
    pairs = inside * (subject.size - inside)
    if not pairs:
        raise InputError("the mask covers all or nothing: nothing can be in front")
    # Mann and Whitney's U: ranks count the pixels below, among them the subject's own.
    below = ranks(predicted.ravel())[subject.ravel()].sum() - inside * (inside + 1) / 2
    return float(below / pairs)


def baselines(height: int, width: int) -> dict[str, Array]:
    """Depth without looking: {name: disparity [H, W]}.

    constant     nothing at all
    radial       the center focus prior D_p(r) = -(r - r_th) beyond r_th (Kaneko 2021)
    ramp         lower in the frame is nearer
    radial+ramp  equal parts of both, each brought to deviation 1: a fixed map, so that every
                 baseline has the same two free numbers, scale and shift, as the model
    """
    y, x = _half_widths(height, width)
    radial = -np.maximum(np.hypot(y, x) - PRIOR_RADIUS, 0)
    ramp = np.broadcast_to(y, (height, width)).copy()
    both = radial / max(radial.std(), 1e-12) + ramp / max(ramp.std(), 1e-12)
    return {
        "constant": np.zeros((height, width)),
        "radial": radial,
        "ramp": ramp,
        "radial+ramp": both,
    }


def collapse(image: Any, disparity: Any, prior: Any) -> dict[str, float]:
    """Is a generator's D only a copy of the prior, or an edge map? Arrays or CPU tensors: image
    [N, 3, S, S], disparity [N, 1, S, S] px, prior [S, S] px.

    prior_correlation  of D with the prior over pixels, mean over samples; near 1 = a copy
    variation_px       deviation of D over samples, mean over pixels; near 0 = a copy
    edge_correlation   of |D| with the gradient of the image, mean over samples; strongly negative =
                       an edge map: in focus along outlines, blurred inside and outside alike
    centre_px          mean |D| within r_th of the centre; an edge map blurs it as much
    border_px          as the border, mean |D| beyond BORDER_RADIUS
    Both traps are this project's own findings, on the toy world and on real flowers, after the
    ambiguities that the paper names (Kaneko 2021): the prior kept too long, smooth texture.
    """
    image, disparity = np.asarray(image, np.float64), np.asarray(disparity, np.float64)
    count, size = len(disparity), disparity.shape[-1]
    maps, prior = disparity.reshape(count, -1), np.asarray(prior, np.float64).ravel()
    down, across = np.gradient(image.mean(axis=1), axis=(1, 2))
    edges = np.hypot(down, across).reshape(count, -1)
    r = np.hypot(*_half_widths(size, size)).ravel()
    blur = np.abs(maps)
    return {
        "prior_correlation": float(np.mean([pearson(D, prior) for D in maps])),
        "variation_px": float(maps.std(axis=0).mean()),
        "edge_correlation": float(np.mean(list(map(pearson, blur, edges)))),
        "centre_px": float(blur[:, r <= PRIOR_RADIUS].mean()),
        "border_px": float(blur[:, r >= BORDER_RADIUS].mean()),
    }


def _half_widths(height: int, width: int) -> tuple[Array, Array]:
    """Position of pixel centres from the middle, in halves of the shorter side: [H, 1], [1, W]."""
    shorter = min(height, width)
    y, x = 2 * np.arange(height) + 1 - height, 2 * np.arange(width) + 1 - width
    return y[:, None] / shorter, x[None, :] / shorter
