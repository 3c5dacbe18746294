"""A Core ML package made on Linux computes what PyTorch computed, in every precision."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

pytest.importorskip("coremltools")

from argan.errors import BundleError, InputError, MissingExtraError, MissingFileError
from argan_export import lint
from argan_export.mil_eval import MilProgram
from argan_export.quiet import quiet
from argan_export.to_coreml import PRECISIONS, SPECIFICATION, WEIGHTS, palette, to_coreml
from argan_train.ar_gan_dr import load_depth_net
from argan_train.networks import DepthNet

ROOT = Path(__file__).parents[2]
Package = dict[str, bytes]
# dB on the photo below; seen on this and on 15 others, whose worst is given.
LEAST = {
    "fp32": 110.0,  # 142
    "fp16": 55.0,  # 70
    "int8": 40.0,  # 60
    "palette6": 35.0,  # 44
}


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    return load_depth_net(ROOT / "weights/flowers-dr")[0]


@pytest.fixture(scope="session")
def package(trained: nn.Module) -> Callable[[str], Package]:
    """The trained network in a precision; converted once."""
    made: dict[str, Package] = {}

    def get(precision: str) -> Package:
        if precision not in made:
            example = torch.zeros(1, 3, 96, 96)
            made[precision] = to_coreml(
                trained, {"image": example}, ["disparity"], precision=precision
            )
        return made[precision]

    return get


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """[96, 160, 3]"""
    with Image.open(ROOT / "examples/dahlia.jpg") as image:
        return np.array(image.convert("RGB").resize((160, 96)))


def expected(network: nn.Module, photo: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.no_grad():
        return network(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255).numpy()


def psnr(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    error = ((ours.astype(np.float64) - theirs) ** 2).mean()
    return float(-10 * np.log10(max(error, 1e-30)))


def size(package: Package) -> int:
    return sum(map(len, package.values()))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_trained_weights(
    precision: str, package: Callable[[str], Package], trained: nn.Module, photo: NDArray[np.uint8]
) -> None:
    disparity = MilProgram(package(precision)).run({"image": photo})["disparity"]
    assert disparity.dtype == np.float32 and disparity.shape == (1, 1, 96, 160)
    assert psnr(disparity, expected(trained, photo)) > LEAST[precision]


@pytest.mark.parametrize(
    "error",
    [
        lambda photo: photo[..., ::-1],  # channels swapped
        lambda photo: photo[:, ::-1],  # mirrored
        lambda photo: photo // 2,
        lambda photo: np.roll(photo, 2, axis=1),
    ],
)
def test_the_bound_sees_another_picture(
    error: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    package: Callable[[str], Package], trained: nn.Module, photo: NDArray[np.uint8],
) -> None:  # fmt: skip
    disparity = MilProgram(package("fp32")).run({"image": error(photo)})["disparity"]
    assert psnr(disparity, expected(trained, photo)) < min(LEAST.values())


def test_a_network_with_other_statistics(photo: NDArray[np.uint8]) -> None:
    """Batch norms that do something, weights that nobody trained; half precision."""
    torch.manual_seed(0)
    network = DepthNet(16).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.8, 1.6)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
    network.head.weight.data *= 20
    program = MilProgram(
        to_coreml(network, {"image": torch.zeros(1, 3, 64, 64)}, ["disparity"], precision="fp16")
    )
    wanted = expected(network, photo)
    assert wanted.std() > 0.01
    declared, exact = (
        program.run({"image": photo}, types=types)["disparity"] for types in ("declared", "float32")
    )
    assert psnr(declared, wanted) > 55  # 75
    assert psnr(exact, wanted) > psnr(declared, wanted)  # 80: what is left is of the weights


def test_sizes(package: Callable[[str], Package]) -> None:
    full = size(package("fp32"))
    assert size(package("fp16")) <= 0.55 * full + 150_000
    assert size(package("int8")) <= 0.35 * full + 150_000
    assert size(package("palette6")) < size(package("int8"))


def operations(package: Package) -> Any:
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model.FromString(package[f"Data/{SPECIFICATION}"])
    (block,) = model.mlProgram.functions["main"].block_specializations.values()
    return model, block.operations


def test_what_is_declared(package: Callable[[str], Package]) -> None:
    """iOS 16, an image of any size, and weights that are stored as the precision says."""
    stored = {
        "fp32": {}, "fp16": {}, "int8": {"constexpr_affine_dequantize"},
        "palette6": {"constexpr_lut_to_dense"},
    }  # fmt: skip
    for precision in PRECISIONS:
        model, ops = operations(package(precision))
        assert model.specificationVersion == 7  # iOS 16
        image = model.description.input[0].type.imageType
        assert image.ColorSpace.Name(image.colorSpace) == "RGB" and image.width == 96
        limits = image.imageSizeRange
        assert (limits.heightRange.lowerBound, limits.widthRange.upperBound) == (32, 2048)
        kinds = Counter(op.type for op in ops)
        assert {kind for kind in kinds if kind.startswith("constexpr")} == set(stored[precision])
        if stored[precision]:
            assert sum(kinds[kind] for kind in stored[precision]) > 15  # most of 38 convolutions
    for op in MilProgram(package("int8")).function.operations:
        if op.op_type == "constexpr_affine_dequantize":
            assert op.scale.val.shape == op.quantized_data.val.shape[:1]  # one per channel


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_neural_engine_takes_all_of_it(
    precision: str, package: Callable[[str], Package]
) -> None:
    (graph,) = lint.read_coreml(package(precision))
    assert {found.severity for found in lint.coreml_ane(graph)} <= {"note"}


def test_signatures_describe_the_ports(package: Callable[[str], Package]) -> None:
    (signature,) = MilProgram(package("fp16")).signatures
    (image,), (disparity,) = signature.inputs, signature.outputs
    assert (image.name, image.shape, image.dtype) == ("image", (1, 3, None, None), np.uint8)
    assert (disparity.name, disparity.shape, disparity.dtype) == (
        "disparity", (1, 1, None, None), np.float32,
    )  # fmt: skip


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU6(), nn.Conv2d(32, 16, 3, padding=1),
        nn.Conv2d(16, 1, 3, padding=1), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Sigmoid(),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
def test_converting_twice_gives_the_same_bytes(precision: str) -> None:
    first, second = (
        to_coreml(small(), {"image": torch.zeros(1, 3, 64, 64)}, ["y"], precision=precision)
        for _ in range(2)
    )
    assert first == second
    assert not any(word in b"".join(first.values()) for word in (b"_date", str(ROOT).encode()))


def test_coremltools_takes_the_package(package: Callable[[str], Package], tmp_path: Path) -> None:
    """Its library, the one that Xcode uses, checks the manifest."""
    folder = tmp_path / "x.mlpackage"
    for name, data in package("int8").items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with quiet():
        import coremltools as ct

        model = ct.models.MLModel(str(folder), skip_model_load=True)
    assert Path(model.weights_dir).samefile(folder / "Data" / WEIGHTS)
    assert model.get_spec().SerializeToString(deterministic=True) == package("int8")[
        f"Data/{SPECIFICATION}"
    ]  # fmt: skip
    assert MilProgram(folder).function.operations


# ---------------------------------------------------------------- other graphs


class Refocus(nn.Module):
    """Ops of a layered renderer: shifts, tents, blurs, pools; two numbers besides a photo."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.rand(3, 1, 5, 5) / 12)

    def forward(self, photo: Tensor, focus: Tensor, blur: Tensor) -> tuple[Tensor, Tensor]:
        disparity = photo.mean(1, keepdim=True)
        radius = ((disparity - focus.view(1, 1, 1, 1)) * blur.view(1, 1, 1, 1)).abs()
        light = photo.clamp(min=1e-3) ** 2.2
        soft = F.conv2d(F.pad(light, (2, 2, 2, 2), mode="replicate"), self.kernel, groups=3)
        shifted = F.pad(light, (3, 0, 0, 1), mode="replicate")[:, :, 1:, :-3]
        half = F.interpolate(F.avg_pool2d(light, 2), scale_factor=2.0, mode="bilinear")
        widest = F.max_pool2d(radius, 3, 1, 1)
        near = (1 - (radius - 1).abs()).clamp_max(1).clamp_min(0)
        last = disparity.narrow(3, disparity.shape[3] - 1, 1)
        disparity = torch.cat([disparity[..., 1:], last], 3)
        weight = 1 / (near + 0.02)
        mixed = torch.where(widest > 1.5, half, soft * near + shifted * weight * 0.02)
        return mixed.clamp(min=1e-3) ** (1 / 2.2), disparity


@pytest.mark.parametrize("precision, least", [("fp32", 110.0), ("fp16", 55.0)])  # 153, 78
def test_a_renderer(precision: str, least: float, photo: NDArray[np.uint8]) -> None:
    torch.manual_seed(0)
    network = Refocus().eval()
    image = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
    numbers = {"focus": torch.tensor([0.4]), "blur": torch.tensor([6.0])}
    inputs = {"photo": image, **numbers}
    package = to_coreml(network, inputs, ["bokeh", "disparity"], precision=precision, flexible=None)
    program = MilProgram(package)
    assert [port.shape for port in program.signatures[0].inputs] == [(1, 3, 96, 160), (1,), (1,)]
    got = program.run({"photo": photo, **{k: v.numpy() for k, v in numbers.items()}})
    for name, wanted in zip(["bokeh", "disparity"], network(*inputs.values()), strict=True):
        assert psnr(got[name], wanted.numpy()) > least
    with pytest.raises(InputError, match="64 x 160 px"):
        program.run({"photo": photo[:64], **{k: v.numpy() for k, v in numbers.items()}})


def test_arrays_instead_of_images(photo: NDArray[np.uint8]) -> None:
    network, example = small(), torch.zeros(1, 3, 64, 64)
    program = MilProgram(
        to_coreml(network, {"image": example}, ["y"], precision="fp16", image_input=False)
    )
    array = (photo.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    assert psnr(program.run({"image": array})["y"], expected(network, photo)) > 55  # 83
    port = program.signatures[0].inputs[0]
    assert port.dtype == np.float32 and port.shape == (1, 3, None, None)


# ---------------------------------------------------------------- images in, errors out


def test_an_image_in_any_form(package: Callable[[str], Package], photo: NDArray[np.uint8]) -> None:
    program = MilProgram(package("fp32"))
    wanted = program.run({"image": photo})["disparity"]
    for same in (Image.fromarray(photo), photo.transpose(2, 0, 1)[None]):
        assert np.array_equal(program.run({"image": same})["disparity"], wanted)


def test_blue_first_is_turned(package: Callable[[str], Package], photo: NDArray[np.uint8]) -> None:
    files = package("fp32")
    model, _ = operations(files)
    image = model.description.input[0].type.imageType
    image.colorSpace = image.ColorSpace.Value("BGR")
    turned = MilProgram({**files, f"Data/{SPECIFICATION}": model.SerializeToString()})
    wanted = MilProgram(files).run({"image": photo[..., ::-1]})["disparity"]
    assert np.array_equal(turned.run({"image": photo})["disparity"], wanted)


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({}, r"takes \['image'\], not \[\]"),
        ({"image": np.zeros((64, 64, 3), np.float32)}, "give a PIL image or uint8"),
        ({"image": np.zeros((64, 64), np.uint8)}, "give a PIL image or uint8"),
        ({"image": np.zeros((16, 64, 3), np.uint8)}, "16 x 64 px.*32 to 2048"),
        ({"image": np.zeros((64, 2080, 3), np.uint8)}, "64 x 2080 px.*32 to 2048"),
        ({"image": np.zeros((64, 48, 3), np.uint8)}, "Core ML op concat"),  # no multiple of 32
    ],
)
def test_unusable_inputs(
    inputs: dict[str, Any], message: str, package: Callable[[str], Package]
) -> None:
    with pytest.raises(InputError, match=message) as error:
        MilProgram(package("fp32")).run(inputs)
    assert "\n" not in str(error.value)


def broken(package: Package, name: str, data: bytes | None) -> Package:
    rest = {key: value for key, value in package.items() if key != name}
    return rest if data is None else {**rest, name: data}


def test_unusable_packages(package: Callable[[str], Package], tmp_path: Path) -> None:
    files = package("fp16")
    specification, weights = f"Data/{SPECIFICATION}", f"Data/{WEIGHTS}/weight.bin"
    model, ops = operations(files)
    ops[-1].type = "no_such_op"
    for wrong in (
        broken(files, specification, None),
        broken(files, specification, b"no protobuf"),
        broken(files, specification, b""),
        broken(files, specification, model.SerializeToString()),
        broken(files, weights, None),
        broken(files, weights, files[weights][:1000]),
    ):
        with pytest.raises(BundleError, match="export it again") as error:
            MilProgram(wrong)
        assert "\n" not in str(error.value)
    model.neuralNetwork.SetInParent()  # what packages were before iOS 15
    with pytest.raises(BundleError, match="a neuralNetwork, not an mlProgram"):
        MilProgram(broken(files, specification, model.SerializeToString()))
    with pytest.raises(MissingFileError, match="nowhere"):
        MilProgram(tmp_path / "nowhere")


def test_an_unknown_precision_names_those_there_are() -> None:
    with pytest.raises(InputError, match="fp32.*palette6"):
        to_coreml(nn.Identity().eval(), {}, [], precision="int4")


def test_without_coremltools(
    monkeypatch: pytest.MonkeyPatch, package: Callable[[str], Package]
) -> None:
    files = package("fp32")
    monkeypatch.setitem(sys.modules, "coremltools", None)
    for call in (
        lambda: MilProgram(files),
        lambda: to_coreml(
            nn.Identity().eval(), {"image": torch.zeros(1, 3, 32, 32)}, ["y"], precision="fp32"
        ),
    ):
        with pytest.raises(MissingExtraError, match=r'pip install "argan\[coreml\]"'):
            call()


def test_the_manifest_names_both_parts(package: Callable[[str], Package]) -> None:
    manifest = json.loads(package("fp16")["Manifest.json"])
    entries = manifest["itemInfoEntries"]
    assert {entry["path"] for entry in entries.values()} == {SPECIFICATION, WEIGHTS}
    assert entries[manifest["rootModelIdentifier"]]["path"] == SPECIFICATION


# ---------------------------------------------------------------- palettes


def test_a_palette_is_close_to_the_best() -> None:
    """Of many Gaussian values, 64 levels leave (pi sqrt(3) / 2) / 64^2 of the variance (Panter and
    Dite); of 2,000, whose levels can follow each of them, less."""
    for count, part in ((50_000, 1.0), (2_000, 0.85)):  # 0.99, 0.825; not iterated 1.004, 1.33
        weight = np.random.default_rng(0).standard_normal((count // 100, 100)).astype(np.float16)
        lookup, index = palette(weight)
        assert lookup.shape == (64,) and (np.diff(lookup) > 0).all() and index.dtype == np.uint8
        error = ((lookup[index].astype(np.float64) - weight.ravel()) ** 2).mean()
        assert error < part * (np.pi * 3**0.5 / 2) / 64**2


def test_a_palette_of_few_values_is_exact() -> None:
    weight = np.random.default_rng(0).choice(np.float16([-1, 0.25, 3]), size=(8, 300))
    lookup, index = palette(weight)
    assert np.array_equal(lookup[index], weight.ravel())
    assert np.array_equal(palette(np.zeros((2, 3), np.float16))[0], np.zeros(64))
