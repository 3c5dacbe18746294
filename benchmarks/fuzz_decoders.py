"""Mutated files through the loader of `argan refocus`: photos of every format with the depth that
they may carry, and maps. A file may be read or refused in one line; it may not crash the process,
raise anything else, take more than 10 s, or leave memory taken.

    python benchmarks/fuzz_decoders.py --count 20000 --json fuzz.json

Files are made of small seeds by bit flips, cuts, splices, lengths and header fields overwritten;
case i of a seed is the same on every machine. They are read in a child process; the parent sees it
die or hang, and goes on behind the case, which it names. `--case I` runs one, `--keep I` writes its
file. Exit code 1 where anything was found.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import resource
import select
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from argan import embedded, photo, tiff
from argan.camera import load_depth
from argan.errors import Error

HANG_S = 10.0
LEAK_MB = 100  # of growth in a child, from its 200th case on
CHILD_CASES = 5000  # then a fresh one: what is left of one case does not spoil the next
ADDRESS_SPACE = 12 << 30  # the limit of 150 MP in float32 is 1.8 GB, several times over
NUMBERS = (
    0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF
)  # fmt: skip
HEVC = Path(__file__).parent.parent / "tests/data/hevc.json"


# ---------------------------------------------------------------- seeds


def seeds() -> dict[str, bytes]:
    """A few kB each: what cameras and programs write, in small."""
    rng = np.random.default_rng(1)
    smooth = np.add.outer(np.arange(36), np.arange(48))[..., None] * [2, 3, 1] % 256
    rgb = (smooth + rng.integers(0, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
    rgba = np.dstack([rgb, rgb[..., 0]])
    image, clear, grey = Image.fromarray(rgb), Image.fromarray(rgba), Image.fromarray(rgb[..., 1])
    deep = rgb.astype(np.uint16) * 257 + rng.integers(0, 200, rgb.shape, dtype=np.uint16)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = _exif()
    told: dict[str, Any] = {"exif": exif, "icc_profile": srgb, "xmp": _xmp()}
    disparity = np.add.outer(np.linspace(0, 1, 18), np.linspace(0, 1, 24)).astype(np.float32)
    jpeg = _saved(image, "JPEG", **told)
    taken = photo.Photo(rgb, None, srgb, exif, "", _xmp())
    full = photo.Photo(deep, deep[..., 0].copy(), srgb, exif, "", _xmp())
    palette = image.quantize(16)
    palette.info["transparency"] = 3
    light = (rgb / np.float32(255)).astype(np.float32)
    found = {
        "photo.jpg": jpeg,
        "progressive.jpg": _saved(image, "JPEG", progressive=True, optimize=True),
        "grey.jpg": _saved(grey, "JPEG", exif=exif),
        "cmyk.jpg": _saved(image.convert("CMYK"), "JPEG"),
        "two.jpg": _saved(image, "MPO", save_all=True, append_images=[grey.convert("RGB")]),
        "gdepth.jpg": embedded.write(jpeg, disparity.T, metric=True),
        "photo.png": photo.encode(taken, "PNG"),
        "clear.png": _saved(clear, "PNG"),
        "palette.png": _saved(palette, "PNG"),
        "one_bit.png": _saved(grey.convert("1"), "PNG"),
        "deep.png": photo.encode(full, "PNG"),
        "photo.webp": _saved(image, "WEBP", **told),
        "clear.webp": _saved(clear, "WEBP", lossless=True),
        "moving.webp": _saved(image, "WEBP", save_all=True, append_images=[image.rotate(90)]),
        "photo.avif": _saved(image, "AVIF", **told),
        "clear.avif": _saved(clear, "AVIF"),
        "lzw.tif": _saved(image, "TIFF", compression="tiff_lzw", icc_profile=srgb),
        "raw.tif": _saved(clear, "TIFF"),
        "jpeg.tif": _saved(image, "TIFF", compression="jpeg"),
        "cmyk.tif": _saved(image.convert("CMYK"), "TIFF", compression="packbits"),
        "fax.tif": _saved(grey.convert("1"), "TIFF", compression="group4"),
        "pages.tif": _saved(grey, "TIFF", save_all=True, append_images=[grey], big_tiff=True),
        "deep.tif": photo.encode(full, "TIFF"),
        "float.tif": tiff.encode(light, None, None, exif, None),
        "opencv.tif": _opencv(deep),
        "grey.tif": _opencv(deep[..., 0]),
        "map.png": photo.encode_disparity(disparity, "png"),
        "map.npy": photo.encode_disparity(disparity, "npy"),
        "half.npy": _npy(disparity.astype(np.float16)),
    }
    if find_spec("pi_heif") and HEVC.exists():
        found["portrait.heic"] = _heic()
    return found


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _opencv(pixels: np.ndarray[Any, Any]) -> bytes:
    import cv2

    return bytes(cv2.imencode(".tif", pixels)[1].tobytes())  # LZW


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    inner = exif.get_ifd(0x8769)
    inner[0x920A], inner[0xA405], inner[0x927C] = 4.2, 26, bytes(range(60))
    exif.get_ifd(0x8825)[1] = "N"
    return bytes(exif.tobytes())


def _xmp() -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
        b' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
        b' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"'
        b' xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1"/>'
        b"</rdf:RDF></x:xmpmeta>"
    )


def _box(name: bytes, body: bytes, version: int | None = None) -> bytes:
    full = b"" if version is None else bytes([version, 0, 0, 0])
    return struct.pack(">I4s", 8 + len(full) + len(body), name) + full + body


def _heic() -> bytes:
    """A photo and its depth map, of tests/data/hevc.json (ISO/IEC 23008-12)."""
    stills = json.loads(HEVC.read_text())
    properties, ipma, bodies = [], struct.pack(">I", 2), []
    for item, name in enumerate(("photo", "depth"), 1):
        still = stills[name]
        size = struct.pack(">2I", still["width"], still["height"])
        own = [_box(b"hvcC", base64.b64decode(still["hvcC"])), _box(b"ispe", size, 0)]
        own.append(_box(b"irot", b"\1") if item == 1 else
                   _box(b"auxC", b"urn:mpeg:hevc:2015:auxid:2\0", 0))  # fmt: skip
        links = range(len(properties) + 1, len(properties) + 1 + len(own))
        ipma += struct.pack(">HB", item, len(own)) + bytes(i | 0x80 for i in links)
        properties += own
        bodies.append(base64.b64decode(still["data"]))
    iprp = _box(b"iprp", _box(b"ipco", b"".join(properties)) + _box(b"ipma", ipma, 0))
    entries = b"".join(_box(b"infe", struct.pack(">2H", i, 0) + b"hvc1\0", 2) for i in (1, 2))
    iref = _box(b"iref", _box(b"auxl", struct.pack(">3H", 2, 1, 1)), 0)

    def meta(start: int) -> bytes:
        iloc = b"\x44\0" + struct.pack(">H", 2)
        for item, body in enumerate(bodies, 1):
            iloc += struct.pack(">HHHII", item, 0, 1, start, len(body))
            start += len(body)
        handler = _box(b"hdlr", b"\0\0\0\0pict" + b"\0" * 13, 0)
        primary = _box(b"pitm", struct.pack(">H", 1), 0)
        listed = _box(b"iinf", struct.pack(">H", 2) + entries, 0)
        return _box(b"meta", handler + primary + listed + iref + iprp + _box(b"iloc", iloc, 0), 0)

    head = _box(b"ftyp", b"heic\0\0\0\0mif1heic")
    return head + meta(len(head) + len(meta(0)) + 8) + _box(b"mdat", b"".join(bodies))


# ---------------------------------------------------------------- mutations


def mutated(case: int, seed: int, files: dict[str, bytes]) -> tuple[str, bytes]:
    """(name of its seed, bytes) of a case."""
    rng = np.random.default_rng((seed, case))
    names = sorted(files)
    name = names[case % len(names)]
    data = bytearray(files[name])
    for _ in range(int(rng.integers(1, 4))):
        data = bytearray(MUTATIONS[int(rng.integers(len(MUTATIONS)))](data, rng, files))
        if not data:
            break
    if data[:4] == b"\x89PNG" and rng.random() < 0.7:
        _mend(data)
    return name, bytes(data)


def _flip(data: bytearray, rng: Any, files: dict[str, bytes]) -> bytearray:
    for at in rng.integers(0, len(data), int(rng.integers(1, 17))):
        data[at] ^= 1 << int(rng.integers(8))
    return data


def _cut(data: bytearray, rng: Any, files: dict[str, bytes]) -> bytearray:
    return data[: int(rng.integers(0, len(data)))]


def _splice(data: bytearray, rng: Any, files: dict[str, bytes]) -> bytearray:
    other = list(files.values())[int(rng.integers(len(files)))] if rng.random() < 0.5 else data
    size = int(rng.integers(1, max(2, min(len(other), 400))))
    start = int(rng.integers(0, max(1, len(other) - size)))
    at = int(rng.integers(0, len(data)))
    end = at + size if rng.random() < 0.5 else at  # in place of what is there, or between
    return data[:at] + other[start : start + size] + data[end:]


def _remove(data: bytearray, rng: Any, files: dict[str, bytes]) -> bytearray:
    at = int(rng.integers(0, len(data)))
    return data[:at] + data[at + int(rng.integers(1, 65)) :]


def _number(data: bytearray, rng: Any, files: dict[str, bytes], most: int = 1 << 30) -> bytearray:
    """A length, a size or an offset is another."""
    width = int(rng.choice([1, 2, 4]))
    at = int(rng.integers(0, max(1, min(len(data), most) - width)))
    order = ">" if rng.random() < 0.5 else "<"
    value = int(rng.choice(NUMBERS)) if rng.random() < 0.7 else int(rng.integers(1 << 32))
    data[at : at + width] = struct.pack(order + "I", value)[-width if order == ">" else 0 :][:width]
    return data


def _header(data: bytearray, rng: Any, files: dict[str, bytes]) -> bytearray:
    return _number(data, rng, files, 96)


def _byte(data: bytearray, rng: Any, files: dict[str, bytes]) -> bytearray:
    for at in rng.integers(0, len(data), int(rng.integers(1, 9))):
        data[at] = int(rng.integers(256))
    return data


Mutation = Callable[[bytearray, Any, dict[str, bytes]], bytearray]
MUTATIONS: list[Mutation] = [_flip, _cut, _splice, _remove, _number, _number, _header, _byte]


def _mend(data: bytearray) -> None:
    """Sound checksums of PNG chunks, or nothing behind them is looked at."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if end + 4 > len(data):
            return
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4)
        at = end + 4


# ---------------------------------------------------------------- the loader


def read(path: Path) -> str:
    """What `argan refocus` and `argan render` read of a file -> "read" or "refused"."""
    readers: list[Callable[[Path], bool]] = [_photo, _depth]
    if path.suffix in photo.MAP_SUFFIXES:
        readers += [_map, _metres]
    outcomes = []
    for reader in readers:
        try:
            outcomes.append(reader(path))
        except Error as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, str(error)
    return "read" if any(outcomes) else "refused"


def _photo(path: Path) -> bool:
    taken = photo.load(path)
    assert taken.pixels.ndim == 3 and taken.pixels.shape[2] == 3 and taken.pixels.size
    assert taken.alpha is None or taken.alpha.shape == taken.pixels.shape[:2]
    coded, leave = taken.space.enter(taken.pixels)
    if taken.pixels.size < 1 << 20:
        leave(coded)
        photo.encode(taken, "TIFF" if taken.pixels.dtype != np.uint8 else "PNG")
        photo.encode(taken, "JPEG")
    return True


def _depth(path: Path) -> bool:
    found = embedded.read(path)
    if found is not None:
        assert np.isfinite(found.filled()).all()
    return found is not None


def _map(path: Path) -> bool:
    return photo.load_disparity(path).size > 0


def _metres(path: Path) -> bool:
    return load_depth(path).size > 0


def child(seed: int, first: int, last: int) -> None:
    """Cases first to last - 1; on stdout a line before each, and one after it."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    files = seeds()
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():  # that nothing is refused for a slip made here
            path = Path(folder, name)
            path.write_bytes(data)
            assert read(path) == "read", f"the seed {name} can't be read"
        for case in range(first, last):
            name, data = mutated(case, seed, files)
            path = Path(folder, name)
            path.write_bytes(data)
            print("case", case, name, flush=True)
            begun = time.monotonic()
            try:
                outcome = read(path)
            except BaseException:
                outcome = "raised " + json.dumps(traceback.format_exc(limit=-4))
            print("done", f"{time.monotonic() - begun:.3f}", _resident_mb(), outcome, flush=True)
            path.unlink()


def _resident_mb() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


# ---------------------------------------------------------------- the watch


def run(seed: int, first: int, last: int) -> dict[str, Any]:
    """-> figures, and under "found" what should not be: (case, name, what)."""
    found: list[tuple[int, str, str]] = []
    outcomes: dict[str, int] = {}
    slowest, growth, peak, case = (0.0, -1, ""), 0, 0, first
    while case < last:
        stop = min(last, case + CHILD_CASES)
        command = [sys.executable, __file__, "--child", str(seed), str(case), str(stop)]
        watched = subprocess.Popen(command, stdout=subprocess.PIPE, text=False)
        lines, name, warm, count = Lines(watched.stdout), "", 0, 0
        while True:
            line = lines.next(HANG_S if name else 120.0)
            if line is None:
                watched.kill()
                found.append((case, name, f"hangs for over {HANG_S:g} s"))
                case += 1
                break
            if not line:
                if name:
                    found.append((case, name, f"the process ended with {watched.wait()}"))
                    case += 1
                elif watched.wait():
                    raise RuntimeError("a child failed between two cases")
                break
            kind, *words = line.split(" ", 3)
            if kind == "case":
                case, name = int(words[0]), words[1]
                continue
            took, resident, outcome = float(words[0]), int(words[1]), words[2]
            slowest, peak = max(slowest, (took, case, name)), max(peak, resident)
            count += 1
            warm = resident if count == 200 else warm
            growth = max(growth, resident - warm) if count > 200 else growth
            if outcome.startswith("raised "):
                found.append((case, name, json.loads(outcome[7:])))
                outcome = "raised"
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            case, name = case + 1, ""
        watched.stdout.close()  # type: ignore[union-attr]
        watched.wait()
    if growth > LEAK_MB:
        found.append((-1, "", f"memory grew by {growth} MB"))
    return {
        "seed": seed, "first": first, "last": last, "outcomes": outcomes, "growth_mb": growth,
        "peak_mb": peak, "slowest": slowest, "found": found,
    }  # fmt: skip


class Lines:
    """Lines of a pipe, with patience."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.rest = pipe, b""

    def next(self, patience_s: float) -> str | None:
        """"" at its end, None where none came in time."""
        while b"\n" not in self.rest:
            if not select.select([self.pipe], [], [], patience_s)[0]:
                return None
            piece = os.read(self.pipe.fileno(), 1 << 16)
            if not piece:
                return ""
            self.rest += piece
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode()


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz what reads files.")
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this one alone, in this process")
    parser.add_argument("--keep", type=int, help="write this one's file here")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=int, nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return 0
    if given.case is not None or given.keep is not None:
        name, data = mutated(given.keep if given.case is None else given.case, given.seed, seeds())
        path = Path(f"case-{given.keep if given.case is None else given.case}-{name}")
        path.write_bytes(data)
        if given.case is not None:
            try:
                print(read(path))
            finally:
                path.unlink()
        return 0
    report = run(given.seed, given.first, given.first + given.count)
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    for case, name, what in report["found"]:
        print(f"case {case} {name}: {what}")
    took, case, name = report["slowest"]
    print(f"{given.count} files: {report['outcomes']}; {len(report['found'])} findings")
    print(f"slowest {took:.2f} s (case {case}, {name}); memory at most {report['peak_mb']} MB,")
    print(f"growth in a process of {CHILD_CASES} files at most {report['growth_mb']} MB")
    return 1 if report["found"] else 0


if __name__ == "__main__":
    sys.exit(main())
