"""What can't be meant, or would lose a run, ends in one line that says what to do."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from argan.errors import InputError
from argan_train import ar_gan, checkpoint, cli, look, loop, options
from argan_train.ar_gan_dr import ArGanDr
from argan_train.config import ArGanConfig, ArGanDrConfig, CycleGanConfig, load_preset

GAN = "--size 16 --width 4 --batch 4 --latent 8 --depth-size 8 --views 3 --threads 1".split()
STUDENT = "--size 32 --nominal 32 --batch 2 --steps 1 --threads 1".split()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def runs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gan and its student dr, of a step or two."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["ar-gan", "--data", str(photos), "--out", str(folder / "gan"), *GAN, "--steps", "2"]
    assert cli.train(words) == 0
    words = ["ar-gan-dr", "--teacher", str(folder / "gan"), "--out", str(folder / "dr"), *STUDENT]
    assert cli.train(words) == 0
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a training says that ends with exit code 2."""
    try:
        code = cli.train(words)
    except SystemExit as error:  # argparse
        code = error.code
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said
    return said.splitlines()[-1]


@pytest.mark.parametrize("option, value", [
    ("--steps", "0"), ("--save-every", "0"), ("--picture-every", "0"), ("--log-every", "0"),
    ("--r1-every", "0"), ("--ema-half-life", "0"), ("--views", "0"), ("--learning-rate", "-1"),
    ("--learning-rate", "nan"), ("--seed", "5000000000"), ("--seed", "-1"), ("--bf16", "on"),
    ("--device", "gpu"), ("--device", "meta"), ("--device", "cuda:99"), ("--threads", "0"),
    ("--threads", "two"),
])  # fmt: skip
def test_numbers_and_words_that_mean_nothing(
    option: str, value: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ar-gan", "--data", str(photos), "--out", str(tmp_path / "run"), *GAN, "--steps", "1"]
    said = refused([*words, option, value], capsys)
    assert option.strip("-").replace("-", "_") in said.replace("-", "_") or value in said
    assert re.search("use |give ", said) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", [ArGanConfig, ArGanDrConfig, CycleGanConfig])
def test_every_count_of_steps_is_at_least_one(kind: type) -> None:
    for name in ("steps", "picture_every", "save_every", "log_every"):
        with pytest.raises(InputError, match=f"{name} 0: use at least 1"):
            kind(**{name: 0})


def test_presets_that_cannot_be_read(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    for text, said in (("size = ", "can't be read"), ('size = "64"', "size '64'.*wants int"),
                       ("learning_rate = true", None), ("learning_rate = 1", None)):  # fmt: skip
        preset.write_text(text)
        if said is None:
            load_preset(ArGanConfig, str(preset), {})
            continue
        with pytest.raises(InputError, match=said):
            load_preset(ArGanConfig, str(preset), {})


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_packed_run_is_not_trained_over(
    resume: list[str], photos: Path, runs: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    packed = tmp_path / "packed"
    assert cli.pack([str(runs / "gan"), str(packed)]) == 0
    before = contents(packed)
    words = ["ar-gan", "--data", str(photos), "--out", str(packed), *GAN, "--steps", "2", *resume]
    assert "can't go on: give another --out" in refused(words, capsys)
    assert contents(packed) == before
    # What was killed before its first checkpoint was whole begins anew.
    record = checkpoint.read_json(packed / "config.json")
    checkpoint.write_json(packed / "config.json", record | {"steps": 0})
    assert cli.train(words) == 0


def test_a_run_is_not_packed_into_a_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(runs)
    for folder in (runs / "gan", runs / "dr", runs / "x" / ".." / "gan"):
        assert cli.pack([str(runs / "gan"), str(folder)]) == 2
        assert "give another folder" in capsys.readouterr().err
    assert contents(runs) == before


def test_fine_tuning_keeps_the_network(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ar-gan-dr", "--teacher", str(runs / "gan"), "--qat", str(runs / "dr"),
             "--out", str(tmp_path / "q"), "--threads", "1"]  # fmt: skip
    assert "network is nano: leave out --network" in refused([*words, "--network", "small"], capsys)
    assert "leave out --decoder" in refused([*words, "--decoder", "light"], capsys)


def test_a_student_and_a_teacher_of_one_name_are_told_apart(
    runs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "dr", tmp_path / "gan")
    words = ["ar-gan-dr", "--teacher", str(runs / "gan"), "--student", str(tmp_path / "gan"),
             "--photos", str(photos), "--out", str(tmp_path / "second"), *STUDENT]  # fmt: skip
    assert "rename one of them" in refused(words, capsys)


def test_the_state_is_never_ahead_of_the_weights(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    save = checkpoint.save_tensors

    def noted(path: Path, *given: object) -> None:
        written.append(path.name)
        save(path, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "save_tensors", noted)
    words = ["ar-gan", "--data", str(photos), "--out", str(tmp_path / "run"), *GAN, "--steps", "1"]
    assert cli.train(words) == 0
    assert written == ["ema.safetensors", loop.STATE]


def test_a_log_is_replaced_whole(
    runs: Path, tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full when a run is resumed does not take its history."""
    run = tmp_path / "run"
    shutil.copytree(runs / "gan", run)
    before, write = (run / "log.jsonl").read_text(), Path.write_text

    def full(path: Path, text: str, *given: object) -> int:
        if path.name.startswith("log.jsonl"):
            write(path, text[:3])
            raise OSError(28, "No space left on device")
        return write(path, text, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    words = ["ar-gan", "--data", str(photos), "--out", str(run), *GAN, "--steps", "3", "--resume"]
    assert cli.train(words) == 2
    assert (run / "log.jsonl").read_text() == before and before


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    for text in ("{", "[1]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match="config.json"):
            checkpoint.read_json(tmp_path / "config.json")


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_an_output_that_is_a_file_is_refused_at_once(
    command: str, runs: Path, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("mine")
    words = [str(runs / "gan"), "-o", str(tmp_path / "file")]
    words += ["--data", str(photos)] if command == "evaluate" else []
    assert getattr(cli, command)(words) == 2
    assert "name a folder that is one" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
    words[2] = str(tmp_path / "file" / "below")
    assert getattr(cli, command)(words) == 2


def test_one_photo_is_too_few_to_compare_with(
    runs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one").mkdir()
    shutil.copyfile(photos / "0.png", tmp_path / "one" / "0.png")
    words = [str(runs / "gan"), "--data", str(tmp_path / "one"), "-o", str(tmp_path / "out")]
    assert cli.evaluate(words) == 2
    assert "too few to compare with" in capsys.readouterr().err


def test_sharp_samples_are_sharp_with_a_depth_expansion() -> None:
    """T's answer to a disparity of nothing is not nothing."""
    torch.manual_seed(0)
    config = ArGanConfig(size=32, width=4, latent=8, depth_size=8, pupil="grid", views=3,
                         expansion=True)  # fmt: skip
    generator = ar_gan.make_generator(config).eval().requires_grad_(False)
    assert generator.expansion is not None
    for parameter in generator.expansion.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    student = ArGanDr(ArGanDrConfig(size=32, snap=0), [(generator, config)], torch.device("cpu"))
    taken, _ = student.samples(16, torch.Generator().manual_seed(0), 0)
    rng = torch.Generator().manual_seed(0)
    image, _ = generator(torch.randn(16, 8, generator=rng))
    sharp = (taken - image).abs().amax(dim=(1, 2, 3)) == 0
    assert 4 <= sharp.sum() <= 12


def test_a_look_enlarges_small_photos_for_its_second_round(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    monkeypatch.setattr(
        look.cutouts, "cut_out", lambda photos, *_: sizes.append(tuple(photos.shape))
    )
    config = ArGanDrConfig(size=64, photo_size=32)
    progress = look.Progress()
    progress.begin("cut out", 8, "photo")
    try:
        found = look.cut_photos(str(photos), torch.nn.Identity(), config, tmp_path, "",
                                torch.device("cpu"), progress)  # fmt: skip
    finally:
        progress.close()
    assert found is not None and sizes == [(4, 3, 64, 64)]
    assert found[1]["photos"] == 4 and sorted(found[2]) == [f"{i}.png" for i in range(4)]


def test_the_seed_fits_beside_the_step() -> None:
    loop.seeded(options.LARGEST_SEED, 2**31, torch.device("cpu"))
