"""The bundle NAME.argan: a network, what it takes and gives, and how well it does, in one file.

A bundle is a zip whose members are stored, not compressed, or a folder with the same files.
It holds `bundle.json` (UTF-8) and the files that `bundle.json` lists, no others. Names are
relative, with forward slashes; every part is of letters, digits, "_", "-" and, not first, ".".
Fields of `bundle.json`, all of them required; a reader ignores fields it doesn't know:

schema       2. A reader refuses any other number
name         what the model is called
task         "disparity"
argan        version of the writer
inputs       [one object:] what a graph takes, in words that hold for every variant
    name         of the graph's input: "image"
    shape        [1, 3, "H", "W"]; a side is a number where the graph has it fixed
    dtype        "float32"
    layout       "NCHW"; a variant may have another, see there
    range        [0, 1]
    colour       "sRGB", as stored: the graph normalises by itself
    multiple_of  H and W are multiples of this
    nominal      scale the photo, keeping its shape, to about nominal^2 pixels
outputs      [one object:]
    name         of the graph's output: "disparity"
    shape        [1, 1, "H", "W"]
    dtype        "float32"
    meaning      "affine inverse depth, larger = nearer"
    range        [lo, hi], typical for a photo. The runtime maps lo to 0 and hi to 1 and does not
                 clip, so that one unit of disparity is the depth of a typical scene
optics       defaults: {"f_number": 1.8}
refocus      null, or what the whole chain in one graph takes and gives besides the image:
    max_blur     px of radius per px of width that it can blur to; beyond, it stays there
calibration  null: the depth is not metric
source       {"checkpoint": sha256, "run": name} of what was exported
tools        {"torch": "2.13.0", ...}, versions
licence      {"weights": text, "data": text}
variants     {name: object}, the same function in other formats and precisions:
    graph        "disparity": image -> disparity
                 "refocus": image, focus [1] (a disparity), blur [1] (px of radius per unit of it)
                 -> bokeh (as the image), disparity, where lo is 0 and hi is 1
    format       "onnx", "tflite" or "coreml"
    precision    "fp32", "fp16", "int8" (weights and activations; coreml: weights), "int8-io" (the
                 same, with whole numbers going in and out), "int8-weights" or "palette6"
    file         the model; of coreml the folder NAME.mlpackage
    layout       "NCHW" or "NHWC", of the image and of the answers
    dtype        of the image: "float32", or "uint8" in 0..255
    sizes        null: any multiple of multiple_of; or [[H, W], ...]
    parity       {"psnr_db", "max_abs"} against PyTorch, and whatever else was measured
files        {file name: {"sha256": 64 hex digits, "bytes": size}}

A file "quantization.json", where there is one, says how the int8 variants were found.

Everything is checked before anything is run. `write` gives the same bytes for the same content.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from argan import __version__
from argan.errors import BundleError, MissingFileError
from argan.files import write_atomic

if TYPE_CHECKING:
    from argan.adapter import Adapter

SCHEMA = 2
MANIFEST = "bundle.json"
MAX_BYTES = 1 << 29  # of everything together: 512 MiB
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 1000
MAX_SIDE = 8192  # of a declared tensor
GRAPHS = ("disparity", "refocus")
FORMATS = {"onnx": ".onnx", "tflite": ".tflite", "coreml": ".mlpackage"}
# Most exact first.
PRECISIONS = ("fp32", "fp16", "int8-weights", "int8", "int8-io", "palette6")
PART = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
NAME = re.compile(rf"{PART}(/{PART})*")


@dataclass(frozen=True)
class Image:
    """The network's input: sRGB float32 [1, 3, H, W] in 0..1."""

    name: str
    height: int | None  # None: any multiple of multiple_of
    width: int | None
    multiple_of: int
    nominal: int


@dataclass(frozen=True)
class Disparity:
    """The network's output: float32 [1, 1, H, W]; lo and hi are typical for a photo."""

    name: str
    lo: float
    hi: float


@dataclass(frozen=True)
class Variant:
    """One model file: the bundle's function in a format and a precision."""

    name: str
    graph: str  # one of GRAPHS
    format: str  # one of FORMATS
    precision: str  # one of PRECISIONS
    file: str  # of coreml a folder
    layout: str  # "NCHW" or "NHWC"
    dtype: str  # of the image: "float32" or "uint8"
    sizes: tuple[tuple[int, int], ...] | None  # (H, W); None: any


@dataclass(frozen=True)
class Bundle:
    """A bundle that passed every check, in memory."""

    manifest: dict[str, Any]
    files: dict[str, bytes]
    image: Image
    disparity: Disparity
    f_number: float
    variants: tuple[Variant, ...] = ()  # most exact first; none for a network in memory
    adapter: Adapter | None = None  # of a model that is not ours, see argan.adapter

    def find(self, format: str, precision: str | None = None, graph: str = "disparity") -> Variant:
        """The variant of that format and precision; None: the most exact. BundleError if none."""
        of_graph = [v for v in self.variants if v.graph == graph]
        for variant in of_graph:
            if variant.format == format and precision in (None, variant.precision):
                return variant
        there = ", ".join(f"{v.format} {v.precision}" for v in of_graph) or "none"
        wanted = " ".join(filter(None, (format, precision)))
        raise BundleError(
            f"{self.manifest['name']} has no {wanted} variant of the {graph} graph, but {there};"
            " choose one of them, or export again"
        )

    def model(self, variant: Variant) -> bytes:
        """The file of a variant in one file."""
        return self.files[variant.file]

    def package(self, variant: Variant) -> dict[str, bytes]:
        """The files of a variant that is a folder: {name within it: content}."""
        return {
            name.removeprefix(f"{variant.file}/"): data
            for name, data in self.files.items()
            if name.startswith(f"{variant.file}/")
        }


def write(
    path: str | os.PathLike[str], manifest: Mapping[str, Any], files: Mapping[str, bytes]
) -> None:
    """Write a zip bundle, whole or not at all. The fields `schema`, `argan` and `files` are filled
    in. BundleError where the result could not be read back."""
    text = _text(manifest, files)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in [(MANIFEST, text), *sorted(files.items())]:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix everywhere: the same bytes on every machine
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    try:
        _parse(_collect(_zip_files(buffer.getvalue())))
    except BundleError as error:
        raise BundleError(f"bundle {path} {error}: not written") from error
    write_atomic(Path(path), buffer.getvalue())


def assemble(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Bundle:
    """What `write` would write, as `read` would read it. BundleError for a check that fails."""
    return _parse({MANIFEST: _text(manifest, files), **files})


def read(path: str | os.PathLike[str]) -> Bundle:
    """Read and check a bundle, zip or folder. MissingFileError, or BundleError for the first check
    that fails."""
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path} does not exist; name a bundle, NAME.argan")
    try:
        if path.is_dir():
            return _parse(_collect(_folder_files(path)))
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            _fail(f"is a device, or has more than {MAX_BYTES >> 20} MiB")
        return _parse(_collect(_zip_files(path.read_bytes())))
    except BundleError as error:
        raise BundleError(f"bundle {path} {error}; get or export it again") from error
    except OSError as error:
        raise BundleError(f"bundle {path} can't be read: {error.strerror}") from error


def _text(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """bundle.json, with what is filled in."""
    complete = {
        **manifest,
        "schema": SCHEMA,
        "argan": __version__,
        "files": {name: _fingerprint(data) for name, data in files.items()},
    }
    try:
        return json.dumps(
            complete, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False
        ).encode()
    except (TypeError, ValueError) as error:
        raise BundleError(f"the manifest is not JSON: {error}") from error


def _fail(problem: str) -> NoReturn:
    raise BundleError(problem)


def _fingerprint(data: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _collect(members: Iterator[tuple[str, bytes]]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    folded = set()
    for name, data in members:
        if len(files) == MAX_FILES:
            _fail(f"has more than {MAX_FILES} files")
        if name.casefold() in folded:  # two names that are one on a phone's disk
            _fail(f"has {name!r} twice")
        folded.add(name.casefold())
        files[name] = data
    return files


def _zip_files(data: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                _check_name(member.orig_filename)
                if stat.S_ISLNK(member.external_attr >> 16):
                    _fail(f"has a link, {member.filename!r}")
                if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                    _fail(f"has {member.filename!r} compressed or encrypted, not stored")
            if sum(member.file_size for member in archive.infolist()) > len(data):
                _fail("has members that overlap")
            for member in archive.infolist():
                yield member.filename, archive.read(member)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError) as error:
        if isinstance(error, BundleError):
            raise
        _fail(f"is not a whole zip file ({error})")


def _folder_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    left = MAX_BYTES
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        _check_name(name)
        kind = path.lstat()
        if stat.S_ISDIR(kind.st_mode):
            continue
        left -= kind.st_size
        if not stat.S_ISREG(kind.st_mode):
            _fail(f"has a link or a device, {name!r}")
        if left < 0:
            _fail(f"has more than {MAX_BYTES >> 20} MiB")
        yield name, path.read_bytes()


def _check_name(name: str) -> None:
    if len(name) > 200 or not NAME.fullmatch(name):
        _fail(f"has a file of forbidden name, {name[:200]!r}")


def _parse(files: dict[str, bytes]) -> Bundle:
    manifest = _manifest(files.pop(MANIFEST, None))
    if manifest.get("schema") != SCHEMA:
        _fail(
            f"has schema {manifest.get('schema')!r} where argan {__version__} reads {SCHEMA}"
            " (is there a newer argan?)"
        )
    _check_files(_field(manifest, "files", dict), files)
    for name, kind in _TEXTS.items():
        _field(manifest, name, kind)
    if manifest["task"] != "disparity":
        _fail(f"is for the task {manifest['task']!r}, not disparity")
    if manifest.get("calibration", "absent") is not None:
        _fail(f"has a calibration, which schema {SCHEMA} doesn't know")
    image, disparity = _only(manifest, "inputs"), _only(manifest, "outputs")
    f_number = _number(manifest["optics"].get("f_number"), "f_number")
    if f_number <= 0:
        _fail(f"has f_number {f_number:g}, not a positive one")
    port = _image(image)
    variants = _variants(manifest["variants"], files, port.multiple_of)
    refocus = manifest.get("refocus", "absent")
    if refocus is not None and not isinstance(refocus, dict):
        _fail("has no object or null 'refocus'")
    if any(v.graph == "refocus" for v in variants) != (refocus is not None):
        _fail("says otherwise of the refocus graph than its variants")
    if refocus is not None and not 0 < _number(refocus.get("max_blur"), "max_blur") <= 1:
        _fail(f"has max_blur {refocus['max_blur']!r}, not a share of the width")
    return Bundle(manifest, files, port, _disparity(disparity), f_number, variants)


_TEXTS = {
    "name": str, "task": str, "argan": str, "optics": dict, "source": dict, "tools": dict,
    "licence": dict, "variants": dict,
}  # fmt: skip


def _manifest(data: bytes | None) -> dict[str, Any]:
    if data is None or len(data) > MAX_MANIFEST_BYTES:
        _fail(f"has no {MANIFEST} of at most {MAX_MANIFEST_BYTES >> 20} MiB")
    try:
        manifest = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _fail(f"has a {MANIFEST} that is not JSON ({error})")
    if not isinstance(manifest, dict):
        _fail(f"has a {MANIFEST} that is no object")
    return manifest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not allowed")


def _field(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    value = fields.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        _fail(f"has no {kind.__name__} {name!r} where {MANIFEST} needs one")
    return value


def _check_files(listed: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    if listed.keys() != files.keys():
        odd = sorted(listed.keys() ^ files.keys())[0]
        _fail(f"has {odd!r} {'listed but missing' if odd in listed else 'not listed'}")
    for name, data in files.items():
        if listed[name] != _fingerprint(data):
            _fail(f"has {name!r} with a size or sha256 other than listed: it was changed")


def _variants(
    listed: Mapping[str, Any], files: Mapping[str, bytes], multiple_of: int
) -> tuple[Variant, ...]:
    if not listed:
        _fail("has no variant")
    variants = []
    for name, fields in listed.items():
        if not isinstance(fields, dict) or not NAME.fullmatch(name):
            _fail(f"has an unreadable variant {name[:200]!r}")
        texts = {
            key: _one_of(fields, key, allowed)
            for key, allowed in {
                "graph": GRAPHS, "format": tuple(FORMATS), "precision": PRECISIONS,
                "layout": ("NCHW", "NHWC"), "dtype": ("float32", "uint8"),
            }.items()
        }  # fmt: skip
        file = _field(fields, "file", str)
        if not file.endswith(FORMATS[texts["format"]]):
            _fail(
                f"has a {texts['format']} variant in {file!r}, not in a {FORMATS[texts['format']]}"
            )
        inside = [f for f in files if f.startswith(f"{file}/")]
        if not (inside if texts["format"] == "coreml" else file in files):
            _fail(f"has no file {file!r} for its variant {name!r}")
        variants.append(Variant(name=name, file=file, sizes=_sizes(fields, multiple_of), **texts))
    if len({(v.graph, v.format, v.precision) for v in variants}) < len(variants):
        _fail("has two variants of one graph, format and precision")
    return tuple(
        sorted(variants, key=lambda v: (GRAPHS.index(v.graph), PRECISIONS.index(v.precision)))
    )


def _one_of(fields: Mapping[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    value = fields.get(name)
    if value not in list(allowed):  # a list: it may be unhashable
        _fail(f"has a variant with {name} {value!r}, not one of {', '.join(allowed)}")
    return str(value)


def _sizes(fields: Mapping[str, Any], multiple_of: int) -> tuple[tuple[int, int], ...] | None:
    if fields.get("sizes", "absent") is None:
        return None
    sizes = []
    for size in _field(fields, "sizes", list):
        whole = isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)
        if not whole or not all(1 <= n <= MAX_SIDE and n % multiple_of == 0 for n in size):
            _fail(f"has a variant of size {size!r}, not [H, W] in steps of {multiple_of}")
        sizes.append((size[0], size[1]))
    if not sizes:
        _fail("has a variant of no size")
    return tuple(sizes)


def _only(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    ports = _field(manifest, name, list)
    if len(ports) != 1 or not isinstance(ports[0], dict):
        _fail(f"has {len(ports)} {name} and not one object")
    return dict(ports[0])


def _image(port: Mapping[str, Any]) -> Image:
    height, width = _sides(port, 3)
    if (port.get("layout"), port.get("range"), port.get("colour")) != ("NCHW", [0, 1], "sRGB"):
        _fail("has an input other than NCHW, 0..1, sRGB")
    multiple_of, nominal = _field(port, "multiple_of", int), _field(port, "nominal", int)
    if not 1 <= multiple_of <= 256 or not multiple_of <= nominal <= MAX_SIDE:
        _fail(f"has an input of nominal size {nominal} in steps of {multiple_of}")
    return Image(_field(port, "name", str), height, width, multiple_of, nominal)


def _disparity(port: Mapping[str, Any]) -> Disparity:
    _sides(port, 1)
    ends = _field(port, "range", list)
    if len(ends) != 2:
        _fail(f"has an output of range {ends}, not two numbers")
    lo, hi = (_number(end, "range") for end in ends)
    if not lo < hi:
        _fail(f"has an output of range {ends}, which is empty")
    return Disparity(_field(port, "name", str), lo, hi)


def _number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e30:  # 1e30: also no inf in float32
        _fail(f"has {value!r} for {name}, which is no number")
    return float(value)


def _sides(port: Mapping[str, Any], channels: int) -> tuple[int | None, int | None]:
    """Height and width; None where they are free."""
    shape = _field(port, "shape", list)
    if port.get("dtype") != "float32" or len(shape) != 4 or shape[:2] != [1, channels]:
        _fail(f"has a tensor {shape} of {port.get('dtype')}, not float32 [1, {channels}, H, W]")
    sides = []
    for side, free in zip(shape[2:], "HW", strict=True):
        if side != free and not (type(side) is int and 1 <= side <= MAX_SIDE):
            _fail(f"has a tensor {shape}, whose sides are not H, W or 1 to {MAX_SIDE}")
        sides.append(None if side == free else side)
    return sides[0], sides[1]
