"""Every run lists the files that it learnt from, each with its hash."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from argan.errors import InputError
from argan_train import ar_gan_dr, checkpoint, cli, cutouts, data, image_metrics
from argan_train.ar_gan_dr import (
    DECODERS_DIFFER,
    ArGanDr,
    describe_sources,
    load_depth_net,
    load_teachers,
)
from argan_train.config import ArGanDrConfig
from argan_train.cutouts import Cutouts
from argan_train.networks import DepthNet, widened

CPU = torch.device("cpu")
GAN = "--size 16 --width 4 --batch 4 --latent 8 --depth-size 8 --views 3 --steps 2".split()
STUDENT = "--size 32 --nominal 32 --batch 2 --steps 2".split()
SHORT = "--threads 1 --device cpu --log-every 2 --picture-every 2".split()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    (folder / "b").mkdir()
    for name in ("1.png", "2.png", "b/3.png"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name)
    (folder / "0.png").write_text("no photo")
    return folder


@pytest.fixture(scope="module")
def teacher(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "gan"
    words = ["ar-gan", "--data", str(photos), "--out", str(run), *GAN, *SHORT]
    assert cli.train(words) == 0
    return run


def listed(run: Path) -> dict[str, str]:
    lines = (run / "inputs.sha256").read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_generator_lists_its_photos(photos: Path, teacher: Path) -> None:
    found = listed(teacher)
    assert found == {name: digest(photos / name) for name in ("1.png", "2.png", "b/3.png")}
    data = checkpoint.read_json(teacher / "config.json")["data"]
    assert data["sha256"] == digest(teacher / "inputs.sha256"), "the record's hash is the list's"
    assert data["dropped"] == {"0.png": "not an image"}


def test_a_student_lists_its_teachers_their_lists_and_its_photos(
    photos: Path, teacher: Path, tmp_path: Path
) -> None:
    words = ["ar-gan-dr", "--teacher", str(teacher), "--photos", str(photos)]
    assert cli.train([*words, "--out", str(tmp_path / "dr"), *STUDENT, *SHORT]) == 0
    assert listed(tmp_path / "dr") == {
        "gan/ema.safetensors": digest(teacher / "ema.safetensors"),
        "gan/inputs.sha256": digest(teacher / "inputs.sha256"),
        **{f"photos/{name}": value for name, value in listed(teacher).items()},
    }
    folder = tmp_path / "packed"
    assert cli.pack([str(tmp_path / "dr"), str(folder)]) == 0
    assert (folder / "inputs.sha256").read_bytes() == (tmp_path / "dr/inputs.sha256").read_bytes()
    assert "pretrained" not in checkpoint.read_json(tmp_path / "dr/config.json")["data"]


def test_a_cycle_gan_lists_both_sets(photos: Path, tmp_path: Path) -> None:
    words = ["cycle-gan", "--deep", str(photos), "--shallow", str(photos / "b"), *SHORT]
    small = "--size 32 --width 2 --blocks 1 --steps 1".split()
    assert cli.train([*words, "--out", str(tmp_path / "cycle"), *small]) == 0
    names = ["deep/1.png", "deep/2.png", "deep/b/3.png", "shallow/3.png"]
    assert list(listed(tmp_path / "cycle")) == names


def test_the_toy_world_has_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Few(cli.ToyWorld):
        def batch(self, count: int, off_centre: float = 0.0):  # type: ignore[no-untyped-def]
            return super().batch(1)

    monkeypatch.setattr(cli, "ToyWorld", Few)
    words = ["ar-gan", "--data", "toy", "--out", str(tmp_path / "toy"), *GAN, *SHORT]
    assert cli.train(words) == 0
    assert not (tmp_path / "toy/inputs.sha256").exists()
    assert cli.pack([str(tmp_path / "toy"), str(tmp_path / "packed")]) == 0


def test_two_teachers_of_one_name_are_told_apart(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rename one of them"):
        describe_sources([teacher, tmp_path / "gan"], ArGanDrConfig())


def test_the_imagenet_variant_says_so_and_learns_its_encoder_slowly(
    teacher: Path, tmp_path: Path
) -> None:
    pytest.importorskip(image_metrics.EFFLITE0_PACKAGE)
    words = ["ar-gan-dr", "--teacher", str(teacher), "--network", "lite0", *STUDENT, *SHORT]
    assert cli.train([*words, "--out", str(tmp_path / "dr")]) == 0
    data = checkpoint.read_json(tmp_path / "dr/config.json")["data"]
    assert data["pretrained"]["weights"] == "EfficientNet-Lite0, pretrained on ImageNet"
    assert listed(tmp_path / "dr")[image_metrics.EFFLITE0_FILE] == image_metrics.EFFLITE0_SHA256
    network, config = load_depth_net(tmp_path / "dr")
    assert config.network == "lite0"
    # It began as what was pretrained, and has moved from it, but not far.
    begun = image_metrics.efficientnet_lite0_weights()["_conv_stem.weight"]
    moved = (network.stem[0].weight - begun).abs().max()
    assert 0 < moved < 0.01
    # Its batch norms keep the statistics of real photos; those of the decoder are of the lessons.
    begun = image_metrics.efficientnet_lite0_weights()["_bn0.running_mean"]
    assert torch.equal(network.stem[1].running_mean, begun)
    assert network.decoder[0].layers[1].running_mean.abs().max() > 0
    again = [*words, "--out", str(tmp_path / "dr"), "--resume", "--steps", "3"]
    assert cli.train(again) == 0, "the optimiser's groups are restored"


def test_a_second_round_lists_its_student_and_the_photos_that_it_cut(
    photos: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["ar-gan-dr", "--teacher", str(teacher), *STUDENT, *SHORT]
    assert cli.train([*words, "--out", str(tmp_path / "first")]) == 0
    monkeypatch.setattr(cutouts, "FEWEST", 1)  # three photos of noise
    whole = np.zeros((32, 32), bool)
    whole[8:24, 8:24] = True
    monkeypatch.setattr(cutouts, "segment", lambda *_: whole)
    words += ["--student", str(tmp_path / "first"), "--out", str(tmp_path / "second")]
    assert cli.train(words) == 2, "there is nothing to cut"
    assert cli.train([*words, "--photos", str(photos), "--student", str(teacher)]) == 2
    assert "gan is a run of ar-gan: give one of ar-gan-dr" in capsys.readouterr().err
    assert cli.train([*words, "--photos", str(photos)]) == 0
    found = listed(tmp_path / "second")
    assert found["first/ema.safetensors"] == digest(tmp_path / "first/ema.safetensors")
    assert found["photos/b/3.png"] == digest(photos / "b/3.png")
    data = checkpoint.read_json(tmp_path / "second/config.json")["data"]
    assert data["photos"]["cut_out"] == 3 and data["student"]["run"] == "first"


ALL = ["stem", "encoder", "decoder", "head"]
ALL_BUT_ONE = ["stem", "encoder", "decoder but for its last stage"]


@pytest.mark.parametrize("first, words, parts", [
    ("nano", [], ALL),
    ("nano", ["--decoder", "light"], ALL_BUT_ONE),
    ("nano", ["--network", "small"], ALL),
    ("nano", ["--network", "small", "--decoder", "light"], ALL_BUT_ONE),
    ("small", ["--network", "nano"], []),
])  # fmt: skip
def test_a_second_round_begins_with_its_students_weights(
    first: str, words: list[str], parts: list[str], photos: Path, teacher: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked: list[object] = []
    blank = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    cut = Cutouts(blank, blank[:, :1].bool(), torch.zeros(1, dtype=torch.int64))
    monkeypatch.setattr(cli, "cut_out", lambda *_, standing, **__: asked.append(standing) or cut)
    both = ["ar-gan-dr", "--teacher", str(teacher), *STUDENT, *SHORT]
    assert cli.train([*both, "--network", first, "--out", str(tmp_path / "first")]) == 0
    second = [*both, "--student", str(tmp_path / "first"), "--photos", str(photos), *words]
    second += ["--out", str(tmp_path / "second"), "--learning-rate", "1e-9"]
    assert cli.train([*second, "--standing", "true"]) == 0
    assert asked == [True]
    before = load_depth_net(tmp_path / "first")[0].state_dict()
    network, config = load_depth_net(tmp_path / "second")
    after = network.state_dict()
    if parts and config.network != first:
        if len(parts) == 3:
            before = {n: t for n, t in before.items() if not n.startswith(DECODERS_DIFFER)}
        assert isinstance(network, DepthNet)
        before = widened(before, network, torch.Generator().manual_seed(config.seed))
    for name, value in after.items():
        if name.endswith("weight") and value.std() > 0:  # a norm's is 1 at first, in any network
            old = before.get(name)
            same = old is not None and old.shape == value.shape and torch.allclose(old, value)
            new = not parts or (len(parts) == 3 and name.startswith(DECODERS_DIFFER))
            assert same != new, name
    data = checkpoint.read_json(tmp_path / "second/config.json")["data"]
    assert sorted(data["student"]["begun_with"]) == sorted(parts)


def test_small_photos_are_enlarged_to_the_crops(
    photos: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(cli, "cut_out", lambda images, *_, **__: seen.append(images))
    words = ["ar-gan-dr", "--teacher", str(teacher), *STUDENT, *SHORT]
    assert cli.train([*words, "--out", str(tmp_path / "first")]) == 0
    words += ["--student", str(tmp_path / "first"), "--photos", str(photos), "--out", "no"]
    with pytest.raises(AttributeError):  # there are no cut-outs
        cli.train([*words, "--photo-size", "16"])
    (found,) = seen
    assert found.shape == (3, 3, 32, 32) and found.dtype == torch.uint8
    small = torch.from_numpy(data.load_photos(photos, 16)[0])
    means = [p.float().mean((2, 3)) for p in (found, small)]
    torch.testing.assert_close(*means, atol=3, rtol=0)  # values of 255
    assert cli.train([*words, "--photo-size", "33"]) == 2


def test_pretrained_layers_have_a_share_of_the_learning_rate(teacher: Path) -> None:
    pytest.importorskip(image_metrics.EFFLITE0_PACKAGE)
    config = ArGanDrConfig(size=32, batch=2, network="lite0", warmup=1)
    method = ArGanDr(config, load_teachers([teacher], CPU), CPU)
    method.step(1)
    rates = [group["lr"] for group in method.optimizer.param_groups]
    assert rates[0] == pytest.approx(ar_gan_dr.PRETRAINED_RATE * rates[1])
    grouped = sum(len(group["params"]) for group in method.optimizer.param_groups)
    assert grouped == len(list(method.network.parameters())), "each in one group"
    plain = ArGanDr(dataclasses.replace(config, network="nano"), method.teachers, CPU)
    assert [group["rate"] for group in plain.optimizer.param_groups] == [1.0]
