"""What a rendering means: pupil samples, signs, units and the edge rule. Standard library only.

The convention of the whole project; nobody else defines an aperture.

- Disparity d: affine inverse depth, dimensionless, larger = nearer.
- Signed blur D = K (d - d_focus), in px of the image at hand: the shift of the light field at the
  rim of the pupil, so |D| is the RADIUS of the blur disc. D > 0 lies in front of the focal plane.
  K is px of radius per unit of disparity and scales with the image's width.
- Pupil coordinate u = (right, down) in the unit disc (the published 5x5 grid: the unit square).
- View: L(x, u) = I(x + u M(x, u)), bilinear. M is the disparity seen from u, in px.
- Photograph: sum over u of A(u) L(x, u), with weights A that sum to 1, in the light of the input.
- Edge rule: outside the frame the nearest pixel counts (clamp).
- Metric depth: d = 1/z in 1/m, z along the optical axis; K is then the aperture's radius times the
  focal length in px (`blur_of_lens`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from argan.errors import InputError

STRAIGHT = 1e-4  # curvature of a straight blade: 1e-5 of the pupil's radius
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


@dataclass(frozen=True)
class Aperture:
    """The pupil as a set of sample points.

    shape     "grid": views x views points on [-1, 1]^2, as published (Kaneko 2021: 5x5);
              "disc": `views` points of Vogel's spiral, uniform over the unit disc;
              "polygon": the same spiral drawn in to a regular polygon with `blades` corners.
    views     points a side for "grid", points in all for the others.
    blades    corners of the polygon, 3 to 11.
    rotation  of the pupil in radians, from right towards down.
    """

    shape: Literal["grid", "disc", "polygon"] = "grid"
    views: int = 5
    blades: int = 0
    rotation: float = 0.0

    def __post_init__(self) -> None:
        if self.shape not in ("grid", "disc", "polygon"):
            raise ValueError(f"aperture shape {self.shape!r}: use grid, disc or polygon")
        if self.views < 1:
            raise ValueError(f"an aperture needs at least one view, not {self.views}")
        if self.shape == "polygon" and not 3 <= self.blades <= 11:
            raise ValueError(f"a polygon aperture has 3 to 11 blades, not {self.blades}")

    def samples(self) -> list[tuple[float, float, float]]:
        """(u right, v down, weight) of every view; the weights sum to 1."""
        points = list(self._grid() if self.shape == "grid" else self._spiral())
        total = math.fsum(weight for _, _, weight in points)
        return [(u, v, weight / total) for u, v, weight in points]

    def _grid(self) -> Iterator[tuple[float, float, float]]:
        n = self.views
        steps = [2 * i / (n - 1) - 1 for i in range(n)] if n > 1 else [0.0]
        cos, sin = math.cos(self.rotation), math.sin(self.rotation)
        for v in steps:
            for u in steps:
                yield u * cos - v * sin, u * sin + v * cos, 1.0

    def _spiral(self) -> Iterator[tuple[float, float, float]]:
        for i in range(self.views):
            radius, angle = math.sqrt((i + 0.5) / self.views), i * GOLDEN_ANGLE + self.rotation
            rim = self.rim(angle)
            # The spiral has equal angles and equal areas; a rim at rim(angle) has area ~ rim^2.
            yield radius * rim * math.cos(angle), radius * rim * math.sin(angle), rim * rim

    def rim(self, angle: float) -> float:
        """Distance of the pupil's edge from its centre in that direction; corners lie at 1."""
        if self.shape != "polygon":
            return 1.0
        sector = 2 * math.pi / self.blades
        return math.cos(sector / 2) / math.cos((angle - self.rotation) % sector - sector / 2)


@dataclass(frozen=True)
class Pupil:
    """The pupil of `lens.render`: its shape and its light.

    blades     0 for a round pupil, 3 to 11 for a polygon with its corners on the disc's rim.
    rotation   of the polygon in radians, from right towards down.
    roundness  of the blades, as their curvature: 0 straight, 1 a disc.
    cat_eye    how far the lens barrel cuts discs toward the photo's corners: at a corner the
               pupil is what it shares with a disc moved outward by `cat_eye` radii; 0 to 1.
    rim        -1 to 1: above 0 discs have a bright rim (soap bubbles: spherical aberration
               overcorrected), below 0 a soft one (creamy). The light at a distance q from the
               middle is 1 + rim (2 q^2 - 1), whose mean over a disc is 1.
    """

    blades: int = 0
    rotation: float = 0.0
    roundness: float = 0.0
    cat_eye: float = 0.0
    rim: float = 0.0

    def __post_init__(self) -> None:
        if self.blades and not 3 <= self.blades <= 11:
            raise InputError(f"{self.blades} blades: give 3 to 11, or 0 for a round pupil")
        for name, low in (("roundness", 0), ("cat_eye", 0), ("rim", -1)):
            if not low <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)}: give {low} to 1")
        if not math.isfinite(self.rotation):
            raise InputError(f"rotation {self.rotation}: give a finite angle")

    def discs(self, field: tuple[float, float] = (0.0, 0.0)) -> list[tuple[float, float, float]]:
        """(right, down, radius) of discs, in pupil radii; what all of them share is the pupil seen
        from `field`: the place in the photo, from its middle, in half diagonals.

        A blade is the arc through two corners with a radius of 1 / roundness.
        """
        discs = [(0.0, 0.0, 1.0)]
        if self.blades:
            half = math.pi / self.blades
            radius = 1 / max(self.roundness, STRAIGHT)
            inward = math.cos(half) - math.sqrt(radius**2 - math.sin(half) ** 2)
            for i in range(self.blades):
                angle = self.rotation + (2 * i + 1) * half
                discs.append((inward * math.cos(angle), inward * math.sin(angle), radius))
        if self.cat_eye:
            discs.append((self.cat_eye * field[0], self.cat_eye * field[1], 1.0))
        return discs

    def light(self, distance: float) -> float:
        """Light at a distance from the middle, in radii; its mean over a disc is 1."""
        return 1 + self.rim * (2 * distance**2 - 1)


ROUND = Pupil()
PUBLISHED = Aperture("grid", 5)  # the paper's 5x5 views


def signed_blur(disparity: float, focus: float, blur: float) -> float:
    """D = K (d - d_focus) in px; also right for arrays. blur is K, px of radius per unit."""
    return blur * (disparity - focus)


def thin_lens_radius(z: float, z_focus: float, aperture_radius: float, focal_px: float) -> float:
    """Signed blur-disc RADIUS in px, a f_px (1/z - 1/z_f); z, z_focus, aperture_radius in metres.

    Half the diameter that most textbooks give. Positive nearer than the focus.
    """
    return aperture_radius * focal_px * (1 / z - 1 / z_focus)


@dataclass(frozen=True)
class Camera:
    """What turns an f-number into px; pixels are square, so the photo's orientation is no matter.

    focal_mm   focal length.
    sensor_mm  the longer side of the sensor, which is the longer side of the photo: 36 in "full
               frame".
    """

    focal_mm: float
    sensor_mm: float

    def focal_px(self, longer_side: int) -> float:
        """Focal length in px of a photo whose longer side has that many."""
        return self.focal_mm / self.sensor_mm * longer_side

    def aperture_radius(self, f_number: float) -> float:
        """a = f / (2 N), in metres."""
        return self.focal_mm / 1000 / (2 * f_number)


def blur_of_lens(f_number: float, camera: Camera, longer_side: int) -> float:
    """K with metric depth, in px per 1/m: a f_px, so that K (1/z - 1/z_f) is `thin_lens_radius`.

    f_px is that of the photo as it is. A real lens that focuses nearer also moves away from the
    sensor, which narrows its view and widens its discs by the same z_f / (z_f - f): seen in the
    same frame, its discs are these.
    """
    return camera.aperture_radius(f_number) * camera.focal_px(longer_side)


@dataclass(frozen=True)
class FocalPlane:
    """The disparity that is sharp at each place: middle + right x + down y, with x and y in px
    from the photo's middle. Any plane in space has this form, for 1/z is affine in x and y."""

    middle: float
    right: float = 0.0
    down: float = 0.0

    def at(self, x: float, y: float) -> float:
        return self.middle + self.right * x + self.down * y

    def rescaled(self, lo: float, hi: float) -> FocalPlane:
        """The same plane for a map in which lo is 0 and hi is 1."""
        unit = hi - lo
        return FocalPlane((self.middle - lo) / unit, self.right / unit, self.down / unit)


Place = tuple[float, float]  # (x, y) in px from the photo's middle


def tilted_plane(
    disparity: float, place: Place, tilt: float, toward: float, focal_px: float
) -> FocalPlane:
    """The plane through the thing of 1/z = `disparity` at `place`, whose angle to the sensor is
    `tilt`, nearer to the camera the farther one goes `toward`: radians, from right towards down.

    A plane n . X = c has 1/z = (n_z + n_x x / f_px + n_y y / f_px) / c. InputError where the plane
    comes to `place` from behind the camera.
    """
    right, down = math.sin(tilt) * math.cos(toward), math.sin(tilt) * math.sin(toward)
    here = math.cos(tilt) + (right * place[0] + down * place[1]) / focal_px
    if here <= 1e-6:
        raise InputError(
            f"a focal plane tilted by {math.degrees(tilt):g} degrees can't be seen at the point"
            " of focus; give a smaller tilt or another point"
        )
    scale = disparity / here
    return FocalPlane(scale * math.cos(tilt), scale * right / focal_px, scale * down / focal_px)


def tilted_plane_by_convention(
    disparity: float, place: Place, tilt: float, toward: float, width: int
) -> FocalPlane:
    """The same without metric depth, by convention: across the photo's width the disparity that is
    sharp rises by tan(tilt). So a thing at disparity 1 would tilt, seen by a lens whose focal
    length is the photo's width. InputError for a right angle."""
    if math.cos(tilt) < 1e-6:
        raise InputError("without metric depth a tilt is below 90 degrees; give 45 or so")
    slope = math.tan(tilt) / width
    right, down = slope * math.cos(toward), slope * math.sin(toward)
    return FocalPlane(disparity - right * place[0] - down * place[1], right, down)


def plane_through(points: Sequence[tuple[Place, float]]) -> FocalPlane:
    """The plane through three things: their places and disparities. InputError where the places
    lie on one line, within a px."""
    ((x0, y0), d0), ((x1, y1), d1), ((x2, y2), d2) = points
    ax, ay, bx, by = x1 - x0, y1 - y0, x2 - x0, y2 - y0
    area = ax * by - ay * bx
    if abs(area) <= max(math.hypot(ax, ay), math.hypot(bx, by), math.hypot(bx - ax, by - ay)):
        raise InputError("the three points of focus lie on one line; give one beside it")
    right = ((d1 - d0) * by - (d2 - d0) * ay) / area
    down = ((d2 - d0) * ax - (d1 - d0) * bx) / area
    return FocalPlane(d0 - right * x0 - down * y0, right, down)


# The convention for photos without metric depth: see `blur_of_f_number`.
REFERENCE_F_NUMBER = 1.8
REFERENCE_STRENGTH = 0.02


def blur_of_strength(strength_percent: float, width: int) -> float:
    """K in px per unit of disparity: one unit of defocus blurs to a radius of `strength_percent`
    of the image's width."""
    return strength_percent / 100 * width


def blur_of_f_number(f_number: float, width: int) -> float:
    """K without metric depth, by convention: f/1.8 blurs one unit of disparity to a radius of
    2 % of the width, and the radius goes as 1/N as it does for a real lens."""
    if not f_number > 0:
        raise ValueError(f"f-number {f_number}: give a positive number such as 1.8")
    return REFERENCE_STRENGTH * width * REFERENCE_F_NUMBER / f_number
