"""Every backend and every variant against ONNX fp32, on a photo; and what that would not miss."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import argan
from argan import backends, bench, bundle, metrics
from argan.backends import canonical
from argan.errors import BundleError
from argan.refocus import MODELS, network_image
from argan_export.to_coreml import to_coreml

ROOT = Path(__file__).parents[2]
BUNDLES = {
    "formats": bundle.read(ROOT / "tests" / "data" / "formats.argan"),
    "default": bundle.read(MODELS / "default.argan"),
}
RUN = ROOT / "weights" / "flowers-dr"  # what the default bundle is of, in half precision

# PSNR in dB of the output's range. Least seen: fp32 145, int8-io 48.
TOLERANCE = {
    "fp32": 110, "fp16": 55, "int8-weights": 40, "int8": 40, "int8-io": 40, "palette6": 40,
}  # fmt: skip
# Core ML runs on macOS alone; elsewhere its programs are evaluated, see tests/export.
CASES = [
    (name, variant)
    for name, content in BUNDLES.items()
    for variant in content.variants
    if variant.format != "coreml" or sys.platform == "darwin"
]


@pytest.fixture(scope="module")
def photo():
    return cv2.cvtColor(cv2.imread(str(ROOT / "examples" / "dahlia.jpg")), cv2.COLOR_BGR2RGB)


def given(content, variant, photo) -> backends.Tensors:
    rest = {"focus": np.float32([0.8]), "blur": np.float32([0.5])}
    return {"image": network_image(photo, content.image, variant.sizes)} | rest


def expected(content, variant, photo) -> backends.Tensors:
    """What ONNX in fp32 makes of it."""
    reference = content.find("onnx", "fp32", variant.graph)
    return backends.open_variant(content, reference).run(given(content, variant, photo))


def worst_psnr(content, variant, photo, reference, threads=1) -> float:
    backend = backends.open_variant(content, variant, threads=threads)
    answers = backend.run(given(content, variant, photo))
    assert answers.keys() == reference.keys()
    span = content.disparity.hi - content.disparity.lo if variant.graph == "disparity" else 1
    return min(
        metrics.psnr(answers[name], reference[name], span if name == "disparity" else 1)
        for name in answers
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name, variant", CASES, ids=[f"{n} {v.name}" for n, v in CASES])
def test_parity(name, variant, threads, photo):
    content = BUNDLES[name]
    reference = expected(content, variant, photo)
    measured = worst_psnr(content, variant, photo, reference, threads)
    assert measured >= TOLERANCE[variant.precision]


def test_torch(photo):
    """The run itself, through the entry point; seen 75 dB, for its weights are half precision."""
    run = argan.load(RUN, backend="torch", threads=1)
    exported = argan.load(threads=1)
    image = network_image(photo, exported.model.image)
    got, expected = (r.backend.run({"image": image})["disparity"] for r in (run, exported))
    assert metrics.psnr(got, expected) > 60
    assert (run.model.disparity.lo, run.model.disparity.hi) == (0, 1)


def test_bench_beside_torch(monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", 1)
    report = bench.bench(size=64, thread_counts=[1], runs=2, against=RUN)
    rows = {row.name: row for row in report.rows}
    assert report.reference == {"disparity": "torch"} and not report.failed
    assert rows["torch"].parity == {} and rows["torch"].timings[1].p50_ms > 0
    assert rows["onnx-fp32"].parity["disparity"]["psnr_db"] > 60
    assert "torch" in report.versions


# ---------------------------------------------------------------- faults that must show


def swap_channels(monkeypatch):
    true = canonical.encode

    def encode(value, port):
        if value.ndim != 4:
            return true(value, port)
        return true(value[:, ::-1] if value.shape[1] == 3 else value[..., ::-1], port)

    monkeypatch.setattr(canonical, "encode", encode)


def misread_layout(monkeypatch):
    def reshaped(self, value):
        if value.ndim != 4:
            return value
        n, c, h, w = value.shape
        other = value.transpose(0, 2, 3, 1).reshape(value.shape)
        return value.reshape(n, h, w, c) if self.variant.layout == "NHWC" else other

    monkeypatch.setattr(canonical.Canonical, "_in", reshaped)


def ignore_zero_point(monkeypatch):
    true = canonical.encode, canonical.decode

    def without(port):
        return backends.Port(port.name, port.shape, port.dtype, port.scale, 0)

    monkeypatch.setattr(canonical, "encode", lambda value, port: true[0](value, without(port)))
    monkeypatch.setattr(canonical, "decode", lambda value, port: true[1](value, without(port)))


FAULTS = [
    (plant, variant)
    for plant in (swap_channels, misread_layout, ignore_zero_point)
    for variant in BUNDLES["formats"].variants
    if plant is not ignore_zero_point or variant.name == "tflite-int8"
]


@pytest.mark.parametrize(
    "plant, variant", FAULTS, ids=[f"{p.__name__} {v.name}" for p, v in FAULTS]
)
def test_a_planted_fault_shows(plant, variant, photo, monkeypatch):
    content = BUNDLES["formats"]
    reference = expected(content, variant, photo)
    plant(monkeypatch)
    assert worst_psnr(content, variant, photo, reference) < TOLERANCE[variant.precision] - 5


def test_the_signature_of_another_size(photo, monkeypatch):
    content = BUNDLES["formats"]
    variant = content.find("tflite", "fp32")
    monkeypatch.setattr(canonical, "find_signature", lambda signatures, *about: signatures[0])
    with pytest.raises(BundleError, match=r"args_0 is \[1, 3, 64, 96\], not \[1, 3, 64, 64\]"):
        worst_psnr(content, variant, photo, {})


# ---------------------------------------------------------------- Core ML


@pytest.mark.parametrize("image_input", [True, False])
def test_coreml_package(image_input):
    """Its ports are read everywhere; it is run on a Mac."""
    from argan.backends.coreml import CoreML

    torch.manual_seed(0)
    network = nn.Conv2d(3, 1, 3, padding=1).eval()
    image = torch.rand(1, 3, 64, 96)
    package = to_coreml(
        network, {"image": image}, ["disparity"], precision="fp32", image_input=image_input
    )
    model = CoreML(package)
    (port,), (answer,) = model.signatures[0].inputs, model.signatures[0].outputs
    assert (port.name, answer.name) == ("image", "disparity")
    assert port.dtype == (np.uint8 if image_input else np.float32)
    assert port.shape == (1, 3, None, None)
    given = canonical.encode(image.numpy(), port)
    if sys.platform != "darwin":
        with pytest.raises(BundleError, match="only supported on macOS"):
            model.run({"image": given})
        return
    got = model.run({"image": given})["disparity"]
    with torch.no_grad():
        expected = network(torch.from_numpy(canonical.decode(given, port))).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4)
