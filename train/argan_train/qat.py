"""Quantisation-aware training: a finished student learns to say in int8 what it says in float.

Its convolutions compute what the exported int8 graphs compute: input and output of 256 levels,
weights of whole numbers with a scale per channel, batch norms frozen and folded into them. Rounding
passes gradients on as if it weren't there (Bengio et al. 2013). Parameters are those of the float
network, so that what comes out is an ordinary student, exported like any other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from argan_train.ar_gan_dr import ArGanDr
from argan_train.config import ArGanConfig, ArGanDrConfig
from argan_train.loop import seeded
from argan_train.networks import DepthNet, Generator, Lite0DepthNet

# In place of the student's own: a short, gentle run. At ten times this learning rate what the
# steps disturb is more than what they mend.
SETTINGS: dict[str, Any] = {
    "steps": 300, "learning_rate": 1e-5, "warmup": 20, "ema_half_life": 500, "weight_decay": 0.0,
}  # fmt: skip
LESSONS = 8  # whose ranges the activations keep
LEVELS, WEIGHT = 255, 127  # the largest level of an activation, and of a weight


class Int8Student(ArGanDr):
    """Learns what `student`, a finished network in evaluation mode, says of the pictures of its
    lessons, and not what the teachers say: it would go on learning, and drift."""

    def __init__(
        self,
        config: ArGanDrConfig,
        teachers: Sequence[tuple[Generator, ArGanConfig]],
        device: torch.device,
        photos: Tensor | None,
        student: DepthNet | Lite0DepthNet,
    ) -> None:
        self.student = student.to(device)
        super().__init__(config, teachers, device, photos)
        rngs = [seeded(config.seed, (1 << 30) + i, device) for i in range(LESSONS)]
        images = [self.lesson(config.batch, rng, i)[0] for i, rng in enumerate(rngs)]
        if photos is not None:
            images += [self.real_lesson(photos, config.batch, rng)[0] for rng in rngs]
        self.int8 = simulated(self.network, images)

    def make_network(self) -> DepthNet | Lite0DepthNet:
        return copy.deepcopy(self.student).requires_grad_(True)

    def trust(self, step: int) -> float:
        return 1.0  # in the finished student

    def predict(self, image: Tensor) -> Tensor:
        return self.int8(image.contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def lesson(self, n: int, rng: torch.Generator, step: int) -> tuple[Tensor, Tensor]:
        image, _ = super().lesson(n, rng, step)
        return image, self.student(image)

    @torch.no_grad()
    def real_lesson(self, photos: Tensor, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        image, _ = super().real_lesson(photos, n, rng)
        return image, self.student(image)


class Activation(nn.Module):
    """Rounds to one of 256 levels between the ends that it has seen while `observing`."""

    def __init__(self) -> None:
        super().__init__()
        self.observing = True
        self.lo, self.hi = 0.0, 0.0

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            self.lo, self.hi = min(self.lo, float(x.min())), max(self.hi, float(x.max()))
            return x
        scale = max(self.hi - self.lo, 1e-8) / LEVELS
        return torch.fake_quantize_per_tensor_affine(x, scale, round(-self.lo / scale), 0, LEVELS)


class Int8Conv(nn.Module):
    """A convolution of another network with its batch norm, if any, as int8 arithmetic has it."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, activated: bool) -> None:
        """activated: what comes next holds the output back, and its own input is rounded"""
        super().__init__()
        self.conv, self.norm = conv, norm
        self.given, self.taken = Activation(), None if activated else Activation()

    def forward(self, x: Tensor) -> Tensor:
        weight, shift = self.conv.weight, None
        if self.norm is not None:
            scale, shift = frozen(self.norm)
            weight = weight * scale[:, None, None, None]
        y = functional_call(self.conv, {"weight": rounded(weight)}, (self.given(x),))
        if shift is not None:
            y = y + shift[:, None, None]
        return y if self.taken is None else self.taken(y)


def frozen(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift [C] of a batch norm with the statistics that it has."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def rounded(weight: Tensor) -> Tensor:
    """[O, I, k, k] in whole multiples of each output channel's scale."""
    scale = weight_scale(weight.detach())
    zero = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -WEIGHT, WEIGHT)


def weight_scale(weight: Tensor) -> Tensor:
    """[O, I, k, k] -> the scale of each output channel [O], for whole numbers within +-WEIGHT.

    Many processors add pairs of products of 8 bits in 16 bits, and clip. So in a dense convolution
    no two weights of one sign make more than 128: times 255 they fit, whichever two are paired.
    """
    flat = weight.flatten(1).sort(dim=1).values
    if weight.shape[1] > 1:
        largest = torch.maximum(
            flat[:, -2:].clamp(min=0).sum(dim=1), -flat[:, :2].clamp(max=0).sum(dim=1)
        )
    else:
        largest = torch.maximum(flat[:, -1], -flat[:, 0])
    return largest.clamp(min=1e-8) / WEIGHT


def simulated(network: nn.Module, images: Iterable[Tensor]) -> nn.Module:
    """`network` in int8 arithmetic, with its own parameters; ranges are those on `images`
    [N, 3, H, W] and stay so. A norm or an activation that is part of a convolution stands behind it
    in an `nn.Sequential`."""
    int8 = copy.deepcopy(network)
    for name, conv in network.named_modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        parent, _, key = name.rpartition(".")
        place, behind = int8.get_submodule(parent), list[nn.Module]()
        if isinstance(place, nn.Sequential):
            behind = list(network.get_submodule(parent).children())[int(key) + 1 :]
        norm = next((m for m in behind[:1] if isinstance(m, nn.BatchNorm2d)), None)
        if norm is not None:
            setattr(place, str(int(key) + 1), nn.Identity())
        activated = len(behind) > (norm is not None)
        setattr(place, key, Int8Conv(conv, norm, activated))
    with torch.no_grad():
        for image in images:
            int8(image)
    for module in int8.modules():
        if isinstance(module, Activation):
            module.observing = False
    return int8
