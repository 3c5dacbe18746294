"""PyTorch -> Core ML: an ML program for iOS 16, as the files of its .mlpackage. Works on Linux.

Weights of `int8` and `palette6` are compressed, arithmetic stays fp16: integer activations would
have to be calibrated on a Mac.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from argan.errors import InputError, MissingExtraError
from argan_export.quiet import quiet

PRECISIONS = ("fp32", "fp16", "int8", "palette6")
SPECIFICATION = "com.apple.CoreML/model.mlmodel"
WEIGHTS = "com.apple.CoreML/weights"
# A weight of fewer values stays fp16: coremltools' default. It spares the depthwise convolutions,
# which lose most and hold little.
LEAST_VALUES = 2048
PALETTE_BITS = 6
LLOYD_STEPS = 50


def to_coreml(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    precision: str,
    image_input: bool = True,
    flexible: tuple[int, int] | None = (32, 2048),
) -> dict[str, bytes]:
    """Relative file name in the .mlpackage -> content; the same bytes every time.

    network      in evaluation mode; takes `inputs` in their order, gives `outputs` in theirs
    inputs       examples. Their sizes are the default ones, which is where a phone's Neural Engine
                 runs a flexible program: give them the size most photos will have
    image_input  inputs [1, 3, H, W] become images, RGB of 8 bits, and the program divides by 255;
                 otherwise they are float32 arrays in 0..1, as all other inputs and the outputs are
    flexible     least and largest H and W of inputs [1, C, H, W], or None where they are fixed.
                 Core ML can't declare steps: that sides are multiples of 32 is the caller's to keep
    """
    if precision not in PRECISIONS:
        raise InputError(f"{precision} is no precision of Core ML; use one of {PRECISIONS}")
    assert not network.training
    with quiet():
        ct = import_coremltools()
        correct_ops()
        examples = tuple(inputs.values())
        if not flexible:  # makes constants of sizes, by which coremltools can't slice
            network = torch.export.export(network, examples).module()
        traced = torch.jit.trace(network, examples, check_trace=False)
        ports = [port(ct, name, x, image_input, flexible) for name, x in inputs.items()]
        model = ct.convert(
            traced,
            convert_to="mlprogram",
            inputs=ports,
            outputs=[ct.TensorType(name=name, dtype=np.float32) for name in outputs],
            minimum_deployment_target=ct.target.iOS16,
            compute_precision=getattr(
                ct.precision, "FLOAT32" if precision == "fp32" else "FLOAT16"
            ),
            skip_model_load=True,
        )
        if precision in ("int8", "palette6"):
            model = compressed(model, precision)
        return package(model.get_spec(), Path(model.weights_dir))


def import_coremltools() -> Any:
    try:
        import coremltools
    except ImportError as error:
        raise MissingExtraError("coremltools", "coreml") from error
    return coremltools


def correct_ops() -> None:
    """Of coremltools 9.0: its reciprocal is 1 / (x + 1e-4), its clamp_min and clamp_max refuse
    whole numbers."""
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil import register_torch_op
    from coremltools.converters.mil.frontend.torch.ops import _get_inputs

    def reciprocal(context: Any, node: Any) -> None:
        (x,) = _get_inputs(context, node, expected=1)
        context.add(mb.real_div(x=1.0, y=x, name=node.name))

    def clamp_min(context: Any, node: Any) -> None:
        x, limit = _get_inputs(context, node, expected=2)
        context.add(mb.maximum(x=x, y=float(limit.val), name=node.name))

    def clamp_max(context: Any, node: Any) -> None:
        x, limit = _get_inputs(context, node, expected=2)
        context.add(mb.minimum(x=x, y=float(limit.val), name=node.name))

    for op in (reciprocal, clamp_min, clamp_max):  # known by its name
        register_torch_op(op, override=True)


def port(
    ct: Any, name: str, example: Tensor, image_input: bool, flexible: tuple[int, int] | None
) -> Any:
    """What coremltools calls an input type."""
    shape: list[Any] = list(example.shape)
    if flexible and example.dim() == 4:
        shape[2:] = [ct.RangeDim(*flexible, default=side) for side in shape[2:]]
    if image_input and example.dim() == 4 and example.shape[1] == 3:
        return ct.ImageType(
            name, shape=ct.Shape(shape), scale=1 / 255, color_layout=ct.colorlayout.RGB
        )
    return ct.TensorType(name, shape=ct.Shape(shape), dtype=np.float32)


def compressed(model: Any, precision: str) -> Any:
    """The model with weights of 8 bits per channel, or of a palette of 64 values per layer."""
    import coremltools.optimize.coreml as cto

    if precision == "int8":
        linear = cto.OpLinearQuantizerConfig(
            mode="linear_symmetric", granularity="per_channel", weight_threshold=LEAST_VALUES
        )
        return cto.linear_quantize_weights(model, cto.OptimizationConfig(linear))
    lookup = cto.OpPalettizerConfig(
        mode="custom", lut_function=palette, weight_threshold=LEAST_VALUES
    )
    return cto.palettize_weights(model, cto.OptimizationConfig(lookup))


def palette(weight: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """k-means in one dimension, without chance: -> 64 values [64], and which of them each weight
    is [weight.size]. Lloyd's iteration (1982) from clusters as dense as the cube root of the
    weights' density, which is best where there are many (Panter and Dite 1951)."""
    values = np.sort(weight.ravel().astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    count, bins = np.histogram(values, bins=256)
    density = np.concatenate([[0.0], np.cumsum(np.cbrt(count))])
    clusters = np.linspace(0, density[-1], 2**PALETTE_BITS + 1)
    edges = np.searchsorted(values, np.interp(clusters, density, bins))
    edges[[0, -1]] = 0, len(values)
    for _ in range(LLOYD_STEPS):
        sizes = np.diff(edges)
        centres = np.where(sizes, np.diff(sums[edges]) / np.maximum(sizes, 1), values[0])
        centres = np.maximum.accumulate(centres)  # an empty cluster is its neighbour's twin
        edges[1:-1] = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
    lookup = centres.astype(weight.dtype)
    between = (lookup[1:].astype(np.float64) + lookup[:-1]) / 2
    return lookup, np.searchsorted(between, weight.ravel()).astype(np.uint8)


def package(specification: Any, weights: Path) -> dict[str, bytes]:
    """The package's files, without what differs from day to day: dates, random identifiers."""
    specification.description.metadata.userDefined.pop(
        "com.github.apple.coremltools.conversion_date", None
    )
    files = {f"Data/{SPECIFICATION}": specification.SerializeToString(deterministic=True)}
    for path in sorted(weights.iterdir()):
        files[f"Data/{WEIGHTS}/{path.name}"] = path.read_bytes()
    parts = [("Core ML model specification", "model.mlmodel", SPECIFICATION)]
    if len(files) > 1:
        parts.append(("Core ML model weights", "weights", WEIGHTS))
    return {"Manifest.json": manifest(parts), **files}


def manifest(parts: Sequence[tuple[str, str, str]]) -> bytes:
    """parts: description, name and path of each, the specification first. Core ML tells them apart
    by UUIDs, which may be any."""
    entries = {
        f"00000000-0000-4000-8000-{i:012d}": {
            "author": "com.apple.CoreML", "description": about, "name": name, "path": path,
        }
        for i, (about, name, path) in enumerate(parts)
    }  # fmt: skip
    content = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": next(iter(entries)),
    }
    return json.dumps(content, indent=4).encode()
