"""`-` for standard input and standard output: files take their place while a command runs, so that
nothing is written before all of it is there, and nothing where there is an error."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from argan import photo
from argan.errors import Error, InputError

PIPE = "-"
MAX_BYTES = 2 << 30  # of standard input


@contextmanager
def files_for(
    sources: list[Path], output: str | None, suffix: str | None
) -> Iterator[tuple[list[Path], str | None]]:
    """Sources and output with files in place of `-`. A source `-` without an output goes to
    standard output; what is printed meanwhile then goes to standard error.

    suffix    of what is written to standard output; None: as the photo's format
    """
    reads = Path(PIPE) in sources
    writes = output == PIPE or (output is None and reads)
    if not (reads or writes):
        yield sources, output
        return
    if len(sources) > 1:
        raise InputError("- takes the place of one photo: give it alone")
    if writes and sys.stdout.isatty():
        raise InputError("standard output is a terminal; write to a file: > bokeh.jpg")
    with TemporaryDirectory(prefix="argan-") as folder:
        data = _read_all() if reads else None
        ending = _suffix(sources[0], data)
        source = sources[0] if data is None else Path(folder, f"in{ending}")
        if data is not None:
            source.write_bytes(data)
            del data
        target = Path(folder, f"out{suffix or ('.jpg' if ending == '.heic' else ending)}")
        names = {str(source): "standard input", str(target): "standard output"}
        if not reads:
            del names[str(source)]
        try:
            if not writes:
                yield [source], output
                return
            with redirect_stdout(io.StringIO()) as words:
                yield [source], str(target)
        except Error as error:
            error.args = (_renamed(str(error), names),)
            raise
        _write_all(target)
        print(_renamed(words.getvalue(), names), end="", file=sys.stderr)


def _read_all() -> bytes:
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if not data:
        raise InputError("standard input is empty; send a photo: argan ... - < photo.jpg")
    if len(data) > MAX_BYTES:
        raise InputError(f"standard input has more than {MAX_BYTES >> 30} GB; use a smaller photo")
    return data


def _write_all(target: Path) -> None:
    try:
        sys.stdout.buffer.write(target.read_bytes())
        sys.stdout.buffer.flush()
    except OSError as error:
        raise InputError(f"standard output can't be written: {error.strerror}") from error


def _suffix(source: Path, data: bytes | None) -> str:
    """By the content; .jpg for what is no photo, of which there will be a word."""
    head = data
    if head is None:
        try:
            with source.open("rb") as file:
                head = file.read(photo.HEAD)
        except OSError:
            return ".jpg"
    kind = photo.find_format(head[: photo.HEAD])
    return ".heic" if kind == "HEIF" else photo.SUFFIX.get(kind or "", ".jpg")


def _renamed(text: str, names: dict[str, str]) -> str:
    for path, name in names.items():
        text = text.replace(path, name)
    return text
