"""Does every variant of a bundle still compute what PyTorch computed? The gate of `argan verify`.

The judge is golden.npz, PyTorch's own answers; then, on photos, the most exact variant that passed
it. What misses its limit is diagnosed by name, see `argan.verify.diagnose`. Needs neither torch nor
the packages that exported; a variant whose format can't run here is listed as not checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from argan import golden, metrics
from argan.bench import bench
from argan.bundle import FORMATS, PRECISIONS, Bundle, Variant
from argan.errors import Error
from argan.golden import Example
from argan.refocus import Refocuser, network_size
from argan.scenes import Scene
from argan.verify import diagnose, file, photos
from argan.verify.result import MIN_PSNR, Check, Fault, Limits, Report, Result
from argan.verify.subject import Subject, size, unit

__all__ = ["Check", "Fault", "Limits", "Report", "Result", "speeds", "verify"]

RUNS = 20  # of each variant, for its latency
AGREE_DB = 35.0  # two variants that give one map


def verify(
    content: Bundle,
    limits: Limits | None = None,
    scenes: Iterable[Scene] = (),
    against: Refocuser | None = None,
    threads: int | None = None,
) -> Report:
    """Check every variant that can run here, on golden.npz and on photos.

    against  the network in PyTorch: judges in place of golden.npz, and judges golden.npz
    threads  None: every core

    BundleError for a golden.npz that is not what it should be.
    """
    limits = limits or Limits()
    examples = golden.read(content)
    checks = []
    if against is not None and "disparity" in examples:
        answered = _answered(content, examples["disparity"], against)
        checks.append(_golden_check(content, examples["disparity"], answered))
        examples["disparity"] = answered
    subjects = [
        Subject(content, variant, threads, Result(variant, size(content, variant)))
        for variant in content.variants
    ]
    for subject in subjects:
        subject.open()
    running = [subject for subject in subjects if subject.backend is not None]
    if not examples:
        nothing = "there is none: nothing says what PyTorch computed"
        checks.append(Check("golden.npz", content.adapter is not None, nothing))
        examples = _first_answer(running)
    references = _on_golden(running, examples, limits)
    for subject in running:
        reference = references.get(subject.variant.graph)
        missed = subject.result.pictures and not subject.result.passed
        file.inspect(subject, reference, running)
        if missed and all(fault.name != diagnose.LAYER for fault in subject.result.faults):
            fault = _diagnosis(subject, reference, _ally(subject, running), limits)
            subject.result.faults.insert(0, fault)
    report = Report(
        content, [s.result for s in subjects], checks + _required(subjects, limits.require),
        {graph: reference.variant.name for graph, reference in references.items()},
    )  # fmt: skip
    judge = _judge(content, references.get("disparity"), against)
    if judge is not None:
        if against is not None:
            report.reference["disparity"] = "PyTorch"
        maps = [s for s in running if s.variant.graph == "disparity" and s.result.pictures]
        report.photos = photos.compare(maps, judge, scenes, limits)
    return report


def speeds(path: Path, report: Report) -> None:
    """Adds latency and memory of what passed, each in a process of its own."""
    results = {r.variant.name: r for r in report.results if r.passed and not r.not_checked}
    try:
        measured = bench(path, thread_counts=(1,), runs=RUNS, rounds=1).rows
    except Error:  # nothing that bench can run here: the figures stay empty
        return
    for row in measured:
        if row.name in results:
            speed = {"p50_ms": row.timings[1].p50_ms, "p95_ms": row.timings[1].p95_ms}
            peak = {} if row.peak_mib is None else {"peak_mib": row.peak_mib}
            results[row.name].speed = speed | peak


# ---- what is right


def _answered(content: Bundle, example: Example, against: Refocuser) -> Example:
    """The example with PyTorch's own answer, in the bundle's units."""
    lo, hi = np.float32(content.disparity.lo), np.float32(content.disparity.hi)
    answer = unit(against.backend.run(example.inputs)["disparity"], against.model, "disparity")
    return Example(example.inputs, {"disparity": answer * (hi - lo) + lo})


def _golden_check(content: Bundle, stored: Example, answered: Example) -> Check:
    a, b = (unit(e.outputs["disparity"], content, "disparity") for e in (stored, answered))
    decibels, least = metrics.psnr(a, b), MIN_PSNR["fp32"]
    said = "" if decibels >= least else f", {diagnose.OTHER_GOLDEN}"
    return Check("golden.npz", decibels >= least, f"{decibels:.1f} dB{said}", f">= {least:g} dB")


def _first_answer(running: Sequence[Subject]) -> dict[str, Example]:
    """Where nothing is known, what the most exact variant makes of a seeded picture."""
    for subject in running:
        if subject.variant.graph == "disparity" and subject.backend is not None:
            port = subject.content.image
            side = network_size(port.nominal, port.nominal, port, subject.variant.sizes)
            grid = np.random.default_rng(0).random((6, 6, 3), np.float32)
            pixels = cv2.resize(grid, side[::-1], interpolation=cv2.INTER_LINEAR)
            inputs = {"image": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}
            try:
                return {"disparity": Example(inputs, subject.backend.run(inputs))}
            except Error:  # found again, and reported, when its turn comes
                continue
    return {}


def _judge(
    content: Bundle, reference: Subject | None, against: Refocuser | None
) -> photos.Judge | None:
    if against is not None:
        return photos.Judge(against.model, against.backend)
    if reference is None or reference.backend is None:
        return None
    return photos.Judge(content, reference.backend, reference.variant.sizes)


# ---- on golden.npz


def _on_golden(
    running: Sequence[Subject], examples: Mapping[str, Example], limits: Limits
) -> dict[str, Subject]:
    """Runs every variant on its graph's example -> {graph: the most exact that is right}."""
    references: dict[str, Subject] = {}
    for subject in sorted(running, key=lambda s: _rank(s.variant, examples)):
        graph = subject.variant.graph
        example = examples.get(graph)
        if example is not None and not _takes(subject.variant, examples):
            example = _resized(subject, example, references.get(graph))
        if example is None:
            said = "it has no example of this graph, or of a size that the variant takes"
            subject.result.checks.append(Check("golden.npz", False, said))
            continue
        subject.example = example
        _measure(subject, example, limits.min_psnr[subject.variant.precision])
        if subject.result.passed:
            references.setdefault(graph, subject)
    return references


def _rank(variant: Variant, examples: Mapping[str, Example]) -> tuple[bool, int, int]:
    """The most exact first, of these ONNX. Before them those that take the example's size: the
    others need one to say what is right at theirs."""
    precision, format = PRECISIONS.index(variant.precision), list(FORMATS).index(variant.format)
    return not _takes(variant, examples), precision, format


def _takes(variant: Variant, examples: Mapping[str, Example]) -> bool:
    example = examples.get(variant.graph)
    sizes = variant.sizes
    return example is None or sizes is None or example.inputs["image"].shape[2:] in sizes


def _resized(subject: Subject, example: Example, reference: Subject | None) -> Example | None:
    """The example at a size that the variant takes, answered by the reference."""
    if reference is None or reference.backend is None:
        return None
    image = example.inputs["image"]
    height, width = image.shape[2:]
    side = network_size(height, width, subject.content.image, subject.variant.sizes)
    planes = [cv2.resize(p, side[::-1], interpolation=cv2.INTER_LINEAR) for p in image[0]]
    inputs = {**example.inputs, "image": np.stack(planes)[None]}
    try:
        return Example(inputs, reference.backend.run(inputs))
    except Error:  # a reference of fixed sizes as well
        return None


def _measure(subject: Subject, example: Example, least: float) -> None:
    result = subject.result
    assert subject.backend is not None
    try:
        answers = subject.backend.run(example.inputs)
    except Error as error:
        result.faults.append(Fault("does not run", str(error)))
        return
    result.pictures["image"] = example.inputs["image"]
    for name, expected in example.outputs.items():
        got, word = answers[name], "" if name == "disparity" else f" {name}"
        if name == "disparity":
            graph = subject.variant.graph
            got, expected = (unit(x, subject.content, graph) for x in (got, expected))
        result.pictures |= {f"expected{word}": expected, f"got{word}": got}
        seen = diagnose.appearance(got, expected)
        decibels = -math.inf
        if seen is None:
            result.golden[name] = photos.gap(got, expected)
            decibels = result.golden[name]["psnr_db"]
        result.checks.append(Check(
            f"{name} on golden.npz", decibels >= least,
            seen.detail if seen else f"{decibels:.1f} dB", f">= {least:g} dB",
        ))  # fmt: skip


def _diagnosis(
    subject: Subject, reference: Subject | None, ally: str, limits: Limits
) -> Fault:
    """Why a variant that ran misses its limit on golden.npz."""
    pictures, variant = subject.result.pictures, subject.variant
    least = limits.min_psnr[variant.precision]
    if subject.result.golden.get("disparity", {}).get("psnr_db", -math.inf) >= least:
        return diagnose.bokeh(
            pictures["image"], pictures["got bokeh"], pictures["expected bokeh"]
        )
    return diagnose.diagnose(diagnose.Suspect(
        run=subject.run,
        image=pictures["image"],
        got=pictures["got"],
        expected=pictures["expected"],
        limit=least,
        precision=variant.precision,
        reference=None if reference is None else reference.run,
        likeness=subject.result.likeness,
        ally=ally,
        file=b"" if variant.format == "coreml" else subject.content.model(variant),
        format=variant.format,
        reload=subject.reload,
    ))  # fmt: skip


def _ally(subject: Subject, running: Sequence[Subject]) -> str:
    """A variant in another file that gives what this one gives, where golden.npz differs from
    both: "120.0 dB to NAME", or ""."""
    got = subject.result.pictures["got"]
    apart = subject.result.golden.get("disparity", {}).get("psnr_db")
    for other in running:
        theirs = other.result.pictures.get("got")
        if apart is None or theirs is None or theirs.shape != got.shape:
            continue
        together = metrics.psnr(got, theirs)
        if (
            (other.variant.graph, other.result.passed) == (subject.variant.graph, False)
            and other.variant.file != subject.variant.file
            and together >= max(AGREE_DB, apart + diagnose.GAIN_DB)
        ):
            return f"{together:.1f} dB to {other.variant.name}"
    return ""


def _required(subjects: Sequence[Subject], require: Sequence[str]) -> list[Check]:
    checks = []
    for name in require:
        meant = [s for s in subjects if name in ("all", s.variant.name, s.variant.format)]
        absent = [s.variant.name for s in meant if s.result.not_checked]
        said = f"not checked: {', '.join(absent)}" if absent else "the bundle has none"
        passed = bool(meant) and not absent
        checks.append(Check(f"required: {name}", passed, "checked" if passed else said))
    return checks
