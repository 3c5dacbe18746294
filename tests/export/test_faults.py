"""The matrix of planted faults: `argan verify` catches each in the trained network and names it.

Hashes are right in every bundle here, but for the file that is cut or has a bit flipped: it is the
numbers that have to catch the fault.
"""

import copy
import io
import json
import logging
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from argan import bundle, golden, weights
from argan.backends.onnx import Onnx
from argan.cli import main
from argan.metrics import psnr
from argan.refocus import MODELS
from argan.verify import Limits, Report, diagnose, file, verify

DEFAULT = bundle.read(MODELS / "default.argan")
FP32 = DEFAULT.model(DEFAULT.find("onnx", "fp32"))
EXAMPLE = golden.read(DEFAULT)["disparity"]
IMAGE = EXAMPLE.inputs["image"]
TINY = bundle.read(Path(__file__).parents[1] / "data" / "tiny.argan")
# onnxruntime's own quantisation, without a search, reaches 36 dB on the golden picture.
LIMITS = Limits(min_psnr={"fp32": 110, "int8": 30})
Edit = Callable[[bytes], bytes]


# ---------------------------------------------------------------- models with a fault


def at_input(op: str, value: Any, **attributes: Any) -> Edit:
    """The network after op(image, value)."""

    def plant(model: bytes) -> bytes:
        made = onnx.load_from_string(model)
        for node in made.graph.node:
            for i, name in enumerate(node.input):
                if name == "image":
                    node.input[i] = f"planted {op}"
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{op} by"))
        node = helper.make_node(op, ["image", f"{op} by"], [f"planted {op}"], **attributes)
        made.graph.node.insert(0, node)
        onnx.checker.check_model(made)
        return bytes(made.SerializeToString())

    return plant


def at_output(op: str, *value: float, **attributes: Any) -> Edit:
    """op(value, disparity), or op(disparity), after the network."""

    def plant(model: bytes) -> bytes:
        made = onnx.load_from_string(model)
        for node in made.graph.node:
            for i, name in enumerate(node.output):
                if name == "disparity":
                    node.output[i] = f"before {op}"
        for number in value:
            array = np.array(number, np.float32)
            made.graph.initializer.append(numpy_helper.from_array(array, f"{op} by"))
        inputs = [f"{op} by"] * len(value) + [f"before {op}"]
        made.graph.node.append(helper.make_node(op, inputs, ["disparity"], **attributes))
        onnx.checker.check_model(made)
        return bytes(made.SerializeToString())

    return plant


def layers(model: bytes) -> list[weights.Weight]:
    """Weights of the layers, in the order in which they lie in the file."""
    return [
        w for w in weights.read(model, "onnx")
        if len(w.shape) >= 2 and weights.values(model, w) is not None
    ]  # fmt: skip


def filled(model: bytes, which: slice, byte: bytes) -> bytes:
    """The weights of some layers replaced by a byte."""
    data = bytearray(model)
    for weight in layers(model)[which]:
        data[weight.at] = byte * weight.size
    return bytes(data)


def int8(pictures: Iterable[np.ndarray]) -> bytes:
    """The network, quantised by onnxruntime, calibrated on these."""

    class Pictures(CalibrationDataReader):
        left = iter([{"image": picture} for picture in pictures])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, ready, result = (Path(folder, name) for name in ("a", "b", "c"))
            source.write_bytes(FP32)
            quant_pre_process(source, ready, skip_symbolic_shape=True)
            quantize_static(
                ready, result, Pictures(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
            return result.read_bytes()
    finally:
        logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def quantised() -> bytes:
    """Calibrated on the golden picture in other lights and colours."""
    rng = np.random.default_rng(0)
    lights = [(1, 0), (0.5, 0.2), (1.2, -0.1), (0.4, 0), (0.4, 0.6)]
    pictures = [np.clip(IMAGE[:, rng.permutation(3)] * gain + base, 0, 1) for gain, base in lights]
    return int8([picture.astype(np.float32) for picture in pictures])


# ---------------------------------------------------------------- bundles


def made(
    models: dict[str, bytes], golden_file: bytes = DEFAULT.files["golden.npz"]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """{precision: model} -> what a bundle of them is written from."""
    manifest = copy.deepcopy(DEFAULT.manifest) | {"refocus": None}
    one = manifest["variants"]["onnx-fp32"]
    manifest["variants"] = {
        f"onnx-{precision}": one | {"precision": precision, "file": f"model.{precision}.onnx"}
        for precision in models
    }
    files = {f"model.{precision}.onnx": model for precision, model in models.items()}
    return manifest, {"golden.npz": golden_file, **files}


def verified(models: dict[str, bytes], *golden_file: bytes) -> Report:
    return verify(bundle.assemble(*made(models, *golden_file)), LIMITS, threads=1)


def names(report: Report) -> dict[str, list[str]]:
    return {r.variant.precision: [fault.name for fault in r.faults] for r in report.results}


def test_without_a_fault_it_passes(quantised: bytes) -> None:
    for models in ({"fp32": FP32, "int8": quantised}, {"fp32": FP32}, {"int8": quantised}):
        report = verified(models)
        assert report.passed and not any(names(report).values())


# ---------------------------------------------------------------- the matrix

BGR = at_input("Gather", np.array([2, 1, 0]), axis=1)
TIMES_255 = at_input("Mul", np.float32(255))
FAULTS: dict[str, tuple[Edit, str]] = {
    "channels swapped": (BGR, "wrong channel order"),
    "channels turned": (at_input("Gather", np.array([1, 2, 0]), axis=1), "wrong channel order"),
    "sign flipped": (at_output("Neg"), "wrong sign"),
    "near and far swapped": (at_output("Sub", 1), "wrong sign"),
    "depth for disparity": (at_output("Reciprocal"), "wrong sign"),
    "0..255 fed to 0..1": (TIMES_255, "wrong input range"),
    "0..1 fed to 0..255": (at_input("Div", np.float32(255)), "wrong input range"),
    "both": (lambda m: BGR(TIMES_255(m)), "wrong channel order and wrong input range"),
    "disparity times 1.1": (at_output("Mul", 1.1), "wrong output scale"),
    "height for width": (at_output("Transpose", perm=[0, 1, 3, 2]), "wrong layout"),
    "half the size": (at_output("AveragePool", kernel_shape=[2, 2], strides=[2, 2]), "wrong size"),
    "all zero": (at_output("Mul", 0), "all-zero"),
    "constant": (at_output("Max", 2), "constant"),
    "saturated": (at_output("Min", float(np.quantile(EXAMPLE.outputs["disparity"], 0.3))),
                  "saturated"),
    "NaN": (lambda m: at_output("Sqrt")(at_output("Neg")(m)), "NaN"),
    "weights truncated": (lambda m: filled(m, slice(-20, None), b"\0"), diagnose.TRUNCATED),
    "file cut short": (lambda m: m[: len(m) // 2], diagnose.TRUNCATED),
}  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("kind", FAULTS)
def test_faults_are_caught_and_named(kind: str, precision: str, quantised: bytes) -> None:
    edit, name = FAULTS[kind]
    good = {"fp32": FP32, "int8": quantised}
    report = verified(good | {precision: edit(good[precision])})
    assert not report.passed
    assert names(report) == {p: [name] if p == precision else [] for p in good}


CONSTANTS = {
    "mid grey": (0.5, "calibrated on a constant"),
    "dark grey": (0.1, "calibrated on a constant"),
    "white": (1.0, "calibrated on a constant"),
    "0..255": (None, "wrong input range"),
}


@pytest.mark.parametrize("kind", CONSTANTS)
def test_a_bad_calibration_is_named(kind: str) -> None:
    grey, name = CONSTANTS[kind]
    model = int8([IMAGE * 255 if grey is None else np.full_like(IMAGE, grey)])
    report = verified({"fp32": FP32, "int8": model})
    assert names(report) == {"fp32": [], "int8": [name]}
    assert names(verified({"int8": model})) == {"int8": [name]}, "also with nothing beside it"


def test_a_quantisation_that_is_too_coarse_is_no_other_model(quantised: bytes) -> None:
    """Nothing is wrong with it but that more is asked for."""
    content = bundle.assemble(*made({"fp32": FP32, "int8": quantised}))
    report = verify(content, Limits(min_psnr={"fp32": 110, "int8": 60}), threads=1)
    assert names(report) == {"fp32": [], "int8": [diagnose.COARSE]}


def test_another_models_weights_are_named(quantised: bytes) -> None:
    report = verified({"fp32": FP32, "int8": perturbed(quantised, 0.3)})
    assert names(report) == {"fp32": [], "int8": [diagnose.OTHER_WEIGHTS]}


def other_golden(disparity: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, image=IMAGE, disparity=disparity)
    return buffer.getvalue()


def perturbed(model: bytes, deviation: float) -> bytes:
    """Another training of the same network: every weight a little different."""
    rng, data = np.random.default_rng(1), bytearray(model)
    for weight in layers(model):
        values = np.frombuffer(model[weight.at], weight.dtype)
        noisy = values * (1 + deviation * rng.standard_normal(values.shape))
        data[weight.at] = noisy.astype(weight.dtype).tobytes()
    return bytes(data)


def test_another_models_golden_file_is_named() -> None:
    quantised = DEFAULT.files["model.int8.onnx"]
    tiny = Onnx(TINY.model(TINY.find("onnx"))).run({"image": IMAGE})["disparity"] * 2
    named = [diagnose.OTHER_GOLDEN]
    report = verified({"fp32": FP32, "int8": quantised}, other_golden(tiny))
    assert names(report) == {"fp32": named, "int8": named}
    assert "dB to onnx-int8" in report.results[0].faults[0].detail
    sister = Onnx(perturbed(FP32, 0.1)).run({"image": IMAGE})["disparity"]
    assert names(verified({"fp32": FP32}, other_golden(sister))) == {"fp32": named}


def test_one_layer_off_by_10_percent_is_named_with_nothing_beside_it() -> None:
    """The gain itself is found: by how much, and in which layer."""
    weight = layers(FP32)[len(layers(FP32)) // 2]
    report = verified({"fp32": weights.scaled(FP32, weight, 1.1)})
    (fault,) = report.results[0].faults
    assert fault.name == diagnose.LAYER
    assert fault.detail.startswith(f"{weight.name}: 1.100 times what it should be"), fault.detail


def test_every_layer_off_by_10_percent_is_caught(quantised: bytes) -> None:
    """In float by the numbers; in int8, whose own noise may be larger, by the weights."""
    content = bundle.assemble(*made({"fp32": FP32, "int8": quantised}))
    fp32, int8 = content.variants
    for weight in layers(FP32):
        run = Onnx(weights.scaled(FP32, weight, 1.1), threads=1).run
        decibels = psnr(run(EXAMPLE.inputs)["disparity"], EXAMPLE.outputs["disparity"])
        assert decibels < 80, weight.name  # most seen: 51
    found = [weight for weight in layers(quantised) if weight.scale]
    assert len(found) == len(layers(FP32))
    for i, weight in enumerate(found):
        files = content.files | {int8.file: weights.scaled(quantised, weight, (1.1, 0.9)[i % 2])}
        check, _ = file.layers(bundle.assemble(content.manifest, files), int8, fp32)
        assert check and not check.passed and weight.name in check.measured


def test_in_a_bundle_the_layer_is_named(quantised: bytes) -> None:
    """The one whose fault shows least in the picture: the golden limit lets it through."""
    for weight in [weight for weight in layers(quantised) if weight.scale][-22:-20]:
        report = verified({"fp32": FP32, "int8": weights.scaled(quantised, weight, 1.1)})
        (fault,) = report.results[1].faults
        assert fault.name == diagnose.LAYER and weight.name in fault.detail


def test_flipped_bits_and_cut_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here the hashes are as they were."""
    path = tmp_path / "a.argan"
    bundle.write(path, *made({"fp32": FP32}))
    assert main(["verify", str(path), "--no-speed"]) == 0
    good = path.read_bytes()
    at = good.index(FP32) + layers(FP32)[5].at.start
    capsys.readouterr()
    for data, said in {
        good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]: "Bad CRC-32 for file 'model.fp32.onnx'",
        good[: at + 1000]: "a.argan",
    }.items():
        path.write_bytes(data)
        assert main(["verify", str(path)]) == 2
        assert said in capsys.readouterr().err
    folder = tmp_path / "folder.argan"
    path.write_bytes(good)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    model = folder / "model.fp32.onnx"
    for data in (FP32[:100] + bytes([FP32[100] ^ 1]) + FP32[101:], FP32[:-1]):
        model.write_bytes(data)
        assert main(["verify", str(folder)]) == 2
        assert "'model.fp32.onnx' with a size or sha256" in capsys.readouterr().err


def test_pytorch_judges_in_place_of_the_golden_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run that the default bundle was exported from."""
    run = Path(__file__).parents[2] / "weights" / DEFAULT.manifest["source"]["run"]
    path, figures = tmp_path / "a.argan", tmp_path / "a.json"
    own = EXAMPLE.outputs["disparity"]
    bundle.write(path, *made({"fp32": FP32}, other_golden(1 - own)))
    command = ["verify", str(path), "--no-speed", "--against", str(run), "--json", str(figures)]
    assert main(command) == 1
    assert f"FAILED: golden.npz: {psnr(1 - own, own):.1f} dB" in capsys.readouterr().out
    (variant,) = json.loads(figures.read_text())["variants"]
    assert variant["verdict"] == "passed" and variant["golden"]["disparity"]["psnr_db"] > 110
    bundle.write(path, *made({"fp32": FP32}))
    assert main(command) == 0
    assert "ok: golden.npz" in capsys.readouterr().out


# ---------------------------------------------------------------- the reader of weights


def test_weights_are_what_the_onnx_package_reads(quantised: bytes) -> None:
    for model in (FP32, quantised):
        stored = {i.name: i for i in onnx.load_from_string(model).graph.initializer}
        found = weights.read(model, "onnx")
        assert {w.name for w in found} == stored.keys()
        for weight in found:
            array = numpy_helper.to_array(stored[weight.name])
            assert (weight.shape, weight.dtype) == (array.shape, str(array.dtype))
            if array.dtype == np.float32 and array.size:
                np.testing.assert_array_equal(weights.values(model, weight), array)
    close = {w.name.removesuffix("_quantized"): w for w in found if w.scale}
    for weight in layers(FP32):
        got, wanted = weights.values(quantised, close[weight.name]), weights.values(FP32, weight)
        assert got is not None and wanted is not None
        np.testing.assert_allclose(got, wanted, atol=np.abs(wanted).max() / 120)


def test_biases_and_zero_points_are_found() -> None:
    """A weight in uint8 with one zero point per column, dequantised; a bias in a Constant node."""
    scale, zero = np.float32([0.5, 0.25, 2]), np.uint8([3, 128, 7])
    stored = np.arange(12, dtype=np.uint8).reshape(4, 3)
    bias = numpy_helper.from_array(np.float32([1, 2, 3]))
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["real"], axis=-1),
            helper.make_node("Constant", [], ["b"], value=bias),
            helper.make_node("Gemm", ["x", "real", "b"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(scale, "scale"), numpy_helper.from_array(stored, "w"),
         helper.make_tensor("zero", onnx.TensorProto.UINT8, [3], zero.tolist())],
    )  # fmt: skip
    model = helper.make_model(graph).SerializeToString()
    found = {weight.name: weight for weight in weights.read(model, "onnx")}
    np.testing.assert_array_equal(
        weights.values(model, found["w"]), (stored.astype(np.float32) - zero) * scale
    )
    assert found["w"].bias == "b" and found["b"].shape == (3,)
    np.testing.assert_array_equal(weights.values(model, found["b"]), [1, 2, 3])
