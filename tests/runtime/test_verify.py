"""The gate: what is right passes, what is wrong is named, what can't be read is refused.

The models here are those of formats.argan: luminance under a small blot, in ONNX and TFLite. Faults
are planted in the bytes of their one kernel. Trained networks have theirs in tests/export.
"""

import copy
import io
import json
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from argan import backends, bundle, golden, metrics, photo, scenes, weights
from argan.backends import tflite
from argan.cli import main
from argan.errors import BundleError, InputError, MissingFileError
from argan.refocus import Refocuser
from argan.verify import Limits, diagnose, limits, report, verify

DATA = Path(__file__).parents[1] / "data"
FORMATS = bundle.read(DATA / "formats.argan")
RNG = np.random.default_rng(7)
# Sizes that every variant takes, but for tflite-refocus; levels that eight bits have.
IMAGE = (RNG.integers(256, size=(1, 3, 64, 96)) / 255).astype(np.float32)
ONNX = "model.fp32.onnx"
needs_tflite = pytest.mark.skipif(
    backends.missing("tflite") is not None, reason="no TFLite interpreter"
)


def kernel(data: bytes, format: str = "onnx") -> weights.Weight:
    return next(w for w in weights.read(data, format) if "kernel" in w.name)


KERNEL = weights.values(FORMATS.files[ONNX], kernel(FORMATS.files[ONNX]))  # [1, 3, 3, 3]


def convolved(image, by=KERNEL):
    """Edges see zeros."""
    wide = np.pad(image[0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), axis=(1, 2))
    return np.einsum("cyxij,cij->yx", windows, by[0])[None, None].astype(np.float32)


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def expected(image=IMAGE, focus=0.3, blur=0.5) -> dict[str, np.ndarray]:
    square = image[..., :64]
    return {
        "image": image, "disparity": convolved(image), "refocus_image": square,
        "focus": np.float32([focus]), "blur": np.float32([blur]),
        "bokeh": blur * square + np.float32(focus), "refocus_disparity": convolved(square),
    }  # fmt: skip


GOLDEN = expected()
ALL = ("onnx-fp32", "onnx-refocus", "tflite-fp32", "tflite-int8", "tflite-refocus")


def made(*names: str, **files: bytes | None) -> tuple[dict, dict[str, bytes]]:
    """A manifest with these variants, and files: those of formats.argan, but for `files`."""
    manifest = copy.deepcopy(FORMATS.manifest)
    manifest["variants"] = {name: manifest["variants"][name] for name in names}
    if not any("refocus" in name for name in names):
        manifest["refocus"] = None
    kept = {v["file"]: FORMATS.files[v["file"]] for v in manifest["variants"].values()}
    changed = {"golden.npz": npz(**GOLDEN)} | {k.replace("__", "."): v for k, v in files.items()}
    everything = kept | changed
    return manifest, {name: data for name, data in everything.items() if data is not None}


def checked(*names: str, **files: bytes | None):
    return verify(bundle.assemble(*made(*names, **files)), threads=1)


def edited(edit, data: bytes = FORMATS.files[ONNX]) -> bytes:
    """A model with another kernel."""
    at = kernel(data).at
    changed = np.ascontiguousarray(edit(KERNEL.copy()), np.float32).tobytes()
    return data[: at.start] + changed + data[at.stop :]


def said(found) -> dict[str, list[str]]:
    return {r.variant.name: [fault.name for fault in r.faults] for r in found.results}


# ---------------------------------------------------------------- what is right


@needs_tflite
def test_every_variant_passes_and_is_measured():
    found = checked(*ALL)
    assert found.passed, list(report.remarks(found))
    assert found.reference == {"disparity": "onnx-fp32", "refocus": "onnx-refocus"}
    results = {r.variant.name: r for r in found.results}
    assert results.keys() == set(ALL)
    for name, result in results.items():
        outputs = {"disparity", "bokeh"} if "refocus" in name else {"disparity"}
        assert result.golden.keys() == outputs
        for gap in result.golden.values():
            assert (gap["psnr_db"] > 110) == ("int8" not in name)
            assert gap["spearman"] > 0.999
            assert gap["max_abs"] < (0.02 if "int8" in name else 1e-5)
    assert results["tflite-int8"].dtypes == {"int8": 27, "int32": 4}
    assert results["onnx-fp32"].dtypes == {"float32": 108}
    kernels = [c for c in results["tflite-fp32"].checks if c.name == "kernels"]
    assert kernels and kernels[0].passed, "XNNPACK took the graph"


def test_a_gap_by_hand():
    shifted = npz(**GOLDEN | {"disparity": GOLDEN["disparity"] + 0.01})
    gap = checked("onnx-fp32", golden__npz=shifted).results[0].golden["disparity"]
    assert gap["psnr_db"] == pytest.approx(20 * np.log10(0.5 / 0.01), abs=1e-3)  # lo 0, hi 0.5
    assert gap["max_abs"] == pytest.approx(0.02, rel=1e-3)
    deviation = float(np.std(GOLDEN["disparity"].astype(float)))
    assert gap["snr_db"] == pytest.approx(20 * np.log10(deviation / 0.01), abs=1e-3)
    assert gap["spearman"] == pytest.approx(1)


def test_signal_ratios_by_hand():
    a, b = np.float32([0, 1, 2, 3]), np.float32([0, 1, 2, 5])
    assert metrics.psnr(a, b) == pytest.approx(0)  # mean square error 1
    assert metrics.psnr(a, b, peak=10) == pytest.approx(20)
    assert metrics.snr(a, b) == pytest.approx(10 * np.log10(np.var(b)))
    assert metrics.psnr(a, a) == metrics.snr(a, a) == metrics.MOST_DB
    assert metrics.psnr(np.float32([np.nan]), np.float32([0])) == -metrics.MOST_DB


@needs_tflite
def test_a_golden_file_of_another_size_is_passed_on_by_the_reference():
    wide = expected(IMAGE.repeat(2, axis=2).repeat(2, axis=3))  # 128x192: no TFLite size
    found = checked("onnx-fp32", "tflite-fp32", golden__npz=npz(**wide))
    assert found.passed
    assert found.results[1].pictures["got"].shape == (1, 1, 64, 96)
    # Also where the one that takes it comes later in the manifest's order, being less exact.
    manifest, files = made("onnx-fp32", "tflite-fp32", golden__npz=npz(**wide))
    manifest["variants"]["onnx-fp32"]["precision"] = "fp16"
    found = verify(bundle.assemble(manifest, files), threads=1)
    assert {r.variant.name: r.passed for r in found.results}["tflite-fp32"]
    alone = checked("tflite-fp32", golden__npz=npz(**wide))
    assert not alone.passed and not alone.results[0].faults


def test_without_a_golden_file_nothing_is_proved():
    found = checked("onnx-fp32", golden__npz=None)
    assert not found.passed and [c.name for c in found.checks] == ["golden.npz"]
    assert found.results[0].passed, "it ran all the same"


# ---------------------------------------------------------------- what is wrong

BAD_KERNELS = {
    "channels swapped": (lambda k: k[:, ::-1], "wrong channel order"),
    "channels turned": (lambda k: k[:, [1, 2, 0]], "wrong channel order"),
    "sign flipped": (lambda k: -k, "wrong sign"),
    "0..255 fed to 0..1": (lambda k: k * 255, "wrong input range"),
    "0..1 fed to 0..255": (lambda k: k / 255, "wrong input range"),
    "swapped and negated": (lambda k: -k[:, ::-1], "wrong channel order and wrong sign"),
    "10 % too strong": (lambda k: k * 1.1, "wrong output scale"),  # a single layer, and linear
    "all zero": (lambda k: k * 0, diagnose.TRUNCATED),
    "nothing but the last bit": (lambda k: k * 1e-9, "constant"),
    "NaN": (lambda k: k * np.nan, "NaN"),
    "another model's": (lambda k: np.roll(k, 1, axis=2)[:, [2, 0, 1]] ** 2, diagnose.OTHER_GOLDEN),
}


@pytest.mark.parametrize("kind", BAD_KERNELS)
def test_faults_are_named(kind):
    edit, name = BAD_KERNELS[kind]
    found = checked("onnx-fp32", model__fp32__onnx=edited(edit))
    assert not found.passed and said(found) == {"onnx-fp32": [name]}


@needs_tflite
def test_another_models_golden_file_is_told_by_two_that_agree():
    other = npz(**GOLDEN | {"disparity": convolved(IMAGE, KERNEL[:, :, ::-1, ::-1] ** 2)})
    found = checked("onnx-fp32", "tflite-fp32", golden__npz=other)
    for result in found.results:
        assert [f.name for f in result.faults] == [diagnose.OTHER_GOLDEN]
        assert re.search(r"dB to (onnx|tflite)-fp32", result.faults[0].detail)


@needs_tflite
def test_a_layer_off_by_10_percent_below_the_noise_of_8_bits_is_named():
    """The scale of the int8 kernel: the limit is lowered, so that only the weights show it."""
    good = FORMATS.files["model.int8.tflite"]
    data = weights.scaled(good, kernel(good, "tflite"), 1.1)
    manifest, files = made("onnx-fp32", "tflite-int8", **{"model__int8__tflite": data})
    content = bundle.assemble(manifest, files)
    found = verify(content, Limits({"fp32": 110, "int8-io": 10}), threads=1)
    assert [f.name for f in found.results[1].faults] == [diagnose.LAYER]
    assert re.search("1.(10|09). times onnx-fp32's", found.results[1].faults[0].detail)


@pytest.mark.parametrize(
    "edit, name",
    [
        (lambda bokeh, image: bokeh[:, ::-1], "wrong channel order"),
        (lambda bokeh, image: bokeh * 2, "wrong output scale"),
        (lambda bokeh, image: bokeh[:, :, ::-1], "the renderer"),
    ],
)
def test_a_renderer_that_is_wrong_though_the_disparity_is_right(edit, name):
    """What golden.npz expects is edited: to the check it is the same."""
    bokeh = edit(GOLDEN["bokeh"], GOLDEN["refocus_image"]) + RNG.normal(0, 1e-3, (1, 3, 64, 64))
    golden_file = npz(**GOLDEN | {"bokeh": bokeh.astype(np.float32)})
    found = checked("onnx-fp32", "onnx-refocus", golden__npz=golden_file)
    assert said(found) == {"onnx-fp32": [], "onnx-refocus": [name]}


def test_maps_that_show_at_once_what_is_wrong():
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    assert diagnose.appearance(ramp[..., :4], ramp).name == "wrong size"
    assert diagnose.appearance(ramp * 0, ramp).name == "all-zero"
    assert diagnose.appearance(ramp, ramp) is None
    suspect = {
        "run": lambda image: np.minimum(ramp, 0.4), "image": np.zeros((1, 3, 8, 8), np.float32),
        "got": np.minimum(ramp, 0.4), "expected": ramp, "limit": 40.0, "precision": "fp32",
        "reference": None, "likeness": 1.0, "ally": "", "file": b"", "format": "coreml",
        "reload": None,
    }  # fmt: skip
    assert diagnose.diagnose(diagnose.Suspect(**suspect)).name == "saturated"


def test_floats_called_int8_are_not_quantised():
    manifest, files = made("onnx-fp32")
    fake = manifest["variants"]["onnx-fp32"] | {"precision": "int8", "file": "model.int8.onnx"}
    manifest["variants"]["onnx-int8"] = fake
    files["model.int8.onnx"] = files[ONNX]
    found = verify(bundle.assemble(manifest, files), threads=1)
    assert said(found)["onnx-int8"] == [
        "not actually quantised", "fell back to reference kernels"
    ]  # fmt: skip


def test_a_file_that_is_too_large_is_not_quantised():
    padded = made("onnx-fp32")
    manifest, files = padded
    fake = manifest["variants"]["onnx-fp32"] | {"precision": "fp16", "file": "model.fp16.onnx"}
    manifest["variants"]["onnx-fp16"] = fake
    # An unknown field of a protobuf message may hold anything.
    files["model.fp16.onnx"] = files[ONNX] + b"\xfa\x3f\x80\xe2\x09" + bytes(160_000)
    sizes = [
        check for result in verify(bundle.assemble(manifest, files), threads=1).results
        for check in result.checks if check.name == "file size"
    ]  # fmt: skip
    assert [check.passed for check in sizes] == [False]


@needs_tflite
def test_a_graph_that_no_delegate_took_fell_back(monkeypatch):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    def bare(**options):
        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        return Interpreter(experimental_op_resolver_type=plain, **options)

    monkeypatch.setattr(tflite, "_interpreter", lambda: bare)
    assert said(checked("tflite-fp32")) == {"tflite-fp32": ["fell back to reference kernels"]}


def test_models_that_do_not_load_or_run():
    cut = FORMATS.files[ONNX][:-40]
    found = checked("onnx-fp32", model__fp32__onnx=cut)
    assert said(found) == {"onnx-fp32": [diagnose.TRUNCATED]} and not found.passed
    found = checked("onnx-fp32", model__fp32__onnx=b"no model")
    assert said(found) == {"onnx-fp32": ["does not load"]} and not found.passed
    gone = FORMATS.files[ONNX].replace(b"Conv", b"Cono")
    found = checked("onnx-fp32", model__fp32__onnx=gone)
    assert said(found) == {"onnx-fp32": ["does not load"]}


# ---------------------------------------------------------------- what is not checked


def test_what_can_not_run_here_is_listed_and_fails_only_where_required(monkeypatch):
    monkeypatch.setattr(tflite, "PACKAGES", ("no_such_interpreter",))
    content = bundle.assemble(*made("onnx-fp32", "tflite-fp32"))
    found = verify(content, threads=1)
    assert found.passed
    assert 'pip install "argan[tflite]"' in found.results[1].not_checked
    for name, passes in {
        "onnx": True, "onnx-fp32": True, "all": False, "tflite": False, "tflite-fp32": False,
        "coreml": False,
    }.items():  # fmt: skip
        assert verify(content, Limits(require=(name,)), threads=1).passed == passes, name


# ---------------------------------------------------------------- photos


@pytest.fixture
def folder(tmp_path):
    """Two photos, one with truth: what the model makes of it, squeezed."""
    where = tmp_path / "photos"
    (where / "more").mkdir(parents=True)
    pixels = (IMAGE[0].transpose(1, 2, 0) * 255).round().astype(np.uint8)
    smooth = np.asarray(Image.fromarray(pixels).resize((12, 8)).resize((96, 64)))
    Image.fromarray(smooth).save(where / "a.png")
    Image.fromarray(smooth[:, ::-1]).save(where / "more" / "b.png")
    truth = convolved((smooth.transpose(2, 0, 1)[None] / 255).astype(np.float32))[0, 0] + 0.1
    truth[:4] = np.nan
    np.save(where / "a_depth.npy", truth)
    return where


@needs_tflite
def test_photos_with_and_without_truth(folder):
    manifest, files = made("onnx-fp32", "tflite-fp32", "tflite-int8")
    content = bundle.assemble(manifest, files)
    # The truth is nearly what the reference gives: of so small an AbsRel int8 loses 12 %.
    limits = Limits(max_drop={"delta1": 0.01, "abs_rel": 0.2})
    found = verify(content, limits, scenes.read(folder), threads=1)
    assert found.passed and found.photos == (2, 1)
    html = report.to_html(found).decode()
    assert html.count("<h3>the photo farthest") == 2, "the reference has none"
    fp32, int8 = found.results[1].photos, found.results[2].photos
    assert fp32["psnr_db"] > 100 > int8["psnr_db"] > 35
    assert fp32["bokeh_psnr_db"] > int8["bokeh_psnr_db"] > 40
    assert int8["worst_db"] <= int8["psnr_db"]
    assert fp32["delta1"] == fp32["reference delta1"] > 0.9
    assert abs(int8["abs_rel lost"]) < 0.2
    strict = Limits(max_drop={"delta1": -1, "abs_rel": -1}, min_bokeh_psnr=200)
    found = verify(content, strict, scenes.read(folder), threads=1)
    failed = [check.name for check in found.results[2].checks if not check.passed]
    assert failed == ["bokeh of photos", "delta1 lost", "abs_rel lost"]


def test_what_is_lost_of_the_truth_by_hand(folder):
    """PyTorch's stand-in is a network that sees nothing."""

    class Blind:
        def run(self, inputs):
            height, width = inputs["image"].shape[2:]
            ramp = np.linspace(0, 1, height * width, dtype=np.float32)
            return {"disparity": ramp.reshape(1, 1, height, width)}

    content = bundle.assemble(*made("onnx-fp32"))
    against = Refocuser(content, Blind())
    found = verify(content, scenes=scenes.read(folder), against=against, threads=1)
    photos = found.results[0].photos
    assert found.reference["disparity"] == "PyTorch"
    assert photos["delta1 lost"] == photos["reference delta1"] - photos["delta1"] < 0
    ratio = photos["abs_rel"] / photos["reference abs_rel"]
    assert photos["abs_rel lost"] == pytest.approx(ratio - 1) and ratio < 0.6
    golden_check = found.checks[0]
    assert not golden_check.passed and diagnose.OTHER_GOLDEN in golden_check.measured
    itself = Refocuser(content, backends.open_variant(content, content.variants[0]))
    assert verify(content, against=itself, threads=1).passed


def test_truth_in_a_png_and_in_an_index(tmp_path):
    pixels, depth = np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 500, np.uint16)
    depth[0, 0] = 0
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    photo.save_disparity(tmp_path / "a_depth.png", np.arange(24.0).reshape(4, 6))
    (scene,) = scenes.read(tmp_path)
    np.testing.assert_allclose(scene.truth.disparity, np.arange(24.0).reshape(4, 6), atol=1e-3)
    assert scene.truth.valid.sum() == 23 and not scene.truth.valid[0, 0]
    assert scene.truth.ratios, "the least that is known is above zero"
    index = {"b": {"type": "depth", "scale": 0.001, "offset": 0.0}}
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("index.json", json.dumps(index))
        for name, array in (("image", pixels), ("gt", depth)):
            buffer = io.BytesIO()
            Image.fromarray(array).save(buffer, "PNG")
            archive.writestr(f"b/{name}.png", buffer.getvalue())
    (scene,) = scenes.read(tmp_path / "set.zip")
    np.testing.assert_allclose(scene.truth.disparity[scene.truth.valid], 2.0)  # 0.5 m
    assert (scene.name, scene.truth.valid.sum(), scene.truth.ratios) == ("b", 23, True)


BAD_DATA = {
    "nothing there": (lambda d: d / "gone", MissingFileError, "does not exist"),
    "no photos": (lambda d: d / "empty", InputError, "holds no"),
    "a text": (lambda d: d / "text.txt", InputError, "neither a folder"),
    "a zip of no set": (lambda d: d / "x.zip", InputError, "without index.json"),
    "truth of another size": (lambda d: d / "odd", InputError, "give both one size"),
    "truth that is pickled": (lambda d: d / "pickled", InputError, "no .npy of numbers"),
    "an index without its files": (lambda d: d / "index", InputError, "no image or no gt"),
    "an index that is no JSON": (lambda d: d / "broken", InputError, "damaged"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data(kind, tmp_path):
    for name in ("empty", "odd", "pickled", "index", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "text.txt").write_text("no")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", "b")
    for name in ("odd", "pickled"):
        Image.new("RGB", (6, 4)).save(tmp_path / name / "a.png")
    np.save(tmp_path / "odd" / "a_depth.npy", np.zeros((4, 5)))
    np.save(tmp_path / "pickled" / "a_depth.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "index" / "index.json").write_text('{"a": {}}')
    (tmp_path / "broken" / "index.json").write_text("{")
    where, error, message = BAD_DATA[kind]
    with pytest.raises(error, match=message):
        list(scenes.read(where(tmp_path)))


# ---------------------------------------------------------------- golden.npz

PICKLED = io.BytesIO()
np.save(PICKLED, np.array([print], object), allow_pickle=True)


def header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def zipped(name: str, body: bytes, how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        archive.writestr(name, body)
    return buffer.getvalue()


BAD_GOLDEN = {
    "no zip": (b"PK", "can't be read"),
    "pickled objects": (zipped("image.npy", PICKLED.getvalue()), "can't be read"),
    "huge shape": (zipped("image.npy", header("(1, 3, 1000000, 1000000)")), "its size is not"),
    "negative shape": (zipped("image.npy", header("(-1, -4)") + bytes(16)), "can't be read"),
    "deep shape": (zipped("image.npy", header("(" * 3000)), "can't be read"),
    "other type": (zipped("image.npy", header("(4,)", "'<f8'") + bytes(32)), "not float32"),
    "turned bytes": (zipped("image.npy", header("(4,)", "'>f4'") + bytes(16)), "not float32"),
    "no array": (zipped("image.npy", b"text"), "can't be read"),
    "bomb": (zipped("image.npy", bytes(golden.MAX_BYTES + 1), zipfile.ZIP_DEFLATED), "MiB"),
    "no disparity": (npz(image=IMAGE), "no 'disparity'"),
    "shape of another": (npz(**GOLDEN | {"disparity": GOLDEN["disparity"][:, 0]}), "of shape"),
    "four channels": (npz(**GOLDEN | {"image": IMAGE.repeat(2, 1)}), "of shape"),
    "a scalar": (npz(**GOLDEN | {"image": np.float32(1)}), "an image of shape"),
    "no pixels": (npz(**GOLDEN | {"image": IMAGE[:, :, :0]}), "an image of shape"),
    "NaN": (npz(**GOLDEN | {"disparity": GOLDEN["disparity"] * np.nan}), "NaN"),
    "0 to 255": (npz(**GOLDEN | {"image": IMAGE * 255}), "not 0 to 1"),
}


@pytest.mark.parametrize("kind", BAD_GOLDEN)
def test_hostile_golden_files(kind):
    data, message = BAD_GOLDEN[kind]
    manifest, files = made("onnx-fp32", golden__npz=data)
    with pytest.raises(BundleError, match=message) as caught:
        golden.read(bundle.assemble(manifest, files))
    assert "\n" not in str(caught.value) and "golden.npz" in str(caught.value)


def test_golden_without_what_the_refocus_graph_needs():
    manifest, files = made("onnx-refocus", golden__npz=npz(image=IMAGE, disparity=convolved(IMAGE)))
    with pytest.raises(BundleError, match="no 'blur'"):
        golden.read(bundle.assemble(manifest, files))


def test_flipped_bytes_of_a_golden_file_are_refused_or_harmless():
    small = npz(image=IMAGE[..., :2, :2], disparity=GOLDEN["disparity"][..., :2, :2])
    for at in range(len(small)):
        data = small[:at] + bytes([small[at] ^ 0x41]) + small[at + 1 :]
        try:
            example = golden.read(bundle.assemble(*made("onnx-fp32", golden__npz=data)))
        except BundleError:
            continue
        np.testing.assert_array_equal(example["disparity"].inputs["image"], IMAGE[..., :2, :2])


# ---------------------------------------------------------------- weights in a file


def test_weights_of_both_formats():
    data = FORMATS.files["model.fp32.tflite"]
    for format, file in (("onnx", FORMATS.files[ONNX]), ("tflite", data)):
        found = kernel(file, format)
        values = weights.values(file, found)
        layout = values if format == "onnx" else values.transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(layout, KERNEL)
        doubled = weights.scaled(file, found, 2.0)
        np.testing.assert_array_equal(weights.values(doubled, found), 2 * values)
        assert len(doubled) == len(file)
    data = FORMATS.files["model.int8.tflite"]
    found = kernel(data, "tflite")
    values = weights.values(data, found)
    np.testing.assert_allclose(values.transpose(0, 3, 1, 2), KERNEL, atol=KERNEL.max() / 127)
    np.testing.assert_allclose(
        weights.values(weights.scaled(data, found, 2.0), found), 2 * values, rtol=1e-6
    )


@pytest.mark.parametrize("file", [ONNX, "model.fp32.tflite", "model.int8.tflite"])
def test_damaged_model_files_are_refused_or_read(file):
    data, format = FORMATS.files[file], file.rpartition(".")[2]
    for at in range(len(data)):
        for damaged in (data[:at], data[:at] + bytes([data[at] ^ 0xA5]) + data[at + 1 :]):
            try:
                for weight in weights.read(damaged, format):
                    weights.values(damaged, weight)
            except BundleError as error:
                assert "\n" not in str(error)


def test_a_table_of_blobs():
    """As coremltools writes them: 64 bytes of header, 64 before each blob, 64-byte steps."""
    blobs = [(1, bytes(10)), (4, bytes(100))]
    data = (2).to_bytes(4, "little") + (2).to_bytes(4, "little") + bytes(56)
    for kind, body in blobs:
        start = len(data) + 64
        data += (0xDEADBEEF).to_bytes(4, "little") + kind.to_bytes(4, "little")
        data += len(body).to_bytes(8, "little") + start.to_bytes(8, "little") + bytes(40) + body
        data += bytes(-len(data) % 64)
    package = {"Data/com.apple.CoreML/weights/weight.bin": data, "Manifest.json": b"{}"}
    assert weights.census(package, "coreml") == {"float16": 10, "int8": 100}
    with pytest.raises(BundleError, match="weights of the package"):
        weights.census({"weight.bin": data[:150]}, "coreml")


# ---------------------------------------------------------------- limits


def test_flags_come_before_the_table_and_the_table_before_the_defaults(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text(
        "[tool.argan.verify]\nmin-psnr = {int8 = 42, fp16 = 50}\nmin-bokeh-psnr = 33\n"
        "max-drop = {delta1 = 0.05}\nrequire = 'all'\n"
    )
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    table, source = limits.find_table(None)
    assert source == tmp_path / "pyproject.toml"
    got = limits.read(table, min_psnr=["int8=43"], max_drop=["abs_rel=0.5"])
    assert (got.min_psnr["int8"], got.min_psnr["fp16"], got.min_psnr["fp32"]) == (43, 50, 110)
    assert got.max_drop == {"delta1": 0.05, "abs_rel": 0.5}
    assert (got.min_bokeh_psnr, got.require) == (33, ("all",))
    assert set(limits.read({"min-psnr": 30}).min_psnr.values()) == {30}
    assert set(limits.read(table, min_psnr=["20"]).min_psnr.values()) == {20}
    assert limits.read({}, min_bokeh_psnr=1.0, require=["onnx"]).require == ("onnx",)


BAD_TABLES = {
    "min-psnr = {fp8 = 4}": "min-psnr fp8",
    "min-psnr = 'x'": "give a number",
    "min-psnr = true": "give a number",
    "min-psnr = nan": "give a number",
    "max-drop = 3": "give a table",
    "max-drop = {ssim = 1}": "max-drop ssim",
    "min-bokeh-psnr = []": "give a number",
    "minpsnr = 4": "no key 'minpsnr'",
    "min-psnr = {": "no TOML",
}


@pytest.mark.parametrize("text", BAD_TABLES)
def test_bad_tables(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").write_text(f"[tool.argan.verify]\n{text}\n")
    with pytest.raises(InputError, match=BAD_TABLES[text]):
        limits.read(limits.find_table(None)[0])
    Path("other.toml").write_text("[tool.other]\n")
    with pytest.raises(InputError, match="no table"):
        limits.find_table(Path("other.toml"))


# ---------------------------------------------------------------- the report


class Page(HTMLParser):
    """Tags that are open, what an outside resource would be, pictures without words."""

    VOID = ("meta", "img", "path", "rect", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open, self.outside, self.mute, self.text = [], [], [], ""

    def handle_starttag(self, tag, attributes):
        fields = dict(attributes)
        links = [v for k, v in attributes if k in ("src", "href", "data", "srcset", "action")]
        self.outside += [v for v in links if not v.startswith("data:")]
        self.outside += [tag] * (tag in ("script", "link", "iframe", "object", "base"))
        words = {"img": "alt", "svg": "aria-label"}.get(tag)
        if words and not fields.get(words):
            self.mute.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text += data


HOSTILE = "<script>alert(1)</script>\x1b[31m\x00&\"'"


def test_reports_hold_everything_and_nothing_from_outside():
    search = {"layers": {"stem<b>": 41.5, "head": 60, "x": float("inf")}, "kept": ["head"]}
    quantization = json.dumps({"variants": {"onnx-fp32": search}}).encode()
    manifest, files = made("onnx-fp32", "onnx-refocus", model__fp32__onnx=edited(lambda k: -k))
    manifest["name"] = HOSTILE
    files["quantization.json"] = quantization
    found = verify(bundle.assemble(manifest, files), Limits(require=("coreml",)), threads=1)
    page = Page()
    page.feed(report.to_html(found).decode())
    assert (page.open, page.outside, page.mute) == ([], [], [])
    for words in ("FAILED", "wrong sign", "onnx-refocus", "stem<b>", "41.5 dB", "kept in float"):
        assert words in page.text, words
    assert report.to_html(found).count(b"data:image/png") == 4 + 6  # a bokeh has two more
    data = json.loads(report.to_json(found))
    assert (data["passed"], data["bundle"]) == (False, HOSTILE)
    assert data["variants"][0]["faults"][0]["name"] == "wrong sign"
    assert data["variants"][0]["golden"]["disparity"]["psnr_db"] < 20
    suites = ElementTree.fromstring(report.to_junit(found))
    failed = [case for case in suites.iter("testcase") if case.find("failure") is not None]
    assert {case.get("name") for case in failed} == {
        "required: coreml", "disparity on golden.npz", "wrong sign"
    }  # fmt: skip
    for suite in suites:
        assert int(suite.get("tests")) == len(suite)
        assert int(suite.get("failures")) == len(suite.findall("testcase/failure"))
    lines = [*report.remarks(found), report.title(found)]
    assert all(line.isprintable() for line in lines)


STRANGE = ("[]", "{", '{"variants": 3}', '{"variants": {"a": {}}}',
           '{"variants": {"a": {"layers": {"b": "c"}}}}', "[" * 99999)  # fmt: skip


@pytest.mark.parametrize("text", STRANGE)
def test_a_strange_quantization_json_is_not_shown(text):
    found = checked("onnx-fp32", quantization__json=text.encode())
    assert b"<h3>layers" not in report.to_html(found)


def test_what_was_not_checked_is_skipped_in_junit(monkeypatch):
    monkeypatch.setattr(tflite, "PACKAGES", ("no_such_interpreter",))
    suites = ElementTree.fromstring(report.to_junit(checked("onnx-fp32", "tflite-fp32")))
    assert [s.get("skipped") for s in suites] == ["0", "0", "1"]
    assert "pip install" in suites[2].find("testcase/skipped").get("message")


# ---------------------------------------------------------------- the command line


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundle.write("good.argan", *made("onnx-fp32", "onnx-refocus"))
    bundle.write("bad.argan", *made("onnx-fp32", model__fp32__onnx=edited(lambda k: k[:, ::-1])))
    return tmp_path


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_exit_codes_and_outputs(here, capsys):
    bundle.write("one.argan", *made("onnx-fp32"))
    assert main(["verify", "one.argan", "--json", "o.json", "--junit", "o.xml", "--html", "o.html",
                 "--threads", "1"]) == 0  # fmt: skip
    assert capsys.readouterr().out.endswith("passed\n")
    speed = json.loads(Path("o.json").read_text())["variants"][0]["speed"]
    assert 0 < speed["p50_ms"] <= speed["p95_ms"]
    assert Path("o.html").read_bytes().startswith(b"<!doctype html>")
    ElementTree.parse("o.xml")
    assert main(["verify", "bad.argan", "--no-speed", "--html", "bad.html"]) == 1
    out = capsys.readouterr().out
    assert "FAILED: onnx-fp32: wrong channel order: " in out and out.endswith("FAILED\n")
    assert b"wrong channel order" in Path("bad.html").read_bytes()
    lenient = ["verify", "bad.argan", "--no-speed", "--min-psnr", "fp32=5"]
    assert main(lenient) == 0
    assert main([*lenient, "--require", "onnx,coreml"]) == 1


def test_several_bundles(here, capsys):
    command = ["verify", "good.argan", "bad.argan", "--no-speed"]
    assert main(command) == 1
    assert capsys.readouterr().out.count("FAILED\n") == 1
    assert main(["verify", "good.argan", "gone.argan", "good.argan", "--no-speed"]) == 1
    out, err = capsys.readouterr()
    assert out.count("passed\n") == 2 and err.count("\n") == 1, "the rest go on"
    assert main(["verify", "good.argan", "good.argan", "--no-speed"]) == 0
    assert main([*command, "--json", "o.json"]) == 2


def test_a_model_of_ones_own_is_run_and_has_no_golden_file(here, capsys):
    Path("foreign.onnx").write_bytes(FORMATS.files["foreign.onnx"])
    Path("foreign.toml").write_text(
        "model = 'foreign.onnx'\noutput = 'disparity'\nlayout = 'NCHW'\nsize = 64\n"
    )
    assert main(["verify", "foreign.toml", "--no-speed", "--html", "o.html"]) == 0
    assert "ok: golden.npz: there is none" in capsys.readouterr().out


def test_the_table_of_a_project_holds(here, capsys):
    Path("pyproject.toml").write_text("[tool.argan.verify]\nrequire = ['coreml']\n")
    assert main(["verify", "good.argan", "--no-speed"]) == 1
    assert "required: coreml: the bundle has none" in capsys.readouterr().out
    assert main(["verify", "good.argan", "--no-speed", "--require", "onnx"]) == 0
    Path("other.toml").write_text("[tool.argan.verify]\ndata = 'gone'\n")
    assert main(["verify", "good.argan", "--no-speed", "--config", "other.toml"]) == 2


def hostile(here: Path) -> dict[str, tuple[list[str], str]]:
    """Arguments, and a part of the message."""
    good = Path("good.argan").read_bytes()
    at = good.index(b"Conv")
    Path("flipped.argan").write_bytes(good[:at] + b"Cono" + good[at + 4 :])
    Path("cut.argan").write_bytes(good[:-300])
    Path("link.argan").symlink_to("/etc/passwd")
    with zipfile.ZipFile("bomb.argan", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bundle.json", b"{}")
        archive.writestr("bomb", bytes(10_000_000))
    with zipfile.ZipFile("climbs.argan", "w") as archive:
        archive.writestr("../out", b"")
    manifest, content = made("onnx-fp32")
    variants = {
        "future": ({"schema": 99}, "newer argan"),
        "huge": ({"inputs": [manifest["inputs"][0] | {"shape": [1, 3, 10**9, 10**9]}]}, "sides"),
        "gone": ({"variants": {"x": manifest["variants"]["onnx-fp32"] | {"file": "x.onnx"}}}, "x"),
    }
    fingerprints = json.loads(zipfile.ZipFile("good.argan").read("bundle.json"))["files"]
    for name, (change, _) in variants.items():
        listed = {file: fingerprints[file] for file in content}
        whole = manifest | {"schema": 2, "argan": "0", "files": listed}
        with zipfile.ZipFile(f"{name}.argan", "w") as archive:
            archive.writestr("bundle.json", json.dumps(whole | change))
            for file, data in content.items():
                archive.writestr(file, data)
    bundle.write("pickled.argan", *made("onnx-fp32", golden__npz=BAD_GOLDEN["pickled objects"][0]))
    bundle.write("shape.argan", *made("onnx-fp32", golden__npz=BAD_GOLDEN["huge shape"][0]))
    Path("folder").mkdir()
    return {
        "flipped.argan": ([], "Bad CRC-32"), "cut.argan": ([], "bundle.json"),
        "link.argan": ([], "not a whole zip"), "bomb.argan": ([], "compressed"),
        "climbs.argan": ([], "forbidden name"), "gone": ([], "no bundle"),
        "pickled.argan": ([], "golden.npz can't be read"), "shape.argan": ([], "its size is not"),
        "folder": ([], "no bundle.json"),
        **{f"{name}.argan": ([], message) for name, (_, message) in variants.items()},
        "good.argan": (["--min-psnr", "int9=4"], "min-psnr int9"),
        "./good.argan": (["--json", "good.argan"], "is an input"),
        ".//good.argan": (["--html", "no/such/o.html"], "not a directory"),
        "./././good.argan": (["--data", "folder"], "holds no"),
        "././good.argan": (["--against", "folder"], ""),
    }  # fmt: skip


def test_what_can_not_be_read_is_refused_in_one_line_and_nothing_is_written(here, capsys):
    for name, (options, message) in hostile(here).items():
        before = files()
        outputs = ["--json", "o.json"] if "--json" not in options else []
        assert main(["verify", name, *outputs, *options]) == 2, name
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("argan: ") and err.count("\n") == 1, err
        assert message in err and "a bug" not in err, err
        assert files() == before, name
