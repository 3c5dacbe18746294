"""One batch shared by several processes (`torchrun`), with the same numbers as in one process.

Every process draws the whole batch's random numbers and takes its own share of them; batch
statistics and gradients are means over all shares. Started without torchrun, nothing here costs
anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from argan.errors import InputError


def start(device: torch.device) -> torch.device:
    """Join the group that torchrun set up, if it did. -> this process's device"""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if device.index is not None:
            torch.cuda.set_device(device)  # streams and graphs are of the current one
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def stop() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world() > 1 else 0


def check_batch(batch: int) -> None:
    if batch % (2 * world()):
        raise InputError(
            f"a batch of {batch} over {world()} processes: use a multiple of {2 * world()}"
        )


def share(batch: Tensor) -> Tensor:
    """This process's rows of a batch [N, ...]: every world-th, so that what the batch has in its
    first half each share has in its own."""
    return batch[rank() :: world()] if world() > 1 else batch


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # every process's loss depends on the sum
        return _sum(gradient)


_sum: Callable[[Tensor], Tensor] = _Sum.apply


def mean(value: Tensor) -> Tensor:
    """Over the processes; gradients flow through it, second ones too."""
    return _sum(value) / world() if world() > 1 else value


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    if world() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = _flatten_dense_tensors(gradients)
    dist.all_reduce(flat)
    for own, mean_of_all in zip(
        gradients, _unflatten_dense_tensors(flat / world(), gradients), strict=True
    ):
        own.copy_(mean_of_all)


def any_of(flag: bool, device: torch.device) -> bool:
    """Does any process say so?"""
    if world() == 1:
        return flag
    votes = torch.tensor(float(flag), device=device)
    dist.all_reduce(votes)
    return bool(votes > 0)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the whole batch (torch's SyncBatchNorm knows GPUs alone)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world() == 1:
            return super().forward(x)
        exact = x.float()
        average = mean(exact.mean(dim=(0, 2, 3)))
        from_mean = exact - average[:, None, None]
        variance = mean(from_mean.square().mean(dim=(0, 2, 3)))
        self._remember(average.detach(), variance.detach(), world() * x.numel() // x.shape[1])
        out = from_mean * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            out = out * self.weight[:, None, None] + self.bias[:, None, None]
        return out.to(x.dtype)

    @torch.no_grad()
    def _remember(self, average: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            raise TypeError("running statistics and a fixed momentum are needed")
        self.running_mean.lerp_(average, self.momentum)
        self.running_var.lerp_(variance * count / max(count - 1, 1), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
