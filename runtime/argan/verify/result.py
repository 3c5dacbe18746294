"""What `verify` finds, and what it lets through."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from argan.bundle import Bundle, Variant

Array = NDArray[np.float32]

# dB of the disparity against PyTorch, peak hi - lo; of a bokeh, peak 1.
MIN_PSNR = {
    "fp32": 110.0, "fp16": 55.0, "int8-weights": 40.0, "int8": 40.0, "int8-io": 40.0,
    "palette6": 35.0,
}  # fmt: skip
MIN_BOKEH_PSNR = 35.0  # of a photo rendered with the variant's disparity
MAX_DROP = {"delta1": 0.01, "abs_rel": 0.02}  # delta1 in its own units, AbsRel relative


@dataclass(frozen=True)
class Limits:
    """min_psnr is by precision; require: "all", formats or variants that have to be checked."""

    min_psnr: Mapping[str, float] = field(default_factory=lambda: MIN_PSNR)
    min_bokeh_psnr: float = MIN_BOKEH_PSNR
    max_drop: Mapping[str, float] = field(default_factory=lambda: MAX_DROP)
    require: tuple[str, ...] = ()


class Fault(NamedTuple):
    """What is wrong, in a word or two, and what shows it."""

    name: str
    detail: str


class Check(NamedTuple):
    """Something tested: what came out, and what is let through."""

    name: str
    passed: bool
    measured: str
    limit: str = ""


class Photo(NamedTuple):
    """What a variant made of a photo: its disparity [H, W] beside the expected one, and the photo
    [H, W, 3] rendered with it."""

    name: str
    psnr_db: float
    pixels: NDArray[Any]
    expected: Array
    got: Array
    bokeh: Array


@dataclass
class Result:
    """What was found about one variant.

    bytes        of its file or files
    not_checked  why it could not run here; all below is empty then
    golden       {output: {"psnr_db", "snr_db", "max_abs", "spearman"}} on golden.npz, of outputs
                 that are maps at all: of the right size, finite, no constant
    photos       on photos, against the reference: means of the same and of "bokeh_psnr_db", the
                 least PSNR "worst_db"; against the truth: "delta1", "abs_rel", the reference's
                 own, and what of them is lost
    dtypes       {type: bytes} of the constants in its file
    speed        "p50_ms", "p95_ms" of one inference on one thread, "peak_mib" of its process
    likeness     least cosine of its layers' weights with the reference's, nan if not compared
    worst        the photo whose disparity is farthest from the reference's
    pictures     [1, C, H, W], "image", "expected", "got", and of a bokeh the last two as well
    """

    variant: Variant
    bytes: int
    not_checked: str = ""
    golden: dict[str, dict[str, float]] = field(default_factory=dict)
    photos: dict[str, float] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    likeness: float = math.nan
    worst: Photo | None = None
    pictures: dict[str, Array] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.faults and all(check.passed for check in self.checks)


@dataclass
class Report:
    """checks of the bundle as a whole; reference: {graph: what judged the photos}; photos: how many
    there were, how many of them with truth."""

    content: Bundle
    results: list[Result]
    checks: list[Check]
    reference: dict[str, str]
    photos: tuple[int, int] = (0, 0)

    @property
    def passed(self) -> bool:
        return all(c.passed for c in self.checks) and all(r.passed for r in self.results)
