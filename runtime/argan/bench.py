"""How fast, how large, how exact is each variant of a model on this machine?

Every measurement is a process of its own (`python -m argan.bench`): it loads one variant, warms up
and times single inferences. That is repeated in rounds, each in the other order, so that a drift of
the machine favours none; the figures are medians over the rounds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

import argan
from argan import backends, bundle, chart, metrics, photo
from argan.adapter import read_model
from argan.backends import Backend, Tensors
from argan.bundle import Bundle, Variant
from argan.errors import BundleError, Error, InputError
from argan.refocus import find_model, network_image

if TYPE_CHECKING:
    from rich.table import Table

ROUNDS = 3
RUNS = 30
WARM_UP = 3  # runs
SAME_DB = 160.0  # where the plot ends: float32 has no more
FOCUS = 0.8  # of the refocus graph; its blur is half of what it can do
PACKAGES = {
    "onnx": ("onnxruntime",),
    "tflite": ("ai-edge-litert", "tflite-runtime", "tensorflow"),
    "coreml": ("coremltools",),
    "torch": ("torch",),
}


@dataclass(frozen=True)
class Timing:
    """Wall time of an inference in ms, and its mean CPU time over all threads."""

    p50_ms: float
    p95_ms: float
    cpu_ms: float


@dataclass(frozen=True)
class Row:
    """A variant, measured."""

    name: str
    graph: str
    format: str
    precision: str
    size: tuple[int, int]  # height, width
    file_bytes: int | None
    load_ms: float  # a bundle of this variant alone
    peak_mib: float | None  # high-water mark of the whole process; None: the system doesn't tell
    base_mib: float | None  # the same before anything was loaded
    timings: dict[int, Timing]  # by threads
    parity: dict[str, dict[str, float]]  # by output: psnr_db, max_abs


@dataclass(frozen=True)
class Report:
    """`reference`: by graph, the row that parity is against. `failed`: by row, why."""

    model: str
    picture: str
    reference: dict[str, str]
    rows: list[Row]
    not_run: dict[str, str]
    failed: dict[str, str]
    rounds: int
    runs: int
    machine: dict[str, Any]
    versions: dict[str, str]

    def json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


@dataclass(frozen=True)
class Case:
    """What a process loads, and the file with what it runs on."""

    name: str
    graph: str
    format: str  # "torch" for a run
    precision: str
    path: Path  # a bundle of one variant, a description of a model of one's own, or a run
    file_bytes: int | None
    inputs: Path


def bench(
    model: str | os.PathLike[str] | None = None,
    *,
    picture: str | os.PathLike[str] | None = None,
    size: int | None = None,
    thread_counts: Sequence[int] = (1, 2),
    runs: int = RUNS,
    rounds: int | None = None,
    against: str | os.PathLike[str] | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Measure every variant whose format can run here.

    picture  a photo; None: a seeded pattern
    size     side in px of the square that the networks get; None: what they would get of the photo.
             A variant of fixed sizes gets the nearest of them
    runs     inferences per process, of which there are `rounds` per variant and number of threads
    rounds   None: ROUNDS
    against  a training run, measured in PyTorch too and the reference of the disparity graph.
             Other references are the most exact variants, ONNX first
    tell     is told how many of all processes are done

    What can't run here is listed in the report; what fails while it runs too.
    """
    path, rounds = find_model(model), rounds or ROUNDS
    content = read_model(path)
    pixels = _pixels(picture, size, content)
    if size:
        square = dataclasses.replace(content.image, nominal=size)
        content = dataclasses.replace(content, image=square)
    not_run = {v.name: why for v in content.variants if (why := backends.missing(v.format))}
    here = [v for v in content.variants if v.name not in not_run]
    if not here:
        raise InputError(f"nothing of {path} can run here: {'; '.join(set(not_run.values()))}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = [_case(content, variant, path, pixels, folder) for variant in here]
        reference = {case.graph: case for case in sorted(cases, key=_exactness, reverse=True)}
        if against is not None:
            any_size = reference.get("disparity") or cases[0]
            run = Case("torch", "disparity", "torch", "fp32", Path(against), None, any_size.inputs)
            cases.append(run)
            reference["disparity"] = run
        answers, failed = _measure(cases, thread_counts, runs, rounds, folder, tell)
        rows = [
            _row(case, answers[case.name], _parity(case, reference[case.graph], content, folder))
            for case in cases
            if case.name not in failed
        ]
    return Report(
        model=os.fspath(path),
        picture=os.fspath(picture) if picture else "seeded pattern",
        reference={g: case.name for g, case in reference.items() if case.name not in failed},
        rows=rows, not_run=not_run, failed=failed, rounds=rounds, runs=runs,
        machine=machine(), versions=versions({case.format for case in cases}),
    )  # fmt: skip


def table(report: Report) -> Table:
    """For a terminal."""
    from rich.table import Table  # only here: the measuring processes stay small

    made = Table(title=f"{report.model}, {report.picture}", box=None, padding=(0, 2, 0, 0))
    counts = sorted({n for row in report.rows for n in row.timings}) or [1]
    made.add_column("variant", no_wrap=True)
    made.add_column("input", no_wrap=True)
    for heading in (
        *(f"p50/p95 ms\n{threads(n)}" for n in counts), f"CPU ms\n{threads(counts[0])}",
        "peak\nMiB", "file\nkB", "parity\ndB",
    ):  # fmt: skip
        made.add_column(heading, justify="right", no_wrap=True)
    for row in report.rows:
        gaps = [f"{gap['psnr_db']:.1f}" for gap in row.parity.values()]
        made.add_row(
            row.name,
            f"{row.size[0]}x{row.size[1]}",
            *(f"{t.p50_ms:.1f}/{t.p95_ms:.1f}" for t in (row.timings[n] for n in counts)),
            f"{row.timings[counts[0]].cpu_ms:.1f}",
            "-" if row.peak_mib is None else f"{row.peak_mib:.0f}",
            "-" if row.file_bytes is None else f"{row.file_bytes / 1000:.0f}",
            min(gaps, key=float, default="-" if row.name not in report.reference.values() else "="),
        )
    return made


def plot(report: Report) -> bytes:
    """PNG: latency, memory, size and parity, one under the other."""
    latency = {
        row.name: [chart.Bar(threads(n), t.p50_ms, t.p95_ms) for n, t in row.timings.items()]
        for row in report.rows
    }
    memory = {row.name: [chart.Bar("", row.peak_mib)] for row in report.rows if row.peak_mib}
    sizes = {
        row.name: [chart.Bar("", row.file_bytes / 1000)] for row in report.rows if row.file_bytes
    }
    parity = {
        row.name: [chart.Bar("", min(SAME_DB, *(gap["psnr_db"] for gap in row.parity.values())))]
        for row in report.rows
        if row.parity
    }
    return chart.bars({
        "latency, ms (bar: p50, line: p95)": latency,
        "peak memory of the process, MiB": memory,
        "file, kB": sizes,
        f"parity with {', '.join(report.reference.values())}, dB ({SAME_DB:.0f}: the same)": parity,
    })  # fmt: skip


def threads(n: int) -> str:
    return f"{n} thread{'s' if n > 1 else ''}"


def pattern(side: int) -> NDArray[np.uint8]:
    """A seeded picture [side, side, 3], sRGB: smooth parts, edges and grain."""
    rng = np.random.default_rng(0)
    coarse = rng.random((6, 6, 3), dtype=np.float32)
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    blocks = cv2.resize(coarse[:, ::-1], (side, side), interpolation=cv2.INTER_NEAREST)
    grain = rng.standard_normal((side, side, 3), dtype=np.float32) * 0.02
    mixed = np.asarray(0.6 * smooth + 0.4 * blocks + grain)
    return (np.clip(mixed, 0, 1) * 255).round().astype(np.uint8)


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    name, about = platform.processor(), Path("/proc/cpuinfo")
    if about.exists():
        models = re.findall(r"^(?:model name|Model)\s*:\s*(.+)$", about.read_text(), re.MULTILINE)
        name = models[0] if models else name
    return {
        "system": platform.platform(terse=True),
        "architecture": platform.machine(),
        "cpu": name,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def versions(formats: set[str]) -> dict[str, str]:
    found = {"python": platform.python_version(), "argan": argan.__version__}
    for package in [package for format in sorted(formats) for package in PACKAGES[format]]:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _exactness(case: Case) -> tuple[int, int]:
    """Ascending: the most exact first, ONNX before the others."""
    return bundle.PRECISIONS.index(case.precision), list(bundle.FORMATS).index(case.format)


def _pixels(
    picture: str | os.PathLike[str] | None, size: int | None, content: Bundle
) -> NDArray[Any]:
    if picture is None:
        return pattern(size or content.image.nominal)
    pixels = photo.load(picture).pixels
    return cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA) if size else pixels


def _case(
    content: Bundle, variant: Variant, path: Path, pixels: NDArray[Any], folder: Path
) -> Case:
    """Write what its process reads: a bundle of this variant alone, and the inputs."""
    image = network_image(pixels, content.image, variant.sizes)
    given: Tensors = {"image": image}
    if variant.graph == "refocus":
        blur = content.manifest["refocus"]["max_blur"] * image.shape[3] / 2
        given |= {name: np.full(1, v, np.float32) for name, v in (("focus", FOCUS), ("blur", blur))}
    inputs = folder / f"{variant.graph}-{image.shape[2]}x{image.shape[3]}.npz"
    np.savez(inputs, **given)  # type: ignore[arg-type]
    files = {
        name: data
        for name, data in content.files.items()
        if name == variant.file or name.startswith(f"{variant.file}/")
    }
    if not content.adapter:
        path = folder / f"{content.variants.index(variant)}.argan"
        alone = {variant.name: content.manifest["variants"][variant.name]}
        refocus = content.manifest["refocus"] if variant.graph == "refocus" else None
        bundle.write(path, content.manifest | {"variants": alone, "refocus": refocus}, files)
    return Case(
        variant.name, variant.graph, variant.format, variant.precision, path,
        sum(map(len, files.values())), inputs,
    )  # fmt: skip


def _measure(
    cases: list[Case],
    threads: Sequence[int],
    runs: int,
    rounds: int,
    folder: Path,
    tell: Callable[[int, int], None],
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """-> each case's answers, and why a case failed."""
    answers: dict[str, list[dict[str, Any]]] = {case.name: [] for case in cases}
    failed: dict[str, str] = {}
    jobs = [(case, n) for case in cases for n in threads]
    for i in range(rounds):
        for j, (case, n) in enumerate(jobs if i % 2 == 0 else reversed(jobs)):
            tell(i * len(jobs) + j, rounds * len(jobs))
            if case.name in failed:
                continue
            try:
                answers[case.name].append(_process(case, _outputs(case, folder), n, runs))
            except BundleError as error:
                failed[case.name] = str(error)
    tell(rounds * len(jobs), rounds * len(jobs))
    return answers, failed


def _outputs(case: Case, folder: Path) -> Path:
    return folder / f"{case.format}-{case.path.stem}-of-{case.inputs.name}"


def _process(case: Case, outputs: Path, threads: int, runs: int) -> dict[str, Any]:
    """Have a fresh process measure a case. BundleError where it fails."""
    request = {
        "path": os.fspath(case.path), "format": case.format, "inputs": os.fspath(case.inputs),
        "outputs": os.fspath(outputs), "threads": threads, "runs": runs,
    }  # fmt: skip
    command = [sys.executable, "-m", "argan.bench", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = done.stderr.strip().splitlines()
        why = said[-1] if said else f"its process ended with {done.returncode}"
        raise BundleError(why.removeprefix("argan: "))
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"threads": threads} | answer


def _row(case: Case, answers: list[dict[str, Any]], parity: dict[str, dict[str, float]]) -> Row:
    def middle(name: str, among: list[dict[str, Any]] = answers) -> float | None:
        values = [answer[name] for answer in among if answer[name] is not None]
        return round(median(values), 3) if values else None

    timings = {}
    for n in sorted({answer["threads"] for answer in answers}):
        these = [answer for answer in answers if answer["threads"] == n]
        timings[n] = Timing(*(middle(k, these) or 0.0 for k in ("p50_ms", "p95_ms", "cpu_ms")))
    with np.load(case.inputs) as given:
        height, width = given["image"].shape[2:]
    return Row(
        case.name, case.graph, case.format, case.precision, (height, width), case.file_bytes,
        middle("load_ms") or 0.0, middle("peak_mib"), middle("base_mib"), timings, parity,
    )  # fmt: skip


def _parity(
    case: Case, reference: Case, content: Bundle, folder: Path
) -> dict[str, dict[str, float]]:
    """Each output against the reference's on the same input. PSNR is of the output's range: of the
    bundle for a disparity, 1 for a picture. Empty where the reference can't take this size."""
    if case is reference:
        return {}
    same = dataclasses.replace(reference, inputs=case.inputs)
    expected = _outputs(same, folder)
    try:
        if not expected.exists():  # the reference was measured at another size
            _process(same, expected, threads=1, runs=0)
    except BundleError:
        return {}
    gaps = {}
    span = content.disparity.hi - content.disparity.lo if case.graph == "disparity" else 1.0
    with np.load(_outputs(case, folder)) as got, np.load(expected) as wanted:
        for name in set(got) & set(wanted):
            peak = span if name == "disparity" else 1.0
            gaps[name] = {
                "psnr_db": round(metrics.psnr(got[name], wanted[name], peak), 1),
                "max_abs": float(f"{np.abs(got[name] - wanted[name]).max():.3g}"),
            }
    return gaps


# ---------------------------------------------------------------- the process


def measure(request: dict[str, Any]) -> dict[str, float | None]:
    """Load, run once and keep the answer, warm up, time."""
    base = high_water_mib()
    with np.load(request["inputs"]) as file:
        inputs = dict(file)
    start = time.perf_counter()
    backend = _open(Path(request["path"]), request["format"], request["threads"])
    load_ms = (time.perf_counter() - start) * 1000
    np.savez(request["outputs"], **backend.run(inputs))  # type: ignore[arg-type]
    for _ in range(WARM_UP if request["runs"] else 0):
        backend.run(inputs)
    wall, cpu = [], time.process_time()
    for _ in range(request["runs"]):
        start = time.perf_counter()
        backend.run(inputs)
        wall.append((time.perf_counter() - start) * 1000)
    cpu = time.process_time() - cpu
    timed: dict[str, float | None] = {}
    if wall:
        p50, p95 = np.percentile(wall, (50, 95))
        timed = {"p50_ms": float(p50), "p95_ms": float(p95), "cpu_ms": cpu * 1000 / len(wall)}
    return timed | {"load_ms": load_ms, "peak_mib": high_water_mib(), "base_mib": base}


def _open(path: Path, format: str, threads: int) -> Backend:
    if format == "torch":
        return backends.open_run(path, threads).backend
    content = read_model(path)
    return backends.open_variant(content, content.variants[0], threads=threads)


def high_water_mib() -> float | None:
    """The most memory that this process has held so far; None: the system doesn't tell."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage on Linux begins with what the parent had
        lines = status.read_text().splitlines()
        return next(int(n.split()[1]) / 1024 for n in lines if n.startswith("VmHWM"))
    try:
        import resource
    except ImportError:
        return None
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    try:
        print(json.dumps(measure(json.loads(sys.argv[1]))))
    except Error as error:
        sys.exit(f"argan: {error}")
