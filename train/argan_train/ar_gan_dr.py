"""AR-GAN-DR: one photo -> disparity, learnt from AR-GAN's own samples, without depth labels; in a
second round from real photos, too, cut out by what the first has learnt (`cutouts`)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from math import ceil, exp
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from argan import Refocuser, bundle
from argan.errors import InputError
from argan.optics import REFERENCE_F_NUMBER, Aperture
from argan_train import (
    augment,
    checkpoint,
    cutouts,
    distributed,
    image_metrics,
    losses,
    metrics,
    render,
)
from argan_train.ar_gan import load_generator, photograph, pupil_points
from argan_train.config import ArGanConfig, ArGanDrConfig, build
from argan_train.cutouts import Cutouts
from argan_train.loop import INPUTS, seeded, update_average
from argan_train.networks import DepthNet, Generator, Lite0DepthNet, depth_net, widened
from argan_train.pictures import disparity_rows, image_rows

# A teacher's disparity D in [-limit, limit] px becomes d = D / limit + 1, held to 0..1: 0 is the
# farthest background, 1 the focal plane, where the subject lies, and all that is nearer.
TYPICAL_RANGE = (0.0, 1.0)  # background, subject
SUBJECT_THRESHOLD = 0.5
SNAP_SMOOTH = 0.01  # variance of sRGB values
RENDERED_VIEWS = 8
MULTIPLE = 32  # of the sides of the network's picture
DECODERS_DIFFER = ("decoder.3", "head")  # in these parts
PRETRAINED_RATE = 0.1  # of the learning rate, for what was pretrained: a whole one would undo it
RAMP_UP = 0.5  # of the steps


class ArGanDr:
    """teachers: generators on `device` with their settings. photos: uint8 [M, 3, size, size], real
    and unlabelled, whose disparity is to follow crops and colours; those of `cut` where there are
    none. cut: photos that an earlier student has cut out, to make lessons of. begin_with: weights,
    of all of the network or of some parts."""

    name = "ar-gan-dr"

    def __init__(
        self,
        config: ArGanDrConfig,
        teachers: Sequence[tuple[Generator, ArGanConfig]],
        device: torch.device,
        photos: Tensor | None = None,
        cut: Cutouts | None = None,
        begin_with: Mapping[str, Tensor] | None = None,
    ) -> None:
        distributed.check_batch(config.batch)
        self.config, self.teachers, self.device = config, list(teachers), device
        self.cut = cut
        self.photos = cut.photos if photos is None and cut is not None else photos
        torch.manual_seed(config.seed)
        self.network = self.make_network().to(device)
        self.network.load_state_dict(begin_with or {}, strict=False)
        self.knows_nothing = not begin_with
        # Depthwise convolutions train half as fast again in this layout on the CPU.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            groups_of_parameters(self.network),
            lr=config.learning_rate, weight_decay=config.weight_decay,
        )  # fmt: skip

    def make_network(self) -> DepthNet | Lite0DepthNet:
        network = depth_net(self.config.network, self.config.decoder)
        if isinstance(network, Lite0DepthNet):
            network.load_imagenet(image_metrics.efficientnet_lite0_weights())
        return network

    def predict(self, image: Tensor) -> Tensor:
        """image [N, 3, H, W] -> disparity [N, 1, H, W], of the network that learns."""
        return self.network(image.contiguous(memory_format=torch.channels_last))

    def parts(self) -> dict[str, torch.nn.Module | torch.optim.Optimizer]:
        return {"network": self.network, "ema": self.ema, "optimizer": self.optimizer}

    @torch.no_grad()
    def samples(self, n: int, rng: torch.Generator, step: int) -> tuple[Tensor, Tensor]:
        """image [N, 3, S, S] of a teacher, half of them through its lens, and d [N, 1, S, S]."""
        generator, config = self.teachers[step % len(self.teachers)]
        z = torch.randn(n, config.latent, generator=rng, device=self.device)
        image, disparity = generator(z)
        s = augment.uniform(rng, n, 0.2, 1.0) * augment.chance(rng, n, 0.5)
        points = pupil_points(config, n, rng)
        taken = photograph(generator, config, image, disparity * s, points)
        taken = torch.where(s > 0, taken, image)  # T's answer to none is not none
        target = (disparity / config.max_blur_px + 1).clamp(0, 1)
        if self.config.narrow:
            target = augment.narrowed(target, self.config.narrow)
        if self.config.snap:
            radius = max(1, round(self.config.snap * config.size))
            target = augment.snap_to_outlines(target, image, radius, SNAP_SMOOTH).clamp(0, 1)
        return taken, target

    def lesson(self, n: int, rng: torch.Generator, step: int) -> tuple[Tensor, Tensor]:
        """Augmented input [N, 3, size, size] and the disparity to learn [N, 1, size, size]."""
        real = round(n * self.config.cutout_share) if self.cut is not None else 0
        parts = [self.generated_lesson(n - real, rng, step)] if real < n else []
        if self.cut is not None and real:
            parts.append(cutouts.lesson(self.cut, real, self.config, rng))
        images, disparities = zip(*parts, strict=True)
        return self.taken_badly(torch.cat(images), rng), torch.cat(disparities)

    def generated_lesson(self, n: int, rng: torch.Generator, step: int) -> tuple[Tensor, Tensor]:
        """Of a teacher's samples: images and the disparity to learn."""
        image, disparity = self.samples(n, rng, step)
        if self.config.fill_holes:
            disparity = fill_holes(disparity)
        image, disparity = augment.paste(
            image, disparity, SUBJECT_THRESHOLD, self.config.paste, rng
        )
        image, disparity = augment.crop(
            image, disparity, self.config.size, (1, self.config.zoom), rng
        )
        return augment.recolour_apart(image, disparity, SUBJECT_THRESHOLD, rng), disparity

    def taken_badly(self, image: Tensor, rng: torch.Generator) -> Tensor:
        """What cameras and files do to a picture and depth does not care about."""
        image = augment.defocus(image, self.config.blur, rng)
        return augment.compress(augment.grain(image, rng), self.config.jpeg, rng)

    @torch.no_grad()
    def real_lesson(self, photos: Tensor, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Real photos without labels, as the averaged network sees them (Tarvainen and Valpola
        2017): what crop, mirror, colours and noise make of a photo has the disparity it had. Half
        of them are cropped and mirrored alone: so are most that a user has."""
        pick = torch.randint(len(photos), (n,), generator=rng, device=self.device)
        image = photos[pick.to(photos.device)].to(self.device).float() / 255
        image, disparity = augment.crop(
            image, self.ema(image), self.config.size, (1, self.config.zoom), rng
        )
        changed = self.taken_badly(augment.recolour(image, rng), rng)
        return torch.where(augment.chance(rng, n, 0.5), image, changed), disparity

    def trust(self, step: int) -> float:
        """In what its own average says of photos: rises from nearly 0 to 1 (Laine and Aila 2017),
        but for a network that began with a student's weights. One that knows nothing calls all of
        a photo half near, and would teach itself to go on so."""
        late = min(step / (RAMP_UP * self.config.steps), 1.0) if self.knows_nothing else 1.0
        return exp(-5 * (1 - late) ** 2)

    def level(self, predicted: Tensor, target: Tensor) -> Tensor:
        """How far the disparities themselves are apart."""
        if self.config.level == "ssi":
            return losses.scale_and_shift_invariant(predicted, target)
        if self.config.level == "l1":
            return F.l1_loss(predicted, target)
        # Cross-entropy, not L1: most pixels show the subject, and the median of a doubt is "near".
        return losses.cross_entropy(predicted, target)

    def rendered(
        self, image: Tensor, predicted: Tensor, target: Tensor, config: ArGanConfig
    ) -> Tensor:
        """How far the photographs are apart that a teacher's lens takes with either disparity."""
        limit = config.max_blur * self.config.size
        points, weights = render.pupil(Aperture("disc", RENDERED_VIEWS), self.device)

        def taken(disparity: Tensor) -> Tensor:
            blur = render.view_disparity((disparity - 1) * limit, points)
            return render.photograph(image, blur, points, weights)

        return F.l1_loss(taken(predicted), taken(target))

    def step(self, step: int) -> dict[str, Tensor]:
        config = self.config
        # Each process has lessons of its own.
        world = distributed.world()
        rng = seeded(config.seed, step * world + distributed.rank(), self.device)
        image, target = self.lesson(config.batch // world, rng, step)
        for group in self.optimizer.param_groups:  # warms up, then falls to nothing along a cosine
            group["lr"] = (
                group["rate"]
                * config.learning_rate
                * min(step / config.warmup, 1.0)
                * (0.5 + 0.5 * float(np.cos(np.pi * step / config.steps)))
            )
        photo, seen = image[:0], target[:0]
        real = ceil(config.consistency_share * len(image)) if config.consistency_weight else 0
        if self.photos is not None and real:
            photo, seen = self.real_lesson(self.photos, real, rng)
        # One pass for both: batch norm is to see the mixture that its running averages see.
        predicted, followed = self.predict(torch.cat([image, photo])).tensor_split([len(image)])
        logged = {
            "level": self.level(predicted, target),
            "gradient": losses.gradient_loss(predicted, target),
        }
        loss = logged["level"] + config.gradient_weight * logged["gradient"]
        if config.smoothness_weight:
            logged["smoothness"] = losses.edge_aware_smoothness(predicted, image)
            loss = loss + config.smoothness_weight * logged["smoothness"]
        if config.render_weight:
            _, teacher = self.teachers[step % len(self.teachers)]
            logged["rendered"] = self.rendered(image, predicted, target, teacher)
            loss = loss + config.render_weight * logged["rendered"]
        if len(photo):
            trust = self.trust(step)
            logged["consistency"] = self.level(followed, seen)
            loss = loss + trust * config.consistency_weight * logged["consistency"]
            if config.rank_weight:
                logged["ranks"] = losses.rank_distance(followed, seen)
                loss = loss + trust * config.rank_weight * logged["ranks"]
        self.optimizer.zero_grad()
        loss.backward()
        distributed.average_gradients(self.network.parameters())
        self.optimizer.step()
        update_average(
            self.ema, self.network, step, config.batch, config.ema_half_life, config.warmup
        )
        return {name: value.detach() for name, value in logged.items()}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """On unseen samples of a teacher, as they are: relative RMSE, and the radial prior's."""
        image, target = self.samples(32, seeded(self.config.seed, 1 << 31, self.device), 0)
        size = self.config.size
        image, target = (
            F.interpolate(x, size=(size, size), mode="bilinear") for x in (image, target)
        )
        predicted = self.ema(image).cpu().numpy()[:, 0]
        truth = target.cpu().numpy()[:, 0]
        known, radial = np.ones((size, size), bool), metrics.baselines(size, size)["radial"]
        scores = {
            "rel_rmse": [metrics.depth_scores(p, t, known, ratios=False)["rel_rmse"]
                         for p, t in zip(predicted, truth, strict=True)],
            "radial_rel_rmse": [metrics.depth_scores(radial, t, known, ratios=False)["rel_rmse"]
                                for t in truth],
        }  # fmt: skip
        return {name: float(np.mean(values)) for name, values in scores.items()}

    @torch.no_grad()
    def picture(self) -> np.ndarray:
        """Rows: augmented input, the disparity to learn, what the network says (white = near)."""
        image, target = self.lesson(12, seeded(self.config.seed, 0, self.device), 0)
        return np.concatenate(
            [image_rows(image), disparity_rows(target, 0, 1), disparity_rows(self.ema(image), 0, 1)]
        )


def enlarged(photos: Tensor, size: int) -> Tensor:
    """uint8 [M, 3, S, S] -> uint8 [M, 3, size, size]."""
    if photos.shape[-1] == size:
        return photos
    whole = [F.interpolate(p.float(), (size, size), mode="bilinear") for p in photos.split(512)]
    return torch.cat([(p + 0.5).to(torch.uint8) for p in whole])


def groups_of_parameters(network: torch.nn.Module) -> list[dict[str, Any]]:
    """For the optimiser: each with its "rate", the share of the learning rate that it learns at."""
    if not isinstance(network, Lite0DepthNet):
        return [{"params": list(network.parameters()), "rate": 1.0}]
    pretrained = list(network.pretrained().parameters())
    new = [*network.decoder.parameters(), *network.head.parameters()]
    return [{"params": pretrained, "rate": PRETRAINED_RATE}, {"params": new, "rate": 1.0}]


def fill_holes(disparity: Tensor) -> Tensor:
    """`augment.fill_holes` at half size, where the disparity has lost nothing: it is smooth."""
    half = F.avg_pool2d(disparity, 2)
    raised = F.interpolate(augment.fill_holes(half) - half, scale_factor=2.0, mode="bilinear")
    return (disparity + raised).clamp(0, 1)


def load_teachers(
    runs: Sequence[Path], device: torch.device
) -> list[tuple[Generator, ArGanConfig]]:
    teachers = [load_generator(run, device) for run in runs]
    for run, (_, config) in zip(runs, teachers, strict=True):
        if config.mixture == "plain":
            raise InputError(f"{run} is a plain GAN and knows no disparity: give an AR-GAN's run")
    return teachers


def describe_sources(
    runs: Sequence[Path], config: ArGanDrConfig
) -> tuple[dict[str, Any], dict[str, str]]:
    """What a student learns from: the record of its run, and {file: sha256}."""
    if len({run.name for run in runs}) < len(runs):
        raise InputError("two teachers' folders have one name: rename one of them")
    teachers, inputs = {}, {}
    for run in runs:
        about = checkpoint.read_json(run / "config.json")
        digest = checkpoint.sha256(run / "ema.safetensors")
        teachers[run.name] = {"sha256": digest, "record": about, "data": about["data"]}
        inputs[f"{run.name}/ema.safetensors"] = digest
        if (run / INPUTS).exists():  # the photos behind it
            inputs[f"{run.name}/{INPUTS}"] = checkpoint.sha256(run / INPUTS)
    record: dict[str, Any] = {"teachers": teachers}
    if config.network == "lite0":
        record["pretrained"] = {
            "weights": "EfficientNet-Lite0, pretrained on ImageNet",
            "package": image_metrics.EFFLITE0_PACKAGE.replace("_", "-"),
            "sha256": image_metrics.EFFLITE0_SHA256,
        }
        inputs[image_metrics.EFFLITE0_FILE] = image_metrics.EFFLITE0_SHA256
    return record, inputs


def describe_student(
    run: Path, record: dict[str, Any], inputs: dict[str, str], config: ArGanDrConfig
) -> dict[str, Tensor]:
    """Into both: the earlier student that a run of config goes on from. -> its weights that the run
    begins with: all where the networks are the same or the run's is a wider one (`widened`), all
    but the last stage's and the head's where decoders differ, none of any other network's."""
    digest = checkpoint.sha256(run / "ema.safetensors")
    about = checkpoint.read_json(run / "config.json")
    before = about["settings"]
    weights = {}
    width, before_width = (DepthNet.WIDTHS.get(n, 0) for n in (config.network, before["network"]))
    narrower = 0 < before_width < width
    if before["network"] == config.network or narrower:
        left_out = () if before["decoder"] == config.decoder else DECODERS_DIFFER
        weights = checkpoint.load_floats(run / "ema.safetensors")
        weights = {name: w for name, w in weights.items() if not name.startswith(left_out)}
    if narrower:
        rng = torch.Generator().manual_seed(config.seed)
        weights = widened(weights, DepthNet(width, config.decoder == "light"), rng)
    parts = list(dict.fromkeys(name.split(".")[0] for name in weights))
    if weights and left_out:
        parts[parts.index("decoder")] = "decoder but for its last stage"
    if f"{run.name}/ema.safetensors" in inputs:
        raise InputError("the student's folder and a teacher's have one name: rename one of them")
    record["student"] = {"run": run.name, "sha256": digest, "begun_with": parts, "record": about}
    inputs[f"{run.name}/ema.safetensors"] = digest
    return weights


def load_depth_net(run: Path) -> tuple[DepthNet | Lite0DepthNet, ArGanDrConfig]:
    """The averaged depth network of a run."""
    about = checkpoint.read_json(run / "config.json")
    if about.get("method") != ArGanDr.name:
        raise InputError(f"{run} is a run of {about.get('method')}: give one of {ArGanDr.name}")
    config = build(ArGanDrConfig, about["settings"])
    network = depth_net(config.network, config.decoder)
    try:
        network.load_state_dict(checkpoint.load_floats(run / "ema.safetensors"))
    except RuntimeError as error:
        raise InputError(
            f"{run}: its weights are not those of its settings, or of an earlier version's"
            " network: train it again"
        ) from error
    return network.eval().requires_grad_(False), config


class TorchBackend:
    """A depth network as a backend of the runtime."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    @torch.no_grad()
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"disparity": self.network(torch.from_numpy(inputs["image"])).numpy()}


def refocuser(run: Path) -> Refocuser:
    """A run as the runtime would use it, without an export."""
    network, config = load_depth_net(run)
    described = bundle.Bundle(
        manifest={}, files={}, f_number=REFERENCE_F_NUMBER,
        image=bundle.Image("image", None, None, MULTIPLE, config.nominal),
        disparity=bundle.Disparity("disparity", *TYPICAL_RANGE),
    )  # fmt: skip
    return Refocuser(described, TorchBackend(network))
