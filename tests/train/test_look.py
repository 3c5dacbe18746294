"""`argan train look`: photos in, a bundle out, stopped at any time and with any photos."""

import dataclasses
import io
import json
import os
import signal
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import argan
from argan import bundle, optics
from argan_train import checkpoint, cli, cutouts, look
from argan_train.ar_gan import ArGan
from argan_train.ar_gan_dr import ArGanDr
from argan_train.config import ArGanConfig, ArGanDrConfig
from argan_train.data import PhotoReport
from argan_train.networks import Generator
from argan_train.toy import ToyWorld

pytest.importorskip("onnx", reason="a look ends with argan export")

EVERY = "log_every = 2\npicture_every = 4\nsave_every = 2\n"
GAN = "size = 16\nwidth = 4\nbatch = 4\nlatent = 8\ndepth_size = 8\nviews = 3\nsteps = 6\n" + EVERY
STUDENT = "size = 32\nnominal = 64\nbatch = 4\nsteps = 4\n" + EVERY
SECOND = "size = 32\nnominal = 96\nbatch = 4\nsteps = 6\n" + EVERY


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 toy photographs, half of them through a wide lens, and one file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    pictures = (ToyWorld(32, seed=3).batch(100).image * 255 + 0.5).astype(np.uint8)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture.transpose(1, 2, 0)).save(folder / f"{i:03}.png")
    (folder / "broken.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("presets")
    (folder / "gan.toml").write_text(GAN)
    (folder / "student.toml").write_text(STUDENT)
    (folder / "second.toml").write_text(SECOND)
    return [
        "--preset", str(folder / "gan.toml"), "--student-preset", str(folder / "student.toml"),
        "--second-preset", str(folder / "second.toml"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def command(photos: Path, presets: list[str]) -> list[str]:
    return ["look", "--photos", str(photos), *presets, "--threads", "1", "--device", "cpu"]


def centre(photo: np.ndarray, disparity: np.ndarray, standing: bool) -> np.ndarray:
    """In place of `cutouts.segment`: networks of four steps see nothing."""
    mask = np.zeros(disparity.shape, bool)
    mask[8:24, 8:24] = True
    return mask


@dataclasses.dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


def said(
    words: list[str],
    stop: tuple[type[ArGan] | type[ArGanDr], int] | None = None,
    segment: Callable[..., np.ndarray | None] = centre,
) -> Said:
    """`argan train`, told to stop by SIGTERM within that step of that training."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(cutouts, "segment", segment)
        if stop:
            kind, number = stop
            good_step = kind.step

            def told(method: ArGan | ArGanDr, at: int) -> dict[str, torch.Tensor]:
                if at == number:
                    os.kill(os.getpid(), signal.SIGTERM)
                return good_step(method, at)  # type: ignore[arg-type]

            patch.setattr(kind, "step", told)
        return Said(cli.train(words), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def made(
    command: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str], list[Said]]:
    """A look that was stopped in either training, and what each command said. (Export takes most
    of the time: once for all tests.)"""
    folder = tmp_path_factory.mktemp("made")
    words = [*command, "-o", str(folder / "mine.argan"), "--out", str(folder / "run")]
    first = said(words, (ArGan, 3))  # steps 1, 2 and 9 to 16 are timed before the plan
    assert not (folder / "mine.argan").exists()
    second = said([*words, "--resume"], (ArGanDr, 3))
    assert not (folder / "mine.argan").exists()
    third = said([*words, "--resume"], (ArGanDr, 5))  # the first round has four steps
    assert not (folder / "mine.argan").exists()
    return folder, words, [first, second, third, said([*words, "--resume"])]


def test_photos_become_a_bundle_whose_default_is_their_look(
    made: tuple[Path, list[str], list[Said]],
) -> None:
    folder, _, (*_, last) = made
    assert last.code == 0, last.err
    figures = json.loads((folder / "mine.json").read_text())
    about, lens = figures["photos"], figures["lens"]
    assert about["photos"] == 100 and list(about["dropped"]) == ["broken.jpg"]
    steps = {name: about["steps"] for name, about in figures["trainings"].items()}
    assert steps == {"ar-gan": 6, "ar-gan-dr": 4, "ar-gan-dr-2": 6}
    content = bundle.read(folder / "mine.argan")
    assert content.f_number == lens["f_number"] and content.manifest["look"] == lens
    card = content.files["CARD.md"].decode()
    assert "## The look" in card and "(100 of" in card and "`ar-gan-dr`: 4 steps" in card
    assert content.image.nominal == 96, "the second round's network"
    # One unit of disparity is the limit of the generator's: 6 % of the width.
    assert lens["strength_percent"] == pytest.approx(6)
    assert optics.blur_of_f_number(content.f_number, 1000) == pytest.approx(60, rel=0.005)
    picture = np.full((40, 60, 3), 90, np.uint8)
    assert argan.refocus(picture, model=folder / "mine.argan").image.shape == (40, 60, 3)
    page = (folder / "run" / "summary.html").read_text()
    assert page.count("data:image/png") == 3 and "photos are left out: broken.jpg" in page
    assert sorted(f.name for f in folder.iterdir()) == ["mine.argan", "mine.json", "run"]
    assert sorted(f.name for f in (folder / "run").iterdir()) == [
        "ar-gan", "ar-gan-dr", "ar-gan-dr-2", "plan.json", "summary.html"
    ]  # fmt: skip
    inputs = (folder / "run/ar-gan/inputs.sha256").read_text().splitlines()
    assert len(inputs) == 100 and inputs[7].endswith("  007.png")
    inputs = (folder / "run/ar-gan-dr-2/inputs.sha256").read_text().splitlines()
    assert {"photos/007.png", "ar-gan-dr/ema.safetensors"} <= {i.split("  ")[1] for i in inputs}
    assert last.out.splitlines()[-3:] == [
        str(folder / name) for name in ("mine.argan", "mine.json", "run/summary.html")
    ]
    assert "the bundle's default is f/0.6: 6 % of the width" in last.out


def test_one_bar_shows_all_stages_and_where_it_was_stopped(
    made: tuple[Path, list[str], list[Said]],
) -> None:
    first, second, third, last = made[2]
    for stopped, at in ((first, "3 of 6"), (second, "3 of 4"), (third, "5 of 6")):
        assert stopped.code == 1 and not stopped.out
        assert f"stopped at step {at}: --resume" in stopped.err
    assert "1 photos are left out: broken.jpg (not an image)" in first.err
    assert "only 100 photos: some hundred more" in first.err
    stages = ["1/6 photos", "2/6 ar-gan ", "3/6 ar-gan-dr ", "4/6 cut out", "5/6 ar-gan-dr-2 ",
              "6/6 export"]  # fmt: skip
    for said, count in ((first, 2), (second, 3), (third, 5), (last, 6)):
        assert [stage in said.err for stage in stages] == [i < count for i in range(6)]
        assert "img/s]" not in said.err and "photo/s]" not in said.err, "a bar beside its own"
    assert " img/s, " in first.err and " left" in first.err
    assert "100%" in last.err


def test_stopping_changes_no_result(
    made: tuple[Path, list[str], list[Said]], photos: Path, presets: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _, gan, _, student, _, second = presets
    teacher = ["--teacher", str(tmp_path / "ar-gan")]
    rest = ["--student", str(tmp_path / "ar-gan-dr"), "--photos", str(photos)]
    whole = {"ar-gan": ["--data", str(photos), "--preset", gan],
             "ar-gan-dr": [*teacher, "--preset", student],
             "ar-gan-dr-2": [*teacher, *rest, "--preset", second]}  # fmt: skip
    monkeypatch.setattr(cutouts, "segment", centre)
    for name, words in whole.items():
        words += ["--out", str(tmp_path / name), "--threads", "1", "--device", "cpu"]
        assert cli.train([name.removesuffix("-2"), *words]) == 0
        one, two = (
            checkpoint.load_tensors(folder / name / "state.safetensors")
            for folder in (made[0] / "run", tmp_path)
        )
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one if key != "progress")


def test_photos_that_cannot_be_cut_out_leave_the_first_round(
    command: list[str], tmp_path: Path
) -> None:
    words = [*command, "-o", str(tmp_path / "mine.argan"), "--out", str(tmp_path / "run")]
    last = said(words, segment=lambda *_: None)
    assert last.code == 0
    assert "no second round: the student cut 0 of 100 photos" in last.err
    assert bundle.read(tmp_path / "mine.argan").image.nominal == 64
    assert list(json.loads((tmp_path / "mine.json").read_text())["trainings"]) == [
        "ar-gan", "ar-gan-dr"
    ]  # fmt: skip


def test_a_look_is_resumed_with_what_it_was_begun_with(
    made: tuple[Path, list[str], list[Said]], tmp_path: Path
) -> None:
    _, words, _ = made
    assert "already holds a look: give --resume, or another --out" in said(words).err
    assert "other settings (steps)" in said([*words, "--resume", "--steps", "5"]).err
    (tmp_path / "older").mkdir()
    plan = json.loads((made[0] / "run/plan.json").read_text())
    del plan["second"]
    (tmp_path / "older/plan.json").write_text(json.dumps(plan))
    older = [*words, "--resume", "--out", str(tmp_path / "older")]
    assert "is of an older version of argan: give another --out" in said(older).err
    for i in range(100):
        Image.new("RGB", (16, 16), (i, 2 * i, 0)).save(tmp_path / f"{i}.png")
    others = [*words, "--resume"]
    others[2] = str(tmp_path)
    last = said(others)
    assert last.code == 2 and "are other photos than" in last.err


@pytest.mark.parametrize(
    "photos, more, message",
    [
        ("empty", [], "no .jpg, .jpeg, .png, .webp file in it"),
        ("three", [], "3 photos; a look needs 100 or more, better 500"),
        ("broken", [], "none of 120 photos could be used; 0.jpg: not an image"),
        ("small", [], "20 photos can be used; a look needs 100 or more, better 500; left out:"),
        ("absent", [], "nothing there; give a folder or a zip of photos"),
        ("small", ["-o", "x.zip"], "a bundle is called NAME.argan"),
        ("small", ["-o", "no/where/x.argan"], "no/where is not a directory; make it first"),
        ("small", ["--minutes", "3", "--steps", "5"], "leave out --steps"),
        ("small", ["--minutes", "-1"], "--minutes -1: give more than 0"),
        ("small", ["--steps", "0"], "--steps 0: give at least 1"),
        ("small", ["--preset", "plain.toml"], 'no lens, mixture "plain"'),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_trained(
    photos: str, more: list[str], message: str, presets: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("plain.toml").write_text('mixture = "plain"\n')
    for name, count in {"empty": 0, "three": 3, "broken": 120, "small": 120}.items():
        Path(name).mkdir()
        for i in range(count):
            if name == "broken":
                Path(name, f"{i}.jpg").write_text("hello")
            else:
                side = 8 if name == "small" and i >= 20 else 16
                Image.new("RGB", (side, side)).save(Path(name, f"{i}.png"))
    before = sorted(tmp_path.rglob("*"))
    words = ["look", "--photos", photos, *presets, "-o", "x.argan", *more]
    assert cli.train(words) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("argan: ") and message in last
    assert sorted(tmp_path.rglob("*")) == before


def test_advice_tells_extremes() -> None:
    report = PhotoReport({}, {})
    shallow = (ToyWorld(64, seed=1, blur_probability=1.0).batch(50).image * 255).astype(np.uint8)
    sharp = np.random.default_rng(0).integers(0, 256, (50, 3, 64, 64), np.uint8)
    plain = np.full((50, 3, 64, 64), 90, np.uint8)
    few = ["only 50 photos: some hundred more would show in the result"]
    assert look.advice(shallow, report) == [
        *few, "hardly any background is sharp: add photos that were stopped down"
    ]  # fmt: skip
    assert look.advice(sharp, report) == [
        *few, "hardly any background is blurred: add photos that were taken wide open"
    ]  # fmt: skip
    assert look.advice(plain, report)[1:] == [
        "most backgrounds are too plain to tell whether they are sharp"
    ]
    assert look.advice(np.concatenate([shallow, sharp] * 5), report) == []
    # Looked at alike at any size.
    large = np.kron(shallow, np.ones((1, 1, 2, 2), np.uint8))
    assert look.advice(large, report) == look.advice(shallow, report)


def test_minutes_scale_the_steps_of_all_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    gan = ArGanConfig(size=16, width=4, depth_size=8, steps=8000)
    student, second = ArGanDrConfig(size=32, steps=750), ArGanDrConfig(size=32, steps=250)
    images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    monkeypatch.setattr(look, "step_seconds", lambda m: 0.5 if isinstance(m, ArGan) else 2.0)
    # 4,000 s and 2,000 s: 100 minutes.
    plan = look.make_plan({"minutes": 25.0}, {}, gan, student, second, [], images)
    assert (plan.gan.steps, plan.student.steps, plan.second.steps) == (2000, 188, 62)
    assert plan.seconds == {"ar-gan": 1000, "ar-gan-dr": 376, "ar-gan-dr-2": 124}
    assert look.make_plan({"minutes": None}, {}, gan, student, second, [], images).gan == gan


class Known(Generator):
    """Half of a picture lies `behind` px behind the focal plane, a tenth `before` px before it."""

    behind, before = 3.2, 1.6

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        disparity = torch.zeros(len(z), 1, 40, 40)
        disparity[..., :20] = -self.behind
        disparity[..., 36:] = self.before
        return torch.zeros(len(z), 3, 40, 40), disparity


def test_the_lens_is_measured_on_photographs_as_they_are_drawn() -> None:
    known = Known(size=16, width=4, latent=8, depth_size=8, max_blur_px=4)
    config = dataclasses.replace(ArGanConfig(size=64, latent=8, max_blur=0.0625))
    lens = look.measure_lens(known, config)
    assert lens.shallow_share == 0.5, "the others are sharp by the mixture"
    assert lens.background_share == pytest.approx(0.5)
    assert lens.foreground_share == pytest.approx(0.1)
    # 3.2 of 64 px and, for a sixth of what is out of focus, 1.6.
    assert lens.blur_percent["10"] == pytest.approx(2.5)
    assert lens.blur_percent["50"] == lens.blur_percent["90"] == pytest.approx(5)
    assert lens.strength_percent == pytest.approx(6.25)
    # Refocused with the bundle's default, that background has the radius that it had there:
    # d = D / limit + 1, and the subject's is 1.
    k = optics.blur_of_f_number(lens.f_number, 64)
    assert optics.signed_blur(-3.2 / 4 + 1, 1, k) == pytest.approx(-3.2, rel=0.005)

    uniform = look.measure_lens(known, dataclasses.replace(config, mixture="uniform"))
    assert uniform.strength_percent == pytest.approx(6.25 / 2, rel=0.1)
    assert uniform.f_number == pytest.approx(2 * lens.f_number, rel=0.1)
    # Blurred by half a pixel or more: a lens of strength 0.5 / 3.2 or more.
    assert uniform.shallow_share == pytest.approx(1 - 0.5 / 3.2, abs=0.05)

    known.behind = known.before = 0.4
    none = look.measure_lens(known, config)
    assert none.shallow_share == 0 and none.blur_percent == {}
    assert "a look without bokeh" in none.lines()[0]
