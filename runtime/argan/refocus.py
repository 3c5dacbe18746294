"""Photo -> disparity -> bokeh.

The network sees the photo at its own size; its map is brought to the photo's size along the photo's
edges and rendered there. Disparity is normalised with the bundle's output range: 0 is typically the
farthest thing in a photo, 1 the nearest; nothing is clipped.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from argan import bundle, colour, embedded, lens, optics, photo
from argan.adapter import read_model
from argan.backends import Backend, open_run, open_variant
from argan.camera import inverse_depth, load_depth
from argan.controls import Controls, Disparity, Focus, Setting, check_controls, settle
from argan.errors import BundleError, Error, InputError, MissingFileError, ShapeError

MODELS = Path(__file__).parent / "models"
Picture = str | os.PathLike[str] | photo.Photo | Image.Image | NDArray[Any]
Map = str | os.PathLike[str] | NDArray[Any]
Pixels = NDArray[Any]  # sRGB [H, W, 3]: uint8, uint16, or float in 0..1
Quality = Literal["final", "preview"]
Source = Literal["auto", "embedded", "model"]

# Sides of the network's picture. The upper bound keeps the work on a 20000 x 20 strip small.
SHORTEST_PX = 64
LONGEST_NOMINAL = 8  # in nominal sides


@dataclass(frozen=True, eq=False)
class Result:
    """image      the kind of picture that came in, upright; for a path a `Photo`, which has `save`
    disparity  float32 [H, W], larger = nearer
    focus      the disparity that is sharp; of a tilted plane see `Setting.focus`
    setting    what the controls came to
    """

    image: Any
    disparity: Disparity
    focus: float
    setting: Setting


@dataclass(frozen=True)
class Look:
    """What blur discs look like: see `optics.Pupil` and `lens.render`."""

    pupil: optics.Pupil = optics.ROUND
    highlights: float = 1.0
    quality: Quality = "final"
    max_memory: int | None = None  # MiB that the process may take, see `lens.render`


PLAIN = Look()


class Opened(NamedTuple):
    """A picture's pixels, with sRGB's curve and primaries of its own (`colour`), its EXIF block,
    and the way back from pixels to that kind of picture."""

    pixels: Pixels
    exif: bytes | None
    rebuild: Callable[[Pixels], Any]
    ours: bool  # nobody else has these pixels
    space: colour.Space = colour.PLAIN


class Refocuser:
    """A bundle ready to run. `load` makes one; `sizes` are those of its variant."""

    def __init__(
        self,
        model: bundle.Bundle,
        backend: Backend,
        threads: int | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.model = model
        self.backend = backend
        self.threads = threads
        self.sizes = sizes

    def depth(self, picture: Picture) -> Disparity:
        """The disparity of a photo [H, W, 3] -> float32 [H, W], upright."""
        return self._depth(_open(picture))

    def refocus(
        self,
        picture: Picture,
        *,
        focus: Focus = "auto",
        focus_distance: float | None = None,
        f_number: float | None = None,
        blur: float | None = None,
        strength: float | None = None,
        focal_length: float | None = None,
        sensor_width: float | None = None,
        tilt: float = 0.0,
        tilt_toward: float = 90.0,
        keep: float | tuple[float, float] = 0.0,
        pupil: optics.Pupil = optics.ROUND,
        highlights: float = 1.0,
        quality: Quality = "final",
    ) -> Result:
        """Blur a photo as a lens focused at `focus` would have.

        picture    a path, a `Photo`, a PIL image, or an array [H, W, 3] of uint8, uint16 or float
        focus ... keep   see `Controls`. Where no blur is set, the bundle's f-number
        pupil      shape and light of the blur discs
        highlights   how much of the guessed light of clipped highlights is added: 0 none
        """
        controls = Controls(
            focus, focus_distance, f_number, blur, strength, focal_length, sensor_width, tilt,
            tilt_toward, keep,
        )  # fmt: skip
        return self.expose(picture, controls, Look(pupil, highlights, quality))

    def expose(self, picture: Picture, controls: Controls, look: Look = PLAIN) -> Result:
        """`refocus` with its options in two parts."""
        opened = _open(picture)
        check_controls(controls, opened.pixels.shape, self.metric)
        disparity = self._depth(opened)
        return _expose(
            opened, disparity, controls, look, metric=self.metric, f_number=self.model.f_number,
            threads=self.threads,
        )  # fmt: skip

    @property
    def metric(self) -> tuple[float, float] | None:
        """(lo, hi) where depth is metric: 1/z = lo + d (hi - lo) in 1/m."""
        adapter = self.model.adapter
        if adapter is None or adapter.output != "metric depth" or adapter.typical is None:
            return None
        return self.model.disparity.lo, self.model.disparity.hi

    def _depth(self, opened: Opened) -> Disparity:
        return _enlarged(self.network_depth(opened.pixels, opened.space), opened.pixels)

    def network_depth(self, pixels: Pixels, space: colour.Space = colour.PLAIN) -> Disparity:
        """The disparity [h, w], of the network's own size, of pixels as `network_image` takes."""
        out = self.model.disparity
        planes = network_image(pixels, self.model.image, self.sizes, space)
        answer = self.backend.run({"image": planes}).get("disparity")
        if answer is None or answer.shape != (1, 1, *planes.shape[2:]):
            raise BundleError("the model's output differs from its manifest; export it again")
        if not np.isfinite(answer).all():
            raise BundleError("the model gave NaN or infinity for this photo; use another model")
        disparity = (answer[0, 0] - np.float32(out.lo)) / np.float32(out.hi - out.lo)
        return np.asarray(disparity, np.float32)


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    backend: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
) -> Refocuser:
    """Load a model.

    model      a bundle, the description of a model of your own (NAME.toml, see argan.adapter), the
               name of a bundle that ships, or None for the default one
    backend    "onnx", "tflite" or "coreml"; "torch" takes the folder of a training run for a model.
               None: the first of them that the model has
    precision  None: the most exact that the model has in that format
    threads    None: every core

    MissingFileError, MissingExtraError (with the pip command), BundleError, or InputError.
    """
    if threads is not None and threads < 1:
        raise InputError(f"{threads} threads: give 1 or more")
    if backend == "torch":
        if model is None or precision is not None:
            raise InputError("torch runs the folder of a training run, as it is: give it as model")
        return open_run(Path(model), threads)
    if backend not in (None, *bundle.FORMATS):
        raise InputError(f"no backend {backend!r}; give {', '.join(bundle.FORMATS)} or torch")
    content = read_model(find_model(model))
    there = {v.format for v in content.variants if v.graph == "disparity"}
    first = next((format for format in bundle.FORMATS if format in there), "onnx")
    variant = content.find(backend or first, precision)
    opened = open_variant(content, variant, threads=threads)
    return Refocuser(content, opened, threads, variant.sizes)


def refocus(
    picture: Picture,
    *,
    disparity: Map | None = None,
    depth: Map | None = None,
    focus: Focus = "auto",
    focus_distance: float | None = None,
    f_number: float | None = None,
    blur: float | None = None,
    strength: float | None = None,
    focal_length: float | None = None,
    sensor_width: float | None = None,
    tilt: float = 0.0,
    tilt_toward: float = 90.0,
    keep: float | tuple[float, float] = 0.0,
    pupil: optics.Pupil = optics.ROUND,
    highlights: float = 1.0,
    quality: Quality = "final",
    model: str | os.PathLike[str] | None = None,
    source: Source = "auto",
    threads: int | None = None,
) -> Result:
    """`Refocuser.refocus` by the depth that the photo carries, with a model loaded for this one
    photo, or by a map of your own.

    disparity  in place of a model: [H, W], larger = nearer; an array, .npy or 16-bit .png
    depth      the same in metres along the optical axis; a .png in millimetres
    source     "embedded", "model", or "auto": the photo's own depth (`argan.embedded`) where it is
               a file that has one and no model is named, else the model
    """
    controls = Controls(
        focus, focus_distance, f_number, blur, strength, focal_length, sensor_width, tilt,
        tilt_toward, keep,
    )  # fmt: skip
    look = Look(pupil, highlights, quality)
    if disparity is None and depth is None:
        own, _ = find_embedded(picture, source, named=model is not None)
        if own is not None:
            return expose_embedded(picture, own, controls, look, threads=threads)
        return load(model, threads=threads).expose(picture, controls, look)
    if model is not None or source != "auto":
        raise InputError("a map and a model, or a source, exclude each other: give one")
    return expose(picture, controls, look, disparity=disparity, depth=depth, threads=threads)


def expose(
    picture: Picture,
    controls: Controls,
    look: Look = PLAIN,
    *,
    disparity: Map | None = None,
    depth: Map | None = None,
    threads: int | None = None,
) -> Result:
    """`refocus` by a map, with its options in two parts."""
    if (disparity is None) == (depth is None):
        raise InputError("give one map, a disparity or a depth")
    metric = None if depth is None else (0.0, 1.0)
    opened = _open(picture)
    check_controls(controls, opened.pixels.shape, metric)
    if depth is not None:
        name, distances = _name(depth, "the depth map"), _read(depth, load_depth, inverse_depth)
    else:
        assert disparity is not None
        name, distances = _name(disparity, "the map"), _read(disparity, photo.load_disparity)
    if distances.shape != opened.pixels.shape[:2]:
        (height, width), (rows, columns) = opened.pixels.shape[:2], distances.shape
        raise ShapeError(
            f"{name} is {columns}x{rows} and {_name(picture, 'the photo')} is {width}x{height};"
            " resize the map to the photo (upright)"
        )
    return _expose(opened, distances, controls, look, metric=metric, threads=threads)


def find_embedded(
    picture: Picture, source: Source, *, named: bool = False
) -> tuple[embedded.EmbeddedDepth | None, str]:
    """The depth that a photo carries, if that is to be used, else None; and a word on the choice.

    named    whether a model is named, which "auto" then takes. It takes one as well where what the
             photo carries can't be read. "embedded" raises InputError
    """
    if source == "embedded" and named:
        raise InputError("the photo's own depth and a model exclude each other: give one")
    if source == "model" or named:
        return None, "of the model"
    found, words = None, "of the model"
    if isinstance(picture, str | os.PathLike):
        try:
            found = embedded.read(picture)
        except Error as error:
            if source == "embedded" or isinstance(error, MissingFileError):
                raise
            words += f" (the photo's own can't be used: {error})"
    if found is not None:
        return found, found.words
    if source == "embedded":
        name = _name(picture, "a picture that is no file")
        raise InputError(f"{name} carries no depth; leave --source embedded out for the model's")
    return None, words


def embedded_disparity(
    picture: Picture, own: embedded.EmbeddedDepth
) -> tuple[Opened, Disparity]:
    """The photo that a depth belongs to, and that depth at its size."""
    opened = _open(own.original or picture)
    return opened, _enlarged(own.filled(), opened.pixels)


def expose_embedded(
    picture: Picture,
    own: embedded.EmbeddedDepth,
    controls: Controls,
    look: Look = PLAIN,
    *,
    threads: int | None = None,
) -> Result:
    """`refocus` by the depth that the photo carries. Where that is in 1/m, the lens is, if no other
    is given, the full-frame one with the photo's view, and the f-number f/1.8."""
    metric = (0.0, 1.0) if own.metric else None
    if own.metric:
        controls = dataclasses.replace(controls, full_frame=True)
    opened, disparity = embedded_disparity(picture, own)
    check_controls(controls, opened.pixels.shape, metric)
    return _expose(
        opened, disparity, controls, look, metric=metric, f_number=optics.REFERENCE_F_NUMBER,
        threads=threads,
    )  # fmt: skip


def _name(source: Any, otherwise: str) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else otherwise


def _read(
    source: Map,
    load: Callable[[str | os.PathLike[str]], Disparity],
    convert: Callable[[NDArray[Any]], Disparity] = lambda values: values.astype(np.float32),
) -> Disparity:
    if not isinstance(source, np.ndarray):
        return load(source)
    if source.ndim != 2 or source.size == 0 or source.dtype.kind not in "fiu":
        raise ShapeError(f"a map of shape {source.shape} and type {source.dtype}: give [H, W]")
    return convert(source)


def _expose(
    opened: Opened,
    disparity: Disparity,
    controls: Controls,
    look: Look,
    *,
    metric: tuple[float, float] | None = None,
    f_number: float | None = None,
    threads: int | None = None,
) -> Result:
    setting = settle(controls, disparity, metric=metric, exif=opened.exif, f_number=f_number)
    if setting.even:
        distances, focus, blur = disparity, setting.focus, setting.blur
    else:
        distances, focus, blur = setting.blur_map(disparity), 0.0, 1.0
    image = render(
        opened.pixels, distances, focus=focus, blur=blur, pupil=look.pupil,
        highlights=look.highlights, quality=look.quality, threads=threads,
        max_memory=look.max_memory, in_place=opened.ours and look.max_memory is not None,
    )  # fmt: skip
    return Result(opened.rebuild(image), disparity, setting.focus, setting)


def find_model(model: str | os.PathLike[str] | None) -> Path:
    """The path of a bundle given by path or name; None is the default one."""
    if model is not None and Path(model).exists():
        return Path(model)
    shipped = MODELS / f"{'default' if model is None else os.fspath(model)}.argan"
    if shipped.parent == MODELS and shipped.exists():
        return shipped
    if model is None:
        raise MissingFileError("this argan was installed without its model; name a bundle instead")
    raise MissingFileError(f"no bundle {os.fspath(model)!r}; check the path, NAME.argan")


def render(
    pixels: Pixels,
    disparity: Disparity,
    *,
    focus: float,
    blur: float,
    pupil: optics.Pupil = optics.ROUND,
    highlights: float = 1.0,
    quality: Quality = "final",
    threads: int | None = None,
    max_memory: int | None = None,
    in_place: bool = False,
) -> Pixels:
    """`lens.render` for every type of picture; options are checked first. in_place: the pixels may
    be changed, which saves their memory."""
    if not math.isfinite(focus):
        raise InputError(f"focus {focus}: give a finite disparity")
    if not 0 <= blur < math.inf:
        raise InputError(f"blur {blur}: give 0 or more px per unit of disparity")
    # The lens works in float32 and takes no other float.
    taken = pixels.astype(np.float32) if pixels.dtype.kind == "f" else pixels
    image = lens.render(
        taken, disparity, focus=focus, blur=blur, pupil=pupil, highlights=highlights,
        quality=quality, threads=threads, max_memory=max_memory, out=taken if in_place else None,
    )  # fmt: skip
    return image.astype(pixels.dtype, copy=False)


def network_size(
    height: int,
    width: int,
    port: bundle.Image,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> tuple[int, int]:
    """(height, width) at which the network sees a photo: its shape, about nominal^2 px; of `sizes`
    the one nearest in shape, then in area."""
    if sizes is not None:

        def strangeness(size: tuple[int, int]) -> tuple[float, float]:
            shape = abs(math.log(size[0] * width / (size[1] * height)))
            return round(shape, 6), abs(math.log(size[0] * size[1] / port.nominal**2))

        return min(sizes, key=strangeness)
    scale = port.nominal / math.sqrt(height * width)

    def side(length: int) -> int:
        steps = round(min(length * scale, port.nominal * LONGEST_NOMINAL) / port.multiple_of)
        fewest = math.ceil(SHORTEST_PX / port.multiple_of)
        return max(steps, fewest) * port.multiple_of

    return port.height or side(height), port.width or side(width)


def network_image(
    pixels: Pixels,
    port: bundle.Image,
    sizes: Sequence[tuple[int, int]] | None = None,
    space: colour.Space = colour.PLAIN,
) -> NDArray[np.float32]:
    """What the network sees of a photo: sRGB [1, 3, H, W] in 0..1, of `network_size`."""
    small = _resize(pixels, network_size(pixels.shape[0], pixels.shape[1], port, sizes))
    return np.ascontiguousarray(space.to_srgb(_unit(small)).transpose(2, 0, 1)[None])


def _enlarged(disparity: Disparity, pixels: Pixels) -> Disparity:
    """A small map at the photo's size."""
    from argan.upsample import edge_aware  # imports OpenCV, slowly

    return edge_aware(disparity, _eight_bit(pixels))


def _resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """By area where that shrinks, else bilinear."""
    import cv2  # slow to import

    if pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32, copy=False)  # OpenCV knows no float16
    shrinks = pixels.shape[0] * pixels.shape[1] > size[0] * size[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, size[::-1], interpolation=how))


def _unit(pixels: Pixels) -> NDArray[np.float32]:
    """-> float32 in 0..1."""
    if pixels.dtype.kind == "f":
        return np.clip(pixels, 0, 1).astype(np.float32)
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def _eight_bit(pixels: Pixels) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


def _open(picture: Picture) -> Opened:
    if isinstance(picture, np.ndarray):
        return Opened(_check_array(picture), None, lambda pixels: pixels, False)
    if isinstance(picture, Image.Image):
        opened = _open_photo(photo.from_pil(picture), ours=True)
        return opened._replace(rebuild=lambda pixels: photo.to_pil(opened.rebuild(pixels)))
    if isinstance(picture, photo.Photo):
        return _open_photo(picture, ours=False)
    return _open_photo(photo.load(picture), ours=True)


def _open_photo(taken: photo.Photo, *, ours: bool) -> Opened:
    space = taken.space
    pixels, leave = space.enter(taken.pixels)
    ours = ours or pixels is not taken.pixels
    rest = dataclasses.replace(taken, pixels=pixels)  # its own pixels may take much memory
    return Opened(
        pixels, taken.exif, lambda result: dataclasses.replace(rest, pixels=leave(result)), ours,
        space,
    )  # fmt: skip


def _check_array(pixels: Pixels) -> Pixels:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ShapeError(f"a picture of shape {pixels.shape}: give [H, W, 3]")
    if pixels.dtype not in (np.uint8, np.uint16) and pixels.dtype.kind != "f":
        raise InputError(f"a picture of type {pixels.dtype}: give uint8, uint16, or float in 0..1")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError("the picture holds NaN or infinity; fill those pixels first")
    return pixels
