"""Clips: the depth of each frame made steady, the focus pulled by keys, the sound copied.

PyAV (extra `video`) reads and writes; a few frames are in memory at a time. The pictures go through
RGB and back with the matrix and range that the clip has, and keep its tags and the time of each
frame. Other streams are copied as they are, where the output can hold them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from argan import photo
from argan.controls import Controls, Disparity, Point, focus_disparity, settle
from argan.errors import Error, InputError, MissingExtraError
from argan.files import check_readable, replacing

if TYPE_CHECKING:
    from argan.refocus import Look, Refocuser
    from argan.steady import Steady

Array = NDArray[np.float32]

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
FOLLOW_S = 0.3  # time constant with which the focus follows what it is on
WINDOW = 0.04  # of the shorter side: half of the side of what is followed around a point
SAME = 0.15  # of the map's range: what is followed differs by less from the focus
SHORT_S = 1.0  # a clip that ends so much before its time, or a quarter of it, is cut short
HD_ROWS = 576  # clips with more, and no word on their matrix, are BT.709's; others BT.601's
HDR = {16: "PQ", 18: "HLG"}  # transfer functions of ITU-T H.273
BT709, BT601 = 1, 5  # swscale's matrices
UNKNOWN = 2  # of H.273
MATRICES = (0, 1, 2, 4, 5, 6, 7, 9)  # that swscale knows
MADE = ("major_brand", "minor_version", "compatible_brands", "encoder")  # by every writer anew


@dataclass(frozen=True)
class Key:
    """From `seconds` on, the focus goes to what is at a pixel of that frame, or to a disparity, or
    to what `controls.auto_focus` finds."""

    seconds: float
    focus: str | float | Point


def parse_keys(text: str) -> tuple[Key, ...]:
    """"0s:800,400 2.5s:auto 4s:0.7" -> keys in order of time. InputError."""
    keys = []
    for part in text.split():
        time, _, focus = part.partition(":")
        try:
            seconds, numbers = float(time.removesuffix("s")), focus.split(",")
            values = [] if focus == "auto" else [float(number) for number in numbers]
            if len(values) > 2 or not all(map(math.isfinite, (seconds, *values))) or seconds < 0:
                raise ValueError
        except ValueError as error:
            raise InputError(
                f"--focus-keys {part}: give SECONDSs:X,Y, SECONDSs:auto or SECONDSs:DISPARITY,"
                ' as in "0s:800,400 2.5s:auto"'
            ) from error
        keys.append(Key(seconds, (values[0], values[1]) if len(values) == 2 else
                        values[0] if values else "auto"))  # fmt: skip
    if not keys:
        raise InputError('--focus-keys is empty; give for example "0s:800,400 2.5s:auto"')
    return tuple(sorted(keys, key=lambda key: key.seconds))


def check_keys(keys: tuple[Key, ...], height: int, width: int) -> None:
    """Raise InputError for a pixel outside the clip."""
    for key in keys:
        x, y = key.focus if isinstance(key.focus, tuple) else (0, 0)
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(
                f"focus {x:g},{y:g} is outside the clip; x goes from 0 to {width - 1},"
                f" y from 0 to {height - 1}"
            )


class Focus:
    """The disparity that is sharp, frame by frame. It follows what it is on; at a key it goes to
    another within `pull` seconds, slowly at both ends."""

    def __init__(self, keys: tuple[Key, ...], pull: float) -> None:
        self.keys, self.pull = list(keys), pull
        self.goal: str | float | Point = "auto"
        self.sharp = self.start = self.followed = math.nan
        self.began = -math.inf

    def __call__(
        self, disparity: Disparity, steady: Steady, small: Disparity, seconds: float, passed: float
    ) -> float:
        """disparity [H, W] of the frame, the same `small` [h, w] as `steady` gave it, the frame's
        time and that since the last one -> disparity."""
        fresh = steady.cut
        if isinstance(self.goal, tuple) and steady.motion is not None:
            self.goal = _followed(self.goal, steady.motion, small, self.followed)
        while self.keys and seconds >= self.keys[0].seconds:
            key = self.keys.pop(0)
            self.goal, fresh = key.focus, True
            if isinstance(key.focus, tuple):
                height, width = disparity.shape
                self.goal = (key.focus[0] + 0.5) / width, (key.focus[1] + 0.5) / height
            if not math.isnan(self.sharp):
                self.start, self.began = self.sharp, seconds
        found = self._look(disparity)
        self.followed = found if fresh or math.isnan(self.followed) else (
            self.followed + (1 - math.exp(-passed / FOLLOW_S)) * (found - self.followed)
        )
        s = 1.0 if self.pull <= 0 else min((seconds - self.began) / self.pull, 1.0)
        start = self.followed if math.isnan(self.start) else self.start
        self.sharp = start + s * s * (3 - 2 * s) * (self.followed - start)
        return self.sharp

    def _look(self, disparity: Disparity) -> float:
        if not isinstance(self.goal, tuple):
            return focus_disparity(disparity, "auto" if self.goal == "auto" else float(self.goal))
        height, width = disparity.shape
        x, y = self.goal
        place = min(max(x * width - 0.5, 0), width - 1), min(max(y * height - 0.5, 0), height - 1)
        return focus_disparity(disparity, place)


def _followed(point: Point, motion: Array, small: Disparity, sharp: float) -> Point:
    """Where a point went, in parts of the size: the median motion of what is around it and about
    as far away. motion [h, w, 2]: where each pixel was before."""
    height, width = small.shape
    grid_x, grid_y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    reach = max(WINDOW * min(height, width), 1.5)
    columns = np.abs(grid_x - point[0]) * width <= reach
    rows = np.abs(grid_y - point[1]) * height <= reach
    if not (columns.any() and rows.any()):
        return point
    around = np.ix_(rows, columns)
    same = np.abs(small[around] - sharp) <= SAME * max(float(np.ptp(small)), 1e-6)
    moved_x = (grid_x[columns] - motion[..., 0][around])[same]
    moved_y = (grid_y[rows][:, None] - motion[..., 1][around])[same]
    if not moved_x.size:
        return point
    x, y = point[0] + float(np.median(moved_x)), point[1] + float(np.median(moved_y))
    return min(max(x, 0.0), 1.0), min(max(y, 0.0), 1.0)


@dataclass(frozen=True)
class Film:
    """keys, pull   see `Focus`
    crf    quality of the encoder, 0 to 51: less is better and larger
    """

    keys: tuple[Key, ...] = (Key(0.0, "auto"),)
    pull: float = 1.0
    crf: int = 18


def film(
    refocuser: Refocuser,
    source: Path,
    target: Path,
    controls: Controls,
    look: Look,
    options: Film,
    tell: Callable[[float, float | None], None] = lambda frames, total: None,
) -> str:
    """Refocus a clip -> a word on it. `target` is replaced by a whole clip, or not at all.

    controls   its focus is not used
    tell       gets the number of frames that are done, and of all, about, where that is known

    InputError for what is no clip, or a broken one; MissingExtraError.
    """
    check_suffix(target)
    check_readable(source, "a clip")
    av = _av()
    with _reading(av, source) as clip, replacing(target) as part, _writing(av, part, target) as out:
        picture: Encoder | None = None
        copies: dict[int, Any] = {}
        waiting = []  # packets of other streams: the container must know all streams before them
        expose = Exposer(refocuser, controls, look, options)
        for packet, frame in clip.read():
            if frame is None:
                waiting.append(packet)
                continue
            pixels, seconds = clip.pixels(frame), float(frame.pts * clip.video.time_base)
            if picture is None:
                check_keys(options.keys, *pixels.shape[:2])
                picture, begin = Encoder(av, out, target, clip, frame, pixels.shape, options.crf,
                                         refocuser.threads), seconds  # fmt: skip
                copies = {stream.index: _copied(out, stream) for stream in clip.others}
            _pass_on(out, copies, waiting)
            picture.write(expose(pixels, seconds - begin), frame)
            tell(picture.frames, clip.frames)
        if picture is None:
            raise InputError(f"{source} holds no pictures; get it again")
        _pass_on(out, copies, waiting)
        picture.end()
        copied = [stream.type for stream in clip.others if copies[stream.index]]
        lost = [stream.type for stream in clip.others if not copies[stream.index]] + clip.lost
    words = f"{picture.frames} frames" + (f"; copied: {', '.join(copied)}" if copied else "")
    return words + (f"; left out: {', '.join(lost)}" if lost else "")


class Exposer:
    """The frames of a clip, one after the other."""

    def __init__(
        self, refocuser: Refocuser, controls: Controls, look: Look, options: Film
    ) -> None:
        from argan.steady import Steady  # imports OpenCV, slowly

        self.refocuser, self.controls, self.look = refocuser, controls, look
        self.steady = Steady()
        self.focus = Focus(options.keys, options.pull)
        self.last = 0.0

    def __call__(self, pixels: NDArray[Any], seconds: float) -> NDArray[Any]:
        """A frame, sRGB uint8 or uint16 [H, W, 3], and its time -> the same refocused."""
        from argan.refocus import render
        from argan.upsample import edge_aware

        passed, self.last = seconds - self.last, seconds
        small = self.steady(self.refocuser.network_depth(pixels), pixels, passed)
        disparity = edge_aware(small, pixels)
        sharp = self.focus(disparity, self.steady, small, seconds, passed)
        refocuser, look = self.refocuser, self.look
        setting = settle(
            dataclasses.replace(self.controls, focus=sharp), disparity, metric=refocuser.metric,
            f_number=refocuser.model.f_number,
        )  # fmt: skip
        return render(
            pixels, disparity, focus=setting.focus, blur=setting.blur, pupil=look.pupil,
            highlights=look.highlights, quality=look.quality, threads=refocuser.threads,
        )  # fmt: skip


def check_suffix(path: Path) -> None:
    """Raise InputError unless `film` can write a clip of that name."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path} has no ending of a clip; use {', '.join(FORMATS)}")


# ---------------------------------------------------------------- files


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video") from error
    return av


class Clip:
    """A clip that is open for reading."""

    def __init__(self, av: Any, path: Path, container: Any) -> None:
        self.av, self.path, self.container = av, path, container
        covers = av.stream.Disposition.attached_pic
        pictures = [s for s in container.streams.video if not s.disposition & covers]
        if not pictures:
            raise InputError(f"{path} holds no video; name a clip")
        self.video = pictures[0]
        self.video.thread_type = "AUTO"
        kept = ("audio", "subtitle")
        self.others = [s for s in container.streams if s.type in kept]
        self.lost = [s.type for s in container.streams if s.type not in kept and s != self.video]
        self.seconds = _seconds(self.video)
        self.rate = self.video.average_rate or Fraction(30)
        counted = round(self.seconds * self.rate) if self.seconds else None
        self.frames = self.video.frames or counted
        self.rgb: str | None = None
        self.shape: tuple[int, int] = (0, 0)

    def read(self) -> Iterator[tuple[Any, Any]]:
        """Packets of other streams, (packet, None), and frames, (packet, frame), as they come."""
        last, end = None, 0.0
        try:
            for packet in self.container.demux(self.video, *self.others):
                if packet.is_corrupt:
                    raise self._damaged("a packet is cut short")
                if packet.stream.index != self.video.index:
                    if packet.dts is not None:
                        yield packet, None
                    continue
                for frame in packet.decode():
                    if frame.pts is None:
                        step = round(1 / (self.rate * self.video.time_base))
                        frame.pts = 0 if last is None else last + max(step, 1)
                    if last is not None and frame.pts <= last:
                        continue  # shown for no time
                    last = frame.pts
                    end = float((last - (self.video.start_time or 0)) * self.video.time_base)
                    self._check(frame)
                    yield packet, frame
        except (self.av.FFmpegError, OSError) as error:
            raise self._damaged(getattr(error, "strerror", None) or error) from error
        if last is not None and self.seconds:
            if end + float(1 / self.rate) < self.seconds - min(SHORT_S, self.seconds / 4):
                raise self._damaged(f"it ends after {end:.1f} of {self.seconds:.1f} s")

    def _damaged(self, why: object) -> InputError:
        return InputError(f"{self.path} is damaged or cut short ({why}); get it again")

    def _check(self, frame: Any) -> None:
        if frame.is_corrupt:
            raise self._damaged("a frame can't be decoded")
        if frame.interlaced_frame:
            raise InputError(f"{self.path} is interlaced; deinterlace it first")
        if frame.color_trc in HDR:
            raise InputError(
                f"{self.path} is HDR ({HDR[frame.color_trc]}); bring it to SDR first"
            )
        if frame.colorspace not in MATRICES:
            raise InputError(f"{self.path} has an unusual matrix ({frame.colorspace}); convert it")
        size = frame.height, frame.width
        if self.rgb is None:
            self.shape = size
            self.rgb = "rgb48le" if frame.format.components[0].bits > 8 else "rgb24"
        if size != self.shape:
            raise InputError(f"{self.path} changes its size; cut it where it does")

    def matrix(self, frame: Any) -> int:
        """swscale's name for the matrix between YUV and RGB."""
        if frame.format.is_rgb or frame.colorspace in (0, UNKNOWN):
            return BT709 if min(self.shape) > HD_ROWS else BT601
        return BT601 if frame.colorspace == 6 else int(frame.colorspace)

    def pixels(self, frame: Any) -> NDArray[Any]:
        """[H, W, 3], upright; of even sides, for that is what encoders take."""
        rgb = frame.reformat(
            format=self.rgb, src_colorspace=self.matrix(frame), src_color_range=frame.color_range,
            dst_color_range=2, interpolation=_scaling(self.av), threads=1,
        ).to_ndarray()  # fmt: skip
        turned = _upright(rgb, frame)
        height, width = turned.shape[:2]
        return np.ascontiguousarray(turned[: height // 2 * 2, : width // 2 * 2])


def _seconds(stream: Any) -> float | None:
    """The length of a stream, where the file says it: Matroska does so in a tag."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    try:
        hours, minutes, seconds = map(float, stream.metadata["DURATION"].split(":"))
    except (KeyError, ValueError):
        return None
    return 3600 * hours + 60 * minutes + seconds


def _scaling(av: Any) -> Any:
    how = av.video.reformatter.Interpolation  # bilinear, of FFmpeg 8.1, loses half of 10 bits' rows
    return how.BICUBIC | how.ACCURATE_RND | how.FULL_CHR_H_INT | how.FULL_CHR_H_INP


def _upright(pixels: NDArray[Any], frame: Any) -> NDArray[Any]:
    """Turned and mirrored by the frame's display matrix: x' = a x + c y, y' = b x + d y."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32)
            across = abs(int(b)) + abs(int(c)) > abs(int(a)) + abs(int(d))
            x, y = (c, b) if across else (a, d)
            pixels = pixels.swapaxes(0, 1) if across else pixels
            return pixels[:: -1 if y < 0 else 1, :: -1 if x < 0 else 1]
    return pixels


@contextlib.contextmanager
def _reading(av: Any, path: Path) -> Iterator[Clip]:
    if path.suffix.lower() in photo.READ_SUFFIXES:
        raise InputError(f"{path} is a photo; use argan refocus")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"{path} is not a clip that can be read, or is damaged ({error.strerror})"
        ) from error
    with container:
        yield Clip(av, path, container)


@contextlib.contextmanager
def _writing(av: Any, part: Path, target: Path) -> Iterator[Any]:
    """A container that is closed at the end; after an error, whatever else that brings."""
    try:
        out = av.open(str(part), "w", format=FORMATS[target.suffix.lower()])
        try:
            yield out
        except BaseException:
            with contextlib.suppress(Exception):
                out.close()
            raise
        out.close()
    except Error:
        raise
    except (av.FFmpegError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{target} can't be written: {why}") from error


def _copied(out: Any, stream: Any) -> Any:
    """A stream like that one, or None where the output can't hold it."""
    coded = stream.codec_context
    if coded is None or coded.codec.canonical_name not in out.supported_codecs:
        return None
    copy = out.add_stream_from_template(stream)
    copy.metadata.update(stream.metadata)
    return copy


def _pass_on(out: Any, copies: dict[int, Any], packets: list[Any]) -> None:
    for packet in packets:
        if (copy := copies[packet.stream.index]) is not None:
            packet.stream = copy
            out.mux(packet)
    packets.clear()


class Encoder:
    """The pictures of a new clip, with the tags and times of an old one's."""

    def __init__(
        self,
        av: Any,
        out: Any,
        target: Path,
        clip: Clip,
        frame: Any,
        shape: tuple[int, ...],
        crf: int,
        threads: int | None,
    ) -> None:
        self.av, self.out, self.clip, self.frames = av, out, clip, 0
        container = clip.container
        out.metadata.update({k: v for k, v in container.metadata.items() if k not in MADE})
        out.set_chapters(container.chapters())
        deep = clip.rgb == "rgb48le"
        self.format = "yuv420p10le" if deep else "yuv420p"
        webm = target.suffix.lower() == ".webm"
        if webm and deep:
            raise InputError(f"{target}: a clip of more than 8 bits can't be .webm; use .mp4")
        codec = "libvpx-vp9" if webm else "libx265" if deep else "libx264"
        options = {"crf": str(crf)} | {
            "libvpx-vp9": {"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
            "libx265": {"preset": "fast", "x265-params": "log-level=none"},
            "libx264": {"preset": "fast"},
        }[codec]
        try:
            stream = out.add_stream(codec, rate=clip.rate, options=options)
        except (av.FFmpegError, ValueError) as error:
            raise InputError(f"this PyAV has no {codec}; write another format") from error
        stream.height, stream.width, stream.pix_fmt = shape[0], shape[1], self.format
        context, source = stream.codec_context, clip.video
        stream.time_base = context.time_base = source.time_base
        context.thread_count = threads or 0
        if codec == "libx265" and target.suffix.lower() != ".mkv":
            context.codec_tag = "hvc1"  # which Apple's players want
        self.range = 2 if frame.color_range == 2 or frame.format.is_rgb else 1
        context.color_range = self.range
        if not frame.format.is_rgb:
            context.colorspace = frame.colorspace
        context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
        ratio = source.sample_aspect_ratio
        if ratio and ratio != 1:
            context.sample_aspect_ratio = ratio if shape[1] == frame.width else 1 / ratio
        self.stream = stream

    def write(self, pixels: NDArray[Any], source: Any) -> None:
        frame = self.av.VideoFrame.from_ndarray(pixels, format=self.clip.rgb)
        coded = frame.reformat(
            format=self.format, dst_colorspace=self.clip.matrix(source), src_color_range=2,
            dst_color_range=self.range, interpolation=_scaling(self.av), threads=1,
        )  # fmt: skip
        coded.pts, coded.time_base = source.pts, self.clip.video.time_base
        self.out.mux(self.stream.encode(coded))
        self.frames += 1

    def end(self) -> None:
        self.out.mux(self.stream.encode(None))
