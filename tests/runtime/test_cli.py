import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from argan import cli, photo
from argan.cli import main

TINY = str(Path(__file__).parents[1] / "data" / "tiny.argan")
MODEL = ["--model", TINY]
RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a photo, maps of it, and what is wrong with photos and maps."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PIXELS).save("photo.jpg", quality=95)
    disparity = np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64)
    np.save("map.npy", disparity)
    photo.save_disparity("map.png", disparity)
    np.save("small.npy", disparity[:24, :32])
    np.save("nan.npy", np.where(disparity > 0.9, np.nan, disparity))
    Path("text.jpg").write_text("I am no photo.\n")
    Path("cut.jpg").write_bytes(Path("photo.jpg").read_bytes()[:2000])
    Path("folder").mkdir()
    bundle = bytearray(Path(TINY).read_bytes())
    bundle[bundle.index(b"Conv")] ^= 1
    Path("tampered.argan").write_bytes(bundle)
    return tmp_path


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run what must fail -> its message: exit code 2, one line, no file touched."""
    before = files()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("argan: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert files() == before
    return err


def test_refocus(capsys):
    assert main(["refocus", "photo.jpg", *MODEL, "--focus", "10,20", "--threads", "1"]) == 0
    assert capsys.readouterr().out.startswith("photo_bokeh.jpg  focus ")
    assert photo.load("photo_bokeh.jpg").pixels.shape == PIXELS.shape


@pytest.mark.parametrize(
    "common, option",
    [
        ("", "--f-number 0.3"),
        ("", "--blur 9"),
        ("", "--strength 15"),
        ("--blur 9", "--focus -0.5"),
        ("--blur 9", "--focus 5,7"),
        ("--blur 9 --focus 0", "--blades 3"),
    ],
)
def test_options_reach_the_lens(common, option):
    command = ["refocus", "photo.jpg", *MODEL, *common.split()]
    assert main([*command, "-o", "a.png"]) == 0
    assert main([*command, *option.split(), "-o", "b.png"]) == 0
    a, b = photo.load("a.png").pixels, photo.load("b.png").pixels
    assert abs(a.astype(int) - b).max() > 4


@pytest.mark.parametrize("output", ["d.npy", "d.png", "folder"])
def test_depth(output):
    assert main(["depth", "photo.jpg", *MODEL, "-o", output]) == 0
    written = "folder/photo_depth.png" if output == "folder" else output
    assert photo.load_disparity(written).shape == PIXELS.shape[:2]


def test_depth_in_colours():
    assert main(["depth", "photo.jpg", *MODEL, "--colormap", "viridis"]) == 0
    assert photo.load("photo_depth.png").pixels.shape == PIXELS.shape


@pytest.mark.parametrize("name", ["map.npy", "map.png"])
def test_render(name):
    common = ["render", "photo.jpg", "--disparity", name, "--focus-disparity", "0"]
    assert main([*common, "--blur", "0", "-o", "sharp.png"]) == 0
    np.testing.assert_array_equal(
        photo.load("sharp.png").pixels, photo.load("photo.jpg").pixels
    )
    assert main([*common, "--blur", "10", "-o", "bokeh.png"]) == 0
    detail = np.abs(np.diff(photo.load("bokeh.png").pixels.astype(int), axis=1)).mean(axis=(1, 2))
    assert detail[:4].mean() > 5 * detail[-8:].mean()  # the map grows downwards, focus is on top


def test_info(capsys):
    assert main(["info", TINY]) == 0
    out = capsys.readouterr().out
    assert "tiny, task disparity" in out and "model.fp32.onnx" in out


# ---------------------------------------------------------------- bad input

RENDER = ["--focus-disparity", "0.5", "--blur", "3"]
BAD = {
    "missing": (["refocus", "gone.jpg", *MODEL], "does not exist"),
    "missing, and no ending": (["refocus", "gone", "-o", "out", *MODEL], "does not exist"),
    "directory": (["refocus", "folder", *MODEL], "folder holds no photos"),
    "text": (["refocus", "text.jpg", *MODEL], "not a JPEG"),
    "truncated": (["refocus", "cut.jpg", *MODEL], "cut short"),
    "depth, missing": (["depth", "gone.jpg", *MODEL], "does not exist"),
    "depth, truncated": (["depth", "cut.jpg", *MODEL], "cut short"),
    "render, truncated": (["render", "cut.jpg", "--disparity", "map.npy", *RENDER], "cut short"),
    "render, folder": (["render", "folder", "--disparity", "map.npy", *RENDER], "is a directory"),
    "render, no map": (["render", "photo.jpg", "--disparity", "x.npy", *RENDER], "does not exist"),
    "map is text": (["render", "photo.jpg", "--disparity", "text.jpg", *RENDER], ".npy or .png"),
    "another size": (
        ["render", "photo.jpg", "--disparity", "small.npy", *RENDER],
        "small.npy is 32x24 and photo.jpg is 64x48; resize",
    ),
    "NaN": (["render", "photo.jpg", "--disparity", "nan.npy", *RENDER], "nan.npy holds NaN"),
    "render without map": (["render", "photo.jpg", *RENDER], "--disparity"),
    "tampered bundle": (["refocus", "photo.jpg", "--model", "tampered.argan"], "tampered.argan"),
    "tampered, depth": (["depth", "photo.jpg", "--model", "tampered.argan"], "tampered.argan"),
    "tampered, info": (["info", "tampered.argan"], "tampered.argan"),
    "no such bundle": (["info", "gone.argan"], "no bundle"),
    "photo as bundle": (["info", "photo.jpg"], "not a whole zip"),
    "metres": (["refocus", "photo.jpg", *MODEL, "--focus", "1.5m"], "metric depth"),
    "focus word": (["refocus", "photo.jpg", *MODEL, "--focus", "left"], "auto, X,Y"),
    "focus of three": (["refocus", "photo.jpg", *MODEL, "--focus", "1,2,3"], "auto, X,Y"),
    "focus outside": (["refocus", "photo.jpg", *MODEL, "--focus", "64,0"], "outside"),
    "two blurs": (["refocus", "photo.jpg", "--blur", "1", "--strength", "1"], "give one"),
    "blades": (["refocus", "photo.jpg", *MODEL, "--blades", "12"], "3 to 11"),
    "threads": (["refocus", "photo.jpg", *MODEL, "--threads", "0"], "--threads"),
    "quality": (["refocus", "photo.jpg", *MODEL, "--quality", "best"], "--quality"),
    "backend": (["refocus", "photo.jpg", *MODEL, "--backend", "tensorrt"], "--backend"),
    "output type": (["refocus", "photo.jpg", *MODEL, "-o", "out.gif"], "use .jpg"),
    "depth as jpg": (["depth", "photo.jpg", *MODEL, "-o", "out.jpg"], "use .png, .npy or .exr"),
    "output folder": (["refocus", "photo.jpg", *MODEL, "-o", "gone/out.jpg"], "make it first"),
    "onto the input": (["refocus", "photo.jpg", *MODEL, "-o", "photo.jpg"], "is an input"),
    "onto the map": (
        ["render", "photo.jpg", "--disparity", "map.png", *RENDER, "-o", "map.png"],
        "is an input",
    ),
    "several onto one": (["depth", "photo.jpg", "cut.jpg", *MODEL, "-o", "x.png"], "not a dir"),
    "two of one name": (["depth", "photo.jpg", "./photo.jpg", *MODEL], "two inputs"),
    "no such command": (["refokus"], "refokus"),
    "no such option": (["refocus", "photo.jpg", "--focal"], "--focal"),
    "no input": (["refocus"], "IN"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_usage_and_input(kind, capsys):
    arguments, message = BAD[kind]
    assert message in refused(arguments, capsys)


def test_what_exists_is_replaced_only_on_request(capsys):
    Path("photo_bokeh.jpg").write_text("precious")
    assert "exists" in refused(["refocus", "photo.jpg", *MODEL], capsys)
    assert main(["refocus", "photo.jpg", *MODEL, "-o", "photo_bokeh.jpg"]) == 0
    Path("photo_bokeh.jpg").write_text("precious")
    assert main(["refocus", "photo.jpg", *MODEL, "--force"]) == 0
    assert photo.load("photo_bokeh.jpg").pixels.shape == PIXELS.shape
    assert main(["refocus", "photo.jpg", *MODEL, "-o", "photo.jpg", "--force"]) == 0


def test_one_bad_input_among_several(capsys):
    inputs = ["text.jpg", "photo.jpg", "gone.jpg"]
    assert main(["refocus", *inputs, *MODEL, "-o", "folder"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in err[:2]] == [["argan:", name] for name in inputs[::2]]
    assert err[2:] == ["argan: 2 of 3 photos failed:", "  text.jpg", "  gone.jpg"]
    assert sorted(os.listdir("folder")) == [".argan-done.jsonl", "photo_bokeh.jpg"]


@pytest.mark.parametrize("command", ["refocus", "film", "depth", "render", "info"])
def test_help_has_examples(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"Examples:\n    argan {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_the_commands(arguments, capsys):
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert [c for c in ("refocus", "film", "depth", "render", "info") if c not in out] == []


def test_a_bug_is_one_line_too(capsys, monkeypatch):
    monkeypatch.setattr(photo, "load", lambda path: 1 / 0)
    assert "a bug: ZeroDivisionError" in refused(["depth", "photo.jpg", *MODEL], capsys)
    monkeypatch.setenv("ARGAN_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(["depth", "photo.jpg", *MODEL])


def test_nothing_of_the_libraries_reaches_the_terminal():
    """A real process: their warnings come from C as well. A profile and EXIF block of nonsense."""
    deep = RNG.integers(0, 65536, (48, 64, 3), dtype=np.uint16)
    photo.save("odd.png", photo.Photo(deep, icc=b"nonsense", exif=b"Exif\0\0II*\0nonsense"))
    command = [sys.executable, "-m", "argan", "refocus", "odd.png", *MODEL]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("odd_bokeh.png  focus ")


# ---------------------------------------------------------------- commands of other packages


@pytest.fixture
def guest(tmp_path, monkeypatch):
    """A package with commands -> the commands' run as `argan NAME ...` in a fresh process."""
    (tmp_path / "guest.py").write_text(
        "print('loaded')\n"
        "def echo(arguments):\n"
        "    print(arguments)\n"
        "    return 3\n"
    )
    (tmp_path / "needy.py").write_text("import surely_absent.part\n")
    info = tmp_path / "guest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[argan.commands]\nguest = guest:echo\nneedy = needy:run\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "argan", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
        )

    return run


def test_a_guest_gets_its_arguments_untouched(guest):
    arguments = ["--steps", "5", "-x", "a b", "--help", "ar-gan", "-o=y", "--", "--z", "-"]
    done = guest("guest", *arguments)
    assert (done.stdout, done.stderr) == (f"loaded\n{arguments}\n", "")
    assert done.returncode == 3


def test_a_guest_is_loaded_only_when_called(guest):
    done = guest("--help")
    assert "guest" in done.stdout and "loaded" not in done.stdout


def test_a_guest_without_its_packages(guest):
    done = guest("needy", "--help")
    assert done.returncode == 2
    assert done.stderr == (
        'argan: surely_absent is not installed; run: pip install "argan[train]"\n'
    )


def test_export_names_its_own_extra():
    with pytest.raises(cli.MissingExtraError, match=r'pip install "argan\[export\]"'):
        cli._load(EntryPoint("export", "surely_absent:main", "argan.commands"))
