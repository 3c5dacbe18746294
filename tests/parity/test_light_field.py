"""Every light-field renderer against the reference in numpy, view by view.

Views, not their mean: a round pupil is symmetric, so a flipped sign gives the same photograph.
"""

import importlib
from collections.abc import Callable

import numpy as np
import pytest

from argan import lens, render
from argan.optics import Aperture

# Largest gap seen over the apertures below, and what it is made of.
TOLERANCE = {
    "numpy": 0.0,  # the judge itself
    "cpu": 1e-5,  # 3.2e-6: float32 positions
    "torch": 1e-5,  # 5.7e-6: float32 positions, scaled to -1..1 and back
}
APERTURES = {
    "5x5": Aperture("grid", 5),
    "disc": Aperture("disc", 33),
    "polygon": Aperture("polygon", 20, blades=5, rotation=0.3),
}
Views = Callable[[np.ndarray, np.ndarray, Aperture], np.ndarray]


def torch_views(image: np.ndarray, disparity: np.ndarray, aperture: Aperture) -> np.ndarray:
    torch = pytest.importorskip("torch")
    renderer = importlib.import_module("argan_train.render")
    count = len(aperture.samples())
    maps = np.broadcast_to(disparity, (count, *image.shape[:2]))
    views = renderer.light_field(
        torch.from_numpy(image).permute(2, 0, 1)[None],
        torch.from_numpy(maps.copy())[None],
        aperture,
    )
    return views[0].permute(0, 2, 3, 1).numpy()


RENDERERS: dict[str, Views] = {
    "numpy": render.views,
    "cpu": lens.light_field_views,
    "torch": torch_views,
}


@pytest.fixture(params=TOLERANCE)
def renderer(request) -> tuple[Views, float]:
    return RENDERERS[request.param], TOLERANCE[request.param]


@pytest.fixture(params=APERTURES)
def aperture(request) -> Aperture:
    return APERTURES[request.param]


def scene(views: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Noise: unlike itself in every mirror, with shifts of all signs, many across the border."""
    rng = np.random.default_rng(7)
    shape = (37, 53) if views is None else (views, 37, 53)
    image = rng.random((37, 53, 3)).astype(np.float32)
    return image, (12 * rng.random(shape) - 6).astype(np.float32)


def gap(views: np.ndarray, image: np.ndarray, disparity: np.ndarray, aperture: Aperture) -> float:
    return float(np.abs(views - render.views(image, disparity, aperture)).max())


def test_views_match_the_reference(renderer, aperture):
    run, tolerance = renderer
    image, disparity = scene()
    views = run(image, disparity, aperture)
    assert views.shape == (len(aperture.samples()), 37, 53, 3)
    assert gap(views, image, disparity, aperture) <= tolerance


def test_one_map_per_view_matches_the_reference(renderer, aperture):
    run, tolerance = renderer
    image, disparity = scene(len(aperture.samples()))
    assert gap(run(image, disparity, aperture), image, disparity, aperture) <= tolerance


def flipped_u(image, disparity, samples):
    return [render.sample(image, -u * disparity, v * disparity) for u, v, _ in samples]


def flipped_v(image, disparity, samples):
    return [render.sample(image, u * disparity, -v * disparity) for u, v, _ in samples]


def swapped_axes(image, disparity, samples):
    return [render.sample(image, v * disparity, u * disparity) for u, v, _ in samples]


def half_pixel_shift(image, disparity, samples):
    return [render.sample(image, u * disparity + 0.5, v * disparity) for u, v, _ in samples]


def corners_not_aligned(image, disparity, samples):
    """Positions scaled by (W - 1) / W about the centre: align_corners taken the other way."""
    height, width = image.shape[:2]
    x = (np.arange(width) - (width - 1) / 2) / width
    y = (np.arange(height)[:, None] - (height - 1) / 2) / height
    return [render.sample(image, u * disparity - x, v * disparity - y) for u, v, _ in samples]


def reflected_edge(image, disparity, samples):
    wide = np.pad(image, ((8, 8), (8, 8), (0, 0)), mode="reflect")
    maps = np.pad(disparity, 8)
    return [render.sample(wide, u * maps, v * maps)[8:-8, 8:-8] for u, v, _ in samples]


ERRORS = [
    flipped_u,
    flipped_v,
    swapped_axes,
    half_pixel_shift,
    corners_not_aligned,
    reflected_edge,
]


@pytest.mark.parametrize("error", ERRORS)
def test_a_planted_error_fails_the_check(error):
    image, disparity = scene()
    for name, aperture in APERTURES.items():
        wrong = np.stack(error(image, disparity, aperture.samples()))
        assert gap(wrong, image, disparity, aperture) > 100 * max(TOLERANCE.values()), name


def test_the_mean_alone_would_miss_a_flipped_sign():
    image, disparity = scene()
    aperture = APERTURES["5x5"]
    flipped = np.mean(flipped_u(image, disparity, aperture.samples()), axis=0)
    right = render.light_field(image, disparity, aperture)
    assert float(np.abs(flipped - right).max()) < max(TOLERANCE.values())


def test_photograph_is_the_mean_of_the_views(aperture):
    image, disparity = scene()
    fast = lens.light_field(image, disparity, aperture)
    assert np.abs(fast - render.light_field(image, disparity, aperture)).max() < TOLERANCE["cpu"]


def test_strips_of_a_tall_picture_meet():
    rng = np.random.default_rng(7)
    image = rng.random((300, 21, 3)).astype(np.float32)
    disparity = (12 * rng.random((300, 21)) - 6).astype(np.float32)
    fast = lens.light_field(image, disparity, APERTURES["5x5"])
    assert np.abs(fast - render.light_field(image, disparity, APERTURES["5x5"])).max() < 1e-5
