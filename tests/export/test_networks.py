"""Every kind of depth network is exported as what it is."""

import numpy as np
import pytest
import torch
from torch import nn

from argan.backends.onnx import Onnx
from argan_export.card import card
from argan_export.graph import DepthGraph
from argan_export.to_onnx import to_onnx
from argan_train.networks import depth_net


def shaken(network: nn.Module) -> nn.Module:
    """Untrained, but with batch norms that do something and disparities that are not all alike."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
            layer.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    network.head.weight.data.mul_(50)  # type: ignore[union-attr, operator]
    return network.eval()


@pytest.mark.parametrize("name, decoder", [("nano", "light"), ("lite0", "wide")])
def test_onnx_computes_what_torch_computes(name: str, decoder: str) -> None:
    torch.manual_seed(0)
    network = shaken(depth_net(name, decoder))
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    model = Onnx(to_onnx(network, {"image": image}, ["disparity"], multiple=None), threads=1)
    with torch.no_grad():
        expected = network(image).numpy()
    found = model.run({"image": image.numpy()})["disparity"]
    assert found.std() > 0.02
    np.testing.assert_allclose(found, expected, atol=1e-5)  # largest seen: 3e-7


def test_the_card_says_what_was_pretrained() -> None:
    settings = {"network": "lite0", "seed": 0, "steps": 2, "batch": 4, "size": 32}
    record = {"settings": settings, "steps": 2, "seconds": 1, "device": "x86_64", "threads": 1}
    data = {"teachers": {}, "pretrained": {"weights": "EfficientNet-Lite0, pretrained on ImageNet"}}
    after = {"teachers": {}, "student": {"run": "large", "record": record | {"data": data}}}
    for about, words in (
        (data, "Its encoder began as EfficientNet-Lite0, pretrained on ImageNet."),
        (after, "from `large`, which began as EfficientNet-Lite0, pretrained on ImageNet."),
        ({"teachers": {}}, "No pretrained weights."),
    ):
        graph = DepthGraph(nn.Identity(), 96, (0, 1), "dr", record | {"data": about}, "0" * 64)
        text = card("x", graph, {}, {}, None)
        assert words in text and ("No pretrained" in text) == (about not in (data, after))


def test_the_card_says_what_a_second_round_learnt_from() -> None:
    settings = {"network": "nano", "seed": 0, "steps": 4000, "batch": 24, "size": 96,
                "ground": 0.5}  # fmt: skip
    record = {"settings": settings, "steps": 4000, "seconds": 1, "device": "x86_64", "threads": 1}
    first = record | {"data": {"teachers": {}}, "steps": 1600}  # stopped
    photos = {"source": "flowers.zip", "photos": 7366, "cut_out": 6540}
    data = {"teachers": {}, "photos": photos, "student": {"run": "first", "record": first}}
    for about, second in ((data, True), (first["data"], False)):
        graph = DepthGraph(nn.Identity(), 96, (0, 1), "dr", record | {"data": about}, "0" * 64)
        text = card("x", graph, {}, {}, None)
        assert ("(6,540 of 7,366 of `flowers.zip`)" in text) == second
        assert ("Assumed" in text) == second and ("`first`: 1,600 of 4,000 steps" in text) == second
        assert "| trained | 4,000 steps of 24" in text


@pytest.mark.parametrize(
    "ground, standing, stems, begun_with",
    [
        (0.5, False, 0.6, True),
        (0.0, True, 0.6, False),
        (0.2, True, 0.0, True),
        (0.0, False, 0.0, False),
        (0.0, False, 0.6, False),
    ],
)
@pytest.mark.parametrize("int8", [False, True])
def test_the_card_says_what_was_assumed(
    ground: float, standing: bool, stems: float, begun_with: bool, int8: bool
) -> None:
    settings = {"network": "nano", "seed": 0, "steps": 1, "batch": 24, "size": 96,
                "ground": ground, "standing": standing, "stems": stems}  # fmt: skip
    record = {"settings": settings, "steps": 1, "seconds": 1, "device": "x86_64", "threads": 1}
    first = record | {"data": {"teachers": {}}}
    photos = {"source": "flowers.zip", "photos": 7366, "cut_out": 6540}
    student = {"run": "first", "begun_with": ["stem"] * begun_with, "record": first}
    about = record | {"data": {"teachers": {}, "photos": photos, "student": student}}
    fine_tuned = {"run": "second", "begun_with": ["stem"], "int8": True, "record": about}
    if int8:
        about = record | {"data": {"teachers": {}, "student": fine_tuned}}
    text = card("x", DepthGraph(nn.Identity(), 96, (0, 1), "dr", about, "0" * 64), {}, {}, None)
    assert ("say in int8" in text) == int8
    assert ("the ground comes nearer downwards, and that things stand" in text) == bool(ground)
    assert ("carries it and is as near" in text) == standing
    for said in ("have a stem, which is as near", "as near as where they grow"):
        assert (said in text) == (bool(stems) and not standing)
    assert ("Assumed" in text) == (bool(ground) or standing or bool(stems))
    assert ("It began with the weights of that student: stem." in text) == begun_with


@pytest.mark.parametrize("int8", [False, True])
def test_the_card_says_of_which_runs_the_weights_are_the_mean(int8: bool) -> None:
    settings = {"network": "nano", "seed": 0, "steps": 1, "batch": 24, "size": 96, "ground": 0}
    record = {"settings": settings, "steps": 1, "seconds": 1, "device": "x86_64", "threads": 1}
    about = record | {"data": {"teachers": {}}, "mean_of": {"first": "0" * 64, "last": "1" * 64}}
    if int8:
        student = {"run": "mean", "begun_with": ["stem"], "int8": True, "record": about}
        about = record | {"data": {"teachers": {}, "student": student}}
    text = card("x", DepthGraph(nn.Identity(), 96, (0, 1), "dr", about, "0" * 64), {}, {}, None)
    assert "the mean of those of several runs: `first`, `last`." in text
    assert ("say in int8" in text) == int8


@pytest.mark.parametrize("before, said", [("nano", ", a narrower one's (`nano`)"), ("small", "")])
def test_the_card_says_that_a_network_was_widened(before: str, said: str) -> None:
    settings = {"network": "small", "seed": 0, "steps": 1, "batch": 24, "size": 96, "ground": 0}
    record = {"settings": settings, "steps": 1, "seconds": 1, "device": "x86_64", "threads": 1}
    first = record | {"settings": settings | {"network": before}, "data": {"teachers": {}}}
    student = {"run": "first", "begun_with": ["stem"], "record": first}
    photos = {"source": "flowers.zip", "photos": 7366, "cut_out": 6540}
    about = record | {"data": {"teachers": {}, "photos": photos, "student": student}}
    text = card("x", DepthGraph(nn.Identity(), 96, (0, 1), "dr", about, "0" * 64), {}, {}, None)
    assert f"It began with the weights of that student{said}: stem." in text
