"""Clips through the command line; steadying and focus by themselves, on scenes that are known."""

import math
import os
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from argan import steady, video
from argan.cli import main
from argan.errors import InputError

av = pytest.importorskip("av", reason="PyAV is not installed: the extra video")

TINY = str(Path(__file__).parents[1] / "data" / "tiny.argan")
HEIGHT, WIDTH, COUNT = 48, 64, 10
TIMES = [0, 1, 2, 4, 5, 9, 10, 11, 12, 20]  # of frames, in 1/30 s: not even
BT709 = {"color_range": 1, "colorspace": 1, "color_primaries": 1, "color_trc": 1}
BT601_FULL = {"color_range": 2, "colorspace": 5, "color_primaries": 6, "color_trc": 6}
RNG = np.random.default_rng(4)
PATTERN = cv2.resize(RNG.integers(20, 230, (9, 24, 3), dtype=np.uint8), (192, HEIGHT))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make(
    path: str,
    tags: dict[str, int] = BT709,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    turn: int = 0,
    sound: bool = True,
    options: dict[str, str] | None = None,
) -> None:
    """A pattern that goes by, with times and tags as given, and a second of sound."""
    with av.open(path, "w") as out:
        stream = out.add_stream(codec, rate=30, options=options or {"crf": "4", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.time_base = stream.codec_context.time_base = Fraction(1, 15360)
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        if turn:
            stream.set_display_rotation(turn)
        track = out.add_stream("aac", rate=48000, layout="mono") if sound else None
        out.metadata["title"] = "By the window"
        for i, time in enumerate(TIMES):
            shown = np.ascontiguousarray(PATTERN[:, 3 * i : 3 * i + WIDTH])
            rgb = av.VideoFrame.from_ndarray(shown)
            frame = rgb.reformat(
                format=pixels, dst_colorspace=tags.get("colorspace"), src_color_range=2,
                dst_color_range=tags.get("color_range"),
            )  # fmt: skip
            frame.pts, frame.time_base = 512 * time, Fraction(1, 15360)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if track:
            tone = np.sin(np.arange(48 * 1024) / 20).astype(np.float32)[None] / 4
            wave = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            wave.sample_rate, wave.pts = 48000, 0
            out.mux([*track.encode(wave), *track.encode(None)])


def packets(path: str) -> list[tuple[Fraction, bytes]]:
    """Of the sound: when, and what."""
    with av.open(path) as clip:
        return [(p.pts * p.time_base, bytes(p)) for p in clip.demux(audio=0) if p.size]


def frames(path: str) -> tuple[list[Fraction], np.ndarray, object]:
    """Times, pixels as stored [N, H, W, 3], and the first frame."""
    with av.open(path) as clip:
        read = list(clip.decode(video=0))
        pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in read])
        return [frame.pts * frame.time_base for frame in read], pixels, read[0]


def film(*arguments: str) -> int:
    return main(["film", *arguments, "--model", TINY, "--threads", "1"])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / float(((a.astype(float) - b) ** 2).mean()))


@pytest.mark.parametrize(
    "tags, name", [(BT709, "a.mp4"), (BT601_FULL, "a.mkv")], ids=["bt709", "bt601 full"]
)
def test_sound_times_tags_and_colours_stay(tags, name):
    make("clip.mp4", tags)
    assert film("clip.mp4", "-o", name, "--strength", "0", "--crf", "1") == 0
    (times, before, first), (kept, after, frame) = frames("clip.mp4"), frames(name)
    # Matroska counts in ms, and has no time before 0, where this sound begins: all are later.
    exact, later = (Fraction(1, 1000), kept[0]) if name.endswith("mkv") else (0, 0)
    assert len(times) == len(kept) == COUNT
    assert all(abs(a + later - b) <= exact for a, b in zip(times, kept, strict=True))
    for tag in BT709:
        assert int(getattr(frame, tag)) == int(getattr(first, tag)) == tags[tag]
    assert psnr(before, after) > 35  # 36.7: chroma of half size, twice, on small bright squares
    assert abs((after.astype(float) - before).mean(axis=(0, 1, 2))).max() < 1.0  # 0.5
    ours, sound = packets(name), packets("clip.mp4")
    assert [data for _, data in ours] == [data for _, data in sound] and len(sound) > 40
    assert all(abs(a[0] - later - b[0]) <= exact for a, b in zip(ours, sound, strict=True))
    with av.open(name) as clip:
        kinds = [stream.type for stream in clip.streams]
        titles = {key.lower(): value for key, value in clip.metadata.items()}
    assert kinds == ["video", "audio"] and titles["title"] == "By the window"


@pytest.mark.parametrize(
    "tags, height, bits",
    [(BT709, 48, 8), (BT601_FULL, 48, 8), (BT601_FULL, 48, 10), ({}, 48, 8), ({}, 592, 8)],
    ids=["bt709", "bt601 full", "full, 10 bit", "small, no tags", "large, no tags"],
)
def test_pixels_are_those_of_the_matrix(tags, height, bits):
    """A patch of known colour, coded by the formulas of H.273."""
    red, blue = (0.2126, 0.0722) if tags is BT709 or height > 576 else (0.299, 0.114)
    black, luma_range, chroma_range = (0, 255, 255) if tags is BT601_FULL else (16, 219, 224)
    r, g, b = colour = np.array([200, 60, 30]) / 255
    luma = red * r + (1 - red - blue) * g + blue * b
    values = [
        black + luma_range * luma,
        128 + chroma_range * (b - luma) / (2 - 2 * blue),
        128 + chroma_range * (r - luma) / (2 - 2 * red),
    ]
    width = WIDTH if height == 48 else height
    planes = [round(value * 2 ** (bits - 8)) for value in values]
    coded = np.repeat(planes, [height * width, height * width // 4, height * width // 4])
    coded = coded.reshape(-1, width).astype(np.uint8 if bits == 8 else np.uint16)
    form = "yuv420p" if bits == 8 else "yuv420p10le"
    with av.open("patch.mkv", "w") as out:
        stream = out.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, form
        for tag, value in tags.items():
            setattr(stream.codec_context, tag, value)
        frame = av.VideoFrame.from_ndarray(coded, format=form)
        out.mux([*stream.encode(frame), *stream.encode(None)])
    with video._reading(av, Path("patch.mkv")) as clip:
        (_, frame), = clip.read()
        found = clip.pixels(frame) / (255 if bits == 8 else 65535)
    assert np.abs(found - colour).max() * 255 <= 2  # 1


def test_a_turned_clip_comes_out_upright():
    """As phones write them: the picture lies, a matrix says how it is to be shown."""
    make("clip.mp4", turn=-90, sound=False)
    assert film("clip.mp4", "--strength", "0", "--crf", "1") == 0
    _, before, first = frames("clip.mp4")
    _, after, frame = frames("clip_bokeh.mp4")
    assert first.rotation == -90 and frame.rotation == 0
    assert psnr(np.rot90(before, -1, axes=(1, 2)), after) > 35


def test_ten_bits_stay_ten():
    ramp = {"codec": "ffv1", "pixels": "yuv420p10le", "options": {}}
    make("clip.mkv", sound=False, **ramp)
    assert film("clip.mkv", "--strength", "0", "--crf", "1", "-o", "a.mp4") == 0
    _, before, _ = frames("clip.mkv")
    _, after, frame = frames("a.mp4")
    assert frame.format.name == "yuv420p10le" and psnr(before, after) > 35
    luma = frame.to_ndarray()[:HEIGHT]
    assert (luma % 4 != 0).any()  # not 8 bits, moved up


def test_the_same_bytes_again_and_blur_that_follows():
    make("clip.mp4")
    for name in ("a.mp4", "b.mp4"):
        assert film("clip.mp4", "--focus-keys", "0s:5,5 0.2s:60,40", "-o", name) == 0
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    assert film("clip.mp4", "--strength", "0", "-o", "sharp.mp4") == 0
    (_, blurred, _), (_, sharp, _) = frames("a.mp4"), frames("sharp.mp4")
    assert np.abs(blurred.astype(int) - sharp).mean() > 2


# ---------------------------------------------------------------- what is refused

HLG = {"color_range": 1, "colorspace": 9, "color_primaries": 9, "color_trc": 18}
REFUSED = {
    "missing": (["gone.mp4"], "does not exist"),
    "text": (["text.mp4"], "not a clip"),
    "photo": (["photo.png"], "use argan refocus"),
    "cut": (["cut.mp4"], "cut short"),
    "last frame": (["last.mp4"], "a packet is cut short"),
    "torn": (["torn.mkv"], "cut short"),
    "HDR": (["hlg.mp4"], "HDR (HLG)"),
    "deep": (["deep.mkv", "-o", "out.webm"], "use .mp4"),
    "sound alone": (["sound.mp4"], "no video"),
    "ending": (["clip.mp4", "-o", "out.gif"], "no ending of a clip"),
    "onto itself": (["clip.mp4", "-o", "clip.mp4"], "is an input"),
    "folder": (["clip.mp4", "-o", "gone/out.mp4"], "make it first"),
    "keys": (["clip.mp4", "--focus-keys", "0s:1,2,3"], "0s:1,2,3"),
    "both": (["clip.mp4", "--focus-keys", "0s:1,2", "--focus", "3,4"], "give one"),
    "outside": (["clip.mp4", "--focus-keys", "0s:auto 9s:64,4"], "outside the clip"),
    "a photo's command": (["refocus", "clip.mp4"], "argan film"),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("broken"), os.getcwd()
    os.chdir(folder)
    make("clip.mp4")
    make("torn.mkv", codec="ffv1", options={})
    make("hlg.mp4", HLG, sound=False)
    make("deep.mkv", codec="ffv1", pixels="yuv420p10le", sound=False, options={})
    front = {"movflags": "+faststart"}
    for name, kind, options in ("front.mp4", "video", front), ("sound.mp4", "audio", {}):
        with av.open("clip.mp4") as clip, av.open(name, "w", options=options) as out:
            copy = out.add_stream_from_template(clip.streams.get({kind: 0})[0])
            for packet in clip.demux(**{kind: 0}):
                if packet.dts is not None:
                    packet.stream = copy
                    out.mux(packet)
    data = Path("front.mp4").read_bytes()
    Path("cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    Path("last.mp4").write_bytes(data[:-100])
    data = Path("torn.mkv").read_bytes()
    Path("torn.mkv").write_bytes(data[: len(data) // 2])
    Path("text.mp4").write_text("I am no clip.\n")
    Path("photo.png").touch()
    os.chdir(before)
    return folder


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_leaves_nothing(kind, broken, capfd, monkeypatch):
    monkeypatch.chdir(broken)
    before = {path: path.read_bytes() for path in Path().iterdir()}
    arguments, message = REFUSED[kind]
    assert (main(arguments) if arguments[0] == "refocus" else film(*arguments)) == 2
    out, err = capfd.readouterr()
    assert out == "" and message in err and err.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


# ---------------------------------------------------------------- depth over time


def scene(t: int, size: tuple[int, int] = (120, 160)) -> tuple[np.ndarray, np.ndarray]:
    """A near square that goes right by two pixels a frame, before a wall that pans by one."""
    height, width = size
    rng = np.random.default_rng(0)
    wall = cv2.resize(rng.integers(60, 200, (40, 90, 3), dtype=np.uint8), (3 * width, height))
    near = cv2.resize(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8), (50, 50))
    frame, depth = wall[:, t : t + width].copy(), np.full(size, 0.2, np.float32)
    place = slice(35, 85), slice(10 + 2 * t, 60 + 2 * t)
    frame[place], depth[place] = near, 0.9
    return frame, depth


def flickering(depth: np.ndarray, t: int) -> np.ndarray:
    rng = np.random.default_rng(t)
    small = cv2.resize(depth, (40, 30), interpolation=cv2.INTER_AREA)
    noise = cv2.resize(rng.normal(0, 0.03, (5, 6)).astype(np.float32), (40, 30))
    return np.float32(rng.normal(1, 0.08)) * small + np.float32(rng.normal(0, 0.05)) + noise


def test_what_stands_still_is_steady_and_what_moves_leaves_no_trail():
    run, maps, plain, truths = steady.Steady(), [], [], []
    for t in range(24):
        frame, depth = scene(t)
        plain.append(flickering(depth, t))
        maps.append(run(plain[-1], frame, 1 / 30))
        truths.append(cv2.resize(depth, (40, 30), interpolation=cv2.INTER_AREA))
        assert run.cut == (t == 0)
    still = np.s_[8:, 1:6, :]  # above the square: the wall has one depth
    jump, jumped = (np.abs(np.diff(np.stack(m)[still], axis=0)).mean() for m in (maps, plain))
    assert jump < jumped / 25  # 1/35
    average = [plain[0]]
    for m in plain[1:]:
        average.append(0.92 * average[-1] + 0.08 * m)
    trail = np.s_[8:, 10:20, :]  # the square and what it has passed
    error, smeared = (
        np.abs(np.stack(m) - np.stack(truths))[trail].mean() for m in (maps, average)
    )
    assert error < smeared / 2  # 1/3.6


def test_scale_and_offset_are_found_among_outliers():
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, (40, 50)).astype(np.float32)
    y = np.float32(1.3) * x - np.float32(0.2) + rng.normal(0, 0.01, x.shape).astype(np.float32)
    y[:8] = 3.0
    a, b = steady.fit(x, y, np.ones_like(x))
    assert a == pytest.approx(1.3, abs=0.02) and b == pytest.approx(-0.2, abs=0.02)


def test_a_new_scene_begins_anew():
    run = steady.Steady()
    run(np.full((30, 40), 0.9, np.float32), scene(0)[0], 1 / 30)
    other = np.random.default_rng(9).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    fresh = np.full((30, 40), 0.1, np.float32)
    np.testing.assert_array_equal(run(fresh, other, 1 / 30), fresh)
    assert run.cut


def test_focus_follows_what_it_is_on_and_is_pulled():
    keys = video.parse_keys("0s:15,60 0.4s:0.5 0.8s:20,60")
    run, focus, found = steady.Steady(), video.Focus(keys, pull=0.2), []
    for t in range(36):
        frame, depth = scene(t)
        small = run(cv2.resize(depth, (40, 30), interpolation=cv2.INTER_AREA), frame, 1 / 30)
        found.append(focus(depth, run, small, t / 30, 1 / 30))
    assert found[:12] == pytest.approx([0.9] * 12, abs=0.02)  # the square has left the pixel
    pull = np.array(found[12:19])
    assert (np.diff(pull) <= 0).all() and pull[3] == pytest.approx(0.7, abs=0.02)
    assert abs(np.diff(pull)[[0, -1]]).max() < abs(np.diff(pull)[2:4]).min()  # slow at both ends
    assert found[18:24] == pytest.approx([0.5] * 6, abs=1e-6)
    assert found[-1] == pytest.approx(0.2, abs=0.02)  # the wall: the square has passed


@pytest.mark.parametrize(
    "text", ["", "1s", "1s:", "x:1,2", "-1s:1,2", "1s:1,2,3", "1s:nan", "infs:1,2"]
)
def test_keys_that_say_nothing(text):
    with pytest.raises(InputError):
        video.parse_keys(text)
