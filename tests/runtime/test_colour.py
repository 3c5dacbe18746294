"""Colour profiles: blur in the photo's own light, the network in sRGB, pixels back as they were."""

import importlib.util
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import argan
from argan import bundle, colour, photo
from argan.cli import main
from argan.refocus import network_image

# Tests are no package (--import-mode=importlib).
_spec = importlib.util.spec_from_file_location("profiles", Path(__file__).with_name("profiles.py"))
profiles = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(profiles)
P3, ADOBE, PROPHOTO = profiles.P3, profiles.ADOBE, profiles.PROPHOTO

RNG = np.random.default_rng(5)
KNOTS = np.linspace(0, 1, 1024)
CURVES = {
    "linear": profiles.IDENTITY,
    "gamma 1.8": profiles.gamma(1.8),
    "gamma 2.2": profiles.gamma(563 / 256),
    "gamma 2.6": profiles.gamma(2.6),
    "BT.709": profiles.parametric(3, 1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081),
    "L*": profiles.table(np.where(KNOTS > 0.08, ((KNOTS + 0.16) / 1.16) ** 3, KNOTS / 9.033)),
    "flat at both ends": profiles.table(np.clip(KNOTS * 1.2 - 0.1, 0, 1) ** 2.2),
}


def space(curve: bytes) -> colour.Space:
    return colour.read(profiles.profile("Adobe", curve))


def same_profile(kind: str) -> bytes:
    light = profiles.decode_srgb(KNOTS)
    return {
        "LittleCMS": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "table": profiles.profile("sRGB", profiles.table(light)),
        "parametric": profiles.profile("sRGB", profiles.SRGB_CURVE),
    }[kind]


@pytest.mark.parametrize("kind", ["LittleCMS", "table", "parametric"])
def test_an_srgb_profile_changes_nothing(kind):
    found = colour.read(same_profile(kind))
    assert found.curves is None and found.matrix is None
    pixels = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    assert found.enter(pixels)[0] is pixels


def test_p3_has_the_curve_of_srgb_and_colours_of_its_own():
    found = colour.read(P3)
    assert found.curves is None
    np.testing.assert_allclose(found.matrix.sum(axis=1), 1, atol=1e-3)  # white stays white
    assert found.matrix[0, 0] > 1.2


@pytest.mark.parametrize("curve", CURVES)
def test_codes_stand_for_the_same_light(curve):
    found = space(CURVES[curve])
    codes = np.repeat(np.arange(65536, dtype=np.uint16)[:, None, None], 3, axis=2)
    coded, _ = found.enter(codes)
    light = profiles.decode_srgb(coded[:, 0, 0] / 65535)
    own = np.array(found.curves[0].decode(np.arange(65536) / 65535))
    x = np.arange(65536) / 65535
    expected = {"linear": x, "gamma 2.6": x ** (666 / 256)}  # in steps of 1/256
    np.testing.assert_allclose(light, expected.get(curve, own), atol=2e-5)  # half a step


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_what_the_lens_leaves_alone_comes_back_bit_for_bit(curve, kind):
    if kind == "float32":
        codes = np.concatenate([RNG.random(3000), [0, 1, 1e-9, 4.5, -0.25]]).astype(np.float32)
    else:
        codes = np.arange(np.iinfo(kind).max + 1, dtype=kind)
    pixels = np.stack([codes, RNG.permutation(codes), codes[::-1]], axis=-1)[None]
    coded, leave = space(CURVES[curve]).enter(pixels.copy())
    assert coded.dtype == (np.float32 if kind == "float32" else np.uint16)
    back = leave(coded)
    assert back.dtype == pixels.dtype
    np.testing.assert_array_equal(back, pixels)


@pytest.mark.parametrize("curve", [c for c in CURVES if c != "flat at both ends"])
def test_light_that_is_new_gets_the_nearest_code(curve):
    found = space(CURVES[curve])
    light = np.linspace(0.02, 1, 500)
    coded = np.rint(photo._whole(colour.SRGB.encode(light).astype(np.float32), 16))
    picture = np.repeat(coded[None, :, None], 3, axis=2).astype(np.uint16)
    _, leave = found.enter(np.zeros((1, 500, 3), np.uint8))
    again = found.curves[0].decode(leave(picture)[0, :, 0] / 255)
    step = np.gradient(found.curves[0].decode(np.linspace(0, 1, 256))).max()
    assert abs(again - light).max() < 0.51 * step


# ---------------------------------------------------------------- what the network sees


@pytest.mark.parametrize("icc", [P3, ADOBE, PROPHOTO], ids=["P3", "Adobe", "ProPhoto"])
def test_the_network_sees_srgb(icc):
    """LittleCMS is the judge; colours beyond sRGB are clipped by both."""
    patches = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = photo.Photo(np.kron(patches, np.ones((8, 8, 1), np.uint8)), icc=icc)
    port = bundle.Image("image", 64, 64, 1, 64)
    pixels, _ = picture.space.enter(picture.pixels)
    seen = network_image(pixels, port, None, picture.space)[0].transpose(1, 2, 0)
    judge = ImageCms.profileToProfile(
        Image.fromarray(picture.pixels), io.BytesIO(icc), ImageCms.createProfile("sRGB")
    )
    # Largest gap seen 0.62 of 255: LittleCMS rounds to 8 bits.
    assert abs(seen * 255 - np.asarray(judge)).max() < 1.1
    plain = network_image(pixels, port)[0].transpose(1, 2, 0)
    assert abs(plain * 255 - np.asarray(judge)).max() > 20


def test_the_refocuser_shows_it_to_the_network():
    refocuser = argan.load(Path(__file__).parents[1] / "data/tiny.argan", threads=1)
    seen, run = [], refocuser.backend.run

    class Watched:
        def run(self, inputs):
            seen.append(inputs["image"])
            return run(inputs)

    watched = argan.Refocuser(refocuser.model, Watched(), 1, refocuser.sizes)
    for icc in (None, P3, ADOBE):
        watched.depth(photo.Photo(chart(), icc=icc))
        watched.refocus(photo.Photo(chart(), icc=icc), blur=1, focus=0.5)
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        np.testing.assert_array_equal(first, second)
    plain, p3, adobe = seen[::2]
    assert abs(p3 - plain).max() > 0.05 and abs(adobe - plain).max() > 0.05


# ---------------------------------------------------------------- blur


def chart() -> np.ndarray:
    """8 x 6 patches of 32 px, uint8: the corners of the cube, greys, and others."""
    corners = np.array(np.meshgrid(*[[0, 255]] * 3)).reshape(3, 8).T
    greys = np.repeat(np.linspace(8, 247, 8)[:, None], 3, axis=1)
    others = np.random.default_rng(3).integers(0, 256, (32, 3))
    patches = np.concatenate([corners, greys, others]).astype(np.uint8).reshape(6, 8, 3)
    return np.kron(patches, np.ones((32, 32, 1), np.uint8))


PROFILES = {"P3": P3, "Adobe": ADOBE}


@pytest.fixture
def charts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, icc in PROFILES.items():
        Image.fromarray(chart()).save(f"{name}.png", icc_profile=icc)
    np.save("one.npy", np.ones(chart().shape[:2], np.float32))


def means(pixels: np.ndarray) -> np.ndarray:
    """Of the middle 8 x 8 px of each patch, in 0..1."""
    return pixels.reshape(6, 32, 8, 32, 3)[:, 12:20, :, 12:20].mean(axis=(1, 3)) / 255


# CIEDE2000 of 48 patches: largest seen 0, 0, 0.50, 1.93, 1.11. The latter two are of the codecs,
# 8-bit YCbCr: WebP's has half the colour resolution and 220 steps, AVIF's is as far off at 100.
LIMITS = {".png": 0.0, ".tif": 0.0, ".jpg": 1.0, ".webp": 2.0, ".avif": 1.2}


@pytest.mark.parametrize("suffix", LIMITS)
@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("blur", [0, 8])
def test_patches_keep_their_colour(charts, name, blur, suffix):
    out = f"out{suffix}"
    command = ["render", f"{name}.png", "--disparity", "one.npy", "--focus-disparity", "0"]
    assert main([*command, "--blur", str(blur), "-o", out]) == 0
    written = photo.load(out)
    assert written.icc == PROFILES[name]
    gap = profiles.delta_e_2000(means(written.pixels), means(chart()), name)
    assert gap.max() <= LIMITS[suffix]
    assert blur == 0 or (written.pixels != chart()).mean() > 0.3  # it was blurred


HALVES = {
    "red and green": ((1, 0, 0), (0, 1, 0)),
    "dim and bright": ((0.1, 0.2, 0.6), (0.9, 0.5, 0.1)),
}


@pytest.mark.parametrize("halves", HALVES)
@pytest.mark.parametrize("name", PROFILES)
def test_an_edge_is_mixed_in_the_light_of_the_profile(name, halves):
    """Halfway between two blurred colours there is the mean of their light in their own primaries:
    neither that of sRGB's curve nor one clipped to sRGB's colours."""
    left, right = (np.array(c) * 65535 for c in HALVES[halves])
    pixels = np.empty((40, 120, 3), np.uint16)
    pixels[:, :60], pixels[:, 60:] = np.rint(left), np.rint(right)
    picture = photo.Photo(pixels, icc=PROFILES[name])
    ones = np.ones(pixels.shape[:2], np.float32)
    blurred = argan.refocus(picture, disparity=ones, focus=0.0, blur=20, highlights=0.0)

    def decode(codes: np.ndarray) -> np.ndarray:
        return profiles.decode_srgb(codes) if name == "P3" else codes ** (563 / 256)

    result = decode(blurred.image.pixels[20] / 65535)
    middle = (result[59] + result[60]) / 2
    expected = (decode(left / 65535) + decode(right / 65535)) / 2
    np.testing.assert_allclose(middle, expected, atol=5e-5)  # largest gap seen 7e-6


def test_what_is_in_focus_comes_back_bit_for_bit():
    """Left half in focus: bit for bit; right half: blurred."""
    disparity = np.zeros((64, 128), np.float32)
    disparity[:, 64:] = 1
    for dtype in (np.uint8, np.uint16, np.float32):
        noise = RNG.random((64, 128, 3))
        pixels = noise.astype(np.float32)
        if dtype != np.float32:
            pixels = (noise * np.iinfo(dtype).max).astype(dtype)
        for icc in (ADOBE, P3, None):
            picture = photo.Photo(pixels, icc=icc)
            result = argan.refocus(picture, disparity=disparity, focus=0.0, blur=6).image
            # Where float32 has sRGB's curve, the lens alone decides: largest gap seen 9e-8.
            gap = 5e-7 if dtype == np.float32 and icc == P3 else 0
            np.testing.assert_allclose(result.pixels[:, :48], pixels[:, :48], rtol=0, atol=gap)
            assert (result.pixels[:, 80:] != pixels[:, 80:]).mean() > 0.9


# ---------------------------------------------------------------- hostile profiles


def test_damaged_profiles_are_no_reason_to_refuse():
    for icc in (ADOBE, P3, profiles.profile("P3", profiles.table(KNOTS))):
        for length in range(0, len(icc), 3):
            colour.read(icc[:length])
        for _ in range(80):
            data = bytearray(icc)
            for at in RNG.integers(0, len(icc), 4):
                data[at] = RNG.integers(0, 256)
            found = colour.read(bytes(data))
            colour.read_grey(bytes(data))
            pixels = np.arange(255, dtype=np.uint8).reshape(5, 17, 3)
            coded, leave = found.enter(pixels)
            np.testing.assert_array_equal(leave(coded), pixels)
            assert np.isfinite(found.to_srgb(np.ones((2, 2, 3), np.float32))).all()


@pytest.mark.parametrize(
    "curve",
    [
        profiles.gamma(0), profiles.gamma(100), profiles.table(np.ones(50)),
        profiles.table(KNOTS[::-1]),
        profiles.table(np.sin(KNOTS * 7.85) ** 2),
        profiles.parametric(0, -1), profiles.parametric(1, 2, 0, 1),
        b"curv\0\0\0\0" + struct.pack(">I", 0xFFFFFFFF), b"mft2" + bytes(40),
    ],
)  # fmt: skip
def test_curves_that_are_none(curve):
    assert colour.read(profiles.profile("Adobe", curve)) is colour.PLAIN


def test_a_profile_without_three_colours():
    icc = profiles.profile("Adobe", profiles.gamma(2.2))
    grey = bytearray(icc)
    at = [i for i in range(len(icc)) if icc.startswith(b"XYZ \0\0\0\0", i)][1:]
    for place in at[1:]:
        grey[place : place + 20] = grey[at[0] : at[0] + 20]
    assert colour.read(bytes(grey)) is colour.PLAIN
