"""The loop that every method shares: steps, log, pictures, checkpoints, resume.

A run folder explains itself:
    config.json         method, settings, versions, data (with hash), device, steps and seconds
    log.jsonl           one line per `log_every` steps
    state.safetensors   everything that resuming needs
    ema.safetensors     the averaged network, which is what users run
    samples/            pictures with fixed latents; tensorboard/
"""

from __future__ import annotations

import json
import math
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from argan import __version__
from argan.errors import Error, InputError
from argan_train import checkpoint
from argan_train.config import ArGanConfig, ArGanDrConfig

MAY_CHANGE = ("steps", "picture_every", "save_every", "log_every")  # on resuming


class Method(Protocol):
    """What the loop asks of a method."""

    name: str

    @property
    def config(self) -> ArGanConfig | ArGanDrConfig: ...

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
    for old, new in zip(average.parameters(), network.parameters(), strict=True):
        old.lerp_(new, 1 - decay)
    for old_buffer, new_buffer in zip(average.buffers(), network.buffers(), strict=True):
        old_buffer.copy_(new_buffer)


def describe(method: Method, data: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The record of a run."""
    return {
        "method": method.name,
        "settings": asdict(method.config),
        "data": data,
        "device": (
            torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
        ),
        "threads": torch.get_num_threads(),
        "versions": {"argan": __version__, "torch": torch.__version__, "numpy": np.__version__,
                     "python": platform.python_version()},
    }  # fmt: skip


def save(method: Method, folder: Path, step: int, seconds: float) -> None:
    tensors: dict[str, Tensor] = {}
    for prefix, part in method.parts().items():
        tensors |= checkpoint.flatten(prefix, part)
    about = {"step": str(step), "seconds": f"{seconds:.1f}"}
    tensors["progress"] = torch.tensor([step, seconds], dtype=torch.float64)
    checkpoint.save_tensors(folder / "state.safetensors", tensors, about)
    checkpoint.save_tensors(folder / "ema.safetensors", method.ema.state_dict(), about)


def resume(method: Method, folder: Path) -> tuple[int, float]:
    """-> (steps done, seconds spent). Lines logged after the checkpoint are dropped."""
    written = checkpoint.read_json(folder / "config.json")["settings"]
    here = asdict(method.config)
    changed = [k for k in here if k not in MAY_CHANGE and here[k] != written.get(k)]
    if changed:
        raise InputError(
            f"{folder} was trained with other settings ({', '.join(changed)}): resume with the same"
        )
    tensors = checkpoint.load_tensors(folder / "state.safetensors")
    step, seconds = int(tensors["progress"][0]), float(tensors["progress"][1])
    for prefix, part in method.parts().items():
        checkpoint.restore(prefix, part, tensors)
    log = folder / "log.jsonl"
    kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= step]
    log.write_text("".join(line + "\n" for line in kept))
    return step, seconds


def train(
    method: Method, folder: Path, data: dict[str, Any], device: torch.device, resuming: bool = False
) -> dict[str, float]:
    """Train into `folder` until `config.steps`; -> the last log line."""
    config = method.config
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    done, spent = resume(method, folder) if resuming else (0, 0.0)
    if not resuming:
        if (folder / "state.safetensors").exists():
            raise InputError(f"{folder} already holds a run: give --resume, or another --out")
        (folder / "log.jsonl").write_text("")
    record = describe(method, data, device)
    checkpoint.write_json(folder / "config.json", record | {"steps": done, "seconds": spent})
    line: dict[str, float] = {}
    start = time.monotonic() - spent
    with (
        SummaryWriter(str(folder / "tensorboard")) as board,
        (folder / "log.jsonl").open("a") as log,
    ):
        bar = tqdm(range(done + 1, config.steps + 1), initial=done, total=config.steps, unit="step",
                   mininterval=1)  # fmt: skip
        for step in bar:
            scalars = method.step(step)
            last = step == config.steps
            if step % config.log_every == 0 or last:
                values = {k: float(v) for k, v in scalars.items()}
                bad = [k for k, v in values.items() if not math.isfinite(v)]
                if bad:
                    raise DivergedError(
                        f"{', '.join(bad)} is not finite at step {step}: {folder} keeps the last"
                        " good checkpoint; lower the learning rate and --resume"
                    )
                seconds = time.monotonic() - start
                rate = step * config.batch / seconds
                line = {"step": step, "seconds": round(seconds, 1), "images_per_s": round(rate, 1)}
                line |= {k: round(v, 5) for k, v in (values | method.measure()).items()}
                log.write(json.dumps(line) + "\n")
                log.flush()
                for key, value in line.items():
                    board.add_scalar(key, value, step)
                bar.set_postfix({k: v for k, v in list(line.items())[2:6]})
            if step % config.picture_every == 0 or last:
                Image.fromarray(method.picture()).save(folder / "samples" / f"{step:07d}.png")
            if step % config.save_every == 0 or last:
                seconds = time.monotonic() - start
                save(method, folder, step, seconds)
                checkpoint.write_json(
                    folder / "config.json", record | {"steps": step, "seconds": round(seconds, 1)}
                )
    return line
