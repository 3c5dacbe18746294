"""Subjects cut out of photos by a rough disparity, and the lessons made of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from argan.errors import InputError
from argan_train import cutouts
from argan_train.cutouts import Cutouts, compose, cut_out, lesson, place, segment, slope

SIZE = 48


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A reddish disc before green, both noisy: photo, the disc, and a disparity that is rough."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    disc = (x - 26) ** 2 + (y - 22) ** 2 < 13**2
    photo = np.where(disc[..., None], (190, 60, 70), (60, 120, 50))
    photo = photo + rng.normal(0, 25, photo.shape)
    rough = np.exp(-((x - 23) ** 2 + (y - 25) ** 2) / (2 * 11**2)) + rng.normal(0, 0.05, disc.shape)
    return photo.clip(0, 255).astype(np.uint8), disc, rough.astype(np.float32)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_the_cut_follows_the_photo_and_not_the_disparity() -> None:
    photo, disc, rough = scene()
    assert overlap(rough > 0.5 * rough.max(), disc) < 0.8  # seen: 0.70
    mask = segment(photo, rough)
    assert mask is not None and overlap(mask, disc) > 0.97  # seen: 1.0


@pytest.mark.parametrize("fault", ["flat", "elsewhere", "tiny", "everything"])
def test_a_cut_that_cannot_be_right_is_left_out(fault: str) -> None:
    photo, disc, rough = scene()
    y, x = np.mgrid[:SIZE, :SIZE]
    rough = {
        "flat": np.full_like(rough, 0.5),
        "elsewhere": np.exp(-((x - 4) ** 2 + (y - 44) ** 2) / 128).astype(np.float32) + rough / 20,
        "tiny": np.float32(0.01) * rough + ((x - 26) ** 2 + (y - 22) ** 2 < 4),
        "everything": (1 - (x == 0)).astype(np.float32) + rough / 100,
    }[fault]
    if fault == "tiny":
        photo = np.where(((x - 26) ** 2 + (y - 22) ** 2 < 4)[..., None], 250, 20 + photo // 16)
    mask = segment(photo.astype(np.uint8), rough)
    assert mask is None


def test_what_is_surely_near_or_far_stays_so() -> None:
    """A red patch in the farthest tenth, and a green one in the nearest."""
    photo, disc, rough = scene()
    far, near = np.zeros_like(disc), np.zeros_like(disc)
    far[-6:, -6:] = near[20:26, 20:26] = True
    photo[far], photo[near] = photo[22, 30], photo[2, 2]
    rough[far], rough[near] = -0.5, 1.5
    mask = segment(photo, rough)
    assert mask is not None and mask[near].all() and not mask[far].any()


@pytest.mark.parametrize("area", [(0.3, 0.8), (0.05, 0.15)])
def test_a_subject_fills_neither_nothing_nor_the_frame(
    area: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, disc, rough = scene()
    assert 0.2 < disc.mean() < 0.25
    monkeypatch.setattr(cutouts, "AREA", area)
    assert segment(photo, rough) is None


def test_a_cut_is_the_same_each_time() -> None:
    photo, _, rough = scene()
    noisy = photo + np.random.default_rng(1).normal(0, 100, photo.shape)
    photo = cv2.GaussianBlur(noisy.clip(0, 255).astype(np.uint8), (0, 0), 1)
    several = []
    for seed in range(5):
        cv2.setRNGSeed(seed + 1)  # what others did before
        several.append(segment(photo, rough))
    assert several[0] is not None
    assert all(mask is not None and (mask == several[0]).all() for mask in several)


def scenes(n: int) -> torch.Tensor:
    photos = np.array([scene(i)[0] for i in range(n)])
    return torch.from_numpy(photos).permute(0, 3, 1, 2).contiguous()


def redness(image: torch.Tensor) -> torch.Tensor:
    """A student."""
    return F.avg_pool2d((image[:, :1] - image[:, 1:2]).clamp(0, 1), 9, 1, 4)


@pytest.fixture(scope="module")
def cut() -> Cutouts:
    """16 photos, all with a disc that touches no border."""
    discs = torch.from_numpy(scene()[1]).expand(16, 1, SIZE, SIZE)
    return Cutouts(scenes(16), discs, torch.arange(16))


def test_photos_are_cut_alike_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = scenes(40)
    threads = torch.get_num_threads()
    try:
        several = []
        for n in (1, 2):
            torch.set_num_threads(n)
            several.append(cut_out(photos, redness))
    finally:
        torch.set_num_threads(threads)
    one, two = several
    assert len(one.photos) == 40 and torch.equal(one.masks, two.masks)
    assert overlap(one.masks[7, 0].numpy(), scene()[1]) > 0.97
    assert torch.equal(one.photos, photos)
    assert torch.equal(one.loose, torch.arange(40))
    monkeypatch.setattr(cutouts, "MOST", 20)  # spread over all
    some = cut_out(photos, redness)
    assert len(some.photos) == 20
    assert torch.equal(some.photos[0], photos[0]) and torch.equal(some.photos[-1], photos[-1])


def test_a_photo_is_seen_in_the_mirror_too(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = []
    monkeypatch.setattr(cutouts, "segment", lambda photo, level: levels.append(level))
    ramp = torch.linspace(0, 1, SIZE)  # which it says of any photo

    with pytest.raises(InputError):
        cut_out(scenes(2), lambda image: redness(image) + ramp)
    seen = redness(scenes(2).float() / 255)[:, 0] + 0.5
    np.testing.assert_allclose(np.array(levels), seen, atol=1e-6)


def test_a_subject_cut_by_the_frame_is_not_put_elsewhere() -> None:
    photos = scenes(20)
    photos[-3:] = photos[-3:].roll(-26, dims=3)  # the disc's left half leaves the frame
    photos[-3:, :, :, -26:] = photos[-3:, :, :, -27:-26]
    cut = cut_out(photos, redness)
    assert len(cut.photos) == 20 and cut.loose.tolist() == list(range(17))


def test_a_student_that_sees_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="cut 0 of 20 photos, and 0 subjects are whole"):
        cut_out(scenes(20), lambda image: torch.full((len(image), 1, SIZE, SIZE), 0.5))


def test_a_picture_is_placed_where_it_is_asked(cut: Cutouts) -> None:
    image, mask = cut.draw(16, torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    same, own = place(image, mask, SIZE, (1.0, 1.0), 0.0, "zeros", rng)
    sides = []
    for a, b, c, d in zip(image, same, mask, own, strict=True):
        sides.append(mirrored := not torch.allclose(a, b, atol=1e-4))
        torch.testing.assert_close(a.flip(-1) if mirrored else a, b, atol=1e-4, rtol=0)
        torch.testing.assert_close(c.flip(-1) if mirrored else c, d, atol=1e-4, rtol=0)
    assert 0 < sum(sides) < 16
    _, half = place(image, mask, SIZE, (2.0, 2.0), 0.8, "zeros", rng)
    assert 0.15 < (half.sum() / mask.sum()).item() < 0.26  # a quarter, and some of it outside
    many = place(*cut.draw(200, rng), SIZE, (2.0, 2.0), 0.8, "zeros", rng)[1]
    columns = torch.arange(SIZE) + 0.5
    centres = (many.sum((1, 2)) * columns).sum(-1) / many.sum((1, 2, 3))
    assert centres.min() < 12 and centres.max() > 36


def test_only_whole_subjects_are_drawn_where_that_is_asked(cut: Cutouts) -> None:
    some = Cutouts(cut.photos, cut.masks, torch.tensor([3]))
    image, _ = some.draw(8, torch.Generator().manual_seed(0), loose=True)
    assert (image == cut.photos[3].float() / 255).all()
    image, _ = some.draw(8, torch.Generator().manual_seed(0))
    assert len(image.unique(dim=0)) > 2


def test_the_ground_comes_nearer_downwards(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    ground = slope(100, SIZE, 0.5, rng)
    assert ground.shape == (100, 1, SIZE, 1) and (ground.diff(dim=2) >= 0).all()
    assert ground.min() >= 0 and 0.4 < ground.max() <= 0.5
    assert not slope(3, SIZE, 0.0, rng).any()
    monkeypatch.setattr(cutouts, "HORIZON", (0.6, 0.6))  # below which it rises to all of it
    low = slope(100, SIZE, 0.5, rng)
    assert not low[:, :, :28].any() and 0.45 < low.max() <= 0.5


def test_what_is_pasted_is_in_front(cut: Cutouts) -> None:
    """Without a ground: the subject is nearest, what is between lies between, and each keeps one
    level."""
    image, disparity = compose(cut, 64, 64, 0.0, torch.Generator().manual_seed(0))
    assert image.shape == (64, 3, 64, 64) and 0 <= image.min() and image.max() <= 1
    near, between = disparity >= 0.9, (disparity > 0.35) & (disparity < 0.75)
    far = disparity <= cutouts.BEHIND
    assert (near | between | far).all()
    assert near.any(dim=-1).any(dim=-1).float().mean() > 0.95
    assert 0.2 < between.any(dim=-1).any(dim=-1).float().mean() < 0.7
    for one in disparity:
        assert len(one[one >= 0.9].unique()) <= 1


def test_pasted_colours_and_disparity_are_of_the_same_place(cut: Cutouts) -> None:
    """Each surface is recoloured for itself; its outline in the image is the disparity's."""
    image, disparity = compose(cut, 64, 64, 0.0, torch.Generator().manual_seed(3))
    front = (disparity >= 0.9).float()
    rim = F.max_pool2d(front, 3, 1, 1) - front  # a pixel around it
    inside = front - (1 - F.max_pool2d(1 - front, 3, 1, 1))
    step = torch.stack([
        (i * r).sum((1, 2)) / r.sum().clamp(min=1) - (i * o).sum((1, 2)) / o.sum().clamp(min=1)
        for i, r, o in zip(image, rim, inside, strict=True)
    ]).abs().amax(dim=1)  # fmt: skip
    shifted = front.roll((9, 9), (2, 3))
    rim = F.max_pool2d(shifted, 3, 1, 1) - shifted
    inside = shifted - (1 - F.max_pool2d(1 - shifted, 3, 1, 1))
    elsewhere = torch.stack([
        (i * r).sum((1, 2)) / r.sum().clamp(min=1) - (i * o).sum((1, 2)) / o.sum().clamp(min=1)
        for i, r, o in zip(image, rim, inside, strict=True)
    ]).abs().amax(dim=1)  # fmt: skip
    assert step.median() > 3 * elsewhere.median()


def test_lessons_are_composed_and_whole(cut: Cutouts) -> None:
    image, disparity = lesson(cut, 9, 64, 1.5, 0.5, torch.Generator().manual_seed(0))
    assert image.shape == (9, 3, 64, 64) and disparity.shape == (9, 1, 64, 64)
    whole = disparity[6:]  # the subject as it was cut, at 1
    assert (whole.amax((1, 2, 3)) > 0.999).all() and (whole.amin((1, 2, 3)) <= 0.5).all()
    again = lesson(cut, 9, 64, 1.5, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(image, again[0]) and torch.equal(disparity, again[1])
    assert len(lesson(cut, 1, 64, 1.5, 0.5, torch.Generator().manual_seed(0))[0]) == 1
