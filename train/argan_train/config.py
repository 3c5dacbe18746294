"""Settings of each method: a frozen dataclass, checked, with presets in configs/*.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from argan.errors import InputError
from argan.optics import Aperture

PRESETS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class ArGanConfig:
    """AR-GAN (Kaneko 2021). What the paper leaves open is a setting here."""

    size: int = 64  # px, a power of two
    steps: int = 8000
    batch: int = 24
    seed: int = 0
    latent: int = 128
    width: int = 24  # channels at full size; doubling downwards to 4x
    learning_rate: float = 2e-4
    discriminator_learning_rate: float = 4e-4
    r1_gamma: float = 0.05  # StyleGAN2-ADA's rule, 0.0002 size^2 / batch, gives 0.03 to 0.05 here
    r1_every: int = 16
    ema_half_life: int = 4000  # images
    warmup: int = 200  # steps over which the generator's average catches up
    depth_size: int = 16  # px of the disparity head; at full size it learns an edge map
    max_blur: float = 0.06  # largest |D| as a share of the width
    pupil: Literal["grid", "disc"] = "disc"  # "grid": the published 5x5; "disc": turned at random
    views: int = 6  # a side for "grid", in all for "disc"
    expansion: bool = False  # depth expansion network T; needs the "grid"
    mixture: Literal["bernoulli", "uniform", "none"] = "bernoulli"  # distribution of s
    prior_weight: float = 0.02  # per px^2
    prior_final: float = 0.004  # the prior never quite leaves
    center_weight: float = 0.02  # per px^2, within r_th, for the whole run: no holes in the subject
    smoothness_weight: float = 0.05  # per px of total variation
    prior_steps: float = 0.5  # share of the run over which it fades to prior_final
    blur_share: float = 0.5  # of the largest |D|, that the mean pixel lies behind the focal plane
    blur_share_weight: float = 5.0  # the disparity must not fade to "all in focus"
    prior_radius: float = 0.35  # r_th in half widths
    prior_slope: float = 0.08  # g: px of blur per half width, as a share of the width
    picture_every: int = 500
    save_every: int = 500
    log_every: int = 50

    def __post_init__(self) -> None:
        if self.size < 8 or self.size & (self.size - 1):
            raise InputError(f"size {self.size}: use a power of two from 8, such as 64")
        if (
            self.depth_size > self.size
            or self.depth_size < 8
            or self.depth_size & (self.depth_size - 1)
        ):
            raise InputError(
                f"depth_size {self.depth_size}: use a power of two from 8 to {self.size}"
            )
        if self.batch < 2 or self.batch % 2:
            raise InputError(
                f"batch {self.batch}: use an even number, half of it is rendered sharp"
            )
        if self.expansion and self.pupil != "grid":
            raise InputError('expansion has one channel per view: it needs pupil = "grid"')
        if self.mixture not in ("bernoulli", "uniform", "none"):
            raise InputError(f"mixture {self.mixture!r}: use bernoulli, uniform or none")

    @property
    def max_blur_px(self) -> float:
        return self.max_blur * self.size

    def aperture(self, rotation: float = 0.0) -> Aperture:
        return Aperture(self.pupil, self.views, rotation=rotation if self.pupil == "disc" else 0.0)


@dataclass(frozen=True)
class ArGanDrConfig:
    """AR-GAN-DR: a depth network that learns from AR-GAN's samples alone."""

    size: int = 96  # px of the training crops, a multiple of 32
    nominal: int = 128  # px at which photos are shown to the exported network
    steps: int = 4000
    batch: int = 24
    seed: int = 0
    width: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    gradient_weight: float = 0.5
    fill_holes: bool = True  # in the teacher's disparity
    paste: float = 0.3  # share of samples whose subject is put before another sample's background
    ema_half_life: int = 4000  # images
    warmup: int = 200
    picture_every: int = 500
    save_every: int = 500
    log_every: int = 50

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            raise InputError(f"size {self.size}: use a multiple of 32")
        if self.batch < 2:
            raise InputError(f"batch {self.batch}: use at least 2")


Config = TypeVar("Config", ArGanConfig, ArGanDrConfig)


def load_preset(kind: type[Config], name: str, overrides: dict[str, Any]) -> Config:
    """The preset `configs/NAME.toml` (or a path to a TOML file) with some settings replaced."""
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.toml")))
        raise InputError(f"no preset {name}: use one of {known}, or a .toml file")
    return build(kind, tomllib.loads(path.read_text()) | overrides)


def build(kind: type[Config], settings: dict[str, Any]) -> Config:
    """The settings as a checked configuration; an unknown name is an error, not a silence."""
    unknown = set(settings) - set(kind.__dataclass_fields__)
    if unknown:
        raise InputError(f"unknown setting {', '.join(sorted(unknown))} for {kind.__name__}")
    return kind(**settings)
