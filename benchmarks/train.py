"""How fast does AR-GAN train on this machine, and what does a step spend its time on?

    python benchmarks/train.py [--sizes 64 128 256] [--rows ...] [--json FILE]
    PYTHONPATH=runtime:train python3 benchmarks/train.py       (not installed, torch at hand)

Each row is a process of its own, warmed up, with the medians of several repeats; steps with R1 and
steps without it are timed apart and weighed as training has them. A step is `ArGan.step`: data,
both networks, optimisers and average; no log, picture or checkpoint. Compare CPU seconds (of all
threads) on a machine that is busy.

The reference is a straightforward eager implementation of the same networks, losses and draws: the
published 5x5 grid, for each view a grid_sample call and another for the view's disparity, and a
generator pass for either network's step. "eager, 5x5 grid" does the reference's work in argan's
way: what it gains is not owed to fewer views.

Shares come from further steps under a clock that knows what is running: it is switched at the start
and the end of each part, and in the backward pass by identities on the tensors between the parts;
on a GPU each switch waits for the device. `clock` is what such a step takes longer than others do.
    data           ArGan.draw: picking photos, random numbers, upload
    generator      forward, backward, its optimiser and its average
    renderer       from sharp image and disparity to photograph, forward and backward
    discriminator  its whole step with R1 and optimiser, and what the generator's step needs of it
    other          the rest, such as the losses of the disparity
Memory is the process's largest resident set; on a GPU the most that torch had allocated. Work is
the FLOPs of matrix products and convolutions, forward and backward, as counted on eager networks;
`of peak` is that over the speed of one large matrix product in the same process, in bfloat16 on a
GPU (where R1, in float32, runs slower), in float32 on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from argan_train import ar_gan, losses
from argan_train.ar_gan import ArGan
from argan_train.config import ArGanConfig, load_preset

PRESETS: dict[int, tuple[str, dict[str, Any]]] = {
    64: ("flowers64", {}),
    128: ("flowers128", {}),
    256: ("flowers128", {"size": 256, "depth_size": 64}),
}
BATCH = {"cpu": {64: 24, 128: 8, 256: 4}, "cuda": {64: 128, 128: 64, 256: 32}}
PHOTOS = 512
WARM_UP = 2  # steps of either kind
BLOCK = {"cpu": 1, "cuda": 10}  # steps timed together: a GPU's queue runs through them
LIMITS = {"speed": 2.0, "renderer": 0.15, "data": 0.02}  # on a CPU: times the reference; shares
SECTIONS = ("data", "generator", "renderer", "discriminator", "other")
GRID = {"pupil": "grid", "views": 5}


class Reference(ArGan):
    """AR-GAN as one writes it down from the paper; `argan_train` computes the same losses."""

    def __init__(self, config: ArGanConfig, photos: Tensor, device: torch.device) -> None:
        super().__init__(config, photos, device)
        for network in (self.generator, self.discriminator, self.ema):
            network.to(memory_format=torch.contiguous_format)
        for block in self.generator.blocks:
            block.doubled = partial(self.doubled, block.conv2)
        self.g_opt = torch.optim.Adam(
            self.generator.parameters(), config.learning_rate, (0.0, 0.99)
        )
        self.d_opt = torch.optim.Adam(
            self.discriminator.parameters(), config.discriminator_learning_rate, (0.0, 0.99)
        )

    @staticmethod
    def doubled(conv: torch.nn.Conv2d, h: Tensor) -> Tensor:
        return conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))

    def learn(self, drawn: dict[str, Tensor], regularise: bool) -> dict[str, Tensor]:
        real = drawn["real"].float() / 255
        real = torch.where(drawn["flip"][:, None, None, None], real.flip(-1), real)
        with torch.no_grad():
            fake, _ = self.pictures(drawn)
        logged = self.discriminator_step(real, fake, regularise, None)
        fake, disparity = self.pictures(drawn)
        return logged | self.generator_step(fake, disparity, drawn["prior_weight"])

    def pictures(self, drawn: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """-> photographs [N, 3, S, S] and disparities px [N, 1, S, S]."""
        with self.reduced():
            image, disparity = self.generate(drawn["z"])
        s = drawn["s"][:, None, None, None]
        return self.photograph(image, s * disparity, drawn["points"]), disparity

    def photograph(self, image: Tensor, disparity: Tensor, points: Tensor) -> Tensor:
        """R(I_d, D) through the points (u, v) of the pupil: the mean of the views."""
        size = image.shape[-1]
        axis = torch.linspace(-1, 1, size, device=image.device)
        here = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)  # [S, S, 2]

        def look(picture: Tensor, u: Tensor, shift: Tensor) -> Tensor:
            grid = here + u * shift[:, 0, :, :, None] * 2 / (size - 1)
            return F.grid_sample(picture, grid, padding_mode="border", align_corners=True)

        total = torch.zeros_like(image)
        for u in points:
            seen = look(disparity, u, disparity)  # D_u(x) = D(x + u D(x))
            total = total + look(image, u, seen)  # L(x, u) = I(x + u D_u(x))
        return total / len(points)

    def discriminator_step(
        self, real: Tensor, fake: Tensor, regularise: bool, changes: dict[str, Tensor] | None
    ) -> dict[str, Tensor]:
        real.requires_grad_(regularise)
        with torch.autocast(self.device.type, enabled=False) if regularise else self.reduced():
            real_logits, fake_logits = self.judge(real), self.judge(fake)
        logged = {"d_main": losses.d_main(real_logits, fake_logits), "d_real": real_logits.mean()}
        loss = logged["d_main"]
        if regularise:
            logged["d_r1"] = losses.d_r1(real, real_logits)
            loss = loss + self.config.r1_gamma * self.config.r1_every * logged["d_r1"]
        self.d_opt.zero_grad()
        loss.backward()
        self.d_opt.step()
        return {name: value.detach() for name, value in logged.items()}

    def generator_step(
        self, fake: Tensor, disparity: Tensor, prior_weight: Tensor
    ) -> dict[str, Tensor]:
        config, limit = self.config, self.config.max_blur_px
        self.discriminator.requires_grad_(False)
        with self.reduced():
            fake_logits = self.judge(fake)
        self.discriminator.requires_grad_(True)
        logged = {
            "g_main": losses.g_main(fake_logits),
            "g_prior": losses.g_prior(disparity, self.prior),
            "g_center": losses.g_center(disparity, self.prior),
            "g_share": losses.g_blur_share(disparity, limit, config.blur_share),
            "g_smoothness": losses.g_smoothness(disparity),
            "g_rise": losses.g_rise(disparity),
        }
        loss = (
            logged["g_main"]
            + prior_weight * logged["g_prior"]
            + config.center_weight * logged["g_center"]
            + config.blur_share_weight * logged["g_share"]
            + config.smoothness_weight * logged["g_smoothness"]
            + config.rise_weight * logged["g_rise"]
        )
        self.g_opt.zero_grad()
        loss.backward()
        self.g_opt.step()
        return {name: value.detach() for name, value in logged.items()}


@dataclass(frozen=True)
class Row:
    """An implementation with its settings; on a GPU in bfloat16 where `bf16`."""

    kind: type[ArGan]
    settings: dict[str, Any]
    bf16: bool = True


ROWS = {
    "eager": Row(ArGan, {}),
    "eager, 5x5 grid": Row(ArGan, GRID),
    "compiled": Row(ArGan, {"compile": True}),
    "captured": Row(ArGan, {"compile": True, "capture": True}),
    "reference": Row(Reference, GRID, bf16=False),
    "reference, bf16": Row(Reference, GRID),
}
USUAL = {"cpu": ["eager", "eager, 5x5 grid", "reference"], "cuda": list(ROWS)}


@dataclass(frozen=True)
class Result:
    """`shares` add up to 1 and are empty where a step is one CUDA graph, which has no parts."""

    size: int
    row: str
    batch: int
    images_per_s: float
    cpu_ms_per_image: float
    shares: dict[str, float]
    clock: float
    peak_mib: float
    gflop_per_image: float
    matrix_gflop_per_s: float

    @property
    def of_peak(self) -> float:
        return self.images_per_s * self.gflop_per_image / self.matrix_gflop_per_s


class Clock:
    """Seconds by section, of which one is current at any time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start()

    def start(self) -> None:
        synchronize(self.device)
        self.seconds = dict.fromkeys(SECTIONS, 0.0)
        self.current, self.since = "other", time.perf_counter()

    def switch(self, section: str) -> str:
        """-> the section until now."""
        synchronize(self.device)
        before, now = self.current, time.perf_counter()
        self.seconds[before] += now - self.since
        self.current, self.since = section, now
        return before


class Border(torch.autograd.Function):
    """The identity; the backward pass switches the clock there."""

    @staticmethod
    def forward(ctx: Any, clock: Clock, section: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.clock, ctx.section = clock, section
        ctx.set_materialize_grads(False)
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.clock.switch(ctx.section)
        return (None, None, *gradients)


def crossed(clock: Clock, section: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, of which those with a gradient to come have passed the same border."""
    at = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.requires_grad]
    if not at:
        return values
    passed = dict(zip(at, Border.apply(clock, section, *(values[i] for i in at)), strict=True))
    return tuple(passed.get(i, value) for i, value in enumerate(values))


def watched(clock: Clock, section: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """The same call, forward and backward counted to the section."""

    def watching(*inputs: Any) -> Any:
        before = clock.switch(section)
        result = call(*crossed(clock, before, inputs))
        several = isinstance(result, tuple)
        out = crossed(clock, section, result if several else (result,))
        clock.switch(before)
        return out if several else out[0]

    return watching


@contextmanager
def watch(method: ArGan, clock: Clock) -> Iterator[None]:
    """Within: the method's steps tell the clock what they are at."""
    parts: list[tuple[Any, str, str]] = [
        (method, "draw", "data"),
        (method, "generate", "generator"),
        (method.g_opt, "step", "generator"),
        (ar_gan, "update_average", "generator"),
        (method if isinstance(method, Reference) else ar_gan, "photograph", "renderer"),
        (method, "judge", "discriminator"),
        (method, "discriminator_step", "discriminator"),
    ]
    with ExitStack() as stack:
        for owner, name, section in parts:
            call = watched(clock, section, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, call))
        yield


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def weighed(config: ArGanConfig, plain: float, regularised: float) -> float:
    """The mean of all steps, of which one in r1_every has R1."""
    return plain + (regularised - plain) / config.r1_every


def seconds_per_step(method: ArGan, repeats: int) -> tuple[float, float]:
    """Medians -> wall seconds, CPU seconds of all threads."""
    every, block = method.config.r1_every, BLOCK[method.device.type]
    plain = (step for step in count(1) if step % every)
    (wall, cpu), (r1_wall, r1_cpu) = (
        np.median([timed(method, list(islice(steps, block))) for _ in range(repeats)], axis=0)
        for steps in (plain, count(every, every))
    )
    return weighed(method.config, wall, r1_wall), weighed(method.config, cpu, r1_cpu)


def timed(method: ArGan, steps: list[int]) -> tuple[float, float]:
    """Wall and CPU seconds of a step, over all these in a row."""
    synchronize(method.device)
    wall, cpu = time.perf_counter(), time.process_time()
    for step in steps:
        logged = method.step(step)
    synchronize(method.device)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if not all(value.isfinite() for value in logged.values()):
        raise SystemExit(f"step {steps[-1]}: a loss is not finite, its speed means nothing")
    return wall / len(steps), cpu / len(steps)


def sections_per_step(method: ArGan, repeats: int) -> dict[str, float]:
    """Seconds by section, of the step whose length is the median one."""
    clock = Clock(method.device)
    every = method.config.r1_every

    def one(step: int) -> dict[str, float]:
        clock.start()
        method.step(step)
        clock.switch("other")
        return clock.seconds

    def middle(steps: range) -> dict[str, float]:
        return sorted(map(one, steps), key=lambda seconds: sum(seconds.values()))[len(steps) // 2]

    with watch(method, clock):
        plain = middle(range(every + 1, every + 1 + min(repeats, every - 1)))
        regularised = middle(range(every, every * (repeats + 1), every))
    return {name: weighed(method.config, plain[name], regularised[name]) for name in SECTIONS}


class Untracked(nullcontext[None]):
    """In place of FlopCounterMode's tracker of modules, whose hooks refuse R1's inner gradient."""

    parents = ("Global",)


def flop_per_image(row: Row, config: ArGanConfig, photos: Tensor, device: torch.device) -> float:
    """Of the eager networks, on a batch of two."""
    small = replace(config, batch=2, compile=False, capture=False, bf16=False)
    method = row.kind(small, photos, device)

    def counted(step: int) -> float:
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = Untracked()
        with counter:
            method.step(step)
        return counter.get_total_flops() / small.batch

    return weighed(small, counted(1), counted(small.r1_every))


def matrix_flop_per_s(device: torch.device) -> float:
    """The best of several products of square matrices."""
    gpu = device.type == "cuda"
    side, dtype = (8192, torch.bfloat16) if gpu else (2048, torch.float32)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(20 if gpu else 5):
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss in bytes or KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def configure(size: int, row: Row, device: torch.device, batch: int | None) -> ArGanConfig:
    """The row decides how it is run, whatever the preset says."""
    name, settings = PRESETS[size]
    machine = {"bf16": row.bf16 and device.type == "cuda", "compile": False, "capture": False}
    settings = settings | {"batch": batch or BATCH[device.type][size]} | machine | row.settings
    return load_preset(ArGanConfig, name, settings)


def measure(name: str, config: ArGanConfig, device: torch.device, repeats: int) -> Result:
    """In a process of its own, whose memory is measured."""
    row = ROWS[name]
    photos = torch.randint(256, (PHOTOS, 3, config.size, config.size), dtype=torch.uint8)
    photos = photos.to(device)
    method = row.kind(config, photos, device)
    for step in range(1, WARM_UP + 1):
        method.step(step)
        method.step(step * config.r1_every)
    seconds, cpu = seconds_per_step(method, repeats)
    peak = peak_mib(device)
    sections = (
        dict.fromkeys(SECTIONS, 0.0) if config.capture else sections_per_step(method, repeats)
    )
    total = sum(sections.values())
    return Result(
        size=config.size,
        row=name,
        batch=config.batch,
        images_per_s=config.batch / seconds,
        cpu_ms_per_image=1000 * cpu / config.batch,
        shares={part: spent / total for part, spent in sections.items()} if total else {},
        clock=total / seconds - 1 if total else 0.0,
        peak_mib=peak,
        gflop_per_image=flop_per_image(row, config, photos, device) / 1e9,
        matrix_gflop_per_s=matrix_flop_per_s(device) / 1e9,
    )


def in_a_process(size: int, name: str, options: argparse.Namespace) -> Result:
    command = [sys.executable, __file__, "--one", name, "--sizes", str(size)]
    command += ["--device", options.device, "--threads", str(options.threads)]
    command += ["--repeats", str(options.repeats)]
    command += ["--batch", str(options.batch)] if options.batch else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name} at {size} px failed with exit code {done.returncode}")
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def table(results: list[Result]) -> str:
    heads = ["size", "batch", "row", "images/s", "x reference", "CPU ms/image", *SECTIONS,
             "clock", "peak MiB", "GFLOP/image", "of peak"]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for r in results:
        against = speed_up(r, results)
        cells = [str(r.size), str(r.batch), r.row, f"{r.images_per_s:.1f}"]
        cells += [f"{against:.2f}" if against else "-", f"{r.cpu_ms_per_image:.1f}"]
        cells += [f"{100 * r.shares[s]:.1f} %" if r.shares else "-" for s in SECTIONS]
        cells += [f"{100 * r.clock:+.0f} %" if r.shares else "-", f"{r.peak_mib:.0f}"]
        cells += [f"{r.gflop_per_image:.2f}", f"{100 * r.of_peak:.0f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speed_up(result: Result, results: list[Result]) -> float | None:
    """Times the reference's images/s at the same size, if that was measured."""
    rates = [r.images_per_s for r in results if (r.size, r.row) == (result.size, "reference")]
    return result.images_per_s / rates[0] if rates else None


def missed(results: list[Result]) -> list[str]:
    """The limits that argan's own rows, at the default settings, do not keep."""
    out = []
    for r in (r for r in results if r.row == "eager"):
        against = speed_up(r, results)
        if against is not None and against < LIMITS["speed"]:
            out.append(
                f"{r.size} px: {against:.2f} times the reference, wanted {LIMITS['speed']:g}"
            )
        for part in ("renderer", "data"):
            if r.shares[part] > LIMITS[part]:
                out.append(f"{r.size} px: {part} {r.shares[part]:.1%}, wanted {LIMITS[part]:.0%}")
    return out


def device_in_words(options: argparse.Namespace) -> str:
    if options.device == "cuda":
        return torch.cuda.get_device_name()
    threads = f"{options.threads} of {os.cpu_count()} cores"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {threads}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="(default: all for the device)")
    parser.add_argument("--compile", action="store_true", help="compiled networks on a CPU, too")
    parser.add_argument("--batch", type=int, help="(default: by size)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--one", choices=ROWS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if options.one:
        config = configure(options.sizes[0], ROWS[options.one], device, options.batch)
        print(json.dumps(asdict(measure(options.one, config, device, options.repeats))))
        return 0
    names = options.rows or USUAL[options.device] + ["compiled"] * options.compile
    load = os.getloadavg()[0]
    results = []
    for size in options.sizes:
        for name in names:
            results.append(in_a_process(size, name, options))
            r = results[-1]
            print(f"{size} px, {name}: {r.images_per_s:.1f} images/s", file=sys.stderr)
    short = missed(results)
    print(f"{device_in_words(options)}, load {load:.1f} before the start\n\n{table(results)}\n")
    print("\n".join(f"limit missed: {line}" for line in short) or "all limits kept")
    if options.json:
        record = {
            "device": device_in_words(options),
            "load": load,
            "repeats": options.repeats,
            "results": [asdict(r) | {"of_peak": r.of_peak} for r in results],
            "limits": LIMITS,
            "missed": short,
            "versions": {"torch": torch.__version__, "numpy": np.__version__,
                         "python": platform.python_version()},
        }  # fmt: skip
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return int(bool(short) and options.device == "cpu")


if __name__ == "__main__":
    raise SystemExit(main())
