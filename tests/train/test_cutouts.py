"""Subjects cut out of photos by a rough disparity, and the lessons made of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from argan.errors import InputError
from argan_train import augment, cutouts
from argan_train.config import ArGanDrConfig
from argan_train.cutouts import (
    Cutouts,
    body,
    compose,
    cut_out,
    descent,
    embodied,
    emptied,
    grown,
    laid,
    lesson,
    lowest,
    place,
    rows_of,
    segment,
    slope,
    stemmed,
    stood,
)

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


def portrait(centre: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A reddish head before green, on a body as blue as a pole beside it: photo, head with body,
    and a disparity that sees the head alone."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    head = (x - centre) ** 2 + (y - 20) ** 2 < 10**2
    carried = (np.abs(x - centre) < 7 + 2 * (y - 29)) & (y > 29) & (np.abs(x - centre) < 16)
    pole = (x > centre + 20) & (y > 10)
    photo = np.where(head[..., None], (190, 60, 70), (60, 120, 50))
    photo = np.where((carried & ~head | pole)[..., None], (40, 50, 90), photo)
    photo = photo + rng.normal(0, 15, photo.shape)
    rough = head * 0.9 + 0.05 * rng.random(head.shape)
    return photo.clip(0, 255).astype(np.uint8), head | carried, rough.astype(np.float32)


def test_a_standing_subject_is_cut_with_its_body() -> None:
    photo, whole, rough = portrait()
    floating, standing = segment(photo, rough), segment(photo, rough, standing=True)
    assert floating is not None and overlap(floating, whole) < 0.6  # seen: 0.36
    assert standing is not None and overlap(standing, whole) > 0.95  # seen: 1.0


def test_a_body_lies_below_the_largest_part_of_what_is_near() -> None:
    near = np.zeros((40, 40), bool)
    near[10:22, 12:22] = near[2:5, 34:38] = True  # a head, 10 wide, and something else
    core, around = body(near)
    assert core.any() and (around | ~core).all()
    rows, columns = np.nonzero(core)
    assert 20 <= rows.min() <= 22 and rows.max() == 39
    widths = core.sum(axis=1)
    assert 6 <= widths[rows.min()] <= 8 and widths[39] == 18  # a third to either side; all of it
    assert (np.diff(widths[22:]) >= 0).all() and abs(columns.mean() - 16.5) < 0.1
    widths = around.sum(axis=1)
    assert 10 <= widths[21] <= 12 and widths[39] > 34 and (np.diff(widths[22:]) >= 0).all()
    rows, columns = np.nonzero(around & (np.arange(40) < 15)[:, None])  # hair
    assert 6 <= rows.min() <= 7 and 10 <= columns.min() <= 11 and 22 <= columns.max() <= 23
    assert not around[16:20].any()


def test_the_chin_is_not_looked_for_below_a_face() -> None:
    """A student that sees the neck and the chest, too: the shoulders begin above them."""
    near = np.zeros((40, 40), bool)
    near[5:20, 15:25] = near[20:24, 17:23] = near[24:32, 12:28] = True
    core, _ = body(near)
    first = np.nonzero(core)[0].min()
    assert 5 + 10 <= first <= 5 + 13
    assert core[first + 12, 12:28].all()


def test_a_standing_subject_may_leave_the_frame_below(monkeypatch: pytest.MonkeyPatch) -> None:
    """But not above, nor with more than its arms at a side."""
    masks = np.zeros((20, SIZE, SIZE), bool)
    masks[:, 10:, 12:-12] = True
    masks[:17, -6:, :] = True  # arms: an eighth of either side
    masks[17, -12:, :12] = masks[18, -12:, -12:] = True  # a quarter of one
    masks[19, :10, 12:-12] = True
    photos = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(20, 3, SIZE, SIZE)
    monkeypatch.setattr(
        cutouts, "segment", lambda photo, _, standing: masks[photo[0, 0, 0]] if standing else None
    )
    cut = cut_out(photos, redness, standing=True)
    assert cut.standing and cut.loose.tolist() == list(range(17))


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


def test_masks_are_kept_for_a_run_that_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, photos = tmp_path / "run" / "cutouts.safetensors", scenes(20)
    photos[3] = 0  # which can't be cut
    monkeypatch.setattr(cutouts, "FEWEST", 0)  # a disc has no body
    first = cut_out(photos, redness, keep=keep, of="student and photos")
    assert len(first.photos) == 19
    asked, segment = [], cutouts.segment
    monkeypatch.setattr(cutouts, "segment", lambda *given: asked.append(1) or segment(*given))
    again = cut_out(photos, redness, keep=keep, of="student and photos")
    assert not asked
    for one, two in ((first.photos, again.photos), (first.masks, again.masks)):
        assert torch.equal(one, two) and one.dtype == two.dtype
    assert torch.equal(first.loose, again.loose)
    # Those of another student, of more photos, or without their bodies, are made anew.
    for change in ({"of": "another"}, {"photos": scenes(21)}, {"standing": True}):
        asked.clear()
        given = {"photos": photos, "of": "student and photos"} | change
        cut_out(disparity_of=redness, keep=keep, **given)
        assert len(asked) >= 20, change
        cut_out(photos, redness, keep=keep, of="student and photos")
    keep.write_bytes(keep.read_bytes()[:100])
    asked.clear()
    cut_out(photos, redness, keep=keep, of="student and photos")
    assert len(asked) == 20, "damaged"


def test_a_photo_is_seen_in_the_mirror_too(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = []
    monkeypatch.setattr(cutouts, "segment", lambda photo, level, _: levels.append(level))
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
    same, own = place(image, mask, SIZE, torch.ones(16), 0.0, "zeros", False, rng)
    sides = []
    for a, b, c, d in zip(image, same, mask, own, strict=True):
        sides.append(mirrored := not torch.allclose(a, b, atol=1e-4))
        torch.testing.assert_close(a.flip(-1) if mirrored else a, b, atol=1e-4, rtol=0)
        torch.testing.assert_close(c.flip(-1) if mirrored else c, d, atol=1e-4, rtol=0)
    assert 0 < sum(sides) < 16
    _, half = place(image, mask, SIZE, torch.full((16,), 2.0), 0.8, "zeros", False, rng)
    assert 0.15 < (half.sum() / mask.sum()).item() < 0.26  # a quarter, and some of it outside
    many = place(*cut.draw(200, rng), SIZE, torch.full((200,), 2.0), 0.8, "zeros", False, rng)[1]
    columns = torch.arange(SIZE) + 0.5
    centres = (many.sum((1, 2)) * columns).sum(-1) / many.sum((1, 2, 3))
    assert centres.min() < 12 and centres.max() > 36


def test_a_standing_subject_ends_where_its_feet_are() -> None:
    ones = torch.ones(200, 3, SIZE, SIZE), torch.ones(200, 1, SIZE, SIZE)
    scale = torch.full((200,), 2.0)
    _, mask = place(*ones, SIZE, scale, 0.8, "zeros", True, torch.Generator().manual_seed(0))
    present = mask[:, 0].amax(dim=2) > 0.5
    top = present.float().argmax(dim=1)  # half the frame's height above the end
    assert top.min() in (0, 1) and top.max() in (37, 38)  # 24 + 0.6 x 24 px
    assert present[top < 23].sum(dim=1).unique().tolist() in ([23, 24], [24], [24, 25])


def test_a_body_is_made_below_a_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutouts, "HIPS", (0.8, 1.2))
    monkeypatch.setattr(cutouts, "TALL", (1.0, 1.5))
    monkeypatch.setattr(cutouts, "DRESSED", 0.0)
    rng = torch.Generator().manual_seed(0)
    subject = torch.rand(40, 3, SIZE, SIZE, generator=rng)
    alpha = torch.zeros(40, 1, SIZE, SIZE)
    alpha[:, :, 4:14, 20:24] = alpha[:, :, 14:20, 15:27] = 1  # a neck, and shoulders of 12 px
    alpha[0] = 0
    subject[:, :, 14:20] = torch.tensor([0.2, 0.5, 0.7]).view(3, 1, 1)
    cloth = torch.rand(40, 3, SIZE, SIZE, generator=rng) * 0.1
    image, whole = embodied(subject, alpha, cloth, rng)
    assert torch.equal(image[:, :, :19], subject[:, :, :19])
    assert torch.equal(whole[:, :, :20], alpha[:, :, :20])
    assert not whole[0].any() and torch.equal(image[0], subject[0])
    body = whole[1:, 0, 20:] > 0
    heights, widths = body.any(dim=2).sum(dim=1), body.sum(dim=2)
    assert heights.min() >= 11 and heights.max() <= 18 and len(heights.unique()) > 3
    assert (widths[:, 0] >= 11).all() and (widths[:, 0] <= 13).all()
    assert 9 <= widths[widths > 0].min() < 11 and 13 < widths.max() <= 15
    columns = body.any(dim=1) * torch.arange(SIZE)
    middles = columns.sum(dim=1) / body.any(dim=1).sum(dim=1)
    assert ((middles - 20.5).abs() <= 0.5).all()
    made = (image[1:, :, 20:] * body[:, None]).sum((2, 3)) / body.sum((1, 2))[:, None]
    torch.testing.assert_close(made, torch.tensor([[0.2, 0.5, 0.7]]).expand(39, 3),
                               atol=0.02, rtol=0)  # fmt: skip
    patterned = torch.stack([i[0, 20:][b].std() for i, b in zip(image[1:], body, strict=True)])
    assert patterned.min() < 0.005 and patterned.max() > 0.02


def test_some_bodies_are_dressed_in_other_colours() -> None:
    subject, alpha = torch.full((60, 3, SIZE, SIZE), 0.2), torch.zeros(60, 1, SIZE, SIZE)
    alpha[:, :, 10:30, 15:27] = 1
    cloth = torch.full((60, 3, SIZE, SIZE), 0.7)
    image, whole = embodied(subject, alpha, cloth, torch.Generator().manual_seed(0))
    assert (whole[:, 0, 34, 21] == 1).all()
    made = image[:, 0, 34, 21]
    dressed = (made - 0.7).abs() < 1e-4
    assert 20 < dressed.sum() < 40 and torch.allclose(made[~dressed], torch.tensor(0.2))


def stems(n: int) -> tuple[torch.Tensor, ...]:
    """Of red discs, 12 px wide, in the frames' middles, but of the first; with cloths of green."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    disc = torch.from_numpy((x - 24) ** 2 + (y - 24) ** 2 < 6**2).float()
    alpha = disc.expand(n, 1, SIZE, SIZE).clone()
    alpha[0] = 0
    subject, cloth = torch.zeros(2, n, 3, SIZE, SIZE)
    subject[:, 0], cloth[:, 1] = 1, 0.5
    return subject, alpha, *stemmed(subject, alpha, cloth, 0.6, torch.Generator().manual_seed(0))


def test_a_stem_is_made_below_some_subjects(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, alpha, image, whole, foot = stems(300)
    stem = foot[:, 0, 0, 0] > 0
    assert 0.5 < stem.float().mean() < 0.7 and not stem[0]
    assert torch.isfinite(image).all() and 0 <= image.min() and image.max() <= 1
    assert torch.equal(whole[~stem], alpha[~stem]) and (whole >= alpha).all()
    at = alpha[:, 0] == 1
    torch.testing.assert_close(image.movedim(1, -1)[at], subject.movedim(1, -1)[at])
    added = (whole - alpha)[stem, 0]
    assert (image[stem, 0][added > 0.5] == 0).all() and (image[stem, 1][added > 0.5] > 0.1).all()
    # Between half of the subject's height below its middle and three times that, and one piece.
    heights = (foot[stem, 0, 0, 0] * SIZE - 24) / 12
    assert cutouts.LENGTH[0] <= heights.min() < 0.7 and 2.8 < heights.max() <= cutouts.LENGTH[1]
    for one in (whole[stem, 0] > 0).numpy().astype(np.uint8):
        assert cv2.connectedComponents(one)[0] == 2
    leafy = {}
    for share in (1.0, 0.5, 0.0):
        monkeypatch.setattr(cutouts, "LEAVES", share)
        _, alpha, _, whole, foot = stems(300)
        leafy[share] = (whole - alpha).mean()
    leaves = leafy[1.0] - leafy[0.0]
    assert leaves > 0.1 * leafy[0.0] and 0.3 < (leafy[0.5] - leafy[0.0]) / leaves < 0.7
    rows = (whole - alpha)[:, 0].sum(dim=2)[:, 32:]  # how wide, below the disc
    assert rows.max() < 3.5 and rows[rows > 0].median() < 1.3
    end = (rows > 0.5).sum(dim=1) + 32
    inside = (foot[:, 0, 0, 0] > 0.75) & (foot[:, 0, 0, 0] < 1)
    assert ((end / SIZE - foot[:, 0, 0, 0])[inside].abs() < 0.04).all() and inside.sum() > 20
    leaning = (whole - alpha)[:, 0, -1] * (torch.arange(SIZE) + 0.5)
    there = (whole - alpha)[:, 0, -1].sum(dim=1) > 0.9
    columns = (leaning.sum(dim=1) / (whole - alpha)[:, 0, -1].sum(dim=1))[there]
    assert columns.min() < 16 and columns.max() > 32


def test_stems_are_as_near_as_their_subjects(cut: Cutouts, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"OFTEN": 0.0, "FIELD": 0.0, "BEHIND": 0.0, "LENGTH": (4.0, 4.0),
                        "LEAVES": 0.0, "CLOSE": (2.0, 2.0)}.items():  # fmt: skip
        monkeypatch.setattr(cutouts, name, value)
    reaching = {}
    for share in (0.0, 1.0):
        _, disparity = compose(cut, 100, 96, 0.0, share, torch.Generator().manual_seed(0))
        levels = [len(one[one > 0].unique()) for one in disparity]
        assert max(levels) == 1
        reaching[share] = disparity[:, 0, -1].any(dim=1).float().mean()
    assert reaching[0.0] < 0.4 and reaching[1.0] > 0.85  # a stem may leave at a side


def tufts(n: int, level: float, floor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Before a ground that rises from row 0 to floor in row 48; in colours of a green cloth."""
    ground = (torch.arange(SIZE) / SIZE * floor).view(1, 1, SIZE, 1).expand(n, 1, SIZE, 1)
    cloth = torch.zeros(n, 3, SIZE, SIZE)
    cloth[:, 1] = 0.5
    rng = torch.Generator().manual_seed(0)
    return grown(torch.full((n, 1, 1, 1), level), ground, cloth, rng)


def test_tufts_grow_where_the_ground_is_as_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """And are the taller the nearer they are; each leaf is of one colour."""
    for name, value in {"GROWN": (0.4, 0.4), "SPREAD": (0.4, 0.4)}.items():
        monkeypatch.setattr(cutouts, name, value)
    rows, tall = torch.arange(SIZE).view(1, SIZE), {}
    for level in (0.75, 0.375):
        image, alpha = tufts(200, level, 1.0)
        assert image.shape == (200, 3, SIZE, SIZE) and alpha.shape == (200, 1, SIZE, SIZE)
        assert 0 <= alpha.min() and alpha.max() <= 1
        present = (alpha[:, 0] > 0.3).any(dim=2)
        foot = int(level * SIZE)
        assert not present[:, foot:].any() and present[:, foot - 4].float().mean() > 0.6
        top = torch.where(present, rows, SIZE).amin(dim=1)
        # The tallest leaf may have its whole height, and begin as much higher.
        assert foot - 2 * 0.4 * level * SIZE - 1 <= top.min()
        tall[level] = (foot - top[top < SIZE]).float().mean()
        light = image[:, 1][alpha[:, 0] > 0.9]
        assert not image[:, 0].any() and not image[:, 2].any()
        assert 0.35 <= light.min() < 0.37 and 0.63 < light.max() <= 0.65
        for one, its_alpha in zip(image[:20, 1], alpha[:20, 0], strict=True):
            assert len(one[its_alpha > 0].unique()) <= cutouts.BLADES
    assert 1.7 < tall[0.75] / tall[0.375] < 2.3
    _, below = tufts(200, 0.8, 0.7)  # the ground is nowhere so near: from below the frame
    reaching = (below[:, 0] > 0.3).any(dim=2)[:, -1].float().mean()
    assert 0.5 < reaching < 0.95
    columns = torch.arange(SIZE).view(1, SIZE)
    wide = {}
    for spread in (0.0, 0.8):  # over its height, 15 px
        monkeypatch.setattr(cutouts, "SPREAD", (spread, spread))
        present = (tufts(200, 0.8, 1.0)[1][:, 0] > 0.3).any(dim=1)
        first = torch.where(present, columns, SIZE).amin(dim=1)
        last = torch.where(present, columns, -1).amax(dim=1)
        assert first.min() == 0 and last.max() == SIZE - 1 and last.min() < 12  # anywhere across
        wide[spread] = (last - first)[(first > 0) & (last < SIZE - 1)].float().mean()
    assert wide[0.8] - wide[0.0] > 8


def test_tufts_are_blades_or_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Widest at the foot, or in the middle."""
    for name, value in {"BLADES": 1, "BROAD": (0.4, 0.4), "GROWN": (0.9, 0.9),
                        "LEANING": 0.0, "BENT": 0.0}.items():  # fmt: skip
        monkeypatch.setattr(cutouts, name, value)
    _, alpha = tufts(200, 0.9, 1.0)
    wide = alpha[:, 0].sum(dim=2)
    highest = torch.where(wide > 0.5, torch.arange(SIZE), SIZE).amin(dim=1)
    lowest_row = torch.where(wide > 0.5, torch.arange(SIZE), -1).amax(dim=1)
    whole = (lowest_row - highest > 12) & (highest > 0) & (alpha[:, 0, :, 0] == 0).all(1)
    whole &= (alpha[:, 0, :, -1] == 0).all(1)
    mean = (wide * torch.arange(SIZE)).sum(dim=1) / wide.sum(dim=1)
    mean = ((mean - highest) / (lowest_row - highest))[whole]  # 0 the tip, 1 the foot
    leaf, blade = (mean - 0.5).abs() < 0.04, (mean - 2 / 3).abs() < 0.04
    assert (leaf | blade).all() and 0.25 < leaf.float().mean() < 0.75


def test_tufts_are_of_scenes_with_stems_alone(
    cut: Cutouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two in five of what is farther, each at its own place among the others."""
    monkeypatch.setattr(cutouts, "FIELD", 0.0)
    levels = []
    monkeypatch.setattr(
        cutouts, "grown",
        lambda level, floor, cloth, _: levels.append(level) or (cloth * 0, cloth[:, :1] * 0),
    )  # fmt: skip
    for standing, stems_of, asked in ((False, 0.0, 0), (True, 0.6, 0), (False, 0.6, 6)):
        some = Cutouts(cut.photos, cut.masks, torch.arange(16), standing)
        levels.clear()
        compose(some, 40, 64, 0.5, stems_of, torch.Generator().manual_seed(0))
        assert len(levels) == asked
    assert (torch.stack(levels).diff(dim=0) >= 0).all()
    there = {}
    for green in (0.0, 0.4, 1.0):
        monkeypatch.setattr(cutouts, "GREEN", green)
        _, disparity = compose(cut, 200, 64, 0.0, 0.6, torch.Generator().manual_seed(0))
        between = (disparity > cutouts.BEHIND) & (disparity < cutouts.NEAREST[0])
        there[green] = float(between.float().mean())
    assert there[1.0] < 0.001 < 0.5 * there[0.0] < there[0.4] < 0.85 * there[0.0]


def test_a_field_is_full_of_one_kind(cut: Cutouts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos of one colour each, so that what is alike is told from what is not."""
    photos = torch.zeros(16, 3, SIZE, SIZE, dtype=torch.uint8)
    photos[:8, 0] = photos[8:, 2] = 200
    some = Cutouts(photos, cut.masks, torch.arange(16))
    monkeypatch.setattr(augment, "recolour", lambda image, rng: image)
    for name, value in {"GREEN": 0.0, "OFTEN": 0.0, "ALIKE": 0.0, "DISTANCE": (1.5, 1.5),
                        "WIDE_OPEN": 0.0}.items():  # fmt: skip
        monkeypatch.setattr(cutouts, name, value)
    for field in (0.0, 1.0):
        monkeypatch.setattr(cutouts, "FIELD", field)
        image, disparity = compose(some, 60, 96, 0.0, 0.0, torch.Generator().manual_seed(0))
        near, farther = disparity >= cutouts.NEAREST[0], (disparity > 0.55) & (disparity < 0.7)
        assert farther.any(dim=(1, 2, 3)).float().mean() > 0.9 if field else not farther.any()
    for one, at, beside in zip(image, near[:, 0], farther[:, 0], strict=True):
        if at.sum() > 50 and beside.sum() > 50:
            kinds = [int((one[0, m] > one[2, m]).float().mean() > 0.5) for m in (at, beside)]
            assert kinds[0] == kinds[1]


def test_hardly_anything_of_a_subject_makes_no_nan() -> None:
    masks = torch.zeros(16, 1, SIZE, SIZE, dtype=torch.bool)
    masks[:, :, 23:25, 23] = True  # may fall between the pixels of a frame
    for standing in (False, True):
        some = Cutouts(scenes(16), masks, torch.arange(16), standing)
        for seed in range(5):
            image, disparity = compose(some, 50, 64, 0.5, 0.6, torch.Generator().manual_seed(seed))
            assert torch.isfinite(image).all() and torch.isfinite(disparity).all()


def test_scenes_of_standing_subjects(cut: Cutouts, monkeypatch: pytest.MonkeyPatch) -> None:
    """They reach to the lower border, if they are tall."""
    monkeypatch.setattr(cutouts, "TALL", (99.0, 99.0))
    monkeypatch.setattr(cutouts, "FIELD", 0.0)
    for standing in (False, True):
        some = Cutouts(cut.photos, cut.masks, torch.arange(16), standing)
        _, disparity = compose(some, 50, 64, 0.0, 0.0, torch.Generator().manual_seed(0))
        near = (disparity >= cutouts.NEAREST[0])[:, 0]
        narrowest = near.any(dim=1).sum(dim=1)
        narrowest = narrowest[narrowest > 0].float().quantile(0.1)
        assert (narrowest < 13) == standing  # seen: 10, and 16: discs of half a frame
        reaching = near[:, -1].any(dim=1) | ~near.any(dim=2).any(dim=1)
        assert bool(reaching.all()) == standing


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


def test_a_laid_picture_is_a_plane_in_perspective(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stripes run together at the horizon: as many to a row as it is far, 1 / disparity."""
    monkeypatch.setattr(cutouts, "PATTERN", (0.5, 0.5))
    size, rng = 96, torch.Generator().manual_seed(0)
    down = descent(rows_of(size, rng.device), torch.zeros(20, 1, 1, 1))
    x = (torch.arange(size) + 0.5) / size
    stripes = (0.5 + 0.5 * torch.cos(4 * 2 * torch.pi * x)).expand(20, 3, size, size)
    seen = laid(stripes, down, rng)[:, 0]
    assert seen.shape == (20, size, size) and 0 <= seen.min() and seen.max() <= 1
    for row in (95, 48, 32):
        crossings = ((seen[:, row] > 0.5).diff(dim=1)).sum(dim=1)  # two to a stripe
        expected = 2 * 4 * 0.5 / down[:, 0, row, 0]
        assert (crossings - expected).abs().max() < 1.1, row
    monkeypatch.setattr(cutouts, "PATTERN", (1.0, 1.0))
    again = laid(stripes.mT, down, torch.Generator().manual_seed(1))[:, 0, 48:].mean(dim=2) > 0.5
    monkeypatch.setattr(cutouts, "PATTERN", (0.5, 0.5))
    half = laid(stripes.mT, down, torch.Generator().manual_seed(1))[:, 0, 48:].mean(dim=2) > 0.5
    assert 1.6 < again.diff(dim=1).sum().item() / half.diff(dim=1).sum().item() < 2.4
    # Lengthwise it is shortened twice as fast, and lines across the way lie level.
    across = laid(stripes.mT, down, rng)[:, 0]
    assert across.std(dim=2).max() < 1e-5
    middle = across.mean(dim=2) > 0.5
    near = middle[:, 64:].diff(dim=1).sum().item()
    far = middle[:, 32:64].diff(dim=1).sum().item()
    assert 1.5 < far / near < 4.5  # seen: 2.9; 3 by geometry
    # No pattern is left where it is too fine to be seen.
    fine = torch.rand(20, 3, size, size, generator=rng)
    seen = laid(fine, down, rng)
    far, near = seen[:, :, :3].std().item(), seen[:, :, 80:].std().item()
    assert far < 0.15 < near  # seen: 0.01 and 0.19


def test_a_subject_stands_upon_its_ground(cut: Cutouts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ground is as near as the subject at the subject's lowest row; not so of portraits."""
    for name, value in {"LAID": 1.0, "UPON": 1.0, "OFTEN": 0.0, "FIELD": 0.0, "BEHIND": 0.0,
                        "CLOSE": (3.0, 3.0), "NEAREST": (0.6, 0.6),
                        "HORIZON": (0.0, 0.0)}.items():  # fmt: skip
        monkeypatch.setattr(cutouts, name, value)
    for standing in (False, True):
        some = Cutouts(cut.photos, cut.masks, torch.arange(16), standing)
        _, disparity = compose(some, 40, 96, 0.2, 0.0, torch.Generator().manual_seed(0))
        gaps, rows = [], disparity[:, 0].amin(dim=2)  # the ground's: no subject is so wide
        for one, ground in zip(disparity[:, 0], rows, strict=True):
            subject = torch.nonzero((one == np.float32(0.6)).sum(dim=1) > 1)
            # Higher in the frame, no ground of disparity up to 1 reaches it.
            if len(subject) and 60 <= subject.max() < 90:
                gaps.append(abs(ground[subject.max()] - 0.6))
        assert len(gaps) > (3 if standing else 15)
        assert (max(gaps) < 0.02) != standing


def test_the_ground_is_as_near_as_a_stems_foot(
    cut: Cutouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all scenes with a laid ground, and be it below the frame: with the horizon in the middle,
    a foot a quarter of the frame below it stands where the ground is half as near again."""
    for name, value in {"LAID": 1.0, "UPON": 0.0, "OFTEN": 0.0, "FIELD": 0.0, "BEHIND": 0.0,
                        "NEAREST": (0.6, 0.6), "HORIZON": (0.5, 0.5)}.items():  # fmt: skip
        monkeypatch.setattr(cutouts, name, value)
    for row, there in ((0.75, 1.0), (1.25, 1 / 1.5 * 0.6)):
        monkeypatch.setattr(
            cutouts, "stemmed",
            lambda subject, alpha, *_, row=row: (subject, alpha, torch.full((40, 1, 1, 1), row)),
        )
        _, disparity = compose(cut, 40, 64, 0.2, 0.6, torch.Generator().manual_seed(0))
        lowest_row = disparity[:, 0, -1].mode(dim=1).values
        expected = min(there, 1) * (1 - 0.5 / 32)  # the middle of that row
        assert ((lowest_row - expected).abs() < 0.01).float().mean() > 0.8


def test_nothing_is_farther_than_what_it_stands_upon(
    cut: Cutouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = torch.zeros(3, 1, SIZE, SIZE)
    alpha[0, :, 5:11], alpha[1, :, :, 7] = 1, 1
    down = torch.arange(SIZE).view(1, 1, SIZE, 1).float().expand(3, 1, SIZE, 1)
    assert lowest(alpha, down).flatten().tolist() == [10, SIZE - 1, 0]
    for name, value in {"LAID": 1.0, "UPON": 1.0, "BEHIND": 0.0, "WIDE_OPEN": 0.0, "FIELD": 0.0,
                        "GREEN": 0.0}.items():  # fmt: skip
        monkeypatch.setattr(cutouts, name, value)
    given = {}
    for often in (0.0, 1.0):
        monkeypatch.setattr(cutouts, "OFTEN", often)
        given[often] = compose(cut, 100, 64, 0.5, 0.6, torch.Generator().manual_seed(0))
    painted = (given[1.0][0] - given[0.0][0]).abs().amax(dim=1, keepdim=True) > 0.05
    raised = given[1.0][1] > given[0.0][1]
    # Else the lower part of a farther subject would be a picture on the ground.
    assert (painted & ~raised).sum() < 0.12 * painted.sum()  # seen: 0.08, mixed pixels of outlines


def test_farther_subjects_stand_where_the_ground_is_as_near(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows 0 to 9, a ground of 0.1 a row from row 2 on; each subject is two rows and a colour."""
    monkeypatch.setattr(cutouts, "STOOD", 1.0)
    alpha = torch.zeros(6, 1, 10, 10)
    for one, (top, bottom) in enumerate([(3, 5), (7, 9), (3, 5), (8, 10), (0, 0), (0, 2)]):
        alpha[one, :, top:bottom, 4] = 1
    subject = 0.7 * alpha.expand(6, 3, 10, 10)
    floor = ((torch.arange(10) - 1) * 0.1).clamp(min=0).view(1, 1, 10, 1).expand(6, 1, 10, 1)
    level = torch.tensor([0.55, 0.35, 0.95, 0.35, 0.35, 0.55]).view(6, 1, 1, 1)
    moved, its_alpha = stood(subject, alpha, level, floor, torch.Generator().manual_seed(0))
    rows = [torch.nonzero(a.amax(dim=2)[0])[:, 0].tolist() for a in its_alpha]
    # Down, up, no ground so near, cut by the lower border, nothing, down from the upper border.
    assert rows == [[6, 7], [4, 5], [3, 4], [8, 9], [], [6, 7]]
    assert torch.equal(moved, 0.7 * its_alpha.expand(6, 3, 10, 10))
    monkeypatch.setattr(cutouts, "STOOD", 0.0)
    assert torch.equal(stood(subject, alpha, level, floor, torch.Generator())[1], alpha)


def test_scenes_have_farther_subjects_upon_their_ground(
    cut: Cutouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a subject of one level stands upon is hardly farther than it."""
    for name, value in {"LAID": 1, "UPON": 1, "OFTEN": 1, "BEHIND": 0, "FARTHER": 1,
                        "FIELD": 0}.items():  # fmt: skip
        monkeypatch.setattr(cutouts, name, value)
    floating = {}
    for share in (0.0, 1.0):
        monkeypatch.setattr(cutouts, "STOOD", share)
        _, disparity = compose(cut, 60, 64, 0.5, 0.0, torch.Generator().manual_seed(1))
        found = []
        for one in disparity[:, 0]:
            level, count = one.unique(return_counts=True)
            between = level[(count > 100) & (level > 0.15) & (level < 0.85)]
            if len(between) == 1 and not (one[-1] == between).any():
                last = int(torch.nonzero((one == between).any(dim=1))[-1])
                column = torch.nonzero(one[last] == between)[0]
                found.append(float(between - one[last + 1, column]))
        assert len(found) > 15
        floating[share] = np.mean(np.array(found) > 0.1)
    # Seen: 0.04, whose lower end the nearest hides, and 0.36.
    assert floating[1.0] < 0.15 < 0.25 < floating[0.0], floating


def test_a_ground_is_laid_in_some_scenes_alone(
    cut: Cutouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And never where none is assumed."""
    asked = []
    monkeypatch.setattr(cutouts, "laid", lambda picture, down, rng: asked.append(1) or picture * 0)
    monkeypatch.setattr(cutouts, "OFTEN", 0.0)
    monkeypatch.setattr(cutouts, "FIELD", 0.0)
    black = {}
    for ground in (0.0, 0.5):
        image, disparity = compose(cut, 100, SIZE, ground, 0.0, torch.Generator().manual_seed(0))
        below = (disparity < 0.5)[:, 0, -1]
        black[ground] = ((image[:, :, -1].amax(dim=1) == 0) & below).any(dim=1).float().mean()
    assert len(asked) == 1
    assert black[0.0] < 0.05 and 0.2 < black[0.5] < 0.5


def test_a_portraits_background_is_without_its_person() -> None:
    """And is the photo's own elsewhere; other subjects stay, as something that is nearer."""
    rng = torch.Generator().manual_seed(0)
    photos, mask = torch.zeros(4, 3, SIZE, SIZE), torch.zeros(4, 1, SIZE, SIZE)
    photos[:] = torch.linspace(0.2, 0.4, SIZE).view(1, 1, SIZE, 1)  # a wall
    photos[0, 1] += 0.1 * (torch.arange(SIZE) % 2)  # with a pattern,
    mask[0, :, 10:, 18:30] = 1  # which half a frame beside it shows as well
    mask[1, :, 20:, :] = 1  # nothing beside it
    mask[2] = 1
    person = torch.tensor([1.0, 0.1, 0.9]).view(3, 1, 1)
    images = torch.where(mask > 0, person, photos)
    images[0, 2, :, 36:] = 0.6
    empty = emptied(images, mask)
    away = F.max_pool2d(mask, 9, 1, 4)[:, 0] == 0
    for before, after, there in zip(images, empty, away, strict=True):
        assert torch.equal(before[:, there], after[:, there])
    assert (empty[:2, 0] < 0.45).all()  # nothing of the person's red is left
    torch.testing.assert_close(empty[0, :2, 20, 20:28], photos[0, :2, 20, 20:28], atol=0.02, rtol=0)
    assert empty[1, 1, 40].std() < 0.01 < 0.04 < empty[0, 1, 40, 20:28].std()
    assert (empty[1, :, 40] - empty[1, :, 8]).abs().max() < 0.15
    assert not empty[2].any() and torch.equal(empty[3], images[3])
    stored = Cutouts((images * 255).byte(), mask.bool(), torch.arange(4))
    image, nearer = stored.draw_background(30, rng)
    assert nearer.any() and (image[:, 0] > 0.9).any()
    image, nearer = dataclasses.replace(stored, standing=True).draw_background(30, rng)
    assert not nearer.any() and (image[:, 0] < 0.45).all()


def test_a_laid_ground_ends_at_the_horizon(cut: Cutouts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above it is the background, below it is nothing of the background's."""
    monkeypatch.setattr(cutouts, "laid", lambda picture, down, rng: picture * 0)
    for name, value in {"OFTEN": 0.0, "FIELD": 0.0, "LAID": 1.0, "UPON": 0.0, "HORIZON": (0.5, 0.5),
                        "WIDE_OPEN": 0.0}.items():  # fmt: skip
        monkeypatch.setattr(cutouts, name, value)
    image, disparity = compose(cut, 50, SIZE, 0.5, 0.6, torch.Generator().manual_seed(0))
    floor, far = (disparity < 0.55)[:, 0], image.amax(dim=1) > 0
    above, below = slice(0, SIZE // 2), slice(SIZE // 2, SIZE)
    assert far[:, above][floor[:, above]].float().mean() > 0.9
    assert far[:, below][floor[:, below]].float().mean() < 0.05  # mixed pixels of outlines
    spread = torch.where(floor, disparity[:, 0], -1).amax(dim=2)
    spread = spread - torch.where(floor, disparity[:, 0], 2).amin(dim=2)
    assert spread[:, below].max() < 1e-6 < spread[:, above].max()


def test_what_is_pasted_is_in_front(cut: Cutouts) -> None:
    """Without a ground: the nearest subject is everywhere, others lie between it and the
    background, and each keeps one level."""
    image, disparity = compose(cut, 200, 64, 0.0, 0.6, torch.Generator().manual_seed(0))
    assert image.shape == (200, 3, 64, 64) and 0 <= image.min() and image.max() <= 1
    between = (disparity > cutouts.BEHIND) & (disparity < cutouts.NEAREST[0])
    near = disparity >= cutouts.NEAREST[0]
    assert near.any(dim=-1).any(dim=-1).float().mean() > 0.95
    assert 0.5 < between.any(dim=-1).any(dim=-1).float().mean() < 0.95  # seen: 0.75
    for one, farther, nearest in zip(disparity, between, near, strict=True):
        assert len(one[farther].unique()) <= cutouts.FARTHER and len(one[nearest].unique()) <= 1


def test_the_same_subject_farther_is_as_much_smaller(
    cut: Cutouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ALIKE": 1.0, "OFTEN": 1.0, "BEHIND": 0.0, "CLOSE": (1.5, 2.0),
                        "DISTANCE": (1.5, 3.0), "WIDE_OPEN": 0, "FARTHER": 2}.items():  # fmt: skip
        monkeypatch.setattr(cutouts, name, value)
    _, disparity = compose(cut, 200, 96, 0.0, 0.0, torch.Generator().manual_seed(0))
    disc, seen = scene()[1].mean(), []
    for one in disparity:
        level, count = one[one > 0].unique(return_counts=True)
        if len(level) == 3:
            # the nearest: a disc of scale 1.5 to 2; what is hidden or outside only takes away
            width = (count / 96**2 / disc).sqrt()
            assert (width < 0.7 * level / level[-1]).all()
            seen.append(width / level)
    assert len(seen) > 50
    ratio = torch.stack(seen)
    whole = ratio[(ratio > 0.48).all(dim=1)]  # nothing of the three is hidden
    assert len(whole) > 10
    spread = (whole.amax(dim=1) / whole.amin(dim=1)).median()
    assert spread < 1.1  # seen: 1.02


def sharpness(image: torch.Tensor, where: torch.Tensor) -> float:
    across = (image.diff(dim=-1) ** 2).mean(dim=1)[..., 8:-8, 8:-8]
    inside = (-F.max_pool2d(-where.float(), 13, 1, 6))[:, 0, 8:-8, 8:-8] > 0
    return float(across[inside[..., : across.shape[-1]]].mean())


@pytest.mark.parametrize("ground", [0.0, 0.5])
@pytest.mark.parametrize("focused", [1.0, 0.0])
def test_a_lens_blurs_by_the_distance_from_its_focus(
    cut: Cutouts, focused: float, ground: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Focused on the nearest, the background is soft and the subject is not; else by chance."""
    monkeypatch.setattr(cutouts, "LAID", 1.0)
    monkeypatch.setattr(cutouts, "FOCUSED", focused)
    monkeypatch.setattr(cutouts, "LENS", (2.0, 2.5))
    seen = {}
    for share in (0.0, 1.0):
        monkeypatch.setattr(cutouts, "WIDE_OPEN", share)
        image, disparity = compose(cut, 100, 96, ground, 0.6, torch.Generator().manual_seed(1))
        near, far = disparity >= cutouts.NEAREST[0], disparity < cutouts.NEAREST[0] / 4
        seen[share] = sharpness(image, near), sharpness(image, far)
    (near, far), (near_open, far_open) = seen.values()
    assert far_open < (0.1 if focused else 0.5) * far
    assert (near_open > 0.9 * near) if focused else (near_open < 0.6 * near)


def test_what_is_nearer_is_painted_later(cut: Cutouts, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the focus on the nearest, each is blurred less than the one before."""
    monkeypatch.setattr(cutouts, "FOCUSED", 1.0)
    sigmas, gaussian = [], augment.gaussian
    monkeypatch.setattr(
        augment, "gaussian", lambda image, s: sigmas.append(s) or gaussian(image, s)
    )
    compose(cut, 50, 32, 0.0, 0.6, torch.Generator().manual_seed(0))
    order = torch.stack(sigmas)
    assert len(order) == 2 + cutouts.FARTHER
    assert (order.diff(dim=0) <= 0).all() and (order[0] > order[-1]).any()


def test_pasted_colours_and_disparity_are_of_the_same_place(cut: Cutouts) -> None:
    """Each surface is recoloured for itself; its outline in the image is the disparity's."""
    image, disparity = compose(cut, 64, 64, 0.0, 0.6, torch.Generator().manual_seed(3))
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


def test_lessons_are_composed_and_whole(cut: Cutouts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutouts, "LAID", 0.0)
    monkeypatch.setattr(cutouts, "NEAREST", (0.9, 0.99))
    config = ArGanDrConfig(size=64)

    def lessons(n: int, **changes: float) -> tuple[torch.Tensor, torch.Tensor]:
        rng = torch.Generator().manual_seed(0)
        return lesson(cut, n, dataclasses.replace(config, **changes), rng)

    image, disparity = lessons(9)
    assert image.shape == (9, 3, 64, 64) and disparity.shape == (9, 1, 64, 64)

    def as_cut(disparity: torch.Tensor) -> torch.Tensor:
        """Nothing but the subject, at 1, and a ground."""
        between = (disparity > 0.51) & (disparity < 0.95)
        return (disparity.amax((1, 2, 3)) > 0.999) & (between.float().mean((1, 2, 3)) < 0.05)

    assert as_cut(disparity[6:]).all() and not as_cut(disparity[:6]).any()
    again = lessons(9)
    assert torch.equal(image, again[0]) and torch.equal(disparity, again[1])
    assert len(lessons(1)[0]) == 1
    shares, made = [], cutouts.stemmed
    monkeypatch.setattr(
        cutouts, "stemmed", lambda *given: shares.append(given[3]) or made(*given)
    )  # fmt: skip
    lessons(9, stems=0.7)
    assert set(shares) == {0.7}
    assert as_cut(lessons(9, composed=0.0)[1]).all()
    assert not as_cut(lessons(9, composed=1.0)[1]).any()
