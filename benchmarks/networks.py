"""How large and how fast is each depth network, and does a phone-sized one keep its limits?

    python benchmarks/networks.py [--size 256] [--rows nano small ...] [--json FILE]

Untrained networks, exported as `argan export` does, one photo at a time in ONNX Runtime on one
thread. Latencies are the median over rounds (p50) and the least, of the thread's CPU time: on an
idle machine that is the time that passes, on a busy one it leaves out waiting. All take turns
within a round, each with a picture that is not timed before the one that is, so that a busy machine
slows all alike and nobody meets another's caches. Work is multiplications of convolutions, as torch
counts them.

A latency alone says as much about the machine as about the network. So a plain network of known
speed, the reference, runs in the same rounds: a U-Net of inverted residuals with 149 M
multiplications, which took 2.7 ms with the fastest of three runtimes on a server's core with
AVX-512. A network may take, per multiplication, 1.15 times what the reference takes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from argan_export.to_onnx import to_fp16, to_onnx
from argan_train.networks import depth_net

ROWS: dict[str, tuple[str, str]] = {  # the settings network and decoder
    "nano": ("nano", "wide"),
    "nano, light decoder": ("nano", "light"),
    "small": ("small", "wide"),
    "base": ("base", "wide"),
    "lite0 (ImageNet)": ("lite0", "wide"),
}
REFERENCE = "reference"
MOST_PARAMETERS = {"nano": 0.5e6, "small": 1.5e6, "base": 5e6, "lite0": 5e6}
MOST_MS = {"nano": 8.0}
MOST_HALF_MB = {"nano": 1.2}
SLACK = 1.15  # times the reference's time per multiplication
WARM_UP = 3


class Reference(nn.Module):
    """A plain U-Net for phones, nothing of argan's: 0.23 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        stages = (16, 24, 40, 64, 96)
        self.stem = unit(3, 16, 3, stride=2)
        self.down = nn.ModuleList(
            nn.ModuleList([inverted(a, b, 2), inverted(b, b, 1)])
            for a, b in zip(stages[:-1], stages[1:], strict=True)
        )
        self.up = nn.ModuleList(
            nn.Sequential(unit(a + b, a + b, 3, groups=a + b), unit(a + b, b, 1))
            for a, b in zip(stages[:0:-1], stages[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """[N, 3, H, W] in 0..1 -> [N, 1, H, W] in 0..1."""
        kept = [self.stem(image)]
        for halve, keep in self.down:
            x = halve(kept[-1])
            kept.append(x + keep(x))
        x = kept.pop()
        for join in self.up:
            x = join(torch.cat([twice(x), kept.pop()], dim=1))
        return torch.sigmoid(twice(self.head(x)))


def twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


def inverted(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    inner = 4 * inputs
    project = unit(inner, outputs, 1)[:2]
    return nn.Sequential(unit(inputs, inner, 1), unit(inner, inner, 3, stride, inner), project)


@dataclass(frozen=True)
class Result:
    row: str
    network: str
    parameters: int
    multiplications: float
    mb: float
    half_mb: float
    p50_ms: float
    least_ms: float


@dataclass(frozen=True)
class Built:
    parameters: int
    multiplications: float
    model: bytes
    half_bytes: int


def build(network: nn.Module, size: int) -> Built:
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    # At one size: an export for any size takes six times as long and computes the same.
    example = {"image": torch.zeros(1, 3, size, size)}
    model = to_onnx(network, example, ["disparity"], multiple=None)
    return Built(
        parameters=sum(p.numel() for p in network.parameters()),
        multiplications=counter.get_total_flops() / 2,
        model=model,
        half_bytes=len(to_fp16(model)),
    )


def latencies(models: dict[str, bytes], size: int, rounds: int) -> dict[str, list[float]]:
    """ms per picture, one thread; the models take turns."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = {
        name: ort.InferenceSession(model, options, ["CPUExecutionProvider"])
        for name, model in models.items()
    }
    image = np.random.default_rng(0).random((1, 3, size, size), np.float32)
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(WARM_UP + rounds):
        for name, session in sessions.items():
            session.run(None, {"image": image})
            start = time.thread_time()  # with one thread, ONNX Runtime works in the caller's
            session.run(None, {"image": image})
            if turn >= WARM_UP:
                taken[name].append(1000 * (time.thread_time() - start))
    return taken


def measure(rows: list[str], size: int, rounds: int) -> list[Result]:
    """The reference first."""
    torch.manual_seed(0)
    built = {REFERENCE: build(Reference(), size)}
    for row in rows:
        print(f"exporting {row}", file=sys.stderr)
        built[row] = build(depth_net(*ROWS[row]), size)
    taken = latencies({name: b.model for name, b in built.items()}, size, rounds)
    return [
        Result(
            row=name,
            network=ROWS[name][0] if name in ROWS else REFERENCE,
            parameters=b.parameters,
            multiplications=b.multiplications,
            mb=len(b.model) / 1e6,
            half_mb=b.half_bytes / 1e6,
            p50_ms=statistics.median(taken[name]),
            least_ms=min(taken[name]),
        )
        for name, b in built.items()
    ]


def share_of_allowed(result: Result, reference: Result) -> float:
    """Of SLACK times the reference's time for as many multiplications: the medians' ratio."""
    work = result.multiplications / reference.multiplications
    return result.p50_ms / reference.p50_ms / work / SLACK


def missed(results: list[Result]) -> list[str]:
    """What is over its limit, in words."""
    reference, *others = results
    lines = []
    for r in others:
        of_allowed = share_of_allowed(r, reference)
        values = [
            (r.parameters / 1e6, MOST_PARAMETERS[r.network] / 1e6, "M parameters"),
            (r.p50_ms, MOST_MS.get(r.network), "ms"),
            (r.half_mb, MOST_HALF_MB.get(r.network), "MB in half precision"),
            (of_allowed, 1.0, "of the time that its work allows"),
        ]
        lines += [
            f"{r.row}: {value:.2f} {what}, wanted {most:g}"
            for value, most, what in values if most is not None and value > most
        ]  # fmt: skip
    return lines


def table(results: list[Result]) -> str:
    lines = ["| network | parameters | multiplications | fp32 | fp16 | p50 | least | of allowed |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for r in results:
        allowed = "-" if r is results[0] else f"{share_of_allowed(r, results[0]):.2f}"
        lines.append(
            f"| {r.row} | {r.parameters / 1e6:.2f} M | {r.multiplications / 1e9:.2f} G |"
            f" {r.mb:.2f} MB | {r.half_mb:.2f} MB | {r.p50_ms:.1f} ms | {r.least_ms:.1f} ms |"
            f" {allowed} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256, help="px, a multiple of 32")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    load = os.getloadavg()[0]
    results = measure(options.rows, options.size, options.rounds)
    short = missed(results)
    print(f"{platform.machine()}, one thread, {options.size} x {options.size} px, load"
          f" {load:.1f} before the start\n\n{table(results)}\n")  # fmt: skip
    print("\n".join(f"limit missed: {line}" for line in short) or "all limits kept")
    if options.json:
        record = {
            "machine": platform.machine(),
            "size": options.size,
            "rounds": options.rounds,
            "load": load,
            "results": [asdict(r) for r in results],
            "missed": short,
            "versions": {"torch": torch.__version__, "onnxruntime": ort.__version__,
                         "python": platform.python_version()},
        }  # fmt: skip
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return int(bool(short))


if __name__ == "__main__":
    raise SystemExit(main())
