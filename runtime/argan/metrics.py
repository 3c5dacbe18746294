"""How near is one map to another, or to the truth? Signal ratios and depth metrics.

Of truth, disparity (larger = nearer) is known up to scale and shift: every depth metric first fits
scale * prediction + shift to the truth by least squares. The scale is never negative, so a map
turned inside out scores as a constant, not as a perfect one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from argan.errors import InputError, ShapeError

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]

MOST_DB = 300.0  # said of two arrays that are the same: JSON knows no infinity


def psnr(got: NDArray[Any], expected: NDArray[Any], peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, within +-MOST_DB; the least where `got` is not finite."""
    return _decibels(peak**2, float(np.mean((got.astype(np.float64) - expected) ** 2)))


def snr(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Signal-to-noise ratio in dB, the signal being what deviates from its mean."""
    error = float(np.mean((got.astype(np.float64) - expected) ** 2))
    return _decibels(float(np.var(expected.astype(np.float64))), error)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return MOST_DB
    return 10 * math.log10(max(signal, 1e-30) / noise) if noise < math.inf else -MOST_DB


def depth_scores(predicted: Array, truth: Array, valid: Mask, ratios: bool) -> dict[str, float]:
    """Disparities [H, W] and where the truth is known -> {metric: value}.

    rel_rmse  RMSE of the aligned disparity over the truth's own deviation: 1 = a constant
    spearman  rank correlation, before any alignment: 0 for a constant, -1 for the wrong way round
    and, where the truth's zero is infinitely far, so that `ratios` of it are ratios of depth, with
    depth z = 1 / disparity of the aligned map, which may be no farther than the farthest truth:
    abs_rel   mean |z - z*| / z* (Eigen et al. 2014)
    delta1    share of pixels with max(z / z*, z* / z) < 1.25 (Eigen et al. 2014)
    side      sqrt(mean(d^2) - mean(d)^2), d = log z - log z* (Wu et al. 2020)
    """
    given, true = _known(predicted, truth, valid)
    aligned = align(given, true)
    scores = {
        "rel_rmse": float(np.sqrt(np.mean((aligned - true) ** 2)) / np.std(true)),
        "spearman": spearman(given, true),
    }
    if ratios:
        ratio = true / np.maximum(aligned, true.min())  # z / z*
        scores["abs_rel"] = float(np.mean(np.abs(ratio - 1)))
        scores["delta1"] = float(np.mean(np.maximum(ratio, 1 / ratio) < 1.25))
        scores["side"] = float(np.std(np.log(ratio)))
    return scores


def align(predicted: Array, truth: Array) -> Array:
    """scale * predicted + shift nearest to the truth in least squares, scale >= 0: both [N]."""
    if predicted.min() == predicted.max():
        return np.full_like(truth, truth.mean())
    from_mean = predicted - predicted.mean()
    scale = max(0.0, float(np.sum(from_mean * truth) / np.sum(from_mean**2)))
    aligned: Array = scale * from_mean + truth.mean()
    return aligned


def spearman(a: Array, b: Array) -> float:
    """Rank correlation of two [N]; ties share their mean rank. 0 where one of them is constant."""
    return pearson(ranks(a), ranks(b))


def pearson(a: Array, b: Array) -> float:
    """Correlation of two [N]. 0, not NaN, where one of them is constant."""
    if a.min() == a.max() or b.min() == b.max():
        return 0.0
    from_a, from_b = a - a.mean(), b - b.mean()
    return float(np.sum(from_a * from_b) / np.sqrt(np.sum(from_a**2) * np.sum(from_b**2)))


def _known(predicted: Array, truth: Array, valid: Mask) -> tuple[Array, Array]:
    """Both at the valid pixels, float64 [N]; refuses what can't be scored."""
    if not predicted.shape == truth.shape == valid.shape:
        raise ShapeError(
            f"disparity {predicted.shape} does not match truth {truth.shape}, mask {valid.shape}"
        )
    given, true = predicted[valid].astype(np.float64), truth[valid].astype(np.float64)
    if not np.isfinite(given).all():
        raise InputError("the predicted disparity has NaN or infinite pixels")
    if len(true) < 2 or true.min() == true.max():
        raise InputError("the true disparity is the same everywhere: nothing to score")
    return given, true


def ranks(values: Array) -> Array:
    """Rank of each value, ties sharing their mean: [N] -> [N]."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank: Array = np.cumsum(count) - (count - 1) / 2
    return mean_rank[group]
