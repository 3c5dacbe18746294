from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, map_coordinates, maximum_filter, spline_filter

from argan.errors import InputError
from argan_train.toy import DiscBlur, ToyWorld, linear_to_srgb, srgb_to_linear

GOLDEN_ANGLE = np.pi * (3 - 5**0.5)


@pytest.fixture(scope="module")
def batch():
    return ToyWorld(32, seed=3).batch(128)


def test_shapes_types_and_ranges(batch):
    shapes = {name: value.shape for name, value in vars(batch).items()}
    assert shapes == {
        "image": (128, 3, 32, 32), "sharp": (128, 3, 32, 32), "disparity": (128, 1, 32, 32),
        "alpha": (128, 1, 32, 32), "focus": (128,), "lens": (128,),
    }  # fmt: skip
    assert all(value.dtype == np.float32 for value in vars(batch).values())
    for value in (batch.image, batch.sharp, batch.disparity, batch.alpha, batch.focus):
        assert value.min() >= 0 and value.max() <= 1


def test_the_seed_decides_everything():
    first, again, other = (ToyWorld(16, seed=seed) for seed in (1, 1, 2))
    one, same, different = first.batch(8), again.batch(8), other.batch(8)
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(same, name))
    assert not np.array_equal(one.image, different.image)
    assert not np.array_equal(one.image, first.batch(8).image), "batches repeat"


def test_the_subject_is_in_focus(batch):
    whole = np.broadcast_to(batch.alpha == 1, batch.image.shape)
    np.testing.assert_array_equal(batch.image[whole], batch.sharp[whole])


def test_a_pinhole_takes_the_sharp_picture_and_a_wide_lens_does_not(batch):
    pinhole = batch.lens == 0
    np.testing.assert_array_equal(batch.image[pinhole], batch.sharp[pinhole])
    change = np.abs(batch.image - batch.sharp).max(axis=(1, 2, 3))
    assert change[~pinhole].min() > 1 / 255


@pytest.mark.parametrize("probability", [0, 1])
def test_blur_probability(probability):
    lens = ToyWorld(16, blur_probability=probability).batch(32).lens
    assert np.all((lens > 0) == bool(probability))
    assert lens.max() <= 0.09 * 16


def test_disparity_agrees_with_alpha_and_focus(batch):
    focus = np.broadcast_to(batch.focus[:, None, None, None], batch.alpha.shape)
    inside = batch.alpha > 0.5
    np.testing.assert_array_equal(batch.disparity[inside], focus[inside])
    assert np.all(batch.disparity[~inside] < focus[~inside] - 0.1), "something before the subject"


def test_the_middle_plane_adds_a_third_disparity():
    def planes(mid_plane):
        maps = ToyWorld(32, seed=0, mid_plane=mid_plane).batch(64).disparity
        return max(len(np.unique(d)) for d in maps)

    assert (planes(False), planes(True)) == (2, 3)


def test_disc_blur_has_the_first_zero_of_a_disc():
    # A disc of radius r blots out waves of 3.8317 / (2 pi r) cycles per px, the first zero of J1;
    # taken for a diameter, the same number would leave 0.6 of them.
    wave = np.cos(2 * np.pi * 8 / 64 * np.arange(64, dtype=np.float32))
    plane = np.tile(wave, (2, 1, 64, 1))
    radius = np.array([3.8317 / (2 * np.pi * 8 / 64), 0], np.float32)
    blurred, untouched = DiscBlur(64, 5)(plane, radius)
    assert np.abs(blurred).max() < 2e-3  # 5e-4 seen: steps of the table
    np.testing.assert_array_equal(untouched, plane[1])


def test_the_background_is_blurred_by_lens_times_distance():
    """The mean of the sharp picture over a disc, in linear light, is the picture as taken, where
    no subject is near; other radii and other light fit worse."""
    scenes = ToyWorld(64, seed=4, blur_probability=1, mid_plane=False).batch(4)
    background = scenes.disparity.min(axis=(1, 2, 3))
    radius = scenes.lens * (scenes.focus - background)

    def gap(scale, decode):
        errors = []
        for i in range(len(radius)):
            sharp, taken = decode(scenes.sharp[i]), decode(scenes.image[i])
            reach = int(np.ceil(2 * radius[i])) + 2
            near = maximum_filter(scenes.alpha[i, 0], 2 * reach + 1, mode="constant", cval=1)
            errors.append((disc_mean(sharp, scale * radius[i]) - taken)[:, near == 0].ravel())
        return np.sqrt(np.mean(np.concatenate(errors) ** 2))

    gaps = {scale: gap(scale, srgb_to_linear) for scale in (0.5, 0.9, 1.0, 1.1, 2.0)}
    assert min(gaps, key=gaps.get) == 1.0
    assert gaps[1.0] < 0.002  # 0.0009 seen: cubic interpolation; 0.004 at a radius 10 % off
    assert gap(1.0, lambda srgb: srgb) > 5 * gaps[1.0], "blurred in sRGB"


def disc_mean(image, radius, points=60):
    """Mean over a disc by cubic interpolation: [3, S, S] -> [3, S, S]."""
    splines = [spline_filter(plane) for plane in image]
    y, x = np.mgrid[: image.shape[1], : image.shape[2]].astype(float)
    out = np.zeros_like(image)
    for i in range(points):
        r, angle = radius * np.sqrt((i + 0.5) / points), i * GOLDEN_ANGLE
        at = [y + r * np.sin(angle), x + r * np.cos(angle)]
        out += np.stack([map_coordinates(spline, at, prefilter=False) for spline in splines])
    return out / points


def test_smooth_subjects_have_no_texture_and_textured_ones_do():
    def roughness(probability):
        scenes = ToyWorld(32, seed=5, smooth_probability=probability).batch(64)
        light = scenes.sharp.mean(axis=1)
        steps = np.abs(np.diff(light, axis=2))[:, :, :-1]
        inside = np.stack([binary_erosion(a[0] == 1, iterations=2) for a in scenes.alpha])
        return np.mean(steps[inside[:, :, 1:-1]])

    smooth, textured = roughness(1), roughness(0)
    assert smooth < 0.01  # 0.005 seen: the shading
    assert textured > 4 * smooth  # 7.8 seen


def test_subjects_off_centre_are_where_they_were_asked_to_be():
    def distance(**place):
        alpha = ToyWorld(32, seed=6).batch(64, **place).alpha[:, 0]
        steps = (np.arange(32) + 0.5) / 16 - 1
        mass = alpha.sum(axis=(1, 2))
        x, y = (alpha * steps).sum((1, 2)) / mass, (alpha * steps[:, None]).sum((1, 2)) / mass
        return np.median(np.hypot(x, y))

    assert distance() < 0.2
    assert distance(off_centre=0.4) == pytest.approx(0.4, abs=0.08)


def test_srgb_there_and_back():
    levels = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(levels)), levels, atol=1 / 510)
    assert srgb_to_linear(np.array(0.5)) == pytest.approx(0.21404, abs=1e-5)  # IEC 61966-2-1
    np.testing.assert_array_equal(linear_to_srgb(np.array([-1, 2], np.float32)), [0, 1])


def test_thousands_of_pictures_take_seconds():
    world = ToyWorld(32)
    start = time.process_time()
    for _ in range(8):
        world.batch(250)
    assert time.process_time() - start < 6  # 0.6 s on one core, more on a busy one


def test_a_size_too_small_is_an_error():
    with pytest.raises(InputError, match="give 8 or more"):
        ToyWorld(4)
