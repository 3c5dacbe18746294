"""An exported bundle computes what PyTorch computed, and says where it comes from."""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import argan
from argan import bundle
from argan.backends.onnx import Onnx
from argan_export import cli, graph
from argan_export.to_onnx import gap
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


@pytest.mark.parametrize("height, width", [(64, 64), (96, 160)])
def test_onnx_computes_what_torch_computes(
    run: Path, exported: Path, height: int, width: int
) -> None:
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(5))
    measured = gap(graph.depth_graph(run), onnx_of(bundle.read(exported)), image)
    assert measured["max_abs"] < 1e-5  # largest seen: 2e-7


def test_the_gap_sees_another_network(run: Path, exported: Path) -> None:
    other = graph.depth_graph(run)
    with torch.no_grad():
        next(other.network.parameters()).mul_(1.1)
    assert gap(other, onnx_of(bundle.read(exported)), graph.golden_input(other))["max_abs"] > 1e-5


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
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Path, tmp_path: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main([str(run) if a == "RUN" else a for a in argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not list(tmp_path.iterdir())
