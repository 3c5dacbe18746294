"""Every example runs as its first line says."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_refocus(tmp_path: Path) -> None:
    run(ROOT / "examples/refocus.py", ROOT / "examples/dahlia.jpg", tmp_path)
    width, height = size(ROOT / "examples/dahlia.jpg")
    pages = {path.name: size(path) for path in tmp_path.iterdir()}
    assert pages["side-by-side.png"] == (width * 3, height)
    assert {"input.png", "disparity.png", "bokeh.png"} < pages.keys()


def test_generate(tmp_path: Path) -> None:
    run(ROOT / "examples/generate.py", ROOT / "weights/flowers64", tmp_path / "grid.png")
    width, height = size(tmp_path / "grid.png")
    assert width / 8 == height / 3


def test_train_tiny(tmp_path: Path) -> None:
    assert "disparity (32, 32)" in run(ROOT / "examples/train_tiny.py", tmp_path, "4")
