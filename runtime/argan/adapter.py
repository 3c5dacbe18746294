"""A depth model that is not ours, described by a few lines of TOML, in place of a bundle.

The model is one ONNX or TFLite file with one image in and one map out. Two lines can do:

    model = "midas_v21_small_256.onnx"
    output = "disparity"

The fields, and what holds where one is not given:

model        the file, .onnx (weights inside) or .tflite, beside the description. Required
output       "disparity": affine inverse depth, larger = nearer; "depth": larger = farther;
             "metric depth": the same in metres. Required
name         what to call it. The file's name
size         [H, W], or N: the photo's shape, about N^2 px. What the file has fixed; required
             where it leaves the sides free
multiple_of  H and W are multiples of this, where free. 1
layout       "NCHW" or "NHWC". Where the file has 3 channels
channels     "RGB" or "BGR". "RGB"
range        [lo, hi], black and white for the network, before mean and std. [0, 1]; of whole
             numbers all that they can say, [0, 255] if they have no scale
mean, std    three numbers each: (value - mean) / std. 0 and 1
typical      [lo, hi] of the output in a typical photo. Each photo's own 2nd and 98th percentile
precision    as in a bundle. "fp32", or "int8-io" where the file takes whole numbers
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from argan import backends, bundle
from argan.backends import Model, Port, Signature, Tensors
from argan.backends.canonical import SIDES, check_image, decode, encode, find_signature
from argan.bundle import Bundle
from argan.errors import BundleError, InputError, ShapeError
from argan.files import check_readable
from argan.optics import REFERENCE_F_NUMBER

OUTPUTS = ("disparity", "depth", "metric depth")
FORMATS = {".onnx": "onnx", ".tflite": "tflite"}
LEAST_DEPTH = 1e-3  # of a photo's median depth: what is nearer is the network's slip
PERCENTILES = (2, 98)


@dataclass(frozen=True)
class Adapter:
    """How our image becomes the model's and its map ours; the fields are the description's."""

    output: str
    layout: str
    channels: str
    range: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    typical: tuple[float, ...] | None

    def network_image(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """sRGB [1, 3, H, W] in 0..1 -> what the network was trained on, in its layout."""
        lo, hi = self.range
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        ordered = image if self.channels == "RGB" else image[:, ::-1]
        values = (np.float32(lo) + ordered * np.float32(hi - lo) - mean) / std
        return values if self.layout == "NCHW" else values.transpose(0, 2, 3, 1)

    def disparity(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's map [h, w] -> disparity, typically within `disparity_range`."""
        if self.output != "disparity":
            middle = float(np.median(answer))
            if middle <= 0:
                raise BundleError(
                    f"the model's output is around {middle:.3g} where the adapter says"
                    f' output = "{self.output}"; is it "disparity"?'
                )
            answer = np.reciprocal(np.maximum(answer, np.float32(LEAST_DEPTH * middle)))
        if self.typical is None:
            lo, hi = np.percentile(answer, PERCENTILES)
            answer = (answer - np.float32(lo)) / np.float32(max(hi - lo, 1e-12))
        return answer

    def disparity_range(self) -> list[float]:
        if self.typical is None:
            return [0.0, 1.0]
        lo, hi = self.typical
        return [lo, hi] if self.output == "disparity" else [1 / hi, 1 / lo]


class Adapted:
    """The backend: a model file behind its adapter."""

    def __init__(self, model: Model, content: Bundle, adapter: Adapter) -> None:
        self.model, self.adapter = model, adapter
        self.variant, self.multiple_of = content.variants[0], content.image.multiple_of

    def run(self, inputs: Tensors) -> Tensors:
        size = check_image(inputs["image"], self.variant, self.multiple_of)
        signature = find_signature(self.model.signatures, self.adapter.layout, size)
        if signature is None:
            raise ShapeError(f"an image of {size[0]}x{size[1]}: the model can't take it")
        takes, gives = _valued(signature.inputs[0]), _valued(signature.outputs[0])
        given = encode(self.adapter.network_image(inputs["image"]), takes)
        answer = decode(self.model.run({takes.name: given}, signature.name)[gives.name], gives)
        plane = answer.reshape([side for side in answer.shape if side > 1])
        if plane.ndim != 2:
            raise BundleError(f"the model gives {list(answer.shape)}, which is not one map")
        disparity = self.adapter.disparity(plane)
        if disparity.shape == size:
            return {"disparity": disparity[None, None]}
        import cv2  # slow to import

        resized = cv2.resize(disparity, size[::-1], interpolation=cv2.INTER_LINEAR)
        return {"disparity": np.asarray(resized)[None, None]}


def read_model(path: str | os.PathLike[str]) -> Bundle:
    """A bundle, or the model of a description NAME.toml as a bundle in memory."""
    return read(path) if Path(path).suffix == ".toml" else bundle.read(path)


def read(path: str | os.PathLike[str]) -> Bundle:
    """The model of a description, in memory; `adapter` is set. InputError that names the field,
    MissingFileError, MissingExtraError, or BundleError where the model can't be loaded."""
    path = Path(path)
    check_readable(path, "an adapter description, NAME.toml")
    fields = Fields(path)
    file = path.parent / fields.text("model")
    format = FORMATS.get(file.suffix.lower())
    if format is None:
        fields.fail("model", f"{file.name} is neither .onnx nor .tflite")
    check_readable(file, f"the model of {path}")
    inside, data = f"model{bundle.FORMATS[format]}", file.read_bytes()
    signatures = backends.open_model(format, data, threads=1).signatures
    ports = [(len(signature.inputs), len(signature.outputs)) for signature in signatures]
    if set(ports) != {(1, 1)}:
        takes, gives = ports[0]
        fields.fail("model", f"{file.name} takes {takes} and gives {gives} tensors, not 1 and 1")
    port = signatures[0].inputs[0]
    adapter = _adapter(fields, port)
    sizes, nominal, multiple_of = _sizes(fields, signatures, adapter.layout)
    whole = port.dtype.kind != "f"
    precision = fields.text("precision", "int8-io" if whole else "fp32", bundle.PRECISIONS)
    name = fields.text("name", file.name)
    fields.check_all_known()
    manifest = {
        "name": name,
        "task": "disparity",
        "inputs": [{
            "name": "image", "shape": [1, 3, "H", "W"], "dtype": "float32", "layout": "NCHW",
            "range": [0, 1], "colour": "sRGB", "multiple_of": multiple_of, "nominal": nominal,
        }],
        "outputs": [{
            "name": "disparity", "shape": [1, 1, "H", "W"], "dtype": "float32",
            "meaning": "affine inverse depth, larger = nearer", "range": adapter.disparity_range(),
        }],
        "optics": {"f_number": REFERENCE_F_NUMBER},
        "refocus": None,
        "calibration": None,
        "source": {"file": file.name, "sha256": hashlib.sha256(data).hexdigest()},
        "tools": {},
        "licence": {"weights": "not stated", "data": "not stated"},
        "variants": {"model": {
            "graph": "disparity", "format": format, "precision": precision, "file": inside,
            "layout": adapter.layout, "dtype": "uint8" if whole else "float32", "sizes": sizes,
        }},
        "adapter": dataclasses.asdict(adapter),
    }  # fmt: skip
    try:
        content = bundle.assemble(manifest, {inside: data})
    except BundleError as error:
        raise BundleError(f"{path} as a bundle {error}") from error
    return dataclasses.replace(content, adapter=adapter)


class Fields:
    """A description's fields. Every error names the field."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.values = tomllib.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is no TOML: {error}") from error
        self.known: set[str] = set()

    def fail(self, name: str, problem: str) -> NoReturn:
        raise InputError(f"{self.path}: {name}: {problem}")

    def take(self, name: str) -> Any:
        self.known.add(name)
        return self.values.get(name)

    def text(self, name: str, default: str | None = None, allowed: tuple[str, ...] = ()) -> str:
        value, wanted = self.take(name), " or ".join(f'"{a}"' for a in allowed) or "a text"
        if value is None:
            return default or self.fail(name, f"is needed: {wanted}")
        if not isinstance(value, str) or not value or (allowed and value not in allowed):
            self.fail(name, f"{value!r} is not {wanted}")
        return value

    def numbers(self, name: str, count: int) -> tuple[float, ...] | None:
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count or not all(map(_finite, value)):
            self.fail(name, f"{value!r} is not {count} numbers")
        return tuple(float(number) for number in value)

    def ascending(self, name: str) -> tuple[float, ...] | None:
        ends = self.numbers(name, 2)
        if ends and not ends[0] < ends[1]:
            self.fail(name, f"{list(ends)} is not [lo, hi]")
        return ends

    def sides(self, name: str) -> int | list[int] | None:
        """N, [H, W] or nothing."""
        value = self.take(name)
        sides = value if isinstance(value, list) and len(value) == 2 else [value]
        if value is not None and not all(type(n) is int and n > 0 for n in sides):
            self.fail(name, f"{value!r} is not a side N, or [H, W], in px")
        return value  # type: ignore[no-any-return]

    def check_all_known(self) -> None:
        for name in self.values.keys() - self.known:
            self.fail(name, f"is no field; known: {', '.join(sorted(self.known))}")


def _finite(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(float(str(value)))


def _adapter(fields: Fields, port: Port) -> Adapter:
    """What is not given, the file's input port says."""
    shape = list(port.shape)
    channel_axes = {"NCHW": 1, "NHWC": 3}
    fit = [name for name, axis in channel_axes.items() if len(shape) == 4 and shape[axis] == 3]
    if len(shape) != 4 or shape[0] not in (1, None):
        fields.fail("model", f"its input {port.name} has the shape {shape}, which is not one image")
    layout = fields.text("layout", fit[0] if len(fit) == 1 else None, tuple(channel_axes))
    if layout not in fit and (fit or shape[channel_axes[layout]] is not None):
        fields.fail("layout", f"{layout} does not fit the model's input, {shape}")
    output = fields.text("output", None, OUTPUTS)
    typical = fields.ascending("typical")
    if typical and output != "disparity" and typical[0] <= 0:
        fields.fail("typical", f"{list(typical)}: a depth is positive")
    std = fields.numbers("std", 3) or (1.0, 1.0, 1.0)
    if min(std) <= 0:
        fields.fail("std", f"{list(std)} is not positive")
    return Adapter(
        output,
        layout,
        fields.text("channels", "RGB", ("RGB", "BGR")),
        fields.ascending("range") or _span(port),
        fields.numbers("mean", 3) or (0.0, 0.0, 0.0),
        std,
        typical,
    )


def _span(port: Port) -> tuple[float, float]:
    """The values that a port can say."""
    if port.dtype.kind == "f":
        return 0.0, 1.0
    limits, scale = np.iinfo(port.dtype), port.scale or 1.0
    return (limits.min - port.zero_point) * scale, (limits.max - port.zero_point) * scale


def _valued(port: Port) -> Port:
    """Whole numbers without a scale are values as they are."""
    bare = port.dtype.kind != "f" and not port.scale
    return dataclasses.replace(port, scale=1.0) if bare else port


def _sizes(
    fields: Fields, signatures: tuple[Signature, ...], layout: str
) -> tuple[list[list[int]] | None, int, int]:
    """-> the sizes that it takes (None: any), nominal, multiple_of."""
    sizes = [[s.inputs[0].shape[axis] or 0 for axis in SIDES[layout]] for s in signatures]
    given, multiple_of = fields.sides("size"), fields.sides("multiple_of") or 1
    if not isinstance(multiple_of, int):
        fields.fail("multiple_of", f"{multiple_of!r} is not a whole number")
    free = any(0 in size for size in sizes)
    if free and given is None:
        fields.fail("size", "is needed, for the file takes any: a side N, or [H, W], in px")
    if free and isinstance(given, int):
        return None, given, multiple_of
    if given is not None:
        wanted = given if isinstance(given, list) else [given, given]
        if not free and wanted not in sizes:
            fields.fail("size", f"{given!r} where the file takes {sizes}")
        if wanted[0] % multiple_of or wanted[1] % multiple_of:
            fields.fail("size", f"{given!r} is not in steps of {multiple_of}")
        sizes = [wanted]
    return sizes, round(math.sqrt(sizes[0][0] * sizes[0][1])), 1
