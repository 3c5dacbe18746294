"""Photos in: a folder, a zip or tar archives of JPEG, PNG or WebP files.

`load_photos` makes one uint8 array of centre squares of them; `open_photos` and `each_photo`, which
it is made of, also serve `argan data prepare`. Bad files are counted and named; none ends a run.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import tarfile
import tempfile
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from argan.errors import InputError, MissingFileError
from argan.photo import MAX_PIXELS

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = ("JPEG", "PNG", "WEBP")  # whatever the suffix says: Pillow's others run more code
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
MAX_FILE_BYTES = 2**29  # MAX_PIXELS of RGB, uncompressed, fit; a decompression bomb does not
MAX_UNPACKED = 2**30  # bytes, plus four times the .tgz: photos hardly shrink in gzip

T = TypeVar("T")


class TooSmallError(InputError):
    """A photo that would have to be enlarged, which would pass for defocus."""


@dataclass(frozen=True)
class Source:
    """The image files at a path.

    names    within the folder, zip or tar, sorted; "SHARD.tar/NAME" where there are several tars
    read     name -> the file's bytes, from any thread
    dropped  {name: why} of what has no bytes to read, as the lost rest of a shard
    """

    names: list[str]
    read: Callable[[str], bytes]
    dropped: dict[str, str]


@dataclass(frozen=True)
class PhotoReport:
    """What was loaded, and what was not.

    loaded   {name as in `Source`: sha256 of the file}, in the order of the array
    dropped  {name: why}
    sha256   of the `sha256_lines` of `loaded`
    """

    loaded: dict[str, str]
    dropped: dict[str, str]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(sha256_lines(self.loaded)).hexdigest()

    def record(self, source: str) -> dict[str, object]:
        """What a run keeps of it, but for the list of files."""
        return {"source": Path(source).name, "photos": len(self.loaded), "dropped": self.dropped,
                "sha256": self.sha256}  # fmt: skip

    def __str__(self) -> str:
        text = f"{len(self.loaded)} photos, sha256 {self.sha256[:12]}"
        if self.dropped:
            text += f"; {len(self.dropped)} dropped: {examples(self.dropped)}"
        return text


def sha256_lines(files: dict[str, str]) -> bytes:
    """{name: sha256} as `sha256sum` prints them and checks them with -c."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in files.items())
    return lines.encode(errors="surrogateescape")


def examples(dropped: dict[str, str]) -> str:
    """The first three of {name: why}, fit for a terminal."""
    shown = [f"{printable(name)} ({why})" for name, why in list(dropped.items())[:3]]
    return ", ".join(shown) + (", ..." if len(dropped) > len(shown) else "")


def printable(name: str) -> str:
    """A file name without escape sequences or bytes that no text has."""
    return name if name.isprintable() else ascii(name)


def load_photos(
    path: str | Path, size: int, bar: tqdm | None = None
) -> tuple[NDArray[np.uint8], PhotoReport]:
    """All photos at `path` (see `open_photos`) -> uint8 [N, 3, S, S] sRGB, and a report.

    Sorted by name, turned upright by EXIF, the centre square, reduced by area. A file that can't be
    read, or that is smaller than `size` (enlarging would pass for defocus), is dropped and named.
    InputError where none is left, MissingFileError where nothing is at `path`.
    """
    if size < 1:
        raise InputError(f"photos of {size} px: give a size of at least 1")

    def load(data: bytes) -> tuple[str, NDArray[np.uint8]]:
        return hashlib.sha256(data).hexdigest(), decode_square(data, size)

    with ExitStack() as stack:
        source = open_photos(path, stack)
        images = np.empty((len(source.names), 3, size, size), np.uint8)
        loaded: dict[str, str] = {}
        dropped = dict(source.dropped)
        for name, result in each_photo(source, Path(path).name, load, bar):
            if isinstance(result, Exception):
                dropped[name] = why(result)
            else:
                digest, images[len(loaded)] = result
                loaded[name] = digest
    if not loaded:
        raise InputError(f"{path}: none of {len(dropped)} photos could be used; {first(dropped)}")
    return images[: len(loaded)], PhotoReport(loaded, dropped)


def each_photo(
    source: Source, label: str, work: Callable[[bytes], T], bar: tqdm | None = None
) -> Iterator[tuple[str, T | Exception]]:
    """(name, work(the file's bytes)) in the order of names, with a progress bar of its own or on
    `bar`; in place of a result, what was raised."""

    def attempt(name: str) -> T | Exception:
        # Pillow, zipfile and tarfile answer corrupt bytes with many kinds of exception; none may
        # end a run, and each is named in the report.
        try:
            return work(source.read(name))
        except Exception as error:
            return error

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # what matters in a file is decided here
        results = pool.map(attempt, source.names)  # Pillow decodes outside the GIL
        own = {"total": len(source.names), "desc": label, "unit": "photo", "disable": None}
        shown = tqdm(**own) if bar is None else bar
        try:
            for name, result in zip(source.names, results, strict=True):
                shown.update(1)
                yield name, result
        finally:
            pool.shutdown(cancel_futures=True)
            if bar is None:
                shown.close()


def why(error: Exception) -> str:
    """Why a photo was dropped, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return " ".join(str(error).split()) or type(error).__name__


def first(dropped: dict[str, str]) -> str:
    name, reason = next(iter(dropped.items()))
    return f"{printable(name)}: {reason}"


def decode_square(data: bytes, size: int) -> NDArray[np.uint8]:
    """An image file's bytes -> its centre square, uint8 [3, S, S] sRGB."""
    return np.ascontiguousarray(np.asarray(decode(data, size)).transpose(2, 0, 1))


def decode(data: bytes, size: int, square: bool = True) -> Image.Image:
    """An image file's bytes -> RGB in sRGB, upright, reduced by area: the centre square S x S or,
    not `square`, all of it with its shorter side S.

    A colour profile that can't be used counts as none. TooSmallError where it would have to be
    enlarged; InputError for more than MAX_PIXELS; Pillow's own errors for what is no image.
    """
    with Image.open(BytesIO(data), formats=FORMATS) as file:
        if min(file.size) < size:
            raise TooSmallError(f"{file.width}x{file.height} is smaller than {size} px")
        if file.width * file.height > MAX_PIXELS:
            raise InputError(f"{file.width}x{file.height} is more than {MAX_PIXELS:,} pixels")
        profile = file.info.get("icc_profile")
        # A JPEG decoder can halve on its own, by area; stop at twice the size for a clean resize.
        file.draft(None, (2 * size, 2 * size))
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip to white
            image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        elif image.mode not in ("L", "CMYK"):
            image = image.convert("RGB")
        side = min(image.size)
        width, height = (side, side) if square else image.size
        left, top = (image.width - width) // 2, (image.height - height) // 2
        target = round(width * size / side), round(height * size / side)
        box = (left, top, left + width, top + height)
        picture = to_srgb(image.resize(target, Image.Resampling.BOX, box=box), profile)
        picture.info.clear()  # of the file: its profile would be stored with the new pixels
        return picture


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB or CMYK -> RGB in sRGB; a profile that does not fit counts as none."""
    if profile:
        try:
            srgb = ImageCms.createProfile("sRGB")
            turned = ImageCms.profileToProfile(image, BytesIO(profile), srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            turned = None
        if turned is not None:
            return turned
    return image.convert("RGB")


def open_photos(path: str | Path, stack: ExitStack) -> Source:
    """The image files at `path`; archives stay open as long as `stack`.

    path  a folder, with the folders in it; a zip; a .tar, .tar.gz or .tgz; shards by pattern, as
          flowers-{000..011}.tar; or a folder that holds shards and no photos
    """
    path = Path(path)
    if path.is_dir():
        source = _open_folder(path, stack)
    elif not path.exists() and (shards := list(expand(str(path)))) != [str(path)]:
        # By what tells them apart: their names, or those of their folders as well.
        above = os.path.commonpath([Path(shard).parent for shard in shards])
        source = _open_tars(
            {os.path.relpath(shard, above or "."): Path(shard) for shard in shards}, stack
        )
    elif not path.exists():
        raise MissingFileError(
            f"{path}: nothing there; give a folder or a zip of photos, or .tar shards"
        )
    elif _is_tar(path.name):
        source = _open_tar(path, stack)
    elif zipfile.is_zipfile(path):
        source = _open_zip(path, stack)
    else:
        raise InputError(f"{path}: neither a folder nor a zip nor a .tar; put the photos in one")
    if not source.names:
        more = f"; {first(source.dropped)}" if source.dropped else ""
        raise InputError(f"{path}: no {', '.join(SUFFIXES)} file in it{more}")
    return source


def expand(pattern: str) -> Iterator[str]:
    """ "a-{08..10}.tar" -> "a-08.tar", "a-09.tar", "a-10.tar"; InputError for a range that runs
    backwards or too far."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        yield pattern
        return
    low, high = int(match[1]), int(match[2])
    if not 0 <= high - low < 100_000:
        raise InputError(f"{pattern}: {match[0]} should count up, over less than 100,000 shards")
    for number in range(low, high + 1):
        start = f"{pattern[: match.start()]}{number:0{len(match[1])}}"
        yield from expand(start + pattern[match.end() :])


def _open_folder(path: Path, stack: ExitStack) -> Source:
    files = sorted(f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file())
    names = [name for name in files if _is_photo(name)]
    shards = [name for name in files if _is_tar(name) and not _is_hidden(name)]
    if shards and not names:
        return _open_tars({name: path / name for name in shards}, stack)

    def read(name: str) -> bytes:
        _check_size((path / name).stat().st_size)
        return (path / name).read_bytes()

    return Source(names, read, dict.fromkeys(shards, "an archive beside photos: give it by name"))


def _open_zip(path: Path, stack: ExitStack) -> Source:
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise InputError(f"{path}: its list of files can't be read ({error})") from error

    def read(name: str) -> bytes:
        _check_size(archive.getinfo(name).file_size)
        return archive.read(name)

    names, dropped = _sift(archive.namelist())
    return Source(names, read, dropped)


def _open_tars(shards: dict[str, Path], stack: ExitStack) -> Source:
    """{name: shard} as one source; with a single shard, names are those inside it."""
    sources = {name: _open_tar(path, stack) for name, path in shards.items()}
    if len(sources) == 1:
        return next(iter(sources.values()))
    where = {f"{shard}/{name}": (s, name) for shard, s in sources.items() for name in s.names}

    def read(name: str) -> bytes:
        source, inside = where[name]
        return source.read(inside)

    dropped = {
        shard if name == shards[shard].name else f"{shard}/{name}": reason
        for shard, source in sources.items()
        for name, reason in source.dropped.items()
    }
    return Source(sorted(where), read, dropped)


def _open_tar(path: Path, stack: ExitStack) -> Source:
    """A tar, plain or in gzip; `dropped` names the archive itself where its end is missing."""
    if not path.is_file():
        raise MissingFileError(f"{path}: no such shard; check the pattern")
    file: IO[bytes] = stack.enter_context(path.open("rb"))
    dropped: dict[str, str] = {}
    if file.read(2) == b"\x1f\x8b":
        file, complaint = _gunzip(path, stack)
        if complaint:
            dropped[path.name] = complaint
    file.seek(0)
    members: dict[str, tarfile.TarInfo] = {}
    archive: tarfile.TarFile | None = None
    try:
        archive = stack.enter_context(tarfile.open(fileobj=file, mode="r:"))
        while (member := archive.next()) is not None and member.size >= 0:
            name = member.name.removeprefix("./")
            if _is_photo(name) and not (member.isfile() or member.isdir()):
                dropped[name] = "a link or a device, not a file"
            elif member.isfile():
                members[name] = member
        file.seek(archive.offset)
        whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except Exception:  # corrupt headers raise many kinds
        whole = False
    if not whole:
        dropped.setdefault(path.name, f"cut short or damaged after {len(members)} files")
    turn = threading.Lock()  # the members share the archive's file position

    def read(name: str) -> bytes:
        assert archive is not None  # or there were no names
        _check_size(members[name].size)
        with turn:
            content = archive.extractfile(members[name])
            assert content is not None  # a regular file
            return content.read()

    names, unsafe = _sift(members)
    return Source(names, read, dropped | unsafe)


def _gunzip(path: Path, stack: ExitStack) -> tuple[IO[bytes], str | None]:
    """-> a temporary file with what can be unpacked, and what was wrong, if anything.

    On disk, since the members are then read in the order of their names.
    """
    limit = MAX_UNPACKED + 4 * path.stat().st_size
    unpacked = stack.enter_context(tempfile.TemporaryFile())
    with gzip.open(path) as stream:
        while True:
            try:
                block = stream.read1(2**20)  # read() would lose what precedes an error
            except (EOFError, OSError, zlib.error) as error:
                return unpacked, f"its gzip is damaged: {error}"
            if not block:
                return unpacked, None
            if unpacked.tell() + len(block) > limit:
                raise InputError(f"{path}: unpacks to more than {limit:,} bytes; check what it is")
            try:
                unpacked.write(block)
            except OSError as error:
                room = f"{tempfile.gettempdir()} can't hold {path.name} unpacked"
                raise InputError(
                    f"{room}: {error.strerror}; set TMPDIR to a larger disk"
                ) from error


def _sift(names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """An archive's names -> its photos, sorted, and {photo: why} of names that lead out of it."""
    photos = {name for name in names if name.lower().endswith(SUFFIXES)}
    unsafe = sorted(n for n in photos if n.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", n))
    kept = sorted(name for name in photos.difference(unsafe) if not _is_hidden(name))
    return kept, dict.fromkeys(unsafe, "its name leads out of the archive")


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise InputError(f"{size:,} bytes is more than a photo has")


def _is_photo(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not _is_hidden(name)


def _is_tar(name: str) -> bool:
    return name.lower().endswith(TAR_SUFFIXES)


def _is_hidden(name: str) -> bool:
    # Hidden files and the __MACOSX folder hold previews and attributes under photos' names.
    # "./" is no name, but how some zips begin one.
    parts = (part for part in name.split("/") if part != ".")
    return any(part.startswith((".", "__MACOSX")) for part in parts)
