"""What the numbers of a photo mean: transfer curves and primaries of its ICC profile.

The lens adds light, channel by channel, and knows one curve, sRGB's. Blur in a photo's own
primaries therefore takes nothing but its own curve: `Space.enter` brings codes of another curve to
codes of sRGB's curve that stand for the same light, in 16 bits or float32, and gives the way back.
No colour is converted, none clipped; a pixel that the lens leaves alone comes back bit for bit.
The network knows sRGB's colours: `Space.to_srgb` is for its small picture alone.

Profiles are read as ICC.1:2022 describes those of matrix and curves (8.3.3, 8.4.3): all RGB working
spaces and cameras' profiles. One of tables alone (printers) counts as none.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]
Reals = NDArray[np.floating[Any]]

MAX_TAGS = 256
SAME_CURVE = 0.5 / 255  # codes of 8 bits would be the same
SAME_COLOURS = 0.01  # of linear light: profiles round, and sRGB's are of many makes
ALONE = 1e-6  # the lens may have turned float32 codes into light and back
STRIP = 128  # rows at once

# Primaries of sRGB as its own profile has them, adapted to D50: XYZ in columns.
SRGB_XYZ = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)


class ProfileError(ValueError):
    """A profile that is damaged, or not of matrix and curves."""


@dataclass(frozen=True)
class Power:
    """light = (a x + b)^g + e from x = d on, c x + f below (ICC parametric curve of type 4)."""

    g: float
    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    e: float = 0.0
    f: float = 0.0

    def decode(self, codes: Reals) -> Reals:
        codes = np.maximum(codes, 0)
        power = np.maximum(self.a * codes + self.b, 0) ** self.g + self.e
        return np.asarray(np.where(codes >= self.d, power, self.c * codes + self.f))

    def encode(self, light: Reals) -> Reals:
        power = (np.maximum(light - self.e, 0) ** (1 / self.g) - self.b) / self.a
        straight = (light - self.f) / self.c if self.c else np.zeros_like(light)
        joint = np.maximum(self.a * self.d + self.b, 0) ** self.g + self.e
        return np.asarray(np.maximum(np.where(light >= joint, power, straight), 0))


@dataclass(frozen=True, eq=False)
class Table:
    """Light at evenly spaced codes from 0 to 1; rising."""

    light: Reals

    def decode(self, codes: Reals) -> Reals:
        return np.interp(codes, np.linspace(0, 1, len(self.light)), self.light)

    def encode(self, light: Reals) -> Reals:
        return np.interp(light, self.light, np.linspace(0, 1, len(self.light)))


Curve = Power | Table
SRGB = Power(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


@dataclass(frozen=True, eq=False)
class Space:
    """curves   of red, green and blue; None: sRGB's
    matrix   [3, 3] from linear light to that of sRGB's primaries; None: they are these
    """

    curves: tuple[Curve, Curve, Curve] | None = None
    matrix: NDArray[np.float32] | None = None

    def enter(self, pixels: Pixels) -> tuple[Pixels, Callable[[Pixels], Pixels]]:
        """pixels [H, W, 3] of uint8, uint16 or float32 -> the same light in codes of sRGB's curve
        (uint16 for whole numbers), and the way back from such codes, which it may overwrite."""
        if self.curves is None:
            return pixels, lambda result: result
        if pixels.dtype.kind == "f":
            return self._enter_float(pixels, self.curves)
        top, shape = int(np.iinfo(pixels.dtype).max), pixels.shape
        there, back = zip(*(_tables(curve, top) for curve in self.curves), strict=True)
        coded = np.empty(pixels.shape, np.uint16)
        for rows in _strips(pixels):
            _look_up(there, pixels[rows], coded[rows])

        def leave(result: Pixels) -> Pixels:
            if top == 255:  # 8 bits fit one to one, 16 do not
                left = np.empty(shape, np.uint8)
                for rows in _strips(result):
                    _look_up(back, result[rows], left[rows])
                return left
            for rows in _strips(result):  # in its place, for memory
                again = np.empty_like(pixels[rows])
                _look_up(there, pixels[rows], again)
                alone = again == result[rows]
                _look_up(back, result[rows], result[rows])
                np.copyto(result[rows], pixels[rows], where=alone)
            return result

        return coded, leave

    def _enter_float(
        self, pixels: Pixels, curves: tuple[Curve, Curve, Curve]
    ) -> tuple[Pixels, Callable[[Pixels], Pixels]]:
        def there(own: Pixels) -> Pixels:
            light = [curve.decode(own[..., i]) for i, curve in enumerate(curves)]
            return SRGB.encode(np.stack(light, axis=-1)).astype(np.float32)

        def leave(result: Pixels) -> Pixels:
            left = np.empty(pixels.shape, np.float32)
            for rows in _strips(result):
                own, light = pixels[rows], SRGB.decode(result[rows])
                for i, curve in enumerate(curves):
                    left[rows][..., i] = curve.encode(light[..., i])
                alone = np.abs(there(own) - result[rows]) <= ALONE * (1 + np.abs(result[rows]))
                np.copyto(left[rows], own, where=alone)
            return left

        coded = np.empty(pixels.shape, np.float32)
        for rows in _strips(pixels):
            coded[rows] = there(pixels[rows])
        return coded, leave

    def to_srgb(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """[H, W, 3] in 0..1, codes of sRGB's curve for these primaries -> sRGB."""
        if self.matrix is None:
            return image
        light = np.clip(SRGB.decode(image).astype(np.float32) @ self.matrix.T, 0, 1)
        return SRGB.encode(light).astype(np.float32)


PLAIN = Space()  # sRGB
_LINE = Power(1.0)
LINEAR = Space((_LINE, _LINE, _LINE))


@functools.lru_cache(4)
def read(profile: bytes | None) -> Space:
    """The space of an RGB profile; `PLAIN` for None and for one that can't be used."""
    if profile is None:
        return PLAIN
    try:
        tags = _tags(profile, b"RGB ")
        curves = tuple(_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC"))
        xyz = np.column_stack([_xyz(tags[name]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")])
    except (ProfileError, KeyError, struct.error):
        return PLAIN
    matrix = np.linalg.solve(SRGB_XYZ, xyz)
    if not abs(np.linalg.det(matrix)) > 1e-3:  # no three colours
        return PLAIN
    same = np.abs(matrix - np.eye(3)).max() < SAME_COLOURS
    return Space(
        None if all(map(_is_srgb, curves)) else (curves[0], curves[1], curves[2]),
        None if same else matrix.astype(np.float32),
    )


def read_grey(profile: bytes | None) -> Space:
    """The space, of three equal channels, of a grey profile; `PLAIN` as in `read`."""
    if profile is None:
        return PLAIN
    try:
        curve = _curve(_tags(profile, b"GRAY")[b"kTRC"])
    except (ProfileError, KeyError, struct.error):
        return PLAIN
    return PLAIN if _is_srgb(curve) else Space((curve, curve, curve))


def _is_srgb(curve: Curve) -> bool:
    codes = np.linspace(0, 1, 256)
    return bool(np.abs(SRGB.encode(curve.decode(codes)) - codes).max() <= SAME_CURVE)


@functools.lru_cache(6)
def _tables(curve: Curve, top: int) -> tuple[NDArray[np.uint16], NDArray[Any]]:
    """From codes 0..top to 16-bit codes of sRGB's curve, and back. 8 bits fit one to one."""
    codes = np.arange(top + 1)
    exact = np.clip(SRGB.encode(curve.decode(codes / top)), 0, 1) * 65535
    there = np.rint(exact)
    if top == 255:  # two dark codes, or white ones, may have come to the same: a step apart
        there = np.maximum.accumulate(there - codes) + codes
        there = exact = np.minimum(there, 65535 - (top - codes))
    back = np.rint(np.interp(np.arange(65536), np.maximum.accumulate(exact), codes))
    return there.astype(np.uint16), back.astype(np.uint8 if top == 255 else np.uint16)


def _look_up(tables: tuple[NDArray[Any], ...], pixels: Pixels, out: Pixels) -> None:
    if tables[0] is tables[1] is tables[2]:  # of the same curve
        np.take(tables[0], pixels, out=out, mode="clip")
        return
    for i, table in enumerate(tables):
        out[..., i] = table[pixels[..., i]]


def _strips(pixels: Pixels) -> list[slice]:
    return [slice(y, y + STRIP) for y in range(0, len(pixels), STRIP)]


# ---------------------------------------------------------------- the file


def _tags(profile: bytes, kind: bytes) -> dict[bytes, bytes]:
    if profile[16:20] != kind or profile[36:40] != b"acsp":
        raise ProfileError(f"no profile of {kind!r}")
    (count,) = struct.unpack_from(">I", profile, 128)
    if count > MAX_TAGS:
        raise ProfileError("too many tags")
    found = {}
    for i in range(count):
        name, start, size = struct.unpack_from(">4sII", profile, 132 + 12 * i)
        found[name] = profile[start : start + size]
    return found


def _xyz(tag: bytes) -> tuple[float, float, float]:
    kind, x, y, z = struct.unpack_from(">4s4x3i", tag)
    if kind != b"XYZ ":
        raise ProfileError("a colour that is none")
    return x / 65536, y / 65536, z / 65536


def _curve(tag: bytes) -> Curve:
    kind = tag[:4]
    curve: Curve
    if kind == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return _LINE
        if count == 1:
            (gamma,) = struct.unpack_from(">H", tag, 12)
            curve = Power(gamma / 256)
        elif len(tag) >= 12 + 2 * count:
            curve = Table(np.frombuffer(tag, ">u2", count, 12) / 65535)
        else:
            raise ProfileError("a curve that is cut short")
    elif kind == b"para":
        (form,) = struct.unpack_from(">H", tag, 8)
        if form > 4:
            raise ProfileError("a curve of no known form")
        numbers = struct.unpack_from(f">{(1, 3, 4, 5, 7)[form]}i", tag, 12)
        curve = _parametric(form, *(n / 65536 for n in numbers))
    else:
        raise ProfileError("a curve of no known kind")
    return _checked(curve)


def _parametric(form: int, g: float, a: float = 1, b: float = 0, *rest: float) -> Power:
    if a <= 0:
        raise ProfileError("a curve that does not rise")
    if form == 1:
        return Power(g, a, b, d=max(-b / a, 0))
    if form == 2:  # its c is an offset of both parts
        return Power(g, a, b, d=max(-b / a, 0), e=rest[0], f=rest[0])
    return Power(g, a, b, *rest)


def _checked(curve: Curve) -> Curve:
    """A curve that rises from about 0 to about 1."""
    if isinstance(curve, Power) and not 0.1 <= curve.g <= 10:
        raise ProfileError("a curve of an absurd power")
    with np.errstate(all="ignore"):
        light = curve.decode(np.linspace(0, 1, 1025))
    if not (np.isfinite(light).all() and light[0] < 0.2 and 0.8 < light[-1] < 1.2):
        raise ProfileError("a curve that does not go from 0 to 1")
    if (np.diff(light) < -1e-4).any():
        raise ProfileError("a curve that falls")
    if isinstance(curve, Table):
        return dataclasses.replace(curve, light=np.maximum.accumulate(curve.light))
    return curve
