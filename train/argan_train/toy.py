"""Toy world: procedural pictures of a flower before a background, with known disparity.

Thin-lens optics in linear light. The subject's plane is in focus, so the sharp subject over the
disc-blurred, fully known background is the exact photograph of the two planes. The optional middle
plane adds a second 'over' of blurred planes, an approximation: 60 dB from the lens integral on
average, 44 dB at worst (121 lens points, 24 scenes each of 32 and 64 px).

Half of the subjects are textured and half smooth: a blur leaves a smooth region as it was, so a
generator can win its game with an edge map instead of a depth. Smooth subjects make that visible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial import KDTree
from scipy.special import j1

from argan.errors import InputError

Array = NDArray[np.float32]

# Largest lens, px of radius per unit of disparity, as a share of the size. The background is at
# most 0.9 units behind the subject: radii to 2.6 px at 32 px, inside a generator's range of 3 px.
MAX_LENS = 0.09
SUBJECT_DISPARITY = (0.70, 0.95)
BACKGROUND_DISPARITY = (0.05, 0.40)
TEXTURES = 96  # every kind 16 times; 4 x 4 pictures' worth of area each
CLUMPS = 24  # smooth masks for the middle plane
UNSEEN_SEED = 10_000  # of worlds to measure on, and above: training counts its seeds from 0


@dataclass(frozen=True)
class ToyBatch:
    """N scenes, float32; pictures are sRGB 0..1.

    image      [N, 3, S, S]  as taken, some through a wide lens
    sharp      [N, 3, S, S]  the same scenes through a pinhole
    disparity  [N, 1, S, S]  0..1, 1 = nearest
    alpha      [N, 1, S, S]  coverage by the subject, 0..1
    focus      [N]           the subject's disparity: where the lens is focused
    lens       [N]           px of blur radius per unit of disparity; 0 = pinhole
    """

    image: Array
    sharp: Array
    disparity: Array
    alpha: Array
    focus: Array
    lens: Array


class ToyWorld:
    """An endless, seeded source of `ToyBatch`es of size x size pictures.

    blur_probability    share of scenes taken through a wide lens
    smooth_probability  share of subjects without texture, gently shaded
    mid_plane           some scenes have clumps between the subject and the background
    """

    def __init__(
        self,
        size: int = 32,
        seed: int = 0,
        blur_probability: float = 0.5,
        smooth_probability: float = 0.5,
        mid_plane: bool = True,
    ) -> None:
        if size < 8:
            raise InputError(f"toy pictures of {size} px: give 8 or more")
        self.size = size
        self.blur_probability = blur_probability
        self.smooth_probability = smooth_probability
        self.mid_plane = mid_plane
        self.max_lens = MAX_LENS * size
        self._rng = np.random.default_rng(seed)
        self._textures = np.stack([_texture(self._rng, 4 * size, i % 6) for i in range(TEXTURES)])
        self._clumps = np.stack([_clump(self._rng, 4 * size) for _ in range(CLUMPS)])
        # Planes reach past the frame by the largest radius, so that the blur sees what lies there.
        margin = math.ceil(self.max_lens) + 1
        self._wide = int(fft.next_fast_len(size + 2 * margin, real=True))
        self._blur = DiscBlur(self._wide, self.max_lens)
        steps = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        self._grid_x, self._grid_y = np.meshgrid(steps, steps)

    def batch(self, count: int, off_centre: float = 0.0) -> ToyBatch:
        """`count` scenes. off_centre > 0 puts the subjects that far from the centre (1 = at the
        frame's edge), each in a random direction: a depth that only knows the prior fails there."""
        rng = self._rng
        focus = _uniform(rng, SUBJECT_DISPARITY, count)
        far = _uniform(rng, BACKGROUND_DISPARITY, count)
        wide_open = rng.random(count) < self.blur_probability
        lens = np.where(wide_open, _uniform(rng, (0.35, 1.0), count) * self.max_lens, 0)
        lens = lens.astype(np.float32)

        background = _paint(self._crops(self._textures, count, self._wide), *_palette(rng, count))
        sharp = self._frame(background)
        taken = self._frame(self._blur(background, lens * (focus - far)))
        disparity = np.broadcast_to(far[:, None, None], (count, self.size, self.size))
        if self.mid_plane:
            middle = far + (focus - far) * _uniform(rng, (0.2, 0.6), count)
            plane = self._middle_plane(count)
            clear = self._frame(plane)
            sharp = _over(clear, sharp)
            taken = _over(self._frame(self._blur(plane, lens * (focus - middle))), taken)
            disparity = np.where(clear[:, 3] > 0.5, middle[:, None, None], disparity)

        subject = self._subject(count, off_centre)
        alpha = subject[:, 3:]
        disparity = np.where(alpha > 0.5, focus[:, None, None, None], disparity[:, None])
        return ToyBatch(
            image=linear_to_srgb(_over(subject, taken)),
            sharp=linear_to_srgb(_over(subject, sharp)),
            disparity=disparity.astype(np.float32),
            alpha=alpha.copy(),
            focus=focus,
            lens=lens,
        )

    def _frame(self, planes: Array) -> Array:
        """The middle S x S of wide planes [N, C, W, W]."""
        start = (self._wide - self.size) // 2
        return planes[:, :, start : start + self.size, start : start + self.size]

    def _crops(self, bank: Array, count: int, size: int) -> Array:
        """Random crops of the bank, wrapped around and flipped: -> [N, size, size]."""
        rng, period = self._rng, bank.shape[-1]
        item = rng.integers(0, len(bank), (count, 1, 1))
        row, column = (_run(rng, count, size, period) for _ in range(2))
        # One flat gather is several times faster than bank[item, row, column].
        flat = (item * period + row[:, :, None]) * period + column[:, None, :]
        crops: Array = bank.reshape(-1)[flat]
        return crops

    def _middle_plane(self, count: int) -> Array:
        """A few soft-edged clumps in most scenes: -> [N, 4, W, W], premultiplied RGB and alpha."""
        rng = self._rng
        level = _uniform(rng, (0.6, 0.95), (count, 1, 1))
        present = rng.random((count, 1, 1)) < 0.6
        clumps = self._crops(self._clumps, count, self._wide)
        alpha = (np.clip((clumps - level) * 8, 0, 1) * present)[:, None]
        colour = _paint(self._crops(self._textures, count, self._wide), *_palette(rng, count))
        return np.concatenate([colour * alpha, alpha], axis=1)

    def _subject(self, count: int, off_centre: float) -> Array:
        """Subjects in front of everything: -> [N, 4, S, S], premultiplied RGB and alpha."""
        rng = self._rng
        shape = self._shape(count, off_centre)
        smooth = (rng.random(count) < self.smooth_probability)[:, None, None]
        texture = self._crops(self._textures, count, self.size)
        texture = np.where(smooth, np.float32(0.5), texture)
        petal, inner, heart, leaf = _subject_colours(rng, count)

        tone = 0.8 * shape.inward + 0.35 * (texture - 0.5) + 0.12 * np.cos(shape.wave)
        plain: Array = np.where(smooth, np.float32(0.5), np.clip(tone, 0, 1))
        colour = _paint(plain, inner, petal, (inner + petal) * np.float32(0.5))
        mottled = (0.55 + 0.6 * texture)[:, None]
        heart_cover = (shape.heart * ~smooth)[:, None]
        colour += heart_cover * (heart[:, :, None, None] * mottled - colour)
        lit_from = _uniform(rng, (0, 2 * math.pi), (count, 1, 1))
        light = 1 - 0.35 * shape.inward * (0.5 + 0.5 * np.cos(shape.theta - lit_from))
        light *= 0.6 + 0.6 * texture
        colour *= (light * shape.disc)[:, None]  # premultiplied from here on
        colour += leaf[:, :, None, None] * mottled * shape.stem[:, None]
        alpha = np.clip(shape.disc + shape.stem, 0, 1)[:, None]
        out: Array = np.concatenate([np.clip(colour, 0, alpha), alpha], axis=1)
        return out

    def _shape(self, count: int, off_centre: float) -> _Shape:
        """A flower, star, blob or ring each; flowers and some others stand on a stem."""
        rng, pixels = self._rng, (count, 1, 1)
        edge = np.float32(self.size / 2)  # px per unit of the grid: outlines one pixel soft
        x, y = self._around_centres(count, off_centre)
        rho, theta = np.hypot(x, y) + np.float32(1e-6), np.arctan2(y, x)
        kind = rng.integers(0, 4, count)
        ring = (kind == 3)[:, None, None]
        scale = _uniform(rng, (0.42, 0.68), pixels)
        lobes = rng.integers(4, 10, pixels).astype(np.float32)
        wave = lobes * theta + _uniform(rng, (0, 2 * math.pi), pixels)
        rim = _outline(kind, wave, theta) * scale
        hole = np.where(ring, 0.45 * scale, -1)
        disc = np.clip((rim - rho) * edge + 0.5, 0, 1) * np.clip((rho - hole) * edge + 0.5, 0, 1)

        has_stem = (kind == 0)[:, None, None] | (rng.random(pixels) < 0.3)
        bend = _uniform(rng, (-0.25, 0.25), pixels) * np.maximum(y, 0) ** 2
        width = _uniform(rng, (0.035, 0.065), pixels)
        stem = np.clip((width - np.abs(x - bend)) * edge + 0.5, 0, 1) * (1 - disc)
        stem *= has_stem & (y > 0) & (rho > np.where(ring, 0.7 * scale, 0))
        heart = np.clip((0.26 * scale - rho) * edge + 0.5, 0, 1) * ~ring
        return _Shape(disc, stem, heart, np.clip(rho / rim, 0, 1), wave, theta)

    def _around_centres(self, count: int, off_centre: float) -> tuple[Array, Array]:
        """Pixel positions seen from each subject's centre, x stretched a little: two of
        [N, S, S], the frame being -1..1."""
        rng = self._rng
        centre = np.clip(rng.normal(scale=0.09, size=(2, count)), -0.25, 0.25)
        if off_centre:
            angle = rng.uniform(0, 2 * math.pi, count)
            centre = off_centre * np.stack([np.cos(angle), np.sin(angle)])
        centre_x, centre_y = centre.astype(np.float32)[:, :, None, None]
        stretch = _uniform(rng, (0.875, 1.125), (count, 1, 1))
        return (self._grid_x - centre_x) * stretch, self._grid_y - centre_y


@dataclass(frozen=True)
class _Shape:
    """Geometry of N subjects, each [N, S, S]: coverage by disc (petals and heart), stem and heart;
    `inward` 0 at the centre, 1 at the rim; the petals' `wave` and the angle `theta` in radians."""

    disc: Array
    stem: Array
    heart: Array
    inward: Array
    wave: Array
    theta: Array


class DiscBlur:
    """Blur by a disc of given radius, by its exact transfer function 2 J1(q)/q, q = 2 pi r f."""

    STEPS = 8192  # of the table of 2 J1(q)/q; far below the 8 bits of a picture

    def __init__(self, size: int, max_radius: float) -> None:
        down, across = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
        frequency = np.hypot(down, across)  # cycles per px
        q = np.linspace(1e-6, 2 * math.pi * max_radius * frequency.max(), self.STEPS)
        self._transfer = (2 * j1(q) / q).astype(np.float32)
        steps_per_px = frequency / frequency.max() * ((self.STEPS - 1) / max_radius)
        self._steps_per_px = steps_per_px.astype(np.float32)

    def __call__(self, planes: Array, radius: Array) -> Array:
        """planes [N, C, W, W] (periodic), radius [N] px up to max_radius -> the same shape."""
        rows = np.flatnonzero(radius > 0.05)  # px: below that a disc is a point
        out = planes.copy()
        if len(rows):
            step = (radius[rows, None, None] * self._steps_per_px).astype(np.int32)
            transfer = self._transfer[np.minimum(step, self.STEPS - 1)]
            spectrum = fft.rfft2(planes[rows]) * transfer[:, None]
            out[rows] = fft.irfft2(spectrum, s=planes.shape[-2:])
        return out


def srgb_to_linear(colour: NDArray[np.floating]) -> Array:
    """IEC 61966-2-1."""
    low = colour / 12.92
    return np.where(colour <= 0.04045, low, ((colour + 0.055) / 1.055) ** 2.4).astype(np.float32)


# Steps even in the root of light are nearly even in sRGB: 4096 of them are 16 per 8-bit level.
_ROOTS = np.linspace(0, 1, 4097)
_SRGB_OF_ROOT = np.where(
    _ROOTS**2 <= 0.0031308, 12.92 * _ROOTS**2, 1.055 * _ROOTS ** (2 / 2.4) - 0.055
).astype(np.float32)


def linear_to_srgb(light: Array) -> Array:
    """IEC 61966-2-1 by table; clips to 0..1."""
    root = np.sqrt(np.clip(light, 0, 1))
    return _SRGB_OF_ROOT[(root * 4096 + 0.5).astype(np.int16)]


def _over(front: Array, back: Array) -> Array:
    """Premultiplied front [N, 4, S, S] over an opaque back [N, 3, S, S]."""
    return front[:, :3] + (1 - front[:, 3:]) * back


def _uniform(rng: Generator, limits: tuple[float, float], shape: int | tuple[int, ...]) -> Array:
    low, high = limits
    return (low + (high - low) * rng.random(shape)).astype(np.float32)


def _run(rng: Generator, count: int, length: int, period: int) -> NDArray[np.int64]:
    """Consecutive indices from a random start, up or down, wrapped: -> [count, length]."""
    direction = 2 * rng.integers(0, 2, (count, 1)) - 1
    return (rng.integers(0, period, (count, 1)) + direction * np.arange(length)) % period


def _outline(kind: NDArray[np.int64], wave: Array, theta: Array) -> Array:
    """Relative radius of flowers (0), stars (1), blobs (2) and rings (3) at each angle."""
    radius = np.ones_like(theta)
    rows = kind == 0
    petals = np.cos(wave[rows])
    radius[rows] = 0.70 + 0.30 * np.sign(petals) * np.abs(petals) ** 0.7
    rows = kind == 1
    turn = wave[rows] / (2 * math.pi) % 1
    radius[rows] = 0.66 + 0.34 * (1 - 2 * np.abs(2 * turn - 1))
    rows = kind == 2
    # The wave's own phase, without its lobes, turns each blob another way.
    phase = wave[rows, :1, :1]
    turned = theta[rows] + phase
    radius[rows] = 0.82 + 0.12 * np.cos(2 * turned) + 0.10 * np.cos(3 * turned + phase)
    return radius


def _paint(tone: Array, *colours: Array) -> Array:
    """tone [N, W, W] 0..1 through three linear colours [N, 3] -> [N, 3, W, W]."""
    first, second, third = (colour[:, :, None, None] for colour in colours)
    lower, upper = np.clip(2 * tone, 0, 1)[:, None], np.clip(2 * tone - 1, 0, 1)[:, None]
    out = first + lower * (second - first)
    out += upper * (third - second)
    return out.astype(np.float32, copy=False)


def _colour(hue: NDArray[np.floating], saturation: Array, value: Array) -> Array:
    """HSV, each [N] -> linear RGB [N, 3]."""
    sector = (hue[:, None] * 6 + np.array([5, 3, 1])) % 6
    share = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    return srgb_to_linear(value[:, None] - (value * saturation)[:, None] * share)


def _palette(rng: Generator, count: int) -> tuple[Array, Array, Array]:
    """Three colours of neighbouring hues for one plane: linear, [N, 3] each."""
    hue = rng.random(count)

    def draw() -> Array:
        near = (hue + rng.normal(scale=0.12, size=count)) % 1
        return _colour(near, _uniform(rng, (0.1, 0.8), count), _uniform(rng, (0.05, 0.95), count))

    return draw(), draw(), draw()


def _subject_colours(rng: Generator, count: int) -> tuple[Array, Array, Array, Array]:
    """Petal, inner petal, heart and leaf: linear, [N, 3] each."""
    hue = rng.random(count)
    saturation, value = _uniform(rng, (0.35, 0.95), count), _uniform(rng, (0.5, 1), count)
    petal = _colour(hue, saturation, value)
    inner = _colour(
        (hue + rng.normal(scale=0.08, size=count)) % 1,
        saturation * _uniform(rng, (0.3, 1), count),
        value * _uniform(rng, (0.5, 1), count),
    )
    heart = _colour(
        rng.random(count), _uniform(rng, (0.4, 1), count), _uniform(rng, (0.3, 1), count)
    )
    green = _uniform(rng, (0.22, 0.38), count)
    leaf = _colour(green, _uniform(rng, (0.4, 0.9), count), _uniform(rng, (0.25, 0.7), count))
    return petal, inner, heart, leaf


def _noise(
    rng: Generator, size: int, slope: float, coarsest: float, stretch: bool = False
) -> Array:
    """Periodic noise of spectrum 1/f^slope, flat below `coarsest` cycles: -> [size, size], 0..1."""
    down, across = np.fft.fftfreq(size)[:, None] * size, np.fft.rfftfreq(size)[None] * size
    if stretch:
        down, across = down * rng.uniform(0.2, 0.5), across * rng.uniform(1, 3)
    cycles = np.hypot(down, across)
    phases = np.exp(2j * math.pi * rng.random(cycles.shape))
    noise = np.fft.irfft2(phases / np.maximum(cycles, coarsest) ** slope, s=(size, size))
    low, high = np.percentile(noise, [2, 98])
    out: Array = np.clip((noise - low) / (high - low), 0, 1).astype(np.float32)
    return out


def _clump(rng: Generator, size: int) -> Array:
    return _noise(rng, size, slope=2.8, coarsest=6)


def _texture(rng: Generator, size: int, kind: int) -> Array:
    """Fine, plain, stripes, grain, checks or dots: a periodic [size, size], 0..1."""
    slope = (1.0, 1.6, 2.2, 1.4, 1.2, 0.8)[kind]
    noise = _noise(rng, size, slope, coarsest=1.5, stretch=kind == 3)
    y, x = np.mgrid[:size, :size] / size
    if kind == 2:
        cycles = rng.integers(6, 18) * x + rng.integers(0, 12) * y
        noise = 0.5 + 0.5 * np.sin(2 * math.pi * (cycles + 1.2 * noise))
    elif kind == 4:
        checks = rng.integers(8, 20)
        noise = 0.7 * ((np.floor(x * checks) + np.floor(y * checks)) % 2) + 0.3 * noise
    elif kind == 5:
        radius = rng.uniform(0.015, 0.03)  # of the bank's picture: 2 to 4 px at 32
        nearest, _ = KDTree(rng.random((90, 2)), boxsize=1).query(np.stack([x, y], axis=-1))
        noise = 0.8 * np.clip(1.4 - nearest / radius, 0, 1) + 0.2 * noise
    return noise.astype(np.float32)
