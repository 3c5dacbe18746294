"""int8, searched: which ranges are best, which layers suffer, which stay in float.

A format has a `Graph` that can be quantised layer by layer (`argan_export.to_onnx.OnnxGraph`,
`argan_export.to_tflite.TFLiteGraph`). The search compares outputs with those of the same graph in
float32, on photos that it was not calibrated on; it sees no depth. Whether the depth is still right
is for `argan verify` to say, on data that nothing was chosen by.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from argan.metrics import psnr, spearman
from argan_export import calibration
from argan_export.calibration import Activations, Range

Array = NDArray[np.float32]
Inputs = Mapping[str, Array]  # as `argan.backends.Backend.run` takes them
SOME = 4  # photos that each layer is tried on
MAX_KEPT = 0.5  # of the layers: with more in float it is no int8 model


class Graph(Protocol):
    """A float32 graph of some format."""

    model: bytes
    layers: Sequence[str]  # that can be quantised, in the order in which they run

    def activations(self, inputs: Sequence[Inputs]) -> Activations:
        """{tensor: values} of all tensors that need a range, for one input after the other."""
        ...

    def quantized(self, ranges: Mapping[str, Range], layers: Collection[str]) -> bytes:
        """The graph with these layers, and what lies between them, in int8."""
        ...

    def run(self, model: bytes, inputs: Sequence[Inputs]) -> list[Array]:
        """The disparity that a version of the graph gives for each input."""
        ...


@dataclass(frozen=True)
class Drop:
    """How far a model's disparity is from that of the float32 graph, over all photos.

    rel_rmse        RMS difference over the deviation of the float32 disparity from its mean: the
                    share of the signal that is lost
    psnr_db         peak 1; worst_psnr_db: of the worst photo
    spearman        rank correlation, mean over photos
    """

    rel_rmse: float
    psnr_db: float
    worst_psnr_db: float
    spearman: float


@dataclass(frozen=True)
class Search:
    """What was tried, for the report.

    max_drop   the limit on `Drop.rel_rmse`
    methods    {method of calibration: Drop with every layer in int8}
    method     the best of them
    layers     {layer: psnr_db with that layer alone in int8}
    steps      [(layers in float, Drop)], until the limit is met or MAX_KEPT is reached
    kept       the layers in float
    met        whether the limit is met
    """

    max_drop: float
    methods: dict[str, Drop]
    method: str
    layers: dict[str, float]
    steps: list[tuple[list[str], Drop]] = field(default_factory=list)

    @property
    def kept(self) -> list[str]:
        return self.steps[-1][0]

    @property
    def drop(self) -> Drop:
        return self.steps[-1][1]

    @property
    def met(self) -> bool:
        return self.drop.rel_rmse <= self.max_drop

    def report(self) -> dict[str, Any]:
        """For quantization.json."""
        return _rounded(asdict(self) | {"kept": self.kept, "met": self.met})


def search(
    graph: Graph, calibrate: Sequence[Inputs], hold_out: Sequence[Inputs], max_drop: float
) -> tuple[dict[str, Range], Search]:
    """-> the ranges to quantise `graph` with, and the `Search` whose `kept` stay in float."""
    expected = graph.run(graph.model, hold_out)
    histograms = calibration.observe(lambda: graph.activations(calibrate))
    by_method = {name: calibration.ranges(histograms, name) for name in calibration.METHODS}

    def drop(ranges: Mapping[str, Range], layers: Collection[str], photos: int) -> Drop:
        got = graph.run(graph.quantized(ranges, layers), hold_out[:photos])
        return compare(got, expected[:photos])

    everything = len(hold_out)
    methods = {name: drop(found, graph.layers, everything) for name, found in by_method.items()}
    method = min(methods, key=lambda name: methods[name].rel_rmse)
    ranges = by_method[method]
    layers = {
        layer: drop(ranges, [layer], SOME).psnr_db
        for layer in tqdm(graph.layers, "layers", unit="layer", disable=None)
    }
    found = Search(max_drop, methods, method, layers)
    worst_first = sorted(layers, key=lambda layer: layers[layer])
    for kept in range(int(MAX_KEPT * len(layers)) + 1):
        float_layers = worst_first[:kept]
        rest = [layer for layer in graph.layers if layer not in float_layers]
        found.steps.append((float_layers, drop(ranges, rest, everything)))
        if found.met:
            break
    return ranges, found


def compare(got: Sequence[Array], expected: Sequence[Array]) -> Drop:
    """Of the same photos, one array each."""
    pairs = list(zip(got, expected, strict=True))
    error = float(np.mean([np.mean((g.astype(np.float64) - e) ** 2) for g, e in pairs]))
    signal = float(np.mean([np.var(e.astype(np.float64)) for e in expected]))
    return Drop(
        rel_rmse=math.sqrt(error / max(signal, 1e-12)),
        psnr_db=psnr(np.sqrt([error]), np.zeros(1)),
        worst_psnr_db=min(psnr(g, e) for g, e in pairs),
        spearman=float(np.mean([spearman(g.ravel(), e.ravel()) for g, e in pairs])),
    )


def _rounded(value: Any) -> Any:
    """To four significant digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(v) for key, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value
