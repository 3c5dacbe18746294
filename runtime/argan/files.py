"""Opening and replacing files: one-line errors, and no output that is half-written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    """All of `data` or nothing."""
    with replacing(path) as part, part.open("xb") as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling to be written, which then takes the place of `path`, unless an error
    ends it. A symlink stays one."""
    path = Path(os.path.realpath(path))
    check_writable(path)
    part = path.with_name(f".{os.getpid()}-{os.urandom(8).hex()}.part")  # see argan.batch
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
