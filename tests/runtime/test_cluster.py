"""The example that maps a folder over a cluster, on a local Ray where that is installed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from argan.batch import JOURNAL
from argan.cli import main

pytest.importorskip("ray", reason="Ray is not installed: pip install ray[data]")

EXAMPLE = Path(__file__).parents[2] / "examples" / "cluster_refocus.py"


def test_a_cluster_gives_the_bytes_of_one_process(tmp_path):
    photos, out, alone = tmp_path / "in", tmp_path / "out", tmp_path / "alone"
    rng = np.random.default_rng(0)
    for i in range(6):
        (photos / "deep").mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / ("deep", "")[i % 2] / f"{i}.jpg")
    (photos / "broken.jpg").write_text("I am no photo.\n")

    def cluster() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(EXAMPLE), str(photos), str(out), "--workers", "2"]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    done = cluster()
    assert done.returncode == 1, done.stderr
    assert "broken.jpg: broken.jpg is not a" in done.stdout
    assert "6 photos refocused, 1 failed" in done.stdout
    assert main(["refocus", str(photos), "-o", str(alone), "--source", "model"]) == 1
    one, many = (
        {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*") if p.is_file()}
        for folder in (alone, out)
    )
    del one[JOURNAL], one[f"deep/{JOURNAL}"]
    assert one == many and len(many) == 6
    (out / "deep/2_bokeh.jpg").unlink()
    assert "1 photos refocused, 1 failed" in cluster().stdout
    assert (out / "deep/2_bokeh.jpg").read_bytes() == one["deep/2_bokeh.jpg"]
