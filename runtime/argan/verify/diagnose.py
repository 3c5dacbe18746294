"""Why does a variant miss its limit? Hypotheses, each put to the test on the variant itself.

If the model is right once its picture's channels are swapped, then their order is what is wrong
with it; if it is right once one layer's weights are divided by 1.1, then that layer is 1.1 times
too strong. What brings the variant back to its limit with the fewest changes is named.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from argan import weights
from argan.errors import BundleError, Error
from argan.metrics import psnr, spearman
from argan.verify.result import Array, Fault
from argan.weights import Weight

Run = Callable[[Array], Array]  # image [1, 3, H, W] -> disparity [1, 1, H, W], lo as 0, hi as 1

OTHER_GOLDEN = "another model's golden file"
OTHER_WEIGHTS = "another model's weights"
COARSE = "too coarse a quantisation"
TRUNCATED = "weights truncated"
LAYER = "a layer's scale"
SCALE = "wrong output scale"
GAIN_DB = 6.0  # what an explanation has to bring, and what it may miss the limit by
LIKELY_DB = 10.0  # what a layer has to bring to be named though the limit is missed by more
WRONG_WAY = -0.9  # rank correlation
SAME_WEIGHTS = 0.998  # cosine; least seen of 8 bits: 0.99998
GREYS = np.linspace(0, 1, 11, dtype=np.float32)
CONSTANT_DB = 8.0  # seen: 3 where calibrated on photos, 8 to 15 on a constant
CONSTANT_RIGHT = 30.0  # dB, on it or on 0..255; seen: 39 to 47, and 18 to 21 of other faults
SATURATED = 0.2  # share of the pixels
UNSEEN = 0.05  # share of the pixels
STEP = 0.02  # of a layer's strength, for its derivative: half precision has steps of 0.001
SUSPECTS = 4  # layers that are tried in full
HOPELESS = 0.4  # of the error left by the best gain; most seen of a layer 10 % off: 0.31
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, often subtracted


@dataclass(frozen=True)
class Suspect:
    """A variant that gives `got` where `expected` is right, and misses `limit` dB.

    precision  as in `argan.bundle`
    reference  a variant that is right, or None
    likeness   least cosine of its layers' weights with the reference's, or nan
    ally       another variant that gives the same, as "120 dB to NAME", or ""
    file       its model file of that `format`, b"" if it is no single one; reload: run another one
    """

    run: Run
    image: Array
    got: Array
    expected: Array
    limit: float
    precision: str
    reference: Run | None
    likeness: float
    ally: str
    file: bytes
    format: str
    reload: Callable[[bytes], Run]

    @property
    def decibels(self) -> float:
        return psnr(self.got, self.expected)

    def explained(self, decibels: float) -> bool:
        return decibels >= max(self.limit - GAIN_DB, self.decibels + GAIN_DB)


def diagnose(suspect: Suspect) -> Fault:
    """The name of what is wrong."""
    seen = (
        _truncated(suspect)
        or appearance(suspect.got, suspect.expected)
        or _rearranged(suspect)
        or _inside_out(suspect)
        or _calibration(suspect)
        or _saturated(suspect.got, suspect.expected)
    )
    if seen:
        return seen
    layer, whole = _layer(suspect)
    if layer and (whole or not suspect.ally):
        return layer
    here = f"{suspect.decibels:.1f} dB"
    if suspect.reference is None:
        unlike = suspect.ally and f", but {suspect.ally}"
        return Fault(
            OTHER_GOLDEN,
            here + (unlike or ", which no order of channels, range, sign or single layer explains:"
                    " golden.npz, or else the weights, are another model's"),
        )  # fmt: skip
    if suspect.precision == "fp32" or suspect.likeness < SAME_WEIGHTS:
        return Fault(OTHER_WEIGHTS, f"{here}, where another variant is right")
    return Fault(
        COARSE,
        f"{here} with the weights of the reference: calibrate on other photos, or keep more layers"
        " in float",
    )


def bokeh(image: Array, got: Array, expected: Array) -> Fault:
    """Why the refocus graph's picture is wrong although its disparity is right."""
    seen = appearance(got, expected)
    if seen:
        return seen
    least = psnr(got, expected) + GAIN_DB
    for name, order in PERMUTATIONS.items():
        if psnr(got[:, list(order)], expected) >= least:
            return Fault("wrong channel order", f"the bokeh is {name}")
    if psnr(_fitted(got, expected), expected) >= least:
        return Fault(SCALE, f"the bokeh is {got.min():.3g} to {got.max():.3g}")
    if psnr(got, image) >= least:
        return Fault("no blur", "the bokeh is the photo")
    return Fault("the renderer", f"bokeh {least - GAIN_DB:.1f} dB, though its disparity is right")


def appearance(got: Array, expected: Array) -> Fault | None:
    """What can be seen at once."""
    if got.shape != expected.shape:
        return Fault("wrong size", f"{list(got.shape)} in place of {list(expected.shape)}")
    bad = int(np.sum(~np.isfinite(got)))
    if bad:
        return Fault("NaN", f"{bad} of {got.size} values are NaN or infinite")
    if not got.any():
        return Fault("all-zero", "every value is 0")
    if np.std(got) < 1e-4 * np.std(expected):
        return Fault("constant", f"{got.min():.4g} to {got.max():.4g} everywhere")
    return None


# ---- the picture or the map rearranged


class Change(NamedTuple):
    """What would undo some faults: in words, and done."""

    faults: tuple[str, ...]
    words: tuple[str, ...]
    done: Callable[[Array], Array]


NOTHING = Change((), (), lambda x: x)
PERMUTATIONS = {
    "BGR": (2, 1, 0), "RBG": (0, 2, 1), "GRB": (1, 0, 2), "GBR": (1, 2, 0), "BRG": (2, 0, 1),
}  # fmt: skip


def _plane(values: tuple[float, ...]) -> Array:
    return np.array(values, np.float32)[:, None, None]


def _order(name: str, order: tuple[int, ...]) -> Change:
    return Change(
        ("wrong channel order",), (f"it is given {name}",),
        lambda x: np.ascontiguousarray(x[:, list(order)]),
    )  # fmt: skip


def _range(words: str, done: Callable[[Array], NDArray[Any]]) -> Change:
    return Change(("wrong input range",), (words,), lambda x: done(x).astype(np.float32))


def _both(first: Change, then: Change) -> Change:
    return Change(
        first.faults + then.faults, first.words + then.words, lambda x: then.done(first.done(x))
    )


def _layout(words: str, axes: tuple[int, ...], reshaped: bool) -> Change:
    def done(x: Array) -> Array:
        moved = np.ascontiguousarray(x.transpose(axes))
        return moved.reshape(x.shape) if reshaped else moved

    return Change(("wrong layout",), (words,), done)


def _channels_last(x: Array) -> Array:
    n, c, h, w = x.shape
    return np.ascontiguousarray(x.reshape(n, h, w, c).transpose(0, 3, 1, 2))


ORDERS = [NOTHING, *itertools.starmap(_order, PERMUTATIONS.items())]
RANGES = [
    NOTHING,
    _range("it is given 0..255", lambda x: x * 255),
    _range("it is given 0..1/255", lambda x: x / 255),
    _range("it is given -1..1", lambda x: 2 * x - 1),
    _range("it is given 0.5..1", lambda x: (x + 1) / 2),
    _range("mean and deviation are taken off", lambda x: (x - _plane(MEAN)) / _plane(DEVIATION)),
    _range("mean and deviation are put back", lambda x: x * _plane(DEVIATION) + _plane(MEAN)),
]
INPUTS = [
    *itertools.starmap(_both, itertools.product(ORDERS, RANGES)),
    _layout("height and width are swapped", (0, 1, 3, 2), reshaped=False),
    _layout("its channels lie last in memory", (0, 2, 3, 1), reshaped=True),
    Change(("wrong layout",), ("its channels, last in memory, lie first",), _channels_last),
]


def _outputs(expected: Array) -> list[Change]:
    return [
        NOTHING,
        Change(("wrong sign",), ("its answer is negated",), lambda y: -y),
        Change(("wrong sign",), ("its answer is turned from lo..hi to hi..lo",), lambda y: 1 - y),
        Change(("wrong layout",), ("its answer's height and width are swapped",),
               lambda y: np.ascontiguousarray(y.swapaxes(2, 3))),
        Change((SCALE,), ("its answer is scaled and shifted",),
               lambda y: _fitted(y, expected)),
    ]  # fmt: skip


def _fitted(got: Array, expected: Array) -> Array:
    """The scale and the shift, the former positive, that bring one map nearest to the other."""
    from_mean = got - got.mean()
    scale = max(0.0, float(np.sum(from_mean * expected) / max(float(np.sum(from_mean**2)), 1e-30)))
    return np.asarray(scale * from_mean + expected.mean(), np.float32)


def _rearranged(suspect: Suspect) -> Fault | None:
    """The fewest changes to what goes in and comes out with which the variant is right, unless
    others bring GAIN_DB more: to a network that hardly minds colours, one fault hides another."""
    best: Fault | None = None
    reached = -math.inf
    answers: dict[tuple[str, ...], Array] = {}
    pairs = itertools.product(INPUTS, _outputs(suspect.expected))
    # A fit has two numbers of its own: of two explanations it is the weaker.
    for given, taken in sorted(
        pairs, key=lambda pair: (len(pair[0].faults + pair[1].faults), SCALE in pair[1].faults)
    ):
        if given.words not in answers:
            try:
                answers[given.words] = suspect.run(given.done(suspect.image))
            except Error:  # of a size that it does not take
                answers[given.words] = np.zeros(0, np.float32)
        answer = answers[given.words]
        if answer.shape != suspect.got.shape or not np.isfinite(answer).all():
            continue
        changed = taken.done(answer)
        if changed.shape != suspect.expected.shape or not given.faults + taken.faults:
            continue
        decibels = psnr(changed, suspect.expected)
        if suspect.explained(decibels) and decibels >= reached + GAIN_DB:
            reached = decibels
            best = Fault(
                " and ".join(dict.fromkeys(given.faults + taken.faults)),
                f"{suspect.decibels:.1f} dB, but {decibels:.1f} dB once "
                + " and ".join(given.words + taken.words),
            )
    return best


def _inside_out(suspect: Suspect) -> Fault | None:
    correlation = spearman(suspect.got.ravel(), suspect.expected.ravel())
    if correlation > WRONG_WAY:
        return None
    return Fault("wrong sign", f"rank correlation {correlation:.3f}: far and near are swapped")


# ---- whole numbers that cover too little


def _calibration(suspect: Suspect) -> Fault | None:
    """Of a quantised variant: was it calibrated on 0..255, or on a constant? Then it is as good as
    the reference on that alone, and parts of any other picture make no difference to it."""
    if suspect.precision not in ("int8", "int8-io"):
        return None
    image, run = suspect.image, suspect.run
    enough = max(suspect.decibels + CONSTANT_DB, CONSTANT_RIGHT)
    here = f", {suspect.decibels:.1f} dB on a picture"

    def same(a: Array, b: Array) -> bool:
        return np.array_equal(run(a), run(b))

    if suspect.reference is not None:
        high = psnr(run(image * 255), suspect.reference(image * 255))
        if high >= enough:
            return Fault("wrong input range", f"calibrated on 0..255: {high:.1f} dB on that{here}")
    elif same(image, np.rint(image)) and not same(image * 255, 255 - image * 255):
        return Fault("wrong input range", "calibrated on 0..255: it tells no level from 0 or 1")
    unseen = []
    for level in GREYS[1:-1] + np.float32(0.01):
        for word, cut in (("above", np.minimum(image, level)), ("below", np.maximum(image, level))):
            share = float(np.mean(cut != image))
            if share > UNSEEN and same(image, cut):
                said = f"input {word} {level:.2f}, {share:.0%} of the picture, changes nothing"
                unseen.append((share, said))
    if unseen:
        return Fault("calibrated on a constant", max(unseen)[1])
    if suspect.reference is not None:
        for grey in GREYS:
            plain = np.full_like(image, grey)
            decibels = psnr(run(plain), suspect.reference(plain))
            if decibels >= enough:
                said = f"{decibels:.1f} dB on a plain grey of {grey:.1f}{here}"
                return Fault("calibrated on a constant", said)
    return None


def _saturated(got: Array, expected: Array) -> Fault | None:
    """Many pixels at the least or the largest value that it gives, where they should be beyond."""
    near = 1e-3 * (got.max() - got.min())
    for end, beyond in ((got.min(), expected < got.min()), (got.max(), expected > got.max())):
        share = float(np.mean(np.abs(got - end) <= near))
        if share > SATURATED and np.mean(beyond) > SATURATED / 2:
            return Fault("saturated", f"{share:.0%} of the values are {end:.4g}")
    return None


# ---- weights that are lost; one layer too strong or too weak

Group = tuple[Weight, ...]  # a layer's weights, or its weights and its bias
Vector = NDArray[np.float64]


def _constants(suspect: Suspect) -> dict[str, Weight]:
    """By name those of its file whose values can be had."""
    try:
        constants = weights.read(suspect.file, suspect.format) if suspect.file else []
    except BundleError:
        return {}
    return {w.name: w for w in constants if weights.values(suspect.file, w) is not None}


def _truncated(suspect: Suspect) -> Fault | None:
    """Layers whose weights end in zeros, for half of their length and more."""
    layers = [w for w in _constants(suspect).values() if len(w.shape) >= 2]
    lost = []
    for weight in layers:
        values = weights.values(suspect.file, weight)
        if values is not None and values.size > 1 and not values.ravel()[values.size // 2 :].any():
            lost.append(weight.name)
    if not lost:
        return None
    return Fault(TRUNCATED, f"{len(lost)} of {len(layers)} layers end in zeros, as {lost[0]} does")


def _layer(suspect: Suspect) -> tuple[Fault | None, bool]:
    """The layer that, times some gain, brings the variant nearest to what is expected, and whether
    that is near enough: its weights alone, else with its bias. By their derivatives first, the
    likeliest in full."""
    groups = _groups(_constants(suspect))
    residual = _vector(suspect.expected - suspect.got)
    single: dict[str, Vector] = {}
    best, found = suspect.decibels + LIKELY_DB, None
    for kind in groups:  # ReLU lets a bias scaled too pass for the layer after it
        for weight in [weight for group in kind for weight in group if weight.name not in single]:
            change = _with_gain(suspect, (weight,), 1 + STEP) - suspect.got
            single[weight.name] = _vector(change) / STEP
        slopes = [np.sum([single[weight.name] for weight in group], axis=0) for group in kind]
        left = [_left(slope, residual) for slope in slopes]
        likely = [i for i in np.argsort(left)[:SUSPECTS] if left[i] < HOPELESS]
        for i in likely:
            decibels, gain = _tuned(suspect, kind[i], slopes[i], residual)
            if decibels > best:
                best, found = decibels, (kind[i], gain)
            if decibels >= suspect.limit:
                break
        if suspect.explained(best) or not likely:
            break
    if found is None:
        return None, False
    (group, gain), whole = found, suspect.explained(best)
    return Fault(
        LAYER,
        f"{'' if whole else 'most likely '}{' and '.join(weight.name for weight in group)}:"
        f" {1 / gain:.3f} times what it should be ({suspect.decibels:.1f} dB, but {best:.1f} dB"
        " once that is undone)",
    ), whole


def _groups(constants: dict[str, Weight]) -> tuple[list[Group], list[Group]]:
    """The layers' weights, and the layers' weights with their biases."""
    layers = [weight for weight in constants.values() if len(weight.shape) >= 2]
    return (
        [(weight,) for weight in layers],
        [(weight, constants[weight.bias]) for weight in layers if weight.bias in constants],
    )


def _tuned(
    suspect: Suspect, group: Group, slope: Vector, residual: Vector
) -> tuple[float, float]:
    """The gain of a group that brings the most, -> dB, gain: Newton's steps."""
    best, gain = (suspect.decibels, 1.0), 1.0
    for _ in range(5):
        gain += float(slope @ residual) / max(float(slope @ slope), 1e-30)
        if not 0.1 < gain < 10:
            break
        answer = _with_gain(suspect, group, gain)
        decibels = psnr(answer, suspect.expected)
        if decibels < best[0] + 1:
            break
        best = decibels, gain
        if decibels >= suspect.limit:
            break
        residual = _vector(suspect.expected - answer)
        stronger = _with_gain(suspect, group, gain * (1 + STEP))
        slope = _vector(stronger - answer) / (gain * STEP)
    return best


def _with_gain(suspect: Suspect, group: Group, gain: float) -> Array:
    file = suspect.file
    for weight in group:
        file = weights.scaled(file, weight, gain)
    return suspect.reload(file)(suspect.image)


def _vector(values: Array) -> Vector:
    return values.ravel().astype(np.float64)


def _left(slope: Vector, residual: Vector) -> float:
    """What share of the residual's energy a gain along the slope leaves."""
    energy = float(slope @ slope)
    if not 0 < energy < np.inf:
        return 1.0
    return 1 - float(slope @ residual) ** 2 / energy / float(residual @ residual)
