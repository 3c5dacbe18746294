"""Shapes, ranges, and that gradients reach what they should."""

import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from argan.errors import InputError
from argan_train import checkpoint, image_metrics, losses
from argan_train.ar_gan_dr import DECODERS_DIFFER, load_depth_net
from argan_train.distributed import BatchNorm2d
from argan_train.networks import (
    DepthExpansion,
    DepthNet,
    Discriminator,
    Generator,
    Lite0DepthNet,
    SameConv2d,
    batch_deviation,
    depth_net,
    doubled_conv,
    stage_channels,
    widened,
)

WEIGHTS = Path(__file__).parents[2] / "weights"


def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(size=16, width=4, latent=6, depth_size=8, max_blur_px=2.0)


def test_the_generator_makes_an_image_and_a_smooth_disparity() -> None:
    image, disparity = generator()(torch.randn(3, 6))
    assert image.shape == (3, 3, 16, 16) and disparity.shape == (3, 1, 16, 16)
    assert 0 <= image.min() and image.max() <= 1
    assert disparity.abs().max() <= 2.0


def test_the_adversarial_loss_reaches_the_disparity_through_the_lens() -> None:
    from argan.optics import Aperture
    from argan_train import render

    network, critic = generator(), Discriminator(16, 4)
    image, disparity = network(torch.randn(4, 6))
    points, weights = render.pupil(Aperture("disc", 4))
    losses.g_main(critic(render.photograph(image, disparity, points, weights))).backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in network.depth_head.parameters()
    )


def test_expansion_starts_as_the_identity_and_learns() -> None:
    expansion, disparity = DepthExpansion(views=4), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(expansion(disparity), disparity)
    expansion(disparity).square().sum().backward()
    assert expansion.outer.weight.grad is not None and expansion.outer.weight.grad.abs().sum() > 0


def test_the_discriminator_sees_a_collapse() -> None:
    one = torch.rand(1, 8, 4, 4)
    assert batch_deviation(one.expand(4, -1, -1, -1)).max() < 1e-3
    assert batch_deviation(torch.rand(4, 8, 4, 4)).min() > 0.1


@pytest.mark.parametrize("height, width", [(32, 32), (64, 96)])
def test_depth_net_takes_any_multiple_of_32(height: int, width: int) -> None:
    disparity = DepthNet(4).eval()(torch.rand(1, 3, height, width))
    assert disparity.shape == (1, 1, height, width)
    assert 0 < disparity.min() and disparity.max() < 1


@pytest.mark.parametrize("decoder", ["wide", "light"])
@pytest.mark.parametrize(
    "name, most", [("nano", 0.5e6), ("small", 1.5e6), ("base", 5e6), ("lite0", 5e6)]
)
def test_each_size_keeps_its_limit(name: str, most: float, decoder: str) -> None:
    network = depth_net(name, decoder).eval()
    assert most / 3 < sum(p.numel() for p in network.parameters()) <= most
    disparity = network(torch.rand(1, 3, 32, 64))
    assert disparity.shape == (1, 1, 32, 64) and 0 < disparity.min() and disparity.max() < 1


def test_only_ops_that_phones_run_well() -> None:
    """No squeeze-and-excitation, no other activation, no transposed convolution, no reflection."""
    for name in ("nano", "lite0"):
        leaves = {type(m) for m in depth_net(name, "wide").modules() if not list(m.children())}
        assert leaves <= {torch.nn.Conv2d, SameConv2d, BatchNorm2d, torch.nn.ReLU6}


def test_a_light_decoder_is_light_where_most_of_the_work_is() -> None:
    light, wide = DepthNet(16, light=True), DepthNet(16)
    assert [len(stage.layers) for stage in light.decoder] == [8, 8, 8, 5]  # type: ignore[arg-type]
    assert [len(stage.layers) for stage in wide.decoder] == [8] * 4  # type: ignore[arg-type]
    assert light.head.kernel_size == (1, 1) and wide.head.kernel_size == (3, 3)
    same = {n: w.shape for n, w in wide.state_dict().items() if not n.startswith(DECODERS_DIFFER)}
    lighter = light.state_dict().items()
    assert same == {n: w.shape for n, w in lighter if not n.startswith(DECODERS_DIFFER)}


@pytest.mark.parametrize("light", [False, True])
@pytest.mark.parametrize("width", [32, 64])
def test_a_wider_network_begins_as_the_narrower_one(width: int, light: bool) -> None:
    torch.manual_seed(0)
    narrow, wide = DepthNet(16, light), DepthNet(width, light)
    narrow(torch.rand(4, 3, 64, 64))  # norms that are not those of every new network
    weights = widened(narrow.state_dict(), wide, torch.Generator().manual_seed(0))
    wide.load_state_dict(weights)
    image = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        before, after = narrow.eval()(image), wide.eval()(image)
    assert (after - before).abs().max() < 1e-5  # seen: 2e-7
    before, after = narrow.head.weight, wide.head.weight  # of both of a pair, not the same share
    assert torch.allclose(after.unfold(1, width // 16, width // 16).sum(-1), before, atol=1e-6)
    assert (after[:, ::2] - after[:, 1::2]).abs().min() > 0


def test_the_weights_that_ship_fit_the_network() -> None:
    network, config = load_depth_net(WEIGHTS / "flowers-dr")  # fails where a name has changed
    assert config.decoder == "light"
    assert sum(p.numel() for p in network.parameters()) == 314_809


def test_weights_of_another_network_are_an_error_in_one_line(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "flowers-dr", tmp_path / "run")
    record = checkpoint.read_json(tmp_path / "run/config.json")
    record["settings"]["decoder"] = "wide"
    checkpoint.write_json(tmp_path / "run/config.json", record)
    with pytest.raises(InputError, match="not those of its settings, or of an earlier version"):
        load_depth_net(tmp_path / "run")


def test_the_imagenet_encoder_is_efficientnet_lite0() -> None:
    """Its features are those of the network that FID is measured on, which is tested by itself."""
    pytest.importorskip(image_metrics.EFFLITE0_PACKAGE)
    state = image_metrics.efficientnet_lite0_weights()
    network, known = Lite0DepthNet().eval(), image_metrics.EfficientNetLite0(state)
    network.load_imagenet(state)
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    x, last = F.relu6(known.stem((image * 255 - 127) / 128)), {}
    for block in known.blocks:
        x = block(x)
        last[x.shape[-1]] = x
    found, expected = network.features(image), last.values()
    assert [f.shape[-2:] for f in found] == [(32 >> i, 48 >> i) for i in range(5)]
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=5e-4)  # seen: 5e-5 of 55
    wrong = dict(state)
    del wrong["_bn0.weight"]
    with pytest.raises(ValueError, match="zip"):
        network.load_imagenet(wrong)


def test_channels_double_down_to_four_times_the_width() -> None:
    assert stage_channels(64, 8) == {4: 32, 8: 32, 16: 32, 32: 16, 64: 8}
    with pytest.raises(ValueError, match="power of two"):
        stage_channels(48, 8)


def test_the_doubled_convolution_is_enlarging_then_convolving() -> None:
    conv, x = torch.nn.Conv2d(3, 5, 3, padding=1).double(), torch.randn(2, 3, 4, 6).double()
    plain = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(doubled_conv(x, conv), plain)
    gradients = [
        torch.autograd.grad(out.square().sum(), list(conv.parameters()))
        for out in (doubled_conv(x, conv), plain)
    ]
    torch.testing.assert_close(*gradients)
