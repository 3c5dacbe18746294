"""A training step recorded once as a CUDA graph: a replay launches it whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Step = Callable[[dict[str, Tensor]], dict[str, Tensor]]
REHEARSALS = 3  # before the recording, as CUDA graphs want: libraries choose their kernels


class Captured:
    """step(inputs) -> outputs, on one GPU; inputs keep their shapes, outputs are overwritten by the
    next call. `state` is all that the step changes: the rehearsals leave it as it was."""

    def __init__(
        self,
        step: Step,
        inputs: dict[str, Tensor],
        state: Iterable[nn.Module | torch.optim.Optimizer],
    ) -> None:
        parts = list(state)
        self.inputs = {name: value.clone() for name, value in inputs.items()}
        before = {id(t): t.clone() for t in _tensors(parts)}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(REHEARSALS):
                step(self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        with torch.no_grad():
            for tensor in _tensors(parts):
                # Adam makes its moments in its first step: they begin at zero.
                tensor.copy_(before.get(id(tensor), torch.zeros_like(tensor)))
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = step(self.inputs)

    def __call__(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        for name, value in inputs.items():
            self.inputs[name].copy_(value)
        self.graph.replay()
        return self.outputs


def _tensors(parts: Iterable[nn.Module | torch.optim.Optimizer]) -> list[Tensor]:
    """Parameters, buffers and moments themselves, not copies."""
    found: list[Tensor] = []
    for part in parts:
        if isinstance(part, nn.Module):
            found += list(part.state_dict(keep_vars=True).values())
        else:
            found += [t for state in part.state.values() for t in state.values()]
    return found
