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
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from argan import bundle, lens, optics, photo, upsample
from argan.adapter import read_model
from argan.backends import Backend, open_run, open_variant
from argan.errors import BundleError, InputError, MissingFileError, ShapeError

MODELS = Path(__file__).parent / "models"
Picture = str | os.PathLike[str] | photo.Photo | Image.Image | NDArray[Any]
Focus = Literal["auto"] | float | tuple[float, float]
Pixels = NDArray[Any]  # sRGB [H, W, 3]: uint8, uint16, or float in 0..1
Disparity = NDArray[np.float32]  # [H, W], larger = nearer
Quality = Literal["final", "preview"]

# Sides of the network's picture. The upper bound keeps the work on a 20000 x 20 strip small.
SHORTEST_PX = 64
LONGEST_NOMINAL = 8  # in nominal sides
FOCUS_WINDOW = 0.01  # half of its side, as a share of the photo's shorter side
AUTO_SHARE = 0.8
AUTO_SPREAD = 0.2


@dataclass(frozen=True, eq=False)
class Result:
    """image      the kind of picture that came in, upright; for a path a `Photo`, which has `save`
    disparity  float32 [H, W], larger = nearer
    focus      the disparity that is sharp
    """

    image: Any
    disparity: Disparity
    focus: float


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
        return self._depth(_open(picture)[0])

    def refocus(
        self,
        picture: Picture,
        *,
        focus: Focus = "auto",
        f_number: float | None = None,
        blur: float | None = None,
        strength: float | None = None,
        pupil: optics.Pupil = optics.ROUND,
        highlights: float = 1.0,
        quality: Quality = "final",
    ) -> Result:
        """Blur a photo as a lens focused at `focus` would have.

        picture   a path, a `Photo`, a PIL image, or an array [H, W, 3] of uint8, uint16 or float
        focus     (x, y) in px of the upright photo, a disparity, or "auto": see `auto_focus`
        f_number, blur, strength   at most one; where none is given, the bundle's f-number.
                  `blur` is K, px of disc radius per unit of disparity; `strength` is K in percent
                  of the photo's width; an f-number becomes K by `optics.blur_of_f_number`
        pupil     shape and light of the blur discs
        highlights   how much of the guessed light of clipped highlights is added: 0 none
        """
        pixels, rebuild = _open(picture)
        if f_number is None and blur is None and strength is None:
            f_number = self.model.f_number
        k = blur_px(pixels.shape[1], f_number=f_number, blur=blur, strength=strength)
        check_focus(focus, pixels.shape)
        disparity = self._depth(pixels)
        sharp = focus_disparity(disparity, focus)
        image = render(
            pixels, disparity, focus=sharp, blur=k, pupil=pupil, highlights=highlights,
            quality=quality, threads=self.threads,
        )  # fmt: skip
        return Result(rebuild(image), disparity, sharp)

    def _depth(self, pixels: Pixels) -> Disparity:
        out = self.model.disparity
        planes = network_image(pixels, self.model.image, self.sizes)
        answer = self.backend.run({"image": planes}).get("disparity")
        if answer is None or answer.shape != (1, 1, *planes.shape[2:]):
            raise BundleError("the model's output differs from its manifest; export it again")
        if not np.isfinite(answer).all():
            raise BundleError("the model gave NaN or infinity for this photo; use another model")
        disparity = (answer[0, 0] - np.float32(out.lo)) / np.float32(out.hi - out.lo)
        return upsample.edge_aware(disparity, _eight_bit(pixels))


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
    focus: Focus = "auto",
    f_number: float | None = None,
    blur: float | None = None,
    strength: float | None = None,
    model: str | os.PathLike[str] | None = None,
    threads: int | None = None,
) -> Result:
    """`Refocuser.refocus` with a model loaded for this one photo."""
    return load(model, threads=threads).refocus(
        picture, focus=focus, f_number=f_number, blur=blur, strength=strength
    )


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
) -> Pixels:
    """`lens.render` for every type of picture; options are checked first."""
    if not math.isfinite(focus):
        raise InputError(f"focus {focus}: give a finite disparity")
    if not 0 <= blur < math.inf:
        raise InputError(f"blur {blur}: give 0 or more px per unit of disparity")
    # The lens works in float32 and takes no other float.
    taken = pixels.astype(np.float32) if pixels.dtype.kind == "f" else pixels
    image = lens.render(
        taken, disparity, focus=focus, blur=blur, pupil=pupil, highlights=highlights,
        quality=quality, threads=threads,
    )  # fmt: skip
    return image.astype(pixels.dtype, copy=False)


def blur_px(
    width: int,
    *,
    f_number: float | None = None,
    blur: float | None = None,
    strength: float | None = None,
) -> float:
    """K, px of radius per unit of disparity in a photo `width` px wide, from one of the three."""
    if sum(value is not None for value in (f_number, blur, strength)) > 1:
        raise InputError("f-number, blur and strength exclude each other: give one")
    if blur is not None:
        return blur
    if strength is not None:
        if not 0 <= strength < math.inf:
            raise InputError(f"strength {strength}: give 0 or more percent of the width")
        return optics.blur_of_strength(strength, width)
    if f_number is None:
        f_number = optics.REFERENCE_F_NUMBER
    if not 0 < f_number < math.inf:
        raise InputError(f"f-number {f_number}: give a positive number such as 1.8")
    return optics.blur_of_f_number(f_number, width)


def check_focus(focus: Focus, shape: tuple[int, ...]) -> None:
    """Raise InputError unless `focus` means something in a photo of `shape` [H, W, ...]."""
    if isinstance(focus, tuple):
        x, y = focus
        if not (0 <= x < shape[1] and 0 <= y < shape[0]):
            raise InputError(
                f"focus {x:g},{y:g} is outside the photo; x goes from 0 to {shape[1] - 1},"
                f" y from 0 to {shape[0] - 1}"
            )
    elif isinstance(focus, str) and focus != "auto":
        raise InputError(f"focus {focus!r}: give (x, y) in pixels, a disparity, or 'auto'")


def focus_disparity(disparity: Disparity, focus: Focus) -> float:
    """The disparity to be sharp: `focus` itself, the median around a point, or `auto_focus`."""
    check_focus(focus, disparity.shape)
    if isinstance(focus, tuple):
        x, y = int(focus[0]), int(focus[1])
        reach = max(1, round(FOCUS_WINDOW * min(disparity.shape)))
        around = disparity[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        return float(np.median(around))
    return auto_focus(disparity) if isinstance(focus, str) else float(focus)


def auto_focus(disparity: Disparity) -> float:
    """The nearest sizeable thing near the centre: the disparity that 80 % of the photo lies behind,
    where pixels count by a bell (sigma a fifth of each side) around the centre."""
    height, width = disparity.shape
    small = cv2.resize(disparity, (min(width, 256), min(height, 256)), interpolation=cv2.INTER_AREA)
    y, x = (np.linspace(-0.5, 0.5, n) if n > 1 else np.zeros(1) for n in small.shape)
    weight = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * AUTO_SPREAD**2)).ravel()
    order = np.argsort(small, axis=None)
    behind = np.cumsum(weight[order])
    at = int(np.searchsorted(behind, AUTO_SHARE * behind[-1]))
    return float(small.ravel()[order[at]])


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
    pixels: Pixels, port: bundle.Image, sizes: Sequence[tuple[int, int]] | None = None
) -> NDArray[np.float32]:
    """What the network sees of a photo: sRGB [1, 3, H, W] in 0..1, of `network_size`."""
    small = _resize(pixels, network_size(pixels.shape[0], pixels.shape[1], port, sizes))
    return np.ascontiguousarray(_unit(small).transpose(2, 0, 1)[None])


def _resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """By area where that shrinks, else bilinear."""
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


def _open(picture: Picture) -> tuple[Pixels, Callable[[Pixels], Any]]:
    """The pixels of a picture, and the way back from pixels to the same kind of picture."""
    if isinstance(picture, np.ndarray):
        return _check_array(picture), lambda pixels: pixels
    if isinstance(picture, Image.Image):
        taken = photo.from_pil(picture)
        return taken.pixels, lambda px: photo.to_pil(dataclasses.replace(taken, pixels=px))
    loaded = picture if isinstance(picture, photo.Photo) else photo.load(picture)
    return loaded.pixels, lambda pixels: dataclasses.replace(loaded, pixels=pixels)


def _check_array(pixels: Pixels) -> Pixels:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ShapeError(f"a picture of shape {pixels.shape}: give [H, W, 3]")
    if pixels.dtype not in (np.uint8, np.uint16) and pixels.dtype.kind != "f":
        raise InputError(f"a picture of type {pixels.dtype}: give uint8, uint16, or float in 0..1")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError("the picture holds NaN or infinity; fill those pixels first")
    return pixels
