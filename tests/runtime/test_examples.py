"""The phones' sources can't be built here; but the names, types, limits and formulas that they rely
on are compared with the bundle format, with a real exported bundle, and with its model files."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from argan import backends, bundle, golden, optics
from argan.backends.canonical import CHANNELS, GIVES, TAKES
from argan.refocus import MODELS
from argan.verify.result import MIN_PSNR

EXAMPLES = Path(__file__).parents[2] / "examples"
CONTENT = bundle.read(MODELS / "default.argan")
FLOAT32, RGB = 65568, 20  # Core ML's ArrayDataType and ColorSpace


def source(folder: str, *suffixes: str) -> str:
    files = sorted(p for p in (EXAMPLES / folder).rglob("*") if p.suffix in suffixes)
    assert len(files) >= 3
    return "\n".join(path.read_text() for path in files)


SWIFT, KOTLIN = source("ios", ".swift"), source("android", ".kt")
BOTH = pytest.mark.parametrize("code", [SWIFT, KOTLIN], ids=["swift", "kotlin"])


def found(pattern: str, code: str) -> list:
    matches = re.findall(pattern, code)
    assert matches, f"no {pattern}"
    return matches


def test_swift_names_what_the_graph_takes_and_gives() -> None:
    assert tuple(found(r'"(\w+)": MLFeatureValue', SWIFT)) == TAKES["refocus"]
    outputs = found(r'values\("(\w+)", channels: (\d)\)', SWIFT)
    assert tuple(name for name, _ in outputs) == GIVES["refocus"]
    assert all(int(channels) == CHANNELS[name] for name, channels in outputs)


def test_kotlin_names_what_the_graph_takes_and_gives() -> None:
    lists = found(r"listOf\(([^)]*)\)\.associateWith \{ model\.create(\w+)Buffer", KOTLIN)
    named = {kind: tuple(re.findall(r'"(\w+)"', names)) for names, kind in lists}
    assert named == {"Input": TAKES["refocus"], "Output": GIVES["refocus"]}


def test_both_name_what_golden_npz_holds() -> None:
    takes, gives = golden.NAMES["refocus"]
    wanted = {*takes.values(), *gives.values()}
    assert set(found(r'golden\.values\(\s*"(\w+)"', SWIFT)) == wanted
    assert set(found(r'(?:golden\.values|picture)\("(\w+)"', KOTLIN)) == wanted


@BOTH
def test_limits_are_those_of_verify(code: str) -> None:
    table = dict(found(r'"(\w+)"(?:: | to )(\d+\.0)', code))
    assert "fp16" in table
    assert {name: float(limit) for name, limit in table.items()} == {n: MIN_PSNR[n] for n in table}
    (preferred,) = found(r'(?:\[|listOf\()((?:"\w+", )+"\w+")[\])]\.(?:lazy|firstNotNull)', code)
    assert set(re.findall(r'"(\w+)"', preferred)) == set(table)


@BOTH
def test_the_f_number_is_argans(code: str) -> None:
    ((strength, reference),) = re.findall(r"(0\.\d+)f? \* .*width\)? \* (\d\.\d)f? / fNumber", code)
    for f_number in (1.4, 8):
        blur = float(strength) * 512 * float(reference) / f_number
        assert blur == pytest.approx(optics.blur_of_f_number(f_number, 512))


def test_swift_reads_fields_that_a_manifest_has() -> None:
    variant = CONTENT.manifest["variants"]["coreml-fp16"]
    (fields,) = found(r"let ((?:\w+, )+\w+): String\n", SWIFT)
    assert all(isinstance(variant[name], str) for name in fields.split(", "))
    assert "let sizes: [[Int]]?" in SWIFT and "sizes" in variant
    assert "let f_number: Double" in SWIFT and CONTENT.manifest["optics"]["f_number"]


def test_kotlin_reads_fields_that_a_manifest_has() -> None:
    variant = CONTENT.manifest["variants"]["tflite-fp16"]
    for kind, field in found(r'get(String|JSONArray)\("(\w+)"\)', KOTLIN):
        assert isinstance(variant[field], str if kind == "String" else list)
    for kind, field in found(r'manifest\.get(Int|JSONObject)\("(\w+)"\)', KOTLIN):
        assert isinstance(CONTENT.manifest[field], int if kind == "Int" else dict)
    assert 'getDouble("f_number")' in KOTLIN


@BOTH
def test_schema_graph_and_file_names(code: str) -> None:
    assert {int(n) for n in found(r"schema [!=]= (\d)", code)} == {bundle.SCHEMA}
    (graph,) = {a or b for a, b in found(r'"graph"\) == "(\w+)"|\.graph == "(\w+)"', code)}
    assert graph in bundle.GRAPHS and graph == "refocus"
    (form,) = {a or b for a, b in found(r'"format"\) == "(\w+)"|\.format == "(\w+)"', code)}
    assert form in bundle.FORMATS
    assert {"bundle.json", "golden.npz"} <= set(found(r'"([a-z]+\.[a-z]+)"', code))


@BOTH
def test_the_variant_is_chosen_by_the_layout_and_type_that_the_code_gives(code: str) -> None:
    name = "coreml-fp16" if code is SWIFT else "tflite-fp16"
    variant = next(v for v in CONTENT.variants if v.name == name)
    (dtype,) = {a or b for a, b in found(r'"dtype"\) == "(\w+)"|\.dtype == "(\w+)"', code)}
    assert dtype == variant.dtype
    if code is KOTLIN:
        assert found(r'"layout"\) == "(\w+)"', code) == [variant.layout]


def test_tflite_has_the_signature_that_kotlin_calls() -> None:
    if why := backends.missing("tflite"):
        pytest.skip(why)
    (pattern,) = found(r'signature = "(.*)"', KOTLIN)
    variant = CONTENT.find("tflite", "fp16")
    model = backends.open_model("tflite", CONTENT.model(variant), threads=1)
    for signature, (height, width) in zip(model.signatures, variant.sizes or (), strict=True):
        name = pattern.replace("${bundle.height}", str(height))
        assert signature.name == name.replace("${bundle.width}", str(width))
        (image,), (disparity,) = signature.inputs, signature.outputs
        assert (image.name, image.shape) == ("image", (1, height, width, 3))
        assert (disparity.name, disparity.shape) == ("disparity", (1, height, width, 1))
        assert image.dtype == disparity.dtype == np.float32


def fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of a protobuf message's varints and length-delimited fields."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        length = varint()
        if tag & 7 == 0:
            yield tag >> 3, length
        else:
            assert tag & 7 == 2
            at += length
            yield tag >> 3, message[at - length : at]


def test_the_core_ml_package_takes_an_image_and_gives_float32() -> None:
    """Model.proto and FeatureTypes.proto of coremltools: numbers of fields."""
    package = CONTENT.package(CONTENT.find("coreml", "fp16"))
    model = dict(fields(package["Data/com.apple.CoreML/model.mlmodel"]))
    ports = {
        dict(fields(port))[1].decode(): dict(fields(dict(fields(port))[3]))
        for number, port in fields(model[2])
        if number in (1, 10)
    }
    image, array = 4, 5  # imageType, multiArrayType
    assert dict(fields(ports["image"][image]))[3] == RGB
    assert dict(fields(ports["disparity"][array]))[2] == FLOAT32
    assert ports.keys() == {"image", "disparity"}


def test_golden_npz_is_as_the_apps_read_it() -> None:
    """Both: float32 in C order, version 1.0, an image of 8 bits. Swift: stored, no comment at the
    zip's end. Kotlin: sizes before the data, not behind it."""
    data = CONTENT.files[golden.FILE]
    assert data[-22:-18] == b"PK\x05\x06"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            assert member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 8
            body = archive.read(member)
            header = body[10 : 10 + int.from_bytes(body[8:10], "little")].decode()
            assert body[:8] == b"\x93NUMPY\x01\x00"
            assert "'descr': '<f4'" in header and "'fortran_order': False" in header
    image = golden.read(CONTENT)["disparity"].inputs["image"] * 255
    assert np.abs(image - image.round()).max() < 1e-4


def test_the_pages_give_commands_for_what_the_apps_want() -> None:
    for app, form in (("ios", "coreml"), ("android", "tflite")):
        page = (EXAMPLES / app / "README.md").read_text()
        assert f"--to {form} --precision fp16 --refocus 512" in page
        assert "neither built nor run" in page
        assert "-o camera.argan" in page and "camera" in source(app, ".swift", ".kt")
