"""`argan train look`: one photographer's photos to a bundle with their bokeh, by one command.

    photos -> AR-GAN -> AR-GAN-DR, two rounds -> NAME.argan, with the photos' strength as default

RUN/plan.json        what was asked for, what the photos are, the settings of the trainings
RUN/ar-gan, RUN/ar-gan-dr, RUN/ar-gan-dr-2   run folders, as `argan train` leaves them
RUN/summary.html     all, and the lens that was learnt; in figures NAME.json

The second round learns from the photos themselves, which the first cuts out (`cutouts`). Where that
fails in too many of them it is left out, and the first round's network goes into the bundle.

Stopped at any time, the same command with --resume goes on in the stage where it stopped.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import html
import io
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from argan import bundle, optics
from argan.errors import InputError, MissingExtraError
from argan.files import check_writable, write_atomic
from argan_train import checkpoint, cutouts, distributed, loop, summary
from argan_train.ar_gan import ArGan, lens_strength, load_generator, make_generator
from argan_train.ar_gan_dr import (
    ArGanDr,
    describe_sources,
    describe_student,
    enlarged,
    load_depth_net,
    load_teachers,
)
from argan_train.config import ArGanConfig, ArGanDrConfig, build, load_preset
from argan_train.data import PhotoReport, examples, load_photos, open_photos
from argan_train.networks import Generator
from argan_train.split_by_blur import background_sharpness

FEWEST, ENOUGH = 100, 500  # photos: without which it is refused, and advised against
TOLD_AT = 64  # px at which backgrounds are looked at
SHARP = 1.1  # background_sharpness there: 5 in 6 sharp toy scenes have more, 19 in 20 blurred less
FEW = 0.1  # of the photos are hardly any
LOOKED_AT = 1000  # photos
WARM_UP, TIMED = range(1, 3), range(9, 17)  # steps before the plan; the last is one with R1
DRAWN = 512  # generated photographs that the lens is measured on
BATCH = 64
OUT_OF_FOCUS_PX = 0.5  # radius at the generator's size; less can't be told there
OUT_OF_FOCUS_SHARE = 0.1  # of the pixels of a shallow photograph, at least
GAN, STUDENT, SECOND = "ar-gan", "ar-gan-dr", "ar-gan-dr-2"
TRAININGS = (GAN, STUDENT, SECOND)
# Shares of the bar. Those of the trainings are made exact by the plan.
STAGES = {"photos": 0.01, GAN: 0.6, STUDENT: 0.1, "cut out": 0.02, SECOND: 0.26, "export": 0.01}


class Progress:
    """One bar over all stages: which one, how many a second, and the time left for all of them.
    To those who do the work it looks like their own bar."""

    def __init__(self) -> None:
        self.shares = dict(STAGES)
        self.seconds: dict[str, float] = {}  # expected of the trainings
        self.bar: tqdm | None = None

    def plan(self, seconds: dict[str, float]) -> None:
        left = 1 - sum(share for name, share in STAGES.items() if name not in TRAININGS)
        self.seconds = seconds
        self.shares |= {name: left * s / sum(seconds.values()) for name, s in seconds.items()}

    def begin(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stage, self.total, self.unit, self.done = stage, total, unit, done
        self.start, self.first = time.monotonic(), done
        if self.bar is None:
            layout = "{desc} {percentage:3.0f}%|{bar}| {postfix}"
            self.bar = tqdm(total=1.0, mininterval=1, bar_format=layout)
        number = list(STAGES).index(stage) + 1
        self.bar.set_description_str(f"{number}/{len(STAGES)} {stage}", refresh=False)
        self.update(0)
        self.bar.refresh()

    def update(self, n: int) -> None:
        self.done += n
        names = list(STAGES)
        at = names.index(self.stage)
        before = sum(self.shares[name] for name in names[:at])
        share = before + self.shares[self.stage] * self.done / self.total
        rate = (self.done - self.first) / max(time.monotonic() - self.start, 1e-3)
        words = f"{rate:.3g} {self.unit}/s" if rate else ""
        if rate and self.seconds:
            later = sum(self.seconds.get(name, 0) for name in names[at + 1 :])
            words += f", {tqdm.format_interval((self.total - self.done) / rate + later)} left"
        assert self.bar is not None
        self.bar.set_postfix_str(words, refresh=False)
        self.bar.update(share - self.bar.n)

    def set_postfix(self, values: dict[str, float]) -> None:
        """Not shown: losses are in the summaries of the runs."""

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


@dataclass(frozen=True)
class Plan:
    """asked         the command's settings
    photos           their record
    gan, student, second   settings of the trainings; seconds: expected of each
    advice           on the photos, a line each
    """

    asked: dict[str, Any]
    photos: dict[str, Any]
    gan: ArGanConfig
    student: ArGanDrConfig
    second: ArGanDrConfig
    seconds: dict[str, float]
    advice: list[str]

    @staticmethod
    def read(path: Path) -> Plan:
        record = checkpoint.read_json(path)
        record["gan"] = build(ArGanConfig, record["gan"])
        if "second" not in record:
            raise InputError(f"{path} is of an older version of argan: give another --out")
        for name in ("student", "second"):
            record[name] = build(ArGanDrConfig, record[name])
        return Plan(**record)


@dataclass(frozen=True)
class Lens:
    """What the learnt lens does to photographs drawn as in training.

    shallow_share      of the photographs, those with OUT_OF_FOCUS_SHARE of their pixels out of
                       focus, which is a blur of OUT_OF_FOCUS_PX or more
    background_share   of the pixels of a shallow photograph that are out of focus behind its focal
                       plane; foreground_share: in front of it
    blur_percent       {"10": ..., "90": ...}: deciles of their radius, in percent of the width
    strength_percent   radius that one unit of the bundle's disparity is blurred to, in percent of
                       the width; f_number: the same in words that a photographer knows
    settings           of the lens that are given, not learnt
    """

    shallow_share: float
    background_share: float
    foreground_share: float
    blur_percent: dict[str, float]
    strength_percent: float
    f_number: float
    settings: dict[str, Any]

    def lines(self) -> list[str]:
        blur = (
            f"out of focus the blur has a radius of {self.blur_percent['50']:.1f} % of the width in"
            f" the median, up to {self.blur_percent['90']:.1f} % for nine tenths"
            if self.blur_percent
            else "no generated photograph has a blurred background: a look without bokeh; give"
            " photos taken wide open, or train for longer"
        )
        return [
            blur,
            f"{self.shallow_share:.0%} of the photographs are shallow; of such a one"
            f" {self.background_share:.0%} is blurred background and {self.foreground_share:.0%}"
            " foreground",
            f"the bundle's default is f/{self.f_number:g}: {self.strength_percent:.2g} % of the"
            " width from the nearest to the farthest",
        ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--photos", required=True, metavar="DIR",
        help=f"a folder, .zip, .tar or .tgz of {FEWEST} photos or more",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="NAME.argan")
    parser.add_argument(
        "--out", type=Path, metavar="RUN", help="folder of the trainings (default: runs/NAME)"
    )
    parser.add_argument("--preset", default="flowers64", help="of AR-GAN: a name or a .toml file")
    parser.add_argument("--student-preset", default="dr64", help="the same of AR-GAN-DR")
    parser.add_argument("--second-preset", default="dr96", help="the same of its second round")
    parser.add_argument("--steps", type=int, help="of AR-GAN (default: the preset's)")
    parser.add_argument(
        "--student-steps", type=int, help="of either round of AR-GAN-DR (default: the presets')"
    )
    parser.add_argument(
        "--minutes", type=float, help="of all trainings: the presets' steps are scaled to it"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="(default: 0)")


def run(arguments: argparse.Namespace, device: torch.device) -> int:
    """The command -> exit code; 1 where it was told to stop."""
    if distributed.world() > 1:
        raise InputError("a look trains in one process: start it without torchrun")
    output: Path = arguments.output
    folder: Path = arguments.out or Path("runs") / output.stem
    if output.suffix != ".argan":
        raise InputError(f"{output}: a bundle is called NAME.argan")
    check_writable(output)
    export = find_export()  # what is missing is better known before hours of training
    progress = Progress()
    try:
        plan = train(arguments, folder, device, progress)
        if plan is None:
            return 1
        lens = measure_lens(*load_generator(folder / GAN, device))
        progress.begin("export", 1, "bundle")
        write_bundle(export, folder / trained(folder)[-1], output, lens)
        progress.update(1)
    finally:
        progress.close()
    report(output, folder, plan, lens)
    return 0


def find_export() -> Callable[[list[str]], int]:
    """`argan export`, of a layer above this one, found as the `argan` command finds it."""
    for entry in entry_points(group="argan.commands", name="export"):
        try:
            command: Callable[[list[str]], int] = entry.load()
        except ModuleNotFoundError as error:
            raise MissingExtraError(str(error.name).partition(".")[0], "export") from error
        return command
    raise InputError('no argan export here, with which a look ends: pip install "argan[export]"')


def train(
    arguments: argparse.Namespace, folder: Path, device: torch.device, progress: Progress
) -> Plan | None:
    """All trainings, from where they stand. -> None where it was told to stop"""
    asked = {
        name: getattr(arguments, name)
        for name in ("preset", "student_preset", "second_preset", "steps", "student_steps",
                     "minutes", "seed")
    }  # fmt: skip
    plan = open_plan(folder, asked, arguments.resume)
    gan, student, second = (plan.gan, plan.student, plan.second) if plan else presets(asked)
    photos, found = read_photos(arguments.photos, gan.size, progress)
    record, images = found.record(arguments.photos), torch.from_numpy(photos).to(device)
    if plan is None:
        lines = advice(photos, found)
        for line in lines:
            tqdm.write(line, file=sys.stderr)
        plan = make_plan(asked, record, gan, student, second, lines, images)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json(folder / "plan.json", asdict(plan))
    elif plan.photos["sha256"] != record["sha256"]:
        raise InputError(f"{arguments.photos} are other photos than {folder} was begun with:"
                         " give the same, or another --out")  # fmt: skip
    progress.plan(plan.seconds)
    gan, student, second = plan.gan, plan.student, plan.second

    def stage(
        name: str, config: ArGanConfig | ArGanDrConfig, make: Callable[[], loop.Method],
        record: dict[str, Any], inputs: dict[str, str],
    ) -> bool:  # fmt: skip
        """-> has it taken its last step?"""
        done = steps_done(folder / name)
        progress.begin(name, config.steps * config.batch, "img", done * config.batch)
        if done < config.steps:
            loop.train(make(), folder / name, record, device, True, inputs, progress)
        return steps_done(folder / name) >= config.steps

    if not stage(GAN, gan, lambda: ArGan(gan, images, device), record, found.loaded):
        return None
    teachers = load_teachers([folder / GAN], device)
    record, inputs = describe_sources([folder / GAN], student)
    if not stage(STUDENT, student, lambda: ArGanDr(student, teachers, device), record, inputs):
        return None
    if steps_done(folder / SECOND) >= second.steps:
        return plan
    files = len(found.loaded) + len(found.dropped)
    progress.begin("cut out", files + min(files, cutouts.MOST), "photo")  # read anew, and cut
    earlier = load_depth_net(folder / STUDENT)[0].to(device)
    earlier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    record, inputs = describe_sources([folder / GAN], second)
    weights = describe_student(folder / STUDENT, record, inputs, second)
    record["photos"] = plan.photos
    of = cutouts.cut_of(record)
    lessons = cut_photos(arguments.photos, earlier, second, folder, of, device, progress)
    if lessons is None:
        return plan
    cut, about, loaded = lessons
    record["photos"] = about | {"cut_out": len(cut.photos)}
    inputs |= {f"photos/{name}": digest for name, digest in loaded.items()}
    method = ArGanDr(second, teachers, device, cut=cut, begin_with=weights)
    return plan if stage(SECOND, second, lambda: method, record, inputs) else None


def cut_photos(
    source: str, student: torch.nn.Module, config: ArGanDrConfig, folder: Path, of: str,
    device: torch.device, progress: Progress,
) -> tuple[cutouts.Cutouts, dict[str, Any], dict[str, str]] | None:  # fmt: skip
    """The photos as lessons for the second round, the record of what they are, and {file: sha256};
    None, and a line that says why, where too few can be used for it."""
    try:
        loaded, found = load_photos(source, config.photo_size or config.size, progress)
        photos = enlarged(torch.from_numpy(loaded), config.size).to(device)
        keep = folder / SECOND / cutouts.KEPT
        cut = cutouts.cut_out(photos, student, progress, config.standing, keep, of)
        return cut, found.record(source), found.loaded
    except InputError as error:
        tqdm.write(f"no second round: {error}", file=sys.stderr)
        return None


def trained(folder: Path) -> list[str]:
    """The trainings of a finished look, the network's that it ends with last."""
    return [name for name in TRAININGS if (folder / name).exists()]


def steps_done(run: Path) -> int:
    if not (run / loop.STATE).exists():
        return 0
    return int(checkpoint.load_tensors(run / loop.STATE)["progress"][0])


def open_plan(folder: Path, asked: dict[str, Any], resume: bool) -> Plan | None:
    """Of a look that was begun; None where nothing was."""
    path = folder / "plan.json"
    if not path.exists():
        return None
    if not resume:
        raise InputError(f"{folder} already holds a look: give --resume, or another --out")
    plan = Plan.read(path)
    changed = [name for name in asked if plan.asked.get(name) != asked[name]]
    if changed:
        raise InputError(
            f"{folder} was begun with other settings ({', '.join(changed)}): resume with the same"
        )
    return plan


def presets(asked: dict[str, Any]) -> tuple[ArGanConfig, ArGanDrConfig, ArGanDrConfig]:
    """The settings of all three, but for --minutes."""
    if asked["minutes"] is not None:
        if not 0 < asked["minutes"] < math.inf:
            raise InputError(f"--minutes {asked['minutes']:g}: give more than 0")
        if asked["steps"] is not None or asked["student_steps"] is not None:
            raise InputError("--minutes decides the steps: leave out --steps and --student-steps")
    for name in ("steps", "student_steps"):
        if asked[name] is not None and asked[name] < 1:
            raise InputError(f"--{name.replace('_', '-')} {asked[name]}: give at least 1")

    def settings(steps: int | None) -> dict[str, Any]:
        return {"seed": asked["seed"]} | ({} if steps is None else {"steps": steps})

    gan = load_preset(ArGanConfig, asked["preset"], settings(asked["steps"]))
    if gan.mixture == "plain":
        raise InputError(f'preset {asked["preset"]} has no lens, mixture "plain": give another')
    student, second = (
        load_preset(ArGanDrConfig, asked[name], settings(asked["student_steps"]))
        for name in ("student_preset", "second_preset")
    )
    return gan, student, second


def read_photos(
    source: str, size: int, progress: Progress
) -> tuple[NDArray[np.uint8], PhotoReport]:
    """uint8 [M, 3, size, size] and their report; InputError where they are too few for a look."""
    with ExitStack() as stack:
        count = len(open_photos(source, stack).names)
    wanted = f"a look needs {FEWEST} or more, better {ENOUGH}"
    if count < FEWEST:
        raise InputError(f"{source}: {count} photos; {wanted}")
    progress.begin("photos", count, "photo")
    photos, found = load_photos(source, size, progress)
    if len(photos) < FEWEST:
        raise InputError(f"{source}: {len(photos)} photos can be used; {wanted}; left out:"
                         f" {examples(found.dropped)}")  # fmt: skip
    return photos, found


def advice(photos: NDArray[np.uint8], found: PhotoReport) -> list[str]:
    """On photos [M, 3, S, S] that will do but could be better, a line each."""
    lines = []
    if len(photos) < ENOUGH:
        lines.append(f"only {len(photos)} photos: some hundred more would show in the result")
    if found.dropped:
        lines.append(f"{len(found.dropped)} photos are left out: {examples(found.dropped)}")
    looked_at = photos[:: max(1, len(photos) // LOOKED_AT)]
    values = np.array([background_sharpness(reduced(photo)) for photo in looked_at])
    told = values[np.isfinite(values)]
    if len(told) < len(values) / 2:
        lines.append("most backgrounds are too plain to tell whether they are sharp")
    elif np.mean(told < SHARP) < FEW:
        lines.append("hardly any background is blurred: add photos that were taken wide open")
    elif np.mean(told >= SHARP) < FEW:
        lines.append("hardly any background is sharp: add photos that were stopped down")
    return lines


def reduced(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[3, S, S] to TOLD_AT px by area, where it is larger."""
    factor = max(1, photo.shape[-1] // TOLD_AT)
    side = photo.shape[-1] // factor
    blocks = photo.reshape(3, side, factor, side, factor)
    return (blocks.mean(axis=(2, 4)) + 0.5).astype(np.uint8)


def make_plan(
    asked: dict[str, Any],
    photos: dict[str, Any],
    gan: ArGanConfig,
    student: ArGanDrConfig,
    second: ArGanDrConfig,
    advice: list[str],
    images: torch.Tensor,
) -> Plan:
    """How long it will take on this machine; --minutes scales the steps of all alike."""
    device = images.device
    teacher = make_generator(gan).to(device).eval().requires_grad_(False)
    teachers = [(teacher, gan)]
    of_gan = step_seconds(ArGan(gan, images, device))
    of_student, of_second = (step_seconds(ArGanDr(c, teachers, device)) for c in (student, second))
    if asked["minutes"] is not None:
        whole = of_gan * gan.steps + of_student * student.steps + of_second * second.steps
        scale = 60 * asked["minutes"] / whole
        gan = replace(gan, steps=max(1, round(scale * gan.steps)))
        student = replace(student, steps=max(1, round(scale * student.steps)))
        second = replace(second, steps=max(1, round(scale * second.steps)))
    seconds = {
        GAN: of_gan * gan.steps,
        STUDENT: of_student * student.steps,
        SECOND: of_second * second.steps,
    }
    return Plan(asked, photos, gan, student, second, seconds, advice)


def step_seconds(method: loop.Method) -> float:
    """Of a method that is then thrown away: what trains begins anew from its seed."""
    for step in WARM_UP:
        method.step(step)
    start = time.monotonic()
    for step in TIMED:
        logged = method.step(step)
        float(next(iter(logged.values())))  # waits for a GPU
    return (time.monotonic() - start) / len(TIMED)


@torch.no_grad()
def measure_lens(generator: Generator, config: ArGanConfig) -> Lens:
    """The blur radius of a pixel is |s D|, s being the strength of the lens in that photograph.

    The student's disparity is d = D / limit + 1, `limit` being `max_blur` of the width, so a lens
    of strength s blurs one unit of d to a radius K = s max_blur of the width. The typical s, the
    median of photographs that are not sharp by design, makes the bundle's default. A bundle says
    it as an f-number, which depth that is not metric lends its meaning by convention alone
    (`optics.blur_of_f_number`, K = K(f/1) / N): N = K(f/1) / K, and refocusing with the bundle's
    default then blurs as much as the photographs that it learnt from.
    """
    device = next(generator.parameters()).device
    rng = loop.seeded(config.seed, 1 << 31, device)
    maps, strengths = [], []
    for _ in range(DRAWN // BATCH):
        z = torch.randn(BATCH, config.latent, generator=rng, device=device)
        s = lens_strength(config, BATCH, rng)
        maps.append((generator(z)[1][:, 0] * s[:, None, None]).cpu().numpy())
        strengths.append(s.cpu().numpy())
    blur, s = np.concatenate(maps), np.concatenate(strengths)
    blurred = np.abs(blur) >= OUT_OF_FOCUS_PX
    shallow = blurred.mean(axis=(1, 2)) >= OUT_OF_FOCUS_SHARE
    some = bool(shallow.any())
    radii = np.abs(blur)[shallow][blurred[shallow]] / config.size
    deciles = range(10, 100, 10) if some else ()
    strength = config.max_blur * float(np.median(s[s > 0]))
    return Lens(
        shallow_share=float(shallow.mean()),
        background_share=float((blurred & (blur < 0))[shallow].mean()) if some else 0.0,
        foreground_share=float((blurred & (blur > 0))[shallow].mean()) if some else 0.0,
        blur_percent={str(p): round(100 * float(np.percentile(radii, p)), 3) for p in deciles},
        strength_percent=100 * strength,
        f_number=float(f"{optics.blur_of_f_number(1, config.size) / (strength * config.size):.3g}"),
        settings={"mixture": config.mixture, "pupil": config.pupil, "views": config.views},
    )


def write_bundle(export: Callable[[list[str]], int], run: Path, output: Path, lens: Lens) -> None:
    """What `argan export` makes of the run, with the look's strength as its default."""
    with tempfile.TemporaryDirectory(dir=run.parent) as folder:
        path = Path(folder) / output.name
        said = io.StringIO()  # it has a line of its own to say
        with contextlib.redirect_stdout(said):
            code = export([str(run), "-o", str(path)])
        if code:
            raise InputError(f"argan export {run} failed: mend it and --resume")
        content = bundle.read(path)
    look = ["", "## The look", "", *(f"- {line}" for line in lens.lines()), ""]
    card = content.files["CARD.md"].decode() + "\n".join(look)
    manifest = content.manifest | {
        "optics": content.manifest["optics"] | {"f_number": lens.f_number},
        "look": asdict(lens),
    }
    bundle.write(output, manifest, {**content.files, "CARD.md": card.encode()})


def report(output: Path, folder: Path, plan: Plan, lens: Lens) -> None:
    """NAME.json, the run's summary.html, and a few lines."""
    trainings = {
        name: checkpoint.read_json(folder / name / "config.json") for name in trained(folder)
    }
    figures = {
        "bundle": output.name,
        "photos": plan.photos,
        "advice": plan.advice,
        "lens": asdict(lens),
        "trainings": {
            name: {"steps": about["steps"], "seconds": about["seconds"], "device": about["device"]}
            for name, about in trainings.items()
        },
    }
    described = output.with_suffix(".json")
    write_atomic(described, (json.dumps(figures, indent=1) + "\n").encode())
    page = folder / "summary.html"
    write_atomic(page, render(output.stem, folder, plan, lens).encode())
    print("\n".join([*plan.advice, *lens.lines(), str(output), str(described), str(page)]))
    sys.stdout.flush()


def render(name: str, folder: Path, plan: Plan, lens: Lens) -> str:
    """The page: the lens, and the last picture of each training."""
    title = f"{html.escape(name)}: a look"
    parts = [f"<p>{html.escape(line)}</p>" for line in (*plan.advice, *lens.lines())]
    parts.append(summary.table({"photos": plan.photos["photos"]} | asdict(lens)))
    for run in trained(folder):
        last = max((folder / run / "samples").glob("*.png")).read_bytes()
        data = base64.b64encode(last).decode()
        parts.append(f'<h2><a href="{run}/summary.html">{run}</a></h2>')
        parts.append(f'<p><img src="data:image/png;base64,{data}" alt="{run}"></p>')
    body = "\n".join(parts)
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>{summary.STYLE}</style><h1>{title}</h1>
{body}
</html>
"""
