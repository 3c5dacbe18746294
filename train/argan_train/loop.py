"""The loop that every method shares: steps, log, pictures, checkpoints, resume.

A run folder explains itself:
    config.json         method, settings, versions, data (with hash), device, steps and seconds
    inputs.sha256       every file that was learnt from, as sha256sum prints them
    log.jsonl           one line per `log_every` steps
    state.safetensors   everything that resuming needs
    ema.safetensors     the network that users run: the averaged one, where the method averages
    samples/            pictures with fixed latents; tensorboard/
    summary.html        curves, pictures and settings on one page

SIGTERM and Ctrl-C save and end the run; --resume goes on from there.
"""

from __future__ import annotations

import json
import math
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from argan import __version__
from argan.errors import Error, InputError
from argan_train import checkpoint, distributed, summary
from argan_train.config import ArGanConfig, ArGanDrConfig, CycleGanConfig
from argan_train.data import sha256_lines

INPUTS = "inputs.sha256"
STATE = "state.safetensors"
# On resuming. Of these only bf16 and compile change a result, by rounding.
MAY_CHANGE = ("steps", "picture_every", "save_every", "log_every", "bf16", "compile", "capture")
ASK_EVERY = 8  # steps between questions to the other processes whether one was told to stop


class Method(Protocol):
    """What the loop asks of a method."""

    name: str

    @property
    def config(self) -> ArGanConfig | ArGanDrConfig | CycleGanConfig: ...

    @property
    def ema(self) -> nn.Module: ...

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """Everything that a checkpoint holds."""
        ...

    def step(self, step: int) -> dict[str, Tensor]:
        """One optimisation step; all randomness comes from (seed, step). -> scalars to log."""
        ...

    def measure(self) -> dict[str, float]:
        """Slower figures, once per log line."""
        ...

    def picture(self) -> np.ndarray:
        """A grid with fixed latents, uint8 [H, W, 3]."""
        ...


class DivergedError(Error):
    """A loss is not finite. The last good checkpoint was kept."""


def seeded(seed: int, step: int, device: torch.device) -> torch.Generator:
    """The random numbers of one step: a function of (seed, step), so that resuming is exact."""
    return torch.Generator(device).manual_seed((seed << 32) + step)


@torch.no_grad()
def update_average(
    average: nn.Module, network: nn.Module, step: int, batch: int, half_life: int, warmup: int
) -> None:
    """Exponential moving average with a half-life in images, shorter at the start."""
    decay = (
        0.5 ** (batch / min(half_life, max(step * batch / 20, 1e-9)))
        if step < warmup
        else (0.5 ** (batch / half_life))
    )
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    torch._foreach_copy_(list(average.buffers()), list(network.buffers()))


def describe(method: Method, data: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The record of a run."""
    return {
        "method": method.name,
        "settings": asdict(method.config),
        "data": data,
        "device": (
            torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        ),
        "processes": distributed.world(),
        "threads": torch.get_num_threads(),
        "versions": {"argan": __version__, "torch": torch.__version__, "numpy": np.__version__,
                     "python": platform.python_version()},
    }  # fmt: skip


def save(method: Method, folder: Path, step: int, seconds: float) -> None:
    tensors: dict[str, Tensor] = {}
    for prefix, part in method.parts().items():
        tensors |= checkpoint.flatten(prefix, part)
    # A last step can spoil the weights by a loss that was still finite.
    bad = [k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise DivergedError(diverged(bad[:3], step, folder))
    about = {"step": str(step), "seconds": f"{seconds:.1f}"}
    tensors["progress"] = torch.tensor([step, seconds], dtype=torch.float64)
    # The state last: whoever finds it finds weights that are as new.
    checkpoint.save_tensors(folder / "ema.safetensors", method.ema.state_dict(), about)
    checkpoint.save_tensors(folder / STATE, tensors, about)


def resume(method: Method, folder: Path) -> tuple[int, float]:
    """-> (steps done, seconds spent). Lines logged after the checkpoint are dropped."""
    written = checkpoint.read_json(folder / "config.json")["settings"]
    here = asdict(method.config)
    before = asdict(type(method.config)()) | written  # a setting that is newer had its default
    changed = [k for k in here if k not in MAY_CHANGE and here[k] != before[k]]
    if changed:
        raise InputError(
            f"{folder} was trained with other settings ({', '.join(changed)}): resume with the same"
        )
    tensors = checkpoint.load_tensors(folder / STATE)
    step, seconds = int(tensors["progress"][0]), float(tensors["progress"][1])
    for prefix, part in method.parts().items():
        checkpoint.restore(prefix, part, tensors)
    return step, seconds


def prepare(method: Method, folder: Path, resuming: bool) -> tuple[int, float]:
    """The run folder of a new or of a resumed run -> (steps done, seconds spent). Where there is
    nothing to resume, a run begins: one command serves, however often it is stopped."""
    if not (folder / STATE).exists():
        weights = (folder / "ema.safetensors").exists()
        if weights and checkpoint.read_json(folder / "config.json").get("steps"):
            raise InputError(f"{folder} holds a run without its {STATE}, such as a packed one,"
                             " which can't go on: give another --out")  # fmt: skip
        return 0, 0.0
    if not resuming:
        raise InputError(f"{folder} already holds a run: give --resume, or another --out")
    return resume(method, folder)


class Recorder:
    """What the first process leaves in the run folder."""

    def __init__(
        self,
        method: Method,
        folder: Path,
        record: dict[str, Any],
        inputs: dict[str, str],
        done: int,
        spent: float,
    ) -> None:
        self.method, self.folder, self.record = method, folder, record
        self.start = time.monotonic() - spent
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        if inputs:
            (folder / INPUTS).write_bytes(sha256_lines(inputs))
        log = folder / "log.jsonl"
        kept = [line for line in summary.read_log(log) if line["step"] <= done]
        checkpoint.write_text(log, "".join(json.dumps(line) + "\n" for line in kept))
        self.board = SummaryWriter(str(folder / "tensorboard"))
        self.describe(done)

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.start, 1)

    def describe(self, step: int) -> None:
        about = self.record | {"steps": step, "seconds": self.seconds}
        checkpoint.write_json(self.folder / "config.json", about)

    def log(self, step: int, values: dict[str, float]) -> dict[str, float]:
        rate = round(step * self.method.config.batch / max(self.seconds, 0.1), 1)
        line = {"step": step, "seconds": self.seconds, "images_per_s": rate}
        line |= {k: round(v, 5) for k, v in (values | self.method.measure()).items()}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        for key, value in line.items():
            self.board.add_scalar(key, value, step)
        return line

    def picture(self, step: int) -> None:
        Image.fromarray(self.method.picture()).save(self.folder / "samples" / f"{step:07d}.png")

    def save(self, step: int) -> None:
        save(self.method, self.folder, step, self.seconds)
        self.describe(step)

    def close(self) -> None:
        self.board.close()
        summary.write(self.folder)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Within: the first SIGTERM or SIGINT is noted in the list and ends nothing by itself."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:  # asked twice: at once
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():  # Python's rule for handlers
        yield received
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def told_to_stop(received: list[int], step: int, device: torch.device) -> bool:
    if distributed.world() == 1:
        return bool(received)
    return step % ASK_EVERY == 0 and distributed.any_of(bool(received), device)


def diverged(names: list[str], step: int, folder: Path) -> str:
    return (
        f"{', '.join(names)} is not finite at step {step}: {folder} keeps the last good"
        " checkpoint; begin a new run with a lower learning rate"
    )


def finite(scalars: dict[str, Tensor], step: int, folder: Path) -> dict[str, float]:
    """The means over all processes, all finite."""
    together = distributed.mean(torch.stack(list(scalars.values())))
    values = dict(zip(scalars, together.tolist(), strict=True))
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise DivergedError(diverged(bad, step, folder))
    return values


def train(
    method: Method,
    folder: Path,
    data: dict[str, Any],
    device: torch.device,
    resuming: bool = False,
    inputs: dict[str, str] | None = None,
    bar: tqdm | None = None,
) -> dict[str, float]:
    """Train into `folder` until `config.steps`, or until told to stop; -> the last log line (empty
    in all processes but the first, which writes the folder).

    data    what was learnt from, in words and figures; inputs: {file: sha256} of all of it
    bar     to show the images on, in place of one of its own
    """
    try:
        return _train(method, folder, data, device, resuming, inputs or {}, bar)
    except OSError as error:
        raise Error(
            f"{folder}: {error.strerror or error}; its last checkpoint is kept:"
            " make room and --resume"
        ) from error


def _train(
    method: Method,
    folder: Path,
    data: dict[str, Any],
    device: torch.device,
    resuming: bool,
    inputs: dict[str, str],
    shown: tqdm | None,
) -> dict[str, float]:
    config = method.config
    done, spent = prepare(method, folder, resuming)
    recorder = None
    if distributed.rank() == 0:
        recorder = Recorder(method, folder, describe(method, data, device), inputs, done, spent)
    line: dict[str, float] = {}
    own = tqdm(total=config.steps * config.batch, initial=done * config.batch, unit="img",
               mininterval=1, disable=recorder is None or shown is not None)  # fmt: skip
    bar = own if shown is None else shown
    with stop_signals() as received, own:
        for step in range(done + 1, config.steps + 1):
            scalars = method.step(step)
            bar.update(config.batch)
            told = told_to_stop(received, step, device)
            last = told or step == config.steps
            every = {"log": config.log_every, "picture": config.picture_every,
                     "save": config.save_every}  # fmt: skip
            due = {what for what, steps in every.items() if last or step % steps == 0}
            if due:
                values = finite(scalars, step, folder)
            if recorder:
                if "log" in due:
                    line = recorder.log(step, values)
                    bar.set_postfix({k: line[k] for k in scalars})
                if "picture" in due:
                    recorder.picture(step)
                if "save" in due:
                    recorder.save(step)
            if told:
                told_so = f"stopped at step {step} of {config.steps}: --resume goes on from there"
                tqdm.write(told_so, file=sys.stderr)
                break
    if recorder:
        recorder.close()
    return line
