from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from argan.errors import InputError, MissingFileError
from argan_train.data import decode_square, load_photos

DATA = Path(os.environ.get("ARGAN_DATA", Path(__file__).parents[2] / "../shared/data"))


def encode(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, kind, **options)
    return file.getvalue()


def flat(value, size=8):
    return encode(np.full((size, size, 3), value))


@pytest.fixture
def folder(tmp_path):
    """Good photos 10, 20 and 30 (in name order), and everything that goes wrong."""
    photos = tmp_path / "photos"
    (photos / "b").mkdir(parents=True)
    (photos / "__MACOSX").mkdir()
    rng = np.random.default_rng(0)
    noise = encode(rng.integers(0, 256, (64, 64, 3)), "JPEG")
    files = {
        "a.PNG": flat(10),
        "b/c.webp": encode(np.full((8, 8, 3), 20), "WEBP", lossless=True),
        "d.jpeg": encode(np.full((8, 8, 3), 30), "JPEG", quality=95),
        "broken/empty.jpg": b"",
        "broken/text.jpg": b"not a photo",
        "broken/truncated.jpg": noise[: len(noise) // 2],
        "small.png": flat(40, size=3),
        ".hidden.png": flat(50),
        "__MACOSX/a.png": flat(60),
        "notes.txt": b"hello",
    }
    for name, data in files.items():
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(data)
    return photos


def test_good_photos_in_name_order_and_bad_ones_named(folder):
    images, report = load_photos(folder, 4)
    assert images.shape == (3, 3, 4, 4) and images.dtype == np.uint8
    assert images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert list(report.loaded) == ["a.PNG", "b/c.webp", "d.jpeg"]
    broken = ["broken/empty.jpg", "broken/text.jpg", "broken/truncated.jpg"]
    assert list(report.dropped) == [*broken, "small.png"]
    assert report.dropped["small.png"] == "3x3 is smaller than 4 px"
    assert report.dropped["broken/text.jpg"] == "not an image"
    assert "truncated" in report.dropped["broken/truncated.jpg"]
    assert str(report).startswith("3 photos, sha256 ")
    assert "; 4 dropped: broken/empty.jpg (not an image), " in str(report)


def test_a_zip_gives_what_its_folder_gives(folder):
    images, report = load_photos(folder, 4)
    archive = shutil.make_archive(str(folder), "zip", folder)
    zipped, zip_report = load_photos(archive, 4)
    np.testing.assert_array_equal(images, zipped)
    assert zip_report == report and zip_report.sha256 == report.sha256


def test_the_hash_is_that_of_sha256sum_and_changes_with_the_content(folder):
    _, before = load_photos(folder, 4)
    lines = "".join(
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ["a.PNG", "b/c.webp", "d.jpeg"]
    )
    assert before.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    (folder / "a.PNG").write_bytes(flat(11))
    assert load_photos(folder, 4)[1].sha256 != before.sha256


def test_the_centre_square_reduced_by_area():
    pixels = np.zeros((4, 8, 3))
    pixels[:, :2] = pixels[:, 6:] = 255  # outside the centre square
    pixels[:2, 2:4] = [[[10] * 3, [20] * 3], [[30] * 3, [40] * 3]]  # mean 25
    square = decode_square(encode(pixels), 2)
    assert square[0].tolist() == [[25, 0], [0, 0]]
    np.testing.assert_array_equal(square[0], square[2])


def test_exif_orientation_is_honoured():
    pixels = np.zeros((16, 16, 3))
    pixels[:8, :8] = 255  # the camera's top left
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    square = decode_square(encode(pixels, "JPEG", quality=95, exif=exif), 2)
    assert (square[0] > 128).tolist() == [[False, True], [False, False]]
    plain = decode_square(encode(pixels, "JPEG", quality=95), 2)
    assert (plain[0] > 128).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_kind_of_pixel_becomes_rgb(mode):
    if mode == "I;16":
        image, kind = Image.fromarray(np.full((8, 8), 128 * 257, np.uint16)), "PNG"
    else:
        grey = 255 if mode == "1" else 128
        image = Image.new("RGB", (8, 8), (grey, grey, grey)).convert(mode)
        kind = "JPEG" if mode == "CMYK" else "PNG"
    file = io.BytesIO()
    image.save(file, kind)
    square = decode_square(file.getvalue(), 4)
    wanted = 255 if mode == "1" else 128
    assert square.shape == (3, 4, 4) and np.abs(square.astype(int) - wanted).max() <= 2


def test_a_large_jpeg_is_reduced_as_its_pixels_are():
    y, x = np.mgrid[:512, :640] / 640
    pixels = 127 + 120 * np.sin(40 * x * y)[..., None] * np.ones(3)
    data = encode(pixels, "JPEG", quality=95)
    middle = pixels[:, 64:576]
    wanted = middle.reshape(64, 8, 64, 8, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    gap = np.abs(decode_square(data, 64) - wanted)
    assert gap.max() < 6  # 2.5 seen: JPEG, and halving inside its decoder


def test_nothing_usable_is_one_clear_line(tmp_path, folder):
    with pytest.raises(MissingFileError, match="give a folder or a zip of photos"):
        load_photos(tmp_path / "absent", 4)
    with pytest.raises(InputError, match="neither a folder nor a zip"):
        load_photos(folder / "notes.txt", 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no .jpg, .jpeg, .png, .webp file in it"):
        load_photos(tmp_path / "empty", 4)
    with pytest.raises(InputError, match="none of 3 photos could be used; empty.jpg: not an image"):
        load_photos(folder / "broken", 4)
    with pytest.raises(InputError, match="none of 7 photos could be used; a.PNG: 8x8 is smaller"):
        load_photos(folder, 4000)
    with pytest.raises(InputError, match="size of at least 1"):
        load_photos(folder, 0)


def test_the_flowers_are_what_their_manifest_says():
    path = DATA / "flowers128.zip"
    if not path.exists():
        pytest.skip(f"no reference data: {path} is absent; set ARGAN_DATA")
    images, report = load_photos(path, 32)
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("manifest.csv"))
        rows = list(csv.DictReader(io.TextIOWrapper(archive.open(name))))
    assert images.shape == (7366, 3, 32, 32) and not report.dropped
    given = {Path(name).name: digest for name, digest in report.loaded.items()}
    assert all(given[Path(row["file"]).name].startswith(row["sha256"]) for row in rows)
