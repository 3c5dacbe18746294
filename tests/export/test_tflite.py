"""TFLite in every precision says what PyTorch says."""

from __future__ import annotations

from collections import Counter

import flatbuffers
import numpy as np
import pytest
import torch
from torch import nn

from argan.backends import canonical
from argan.metrics import psnr
from argan_export import calibration
from argan_export.network import EightBit
from argan_export.quantize import compare

pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_quantizer")

from ai_edge_litert import schema_py_generated as schema  # noqa: E402

from argan.backends.tflite import TFLite  # noqa: E402
from argan_export import to_tflite  # noqa: E402
from argan_export.to_tflite import TFLiteGraph  # noqa: E402

SIZES = ((64, 64), (64, 96))
TYPES = {code: name for name, code in vars(schema.TensorType).items() if name[0] != "_"}


@pytest.fixture(scope="module")
def graph(tflite_model):
    return TFLiteGraph(tflite_model)


@pytest.fixture(scope="module")
def ranges(graph, photos):
    seen = [*photos(SIZES[0], 6), *photos(SIZES[1], 6)]
    return calibration.ranges(calibration.observe(lambda: graph.activations(seen)), "min-max")


@pytest.fixture(scope="module")
def int8(graph, ranges):
    return graph.quantized(ranges, graph.layers)


def unpacked(model):
    return schema.ModelT.InitFromPackedBuf(model, 0)


def weights(model):
    """{type: bytes} of the constants."""
    flat, found = unpacked(model), {}
    for tensor in flat.subgraphs[0].tensors:
        data = flat.buffers[tensor.buffer].data
        if data is not None:
            kind = TYPES[tensor.type]
            found[kind] = found.get(kind, 0) + len(data)
    return found


def ops(model):
    """(kind, types of what it takes, path) of the first graph."""
    flat = unpacked(model)
    types = {t.name.decode(): TYPES[t.type] for t in flat.subgraphs[0].tensors}
    return [(op.kind, {types[name] for name in op.takes}, op.path)
            for op in to_tflite._ops(flat) if op.graph == 0]  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_fp32_is_pytorch_channels_last_at_each_size(tiny, graph, tflite_model, photos, size):
    (one,) = photos(size, 1)
    expected = tiny(torch.from_numpy(one["image"])).numpy()
    assert psnr(graph.run(tflite_model, [one])[0], expected) > 110  # seen: 139
    model = TFLite(tflite_model, threads=1)
    signature = canonical.find_signature(model.signatures, "NHWC", size)
    assert signature.name == f"s{size[0]}x{size[1]}"
    assert [(p.name, p.shape) for p in signature.inputs] == [("image", (1, *size, 3))]
    assert [(p.name, p.shape) for p in signature.outputs] == [("disparity", (1, *size, 1))]
    mirrored = np.ascontiguousarray(one["image"].transpose(0, 2, 3, 1)[..., ::-1])
    answer = model.run({"image": mirrored}, signature.name)["disparity"].transpose(0, 3, 1, 2)
    assert psnr(answer, expected) < 40, "channels swapped"


def test_signatures_share_weights_and_scales(tflite_model, int8):
    for model in (tflite_model, int8):
        flat = unpacked(model)
        stored = [[flat.buffers[t.buffer].data for t in g.tensors] for g in flat.subgraphs]
        large = [
            {v.tobytes() for v in values if v is not None and len(v) > 64} for values in stored
        ]
        assert large[0] == large[1] and len(large[0]) > 8
        assert all(model.count(value) == 1 for value in large[0])
    builder = flatbuffers.Builder()
    builder.Finish(unpacked(int8).Pack(builder), b"TFL3")
    assert len(int8) < 0.75 * len(builder.Output())  # seen: 0.71
    assert to_tflite._packed(unpacked(int8)) == int8


def test_layers_are_called_as_in_onnx(graph, onnx_model):
    from argan_export.to_onnx import OnnxGraph

    assert graph.layers == OnnxGraph(onnx_model).layers


def test_lists_of_modules_are_told_apart():
    """The converter leaves out their names: both convolutions are "0" to it."""
    network = nn.Module()
    network.down, network.up = (nn.ModuleList([nn.Conv2d(3, 3, 1)]) for _ in range(2))
    network.forward = lambda image: network.down[0](network.up[0](image))  # type: ignore[method-assign]
    found = to_tflite._convolutions(network, {"image": torch.zeros(1, 3, 4, 4)})
    assert found == [("up.0", "0"), ("down.0", "0")]


def test_fp16_halves_the_weights(tflite_model, graph, photos):
    half, seen = to_tflite.to_fp16(tflite_model), photos(SIZES[1], 4)
    assert half == to_tflite.to_fp16(tflite_model)
    before, after = weights(tflite_model), weights(half)
    # What is left in float32 are biases and the two constants of the input.
    assert after["FLOAT16"] > 0.4 * before["FLOAT32"] > 3 * after["FLOAT32"]
    drop = compare(graph.run(half, seen), graph.run(tflite_model, seen))
    assert 55 < drop.psnr_db < 110  # seen: 75


def test_int8_is_near_and_all_of_it_is_int8(tflite_model, graph, int8, ranges, photos):
    seen = [*photos(SIZES[0], 3, seed=1), *photos(SIZES[1], 3, seed=1)]
    drop = compare(graph.run(int8, seen), graph.run(tflite_model, seen))
    assert drop.psnr_db > 40  # seen: 44
    assert int8 == graph.quantized(ranges, graph.layers)
    census = weights(int8)
    assert census["INT8"] > 0.2 * weights(tflite_model)["FLOAT32"] and "FLOAT32" not in census
    float_ops = [(kind, path) for kind, takes, path in ops(int8) if "FLOAT32" in takes]
    assert float_ops == [("QUANTIZE", "")], "the image, once"
    (port,) = TFLite(int8).signatures[0].outputs
    assert port.dtype == np.float32


def test_a_layer_kept_in_float_keeps_its_neighbours(graph, tflite_model, ranges, photos):
    mixed = graph.quantized(ranges, [layer for layer in graph.layers if layer != "head"])
    kinds = Counter(kind for kind, takes, _ in ops(mixed) if takes == {"FLOAT32"})
    assert kinds["CONV_2D"] == kinds["LOGISTIC"] == 1
    seen = photos(SIZES[1], 4, seed=1)
    expected = graph.run(tflite_model, seen)
    both = [compare(graph.run(model, seen), expected).psnr_db
            for model in (mixed, graph.quantized(ranges, graph.layers))]  # fmt: skip
    assert both[0] > both[1]
    alone = graph.quantized(ranges, ["stem.0"])
    assert Counter(kind for kind, takes, _ in ops(alone) if "INT8" in takes)["CONV_2D"] == 1
    assert compare(graph.run(alone, seen), expected).psnr_db > both[1]


def test_whole_numbers_go_in_and_come_out(tflite_model, graph, ranges, photos):
    whole = TFLiteGraph(tflite_model, integer_ports=True)
    model = TFLite(whole.quantized(ranges, whole.layers), threads=1)
    for signature in model.signatures:
        (image,), (disparity,) = signature.inputs, signature.outputs
        assert (image.dtype, disparity.dtype) == (np.int8, np.int8)
        assert (image.scale, image.zero_point) == (pytest.approx(1 / 255), -128)
        assert (disparity.scale, disparity.zero_point) == (1 / 256, -128)
    (one,) = photos(SIZES[0], 1, seed=1)
    photo = np.rint(one["image"] * 255).transpose(0, 2, 3, 1).astype(np.uint8)
    # What the module's text tells a host to do.
    answer = model.run({"image": (photo.astype(int) - 128).astype(np.int8)}, "s64x64")["disparity"]
    got = ((answer.astype(np.float32) + 128) / 256).transpose(0, 3, 1, 2)
    assert psnr(got, graph.run(tflite_model, [one])[0]) > 40  # seen: 44


def test_calibrated_on_a_grey_wall_it_is_wrong(tflite_model, graph, photos):
    wall = [{"image": np.full((1, 3, *SIZES[0]), 0.5, np.float32)}] * 2
    grey = calibration.ranges(calibration.observe(lambda: graph.activations(wall)), "min-max")
    seen = photos(SIZES[0], 4)
    model = graph.quantized(grey, graph.layers)
    assert compare(graph.run(model, seen), graph.run(tflite_model, seen)).psnr_db < 30  # seen: 16


def test_only_a_submodule_is_quantised_and_bytes_go_in(lens, photos):
    """The whole chain: an image of bytes, two outputs; its lens stays in float."""
    example = {"image": torch.zeros(1, 3, 32, 64, dtype=torch.uint8), "focus": torch.tensor([0.4])}
    model = to_tflite.to_tflite(EightBit(lens), example, ["bokeh", "disparity"], [(32, 64)])
    graph = TFLiteGraph(model, within="network.network", integer_ports=True)
    assert graph.layers == ["network.network.0", "network.network.2"]
    seen = [one | {"focus": np.float32([0.4])} for one in photos((32, 64), 4)]
    found = calibration.ranges(calibration.observe(lambda: graph.activations(seen)), "mse")
    int8 = graph.quantized(found, graph.layers)
    takes = {path: kinds for kind, kinds, path in ops(int8) if kind.endswith("CONV_2D")}
    assert takes["network.blot"] == {"FLOAT32"} and takes["network.network.2"] == {"INT8"}
    (signature,) = TFLite(int8).signatures
    assert {p.name: p.dtype for p in signature.inputs} == {"image": np.uint8, "focus": np.float32}
    image = np.rint(seen[0]["image"] * 255).astype(np.uint8)
    given = {"image": np.ascontiguousarray(image.transpose(0, 2, 3, 1)), "focus": seen[0]["focus"]}
    answers = TFLite(int8, threads=1).run(given, signature.name)
    expected = lens(torch.from_numpy(image / np.float32(255)), torch.tensor([0.4]))
    for name, wanted in zip(("bokeh", "disparity"), expected, strict=True):
        port = next(p for p in signature.outputs if p.name == name)
        got = canonical.decode(answers[name], port).transpose(0, 3, 1, 2)
        assert psnr(got, wanted.numpy()) > 38  # seen: 45
