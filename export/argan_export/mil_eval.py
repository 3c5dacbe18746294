"""Runs Core ML's ML programs without a Mac: each MIL op of an .mlpackage, computed by torch.

    MilProgram("model.fp16.mlpackage").run({"image": photo})["disparity"]

Checks the program, its weights and what half precision does to them; says nothing of how the
Neural Engine computes or how fast. coremltools reads the program and unpacks compressed weights.
Semantics: coremltools' MIL reference, opsets iOS 15 and 16. An op, an input of an op or a value
that is not handled here is an error that names it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from argan.backends import Port, Signature
from argan.errors import BundleError, InputError, MissingFileError
from argan_export.quiet import quiet
from argan_export.to_coreml import SPECIFICATION, WEIGHTS, import_coremltools

Types = Literal["declared", "float32"]
IMAGE = "imageType"
# An op computes in float32; its result is rounded to its declared type, and kept as float32.
DTYPES = {"fp16": torch.float32, "fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}


class MilProgram:
    """`package`: the path of an .mlpackage, or its files, relative name -> content. A model like
    those of `argan.backends`. MissingFileError or BundleError where it can't be read."""

    def __init__(self, package: str | os.PathLike[str] | Mapping[str, bytes]) -> None:
        self.description, self.function = read(package)
        images = {p.name for p in self.description.input if p.type.WhichOneof("Type") == IMAGE}
        inputs = [
            Port(name, sides(var), np.dtype(np.uint8 if name in images else np.float32))
            for name, var in self.function.inputs.items()
        ]
        outputs = [
            Port(var.name, sides(var), np.dtype(np.float32)) for var in self.function.outputs
        ]
        self.signatures = (Signature("", tuple(inputs), tuple(outputs)),)

    def run(
        self, inputs: Mapping[str, Any], signature: str = "", *, types: Types = "declared"
    ) -> dict[str, NDArray[Any]]:
        """An image is uint8 [H, W, 3] RGB or [1, 3, H, W], or a PIL image; the rest are arrays of
        the declared shape. InputError where they don't fit.

        types  "declared": each result is rounded to its declared type; "float32": fp16 is taken
               for fp32, which leaves the rounding of the weights alone
        """
        ports = {port.name: port for port in self.description.input}
        if inputs.keys() != ports.keys():
            raise InputError(f"the program takes {sorted(ports)}, not {sorted(inputs)}")
        tensors = {name: as_tensor(ports[name], value) for name, value in inputs.items()}
        with torch.no_grad():
            results = evaluate(self.function, tensors, types)
        return {name: result.numpy() for name, result in results.items()}


def read(package: str | os.PathLike[str] | Mapping[str, bytes]) -> tuple[Any, Any]:
    """-> the model's description, its function in pymil, coremltools' form of a program."""
    name, files = ("the package", package) if isinstance(package, Mapping) else folder(package)
    data = files.get(f"Data/{SPECIFICATION}")
    if data is None:
        raise BundleError(f"{name} has no Data/{SPECIFICATION}; export it again")
    with quiet(), tempfile.TemporaryDirectory() as weights:
        import_coremltools()
        from coremltools.converters.mil.frontend.milproto.load import load
        from coremltools.proto import Model_pb2

        for path, content in files.items():
            if Path(path).parent.as_posix() == f"Data/{WEIGHTS}":
                (Path(weights) / Path(path).name).write_bytes(content)
        try:
            model = Model_pb2.Model.FromString(data)
            if model.WhichOneof("Type") != "mlProgram":
                raise ValueError(f"it is a {model.WhichOneof('Type')}, not an mlProgram")
            program = load(model, model.specificationVersion, weights)
        except Exception as error:  # protobuf and coremltools have no common base of theirs
            problem = str(error).strip().split("\n")[0][:200]
            raise BundleError(f"{name} can't be read ({problem}); export it again") from error
    return model.description, program.functions["main"]


def folder(path: str | os.PathLike[str]) -> tuple[str, dict[str, bytes]]:
    """-> what to call it, its files."""
    root = Path(path)
    if not root.is_dir():
        raise MissingFileError(f"{root} is no folder; name an .mlpackage")
    files = (p for p in sorted(root.rglob("*")) if p.is_file())
    return str(root), {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


def as_tensor(port: Any, value: Any) -> Tensor:
    """An input as the program gets it from Core ML: images as float32 [1, 3, H, W] in 0..255."""
    if port.type.WhichOneof("Type") != IMAGE:
        return torch.from_numpy(np.array(value, np.float32))
    declared = port.type.imageType
    space = declared.ColorSpace.Name(declared.colorSpace)
    if space not in ("RGB", "BGR"):
        raise BundleError(f"{port.name} is an image of {space}, which isn't handled; use RGB")
    image = np.array(value.convert("RGB") if isinstance(value, Image.Image) else value)
    planes = image.transpose(2, 0, 1)[None] if image.ndim == 3 else image
    if image.dtype != np.uint8 or planes.ndim != 4 or planes.shape[:2] != (1, 3):
        raise InputError(
            f"{port.name} is {image.dtype} {list(image.shape)}; give a PIL image or uint8 [H, W, 3]"
        )
    height, width = planes.shape[2:]
    allowed = declared.imageSizeRange
    for side, fixed, flexible in (
        (height, declared.height, allowed.heightRange),
        (width, declared.width, allowed.widthRange),
    ):
        least, most = flexible.lowerBound or fixed, flexible.upperBound or fixed
        if side < least or 0 <= most < side:  # -1: no limit
            raise InputError(
                f"{port.name} is {height} x {width} px (H x W); the program takes sides of {least}"
                f" to {most}"
            )
    if space == "BGR":
        planes = planes[:, ::-1]
    return torch.from_numpy(planes.astype(np.float32))


def sides(var: Any) -> tuple[int | None, ...]:
    """Declared shape; None is a free side."""
    return tuple(int(side) if isinstance(side, int | np.integer) else None for side in var.shape)


def evaluate(function: Any, inputs: Mapping[str, Tensor], types: Types) -> dict[str, Tensor]:
    """A pymil function (or block) on tensors by name -> its outputs by name."""
    values: dict[Any, Any] = {
        var: settled(inputs[name], var, types, f"input {name}")
        for name, var in function.inputs.items()
    }
    for op in function.operations:
        where = f"Core ML op {op.op_type} ({op.name})"
        if op.op_type == "const":
            results: Sequence[Any] = [constant(op.outputs[0].val)]
        elif op.op_type.startswith("constexpr_"):  # compressed weights
            results = [constant(op.materialized_val_inference())]
        elif op.op_type in OPS:
            results = [
                settled(result, var, types, where)
                for result, var in zip(call(op, values, where), op.outputs, strict=True)
            ]
        else:
            raise BundleError(f"{where} is unknown to the evaluator; add it to mil_eval.OPS")
        values.update(zip(op.outputs, results, strict=True))
    return {var.name: values[var] for var in function.outputs}


def constant(value: Any) -> Any:
    """A string as it is; the rest as a tensor, half precision as float32."""
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float16 else array.copy())


def call(op: Any, values: Mapping[Any, Any], where: str) -> Sequence[Tensor]:
    arguments = {
        name: [values[v] for v in var] if isinstance(var, list | tuple) else values[var]
        for name, var in op.inputs.items()
        if var is not None
    }
    function = OPS[op.op_type]
    known = function.__code__.co_varnames[: function.__code__.co_argcount]
    for name in arguments.keys() - set(known):
        raise BundleError(f"{where} has the input {name}, which the evaluator doesn't handle")
    try:
        result = function(**arguments)
    except Unhandled as error:
        raise BundleError(f"{where} has {error}, which the evaluator doesn't handle") from error
    except (RuntimeError, IndexError, ValueError) as error:  # sizes that don't fit each other
        problem = str(error).strip().split("\n")[0][:200]
        raise InputError(f"{where} can't take these inputs: {problem}") from error
    return [result] if isinstance(result, Tensor) else result


def settled(value: Tensor, var: Any, types: Types, where: str) -> Tensor:
    """The value after a check of its declared shape and type, and rounded to the latter."""
    from coremltools.converters.mil.mil.types import builtin_to_string

    dtype = builtin_to_string(var.dtype)
    if dtype not in DTYPES:
        raise BundleError(f"{where} is declared {dtype}, which the evaluator doesn't handle")
    shape = sides(var)
    fits = len(shape) == value.dim() and all(
        want in (None, got) for want, got in zip(shape, value.shape, strict=True)
    )
    if not fits or value.dtype != DTYPES[dtype]:
        raise InputError(
            f"{where}: {list(value.shape)} of {value.dtype} where {list(var.shape)} of {dtype} is"
            " declared"
        )
    return value.half().float() if dtype == "fp16" and types == "declared" else value


class Unhandled(Exception):
    """A value of an op's parameter that the evaluator doesn't compute."""


# ---------------------------------------------------------------- ops, by MIL's parameter names


def ints(values: Tensor) -> list[int]:
    return [int(v) for v in values.tolist()]


def around(
    pad_type: str, pad: Tensor, sides: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> list[int]:
    """Padding of the spatial axes in the order of F.pad: last axis first, before and after."""
    if pad_type == "custom":
        pairs = list(zip(ints(pad)[::2], ints(pad)[1::2], strict=True))
    elif pad_type == "valid":
        pairs = [(0, 0)] * len(sides)
    elif pad_type in ("same", "same_lower"):  # of an odd number one more after, or before
        pairs = []
        for side, k, stride in zip(sides, kernel, strides, strict=True):
            total = max((-(-side // stride) - 1) * stride + k - side, 0)
            less, more = total // 2, total - total // 2
            pairs.append((less, more) if pad_type == "same" else (more, less))
    else:
        raise Unhandled(f"pad_type {pad_type}")
    return [amount for pair in reversed(pairs) for amount in pair]


def conv(
    x: Tensor, weight: Tensor, strides: Tensor, pad_type: str, pad: Tensor, dilations: Tensor,
    groups: Tensor, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    spread = ints(dilations)
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], spread, strict=True)]
    padded = F.pad(x, around(pad_type, pad, x.shape[2:], reach, ints(strides)))
    function: Callable[..., Tensor] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.dim()]
    return function(padded, weight, bias, ints(strides), 0, spread, int(groups))


def max_pool(
    x: Tensor, kernel_sizes: Tensor, strides: Tensor, pad_type: str, pad: Tensor, ceil_mode: Tensor
) -> Tensor:
    return pooled(x, kernel_sizes, strides, pad_type, pad, ceil_mode, F.max_pool2d, -torch.inf)


def avg_pool(
    x: Tensor, kernel_sizes: Tensor, strides: Tensor, pad_type: str, pad: Tensor,
    ceil_mode: Tensor, exclude_padding_from_average: Tensor,
) -> Tensor:  # fmt: skip
    def mean(of: Tensor) -> Tensor:
        return pooled(of, kernel_sizes, strides, pad_type, pad, ceil_mode, F.avg_pool2d, 0.0)

    return mean(x) / mean(torch.ones_like(x)) if exclude_padding_from_average else mean(x)


def pooled(
    x: Tensor, kernel_sizes: Tensor, strides: Tensor, pad_type: str, pad: Tensor,
    ceil_mode: Tensor, function: Callable[..., Tensor], edge: float,
) -> Tensor:  # fmt: skip
    if ceil_mode or x.dim() != 4:
        raise Unhandled(f"ceil_mode {bool(ceil_mode)} on a tensor of rank {x.dim()}")
    kernel, steps = ints(kernel_sizes), ints(strides)
    padded = F.pad(x, around(pad_type, pad, x.shape[2:], kernel, steps), value=edge)
    return function(padded, kernel, steps)


def upsample_bilinear(
    x: Tensor, scale_factor_height: Tensor, scale_factor_width: Tensor, align_corners: Tensor,
    half_pixel_centers: Tensor | None = None,
) -> Tensor:  # fmt: skip
    if half_pixel_centers is not None and bool(half_pixel_centers) == bool(align_corners):
        raise Unhandled(f"half_pixel_centers and align_corners both {bool(align_corners)}")
    size = scaled(x, scale_factor_height, scale_factor_width)
    return F.interpolate(x, size=size, mode="bilinear", align_corners=bool(align_corners))


def resize_bilinear(
    x: Tensor, target_size_height: Tensor, target_size_width: Tensor, sampling_mode: str
) -> Tensor:
    if sampling_mode not in ("STRICT_ALIGN_CORNERS", "UNALIGN_CORNERS"):
        raise Unhandled(f"sampling_mode {sampling_mode}")
    return F.interpolate(
        x, size=(int(target_size_height), int(target_size_width)), mode="bilinear",
        align_corners=sampling_mode == "STRICT_ALIGN_CORNERS",
    )  # fmt: skip


def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: Tensor, scale_factor_width: Tensor
) -> Tensor:
    return F.interpolate(x, size=scaled(x, scale_factor_height, scale_factor_width), mode="nearest")


def resize_nearest_neighbor(
    x: Tensor, target_size_height: Tensor, target_size_width: Tensor
) -> Tensor:
    size = (int(target_size_height), int(target_size_width))
    if size[0] % x.shape[2] or size[1] % x.shape[3]:  # which pixel is nearest is not documented
        raise Unhandled(f"size {size} of a picture {tuple(x.shape[2:])}, no multiple of it")
    return F.interpolate(x, size=size, mode="nearest")


def scaled(x: Tensor, height: Tensor, width: Tensor) -> tuple[int, int]:
    return int(x.shape[2] * float(height)), int(x.shape[3] * float(width))


def pad(x: Tensor, pad: Tensor, mode: str, constant_val: Tensor) -> Tensor:
    amounts = ints(pad)
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    order = [amount for pair in reversed(pairs) for amount in pair]
    if mode == "constant":
        return F.pad(x, order, value=float(constant_val))
    if mode not in ("reflect", "replicate"):
        raise Unhandled(f"mode {mode}")
    if any(order[4:]) or x.dim() != 4:  # torch does these modes on the last two axes
        raise Unhandled(f"mode {mode} on other than the last two axes of four")
    return F.pad(x, order[:4], mode=mode)


def slice_by_index(
    x: Tensor, begin: Tensor, end: Tensor, stride: Tensor | None = None,
    begin_mask: Tensor | None = None, end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    rank = x.dim()
    steps = [1] * rank if stride is None else ints(stride)
    open_begin, open_end, single = (
        [False] * rank if mask is None else mask.tolist()
        for mask in (begin_mask, end_mask, squeeze_mask)
    )
    if min(steps) < 1:
        raise Unhandled(f"stride {steps}")
    index = [
        first if single[i] else slice(None if open_begin[i] else first,
                                      None if open_end[i] else last, steps[i])
        for i, (first, last) in enumerate(zip(ints(begin), ints(end), strict=True))
    ]  # fmt: skip
    return x[tuple(index)]


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    sizes = zip(ints(begin), ints(size), strict=True)
    return x[tuple(slice(b, None if n == -1 else b + n) for b, n in sizes)]


def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> Sequence[Tensor]:
    if split_sizes is not None:
        return x.split(ints(split_sizes), int(axis))
    assert num_splits is not None  # MIL demands either
    return x.chunk(int(num_splits), int(axis))


def concat(values: list[Tensor], axis: Tensor, interleave: Tensor) -> Tensor:
    if interleave:
        raise Unhandled("interleave True")
    return torch.cat(values, int(axis))


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(ints(axes))


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in ints(axes)):
        x = x.unsqueeze(axis)
    return x


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    sides = ints(shape)
    return x.reshape([x.shape[i] if side == 0 else side for i, side in enumerate(sides)])


def gather(x: Tensor, indices: Tensor, axis: Tensor, batch_dims: Tensor | None = None) -> Tensor:
    if batch_dims:
        raise Unhandled(f"batch_dims {int(batch_dims)}")
    at = int(axis) % x.dim()
    picked = x.index_select(at, indices.reshape(-1).long() % x.shape[at])
    return picked.reshape(x.shape[:at] + indices.shape + x.shape[at + 1 :])


def cast(x: Tensor, dtype: str) -> Tensor:
    if dtype not in DTYPES:
        raise Unhandled(f"dtype {dtype}")
    return x.to(DTYPES[dtype])


def reduced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(x: Tensor, keep_dims: Tensor, axes: Tensor | None = None) -> Tensor:
        over = list(range(x.dim())) if axes is None else ints(axes)
        return function(x, over, bool(keep_dims)).to(x.dtype)

    return reduce


def gelu(x: Tensor, mode: str) -> Tensor:
    if mode not in ("EXACT", "TANH_APPROXIMATION"):
        raise Unhandled(f"mode {mode}")
    return F.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, epsilon: Tensor, gamma: Tensor | None = None,
    beta: Tensor | None = None,
) -> Tensor:  # fmt: skip
    return F.batch_norm(x, mean, variance, gamma, beta, eps=float(epsilon))


def matmul(x: Tensor, y: Tensor, transpose_x: Tensor, transpose_y: Tensor) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


OPS: dict[str, Callable[..., Any]] = {
    # layers
    "conv": conv,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "batch_norm": batch_norm,
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "matmul": matmul,
    "upsample_bilinear": upsample_bilinear,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
    "resize_bilinear": resize_bilinear,
    "resize_nearest_neighbor": resize_nearest_neighbor,
    "pixel_shuffle": lambda x, upscale_factor: F.pixel_shuffle(x, int(upscale_factor)),
    "pixel_unshuffle": lambda x, downscale_factor: F.pixel_unshuffle(x, int(downscale_factor)),
    # activations
    "relu": lambda x: x.relu(),
    "relu6": lambda x: x.clamp(0, 6),
    "leaky_relu": lambda x, alpha: torch.where(x >= 0, x, alpha * x),
    "prelu": lambda x, alpha: F.prelu(x, alpha),
    "elu": lambda x, alpha: F.elu(x, float(alpha)),
    "gelu": gelu,
    "silu": lambda x: F.silu(x),
    "sigmoid": lambda x: x.sigmoid(),
    "sigmoid_hard": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "softplus": lambda x: F.softplus(x),
    "softmax": lambda x, axis: x.softmax(int(axis)),
    "thresholded_relu": lambda x, alpha: torch.where(x >= alpha, x, 0.0),
    "linear_activation": lambda x, alpha, beta: alpha * x + beta,
    "tanh": lambda x: x.tanh(),
    # of one tensor
    "identity": lambda x: x,
    "cast": cast,
    "abs": lambda x: x.abs(),
    "ceil": lambda x: x.ceil(),
    "clip": lambda x, alpha, beta: torch.clamp(x, alpha, beta),
    "cos": lambda x: x.cos(),
    "erf": lambda x: x.erf(),
    "exp": lambda x: x.exp(),
    "exp2": lambda x: x.exp2(),
    "floor": lambda x: x.floor(),
    "inverse": lambda x, epsilon: 1 / (x + epsilon),
    "log": lambda x, epsilon: (x + epsilon).log(),
    "logical_not": lambda x: x.logical_not(),
    "round": lambda x: x.round(),
    "rsqrt": lambda x, epsilon: (x + epsilon).rsqrt(),
    "sign": lambda x: x.sign(),
    "sin": lambda x: x.sin(),
    "sqrt": lambda x: x.sqrt(),
    "square": lambda x: x * x,
    "threshold": lambda x, alpha: torch.maximum(x, alpha),
    # of two
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "floor_div": lambda x, y: torch.floor_divide(x, y),
    "mod": lambda x, y: torch.remainder(x, y),
    "pow": lambda x, y: x**y,
    "maximum": lambda x, y: torch.maximum(x, y),
    "minimum": lambda x, y: torch.minimum(x, y),
    "equal": lambda x, y: x == y,
    "not_equal": lambda x, y: x != y,
    "less": lambda x, y: x < y,
    "less_equal": lambda x, y: x <= y,
    "greater": lambda x, y: x > y,
    "greater_equal": lambda x, y: x >= y,
    "logical_and": lambda x, y: x & y,
    "logical_or": lambda x, y: x | y,
    "logical_xor": lambda x, y: x ^ y,
    "select": lambda cond, a, b: torch.where(cond, a, b),
    # over axes
    "reduce_max": reduced(torch.amax),
    "reduce_mean": reduced(torch.mean),
    "reduce_min": reduced(torch.amin),
    "reduce_sum": reduced(torch.sum),
    # of shape
    "concat": concat,
    "stack": lambda values, axis: torch.stack(values, int(axis)),
    "split": split,
    "pad": pad,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "gather": gather,
    "reshape": reshape,
    "transpose": lambda x, perm: x.permute(ints(perm)),
    "expand_dims": expand_dims,
    "squeeze": squeeze,
    "tile": lambda x, reps: x.tile(ints(reps)),
    "reverse": lambda x, axes=None: x.flip(list(range(x.dim())) if axes is None else ints(axes)),
    "shape": lambda x: torch.tensor(x.shape, dtype=torch.int32),
}
