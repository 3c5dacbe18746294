"""Networks made ready for export: batch norms folded, and the layout and type of their ports."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode in which each batch norm that follows a convolution in an
    `nn.Sequential` is part of that convolution: fewer ops to convert, the same function."""
    folded = copy.deepcopy(network).eval()
    for layers in folded.modules():
        if not isinstance(layers, nn.Sequential):
            continue
        for i in range(len(layers) - 1):
            conv, norm = layers[i], layers[i + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                layers[i], layers[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return folded


class EightBit(nn.Module):
    """Takes its first input, the image, as uint8 in 0..255; `network` takes it in 0..1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.network(image.to(torch.float32) / 255, *others)


class ChannelsLast(nn.Module):
    """Pictures as phones have them, [1, H, W, C]; named inputs give named outputs."""

    def __init__(self, network: nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.network, self.outputs = network, tuple(outputs)

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        results = self.network(
            *(x.permute(0, 3, 1, 2) if x.ndim == 4 else x for x in inputs.values())
        )
        results = results if isinstance(results, tuple) else (results,)
        return {
            name: y.permute(0, 2, 3, 1) if y.ndim == 4 else y
            for name, y in zip(self.outputs, results, strict=True)
        }
