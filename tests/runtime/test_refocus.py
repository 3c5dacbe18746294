from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import argan
from argan import bundle, optics, photo
from argan.controls import auto_focus, blur_px, focus_disparity
from argan.errors import BundleError, InputError, MissingFileError
from argan.refocus import Refocuser, network_size

TINY = Path(__file__).parents[1] / "data" / "tiny.argan"  # brighter is nearer; range 0 to 0.5
LUMA = np.array([0.2126, 0.7152, 0.0722])


@pytest.fixture(scope="module")
def tiny():
    return argan.load(TINY, threads=1)


def steps(height: int = 96, width: int = 128) -> np.ndarray:
    """Dark at the left, bright at the right, with an edge between: sRGB uint8 [H, W, 3]."""
    pixels = np.full((height, width, 3), 40, np.uint8)
    pixels[:, width // 2 :] = (200, 150, 100)
    return pixels


def test_depth_is_the_networks_in_the_units_of_the_manifest(tiny):
    pixels = steps()
    disparity = tiny.depth(pixels)
    assert (disparity.shape, disparity.dtype) == ((96, 128), np.float32)
    expected = pixels[48, [8, 120]] / 255 @ LUMA / 0.5
    np.testing.assert_allclose(disparity[48, [8, 120]], expected, atol=2e-3)


KINDS = {
    "uint8": steps(),
    "uint16": steps().astype(np.uint16) * 257,
    "float32": (steps() / 255).astype(np.float32),
    "float64": steps() / 255,
    "float16": (steps() / 255).astype(np.float16),
    "PIL RGB": Image.fromarray(steps()),
    "PIL RGBA": Image.fromarray(np.dstack([steps(), np.full((96, 128), 7, np.uint8)])),
    "Photo": photo.Photo(steps(), icc=b"profile"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_kind_comes_out(kind, tiny):
    result = tiny.refocus(KINDS[kind], focus=(120, 48), f_number=1.0)
    same = Image.Image if kind.startswith("PIL") else type(KINDS[kind])
    assert isinstance(result.image, same)
    if isinstance(result.image, Image.Image):
        assert result.image.mode == KINDS[kind].mode
        pixels = np.asarray(result.image)
    elif isinstance(result.image, photo.Photo):
        assert result.image.icc == b"profile"
        pixels = result.image.pixels
    else:
        assert result.image.dtype == KINDS[kind].dtype
        pixels = result.image
    one = {"uint16": 257, "f": 1 / 255}.get(kind if kind == "uint16" else kind[0], 1)
    reference = tiny.refocus(steps(), focus=(120, 48), f_number=1.0).image
    # Largest gap seen 1 of 255: rounding to 8 bit.
    assert abs(pixels[..., :3].astype(float) / one - reference).max() <= 2


def test_a_path_gives_a_photo_turned_upright(tiny, tmp_path):
    exif = Image.Exif()
    exif[photo.ORIENTATION] = 6
    Image.fromarray(np.rot90(steps())).save(tmp_path / "turned.png", exif=exif.tobytes())
    result = tiny.refocus(tmp_path / "turned.png", focus=(120, 48))
    assert result.image.pixels.shape == (96, 128, 3)
    assert result.disparity.shape == (96, 128)
    assert result.disparity[48, 120] > result.disparity[48, 8]
    np.testing.assert_array_equal(result.image.pixels[:, 100:], steps()[:, 100:])  # in focus


def test_what_is_in_focus_stays_and_the_rest_is_blurred(tiny):
    pixels = steps(240, 320)
    pixels[::8, :160] = 90  # texture, dark
    pixels[::8, 160:] = 255  # texture, bright
    result = tiny.refocus(pixels, focus=(280, 121), blur=12)
    assert result.focus == pytest.approx(float(pixels[121, 280] / 255 @ LUMA / 0.5), abs=0.1)
    contrast = np.std(result.image[40:200].astype(float), axis=0).mean(axis=1)
    before = np.std(pixels[40:200].astype(float), axis=0).mean(axis=1)
    assert contrast[200:300].mean() > 0.9 * before[200:300].mean()
    assert contrast[20:120].mean() < 0.5 * before[20:120].mean()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (20, 20000), (3, 2)])
def test_odd_sizes(shape, tiny):
    pixels = np.full((*shape, 3), 120, np.uint8)
    result = tiny.refocus(pixels)
    np.testing.assert_array_equal(result.image, pixels)
    assert result.disparity.shape == shape


@pytest.mark.parametrize(
    "photo_size, nominal, expected",
    [
        ((1000, 1000), 256, (256, 256)),
        ((3000, 4000), 256, (224, 288)),
        ((1, 1), 256, (256, 256)),
        ((20, 20000), 256, (64, 2048)),
        ((20000, 20), 128, (1024, 64)),
    ],
)
def test_network_size(photo_size, nominal, expected):
    port = bundle.Image("image", None, None, multiple_of=32, nominal=nominal)
    assert network_size(*photo_size, port) == expected
    fixed = bundle.Image("image", 192, 256, multiple_of=32, nominal=nominal)
    assert network_size(*photo_size, fixed) == (192, 256)


def test_focus_point_is_robust():
    disparity = np.full((200, 300), 0.3, np.float32)
    disparity[:, 150:] = 0.8
    disparity[100, 250] = 9  # a single wrong pixel, at the very point
    assert focus_disparity(disparity, (250, 100)) == pytest.approx(0.8)
    assert focus_disparity(disparity, (299, 0)) == pytest.approx(0.8)
    assert focus_disparity(disparity, (0, 199)) == pytest.approx(0.3)
    assert focus_disparity(disparity, 0.55) == 0.55


@pytest.mark.parametrize("size", [(300, 400), (40, 30), (3000, 100)])
def test_auto_focus_takes_the_nearest_sizeable_thing_near_the_centre(size):
    height, width = size
    disparity = np.full(size, 0.1, np.float32)
    disparity[-height // 4 :] = 1.0  # the ground before the photographer's feet: not the subject
    subject = np.s_[height // 4 : height * 3 // 4, width * 2 // 5 : width * 4 // 5]
    disparity[subject] = 0.6
    disparity[height // 2, width // 2] = 0.95  # a fly before the lens
    assert auto_focus(disparity) == pytest.approx(0.6)


def test_blur_units():
    assert blur_px(1000) == blur_px(1000, f_number=1.8) == optics.blur_of_f_number(1.8, 1000)
    assert blur_px(1000, f_number=3.6) == pytest.approx(10)  # 2 % of the width at f/1.8, half of it
    assert blur_px(1000, strength=5) == 50
    assert blur_px(1000, blur=7) == 7


def test_the_bundles_f_number_is_the_default(tiny):
    result = tiny.refocus(steps(), focus=(120, 48))
    same = tiny.refocus(steps(), focus=(120, 48), f_number=tiny.model.f_number)
    np.testing.assert_array_equal(result.image, same.image)


def test_argan_refocus_is_load_and_refocus(tiny):
    one = argan.refocus(steps(), focus=(120, 48), f_number=2.0, model=TINY)
    np.testing.assert_array_equal(
        one.image, tiny.refocus(steps(), focus=(120, 48), f_number=2.0).image
    )


# ---------------------------------------------------------------- what is refused

NAN = np.full((4, 4, 3), np.nan, np.float32)
BAD = {
    "point outside": ({"focus": (128, 5)}, "x goes from 0 to 127, y from 0 to 95"),
    "negative point": ({"focus": (-1, 5)}, "outside"),
    "metres": ({"focus": "1.5m"}, "give"),
    "NaN focus": ({"focus": float("nan")}, "finite"),
    "two blurs": ({"blur": 3, "strength": 2}, "exclude each other"),
    "f-number 0": ({"f_number": 0}, "positive"),
    "negative blur": ({"blur": -1}, "0 or more"),
    "infinite blur": ({"blur": float("inf")}, "0 or more"),
    "NaN strength": ({"strength": float("nan")}, "0 or more"),
    "highlights": ({"highlights": -1}, "give 0 or more"),
    "flat array": ({"picture": np.zeros((4, 4), np.uint8)}, r"\[H, W, 3\]"),
    "empty array": ({"picture": np.zeros((0, 4, 3), np.uint8)}, r"\[H, W, 3\]"),
    "int64 array": ({"picture": np.zeros((4, 4, 3), np.int64)}, "uint8"),
    "NaN array": ({"picture": NAN}, "NaN"),
    "float picture": ({"picture": Image.fromarray(NAN[..., 0])}, "convert it to RGB"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_options(kind, tiny):
    options, message = BAD[kind]
    with pytest.raises(InputError, match=message):
        tiny.refocus(**({"picture": steps()} | options))


class Fake:
    """A backend that says `answer`."""

    def __init__(self, answer: dict[str, np.ndarray]) -> None:
        self.answer = answer

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"disparity": np.zeros((1, 1, 32, 32), np.float32)},
        {"disparity": np.full((1, 1, 64, 64), np.inf, np.float32)},
    ],
    ids=["nothing", "another size", "infinity"],
)
def test_a_model_that_breaks_its_manifest(answer, tiny):
    with pytest.raises(BundleError):
        Refocuser(tiny.model, Fake(answer)).depth(steps())


def test_a_model_that_is_no_onnx(tmp_path, tiny):
    files = {"model.fp32.onnx": b"not a graph"}
    bundle.write(tmp_path / "bad.argan", tiny.model.manifest, files)
    with pytest.raises(BundleError, match="onnxruntime can't load") as caught:
        argan.load(tmp_path / "bad.argan")
    assert "\n" not in str(caught.value)


def test_load_refuses(tmp_path):
    with pytest.raises(MissingFileError, match="no bundle 'nonesuch'"):
        argan.load("nonesuch")
    with pytest.raises(InputError, match="1 or more"):
        argan.load(TINY, threads=0)
