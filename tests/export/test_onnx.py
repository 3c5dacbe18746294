"""ONNX in every precision says what PyTorch says."""

import time
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from argan.backends.onnx import Onnx
from argan.metrics import psnr
from argan_export import calibration, to_onnx
from argan_export.network import EightBit, fold_batch_norms
from argan_export.quantize import compare
from argan_export.to_onnx import OnnxGraph
from argan_train.qat import weight_scale

SIZE = (96, 64)


@pytest.fixture(scope="module")
def graph(onnx_model):
    return OnnxGraph(onnx_model)


@pytest.fixture(scope="module")
def ranges(graph, photos):
    seen = photos(SIZE, 12)
    return calibration.ranges(calibration.observe(lambda: graph.activations(seen)), "min-max")


@pytest.fixture(scope="module")
def int8(graph, ranges):
    return graph.quantized(ranges, graph.layers)


def weights(model, size=17):
    """{name: array} of the constants of that size or more."""
    initializers = onnx.load_from_string(model).graph.initializer
    return {i.name: v for i in initializers if (v := numpy_helper.to_array(i)).size >= size}


def kinds(model):
    return Counter(node.op_type for node in onnx.load_from_string(model).graph.node)


@pytest.mark.parametrize("size", [(64, 96), (64, 64), (96, 160)])
def test_fp32_is_pytorch_at_any_size(tiny, onnx_model, photos, size):
    (one,) = photos(size, 1)
    expected = tiny(torch.from_numpy(one["image"])).numpy()
    got = Onnx(onnx_model, threads=1).run(one)["disparity"]
    assert psnr(got, expected) > 110  # seen: 139
    swapped = {"image": np.ascontiguousarray(one["image"][:, ::-1])}
    assert psnr(Onnx(onnx_model, threads=1).run(swapped)["disparity"], expected) < 40


def test_folding_leaves_no_batch_norm_and_the_same_function(tiny, photos):
    folded = fold_batch_norms(tiny)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in tiny.modules()), "the network itself"
    image = torch.from_numpy(photos(SIZE, 1)[0]["image"])
    torch.testing.assert_close(folded(image), tiny(image), atol=1e-5, rtol=0)


def test_the_file_holds_nothing_that_differs_from_process_to_process(onnx_model):
    model = onnx.load_from_string(onnx_model)
    assert not model.graph.value_info and not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_fp16_halves_the_weights_and_keeps_the_ports(onnx_model, graph, photos):
    half, seen = to_onnx.to_fp16(onnx_model), photos(SIZE, 4)
    assert half == to_onnx.to_fp16(onnx_model)
    assert {v.dtype for v in weights(half).values()} == {np.dtype(np.float16)}
    (signature,) = Onnx(half).signatures
    assert {p.dtype for p in (*signature.inputs, *signature.outputs)} == {np.dtype(np.float32)}
    drop = compare(graph.run(half, seen), graph.run(onnx_model, seen))
    assert 55 < drop.psnr_db < 110  # seen: 72


def test_int8_weights_are_enlarged_once_and_not_in_every_run():
    network = nn.Sequential(nn.Conv2d(3, 1024, 1), nn.Conv2d(1024, 1024, 1))  # one use of a weight
    image = torch.zeros(1, 3, 1, 1)
    exported = to_onnx.to_onnx(network, {"image": image}, ["disparity"], multiple=None)
    plain, small = (Onnx(m, threads=1) for m in (exported, to_onnx.to_int8_weights(exported)))

    def fastest(model):
        times = []
        for _ in range(20):
            start = time.perf_counter()
            model.run({"image": image.numpy()})
            times.append(time.perf_counter() - start)
        return min(times)

    assert fastest(small) < 2 * fastest(plain)  # seen: 1.0, and 3.0 where they are not


def test_int8_weights_are_int8_with_a_scale_per_channel(onnx_model, graph, photos):
    small, seen = to_onnx.to_int8_weights(onnx_model), photos(SIZE, 4)
    assert small == to_onnx.to_int8_weights(onnx_model)
    large = {n: v for n, v in weights(onnx_model).items() if v.size >= 128}
    stored = weights(small)
    for name, weight in large.items():
        assert name not in stored
        assert stored[f"{name}_levels"].dtype == np.int8
        per_channel = np.abs(stored[f"{name}_levels"]).reshape(len(weight), -1).max(axis=1)
        assert (per_channel == 127).all(), "all of the range in each channel"
    drop = compare(graph.run(small, seen), graph.run(onnx_model, seen))
    assert 40 < drop.psnr_db < 110  # seen: 51


def test_int8_is_near_and_as_exact_as_its_own_arithmetic(onnx_model, graph, int8, ranges, photos):
    seen = photos(SIZE, 6, seed=1)
    expected = graph.run(onnx_model, seen)
    assert int8 == graph.quantized(ranges, graph.layers)
    drop = compare(graph.run(int8, seen), expected)
    assert drop.psnr_db > 40  # seen: 46
    # What the nodes say, without ONNX Runtime's int8 kernels: clipped sums or an enlargement that
    # truncates would show.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(int8, options, ["CPUExecutionProvider"])
    exact = [session.run(None, one)[0] for one in seen]
    assert compare(exact, expected).psnr_db == pytest.approx(drop.psnr_db, abs=0.5)  # seen: 0.1


def test_int8_convolutions_run_in_int8(graph, int8, tmp_path):
    constants = weights(int8)
    stored = {v.dtype for name, v in constants.items() if name.endswith("weight_levels")}
    assert stored == {np.dtype(np.int8)}
    assert not any(name.endswith(".weight") for name in constants)
    nodes = onnx.load_from_string(int8).graph.node
    made_by = {name: node.op_type for node in nodes for name in node.output}
    assert {made_by[n.input[0]] for n in nodes if n.op_type == "Clip"} == {"Conv"}, (
        "nothing between"
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(int8, options, ["CPUExecutionProvider"])
    optimized = kinds((tmp_path / "optimized.onnx").read_bytes())
    assert optimized["QLinearConv"] == len(graph.layers) and not optimized["Conv"]
    assert not optimized["Clip"], "an activation that int8 has for nothing"


def test_a_layer_kept_in_float_has_float_weights(onnx_model, graph, ranges):
    mixed = graph.quantized(ranges, [layer for layer in graph.layers if layer != "head"])
    before, after = weights(onnx_model), weights(mixed)
    np.testing.assert_array_equal(after["head.weight"], before["head.weight"])
    assert after["stem.0.weight_levels"].dtype == np.int8
    assert graph.quantized(ranges, []) != mixed
    assert "QuantizeLinear" not in kinds(graph.quantized(ranges, []))


def test_calibrated_on_a_grey_wall_it_is_wrong(onnx_model, graph, photos):
    """What `argan verify` has to catch can be made, and shows on real photos."""
    wall = [{"image": np.full((1, 3, *SIZE), 0.5, np.float32)}] * 2
    grey = calibration.ranges(calibration.observe(lambda: graph.activations(wall)), "min-max")
    seen = photos(SIZE, 4)
    drop = compare(
        graph.run(graph.quantized(grey, graph.layers), seen), graph.run(onnx_model, seen)
    )
    assert drop.psnr_db < 30  # seen: 14


def test_no_pair_of_dense_weights_overflows_16_bits():
    """Processors without VNNI add 255 w1 + 255 w2 in 16 bits."""

    def levels(weight):
        scale = weight_scale(torch.from_numpy(weight)).numpy()
        return to_onnx._levels(weight, scale).reshape(len(weight), -1).astype(int)

    rng = np.random.default_rng(0)
    dense = rng.standard_normal((64, 24, 1, 1)).astype(np.float32)
    dense[0, :2, 0, 0] = 4.0, 3.9
    dense[1] = -np.abs(dense[1])
    two = np.sort(levels(dense), axis=1)
    assert 255 * two[:, -2:].sum(axis=1).max() < 2**15
    assert 255 * two[:, :2].sum(axis=1).min() >= -(2**15)
    assert np.abs(two).max(axis=1).min() > 60, "no more than a bit is given away"
    assert np.abs(levels(dense.reshape(64 * 24, 1, 1, 1))).min() == 127, "depthwise"


def test_a_dead_channel_keeps_its_bias(onnx_model, photos):
    """As pretrained networks have them: no weights left, and a bias of many times their scale."""
    model = onnx.load_from_string(onnx_model)
    for constant in model.graph.initializer:
        if constant.name in ("head.weight", "head.weight_bias", "head.bias"):
            value = numpy_helper.to_array(constant)
            dead = np.full_like(value, 1e-12 if "weight" == constant.name[-6:] else 3.0)
            constant.CopyFrom(numpy_helper.from_array(dead, constant.name))
    graph, seen = OnnxGraph(model.SerializeToString()), photos(SIZE, 2)
    found = calibration.ranges(calibration.observe(lambda: graph.activations(seen)), "min-max")
    (got, _) = graph.run(graph.quantized(found, graph.layers), seen)
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-3)), atol=0.005)


def test_only_a_submodule_is_quantised_and_bytes_go_in(lens, photos):
    """The whole chain: an image of bytes, two outputs, fixed size; its lens stays in float."""
    example = {"image": torch.zeros(1, 3, *SIZE, dtype=torch.uint8), "focus": torch.tensor([0.4])}
    model = to_onnx.to_onnx(EightBit(lens), example, ["bokeh", "disparity"], multiple=None)
    graph = OnnxGraph(model, within="network.network")
    assert graph.layers == ["network.network.0", "network.network.2"]
    seen = [one | {"focus": np.float32([0.4])} for one in photos(SIZE, 4)]
    found = calibration.ranges(calibration.observe(lambda: graph.activations(seen)), "mse")
    int8 = graph.quantized(found, graph.layers)
    constants = weights(int8, size=1)
    assert constants["network.blot.weight"].dtype == np.float32
    assert constants["network.network.2.weight_levels"].dtype == np.int8
    assert "QuantizeLinear" in kinds(int8) and Onnx(int8).signatures[0].inputs[0].dtype == np.uint8
    image = np.rint(seen[0]["image"] * 255).astype(np.uint8)
    answers = Onnx(int8, threads=1).run({"image": image, "focus": seen[0]["focus"]})
    bokeh, disparity = lens(torch.from_numpy(image / np.float32(255)), torch.tensor([0.4]))
    assert psnr(answers["disparity"], disparity.numpy()) > 38  # seen: 45
    assert psnr(answers["bokeh"], bokeh.numpy()) > 38
    assert compare(graph.run(int8, seen), graph.run(model, seen)).psnr_db > 38
