"""CycleGAN (Zhu et al., ICCV 2017), deep to shallow depth of field: what AR-GAN is compared with.

It needs two sets of photos (`argan data split-by-blur`) and learns pictures alone: no depth, and no
lens to set. Settings as published; patches and residual blocks as for small pictures.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from argan.errors import InputError
from argan_train import checkpoint, distributed
from argan_train.config import CycleGanConfig, build
from argan_train.loop import seeded
from argan_train.pictures import image_rows
from argan_train.split_by_blur import background_sharpness

SHOWN = 16  # photos in the pictures of a run and in its measure
BATCH = 64  # photos translated at a time


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")
        self.norm = nn.InstanceNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv2(F.relu(self.norm(self.conv1(x)))))


class Translator(nn.Module):
    """The generator of Johnson et al. (2016): c7s1-w, d2w, d4w, R4w..., u2w, uw, c7s1-3. Reflects
    at the border: not for export."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        w = width
        self.layers = nn.Sequential(
            *_normed(nn.Conv2d(3, w, 7, padding=3, padding_mode="reflect")),
            *_normed(nn.Conv2d(w, 2 * w, 3, 2, padding=1)),
            *_normed(nn.Conv2d(2 * w, 4 * w, 3, 2, padding=1)),
            *[ResidualBlock(4 * w) for _ in range(blocks)],
            *_normed(nn.ConvTranspose2d(4 * w, 2 * w, 3, 2, padding=1, output_padding=1)),
            *_normed(nn.ConvTranspose2d(2 * w, w, 3, 2, padding=1, output_padding=1)),
            nn.Conv2d(w, 3, 7, padding=3, padding_mode="reflect"),
        )
        _initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """[N, 3, H, W] sRGB 0..1, H and W multiples of 4 -> the same."""
        return torch.tanh(self.layers(image * 2 - 1)) / 2 + 0.5


class PatchJudge(nn.Module):
    """PatchGAN (Isola et al. 2017): image [N, 3, S, S] sRGB 0..1 -> [N, 1, s, s], one value per
    patch, 1 = a photo. Three halvings make the published patches of 70 px, for 256 px; with two
    they are 34 px, for 128, and with one 16 px, for 64: always about a quarter of the width."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        halvings = max(1, round(math.log2(size / 32)))
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, padding=1), nn.LeakyReLU(0.2)]
        inputs = width
        for i in range(1, halvings + 1):
            outputs, stride = width << i, 2 if i < halvings else 1
            layers += [nn.Conv2d(inputs, outputs, 4, stride, padding=1),
                       nn.InstanceNorm2d(outputs), nn.LeakyReLU(0.2)]  # fmt: skip
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 1, 4, padding=1))
        _initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image * 2 - 1)


def _normed(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(convolution.out_channels), nn.ReLU()]


def _initialise(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.02)  # the published code's
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


class History(nn.Module):
    """Pictures made earlier, shown to a discriminator in place of half of the new ones (Shrivastava
    et al. 2017). A module, so that a checkpoint holds them."""

    images: Tensor  # [capacity, 3, S, S]
    filled: Tensor  # how many of them there are

    def __init__(self, capacity: int, size: int) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(capacity, 3, size, size))
        self.register_buffer("filled", torch.tensor(0))

    @torch.no_grad()
    def exchange(self, made: Tensor, rng: torch.Generator) -> Tensor:
        """New pictures [N, 3, S, S] -> as many to show: each new one as it is while there is room
        to keep it, then with equal chances itself or an earlier one, whose place it takes."""
        shown = made.clone()
        for i, image in enumerate(made):
            if self.filled < len(self.images):
                self.images[self.filled] = image
                self.filled += 1
            elif torch.rand((), generator=rng, device=rng.device) < 0.5:
                place = torch.randint(len(self.images), (), generator=rng, device=rng.device)
                shown[i] = self.images[place]
                self.images[place] = image
        return shown


def d_least_squares(real: Tensor, fake: Tensor) -> Tensor:
    """Discriminator, ((C(photo) - 1)^2 + C(fake)^2) / 2 (LSGAN; halved as published)."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def g_least_squares(fake: Tensor) -> Tensor:
    """Generator, (C(fake) - 1)^2."""
    return (fake - 1).square().mean()


def g_distance(image: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference on the paper's scale, where a picture's values are in -1..1; both
    [N, 3, H, W] in 0..1."""
    return 2 * F.l1_loss(image, wanted)


class CycleGan:
    """deep, shallow: photos uint8 [M, 3, S, S], of other scenes and other numbers of them. They may
    stay on the CPU where the device has no room for them."""

    name = "cycle-gan"

    def __init__(
        self, config: CycleGanConfig, deep: Tensor, shallow: Tensor, device: torch.device
    ) -> None:
        if distributed.world() > 1:
            raise InputError("cycle-gan trains in one process: start it without torchrun")
        self.config, self.deep, self.shallow, self.device = config, deep, shallow, device
        torch.manual_seed(config.seed)
        self.to_shallow, self.to_deep = (
            Translator(config.width, config.blocks).to(device) for _ in range(2)
        )
        self.judge_shallow, self.judge_deep = (
            PatchJudge(config.size, config.width).to(device) for _ in range(2)
        )
        self.made_shallow, self.made_deep = (
            History(config.history, config.size).to(device) for _ in range(2)
        )
        self.g_opt, self.d_opt = (
            torch.optim.Adam(
                itertools.chain(*(network.parameters() for network in pair)),
                lr=config.learning_rate, betas=(0.5, 0.999), fused=True,
            )
            for pair in (
                (self.to_shallow, self.to_deep), (self.judge_shallow, self.judge_deep)
            )
        )  # fmt: skip
        order = torch.randperm(len(deep), generator=torch.Generator().manual_seed(config.seed))
        self.shown = deep[order[:SHOWN].to(deep.device)].to(device)

    @property
    def ema(self) -> Translator:
        """The generator itself: published CycleGANs are not averaged, their rate falls to zero."""
        return self.to_shallow

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {"to_shallow": self.to_shallow, "to_deep": self.to_deep,
                "judge_shallow": self.judge_shallow, "judge_deep": self.judge_deep,
                "made_shallow": self.made_shallow, "made_deep": self.made_deep,
                "g_opt": self.g_opt, "d_opt": self.d_opt}  # fmt: skip

    def learning_rate(self, step: int) -> float:
        """The same for half of the run, then in a line towards zero."""
        return self.config.learning_rate * min(1.0, 2 * (1 - (step - 1) / self.config.steps))

    def draw(self, photos: Tensor, rng: torch.Generator) -> Tensor:
        """A batch of photos [N, 3, S, S] in 0..1, half of them mirrored."""
        n = self.config.batch
        pick = torch.randint(len(photos), (n,), generator=rng, device=self.device)
        flip = torch.rand(n, 1, 1, 1, generator=rng, device=self.device) < 0.5
        batch = photos[pick.to(photos.device)].to(self.device).float() / 255
        return torch.where(flip, batch.flip(-1), batch)

    def step(self, step: int) -> dict[str, Tensor]:
        rng = seeded(self.config.seed, step, self.device)
        for group in self.g_opt.param_groups + self.d_opt.param_groups:
            group["lr"] = self.learning_rate(step)
        deep, shallow = self.draw(self.deep, rng), self.draw(self.shallow, rng)
        fake_deep, fake_shallow, logged = self.generator_step(deep, shallow)
        return logged | self.discriminator_step(
            (deep, self.made_deep.exchange(fake_deep, rng)),
            (shallow, self.made_shallow.exchange(fake_shallow, rng)),
        )

    def generator_step(
        self, deep: Tensor, shallow: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """-> the pictures made, deep and shallow, and what to log."""
        judges = (self.judge_shallow, self.judge_deep)
        for judge in judges:
            judge.requires_grad_(False)
        # What a generator is to translate and what it is to leave alone, in one batch.
        fake_shallow, same_shallow = self.to_shallow(torch.cat([deep, shallow])).chunk(2)
        fake_deep, same_deep = self.to_deep(torch.cat([shallow, deep])).chunk(2)
        adversarial = g_least_squares(self.judge_shallow(fake_shallow)) + g_least_squares(
            self.judge_deep(fake_deep)
        )
        back_deep, back_shallow = self.to_deep(fake_shallow), self.to_shallow(fake_deep)
        cycle = g_distance(back_deep, deep) + g_distance(back_shallow, shallow)
        identity = g_distance(same_deep, deep) + g_distance(same_shallow, shallow)
        config = self.config
        loss = adversarial + config.cycle_weight * cycle + config.identity_weight * identity
        self.g_opt.zero_grad()
        loss.backward()
        self.g_opt.step()
        for judge in judges:
            judge.requires_grad_(True)
        logged = {"g_main": adversarial, "g_cycle": cycle, "g_identity": identity}
        return (
            fake_deep.detach(),
            fake_shallow.detach(),
            {name: value.detach() for name, value in logged.items()},
        )

    def discriminator_step(
        self, deep: tuple[Tensor, Tensor], shallow: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """Of each kind, photos and pictures made."""
        loss = torch.zeros((), device=self.device)
        for judge, (real, fake) in ((self.judge_deep, deep), (self.judge_shallow, shallow)):
            loss = loss + d_least_squares(judge(real), judge(fake))
        self.d_opt.zero_grad()
        loss.backward()
        self.d_opt.step()
        return {"d_main": loss.detach()}

    def measure(self) -> dict[str, float]:
        """How sharp backgrounds are after the translation, as a share of before: < 1 = blurred."""
        made = translate(self.to_shallow, self.shown, self.device)
        pairs = [
            (background_sharpness(before), background_sharpness(after))
            for before, after in zip(self.shown.cpu().numpy(), made.numpy(), strict=True)
        ]
        shares = [b / a for a, b in pairs if math.isfinite(b / a)]
        return {"background_sharpness": float(np.mean(shares))} if shares else {}

    @torch.no_grad()
    def picture(self) -> np.ndarray:
        """Rows: deep photos, their shallow versions, deep again."""
        deep = self.shown.float() / 255
        shallow = self.to_shallow(deep)
        return np.concatenate([image_rows(x) for x in (deep, shallow, self.to_deep(shallow))])


@torch.no_grad()
def translate(generator: Translator, photos: Tensor, device: torch.device) -> Tensor:
    """uint8 [N, 3, S, S] -> the same, as the generator would have taken them; on the CPU."""
    parts = [generator(part.to(device).float() / 255).cpu() for part in photos.split(BATCH)]
    return (torch.cat(parts) * 255 + 0.5).to(torch.uint8)


def load_translator(run: Path, device: torch.device) -> tuple[Translator, CycleGanConfig]:
    """The generator from deep to shallow of a run."""
    config = build(CycleGanConfig, checkpoint.read_json(run / "config.json")["settings"])
    generator = Translator(config.width, config.blocks)
    generator.load_state_dict(checkpoint.load_floats(run / "ema.safetensors"))
    return generator.to(device).eval().requires_grad_(False), config
