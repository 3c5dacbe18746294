import copy
import hashlib
import io
import json
import os
import re
import warnings
import zipfile
from pathlib import Path

import pytest

from argan import __version__, bundle
from argan.errors import BundleError, MissingFileError

TINY = Path(__file__).parents[1] / "data" / "tiny.argan"
FILES = {"model.fp32.onnx": b"not run here", "CARD.md": b"# card\n", "m.mlpackage/Data/w.bin": b"1"}
MANIFEST = {
    "name": "test",
    "task": "disparity",
    "inputs": [
        {
            "name": "image", "shape": [1, 3, "H", "W"], "dtype": "float32", "layout": "NCHW",
            "range": [0, 1], "colour": "sRGB", "multiple_of": 32, "nominal": 256,
        }
    ],
    "outputs": [
        {
            "name": "disparity", "shape": [1, 1, "H", "W"], "dtype": "float32",
            "meaning": "affine inverse depth, larger = nearer", "range": [-1, 2.5],
        }
    ],
    "optics": {"f_number": 2.8},
    "calibration": None,
    "source": {"checkpoint": "0" * 64, "run": "0001"},
    "tools": {"torch": "2.13.0"},
    "licence": {"weights": "none stated", "data": "none stated"},
    "refocus": None,
    "variants": {
        "onnx-fp32": {
            "graph": "disparity", "format": "onnx", "precision": "fp32", "file": "model.fp32.onnx",
            "layout": "NCHW", "dtype": "float32", "sizes": None, "parity": {"largest_gap": 1e-6},
        },
        "coreml-fp16": {
            "graph": "disparity", "format": "coreml", "precision": "fp16", "file": "m.mlpackage",
            "layout": "NCHW", "dtype": "uint8", "sizes": [[32, 64], [64, 64]],
        },
    },
}  # fmt: skip
COMPLETE = MANIFEST | {
    "schema": 2,
    "argan": __version__,
    "files": {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in FILES.items()
    },
}


@pytest.fixture
def path(tmp_path):
    bundle.write(tmp_path / "a.argan", MANIFEST, FILES)
    return tmp_path / "a.argan"


def unpack(path: Path) -> Path:
    folder = path.with_name("folder.argan")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("form", [lambda path: path, unpack], ids=["zip", "folder"])
def test_what_was_written_is_read(form, path):
    content = bundle.read(form(path))
    assert content.manifest == COMPLETE
    assert content.files == FILES
    assert content.image == bundle.Image("image", None, None, multiple_of=32, nominal=256)
    assert content.disparity == bundle.Disparity("disparity", lo=-1.0, hi=2.5)
    assert content.f_number == 2.8
    assert content.model(content.find("onnx")) == FILES["model.fp32.onnx"]
    assert content.find("onnx", "fp32") == bundle.Variant(
        "onnx-fp32", "disparity", "onnx", "fp32", "model.fp32.onnx", "NCHW", "float32", None
    )
    phone = content.find("coreml")
    assert (phone.dtype, phone.sizes) == ("uint8", ((32, 64), (64, 64)))
    assert content.package(phone) == {"Data/w.bin": b"1"}
    for missing in (("tflite",), ("onnx", "int8"), ("onnx", None, "refocus")):
        with pytest.raises(BundleError, match="has no .* of the"):
            content.find(*missing)


def test_same_content_same_bytes(path):
    backwards = dict(reversed(MANIFEST.items())), dict(reversed(FILES.items()))
    bundle.write(path.with_name("b.argan"), *backwards)
    assert path.read_bytes() == path.with_name("b.argan").read_bytes()


def test_the_format_has_not_changed(tmp_path, monkeypatch):
    content = bundle.read(TINY)
    monkeypatch.setattr(bundle, "__version__", content.manifest["argan"])
    bundle.write(tmp_path / "a.argan", content.manifest, content.files)
    assert (tmp_path / "a.argan").read_bytes() == TINY.read_bytes()


def test_fixed_sides_are_read(tmp_path):
    manifest = copy.deepcopy(MANIFEST)
    manifest["inputs"][0]["shape"] = [1, 3, 192, "W"]
    bundle.write(tmp_path / "a.argan", manifest, FILES)
    image = bundle.read(tmp_path / "a.argan").image
    assert (image.height, image.width) == (192, None)


# ---------------------------------------------------------------- what is refused


def change(*keys_and_value):
    """A manifest with one value set, or taken out where the value is `del`."""
    *keys, last, value = keys_and_value

    def apply(manifest):
        for key in keys:
            manifest = manifest[key]
        if value is DELETE:
            del manifest[last]
        else:
            manifest[last] = value

    return apply


def variant(key, value):
    return change("variants", "onnx-fp32", key, value)


DELETE = object()
BAD_MANIFESTS = {
    "schema 1": (change("schema", 1), "schema 1"),
    "schema 3": (change("schema", 3), "newer argan"),
    "no schema": (change("schema", DELETE), "schema None"),
    "no name": (change("name", DELETE), "no str 'name'"),
    "no licence": (change("licence", DELETE), "no dict 'licence'"),
    "no calibration": (change("calibration", DELETE), "calibration"),
    "another task": (change("task", "matting"), "task 'matting'"),
    "two inputs": (change("inputs", MANIFEST["inputs"] * 2), "2 inputs"),
    "no output": (change("outputs", []), "0 outputs"),
    "an input that is no object": (change("inputs", ["image"]), "inputs"),
    "huge side": (change("inputs", 0, "shape", [1, 3, 10**9, 10**9]), "sides"),
    "zero side": (change("outputs", 0, "shape", [1, 1, 0, 0]), "sides"),
    "four channels": (change("inputs", 0, "shape", [1, 4, "H", "W"]), "float32"),
    "int8 input": (change("inputs", 0, "dtype", "int8"), "float32"),
    "NHWC": (change("inputs", 0, "layout", "NHWC"), "NCHW"),
    "range 255": (change("inputs", 0, "range", [0, 255]), "0..1"),
    "huge nominal": (change("inputs", 0, "nominal", 10**6), "nominal"),
    "zero multiple": (change("inputs", 0, "multiple_of", 0), "steps of 0"),
    "multiple that is true": (change("inputs", 0, "multiple_of", True), "no int"),
    "range upside down": (change("outputs", 0, "range", [1, 1]), "empty"),
    "range of words": (change("outputs", 0, "range", ["0", "1"]), "no number"),
    "range too large": (change("outputs", 0, "range", [0, 10**400]), "no number"),
    "f-number 0": (change("optics", "f_number", 0), "positive"),
    "no variant": (change("variants", {}), "no variant"),
    "variant that is no object": (change("variants", "x", []), "unreadable variant"),
    "variant of a path's name": (change("variants", "../x", {}), "unreadable variant"),
    "unknown precision": (variant("precision", "fp8"), "precision 'fp8'"),
    "unknown format": (variant("format", ["onnx"]), "format \\['onnx'\\]"),
    "unknown graph": (variant("graph", DELETE), "graph None"),
    "variant without file": (variant("file", "gone.onnx"), "no file"),
    "variant of a path": (variant("file", "../x.onnx"), "no file"),
    "variant of a list": (variant("file", ["x"]), "no str 'file'"),
    "variant of another kind": (variant("file", "CARD.md"), "not in a .onnx"),
    "variant twice": (
        change("variants", "twice", MANIFEST["variants"]["onnx-fp32"]),
        "two variants",
    ),
    "variant of no size": (variant("sizes", []), "of no size"),
    "variant of odd size": (variant("sizes", [[32, 33]]), "steps of 32"),
    "variant of huge size": (variant("sizes", [[32, 32 * 10**6]]), "steps of 32"),
    "package without files": (change("variants", "coreml-fp16", "file", "n.mlpackage"), "no file"),
    "refocus without its graph": (change("refocus", {"max_blur": 0.04}), "refocus graph"),
    "refocus graph without a word": (variant("graph", "refocus"), "refocus graph"),
    "no word of refocus": (change("refocus", DELETE), "'refocus'"),
    "wrong hash": (change("files", "CARD.md", "sha256", "0" * 64), "changed"),
    "wrong size": (change("files", "CARD.md", "bytes", 8), "changed"),
    "file not listed": (change("files", "CARD.md", DELETE), "not listed"),
    "file listed but missing": (change("files", "x", {"sha256": "", "bytes": 0}), "missing"),
}
BAD_TEXTS = {
    "not JSON": (b"{", "not JSON"),
    "not UTF-8": (b'{"name": "\xff"}', "not JSON"),
    "a list": (b"[]", "no object"),
    "NaN": (b'{"a": NaN}', "not JSON"),
    "a key twice": (b'{"schema": 1, "schema": 1}', "twice"),
    "deep": (b"[" * 100_000, "not JSON"),
    "a long number": (b'{"schema": ' + b"9" * 5000 + b"}", "not JSON"),
    "too long": (b" " * (bundle.MAX_MANIFEST_BYTES + 1), "no bundle.json"),
}


def pack(path: Path, members: list[tuple[str | zipfile.ZipInfo, bytes]], **options: int) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", **options) as archive:
        warnings.simplefilter("ignore")  # zipfile warns of a name given twice: that is the point
        for name, data in members:
            archive.writestr(name, data)
    return path


def whole(manifest: dict = COMPLETE) -> list[tuple[str, bytes]]:
    return [("bundle.json", json.dumps(manifest).encode()), *FILES.items()]


def refuse(path: Path, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        bundle.read(path)
    start, named, rest = str(caught.value).partition(str(path))
    assert (start, named) == ("bundle ", str(path)) and "\n" not in rest
    assert re.search(message, rest), rest


def test_the_packer_of_these_tests_makes_good_bundles(tmp_path):
    assert bundle.read(pack(tmp_path / "a.argan", whole())).manifest == COMPLETE


@pytest.mark.parametrize("kind", BAD_MANIFESTS)
def test_bad_manifests(kind, tmp_path):
    edit, message = BAD_MANIFESTS[kind]
    manifest = copy.deepcopy(COMPLETE)
    edit(manifest)
    refuse(pack(tmp_path / "a.argan", whole(manifest)), message)


@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_bad_bundle_json(kind, tmp_path):
    text, message = BAD_TEXTS[kind]
    refuse(pack(tmp_path / "a.argan", [("bundle.json", text)]), message)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "a/../x", "a//x", "./x", ".x", "a\\x", "C:x", "x\0y", "é", "a/", "x" * 201],
)
def test_bad_names(name, tmp_path):
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = name
    refuse(pack(tmp_path / "a.argan", [*whole(), (info, b"")]), "forbidden name")


@pytest.mark.parametrize("name", ["CARD.md", "card.MD"])
def test_a_name_twice(name, tmp_path):
    refuse(pack(tmp_path / "a.argan", [*whole(), (name, b"2")]), "twice")


def test_a_compressed_member(tmp_path):
    path = pack(tmp_path / "a.argan", whole(), compression=zipfile.ZIP_DEFLATED)
    refuse(path, "not stored")


def test_members_that_overlap(tmp_path):
    """One megabyte, named a hundred times: a bomb that needs no compression."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("x", bytes(1_000_000))
        for i in range(100):
            archive.filelist.append(copy.copy(archive.filelist[0]))
            archive.filelist[-1].filename = f"x{i}"
    (tmp_path / "a.argan").write_bytes(data.getvalue())
    refuse(tmp_path / "a.argan", "has members that overlap")


def test_a_link_in_a_zip(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    refuse(pack(tmp_path / "a.argan", [*whole(), (info, b"/etc/passwd")]), "has a link")


@pytest.mark.parametrize("target", ["/etc/passwd", "CARD.md", "m.mlpackage"])
def test_a_link_in_a_folder(target, path):
    folder = unpack(path)
    os.symlink(target, folder / "link")
    refuse(folder, "has a link")


def test_a_changed_file_in_a_folder(path):
    folder = unpack(path)
    (folder / "CARD.md").write_bytes(b"# CARD\n")  # the same size
    refuse(folder, "changed")


@pytest.mark.parametrize("form", [lambda path: path, unpack], ids=["zip", "folder"])
def test_limits(form, path, monkeypatch):
    size = sum(len(data) for data in FILES.values()) + 500  # less than with bundle.json
    monkeypatch.setattr(bundle, "MAX_BYTES", size)
    refuse(form(path), "more than")
    monkeypatch.undo()
    monkeypatch.setattr(bundle, "MAX_FILES", len(FILES))
    refuse(form(path), "more than 3 files")


def test_flipped_and_lost_bytes_never_pass(path):
    good = path.read_bytes()
    for at in range(0, len(good), 7):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1 :])
        try:
            changed = bundle.read(path)
        except BundleError:
            continue
        # A byte that carries nothing, such as a time stamp: what is read must be what was written.
        assert (changed.manifest, changed.files) == (COMPLETE, FILES)
    for end in range(0, len(good), 101):
        path.write_bytes(good[:end])
        refuse(path, "whole zip")


def test_no_such_bundle(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist"):
        bundle.read(tmp_path / "no.argan")
    refuse(tmp_path, "no bundle.json")


@pytest.mark.parametrize(
    "manifest, files",
    [
        (MANIFEST | {"task": "matting"}, FILES),
        (MANIFEST | {"note": float("nan")}, FILES),
        (MANIFEST | {"note": object()}, FILES),
        (MANIFEST, {**FILES, "../x": b""}),
        (MANIFEST, {}),
    ],
)
def test_write_refuses_what_read_would(manifest, files, tmp_path):
    (tmp_path / "a.argan").write_bytes(b"before")
    with pytest.raises(BundleError):
        bundle.write(tmp_path / "a.argan", manifest, files)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"before"]
