"""Photos in and out: every format, what is kept of each, pipes, hostile files."""

import importlib.util
import io
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

import argan
from argan import metadata, photo, tiff
from argan.cli import main
from argan.errors import InputError

_spec = importlib.util.spec_from_file_location("profiles", Path(__file__).with_name("profiles.py"))
profiles = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(profiles)

RNG = np.random.default_rng(11)
ROOT = Path(__file__).parents[2]
QUARTERS = np.kron(
    np.array([[[230, 40, 40], [40, 200, 40]], [[40, 40, 230], [240, 240, 240]]], np.uint8),
    np.ones((16, 24, 1), np.uint8),
)  # 32 x 48: no two turns are alike
SHARP = ["--disparity", "zero.npy", "--focus-disparity", "0", "--blur", "5"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# ---------------------------------------------------------------- EXIF and XMP


def exif_block(orientation: int, order: str = "<", thumbnail: bool = True) -> bytes:
    """As cameras write it: MakerNote, lens, date and GPS, with offsets from the start; a thumbnail
    behind it."""
    parts: list[bytes] = []
    at = 8

    def directory(entries: list[tuple[int, int, int, bytes]], link: int) -> bytes:
        nonlocal at
        body, tail = struct.pack(order + "H", len(entries)), b""
        data = at + 2 + 12 * len(entries) + 4
        for tag, kind, count, value in entries:
            body += struct.pack(order + "HHI", tag, kind, count)
            if len(value) > 4:
                body += struct.pack(order + "I", data + len(tail))
                tail += value + b"\0" * (len(value) % 2)
            else:
                body += value.ljust(4, b"\0")
        done = body + struct.pack(order + "I", link) + tail
        at += len(done)
        parts.append(done)
        return done

    short, long = (lambda n: struct.pack(order + "H", n)), (lambda n: struct.pack(order + "I", n))
    inner = [
        (0x829A, 5, 1, long(1) + long(250)), (0x9003, 2, 20, b"2024:05:06 07:08:09\0"),
        (0x927C, 7, 40, b"Maker\0" + bytes(range(34))), (0xA434, 2, 8, b"50mm/1.8"),
    ]  # fmt: skip
    place = [(1, 2, 2, b"N\0"), (2, 5, 3, long(48) + long(1) + long(8) + long(1) + long(0) * 2)]
    directory(inner, 0)
    gps = at
    directory(place, 0)
    first = at
    small = encoded(Image.new("RGB", (16, 12), "red"), "JPEG") if thumbnail else b""
    size = 2 + 12 * 5 + 4 + 6
    second = first + size if thumbnail else 0
    directory([
        (0x010F, 2, 6, b"Maker\0"), (0x0112, 3, 1, short(orientation)), (0x0128, 3, 1, short(2)),
        (0x8769, 4, 1, long(8)), (0x8825, 4, 1, long(gps)),
    ], second)  # fmt: skip
    assert at == first + size
    if thumbnail:
        start = at + 2 + 12 * 3 + 4
        directory([(0x0103, 3, 1, short(6)), (0x0201, 4, 1, long(start)),
                   (0x0202, 4, 1, long(len(small)))], 0)  # fmt: skip
        parts.append(small)
    head = (b"II*\0" if order == "<" else b"MM\0*") + long(first)
    return b"Exif\0\0" + head + b"".join(parts)


def tags(block: bytes) -> dict[str, object]:
    exif = Image.Exif()
    exif.load(block)
    found = {f"{tag}": value for tag, value in exif.items() if tag not in (0x8769, 0x8825)}
    for name, ifd in (("exif", 0x8769), ("gps", 0x8825), ("thumbnail", ExifTags.IFD.IFD1)):
        found |= {f"{name} {tag}": str(value) for tag, value in exif.get_ifd(ifd).items()}
    return found


def packet(orientation: int, more: str = "", written: str = 'tiff:Orientation="{}"') -> bytes:
    attribute = written.format(orientation)
    inside = "" if "<" not in attribute else attribute
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description'
        ' rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:xmp="http://ns.adobe.com/'
        f'xap/1.0/" xmp:Rating="4" {attribute if not inside else ""} {more}>{inside}'
        "</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end='w'?>"
    ).encode()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("thumbnail", [True, False])
def test_exif_is_kept_byte_for_byte_but_for_what_is_no_longer_true(order, thumbnail):
    before = exif_block(6, order, thumbnail)
    assert tags(before).get("thumbnail 513") if thumbnail else True
    orientation, after = metadata.settle_exif(before)
    assert orientation == 6
    bare = bytearray(exif_block(1, order, thumbnail))
    changed = [i for i, pair in enumerate(zip(bare, after, strict=False)) if pair[0] != pair[1]]
    assert len(after) <= len(before)
    assert len(changed) <= 4 * thumbnail  # the link to the thumbnail
    found = tags(after)
    assert {k: v for k, v in found.items() if k != "274"} == {
        k: v for k, v in tags(before).items() if k != "274" and "thumbnail" not in k
    }
    assert found["274"] == 1
    assert b"\xff\xd8" not in after  # the picture itself is gone


@pytest.mark.parametrize("cut", range(0, 420, 7))
def test_damaged_exif_is_no_reason_to_refuse(cut, here):
    block = exif_block(6)[: cut + 6]
    photo_with = encoded(Image.fromarray(QUARTERS), "JPEG", exif=block)
    assert photo.decode(photo_with).pixels.shape[2] == 3


@pytest.mark.parametrize(
    "written", ['tiff:Orientation="{}"', "<tiff:Orientation>{}</tiff:Orientation>"]
)
def test_xmp_is_kept_byte_for_byte_but_for_its_orientation(written):
    assert metadata.settle_xmp(packet(6, written=written)) == packet(1, written=written)
    assert metadata.settle_xmp(packet(1)) == packet(1)


STALE = (
    'xmlns:GDepth="http://ns.google.com/photos/1.0/depthmap/" GDepth:Near="1"'
    ' xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1"'
    ' xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
    ' xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="0123"'
)


def test_xmp_on_what_was_appended_goes():
    settled = metadata.settle_xmp(packet(6, STALE))
    for word in (b"GDepth", b"MotionPhoto", b"hdrgm", b"HasExtended", b"depthmap", b"gain-map"):
        assert word not in settled
    assert b'Rating="4"' in settled and b'Orientation="1"' in settled


@pytest.mark.parametrize("bad", [b"<x", b"\xff\xfe<\0x\0", packet(6, STALE)[:-80]])
def test_damaged_xmp_is_dropped_or_harmless(bad):
    settled = metadata.settle_xmp(bad)
    assert settled is None or settled == bad


# ---------------------------------------------------------------- orientation

CARRY = {  # of every format that can say how it is to be turned, its suffix and options
    "JPEG": (".jpg", {"quality": 95, "subsampling": 0}), "PNG": (".png", {}),
    "WEBP": (".webp", {"lossless": True, "exact": True}), "TIFF": (".tif", {}),
    "AVIF": (".avif", {"quality": 95, "subsampling": "4:4:4"}),
}  # fmt: skip
BACK = {6: 8, 8: 6}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", CARRY)
def test_orientation_of_every_format(kind, orientation, here):
    """In turned, out upright: the same picture, and nothing says it is to be turned again."""
    suffix, options = CARRY[kind]
    turn = photo.UPRIGHT.get(BACK.get(orientation, orientation), lambda pixels: pixels)
    stored = Image.fromarray(np.ascontiguousarray(turn(QUARTERS)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "TIFF":
        options = {**options, "tiffinfo": {0x0112: orientation}}
    else:
        options = {**options, "exif": exif.tobytes(), "xmp": packet(orientation)}
        if kind == "PNG":
            options.pop("xmp")
    stored.save(f"in{suffix}", kind, **options)
    np.save("zero.npy", np.zeros(QUARTERS.shape[:2], np.float32))
    assert main(["render", f"in{suffix}", *SHARP, "-o", f"out{suffix}"]) == 0
    found = photo.load(f"out{suffix}")
    assert found.pixels.shape == QUARTERS.shape
    assert abs(found.pixels.astype(int) - QUARTERS)[4:-4:8, 4:-4:8].max() <= 8
    with Image.open(f"out{suffix}") as image:
        assert image.getexif().get(0x0112, 1) == 1
        image.load()
        assert image.size == (48, 32)
        said = image.info.get("xmp", b"")
        assert b'Orientation="1"' in said or not said


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_orientation_of_deep_tiff(dtype, orientation, monkeypatch):
    pixels = (QUARTERS.astype(dtype) / (1 if dtype == np.uint16 else 255)).astype(dtype)
    turn = photo.UPRIGHT.get(BACK.get(orientation, orientation), lambda pixels: pixels)
    monkeypatch.setattr(tiff, "_described", lambda exif: {274: orientation})
    data = tiff.encode(np.ascontiguousarray(turn(pixels)), None, None, None, None)
    found = photo.decode(data)
    np.testing.assert_array_equal(found.pixels, pixels)
    assert tags(found.exif)["274"] == 1


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_that_xmp_alone_knows(orientation):
    data = encoded(Image.fromarray(QUARTERS), "JPEG", xmp=packet(orientation))
    found = photo.decode(data)
    assert found.pixels.shape[:2] == ((32, 48) if orientation == 3 else (48, 32))
    assert found.xmp == packet(1)


def test_the_boxes_of_an_avif_turn_it_not_its_xmp():
    found = photo.decode(encoded(Image.fromarray(QUARTERS), "AVIF", xmp=packet(6)))
    assert found.pixels.shape == QUARTERS.shape
    assert found.xmp == packet(1)


# ---------------------------------------------------------------- round trips


def full_photo(dtype: type) -> photo.Photo:
    noise = RNG.random((32, 48, 4))
    if dtype != np.float32:
        noise = noise * np.iinfo(dtype).max
    noise = noise.astype(dtype)
    return photo.Photo(
        noise[..., :3].copy(), noise[..., 3].copy(), profiles.ADOBE, exif_block(1, thumbnail=False),
        "", packet(1),
    )  # fmt: skip


DEEP = {
    ".png": [np.uint8, np.uint16], ".tif": [np.uint8, np.uint16, np.float32], ".tiff": [np.uint16]
}  # fmt: skip


@pytest.mark.parametrize(
    "suffix, dtype", [(suffix, dtype) for suffix, types in DEEP.items() for dtype in types]
)
def test_lossless_and_deep_through_refocus(suffix, dtype, here):
    """What is in focus is bit for bit what it was, at its depth; all else is kept."""
    original = full_photo(dtype)
    original.save(f"in{suffix}")
    disparity = np.zeros((32, 48), np.float32)
    disparity[:, 30:] = 1
    np.save("half.npy", disparity)
    focused = ["--disparity", "half.npy", "--focus-disparity", "0", "--blur", "3"]
    assert main(["render", f"in{suffix}", *focused, "-o", f"out{suffix}"]) == 0
    found = photo.load(f"out{suffix}")
    assert found.pixels.dtype == found.alpha.dtype == dtype
    np.testing.assert_array_equal(found.pixels[:, :20], original.pixels[:, :20])
    assert (found.pixels[:, 36:] != original.pixels[:, 36:]).mean() > 0.5
    np.testing.assert_array_equal(found.alpha, original.alpha)
    assert (found.icc, found.xmp) == (original.icc, original.xmp)
    before, after = tags(original.exif), tags(found.exif)
    assert after == before and "exif 37500" in after and "gps 2" in after
    if suffix == ".png":
        assert found.exif == original.exif


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
def test_lossy_keep_the_metadata(suffix, here):
    original = full_photo(np.uint8)
    photo.save("in.png", original)
    np.save("zero.npy", np.zeros((32, 48), np.float32))
    assert main(["render", "in.png", *SHARP, "-o", f"out{suffix}"]) == 0
    found = photo.load(f"out{suffix}")
    assert (found.icc, found.xmp) == (original.icc, original.xmp)
    before, after = tags(original.exif), tags(found.exif)
    assert {k: v for k, v in after.items() if k != "274"} == {
        k: v for k, v in before.items() if k != "274"
    }
    if suffix == ".avif":  # its turn is in a box
        assert "274" not in after
    else:
        assert found.exif == original.exif
    if suffix != ".jpg":
        gap = abs(found.alpha.astype(int) - original.alpha).max()
        assert gap <= (0 if suffix == ".webp" else 16)  # AVIF's is lossy on noise: largest seen 6


def test_a_photo_of_a_phone_loses_what_would_mislead(here):
    """A JPEG with depth and a second picture behind it, orientation 6 and a thumbnail."""
    from argan import embedded

    upright = Image.fromarray(np.rot90(QUARTERS).copy())
    data = encoded(
        upright, "MPO", save_all=True, append_images=[upright], exif=exif_block(6),
        xmp=packet(6, STALE.replace(' xmpNote:HasExtendedXMP="0123"', "")),
    )  # fmt: skip
    data = embedded.write(data, np.ones(QUARTERS.shape[:2], np.float32), metric=True)
    Path("in.jpg").write_bytes(data)
    np.save("zero.npy", np.zeros(QUARTERS.shape[:2], np.float32))
    assert main(["render", "in.jpg", *SHARP, "-o", "out.jpg"]) == 0
    written = Path("out.jpg").read_bytes()
    assert embedded.read("in.jpg") is not None and embedded.read("out.jpg") is None
    assert written.count(b"\xff\xd8\xff") == 1
    for word in (b"MPF\0", b"GDepth", b"MotionPhoto", b"hdrgm"):
        assert word in data and word not in written
    assert b'Rating="4"' in written
    assert tags(photo.load("out.jpg").exif)["274"] == 1


# ---------------------------------------------------------------- bits, quality, floats


def test_bits(here, capsys):
    pixels = full_photo(np.uint8)
    photo.save("in.png", photo.Photo(pixels.pixels))
    np.save("one.npy", np.ones((32, 48), np.float32))
    blurred = ["--disparity", "one.npy", "--focus-disparity", "0", "--blur", "4"]
    for bits, dtype in (("8", np.uint8), ("16", np.uint16)):
        for suffix in (".png", ".tif"):
            out = f"{bits}{suffix}"
            assert main(["render", "in.png", *blurred, "--bits", bits, "-o", out]) == 0
            assert photo.load(out).pixels.dtype == dtype
    fine = photo.load("16.png").pixels
    np.testing.assert_array_equal(fine, photo.load("16.tif").pixels)
    assert (fine % 257 != 0).mean() > 0.9  # the blur itself has the finer steps
    assert abs(fine / 257 - photo.load("8.png").pixels).max() < 1
    capsys.readouterr()
    for options, word in (
        (["--bits", "16", "-o", "a.jpg"], "use .png or .tif"),
        (["--encode-quality", "80", "-o", "a.png"], "is lossless"),
        (["--encode-quality", "101", "-o", "a.jpg"], "100"),
        (["--bits", "12", "-o", "a.png"], "12"),
        (["--format", "png", "-o", "a.jpg"], "says by its ending"),
    ):
        assert main(["render", "in.png", *blurred, *options]) == 2
        said = capsys.readouterr().err
        assert word in said and said.count("\n") == 1
        assert not Path(options[-1]).exists()


def test_quality(here):
    smooth = np.kron(RNG.integers(0, 256, (8, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    for kind in ("JPEG", "WEBP", "AVIF"):
        sizes = [len(photo.encode(photo.Photo(smooth), kind, quality)) for quality in (20, 60, 98)]
        assert sizes == sorted(sizes) and sizes[0] < sizes[2]
        default = photo.encode(photo.Photo(smooth), kind)
        assert default == photo.encode(photo.Photo(smooth), kind, photo.QUALITY[kind])


def test_float_is_light(here):
    """Without a profile a float TIFF is linear, also above white; in 8 bits it is sRGB."""
    light = np.full((32, 48, 3), 0.25, np.float32)
    light[:, 24:] = 3.0
    photo.save("in.tif", photo.Photo(light))
    np.save("one.npy", np.ones((32, 48), np.float32))
    blurred = ["--disparity", "one.npy", "--focus-disparity", "0", "--blur", "6"]
    assert main(["render", "in.tif", *blurred, "-o", "out.tif", "--highlights", "0"]) == 0
    found = photo.load("out.tif").pixels
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[16, [2, 45]], light[16, [2, 45]], rtol=1e-4)
    np.testing.assert_allclose(found[16, 23:25].mean(), (0.25 + 3) / 2, rtol=0.02)
    assert main(["render", "in.tif", *blurred, "-o", "out.png", "--bits", "8"]) == 0
    code = profiles.decode_srgb(photo.load("out.png").pixels[16, 2] / 255)
    np.testing.assert_allclose(code, 0.25, atol=0.005)


# ---------------------------------------------------------------- what comes in


def test_other_kinds_of_tiff(here):
    """LZW of OpenCV, grey in 16 bits with its curve, Lab, several pages."""
    import cv2

    deep = RNG.integers(0, 65536, (20, 30, 4), dtype=np.uint16)
    assert cv2.imwrite("opencv.tif", deep[..., 2::-1])
    np.testing.assert_array_equal(photo.load("opencv.tif").pixels, deep[..., :3])

    grey = np.repeat(np.arange(0, 65536, 257, dtype=np.uint16)[None], 4, axis=0)
    icc = profiles.profile("", profiles.gamma(1.0), kind=b"GRAY")
    data = io.BytesIO()
    Image.fromarray(grey).save(data, "TIFF", tiffinfo={34675: icc})
    found = photo.decode(data.getvalue())
    assert found.icc is None and found.pixels.dtype == np.uint16
    light = profiles.decode_srgb(found.pixels[0, :, 0] / 65535)
    np.testing.assert_allclose(light, grey[0] / 65535, atol=2e-5)

    lab = Image.new("LAB", (8, 8), (138, 128, 128))  # L* 54
    found = photo.decode(encoded(lab, "TIFF"))
    assert abs(found.pixels.astype(int) - 130).max() <= 3

    pages = {"save_all": True, "append_images": [Image.new("L", (8, 8))]}
    found = photo.decode(encoded(Image.fromarray(QUARTERS), "TIFF", **pages))
    assert found.several
    np.testing.assert_array_equal(found.pixels, QUARTERS)
    assert not photo.decode(encoded(Image.fromarray(QUARTERS), "TIFF")).several


def test_premultiplied_alpha(monkeypatch):
    alpha = np.full((8, 8), 32768, np.uint16)
    straight = RNG.integers(0, 65536, (8, 8, 3), dtype=np.uint16)
    stored = np.rint(straight * (32768 / 65535)).astype(np.uint16)
    data = bytearray(tiff.encode(stored, alpha, None, None, None))
    at = data.index(struct.pack("<HHI", 338, 3, 1)) + 8
    data[at : at + 2] = struct.pack("<H", 1)
    found = photo.decode(bytes(data))
    assert abs(found.pixels.astype(int) - straight).max() <= 1
    np.testing.assert_array_equal(found.alpha, alpha)


def test_first_of_several_is_said(here, capsys):
    first, second = Image.fromarray(QUARTERS), Image.fromarray(QUARTERS[::-1].copy())
    np.save("zero.npy", np.zeros(QUARTERS.shape[:2], np.float32))
    for suffix, options in ((".webp", {"lossless": True}), (".png", {}), (".tif", {})):
        first.save(f"in{suffix}", save_all=True, append_images=[second], **options)
        assert main(["render", f"in{suffix}", *SHARP, "-o", "out.png"]) == 0
        assert "first of several" in capsys.readouterr().out
        np.testing.assert_array_equal(photo.load("out.png").pixels, QUARTERS)
    first.save("one.png")
    assert main(["render", "one.png", *SHARP, "-o", "out.png"]) == 0
    assert "several" not in capsys.readouterr().out


def test_content_decides_not_the_name(here):
    for kind in CARRY:
        Path("photo.dat").write_bytes(encoded(Image.fromarray(QUARTERS), kind))
        assert photo.load("photo.dat").format == kind


def test_an_avif_that_begins_as_heic_does():
    """Brands: mif1 is of both."""
    data = encoded(Image.fromarray(QUARTERS), "AVIF")
    size = int.from_bytes(data[:4])
    assert photo.find_format(data) == "AVIF"
    assert photo.find_format(data[:8] + b"mif1" + data[12:size]) == "AVIF"
    assert photo.find_format(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic") == "HEIF"
    assert photo.find_format(b"\0\0\0\x18ftypisom\0\0\0\0isomavc1") is None


def test_heic_without_its_extra_says_the_command(here, monkeypatch, capsys):
    from argan.serve import work

    monkeypatch.setitem(sys.modules, "pi_heif", None)
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    Path("in.jpg").write_bytes(data)
    np.save("zero.npy", np.zeros((8, 8), np.float32))
    assert main(["render", "in.jpg", *SHARP, "-o", "out.jpg"]) == 2
    assert 'pip install "argan[heif]"' in capsys.readouterr().err
    with pytest.raises(work.Problem, match="can't read HEIC") as problem:
        work.decode(data, 1000)
    assert problem.value.status == 415


def test_decode_and_encode_are_load_and_save(here):
    original = full_photo(np.uint8)
    for kind, suffix in photo.SUFFIX.items():
        data = photo.encode(original, kind)
        photo.save(f"a{suffix}", original)
        assert Path(f"a{suffix}").read_bytes() == data
        a, b = photo.decode(data), photo.load(f"a{suffix}")
        np.testing.assert_array_equal(a.pixels, b.pixels)
        assert (a.icc, a.exif, a.xmp, a.format) == (b.icc, b.exif, b.xmp, kind)


# ---------------------------------------------------------------- pipes


def piped(*arguments: str, given: bytes = b"") -> tuple[int, bytes, str]:
    done = subprocess.run(
        [sys.executable, "-m", "argan", *arguments], input=given, capture_output=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr.decode()


def test_standard_input_and_output(here):
    np.save("zero.npy", np.zeros(QUARTERS.shape[:2], np.float32))
    given = encoded(Image.fromarray(QUARTERS), "PNG")
    code, out, err = piped("render", "-", *SHARP, given=given)
    assert code == 0 and photo.find_format(out) == "PNG"
    np.testing.assert_array_equal(photo.decode(out).pixels, QUARTERS)
    assert err.startswith("standard output  focus 0") and err.count("\n") == 1
    code, out, err = piped("render", "-", *SHARP, "-o", "-", "--format", "webp", given=b"no photo")
    assert (code, out) == (2, b"")
    assert err.startswith("argan: standard input is not a JPEG") and err.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["zero.npy"]


@pytest.fixture
def given(here, monkeypatch):
    """What is on standard input: a JPEG, also in a file."""
    np.save("zero.npy", np.zeros(QUARTERS.shape[:2], np.float32))
    Image.fromarray(QUARTERS).save("in.jpg", quality=95)
    stream = io.TextIOWrapper(io.BytesIO(Path("in.jpg").read_bytes()))
    monkeypatch.setattr("sys.stdin", stream)
    return stream.buffer


TINY = ["--model", str(ROOT / "tests/data/tiny.argan"), "--threads", "1"]


@pytest.mark.parametrize(
    "command, begins",
    [
        (["refocus", "-", *TINY], b"\xff\xd8"),
        (["refocus", "in.jpg", *TINY, "-o", "-"], b"\xff\xd8"),
        (["refocus", "-", *TINY, "-o", "-", "--format", "tif", "--bits", "16"], b"II*\0"),
        (["render", "in.jpg", *SHARP, "-o", "-", "--format", "avif"], b"\0\0\0 ftypavif"),
        (["depth", "-", *TINY], b"\x89PNG"),
        (["depth", "-", *TINY, "--format", "npy"], b"\x93NUMPY"),
        (["depth", "-", *TINY, "--embed", "-o", "-"], b"\xff\xd8"),
    ],
)
def test_what_goes_to_standard_output(command, begins, given, capsysbinary):
    assert main(command) == 0
    out, err = capsysbinary.readouterr()
    assert out.startswith(begins) and b"  " not in out[-20:]
    assert err.startswith(b"standard output  ") and err.count(b"\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["in.jpg", "zero.npy"]


def test_standard_input_to_a_file(given, capsys):
    assert main(["render", "-", *SHARP, "-o", "out.tif"]) == 0
    assert capsys.readouterr().out.startswith("out.tif  focus")
    np.testing.assert_array_equal(photo.load("out.tif").pixels, photo.load("in.jpg").pixels)


@pytest.mark.parametrize(
    "command, data, word",
    [
        (["refocus", "-", "in.jpg"], b"", "give it alone"),
        (["refocus", "in.jpg", "in.jpg", "-o", "-"], b"", "give it alone"),
        (["refocus", "-", *TINY], b"", "standard input is empty"),
        (["refocus", "-", *TINY], b"GIF89a", "standard input is not a"),
        (["refocus", "-", *TINY, "--bits", "16"], None, "holds 8 bits"),
    ],
)
def test_pipes_that_fail_write_nothing(command, data, word, given, capsysbinary):
    if data is not None:
        given.truncate(0)
        given.write(data)
        given.seek(0)
    assert main(command) == 2
    out, err = capsysbinary.readouterr()
    assert word.encode() in err and err.count(b"\n") == 1
    assert out == b""


# ---------------------------------------------------------------- hostile


def directory_tiff(**changed: int) -> bytes:
    """A TIFF that declares what it does not have."""
    entries = {
        "width": (256, 8), "height": (257, 8), "bits": (258, 8), "compression": (259, 1),
        "photometric": (262, 1), "offsets": (273, 200), "samples": (277, 1), "rows": (278, 8),
        "counts": (279, 64),
    }  # fmt: skip
    more = {"planar": 284, "tile_width": 322, "tile_height": 323, "kind": 339}
    entries = {k: (tag, changed.get(k, value)) for k, (tag, value) in entries.items()}
    entries |= {k: (more[k], changed[k]) for k in more if k in changed}
    body = struct.pack("<H", len(entries))
    for tag, value in sorted(entries.values()):
        body += struct.pack("<HHII", tag, 4, 1, value)
    return (b"II*\0\x08\0\0\0" + body + bytes(4)).ljust(300, b"\0")


RGB3 = {"photometric": 2, "samples": 3}


def webp_header(width: int, height: int) -> bytes:
    """An animation on a canvas of that size (VP8X)."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = bytearray(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    assert data[12:16] == b"VP8X"
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def avif_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.fromarray(QUARTERS), "AVIF"))
    for found in re.finditer(b"ispe", bytes(data)):
        data[found.end() + 4 : found.end() + 12] = struct.pack(">II", width, height)
    return bytes(data)


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(3 * min(width, 64) + 1) * min(height, 64))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(photo._png_chunk(*part) for part in parts)


NANS = np.full((8, 8, 3), 0.5, np.float32)
NANS[3, 3, 1] = np.nan
INFINITE = np.where(np.isnan(NANS), np.inf, NANS).astype(np.float32)
NOISE = RNG.integers(0, 65536, (64, 64, 3), dtype=np.uint16)
DEEP_TIFF = tiff.encode(NOISE, None, None, None, None)
HOSTILE = {
    "PNG, 100000 x 100000": (png(100_000, 100_000), "million pixels"),
    "TIFF, 100000 x 100000": (directory_tiff(width=100_000, height=100_000), "million pixels"),
    "deep TIFF, 100000 x 100000": (
        directory_tiff(width=100_000, height=100_000, bits=16), "million pixels"
    ),
    "WebP, 16384 x 16384": (webp_header(16384, 16384), "million pixels"),
    "WebP, 12000 x 12000 in 300 bytes": (webp_header(12_000, 12_000), "which no photo has"),
    "TIFF, 12000 x 12000 in 300 bytes": (
        directory_tiff(width=12_000, height=12_000), "144 million pixels in 300 bytes"
    ),
    "AVIF, 16000 x 16000": (avif_header(16_000, 16_000), "million pixels"),
    "TIFF of one huge tile": (
        directory_tiff(tile_width=60_000, tile_height=60_000), "tiles of 60000x60000"
    ),
    "TIFF of 0 px": (directory_tiff(width=0), "damaged"),
    "TIFF of a thousand samples": (directory_tiff(samples=1000), "1000 samples"),
    "TIFF of 64-bit numbers": (directory_tiff(bits=64), "64 bits"),
    "TIFF of halves": (directory_tiff(bits=16, kind=3, **RGB3), "16 bits and format 3"),
    "TIFF of signed numbers": (directory_tiff(bits=16, kind=2, **RGB3), "format 2"),
    "deep TIFF of planes": (directory_tiff(bits=16, planar=2, **RGB3), "one plane per channel"),
    "deep TIFF by Zstandard": (directory_tiff(bits=16, compression=50000, **RGB3), "LZW or Defl"),
    "deep TIFF, white is 0": (directory_tiff(bits=16, photometric=0), "colours 0"),
    "deep TIFF, pixels behind its end": (directory_tiff(bits=16, counts=5000), "behind its end"),
    "deep TIFF cut": (DEEP_TIFF[: len(DEEP_TIFF) // 2], "damaged or cut short"),
    "TIFF cut": (encoded(Image.fromarray(QUARTERS), "TIFF")[:3000], "damaged or cut short"),
    "TIFF, LZW, cut": (
        encoded(Image.effect_noise((64, 64), 90), "TIFF", compression="tiff_lzw")[:2000],
        "damaged or cut short",
    ),
    "TIFF that is a header": (b"II*\0\x08\0\0\0", "damaged or cut short"),
    "AVIF cut": (encoded(Image.fromarray(QUARTERS), "AVIF")[:300], "damaged or cut short"),
    "NaN": (tiff.encode(NANS, None, None, None, None), "NaN or infinity"),
    "infinity": (tiff.encode(INFINITE, None, None, None, None), "NaN or infinity"),
    "a PNG's text of 200 MB": (
        png(8, 8, (b"zTXt", b"bomb\0\0" + zlib.compress(bytes(200 << 20), 1))), "damaged"
    ),
    "a film": (b"\0\0\0\x18ftypisom\0\0\0\0isomavc1" + bytes(100), "is not a JPEG"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_photos(name, here, capsys):
    data, word = HOSTILE[name]
    Path("in.jpg").write_bytes(data)  # of a wrong name, too
    np.save("zero.npy", np.zeros((8, 8), np.float32))
    assert main(["render", "in.jpg", *SHARP, "-o", "out.png"]) == 2
    said = capsys.readouterr().err
    assert word in said and "in.jpg" in said and said.count("\n") == 1
    assert not Path("out.png").exists()


def test_limits_come_before_decoding(monkeypatch):
    """Damaged pixels: who decoded them would say so."""
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    files = {kind: bytearray(encoded(noise, kind)) for kind in CARRY}
    files["deep TIFF"] = bytearray(DEEP_TIFF)
    for kind, data in files.items():
        half = len(data) // 2
        data[half : half + 400] = bytes(400)
        with pytest.raises(photo.TooManyPixels, match="more than 0.004 million"):
            photo.decode(bytes(data), kind, 4000)


def test_large_blocks_that_no_output_can_hold(here):
    """100 kB of EXIF and of XMP, 900 kB of profile: in a PNG, then in a JPEG."""
    xmp = packet(1).replace(b"<rdf:RDF", b"<!--" + b"x" * 100_000 + b"--><rdf:RDF")
    exif = exif_block(1, thumbnail=False) + bytes(100_000)
    icc = profiles.P3 + RNG.integers(0, 256, 900_000, dtype=np.uint8).tobytes()
    original = photo.Photo(QUARTERS, None, icc, exif, "", xmp)
    for kind in photo.SUFFIX:
        found = photo.decode(photo.encode(original, kind))
        assert found.pixels.shape == QUARTERS.shape
        if kind in ("TIFF", "AVIF", "WEBP"):
            assert found.icc == icc and found.xmp == xmp
        if kind == "JPEG":
            assert found.icc == icc and found.exif is None and found.xmp is None


def test_refocus_of_every_format_by_the_network(here):
    """The whole way, Display-P3, through the tiny model."""
    original = photo.Photo(QUARTERS, icc=profiles.P3)
    shapes = set()
    refocuser = argan.load(ROOT / "tests/data/tiny.argan", threads=1)
    for kind, suffix in photo.SUFFIX.items():
        photo.save(f"in{suffix}", original)
        result = refocuser.refocus(f"in{suffix}", focus=0.5, blur=2)
        assert result.image.icc == profiles.P3 and result.image.format == kind
        shapes.add(result.image.pixels.shape)
    assert shapes == {QUARTERS.shape}


def test_fuzzing_finds_nothing():
    """500 mutations; `python benchmarks/fuzz_decoders.py` has 20,000."""
    fuzz = [sys.executable, ROOT / "benchmarks/fuzz_decoders.py", "--count", "500", "--seed", "1"]
    done = subprocess.run(fuzz, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert "500 files" in done.stdout and "0 findings" in done.stdout


def test_encode_says_what_it_can_not():
    with pytest.raises(InputError, match="use .png"):
        photo.encode(photo.Photo(np.zeros((1, 70_000, 3), np.uint8)), "JPEG")
