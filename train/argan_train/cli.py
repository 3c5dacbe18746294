"""`argan train METHOD`, `argan sample RUN`, `argan evaluate`: thin; argparse, so that a bare GPU
machine needs nothing beyond torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
from argan.errors import Error, InputError

from argan_train import checkpoint, data, loop
from argan_train.ar_gan import ArGan
from argan_train.ar_gan_dr import ArGanDr, load_teachers
from argan_train.config import ArGanConfig, ArGanDrConfig, Config, load_preset
from argan_train.toy import ToyWorld

EXAMPLES = """examples:
  argan train ar-gan --preset flowers64 --data flowers128.zip --out runs/flowers
  argan train ar-gan --preset toy32 --data toy --out runs/toy --steps 3000
  argan train ar-gan --preset flowers64 --data flowers128.zip --out runs/flowers --resume
  argan train ar-gan-dr --teacher runs/flowers --out runs/flowers-dr
"""


def add_settings(parser: argparse.ArgumentParser, kind: type[Config]) -> None:
    """One option per setting of the method, so that none is hidden."""
    group = parser.add_argument_group("settings (default: the preset's)")
    for field in fields(kind):
        value = field.default if field.default is not MISSING else None
        convert: Callable[[str], Any] = str
        if isinstance(value, bool):
            convert = lambda text: text.lower() in ("1", "true", "yes")  # noqa: E731
        elif isinstance(value, int | float):
            convert = type(value)
        group.add_argument(
            f"--{field.name.replace('_', '-')}", type=convert, default=None, metavar=str(value)
        )


def chosen(arguments: argparse.Namespace, kind: type[Config]) -> dict[str, Any]:
    return {f.name: v for f in fields(kind) if (v := getattr(arguments, f.name)) is not None}


def load_training_photos(source: str, config: ArGanConfig) -> tuple[torch.Tensor, dict[str, Any]]:
    """-> uint8 [M, 3, S, S] and the record of what they are; "toy" draws the toy world."""
    if source == "toy":
        world = ToyWorld(config.size, seed=config.seed)
        pictures = [world.batch(512).image for _ in range(32)]
        photos = torch.cat([(torch.from_numpy(p) * 255 + 0.5).to(torch.uint8) for p in pictures])
        return photos, {"source": "toy", "photos": len(photos), "seed": config.seed}
    photos, report = data.load_photos(source, config.size)
    print(report, file=sys.stderr)
    record = {"source": Path(source).name, "photos": len(photos), "dropped": report.dropped,
              "sha256": report.sha256}  # fmt: skip
    return torch.from_numpy(photos), record


def train(argv: list[str]) -> int:
    """`argan train METHOD`."""
    parser = argparse.ArgumentParser("argan train", description="Train a network.", epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    methods = parser.add_subparsers(dest="method", required=True)
    gan = methods.add_parser("ar-gan", help="sharp images and disparities from unlabelled photos")
    gan.add_argument("--preset", default="flowers64", help="configs/NAME.toml or a .toml file")
    gan.add_argument("--data", required=True, help='a folder or zip of photos, or "toy"')
    add_settings(gan, ArGanConfig)
    student = methods.add_parser("ar-gan-dr", help="one photo to disparity, from AR-GAN's samples")
    student.add_argument("--preset", default="dr96", help="configs/NAME.toml or a .toml file")
    student.add_argument("--teacher", required=True, type=Path, nargs="+", help="AR-GAN run folders")
    add_settings(student, ArGanDrConfig)
    for method in (gan, student):
        method.add_argument("--out", required=True, type=Path, help="run folder")
        method.add_argument("--resume", action="store_true", help="go on where --out stopped")
        method.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        method.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    run = start_ar_gan if arguments.method == "ar-gan" else start_ar_gan_dr
    method, record = run(arguments, device)
    loop.train(method, arguments.out, record, device, arguments.resume)
    return 0


def start_ar_gan(arguments: argparse.Namespace, device: torch.device) -> tuple[ArGan, dict[str, Any]]:
    config = load_preset(ArGanConfig, arguments.preset, chosen(arguments, ArGanConfig))
    photos, record = load_training_photos(arguments.data, config)
    return ArGan(config, photos.to(device)), record


def start_ar_gan_dr(
    arguments: argparse.Namespace, device: torch.device
) -> tuple[ArGanDr, dict[str, Any]]:
    config = load_preset(ArGanDrConfig, arguments.preset, chosen(arguments, ArGanDrConfig))
    teachers = load_teachers(arguments.teacher, device)
    record = {
        run.name: {
            "sha256": checkpoint.sha256(run / "ema.safetensors"),
            "record": (about := checkpoint.read_json(run / "config.json")),
            "data": about["data"],
        }
        for run in arguments.teacher
    }
    return ArGanDr(config, teachers, device), {"teachers": record}


def report_errors(command: Callable[[list[str]], int], argv: list[str]) -> int:
    """One line on stderr and exit code 2 for what the user can mend."""
    try:
        return command(argv)
    except Error as error:
        print(f"argan: {error}", file=sys.stderr)
        return 2


def main(argv: list[str] | None = None) -> int:
    """`python -m argan_train COMMAND ...`, where argan is not installed."""
    commands = {"train": train}
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in commands:
        raise SystemExit(f"usage: python -m argan_train {{{','.join(commands)}}} ...")
    return report_errors(commands[argv[0]], argv[1:])
