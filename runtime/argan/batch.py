"""Many photos: folders and globs in, a mirrored tree out; one that fails stops no other.

What is done is known from a journal, a hidden file in each folder that results go to, with two
lines of JSON for each result: before the work begins, and when it has been written. A result is
done if the last line about it says that it was written, of the same photo (path, size and time of
change), with the same settings, and the file still has that size. Results are written whole or not
at all (`files.write_atomic`); where a run was killed between the two lines, the photo is done
again. A file that no journal speaks of is somebody's own, and is never replaced unasked.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from argan import photo
from argan.errors import Error, InputError, MissingFileError

Work = Callable[[Path, Path], str]  # (photo, result) -> a word on it

JOURNAL = ".argan-done.jsonl"
CLIPS = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi"}
TAILS = ("bokeh", "depth")  # X_bokeh.jpg beside X.jpg is a result
MAGIC = re.compile(r"[*?[]")
PART = re.compile(r"\.(\d+)-[0-9a-f]{16}\.part")  # as `files.write_atomic` names it: the process
IDLE_S = 2.0  # a temporary file that was not written to for so long, and whose process is gone
POLL_S = 1.0  # between two looks at the folders that are watched
NOTHING = -1  # bytes of a result that could not be made
STILL_S = 2.0  # a new photo is taken when its size and time have stood still for so long


class Found(NamedTuple):
    """A photo, and the folder of its result below that of all results. `named`: it was given
    itself, not as part of a folder or glob."""

    source: Path
    below: Path
    named: bool


@dataclass(frozen=True)
class Naming:
    """Results are IN_tail.suffix, in `folder` as the photos are in theirs, or beside them."""

    folder: Path | None
    tail: str
    suffix: Callable[[Path], str]

    def target(self, found: Found) -> Path:
        place = found.source.parent if self.folder is None else self.folder / found.below
        return place / f"{found.source.stem}_{self.tail}{self.suffix(found.source)}"


@dataclass(frozen=True)
class Options:
    """settings   all that decides on a result's bytes, but for the photo
    force      replace whatever is there
    resume     leave out what is done
    watch      go on as photos come, until SIGINT or SIGTERM; leaves out what is done
    """

    settings: str = ""
    force: bool = False
    resume: bool = False
    watch: bool = False


def is_several(given: Path) -> bool:
    """Whether an input is a folder or a glob. A file may have a glob's characters in its name."""
    return given.is_dir() or bool(MAGIC.search(str(given)) and not os.path.lexists(given))


def check_target(target: Path, reads: tuple[Path, ...], named: bool, force: bool) -> None:
    """A file that exists is replaced only where -o names it or with --force, an input only with
    --force."""
    if force or not target.exists():
        return
    if any(path.exists() and target.samefile(path) for path in reads):
        raise InputError(f"{target} is an input; name another with -o, or replace it by --force")
    if not named:
        raise InputError(f"{target} exists; name it with -o, or replace it by --force")


# ---------------------------------------------------------------- the journal


@dataclass(frozen=True)
class Record:
    """Of a result: the photo it is made of and with what settings, and its bytes once written."""

    photo: str  # its path from the folder of the result
    size: int
    time_ns: int
    settings: str
    written: int | None = None

    @staticmethod
    def of(source: Path, target: Path, settings: str) -> Record:
        stat = source.stat()
        return Record(_path_from(target.parent, source), stat.st_size, stat.st_mtime_ns, settings)


def _path_from(folder: Path, source: Path) -> str:
    return os.path.relpath(os.path.abspath(source), os.path.abspath(folder))


class Journal:
    """The results in a folder by their names; see above."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        self.records: dict[str, Record] = {}
        self.torn = False  # the last line was cut short by a crash
        with contextlib.suppress(OSError):
            text = self.path.read_bytes()
            self.torn = bool(text) and not text.endswith(b"\n")
            for line in text.splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                    fields = json.loads(line)
                    name = fields.pop("result")
                    self.records[name] = Record(**fields)

    def add(self, name: str, record: Record) -> None:
        line = json.dumps({"result": name, **vars(record)}).encode() + b"\n"
        try:
            with self.path.open("ab") as file:
                file.write(b"\n" + line if self.torn else line)
        except OSError as error:
            raise InputError(f"{self.path} can't be written: {error.strerror}") from error
        self.torn = False
        self.records[name] = record


class Journals(dict[Path, Journal]):
    def __missing__(self, folder: Path) -> Journal:
        self[folder] = Journal(folder)
        return self[folder]


# ---------------------------------------------------------------- what there is


def find(given: Path, leave: Path | None, journals: Journals) -> Iterator[Found]:
    """The photos that one input stands for, in order."""
    if not is_several(given):
        yield Found(given, Path(), True)
        return
    parts = given.parts
    first = len(parts)
    if not given.is_dir():
        first = next(i for i, part in enumerate(parts) if MAGIC.search(part))
    top, pattern = Path(*parts[:first]), parts[first:]
    for source in sorted(set(_walk(top, pattern, leave, journals))):
        yield Found(source, source.parent.relative_to(top), False)


def _walk(
    top: Path, pattern: tuple[str, ...], leave: Path | None, journals: Journals
) -> Iterator[Path]:
    """Photos below a folder; all of them, or those that the parts of a glob fit. Hidden files,
    results of argan's, and links to folders, which may go round in circles, are left out. A folder
    that can't be read is yielded itself."""
    todo = [(top, pattern)]
    while todo:
        folder, parts = todo.pop()
        if leave and folder != top and os.path.realpath(folder) == os.path.realpath(leave):
            continue
        deep = parts[:1] == ("**",)
        if deep:
            todo.append((folder, parts[1:]))
        try:
            names = {entry.name for entry in os.scandir(folder)}
        except FileNotFoundError:
            continue  # it went meanwhile
        except OSError:
            yield folder
            continue
        results = {name for name in names if _is_result(name, names)}
        results |= journals[folder].records.keys()
        for name in names - results:
            path = folder / name
            if name.startswith(".") or not (deep or not parts or fnmatchcase(name, parts[0])):
                continue
            if path.is_dir():
                if not path.is_symlink():
                    todo.append((path, parts if deep else parts[1:]))
            elif len(parts) < 2 and not deep and path.suffix.lower() in photo.READ_SUFFIXES:
                yield path


def _is_result(name: str, names: set[str]) -> bool:
    """X_bokeh.jpg where there is X.jpg, or X of another format."""
    stem, _, tail = name.rpartition(".")[0].rpartition("_")
    ends = (*photo.READ_SUFFIXES, *map(str.upper, photo.READ_SUFFIXES))
    return tail in TAILS and any(stem + end in names for end in ends)


# ---------------------------------------------------------------- the run


@dataclass
class Batch:
    """Photos on their way; `failed` has the message of each that could not be done."""

    work: Work
    naming: Naming
    options: Options
    journals: Journals = field(default_factory=Journals)
    owners: dict[Path, Path] = field(default_factory=dict)  # result: photo
    failed: dict[Path, str] = field(default_factory=dict)
    seen: int = 0

    def is_done(self, source: Path, target: Path) -> bool:
        record = self.journals[target.parent].records.get(target.name)
        if record is None or record.written is None:
            return False
        try:
            wanted = Record.of(source, target, self.options.settings)
            size = target.stat().st_size
        except OSError:
            return False
        return record == replace(wanted, written=size)

    def one(self, source: Path, target: Path, inputs: set[str]) -> None:
        """Do a photo, and tell; a failure is kept."""
        self.seen += 1
        self.failed.pop(source, None)
        try:
            words = self._try(source, target, inputs)
        except Exception as error:
            if not isinstance(error, Error | MemoryError) and os.environ.get("ARGAN_TRACEBACK"):
                raise
            message = _words(error)
            message = message if str(source) in message else f"{source}: {message}"
            self.failed[source] = message
            _tell(message)
        else:
            print(printable(f"{target}  {words}"), flush=True)

    def _try(self, source: Path, target: Path, inputs: set[str]) -> str:
        if source.is_dir():
            raise InputError(f"{source} can't be read; check its permissions")
        owner = self.owners.setdefault(target, source)
        if owner != source:
            raise InputError(f"{source} would become {target} as {owner} does; give it alone")
        journal = self.journals[target.parent]
        self._check(source, target, journal, inputs)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            record = Record.of(source, target, self.options.settings)
        except FileNotFoundError:
            return self.work(source, target)  # which says so
        except OSError as error:
            raise InputError(f"{target.parent} can't be made: {error.strerror}") from error
        before = journal.records.get(target.name, replace(record, written=NOTHING))
        journal.add(target.name, record)
        try:
            words = self.work(source, target)
        except BaseException:
            journal.add(target.name, before)
            raise
        journal.add(target.name, replace(record, written=target.stat().st_size))
        return words

    def _check(self, source: Path, target: Path, journal: Journal, inputs: set[str]) -> None:
        if self.options.force or not target.exists():
            return
        if os.path.realpath(target) in inputs:
            raise InputError(f"{target} is an input; name a folder with -o")
        record = journal.records.get(target.name)
        ours = record is not None and record.written in (None, target.stat().st_size)
        if record is None or not ours:
            raise InputError(f"{target} exists; replace it by --force")
        if record.photo != _path_from(target.parent, source):
            raise InputError(f"{target} is the result of {record.photo}; replace it by --force")
        if not (self.options.resume or self.options.watch or record.written is None):
            raise InputError(f"{target} exists; leave it by --resume, or replace it by --force")


def run(work: Work, inputs: list[Path], naming: Naming, options: Options) -> int:
    """work(photo, result) for each photo of the inputs -> exit code.

    InputError before anything is done where there is none, or two that were named come to one
    result; MissingFileError where what is to be watched is not there.
    """
    _check_inputs(inputs, naming.folder, options)
    batch = Batch(work, naming, options)
    found = _find(inputs, batch)
    _check_named(found, naming)
    if not found and not options.watch:
        raise InputError(f"{inputs[0]} holds no photos ({' '.join(photo.READ_SUFFIXES)})")
    if naming.folder is not None:
        try:
            naming.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{naming.folder} can't be made: {error.strerror}") from error
    if options.watch:
        return _watch(inputs, batch)
    pairs = [(f.source, naming.target(f)) for f in found]
    todo = pairs
    if options.resume:
        done = {pair for pair in pairs if batch.is_done(*pair)}
        todo = [pair for pair in pairs if pair not in done]
        batch.owners.update((target, source) for source, target in done)
        print(printable(f"{len(pairs) - len(todo)} of {len(pairs)} photos are done already"))
    sweep({target.parent for _, target in pairs})
    real = {os.path.realpath(source) for source, _ in pairs}
    try:
        with progress("photos", len(todo)) as tell:
            for source, target in todo:
                batch.one(source, target, real)
                tell(batch.seen, len(todo))
    except KeyboardInterrupt:
        _tell(f"stopped after {batch.seen} of {len(todo)} photos; go on by --resume")
        raise
    finally:
        _summary(batch)
    return 1 if batch.failed else 0


def _watch(inputs: list[Path], batch: Batch) -> int:
    """Until SIGINT or SIGTERM -> 0."""
    since: dict[tuple[Path, int, int], float] = {}  # photo, size and time of change: first seen
    tried = set()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [(number, signal.signal(number, signal.default_int_handler)) for number in signals]
    _tell("watching; Ctrl-C ends it")
    try:
        while True:
            pairs = [(item.source, batch.naming.target(item)) for item in _find(inputs, batch)]
            inputs_now = {os.path.realpath(source) for source, _ in pairs}
            for source, target in pairs:
                try:
                    stat = source.stat()
                except OSError:
                    continue  # it went meanwhile
                state = (source, stat.st_size, stat.st_mtime_ns)
                still = time.monotonic() - since.setdefault(state, time.monotonic())
                if still >= STILL_S and state not in tried:
                    tried.add(state)
                    if not batch.is_done(source, target):
                        batch.one(source, target, inputs_now)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return 0
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        _summary(batch)


def _find(inputs: list[Path], batch: Batch) -> list[Found]:
    leave = batch.naming.folder
    found = [item for given in inputs for item in find(given, leave, batch.journals)]
    named = {item.source for item in found if item.named}
    rest = {item.source: item for item in found if not item.named and item.source not in named}
    return [*(item for item in found if item.named), *rest.values()]


def _check_inputs(inputs: list[Path], folder: Path | None, options: Options) -> None:
    if folder is not None and not folder.is_dir():
        if folder.exists() or folder.suffix.lower() in (*photo.READ_SUFFIXES, ".npy", ".exr"):
            raise InputError(f"{folder} is not a directory; give one, or a single photo")
    for given in inputs:
        if options.watch and not (is_several(given) or given.exists()):
            raise MissingFileError(f"{given} does not exist; make it first, then watch it")


def _check_named(found: list[Found], naming: Naming) -> None:
    targets: set[Path] = set()
    for item in found:
        if item.named:
            target = naming.target(item)
            if target in targets:
                raise InputError(
                    f"two inputs would both become {target}; run them one by one with -o"
                )
            targets.add(target)


def sweep(folders: set[Path]) -> None:
    """Remove what processes that were killed have left half-written."""
    for folder in folders:
        with contextlib.suppress(OSError):
            for path in folder.glob(".*.part"):
                name = PART.fullmatch(path.name)
                if name and time.time() - path.stat().st_mtime > IDLE_S and _gone(int(name[1])):
                    path.unlink(missing_ok=True)


def _gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


def _summary(batch: Batch) -> None:
    if batch.failed:
        _tell(f"{len(batch.failed)} of {batch.seen} photos failed:")
        for source in batch.failed:
            print(printable(f"  {source}"), file=sys.stderr)


def _tell(message: str) -> None:
    print(printable(f"argan: {message}"), file=sys.stderr, flush=True)


def _words(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "out of memory; use a smaller photo, or --max-memory"
    told = " ".join(str(error).split("\n"))
    if isinstance(error, Error):
        return told
    return f"a bug: {type(error).__name__}: {told} (ARGAN_TRACEBACK=1 shows where)"


def printable(text: str) -> str:
    """A name may hold bytes that are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


@contextlib.contextmanager
def progress(what: str, total: float | None) -> Iterator[Callable[[float, float | None], None]]:
    """A bar on stderr, if that is a terminal, of so many photos or frames, with how many of them
    are done in a second and the time left -> tell(done, total)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.2f} {what}/s" if speed else f"- {what}/s")

    console = Console(stderr=True)
    columns = (
        TextColumn(what), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task(what, total=total)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
