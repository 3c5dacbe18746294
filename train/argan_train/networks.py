"""AR-GAN's networks: generator, depth expansion, discriminator; and AR-GAN-DR's depth network.

z [N, latent] -> Generator -> image [N, 3, S, S] sRGB 0..1, disparity [N, 1, S, S] px (0 = in focus)
image [N, 3, H, W] sRGB 0..1 -> DepthNet -> disparity [N, 1, H, W] in 0..1 (1 = nearest)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from argan_train import distributed
from argan_train.distributed import BatchNorm2d


def stage_channels(size: int, width: int) -> dict[int, int]:
    """Channels at each resolution from 4 to `size`: `width` at the last, doubling down to 4x."""
    sizes = [4 << i for i in range(size.bit_length() - 2)]
    if sizes[-1] != size:
        raise ValueError(f"size {size}: use a power of two from 8")
    return {s: min(width * size // s, width * 4) for s in sizes}


class LatentNorm(nn.Module):
    """Batch norm whose scale and shift come from the latent (self-modulation, Chen et al. 2019)."""

    def __init__(self, channels: int, latent: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(channels, affine=False)
        self.affine = nn.Linear(latent, 2 * channels)
        nn.init.normal_(self.affine.weight, std=0.02)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        scale, shift = self.affine(z)[:, :, None, None].chunk(2, dim=1)
        return self.norm(x) * (1 + scale) + shift


def doubled_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv(x enlarged twice, nearest), 3 x 3, in 4/9 of the work: equal pixels meet
    sums of the kernel's weights, which makes it a transposed convolution of 4 x 4."""
    wide = F.pad(conv.weight, (1, 1, 1, 1))
    kernel = wide[..., 1:, 1:] + wide[..., :-1, 1:] + wide[..., 1:, :-1] + wide[..., :-1, :-1]
    kernel = kernel.flip(2, 3).transpose(0, 1)
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


class UpBlock(nn.Module):
    """Residual block that doubles the resolution between its two convolutions."""

    def __init__(self, inputs: int, outputs: int, latent: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LatentNorm(inputs, latent), LatentNorm(outputs, latent)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x, z)))
        h = self.doubled(F.relu(self.norm2(h, z)))  # a norm's statistics survive the enlargement
        return h + F.interpolate(self.skip(x), scale_factor=2.0, mode="nearest")

    def doubled(self, h: Tensor) -> Tensor:
        return doubled_conv(h, self.conv2)


class Generator(nn.Module):
    """z -> the all-in-focus image and its disparity.

    The disparity leaves the trunk at `depth_size`, coarser than the image, and is enlarged
    smoothly: a head at full size learns an edge map (blurring a smooth region costs nothing, so the
    game can be won without depth).
    """

    def __init__(
        self,
        size: int,
        width: int,
        latent: int,
        depth_size: int,
        max_blur_px: float,
        expanded_views: int = 0,
    ) -> None:
        super().__init__()
        channels = stage_channels(size, width)
        self.size, self.latent, self.depth_size = size, latent, depth_size
        self.max_blur_px = max_blur_px
        self.base = channels[4]
        self.stem = nn.Linear(latent, self.base * 16)
        sizes = list(channels)
        self.blocks = nn.ModuleList(
            UpBlock(channels[a], channels[b], latent)
            for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.image_norm = BatchNorm2d(channels[size])
        self.image_head = nn.Conv2d(channels[size], 3, 3, padding=1)
        self.depth_norm = BatchNorm2d(channels[depth_size])
        self.depth_head = nn.Sequential(
            nn.Conv2d(channels[depth_size], 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 1, 3, padding=1),
        )
        self.expansion = DepthExpansion(expanded_views) if expanded_views else None

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z [N, latent] -> image [N, 3, S, S] in 0..1 sRGB, disparity [N, 1, S, S] px."""
        x = self.stem(z).view(-1, self.base, 4, 4)
        depth = x
        for block in self.blocks:
            x = block(x, z)
            if x.shape[-1] == self.depth_size:
                depth = self._head(self.depth_norm, self.depth_head, x)
        image = torch.sigmoid(self._head(self.image_norm, self.image_head, x))
        depth = F.interpolate(depth, size=(self.size, self.size), mode="bilinear")
        return image, self.max_blur_px * torch.tanh(depth)

    @staticmethod
    def _head(norm: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        """In float32 also under autocast: bfloat16 has fewer levels than a photo."""
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = head(F.relu(norm(x.float())))
        return out


class DepthExpansion(nn.Module):
    """T, the paper's M(x, u) = T(D_u): corrects the disparity of all views at once, residually."""

    def __init__(self, views: int, hidden: int = 32) -> None:
        super().__init__()
        self.inner = nn.Conv2d(views, hidden, 3, padding=1)
        self.norm = BatchNorm2d(hidden)
        self.outer = nn.Conv2d(hidden, views, 3, padding=1)
        for parameter in self.outer.parameters():  # starts as the identity
            nn.init.zeros_(parameter)

    def forward(self, disparity: Tensor) -> Tensor:
        """[N, V, H, W] px -> [N, V, H, W] px."""
        return disparity + torch.tanh(self.outer(self.norm(F.elu(self.inner(disparity)))))


class DownBlock(nn.Module):
    """Residual block that halves the resolution between its two convolutions; no normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.avg_pool2d(F.leaky_relu(self.conv1(F.leaky_relu(x, 0.2)), 0.2), 2)
        return self.conv2(h) + self.skip(F.avg_pool2d(x, 2))


class Discriminator(nn.Module):
    """image [N, 3, S, S] sRGB 0..1 -> logits [N], higher = more like a photo."""

    def __init__(self, size: int, width: int, normalise: bool = False) -> None:
        """normalise: spectral norm (Miyato et al. 2018) of every layer."""
        super().__init__()
        channels = stage_channels(size, width)
        sizes = list(channels)[::-1]
        self.stem = nn.Conv2d(3, channels[size], 3, padding=1)
        self.blocks = nn.ModuleList(
            DownBlock(channels[a], channels[b]) for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.mix = nn.Conv2d(channels[4] + 1, channels[4], 3, padding=1)
        self.head = nn.Linear(channels[4] * 16, 1)
        if normalise:
            for layer in [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear)]:
                spectral_norm(layer)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image * 2 - 1)
        for block in self.blocks:
            x = block(x)
        x = F.leaky_relu(self.mix(torch.cat([x, batch_deviation(x)], dim=1)), 0.2)
        return self.head(x.flatten(1))[:, 0].float()


def batch_deviation(x: Tensor) -> Tensor:
    """Minibatch standard deviation (Karras et al. 2018): [N, C, H, W] -> a map [N, 1, H, W].

    Shows the discriminator a collapse that no single image shows.
    """
    exact = x.float()
    from_mean = exact - distributed.mean(exact.mean(dim=0))
    variance = distributed.mean(from_mean.square().mean(dim=0))
    deviation = (variance + 1e-8).sqrt().mean()
    return deviation.to(x.dtype).expand(x.shape[0], 1, *x.shape[2:])


class Separable(nn.Module):
    """Inverted residual (Sandler et al. 2018): expand 1x1 (not where `expand` is 1), depthwise
    k x k, project 1x1."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int = 1,
        expand: int = 4,
        kernel: int = 3,
        conv: type[nn.Conv2d] = nn.Conv2d,
    ) -> None:
        super().__init__()
        inner = inputs * expand
        self.residual = stride == 1 and inputs == outputs
        expansion = [nn.Conv2d(inputs, inner, 1, bias=False), BatchNorm2d(inner), nn.ReLU6()]
        self.layers = nn.Sequential(
            *(expansion if expand > 1 else []),
            conv(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False),
            BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, outputs, 1, bias=False),
            BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class DepthNet(nn.Module):
    """AR-GAN-DR: photo -> disparity, from ops that every phone accelerator has and int8 survives
    (convolution, depthwise convolution, ReLU6, bilinear enlargement, concatenation).

    width  parameters, light | wide  multiplications at 256 x 256 (`benchmarks/networks.py`)
    16     0.31 | 0.32 M             0.21 | 0.28 G   "nano"
    32     1.20 | 1.22 M             0.77 | 1.04 G   "small"
    64     4.70 | 4.76 M             2.98 | 4.02 G   "base"
    """

    WIDTHS = {"nano": 16, "small": 32, "base": 64}

    def __init__(self, width: int, light: bool = False) -> None:
        """light: see `make_decoder`."""
        super().__init__()
        stages = [width, width * 3 // 2, width * 2, width * 4, width * 6]  # at 1/2, 1/4 ... 1/32
        self.stem = nn.Sequential(
            nn.Conv2d(3, stages[0], 3, 2, 1, bias=False), BatchNorm2d(stages[0]), nn.ReLU6()
        )
        self.encoder = nn.ModuleList(
            nn.Sequential(Separable(a, b, stride=2), Separable(b, b))
            for a, b in zip(stages[:-1], stages[1:], strict=True)
        )
        self.decoder, self.head = make_decoder(stages, light)

    def forward(self, image: Tensor) -> Tensor:
        """[N, 3, H, W] sRGB 0..1, H and W multiples of 32 -> [N, 1, H, W] in 0..1."""
        features = [self.stem(image * 4 - 2)]
        for stage in self.encoder:
            features.append(stage(features[-1]))
        return decode(self.decoder, self.head, features)


def widened(
    weights: Mapping[str, Tensor], wide: DepthNet, rng: torch.Generator
) -> dict[str, Tensor]:
    """Weights of a DepthNet with half, a quarter ... of the channels, for `wide`, which computes
    the same with them (Net2WiderNet, Chen et al. 2016): each channel is there twice, and what reads
    such a pair takes a random share of one and the rest of the other, so that they learn apart."""
    shapes = {name: tensor.shape for name, tensor in wide.state_dict().items()}
    weights = {name: weights[name] for name in sorted(weights)}  # the order of what rng draws
    while any(tensor.shape != shapes[name] for name, tensor in weights.items()):
        for name, tensor in weights.items():
            outputs, inputs = (tensor.shape[:2] + (1, 1))[:2]
            wanted = (shapes[name] + (1, 1))[:2]
            if outputs < wanted[0]:
                tensor = tensor.repeat_interleave(2, dim=0)
            if inputs < wanted[1]:
                share = torch.rand(len(tensor), inputs, 1, 1, generator=rng)
                pair = torch.stack([share * tensor, (1 - share) * tensor], dim=2)
                tensor = pair.flatten(1, 2)
            weights[name] = tensor
    return weights


def make_decoder(stages: list[int], light: bool) -> tuple[nn.ModuleList, nn.Conv2d]:
    """Decoder and head for features of `stages` channels at 1/2, 1/4 ... 1/32. A light one spares
    where most of the work is: no expansion at 1/2, and a head of 1 x 1 (of one channel, 3 x 3 cost
    as much as of eight on a CPU)."""
    last = len(stages) - 2
    decoder = nn.ModuleList(
        Separable(below + here, here, expand=1 if light and i == last else 2)
        for i, (below, here) in enumerate(zip(stages[:0:-1], stages[-2::-1], strict=True))
    )
    kernel = 1 if light else 3
    return decoder, nn.Conv2d(stages[0], 1, kernel, padding=kernel // 2)


def decode(decoder: nn.ModuleList, head: nn.Module, features: list[Tensor]) -> Tensor:
    """Features at 1/2, 1/4 ... 1/32 -> disparity [N, 1, H, W] in 0..1."""
    x = features.pop()
    for stage in decoder:
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = stage(torch.cat([x, features.pop()], dim=1))
    x = F.interpolate(head(x), scale_factor=2.0, mode="bilinear", align_corners=False)
    return torch.sigmoid(x)


class SameConv2d(nn.Conv2d):
    """Padded as TensorFlow's SAME: at stride 2, even sizes, one pixel less before than after."""

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == (1, 1):
            return super().forward(x)
        margin = self.kernel_size[0] - 2
        before, after = margin // 2, margin - margin // 2
        x = F.pad(x, (before, after, before, after))
        return F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)


class Lite0DepthNet(nn.Module):
    """AR-GAN-DR with another encoder: EfficientNet-Lite0 (Tan and Le 2019; no SE, ReLU6), to be
    pretrained on ImageNet, which AR-GAN itself does without. Decoder and head as `DepthNet`.

    light | wide: 3.52 M parameters, 0.73 | 0.80 G multiplications at 256 x 256.
    """

    # Repeats, kernel, stride, expansion, channels; of B0, and nothing is scaled.
    STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
              (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip
    TAPS = (0, 2, 4, 10, 15)  # the last blocks at 1/2, 1/4 ... 1/32

    def __init__(self, light: bool = False) -> None:
        """light: see `make_decoder`."""
        super().__init__()
        self.stem = nn.Sequential(SameConv2d(3, 32, 3, 2, bias=False), BatchNorm2d(32), nn.ReLU6())
        blocks, inputs = [], 32
        for repeats, kernel, stride, expand, outputs in self.STAGES:
            for i in range(repeats):
                step = stride if i == 0 else 1
                blocks.append(Separable(inputs, outputs, step, expand, kernel, SameConv2d))
                inputs = outputs
        self.encoder = nn.ModuleList(blocks)
        for layer in self.modules():
            if isinstance(layer, BatchNorm2d):
                layer.eps = 1e-3  # TensorFlow's
        self.decoder, self.head = make_decoder([16, 24, 40, 112, 320], light)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """The encoder's batch norms stay at the statistics that it begins with, those of real
        photos; a batch of lessons is small, and half of it is made up."""
        super().train(mode)
        for layer in self.pretrained().modules():
            if isinstance(layer, BatchNorm2d):
                layer.eval()
        return self

    def pretrained(self) -> nn.ModuleList:
        """What `load_imagenet` fills."""
        return nn.ModuleList([self.stem, self.encoder])

    def load_imagenet(self, state: dict[str, Tensor]) -> None:
        """The state dict of the PyPI package: its tensors have other names and the same order."""
        trunk = [v for k, v in state.items() if not k.startswith(("_conv_head", "_bn1", "_fc"))]
        own = self.pretrained().state_dict()
        self.pretrained().load_state_dict(dict(zip(own, trunk, strict=True)))

    def forward(self, image: Tensor) -> Tensor:
        """[N, 3, H, W] sRGB 0..1, H and W multiples of 32 -> [N, 1, H, W] in 0..1."""
        return decode(self.decoder, self.head, self.features(image))

    def features(self, image: Tensor) -> list[Tensor]:
        """At 1/2, 1/4 ... 1/32."""
        x, found = self.stem(image * (255 / 128) - 127 / 128), []  # as it was pretrained
        for i, block in enumerate(self.encoder):
            x = block(x)
            if i in self.TAPS:
                found.append(x)
        return found


def depth_net(name: str, decoder: str) -> DepthNet | Lite0DepthNet:
    """By the settings `network` and `decoder`; untrained."""
    light = decoder == "light"
    return Lite0DepthNet(light) if name == "lite0" else DepthNet(DepthNet.WIDTHS[name], light)
