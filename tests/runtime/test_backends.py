import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import argan
from argan import backends, bundle
from argan.backends import Port, canonical, tflite
from argan.errors import BundleError, InputError, MissingExtraError, ShapeError
from argan.refocus import network_size

FORMATS = Path(__file__).parents[1] / "data" / "formats.argan"  # made by make_formats.py
CONTENT = bundle.read(FORMATS)
VARIANTS = {variant.name: variant for variant in CONTENT.variants}
RNG = np.random.default_rng(0)
PREDECESSOR = "tflite_runtime.interpreter"
INTERPRETERS = [p for p in tflite.PACKAGES if importlib.util.find_spec(p.partition(".")[0])]

# Largest gaps seen: 1.8e-7; 1.9e-3, half a step of 8 bits; 6.7e-3, 1.6 steps of the int8 answer.
TOLERANCE = {"fp32": 1e-6, "onnx-uint8": 2.5e-3, "tflite-int8": 9e-3}


def opened(name: str, content: bundle.Bundle = CONTENT, **changed: object) -> backends.Backend:
    variant = dataclasses.replace(VARIANTS[name], **changed)
    if why := backends.missing(variant.format):
        pytest.skip(why)
    return backends.open_variant(content, variant, threads=1)


def image(height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, height, width), dtype=np.float32)


def expected(picture: np.ndarray) -> np.ndarray:
    """What all variants compute: luminance under the blot of make_formats.py."""
    luma = np.tensordot(np.float32([0.2126, 0.7152, 0.0722]), picture[0], axes=1)
    wide = np.pad(luma, 1)
    blot = np.float32([[1, 2, 1], [0, 6, 2], [0, 1, 0]]) / 13
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3))
    return np.einsum("yxij,ij->yx", windows, blot)[None, None]


CASES = [(name, size) for name, v in VARIANTS.items() for size in v.sizes or ((64, 96), (128, 32))]


@pytest.mark.parametrize("name, size", CASES)
def test_every_way_in_and_out_computes_the_same(name, size):
    picture = image(*size)
    inputs = {"image": picture}
    if VARIANTS[name].graph == "refocus":
        inputs |= {"focus": np.float32([0.3]), "blur": np.float32([0.5])}
    answers = opened(name).run(inputs)
    assert answers.keys() == {"disparity"} | ({"bokeh"} if "focus" in inputs else set())
    assert all(a.dtype == np.float32 and a.flags.c_contiguous for a in answers.values())
    tolerance = TOLERANCE.get(name, TOLERANCE["fp32"])
    np.testing.assert_allclose(answers["disparity"], expected(picture), atol=tolerance)
    if "bokeh" in answers:
        np.testing.assert_allclose(answers["bokeh"], 0.5 * picture + 0.3, atol=1e-6)


@pytest.mark.parametrize("package", INTERPRETERS or ["ai_edge_litert.interpreter"])
@pytest.mark.parametrize("name", ["tflite-fp32", "tflite-int8", "tflite-refocus"])
def test_each_interpreter_that_is_here(name, package, monkeypatch):
    monkeypatch.setattr(tflite, "PACKAGES", (package,))
    backend = opened(name)
    assert package.partition(".")[0] in type(backend.model.interpreter).__module__
    picture = image(*VARIANTS[name].sizes[0])
    inputs = {"image": picture, "focus": np.float32([0.3]), "blur": np.float32([0.5])}
    tolerance = TOLERANCE.get(name, TOLERANCE["fp32"])
    for _ in range(2):  # an answer must not hold on to the interpreter's memory
        disparity = backend.run(inputs)["disparity"]
        np.testing.assert_allclose(disparity, expected(picture), atol=tolerance)


@pytest.mark.parametrize("name", ["onnx-fp32", "tflite-fp32", "tflite-int8"])
def test_an_answer_stays_when_the_next_comes(name):
    """It is no view of the interpreter's own memory."""
    model = opened(name).model
    (port,) = model.signatures[0].inputs
    picture = np.resize(canonical.encode(image(), port), [side or 64 for side in port.shape])
    first, *_ = model.run({port.name: picture}, model.signatures[0].name).values()
    kept = first.copy()
    again, *_ = model.run({port.name: picture // 2}, model.signatures[0].name).values()
    np.testing.assert_array_equal(first, kept)
    assert (again != kept).any()


@pytest.mark.parametrize("name", ["onnx-uint8", "tflite-int8"])
def test_whole_numbers_are_rounded_not_cut(name):
    backend = opened(name)

    def answer(value: float) -> float:
        grey = np.full((1, 3, 64, 96), value, np.float32)
        return float(backend.run({"image": grey})["disparity"][0, 0, 9, 9])

    low, high = answer(100 / 255), answer(100.6 / 255)
    assert high - low == pytest.approx(1 / 255, abs=1 / 240 if "int8" in name else 1e-6)
    assert high > low
    for outside in (-0.5, 1.5):  # stays at the end, never wraps
        assert answer(outside) == pytest.approx(float(outside > 0), abs=0.01)


def test_ports_with_a_scale():
    port = Port("x", (1,), np.dtype(np.int8), scale=0.5, zero_point=-3)
    stored = canonical.encode(np.float32([-100, -1, 0, 0.3, 100]), port)
    assert stored.dtype == np.int8 and stored.tolist() == [-128, -5, -3, -2, 127]
    assert canonical.decode(stored, port).tolist() == [-62.5, -1, 0, 0.5, 65]


def test_the_image_is_checked():
    backend = opened("tflite-fp32")
    with pytest.raises(ShapeError, match="32x64: tflite-fp32 takes 64x64, 64x96, 96x64"):
        backend.run({"image": image(32, 64)})
    with pytest.raises(ShapeError, match=r"\[1, 3, H, W\]"):
        backend.run({"image": image()[0]})
    with pytest.raises(ShapeError, match="an image of 64x90: give multiples of 32"):
        opened("onnx-fp32").run({"image": image(64, 90)})


# ---------------------------------------------------------------- files that are not what is said

WRONG = {
    "layout": ("onnx-uint8", {"layout": "NCHW"}, "is no disparity graph in NCHW: its file takes"),
    "layout of a TFLite": ("tflite-int8", {"layout": "NCHW"}, r"takes image int8 \[1, 64, 96, 3\]"),
    "type": ("onnx-fp32", {"dtype": "uint8"}, "says its image is uint8; its file takes float32"),
    "type of a TFLite": ("tflite-int8", {"dtype": "float32"}, "its file takes int8"),
    "graph": ("onnx-fp32", {"graph": "refocus"}, "is no refocus graph"),
    "graph of a TFLite": ("tflite-refocus", {"graph": "disparity"}, "is no disparity graph"),
    "size": ("tflite-fp32", {"sizes": ((64, 64), (64, 128))}, "can't take its size 64x128"),
    "size without signatures": ("tflite-int8", {"sizes": ((64, 64),)}, "its size 64x64"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_other_than_its_variant_says(kind):
    name, changed, message = WRONG[kind]
    with pytest.raises(BundleError, match=message) as caught:
        opened(name, **changed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
def test_damaged_files(name, damage):
    if (damage, VARIANTS[name].format, INTERPRETERS[:1]) == ("cut", "tflite", [PREDECESSOR]):
        pytest.skip("tflite-runtime 2.14 crashes on a file cut short")
    data = CONTENT.files[VARIANTS[name].file]
    damaged = {"empty": b"", "cut": data[: len(data) // 2], "text": b"no model at all" * 9}[damage]
    content = dataclasses.replace(CONTENT, files={VARIANTS[name].file: damaged})
    with pytest.raises(BundleError, match="can't load the model") as caught:
        opened(name, content)
    assert "\n" not in str(caught.value)


def test_a_model_that_fails_while_it_runs():
    with pytest.raises(BundleError, match="can't run the model"):
        opened("onnx-fp32").model.run({"image": image()[:, :2]})
    with pytest.raises(BundleError, match="can't run the model"):
        opened("tflite-fp32").model.run({"args_0": image(64, 96)}, "s64x64")
    with pytest.raises(BundleError, match="can't run the model"):
        opened("tflite-int8").model.run({"image": image(64, 96)})


# ---------------------------------------------------------------- what is not here


def test_missing():
    assert backends.missing("onnx") is None
    assert backends.missing("tflite") is None or "argan[tflite]" in backends.missing("tflite")
    if sys.platform != "darwin":
        assert backends.missing("coreml").startswith("Core ML needs macOS")


def test_without_an_interpreter(monkeypatch):
    monkeypatch.setattr(tflite, "PACKAGES", ("nonesuch.interpreter",))
    assert 'pip install "argan[tflite]"' in backends.missing("tflite")
    with pytest.raises(MissingExtraError, match=r'pip install "argan\[tflite\]"'):
        argan.load(FORMATS, backend="tflite")


def test_without_torch(monkeypatch):
    monkeypatch.setattr(backends, "entry_points", lambda **of: [])
    with pytest.raises(MissingExtraError, match=r'pip install "argan\[train\]"'):
        argan.load("some/run", backend="torch")


# ---------------------------------------------------------------- argan.load


CHOICES = [
    ({}, "onnx-fp32"),
    ({"backend": "onnx"}, "onnx-fp32"),
    ({"precision": "int8-io"}, "onnx-uint8"),
    ({"backend": "tflite"}, "tflite-fp32"),
    ({"backend": "tflite", "precision": "int8-io"}, "tflite-int8"),
]


@pytest.mark.parametrize("options, name", CHOICES)
def test_load_chooses(options, name):
    opened(name)
    refocuser = argan.load(FORMATS, threads=1, **options)
    assert refocuser.backend.variant.name == name
    assert refocuser.sizes == VARIANTS[name].sizes
    photo = np.zeros((48, 100, 3), np.uint8)
    photo[20:, 40:] = 255
    disparity = refocuser.depth(photo)
    assert disparity.shape == (48, 100)
    # White is 1 of the range 0 to 0.5. The map comes back to where the photo's corner is, but for
    # the border, where the graph takes what lies outside for black.
    assert abs(disparity[30:44, 60:92] - 2).max() < 0.1 > abs(disparity[:10]).max()


@pytest.mark.parametrize(
    "photo, size",
    [((480, 640), (64, 96)), ((64, 70), (64, 64)), ((4000, 100), (96, 64)), ((50, 50), (64, 64))],
)
def test_of_fixed_sizes_the_nearest_in_shape(photo, size):
    assert network_size(*photo, CONTENT.image, VARIANTS["tflite-fp32"].sizes) == size


def test_of_one_shape_the_nearest_in_area():
    port = dataclasses.replace(CONTENT.image, nominal=256)
    sizes = ((128, 128), (224, 224), (320, 320), (224, 320))
    assert network_size(500, 500, port, sizes) == (224, 224)


def test_load_refuses():
    with pytest.raises(BundleError, match="no onnx fp16 variant of the disparity graph, but onnx"):
        argan.load(FORMATS, precision="fp16")
    with pytest.raises(BundleError, match="no coreml variant"):
        argan.load(FORMATS, backend="coreml")
    with pytest.raises(InputError, match="no backend 'tensorrt'; give onnx, tflite, coreml"):
        argan.load(FORMATS, backend="tensorrt")
    with pytest.raises(InputError, match="folder of a training run"):
        argan.load(backend="torch")
    with pytest.raises(InputError, match="as it is"):
        argan.load("some/run", backend="torch", precision="int8")


@pytest.mark.parametrize("backend", ["onnx", "tflite"])
def test_the_command_says_nothing_else(backend, tmp_path):
    """TFLite's library likes to announce its delegates."""
    if why := backends.missing(backend):
        pytest.skip(why)
    photo = tmp_path / "grey.png"
    Image.new("RGB", (40, 30), "grey").save(photo)
    command = [sys.executable, "-m", "argan", "depth", photo, "--model", FORMATS]
    done = subprocess.run(
        [*command, "--backend", backend, "--precision", "fp32"],
        capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'grey_depth.png'}  disparity ")
