"""AR-GAN (Kaneko, CVPR 2021): a generator of sharp images and disparities, judged by its photos."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from argan.optics import Aperture
from argan_train import augment, checkpoint, distributed, losses, metrics, render
from argan_train.capture import Captured
from argan_train.config import ArGanConfig, build
from argan_train.loop import seeded, update_average
from argan_train.networks import Discriminator, Generator
from argan_train.pictures import disparity_rows, image_rows

Optimizer = torch.optim.Adam
SMOOTH = Aperture("disc", 40)  # for pictures: enough views that discs show no dots


def make_generator(config: ArGanConfig) -> Generator:
    return Generator(
        config.size, config.width, config.latent, config.depth_size, config.max_blur_px,
        expanded_views=config.views**2 if config.expansion else 0,
    )  # fmt: skip


def pupil_points(config: ArGanConfig, n: int, rng: torch.Generator) -> Tensor:
    """Where the views of one step pass the lens: [V, 2], or [n, V, 2] with the "random" pupil."""
    if config.pupil == "random":
        radius = torch.rand(n, config.views, generator=rng, device=rng.device).sqrt()
        angle = 2 * math.pi * torch.rand(n, config.views, generator=rng, device=rng.device)
        return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
    points, _ = render.pupil(Aperture(config.pupil, config.views), rng.device)
    if config.pupil == "grid":
        return points
    angle = 2 * math.pi * torch.rand((), generator=rng, device=rng.device)
    turn = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()]).reshape(2, 2)
    return points @ turn


def lens_strength(config: ArGanConfig, n: int, rng: torch.Generator) -> Tensor:
    """s [n] of the DoF mixture; where half of them are to be zero, exactly the first half."""
    wide = (torch.arange(n, device=rng.device) >= n * config.sharp // config.batch).float()
    if config.mixture in ("uniform", "mixed"):
        return wide * (1 - torch.rand(n, generator=rng, device=rng.device))
    return wide


def photograph(
    generator: Generator,
    config: ArGanConfig,
    image: Tensor,
    disparity: Tensor,
    points: Tensor,
    expand: bool = True,
) -> Tensor:
    """R(I_d, D): image [N, 3, S, S], disparity px [N, 1, S, S] -> what the simulated camera takes.

    Its views weigh the same. expand=False leaves T out, which has a channel for each point that it
    was trained with and knows no others.
    """
    if config.occlusion:
        disparity = render.view_disparity(disparity, points)
    if expand and generator.expansion is not None:
        disparity = generator.expansion(disparity)
    weights = points.new_full((points.shape[-2],), 1 / points.shape[-2])
    return render.photograph(image, disparity, points, weights, linear=config.light == "linear")


def photograph_smoothly(
    generator: Generator, config: ArGanConfig, image: Tensor, disparity: Tensor
) -> Tensor:
    """`photograph` through many views, for people to look at."""
    points, _ = render.pupil(SMOOTH, image.device)
    return photograph(generator, config, image, disparity, points, expand=False)


@torch.no_grad()
def draw_photographs(
    generator: Generator, config: ArGanConfig, n: int, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """n samples as the discriminator meets them: photographs [n, 3, S, S] through a lens of random
    strength, and their sharp images and disparities."""
    z = torch.randn(n, config.latent, generator=rng, device=rng.device)
    image, disparity = generator(z)
    s = lens_strength(config, n, rng)[:, None, None, None]
    points = pupil_points(config, n, rng)
    taken = photograph(generator, config, image, disparity * s, points)
    return torch.where(s > 0, taken, image), image, disparity


class ArGan:
    """photos uint8 [M, 3, S, S], at one depth of field each; nothing else is known. They may stay
    on the CPU where the device has no room for them."""

    name = "ar-gan"

    def __init__(self, config: ArGanConfig, photos: Tensor, device: torch.device) -> None:
        distributed.check_batch(config.batch)
        self.config, self.photos, self.device = config, photos, device
        torch.manual_seed(config.seed)
        self.generator = make_generator(config).to(device)
        self.discriminator = Discriminator(config.size, config.width, config.spectral_norm)
        self.discriminator.to(device)
        # Convolutions run faster in this layout, on the CPU too.
        self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        # beta1 = 0: the usual choice under R1 (Mescheder et al. 2018; StyleGAN).
        self.g_opt, self.d_opt = (
            Optimizer(
                network.parameters(), lr=rate, betas=(0.0, 0.99), fused=True,
                capturable=config.capture and device.type == "cuda",
            )
            for network, rate in (
                (self.generator, config.learning_rate),
                (self.discriminator, config.discriminator_learning_rate),
            )
        )  # fmt: skip
        self.generate: Callable[[Tensor], tuple[Tensor, Tensor]] = self.generator
        self.judge: Callable[[Tensor], Tensor] = self.discriminator
        if config.compile:
            self.generate = torch.compile(self.generator)
            self.judge = torch.compile(self.discriminator)
        self.capturing = config.capture and device.type == "cuda" and distributed.world() == 1
        self.captured: dict[bool, Captured] = {}
        self.prior = losses.center_focus_prior(
            config.size, config.prior_radius, config.prior_slope * config.size, config.max_blur_px,
            device,
        )  # fmt: skip
        self.fixed = torch.randn(
            16, config.latent, generator=seeded(config.seed, 0, device), device=device
        )

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {"g": self.generator, "d": self.discriminator, "ema": self.ema,
                "g_opt": self.g_opt, "d_opt": self.d_opt}  # fmt: skip

    def prior_weight(self, step: int) -> float:
        """Fades from prior_weight to prior_final over the first share of the run."""
        config = self.config
        left = max(0.0, 1 - step / max(config.prior_steps * config.steps, 1))
        return config.prior_final + (config.prior_weight - config.prior_final) * left

    def draw(self, step: int) -> dict[str, Tensor]:
        """Everything that differs from step to step: photos, random numbers, the prior's weight."""
        config, rng = self.config, seeded(self.config.seed, step, self.device)
        n = config.batch
        pick = torch.randint(len(self.photos), (n,), generator=rng, device=self.device)
        real = self.photos[distributed.share(pick).to(self.photos.device)].to(self.device)
        rows = {
            "flip": torch.rand(n, generator=rng, device=self.device) < 0.5,
            "z": torch.randn(n, config.latent, generator=rng, device=self.device),
            "s": lens_strength(config, n, rng),
        }
        points = pupil_points(config, n, rng)
        if config.augment:
            rows |= {
                f"{kind}_{change}": numbers
                for kind in ("real", "fake")
                for change, numbers in augment.changes(n, config.augment, rng).items()
            }
        shared = {name: distributed.share(values) for name, values in rows.items()}
        return shared | {
            "real": real,
            "points": distributed.share(points) if points.ndim == 3 else points,
            "prior_weight": torch.tensor(self.prior_weight(step), device=self.device),
        }

    def step(self, step: int) -> dict[str, Tensor]:
        config, drawn = self.config, self.draw(step)
        regularise = step % config.r1_every == 0
        if self.capturing:
            if regularise not in self.captured:
                self.captured[regularise] = Captured(
                    lambda drawn: self.learn(drawn, regularise), drawn, list(self.parts().values())
                )
            logged = self.captured[regularise](drawn)
        else:
            logged = self.learn(drawn, regularise)
        update_average(
            self.ema, self.generator, step, config.batch, config.ema_half_life, config.warmup
        )
        return logged

    def learn(self, drawn: dict[str, Tensor], regularise: bool) -> dict[str, Tensor]:
        """One step of the discriminator, then one of the generator: only tensors decide anything,
        so that it can be captured as a CUDA graph."""
        config = self.config
        real = drawn["real"].float() / 255
        real = torch.where(drawn["flip"][:, None, None, None], real.flip(-1), real)
        with self.reduced():
            image, disparity = self.generate(drawn["z"])
        sharp = len(image) * config.sharp // config.batch
        blur = disparity[sharp:] * drawn["s"][sharp:, None, None, None]
        points = drawn["points"] if drawn["points"].ndim == 2 else drawn["points"][sharp:]
        fake = image
        if sharp < len(image):
            taken = photograph(self.generator, config, image[sharp:], blur, points)
            fake = torch.cat([image[:sharp], taken])
        if config.augment:
            fake = augment.change(fake, {k: drawn[f"fake_{k}"] for k in augment.CHANGES})
            changes = {k: drawn[f"real_{k}"] for k in augment.CHANGES}
        logged = self.discriminator_step(
            real, fake.detach(), regularise, changes if config.augment else None
        )
        return logged | self.generator_step(fake, disparity, drawn["prior_weight"])

    def reduced(self) -> contextlib.AbstractContextManager[None]:
        """bfloat16 on a GPU, where it is asked for. (Casts are not cached: a CUDA graph would
        replay a stale one.)"""
        wanted = self.config.bf16 and self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, wanted, cache_enabled=False)

    def discriminator_step(
        self, real: Tensor, fake: Tensor, regularise: bool, changes: dict[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """R1 needs second gradients: float32, and not compiled."""
        config = self.config
        real.requires_grad_(regularise)
        seen = augment.change(real, changes) if changes else real
        judge = self.discriminator if regularise else self.judge
        with contextlib.nullcontext() if regularise else self.reduced():
            real_logits, fake_logits = judge(seen), judge(fake)
        loss = losses.d_main(real_logits, fake_logits)
        logged = {"d_main": loss, "d_real": real_logits.mean()}
        if regularise:
            penalty = losses.d_r1(real, real_logits)
            logged["d_r1"] = penalty
            loss = loss + config.r1_gamma * config.r1_every * penalty
        self.d_opt.zero_grad()
        loss.backward()
        distributed.average_gradients(self.discriminator.parameters())
        self.d_opt.step()
        return {name: value.detach() for name, value in logged.items()}

    def generator_step(
        self, fake: Tensor, disparity: Tensor, prior_weight: Tensor
    ) -> dict[str, Tensor]:
        config = self.config
        self.discriminator.requires_grad_(False)
        with self.reduced():
            adversarial = losses.g_main(self.judge(fake))
        self.discriminator.requires_grad_(True)
        logged = {"g_main": adversarial}
        loss = adversarial
        if config.mixture != "plain":  # a plain GAN has no lens, and its disparity no meaning
            weighed: dict[str, tuple[float | Tensor, Tensor]] = {
                "g_prior": (prior_weight, losses.g_prior(disparity, self.prior)),
                "g_center": (config.center_weight, losses.g_center(disparity, self.prior)),
                "g_share": (
                    config.blur_share_weight,
                    losses.g_blur_share(disparity, config.max_blur_px, config.blur_share),
                ),
                "g_smoothness": (config.smoothness_weight, losses.g_smoothness(disparity)),
                "g_rise": (config.rise_weight, losses.g_rise(disparity)),
            }
            logged |= {name: value for name, (_, value) in weighed.items()}
            for weight, value in weighed.values():
                loss = loss + weight * value
        self.g_opt.zero_grad()
        loss.backward()
        distributed.average_gradients(self.generator.parameters())
        self.g_opt.step()
        return {name: value.detach() for name, value in logged.items()}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """The two collapse measures on the averaged generator: copy of the prior, edge map."""
        if self.config.mixture == "plain":
            return {}
        rng = seeded(self.config.seed, 1 << 31, self.device)
        image, disparity = self.ema(
            torch.randn(64, self.config.latent, generator=rng, device=self.device)
        )
        return metrics.collapse(
            image.cpu().numpy(), disparity.cpu().numpy(), self.prior.cpu().numpy()[0]
        )

    @torch.no_grad()
    def picture(self) -> np.ndarray:
        """Rows: deep image, disparity (grey = in focus, white = behind), shallow image."""
        image, disparity = self.ema(self.fixed)
        if self.config.mixture == "plain":
            return image_rows(image)
        shallow = photograph_smoothly(self.ema, self.config, image, disparity)
        limit = self.config.max_blur_px
        return np.concatenate(
            [image_rows(image), disparity_rows(-disparity, -limit, limit), image_rows(shallow)]
        )


def load_generator(run: Path, device: torch.device) -> tuple[Generator, ArGanConfig]:
    """The averaged generator of a run, for sampling."""
    config = build(ArGanConfig, checkpoint.read_json(run / "config.json")["settings"])
    generator = make_generator(config)
    generator.load_state_dict(checkpoint.load_floats(run / "ema.safetensors"))
    return generator.to(device).eval().requires_grad_(False), config
