"""The command line. Exit codes: 0 ok, 1 some of several inputs failed, 2 bad usage or input."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

import argan
from argan import batch, depth_files, native, photo
from argan.adapter import read_model
from argan.controls import Controls, Focus
from argan.errors import Error, InputError, MissingExtraError, MissingFileError
from argan.files import check_readable, check_writable, write_atomic
from argan.optics import Pupil
from argan.pipes import PIPE, files_for
from argan.refocus import (
    Look,
    Quality,
    Refocuser,
    Source,
    embedded_disparity,
    expose,
    expose_embedded,
    find_embedded,
    find_model,
    load,
)

# Headings of the help.
OUTPUT, FOCUS, BLUR = "Output", "Focus", "Blur (one of them)"
MAP, DISCS, RUN = "Map (one of them)", "Discs", "Run"
CAMERA = "Camera, where depth is in metres (EXIF's if not given)"

Photos = Annotated[
    list[Path],
    typer.Argument(
        metavar="IN",
        help="JPEG, PNG, WebP, TIFF, AVIF or HEIC; folders of them, or globs in quotes; - is"
        " standard input.",
        show_default=False,
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        "-o", "--output", metavar="OUT|DIR",
        help="Beside the input if not given; - is standard output.", rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
Model = Annotated[
    str | None,
    typer.Option(
        metavar="BUNDLE",
        help="NAME.argan, or NAME.toml for a model of your own; the one that ships if not given.",
        rich_help_panel=RUN,
    ),
]
Backend = Annotated[
    Literal["onnx", "tflite", "coreml", "torch"] | None,
    typer.Option(
        help="What runs the network; torch takes a training run for a model.", rich_help_panel=RUN
    ),
]
Precision = Annotated[
    Literal["fp32", "fp16", "int8-weights", "int8", "int8-io", "palette6"] | None,
    typer.Option(help="The most exact if not given.", rich_help_panel=RUN),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="All cores if not given.", rich_help_panel=RUN),
]
MaxMemory = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="MB", help="For the whole process: a large photo is done in strips.",
        rich_help_panel=RUN,
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace existing files, even the input.", rich_help_panel=OUTPUT),
]
PhotoFormat = Annotated[
    Literal["jpg", "png", "webp", "tif", "avif"] | None,
    typer.Option(
        "--format", help="Where -o does not say it by an ending: the photo's own if not given.",
        rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
MapFormat = Annotated[
    Literal["png", "npy", "exr"] | None,
    typer.Option(
        "--format", help="Where -o does not say it by an ending: png if not given.",
        rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
EncodeQuality = Annotated[
    int | None,
    typer.Option(
        min=1, max=100, metavar="1..100", help="Of JPEG and WebP (95 if not given), AVIF (90).",
        rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
Bits = Annotated[
    Literal["8", "16"] | None,
    typer.Option(
        help="Per channel; 16 is for PNG and TIFF. As the photo if not given.",
        rich_help_panel=OUTPUT,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Leave out what is done: of the same photo, with the same settings.",
        rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
Watch = Annotated[
    bool,
    typer.Option(
        "--watch", help="Go on as photos come, until Ctrl-C; leaves out what is done.",
        rich_help_panel=OUTPUT,
    ),
]  # fmt: skip
BundleArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="BUNDLE", help="NAME.argan or NAME.toml; the one that ships if not given."
    ),
]
FocusDistance = Annotated[
    float | None,
    typer.Option(
        metavar="METRES", help="In place of --focus, where depth is in metres; also --focus 1.5m.",
        rich_help_panel=FOCUS,
    ),
]  # fmt: skip
FocusPlane = Annotated[
    tuple[str, str, str] | None,
    typer.Option(
        metavar="X,Y X,Y X,Y", help="In place of --focus: the plane through three pixels is sharp.",
        rich_help_panel=FOCUS,
    ),
]  # fmt: skip
Tilt = Annotated[
    float,
    typer.Option(
        metavar="DEGREES",
        help="Between the focal plane and the sensor. Depth not in metres: the disparity that is"
        " sharp rises by tan(DEGREES) across the width.",
        rich_help_panel=FOCUS,
    ),
]
TiltToward = Annotated[
    float,
    typer.Option(
        metavar="DEGREES", help="Where the plane comes nearer: 0 right, 90 down, 180 left, 270 up.",
        rich_help_panel=FOCUS,
    ),
]  # fmt: skip
Keep = Annotated[
    str,
    typer.Option(
        metavar="R|FRONT,BEHIND",
        help="How far in front of and behind the focal plane things stay sharp: metres, or"
        " disparities where depth is not in metres; inf is possible.",
        rich_help_panel=FOCUS,
    ),
]
Strength = Annotated[
    float | None,
    typer.Option(metavar="PERCENT", help="The same in percent of the width.", rich_help_panel=BLUR),
]
DepthSource = Annotated[
    Source,
    typer.Option(
        "--source",
        help="Whose depth: embedded is the photo's own, from its phone; auto takes it where there"
        " is one and no --model is named.",
        rich_help_panel=RUN,
    ),
]
BlurK = Annotated[
    float | None,
    typer.Option(metavar="K", help="px of radius per unit of disparity.", rich_help_panel=BLUR),
]
FocalLength = Annotated[float | None, typer.Option(metavar="MM", rich_help_panel=CAMERA)]
SensorWidth = Annotated[
    float | None,
    typer.Option(metavar="MM", help="Its longer side; 36 is full frame.", rich_help_panel=CAMERA),
]
Blades = Annotated[
    int,
    typer.Option(metavar="N", help="0: round pupil; 3 to 11: a polygon.", rich_help_panel=DISCS),
]
Rotation = Annotated[
    float, typer.Option(metavar="DEGREES", help="Turns the polygon.", rich_help_panel=DISCS)
]
Roundness = Annotated[
    float, typer.Option(metavar="0..1", help="Of the blades: 0 straight.", rich_help_panel=DISCS)
]
CatEye = Annotated[
    float, typer.Option(metavar="0..1", help="Cut toward the corners.", rich_help_panel=DISCS)
]
Rim = Annotated[
    float,
    typer.Option(metavar="-1..1", help="Bright rim (1) or a soft one (-1).", rich_help_panel=DISCS),
]
Highlights = Annotated[
    float,
    typer.Option(
        metavar="H", help="Guessed light of clipped highlights: 0 none, 1 all.",
        rich_help_panel=DISCS,
    ),
]  # fmt: skip
RenderQuality = Annotated[
    Quality, typer.Option("--quality", help="preview is faster.", rich_help_panel=RUN)
]

Kind = Literal["photo", "map", "jpeg"]  # of an output
CHECKS = {
    "photo": photo.check_photo_suffix,
    "map": depth_files.check_suffix,
    "jpeg": depth_files.check_jpeg_suffix,
}
WIDTH = 140  # columns of a table that goes to a file

app = typer.Typer(
    help="Depth and bokeh from one photo.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line -> exit code. Every error is one line on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            arguments = sys.argv[1:] if arguments is None else arguments
            return app(arguments or ["--help"], prog_name="argan", standalone_mode=False) or 0
        except Error as error:
            return _complain(error)
        except typer.TyperException as error:
            return _complain(f"{error.format_message()} (see argan --help)")
        except (KeyboardInterrupt, typer.Abort):
            return 130
        except MemoryError:
            return _complain("out of memory; use a smaller photo")
        except Exception as error:
            if os.environ.get("ARGAN_TRACEBACK"):
                raise
            kind = type(error).__name__
            return _complain(f"a bug: {kind}: {error} (ARGAN_TRACEBACK=1 shows where)")


def _complain(message: object) -> int:
    print("argan:", " ".join(str(message).splitlines()), file=sys.stderr)
    return 2


def _version(wanted: bool) -> None:
    if wanted:
        print(f"argan {argan.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and exit.")
    ] = False,
) -> None:
    pass


class Grouped(TyperCommand):
    """Help with the options under headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                kind = "Arguments" if param.param_type_name == "argument" else "Options"
                heading = getattr(param, "rich_help_panel", None) or kind
                groups.setdefault(heading, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


@app.command(cls=Grouped)
def refocus(
    ctx: typer.Context,
    photos: Photos,
    output: Out = None,
    format: PhotoFormat = None,
    encode_quality: EncodeQuality = None,
    bits: Bits = None,
    force: Force = False,
    resume: Resume = False,
    watch: Watch = False,
    focus: Annotated[
        str,
        typer.Option(
            metavar="auto|X,Y|D",
            help="auto (the nearest sizeable thing near the centre), a pixel, or a disparity.",
            rich_help_panel=FOCUS,
        ),
    ] = "auto",
    focus_distance: FocusDistance = None,
    focus_plane: FocusPlane = None,
    tilt: Tilt = 0.0,
    tilt_toward: TiltToward = 90.0,
    keep: Keep = "0",
    f_number: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="The bundle's (1.8) if no blur is given.", rich_help_panel=BLUR
        ),
    ] = None,
    blur: BlurK = None,
    strength: Strength = None,
    focal_length: FocalLength = None,
    sensor_width: SensorWidth = None,
    blades: Blades = 0,
    rotation: Rotation = 0.0,
    roundness: Roundness = 0.0,
    cat_eye: CatEye = 0.0,
    rim: Rim = 0.0,
    highlights: Highlights = 1.0,
    quality: RenderQuality = "final",
    source: DepthSource = "auto",
    model: Model = None,
    backend: Backend = None,
    precision: Precision = None,
    threads: Threads = None,
    max_memory: MaxMemory = None,
) -> int:
    """Give photos a shallow depth of field.

    Writes PHOTO_bokeh.jpg beside PHOTO.jpg. An f-number is a convention where the model's depth is
    not in metres: at f/1.8 one unit of disparity (about nearest to farthest) blurs to a radius of
    2 % of the photo's width. docs/optics.md explains every option with pictures. A portrait that
    carries the depth of its phone is blurred by that (docs/phone-depth.md).

    \b
    Examples:
      argan refocus photo.jpg
      argan refocus photo.jpg --focus 1200,800 --f-number 1.4 -o bokeh.png
      argan refocus photos/ --strength 3 --blades 6 -o out/ --resume
      argan refocus table.jpg --focus 900,700 --tilt 40 --keep 0.05
      argan refocus - --format png < photo.jpg > bokeh.png
    """
    controls = Controls(
        *parse_focus(focus, focus_distance, focus_plane), f_number, blur, strength, focal_length,
        sensor_width, tilt, tilt_toward, parse_keep(keep),
    )  # fmt: skip
    pupil = Pupil(blades, math.radians(rotation), roundness, cat_eye, rim)
    look = Look(pupil, highlights, quality, max_memory)
    named = any((model, backend, precision))
    refocuser = _lazily(source, named, model, backend, precision, threads)

    def one(path: Path, target: Path) -> str:
        _check_output(target, encode_quality, bits)
        own, words = find_embedded(path, source, named=named)
        taken = _taken(path, bits)
        if own is not None:
            result = expose_embedded(taken, own, controls, look, threads=threads)
        else:
            result = refocuser().expose(taken, controls, look)
        picture, setting = result.image, result.setting
        del result  # its map: saving takes as much again
        _save(picture, target, encode_quality, bits)
        return f"{setting.words}; depth {words}{_several(picture)}"

    with files_for(photos, output, _ending(format, output)) as (photos, output):
        return _run(ctx, one, photos, output, "bokeh")


@app.command(cls=Grouped)
def film(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="MP4, MOV, MKV, WebM, ...")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT", help="Beside the clip if not given.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    crf: Annotated[
        int,
        typer.Option(
            min=0, max=51, metavar="0..51", help="Of the encoder: less is better and larger.",
            rich_help_panel=OUTPUT,
        ),
    ] = 18,
    force: Force = False,
    focus: Annotated[
        str,
        typer.Option(
            metavar="auto|X,Y|D",
            help="auto (the nearest sizeable thing near the centre), what is at a pixel of the"
            " first frame, or a disparity. It is followed.",
            rich_help_panel=FOCUS,
        ),
    ] = "auto",
    focus_keys: Annotated[
        str | None,
        typer.Option(
            metavar="KEYS",
            help='In place of --focus: "0s:800,400 2.5s:auto 4s:0.7"; from each time on, the focus'
            " goes to what is at that pixel then.",
            rich_help_panel=FOCUS,
        ),
    ] = None,
    pull: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="That a change of focus takes.", rich_help_panel=FOCUS
        ),
    ] = 1.0,
    f_number: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="The bundle's (1.8) if no blur is given.", rich_help_panel=BLUR
        ),
    ] = None,
    blur: BlurK = None,
    strength: Strength = None,
    blades: Blades = 0,
    rotation: Rotation = 0.0,
    roundness: Roundness = 0.0,
    cat_eye: CatEye = 0.0,
    rim: Rim = 0.0,
    highlights: Highlights = 1.0,
    quality: RenderQuality = "preview",
    model: Model = None,
    backend: Backend = None,
    precision: Precision = None,
    threads: Threads = None,
) -> int:
    """Give a clip a shallow depth of field, with a steady depth and pulls of focus.

    Writes CLIP_bokeh.mp4 beside CLIP.mp4. Sound and subtitles are copied. See docs/video.md.

    \b
    Examples:
      argan film clip.mp4
      argan film clip.mov --focus-keys "0s:800,400 2.5s:auto 4s:1200,700" --f-number 1.4
      argan film clip.mp4 --strength 3 --quality final -o final.mp4
    """
    from argan import video

    if focus_keys is not None and focus != "auto":
        raise InputError("--focus and --focus-keys exclude each other: give one")
    keys = video.parse_keys(f"0s:{focus}" if focus_keys is None else focus_keys)
    controls = Controls(f_number=f_number, blur=blur, strength=strength)
    pupil = Pupil(blades, math.radians(rotation), roundness, cat_eye, rim)
    look = Look(pupil, highlights, quality)
    ending = clip.suffix if clip.suffix.lower() in video.FORMATS else ".mp4"
    target = output or clip.with_name(f"{clip.stem}_bokeh{ending}")
    if target.is_dir():
        target /= f"{clip.stem}_bokeh{ending}"
    video.check_suffix(target)
    batch.check_target(target, (clip,), output == target, force)
    refocuser = load(model, backend=backend, precision=precision, threads=threads)
    batch.sweep({target.parent})
    with batch.progress("frames", None) as tell:
        words = video.film(
            refocuser, clip, target, controls, look, video.Film(keys, pull, crf), tell
        )
    print(batch.printable(f"{target}  {words}"))
    return 0


def _lazily(
    source: Source, named: bool, model: str | None, backend: str | None, precision: str | None,
    threads: int | None,
) -> Callable[[], Refocuser]:
    """The model, loaded while the first photo is read; at once, with its errors, if that is sure
    to need it."""

    def fetch() -> Refocuser:
        refocuser = load(model, backend=backend, precision=precision, threads=threads)
        import cv2  # noqa: F401  # needed next, and slow to import

        return refocuser

    if source == "embedded":
        return fetch  # never called
    pool = ThreadPoolExecutor(1)
    future = pool.submit(fetch)
    pool.shutdown(wait=False)
    if source == "model" or named:
        future.result()
    return future.result


@app.command(cls=Grouped)
def depth(
    ctx: typer.Context,
    photos: Photos,
    output: Out = None,
    format: MapFormat = None,
    colormap: Annotated[
        photo.ColorMap | None,
        typer.Option(
            help="Colours to look at, in place of 16-bit values.", rich_help_panel=OUTPUT
        ),
    ] = None,
    embed: Annotated[
        bool,
        typer.Option(
            "--embed", help="Write the photo, a JPEG, with its depth inside (GDepth).",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    force: Force = False,
    resume: Resume = False,
    watch: Watch = False,
    source: DepthSource = "auto",
    model: Model = None,
    backend: Backend = None,
    precision: Precision = None,
    threads: Threads = None,
) -> int:
    """Write the disparity of photos; larger = nearer.

    Writes PHOTO_depth.png beside PHOTO.jpg: 16-bit grey, d = lo + v/65535 (hi - lo), lo, hi and
    units in its text chunks. OUT.npy is float32 [H, W], OUT.exr one float32 channel. Units are 1/m
    where the depth is in metres, else relative.

    \b
    Examples:
      argan depth photo.jpg
      argan depth portrait.heic --source embedded -o portrait.exr
      argan depth 'photos/**/*.jpg' --colormap inferno -o out/
      argan depth photo.jpg --embed -o with_depth.jpg
    """
    if embed and (colormap or format):
        raise InputError("--embed writes a JPEG photo: give no --colormap or --format with it")
    named = any((model, backend, precision))
    refocuser = _lazily(source, named, model, backend, precision, threads)

    def one(path: Path, target: Path) -> str:
        own, words = find_embedded(path, source, named=named)
        if own is not None:
            disparity, metric = embedded_disparity(path, own)[1], own.metric
        else:
            disparity, metric = refocuser().depth(path), False
        if embed:
            depth_files.save_in_photo(target, path, disparity, metric=metric)
        else:
            depth_files.save(target, disparity, metric=metric, colormap=colormap)
        unit = " 1/m" if metric else ""
        return f"disparity {disparity.min():.4g} to {disparity.max():.4g}{unit}; depth {words}"

    kind: Kind = "jpeg" if embed else "map"
    ending = _ending("jpg" if embed else format or "png", None)
    _ending(format, output)
    with files_for(photos, output, ending) as (photos, output):
        return _run(ctx, one, photos, output, "depth", kind=kind)


@app.command("render", cls=Grouped)
def render_command(
    ctx: typer.Context,
    image: Annotated[
        Path,
        typer.Argument(metavar="IMAGE", help="As of argan refocus; - is standard input."),
    ],
    disparity: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=".npy or 16-bit .png of the photo's size; larger = nearer.",
            rich_help_panel=MAP,
        ),
    ] = None,
    depth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=".npy in metres or 16-bit .png in mm, along the optical axis.",
            rich_help_panel=MAP,
        ),
    ] = None,
    output: Out = None,
    format: PhotoFormat = None,
    encode_quality: EncodeQuality = None,
    bits: Bits = None,
    force: Force = False,
    focus: Annotated[
        str,
        typer.Option(
            "--focus", "--focus-disparity", metavar="auto|X,Y|V",
            help="auto (the nearest sizeable thing near the centre), a pixel, or a disparity; 1/m"
            " with --depth.",
            rich_help_panel=FOCUS,
        ),
    ] = "auto",
    focus_distance: FocusDistance = None,
    focus_plane: FocusPlane = None,
    tilt: Tilt = 0.0,
    tilt_toward: TiltToward = 90.0,
    keep: Keep = "0",
    f_number: Annotated[
        float | None,
        typer.Option(metavar="N", help="Of a thin lens with --depth.", rich_help_panel=BLUR),
    ] = None,
    blur: BlurK = None,
    strength: Strength = None,
    focal_length: FocalLength = None,
    sensor_width: SensorWidth = None,
    blades: Blades = 0,
    rotation: Rotation = 0.0,
    roundness: Roundness = 0.0,
    cat_eye: CatEye = 0.0,
    rim: Rim = 0.0,
    highlights: Highlights = 1.0,
    quality: RenderQuality = "final",
    threads: Threads = None,
    max_memory: MaxMemory = None,
) -> int:
    """Blur a photo by a map of your own: the lens alone, no network.

    The radius of the blur is K |d - V| px; with --depth it is that of a thin lens,
    f/(2N) f_px |1/z - 1/z_focus|. docs/optics.md explains every option with pictures.

    \b
    Examples:
      argan render photo.jpg --disparity depth.npy --focus-disparity 0.7 --blur 40
      argan render photo.jpg --disparity depth.png --focus 1200,800 --f-number 2.8 -o out.png
      argan render photo.jpg --depth metres.npy --focus-distance 1.5 --f-number 1.4
    """
    controls = Controls(
        *parse_focus(focus, focus_distance, focus_plane), f_number, blur, strength, focal_length,
        sensor_width, tilt, tilt_toward, parse_keep(keep),
    )  # fmt: skip
    pupil = Pupil(blades, math.radians(rotation), roundness, cat_eye, rim)
    look = Look(pupil, highlights, quality, max_memory)
    if (disparity is None) == (depth is None):
        raise InputError("give one map, --disparity FILE or --depth FILE")

    def one(source: Path, target: Path) -> str:
        _check_output(target, encode_quality, bits)
        result = expose(
            _taken(source, bits), controls, look, disparity=disparity, depth=depth, threads=threads
        )
        picture, setting = result.image, result.setting
        del result  # its map: saving takes as much again
        _save(picture, target, encode_quality, bits)
        return f"{setting.words}{_several(picture)}"

    reads = tuple(path for path in (disparity, depth) if path)
    with files_for([image], output, _ending(format, output)) as (photos, output):
        return _run(ctx, one, photos, output, "bokeh", reads=reads)


def _ending(format: str | None, output: str | None) -> str | None:
    """Of results that -o does not name, by --format."""
    folder = output in (None, PIPE) or output.endswith("/") or Path(output).is_dir()
    if format and not folder:
        raise InputError(f"--format {format}: {output} says by its ending what it is; give one")
    return f".{format}" if format else None


def _check_output(target: Path, quality: int | None, bits: str | None) -> None:
    photo.check_output(photo.SUFFIXES[target.suffix.lower()], quality, int(bits) if bits else None)


def _taken(path: Path, bits: str | None) -> Path | photo.Photo:
    """What is to be blurred; in 16 bits where these are wanted."""
    return photo.to_16_bits(photo.load(path)) if bits == "16" else path


def _save(picture: photo.Photo, target: Path, quality: int | None, bits: str | None) -> None:
    picture.save(target, quality, int(bits) if bits else None)


def _several(picture: photo.Photo) -> str:
    return "; the first of several pictures" if picture.several else ""


@app.command()
def bench(
    model: BundleArgument = None,
    photo: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="A seeded pattern if not given.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=32, max=4096, metavar="PX", help="Side of a square for the network."),
    ] = None,
    threads: Annotated[str, typer.Option(metavar="N,...", help="Numbers of threads.")] = "1,2",
    runs: Annotated[int, typer.Option(min=1, metavar="N", help="Inferences per process.")] = 30,
    against: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Beside the training run, in PyTorch.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="All figures.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="A chart.")] = None,
) -> int:
    """Measure latency, memory, size and parity of every variant that can run here.

    A fresh process per variant, number of threads and round; medians over three rounds. Parity is
    against the run where one is given, else the most exact variant.

    \b
    Examples:
      argan bench --size 256
      argan bench flowers.argan --photo photo.jpg --against runs/flowers-dr --plot bench.png
    """
    from rich.console import Console
    from rich.progress import Progress

    from argan import bench as benchmark

    counts = _numbers(threads)
    if not counts or not all(n.is_integer() and 1 <= n <= 256 for n in counts):
        raise InputError(f"--threads {threads}: give numbers of threads such as 1,2")
    if plot and plot.suffix.lower() != ".png":
        raise InputError(f"--plot {plot}: a chart is a .png")
    for target in (json, plot):
        if target:
            reads = (find_model(model), *([photo] if photo else []))
            batch.check_target(target, reads, named=True, force=False)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("processes")
        report = benchmark.bench(
            model, picture=photo, size=size, thread_counts=[int(n) for n in counts], runs=runs,
            against=against,
            tell=lambda done, total: progress.update(bar, completed=done, total=total),
        )  # fmt: skip
    if json:
        write_atomic(json, report.json().encode())
    if plot:
        write_atomic(plot, benchmark.plot(report))
    Console().print(benchmark.table(report))
    reference = ", ".join(f"{name} of {graph}" for graph, name in report.reference.items())
    print(f"reference: {reference or 'none'}")
    print(f"machine:   {_flat(report.machine)}")
    print(f"versions:  {_flat(report.versions)}")
    for name, why in report.not_run.items():
        print(f"not run:   {name}: {why}")
    for name, why in report.failed.items():
        print(f"failed:    {name}: {why}")
    return 1 if report.failed else 0


@app.command()
def verify(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="BUNDLE", help="NAME.argan or NAME.toml; the one that ships if not given."
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="RUN", help="PyTorch judges, in place of golden.npz.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Photos; the true disparity of X.jpg in X_depth.npy or .png, or an index.json.",
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="all, a format or a variant: a failure if not checked."),
    ] = None,
    min_psnr: Annotated[
        list[str] | None, typer.Option(metavar="[PRECISION=]DB", help="Of a variant's answers.")
    ] = None,
    min_bokeh_psnr: Annotated[
        float | None, typer.Option(metavar="DB", help="Of photos rendered with its disparity.")
    ] = None,
    max_drop: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=X", help="delta1=0.01 (a point), abs_rel=0.02 (2 %)."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With [tool.argan.verify]; the nearest pyproject.toml."),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="All figures.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="For CI.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="With pictures.")] = None,
    speed: Annotated[bool, typer.Option(help="Measure latency and memory.")] = True,
    threads: Threads = None,
) -> int:
    """Check that every variant of a bundle computes what PyTorch computed; what is wrong is named.

    Each variant runs on the bundle's own example, golden.npz, and on DIR's photos beside the most
    exact of them. Variants that can't run here are listed. Exit code 1 if a check fails.

    \b
    Examples:
      argan verify flowers.argan
      argan verify flowers.argan --data photos --require all --html report.html
      argan verify flowers.argan --min-psnr int8=42 --max-drop delta1=0.02
    """
    from rich.console import Console
    from rich.progress import Progress

    from argan import backends, scenes
    from argan.verify import limits, report, speeds
    from argan.verify import verify as check

    table, source = limits.find_table(config)
    allowed = limits.read(
        table, _split(min_psnr), min_bokeh_psnr, _split(max_drop), _split(require)
    )
    if data is None and source and "data" in table:
        data = source.parent / str(table["data"])
    run = backends.open_run(against, threads) if against else None
    outputs = {json: report.to_json, junit: report.to_junit, html: report.to_html}
    targets = [target for target in outputs if target]
    if targets and len(models or ()) > 1:
        raise InputError(f"{targets[0]} is for one bundle: verify them one by one")
    console, screen = Console(stderr=True), Console()
    screen.width = screen.width if screen.is_terminal else WIDTH

    def one(model: str | None) -> int:
        path = find_model(model)
        for target in targets:
            batch.check_target(target, (path,), named=True, force=False)
            check_writable(target)
        content, photos = read_model(path), scenes.read(data) if data else iter(())
        with Progress(console=console, disable=not console.is_terminal) as progress:
            found = check(content, allowed, progress.track(photos, None), run, threads)
        if speed:
            speeds(path, found)
        for output, write in outputs.items():
            if output:
                write_atomic(output, write(found))
        screen.print(report.table(found))
        for remark in report.remarks(found):
            print(remark.encode(errors="backslashreplace").decode())
        print("passed" if found.passed else "FAILED")
        return 0 if found.passed else 1

    if len(models or ()) < 2:
        return one(models[0] if models else None)
    code = 0
    for model in models or ():
        try:
            code |= one(model)
        except Error as error:
            code = _complain(error) and 1
    return code


@app.command()
def info(model: BundleArgument = None) -> int:
    """Check a bundle and show what it holds.

    \b
    Examples:
      argan info
      argan info flowers.argan
      argan info midas.toml
    """
    path = find_model(model)
    content = read_model(path)
    manifest, port = content.manifest, content.image
    lines = {
        "bundle": f"{path} (schema {manifest['schema']}, argan {manifest['argan']}), checked",
        "name": f"{manifest['name']}, task {manifest['task']}",
        "input": f"{port.name}, about {port.nominal}^2 px in steps of {port.multiple_of}",
        "output": f"{content.disparity.name}, {content.disparity.lo:g} to {content.disparity.hi:g}",
        **{group: _flat(manifest[group]) for group in ("optics", "source", "licence", "tools")},
        **({"adapter": _flat({k: v for k, v in manifest["adapter"].items() if v is not None})}
           if content.adapter else {}),
        **{f"{name}{part}": text for name, v in manifest["variants"].items()
           for part, text in _variant(v).items()},
        "files": ", ".join(f"{n} {len(data):,} B" for n, data in sorted(content.files.items())),
        "lens": "compiled" if native.library() else "NumPy and OpenCV; install with a C++ compiler",
    }
    for name, value in lines.items():
        print(f"{name + ':':14} {value}")
    return 0


@app.command()
def web(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="What `make web` built.")
    ] = Path("out/web"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")] = 8080,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> int:
    """Serve the page that refocuses photos in the browser, on this machine alone (docs/web.md)."""
    import webbrowser  # nobody else needs a browser, or a server

    from argan.web import Server

    with Server(folder, port) as server:
        print(f"{server.address} (Ctrl-C ends it)", flush=True)
        if show:
            webbrowser.open(server.address)
        server.serve_forever()
    return 0


def _split(values: list[str] | None) -> list[str]:
    """An option given several times, or once with commas."""
    return [part for value in values or () for part in value.split(",")]


def _variant(fields: dict[str, Any]) -> dict[str, str]:
    """A variant's files, then each measured group on a line of its own."""
    plain = {name: value for name, value in fields.items() if not isinstance(value, dict)}
    lines = {"": _flat(plain)}
    for name, value in fields.items():
        if isinstance(value, dict):
            nested = {k: v for k, v in value.items() if isinstance(v, dict)}
            lines |= {f" {name}, {k}": _flat(v) for k, v in nested.items()}
            if len(nested) < len(value):
                lines[f" {name}"] = _flat({k: v for k, v in value.items() if k not in nested})
    return lines


def _flat(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items()) or "-"


def parse_focus(
    text: str, distance: float | None = None, plane: tuple[str, str, str] | None = None
) -> tuple[Focus, float | None]:
    """"auto", "X,Y" in px, a disparity, or "1.5m"; or a distance in m; or three times "X,Y" -> the
    first two of `Controls`."""
    if (text != "auto") + (distance is not None) + (plane is not None) > 1:
        raise InputError("--focus, --focus-distance and --focus-plane exclude each other: give one")
    if plane is not None:
        points = [tuple(_numbers(point)) for point in plane]
        match points:
            case [(x0, y0), (x1, y1), (x2, y2)]:
                return ((x0, y0), (x1, y1), (x2, y2)), None
        raise InputError(f"--focus-plane {' '.join(plane)}: give three times X,Y, with a space")
    if text == "auto":
        return "auto", distance
    if text.endswith("m") and len(_numbers(text[:-1])) == 1:
        return "auto", _numbers(text[:-1])[0]
    match _numbers(text):
        case [disparity]:
            return disparity, None
        case [x, y]:
            return (x, y), None
    raise InputError(
        f"--focus {text}: give auto, X,Y in pixels such as 640,480, a disparity, or metres as 1.5m"
    )


def parse_keep(text: str) -> float | tuple[float, float]:
    """R or FRONT,BEHIND."""
    match _numbers(text):
        case [both]:
            return both
        case [front, behind]:
            return front, behind
    raise InputError(f"--keep {text}: give one number, or two with a comma such as 0.1,0.3")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []


def _run(
    ctx: typer.Context,
    work: batch.Work,
    sources: list[Path],
    output: str | None,
    tail: str,
    *,
    kind: Kind = "photo",
    reads: tuple[Path, ...] = (),
) -> int:
    """work(input, output) -> a word on the result, for each input; -> exit code."""

    def one(source: Path, target: Path) -> str:
        if source.suffix.lower() in batch.CLIPS:
            raise InputError(f"{source} is a clip; use argan film")
        return work(source, target)

    force, resume, watch = (ctx.params.get(name, False) for name in ("force", "resume", "watch"))
    folder = output is not None and (output.endswith("/") or Path(output).is_dir())
    several = "resume" in ctx.params and (len(sources) > 1 or batch.is_several(sources[0]))
    naming = batch.Naming(
        Path(output) if output is not None and (folder or several) else None, tail,
        lambda source: _suffix(source, kind, ctx.params.get("format")),
    )  # fmt: skip
    if several or resume or watch:
        options = batch.Options(_settings(ctx), force, resume, watch)
        return batch.run(one, sources, naming, options)
    target = naming.target(batch.Found(sources[0], Path(), True))
    if output is not None and not folder:
        target = Path(output)
    check_readable(sources[0], "a photo")
    CHECKS[kind](target)
    named = output is not None and not folder
    batch.check_target(target, (*sources, *reads), named, force)
    print(batch.printable(f"{target}  {one(sources[0], target)}"))
    return 0


def _settings(ctx: typer.Context) -> str:
    """A digest of all that decides on the bytes which a command writes, but for the photo."""
    given = ctx.params
    apart = ("photos", "output", "force", "resume", "watch", "threads")
    options = sorted((name, value) for name, value in given.items() if name not in apart)
    text = repr((argan.__version__, ctx.info_name, options, _identity(given)))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def _identity(given: dict[str, Any]) -> Any:
    """What changes where the model does."""
    if given["backend"] == "torch":
        files = Path(given["model"] or "").glob("*")
        return sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    if given["source"] == "embedded":
        return None
    try:
        return read_model(find_model(given["model"])).manifest  # with the sha256 of every file
    except MissingFileError:
        return None  # a photo that needs it will say so


def _suffix(source: Path, kind: Kind, format: str | None) -> str:
    if format:
        return f".{format}"
    if kind != "photo":
        return ".png" if kind == "map" else ".jpg"
    return source.suffix if source.suffix.lower() in photo.SUFFIXES else ".jpg"


def _add(entry: EntryPoint) -> None:
    """A command of another package: it gets its arguments untouched, and is loaded when called."""

    @app.command(
        entry.name,
        help=f"Part of {entry.module.partition('.')[0]}; see argan {entry.name} --help.",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    )
    def command(
        arguments: Annotated[list[str] | None, typer.Argument(metavar="...", hidden=True)] = None,
    ) -> int:
        return int(_load(entry)(arguments or []) or 0)


def _load(entry: EntryPoint) -> Callable[[list[str]], int | None]:
    try:
        function: Callable[[list[str]], int | None] = entry.load()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package.startswith("argan"):
            raise
        extra = "export" if entry.name == "export" else "train"
        raise MissingExtraError(package, extra) from error
    return function


for _entry in sorted(entry_points(group="argan.commands")):
    _add(_entry)
