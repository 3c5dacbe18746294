from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import argan_train.data
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


@pytest.mark.parametrize("kind", ["tar", "gztar"])
def test_a_tar_gives_what_its_folder_gives(folder, kind):
    images, report = load_photos(folder, 4)
    archive = shutil.make_archive(str(folder), kind, folder)  # its names begin with "./"
    packed, tar_report = load_photos(archive, 4)
    np.testing.assert_array_equal(images, packed)
    assert tar_report == report and tar_report.sha256 == report.sha256


def shard(path, photos):
    with tarfile.open(path, "w") as archive:
        for name, content in photos.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path):
    """s-08.tar to s-10.tar with two photos each: 10, 20, ..., 60."""
    (tmp_path / "shards").mkdir()
    for i in range(3):
        photos = {"b.png": flat(20 * i + 20), "a.png": flat(20 * i + 10), "a.json": b"{}"}
        shard(tmp_path / f"shards/s-{i + 8:02}.tar", photos)
    return tmp_path / "shards"


@pytest.mark.parametrize("where", [".", "s-{08..10}.tar", "s-{0..1}{0..9}.tar"])
def test_shards_by_folder_or_pattern(shards, where):
    if "}{" in where:  # all from 00 to 19
        for i in [*range(8), *range(11, 20)]:
            shard(shards / f"s-{i:02}.tar", {})
    images, report = load_photos(shards / where, 4)
    assert images[:, 0, 0, 0].tolist() == [10, 20, 30, 40, 50, 60] and not report.dropped
    assert list(report.loaded)[1:3] == ["s-08.tar/b.png", "s-09.tar/a.png"]


def test_shards_of_one_name_in_numbered_folders(shards):
    for i in range(3):
        (shards / f"part-{i}").mkdir()
        (shards / f"s-{i + 8:02}.tar").rename(shards / f"part-{i}" / "photos.tar")
    images, report = load_photos(shards / "part-{0..2}" / "photos.tar", 4)
    assert images[:, 0, 0, 0].tolist() == [10, 20, 30, 40, 50, 60] and not report.dropped
    assert list(report.loaded)[1:3] == ["part-0/photos.tar/b.png", "part-1/photos.tar/a.png"]
    tar = shards / "part-1" / "photos.tar"
    tar.write_bytes(tar.read_bytes()[:1100])
    images, report = load_photos(shards / "part-{0..2}" / "photos.tar", 4)
    assert len(images) == 5 and list(report.dropped) == ["part-1/photos.tar"]


def test_names_in_a_zip_may_begin_with_a_dot_and_a_slash(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("./a.png", "b.png", "./.hidden.png", "./__MACOSX/c.png", "./d/e.png"):
            archive.writestr(name, flat(10))
    images, report = load_photos(tmp_path / "a.zip", 4)
    assert len(images) == 3 and sorted(report.loaded) == ["./a.png", "./d/e.png", "b.png"]


def test_a_shard_cut_short_gives_what_is_left_and_is_named(shards):
    tar = shards / "s-09.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:1100])  # inside the header of its second photo
    images, report = load_photos(shards, 4)
    assert images[:, 0, 0, 0].tolist() == [10, 20, 40, 50, 60]
    assert report.dropped == {"s-09.tar": "cut short or damaged after 1 files"}
    tar.write_bytes(whole[:1600])  # inside the photo itself
    images, report = load_photos(shards, 4)
    assert images[:, 0, 0, 0].tolist() == [10, 20, 40, 50, 60]
    assert list(report.dropped) == ["s-09.tar", "s-09.tar/a.png"]
    tar.write_bytes(whole[:2048])  # between two files
    assert load_photos(shards, 4)[1].dropped == {"s-09.tar": "cut short or damaged after 2 files"}
    tar.write_bytes(b"not a tar" * 99)
    assert load_photos(shards, 4)[1].dropped == {"s-09.tar": "cut short or damaged after 0 files"}
    shard(tar, {"../a.png": flat(1)})
    outside = {"s-09.tar/../a.png": "its name leads out of the archive"}
    assert load_photos(shards, 4)[1].dropped == outside
    tar.write_bytes(whole)
    assert not load_photos(shards, 4)[1].dropped


def test_a_tgz_cut_short_gives_what_is_left(tmp_path):
    rng = np.random.default_rng(0)
    photos = {f"{i}.png": encode(rng.integers(0, 256, (32, 32, 3))) for i in range(9)}
    packed = gzip.compress(shard(tmp_path / "x.tar", photos).read_bytes())
    (tmp_path / "x.tgz").write_bytes(packed[: len(packed) // 2])
    images, report = load_photos(tmp_path / "x.tgz", 4)
    assert 3 <= len(images) <= 5
    assert "its gzip is damaged: Compressed file ended" in report.dropped["x.tgz"]


def test_archives_that_mean_harm(tmp_path, monkeypatch):
    photos = {"../up.png": flat(1), "/root.png": flat(2), "good.png": flat(3), "d.jpg/x.txt": b""}
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("folder.jpg/", b"")
        for name, content in photos.items():
            archive.writestr(name, content)
        archive.writestr("huge.png", bytes(200_000), zipfile.ZIP_DEFLATED)
    shard(tmp_path / "x.tar", photos | {"huge.png": bytes(200_000)})
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name in ("folder.jpg", "huge.jpg"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
    monkeypatch.setattr(argan_train.data, "MAX_FILE_BYTES", 100_000)
    for name in ("x.zip", "x.tar"):
        images, report = load_photos(tmp_path / name, 4)
        assert images[:, 0, 0, 0].tolist() == [3]
        assert report.dropped.pop("huge.png") == "200,000 bytes is more than a photo has"
        if name == "x.tar":
            assert report.dropped.pop("link.png") == "a link or a device, not a file"
        outside = "its name leads out of the archive"
        assert report.dropped == {"../up.png": outside, "/root.png": outside}
    (tmp_path / "bomb.tgz").write_bytes(gzip.compress(bytes(200_000)))
    monkeypatch.setattr(argan_train.data, "MAX_UNPACKED", 100_000)
    with pytest.raises(InputError, match="bomb.tgz: unpacks to more than 100,9.. bytes"):
        load_photos(tmp_path / "bomb.tgz", 4)
    monkeypatch.setattr(argan_train.data, "MAX_PIXELS", 60)
    with pytest.raises(InputError, match="good.png: 8x8 is more than 60 pixels"):
        load_photos(shard(tmp_path / "y.tar", {"good.png": flat(3)}), 4)


def test_archives_beside_photos_are_named(shards):
    (shards / "photo.png").write_bytes(flat(7))
    images, report = load_photos(shards, 4)
    assert len(images) == 1 and list(report.dropped) == ["s-08.tar", "s-09.tar", "s-10.tar"]


def test_patterns_that_fit_nothing(shards):
    with pytest.raises(MissingFileError, match="s-11.tar: no such shard; check the pattern"):
        load_photos(shards / "s-{08..11}.tar", 4)
    with pytest.raises(InputError, match=r"\{10..08\} should count up"):
        load_photos(shards / "s-{10..08}.tar", 4)
    with pytest.raises(InputError, match="less than 100,000 shards"):
        load_photos(shards / "s-{0..999999999}.tar", 4)


def test_a_name_that_no_text_has(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff\x1b.png", "wb") as file:
        file.write(flat(9))
    with open(os.fsencode(tmp_path) + b"/\xfe.png", "wb") as file:
        file.write(b"")
    _, report = load_photos(tmp_path, 4)
    line = hashlib.sha256(flat(9)).hexdigest().encode() + b"  \xff\x1b.png\n"
    assert report.sha256 == hashlib.sha256(line).hexdigest()
    assert str(report).endswith(r"1 dropped: '\udcfe.png' (not an image)")


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


def wide_gamut():
    """A profile with sRGB's curve whose primaries are rotated: red is green, green blue."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for tag, other in ((b"rXYZ", b"1XYZ"), (b"gXYZ", b"rXYZ"), (b"bXYZ", b"gXYZ")):
        at = profile.index(tag, 128)
        profile[at : at + 4] = other
    at = profile.index(b"1XYZ", 128)
    profile[at : at + 4] = b"bXYZ"
    return bytes(profile)


def test_a_colour_profile_is_converted_and_a_broken_one_ignored():
    pixels = np.zeros((8, 8, 3))
    pixels[..., 0] = 255
    turned = decode_square(encode(pixels, icc_profile=wide_gamut()), 4)[:, 0, 0]
    assert turned.tolist() == [0, 255, 0]
    for profile in (b"no profile", wide_gamut()[:200], None):
        assert decode_square(encode(pixels, icc_profile=profile), 4)[:, 0, 0].tolist() == [
            255,
            0,
            0,
        ]
    grey = decode_square(encode(np.full((8, 8), 128), icc_profile=wide_gamut()), 4)[:, 0, 0]
    assert np.abs(grey.astype(int) - 128).max() <= 1


def test_a_large_jpeg_is_reduced_as_its_pixels_are():
    y, x = np.mgrid[:512, :640] / 640
    pixels = 127 + 120 * np.sin(40 * x * y)[..., None] * np.ones(3)
    data = encode(pixels, "JPEG", quality=95)
    middle = pixels[:, 64:576]
    wanted = middle.reshape(64, 8, 64, 8, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    gap = np.abs(decode_square(data, 64) - wanted)
    assert gap.max() < 6  # 2.5 seen: JPEG, and halving inside its decoder


def test_nothing_usable_is_one_clear_line(tmp_path, folder):
    with pytest.raises(MissingFileError, match="give a folder or a zip of photos, or .tar"):
        load_photos(tmp_path / "absent", 4)
    with pytest.raises(InputError, match="neither a folder nor a zip nor a .tar"):
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
