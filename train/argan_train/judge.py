"""A judge of generated disparity on the toy world, where a network can be taught by true depth.

What a generator draws has no truth. There, its disparity is compared with that of a network which
has seen the toy world's true depth, and whose own error stands beside it. For measuring only:
nothing that is taught by depth may choose, start or teach a network of ours.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from argan_train import metrics
from argan_train.networks import DepthNet
from argan_train.toy import ToyWorld

SEEN = 64  # px at least at which the judge looks at pictures
SEED = 5_000  # training counts its seeds from 0, evaluation from 10,000


def train(size: int, steps: int = 500) -> DepthNet:
    """A depth network for toy pictures of `size` px, on the CPU: one to two minutes."""
    torch.manual_seed(0)
    world, network = ToyWorld(size, seed=SEED), DepthNet(16)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in tqdm(range(steps), "judge", unit="step", disable=None):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        batch = world.batch(16)
        image, truth = (_enlarge(torch.from_numpy(x)) for x in (batch.sharp, batch.disparity))
        loss = F.l1_loss(network(image), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


def rows(judge: DepthNet, image: Tensor, disparity: Tensor) -> dict[str, dict[str, float]]:
    """Generated images [N, 3, S, S] and their disparity [N, 1, S, S], on the CPU -> metrics against
    the judge's disparity, of the generated one and of the radial prior; and the judge's own error
    on as many unseen scenes. Relative RMSE (1 = a constant) and Spearman, means over pictures."""
    count, size = len(image), image.shape[-1]
    judged = _look(judge, image)
    unseen = ToyWorld(size, seed=SEED + 1).batch(count)
    own = _look(judge, torch.from_numpy(unseen.sharp))
    radial = np.broadcast_to(metrics.baselines(size, size)["radial"], judged.shape)
    return {
        "generated disparity": _mean_scores(disparity[:, 0].numpy(), judged),
        "radial prior, same images": _mean_scores(radial, judged),
        "the judge's own error": _mean_scores(own, unseen.disparity[:, 0]),
    }


@torch.no_grad()
def _look(judge: DepthNet, pictures: Tensor) -> NDArray[np.floating]:
    """[N, 3, S, S] -> disparity [N, S, S]."""
    seen = torch.cat([judge(_enlarge(part)) for part in pictures.split(64)])
    return F.interpolate(seen, size=pictures.shape[-2:], mode="area")[:, 0].numpy()


def _enlarge(pictures: Tensor) -> Tensor:
    side = max(SEEN, pictures.shape[-1])
    return F.interpolate(pictures, size=(side, side), mode="bilinear")


def _mean_scores(predicted: NDArray[np.floating], truth: NDArray[np.floating]) -> dict[str, float]:
    """[N, S, S] against [N, S, S]."""
    known = np.ones(truth.shape[1:], bool)
    scores = [
        metrics.depth_scores(p, t, known, ratios=False)
        for p, t in zip(predicted, truth, strict=True)
    ]
    return {key: float(np.mean([s[key] for s in scores])) for key in ("rel_rmse", "spearman")}
