"""AR-GAN (Kaneko, CVPR 2021): a generator of sharp images and disparities, judged by its photos."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from argan.optics import Aperture
from argan_train import checkpoint, losses, metrics, render
from argan_train.config import ArGanConfig, build
from argan_train.loop import seeded, update_average
from argan_train.networks import DepthExpansion, Discriminator, Generator
from argan_train.pictures import disparity_rows, image_rows

Optimizer = torch.optim.Adam
SMOOTH = Aperture("disc", 40)  # for pictures: enough views that discs show no dots


def make_generator(config: ArGanConfig) -> Generator:
    return Generator(
        config.size, config.width, config.latent, config.depth_size, config.max_blur_px
    )


class ArGan:
    """photos uint8 [M, 3, S, S] on `device`, at one depth of field each; nothing else is known."""

    name = "ar-gan"

    def __init__(self, config: ArGanConfig, photos: Tensor) -> None:
        self.config, self.photos, self.device = config, photos, photos.device
        torch.manual_seed(config.seed)
        self.generator = make_generator(config).to(self.device)
        self.discriminator = Discriminator(config.size, config.width).to(self.device)
        # Convolutions run faster in this layout, on the CPU too.
        self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.discriminator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.expansion = (
            DepthExpansion(config.views**2).to(self.device) if config.expansion else None
        )
        generator_side = list(self.generator.parameters())
        if self.expansion:
            generator_side += list(self.expansion.parameters())
        # beta1 = 0: the usual choice under R1 (Mescheder et al. 2018; StyleGAN).
        self.g_opt = Optimizer(generator_side, lr=config.learning_rate, betas=(0.0, 0.99))
        self.d_opt = Optimizer(
            self.discriminator.parameters(),
            lr=config.discriminator_learning_rate,
            betas=(0.0, 0.99),
        )
        self.prior = losses.center_focus_prior(
            config.size, config.prior_radius, config.prior_slope * config.size, config.max_blur_px,
            self.device,
        )  # fmt: skip
        self.fixed = torch.randn(16, config.latent, generator=seeded(config.seed, 0, self.device),
                                 device=self.device)  # fmt: skip

    def parts(self) -> dict[str, torch.nn.Module | torch.optim.Optimizer]:
        named = {"g": self.generator, "d": self.discriminator, "ema": self.ema,
                 "t": self.expansion, "g_opt": self.g_opt, "d_opt": self.d_opt}  # fmt: skip
        return {name: part for name, part in named.items() if part is not None}

    def prior_weight(self, step: int) -> float:
        """Fades from prior_weight to prior_final over the first share of the run."""
        config = self.config
        left = max(0.0, 1 - step / max(config.prior_steps * config.steps, 1))
        return config.prior_final + (config.prior_weight - config.prior_final) * left

    def lens_strength(self, rng: torch.Generator) -> Tensor:
        """s [N] of the DoF mixture, at least half of it zero under "bernoulli" (stratified)."""
        n = self.config.batch
        if self.config.mixture == "uniform":
            return torch.rand(n, generator=rng, device=self.device)
        s = torch.ones(n, device=self.device)
        if self.config.mixture == "bernoulli":
            s[: n // 2] = 0
        return s

    def photograph(
        self, image: Tensor, disparity: Tensor, s: Tensor, rng: torch.Generator
    ) -> Tensor:
        """R(I_d, s D): what the simulated camera takes. At s = 0 that is I_d itself."""
        rotation = 2 * math.pi * float(torch.rand((), generator=rng, device=self.device))
        points, weights = render.pupil(self.config.aperture(rotation), self.device)
        wide = s > 0
        blur = disparity[wide] * s[wide, None, None, None]
        if self.expansion:
            blur = self.expansion(render.view_disparity(blur, points))
        taken = image.clone()
        taken[wide] = render.photograph(image[wide], blur, points, weights)
        return taken

    def step(self, step: int) -> dict[str, Tensor]:
        config, rng = self.config, seeded(self.config.seed, step, self.device)
        n = config.batch
        pick = torch.randint(len(self.photos), (n,), generator=rng, device=self.device)
        flip = torch.rand(n, 1, 1, 1, generator=rng, device=self.device) < 0.5
        real = self.photos[pick].float() / 255
        real = torch.where(flip, real.flip(-1), real)
        z = torch.randn(n, config.latent, generator=rng, device=self.device)
        s = self.lens_strength(rng)

        image, disparity = self.generator(z)
        fake = self.photograph(image, disparity, s, rng)
        logged = self.discriminator_step(step, real, fake.detach())
        logged |= self.generator_step(step, fake, disparity)
        update_average(self.ema, self.generator, step, n, config.ema_half_life, config.warmup)
        return logged

    def discriminator_step(self, step: int, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        config = self.config
        regularise = step % config.r1_every == 0
        real.requires_grad_(regularise)
        real_logits = self.discriminator(real)
        loss = losses.d_main(real_logits, self.discriminator(fake))
        logged = {"d_main": loss.detach(), "d_real": real_logits.detach().mean()}
        if regularise:
            loss = loss + config.r1_gamma * config.r1_every * losses.d_r1(real, real_logits)
        self.d_opt.zero_grad()
        loss.backward()
        self.d_opt.step()
        return logged

    def generator_step(self, step: int, fake: Tensor, disparity: Tensor) -> dict[str, Tensor]:
        self.discriminator.requires_grad_(False)
        adversarial = losses.g_main(self.discriminator(fake))
        self.discriminator.requires_grad_(True)
        config = self.config
        prior = losses.g_prior(disparity, self.prior)
        center = losses.g_center(disparity, self.prior)
        share = losses.g_blur_share(disparity, config.max_blur_px, config.blur_share)
        smoothness = losses.g_smoothness(disparity)
        loss = (
            adversarial
            + self.prior_weight(step) * prior
            + config.center_weight * center
            + config.blur_share_weight * share
            + config.smoothness_weight * smoothness
        )
        self.g_opt.zero_grad()
        loss.backward()
        self.g_opt.step()
        logged = {"g_main": adversarial, "g_prior": prior, "g_center": center, "g_share": share,
                  "g_smoothness": smoothness}  # fmt: skip
        return {name: value.detach() for name, value in logged.items()}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """The two collapse measures on the averaged generator: copy of the prior, edge map."""
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
        points, weights = render.pupil(SMOOTH, self.device)
        shallow = render.photograph(image, disparity, points, weights)
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
