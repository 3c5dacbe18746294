"""Photos in: a folder or a zip of JPEG, PNG or WebP files to one uint8 array of centre squares."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from argan.errors import InputError, MissingFileError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class PhotoReport:
    """What was loaded, and what was not.

    loaded   {name inside the folder or zip: sha256 of the file}, in the order of the array
    dropped  {name: why}
    sha256   of the lines "<sha256>  <name>\\n" of `loaded`, as `sha256sum` prints them
    """

    loaded: dict[str, str]
    dropped: dict[str, str]

    @property
    def sha256(self) -> str:
        lines = "".join(f"{digest}  {name}\n" for name, digest in self.loaded.items())
        return hashlib.sha256(lines.encode()).hexdigest()

    def __str__(self) -> str:
        text = f"{len(self.loaded)} photos, sha256 {self.sha256[:12]}"
        if self.dropped:
            shown = [f"{name} ({why})" for name, why in list(self.dropped.items())[:3]]
            more = ", ..." if len(self.dropped) > len(shown) else ""
            text += f"; {len(self.dropped)} dropped: {', '.join(shown)}{more}"
        return text


def load_photos(path: str | Path, size: int) -> tuple[NDArray[np.uint8], PhotoReport]:
    """All photos of a folder (and the folders in it) or a zip -> uint8 [N, 3, S, S] sRGB, and a
    report.

    Sorted by name, turned upright by EXIF, the centre square, reduced by area. A file that can't be
    read, or that is smaller than `size` (enlarging would pass for defocus), is dropped and named.
    """
    path = Path(path)
    if size < 1:
        raise InputError(f"photos of {size} px: give a size of at least 1")
    with ExitStack() as stack:
        names, read = _open(path, stack)
        images = np.empty((len(names), 3, size, size), np.uint8)
        loaded: dict[str, str] = {}
        dropped: dict[str, str] = {}

        def load(name: str) -> tuple[str, NDArray[np.uint8] | str]:
            # Pillow and zipfile answer corrupt bytes with many kinds of exception; none may end a
            # run, and each is named in the report.
            try:
                data = read(name)
                return hashlib.sha256(data).hexdigest(), decode_square(data, size)
            except UnidentifiedImageError:
                return "", "not an image"
            except Exception as error:
                return "", str(error) or type(error).__name__

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the GIL
            results = tqdm(pool.map(load, names), path.name, len(names), unit="photo", disable=None)
            for name, (digest, result) in zip(names, results, strict=True):
                if isinstance(result, str):
                    dropped[name] = result
                else:
                    images[len(loaded)] = result
                    loaded[name] = digest
    if not loaded:
        name, why = next(iter(dropped.items()))
        raise InputError(f"{path}: none of {len(dropped)} photos could be used; {name}: {why}")
    return images[: len(loaded)], PhotoReport(loaded, dropped)


def decode_square(data: bytes, size: int) -> NDArray[np.uint8]:
    """An image file's bytes -> its centre square, uint8 [3, S, S] sRGB."""
    with Image.open(io.BytesIO(data)) as file:
        if min(file.size) < size:
            raise InputError(f"{file.width}x{file.height} is smaller than {size} px")
        # A JPEG decoder can halve on its own, by area; stop at twice the size for a clean resize.
        file.draft(None, (2 * size, 2 * size))
        image = ImageOps.exif_transpose(file)
        if image.mode.startswith("I"):  # 16-bit grey, which convert("RGB") would clip to white
            image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        image = image.convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        square = image.resize((size, size), Image.Resampling.BOX, box=box)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _open(path: Path, stack: ExitStack) -> tuple[list[str], Callable[[str], bytes]]:
    """Names of the images at `path`, sorted, and how to read one."""
    if path.is_dir():
        files = [f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file()]
        names, read = files, lambda name: (path / name).read_bytes()
    elif zipfile.is_zipfile(path):
        archive = stack.enter_context(zipfile.ZipFile(path))
        names, read = archive.namelist(), archive.read
    elif path.exists():
        raise InputError(f"{path}: neither a folder nor a zip; put the photos in one")
    else:
        raise MissingFileError(f"{path}: nothing there; give a folder or a zip of photos")
    names = sorted(name for name in names if _is_photo(name))
    if not names:
        raise InputError(f"{path}: no {', '.join(SUFFIXES)} file in it")
    return names, read


def _is_photo(name: str) -> bool:
    # Hidden files and the __MACOSX folder hold previews and attributes under photos' names.
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return name.lower().endswith(SUFFIXES) and not hidden
