"""The benchmarks measure what they say: on tiny networks, with errors planted where it matters."""

import dataclasses
import importlib.util
import json
import sys
import zipfile
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from argan.errors import Error, InputError
from argan_train import ar_gan, checkpoint, cli, evaluate, networks
from argan_train.ar_gan import ArGan
from argan_train.config import ArGanConfig
from argan_train.image_metrics import FeatureNetwork

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")
TINY = ArGanConfig(
    size=16, width=4, batch=4, latent=8, depth_size=8, max_blur=0.2, pupil="grid", views=5,
    r1_every=2,
)  # fmt: skip
PHOTOS = torch.randint(
    256, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)


def load(name: str) -> ModuleType:
    """The program benchmarks/NAME.py, under its own name: ablation imports train_smoke."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train, train_smoke, ablation = load("train"), load("train_smoke"), load("ablation")


# How fast does it train?


def with_depth(kind: type[ArGan], config: ArGanConfig = TINY) -> ArGan:
    """Untrained, but with disparities and logits that are far from zero."""
    method = kind(config, PHOTOS, CPU)
    with torch.no_grad():
        method.generator.depth_head[2].weight.mul_(30)
        method.discriminator.head.weight.mul_(30)
    return method


def test_the_reference_renders_the_same_photographs() -> None:
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 16, 16, generator=rng)
    disparity = 6 * torch.rand(2, 1, 16, 16, generator=rng) - 4
    method = train.Reference(TINY, PHOTOS, CPU)
    points = ar_gan.pupil_points(TINY, 2, rng)
    ours = ar_gan.photograph(method.generator, TINY, image, disparity, points)
    gap = (ours - method.photograph(image, disparity, points)).abs().max()
    assert gap < 1e-5  # largest gap seen 2e-6


def test_the_reference_computes_the_same_losses() -> None:
    """Three steps: the losses of the second and third depend on all gradients before."""
    ours, reference = with_depth(ArGan), with_depth(train.Reference)
    for step in (1, 2, 3):
        here, there = ours.step(step), reference.step(step)
        assert here.keys() == there.keys() and ("d_r1" in here) == (step == 2)
        for name in here:
            # largest gap seen 3e-6
            torch.testing.assert_close(here[name], there[name], rtol=2e-5, atol=2e-5, msg=name)


class Waiting(torch.autograd.Function):
    """The identity; `wait` is called in its backward pass."""

    @staticmethod
    def forward(ctx, wait, x):
        ctx.wait = wait
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        ctx.wait()
        return None, gradient


@pytest.mark.parametrize("kind", [ArGan, train.Reference])
@pytest.mark.parametrize("slow", ["data", "generator", "renderer", "discriminator"])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_time_is_counted_where_it_is_spent(
    kind: type[ArGan], slow: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time passes in one place alone, a second at each call."""
    method = kind(dataclasses.replace(TINY, r1_every=1000), PHOTOS, CPU)
    now = [0.0]
    monkeypatch.setattr(train.time, "perf_counter", lambda: now[0])
    owner, name = {
        "data": (method, "draw"),
        "generator": (method, "generate"),
        "renderer": (method if kind is train.Reference else ar_gan, "photograph"),
        "discriminator": (method, "judge"),
    }[slow]
    call = getattr(owner, name)

    def wait() -> None:
        now[0] += 1

    def slowly(*inputs):
        result = call(*inputs)
        if where == "forward" or slow == "data":
            wait()
            return result
        if isinstance(result, tuple):
            return (Waiting.apply(wait, result[0]), *result[1:])
        return Waiting.apply(wait, result)

    monkeypatch.setattr(owner, name, slowly)
    clock = train.Clock(CPU)
    with train.watch(method, clock):
        method.step(1)
        clock.switch("other")
    assert clock.seconds == dict.fromkeys(train.SECTIONS, 0.0) | {slow: now[0]} and now[0] >= 1
    assert getattr(owner, name) is slowly, "watch leaves things as they were"


def test_watching_changes_no_number() -> None:
    plain, watched = ArGan(TINY, PHOTOS, CPU), ArGan(TINY, PHOTOS, CPU)
    with train.watch(watched, train.Clock(CPU)):
        for step in (1, 2):
            here, there = plain.step(step), watched.step(step)
            assert all(torch.equal(here[name], there[name]) for name in here)


def test_the_reference_does_the_work_of_one_generator_pass_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside enlarging before it convolves, which ours is made to do here, too."""
    monkeypatch.setattr(networks, "doubled_conv", lambda x, conv: train.Reference.doubled(conv, x))
    ours, reference = (
        train.flop_per_image(train.Row(kind, train.GRID), TINY, PHOTOS, CPU)
        for kind in (ArGan, train.Reference)
    )
    generator = ArGan(TINY, PHOTOS, CPU).generator
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        generator(torch.randn(2, 8))
    assert reference - ours == pytest.approx(counter.get_total_flops() / 2)


def test_speed_is_weighed_as_training_has_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step in two has R1; here those take 3 s, others 1 s, and one of three far longer."""
    method, seen = ArGan(TINY, PHOTOS, CPU), []

    def timed(method: ArGan, steps: list[int]) -> tuple[float, float]:
        seen.append(steps)
        wall = 99.0 if steps == [5] else 3.0 - steps[0] % 2 * 2
        return wall, 2 * wall

    monkeypatch.setattr(train, "timed", timed)
    assert train.seconds_per_step(method, repeats=3) == (2.0, 4.0)
    assert seen == [[1], [3], [5], [2], [4], [6]]


def test_rows_become_a_table_a_record_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shares = {"data": 0.01, "generator": 0.4, "renderer": 0.1, "discriminator": 0.48, "other": 0.01}
    rates = {"eager": 30.0, "eager, 5x5 grid": 20.0, "reference": 10.0}

    def one(size: int, row: str, options: Namespace) -> object:
        return train.Result(size, row, 24, rates[row], 33.0, shares, 0.02, 800.0, 2.0, 100.0)

    monkeypatch.setattr(train, "in_a_process", one)
    file = tmp_path / "out/train.json"

    def run() -> int:
        command = ["train.py", "--sizes", "64", "--device", "cpu", "--json", str(file)]
        monkeypatch.setattr(sys, "argv", command)
        return train.main()

    assert run() == 0
    printed = capsys.readouterr().out
    assert "| 64 | 24 | eager | 30.0 | 3.00 | 33.0 | 1.0 % | 40.0 % | 10.0 % |" in printed
    assert "all limits kept" in printed and "| 2.00 | 60 % |" in printed
    record = json.loads(file.read_text())
    assert [r["row"] for r in record["results"]] == list(rates) and record["missed"] == []
    rates["eager"], shares["renderer"] = 19.0, 0.2
    assert run() == 1
    assert json.loads(file.read_text())["missed"] == [
        "64 px: 1.90 times the reference, wanted 2",
        "64 px: renderer 20.0%, wanted 15%",
    ]


@pytest.mark.parametrize("size", train.PRESETS)
def test_a_row_says_how_it_is_run_whatever_the_preset_says(size: int) -> None:
    """flowers128 asks for compiled networks, bfloat16 and CUDA graphs."""
    configs = {
        name: train.configure(size, row, torch.device(device), None)
        for device in ("cpu", "cuda")
        for name, row in train.ROWS.items()
    }
    compiled = [name for name, config in configs.items() if config.compile]
    assert compiled == ["compiled", "captured"]
    assert [name for name, config in configs.items() if config.capture] == ["captured"]
    assert [name for name, config in configs.items() if not config.bf16] == ["reference"]
    assert not train.configure(size, train.ROWS["eager"], CPU, None).bf16
    assert {config.size for config in configs.values()} == {size}
    assert configs["reference"].views == 5 and configs["eager"].batch == train.BATCH["cuda"][size]


def test_a_case_is_measured_whole() -> None:
    result = train.measure("eager", dataclasses.replace(TINY, r1_every=3), CPU, repeats=2)
    assert sum(result.shares.values()) == pytest.approx(1)
    assert result.images_per_s > 0 and result.peak_mib > 50 and 0 < result.of_peak < 1


# What is each part good for?

PRESET = """size = 16\nwidth = 4\nbatch = 4\nlatent = 8\ndepth_size = 8\nviews = 3\nsteps = 4
r1_every = 4\nlog_every = 2\npicture_every = 4\nsave_every = 2\n"""
STUDENT = "size = 32\nnominal = 32\nsteps = 2\nbatch = 2\npicture_every = 2\n"


class Inline:
    """subprocess.Popen, in this process."""

    commands: list[list[str]] = []

    def __init__(self, command: list[str], **_: object) -> None:
        self.commands.append(command)
        self.code = cli.train(command[4:])

    def wait(self) -> int:
        return self.code


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Photos, presets and features of the smallest kind -> the command's first options."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for i in range(16):
            with archive.open(f"{i}.png", "w") as file:
                Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(file, "PNG")
    (tmp_path / "tiny.toml").write_text(PRESET)
    (tmp_path / "student.toml").write_text(STUDENT)
    network = FeatureNetwork("colours", 4, "none", lambda pictures: pictures.flatten(1))
    monkeypatch.setattr(ablation.image_metrics, "efficientnet_lite0", lambda device: network)
    monkeypatch.setattr(train_smoke, "toy_scenes", lambda count, size: evaluate.toy_scenes(2, size))
    monkeypatch.setattr(ablation.subprocess, "Popen", Inline)
    monkeypatch.setattr(Inline, "commands", [])
    return ["--data", str(tmp_path / "photos.zip"), "--preset", str(tmp_path / "tiny.toml"),
            "--threads", "1", "--device", "cpu", "--out", str(tmp_path / "out")]  # fmt: skip


def test_an_ablation_trains_scores_and_shows_every_cell(
    world: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, student = tmp_path / "out", ["--student", str(tmp_path / "student.toml")]
    command = [*world, "--rows", "ar-gan", "plain", "--seeds", "0", "1", *student]
    assert ablation.main(command) == 0
    assert len(Inline.commands) == 6, "two students, too: a plain GAN teaches nobody"
    lines = capsys.readouterr().out.splitlines()
    row, plain, others = (next(x for x in lines if x.startswith(f"| {name} |")) for name in (
        "ar-gan", "plain", "other photos"))  # fmt: skip
    assert row.startswith("| ar-gan | 2 |") and row.count(" +- ") == 8 and row.count(" - ") == 2
    assert plain.count(" +- ") == 3 and plain.count(" - ") == 7, "no disparity"
    assert others.count(" +- ") == 0
    assert "4 steps" in lines[-1] and "1 threads" in lines[-1]
    record = checkpoint.read_json(out / "ablation.json")
    assert record["failed"] == {} and list(record["rows"]) == ["ar-gan", "plain"]
    assert record["rows"]["plain"]["settings"] == {"mixture": "plain"}
    seeds = record["rows"]["ar-gan"]["seeds"]
    fids = [seeds[seed]["fid"] for seed in ("0", "1")]
    mean, half_range = record["rows"]["ar-gan"]["mean_and_half_range"]["fid"]
    assert mean == pytest.approx(sum(fids) / 2)
    assert half_range == pytest.approx(abs(fids[0] - fids[1]) / 2) and half_range > 0
    with Image.open(out / "ablation.png") as page:
        assert page.size == (12 * 64, 2 * (3 * 64 + 16))
        disparities = page.crop((0, 208 + 16 + 64, 768, 416))
        assert disparities.convert("L").getextrema() == (0, 0), "none of a plain GAN"
        assert np.asarray(page.crop((0, 16, 768, 208))).std() > 1

    before = len(Inline.commands)
    assert ablation.main(command) == 0
    assert len(Inline.commands) == before, "what is finished is kept"
    assert ablation.main([*command, "--steps", "6"]) == 2
    assert "ar-gan-0 was trained with other settings (steps)" in capsys.readouterr().err


def test_an_interrupted_cell_is_resumed_and_a_failed_one_stops_no_other(
    world: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    command = [*world, "--rows", "ar-gan", "s-uniform", "--seeds", "0"]
    good_step = ArGan.step

    def step(method: ArGan, step: int) -> dict[str, torch.Tensor]:
        logged = good_step(method, step)
        if step == 4 and method.config.mixture == "bernoulli":
            logged["g_main"] = torch.tensor(float("nan"))
        return logged

    monkeypatch.setattr(ArGan, "step", step)
    assert ablation.main(command) == 1
    printed = capsys.readouterr()
    assert "ar-gan-0 failed" in printed.err and "| s-uniform | 1 |" in printed.out
    assert list(checkpoint.read_json(tmp_path / "out/ablation.json")["failed"]) == ["ar-gan-0"]
    monkeypatch.setattr(ArGan, "step", good_step)
    assert ablation.main(command) == 0
    assert len(Inline.commands) == 3 and "--resume" in Inline.commands[-1]
    assert "| ar-gan | 1 |" in capsys.readouterr().out


def test_a_cell_trains_in_a_process_of_its_own(
    world: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    run = tmp_path / "out/grid-5x5-3"
    settings = {"seed": 3, "steps": 2} | ablation.ROWS["grid-5x5"]
    config = ablation.load_preset(ArGanConfig, str(tmp_path / "tiny.toml"), settings)
    options = Namespace(data=world[1], preset=world[3], student=None, threads=1, device="cpu",
                        workers=2)  # fmt: skip
    cell = ablation.Cell("grid-5x5", 3, run, config)
    assert ablation.Trainer(options).train_all([cell]) == {}
    assert checkpoint.read_json(run / "config.json")["settings"]["views"] == 5
    assert "img" in (run / "train.log").read_text()
    with pytest.raises(InputError, match="trained with other settings \\(data\\)"):
        ablation.finished(run, config, "other.zip")


def test_a_cell_that_was_told_to_stop_is_not_taken_for_finished(
    world: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Inline):
        def __init__(self, command: list[str], **_: object) -> None:
            self.code = 0

    monkeypatch.setattr(ablation.subprocess, "Popen", Stopped)
    config = ablation.load_preset(ArGanConfig, world[3], {})
    options = Namespace(data=world[1], preset=world[3], student=None, threads=1, device="cpu",
                        workers=1)  # fmt: skip
    with pytest.raises(Error, match="the same command again goes on from there"):
        ablation.Trainer(options).train(ablation.Cell("ar-gan", 0, tmp_path / "run", config))


# Does a learnt depth make better shallow photos than CycleGAN does?


def test_deep_photos_are_shown_each_way_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = load("deep_to_shallow")
    rng = np.random.default_rng(0)
    for kind in ("deep", "shallow"):
        (tmp_path / "split" / kind).mkdir(parents=True)
        for i in range(12):
            noise = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
            noise.save(tmp_path / "split" / kind / f"{i}.png")
    split, run, out = (str(tmp_path / name) for name in ("split", "run", "out"))
    words = ["cycle-gan", "--deep", f"{split}/deep", "--shallow", f"{split}/shallow"]
    words += "--size 32 --width 4 --blocks 1 --steps 1 --threads 1".split()
    assert cli.train([*words, "--out", run]) == 0
    means = FeatureNetwork("means", 4, "0" * 64, lambda x: F.avg_pool2d(x, 2).flatten(1))
    monkeypatch.setattr(compared.image_metrics, "efficientnet_lite0", lambda device: means)
    said = ["deep_to_shallow", "--run", run, "--split", split, "-o", out]
    monkeypatch.setattr(sys, "argv", said)
    assert compared.main() == 0
    figures = json.loads((tmp_path / "out" / "deep_to_shallow.json").read_text())["figures"]
    assert list(figures) == ["as they are", "CycleGAN", "argan, f/1.8", "argan, f/0.9",
                             "other shallow photos"]  # fmt: skip
    same = figures["as they are"]
    assert same["background"] == 1 and same["centre_db"] == pytest.approx(100)
    assert figures["argan, f/0.9"]["background"] < figures["argan, f/1.8"]["background"] < 1
    assert figures["CycleGAN"]["centre_db"] < 30  # untrained
    with Image.open(tmp_path / "out" / "deep_to_shallow.png") as picture:
        assert picture.size == (6 * 128, 4 * 128)
    assert "CycleGAN" in capsys.readouterr().out
    rim, core = PHOTOS.clone(), PHOTOS.clone()
    rim[..., :4, :], core[..., 8, 8] = 0, 0
    assert compared.kept_and_blurred(PHOTOS, rim)["centre_db"] == pytest.approx(100)
    assert compared.kept_and_blurred(PHOTOS, core)["centre_db"] < 40
    monkeypatch.setattr(sys, "argv", [*said[:2], str(tmp_path / "none"), *said[3:]])
    assert compared.main() == 2 and "error: " in capsys.readouterr().err
