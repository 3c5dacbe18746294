"""Every example runs as its first line says."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_refocus(tmp_path: Path) -> None:
    run(ROOT / "examples/refocus.py", ROOT / "examples/dahlia.jpg", tmp_path)
    photo = Image.open(ROOT / "examples/dahlia.jpg")
    pages = {path.name: Image.open(path).size for path in tmp_path.iterdir()}
    assert pages["side-by-side.png"] == (photo.width * 3, photo.height)
    assert {"input.png", "disparity.png", "bokeh.png"} < pages.keys()


@pytest.mark.parametrize(
    "weights", sorted(p.name for p in (ROOT / "weights").glob("flowers*[0-9]"))
)
def test_generate(weights: str, tmp_path: Path) -> None:
    run(ROOT / "examples/generate.py", ROOT / "weights" / weights, tmp_path / "grid.png")
    width, height = Image.open(tmp_path / "grid.png").size
    assert width / 8 == height / 3


def test_train_tiny(tmp_path: Path) -> None:
    assert "disparity (32, 32)" in run(ROOT / "examples/train_tiny.py", tmp_path, "4")
