import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from argan import highlights, lens, native, optics, planes, slices
from argan.errors import InputError, ShapeError
from argan.optics import ROUND, Aperture, Pupil
from argan.planes import Box

DATA = Path(os.environ.get("ARGAN_DATA", Path(__file__).parents[3] / "shared" / "data"))


def linear(pixels: np.ndarray) -> np.ndarray:
    """sRGB in 0..1 and above -> linear, IEC 61966-2-1."""
    x = pixels.astype(np.float64)
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def srgb(light: np.ndarray) -> np.ndarray:
    x = np.asarray(light, np.float64)
    return np.where(x <= 0.0031308, x * 12.92, 1.055 * x ** (1 / 2.4) - 0.055).astype(np.float32)


def noise(height: int, width: int, dtype: type = np.uint8) -> np.ndarray:
    values = np.random.default_rng(5).random((height, width, 3))
    return (values * (255 if dtype == np.uint8 else 65535 if dtype == np.uint16 else 1)).astype(
        dtype
    )


def slope(height: int, width: int) -> np.ndarray:
    """Disparity from 0 at the left to 1 at the right, with a step of 0.5 halfway down."""
    disparity = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
    disparity[height // 2 :] = 0.5 * disparity[height // 2 :] + 0.5
    return disparity


# ---- the pupil


@pytest.mark.parametrize(
    "aperture", [Aperture("grid", 5), Aperture("disc", 64), Aperture("polygon", 400, 5, 0.2)]
)
def test_samples_lie_in_the_pupil_and_their_weights_sum_to_one(aperture):
    samples = aperture.samples()
    assert math.isclose(sum(weight for _, _, weight in samples), 1)
    for u, v, _ in samples:
        inside = max(abs(u), abs(v)) if aperture.shape == "grid" else math.hypot(u, v)
        assert inside <= (1 if aperture.shape == "grid" else aperture.rim(math.atan2(v, u))) + 1e-9


@pytest.mark.parametrize("blades", [3, 6, 11])
def test_polygon_rim_encloses_the_polygons_area(blades):
    aperture = Aperture("polygon", 1, blades, rotation=0.4)
    angles = np.linspace(0, math.tau, 20000, endpoint=False)
    area = np.mean([aperture.rim(a) ** 2 for a in angles]) * math.pi
    assert math.isclose(area, blades / 2 * math.sin(math.tau / blades), rel_tol=1e-4)


# ---- point lights: a light of energy 1 far from everything, all at one depth


def disc_of_point(radius: float, pupil: Pupil = ROUND) -> np.ndarray:
    """Linear picture of a point light; it is bright enough for its disc to stay above 1."""
    size = int(6 * abs(radius) + 48) | 1
    light = np.zeros((size, size, 3))
    light[size // 2, size // 2] = 4 * math.pi * radius * radius
    disparity = np.full((size, size), np.sign(radius), np.float32)
    options = {"focus": 0.0, "blur": abs(radius), "pupil": pupil}
    picture = lens.render(srgb(light), disparity, **options)
    return linear(picture)[..., 0] / light.max()


def moments(picture: np.ndarray) -> tuple[float, float, float]:
    """Centre (x, y) from the middle, and the root mean square distance from the centre."""
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]] - picture.shape[0] // 2
    weight = picture / picture.sum()
    cx, cy = float((weight * x).sum()), float((weight * y).sum())
    return cx, cy, math.sqrt((weight * ((x - cx) ** 2 + (y - cy) ** 2)).sum())


RADII = [2, 3, 4.5, 5, 6, 8, 11, 16, 20, 40, 60]


@pytest.mark.parametrize("radius", [*RADII, *(-r for r in RADII)])
def test_a_point_light_becomes_a_disc_of_the_right_size_and_energy(radius):
    picture = disc_of_point(radius)
    assert math.isclose(picture.sum(), 1, rel_tol=1e-3)
    x, y, rms = moments(picture)
    # A disc's rms is r / sqrt(2); the pixel adds to small ones, the smaller sizes to large ones.
    assert math.isclose(rms * math.sqrt(2), abs(radius), rel_tol=0.07)
    assert max(abs(x), abs(y)) <= 0.51  # half size is reached by 2x2 means
    area = np.count_nonzero(picture > 0.5 / (math.pi * radius**2))
    assert math.isclose(math.sqrt(area / math.pi), abs(radius), rel_tol=0.16)


SHAPES = {
    "disc": Pupil(),
    **{f"{n} blades": Pupil(n, rotation=0.2) for n in range(5, 12)},
    "round blades": Pupil(6, roundness=0.7),
}


def area_of(pupil: Pupil) -> float:
    """In squared radii: a polygon, and on each side the part of the blade's disc beyond it."""
    if not pupil.blades:
        return math.pi
    half = math.pi / pupil.blades
    area = pupil.blades / 2 * math.sin(2 * half)
    if pupil.roundness:
        bend = 2 * math.asin(pupil.roundness * math.sin(half))
        area += pupil.blades * (bend - math.sin(bend)) / (2 * pupil.roundness**2)
    return area


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [10.0, -10.0, 36.0])
def test_area_and_width_of_a_disc_are_those_of_the_formula(shape, radius):
    pupil = SHAPES[shape]
    picture = disc_of_point(radius, pupil)
    inside = picture > 0.5 * np.median(picture[picture > 0.3 * picture.max()])
    area = area_of(pupil) * radius**2
    assert math.isclose(np.count_nonzero(inside), area, rel_tol=0.1)
    # Width across: 2 radii at the corners, seen along each direction of the plane.
    y, x = np.nonzero(inside)
    widest = 2 * np.hypot(x - x.mean(), y - y.mean()).max()
    assert math.isclose(widest, 2 * abs(radius), rel_tol=0.1)
    assert math.isclose(picture.sum(), 1, rel_tol=2e-3)


def test_a_rim_is_brighter_or_softer_by_the_formula():
    for rim in (-0.8, 0.8):
        even, rimmed = disc_of_point(10, Pupil()), disc_of_point(10, Pupil(rim=rim))
        y, x = np.mgrid[: even.shape[0], : even.shape[1]] - even.shape[0] // 2
        at = np.hypot(x, y) / 10
        for low, high in ((0, 0.3), (0.4, 0.6), (0.7, 0.85)):
            ring = (at >= low) & (at < high)
            wanted = np.mean(1 + rim * (2 * at[ring] ** 2 - 1))
            assert math.isclose(rimmed[ring].mean() / even[ring].mean(), wanted, abs_tol=0.1)


@pytest.mark.parametrize("side", [1, -1])
def test_a_cat_eye_is_what_two_discs_share_and_turns_with_the_place(side):
    """Lights in the middle and toward two corners: area and long axis by the formula."""
    light = np.zeros((361, 481, 3), np.float32)
    places = [(180, 240), (60, 80), (60, 400)]
    for place in places:
        light[place] = 500
    disparity = np.full(light.shape[:2], float(side), np.float32)
    pupil, radius = Pupil(cat_eye=0.8), 10
    picture = linear(lens.render(srgb(light), disparity, focus=0, blur=radius, pupil=pupil))[..., 0]
    for y, x in places:
        part = picture[y - 20 : y + 21, x - 20 : x + 21] > 0.8
        apart = 0.8 * math.hypot(y - 180, x - 240) / (math.hypot(361, 481) / 2)  # in radii
        shared = 2 * math.acos(apart / 2) - apart / 2 * math.sqrt(4 - apart**2)
        assert math.isclose(np.count_nonzero(part), shared * radius**2, rel_tol=0.08)
        if apart:
            dy, dx = (np.nonzero(part)[i] - np.nonzero(part)[i].mean() for i in (0, 1))
            along = math.copysign(1, (y - 180) * (x - 240))
            assert along * np.mean(dx * dy) < 0  # the short axis points to the middle


def test_a_polygon_points_the_other_way_behind_the_focus():
    front, back = (disc_of_point(r, Pupil(5, 0.3)) for r in (4.5, -4.5))
    assert np.abs(front - back[::-1, ::-1]).max() < 1e-6
    assert np.abs(front - back).max() > 1e-3


def test_a_polygon_reaches_its_corners_and_no_further():
    picture = disc_of_point(4.5, Pupil(4))
    middle = picture.shape[0] // 2
    peak = picture.max()
    assert picture[middle, middle + 4] > 0.3 * peak  # a corner to the right
    assert picture[middle + 3, middle + 3] < 0.1 * peak  # cut off between corners


# ---- identity


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_no_blur_and_all_in_focus_return_the_photo_bit_for_bit(dtype):
    photo, disparity = noise(33, 47, dtype), slope(33, 47)
    still = lens.render(photo, disparity, focus=0.5, blur=0)
    focused = lens.render(photo, np.full_like(disparity, 0.3), focus=0.3, blur=50)
    for result in (still, focused):
        assert result.dtype == dtype and np.array_equal(result, photo)
        assert result is not photo


def test_a_sharp_subject_keeps_its_pixels_beside_a_blurred_background():
    photo = noise(300, 700)
    disparity = np.zeros((300, 700), np.float32)
    disparity[:, 200:500] = 1
    result = lens.render(photo, disparity, focus=1, blur=12)
    assert np.array_equal(result[:, 200:500], photo[:, 200:500])


# ---- occlusion: two planes, one red, one green


def two_planes(focus: float, blur: float) -> np.ndarray:
    """Red in front (disparity 1) on the left half, green behind (0) -> linear [H, W, 3]."""
    photo = np.zeros((120, 400, 3), np.float32)
    photo[:, :200, 0] = 0.7
    photo[:, 200:, 1] = 0.7
    disparity = np.zeros((120, 400), np.float32)
    disparity[:, :200] = 1
    return linear(lens.render(photo, disparity, focus=focus, blur=blur))[60] / linear(np.array(0.7))


@pytest.mark.parametrize("blur", [3, 8, 25])
def test_a_blurred_background_takes_no_colour_from_the_sharp_subject(blur):
    row = two_planes(focus=1, blur=blur)
    np.testing.assert_allclose(row[:200], [[1, 0, 0]] * 200, atol=2e-3)  # nor gives it any
    np.testing.assert_allclose(row[200:], [[0, 1, 0]] * 200, atol=2e-3)


@pytest.mark.parametrize("blur", [8, 25])
def test_a_blurred_foreground_spills_softly_over_the_sharp_background(blur):
    row = two_planes(focus=0, blur=blur)
    half = disc_profile(np.arange(400) - 199.5, blur)
    inside = slice(200 - 3 * blur, 200 + 3 * blur)
    # 0.071 seen, within the foreground: the colours behind it are known at a quarter of the size.
    np.testing.assert_allclose(row[inside, 0], half[inside], atol=0.08)
    np.testing.assert_allclose(row.sum(axis=1), 1, atol=0.02)
    np.testing.assert_allclose(row[200 + 2 * blur :], [[0, 1, 0]] * (200 - 2 * blur), atol=2e-3)


def test_behind_a_blurred_foreground_a_wall_goes_on_as_beside_it():
    """A wall that is brighter the farther it is goes on behind a dark square, and does not take the
    colour of the farthest part within reach: 0.004 of light off was measured, and 0.076 where it
    did."""
    y, x = (np.mgrid[:480, :480] - 240).astype(np.float32)
    wall, wall_disparity = 0.5 - 0.4 * y / 480, 0.1 * y / 480
    near = (abs(x) < 120) & (abs(y) < 120)
    photo = np.repeat(srgb(np.where(near, 0.02, wall))[..., None], 3, 2)
    disparity = np.where(near, 1, wall_disparity).astype(np.float32)
    result = linear(lens.render(photo, disparity, focus=0, blur=80))[..., 0]
    beside = disc_profile(abs(x) - 120, 80)
    exact = beside * 0.02 + (1 - beside) * wall
    row = (slice(235, 245), slice(60, 420))  # where the square's other sides are out of reach
    assert np.abs(result - exact)[row].max() < 0.01


def disc_profile(x: np.ndarray, radius: float) -> np.ndarray:
    """A disc-blurred step from 1 (x < 0) to 0: the part of the disc left of the edge."""
    t = np.clip(x / radius, -1, 1)
    return 0.5 - (t * np.sqrt(1 - t * t) + np.arcsin(t)) / math.pi


def test_even_light_stays_even_on_any_surface():
    """No bands between slices: one colour at depths that slope and step stays one colour."""
    photo = np.full((200, 600, 3), 140, np.uint8)
    for focus in (0.0, 0.4, 1.0):
        result = lens.render(photo, slope(200, 600), focus=focus, blur=40)
        assert np.ptp(result) == 0


def test_a_slope_has_no_bands():
    """Fine texture on a sloping surface: its blur fades without jumps from slice to slice."""
    stripes = np.where(np.arange(1200) % 2, 0.9, 0.1).astype(np.float32)
    photo = np.broadcast_to(stripes[None, :, None], (64, 1200, 3)).copy()
    disparity = np.tile(np.linspace(0, 1, 1200, dtype=np.float32), (64, 1))
    row = linear(lens.render(photo, disparity, focus=0, blur=30))[32, :, 0]
    mean = cv2.blur(row[None].astype(np.float32), (16, 1), borderType=cv2.BORDER_REFLECT)[0, 60:-60]
    assert np.abs(np.diff(mean)).max() < 0.01


# ---- highlights


def test_a_small_light_becomes_a_brighter_disc_and_a_window_does_not():
    photo = np.full((384, 512, 3), 30, np.uint8)
    photo[100:104, 100:104] = 255  # a lamp
    photo[200:300, 200:350] = 255  # a window
    disparity = np.zeros((384, 512), np.float32)
    plain, guessed = (
        lens.render(photo, disparity, focus=1, blur=8, highlights=h).astype(int) for h in (0, 1)
    )
    assert (guessed[102, 102] > plain[102, 102] + 60).all()
    assert np.array_equal(guessed[180:320, 180:370], plain[180:320, 180:370])


def test_a_clipped_channel_is_guessed_from_the_others():
    """A red surface in light that rises from left to right: red clips halfway."""
    light = np.linspace(0.2, 2, 512, dtype=np.float32)[None, :, None] * np.array([1, 0.3, 0.1])
    light = np.tile(light, (384, 1, 1)).astype(np.float32)
    photo = np.round(255 * np.minimum(srgb(light), 1)).astype(np.uint8)
    disparity = np.zeros((384, 512), np.float32)
    disparity[:] = np.linspace(0, 1e-3, 512)  # all blurred alike
    found = highlights.recovery(photo)
    restored = lens._Photo(photo, disparity, found).light(Box(0, 384, 0, 512))
    wrong = np.abs(restored[0] - light[..., 0]).mean()
    assert wrong < 0.25 * np.abs(np.minimum(light[..., 0], 1) - light[..., 0]).mean()


def test_known_highlights_are_left_alone():
    photo = np.full((32, 32, 3), 1.0, np.float32)
    photo[4, 4] = 3
    assert highlights.recovery(photo) is None


# ---- the compiled functions

compiled_only = pytest.mark.skipif(
    native.library() is None, reason="argan was built without a C++ compiler"
)
NATIVE_GAP = 2e-4  # of light in 0..1; 1.2e-4 of light seen where weights reach 1 / slices.LEAST


def both_ways(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> tuple[Any, Any]:
    """What the compiled functions make of it, and what NumPy does."""
    compiled = run()
    monkeypatch.setattr(native, "library", lambda: None)
    return compiled, run()


@compiled_only
@pytest.mark.parametrize("pupil", [Pupil(), Pupil(7, 0.3, 0.2), Pupil(rim=0.7), Pupil(cat_eye=0.9)])
def test_compiled_and_numpy_agree(pupil, monkeypatch):
    photo, disparity = noise(180, 260, np.float32), slope(180, 260)
    options = {"focus": 0.45, "blur": 60, "pupil": pupil}
    compiled, plain = both_ways(monkeypatch, lambda: lens.render(photo, disparity, **options))
    assert np.abs(linear(compiled) - linear(plain)).max() < NATIVE_GAP


@compiled_only
def test_compiled_and_numpy_agree_on_a_photo_with_lights(monkeypatch):
    photo, disparity = noise(181, 259), slope(181, 259)
    photo[40:46, 30:36] = photo[90:170, 100:180] = 255
    photo[:, 200:204, 0] = 255
    compiled, plain = both_ways(
        monkeypatch, lambda: lens.render(photo, disparity, focus=0.45, blur=60).astype(int)
    )
    # Light on either side of the middle between two levels: 1 of 1000 values seen.
    assert np.abs(compiled - plain).max() <= 1 and np.mean(compiled != plain) < 0.01


def layer_of(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Premultiplied colour and coverage [4, h, w], and signed squared radius [h, w]."""
    rng = np.random.default_rng(1)
    layer = rng.random((4, height, width), dtype=np.float32)
    layer[3, ::3] = 0
    layer[:3] *= layer[3]
    return layer, (300 * rng.random((height, width)) - 150).astype(np.float32)


def shrunk(factor: int, smooth: bool, side: int, covered: bool) -> np.ndarray:
    layer, square = layer_of(41, 39)
    size = (-(-37 // factor), -(-35 // factor))
    into = np.empty((4, *size), np.float32), np.empty(size, np.float32)
    planes.shrink(
        layer[:3], layer[3] if covered else None, square, Box(4, 41, 4, 39), into,
        factor=factor, smooth=smooth, side=side, low=20, high=70,
    )  # fmt: skip
    return np.stack([*into[0], into[1] / 150])


def laid_under(planes_of: int, factor: int) -> np.ndarray:
    total, deeper = layer_of(23, 31)[0], layer_of(9, 11)[0][:planes_of]
    planes.lay_under(total, deeper, factor, Box(3, 26, 2, 33))
    return total


def keeping_the_farthest() -> np.ndarray:
    surfaces = layer_of(17, 23)[0]
    surfaces[3] *= 5
    around = planes.farthest_of_four(surfaces, 1.0)
    planes.keep_farthest(surfaces, around, 1.0)
    return np.concatenate([surfaces.ravel(), around.ravel()])


def spans_of(pupil: Pupil) -> np.ndarray:
    radii = (7.6, 1.4, 0.0, -0.7, -11.0)
    stack = slices.Stack(np.zeros((5, 3), np.float32), radii, pupil, (0.5, -0.7), False)
    if native.library() is not None:
        return np.concatenate([part.ravel() for part in stack.packed[2:]])
    each = [slices.spans(radius, pupil, (0.5, -0.7)) for radius in radii]
    return np.concatenate([part.ravel() for of in zip(*each, strict=True) for part in of])


FUNCTIONS = {
    **{
        f"shrink {factor} {smooth} {side} {covered}": lambda args=(
            factor, smooth, side, covered
        ): shrunk(*args)
        for factor, smooth in ((2, False), (2, True), (4, True))
        for side in (1, -1)
        for covered in (True, False)
    },
    **{f"enlarge {f}": lambda f=f: planes.enlarged(layer_of(9, 11)[0], f, Box(1, 2 * f, 3, 8 * f))
       for f in (2, 4)},
    **{f"lay {n} under, {f}": lambda n=n, f=f: laid_under(n, f) for n in (3, 4) for f in (4,)},
    "farthest": keeping_the_farthest,
    **{f"spans {pupil}": lambda pupil=pupil: spans_of(pupil)
       for pupil in (Pupil(), Pupil(7, 0.3, 0.2), Pupil(rim=0.7), Pupil(5, cat_eye=0.9, rim=-0.5))},
    "squared": lambda: planes.squared(slope(11, 13)[:, 2:], 0.4, 50, 20)[0] / 400,
    "extremes": lambda: np.array(planes.extremes(slope(11, 13))),
    "decode": lambda: planes.decoded(noise(11, 13)[:, 1:]),
}  # fmt: skip


@compiled_only
@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_compiled_function_does_what_numpy_does(name, monkeypatch):
    compiled, plain = both_ways(monkeypatch, FUNCTIONS[name])
    assert compiled.shape == plain.shape
    np.testing.assert_allclose(compiled, plain, rtol=1e-5, atol=1e-6)  # 4e-7 seen


def test_every_level_of_8_bits_comes_back():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    back = np.empty_like(levels)
    planes.encode(planes.decoded(levels), back)
    assert np.array_equal(back, levels)


# ---- memory


STRIPS = """
import re, sys
import numpy as np
from argan import lens
from argan.errors import InputError
case = dict(np.load("case.npz"))
photo, options = case.pop("photo"), {"focus": 0.6, "blur": 30.0, "threads": 1}
try:
    lens.render(photo, case["disparity"], max_memory=1, **options)
except InputError as error:
    least = 8 + int(re.search("1 MiB are too few .* give ([0-9]+) or more", str(error))[1])
result = lens.render(photo, case["disparity"], max_memory=least, out=photo, **options)
np.save("strips.npy", result)
peak = re.search("VmHWM:[ \\t]+([0-9]+)", open("/proc/self/status").read())[1]
print(result is photo, least, int(peak) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_strips_show_no_seams_and_keep_to_the_memory(tmp_path):
    """In a process of its own: this one holds more."""
    photo, disparity = cv2.blur(noise(1500, 1200), (5, 5)), slope(1500, 1200)
    photo[::50, ::50] = 255
    np.savez(tmp_path / "case.npz", photo=photo, disparity=disparity)
    command = [sys.executable, "-c", STRIPS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    in_place, least, peak = done.stdout.split()
    assert in_place == "True" and float(peak) <= int(least)
    whole = lens.render(photo, disparity, focus=0.6, blur=30).astype(int)
    strips = np.load(tmp_path / "strips.npy")
    assert np.abs(strips - whole).max() <= 2  # 1 seen
    assert np.mean(strips != whole) < 0.02


def test_a_process_that_holds_much_gets_smaller_strips_and_no_refusal(monkeypatch):
    pixels, disparity = np.zeros((4000, 2000, 3), np.uint8), np.zeros((4000, 2000), np.float32)
    photo = lens._Photo(pixels, disparity, None)

    def rows(held: int) -> int:
        monkeypatch.setattr(lens, "_resident", lambda: held << 20)
        return lens._plan(photo, 256, 400, 1, 0)[0]

    assert (rows(0), rows(320), rows(360)) == (4000, 1024, 256)
    with pytest.raises(InputError, match=r"400 MiB .* give 4\d\d or more"):
        rows(390)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_command_line_keeps_to_the_memory(tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), noise(1500, 700))
    np.save(tmp_path / "map.npy", slope(1500, 700))
    options = "photo.png --disparity map.npy --focus-disparity 0.6 --blur 30 -o out.png"
    script = "import sys; from argan.cli import main; code = main(sys.argv[1:])\n"
    script += "print(open('/proc/self/status').read()); sys.exit(code)"

    def run(megabytes: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, "render", *options.split()]
        command += ["--max-memory", megabytes]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    words = run("1").stderr
    assert not (tmp_path / "out.png").exists()
    least = re.fullmatch(r"argan: 1 MiB are too few .* give (\d+) or more\n", words)[1]
    peak = re.search(r"VmHWM:\s+(\d+)", run(least).stdout)[1]
    assert int(peak) / 1024 <= int(least) and (tmp_path / "out.png").exists()


def test_the_result_may_replace_the_photo():
    photo, disparity = noise(300, 200), slope(300, 200)
    done = photo.copy()
    assert lens.render(done, disparity, focus=0.6, blur=30, out=done) is done
    assert np.array_equal(done, lens.render(photo, disparity, focus=0.6, blur=30))


# ---- the whole range of input


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (20, 2000), (2000, 20), (3, 5), (257, 513)])
@pytest.mark.parametrize("blur", [0.4, 7, 1e6])
def test_odd_sizes_and_any_radius(shape, blur):
    photo, disparity = noise(*shape), slope(*shape)
    result = lens.render(photo, disparity, focus=0.5, blur=blur, pupil=Pupil(7))
    assert result.shape == photo.shape and result.dtype == np.uint8
    assert photo.min() <= result.min() and result.max() <= photo.max()


@pytest.mark.parametrize("quality", ["final", "preview"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_number_of_threads_changes_no_byte(quality, dtype):
    photo, disparity = noise(600, 1100, dtype), slope(600, 1100)
    one, two = (
        lens.render(photo, disparity, focus=0.6, blur=25, quality=quality, threads=n)
        for n in (1, 2)
    )
    assert one.tobytes() == two.tobytes()


def test_the_three_types_agree():
    photo, disparity = noise(90, 130), slope(90, 130)
    eight, sixteen, real = (
        lens.render(p, disparity, focus=0.6, blur=9)
        for p in (photo, photo.astype(np.uint16) * 257, (photo / 255).astype(np.float32))
    )
    np.testing.assert_allclose(eight / 255, real, atol=0.6 / 255)
    np.testing.assert_allclose(sixteen / 65535, real, atol=1e-5)


def test_opencv_gets_its_threads_back():
    before = cv2.getNumThreads()
    lens.render(noise(9, 9), slope(9, 9), focus=0, blur=3)
    assert cv2.getNumThreads() == before


def test_bad_input_is_named():
    photo, disparity = noise(9, 9), slope(9, 9)
    with pytest.raises(ShapeError, match=r"\(8, 9\) does not match photo \(9, 9\)"):
        lens.render(photo, disparity[:8], focus=0, blur=3)
    with pytest.raises(ShapeError, match=r"give \[H, W, 3\]"):
        lens.render(photo[..., 0], disparity, focus=0, blur=3)
    with pytest.raises(InputError, match="int32"):
        lens.render(photo.astype(np.int32), disparity, focus=0, blur=3)
    with pytest.raises(InputError, match="highlights"):
        lens.render(photo, disparity, focus=0, blur=3, highlights=-1)
    with pytest.raises(InputError, match="2 blades: give 3 to 11"):
        Pupil(2)
    with pytest.raises(InputError, match="finite"):
        lens.render(photo, disparity, focus=math.nan, blur=3)
    with pytest.raises(ShapeError, match="give the photo's shape and type"):
        lens.render(photo, disparity, focus=0, blur=3, out=photo[:8])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_disparity_with_a_hole_is_refused(bad):
    disparity = slope(9, 9)
    disparity[4, 4] = bad
    with pytest.raises(InputError, match="disparity has NaN or infinite"):
        lens.render(noise(9, 9), disparity, focus=0, blur=3)
    with pytest.raises(InputError, match="disparity has NaN or infinite"):
        lens.light_field(noise(9, 9, np.float32), disparity, optics.PUBLISHED)


def test_light_field_names_a_wrong_number_of_maps():
    image = noise(9, 9, np.float32)
    with pytest.raises(ShapeError, match="one for each of 25 views"):
        lens.light_field(image, np.zeros((24, 9, 9), np.float32), optics.PUBLISHED)


# ---- truth


def oracle(name: str) -> list[tuple[np.ndarray, np.ndarray, dict[str, float], np.ndarray]]:
    """(photo, disparity, focus and blur, thin-lens truth) of three lenses of one scene."""
    folder = DATA / "oracle-public" / name
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}; set ARGAN_DATA")
    scene = json.loads((folder / "scene.json").read_text())
    lo, hi = scene["inv_depth_lo"], scene["inv_depth_hi"]
    levels = cv2.imread(str(folder / "disp.png"), cv2.IMREAD_UNCHANGED).astype(np.float32)
    photo = cv2.imread(str(folder / "aif.png"))[..., ::-1]
    cases = []
    for which in ("subject_1", "subject_2", "background_1"):
        (row,) = [x for x in scene["lens"] if x["file"] == f"lens_{which}.png"]
        options = {
            "focus": 1 / row["focus_distance"],
            "blur": row["aperture_radius"] * scene["f_px"],
        }
        truth = cv2.imread(str(folder / row["file"]))[..., ::-1]
        cases.append((photo, lo + levels / 65535 * (hi - lo), options, truth))
    return cases


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


# 0.2 dB under what was measured; no parameter was chosen on these scenes.
FLOOR = {"flowers_14": 34.9, "fruit_14": 30.7, "toys_14": 31.3}


@pytest.mark.parametrize("name", FLOOR)
def test_close_to_a_thin_lens(name):
    scores = [
        psnr(lens.render(photo, disparity, **options), truth)
        for photo, disparity, options, truth in oracle(name)
    ]
    assert np.mean(scores) >= FLOOR[name]
