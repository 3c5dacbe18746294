import dataclasses
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from argan import backends, bench, bundle, chart
from argan.backends import tflite
from argan.cli import main
from argan.errors import InputError

DATA = Path(__file__).parents[1] / "data"
TINY, FORMATS = DATA / "tiny.argan", DATA / "formats.argan"


@pytest.fixture(autouse=True)
def one_round(monkeypatch):
    monkeypatch.setattr(bench, "ROUNDS", 1)


@pytest.fixture(scope="module")
def report():
    """Of formats.argan, a process per variant."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(bench, "ROUNDS", 1)
        return bench.bench(FORMATS, size=64, thread_counts=[1], runs=3)


def test_every_variant_that_can_run_is_measured(report):
    content = bundle.read(FORMATS)
    here = {v.name: v for v in content.variants if not backends.missing(v.format)}
    assert {row.name for row in report.rows} == set(here) and not report.failed
    assert report.not_run.keys() == {v.name for v in content.variants} - set(here)
    for row in report.rows:
        variant = here[row.name]
        assert (row.graph, row.format, row.precision) == (
            variant.graph, variant.format, variant.precision,
        )  # fmt: skip
        assert row.size == ((64, 96) if row.name == "tflite-int8" else (64, 64))
        assert row.file_bytes == len(content.files[variant.file])
        assert 0 < row.timings[1].p50_ms <= row.timings[1].p95_ms
        assert row.timings[1].cpu_ms > 0 and row.load_ms > 0
        if sys.platform in ("linux", "darwin"):
            assert 10 < row.base_mib < row.peak_mib < 1000


def test_parity_is_against_the_most_exact(report):
    assert report.reference == {"disparity": "onnx-fp32", "refocus": "onnx-refocus"}
    gaps = {row.name: row.parity for row in report.rows}
    assert gaps["onnx-fp32"] == gaps["onnx-refocus"] == {}
    assert gaps["onnx-uint8"]["disparity"]["psnr_db"] > 40
    if not report.not_run:
        assert gaps["tflite-fp32"]["disparity"]["psnr_db"] > 110
        assert gaps["tflite-fp32"]["disparity"]["max_abs"] < 1e-5
        assert gaps["tflite-refocus"].keys() == {"disparity", "bokeh"}
        assert 35 < gaps["tflite-int8"]["disparity"]["psnr_db"] < 70  # at 64x96, as its reference


def test_the_report_says_where_it_is_from(report):
    assert report.machine["cores"] >= 1 and report.machine["architecture"]
    assert {"python", "argan", "onnxruntime"} <= report.versions.keys()
    assert (report.rounds, report.runs, report.picture) == (1, 3, "seeded pattern")
    loaded = json.loads(report.json())
    assert loaded["rows"][0]["timings"]["1"]["p50_ms"] == report.rows[0].timings[1].p50_ms


def test_plot_and_table(report):
    image = Image.open(io.BytesIO(bench.plot(report)))
    assert image.format == "PNG" and image.width == 1000 and image.height > 300
    assert [str(c) for c in bench.table(report).columns[0].cells] == [r.name for r in report.rows]


def test_bars_are_as_long_as_their_values():
    png = chart.bars(
        {"ms": {"a": [chart.Bar("one", 4, 6)], "b": [chart.Bar("one", 2), chart.Bar("two", 1)]}}
    )
    pixels = np.asarray(Image.open(io.BytesIO(png)))

    def lengths(colour: str) -> list[int]:
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        inside = (pixels[:, chart.MARGIN + chart.LABEL :] == rgb).all(axis=-1).sum(axis=1)
        return sorted({int(n) for n in inside if n > 30})  # the rest is the legend

    short, *_, long = lengths(chart.COLOURS[0])
    (shorter,) = lengths(chart.COLOURS[1])
    assert (short, shorter) == pytest.approx((long / 2, long / 4), abs=2)


class Slow:
    """The first inferences take long, as they do while caches fill."""

    calls = 0

    def run(self, inputs):
        self.calls += 1
        time.sleep(0.05 if self.calls <= 1 + bench.WARM_UP else 0.001)
        return {"disparity": inputs["image"][:, :1]}


def test_warm_up_is_not_counted(monkeypatch, tmp_path):
    backend = Slow()
    monkeypatch.setattr(bench, "_open", lambda *of: backend)
    np.savez(tmp_path / "in.npz", image=np.zeros((1, 3, 8, 8), np.float32))
    request = {"path": "", "format": "onnx", "threads": 1, "runs": 5}
    files = {name: str(tmp_path / f"{name[:-3]}.npz") for name in ("inputs", "outputs")}
    files["inputs"] = str(tmp_path / "in.npz")
    figures = bench.measure(request | files)
    assert backend.calls == 1 + bench.WARM_UP + 5
    assert 1 <= figures["p50_ms"] < 20 and figures["cpu_ms"] < 20
    with np.load(files["outputs"]) as kept:
        assert kept["disparity"].shape == (1, 1, 8, 8)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows doesn't tell")
def test_memory_is_the_high_water_mark_of_that_process():
    """Also after it was given back; and a child doesn't begin with its parent's."""
    ballast = np.ones(200 << 20, np.uint8)
    code = (
        "import numpy as np; from argan import bench; a = bench.high_water_mib();"
        "b = np.ones(96 << 20, np.uint8); del b; print(a, bench.high_water_mib())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    before, after = map(float, done.stdout.split())
    assert 90 < after - before < 110
    assert before < 190 <= len(ballast) >> 20


# ---------------------------------------------------------------- what can't be measured


def test_what_can_not_run_is_listed(monkeypatch):
    monkeypatch.setattr(tflite, "PACKAGES", ("nonesuch",))
    monkeypatch.setattr(bench, "_process", lambda *of: pytest.fail("nothing is to run"))
    content = bundle.read(FORMATS)
    only = tuple(v for v in content.variants if v.format == "tflite")
    monkeypatch.setattr(
        bench, "read_model", lambda path: dataclasses.replace(content, variants=only)
    )
    with pytest.raises(InputError, match=r'nothing of .* pip install "argan\[tflite\]"'):
        bench.bench(FORMATS)


def test_a_variant_that_fails_leaves_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = bundle.read(FORMATS)
    variants = {n: content.manifest["variants"][n] for n in ("onnx-fp32", "onnx-uint8")}
    files = {
        "model.fp32.onnx": content.files["model.fp32.onnx"],
        "model.uint8.onnx": content.files["model.uint8.onnx"][:200],
    }
    bundle.write("half.argan", content.manifest | {"variants": variants, "refocus": None}, files)
    command = ["bench", "half.argan", "--threads", "1", "--runs", "1"]
    assert main([*command, "--json", "b.json", "--plot", "b.png"]) == 1
    out = capsys.readouterr().out
    assert "failed:    onnx-uint8: onnxruntime can't load the model" in out
    figures = json.loads(Path("b.json").read_text())
    assert [row["name"] for row in figures["rows"]] == ["onnx-fp32"]
    assert figures["failed"].keys() == {"onnx-uint8"}
    assert Path("b.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own.onnx").write_bytes(bundle.read(FORMATS).files["model.fp32.onnx"])
    Path("own.toml").write_text('model = "own.onnx"\noutput = "disparity"\nsize = 96')
    Image.new("RGB", (96, 64), "grey").save("grey.png")
    assert main(["bench", "own.toml", "--photo", "grey.png", "--threads", "1", "--runs", "1"]) == 0
    out = capsys.readouterr().out
    assert "own.toml, grey.png" in out and "reference: model of disparity" in out
    assert "78x118" in out  # the photo's shape, about 96^2 px


BAD = {
    "threads": (["--threads", "0"], "--threads 0: give numbers of threads such as 1,2"),
    "threads in words": (["--threads", "1,x"], "give numbers of threads"),
    "size": (["--size", "7"], "size"),
    "plot": (["--plot", "b.jpg"], "a chart is a .png"),
    "json over the model": (["--json", "tiny.argan"], "is an input"),
    "photo": (["--photo", "gone.jpg"], "gone.jpg does not exist"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_options(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(TINY, "tiny.argan")
    options, message = BAD[kind]
    assert main(["bench", "tiny.argan", *options]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.argan"]
