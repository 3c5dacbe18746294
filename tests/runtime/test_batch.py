"""Folders, as a user has them: through the command line, and in real processes where they end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from argan import batch
from argan.cli import main

TINY = str(Path(__file__).parents[1] / "data" / "tiny.argan")
MODEL = ["--model", TINY, "--threads", "1"]
BROKEN = ("b/cut.jpg", "b/text.jpg", "empty.png")


def picture(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def photos(folder: Path, count: int = 5) -> None:
    """A tree of photos, three of them broken, beside what is none."""
    for i in range(count):
        picture(folder / ("a/deep", "b", "")[i % 3] / f"{i}.jpg", i)
    data = (folder / "0.jpg" if count < 3 else folder / "2.jpg").read_bytes()
    (folder / "b/cut.jpg").write_bytes(data[:300])
    (folder / "b/text.jpg").write_text("I am no photo.\n")
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("neither am I\n")
    picture(folder / ".hidden.jpg", 90)
    picture(folder / ".cache/thumbnail.jpg", 91)


def results(folder: Path) -> dict[str, bytes]:
    """Everything below a folder but journals."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != batch.JOURNAL
    }


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "in")
    return tmp_path


def refocus(*arguments: str) -> int:
    return main(["refocus", *MODEL, *arguments])


TREE = {"a/deep/0_bokeh.jpg", "a/deep/3_bokeh.jpg", "b/1_bokeh.jpg", "b/4_bokeh.jpg", "2_bokeh.jpg"}


def test_a_folder_becomes_its_mirror_and_failures_are_told_twice(capsys):
    assert refocus("in", "-o", "new/out") == 1
    assert results(Path("new/out")).keys() == TREE
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 7 and err[3] == "argan: 3 of 8 photos failed:"
    for line, name in zip(err, sorted(BROKEN), strict=False):
        assert line.startswith("argan: ") and f"in/{name}" in line
    assert err[4:] == [f"  in/{name}" for name in sorted(BROKEN)]


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("in/*.jpg", {"2"}),
        ("in/**/[0-3].jpg", {"a/deep/0", "b/1", "2", "a/deep/3"}),
        ("in/[ab]", {"a/deep/0", "a/deep/3", "b/1", "b/4"}),
        ("in/a/**", {"deep/0", "deep/3"}),
        ("./in/*/deep/?.jpg", {"a/deep/0", "a/deep/3"}),
    ],
)
def test_globs(pattern, names):
    for name in BROKEN:
        Path("in", name).unlink()
    assert refocus(pattern, "-o", "out") == 0
    assert results(Path("out")).keys() == {f"{name}_bokeh.jpg" for name in names}


def test_many_kinds_of_inputs_and_depth():
    picture(Path("odd[1].jpg"), 7)
    assert main(["depth", "odd[1].jpg", "in/a", "in/b/?.jpg", "-o", "out", *MODEL]) == 0
    names = {"odd[1]", "deep/0", "deep/3", "1", "4"}
    assert results(Path("out")).keys() == {f"{name}_depth.png" for name in names}


def test_results_are_no_inputs():
    """Beside the photos, in a folder below them, and a single one's, which no journal knows."""
    assert refocus("in/2.jpg") == 0
    picture(Path("in/out/other.jpg"), 80)
    assert refocus("in", "-o", "in/out") == 1
    Path("in/out/other.jpg").unlink()
    made = results(Path("in"))
    assert {name for name in made if name.startswith("out")} == {f"out/{name}" for name in TREE}
    assert refocus("in", "--resume") == 1
    assert refocus("in/a", "in/out", "-o", "other") == 0  # in/out holds nothing but results
    assert results(Path("other")).keys() == {"deep/0_bokeh.jpg", "deep/3_bokeh.jpg"}
    assert not [name for name in results(Path()) if "bokeh_bokeh" in name]


def test_a_clip_among_photos_stops_none(capsys):
    Path("clip.mp4").write_bytes(b"")
    assert refocus("clip.mp4", "in/a", "-o", "out") == 1
    assert "clip.mp4 is a clip; use argan film" in capsys.readouterr().err
    assert len(results(Path("out"))) == 2


def test_links_that_go_round_end():
    Path("in/a/up").symlink_to("..")
    Path("in/a/deep/self").symlink_to(".")
    Path("in/loop.jpg").symlink_to("loop.jpg")
    Path("in/link.jpg").symlink_to("2.jpg")
    assert refocus("in/**", "-o", "out") == 1
    made = results(Path("out"))
    assert made.keys() == TREE | {"link_bokeh.jpg"}
    assert made["link_bokeh.jpg"] == made["2_bokeh.jpg"]


def test_two_photos_of_one_result(capsys):
    """The first has it, also in a later run; those that were named are refused at once."""
    picture(Path("in/b/1.png"), 50)
    assert main(["depth", "in/b/1.jpg", "in/b/1.png", "-o", "out", *MODEL]) == 2
    assert not Path("out").exists()
    assert main(["depth", "in/b", "-o", "out", *MODEL, "--force"]) == 1
    assert "1.png would become" in capsys.readouterr().err
    before = results(Path("out"))
    assert main(["depth", "in/b/1.png", "in/b/4.jpg", "-o", "out", "--resume", *MODEL]) == 1
    assert "is the result of" in capsys.readouterr().err
    assert results(Path("out")) == before


def test_resume_does_what_is_missing_or_has_changed(capsys):
    def done(*options: str) -> set[str]:
        capsys.readouterr()
        refocus("in", "-o", "out", *options)
        lines = capsys.readouterr().out.splitlines()
        return {line.split()[0].removeprefix("out/") for line in lines if "_bokeh" in line}

    assert done("--resume") == TREE
    first = results(Path("out"))
    assert done() == set() and done("--resume") == set()  # the first: all of them exist
    picture(Path("in/2.jpg"), 60)  # another photo
    Path("out/b/1_bokeh.jpg").unlink()
    Path("out/b/4_bokeh.jpg").write_bytes(b"somebody's own")
    Path("in/a/deep/3.jpg").rename("in/a/deep/5.jpg")
    assert done("--resume") == {"2_bokeh.jpg", "b/1_bokeh.jpg", "a/deep/5_bokeh.jpg"}
    now = results(Path("out"))
    assert now["2_bokeh.jpg"] != first["2_bokeh.jpg"]
    assert now["b/1_bokeh.jpg"] == first["b/1_bokeh.jpg"]
    assert now["a/deep/5_bokeh.jpg"] == first["a/deep/3_bokeh.jpg"]
    assert now["b/4_bokeh.jpg"] == b"somebody's own"
    own = {"b/4_bokeh.jpg"}
    assert done("--resume", "--strength", "9") == TREE - own - {"a/deep/3_bokeh.jpg"} | {
        "a/deep/5_bokeh.jpg"
    }
    assert done("--resume", "--strength", "9", "--force") == own
    assert done("--resume", "--strength", "9", "--threads", "2") == set()


def test_a_journal_cut_short_by_a_crash_and_what_was_half_written():
    for name in BROKEN:
        Path("in", name).unlink()
    assert refocus("in", "-o", "out") == 0
    whole = results(Path("out"))
    journal = Path("out/b", batch.JOURNAL)
    journal.write_bytes(journal.read_bytes()[:-9])  # 4.jpg: begun, and written, for all one knows
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process, age in ((dead.pid, 60), (os.getpid(), 60), (dead.pid, 0)):
        part = Path(f"out/b/.{process}-{age:016x}.part")
        part.write_bytes(b"half")
        os.utime(part, (time.time() - age,) * 2)
    assert refocus("in", "-o", "out", "--resume") == 0
    left = results(Path("out"))
    assert {path for path in left if path.endswith(".part")} == {
        f"b/.{os.getpid()}-{60:016x}.part", f"b/.{dead.pid}-{0:016x}.part",
    }  # fmt: skip
    assert {name: data for name, data in left.items() if not name.endswith(".part")} == whole
    lines = [line for line in journal.read_bytes().splitlines() if line.endswith(b"}")]
    written = [json.loads(line)["written"] for line in lines if b"4_bokeh" in line]
    assert written == [None, None, len(whole["b/4_bokeh.jpg"])]


def test_what_failed_leaves_no_claim(capsys):
    """A file that somebody puts where a result could not be made is theirs."""
    refocus("in", "-o", "out")
    Path("out/b/cut_bokeh.jpg").write_text("mine")
    picture(Path("in/b/cut.jpg"), 70)
    capsys.readouterr()
    refocus("in", "-o", "out", "--resume")
    assert "out/b/cut_bokeh.jpg exists" in capsys.readouterr().err
    assert Path("out/b/cut_bokeh.jpg").read_text() == "mine"


def test_a_bug_in_one_photo_stops_no_other(monkeypatch, capsys):
    def work(source: Path, target: Path) -> str:
        if source.name == "1.jpg":
            raise ZeroDivisionError("division by zero")
        target.write_bytes(b"")
        return "done"

    naming = batch.Naming(Path("out"), "bokeh", lambda source: ".jpg")
    assert batch.run(work, [Path("in")], naming, batch.Options()) == 1
    assert "in/b/1.jpg: a bug: ZeroDivisionError" in capsys.readouterr().err
    assert len(results(Path("out"))) == 7
    monkeypatch.setenv("ARGAN_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        batch.run(work, [Path("in")], naming, batch.Options(force=True))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["gone"], "gone does not exist"),
        (["in/*.gif", "-o", "out"], "holds no photos"),
        (["gone", "--watch", "-o", "out"], "gone does not exist"),
        (["-", "in", "-o", "out"], "give it alone"),
        (["in", "-o", "x.jpg"], "not a directory"),
        (["clip.mp4"], "argan film"),
    ],
)
def test_bad_usage(arguments, message, capsys):
    Path("clip.mp4").touch()
    before = results(Path())
    assert refocus(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert results(Path()) == before and not Path("out").exists()


# ---------------------------------------------------------------- real processes

FEW = 16  # photos: 200 were tried as well, see docs/folders.md


@pytest.fixture
def start():
    """argan refocus ARGUMENTS in a process of its own."""
    running = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "argan", "refocus", *arguments, *MODEL]
        running.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_killed_in_the_middle_and_resumed(start):
    photos(Path("many"), FEW)
    assert refocus("many", "-o", "whole") == 1
    whole = results(Path("whole"))
    assert len(whole) == FEW
    process = start("many", "-o", "out")
    for _ in range(FEW // 3):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    half = results(Path("out"))
    assert FEW // 3 <= len(half) < FEW
    assert all(whole[name] == data for name, data in half.items() if not name.endswith(".part"))
    assert refocus("many", "-o", "out", "--resume") == 1
    assert results(Path("out")) == whole


def test_watch(start):
    """Two at once: what one SIGTERM does, one Ctrl-C does."""
    for name in BROKEN:
        Path("in", name).unlink()
    endings = {"one": signal.SIGTERM, "two": signal.SIGINT}
    assert [refocus("in", "-o", out) for out in endings] == [0, 0]
    running = {out: start("in", "-o", out, "--watch") for out in endings}
    for process in running.values():
        assert "watching" in process.stderr.readline()
    data = Path("in/2.jpg").read_bytes()
    with Path("in/new.jpg").open("wb") as slow:  # stands still for less than it takes
        for piece in (data[:300], data[300:600], data[600:]):
            slow.write(piece)
            slow.flush()
            time.sleep(0.8)
    for out, process in running.items():
        assert process.stdout.readline().startswith(f"{out}/new_bokeh.jpg  ")
        process.send_signal(endings[out])
        told = process.communicate(timeout=10)
        assert (process.returncode, *told) == (0, "", "")
        assert Path(out, "new_bokeh.jpg").read_bytes() == Path(out, "2_bokeh.jpg").read_bytes()
