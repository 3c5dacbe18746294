"""Runs as users start and end them, in processes of their own: several at once, told to stop,
killed, on a full disk."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from argan_train import checkpoint
from argan_train.config import ArGanConfig, ArGanDrConfig, CycleGanConfig, meanings

SETTINGS = (
    "--size 16 --width 4 --batch 4 --latent 8 --depth-size 8 --views 3 --r1-every 4 --log-every 2"
    " --picture-every 4 --threads 1"
).split()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{i:02}.png")
    return folder


def command(photos: Path, out: Path, *more: str, launcher: tuple[str, ...] = ()) -> list[str]:
    train = ["-m", "argan_train", "train", "ar-gan", "--data", str(photos), "--out", str(out)]
    return [sys.executable, *launcher, *train, *SETTINGS, *more]


def run(words: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        words, capture_output=True, text=True, timeout=240, env=environment, **options
    )


def state(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_tensors(folder / "state.safetensors")


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def steps_done(folder: Path) -> int:
    return int(state(folder)["progress"][0])


@pytest.mark.parametrize("options", [(), ("--pupil", "random", "--augment", "0.5")], ids=str)
def test_two_processes_compute_what_one_does(
    photos: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    for name, launcher in {"one": (), "two": torchrun}.items():
        done = run(command(photos, tmp_path / name, "--steps", "6", *options, launcher=launcher))
        assert done.returncode == 0, done.stderr
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert one.keys() == two.keys()
    # A bias before a batch norm has no gradient but rounding, which Adam enlarges to whole steps;
    # the norm takes it away again.
    idle = re.compile(r"(g|ema)\.(stem|blocks.*)\.bias|.*running_mean")
    compared = {key for key in one if not idle.fullmatch(key)} - {"progress"}
    assert {"d.head.bias", "g.blocks.0.conv1.weight", "ema.image_head.bias"} <= compared
    for key in compared:
        torch.testing.assert_close(two[key], one[key], rtol=1e-5, atol=1e-5, msg=key)  # seen: 1e-6
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert [line["step"] for line in logs[1]] == [2, 4, 6]
    assert logs[0][-1]["d_main"] == pytest.approx(logs[1][-1]["d_main"], abs=1e-3)
    assert checkpoint.read_json(tmp_path / "two" / "config.json")["processes"] == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_saves_and_goes_on_exactly(
    photos: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "stopped"
    long = ("--steps", "100000", "--save-every", "100000", "--prior-steps", "0")
    process = subprocess.Popen(command(photos, out, *long), stderr=subprocess.PIPE, text=True)
    log = out / "log.jsonl"
    wait_until(lambda: log.exists() and bool(log.read_text()), process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    done = steps_done(out)
    assert 2 <= done < 100000 and f"stopped at step {done} of 100000" in errors
    assert (out / "summary.html").exists()
    longer = str(done + 3)
    assert run(command(photos, out, *long[2:], "--steps", longer, "--resume")).returncode == 0
    assert run(command(photos, tmp_path / "whole", *long[2:], "--steps", longer)).returncode == 0
    resumed, whole = state(out), state(tmp_path / "whole")
    assert all(torch.equal(resumed[key], whole[key]) for key in whole if key != "progress")


def test_killed_at_once_it_resumes_from_the_last_checkpoint(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    words = command(photos, out, "--steps", "100000", "--save-every", "2")
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, text=True)
    wait_until((out / "state.safetensors").exists, process)
    time.sleep(0.3)
    process.kill()  # most likely within a save: they fill most of the time here
    process.wait()
    with (out / "log.jsonl").open("a") as log:
        log.write('{"step": 99, "d_ma')  # as a kill may leave it
    done = steps_done(out)
    again = run([*words, "--resume", "--steps", str(done + 2)])
    assert again.returncode == 0, again.stderr
    assert steps_done(out) == done + 2


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "full"
    assert run(command(photos, out, "--steps", "2")).returncode == 0
    before = (out / "state.safetensors").read_bytes()

    # No file may grow beyond half a checkpoint.
    room = ("bash", "-c", f'ulimit -f {len(before) // 2048}; exec "$@"', "bash")
    done = run([*room, *command(photos, out, "--steps", "4", "--resume")])
    assert done.returncode == 2
    assert "its last checkpoint is kept" in done.stderr and "Traceback" not in done.stderr
    assert (out / "state.safetensors").read_bytes() == before
    assert not list(out.glob("*.partial"))
    assert run(command(photos, out, "--steps", "4", "--resume")).returncode == 0


def test_a_batch_that_the_processes_cannot_share_is_refused(photos: Path, tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run(command(photos, tmp_path / "x", "--batch", "6", launcher=torchrun))
    assert done.returncode != 0 and "a batch of 6 over 2 processes" in done.stderr


@pytest.mark.parametrize("kind", [ArGanConfig, ArGanDrConfig, CycleGanConfig])
def test_every_setting_says_what_it_is(kind: type) -> None:
    found = meanings(kind)
    assert list(found) == [field.name for field in fields(kind)]
    assert all(found.values())
