"""The loop and its methods on tiny pictures: resuming is exact, and nothing is lost."""

import dataclasses
import errno
import io
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from argan.errors import InputError, MissingFileError
from argan_train import augment, checkpoint, cli, loop, metrics, sample
from argan_train.ar_gan import (
    ArGan,
    draw_photographs,
    load_generator,
    photograph,
    pupil_points,
)
from argan_train.ar_gan_dr import ArGanDr, load_depth_net, load_teachers
from argan_train.config import ArGanConfig, ArGanDrConfig, load_preset
from argan_train.cutouts import Cutouts

CPU = torch.device("cpu")
DAHLIA = Path(__file__).parents[2] / "examples" / "dahlia.jpg"
TINY = ArGanConfig(
    size=16, width=4, batch=4, latent=8, depth_size=8, views=3, steps=8, r1_every=4,
    log_every=2, save_every=4, picture_every=4,
)  # fmt: skip
PHOTOS = torch.randint(
    256, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)


def trained(
    folder: Path, config: ArGanConfig = TINY, resuming: bool = False
) -> dict[str, torch.Tensor]:
    loop.train(ArGan(config, PHOTOS, CPU), folder, {}, CPU, resuming)
    return checkpoint.load_tensors(folder / "state.safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "gan"
    trained(folder)
    return folder


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a if k != "progress") and a.keys() == b.keys()


def test_a_run_folder_explains_itself(run: Path) -> None:
    record = checkpoint.read_json(run / "config.json")
    assert (
        record["method"] == "ar-gan" and record["steps"] == 8 and record["settings"]["size"] == 16
    )
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert {"d_main", "g_main", "prior_correlation", "edge_correlation"} <= lines[-1].keys()
    assert len(list((run / "samples").glob("*.png"))) == 2
    assert list((run / "tensorboard").iterdir())
    assert not list(run.glob("*.partial"))


def test_same_seed_same_numbers_other_seed_other_numbers(run: Path, tmp_path: Path) -> None:
    first = checkpoint.load_tensors(run / "state.safetensors")
    assert same(first, trained(tmp_path / "again"))
    assert not same(first, trained(tmp_path / "other", dataclasses.replace(TINY, seed=1)))


def test_resuming_equals_not_stopping(run: Path, tmp_path: Path) -> None:
    stopped = dataclasses.replace(TINY, steps=4)
    # The prior's schedule belongs to the whole run: a run cut short must have the same one.
    method = ArGan(stopped, PHOTOS, CPU)
    method.prior_weight = ArGan(TINY, PHOTOS, CPU).prior_weight  # type: ignore[method-assign]
    loop.train(method, tmp_path, {}, CPU)
    with (tmp_path / "log.jsonl").open("a") as log:  # logged after the checkpoint, before a kill
        log.write('{"step": 6}\n{"step": 7, "d_ma')
    assert same(checkpoint.load_tensors(run / "state.safetensors"), trained(tmp_path, TINY, True))
    logged = [
        json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()
    ]
    assert logged == [2, 4, 6, 8]


def test_where_there_is_nothing_to_resume_a_run_begins(run: Path, tmp_path: Path) -> None:
    begun = trained(tmp_path / "new", resuming=True)
    assert same(checkpoint.load_tensors(run / "state.safetensors"), begun)


def test_a_run_begun_before_a_setting_existed_is_resumed(tmp_path: Path) -> None:
    trained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["settings"].pop("light") == "srgb"  # its default
    (tmp_path / "config.json").write_text(json.dumps(record))
    trained(tmp_path, resuming=True)


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(run: Path) -> None:
    with pytest.raises(InputError, match="already holds a run"):
        trained(run)
    with pytest.raises(InputError, match="other settings"):
        trained(run, dataclasses.replace(TINY, batch=6), resuming=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good(tmp_path: Path) -> None:
    method = ArGan(TINY, PHOTOS, CPU)
    good_step = method.step

    def failing_step(step: int) -> dict[str, torch.Tensor]:
        return good_step(step) | ({"g_main": torch.tensor(float("nan"))} if step > 4 else {})

    method.step = failing_step  # type: ignore[method-assign]
    with pytest.raises(loop.DivergedError, match="g_main is not finite at step 6"):
        loop.train(method, tmp_path, {}, CPU)
    assert int(checkpoint.load_tensors(tmp_path / "state.safetensors")["progress"][0]) == 4


def test_weights_that_a_finite_loss_has_spoilt_are_not_saved(tmp_path: Path) -> None:
    method = ArGan(TINY, PHOTOS, CPU)
    good_step = method.step

    def spoiling_step(step: int) -> dict[str, torch.Tensor]:
        logged = good_step(step)
        if step == 8:
            method.generator.stem.bias.data[0] = float("nan")
        return logged

    method.step = spoiling_step  # type: ignore[method-assign]
    with pytest.raises(loop.DivergedError, match="stem.bias is not finite at step 8"):
        loop.train(method, tmp_path, {}, CPU)
    assert int(checkpoint.load_tensors(tmp_path / "state.safetensors")["progress"][0]) == 4


def test_a_failed_save_keeps_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save_tensors(path, {"a": torch.ones(2)}, {})

    def full_disk(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save_tensors(path, {"a": torch.zeros(2)}, {})
    assert torch.equal(checkpoint.load_tensors(path)["a"], torch.ones(2))
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_damaged_checkpoint_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load_tensors(tmp_path / "x.safetensors")
    with pytest.raises(MissingFileError, match="no checkpoint"):
        checkpoint.load_tensors(tmp_path / "y.safetensors")


@pytest.mark.parametrize(
    "mixture, sharp",
    [
        ("bernoulli", [1, 1, 0, 0]),
        ("mixed", [1, 1, 0, 0]),
        ("none", [0] * 4),
        ("uniform", [0] * 4),
        ("plain", [1] * 4),
    ],  # fmt: skip
)
def test_the_mixture_decides_which_of_a_batch_are_photographed_sharp(
    mixture: str, sharp: list[int]
) -> None:
    config = dataclasses.replace(TINY, mixture=mixture)
    generator, rng = ArGan(config, PHOTOS, CPU).generator, torch.Generator().manual_seed(0)
    generator.max_blur_px = 100
    taken, image, _ = draw_photographs(generator, config, 4, rng)
    assert [torch.equal(a, b) for a, b in zip(image, taken, strict=True)] == [
        bool(x) for x in sharp
    ]


def test_a_view_of_its_own_disparity_leaves_the_subject_out_of_the_background() -> None:
    """A white subject in focus before a black background, blurred by 3 px: with one disparity for
    all views the subject's light spreads over the background, with each view's own it does not."""
    image, disparity = torch.zeros(1, 3, 16, 16), torch.full((1, 1, 16, 16), -3.0)
    image[..., 5:11, 5:11], disparity[..., 5:11, 5:11] = 1.0, 0.0
    lens = ArGan(TINY, PHOTOS, CPU).generator
    points = pupil_points(dataclasses.replace(TINY, views=12), 1, torch.Generator().manual_seed(0))
    spilt = []
    for occlusion in (False, True):
        config = dataclasses.replace(TINY, occlusion=occlusion)
        taken = photograph(lens, config, image, disparity, points)
        spilt.append(float((taken * (image == 0)).mean()))
    assert spilt[0] > 0.03 and spilt[1] < 0.2 * spilt[0]


@pytest.mark.parametrize(
    "pupil, shape", [("grid", (9, 2)), ("disc", (3, 2)), ("random", (4, 3, 2))]
)
def test_pupils_draw_points_within_the_lens(pupil: str, shape: tuple[int, ...]) -> None:
    config, rng = dataclasses.replace(TINY, pupil=pupil), torch.Generator().manual_seed(0)
    first, second = pupil_points(config, 4, rng), pupil_points(config, 4, rng)
    assert first.shape == shape and first.abs().max() <= 1 + 1e-6
    assert torch.equal(first, second) == (pupil == "grid")
    if pupil == "disc":  # turned as a whole
        torch.testing.assert_close(first.norm(dim=-1), second.norm(dim=-1))


def test_the_prior_fades_and_never_quite_leaves() -> None:
    weight = ArGan(dataclasses.replace(TINY, steps=100), PHOTOS, CPU).prior_weight
    assert weight(0) == pytest.approx(0.02) and weight(25) == pytest.approx(0.012)
    assert weight(50) == weight(100) == pytest.approx(0.004)


@pytest.mark.parametrize(
    "settings",
    [
        {"pupil": "grid", "expansion": True},
        {"pupil": "random", "light": "linear"},
        {"mixture": "uniform", "occlusion": False},
        {"mixture": "plain"},
        {"mixture": "none", "spectral_norm": True},
        {"augment": 0.5},
    ],
    ids=str,
)
def test_every_option_trains_and_is_exactly_resumed(
    settings: dict[str, object], run: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(TINY, steps=4, save_every=2, prior_steps=0, **settings)  # type: ignore[arg-type]
    whole = trained(tmp_path / "whole", config)
    trained(tmp_path / "parts", dataclasses.replace(config, steps=2))
    assert same(whole, trained(tmp_path / "parts", config, True))
    assert not whole.keys() == checkpoint.load_tensors(
        run / "state.safetensors"
    ).keys() or not same(
        whole, trained(tmp_path / "default", dataclasses.replace(TINY, steps=4, prior_steps=0))
    )


def test_expansion_is_trained_and_kept_with_the_averaged_generator(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, pupil="grid", expansion=True, steps=4)
    trained(tmp_path, config)
    generator, _ = load_generator(tmp_path, CPU)
    assert generator.expansion is not None and generator.expansion.outer.weight.abs().sum() > 0


def test_changes_move_and_recolour_but_never_blur() -> None:
    image = torch.rand(8, 3, 16, 16)
    rng = torch.Generator().manual_seed(0)
    none = augment.changes(8, 0.0, rng)
    torch.testing.assert_close(augment.change(image, none), image)
    drawn = augment.changes(8, 1.0, rng)
    shift = (drawn["shift"][0, :, 0] * 16).round().long()
    only_moved = none | {"shift": drawn["shift"]}
    moved = augment.change(image, only_moved)[0]
    rows = slice(max(0, -int(shift[0])), 16 - max(0, int(shift[0])))
    columns = slice(max(0, -int(shift[1])), 16 - max(0, int(shift[1])))
    source = image[0].roll((-int(shift[0]), -int(shift[1])), dims=(1, 2))
    assert shift.abs().max() > 0
    torch.testing.assert_close(moved[:, rows, columns], source[:, rows, columns])
    # Recolouring keeps what is between neighbours in proportion: no blur, no noise.
    recoloured = augment.change(
        image.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1),
        drawn | none | {"contrast": drawn["contrast"], "brightness": drawn["brightness"]},
    )
    steps, before = recoloured.diff(dim=-1), image.mean(dim=1, keepdim=True).diff(dim=-1)
    torch.testing.assert_close(
        steps, (before * drawn["contrast"]).expand_as(steps), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"size": 48}, "power of two"),
        ({"depth_size": 128}, "depth_size"),
        ({"batch": 3}, "even"),
        ({"expansion": True}, "grid"),
        ({"mixture": "sometimes"}, "mixture 'sometimes': use bernoulli or"),
        ({"light": "dark"}, "srgb or linear"),
        ({"augment": 1.5}, "0 to 1"),
        ({"bath": 3}, "unknown setting bath"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_preset(ArGanConfig, "flowers64", settings)


def test_crop_moves_image_and_disparity_alike() -> None:
    disparity = torch.rand(6, 1, 16, 16)
    image, moved = augment.crop(
        disparity.expand(-1, 3, -1, -1), disparity, 32, (1.0, 2.0), torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(image[:, :1], moved)
    whole = torch.nn.functional.interpolate(disparity, size=32, mode="bilinear")
    assert (moved - whole).abs().mean() > 0.05


def test_an_enclosed_dip_is_filled_to_its_rim_and_the_background_is_not() -> None:
    disparity = torch.zeros(1, 1, 9, 9)
    disparity[..., 2:7, 2:7] = 0.5
    disparity[..., 4, 4] = 0.1  # enclosed
    disparity[..., 5:, 3] = 0.0  # a bay, open to the border
    expected = disparity.clone()
    expected[..., 4, 4] = 0.5
    torch.testing.assert_close(augment.fill_holes(disparity), expected)


def test_narrowing_takes_pixels_off_what_is_near_and_none_off_the_frame() -> None:
    disparity, expected = torch.full((1, 1, 9, 9), 0.2), torch.full((1, 1, 9, 9), 0.2)
    disparity[..., 2:, 3:] = 0.9  # to the frame's corner
    expected[..., 4:, 5:] = 0.9
    torch.testing.assert_close(augment.narrowed(disparity, 2), expected)


def test_snapping_is_the_guided_filter() -> None:
    """Against the definition: in every window a least-squares line from colour to disparity."""
    rng = np.random.default_rng(0)
    image, disparity, radius, smooth = rng.random((9, 9, 3)), rng.random((9, 9)), 2, 0.01
    pad = [(radius, radius), (radius, radius)]
    windows = [
        np.lib.stride_tricks.sliding_window_view(np.pad(x, pad, mode="edge"), (5, 5)).reshape(
            9, 9, -1
        )
        for x in (*np.moveaxis(image, -1, 0), disparity)
    ]
    lines = np.empty((9, 9, 4))
    for y, x in np.ndindex(9, 9):
        colours, level = np.stack([w[y, x] for w in windows[:3]]), windows[3][y, x]
        covariance = np.cov(colours, bias=True) + smooth * np.eye(3)
        slope = np.linalg.solve(
            covariance, (colours * level).mean(1) - colours.mean(1) * level.mean()
        )
        lines[y, x] = *slope, level.mean() - slope @ colours.mean(1)
    padded = np.pad(lines, [*pad, (0, 0)], mode="edge")
    mean = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (0, 1)).mean((-2, -1))
    expected = (mean[..., :3] * image).sum(-1) + mean[..., 3]
    given = augment.snap_to_outlines(
        torch.from_numpy(disparity)[None, None],
        torch.from_numpy(np.moveaxis(image, -1, 0))[None], radius, smooth,
    )  # fmt: skip
    np.testing.assert_allclose(given[0, 0].numpy(), expected, atol=1e-9)


def test_snapping_brings_a_wide_disparity_to_the_outline() -> None:
    subject = torch.zeros(1, 1, 32, 32)
    subject[..., 8:24, 12:20] = 1
    image = torch.cat([0.2 + 0.6 * subject, 0.5 - 0.3 * subject, 0.4 + 0 * subject], dim=1)
    wide = F.avg_pool2d(F.max_pool2d(subject, 5, 1, 2), 3, 1, 1)
    snapped = augment.snap_to_outlines(wide, image, 4, 0.01)
    missing = [
        1 - metrics.pearson(x.numpy().ravel(), subject.numpy().ravel()) for x in (wide, snapped)
    ]
    assert missing[1] < 0.6 * missing[0]


def test_compression_is_what_pillow_does_to_grey() -> None:
    """Our blocks against libjpeg's, at one quality, on a grey photo."""
    photo = Image.open(DAHLIA).convert("L").resize((64, 48))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=40)
    expected = np.asarray(Image.open(buffer), np.float32) / 255
    given = torch.from_numpy(np.asarray(photo, np.float32) / 255)[None, None].expand(1, 3, -1, -1)
    rng = torch.Generator()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augment, "uniform", lambda rng, n, low, high: torch.full((n, 1, 1, 1), 40.0))
        ours = augment.compress(given, 1.0, rng)
    assert (ours[0, 0].numpy() - expected).std() < 0.004  # 1 of 255: rounding; 0.0021 seen
    assert np.abs(given[0, 0].numpy() - expected).mean() > 0.008


def test_defocus_blurs_some_pictures_whole() -> None:
    image = torch.rand(8, 3, 32, 32)
    rng = torch.Generator().manual_seed(0)
    blurred = augment.defocus(image, 0.5, rng)
    contrast = blurred.diff(dim=-1).abs().mean((1, 2, 3)) / image.diff(dim=-1).abs().mean((1, 2, 3))
    assert 0 < (contrast < 0.9).sum() < 8 and (contrast > 0.999).sum() + (contrast < 0.9).sum() == 8
    torch.testing.assert_close(blurred.mean((2, 3)), image.mean((2, 3)), atol=0.03, rtol=0)


def test_paste_puts_the_subject_before_the_other_scene() -> None:
    disparity = torch.zeros(2, 1, 16, 16)
    disparity[:, :, 6:10, 6:10] = 0.5  # near subject
    image = torch.tensor([0.2, 0.9]).view(2, 1, 1, 1).expand(2, 3, 16, 16).clone()
    scene, depth = augment.paste(image, disparity, 0.25, 1.0, torch.Generator().manual_seed(0))
    assert ((scene[0] - 0.2).abs() < 0.01).sum() > 0  # its own colour where the subject is
    assert ((scene[0] - 0.9).abs() < 0.01).float().mean() > 0.5  # the other scene elsewhere
    assert depth[0].max() > 0.49


def test_student_learns_from_a_teacher_and_is_loaded_back(run: Path, tmp_path: Path) -> None:
    config = ArGanDrConfig(size=32, steps=4, batch=4, log_every=2, save_every=4, picture_every=4)
    method = ArGanDr(config, [load_generator(run, CPU)], CPU)
    last = loop.train(method, tmp_path / "dr", {"teachers": {}}, CPU)
    assert {"level", "gradient", "rel_rmse", "radial_rel_rmse"} <= last.keys()
    network, _ = load_depth_net(tmp_path / "dr")
    photo = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(network(photo), method.ema(photo))


@pytest.mark.parametrize(
    "settings",
    [
        {"level": "ssi", "narrow": 1, "snap": 0.1},
        {"level": "l1", "smoothness_weight": 0.1},
        {"render_weight": 1.0},
    ],
    ids=str,
)
def test_every_loss_of_the_student_trains_and_is_exactly_resumed(
    settings: dict[str, object], run: Path, tmp_path: Path
) -> None:
    config = ArGanDrConfig(size=32, steps=4, batch=4, log_every=2, save_every=2, **settings)  # type: ignore[arg-type]
    photos = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)

    def student(
        folder: Path, resuming: bool = False, killed_at: int = 0
    ) -> dict[str, torch.Tensor]:
        method = ArGanDr(config, [load_generator(run, CPU)], CPU, photos)
        step = method.step

        def killed(number: int) -> dict[str, torch.Tensor]:
            if number == killed_at:
                raise KeyboardInterrupt
            return step(number)

        method.step = killed  # type: ignore[method-assign]
        last = loop.train(method, folder, {}, CPU, resuming)
        assert "consistency" in last and all(math.isfinite(v) for v in last.values())
        return checkpoint.load_tensors(folder / "state.safetensors")

    whole = student(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        student(tmp_path / "parts", killed_at=3)
    assert same(whole, student(tmp_path / "parts", resuming=True))


def test_lessons_of_cut_outs_stand_beside_the_teachers(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter generated, three quarters of photos; without cut-outs all are generated."""
    masks = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    masks[..., 8:24, 8:24] = True
    photos = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    cut = Cutouts(photos, masks, torch.arange(4))
    asked: list[int] = []
    samples = ArGanDr.samples
    monkeypatch.setattr(
        ArGanDr, "samples", lambda self, n, *rest: asked.append(n) or samples(self, n, *rest)
    )
    rng = torch.Generator()
    for share, generated in ((0.75, [2]), (1.0, []), (0.0, [8])):
        config = ArGanDrConfig(size=32, batch=8, cutout_share=share)
        method = ArGanDr(config, [load_generator(run, CPU)], CPU, cut=cut)
        asked.clear()
        image, disparity = method.lesson(8, rng, 0)
        assert image.shape == (8, 3, 32, 32) and disparity.shape == (8, 1, 32, 32)
        assert asked == generated
        assert all(math.isfinite(v) for v in method.step(1).values())


def test_a_second_round_follows_crops_of_the_photos_that_it_cut(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share of a batch, and without a weight none; in one pass with the lessons, or batch norm's
    running averages would be of two mixtures in turn."""
    masks = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    masks[..., 8:24, 8:24] = True
    cut = Cutouts(torch.full((4, 3, 32, 32), 77, dtype=torch.uint8), masks, torch.arange(4))
    asked: list[tuple[int, bool]] = []
    real = ArGanDr.real_lesson
    monkeypatch.setattr(ArGanDr, "real_lesson", lambda self, photos, n, rng: (
        asked.append((n, bool((photos == 77).all()))) or real(self, photos, n, rng)))  # fmt: skip
    passes: list[int] = []
    predict = ArGanDr.predict
    monkeypatch.setattr(
        ArGanDr, "predict", lambda self, image: passes.append(len(image)) or predict(self, image)
    )
    for changes, n in (
        ({}, 2), ({"consistency_share": 0.5}, 4), ({"consistency_share": 0.0}, 0),
        ({"consistency_weight": 0.0}, 0),
    ):  # fmt: skip
        asked.clear()
        passes.clear()
        config = ArGanDrConfig(size=32, batch=8, **changes)  # type: ignore[arg-type]
        logged = ArGanDr(config, [load_generator(run, CPU)], CPU, cut=cut).step(1)
        assert asked == [(n, True)] * bool(n) and passes == [8 + n]
        assert ("consistency" in logged) == ("ranks" in logged) == bool(n)
    learnt = []
    for weight in (0.0, 2.0):
        config = ArGanDrConfig(size=32, batch=8, rank_weight=weight)
        method = ArGanDr(config, [load_generator(run, CPU)], CPU, cut=cut)
        assert ("ranks" in method.step(1)) == (weight > 0)
        learnt.append(method.network.state_dict())
    assert not same(*learnt)


def test_a_network_that_knows_nothing_is_not_taught_by_its_own_average_at_first(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    masks[..., 8:24, 8:24] = True
    cut = Cutouts(torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8), masks, torch.arange(4))
    config = ArGanDrConfig(size=32, steps=100, batch=8)

    def student(
        weight: float = 0.5, begin_with: Mapping[str, torch.Tensor] | None = None
    ) -> ArGanDr:
        changed = dataclasses.replace(config, consistency_weight=weight, rank_weight=weight)
        return ArGanDr(changed, [load_generator(run, CPU)], CPU, cut=cut, begin_with=begin_with)

    new, begun = student(), student(begin_with=student().network.state_dict())
    assert [new.trust(step) < 0.01 for step in (0, 10)] == [True, False]
    assert 0.2 < new.trust(25) < 0.3 and new.trust(50) == new.trust(100) == 1
    assert begun.trust(0) == begun.trust(100) == 1

    def learnt(weight: float, trust: float) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(ArGanDr, "trust", lambda self, step: trust)
        method = student(weight)
        method.step(10)
        return method.network.state_dict()

    assert same(learnt(0.5, 0.0), learnt(5.0, 0.0)), "all of the followed photos' terms"
    assert not same(learnt(0.5, 1.0), learnt(5.0, 1.0))


def test_half_of_the_followed_photos_are_cropped_alone(run: Path) -> None:
    photos = torch.full((4, 3, 32, 32), 77, dtype=torch.uint8)  # which a crop leaves as it is
    method = ArGanDr(ArGanDrConfig(size=32, batch=4), [load_generator(run, CPU)], CPU, photos)
    image, _ = method.real_lesson(photos, 200, torch.Generator().manual_seed(0))
    alone = (image - 77 / 255).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert 70 < int(alone.sum()) < 130


def test_a_plain_gan_is_no_teacher(tmp_path: Path) -> None:
    trained(tmp_path, dataclasses.replace(TINY, mixture="plain", steps=2))
    with pytest.raises(InputError, match="plain GAN"):
        load_teachers([tmp_path], CPU)


def test_pack_halves_the_weights_and_keeps_the_record(run: Path, tmp_path: Path) -> None:
    assert cli.pack([str(run), str(tmp_path / "kept")]) == 0
    whole, half = (load_generator(f, CPU)[0] for f in (run, tmp_path / "kept"))
    z = torch.randn(2, 8)
    torch.testing.assert_close(whole(z)[0], half(z)[0], atol=2e-3, rtol=0)  # seen: 4e-4
    assert (tmp_path / "kept" / "log.jsonl").read_text() == (run / "log.jsonl").read_text()


def test_several_runs_are_packed_as_the_mean_of_their_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other, wider = (tmp_path / name for name in ("one", "other", "wider"))
    for folder, change in ((one, {"seed": 1}), (other, {"seed": 2}), (wider, {"width": 16})):
        trained(folder, dataclasses.replace(TINY, **change))
    assert cli.pack([str(one), str(other), str(tmp_path / "mean")]) == 0
    first, last, mean = (
        checkpoint.load_floats(folder / "ema.safetensors")
        for folder in (one, other, tmp_path / "mean")
    )
    assert first.keys() == mean.keys()
    for name in (name for name, w in first.items() if w.is_floating_point()):
        torch.testing.assert_close(mean[name], (first[name] + last[name]) / 2, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(mean[name], last[name], atol=1e-3, rtol=1e-3)
    record = checkpoint.read_json(tmp_path / "mean/config.json")
    digests = {f.name: checkpoint.sha256(f / "ema.safetensors") for f in (one, other)}
    assert record["mean_of"] == digests and record["settings"]["seed"] == 2
    assert cli.pack([str(one), str(tmp_path / "single")]) == 0
    assert "mean_of" not in checkpoint.read_json(tmp_path / "single/config.json")
    shutil.copytree(one, tmp_path / "copy/other")
    for runs in ((one, wider), (tmp_path / "copy/other", other)):
        assert cli.pack([*map(str, runs), str(tmp_path / "no")]) == 2
    assert cli.pack([str(tmp_path / "none"), str(one), str(tmp_path / "no")]) == 2
    assert "no checkpoint at" in capsys.readouterr().err
    for folder in (one, tmp_path / "single"):  # which hold a run
        assert cli.pack([str(folder), str(other), str(folder)]) == 2
    assert not (tmp_path / "no").exists()


def test_sample_draws_grids_and_sweeps(run: Path, tmp_path: Path) -> None:
    assert sample.main([str(run), "-o", str(tmp_path), "--count", "3"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["aperture.png", "focus.png", "grid.png"]
    pictures = sample.draw(*load_generator(run, CPU), count=3, seed=0)
    assert pictures["grid"].shape == (3 * 16, 3 * 16, 3)
    assert (
        pictures["grid"][:16] == pictures["aperture"][:16]
    ).all()  # aperture 0 is the deep image


@pytest.mark.parametrize(
    "argv, message",
    [
        (["ar-gan", "--data", "nowhere", "--out", "x"], "nowhere"),
        (["ar-gan", "--data", "toy", "--preset", "nothing", "--out", "x"], "no preset nothing"),
        (["ar-gan-dr", "--teacher", "nowhere", "--out", "x"], "config.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.train(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("argan: ") and error.count("\n") == 1 and message in error
    assert not list(tmp_path.iterdir())
