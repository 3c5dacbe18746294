"""benchmarks/networks.py and benchmarks/student.py: they measure what they say, at tiny sizes."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from argan_train import checkpoint, cutouts, evaluate, loop
from argan_train.ar_gan import ArGan
from argan_train.config import ArGanConfig

pytest.importorskip("onnx", reason="networks are measured as they are exported")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


def load(name: str) -> ModuleType:
    """The program benchmarks/NAME.py, under its own name: they import each other."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


networks = load("networks")
train_smoke, ablation, student = load("train_smoke"), load("ablation"), load("student")


# How fast is each network?


def result(row: str, **changes: float) -> object:
    network = networks.ROWS[row][0] if row in networks.ROWS else row
    known = networks.Result(row, network, 300_000, 150e6, 1.2, 0.6, 4.0, 3.5)
    return dataclasses.replace(known, **changes)


def test_the_reference_is_what_the_limit_was_measured_on() -> None:
    reference = networks.Reference().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        disparity = reference(torch.rand(1, 3, 256, 256))
    assert disparity.shape == (1, 1, 256, 256)
    assert counter.get_total_flops() / 2 == pytest.approx(149e6, rel=0.01)
    assert sum(p.numel() for p in reference.parameters()) == 231_761


def test_a_limit_is_missed_where_it_is_passed() -> None:
    reference = result("reference")
    good = [
        reference,
        result("nano", p50_ms=4.5),
        result("base", p50_ms=100.0, multiplications=4e9),
    ]
    assert networks.missed(good) == []
    bad = [
        result("nano", parameters=600_000),
        result("nano", p50_ms=8.1, multiplications=300e6),
        result("nano", half_mb=1.21),
        result("small", p50_ms=4.7),
        result("small", p50_ms=4.7, multiplications=160e6),
    ]
    assert networks.missed([reference, *bad]) == [
        "nano: 0.60 M parameters, wanted 0.5",
        "nano: 8.10 ms, wanted 8",
        "nano: 1.21 MB in half precision, wanted 1.2",
        "small: 1.02 of the time that its work allows, wanted 1",
    ]
    table = networks.table([reference, bad[3]])
    assert "| small | 0.30 M | 0.15 G | 1.20 MB | 0.60 MB | 4.7 ms | 3.5 ms | 1.02 |" in table


def test_networks_are_exported_and_take_turns(tmp_path: Path) -> None:
    reference, light = networks.measure(["nano, light decoder"], size=64, rounds=3)
    assert reference.row == "reference" and light.network == "nano"
    assert light.parameters == 314_809
    # Sixteen times fewer pixels than the 135.6 M at 256 x 256.
    assert light.multiplications == pytest.approx(207.87e6 / 16, rel=1e-3)
    assert light.mb == pytest.approx(4 * light.parameters / 1e6, rel=0.1)
    assert light.half_mb == pytest.approx(light.mb / 2, rel=0.1)
    assert 0 < light.least_ms <= light.p50_ms


# What is each loss good for?

TINY = ArGanConfig(
    size=16, width=4, batch=4, latent=8, depth_size=8, views=3, steps=2, log_every=2,
    picture_every=2, save_every=2,
)  # fmt: skip


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A teacher, a preset and unseen scenes of the smallest kind."""
    photos = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    loop.train(ArGan(TINY, photos, CPU), tmp_path / "gan", {"source": "toy"}, CPU)
    (tmp_path / "dr.toml").write_text(
        "size = 32\nnominal = 32\nsteps = 4\nbatch = 2\nsnap = 0.1\nwarmup = 2\n"
    )
    scenes = list(evaluate.toy_scenes(2, train_smoke.SIZE))
    monkeypatch.setattr(train_smoke, "toy_scenes", lambda count, size: scenes)
    small = student.cli.ToyWorld
    monkeypatch.setattr(small, "batch", lambda world, count, off_centre=0.0, batch=small.batch: (
        batch(world, min(count, 2), off_centre)))  # fmt: skip
    return ["--teacher", str(tmp_path / "gan"), "--preset", str(tmp_path / "dr.toml"),
            "--out", str(tmp_path / "out"), "--threads", "1", "--device", "cpu"]  # fmt: skip


def test_every_row_of_the_students_changes_what_it_says(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rows = ["preset", "l1", "rendered", "consistency"]
    words = [*command, "--rows", *rows, "--seeds", "0", "1"]
    good_step, steps = student.cli.ArGanDr.step, []

    def stopping(method: object, step: int) -> dict[str, torch.Tensor]:
        steps.append(step)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return good_step(method, step)

    monkeypatch.setattr(student.cli.ArGanDr, "step", stopping)
    with pytest.raises(KeyboardInterrupt):  # within the second cell
        student.main(words)
    assert student.main(words) == 0
    assert len(steps) == 7 + 7 * 4, "what is finished is kept"
    lines = capsys.readouterr().out.splitlines()
    found = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}
    assert list(found) == ["row", *rows, "radial prior"]
    assert all(found[row].startswith(f"| {row} | 2 | 0.") for row in rows)
    assert found["l1"] != found["preset"].replace("preset", "l1")
    record = checkpoint.read_json(tmp_path / "out/student.json")
    assert record["steps"] == 4 and record["rows"]["rendered"]["settings"] == {"render_weight": 2.0}
    figures = record["rows"]["preset"]["seeds"]
    both = [figures[seed]["distilled disparity, toy sharp, rel_rmse"] for seed in ("0", "1")]
    mean, half_range = record["rows"]["preset"]["mean_and_half_range"][
        "distilled disparity, toy sharp, rel_rmse"
    ]
    assert mean == pytest.approx(sum(both) / 2)
    assert half_range == pytest.approx(abs(both[0] - both[1]) / 2)
    about = {row: checkpoint.read_json(tmp_path / "out" / f"{row}-0/config.json") for row in rows}
    assert about["l1"]["settings"]["level"] == "l1"
    assert about["consistency"]["data"]["photos"]["source"] == "toy"
    assert "photos" not in about["preset"]["data"]
    logs = {row: (tmp_path / "out" / f"{row}-0/log.jsonl").read_text() for row in about}
    assert [row for row in rows if "consistency" in logs[row]] == ["consistency"]
    assert [row for row in rows if "rendered" in logs[row]] == ["rendered"]


def test_a_second_round_goes_on_from_the_first_row(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    centre = np.zeros((32, 32), bool)
    centre[8:24, 8:24] = True
    monkeypatch.setattr(cutouts, "segment", lambda *_: centre)
    assert student.main([*command, "--rows", "second", "second-generated"]) == 0
    out = tmp_path / "out"
    first = checkpoint.sha256(out / "preset-0/ema.safetensors")
    for row, share in (("second", 0.75), ("second-generated", 0.0)):
        about = checkpoint.read_json(out / f"{row}-0/config.json")
        assert about["data"]["student"]["sha256"] == first
        assert about["data"]["photos"]["source"] == "toy"
        assert about["settings"]["cutout_share"] == share
        followed = "consistency" in (out / f"{row}-0/log.jsonl").read_text()
        assert followed == (row == "second")
    made = checkpoint.read_json(out / "student.json")["rows"]
    assert list(made) == ["second", "second-generated"]


def test_settings_that_changed_and_other_teachers_are_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*command, "--rows", "no-paste"]
    assert student.main([*words, "--steps", "2"]) == 0
    assert student.main(words) == 2
    assert "no-paste-0 was trained with other settings (steps)" in capsys.readouterr().err
    about = checkpoint.read_json(tmp_path / "gan/config.json") | {"data": {"source": "x.zip"}}
    checkpoint.write_json(tmp_path / "gan/config.json", about)
    assert student.main(words) == 2
    assert "has not learnt the toy world" in capsys.readouterr().err


def test_every_row_is_a_setting_of_the_student() -> None:
    for row, changes in student.ROWS.items():
        config = student.load_preset(student.ArGanDrConfig, "dr32", changes)
        same = student.load_preset(student.ArGanDrConfig, "dr32", {})
        assert (config != same) == bool(changes), row
    of_the_second = {"cutout_share", "composed", "consistency_weight", "rank_weight"}
    assert all(set(student.ROWS[row]) <= of_the_second for row in student.ROWS
               if row.startswith("second"))  # fmt: skip
