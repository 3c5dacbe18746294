"""What a photographer sets, and what that comes to for one photo and its disparity: the focal plane
and K. `docs/optics.md` explains it with pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from argan import optics
from argan.camera import find_camera
from argan.errors import InputError

Disparity = NDArray[np.float32]  # [H, W], larger = nearer
Point = tuple[float, float]  # (x, y) in px of the upright photo
Focus = Literal["auto"] | float | Point | tuple[Point, Point, Point]

FOCUS_WINDOW = 0.01  # half of its side, as a share of the photo's shorter side
AUTO_SHARE = 0.8
AUTO_SPREAD = 0.2
STRIP = 128  # rows of a blur map at a time
NOWHERE = 1e-9  # 1/m: infinitely far
METRIC = (
    "needs depth in metres: a photo that carries it, argan render --depth FILE, or a model whose"
    ' description says output = "metric depth" and typical'
)


@dataclass(frozen=True)
class Controls:
    """Focus, blur, and the camera; InputError where they make no sense.

    focus           (x, y) in px of the upright photo, a disparity, "auto" (see `auto_focus`), or
                    three points, through which the focal plane goes
    focus_distance  m, in place of `focus`; metric depth only
    f_number, blur, strength   at most one. `blur` is K, px of disc radius per unit of disparity;
                    `strength` is K in percent of the photo's width. An f-number is that of a thin
                    lens where depth is metric (`optics.blur_of_lens`), and becomes K by convention
                    where it is not (`optics.blur_of_f_number`)
    focal_length, sensor_width   mm, in place of what EXIF says; metric depth only. The width is
                    the sensor's longer side
    tilt            degrees between the focal plane and the sensor, -90 to 90; 90 is the floor of a
                    level camera. With metric depth a real angle (`optics.tilted_plane`), else below
                    90, `optics.tilted_plane_by_convention`
    tilt_toward     where the tilted plane comes nearer: degrees, 0 right, 90 down
    keep            (in front, behind): how far from the focal plane things stay sharp, in metres
                    where depth is metric, else in units of disparity; blur counts from there on.
                    One number is both
    full_frame      where EXIF's lens counts, that with the same view in full frame instead: a
                    phone's own is so short that next to nothing blurs
    """

    focus: Focus = "auto"
    focus_distance: float | None = None
    f_number: float | None = None
    blur: float | None = None
    strength: float | None = None
    focal_length: float | None = None
    sensor_width: float | None = None
    tilt: float = 0.0
    tilt_toward: float = 90.0
    keep: float | tuple[float, float] = 0.0
    full_frame: bool = False

    def __post_init__(self) -> None:
        blur_px(1, f_number=self.f_number, blur=self.blur, strength=self.strength)
        if self.blur is not None and not 0 <= self.blur < math.inf:
            raise InputError(f"blur {self.blur}: give 0 or more px per unit of disparity")
        for name in ("focus_distance", "focal_length", "sensor_width"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                what = f"{name.replace('_', ' ')} {value}"
                unit = "m" if name == "focus_distance" else "mm"
                raise InputError(f"{what}: give a positive number of {unit}")
        if not -90 <= self.tilt <= 90:
            raise InputError(f"tilt {self.tilt}: give an angle from -90 to 90 degrees")
        if not math.isfinite(self.tilt_toward):
            raise InputError(f"tilt toward {self.tilt_toward}: give an angle in degrees")
        if not all(margin >= 0 for margin in self.margins):
            raise InputError(f"keep {self.keep}: give 0 or more")
        if self.focus_distance is not None and self.focus != "auto":
            raise InputError("focus and focus distance exclude each other: give one")
        if isinstance(self.focus, float | int) and not math.isfinite(self.focus):
            raise InputError(f"focus {self.focus}: give a finite disparity")
        if isinstance(self.focus, str) and self.focus != "auto":
            raise InputError(f"focus {self.focus!r}: give (x, y) in pixels, a disparity, or 'auto'")
        points = points_of(self.focus)
        if len(points) not in (0, 1, 3) or any(len(point) != 2 for point in points):
            raise InputError(f"focus {self.focus}: give one point (x, y), or three of them")
        if self.tilt and len(points) == 3:
            raise InputError("three points of focus are the focal plane: give no tilt with them")

    @property
    def margins(self) -> tuple[float, float]:
        return self.keep if isinstance(self.keep, tuple) else (self.keep, self.keep)


@dataclass(frozen=True)
class Setting:
    """What the controls came to for one photo.

    focus   the disparity that is sharp: of a tilted plane at its point, or in the photo's middle
    plane   the disparity that is sharp at each place
    blur    K, px of disc radius per unit of disparity
    keep    (in front, behind) of the plane, in disparity
    words   on what was used, for people
    """

    focus: float
    plane: optics.FocalPlane
    blur: float
    keep: tuple[float, float]
    words: str

    @property
    def even(self) -> bool:
        """The same disparity is sharp everywhere, and it alone: D = K (d - focus)."""
        return self.keep == (0, 0) and not (self.plane.right or self.plane.down)

    def blur_map(self, disparity: Disparity) -> NDArray[np.float32]:
        """D in px [H, W], signed as in `optics`; what is kept has D = 0."""
        height, width = disparity.shape
        plane, (front, behind) = self.plane, self.keep
        x = np.arange(width) - (width - 1) / 2
        y = np.arange(height) - (height - 1) / 2
        across = (plane.middle + plane.right * x).astype(np.float32)
        down = (plane.down * y).astype(np.float32)[:, None]
        D = np.empty((height, width), np.float32)
        for top in range(0, height, STRIP):
            rows = slice(top, top + STRIP)
            offset = disparity[rows] - across - down[rows]
            D[rows] = np.float32(self.blur) * (offset - np.clip(offset, -behind, front))
        return D


def settle(
    controls: Controls,
    disparity: Disparity,
    *,
    metric: tuple[float, float] | None = None,
    exif: bytes | None = None,
    f_number: float | None = None,
) -> Setting:
    """The controls, for one photo.

    metric    (lo, hi) where depth is metric: 1/z = lo + d (hi - lo) in 1/m
    exif      the photo's, where the lens is looked up
    f_number  what counts where no blur is set; where depth is metric and the lens unknown, by
              convention
    """
    check_controls(controls, disparity.shape, metric)
    lo, hi = metric or (0.0, 1.0)
    if controls.focus_distance is not None:
        focus = (1 / controls.focus_distance - lo) / (hi - lo)
    else:
        focus = focus_disparity(disparity, controls.focus)
    blur, camera, lens = _blur(controls, disparity.shape, metric, exif, f_number)

    plane = _plane(controls, disparity, focus, metric, camera, exif)
    if len(points_of(controls.focus)) == 3:
        focus = plane.middle
    words, keep = f"focus {focus:.4g}", controls.margins
    if metric:
        inverse = lo + focus * (hi - lo)
        words += f" ({1 / inverse:.4g} m)" if inverse > NOWHERE else " (infinity)"
        front, behind = _margins(keep, inverse)
        keep = front / (hi - lo), behind / (hi - lo)
    return Setting(focus, plane, blur, keep, words + lens)


def _plane(
    controls: Controls,
    disparity: Disparity,
    focus: float,
    metric: tuple[float, float] | None,
    camera: optics.Camera | None,
    exif: bytes | None,
) -> optics.FocalPlane:
    height, width = disparity.shape
    points = points_of(controls.focus)
    places = [(int(x) - (width - 1) / 2, int(y) - (height - 1) / 2) for x, y in points]
    if len(places) == 3:
        found = [disparity_at(disparity, point) for point in points]
        return optics.plane_through(list(zip(places, found, strict=True)))
    if not controls.tilt:
        return optics.FocalPlane(focus)
    place = places[0] if places else (0.0, 0.0)
    tilt, toward = math.radians(controls.tilt), math.radians(controls.tilt_toward)
    if metric is None:
        return optics.tilted_plane_by_convention(focus, place, tilt, toward, width)
    lo, hi = metric
    camera = camera or _camera(controls, disparity.shape, exif)[0]
    focal_px = camera.focal_px(max(height, width))
    plane = optics.tilted_plane(lo + focus * (hi - lo), place, tilt, toward, focal_px)
    return plane.rescaled(lo, hi)


def _camera(
    controls: Controls, shape: tuple[int, ...], exif: bytes | None
) -> tuple[optics.Camera, str]:
    return find_camera(
        exif, shape, controls.focal_length, controls.sensor_width, controls.full_frame
    )


def _blur(
    controls: Controls,
    shape: tuple[int, ...],
    metric: tuple[float, float] | None,
    exif: bytes | None,
    f_number: float | None,
) -> tuple[float, optics.Camera | None, str]:
    """-> K, the camera where it was looked up, a word on it."""
    width = shape[1]
    if controls.blur is not None or controls.strength is not None:
        return blur_px(width, blur=controls.blur, strength=controls.strength), None, ""
    n = controls.f_number or f_number
    if n is None:
        raise InputError("how much blur? give --f-number N, --blur K or --strength PERCENT")
    if metric is None:
        return blur_px(width, f_number=n), None, ""
    try:
        camera, said = _camera(controls, shape, exif)
    except InputError:
        if controls.f_number or controls.focal_length or controls.sensor_width:
            raise
        return blur_px(width, f_number=n), None, f", f/{n:g} by convention: lens unknown"
    per_metre = optics.blur_of_lens(n, camera, max(shape))
    return per_metre * (metric[1] - metric[0]), camera, f", f/{n:g}, {said}"


def _margins(keep: tuple[float, float], focus: float) -> tuple[float, float]:
    """Metres in front of and behind what is at `focus` in 1/m -> 1/m."""
    if keep == (0, 0):
        return keep
    if focus <= NOWHERE:
        raise InputError("keep counts from the focus, which is at infinity: focus nearer")
    front, behind = keep
    near = 1 / (1 / focus - front) if front * focus < 1 else math.inf
    return near - focus, focus - 1 / (1 / focus + behind)


def blur_px(
    width: int,
    *,
    f_number: float | None = None,
    blur: float | None = None,
    strength: float | None = None,
) -> float:
    """K, px of radius per unit of disparity in a photo `width` px wide, from one of the three."""
    if sum(value is not None for value in (f_number, blur, strength)) > 1:
        raise InputError("f-number, blur and strength exclude each other: give one")
    if blur is not None:
        return blur
    if strength is not None:
        if not 0 <= strength < math.inf:
            raise InputError(f"strength {strength}: give 0 or more percent of the width")
        return optics.blur_of_strength(strength, width)
    if f_number is None:
        f_number = optics.REFERENCE_F_NUMBER
    if not 0 < f_number < math.inf:
        raise InputError(f"f-number {f_number}: give a positive number such as 1.8")
    return optics.blur_of_f_number(f_number, width)


def points_of(focus: Any) -> tuple[Point, ...]:
    """The points of a focus: none, one or three."""
    if not isinstance(focus, tuple):
        return ()
    return focus if isinstance(focus[0], tuple) else (focus,)


def check_controls(
    controls: Controls, shape: tuple[int, ...], metric: tuple[float, float] | None
) -> None:
    """Raise InputError unless the controls mean something in a photo of `shape` [H, W, ...]."""
    for x, y in points_of(controls.focus):
        if not (0 <= x < shape[1] and 0 <= y < shape[0]):
            raise InputError(
                f"focus {x:g},{y:g} is outside the photo; x goes from 0 to {shape[1] - 1},"
                f" y from 0 to {shape[0] - 1}"
            )
    for name in ("focus_distance", "focal_length", "sensor_width"):
        if metric is None and getattr(controls, name) is not None:
            raise InputError(f"{name.replace('_', ' ')} {METRIC}")


def focus_disparity(disparity: Disparity, focus: Focus) -> float:
    """The disparity to be sharp: `focus` itself, the median around a point (the first of three), or
    `auto_focus`."""
    if isinstance(focus, tuple):
        return disparity_at(disparity, points_of(focus)[0])
    return auto_focus(disparity) if isinstance(focus, str) else float(focus)


def disparity_at(disparity: Disparity, point: Point) -> float:
    """The median around a point."""
    x, y = int(point[0]), int(point[1])
    reach = max(1, round(FOCUS_WINDOW * min(disparity.shape)))
    around = disparity[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
    return float(np.median(around))


def auto_focus(disparity: Disparity) -> float:
    """The nearest sizeable thing near the centre: the disparity that 80 % of the photo lies behind,
    where pixels count by a bell (sigma a fifth of each side) around the centre."""
    import cv2  # slow to import

    height, width = disparity.shape
    small = cv2.resize(disparity, (min(width, 256), min(height, 256)), interpolation=cv2.INTER_AREA)
    y, x = (np.linspace(-0.5, 0.5, n) if n > 1 else np.zeros(1) for n in small.shape)
    weight = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * AUTO_SPREAD**2)).ravel()
    order = np.argsort(small, axis=None)
    behind = np.cumsum(weight[order])
    at = int(np.searchsorted(behind, AUTO_SHARE * behind[-1]))
    return float(small.ravel()[order[at]])
