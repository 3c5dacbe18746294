"""A model that is not ours: formats.argan has one, and ours serve as others."""

import os
from pathlib import Path

import numpy as np
import pytest

import argan
from argan import adapter, backends, bundle, photo
from argan.cli import main
from argan.errors import BundleError, InputError, MissingFileError, ShapeError

FORMATS = bundle.read(Path(__file__).parents[1] / "data" / "formats.argan")
WEIGHTS = Path(os.environ.get("ARGAN_DATA", Path(__file__).parents[3] / "shared/data")) / "weights"
SAMPLES = WEIGHTS.parent / "samples"
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, data in FORMATS.files.items():
        Path(name).write_bytes(data)


def described(text: str) -> Path:
    path = Path("own.toml")
    path.write_text(text)
    return path


def opened(text: str) -> tuple[bundle.Bundle, backends.Backend]:
    model = text.split('"')[1]
    if model.endswith(".tflite") and (why := backends.missing("tflite")):
        pytest.skip(why)
    content = adapter.read(described(text))
    return content, backends.open_variant(content, content.variants[0], threads=1)


def image(height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(1).random((1, 3, height, width), dtype=np.float32)


def ours(picture: np.ndarray) -> np.ndarray:
    variant = FORMATS.find("onnx", "fp32")
    return backends.open_variant(FORMATS, variant, threads=1).run({"image": picture})["disparity"]


def run(text: str, picture: np.ndarray) -> np.ndarray:
    answer = opened(text)[1].run({"image": picture})
    assert answer.keys() == {"disparity"}
    assert answer["disparity"].shape == (1, 1, *picture.shape[2:])
    assert answer["disparity"].dtype == np.float32
    return answer["disparity"]


RAW = 'output = "disparity"\ntypical = [0, 1]\n'


def test_two_lines_do():
    """What the file says need not be said: size, layout, type, scale."""
    text = 'model = "model.int8.tflite"\noutput = "disparity"'
    content, backend = opened(text)
    variant = content.variants[0]
    assert (variant.format, variant.layout, variant.precision) == ("tflite", "NHWC", "int8-io")
    assert (variant.sizes, content.image.nominal) == (((64, 96),), 78)
    assert content.adapter.range == pytest.approx((0, 1))
    disparity = backend.run({"image": image()})["disparity"]
    expected = ours(image())
    lo, hi = np.percentile(expected, (2, 98))
    np.testing.assert_allclose(disparity, (expected - lo) / (hi - lo), atol=0.03)


FIELDS = {
    "nothing": ("", lambda x: x),
    "range": ("range = [-1, 3]", lambda x: 4 * x - 1),
    "mean and std": (
        "mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]",
        lambda x: (x - MEAN[:, None, None]) / STD[:, None, None],
    ),
    "all": (
        'range = [0, 255]\nmean = [104, 117, 123]\nstd = [57, 57, 58]\nchannels = "BGR"',
        lambda x: (
            (255 * x[:, ::-1] - np.float32([104, 117, 123])[:, None, None])
            / np.float32([57, 57, 58])[:, None, None]
        ),
    ),
    "channels": ('channels = "BGR"', lambda x: x[:, ::-1]),
}


@pytest.mark.parametrize("kind", FIELDS)
def test_what_the_network_sees(kind):
    text, seen = FIELDS[kind]
    got = run(f'model = "model.fp32.onnx"\n{RAW}size = 64\nmultiple_of = 32\n{text}', image())
    np.testing.assert_allclose(got, ours(np.ascontiguousarray(seen(image()))), rtol=1e-5, atol=1e-5)


def test_nhwc_and_levels():
    """Whole numbers without a scale span 0 to 255."""
    got = run(f'model = "model.uint8.onnx"\n{RAW}size = 96', image())
    np.testing.assert_allclose(got, ours(image()), atol=2.5e-3)
    swapped = run(f'model = "model.uint8.onnx"\n{RAW}size = 96\nchannels = "BGR"', image())
    np.testing.assert_allclose(swapped, ours(image()[:, ::-1].copy()), atol=2.5e-3)


def test_a_signature_per_size():
    text = f'model = "model.fp32.tflite"\n{RAW}'
    content = opened(text)[0]
    assert content.variants[0].sizes == ((64, 64), (64, 96), (96, 64))
    for size in content.variants[0].sizes:
        np.testing.assert_allclose(run(text, image(*size)), ours(image(*size)), atol=1e-6)
    assert opened(text + "size = [96, 64]")[0].variants[0].sizes == ((96, 64),)


FOREIGN = 'model = "foreign.onnx"\nlayout = "NCHW"\n'  # a map of half the size, rank 3


def test_a_map_of_another_size():
    got = run(FOREIGN + RAW + "size = 64\nmultiple_of = 2", image())
    half = ours(image()).reshape(32, 2, 48, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(got[0, 0, 32:34, 48:50].mean(), half[16, 24], atol=0.1)
    assert np.corrcoef(got[0, 0, ::2, ::2].ravel(), half.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("output", ["depth", "metric depth"])
def test_depth_becomes_disparity(output):
    text = f'model = "model.fp32.onnx"\noutput = "{output}"\nsize = 64\ntypical = [0.25, 0.8]'
    content, backend = opened(text)
    picture = 0.3 + 0.5 * image()
    disparity = backend.run({"image": picture})["disparity"]
    np.testing.assert_allclose(disparity, 1 / ours(picture), rtol=1e-5)
    assert (content.disparity.lo, content.disparity.hi) == (1.25, 4)


def test_without_a_typical_range_each_photo_has_its_own():
    got = run('model = "model.fp32.onnx"\noutput = "disparity"\nsize = 64', 100 * image() - 7)
    assert np.percentile(got, (2, 98)) == pytest.approx((0, 1), abs=1e-4)
    flat = run(f'{FOREIGN}output = "disparity"\nsize = 64', 0 * image())
    assert np.isfinite(flat).all()


def test_it_refocuses_and_is_shown(capsys):
    text = f'name = "half"\n{RAW}size = 64\nmultiple_of = 2\n{FOREIGN}'
    path = described(text)
    picture = np.zeros((90, 120, 3), np.uint8)
    picture[20:70, 30:90] = 255
    result = argan.refocus(picture, focus=(60, 45), f_number=1.0, model=path)
    assert result.focus == pytest.approx(1, abs=0.05)
    photo.save("in.png", photo.Photo(picture))
    assert main(["refocus", "in.png", "--model", "own.toml", "--f-number", "1"]) == 0
    np.testing.assert_array_equal(photo.load("in_bokeh.png").pixels, result.image)
    capsys.readouterr()
    assert main(["info", "own.toml"]) == 0
    shown = capsys.readouterr().out
    assert "name:          half, task disparity" in shown
    assert "about 64^2 px in steps of 2" in shown and "output disparity" in shown


# ---------------------------------------------------------------- what is refused

ONNX = 'model = "model.fp32.onnx"\n'
BAD = {
    "no TOML": ("model = ", "own.toml is no TOML"),
    "no model": (RAW, "own.toml: model: is needed"),
    "no such model": (f'model = "gone.onnx"\n{RAW}', "gone.onnx does not exist"),
    "a folder": (f'model = ".onnx"\n{RAW}', "neither .onnx nor .tflite"),
    "kind of model": (f'model = "own.toml"\n{RAW}', "model: own.toml is neither .onnx nor .tflite"),
    "no output": (f"{ONNX}size = 64", 'output: is needed: "disparity" or "depth" or "metric'),
    "output": (f'{ONNX}size = 64\noutput = "height"', "output: 'height' is not \"disparity\""),
    "unknown field": (f"{ONNX}{RAW}size = 64\nmeen = [0, 0, 0]", "meen: is no field; known: chan"),
    "no size": (f"{ONNX}{RAW}", "size: is needed, for the file takes any"),
    "size": (f"{ONNX}{RAW}size = -3", "size: -3 is not a side N"),
    "size in words": (f'{ONNX}{RAW}size = "big"', "size: 'big' is not a side N"),
    "size of steps": (f"{ONNX}{RAW}size = [64, 70]\nmultiple_of = 32", "not in steps of 32"),
    "steps": (f"{ONNX}{RAW}size = 64\nmultiple_of = [2, 2]", "multiple_of: .* whole number"),
    "mean": (f"{ONNX}{RAW}size = 64\nmean = [0.5, 0.5]", r"mean: \[0.5, 0.5\] is not 3 numbers"),
    "mean of words": (f'{ONNX}{RAW}size = 64\nmean = ["a", 1, 2]', "mean: .* is not 3 numbers"),
    "mean of NaN": (f"{ONNX}{RAW}size = 64\nmean = [nan, 1, 2]", "mean: .* is not 3 numbers"),
    "std": (f"{ONNX}{RAW}size = 64\nstd = [1, 0, 1]", "std: .* is not positive"),
    "range": (f"{ONNX}{RAW}size = 64\nrange = [1, 0]", r"range: \[1.0, 0.0\] is not \[lo, hi\]"),
    "layout": (f'{ONNX}{RAW}size = 64\nlayout = "NHWC"', "layout: NHWC does not fit"),
    "no layout": (f'model = "foreign.onnx"\n{RAW}size = 64', 'layout: is needed: "NCHW" or "NHWC"'),
    "channels": (f'{ONNX}{RAW}size = 64\nchannels = "RBG"', "channels: 'RBG' is not"),
    "typical": (f'{ONNX}output = "depth"\nsize = 64\ntypical = [0, 1]', "a depth is positive"),
    "precision": (f'{ONNX}{RAW}size = 64\nprecision = "int4"', "precision: 'int4' is not"),
    "many tensors": (f'model = "refocus.fp32.onnx"\n{RAW}', "takes 3 and gives 2 tensors"),
    "no model inside": (f'model = "cut.onnx"\n{RAW}', "onnxruntime can't load"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_descriptions(kind, capsys):
    text, message = BAD[kind]
    Path("cut.onnx").write_bytes(FORMATS.files["model.fp32.onnx"][:99])
    with pytest.raises((InputError, BundleError, MissingFileError), match=message):
        adapter.read(described(text))
    assert main(["info", "own.toml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_fixed_file_has_its_size():
    with pytest.raises(InputError, match=r"size: 256 where the file takes \[\[64, 96\]\]"):
        opened(f'model = "model.int8.tflite"\n{RAW}size = 256')
    with pytest.raises(ShapeError, match="takes 64x96"):
        run(f'model = "model.int8.tflite"\n{RAW}', image(64, 64))


def test_disparity_taken_for_depth():
    with pytest.raises(BundleError, match='says output = "depth"; is it "disparity"'):
        run('model = "model.fp32.onnx"\noutput = "depth"\nsize = 64', -image())


def test_a_description_that_is_not_there():
    with pytest.raises(MissingFileError, match="gone.toml"):
        argan.load("gone.toml")


# ---------------------------------------------------------------- a real one


def test_selfie_segmentation():
    """MediaPipe's person mask as a disparity: two lines, and the person is near."""
    if not (WEIGHTS / "selfie_segmentation.tflite").exists():
        pytest.skip(f"no reference data at {WEIGHTS}; set ARGAN_DATA")
    pytest.importorskip("ai_edge_litert")  # its predecessor lacks MediaPipe's own operator
    model = (WEIGHTS / "selfie_segmentation.tflite").resolve()
    path = described(f'model = "{model}"\noutput = "disparity"\ntypical = [0, 1]')
    refocuser = argan.load(path, threads=1)
    assert refocuser.sizes == ((256, 256),)
    disparity = refocuser.depth(SAMPLES / "astronaut_512.png")
    assert disparity[150:300, 180:260].mean() > 0.9  # her face
    assert disparity[:60, :100].mean() < 0.1
