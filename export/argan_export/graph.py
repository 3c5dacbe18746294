"""What is exported: trained networks as graphs with named inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from argan_export.variants import Graph
from argan_train import checkpoint
from argan_train.ar_gan_dr import TYPICAL_RANGE, load_depth_net


@dataclass(frozen=True)
class DepthGraph:
    """photo [1, 3, H, W] sRGB 0..1 -> disparity [1, 1, H, W]; H and W multiples of 32.

    network  in evaluation mode
    nominal  px: photos are scaled to about nominal^2
    range    of the disparity in a typical photo: background, subject
    run      the folder's name; record: its config.json; checkpoint: sha256 of the weights
    """

    network: nn.Module
    nominal: int
    range: tuple[float, float]
    run: str
    record: dict[str, Any]
    checkpoint: str

    def graph(self, sizes: Sequence[tuple[int, int]]) -> Graph:
        """To be made in several formats; `sizes` are those of TFLite."""
        side = max(self.nominal, 64)  # Core ML's default size; at 32 px a map of 1 px is no example
        example = torch.zeros(1, 3, side, side)
        return Graph("disparity", self.network, {"image": example}, ["disparity"], sizes)


def depth_graph(run: Path) -> DepthGraph:
    """The averaged depth network of an AR-GAN-DR run."""
    network, config = load_depth_net(run)
    return DepthGraph(
        network=network,
        nominal=config.nominal,
        range=TYPICAL_RANGE,
        run=run.name,
        record=checkpoint.read_json(run / "config.json"),
        checkpoint=checkpoint.sha256(run / "ema.safetensors"),
    )


def refocus_graph(run: DepthGraph, height: int, width: int) -> Graph:
    """The whole chain at one size; the examples are a focus and a blur in the middle of theirs."""
    from argan_export.layered import RefocusGraph

    network = RefocusGraph(run.network, run.range, run.nominal, height, width).eval()
    inputs = {
        "image": torch.zeros(1, 3, height, width),
        "focus": torch.tensor([0.7]),
        "blur": torch.tensor([0.02 * width]),
    }
    return Graph(
        "refocus", network, inputs, ["bokeh", "disparity"], [(height, width)], within="network"
    )


def golden_input(height: int, width: int) -> torch.Tensor:
    """A seeded picture [1, 3, height, width] of a subject with petals before a background, with
    smooth parts, edges and grain, of 8 bits: graphs that take whole numbers see the same.

    A network is sure of its depth, as it is of a photo's. Where nothing is in front it is not, and
    the least rounding tips it over: int8 is then anything from 32 to 41 dB by luck.
    """
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 6, 6, generator=rng)
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    blocks = nn.functional.interpolate(coarse[:1].flip(-1), size=(height, width), mode="nearest")
    y, x = ((torch.arange(side) - side / 2 + 0.5) / min(height, width) for side in (height, width))
    y, x = torch.meshgrid(y, x, indexing="ij")
    petals = torch.hypot(x, y) < 0.275 + 0.07 * torch.cos(5 * torch.atan2(y, x))
    picture = torch.where(petals, 0.4 + 0.6 * smooth[1:], 0.6 * smooth[:1] + 0.4 * blocks)
    grain = torch.randn(picture.shape, generator=rng) * 0.02
    return ((picture + grain).clamp(0, 1) * 255).round() / 255
