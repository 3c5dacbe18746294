"""What the photographer sets, against what is not the code's own: figures by hand, planes made from
points in space, a scene rendered through a true thin lens."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

import argan
from argan import lens, metrics, optics, photo
from argan.camera import find_camera, load_depth, read_lens
from argan.cli import main
from argan.controls import Controls, settle
from argan.errors import InputError
from argan.optics import Camera
from argan.refocus import Look, expose

DATA = Path(os.environ.get("ARGAN_DATA", Path(__file__).parents[3] / "shared/data"))
FORMATS = Path(__file__).parents[1] / "data" / "formats.argan"
HEIGHT, WIDTH = 60, 90
PHOTO = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
FULL_FRAME = {"focal_length": 50.0, "sensor_width": 36.0}
RAMP = np.tile(np.linspace(0, 1, WIDTH, dtype=np.float32), (HEIGHT, 1))


def blur_map(disparity, *, metric=(0.0, 1.0), exif=None, **controls):
    return settle(Controls(**controls), disparity, metric=metric, exif=exif).blur_map(disparity)


# ---------------------------------------------------------------- the thin lens


@pytest.mark.parametrize("shape", [(2400, 3600), (3600, 2400)])
def test_radius_by_hand(shape):
    """50 mm at f/2 has a radius of 12.5 mm; 36 mm on 3600 px make 5000 px of 50 mm; 2 m is sharp:
    0.0125 x 5000 (1/1 - 1/2) = 31.25 px at 1 m."""
    camera = Camera(50, 36)
    k = optics.blur_of_lens(2.0, camera, max(shape))
    assert k == pytest.approx(62.5)
    assert optics.thin_lens_radius(1, 2, camera.aperture_radius(2), camera.focal_px(3600)) == 31.25
    inverse = np.full(shape, 1 / 4, np.float32)
    setting = settle(
        Controls(focus_distance=2, f_number=2, **FULL_FRAME), inverse, metric=(0.0, 1.0)
    )
    assert (setting.blur, setting.focus) == (pytest.approx(62.5), 0.5)
    assert setting.even


@pytest.mark.parametrize("z, z_focus", [(0.7, 1.0), (1.0, 0.7), (40.0, 2.5)])
def test_radius_is_the_textbooks(z, z_focus):
    """Diameter on the sensor A f |z - z_f| / (z (z_f - f)), in a frame that the extension of the
    lens, z_f / (z_f - f), has narrowed."""
    f, n, sensor, width = 0.085, 1.4, 0.036, 6000
    diameter = f / n * f * abs(z - z_focus) / (z * (z_focus - f))
    radius_px = diameter / 2 / sensor * width / (z_focus / (z_focus - f))
    inverse = np.full((400, width), 1 / z, np.float32)
    setting = settle(
        Controls(focus_distance=z_focus, f_number=n, focal_length=85, sensor_width=36),
        inverse, metric=(0.0, 1.0),
    )  # fmt: skip
    found = setting.blur * (1 / z - setting.focus)
    assert abs(found) == pytest.approx(radius_px, rel=1e-9)
    assert (found > 0) == (z < z_focus)


def test_a_scene_photographed_through_a_true_thin_lens():
    folder = DATA / "oracle-public" / "flowers_11"
    if not folder.exists():
        pytest.skip(f"no reference data at {DATA}; set ARGAN_DATA")
    facts = json.loads((folder / "scene.json").read_text())
    lo, hi = facts["inv_depth_lo"], facts["inv_depth_hi"]
    levels = np.asarray(Image.open(folder / "disp.png"), np.float64)
    depth = 1 / (lo + levels / 65535 * (hi - lo))
    picture = np.asarray(Image.open(folder / "aif.png").convert("RGB"))
    true = facts["lens"][1]
    # The scene states f_px and the aperture's radius in metres: a lens of 24 mm has these.
    f_mm = 24.0
    result = argan.refocus(
        picture, depth=depth, focus_distance=true["focus_distance"], focal_length=f_mm,
        sensor_width=f_mm / facts["f_px"] * facts["width"],
        f_number=f_mm / (2000 * true["aperture_radius"]), threads=1,
    )  # fmt: skip
    D = result.setting.blur * (1 / depth - result.setting.focus)
    assert 2 * np.abs(D).max() == pytest.approx(true["coc_max_px"], rel=1e-4)
    target = np.asarray(Image.open(folder / true["file"]).convert("RGB"))
    # 31.6 dB seen; 27.3 with half the radius, 27.0 with twice.
    assert metrics.psnr(result.image / 255, target / 255) > 30


# ---------------------------------------------------------------- what EXIF says

RATIONAL = TiffImagePlugin.IFDRational
TAGS = {
    "focal": 0x920A, "_35mm": 0xA405, "x": 0xA002, "y": 0xA003, "density": 0xA20E, "unit": 0xA210,
}  # fmt: skip


def with_exif(path: Path, size: tuple[int, int] = (80, 60), orientation: int = 1, **tags) -> Path:
    exif = Image.Exif()
    exif[photo.ORIENTATION] = orientation
    exif.get_ifd(0x8769).update({TAGS[name]: value for name, value in tags.items()})
    exif[0x8769] = exif.get_ifd(0x8769)
    Image.new("RGB", size, (90, 120, 30)).save(path, exif=exif.tobytes())
    return path


FULL = {"focal": RATIONAL(50), "x": 6000, "y": 4000, "density": RATIONAL(60000, 36), "unit": 3}
PHONE = {"focal": RATIONAL(57, 10), "_35mm": 26}  # 4:3, so 0.8 of the diagonal
PHONE_SENSOR = 0.8 * math.hypot(36, 24) * 5.7 / 26
LENSES = {
    "per cm": (FULL, 50, 36),
    "per inch": (FULL | {"density": RATIONAL(6000 * 254, 360), "unit": 2}, 50, 36),
    "inches by default": ({**FULL, "density": 6000 / 36 * 25.4, "unit": 0}, 50, 36),
    "made smaller": (FULL, 50, 36),
    "made smaller, and the size updated": (
        FULL | {"x": 3000, "y": 2000, "_35mm": 50}, 50, 0.8 * math.hypot(36, 24),
    ),
    "size n/0": ({"focal": 50.0, "x": RATIONAL(6000, 0), "density": 80 / 3.6, "unit": 3}, 50, 36),
    "no size": ({"focal": 50.0, "density": 80 / 36 * 10, "unit": 3}, 50, 36),
    "phone": (PHONE, 5.7, PHONE_SENSOR),
    "both agree: the exact one": (FULL | {"_35mm": 52}, 50, 36),
    "nothing": ({}, None, None),
    "no focal length": ({"_35mm": 26}, None, None),
    "focal length 0": (PHONE | {"focal": RATIONAL(0, 1)}, None, None),
    "focal length n/0": (FULL | {"focal": RATIONAL(50, 0)}, None, 36),
    "focal length 0/0": (PHONE | {"focal": RATIONAL(0, 0)}, None, None),
    "negative": (FULL | {"focal": RATIONAL(-50, 1)}, None, 36),
    "focal length of a telescope": (FULL | {"focal": RATIONAL(500000)}, None, 36),
    "text": (FULL | {"focal": "fifty"}, None, 36),
    "two numbers": (FULL | {"focal": (RATIONAL(50), RATIONAL(85))}, None, 36),
    "35 mm 0 is unknown": (PHONE | {"_35mm": 0}, 5.7, None),
    "density 0": (FULL | {"density": RATIONAL(0, 1)}, 50, None),
    "density n/0": (FULL | {"density": RATIONAL(60000, 0)}, 50, None),
    "sensor of a metre": (FULL | {"density": RATIONAL(60, 1)}, 50, None),
    "unknown unit": (FULL | {"unit": 7}, 50, None),
}  # fmt: skip


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", LENSES)
def test_the_lens_in_a_file(kind, orientation, tmp_path):
    tags, focal, sensor = LENSES[kind]
    taken = photo.load(with_exif(tmp_path / "a.jpg", orientation=orientation, **tags))
    height, width = taken.pixels.shape[:2]
    assert (height > width) == (orientation == 6)
    found = read_lens(taken.exif, height, width)
    assert found.focal_mm == (focal and pytest.approx(focal))
    assert found.sensor_mm == (sensor and pytest.approx(sensor, rel=1e-3))


@pytest.mark.parametrize("exif", [None, b"", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_no_exif_says_nothing(exif):
    assert read_lens(exif, 60, 80) == read_lens(None, 1, 1)


def test_what_is_given_wins(tmp_path):
    exif = photo.load(with_exif(tmp_path / "a.jpg", **FULL)).exif
    assert find_camera(exif, (60, 80)) == (Camera(50, 36), "lens 50 mm (EXIF), sensor 36 mm (EXIF)")
    assert find_camera(exif, (60, 80), 85.0) == (
        Camera(85, 36), "lens 85 mm (given), sensor 36 mm (EXIF)",
    )  # fmt: skip
    camera, said = find_camera(exif, (60, 80), None, 23.5)
    assert (camera, said) == (Camera(50, 23.5), "lens 50 mm (EXIF), sensor 23.5 mm (given)")


# ---------------------------------------------------------------- the plane

FOCAL_PX = 50 / 36 * WIDTH


def plane_in_space(point: tuple[float, float], z: float, tilt: float, toward: float) -> np.ndarray:
    """Depth [H, W] of the plane that contains the thing at distance z behind `point`, and two
    directions: sideways, and `toward` while coming nearer by sin(tilt)."""
    tilt, toward = math.radians(tilt), math.radians(toward)
    centre = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    start = np.append((np.array(point) - centre) / FOCAL_PX, 1) * z
    slope = [math.cos(toward) * math.cos(tilt), math.sin(toward) * math.cos(tilt), -math.sin(tilt)]
    side = [-math.sin(toward), math.cos(toward), 0]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.stack(
        [(x - centre[0]) / FOCAL_PX, (y - centre[1]) / FOCAL_PX, np.ones(x.shape)], axis=-1
    )
    # start + a slope + b side = t ray; the ray's third component is 1, so t is the depth.
    columns = np.stack(np.broadcast_arrays(rays, -np.array(slope), -np.array(side)), axis=-1)
    t = np.linalg.solve(columns, np.broadcast_to(start, rays.shape)[..., None])[..., 0, 0]
    assert (t > 0).all()
    return t


@pytest.mark.parametrize("tilt, toward", [(50, 90), (-35, 90), (70, 0), (60, 200), (0, 0)])
@pytest.mark.parametrize("point", [(30, 20), (60, 41)])
def test_a_plane_in_space_is_sharp(tilt, toward, point):
    depth = plane_in_space(point, 2.0, tilt, toward)
    options = {"depth": depth, "f_number": 0.01, "threads": 1, **FULL_FRAME}
    common = options | {"tilt": tilt, "tilt_toward": toward}
    for focus in ({"focus": point}, {"focus": (float(point[0]), point[1] + 0.9)}):
        np.testing.assert_array_equal(argan.refocus(PHOTO, **common, **focus).image, PHOTO)
    if tilt:
        for wrong in ({"tilt": -tilt}, {"tilt": tilt + 4}, {"tilt_toward": toward + 20}):
            image = argan.refocus(PHOTO, **common | wrong, focus=point).image
            assert (image != PHOTO).any()


def test_a_tilted_plane_through_the_middle():
    depth = plane_in_space(((WIDTH - 1) / 2, (HEIGHT - 1) / 2), 1.5, 40, 90)
    result = argan.refocus(
        PHOTO, depth=depth, focus_distance=1.5, f_number=0.01, tilt=40, **FULL_FRAME
    )
    np.testing.assert_array_equal(result.image, PHOTO)


def test_the_floor_of_a_level_camera_is_tilted_by_90_degrees():
    """1.2 m below the lens, the floor is 1.2 f_px / y away, y px below the middle."""
    y = np.arange(HEIGHT)[:, None] - (HEIGHT - 1) / 2
    inverse = np.where(y > 0, np.broadcast_to(y, PHOTO.shape[:2]) / (1.2 * FOCAL_PX), 0)
    D = blur_map(inverse.astype(np.float32), focus=(40, 50), tilt=90, blur=1000, **FULL_FRAME)
    assert np.abs(D[HEIGHT // 2 :]).max() < 1e-3
    # The sky lies in front of the plane, which meets the lens's axis at infinity.
    np.testing.assert_allclose(D[0], 1000 * (HEIGHT - 1) / 2 / (1.2 * FOCAL_PX), rtol=1e-4)


def test_off_the_plane_is_blurred_by_its_distance_from_it():
    depth = plane_in_space((30, 20), 2.0, 50, 90)
    depth[:, 60:] = 5.0
    D = blur_map(
        (1 / depth).astype(np.float32), focus=(30, 20), tilt=50, f_number=2, **FULL_FRAME
    )
    k = 0.0125 * FOCAL_PX
    expected = k * (1 / 5 - 1 / plane_in_space((30, 20), 2.0, 50, 90)[:, 60:])
    np.testing.assert_allclose(D[:, 60:], expected, atol=1e-6)
    assert np.abs(D[:, :60]).max() < 1e-6


POINTS = ((10.0, 8.0), (80.0, 15.0), (41.0, 50.0))


def test_three_points_make_the_plane():
    x, y = np.arange(WIDTH), np.arange(HEIGHT)[:, None]
    disparity = (0.2 + 0.004 * x - 0.003 * y).astype(np.float32)
    result = argan.refocus(PHOTO, disparity=disparity, focus=POINTS, blur=500, threads=1)
    np.testing.assert_array_equal(result.image, PHOTO)
    assert result.focus == pytest.approx(disparity[29:31, 44:46].mean())
    disparity[20:30, 40:50] += 0.1
    D = blur_map(disparity, focus=POINTS, blur=500, metric=None)
    np.testing.assert_allclose(D[20:30, 40:50], 50, rtol=1e-4)


@pytest.mark.parametrize("toward, at", [(0, (0, WIDTH)), (180, (0, -WIDTH)), (90, (WIDTH, 0))])
def test_tilt_by_convention_rises_by_its_tangent_across_the_width(toward, at):
    setting = settle(
        Controls(0.4, blur=1, tilt=30, tilt_toward=toward), np.zeros((60, WIDTH), np.float32)
    )
    assert setting.plane.at(0, 0) == pytest.approx(0.4)
    down, right = at
    assert setting.plane.at(right, down) == pytest.approx(0.4 + math.tan(math.radians(30)))
    through = settle(Controls((20, 10), blur=1, tilt=30), RAMP).plane
    assert through.at(20 - (WIDTH - 1) / 2, 10 - (HEIGHT - 1) / 2) == pytest.approx(RAMP[10, 20])


# ---------------------------------------------------------------- what is kept sharp


@pytest.mark.parametrize(
    "keep, expected",
    [
        (0.0, [-20, -10, 0, 5, 10]),
        (0.1, [-15, -5, 0, 0, 5]),
        ((0.05, 0.3), [-5, 0, 0, 2.5, 7.5]),
        ((0.0, math.inf), [0, 0, 0, 5, 10]),
        ((math.inf, 0.0), [-20, -10, 0, 0, 0]),
    ],
)
def test_blur_counts_from_the_nearer_end(keep, expected):
    disparity = np.float32([[0.1, 0.3, 0.5, 0.6, 0.7]])
    D = blur_map(disparity, focus=0.5, blur=50, keep=keep, metric=None)
    np.testing.assert_allclose(D[0], expected, atol=1e-5)


def test_keep_in_metres():
    """2 m is sharp, so is what lies from 1.5 m to 3 m."""
    depth = np.array([[1.0, 1.5, 1.7, 2.0, 2.9, 3.0, 6.0]])
    k = 0.0125 * 50 / 36 * 7
    D = blur_map(
        (1 / depth).astype(np.float32), focus_distance=2, f_number=2, keep=(0.5, 1.0), **FULL_FRAME
    )
    expected = [k * (1 / 1 - 1 / 1.5), 0, 0, 0, 0, 0, k * (1 / 6 - 1 / 3)]
    np.testing.assert_allclose(D[0], expected, atol=1e-6)
    near_and_far = np.float32([[1 / 0.01, 0.0]])
    every = {"focus_distance": 2, "f_number": 2, "keep": (2.5, math.inf), **FULL_FRAME}
    assert not blur_map(near_and_far, **every).any()  # up to the lens, and to infinity


def test_what_is_kept_is_the_photo():
    """A slab within the range stays bit for bit, with sharp surroundings; beyond, it does not."""
    common = {"disparity": RAMP, "focus": 0.5, "blur": 60, "threads": 1}
    image = argan.refocus(PHOTO, **common, keep=0.2).image
    kept = np.abs(RAMP[0] - 0.5) < 0.2
    inner = np.flatnonzero(kept)[8:-8]  # blur next door spills over
    np.testing.assert_array_equal(image[:, inner], PHOTO[:, inner])
    assert (argan.refocus(PHOTO, **common).image[:, inner] != PHOTO[:, inner]).any()
    assert (image[:, ~kept] != PHOTO[:, ~kept]).any(axis=2).mean() > 0.9
    same = argan.refocus(PHOTO, disparity=RAMP, focus=0.5, blur=60, keep=0.6).image
    np.testing.assert_array_equal(same, PHOTO)


def test_a_map_of_blur_is_the_lens_with_focus_and_blur():
    """Near and far keep their sides: what is blurred in front spills over, behind it does not."""
    disparity = np.where(RAMP > 0.7, 0.9, np.where(RAMP > 0.3, 0.5, 0.1)).astype(np.float32)
    common = {"disparity": disparity, "blur": 20, "threads": 1}
    for focus in (0.1, 0.5, 0.9):
        plain = argan.refocus(PHOTO, focus=focus, **common).image
        by_map = argan.refocus(PHOTO, focus=focus, keep=1e-6, **common)
        assert not by_map.setting.even
        # Largest gap seen 0 of 255; 90 with the sign turned.
        assert np.abs(plain.astype(int) - by_map.image).max() <= 1


def test_keep_follows_a_tilted_plane():
    D = blur_map(RAMP, focus=(45, 30), blur=10, tilt=45, tilt_toward=0, keep=0.02, metric=None)
    assert np.abs(D).max() < 1e-4  # the ramp rises by 1 in 89 px, the plane by 1 in 90


# ---------------------------------------------------------------- nothing new asked for


def test_without_them_it_is_the_lens_as_it_was():
    disparity = np.random.default_rng(1).random((HEIGHT, WIDTH), dtype=np.float32)
    expected = lens.render(PHOTO, disparity, focus=0.31, blur=7.3, threads=1)
    result = argan.refocus(PHOTO, disparity=disparity, focus=0.31, blur=7.3, threads=1)
    np.testing.assert_array_equal(result.image, expected)
    assert result.setting.words == "focus 0.31"
    f_number = argan.refocus(PHOTO, disparity=disparity, focus=0.31, f_number=3.6, threads=1)
    expected = lens.render(PHOTO, disparity, focus=0.31, blur=0.01 * WIDTH, threads=1)
    np.testing.assert_array_equal(f_number.image, expected)


# ---------------------------------------------------------------- depth in metres


def test_depth_files(tmp_path):
    metres = np.linspace(0.5, 8, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    np.save(tmp_path / "z.npy", metres)
    np.testing.assert_allclose(load_depth(tmp_path / "z.npy"), 1 / metres, rtol=1e-6)
    Image.fromarray(np.round(1000 * metres).astype(np.uint16)).save(tmp_path / "z.png")
    np.testing.assert_allclose(load_depth(tmp_path / "z.png"), 1 / metres, rtol=1.1e-3)
    one = expose(PHOTO, Controls(focus_distance=1, blur=3), depth=tmp_path / "z.npy").image
    np.testing.assert_array_equal(
        one, expose(PHOTO, Controls(focus_distance=1, blur=3), depth=metres).image
    )


def test_infinitely_far_is_no_depth_to_refuse():
    depth = np.full((HEIGHT, WIDTH), 2.0)
    depth[:30] = np.inf
    D = blur_map((1 / depth).astype(np.float32), focus_distance=2, f_number=2, **FULL_FRAME)
    np.testing.assert_allclose(D[0], -0.0125 * FOCAL_PX / 2, rtol=1e-5)
    assert argan.refocus(PHOTO, depth=depth, focus_distance=2, blur=9).image.shape == PHOTO.shape


METRIC_MODEL = 'model = "{}"\noutput = "metric depth"\nsize = 64\ntypical = [0.25, 0.8]'


@pytest.fixture
def metric_model(tmp_path):
    """A model whose depth counts as metres: 0.25 m is 1, 0.8 m is 0."""
    from argan import bundle

    (tmp_path / "m.onnx").write_bytes(bundle.read(FORMATS).files["model.fp32.onnx"])
    path = tmp_path / "own.toml"
    path.write_text(METRIC_MODEL.format("m.onnx"))
    return path


def test_a_model_of_metric_depth(metric_model, tmp_path):
    picture = np.tile(np.linspace(110, 200, WIDTH), (HEIGHT, 1)).astype(np.uint8)
    picture = np.repeat(picture[..., None], 3, axis=2)
    refocuser = argan.load(metric_model, threads=1)
    depth = 1 / (1.25 + refocuser.depth(picture) * (4 - 1.25))
    for options in (
        {"focus_distance": 0.5, "f_number": 0.1, **FULL_FRAME},
        {"focus": (40, 30), "f_number": 0.1, **FULL_FRAME, "tilt": 30, "keep": (0.01, 0.1)},
    ):
        ours = refocuser.refocus(picture, **options)
        same = argan.refocus(picture, depth=depth, **options)
        # Largest gap seen 1 of 255: d and 1/z are rounded differently.
        assert np.abs(ours.image.astype(int) - same.image).max() <= 1
        assert ours.setting.blur == pytest.approx(same.setting.blur * 2.75)
        assert ours.setting.words.split("(")[1:] == same.setting.words.split("(")[1:]
        assert (ours.image != picture).any()
    assert "by convention" in refocuser.refocus(picture).setting.words
    with pytest.raises(InputError, match="does not say its focal length"):
        refocuser.refocus(picture, f_number=2)
    path = with_exif(tmp_path / "a.jpg", **FULL)
    assert "f/1.8, lens 50 mm (EXIF), sensor 36 mm (EXIF)" in refocuser.refocus(path).setting.words


# ---------------------------------------------------------------- the command line


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PHOTO).save("photo.png")
    with_exif(tmp_path / "exif.png", (WIDTH, HEIGHT), **FULL)
    np.save("z.npy", 1 / (0.2 + RAMP))
    np.save("d.npy", RAMP)
    np.save("curved.npy", RAMP**2 - RAMP[:, ::-1] * np.linspace(0, 1, HEIGHT)[:, None])
    np.save("zero.npy", 0 * RAMP)
    np.save("small.npy", 1 + RAMP[:9, :9])
    photo.save_disparity("disparity.png", RAMP)
    photo.save_disparity("colour.png", RAMP, "inferno")


LOOKS = {
    "distance": (
        "--depth z.npy --focus-distance 2 --f-number 0.1 --focal-length 50 --sensor-width 36",
        {"depth": "z.npy", "focus_distance": 2.0, "f_number": 0.1, **FULL_FRAME},
        "focus 0.5 (2 m), f/0.1, lens 50 mm (given), sensor 36 mm (given)",
    ),
    "metres as a focus": (
        "--depth z.npy --focus 2m --blur 20",
        {"depth": "z.npy", "focus_distance": 2.0, "blur": 20.0},
        "focus 0.5 (2 m)",
    ),
    "tilt": (
        "--depth z.npy --focus 40,30 --tilt 30 --tilt-toward 10 --blur 50 --focal-length 50"
        " --sensor-width 36",
        {"depth": "z.npy", "focus": (40.0, 30.0), "tilt": 30.0, "tilt_toward": 10.0, "blur": 50.0,
         **FULL_FRAME},
        "focus 0.6494 (1.54 m)",
    ),
    "plane": (
        "--disparity curved.npy --focus-plane 10,8 80,15 41,50 --strength 30",
        {"disparity": "curved.npy", "focus": POINTS, "strength": 30.0},
        "focus 0.08441",
    ),
    "keep": (
        "--disparity d.npy --focus 0.4 --f-number 1 --keep 0.1,0.2",
        {"disparity": "d.npy", "focus": 0.4, "f_number": 1.0, "keep": (0.1, 0.2)},
        "focus 0.4",
    ),
    "keep both": (
        "--disparity d.npy --focus auto --f-number 1 --keep 0.1",
        {"disparity": "d.npy", "f_number": 1.0, "keep": 0.1},
        "focus 0.6",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LOOKS)
def test_command_line_and_python_agree(kind, files, capsys):
    options, same, words = LOOKS[kind]
    assert main(["render", "photo.png", *options.split(), "-o", "out.png", "--threads", "1"]) == 0
    assert capsys.readouterr().out.startswith(f"out.png  {words}")
    written = photo.load("out.png").pixels
    expected = argan.refocus("photo.png", **same, threads=1).image.pixels
    np.testing.assert_array_equal(written, expected)
    plain = {k: v for k, v in same.items() if k not in ("tilt", "tilt_toward", "keep")}
    if plain != same:
        assert (argan.refocus("photo.png", **plain).image.pixels != written).any()


def test_refocus_has_them_too(files, metric_model, capsys):
    command = ["refocus", "exif.png", "--model", str(metric_model), "-o", "out.png"]
    options = ["--focus", "0.5m", "--f-number", "0.1", "--tilt", "20", "--keep", "0.02,0.03"]
    assert main([*command, *options]) == 0
    assert "(0.5 m), f/0.1, lens 50 mm (EXIF), sensor 36 mm (EXIF)" in capsys.readouterr().out
    expected = argan.refocus(
        "exif.png", focus_distance=0.5, f_number=0.1, tilt=20, keep=(0.02, 0.03),
        model=metric_model,
    )  # fmt: skip
    np.testing.assert_array_equal(photo.load("out.png").pixels, expected.image.pixels)
    main(["refocus", "--help"])
    shown = capsys.readouterr().out
    order = ["Focus:", "--focus ", "--tilt", "--keep", "Blur (one", "--f-number", "Camera, where",
             "--focal-length", "Discs:", "--blades", "Run:", "--model"]  # fmt: skip
    places = [shown.index(f"\n{name}" if name[0] != "-" else f"\n  {name}") for name in order]
    assert places == sorted(places)


# ---------------------------------------------------------------- what is refused

METRES = "--depth z.npy --focus-distance 2 --f-number 2"
REFUSED = {
    "no lens": (METRES, "does not say its focal length and the size of its sensor: give"
                " --focal-length MM and --sensor-width MM"),
    "no focal length": (f"{METRES} --sensor-width 36", "its focal length: give --focal-length MM"),
    "no sensor": (f"{METRES} --focal-length 50", "size of its sensor: give --sensor-width MM"),
    "tilt without a lens": ("--depth z.npy --blur 3 --tilt 9", "does not say its focal length"),
    "distance": ("--disparity d.npy --focus-distance 2 --blur 3", "needs depth in metres"),
    "lens": ("--disparity d.npy --focal-length 50 --blur 3", "focal length needs depth in metres"),
    "no map": ("--blur 3", "--disparity FILE or --depth FILE"),
    "two maps": ("--blur 3 --disparity d.npy --depth z.npy", "give one map"),
    "no blur": ("--disparity d.npy", "how much blur? give --f-number"),
    "two focuses": ("--disparity d.npy --blur 3 --focus 3 --focus-distance 2", "exclude each"),
    "distance 0": ("--depth z.npy --blur 3 --focus-distance 0", "positive number of m"),
    "focal length": (f"{METRES} --focal-length -50", "focal length -50.0: give a positive number"),
    "sensor": (f"{METRES} --sensor-width nan", "sensor width nan: give a positive number of mm"),
    "tilt 91": ("--disparity d.npy --blur 3 --tilt 91", "from -90 to 90"),
    "tilt 90": ("--disparity d.npy --blur 3 --tilt -90", "a tilt is below 90 degrees"),
    "tilt toward": ("--disparity d.npy --blur 3 --tilt 9 --tilt-toward inf", "give an angle"),
    "tilt beyond the horizon": (
        "--depth z.npy --blur 3 --focus 45,0 --tilt 85 --focal-length 20 --sensor-width 36",
        "can't be seen at the point of focus",
    ),
    "points on a line": (
        "--disparity d.npy --blur 3 --focus-plane 1,1 20,20 40,40", "lie on one line",
    ),
    "two points the same": (
        "--disparity d.npy --blur 3 --focus-plane 1,1 1,1 40,4", "lie on one line",
    ),
    "point of the plane": ("--disparity d.npy --blur 3 --focus-plane 1,1 90,2 4,5", "outside"),
    "no point": ("--disparity d.npy --blur 3 --focus-plane 1,1 9 4,5", "three times X,Y"),
    "plane and tilt": (
        "--disparity d.npy --blur 3 --focus-plane 1,1 9,2 4,5 --tilt 4", "give no tilt",
    ),
    "keep": ("--disparity d.npy --blur 3 --keep -1", "give 0 or more"),
    "keep NaN": ("--disparity d.npy --blur 3 --keep nan", "give 0 or more"),
    "keep of three": ("--disparity d.npy --blur 3 --keep 1,2,3", "two with a comma"),
    "keep at infinity": ("--depth z.npy --blur 3 --focus 0 --keep 1", "which is at infinity"),
    "depth 0": ("--depth zero.npy --blur 3", "zero.npy has depths that are not above 0 m"),
    "a disparity as depth": ("--depth disparity.png --blur 3", "it is no depth in mm"),
    "colours as depth": ("--depth colour.png --blur 3", "16-bit grey"),
    "another size": ("--depth small.npy --blur 3", "small.npy is 9x9 and photo.png is 90x60"),
    "onto the map": ("--depth disparity.png --blur 3 -o disparity.png", "is an input"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind, files, capsys):
    options, message = REFUSED[kind]
    before = sorted(os.listdir())
    assert main(["render", "photo.png", *options.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    "options, message",
    [
        ({"disparity": RAMP, "depth": 1 + RAMP}, "give one map"),
        ({"disparity": RAMP, "model": "default"}, "exclude each other"),
        ({"disparity": RAMP, "focus": ((1, 2), (3, 4))}, "one point .x, y., or three"),
        ({"disparity": RAMP, "focus": (1, 2, 3)}, "one point .x, y., or three"),
        ({"depth": RAMP[None]}, "give .H, W."),
        ({"depth": -1 - RAMP}, "not above 0 m"),
        ({"depth": np.full_like(RAMP, np.nan)}, "not above 0 m"),
        ({"disparity": np.full_like(RAMP, np.nan), "focus": 0.1}, "NaN"),
        ({"disparity": np.full_like(RAMP, np.nan), "focus": 0.1, "keep": 1}, "NaN"),
        ({"disparity": RAMP[:8]}, "the map is 90x8 and the photo is 90x60"),
    ],
)
def test_refused_in_python(options, message):
    with pytest.raises(InputError, match=message) as caught:
        argan.refocus(PHOTO, blur=3, **options)
    assert "\n" not in str(caught.value)


def test_the_look_reaches_the_lens():
    """What `Refocuser.refocus` takes, `argan.refocus` takes with a map."""
    common = {"disparity": RAMP, "focus": 1.0, "blur": 12, "threads": 1}
    plain = argan.refocus(PHOTO, **common).image
    pupil = optics.Pupil(blades=3, rim=0.9)
    for options in ({"pupil": pupil}, {"highlights": 0.0}, {"quality": "preview"}):
        assert (argan.refocus(PHOTO, **common, **options).image != plain).any()
    both = argan.refocus(PHOTO, **common, pupil=pupil, quality="preview").image
    look = Look(pupil, 1.0, "preview")
    same = expose(PHOTO, Controls(1.0, blur=12), look, disparity=RAMP, threads=1).image
    np.testing.assert_array_equal(both, same)
