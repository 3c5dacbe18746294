"""An exported bundle computes what PyTorch computed, and says where it comes from."""

import io
import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import argan
from argan import bundle
from argan.backends.onnx import Onnx
from argan.verify import result
from argan_export import cli, graph, to_onnx, variants
from argan_train import loop
from argan_train.ar_gan import ArGan, load_generator
from argan_train.ar_gan_dr import ArGanDr, refocuser
from argan_train.config import ArGanConfig, ArGanDrConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of a teacher of four steps: enough to be exported."""
    folder = tmp_path_factory.mktemp("runs")
    every = {"log_every": 4, "save_every": 4, "picture_every": 4, "steps": 4}
    photos = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8)
    gan = ArGanConfig(size=16, width=4, batch=4, depth_size=8, **every)
    loop.train(ArGan(gan, photos, CPU), folder / "gan", {"source": "noise", "photos": 8}, CPU)
    student = ArGanDrConfig(size=32, batch=4, nominal=64, **every)
    record = {"teachers": {"gan": {
        "sha256": "0" * 64,
        "record": json.loads((folder / "gan" / "config.json").read_text()),
        "data": {"source": "noise", "photos": 8},
    }}}  # fmt: skip
    loop.train(
        ArGanDr(student, [load_generator(folder / "gan", CPU)], CPU), folder / "dr", record, CPU
    )
    return folder / "dr"


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "tiny.argan"
    assert cli.main([str(run), "-o", str(path)]) == 0
    return path


def onnx_of(content: bundle.Bundle) -> bytes:
    return content.model(content.find("onnx"))


def gap(run: Path, model: bytes, height: int, width: int, gain: float = 1.0) -> float:
    """The largest between a run, its first weights times `gain`, and a model in ONNX Runtime."""
    network = graph.depth_graph(run).network
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        next(network.parameters()).mul_(gain)
        expected = network(image).numpy()
    return float(np.abs(Onnx(model).run({"image": image.numpy()})["disparity"] - expected).max())


@pytest.mark.parametrize("height, width", [(64, 64), (96, 160)])
def test_onnx_computes_what_torch_computes(
    run: Path, exported: Path, height: int, width: int
) -> None:
    model = onnx_of(bundle.read(exported))
    assert gap(run, model, height, width) < 1e-5  # largest seen: 2e-7
    assert gap(run, model, height, width, gain=1.1) > 1e-5


def test_runtime_and_run_agree_on_a_photo(run: Path, exported: Path) -> None:
    photo = np.random.default_rng(0).integers(256, size=(50, 70, 3), dtype=np.uint8)
    ours, theirs = refocuser(run).depth(photo), argan.load(exported).depth(photo)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)  # largest seen: 1e-6


def test_golden_file_lets_a_port_check_itself(exported: Path) -> None:
    content = bundle.read(exported)
    golden = np.load(io.BytesIO(content.files["golden.npz"]))
    got = Onnx(onnx_of(content)).run({"image": golden["image"]})["disparity"]
    np.testing.assert_allclose(got, golden["disparity"], atol=1e-5)


def test_exporting_twice_gives_the_same_bytes(run: Path, exported: Path, tmp_path: Path) -> None:
    assert cli.main([str(run), "-o", str(tmp_path / "tiny.argan")]) == 0
    assert (tmp_path / "tiny.argan").read_bytes() == exported.read_bytes()
    # Within one process shape annotations repeat themselves; across processes they did not.
    assert not onnx.load_from_string(onnx_of(bundle.read(exported))).graph.value_info


def test_the_golden_answer_does_not_depend_on_the_number_of_threads() -> None:
    run = Path(__file__).parents[2] / "weights" / "flowers-dr"
    made = graph.depth_graph(run).graph([(256, 256)])
    image, answers, threads = graph.golden_input(256, 256).numpy(), [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            answers.append(made.answers({"image": image})["disparity"].tobytes())
    finally:
        torch.set_num_threads(threads)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("height, width", [(128, 128), (96, 160), (160, 96)])
def test_the_golden_picture_has_a_subject_that_a_network_is_sure_of(
    height: int, width: int
) -> None:
    """Else int8 would be as good as chance has it: 32 to 41 dB of one network."""
    image = graph.golden_input(height, width)
    assert image.shape == (1, 3, height, width) and 0 <= image.min() and image.max() <= 1
    assert torch.equal(image * 255, (image * 255).round())
    assert torch.equal(image, graph.golden_input(height, width))
    made = graph.depth_graph(Path(__file__).parents[2] / "weights" / "flowers-dr")
    disparity = made.graph([(height, width)]).answers({"image": image.numpy()})["disparity"][0, 0]
    least = min(height, width)
    middle = disparity[height // 2 - least // 8 :, width // 2 - least // 8 :]
    assert middle[: least // 4, : least // 4].min() > 0.8  # seen: 0.92
    upper = [disparity[:8, :8].max(), disparity[:8, -8:].max()]
    assert max(upper) < 0.4  # seen: 0.24
    lower = [disparity[-8:, :8].max(), disparity[-8:, -8:].max()]
    assert max(lower) < 0.7  # a ground, which comes nearer downwards; seen: 0.58


def test_the_card_says_what_it_learnt_from_and_how_well_it_does(run: Path, tmp_path: Path) -> None:
    scores = {"rel_rmse": 0.5, "spearman": 0.8}
    methods = {m: scores for m in ("model", "radial", "ramp", "radial+ramp")}
    evaluation = tmp_path / "evaluation.json"
    evaluation.write_text(json.dumps({"means": {"flowers": methods}}))
    licence = tmp_path / "LICENCE"
    licence.write_text("Nobody's.\n")
    path = tmp_path / "x.argan"
    argv = [str(run), "-o", str(path), "--evaluation", str(evaluation), "--licence", str(licence)]
    assert cli.main(argv) == 0
    content = bundle.read(path)
    card = content.files["CARD.md"].decode()
    assert "8 of `noise`" in card and "| flowers | 0.50 / 0.80 |" in card
    assert content.files["LICENSE-WEIGHTS"] == b"Nobody's.\n"
    assert content.manifest["variants"]["onnx-fp32"]["accuracy"]["flowers"] == scores


@pytest.mark.parametrize(
    "argv, message",
    [
        (["nowhere", "-o", "x.argan"], "config.json"),
        (["RUN", "-o", "x.onnx"], "NAME.argan"),
        (["RUN", "-o", "x.argan", "--evaluation", "nowhere.json"], "nowhere.json"),
        (["RUN", "-o", "x.argan", "--to", "onnx,ncnn"], "no format 'ncnn'"),
        (["RUN", "-o", "x.argan", "--precision", "palette6"], "no precision 'palette6': onnx has"),
        (["RUN", "-o", "x.argan", "--precision", "fp32,int8"], "give --calibration"),
        (["RUN", "-o", "x.argan", "--sizes", "64x65"], "multiples of 32"),
        (["RUN", "-o", "x.argan", "--refocus", "huge"], "multiples of 32"),
        (["RUN", "-o", "x.argan", "--sizes", "64x0"], "multiples of 32"),
        (["RUN", "-o", "nowhere/x.argan"], "nowhere is not a directory; make it first"),
        (["RUN", "-o", "x.argan", "--evaluation", "RUN/config.json"], "of a depth network"),
        (["RUN", "-o", "x.argan", "--evaluation", "RUN/ema.safetensors"], "of a depth network"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Path, tmp_path: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main([a.replace("RUN", str(run)) for a in argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(2)
    for i in range(6):
        coarse = Image.fromarray(rng.integers(256, size=(6, 8, 3), dtype=np.uint8))
        coarse.resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def test_every_format_and_precision_in_one_bundle(
    run: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """And each within `argan verify`'s limits, on the golden picture of this little network."""
    path = tmp_path / "all.argan"
    precisions = "fp32,fp16,int8,int8-io,int8-weights,palette6"
    argv = ["-o", str(path), "--to", "onnx,tflite,coreml", "--precision", precisions]
    argv += ["--sizes", "64,64x96", "--calibration", str(photos), "--count", "6"]
    assert cli.main([str(run), *argv]) == 0, capfd.readouterr().out
    shown = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert capfd.readouterr().err == "" and not shown  # the converters' chatter
    content = bundle.read(path)
    assert {v.name for v in content.variants} == {
        *(f"onnx-{p}" for p in ("fp32", "fp16", "int8", "int8-weights")),
        *(f"tflite-{p}" for p in ("fp32", "fp16", "int8", "int8-io")),
        *(f"coreml-{p}" for p in ("fp32", "fp16", "int8", "palette6")),
    }
    assert content.find("tflite").sizes == ((64, 64), (64, 96))
    assert content.find("tflite", "int8-io").dtype == content.find("coreml").dtype == "uint8"
    assert all(f["parity"]["disparity"] for f in content.manifest["variants"].values())
    found = json.loads(content.files["quantization.json"])
    assert found["variants"].keys() == {"onnx-int8", "tflite-int8", "tflite-int8-io"}
    assert len(found["photos"]["files"]) == 6
    assert content.files["CARD.md"].decode().count(" dB |") == len(content.variants)


def test_the_whole_chain_in_every_precision(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photo -> bokeh; `benchmarks/layered.py` has the other formats, which take minutes."""
    path = tmp_path / "chain.argan"
    argv = ["-o", str(path), "--precision", "fp32,fp16,int8", "--refocus", "64"]
    assert cli.main([str(run), *argv, "--calibration", str(photos), "--count", "4"]) == 0
    names = {v.name for v in bundle.read(path).variants if v.graph == "refocus"}
    assert names == {f"refocus-onnx-{p}" for p in ("fp32", "fp16", "int8")}
    assert "MISSED" not in capsys.readouterr().out


def test_a_variant_that_misses_its_limit_is_said_and_is_exit_code_1(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def spoilt(model: bytes) -> bytes:
        graph = onnx.load_from_string(to_onnx.to_int8_weights(model))
        scale = next(i for i in graph.graph.initializer if i.name.endswith("_scale"))
        scale.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * 3, scale.name)
        )
        return graph.SerializeToString()

    monkeypatch.setattr(variants.to_onnx, "to_fp16", spoilt)
    argv = ["-o", str(tmp_path / "x.argan"), "--precision", "fp32,fp16"]
    assert cli.main([str(run), *argv]) == 1
    assert "onnx-fp16" in (said := capsys.readouterr().out) and "MISSED" in said
    assert "--max-drop" not in said

    monkeypatch.undo()
    monkeypatch.setitem(result.MIN_PSNR, "int8", 100.0)
    argv = ["-o", str(tmp_path / "y.argan"), "--precision", "fp32,int8", "--count", "4"]
    assert cli.main([str(run), *argv, "--calibration", str(photos)]) == 1
    said = capsys.readouterr().out
    assert "too coarse a quantisation\nint8 is finer with a smaller --max-drop" in said
    assert "such as 0.017" in said
