from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from argan.errors import InputError, ShapeError
from argan_train.metrics import (
    baselines,
    collapse,
    depth_scores,
    pearson,
    spearman,
    subject_in_front,
)


def scores(predicted, truth, ratios=True):
    predicted, truth = np.atleast_2d(predicted), np.atleast_2d(truth)
    return depth_scores(predicted, truth, np.ones(truth.shape, bool), ratios)


def test_any_scale_and_shift_of_the_truth_is_exact():
    got = scores([0.0, 1, 2], [1.0, 3, 5])
    wanted = {"rel_rmse": 0, "spearman": 1, "abs_rel": 0, "delta1": 1, "side": 0}
    assert got == pytest.approx(wanted, abs=1e-12)


def test_a_case_by_hand():
    # Best fit: scale 1, so 0.5, 0.5, 1.5, 1.5: off by 1/2 everywhere; the truth deviates sqrt(1/2).
    got = scores([0, 0, 1, 1], [0.0, 1, 1, 2], ratios=False)
    assert got["rel_rmse"] == pytest.approx(0.5 / math.sqrt(0.5))
    # Ranks 1.5 1.5 3.5 3.5 and 1 2.5 2.5 4.
    assert got["spearman"] == pytest.approx(3 / math.sqrt(4 * 4.5))
    assert set(got) == {"rel_rmse", "spearman"}, "no depth without an infinitely far zero"


def test_depth_metrics_by_hand():
    # A constant aligns to disparity 3/4: z = 4/3 where the depths are 1 and 2.
    got = scores([7, 7], [1, 0.5])
    assert got["abs_rel"] == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert got["delta1"] == 0  # ratios 4/3 and 3/2
    assert got["side"] == pytest.approx((math.log(4 / 3) + math.log(3 / 2)) / 2)
    assert scores([7, 7], [1, 0.9])["delta1"] == 1


def test_a_constant_is_one_and_zero_never_nan():
    for value in (0.0, 0.1, -3e8):
        got = scores(np.full(1000, value, np.float32), np.linspace(1, 2, 1000))
        assert (got["rel_rmse"], got["spearman"]) == (pytest.approx(1), 0)
        assert all(map(math.isfinite, got.values()))


def test_inside_out_is_no_better_than_a_constant():
    truth = np.linspace(1, 2, 50)
    assert scores(-truth, truth)["rel_rmse"] == pytest.approx(1)
    assert scores(-truth, truth)["spearman"] == pytest.approx(-1)


def test_depth_taken_for_disparity_is_seen():
    depth = np.linspace(1, 10, 100)
    assert scores(1 / depth, 1 / depth)["rel_rmse"] < 1e-9
    assert scores(depth, 1 / depth)["spearman"] == pytest.approx(-1)
    # The right order alone is not enough: -z is not an affine function of 1 / z.
    assert scores(-depth, 1 / depth)["spearman"] == pytest.approx(1)
    assert scores(-depth, 1 / depth)["rel_rmse"] > 0.4


def test_unknown_pixels_do_not_count():
    rng = np.random.default_rng(0)
    predicted, truth, valid = rng.random((8, 8)), 1 + rng.random((8, 8)), rng.random((8, 8)) < 0.5
    before = depth_scores(predicted, truth, valid, True)
    predicted[~valid], truth[~valid] = np.inf, np.nan
    assert depth_scores(predicted, truth, valid, True) == before


def test_a_map_that_aligns_below_zero_stays_finite():
    # The fit passes below disparity 0, behind infinity: such pixels count as the farthest truth.
    got = scores([0, 0.6, 0.6, 1], [0.1, 0.1, 0.1, 5])
    assert all(map(math.isfinite, got.values())) and got["abs_rel"] < 1.5


@pytest.mark.parametrize("pixel", [math.nan, math.inf])
def test_what_cannot_be_scored_is_refused(pixel):
    with pytest.raises(InputError, match="NaN or infinite"):
        scores([0, pixel], [1, 2])
    with pytest.raises(InputError, match="same everywhere"):
        scores([0, 1], [2, 2])
    with pytest.raises(ShapeError, match=r"\(1, 3\) does not match truth \(1, 2\)"):
        scores([0, 1, 2], [1, 2])


def test_correlations_match_scipy():
    rng = np.random.default_rng(1)
    a = rng.integers(0, 20, 500).astype(float)  # many ties
    b = a + rng.normal(0, 5, 500)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)
    assert spearman(np.array([1.0, 2, 2, 3]), np.arange(4.0)) == pytest.approx(4.5 / 22.5**0.5)
    assert spearman(a, np.ones(500)) == pearson(np.ones(500), a) == 0


def test_subject_in_front_counts_pairs():
    subject = np.array([[True, True], [False, False]])
    assert subject_in_front(np.array([[3, 1], [2, 0]]), subject) == 3 / 4
    assert subject_in_front(np.array([[1, 1], [0, 0]]), subject) == 1
    assert subject_in_front(np.array([[0, 0], [1, 1]]), subject) == 0
    assert subject_in_front(np.zeros((2, 2)), subject) == 1 / 2
    with pytest.raises(InputError, match="all or nothing"):
        subject_in_front(np.zeros((2, 2)), np.ones((2, 2), bool))
    with pytest.raises(ShapeError):
        subject_in_front(np.zeros((2, 3)), subject)


def test_baselines():
    maps = baselines(60, 100)
    assert {name: d.shape for name, d in maps.items()} == dict.fromkeys(
        ["constant", "radial", "ramp", "radial+ramp"], (60, 100)
    )
    radial = maps["radial"]
    assert np.all(radial[25:35, 45:55] == 0), "level within r_th"
    # Row 29 is half a pixel from the middle, column 0 49.5 px, in halves of the shorter side, 30.
    assert radial[29, 0] == pytest.approx(-(math.hypot(0.5, 49.5) / 30 - 0.35))
    np.testing.assert_allclose(radial, radial[::-1, ::-1])
    assert np.all(np.diff(maps["ramp"], axis=0) > 0) and np.all(np.diff(maps["ramp"], axis=1) == 0)
    both = maps["radial+ramp"]
    np.testing.assert_allclose(both - both[::-1], 2 * maps["ramp"] / maps["ramp"].std(), atol=1e-9)
    assert all(np.isfinite(d).all() for d in baselines(1, 1).values())


@pytest.fixture
def generated():
    """Smooth subjects, bright discs of several sizes before a plain background: image, inside."""
    y, x = np.mgrid[:32, :32] - 15.5
    inside = np.stack([np.hypot(x, y) < radius for radius in (7, 8, 9, 10)])[:, None]
    return np.repeat(np.where(inside, 0.8, 0.3), 3, axis=1), inside


PRIOR = baselines(32, 32)["radial"]


def test_collapse_sees_a_copy_of_the_prior(generated):
    image, _ = generated
    got = collapse(image, np.tile(3 * PRIOR, (4, 1, 1, 1)), PRIOR)
    assert got["prior_correlation"] == pytest.approx(1)
    assert got["variation_px"] == pytest.approx(0, abs=1e-12)


def test_collapse_sees_an_edge_map(generated):
    image, inside = generated
    rim = np.abs(np.diff(inside.astype(int), axis=3, prepend=0)) > 0
    rim |= np.abs(np.diff(inside.astype(int), axis=2, prepend=0)) > 0
    trap = collapse(image, np.where(rim, 0.0, -2.0), PRIOR)
    level = collapse(image, np.where(inside, 0.0, -2.0), PRIOR)
    assert trap["edge_correlation"] < -0.5 < -0.2 < level["edge_correlation"]
    assert trap["centre_px"] == trap["border_px"] == 2
    assert (level["centre_px"], level["border_px"]) == (0, 2)
    assert level["variation_px"] > 0.1 and level["prior_correlation"] < 0.9


def test_collapse_takes_tensors_and_constants_without_nan(generated):
    torch = pytest.importorskip("torch")
    image, _ = generated
    got = collapse(torch.tensor(image), torch.zeros(4, 1, 32, 32), torch.tensor(PRIOR)[None])
    assert got == dict.fromkeys(
        ["prior_correlation", "variation_px", "edge_correlation", "centre_px", "border_px"], 0
    )
