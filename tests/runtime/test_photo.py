import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from argan import photo
from argan.errors import InputError, MissingFileError

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
GREY = RGB[..., 0]
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_block(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[photo.ORIENTATION] = orientation
    return exif.tobytes()


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def palette_image(transparent: bool) -> tuple[Image.Image, np.ndarray, np.ndarray | None]:
    index = RNG.integers(0, 4, (5, 7), dtype=np.uint8)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)
    image = Image.fromarray(index).convert("P")
    image.putpalette(colours.tobytes())
    if transparent:
        image.info["transparency"] = 2
    return image, colours[index], np.where(index == 2, 0, 255) if transparent else None


ODD = {
    "L": (Image.fromarray(GREY), grey(GREY), None),
    "LA": (Image.fromarray(np.dstack([GREY, ALPHA])), grey(GREY), ALPHA),
    "1": (Image.fromarray(GREY > 99), grey(np.where(GREY > 99, 255, 0)), None),
    "RGBA": (Image.fromarray(np.dstack([RGB, ALPHA])), RGB, ALPHA),
    "P": palette_image(transparent=False),
    "P with a clear colour": palette_image(transparent=True),
    "1x1": (Image.fromarray(RGB[:1, :1]), RGB[:1, :1], None),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_but_valid_photos(kind, tmp_path):
    image, pixels, alpha = ODD[kind]
    image.save(tmp_path / "odd.png")
    loaded = photo.load(tmp_path / "odd.png")
    np.testing.assert_array_equal(loaded.pixels, pixels)
    assert (loaded.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_array_equal(loaded.alpha, alpha)


def test_cmyk_has_its_colours(tmp_path):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]])
    pixels = np.repeat(np.repeat(colours[None].astype(np.uint8), 16, 0), 16, 1)
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "ink.jpg", quality=95)
    # Largest gap seen 1: JPEG. Inverted ink is off by 255.
    assert abs(photo.load(tmp_path / "ink.jpg").pixels.astype(int) - pixels).max() <= 4


def test_a_profile_of_another_colour_space_is_not_kept(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "grey.png", icc_profile=SRGB_PROFILE)
    loaded = photo.load(tmp_path / "grey.png")
    assert loaded.icc is None
    np.testing.assert_array_equal(loaded.pixels, grey(GREY))


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 0, 99])
def test_orientation(orientation, tmp_path):
    path = tmp_path / "turned.png"
    Image.fromarray(np.dstack([RGB, ALPHA])).save(path, exif=exif_block(orientation))
    loaded = photo.load(path)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(np.dstack([loaded.pixels, loaded.alpha]), upright)
    kept = Image.Exif()
    kept.load(loaded.exif)
    assert dict(kept) == {0x010F: "Maker", photo.ORIENTATION: 1}


@pytest.mark.parametrize("suffix", photo.SUFFIXES)
def test_save_keeps_what_the_format_can(suffix, tmp_path):
    path = tmp_path / f"out{suffix}"
    smooth = np.full((16, 16, 3), (200, 90, 30), np.uint8)
    alpha = None if "j" in suffix else np.full((16, 16), 77, np.uint8)
    original = photo.Photo(smooth, alpha, SRGB_PROFILE, exif_block(1), "PNG")
    original.save(path)
    loaded = photo.load(path)
    assert loaded.icc == original.icc
    kept = Image.Exif()
    kept.load(loaded.exif)
    assert kept[0x010F] == "Maker" and kept.get(photo.ORIENTATION, 1) == 1
    lossless = suffix in (".png", ".tif", ".tiff")
    assert abs(loaded.pixels.astype(int) - smooth).max() <= (0 if lossless else 2)
    if alpha is not None:
        np.testing.assert_array_equal(loaded.alpha, alpha)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("has_alpha", [False, True])
def test_16_bit_png_stays_16_bit(has_alpha, tmp_path):
    pixels = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    alpha = RNG.integers(0, 65536, (5, 7), dtype=np.uint16) if has_alpha else None
    photo.save(tmp_path / "a.png", photo.Photo(pixels, alpha, SRGB_PROFILE, exif_block(1)))
    loaded = photo.load(tmp_path / "a.png")
    assert loaded.pixels.dtype == np.uint16
    np.testing.assert_array_equal(loaded.pixels, pixels)
    assert (loaded.icc, loaded.exif) == (SRGB_PROFILE, exif_block(1))
    if has_alpha:
        np.testing.assert_array_equal(loaded.alpha, alpha)
    eight_bit = np.asarray(photo.to_pil(loaded))[..., :3]
    np.testing.assert_array_equal(eight_bit, np.rint(pixels / 257))


def test_16_bit_grey_png(tmp_path):
    values = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png", exif=exif_block(6))
    np.testing.assert_array_equal(
        photo.load(tmp_path / "deep.png").pixels, np.rot90(grey(values), -1)
    )


def test_clear_pixels_become_white_in_a_jpeg(tmp_path):
    clear = photo.Photo(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8))
    photo.save(tmp_path / "a.jpg", clear)
    assert photo.load(tmp_path / "a.jpg").pixels.min() >= 254


def test_long_strip(tmp_path):
    strip = photo.Photo(np.zeros((20, 20000, 3), np.uint8))
    photo.save(tmp_path / "a.jpg", strip)
    assert photo.load(tmp_path / "a.jpg").pixels.shape == strip.pixels.shape
    (tmp_path / "a.webp").write_bytes(b"before")
    with pytest.raises(InputError, match="use .png"):  # WebP ends at 16383 px
        photo.save(tmp_path / "a.webp", strip)
    assert (tmp_path / "a.webp").read_bytes() == b"before"


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind, **options)
    return buffer.getvalue()


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def deep_png() -> bytes:
    noise = RNG.integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    return photo._encode_deep_png(photo.Photo(noise))


def before_the_last_pixels(png: bytes) -> bytes:
    assert png.count(b"IDAT") > 1
    return png[: png.rindex(b"IDAT") - 4]


def wrong_checksum() -> bytes:
    data = bytearray(deep_png())
    data[-14] ^= 1  # of the pixels; the last 12 bytes are the closing chunk
    return bytes(data)


def bomb() -> bytes:
    """A PNG of 400 bytes that declares 60000 x 60000 px."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(photo._png_chunk(*chunk) for chunk in chunks)


BAD = {
    "text": (b"I am no photo.\n", "not a JPEG, PNG, WebP"),
    "empty": (b"", "not a JPEG, PNG, WebP"),
    "GIF": (encoded("GIF"), "not a JPEG, PNG, WebP"),
    "JPEG cut in its header": (encoded("JPEG")[:100], "cut short"),
    "JPEG without its end": (encoded("JPEG")[:-2], "cut short"),
    "JPEG cut in half": (half(encoded("JPEG")), "cut short"),
    "progressive JPEG cut": (half(encoded("JPEG", progressive=True)), "cut short"),
    "PNG cut": (half(encoded("PNG")), "cut short"),
    "16-bit PNG cut": (half(deep_png()), "cut short"),
    "16-bit PNG cut between two chunks": (before_the_last_pixels(deep_png()), "cut short"),
    "16-bit PNG with a wrong checksum": (wrong_checksum(), "a checksum is wrong"),
    "WebP cut": (half(encoded("WEBP")), "cut short"),
    "bomb": (bomb(), "million pixels"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_photos(kind, tmp_path):
    data, message = BAD[kind]
    (tmp_path / "bad.jpg").write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        photo.load(tmp_path / "bad.jpg")
    assert "\n" not in str(caught.value)


def test_pixel_limit_comes_before_decoding(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG")[:3000])  # decoding would say: cut short
    monkeypatch.setattr(photo, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(InputError, match="million pixels"):
        photo.load(tmp_path / "a.jpg")


@pytest.mark.parametrize("read", [photo.load, photo.load_disparity])
def test_no_such_file_and_a_directory(read, tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        read(tmp_path / "nothing.png")
    with pytest.raises(InputError, match="is a directory"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["out.gif", "out", "nowhere/out.png", "."])
def test_save_refuses(name, tmp_path):
    with pytest.raises(InputError):
        photo.save(tmp_path / name, photo.Photo(RGB))
    assert list(tmp_path.iterdir()) == []


def test_save_through_a_link_keeps_the_link(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    photo.save(tmp_path / "link.png", photo.Photo(RGB))
    assert (tmp_path / "link.png").is_symlink()
    np.testing.assert_array_equal(photo.load(tmp_path / "real.png").pixels, RGB)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "out.png").write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match="No space left"):
        photo.save(tmp_path / "out.png", photo.Photo(RGB))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("out.png", b"before")]


# ---------------------------------------------------------------- disparity maps

MAP = np.linspace(-3, 12.5, 35, dtype=np.float32).reshape(5, 7)


@pytest.mark.parametrize("disparity", [MAP, np.full((2, 3), 4.25, np.float32)])
def test_disparity_round_trip(disparity, tmp_path):
    photo.save_disparity(tmp_path / "d.npy", disparity)
    np.testing.assert_array_equal(photo.load_disparity(tmp_path / "d.npy"), disparity)
    photo.save_disparity(tmp_path / "d.png", disparity)
    half_a_step = np.ptp(disparity) / 65535 / 2
    gap = abs(photo.load_disparity(tmp_path / "d.png") - disparity).max()
    assert gap <= half_a_step * 1.01


def test_16_bit_png_without_lo_and_hi_is_0_to_1(tmp_path):
    Image.fromarray(np.array([[0, 65535, 13107]], np.uint16)).save(tmp_path / "d.png")
    np.testing.assert_allclose(photo.load_disparity(tmp_path / "d.png"), [[0, 1, 0.2]])


def test_colour_map_is_bright_where_near(tmp_path):
    photo.save_disparity(tmp_path / "d.png", MAP, "inferno")
    colours = photo.load(tmp_path / "d.png").pixels.astype(int).sum(axis=2).ravel()
    assert colours[0] < 30 and colours[-1] > 500 and (np.diff(colours) > 0).all()
    with pytest.raises(InputError, match="use .png"):
        photo.save_disparity(tmp_path / "d.npy", MAP, "inferno")


def npy(array: np.ndarray, pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickle)
    return buffer.getvalue()


def map_png(**text: str) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    for name, value in text.items():
        chunks.add_text(name, value)
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()



BAD_MAPS = {
    "NaN.npy": (npy(np.array([[1, np.nan]])), "NaN or infinity"),
    "infinity.npy": (npy(np.array([[1, -np.inf]])), "NaN or infinity"),
    "out of float32.npy": (npy(np.array([[1, 1e300]])), "NaN or infinity"),
    "three axes.npy": (npy(np.zeros((2, 3, 1))), r"\[H, W\]"),
    "words.npy": (npy(np.array([["a", "b"]])), r"\[H, W\]"),
    "empty.npy": (npy(np.zeros((0, 5))), "shape"),
    "pickle.npy": (npy(np.array([[{}]], object), pickle=True), "not a .npy"),
    "cut.npy": (npy(np.zeros((9, 9)))[:-8], "not a .npy"),
    "text.npy": (b"1 2 3\n", "not a .npy"),
    "text.png": (b"1 2 3\n", "16-bit grey"),
    "8 bit.png": (encoded("PNG"), "16-bit grey"),
    "lo.png": (map_png(lo="near"), "16-bit grey"),
    "NaN.png": (map_png(lo="nan"), "NaN or infinity"),
    "map.tif": (b"", "use .npy or .png"),
}


@pytest.mark.parametrize("name", BAD_MAPS)
def test_bad_maps(name, tmp_path):
    data, message = BAD_MAPS[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        photo.load_disparity(tmp_path / name)
