"""Settings of each method: a frozen dataclass, checked, with presets in configs/*.toml."""

from __future__ import annotations

import inspect
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from argan.errors import InputError

PRESETS = Path(__file__).parent / "configs"
COUNTS = ("steps", "picture_every", "save_every", "log_every")  # of every method


def check_words(settings: Any) -> None:
    """Each setting that is one of a few words is one of them."""
    for name, kind in get_type_hints(type(settings)).items():
        allowed, value = get_args(kind), getattr(settings, name)
        if allowed and value not in allowed:
            raise InputError(f"{name} {value!r}: use {' or '.join(allowed)}")


def check_numbers(settings: Any, counts: tuple[str, ...], rates: tuple[str, ...]) -> None:
    """Those in counts are at least 1, as steps and sizes are; those in rates are above 0."""
    for name in counts:
        if getattr(settings, name) < 1:
            raise InputError(f"{name} {getattr(settings, name)}: use at least 1")
    for name in rates:
        if not 0 < getattr(settings, name) < float("inf"):
            raise InputError(f"{name} {getattr(settings, name)}: use a number above 0")


@dataclass(frozen=True)
class ArGanConfig:
    """AR-GAN (Kaneko 2021). What the paper leaves open is a setting here."""

    size: int = 64  # px, a power of two
    steps: int = 8000  # of both networks
    batch: int = 24  # photos and samples of a step
    seed: int = 0  # of weights, samples and their order
    # The networks.
    latent: int = 128  # numbers that a sample is made from
    width: int = 24  # channels at full size; doubling downwards to 4x
    depth_size: int = 16  # px of the disparity head; at full size it learns an edge map
    max_blur: float = 0.06  # largest |D| as a share of the width
    spectral_norm: bool = False  # in the discriminator
    # The simulated camera.
    # The lens' strength s: 0 or 1; 0 or U(0, 1); U(0, 1); 1; or always 0, a plain GAN.
    mixture: Literal["bernoulli", "mixed", "uniform", "none", "plain"] = "bernoulli"  # of s
    pupil: Literal["grid", "disc", "random"] = "disc"  # published 5x5; turned; each sample its own
    views: int = 6  # a side for "grid", in all for the others
    occlusion: bool = True  # each view has its own disparity D(x + u D(x)), as published
    expansion: bool = False  # depth expansion network T on top; needs the "grid" and occlusion
    light: Literal["srgb", "linear"] = "srgb"  # in which views are averaged; published: sRGB
    # The game.
    learning_rate: float = 2e-4  # Adam's, of the generator
    discriminator_learning_rate: float = 4e-4  # Adam's
    r1_gamma: float = 0.05  # StyleGAN2-ADA's rule, 0.0002 size^2 / batch, gives 0.03 to 0.05 here
    r1_every: int = 16  # steps
    augment: float = 0.0  # probability of moving and of recolouring what the discriminator sees
    ema_half_life: int = 4000  # images
    warmup: int = 200  # steps over which the generator's average catches up
    # What tells the subject from the background.
    prior_weight: float = 0.02  # per px^2
    prior_final: float = 0.004  # the prior never quite leaves
    prior_steps: float = 0.5  # share of the run over which it fades to prior_final
    prior_radius: float = 0.35  # r_th in half widths
    prior_slope: float = 0.08  # g: px of blur per half width, as a share of the width
    center_weight: float = 0.02  # per px^2, within r_th, for the whole run: no holes in the subject
    smoothness_weight: float = 0.05  # per px of total variation
    rise_weight: float = 0.0  # per px of disparity that is nearer again on the way out
    blur_share: float = 0.5  # of the largest |D|, that the mean pixel lies behind the focal plane
    blur_share_weight: float = 5.0  # the disparity must not fade to "all in focus"
    # The machine.
    bf16: bool = False  # networks in bfloat16 on a GPU; positions, losses and R1 stay in float32
    compile: bool = False  # networks by torch.compile
    capture: bool = False  # whole steps as CUDA graphs, on one GPU
    picture_every: int = 500  # steps
    save_every: int = 500  # steps
    log_every: int = 50  # steps

    def __post_init__(self) -> None:
        for name in ("size", "depth_size"):
            value = getattr(self, name)
            if value < 8 or value & (value - 1):
                raise InputError(f"{name} {value}: use a power of two from 8, such as 64")
        if self.depth_size > self.size:
            raise InputError(f"depth_size {self.depth_size}: use at most the size, {self.size}")
        if self.batch < 2 or self.batch % 2:
            raise InputError(
                f"batch {self.batch}: use an even number, half of it is rendered sharp"
            )
        if self.expansion and not (self.pupil == "grid" and self.occlusion):
            raise InputError(
                'expansion has one channel per view: it needs pupil = "grid" and occlusion'
            )
        check_words(self)
        check_numbers(
            self, (*COUNTS, "latent", "width", "views", "r1_every", "ema_half_life"),
            ("learning_rate", "discriminator_learning_rate", "max_blur"),
        )  # fmt: skip
        for name in ("augment", "prior_steps", "blur_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"{name} {value}: use 0 to 1")

    @property
    def max_blur_px(self) -> float:
        return self.max_blur * self.size

    @property
    def sharp(self) -> int:
        """How many of a batch are rendered with s = 0, its first."""
        half = self.batch // 2
        return {"bernoulli": half, "mixed": half, "plain": self.batch}.get(self.mixture, 0)


@dataclass(frozen=True)
class ArGanDrConfig:
    """AR-GAN-DR: a depth network that learns from AR-GAN's samples alone."""

    size: int = 96  # px of the training crops, a multiple of 32
    nominal: int = 128  # px at which photos are shown to the exported network
    steps: int = 4000  # of the network
    batch: int = 24  # samples of a step
    seed: int = 0  # of weights, samples and their order
    network: Literal["nano", "small", "base", "lite0"] = "nano"  # lite0: pretrained on ImageNet
    decoder: Literal["wide", "light"] = "wide"  # light: a quarter less work
    learning_rate: float = 2e-3  # AdamW's, at its highest
    weight_decay: float = 1e-4  # AdamW's
    # The lessons.
    narrow: int = 0  # px of the teacher's, by which its subjects are too wide
    fill_holes: bool = True  # in the teacher's disparity
    snap: float = 0.0  # radius, as a share of the width, within which it snaps to colour edges
    paste: float = 0.3  # share of samples whose subject is put before another sample's background
    zoom: float = 1.5  # largest, of the crops; more leaves too little background to learn from
    blur: float = 0.2  # share of pictures that are out of focus as a whole
    jpeg: float = 0.3  # share of pictures that were compressed
    photo_size: int = 0  # px of real photos, enlarged to the crops' size; 0: they have that size
    # The second round: lessons of real photos, which an earlier student has cut out (cutouts.py).
    cutout_share: float = 0.75  # of the lessons, where there are cut-outs
    composed: float = 0.667  # of these, scenes put together; the others are photos as they were
    ground: float = 0.5  # most by which the background comes nearer downwards: assumed, not learnt
    standing: bool = False  # what carries a subject lies below it, as near: assumed; for portraits
    stems: float = 0.0  # share of others with a stem, and tufts between: assumed; for flowers 0.6
    # The losses.
    level: Literal["bce", "l1", "ssi"] = "bce"  # how far the disparity is off; ssi: affine-free
    gradient_weight: float = 0.5  # of outlines, at three scales
    smoothness_weight: float = 0.0  # edge-aware
    render_weight: float = 0.0  # of the photographs through the teacher's lens
    consistency_weight: float = 0.5  # on real photos, where there are any
    consistency_share: float = 0.25  # these of a step, over its batch
    rank_weight: float = 2.0  # of their order, within a subject too
    ema_half_life: int = 4000  # images
    warmup: int = 200  # steps
    picture_every: int = 500  # steps
    save_every: int = 500  # steps
    log_every: int = 50  # steps

    def __post_init__(self) -> None:
        check_words(self)
        check_numbers(self, (*COUNTS, "nominal", "ema_half_life", "warmup"), ("learning_rate",))
        if self.size < 32 or self.size % 32:
            raise InputError(f"size {self.size}: use a multiple of 32")
        if self.batch < 2:
            raise InputError(f"batch {self.batch}: use at least 2")
        if self.narrow < 0:
            raise InputError(f"narrow {self.narrow}: use 0 or more")
        if not 0 <= self.photo_size <= self.size:
            raise InputError(f"photo_size {self.photo_size}: use 0 to the size, {self.size}")
        for name in ("cutout_share", "composed", "ground", "stems", "consistency_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)}: use 0 to 1")


@dataclass(frozen=True)
class CycleGanConfig:
    """CycleGAN (Zhu et al. 2017), deep to shallow; where it says nothing else, as published."""

    size: int = 64  # px
    steps: int = 20000  # of all networks
    batch: int = 1  # photos of each side in a step
    seed: int = 0  # of weights, samples and their order
    width: int = 64  # channels at full size
    blocks: int = 6  # residual; published: 6 for 128 px, 9 from 256
    learning_rate: float = 2e-4  # falls to zero over the second half of the run
    cycle_weight: float = 10.0  # of the mean absolute difference, pictures spanning -1..1
    identity_weight: float = 5.0  # of what is changed in a photo that is shallow already
    history: int = 50  # pictures kept for each discriminator
    picture_every: int = 500  # steps
    save_every: int = 500  # steps
    log_every: int = 50  # steps

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 8:
            raise InputError(f"size {self.size}: use a multiple of 8 from 32, such as 64")
        check_numbers(self, (*COUNTS, "batch", "width", "blocks", "history"), ("learning_rate",))


def meanings(kind: type[Any]) -> dict[str, str]:
    """What each setting says of itself: the comment beside it, and the words that it may be."""
    beside = re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(kind), re.MULTILINE)
    words = {name: get_args(hint) for name, hint in get_type_hints(kind).items()}
    return {
        name: f"{comment} ({', '.join(words[name])})" if words[name] else comment
        for name, comment in beside
    }


Config = TypeVar("Config", ArGanConfig, ArGanDrConfig, CycleGanConfig)


def load_preset(kind: type[Config], name: str, overrides: dict[str, Any]) -> Config:
    """The preset `configs/NAME.toml` (or a path to a TOML file) with some settings replaced."""
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PRESETS.glob("*.toml")))
        raise InputError(f"no preset {name}: use one of {known}, or a .toml file")
    try:
        settings = tomllib.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{path} can't be read: {error}") from None
    return build(kind, settings | overrides)


def build(kind: type[Config], settings: dict[str, Any]) -> Config:
    """The settings as a checked configuration; an unknown name is an error, not a silence."""
    unknown = set(settings) - set(kind.__dataclass_fields__)
    if unknown:
        raise InputError(f"unknown setting {', '.join(sorted(unknown))} for {kind.__name__}")
    for name, value in settings.items():
        wanted = type(kind.__dataclass_fields__[name].default)
        if not isinstance(value, (wanted, int) if wanted is float else wanted):
            raise InputError(f"{name} {value!r}: {kind.__name__} wants {wanted.__name__} for it")
    return kind(**settings)
