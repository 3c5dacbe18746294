"""`argan data prepare`: any pile of photos to a clean set for training.

Upright, the centre square, reduced by area, sRGB, without duplicates; one file a photo, and a
report of what was dropped and why. The same photos in, the same bytes out.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image

import argan
from argan.errors import InputError
from argan_train.data import (
    Source,
    TooSmallError,
    decode,
    each_photo,
    examples,
    expand,
    open_photos,
    printable,
    why,
)

HASH_BITS = 128
# Bits that may differ. Of 7,366 Oxford flowers all 15 pairs within 10 bits, and all 19
# within 15, are the same picture; 99 % of copies at half the size, 15 % brighter or at JPEG quality
# 40 stay within 9 (300 tried each).
NEAR_BITS = 10
JPEG_QUALITY = 95
SHARD_BYTES = 2**28  # of photos in one tar; WebDataset's authors advise some hundred MB
REPORT = "report.json"

Crop = Literal["square", "none"]
Format = Literal["jpeg", "png"]
Duplicates = Literal["drop", "keep"]
Files = Iterator[tuple[str, bytes]]  # name, content


@dataclass(frozen=True)
class Settings:
    """How photos are prepared.

    size             px: the square's side or, with crop "none", the shorter side
    crop             "square": the centre square; "none": all of the photo
    format           "jpeg": quality 95, full colour resolution; "png": lossless
    near_duplicates  "drop" all but the first by name; "keep"
    """

    size: int = 128
    crop: Crop = "square"
    format: Format = "jpeg"
    near_duplicates: Duplicates = "drop"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"photos of {self.size} px: give a size of at least 1")


@dataclass
class Report:
    """What became of each photo.

    source   name of the folder or archive
    photos   {name in the prepared set: name in the source}
    dropped  {reason: {name in the source: details}}
    near     {name in the source: details} of near duplicates that were kept
    files    the archives written; empty for a folder
    """

    source: str
    settings: Settings
    photos: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    near: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    def to_json(self) -> bytes:
        record = {
            "argan": argan.__version__,
            "source": self.source,
            "settings": asdict(self.settings),
            "near_duplicate": f"{NEAR_BITS} of {HASH_BITS} bits of the difference hash, or less",
            "files": self.files,
            "kept": len(self.photos),
            "dropped": {reason: self.dropped[reason] for reason in sorted(self.dropped)},
            "near_duplicates_kept": self.near,
            "photos": self.photos,
        }
        return (json.dumps(record, indent=1) + "\n").encode()

    def __str__(self) -> str:
        lost = sum(map(len, self.dropped.values()))
        lines = [f"kept {len(self.photos):,}, dropped {lost:,}"]
        for reason, photos in sorted(self.dropped.items()):
            lines.append(f"  {reason:16} {len(photos):7,}   {examples(photos)}")
        if self.near:
            lines.append(f"near duplicates kept {len(self.near):,}: {examples(self.near)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Prepared:
    """A photo as it will be written.

    file         JPEG or PNG
    digest       sha256 of the prepared pixels and their shape
    fingerprint  the difference hash, HASH_BITS bits
    """

    file: bytes
    digest: bytes
    fingerprint: int


def prepare(
    source: str | Path, out: Path, settings: Settings, overwrite: bool = False
) -> tuple[Report, list[Path]]:
    """The photos at `source` (see `open_photos`) prepared in `out`; -> report, files written.

    out  a folder or, by its suffix, a .zip; each with report.json inside. NAME.tar is one archive
         of up to SHARD_BYTES, past that shards NAME-000.tar, NAME-001.tar, ...; report beside, as
         NAME.report.json, since a WebDataset reader would take it for a sample

    All or nothing: made in a temporary sibling, then renamed. InputError where `out` exists and not
    `overwrite`, where it lies in `source`, or where no photo is left.
    """
    out = Path(os.path.realpath(out))
    if out.name.lower().endswith((".tar.gz", ".tgz")):
        raise InputError(f"{out}: photos hardly shrink in gzip; name a .tar")
    replaced = check_free(out, overwrite)
    check_place(Path(source), out, replaced)
    report = Report(Path(source).name, settings)
    with temporary_sibling(out) as work:
        with ExitStack() as stack:
            photos = select(open_photos(source, stack), Path(source), report)
            if out.suffix.lower() == ".zip":
                write_zip(work / out.name, photos, report)
            elif out.suffix.lower() == ".tar":
                write_shards(work, out, photos, report)
            else:
                write_folder(work / out.name, photos, report)
        return report, place(work, out, replaced)


@contextmanager
def temporary_sibling(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, gone afterwards; a full disk and the like become InputErrors."""
    work = out.with_name(f".{out.name}.{secrets.token_hex(8)}.part")
    try:
        work.mkdir(parents=True)
        yield work
    except OSError as error:
        if isinstance(error, argan.Error):
            raise
        raise InputError(f"{error.filename or out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_place(source: Path, out: Path, replaced: list[Path]) -> None:
    """InputError where what is written would lie in what is read, or replace it."""
    for name in expand(str(source)):
        root = Path(os.path.realpath(name))
        if out.is_relative_to(root) or root.is_relative_to(out) or root in replaced:
            raise InputError(f"{out} and {source} lie in each other; name another output")


def check_free(out: Path, overwrite: bool) -> list[Path]:
    """-> what of an earlier run is in the way, to be replaced; InputError where that is not allowed
    or where something else than a prepared set is there."""
    shards, folder = out.suffix.lower() == ".tar", out.suffix.lower() not in (".tar", ".zip")
    ours = (out, shard(out, 0), beside(out)) if shards else (out,)
    taken = [path for path in ours if os.path.lexists(path)]
    if taken and not overwrite:
        raise InputError(f"{taken[0]} exists; --overwrite replaces it")
    if out.exists() and out.is_dir() != folder:
        raise InputError(f"{out} is {'a file' if folder else 'a folder'}; name another output")
    if taken and folder and any(out.iterdir()) and not (out / REPORT).is_file():
        raise InputError(f"{out} is no prepared set (no {REPORT} in it); name another folder")
    if taken and shards:
        taken = sorted({out, beside(out), *shards_of(beside(out), out)})
    return [path for path in taken if os.path.lexists(path)]


def shards_of(report: Path, out: Path) -> list[Path]:
    """The shards that an earlier run's report names."""
    try:
        names = json.loads(report.read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    pattern = re.escape(out.stem) + r"-\d{3,}\.tar"
    return [out.with_name(name) for name in names if re.fullmatch(pattern, str(name))]


def shard(out: Path, number: int) -> Path:
    return out.with_name(f"{out.stem}-{number:03}.tar")


def beside(out: Path) -> Path:
    return out.with_name(f"{out.stem}.{REPORT}")


def select(source: Source, path: Path, report: Report) -> Files:
    """The photos to keep, in order, under their new names; fills `report` on the way."""
    settings = report.settings
    links = [n for n in source.names if path.is_dir() and leads_out(path, n)]
    report.dropped["unreadable"] |= source.dropped
    report.dropped["unreadable"] |= dict.fromkeys(links, "a link out of the folder")
    source = Source(sorted(set(source.names).difference(links)), source.read, {})
    suffix = {"jpeg": ".jpg", "png": ".png"}[settings.format]
    seen: dict[bytes, str] = {}
    near = NearDuplicates()
    taken: set[str] = set()
    for name, photo in each_photo(source, path.name, lambda data: prepare_one(data, settings)):
        if isinstance(photo, Exception):
            reason = "too small" if isinstance(photo, TooSmallError) else "unreadable"
            report.dropped[reason][name] = why(photo)
            continue
        if photo.digest in seen:
            report.dropped["exact duplicate"][name] = f"of {printable(seen[photo.digest])}"
            continue
        seen[photo.digest] = name
        twin = near.find_or_add(name, photo.fingerprint)
        if twin is not None:
            like = f"of {printable(twin[0])}, {twin[1]} of {HASH_BITS} bits differ"
            if settings.near_duplicates == "drop":
                report.dropped["near duplicate"][name] = like
                continue
            report.near[name] = like
        new = new_name(name, suffix, taken)
        report.photos[new] = name
        yield new, photo.file
    if not report.dropped["unreadable"]:
        del report.dropped["unreadable"]
    if not report.photos:
        reason, photos = max(report.dropped.items(), key=lambda item: len(item[1]))
        raise InputError(f"{path}: no photo is left; {reason}: {examples(photos)}")


def leads_out(folder: Path, name: str) -> bool:
    path = folder / name
    return path.is_symlink() and not path.resolve().is_relative_to(folder.resolve())


def prepare_one(data: bytes, settings: Settings) -> Prepared:
    """An image file -> as it will be written; raises what `decode` raises."""
    image = decode(data, settings.size, settings.crop == "square")
    file = BytesIO()
    if settings.format == "jpeg":
        image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
    else:
        image.save(file, "PNG")
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()
    return Prepared(file.getvalue(), digest, difference_hash(image))


def difference_hash(image: Image.Image) -> int:
    """128 bits: is it brighter to the right, on 8 rows of 9, and below, on 9 rows of 8?"""
    grey = image.convert("L")
    rows = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    columns = np.asarray(grey.resize((8, 9), Image.Resampling.BOX))
    bits = np.concatenate([rows[:, 1:] > rows[:, :-1], columns[1:] > columns[:-1]])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class NearDuplicates:
    """Finds a hash within NEAR_BITS of an earlier one without comparing all pairs.

    Bits are dealt to NEAR_BITS + 1 bands: two hashes that differ in NEAR_BITS bits or less agree in
    one band at least, so that only hashes that share a band are compared.
    """

    def __init__(self) -> None:
        # Every 11th bit: neighbours are alike, and bands of them would be crowded.
        bands = range(NEAR_BITS + 1)
        self.masks = [sum(1 << b for b in range(k, HASH_BITS, len(bands))) for k in bands]
        self.bands: list[dict[int, list[tuple[int, str]]]] = [defaultdict(list) for _ in bands]

    def find_or_add(self, name: str, fingerprint: int) -> tuple[str, int] | None:
        """-> (the first photo that it repeats, bits that differ), or None and it is remembered."""
        for mask, band in zip(self.masks, self.bands, strict=True):
            for other, twin in band.get(fingerprint & mask, ()):
                if (distance := (fingerprint ^ other).bit_count()) <= NEAR_BITS:
                    return twin, distance
        for mask, band in zip(self.masks, self.bands, strict=True):
            band[fingerprint & mask].append((fingerprint, name))
        return None


def new_name(name: str, suffix: str, taken: set[str]) -> str:
    """The source's name, fit for any file system and as a WebDataset key: no dot but the suffix's,
    so that no file has the name of a folder, and no two that differ in case alone."""
    text = re.sub(r'[.\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]', "_", name.rpartition(".")[0])
    parts = [part.encode()[:200].decode(errors="ignore") for part in PurePosixPath(text).parts]
    stem = "/".join(parts)
    new, count = stem + suffix, 1
    while new.casefold() in taken:
        count += 1
        new = f"{stem}_{count}{suffix}"
    taken.add(new.casefold())
    return new


def write_folder(folder: Path, photos: Files, report: Report) -> None:
    folder.mkdir()
    for name, file in photos:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file)
    (folder / REPORT).write_bytes(report.to_json())


def write_zip(path: Path, photos: Files, report: Report) -> None:
    report.files = [path.name]
    with zipfile.ZipFile(path, "x") as archive:  # stored; ZipInfo's date is fixed
        for name, file in photos:
            archive.writestr(zipfile.ZipInfo(name), file)
        archive.writestr(zipfile.ZipInfo(REPORT), report.to_json())


def write_shards(work: Path, out: Path, photos: Files, report: Report) -> None:
    """WebDataset: a photo is a sample, its name without suffix the key."""
    archive: tarfile.TarFile | None = None
    room = 0
    try:
        for name, file in photos:
            if archive is None or len(file) > room:
                if archive is not None:
                    archive.close()
                report.files.append(shard(out, len(report.files)).name)
                archive = tarfile.open(work / report.files[-1], "x")
                room = SHARD_BYTES
            member = tarfile.TarInfo(name)  # its date, owner and mode are fixed
            member.size = len(file)
            archive.addfile(member, BytesIO(file))
            room -= len(file)
    finally:
        if archive is not None:
            archive.close()
    if len(report.files) == 1:
        (work / report.files[0]).rename(work / out.name)
        report.files = [out.name]
    (work / beside(out).name).write_bytes(report.to_json())


def place(work: Path, out: Path, replaced: list[Path]) -> list[Path]:
    """Move what was made where it belongs, the report last; what it replaces goes with `work`."""
    made = sorted(work.iterdir(), key=lambda path: (path.name.endswith(REPORT), path.name))
    targets = [out.with_name(path.name) for path in made]
    for target in targets:
        if os.path.lexists(target) and target not in replaced:
            raise InputError(f"{target} exists and is of no earlier run; name another output")
    old = work / ".replaced"
    old.mkdir()
    try:
        for path in replaced:
            path.rename(old / path.name)
        for path, target in zip(made, targets, strict=True):
            path.rename(target)
    except OSError:
        for path in old.iterdir():
            path.rename(out.with_name(path.name))
        raise
    return targets
