"""One small network in every format: what a conversion costs is paid once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

DAHLIA = Path(__file__).parents[2] / "examples" / "dahlia.jpg"
SIZES = ((64, 64), (64, 96))


class Tiny(nn.Module):
    """The ops and the wiring of the depth networks, with one level instead of five."""

    def __init__(self) -> None:
        super().__init__()
        from argan_train.networks import Separable

        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()
        )
        self.encoder = nn.ModuleList(
            [Separable(8, 12, stride=2, expand=1), Separable(12, 12, expand=1)]
        )
        self.decoder = nn.ModuleList([Separable(12 + 8, 8, expand=1)])
        self.head = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        from argan_train.networks import decode

        features = [self.stem(image * 4 - 2)]
        x = features[-1]
        for stage in self.encoder:
            x = stage(x)
        return decode(self.decoder, self.head, [*features, x])


class Lens(nn.Module):
    """Two inputs and two outputs, and a convolution that must stay in float."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
        self.blot = nn.Conv2d(3, 3, 3, padding=1, groups=3)

    def forward(self, image: Tensor, focus: Tensor) -> tuple[Tensor, Tensor]:
        disparity = torch.sigmoid(self.network(image))
        return self.blot(image) * (disparity - focus), disparity


@pytest.fixture(scope="session")
def tiny() -> nn.Module:
    """Taught for a second or two to see blurred brightness: like trained networks, and unlike
    random ones, it doesn't turn small errors into large ones."""
    torch.manual_seed(0)
    network = Tiny()
    photos = torch.cat([torch.from_numpy(p) for p in crops((64, 64), 24)])
    blurred = F.avg_pool2d(photos.mean(dim=1, keepdim=True), 9, 1, 4, count_include_pad=False)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(40):
        pick = torch.arange(8 * step, 8 * step + 8) % len(photos)
        loss = F.l1_loss(network(photos[pick]), blurred[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def onnx_model(tiny: nn.Module) -> bytes:
    from argan_export.to_onnx import to_onnx

    return to_onnx(tiny, {"image": torch.zeros(1, 3, 64, 96)}, ["disparity"])


@pytest.fixture(scope="session")
def tflite_model(tiny: nn.Module) -> bytes:
    pytest.importorskip("litert_torch")
    from argan_export.to_tflite import to_tflite

    return to_tflite(tiny, {"image": torch.zeros(1, 3, 64, 64)}, ["disparity"], SIZES)


def crops(size: tuple[int, int], count: int, seed: int = 0) -> list[np.ndarray]:
    """Parts of a real photo, float32 [1, 3, H, W] in 0..1."""
    rng = np.random.default_rng(seed)
    found = []
    with Image.open(DAHLIA) as photo:
        for _ in range(count):
            side = int(rng.integers(128, min(photo.size)))
            left, top = (int(rng.integers(0, n - side + 1)) for n in photo.size)
            part = photo.resize(size[::-1], box=(left, top, left + side, top + side))
            found.append(np.asarray(part, np.float32).transpose(2, 0, 1)[None] / np.float32(255))
    return found


@pytest.fixture(scope="session")
def photos() -> Callable[..., list[dict[str, np.ndarray]]]:
    """photos(size, count, seed) -> inputs of a graph, other parts of a photo for another seed."""
    return lambda size, count, seed=0: [{"image": image} for image in crops(size, count, seed)]


@pytest.fixture(scope="session")
def lens() -> nn.Module:
    torch.manual_seed(1)
    return Lens().eval().requires_grad_(False)
