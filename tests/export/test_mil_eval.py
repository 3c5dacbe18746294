"""Every MIL op that the evaluator knows computes what torch computes; the rest is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("coremltools")

from argan.errors import BundleError, InputError
from argan_export import mil_eval
from argan_export.quiet import quiet

Build = Callable[..., Any]
GAP = 2e-6  # largest seen: 5e-7, sums in another order


def random(*shape: int, seed: int = 0, low: float = -3.0, high: float = 3.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(shape, generator=rng)


def whole(*shape: int, low: int = -9, high: int = 9) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randint(low, high, shape, generator=rng, dtype=torch.int32)


X = random(1, 4, 9, 12)  # unlike itself in every mirror
Y = random(1, 4, 9, 12, seed=1)
ROW = random(1, 1, 1, 12, seed=2, low=0.5)
POSITIVE = random(1, 4, 9, 12, low=0.1)
SMALL = random(2, 3, 4)
WHOLE = whole(3, 4)
BITS = X > 0


@dataclass(frozen=True)
class Case:
    """build(mb, *inputs) -> a MIL variable or several; expected(*inputs) -> tensors."""

    build: Build
    expected: Callable[..., Any]
    inputs: tuple[Tensor, ...]


def op(name: str, expected: Callable[..., Any], *inputs: Tensor, **parameters: Any) -> Case:
    """An op of x, or of x and y, with constant parameters."""

    def build(mb: Any, *values: Any) -> Any:
        return getattr(mb, name)(**dict(zip("xy", values, strict=False)), **parameters)

    return Case(build, expected, inputs)


def conv(
    x: Tensor, weight: Tensor, padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    bias: Tensor | None = None, **parameters: Any,
) -> Case:  # fmt: skip
    """padding: top, bottom, left, right, of the expected convolution alone."""
    top, bottom, left, right = padding
    keys = {"strides": "stride", "dilations": "dilation", "groups": "groups"}
    ours = {keys[k]: v for k, v in parameters.items() if k in keys}

    def build(mb: Any, x: Any) -> Any:
        biased = {} if bias is None else {"bias": bias.numpy()}
        return mb.conv(x=x, weight=weight.numpy(), **biased, **parameters)

    def expected(x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, **ours)

    return Case(build, expected, (x,))


def pool(kind: str, padding: tuple[int, int, int, int], *, counted: bool = True, **parameters: Any):
    """A pool over windows of 3 x 2, strides 2 and 3; `expected` by hand, window by window."""
    top, bottom, left, right = padding

    def build(mb: Any, x: Any) -> Any:
        more = {"exclude_padding_from_average": not counted} if kind == "avg_pool" else {}
        return getattr(mb, kind)(x=x, kernel_sizes=[3, 2], strides=[2, 3], **parameters, **more)

    def expected(x: Tensor) -> Tensor:
        wide = F.pad(x, (left, right, top, bottom), value=torch.nan)
        windows = wide.unfold(2, 3, 2).unfold(3, 2, 3).flatten(4)
        if kind == "max_pool":
            return windows.nan_to_num(nan=-torch.inf).amax(-1)
        return windows.nan_to_num(nan=0.0).mean(-1) if counted else windows.nanmean(-1)

    return Case(build, expected, (X,))


W33, W12 = random(6, 4, 3, 3, seed=3), random(6, 4, 1, 2, seed=4)
DEPTHWISE, GROUPED = random(8, 1, 3, 3, seed=5), random(6, 2, 3, 3, seed=6)
BIAS = random(6, seed=7)
CASES: dict[str, Case] = {
    "conv": conv(X, W33, pad_type="valid"),
    "conv, bias": conv(X, W33, bias=BIAS, pad_type="valid"),
    "conv, strides": conv(X, W33, strides=(2, 3), pad_type="valid"),
    "conv, custom": conv(X, W33, (1, 2, 3, 0), strides=(2, 1), pad_type="custom", pad=[1, 2, 3, 0]),
    "conv, dilations": conv(X, W33, (2, 2, 0, 0), dilations=(2, 3), pad_type="custom",
                            pad=[2, 2, 0, 0]),
    "conv, same": conv(X, W33, (1, 1, 1, 1), pad_type="same"),
    # 12 columns in steps of 2, 3 wide: 6 windows need one column more, after or before.
    "conv, same, strides": conv(X, W33, (1, 1, 0, 1), strides=(2, 2), pad_type="same"),
    "conv, same_lower": conv(X, W33, (1, 1, 1, 0), strides=(2, 2), pad_type="same_lower"),
    "conv, same, even kernel": conv(X, W12, (0, 0, 0, 1), pad_type="same"),
    "conv, same, dilations": conv(X, W33, (2, 2, 2, 2), dilations=(2, 2), pad_type="same"),
    "conv, depthwise": conv(X, DEPTHWISE, (1, 1, 1, 1), strides=(2, 2), groups=4,
                            pad_type="custom", pad=[1, 1, 1, 1]),
    "conv, groups": conv(X, GROUPED, groups=2, pad_type="valid"),
    "conv, 1d": Case(
        lambda mb, x: mb.conv(x=x, weight=random(5, 3, 2).numpy(), pad_type="custom", pad=[1, 0]),
        lambda x: F.conv1d(F.pad(x, (1, 0)), random(5, 3, 2)), (SMALL,)),
    "max_pool": pool("max_pool", (0, 0, 0, 0), pad_type="valid"),
    "max_pool, custom": pool("max_pool", (1, 2, 0, 1), pad_type="custom", pad=[1, 2, 0, 1]),
    "max_pool, same": pool("max_pool", (1, 1, 0, 0), pad_type="same"),
    "avg_pool": pool("avg_pool", (0, 0, 0, 0), pad_type="valid"),
    "avg_pool, counted": pool("avg_pool", (1, 2, 0, 1), pad_type="custom", pad=[1, 2, 0, 1]),
    "avg_pool, not counted": pool("avg_pool", (1, 2, 0, 1), counted=False, pad_type="custom",
                                  pad=[1, 2, 0, 1]),
    "batch_norm": op(
        "batch_norm", lambda x: F.batch_norm(x, random(4), POSITIVE[0, 0, 0, :4], eps=1e-3), X,
        mean=random(4).numpy(), variance=POSITIVE[0, 0, 0, :4].numpy(), epsilon=1e-3),
    "batch_norm, affine": op(
        "batch_norm", lambda x: F.batch_norm(x, random(4), POSITIVE[0, 0, 0, :4], BIAS[:4],
                                             random(4, seed=8)), X,
        mean=random(4).numpy(), variance=POSITIVE[0, 0, 0, :4].numpy(), epsilon=1e-5,
        gamma=BIAS[:4].numpy(), beta=random(4, seed=8).numpy()),
    "linear": op("linear", lambda x: x @ random(5, 4).T + random(5), SMALL,
                 weight=random(5, 4).numpy(), bias=random(5).numpy()),
    "matmul": op("matmul", lambda x, y: x.transpose(1, 2) @ y, SMALL, random(2, 3, 5),
                 transpose_x=True),
    "matmul, transpose_y": op("matmul", lambda x, y: x @ y.transpose(1, 2), SMALL,
                              random(2, 5, 4), transpose_y=True),
    "upsample_bilinear": op(
        "upsample_bilinear",
        lambda x: F.interpolate(x, scale_factor=(2, 3), mode="bilinear", align_corners=False), X,
        scale_factor_height=2.0, scale_factor_width=3.0, align_corners=False),
    "upsample_bilinear, align_corners": op(
        "upsample_bilinear",
        lambda x: F.interpolate(x, scale_factor=(2, 3), mode="bilinear", align_corners=True), X,
        scale_factor_height=2, scale_factor_width=3, align_corners=True, half_pixel_centers=False),
    "upsample_nearest_neighbor": op(
        "upsample_nearest_neighbor", lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3), X,
        scale_factor_height=2, scale_factor_width=3),
    "resize_bilinear": op(
        "resize_bilinear", lambda x: F.interpolate(x, (7, 20), mode="bilinear"), X,
        target_size_height=7, target_size_width=20, sampling_mode="UNALIGN_CORNERS"),
    "resize_bilinear, align": op(
        "resize_bilinear",
        lambda x: F.interpolate(x, (7, 20), mode="bilinear", align_corners=True), X,
        target_size_height=7, target_size_width=20, sampling_mode="STRICT_ALIGN_CORNERS"),
    "resize_nearest_neighbor": op(
        "resize_nearest_neighbor", lambda x: x.repeat_interleave(2, 2), X,
        target_size_height=18, target_size_width=12),
    "pixel_shuffle": op("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), X, upscale_factor=2),
    "pixel_unshuffle": op("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 3), X,
                          downscale_factor=np.uint32(3)),
    "relu": op("relu", F.relu, X),
    "relu6": op("relu6", F.relu6, X * 3),
    "leaky_relu": op("leaky_relu", lambda x: F.leaky_relu(x, 0.2), X, alpha=0.2),
    "prelu": op("prelu", lambda x: F.prelu(x, random(4)), X, alpha=random(4).numpy()),
    "elu": op("elu", lambda x: F.elu(x, 0.7), X, alpha=0.7),
    "gelu": op("gelu", F.gelu, X, mode="EXACT"),
    "gelu, tanh": op("gelu", lambda x: F.gelu(x, approximate="tanh"), X,
                     mode="TANH_APPROXIMATION"),
    "silu": op("silu", F.silu, X),
    "sigmoid": op("sigmoid", torch.sigmoid, X),
    "sigmoid_hard": op("sigmoid_hard", F.hardsigmoid, X * 2, alpha=1 / 6, beta=0.5),
    "softplus": op("softplus", F.softplus, X),
    "softmax": op("softmax", lambda x: F.softmax(x, 1), X, axis=1),
    "thresholded_relu": op("thresholded_relu", lambda x: F.threshold(x, 0.5, 0), X, alpha=0.5),
    "linear_activation": op("linear_activation", lambda x: 2 * x - 0.5, X, alpha=2.0, beta=-0.5),
    "tanh": op("tanh", torch.tanh, X),
    "identity": op("identity", lambda x: x, X),
    "cast, int32": op("cast", lambda x: x.trunc().int(), X, dtype="int32"),
    "cast, bool": op("cast", lambda x: x.bool(), WHOLE, dtype="bool"),
    "cast, fp32": op("cast", lambda x: x.float(), WHOLE, dtype="fp32"),
    "abs": op("abs", torch.abs, X),
    "ceil": op("ceil", torch.ceil, X),
    "clip": op("clip", lambda x: torch.clamp(x, -0.5, 1.5), X, alpha=-0.5, beta=1.5),
    "cos": op("cos", torch.cos, X),
    "erf": op("erf", torch.erf, X),
    "exp": op("exp", torch.exp, X),
    "exp2": op("exp2", torch.exp2, X),
    "floor": op("floor", torch.floor, X),
    "inverse": op("inverse", lambda x: torch.reciprocal(x + 0.25), POSITIVE, epsilon=0.25),
    "log": op("log", lambda x: torch.log(x + 0.25), POSITIVE, epsilon=0.25),
    "logical_not": op("logical_not", torch.logical_not, BITS),
    "round": op("round", torch.round, torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5, 0.4, 0.6])),
    "rsqrt": op("rsqrt", lambda x: 1 / torch.sqrt(x + 0.25), POSITIVE, epsilon=0.25),
    "sign": op("sign", torch.sign, torch.tensor([-2.0, 0.0, 0.1])),
    "sin": op("sin", torch.sin, X),
    "sqrt": op("sqrt", torch.sqrt, POSITIVE),
    "square": op("square", torch.square, X),
    "threshold": op("threshold", lambda x: torch.clamp(x, min=0.5), X, alpha=0.5),
    "add": op("add", torch.add, X, Y),
    "add, broadcast": op("add", torch.add, X, ROW),
    "add, whole": op("add", torch.add, WHOLE, WHOLE),
    "sub": op("sub", torch.sub, X, Y),
    "sub, broadcast": op("sub", torch.sub, ROW, X),
    "mul": op("mul", torch.mul, X, Y),
    "mul, scalar": op("mul", lambda x: 3 * x, X, y=3.0),
    "real_div": op("real_div", torch.div, Y, POSITIVE),
    "floor_div": op("floor_div", lambda x, y: torch.div(x, y, rounding_mode="floor"), Y, POSITIVE),
    "floor_div, whole": op("floor_div", lambda x: torch.div(x, 4, rounding_mode="floor"), WHOLE,
                           y=np.int32(4)),
    "mod": op("mod", lambda x: x - 4 * torch.floor(x / 4), Y, y=4.0),
    "pow": op("pow", torch.pow, POSITIVE, Y),
    "pow, gamma": op("pow", lambda x: x ** (1 / 2.2), POSITIVE, y=1 / 2.2),
    "maximum": op("maximum", torch.maximum, X, Y),
    "minimum": op("minimum", torch.minimum, X, ROW),
    "equal": op("equal", torch.eq, WHOLE, WHOLE.flip(0)),
    "not_equal": op("not_equal", torch.ne, WHOLE, WHOLE.flip(0)),
    "less": op("less", torch.lt, WHOLE, WHOLE.flip(0)),
    "less_equal": op("less_equal", torch.le, WHOLE, WHOLE.flip(0)),
    "greater": op("greater", torch.gt, WHOLE, WHOLE.flip(0)),
    "greater_equal": op("greater_equal", torch.ge, WHOLE, WHOLE.flip(0)),
    "logical_and": op("logical_and", torch.logical_and, BITS, BITS.flip(-1)),
    "logical_or": op("logical_or", torch.logical_or, BITS, BITS.flip(-1)),
    "logical_xor": op("logical_xor", torch.logical_xor, BITS, BITS.flip(-1)),
    "select": Case(lambda mb, c, a, b: mb.select(cond=c, a=a, b=b), torch.where, (BITS, X, Y)),
    "reduce_max": op("reduce_max", lambda x: x.amax((1, 3), keepdim=True), X, axes=[1, -1],
                     keep_dims=True),
    "reduce_min": op("reduce_min", lambda x: x.amin(2), X, axes=[2], keep_dims=False),
    "reduce_mean": op("reduce_mean", lambda x: x.mean((2, 3), keepdim=True), X, axes=[2, 3],
                      keep_dims=True),
    "reduce_sum": op("reduce_sum", lambda x: x.sum(1), X, axes=[1], keep_dims=False),
    "reduce_sum, whole": op("reduce_sum", lambda x: x.sum(1, dtype=torch.int32), WHOLE, axes=[1],
                            keep_dims=False),
    "reduce_max, all": op("reduce_max", lambda x: x.max(), X, keep_dims=False),
    "concat": Case(lambda mb, x, y: mb.concat(values=[x, y], axis=1),
                   lambda x, y: torch.cat([x, y], 1), (X, Y)),
    "concat, last axis": Case(lambda mb, x, y: mb.concat(values=[y, x], axis=-1),
                              lambda x, y: torch.cat([y, x], 3), (X, Y)),
    "stack": Case(lambda mb, x, y: mb.stack(values=[x, y], axis=1),
                  lambda x, y: torch.stack([x, y], 1), (SMALL, SMALL + 1)),
    "split": op("split", lambda x: x.chunk(2, 1), X, num_splits=2, axis=1),
    "split, sizes": op("split", lambda x: x.split([5, 7], 3), X, split_sizes=[5, 7], axis=-1),
    "pad": op("pad", lambda x: F.pad(x, (3, 0, 1, 2), value=7.0), X, pad=[1, 2, 3, 0],
              mode="constant", constant_val=7.0),
    "pad, all axes": op("pad", lambda x: F.pad(x, (0, 3, 2, 0, 0, 1)), SMALL,
                        pad=[0, 1, 2, 0, 0, 3], mode="constant", constant_val=0.0),
    "pad, replicate": op("pad", lambda x: F.pad(x, (3, 0, 1, 2), mode="replicate"), X,
                         pad=[0, 0, 0, 0, 1, 2, 3, 0], mode="replicate"),
    "pad, reflect": op("pad", lambda x: F.pad(x, (3, 0, 1, 2), mode="reflect"), X,
                       pad=[1, 2, 3, 0], mode="reflect"),
    "slice_by_index": op("slice_by_index", lambda x: x[:, 1:3, 2::3, 1:10:2], X,
                         begin=[0, 1, 2, 1], end=[1, 3, 0, 10], stride=[1, 1, 3, 2],
                         end_mask=[True, False, True, False]),
    "slice_by_index, begin_mask": op("slice_by_index", lambda x: x[:, :, :-4, -5:-1], X,
                                     begin=[5, 5, 5, -5], end=[1, 4, -4, -1],
                                     begin_mask=[True, True, True, False]),
    "slice_by_index, squeeze": op("slice_by_index", lambda x: x[0, :, -2], X,
                                  begin=[0, 0, -2, 0], end=[0, 4, 0, 12],
                                  squeeze_mask=[True, False, True, False]),
    "slice_by_size": op("slice_by_size", lambda x: x[:, 1:3, 4:, 2:7], X, begin=[0, 1, 4, 2],
                        size=[1, 2, -1, 5]),
    "gather": op("gather", lambda x: x[:, :, [3, 0, 8, -1]], X, indices=[3, 0, 8, -1], axis=2,
                 batch_dims=0),
    "gather, table": op("gather", lambda x: x[torch.tensor([[2, 0], [1, 1]])], WHOLE,
                        indices=np.int32([[2, 0], [1, 1]]), axis=0),
    "reshape": op("reshape", lambda x: x.reshape(1, 36, 12), X, shape=[1, -1, 12]),
    "reshape, 0 keeps": op("reshape", lambda x: x.reshape(1, 4, 12, 9), X, shape=[0, 0, 12, 9]),
    "transpose": op("transpose", lambda x: x.permute(0, 2, 3, 1), X, perm=[0, 2, 3, 1]),
    "expand_dims": op("expand_dims", lambda x: x[None, :, :, None], SMALL, axes=[0, -2]),
    "squeeze": op("squeeze", lambda x: x[0], X, axes=[0]),
    "squeeze, all": op("squeeze", lambda x: x[0, 0, 0], ROW),
    "tile": op("tile", lambda x: x.repeat(1, 2, 1, 3), X, reps=[1, 2, 1, 3]),
    "reverse": op("reverse", lambda x: x.flip(1, 3), X, axes=[1, -1]),
    "reverse, all": op("reverse", lambda x: x.flip(0, 1, 2), SMALL),
    "shape": op("shape", lambda x: torch.tensor([1, 4, 9, 12], dtype=torch.int32), X),
}  # fmt: skip


def program(build: Build, inputs: tuple[Tensor, ...], half: bool = False) -> Any:
    """A pymil function of one op, or of what `build` makes."""
    with quiet():
        import coremltools as ct
        from coremltools.converters.mil import Builder as mb
        from coremltools.converters.mil.mil import Function, types

        kinds = {
            torch.float32: types.fp16 if half else types.fp32,
            torch.int32: types.int32,
            torch.bool: types.bool,
        }
        takes = {
            name: mb.placeholder(tuple(x.shape), kinds[x.dtype])
            for name, x in zip("abc", inputs, strict=False)
        }
        with Function(takes, ct.target.iOS16) as function:
            made = build(mb, *function.inputs.values())
            function.set_outputs(list(made) if isinstance(made, tuple | list) else [made])
    return function


@lru_cache
def built(name: str) -> tuple[Any, list[Any]]:
    """The function of a case, and what coremltools makes of it where the inputs are constants: it
    folds many ops, in numpy; None where it doesn't."""
    case, folded = CASES[name], []

    def build(mb: Any, *inputs: Any) -> Any:
        # Copies: coremltools computes some ops in place.
        made = case.build(mb, *(x.numpy().copy() for x in case.inputs))
        folded.extend(var.val for var in (made if isinstance(made, tuple | list) else [made]))
        return case.build(mb, *inputs)

    return program(build, case.inputs), folded


def run(function: Any, *inputs: Tensor, types: mil_eval.Types = "declared") -> list[Tensor]:
    named = dict(zip(function.inputs, inputs, strict=True))
    return list(mil_eval.evaluate(function, named, types).values())


@pytest.mark.parametrize("name", CASES)
def test_an_op_computes_what_torch_and_coremltools_compute(name: str) -> None:
    case, (function, folded) = CASES[name], built(name)
    wanted = case.expected(*case.inputs)
    wanted = [wanted] if isinstance(wanted, Tensor) else wanted
    got = run(function, *case.inputs)
    for ours, theirs, apples in zip(got, wanted, folded, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=GAP, atol=GAP)
        if apples is not None:
            np.testing.assert_allclose(ours.numpy(), apples, rtol=GAP, atol=GAP)


def test_every_op_of_the_evaluator_is_among_the_cases() -> None:
    functions, folded = zip(*(built(name) for name in CASES), strict=True)
    seen = {op.op_type for function in functions for op in function.operations}
    assert seen - {"const"} == mil_eval.OPS.keys()
    assert sum(values[0] is not None for values in folded) > 70  # coremltools judges most of them


# ---------------------------------------------------------------- declared types


def test_half_precision_rounds_what_every_op_gives() -> None:
    function = program(
        lambda mb, x, y: mb.mul(x=mb.add(x=x, y=y), y=np.float16(3)), (X, Y), half=True
    )
    x, y = X.half(), Y.half()
    assert torch.equal(run(function, X, Y)[0], ((x + y) * 3.0).float())
    exact = run(function, X, Y, types="float32")[0]
    torch.testing.assert_close(exact, (X + Y) * 3, rtol=1e-6, atol=1e-6)
    assert not torch.equal(exact, run(function, X, Y)[0])


def test_half_precision_overflows() -> None:
    """The silent fault of an index computed in half precision: y * width + x beyond 65,504."""
    x = torch.tensor([100.0, 300.0])
    function = program(lambda mb, x: mb.mul(x=x, y=np.float16(256)), (x,), half=True)
    assert run(function, x)[0].tolist() == [25600.0, torch.inf]
    assert run(function, x, types="float32")[0].tolist() == [25600.0, 76800.0]


def test_a_sum_within_an_op_is_exact() -> None:
    ones = torch.ones(1, 1, 64, 64)
    function = program(
        lambda mb, x: mb.conv(x=x, weight=np.ones((1, 1, 64, 64), np.float16), pad_type="valid"),
        (ones,), half=True,
    )  # fmt: skip
    assert run(function, ones)[0].item() == 4096  # half precision would stop at 2048


# ---------------------------------------------------------------- what it doesn't know


@pytest.mark.parametrize(
    "build, inputs, words",
    [
        (lambda mb, x: mb.band_part(x=x, lower=1, upper=1), (X,), ["band_part", "unknown"]),
        (lambda mb, x: mb.conv_transpose(x=x, weight=W33.numpy().swapaxes(0, 1)), (X,),
         ["conv_transpose", "unknown"]),
        (lambda mb, x: mb.avg_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid",
                                   ceil_mode=True), (X,), ["avg_pool", "ceil_mode True"]),
        (lambda mb, x, y: mb.concat(values=[x, y], axis=1, interleave=True), (X, Y),
         ["concat", "interleave True"]),
        (lambda mb, x: mb.resize_bilinear(x=x, target_size_height=18, target_size_width=24,
                                          sampling_mode="DEFAULT"), (X,),
         ["resize_bilinear", "sampling_mode DEFAULT"]),
        (lambda mb, x: mb.upsample_bilinear(x=x, scale_factor_height=2.0, scale_factor_width=2.0,
                                            align_corners=False, half_pixel_centers=False), (X,),
         ["upsample_bilinear", "half_pixel_centers"]),
        (lambda mb, x: mb.resize_nearest_neighbor(x=x, target_size_height=13,
                                                  target_size_width=12), (X,),
         ["resize_nearest_neighbor", "no multiple"]),
        (lambda mb, x: mb.slice_by_index(x=x, begin=[0, 3, 0, 0], end=[1, 0, 9, 12],
                                         stride=[1, -1, 1, 1]), (X,), ["slice_by_index", "-1"]),
        (lambda mb, x: mb.pad(x=x, pad=[0, 0, 1, 1, 0, 0, 0, 0], mode="replicate"), (X,),
         ["pad", "replicate"]),
        (lambda mb, x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"), (X,),
         ["gelu", "SIGMOID_APPROXIMATION"]),
        (lambda mb, x: mb.gather(x=x, indices=np.zeros((1, 2), np.int32), axis=1, batch_dims=1),
         (X,), ["gather", "batch_dims 1"]),
    ],
)  # fmt: skip
def test_what_is_not_handled_is_refused_by_name(
    build: Build, inputs: tuple[Tensor, ...], words: list[str]
) -> None:
    function = program(build, inputs)
    with pytest.raises(BundleError) as error:
        run(function, *inputs)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_an_input_of_an_op_that_is_not_handled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    function = built("conv, depthwise")[0]
    without_groups = {**mil_eval.OPS, "conv": lambda x, weight, strides, pad_type, pad: x}
    monkeypatch.setattr(mil_eval, "OPS", without_groups)
    with pytest.raises(BundleError, match="input (groups|dilations), which the evaluator"):
        run(function, X)


def test_a_result_other_than_declared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mil_eval, "OPS", {**mil_eval.OPS, "add": lambda x, y: (x + y)[..., 1:]})
    with pytest.raises(InputError, match=r"add.*\[1, 4, 9, 11\].*\[1, 4, 9, 12\]"):
        run(built("add")[0], X, Y)


def test_an_array_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"input a: \[1, 4, 9, 11\]"):
        run(built("relu")[0], X[..., 1:])
