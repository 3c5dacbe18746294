"""Calibration: which photos a network is quantised on, and what range each tensor has on them.

Nothing here knows a label: photos go in, ranges of activations come out.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from argan.errors import InputError
from argan.files import write_atomic
from argan_train.data import decode, each_photo, expand, first, open_photos

Array = NDArray[np.float32]
Range = tuple[float, float]
Activations = Iterable[Mapping[str, Array]]  # of one photo at a time: {tensor: values}

SMALLEST = 32  # px of a photo's shorter side that can still calibrate
BINS = 2048  # of a histogram: 8 for each level of an int8 tensor
LEVELS = 256
PERCENTILE = 99.999  # of the values lie inside
SHARES = np.linspace(1.0, 0.1, 73)  # of either end, that entropy and mse choose from


@dataclass(frozen=True)
class Photos:
    """What was chosen.

    images  uint8 [H, W, 3] sRGB, upright, the shorter side at most `size`
    record  source, count, size, seed, {file: sha256} and the sha256 of these: for the report
    """

    images: list[NDArray[np.uint8]]
    record: dict[str, Any]


def photos(
    source: str | Path, count: int, size: int, seed: int = 0, cache: Path | None = None
) -> Photos:
    """`count` different photos of a folder, zip or tar (see `argan_train.data.open_photos`).

    The choice depends on the files' contents and the seed alone: not on their names, their order or
    copies of them. Photos smaller than `size` are taken as they are. With `cache`, a folder, a
    second call with the same arguments and unchanged files reads no photo. InputError where there
    are fewer than `count`.
    """
    source = Path(source)
    with ExitStack() as stack:
        found = open_photos(source, stack)
        key = _key(source, count, size, seed)
        if cache and (kept := _read(cache / f"{key}.npz")):
            return kept
        digests: dict[str, str] = {}  # sha256 -> the first name of that content
        for name, digest in each_photo(found, source.name, lambda b: hashlib.sha256(b).hexdigest()):
            if isinstance(digest, str):
                digests.setdefault(digest, name)
        # A draw without replacement in which each content has its own lot.
        order = sorted(digests, key=lambda digest: _sha256(f"{seed} {digest}"))
        images: list[NDArray[np.uint8]] = []
        files: dict[str, str] = {}
        dropped: dict[str, str] = {}
        for digest in order:
            if len(images) == count:
                break
            name = digests[digest]
            try:
                images.append(_picture(found.read(name), size))
                files[name] = digest
            except Exception as error:  # Pillow answers corrupt bytes with many kinds
                dropped[name] = str(error)
    if len(images) < count:
        more = f"; {first(dropped)}" if dropped else ""
        raise InputError(f"{source}: {len(images)} different photos, {count} wanted{more}")
    lines = "".join(f"{digest}\n" for digest in sorted(files.values()))
    record = {"source": source.name, "count": count, "size": size, "seed": seed,
              "sha256": _sha256(lines), "files": files}  # fmt: skip
    chosen = Photos(images, record)
    if cache:
        with suppress(OSError, InputError):  # no room, or no right: it is made anew the next time
            cache.mkdir(parents=True, exist_ok=True)
            write_atomic(cache / f"{key}.npz", _npz(chosen))
    return chosen


def network_image(photo: NDArray[np.uint8], size: tuple[int, int]) -> Array:
    """uint8 [H, W, 3] -> sRGB 0..1 [1, 3, height, width]."""
    resized = Image.fromarray(photo).resize(size[::-1], Image.Resampling.BICUBIC)
    image: Array = np.asarray(resized, np.float32).transpose(2, 0, 1)[None] / np.float32(255)
    return image


def nominal_size(photo: NDArray[np.uint8], nominal: int, multiple_of: int) -> tuple[int, int]:
    """(height, width) of about nominal^2 px in the photo's own shape."""
    scale = nominal / math.sqrt(photo.shape[0] * photo.shape[1])
    height, width = (max(1, round(n * scale / multiple_of)) * multiple_of for n in photo.shape[:2])
    return height, width


# ---------------------------------------------------------------- ranges


@dataclass(frozen=True)
class Histogram:
    """Of the values of one tensor: `counts` in BINS equal parts of [lo, hi], in which 0 lies."""

    lo: float
    hi: float
    counts: NDArray[np.float64]

    @property
    def centres(self) -> NDArray[np.float64]:
        edges: NDArray[np.float64] = np.linspace(self.lo, self.hi, BINS + 1)
        return (edges[1:] + edges[:-1]) / 2


def observe(run: Callable[[], Activations]) -> dict[str, Histogram]:
    """Histograms of all tensors; `run` is called twice: for the ends, then for the counts."""
    ends: dict[str, Range] = {}
    for activations in run():
        for name, values in activations.items():
            lo, hi = ends.get(name, (math.inf, -math.inf))
            ends[name] = min(lo, float(values.min())), max(hi, float(values.max()))
    counts = {name: np.zeros(BINS) for name in ends}
    for activations in run():
        for name, values in activations.items():
            counts[name] += np.histogram(values, BINS, _with_zero(ends[name]))[0]
    return {name: Histogram(*_with_zero(ends[name]), counts[name]) for name in ends}


def min_max(h: Histogram) -> Range:
    """Nothing is clipped."""
    return h.lo, h.hi


def percentile(h: Histogram) -> Range:
    """Clips the same share of values at either end."""
    share = np.cumsum(h.counts) / h.counts.sum()
    outside = 1 - PERCENTILE / 100
    edges = np.linspace(h.lo, h.hi, BINS + 1)
    lo = edges[np.searchsorted(share, outside, side="right")]
    hi = edges[min(int(np.searchsorted(share, 1 - outside)) + 1, BINS)]
    return float(lo), float(hi)


def entropy(h: Histogram) -> Range:
    """The least Kullback-Leibler divergence of the quantised distribution from the true one, with
    what is clipped counted in its end bins (Migacz, GTC 2017)."""
    # All that a ReLU holds back is 0, which every range has exactly: it would drown the rest.
    zero = int(np.argmin(np.abs(h.centres)))
    counts = h.counts.copy()
    counts[zero] = min(counts[zero], counts[max(zero - 1, 0) : zero + 2].sum() - counts[zero])
    return _best(replace(h, counts=counts), _divergence)


def mse(h: Histogram) -> Range:
    """The least mean squared error of the quantised values."""
    return _best(h, _squared_error)


METHODS: dict[str, Callable[[Histogram], Range]] = {
    "min-max": min_max, "percentile": percentile, "entropy": entropy, "mse": mse,
}  # fmt: skip


def ranges(histograms: Mapping[str, Histogram], method: str) -> dict[str, Range]:
    """{tensor: range} by one of METHODS."""
    return {name: METHODS[method](histogram) for name, histogram in histograms.items()}


def affine(lo: float, hi: float) -> tuple[np.float32, int]:
    """(scale, zero point) of uint8 for [lo, hi], which is widened to have a 0:
    value = scale * (level - zero point)."""
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    scale = np.float32(max(hi - lo, 1e-8) / (LEVELS - 1))
    return scale, round(-lo / float(scale))


def _best(h: Histogram, loss: Callable[[Histogram, Range], float]) -> Range:
    """The upper end first, then the lower: the tails of a tensor differ."""
    hi = min((float(h.hi * share) for share in SHARES), key=lambda hi: loss(h, (h.lo, hi)))
    lo = min((float(h.lo * share) for share in SHARES), key=lambda lo: loss(h, (lo, hi)))
    return lo, hi


def _squared_error(h: Histogram, ends: Range) -> float:
    scale, zero = affine(*ends)
    levels = np.clip(np.round(h.centres / scale) + zero, 0, LEVELS - 1)
    return float(np.sum(h.counts * ((levels - zero) * scale - h.centres) ** 2))


def _divergence(h: Histogram, ends: Range) -> float:
    scale, zero = affine(*ends)
    level = np.clip(np.round(h.centres / scale) + zero, 0, LEVELS - 1).astype(int)
    inside = (h.centres >= ends[0]) & (h.centres <= ends[1])
    kept = np.where(inside, h.counts, 0)
    # The true distribution, what lies outside added to its ends ...
    true, (first_bin, last_bin) = kept.copy(), np.flatnonzero(inside)[[0, -1]]
    true[first_bin] += h.counts[:first_bin].sum()
    true[last_bin] += h.counts[last_bin + 1 :].sum()
    # ... and the quantised one: each level's count spread evenly over its bins that are not empty.
    bins = np.bincount(level[kept > 0], minlength=LEVELS)
    counts = np.bincount(level, kept, LEVELS)
    spread = np.where(kept > 0, counts[level] / np.maximum(bins[level], 1), 0)
    p, q = true / max(true.sum(), 1e-12), spread / max(spread.sum(), 1e-12)
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-12))))


def _with_zero(ends: Range) -> Range:
    """As `affine` will have it."""
    return min(ends[0], 0.0), max(ends[1], 0.0)


# ---------------------------------------------------------------- the choice and its cache


def _picture(data: bytes, size: int) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as file:
        side = min(size, *file.size)
    if side < SMALLEST:
        raise InputError(f"its shorter side has {side} px, fewer than {SMALLEST}")
    return np.asarray(decode(data, side, square=False))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _key(source: Path, *arguments: int) -> str:
    """Changes whenever a file is changed, added or removed, as far as its name, size and time of
    change tell."""
    paths = [Path(path) for path in expand(str(source))]
    files = [f for path in paths for f in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    there = [f.resolve() for f in files if f.exists()]  # not so: a link that leads nowhere
    stats = [(str(f), (s := f.stat()).st_size, s.st_mtime_ns) for f in there]
    return _sha256(json.dumps([stats, arguments]))


def _npz(chosen: Photos) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"image_{i}": image for i, image in enumerate(chosen.images)}
    np.savez(buffer, record=np.array(json.dumps(chosen.record)), **arrays)
    return buffer.getvalue()


def _read(path: Path) -> Photos | None:
    """What an earlier call left; None where there is nothing that can be read."""
    try:
        with np.load(path) as arrays:
            record = json.loads(str(arrays["record"]))
            return Photos([arrays[f"image_{i}"] for i in range(record["count"])], record)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
