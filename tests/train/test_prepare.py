"""`argan data prepare`: what comes out, what is dropped, and that nothing of the user's is lost."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageCms

from argan.errors import InputError, MissingFileError
from argan_train import cli
from argan_train.data import load_photos
from argan_train.prepare import (
    HASH_BITS,
    NEAR_BITS,
    NearDuplicates,
    Settings,
    difference_hash,
    new_name,
    prepare,
)  # fmt: skip


def scene(seed, size=48):
    """A smooth random picture, as a photo is to a difference hash; float [H, W, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def photos(tmp_path):
    """Three photos; a copy, a re-encoded copy and a mirrored one; and what can't be used."""
    folder = tmp_path / "photos"
    save(folder / "a.png", scene(1))
    save(folder / "b/b.1.png", scene(2))
    save(folder / "c.webp", scene(3), lossless=True)
    save(folder / "copy.png", scene(1), compress_level=1)
    save(folder / "mirrored.png", scene(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    save(folder / "near.jpg", scene(2), quality=60)
    save(folder / "small.png", scene(4, size=15))
    (folder / "torn.jpg").write_bytes((folder / "near.jpg").read_bytes()[:-100])
    (folder / "text.png").write_text("hello")
    (folder / "folder.jpg").mkdir()
    save(tmp_path / "secret.png", scene(5))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "loop.png").symlink_to("loop.png")
    return folder


PNG16 = Settings(size=16, format="png")


def test_good_photos_are_kept_and_each_other_named(photos, tmp_path):
    report, files = prepare(photos, tmp_path / "out", PNG16)
    assert files == [tmp_path / "out"]
    made = sorted(f.relative_to(files[0]).as_posix() for f in files[0].rglob("*.*"))
    assert made == ["a.png", "b/b_1.png", "c.png", "mirrored.png", "report.json"]
    record = json.loads((files[0] / "report.json").read_text())
    near = record["dropped"]["near duplicate"].pop("near.jpg")
    torn = record["dropped"]["unreadable"].pop("torn.jpg")
    assert near.startswith("of b/b.1.png, ") and "truncated" in torn
    assert record == {
        "argan": "0.1.0",
        "source": "photos",
        "settings": {"size": 16, "crop": "square", "format": "png", "near_duplicates": "drop"},
        "near_duplicate": "10 of 128 bits of the difference hash, or less",
        "files": [],
        "kept": 4,
        "dropped": {
            "exact duplicate": {"copy.png": "of a.png"},
            "near duplicate": {},
            "too small": {"small.png": "15x15 is smaller than 16 px"},
            "unreadable": {"link.png": "a link out of the folder", "text.png": "not an image"},
        },
        "near_duplicates_kept": {},
        "photos": {
            "a.png": "a.png", "b/b_1.png": "b/b.1.png", "c.png": "c.webp",
            "mirrored.png": "mirrored.png",
        },
    }  # fmt: skip
    text = str(report)
    assert text.startswith("kept 4, dropped 6\n")
    assert "  too small              1   small.png (15x15 is smaller than 16 px)" in text
    wanted = scene(2).resize((16, 16), Image.Resampling.BOX)
    np.testing.assert_array_equal(Image.open(files[0] / "b/b_1.png"), wanted)


def test_near_duplicates_can_be_kept(photos, tmp_path):
    settings = Settings(size=16, near_duplicates="keep")
    report, _ = prepare(photos, tmp_path / "out", settings)
    assert "near.jpg" in report.photos and list(report.near) == ["near.jpg"]
    assert "near duplicates kept 1: near.jpg (of b/b.1.png, " in str(report)
    assert list(report.dropped["exact duplicate"]) == ["copy.png"]


@pytest.mark.parametrize("name", ["out", "out.zip", "out.tar"])
def test_what_is_written_can_be_loaded_and_is_the_same_each_time(photos, tmp_path, name):
    (tmp_path / "again").mkdir()
    report, files = prepare(photos, tmp_path / name, Settings(size=16))
    _, others = prepare(photos, tmp_path / "again" / name, Settings(size=16))
    images, loaded = load_photos(tmp_path / name, 16)
    assert list(loaded.loaded) == sorted(report.photos) and not loaded.dropped
    reference, _ = load_photos(photos, 16)
    assert np.abs(images[1].astype(int) - reference[1]).max() <= 16  # 11 seen: JPEG
    made, again = ([f for top in tops for f in [top, *top.rglob("*")]] for tops in (files, others))
    for one, other in zip(sorted(made), sorted(again), strict=True):
        assert one.is_dir() or one.read_bytes() == other.read_bytes()
    assert not list(tmp_path.rglob(".*"))
    if name == "out.zip":
        with zipfile.ZipFile(files[0]) as archive:
            assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    if name == "out.tar":
        with tarfile.open(files[0]) as archive:
            assert {member.mtime for member in archive} == {0}


def test_many_photos_make_shards(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("argan_train.prepare.SHARD_BYTES", 1500)
    report, files = prepare(photos, tmp_path / "s.tar", PNG16)
    assert len(report.files) >= 2 and not (tmp_path / "s.tar").exists()
    assert [f.name for f in files] == [*report.files, "s.report.json"]
    pattern = tmp_path / f"s-{{000..{len(report.files) - 1:03}}}.tar"
    images, loaded = load_photos(pattern, 16)
    assert len(images) == 4 and not loaded.dropped
    for file in files[:-1]:
        with tarfile.open(file) as archive:
            assert sum(member.size for member in archive) <= 1500
    # A later, smaller set leaves no shard of the earlier one; what is not its own stays.
    (tmp_path / "s-999.tar").write_bytes(b"mine")
    with pytest.raises(InputError, match="s-000.tar exists; --overwrite replaces it"):
        prepare(photos, tmp_path / "s.tar", PNG16)
    monkeypatch.undo()
    _, files = prepare(photos, tmp_path / "s.tar", PNG16, overwrite=True)
    assert [f.name for f in files] == ["s.tar", "s.report.json"]
    assert sorted(f.name for f in tmp_path.glob("s*.*")) == [
        "s-999.tar", "s.report.json", "s.tar", "secret.png",
    ]  # fmt: skip
    with pytest.raises(InputError, match="lie in each other"):
        prepare(tmp_path / "s.tar", tmp_path / "s.tar", PNG16, overwrite=True)
    assert load_photos(tmp_path / "s.tar", 16)[0].shape[0] == 4


def test_a_shard_that_is_read_is_not_replaced(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("argan_train.prepare.SHARD_BYTES", 1500)
    prepare(photos, tmp_path / "s.tar", PNG16)
    before = (tmp_path / "s-000.tar").read_bytes()
    with pytest.raises(InputError, match="lie in each other"):
        prepare(tmp_path / "s-{000..001}.tar", tmp_path / "s.tar", PNG16, overwrite=True)
    assert (tmp_path / "s-000.tar").read_bytes() == before


def test_nothing_is_overwritten_unasked(photos, tmp_path):
    out = tmp_path / "out"
    prepare(photos, out, PNG16)
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="out exists; --overwrite replaces it"):
        prepare(photos, out, PNG16)
    assert (out / "mine.txt").exists()
    prepare(photos, out, PNG16, overwrite=True)
    assert not (out / "mine.txt").exists() and (out / "a.png").exists()
    (out / "report.json").unlink()
    with pytest.raises(InputError, match="is no prepared set"):
        prepare(photos, out, PNG16, overwrite=True)
    (tmp_path / "out.zip").mkdir()
    with pytest.raises(InputError, match="out.zip is a folder; name another"):
        prepare(photos, tmp_path / "out.zip", PNG16, overwrite=True)
    for place in (photos, photos / "new", tmp_path):
        (tmp_path / "report.json").write_text("{}")
        with pytest.raises(InputError, match="lie in each other|no prepared set"):
            prepare(photos, place, PNG16, overwrite=True)
    assert (photos / "a.png").exists()


def test_a_failure_leaves_what_was_there(photos, tmp_path, monkeypatch):
    out = tmp_path / "out.zip"
    prepare(photos, out, PNG16)
    before = out.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(InputError, match="out.zip: No space left on device"):
        prepare(photos, out, PNG16, overwrite=True)
    assert out.read_bytes() == before and not list(tmp_path.glob(".*"))


def test_sources_that_give_nothing(photos, tmp_path):
    with pytest.raises(InputError, match="no photo is left; too small: a.png .48x48 is smaller"):
        prepare(photos, tmp_path / "out", Settings(size=4000))
    with pytest.raises(MissingFileError, match="nothing there"):
        prepare(tmp_path / "absent", tmp_path / "out", PNG16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no .jpg, .jpeg, .png, .webp file in it"):
        prepare(tmp_path / "empty", tmp_path / "out", PNG16)
    with pytest.raises(InputError, match="give a size of at least 1"):
        Settings(size=0)
    with pytest.raises(InputError, match="hardly shrink in gzip; name a .tar"):
        prepare(photos, tmp_path / "out.tgz", PNG16)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["empty", "photos", "secret.png"]


def test_without_a_crop_the_aspect_stays_and_the_shorter_side_is_the_size(tmp_path):
    tall = scene(1, 96).crop((0, 0, 40, 96))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    save(tmp_path / "in/a.jpg", tall, quality=95, exif=exif)
    prepare(tmp_path / "in", tmp_path / "out", Settings(size=20, crop="none", format="png"))
    with Image.open(tmp_path / "out/a.png") as made:
        assert made.size == (48, 20) and not made.getexif()
        wanted = tall.transpose(Image.Transpose.ROTATE_270).resize((48, 20), Image.Resampling.BOX)
        assert np.abs(np.asarray(made).astype(int) - wanted).max() <= 10  # 7 seen: JPEG


def test_a_profile_is_applied_once(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    save(tmp_path / "in/a.png", scene(1), icc_profile=profile)
    prepare(tmp_path / "in", tmp_path / "out", PNG16)
    with Image.open(tmp_path / "out/a.png") as made:
        assert "icc_profile" not in made.info
        wanted = np.asarray(scene(1).resize((16, 16), Image.Resampling.BOX)).astype(int)
        assert np.abs(np.asarray(made) - wanted).max() <= 1


def test_the_hash_stands_what_does_not_change_the_picture():
    image = scene(7, 128)
    one = difference_hash(image)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    like = [Image.open(file), image.resize((64, 64)), image.point(lambda v: int(v * 0.85))]
    assert all((one ^ difference_hash(other)).bit_count() <= NEAR_BITS for other in like)
    unlike = [scene(8, 128), image.rotate(90), image.rotate(180), image.point(lambda v: 255 - v)]
    assert all((one ^ difference_hash(other)).bit_count() > 30 for other in unlike)


def test_the_search_finds_what_comparing_all_finds():
    rng = np.random.default_rng(0)
    hashes = [int.from_bytes(rng.bytes(HASH_BITS // 8), "big") for _ in range(200)]
    for _ in range(600):  # 0 to 20 bits from an earlier one
        flips = rng.choice(HASH_BITS, rng.integers(0, 21), replace=False)
        hashes.append(hashes[rng.integers(200)] ^ sum(1 << int(b) for b in flips))
    near, kept = NearDuplicates(), {}
    for i, value in enumerate(hashes):
        found = near.find_or_add(str(i), value)
        expected = {n for n, other in kept.items() if (value ^ other).bit_count() <= NEAR_BITS}
        assert (found is None) == (not expected) and (found is None or found[0] in expected)
        if found is None:
            kept[str(i)] = value
    assert 400 < len(kept) < 600


def test_new_names_fit_everywhere_and_never_meet():
    taken: set[str] = set()
    names = ["a.jpg", "A.png", "a.JPG/x.png", "b: *?.v2.jpg", "c\udcff\x1b.png", "d" * 300 + ".png"]
    made = [new_name(name, ".jpg", taken) for name in names]
    assert made[:5] == ["a.jpg", "A_2.jpg", "a_JPG/x.jpg", "b_ ___v2.jpg", "c__.jpg"]
    assert made[5] == "d" * 200 + ".jpg"


def test_the_command(photos, tmp_path, capsys):
    arguments = ["prepare", str(photos), "-o", str(tmp_path / "out.zip"), "--size", "16"]
    assert cli.data_command(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("kept 4, dropped 6\n") and printed.endswith("out.zip\n")
    assert cli.data_command(arguments) == 2
    printed = capsys.readouterr().err
    assert printed == f"argan: {tmp_path}/out.zip exists; --overwrite replaces it\n"
