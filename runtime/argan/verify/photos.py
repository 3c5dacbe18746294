"""Variants on photos, beside the reference: maps, photos rendered with them, and the truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from argan import metrics
from argan.backends import Backend
from argan.bundle import Bundle
from argan.controls import auto_focus
from argan.errors import Error
from argan.optics import blur_of_f_number
from argan.refocus import Refocuser, network_size, render
from argan.scenes import Scene
from argan.verify.result import Array, Check, Fault, Limits, Photo
from argan.verify.subject import Subject

LONGEST_PX = 512  # side of a photo without truth while it is compared
METRICS = ("delta1", "abs_rel")


@dataclass(frozen=True)
class Judge:
    """What is right: a variant, or the network in PyTorch. `sizes`: the only ones that it takes."""

    content: Bundle
    backend: Backend
    sizes: tuple[tuple[int, int], ...] | None = None

    def depth(self, scene: Scene, size: tuple[int, int]) -> Array:
        """Its disparity of a photo, seen at `size` if it can."""
        if self.sizes is not None and size not in self.sizes:
            return Refocuser(self.content, self.backend, sizes=self.sizes).depth(scene.pixels)
        port = dataclasses.replace(self.content.image, height=size[0], width=size[1])
        fixed = dataclasses.replace(self.content, image=port)
        return Refocuser(fixed, self.backend).depth(scene.pixels)


@dataclass(frozen=True)
class Answer:
    """disparity [H, W], the photo rendered with it [H, W, 3], and its scores against the truth."""

    disparity: Array
    bokeh: Array
    scores: Mapping[str, float]


def compare(
    subjects: Sequence[Subject], judge: Judge, scenes: Iterable[Scene], limits: Limits
) -> tuple[int, int]:
    """Adds to the subjects' results -> how many photos there were, how many with truth."""
    rows: dict[str, list[dict[str, float]]] = {s.variant.name: [] for s in subjects}
    photos = truths = 0
    for scene in map(_shrunk, scenes):
        photos, truths = photos + 1, truths + (scene.truth is not None)
        right: dict[tuple[int, int], tuple[Answer, float]] = {}
        for subject in subjects:
            height, width = scene.pixels.shape[:2]
            size = network_size(height, width, judge.content.image, subject.variant.sizes)
            if size not in right:
                disparity = judge.depth(scene, size)
                focus = auto_focus(disparity)
                right[size] = _answer(judge.content, scene, disparity, focus), focus
            row = _row(subject, judge, scene, *right[size])
            if row:
                rows[subject.variant.name].append(row)
    for subject in subjects:
        if rows[subject.variant.name]:
            _judge(subject, rows[subject.variant.name], limits)
    return photos, truths


def _shrunk(scene: Scene) -> Scene:
    height, width = scene.pixels.shape[:2]
    share = LONGEST_PX / max(height, width)
    if scene.truth is not None or share >= 1:
        return scene
    size = max(1, round(width * share)), max(1, round(height * share))
    pixels = cv2.resize(scene.pixels, size, interpolation=cv2.INTER_AREA)
    return dataclasses.replace(scene, pixels=pixels)


def _answer(content: Bundle, scene: Scene, disparity: Array, focus: float) -> Answer:
    levels = np.float32(np.iinfo(scene.pixels.dtype).max)
    blur = blur_of_f_number(content.f_number, scene.pixels.shape[1])
    bokeh = render(scene.pixels / levels, disparity, focus=focus, blur=blur)
    scores: dict[str, float] = {}
    if scene.truth is not None:
        truth = scene.truth
        scores = metrics.depth_scores(disparity, truth.disparity, truth.valid, truth.ratios)
    return Answer(disparity, bokeh, scores)


def _row(
    subject: Subject, judge: Judge, scene: Scene, right: Answer, focus: float
) -> dict[str, float]:
    """What one photo gives; empty where the variant can't run on it."""
    assert subject.backend is not None
    refocuser = Refocuser(
        subject.content, subject.backend, subject.threads, subject.variant.sizes
    )
    try:
        itself = subject.backend is judge.backend
        got = right if itself else _answer(
            subject.content, scene, refocuser.depth(scene.pixels), focus
        )
    except Error as error:
        subject.result.faults.append(Fault("does not run", f"on {scene.name}: {error}"))
        return {}
    measured = gap(got.disparity, right.disparity)
    worst = subject.result.worst
    if not itself and (worst is None or measured["psnr_db"] < worst.psnr_db):
        subject.result.worst = Photo(
            scene.name, measured["psnr_db"], scene.pixels, right.disparity, got.disparity, got.bokeh
        )
    return {
        **measured,
        "bokeh_psnr_db": metrics.psnr(got.bokeh, right.bokeh),
        **{name: got.scores[name] for name in METRICS if name in got.scores},
        **{f"reference {name}": right.scores[name] for name in METRICS if name in right.scores},
    }


def gap(got: Array, expected: Array) -> dict[str, float]:
    """Between two maps of the same shape."""
    return {
        "psnr_db": metrics.psnr(got, expected),
        "snr_db": metrics.snr(got, expected),
        "max_abs": float(np.abs(got - expected).max()),
        "spearman": metrics.spearman(got.ravel(), expected.ravel()),
    }


def _judge(subject: Subject, rows: Sequence[Mapping[str, float]], limits: Limits) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    means = {n: float(np.mean([row[n] for row in rows if n in row])) for n in names}
    means["max_abs"] = max(row["max_abs"] for row in rows)
    means["worst_db"] = min(row["psnr_db"] for row in rows)
    if "delta1" in means:
        means["delta1 lost"] = means["reference delta1"] - means["delta1"]
        means["abs_rel lost"] = means["abs_rel"] / means["reference abs_rel"] - 1
    subject.result.photos = means
    decibels, least = means["bokeh_psnr_db"], limits.min_bokeh_psnr
    subject.result.checks.append(
        Check("bokeh of photos", decibels >= least, f"{decibels:.1f} dB", f">= {least:g} dB")
    )
    for name, most in limits.max_drop.items():
        lost = means.get(f"{name} lost")
        if lost is not None:
            subject.result.checks.append(
                Check(f"{name} lost", lost <= most, f"{lost:.4f}", f"<= {most:g}")
            )
