"""`argan train METHOD`, `argan sample RUN`, `argan evaluate`: thin; argparse, so that a bare GPU
machine needs nothing beyond torch."""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import torch

import argan_train.data_cli
import argan_train.evaluate
import argan_train.sample
from argan.errors import Error, InputError
from argan_train import checkpoint, data, distributed, look, loop, options, qat
from argan_train.ar_gan import ArGan
from argan_train.ar_gan_dr import (
    ArGanDr,
    describe_sources,
    describe_student,
    enlarged,
    load_depth_net,
    load_teachers,
)
from argan_train.config import (
    ArGanConfig,
    ArGanDrConfig,
    Config,
    CycleGanConfig,
    load_preset,
    meanings,
)
from argan_train.cutouts import KEPT, cut_of, cut_out
from argan_train.cycle_gan import CycleGan
from argan_train.toy import ToyWorld

EXAMPLES = """examples:
  argan train ar-gan --preset flowers64 --data flowers128.zip --out runs/flowers
  argan train ar-gan --preset toy32 --data toy --out runs/toy --steps 3000
  argan train ar-gan --preset flowers64 --data flowers128.zip --out runs/flowers --resume
  argan train ar-gan-dr --teacher runs/flowers --out runs/flowers-dr
  argan train ar-gan-dr --preset dr96 --teacher runs/flowers --student runs/flowers-dr \\
    --photos flowers128.zip --out runs/flowers-dr-2
  argan train ar-gan-dr --teacher runs/flowers --qat runs/flowers-dr --out runs/flowers-dr-int8
  argan train look --photos holiday_photos -o holiday.argan
  argan train cycle-gan --deep split/deep --shallow split/shallow --out runs/cycle
  torchrun --nproc-per-node 4 -m argan_train train ar-gan --preset flowers128 \\
    --data flowers128.zip --out runs/flowers
"""


def add_settings(parser: argparse.ArgumentParser, kind: type[Config]) -> None:
    """One option per setting of the method, so that none is hidden."""
    group = parser.add_argument_group("settings (default: the preset's)")
    meaning = meanings(kind)
    for field in fields(kind):
        value = field.default if field.default is not MISSING else None
        convert: Callable[[str], Any] = str
        if isinstance(value, bool):
            convert = options.switch
        elif field.name == "seed":
            convert = options.seed
        elif isinstance(value, int | float):
            convert = type(value)
        group.add_argument(
            f"--{field.name.replace('_', '-')}", type=convert, default=None, metavar=str(value),
            help=meaning[field.name].replace("%", "%%"),
        )  # fmt: skip


def chosen(arguments: argparse.Namespace, kind: type[Config]) -> dict[str, Any]:
    return {f.name: v for f in fields(kind) if (v := getattr(arguments, f.name)) is not None}


Started = tuple[loop.Method, dict[str, Any], dict[str, str]]  # with its record and its input files


def load_training_photos(
    source: str, size: int, seed: int, blur_probability: float = 0.5
) -> tuple[torch.Tensor, dict[str, Any], dict[str, str]]:
    """-> uint8 [M, 3, S, S], the record of what they are, and {file: sha256}; "toy" draws the toy
    world, where `blur_probability` is the share that a wide lens takes."""
    if source == "toy":
        world = ToyWorld(size, seed, blur_probability)
        pictures = [world.batch(512).image for _ in range(32)]
        photos = torch.cat([(torch.from_numpy(p) * 255 + 0.5).to(torch.uint8) for p in pictures])
        return photos, {"source": "toy", "photos": len(photos), "seed": seed}, {}
    loaded, report = data.load_photos(source, size)
    print(report, file=sys.stderr)
    return torch.from_numpy(loaded), report.record(source), report.loaded


def report_errors(command: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """One line on stderr and exit code 2 for what the user can mend."""

    @functools.wraps(command)
    def reporting(argv: list[str]) -> int:
        try:
            return command(argv)
        except Error as error:
            print(f"argan: {error}", file=sys.stderr)
            return 2

    return reporting


@report_errors
def train(argv: list[str]) -> int:
    """`argan train METHOD`."""
    parser = argparse.ArgumentParser(
        "argan train", description="Train a network.", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    methods = parser.add_subparsers(dest="method", required=True)
    gan = methods.add_parser("ar-gan", help="sharp images and disparities from unlabelled photos")
    gan.add_argument("--preset", default="flowers64", help="configs/NAME.toml or a .toml file")
    gan.add_argument(
        "--data",
        required=True,
        help='photos: a folder, .zip, .tar, .tgz or shards as "x-{000..011}.tar"; or "toy"',
    )
    add_settings(gan, ArGanConfig)
    student = methods.add_parser("ar-gan-dr", help="one photo to disparity, from AR-GAN's samples")
    student.add_argument("--preset", default="dr64", help="configs/NAME.toml or a .toml file")
    student.add_argument(
        "--teacher", required=True, type=Path, nargs="+", help="AR-GAN run folders"
    )
    student.add_argument(
        "--photos", help="real photos, unlabelled: to make lessons of (--student), or whose"
        " disparity is to follow crops and colours"
    )
    earlier = student.add_mutually_exclusive_group()
    earlier.add_argument(
        "--student", type=Path, metavar="RUN",
        help="a second round: this finished student cuts the subjects out of --photos, and most"
        " lessons are made of them",
    )  # fmt: skip
    earlier.add_argument(
        "--qat", type=Path, metavar="RUN",
        help="fine-tune this finished student for int8, in place of training a new one; settings"
        " that are not given are its own, but for a short and gentle run",
    )  # fmt: skip
    add_settings(student, ArGanDrConfig)
    cycle = methods.add_parser("cycle-gan", help="deep to shallow photos, without depth: a rival")
    cycle.add_argument("--preset", default="cyclegan64", help="configs/NAME.toml or a .toml file")
    for name in ("deep", "shallow"):
        cycle.add_argument(
            f"--{name}", required=True,
            help=f'photos of {name} depth of field (argan data split-by-blur makes both); or "toy"',
        )  # fmt: skip
    add_settings(cycle, CycleGanConfig)
    looks = methods.add_parser("look", help="AR-GAN, AR-GAN-DR and export, from a folder of photos")
    look.add_arguments(looks)
    for method in (gan, student, cycle):
        method.add_argument("--out", required=True, type=Path, help="run folder")
    for method in (gan, student, cycle, looks):
        method.add_argument(
            "--resume", action="store_true", help="go on where --out stopped, if it did"
        )
        method.add_argument(
            "--device", type=options.device, default=options.usual_device(),
            help="cuda or cpu (cuda where there is one)",
        )  # fmt: skip
        method.add_argument(
            "--threads", type=options.whole(1), default=threads_here(), metavar="N",
            help="of the CPU (all)",
        )  # fmt: skip
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    device = distributed.start(arguments.device)
    try:
        if arguments.method == "look":
            return look.run(arguments, device)
        start = {"ar-gan": start_ar_gan, "ar-gan-dr": start_ar_gan_dr, "cycle-gan": start_cycle_gan}
        learner, record, inputs = start[arguments.method](arguments, device)
        loop.train(learner, arguments.out, record, device, arguments.resume, inputs)
    finally:
        distributed.stop()
    return 0


def threads_here() -> int:
    """The processor's cores, shared with torchrun's other processes on this machine."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def start_ar_gan(arguments: argparse.Namespace, device: torch.device) -> Started:
    config = load_preset(ArGanConfig, arguments.preset, chosen(arguments, ArGanConfig))
    photos, record, files = load_training_photos(arguments.data, config.size, config.seed)
    return ArGan(config, place(photos, device), device), record, files


def place(photos: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the GPU where they take at most half of its free memory, else where they are."""
    if device.type == "cuda" and photos.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
        return photos.to(device)
    return photos


def start_ar_gan_dr(arguments: argparse.Namespace, device: torch.device) -> Started:
    settings = chosen(arguments, ArGanDrConfig)
    if arguments.student and not arguments.photos:
        raise InputError("--student cuts subjects out of photos: give it some by --photos")
    run = arguments.qat or arguments.student
    student, before = load_depth_net(run) if run else (None, None)
    if arguments.qat:
        assert before is not None
        config = replace(before, **qat.SETTINGS | settings)
        for name in ("network", "decoder"):
            own = getattr(before, name)
            if getattr(config, name) != own:
                raise InputError(f"--qat goes on with {run}, whose {name} is {own}: leave out"
                                 f" --{name}")  # fmt: skip
    else:
        config = load_preset(ArGanDrConfig, arguments.preset, settings)
    teachers = load_teachers(arguments.teacher, device)
    record, inputs = describe_sources(arguments.teacher, config)
    photos = None
    if arguments.photos:
        photo_size = config.photo_size or config.size
        photos, about, files = load_training_photos(arguments.photos, photo_size, config.seed)
        photos = place(enlarged(photos, config.size), device)
        record["photos"] = about
        inputs |= {f"photos/{name}": digest for name, digest in files.items()}
    if student is None:
        return ArGanDr(config, teachers, device, photos), record, inputs
    weights = describe_student(run, record, inputs, config)
    if arguments.qat:
        record["student"]["int8"] = True
        return qat.Int8Student(config, teachers, device, photos, student), record, inputs
    assert photos is not None  # asked for above
    student.to(device)
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    cut = cut_out(
        photos, lambda image: student(image.to(device)),  # photos may be elsewhere
        standing=config.standing, keep=arguments.out / KEPT, of=cut_of(record),
    )  # fmt: skip
    record["photos"]["cut_out"] = len(cut.photos)
    return ArGanDr(config, teachers, device, cut=cut, begin_with=weights), record, inputs


def start_cycle_gan(arguments: argparse.Namespace, device: torch.device) -> Started:
    config = load_preset(CycleGanConfig, arguments.preset, chosen(arguments, CycleGanConfig))
    size, seed = config.size, config.seed
    deep, about_deep, files_deep = load_training_photos(
        arguments.deep, size, seed, blur_probability=0
    )
    # Of another seed: no scene of the toy world is in both sets.
    shallow, about_shallow, files_shallow = load_training_photos(
        arguments.shallow, size, seed + 1, blur_probability=1
    )
    record = {"source": f"{about_deep['source']}, {about_shallow['source']}",
              "deep": about_deep, "shallow": about_shallow}  # fmt: skip
    inputs = {f"deep/{name}": digest for name, digest in files_deep.items()}
    inputs |= {f"shallow/{name}": digest for name, digest in files_shallow.items()}
    method = CycleGan(config, place(deep, device), place(shallow, device), device)
    return method, record, inputs


sample = report_errors(argan_train.sample.main)
evaluate = report_errors(argan_train.evaluate.main)
data_command = report_errors(argan_train.data_cli.main)


@report_errors
def pack(argv: list[str]) -> int:
    """A finished run as a small folder worth keeping: config.json, log.jsonl, the list of its
    input files, fp16 weights. Of several runs of one network, one of which went on from the other:
    the mean of their weights (Wortsman et al. 2022, "Model soups"), with the last one's record."""
    parser = argparse.ArgumentParser("argan_train pack", description=pack.__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="run")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args(argv)
    runs, folder = arguments.runs, arguments.folder
    if folder.resolve() in {run.resolve() for run in runs} or (folder / loop.STATE).exists():
        raise InputError(f"{folder} holds a run: give another folder to pack into")
    record = checkpoint.read_json(runs[-1] / "config.json")
    weights = checkpoint.mean([checkpoint.load_floats(run / "ema.safetensors") for run in runs])
    digests = {run.name: checkpoint.sha256(run / "ema.safetensors") for run in runs}
    if len(digests) < len(runs):
        raise InputError("two runs' folders have one name: rename one of them")
    if len(runs) > 1:
        record["mean_of"] = digests
    half = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    about = {"fp32_sha256": " ".join(digests.values())}
    checkpoint.save_tensors(folder / "ema.safetensors", half, about)
    checkpoint.write_json(folder / "config.json", record)
    for name in ("log.jsonl", loop.INPUTS):
        if (runs[-1] / name).exists():  # the toy world has no files
            shutil.copyfile(runs[-1] / name, folder / name)
    return 0


COMMANDS = {
    "train": train,
    "sample": sample,
    "evaluate": evaluate,
    "pack": pack,
    "data": data_command,
}


def main() -> int:
    """`python -m argan_train COMMAND ...`, where argan is not installed."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        raise SystemExit(f"usage: python -m argan_train {{{','.join(COMMANDS)}}} ...")
    return COMMANDS[sys.argv[1]](sys.argv[2:])
