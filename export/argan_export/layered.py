"""The lens as a graph for phones: `Layered`, the renderer, and `RefocusGraph`, photo -> bokeh.

The picture is that of `argan.lens.render` with a round pupil, from operations that every phone
accelerator has: slices and concatenations, depthwise convolutions with constant kernels, pooling,
bilinear resizing, and elementwise arithmetic. Nothing is gathered, reflected, sorted or masked, and
no shape depends on the input. Focus and blur are inputs; the size is fixed when the graph is made.

How it works. The photo, in linear light, is cut into soft slices by its signed blur radius: those
in front of the focal plane, the sharp one, and those behind it. A slice is blurred as a whole by a
disc of constant radius and laid behind the slices in front of it, by the rule of `argan.slices`.
Slices up to 2.5 px are blurred at full size, those from 4.4 to 7 px at half size, up to 14 px at a
quarter and so on, with the same three discs: the largest filter has 7 x 7 taps whatever the radius.
What no slice covers was hidden behind something blurred: colours from around the hole fill it.

No value exceeds 13000, the largest radius squared, and no divisor falls below 1e-3: float16 does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from argan.bundle import Image
from argan.errors import ShapeError
from argan.refocus import network_size

MULTIPLE = 32  # of the sides

# Radii of the slices, in px of full size, and in px of every smaller size. Chosen on 8 of the 12
# oracle scenes: one more slice brings 0.1 dB at most; discs up to 4.5 px at full size would bring
# 0.3 dB for twice the time.
FINE = (1.25, 2.5)
OCTAVE = (2.2, 2.7, 3.5)
MARGIN_FINE, MARGIN_OCTAVE = 2, 3  # px that the widest disc of each reaches
PLANES = 12  # of a slice, with the spare ones
LARGEST = 0.05  # of the longer side: the least that the largest radius is to be
SOFTENING = 1.5  # px^2: halving and doubling widen a disc as much; taken off the squared radius

FAINT = 1 / 512  # coverage that every pixel of the photo has where a hole is filled
SURE = 4  # a coverage of 1/4 is enough to take a hole's colour from its own neighbourhood
FILLS = 3  # halvings of the smallest size, to fill holes from
UNHIDDEN = 0.02  # of a disc: a smaller part says too little of what goes on behind an outline
LEAST = 1e-3  # divisor
# TFLite's converter makes an operation of its own of a clamp to exactly 0..1, which XNNPACK and GPU
# delegates leave to the slow kernels.
ONE = 1 + 2.0**-23

# What the photo clipped is guessed, as in `argan.highlights`; chosen on the same 8 scenes.
CLIPPED = 0.997, 0.999  # sRGB: not at all, entirely; 254 of 255 is not
BRIGHT_SURE = 256  # 1 bright pixel in 256 tells the colour of clipped ones around it
BRIGHT_FILLS = 4
MOST = 2.5  # times white, for a pixel with some clipped channels
LIGHT = 8  # times white, above white, for a small spot with all channels clipped
CROWDED = 0.06  # part of the surroundings from which clipped pixels are no light but a surface
SURROUNDINGS = 16  # of these in the photo's width

# The disparity's outlines; chosen on the same 8 scenes, with their disparity degraded as a network
# would: 60 % of what plain enlargement loses is won back.
SIDES = 7  # px of the network's map: window in which the nearest and the farthest are looked for
SURE_SIDE = 0.5  # part of the step from far to near within which a pixel counts for its side
LEAST_STEP = 0.05  # smaller steps are no outlines; twice as large ones are
VOTERS, VOTERS_SIGMA = 3, 1.7  # px of the map: colours are those of a bell of this reach
ENOUGH = 8  # voters: one in so many
UNLIKE = 0.03  # squared distance of sRGB colours: nearer ones say little

# Linear light from sRGB (IEC 61966-2-1) and back, without powers: least maximum error in sRGB,
# 5e-5 and 4e-5. Above the toe a polynomial, and a sum of x, x^1/2, x^1/4 and x^1/8.
TOE_SRGB, TOE_LINEAR, TOE_SLOPE = 0.04045, 0.0031308, 12.92
DECODE = (0.07814431, 0.59554903, 0.6250523, -0.29799848, 0.09105093)
ENCODE = (-0.02098595, 0.65851818, 0.67811427, -0.30945227)


class Layered(nn.Module):
    """image [1, 3, H, W] sRGB 0..1, disparity [1, 1, H, W], focus [1] disparity, blur [1] K, px of
    disc radius at this size per unit of disparity -> bokeh [1, 3, H, W] sRGB 0..1.

    Larger disparity is nearer; |disparity - focus| K must stay below 65504 where the graph runs in
    float16. Radii above `largest_radius` px, 5 % of the longer side or more, are cut to it.
    ShapeError unless H and W are multiples of 32.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        if height % MULTIPLE or width % MULTIPLE or min(height, width) <= 0:
            raise ShapeError(f"{width}x{height} px: give sides that are multiples of {MULTIPLE}")
        wanted = LARGEST * max(height, width) / OCTAVE[-1]
        self.levels = min(max(math.ceil(math.log2(wanted)), 1), 5)  # 5: sides halve as often
        self.largest_radius = OCTAVE[-1] * 2**self.levels
        self.cell = math.gcd(height, width, 1 << int(math.log2(width / SURROUNDINGS)))
        self.fine = nn.ModuleList(Filter(disc(r), PLANES, MARGIN_FINE) for r in FINE)
        soft = [math.sqrt(r * r - SOFTENING) for r in OCTAVE]
        self.octave = nn.ModuleList(Filter(disc(r), PLANES, MARGIN_OCTAVE) for r in soft)
        tent = np.outer((1, 3, 3, 1), (1, 3, 3, 1)) / 64
        self.register_buffer("tent", _weights(tent, 10), persistent=False)
        self.tent: Tensor

    def forward(self, image: Tensor, disparity: Tensor, focus: Tensor, blur: Tensor) -> Tensor:
        limit = self.largest_radius
        signed = ((disparity - focus) * blur).clamp(-limit, limit)
        light = self.light(image)
        wide_light, wide = _split(clamped(torch.cat([light, signed], 1), MARGIN_FINE), 3, 1)
        radius = torch.cat([wide.relu(), (wide * -1).relu()], 1)
        ramps = _ramps(radius, (0, *FINE, 2 * OCTAVE[0]))
        pieces = [
            _pieces(spread(_slice(wide_light, wide_light, lower, upper)))
            for spread, (lower, upper) in zip(self.fine, itertools.pairwise(ramps), strict=True)
        ]
        before, after = _split(ramps[0], 1, 1)
        sharp, unhidden = _inner(1 - before - after, MARGIN_FINE), _inner(1 - before, MARGIN_FINE)
        order = [piece for piece, _ in pieces[::-1]]
        order += [Piece(light * sharp, sharp, unhidden)]
        order += [piece for _, piece in pieces]
        near, back = self.reduced(wide_light, ramps[-1], radius)
        total = _composited(order, near)
        return _srgb(total.colour + total.clear * back)

    def light(self, image: Tensor) -> Tensor:
        """Linear [1, 3, H, W], above 1 where the photo is clipped."""
        light = _linear(image)
        clipped = ((image - CLIPPED[0]) * (1 / (CLIPPED[1] - CLIPPED[0]))).clamp(0.0, ONE)
        red, green, blue = _split(clipped, 1, 1, 1)
        every, some = red * green * blue, torch.maximum(torch.maximum(red, green), blue)
        # Some channels: the colour of the brightest pixels around, scaled to fit the others.
        energy = _total(light * light)
        weight = (1 - some) * energy * energy
        layer = F.avg_pool2d(torch.cat([light * weight, weight], 1), 4)
        around = _enlarged(_filled(layer, BRIGHT_SURE, BRIGHT_FILLS), 4)
        known = around * (1 - clipped)
        fit = _total(known * light) / _total(known * known).clamp_min(LEAST)
        guess = (1 - every) * ((fit * around).clamp(1.0, MOST) - light)
        # All channels: a light, where few are clipped around it.
        crowd = _enlarged(F.avg_pool2d(every, self.cell), self.cell)
        spot = (every * LIGHT) * (1 - crowd * (1 / CROWDED)).relu()
        return light + clipped * (guess + spot)

    def reduced(self, light: Tensor, beyond: Tensor, radius: Tensor) -> Reduced:
        """What is too blurred for full size: the share `beyond` of the photo, on either side; all
        with a margin."""
        before, after = _split(beyond, 1, 1)
        sums = torch.cat([light * before, light * after, beyond, beyond * radius], 1)
        sums, photo = F.avg_pool2d(sums, 2), F.avg_pool2d(light, 2)
        front, _, coverage, _ = _split(sums, 3, 3, 1, 3)
        visible = torch.cat([(1 + FAINT) * photo - front, (1 + FAINT) - coverage], 1)
        sums, visible = (_inner(planes, MARGIN_FINE // 2) for planes in (sums, visible))
        return _doubled(self.octaves(sums, visible, 1))

    def octaves(self, sums: Tensor, visible: Tensor, level: int) -> Reduced:
        """`reduced` at one smaller size.

        sums     [1, 10, h, w]: premultiplied colour in front and behind, their coverages, and
                 these times radius in px of the double size
        visible  [1, 4, h, w]: all that is not in front, to fill holes from
        """
        last = level == self.levels
        front, behind, coverage, moment = _split(clamped(sums, MARGIN_OCTAVE), 3, 3, 2, 2)
        radius = moment / (2 * coverage).clamp_min(LEAST)
        ramps = _ramps(radius, OCTAVE if last else (*OCTAVE, 2 * OCTAVE[0]))
        if last:
            ramps.append(ramps[-1] * 0)
        shares = [1 - ramps[0], *(a - b for a, b in itertools.pairwise(ramps))]
        beyond = [coverage, *(coverage * ramp for ramp in ramps)]
        pieces = [
            _pieces(spread(_slice(front, behind, lower, upper, share)))
            for spread, lower, upper, share in zip(
                self.octave, beyond[:-1], beyond[1:], shares, strict=True
            )
        ]
        from_front = [piece for piece, _ in pieces[::-1]]
        far = _composited([piece for _, piece in pieces])
        if last:
            near, hidden = None, _filled(visible, SURE, FILLS)
        else:
            before, after = _split(ramps[-1], 1, 1)
            rest = torch.cat([front * before, behind * after, beyond[-1], beyond[-1] * radius], 1)
            rest = _inner(rest, MARGIN_OCTAVE - 1)
            smaller: Tensor = F.conv2d(rest, self.tent, stride=2, groups=10)
            near, hidden = _doubled(self.octaves(smaller, F.avg_pool2d(visible, 2), level + 1))
        return Reduced(_composited(from_front, near), far.colour + far.clear * hidden)


class RefocusGraph(nn.Module):
    """image [1, 3, H, W] sRGB 0..1, focus [1] disparity, blur [1] K, px of disc radius at this size
    per unit of disparity -> bokeh [1, 3, H, W] sRGB 0..1, disparity [1, 1, H, W].

    As `argan.refocus`: the network sees the photo at about nominal^2 px, and its disparity is
    normalised so that `extent`, that of a typical photo, becomes 0..1.

    network  [1, 3, h, w] -> [1, 1, h, w], in evaluation mode; h and w multiples of 32
    """

    def __init__(
        self,
        network: nn.Module,
        extent: tuple[float, float],
        nominal: int,
        height: int,
        width: int,
    ) -> None:
        super().__init__()
        self.layered = Layered(height, width)
        self.network = network
        self.lowest, self.scale = extent[0], 1 / (extent[1] - extent[0])
        self.size = network_size(height, width, Image("image", None, None, MULTIPLE, nominal))
        ratio = min(height / self.size[0], width / self.size[1])
        self.pool = 1 << max(int(math.log2(ratio)), 0)
        self.edge_aware = EdgeAware(height, width)

    def forward(self, image: Tensor, focus: Tensor, blur: Tensor) -> tuple[Tensor, Tensor]:
        small = F.avg_pool2d(image, self.pool) if self.pool > 1 else image
        small = _resized(small, self.size)
        disparity = (self.network(small) - self.lowest) * self.scale
        disparity = self.edge_aware(disparity, small, image)
        return self.layered(image, disparity, focus, blur), disparity


class EdgeAware(nn.Module):
    """The network's disparity [1, 1, h, w], about 0..1, brought to the photo's size, its outlines
    where the photo has them: small, the picture that the network saw [1, 3, h, w]; image
    [1, 3, H, W] -> [1, 1, H, W].

    As `argan.upsample`, with one vote for all colours: near an outline each pixel belongs to the
    nearest or the farthest surface around, whichever mean colour it is nearer to. The line between
    these two colours is found at the network's size; the photo is cut by it at its own.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.full = height, width
        steps = np.arange(-VOTERS, VOTERS + 1)
        bell = np.exp(-(steps**2) / (2 * VOTERS_SIGMA**2))
        kernel = np.outer(bell, bell) / bell.sum() ** 2
        self.around = Filter(kernel, 8, VOTERS)

    def forward(self, disparity: Tensor, small: Tensor, image: Tensor) -> Tensor:
        wide = clamped(disparity, SIDES // 2)
        near = _smoothed(F.max_pool2d(wide, SIDES, 1))
        far = _smoothed(F.max_pool2d(wide * -1, SIDES, 1)) * -1
        step = near - far
        soft = ((disparity - far) / step.clamp_min(LEAST)).clamp(0.0, ONE)
        is_near = (soft * (1 / SURE_SIDE) - (1 / SURE_SIDE - 1)).relu()
        is_far = (1 - soft * (1 / SURE_SIDE)).relu()
        voters = torch.cat([small * is_near, small * is_far, is_near, is_far], 1)
        one, other, near_there, far_there = _split(self.around(clamped(voters, VOTERS)), 3, 3, 1, 1)
        other = other / far_there.clamp_min(LEAST)
        line = one / near_there.clamp_min(LEAST) - other
        known = (near_there * ENOUGH).clamp_max(ONE) * (far_there * ENOUGH).clamp_max(ONE)
        length = _total(line * line)
        slope = line * (known / (length + UNLIKE))
        offset = soft * (1 - _total(line * slope)) - _total(other * slope)
        outline = (step * (1 / LEAST_STEP) - 1).clamp(0.0, ONE)
        base = disparity + outline * (far - disparity)
        planes = _resized(torch.cat([slope, offset, base, outline * step], 1), self.full)
        slope, offset, base, height = _split(planes, 3, 1, 1, 1)
        side = (_total(image * slope) + offset).clamp(0.0, ONE)
        side, rest = (_squared(_squared(x)) for x in (side, 1 - side))
        return base + height * side / (side + rest)


class Filter(nn.Module):
    """A filter with an odd number of taps a side, on planes with a margin:
    [1, C, H + 2 margin, W + 2 margin] -> [1, C, H, W].

    Up to 5 x 5 taps in one convolution. A larger one as the sum of the few products of a row and a
    column that it is made of (its singular vectors): CPUs are several times faster with these in
    TFLite, and as fast in ONNX Runtime.
    """

    def __init__(self, kernel: NDArray[np.float64], channels: int, margin: int) -> None:
        super().__init__()
        self.crop = margin - kernel.shape[0] // 2
        columns, strengths, rows = np.linalg.svd(kernel)
        parts: list[list[NDArray[np.float64]]] = [[kernel]]
        if len(kernel) > 5:
            parts = [
                [row[None] * strength, column[:, None]]
                for column, strength, row in zip(columns.T, strengths, rows, strict=True)
                if strength > 1e-3 * strengths[0]
            ]
        self.parts = nn.ModuleList(
            nn.Sequential(*(_convolution(weights, channels) for weights in part)) for part in parts
        )

    def forward(self, planes: Tensor) -> Tensor:
        planes = _inner(planes, self.crop)
        total: Tensor = self.parts[0](planes)
        for part in self.parts[1:]:
            total = total + part(planes)
        return total


def disc(radius: float) -> NDArray[np.float64]:
    """A disc as a filter with sum 1, anti-aliased: [n, n], n = 2 ceil(radius - 1/2) + 1."""
    reach = math.ceil(radius - 0.5)
    fine = 16  # sub-pixels a side
    steps = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    inside = np.hypot(steps[:, None], steps) <= radius
    coverage = inside.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean((1, 3))
    return np.asarray(coverage / coverage.sum())


def clamped(planes: Tensor, margin: int) -> Tensor:
    """Planes with `margin` px more on every side, the nearest pixel's value: no phone's
    accelerator has this as one operation."""
    for axis in (3, 2):
        first, last = planes.narrow(axis, 0, 1), planes.narrow(axis, planes.shape[axis] - 1, 1)
        planes = torch.cat([*[first] * margin, planes, *[last] * margin], axis)
    return planes


def _convolution(weights: NDArray[np.float64], channels: int) -> nn.Conv2d:
    """Each plane through the same filter [h, w], without margins."""
    size = (weights.shape[0], weights.shape[1])
    convolution = nn.Conv2d(channels, channels, size, groups=channels, bias=False)
    convolution.weight = nn.Parameter(_weights(weights, channels), requires_grad=False)
    return convolution


def _weights(kernel: NDArray[np.float64], channels: int) -> Tensor:
    return torch.from_numpy(kernel).float().repeat(channels, 1, 1, 1)


# ---- slices


class Piece(NamedTuple):
    """One slice, blurred: premultiplied colour [1, 3, h, w], and [1, 1, h, w] how much of the disc
    it has, and how much is not hidden there by what is nearer."""

    colour: Tensor
    share: Tensor
    unhidden: Tensor


class Seen(NamedTuple):
    """Slices composited: premultiplied colour [1, 3, h, w], and what is still clear of them."""

    colour: Tensor
    clear: Tensor


class Reduced(NamedTuple):
    """All that is blurred in front, and the colours [1, 3, h, w] of all that is behind, with its
    holes filled."""

    near: Seen
    back: Tensor


def _slice(
    front: Tensor, behind: Tensor, lower: Tensor, upper: Tensor, share: Tensor | None = None
) -> Tensor:
    """The planes [1, PLANES, h, w] to be blurred for the slice between two stops, on either side.

    front, behind  [1, 3, h, w]: premultiplied colours
    lower, upper   [1, 2, h, w]: coverage of all from the lower and from the upper stop on
    share          [1, 2, h, w]: part of the colours; None: lower - upper
    """
    covered = lower - upper
    before, after = _split(covered if share is None else share, 1, 1)
    nearer, _ = _split(upper, 1, 1)
    _, there = _split(lower, 1, 1)
    spare = covered  # ONNX Runtime convolves 12 planes in half of the time of 10
    return torch.cat([front * before, behind * after, covered, 1 - nearer, there, spare], 1)


def _pieces(blurred: Tensor) -> tuple[Piece, Piece]:
    """`_slice`, blurred -> the pieces in front and behind."""
    front, behind, before, after, shown, there, _ = _split(blurred, 3, 3, 1, 1, 1, 1, 2)
    return Piece(front, before, shown), Piece(behind, after, there)


def _composited(pieces: Sequence[Piece], seen: Seen | None = None) -> Seen:
    """Pieces from front to back, behind what is seen already. Of what is still clear each covers
    the part that it has of all that is not hidden: so a surface goes on behind the outline of what
    hides part of it, with its own colours, and takes none from there."""
    for piece in pieces:
        unhidden = piece.unhidden.clamp_min(UNHIDDEN)
        if seen is None:
            seen = Seen(piece.colour / unhidden, (1 - piece.share / unhidden).clamp(0.0, ONE))
        else:
            part = seen.clear / unhidden
            clear = (seen.clear - piece.share * part).clamp(0.0, ONE)
            seen = Seen(seen.colour + piece.colour * part, clear)
    assert seen is not None
    return seen


def _ramps(radius: Tensor, stops: Sequence[float]) -> list[Tensor]:
    """0 up to one stop, 1 from the next on, for all neighbours: their differences are the slices'
    shares. Linear in radius^2, the variance of a disc, so that a mixture of two neighbouring discs
    is as wide as the disc between them."""
    square = radius * radius
    return [
        (square * (1 / (high**2 - low**2)) - low**2 / (high**2 - low**2)).clamp(0.0, ONE)
        for low, high in itertools.pairwise(stops)
    ]


# ---- parts and sizes


def _split(planes: Tensor, *sizes: int) -> list[Tensor]:
    """By channels. As slices: ONNX Runtime's NNAPI provider has no Split."""
    starts = itertools.accumulate(sizes, initial=0)
    return [planes.narrow(1, start, size) for start, size in zip(starts, sizes, strict=False)]


def _inner(planes: Tensor, crop: int) -> Tensor:
    return planes[:, :, crop:-crop, crop:-crop] if crop else planes


def _enlarged(planes: Tensor, factor: int = 2) -> Tensor:
    return F.interpolate(planes, scale_factor=float(factor), mode="bilinear", align_corners=False)


def _filled(layer: Tensor, sure: float, halvings: int) -> Tensor:
    """Premultiplied colour and coverage [1, 4, h, w] -> colour [1, 3, h, w]; where the coverage is
    below 1 / sure, colours from around, too: from at most so many halvings, as long as h and w are
    even, and from the mean."""
    colour, coverage = _split(layer, 3, 1)
    if halvings and layer.shape[2] % 2 == 0 and layer.shape[3] % 2 == 0:
        around = _enlarged(_filled(F.avg_pool2d(layer, 2), sure, halvings - 1))
    else:
        mean, covered = _split(F.avg_pool2d(layer, layer.shape[2:]), 3, 1)
        around = mean / covered.clamp_min(LEAST)
    colour = colour / coverage.clamp_min(LEAST)
    return around + (coverage * sure).clamp_max(1) * (colour - around)


def _resized(planes: Tensor, size: tuple[int, int]) -> Tensor:
    if planes.shape[2:] == size:
        return planes
    return F.interpolate(planes, size=size, mode="bilinear", align_corners=False)


def _smoothed(planes: Tensor) -> Tensor:
    """Means of 3 x 3."""
    return F.avg_pool2d(clamped(planes, 1), 3, 1)


def _squared(planes: Tensor) -> Tensor:
    return planes * planes


def _doubled(small: Reduced) -> Reduced:
    planes = _enlarged(torch.cat([*small.near, small.back], 1))
    colour, clear, back = _split(planes, 3, 1, 3)
    return Reduced(Seen(colour, clear), back)


# ---- light


def _total(planes: Tensor) -> Tensor:
    """Sum over three channels."""
    red, green, blue = _split(planes, 1, 1, 1)
    return red + green + blue


def _linear(image: Tensor) -> Tensor:
    above = (image - TOE_SRGB).relu()
    polynomial = above * DECODE[-1]
    for coefficient in DECODE[-2::-1]:
        polynomial = (polynomial + coefficient) * above
    return image.clamp_max(TOE_SRGB) * (1 / TOE_SLOPE) + polynomial


def _srgb(light: Tensor) -> Tensor:
    light = light.clamp(0.0, ONE)
    power, total = light.clamp_min(TOE_LINEAR), light.clamp_max(TOE_LINEAR) * TOE_SLOPE
    at_toe = 0.0
    for i, coefficient in enumerate(ENCODE):
        power = power.sqrt() if i else power
        total = total + power * coefficient
        at_toe += coefficient * TOE_LINEAR ** (0.5**i)
    return total - at_toe
