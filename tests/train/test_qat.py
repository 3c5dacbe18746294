"""A student learns to say in int8 what it says in float, and stays an ordinary student."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from argan.metrics import psnr
from argan_train import checkpoint, cli, qat
from argan_train.ar_gan import load_generator
from argan_train.ar_gan_dr import load_depth_net
from argan_train.networks import DepthNet, Lite0DepthNet

WEIGHTS = Path(__file__).parents[2] / "weights"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shipped():
    """The student that ships, its settings, and the generator that taught it."""
    student, config = load_depth_net(WEIGHTS / "flowers-dr")
    return student, config, [load_generator(WEIGHTS / "flowers64", CPU)]


def random(network):
    """Batch norms with statistics of their own."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    return network.eval()


def images(count=2):
    rng = torch.Generator().manual_seed(0)
    return [torch.rand(2, 3, 64, 64, generator=rng) for _ in range(count)]


@pytest.mark.parametrize("make", [lambda: DepthNet(4), lambda: Lite0DepthNet()])
def test_without_rounding_it_is_the_network_itself(make, monkeypatch):
    network = random(make())
    monkeypatch.setattr(qat, "rounded", lambda weight: weight)
    int8 = qat.simulated(network, [])
    for module in int8.modules():  # observing: nothing is rounded
        if isinstance(module, qat.Activation):
            module.observing = True
    with torch.no_grad():
        torch.testing.assert_close(int8(images()[0]), network(images()[0]), atol=1e-5, rtol=0)


def test_everything_between_convolutions_has_256_levels_and_weights_255():
    network, seen = random(DepthNet(4)), {}
    int8 = qat.simulated(network, images())
    convolutions = [m for m in int8.modules() if isinstance(m, qat.Int8Conv)]
    assert len(convolutions) == sum(isinstance(m, nn.Conv2d) for m in network.modules())
    for name, module in int8.named_modules():
        if isinstance(module, qat.Activation):
            module.register_forward_hook(lambda *a, name=name: seen.update({name: a[2]}))
    with torch.no_grad():
        int8(images()[0])
    assert len(seen) > len(convolutions)
    assert all(2 < len(np.unique(values.numpy())) <= 256 for values in seen.values())
    for conv in convolutions:
        weight = conv.conv.weight.detach()
        scale = qat.weight_scale(weight)[:, None, None, None]
        levels = qat.rounded(weight) / scale
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
        assert levels.abs().max() < 127.5 and (levels * scale - weight).abs().max() > 0
        assert ((levels * scale - weight).abs() <= scale * 0.501).all()


def test_rounding_costs_little_and_gradients_reach_every_parameter():
    network = random(DepthNet(4))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    int8 = qat.simulated(network, images())
    difference = int8(images()[0]) - network(images()[0])
    assert 1e-5 < difference.abs().mean() < 0.05
    difference.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    after = network.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before), "statistics are frozen"


def int8_psnr(network, seen, student):
    """dB of a network in int8 arithmetic on pictures, against `student` in float; its ranges are
    found anew, as for an export."""
    int8 = qat.simulated(network, seen)
    with torch.no_grad():
        got, expected = (np.concatenate([f(x).numpy() for x in seen]) for f in (int8, student))
    return psnr(got, expected)


def test_a_student_learns_to_say_in_int8_what_it_says_in_float(shipped):
    student, config, teachers = shipped
    short = {"steps": 300, "batch": 8, "warmup": 10, "size": 64}
    config = dataclasses.replace(config, **qat.SETTINGS | short)
    method = qat.Int8Student(config, teachers, CPU, None, student)
    assert method.trust(1) == 1, "it is the finished student that is followed"
    seen = [method.lesson(8, torch.Generator().manual_seed(1000 + i), i)[0] for i in range(2)]
    before = int8_psnr(student, seen, student)
    for step in range(1, config.steps + 1):
        method.step(step)
    assert int8_psnr(method.ema, seen, student) > before + 0.5  # tenth round: 45.4, 46.7


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "int8"
    train(folder, 4)
    return folder


def train(folder, steps, *more):
    argv = ["ar-gan-dr", "--teacher", str(WEIGHTS / "flowers64"), "--qat",
            str(WEIGHTS / "flowers-dr"), "--batch", "2", "--size", "32", "--steps", str(steps),
            "--save-every", "2", "--log-every", "4", "--picture-every", "4",
            "--threads", "1", "--out", str(folder)]  # fmt: skip
    assert cli.train([*argv, *more]) == 0


def test_the_run_is_an_ordinary_students(run):
    network, config = load_depth_net(run)
    student, own = load_depth_net(WEIGHTS / "flowers-dr")
    assert (config.nominal, config.network) == (own.nominal, own.network)
    assert config.learning_rate == qat.SETTINGS["learning_rate"] and config.steps == 4
    state, before = network.state_dict(), student.state_dict()
    assert state.keys() == before.keys()
    assert any(not torch.equal(state[k], before[k]) for k in state)
    record = json.loads((run / "config.json").read_text())["data"]["student"]
    assert record["run"] == "flowers-dr" and record["record"]["settings"]["steps"] == own.steps
    assert record["sha256"] == checkpoint.sha256(WEIGHTS / "flowers-dr" / "ema.safetensors")
    assert "flowers-dr/ema.safetensors" in (run / "inputs.sha256").read_text()


def test_it_resumes_exactly(run, tmp_path, monkeypatch):
    stopped = tmp_path / "int8"
    original = qat.Int8Student.step
    calls = []

    def step(self, number):
        calls.append(number)
        if len(calls) == 4:  # killed in the fourth step: the second was saved
            raise KeyboardInterrupt
        return original(self, number)

    monkeypatch.setattr(qat.Int8Student, "step", step)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, 4)
    train(stopped, 4, "--resume")
    assert calls == [1, 2, 3, 4, 3, 4]
    whole, resumed = (checkpoint.load_tensors(f / "ema.safetensors") for f in (run, stopped))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
