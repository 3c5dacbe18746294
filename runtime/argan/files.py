"""Opening and replacing files: one-line errors, and no output that is half-written."""

from __future__ import annotations

import os
from pathlib import Path

from argan.errors import InputError, MissingFileError


def check_readable(path: Path, what: str) -> None:
    """Raise MissingFileError or InputError unless `path` is a regular file; `what` is "a photo"."""
    if path.is_dir():
        raise InputError(f"{path} is a directory; name {what} in it")
    if not path.exists():
        raise MissingFileError(f"{path} does not exist; check the name")
    if not path.is_file():
        raise InputError(f"{path} is not a regular file; name {what}")


def check_writable(path: Path) -> None:
    """Raise InputError where `write_atomic` would for the path alone."""
    if path.is_dir():
        raise InputError(f"{path} is a directory; name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a directory; make it first")


def write_atomic(path: Path, data: bytes) -> None:
    """All of `data` or nothing: a temporary sibling, then a rename. A symlink stays one."""
    path = Path(os.path.realpath(path))
    check_writable(path)
    part = path.with_name(f".{os.urandom(8).hex()}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
