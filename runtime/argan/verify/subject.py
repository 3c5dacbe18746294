"""A variant at work: opened, run, and run again with another model file in its place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib.metadata import entry_points

import numpy as np

from argan import backends, weights
from argan.backends import Backend
from argan.backends.canonical import Canonical
from argan.bundle import Bundle, Variant
from argan.errors import BundleError, Error, InputError, MissingExtraError
from argan.golden import Example
from argan.verify.diagnose import TRUNCATED, Run
from argan.verify.result import Array, Fault, Result


@dataclass
class Subject:
    """backend is None where the variant can't run here, and `result` says why; `example` is what
    it is judged on."""

    content: Bundle
    variant: Variant
    threads: int | None
    result: Result
    backend: Backend | None = None
    example: Example | None = None

    def open(self) -> None:
        try:
            self.backend = open_variant(self.content, self.variant, threads=self.threads)
        except (MissingExtraError, InputError) as error:
            self.result.not_checked = str(error)
        except Error as error:
            self.result.faults.append(Fault(self._ruin(), str(error)))

    def _ruin(self) -> str:
        """Why a file can't be loaded."""
        try:
            if self.variant.format != "coreml":
                weights.read(self.content.model(self.variant), self.variant.format)
        except weights.CutShort:
            return TRUNCATED
        except BundleError:
            pass
        return "does not load"

    def run(self, image: Array) -> Array:
        """[1, 3, H, W] -> disparity [1, 1, H, W], lo as 0 and hi as 1."""
        assert self.backend is not None
        return self._run(self.backend, image)

    def reload(self, file: bytes) -> Run:
        """`run` with another model file."""
        files = {**self.content.files, self.variant.file: file}
        changed = dataclasses.replace(self.content, files=files)
        backend = open_variant(changed, self.variant, threads=self.threads)
        return lambda image: self._run(backend, image)

    def _run(self, backend: Backend, image: Array) -> Array:
        assert self.example is not None
        answers = backend.run({**self.example.inputs, "image": image})
        return unit(answers["disparity"], self.content, self.variant.graph)


def unit(disparity: Array, content: Bundle, graph: str) -> Array:
    """A graph's disparity with the bundle's lo as 0 and hi as 1."""
    if graph == "refocus":
        return disparity
    lo, hi = content.disparity.lo, content.disparity.hi
    return np.asarray((disparity - np.float32(lo)) / np.float32(hi - lo), np.float32)


def open_variant(content: Bundle, variant: Variant, *, threads: int | None = None) -> Backend:
    """As `backends.open_variant`. A format that can't run here is evaluated where the entry-point
    group "argan.evaluators" has a function for it, {name in the package: content} -> Model."""
    absent = backends.missing(variant.format)
    if absent is None:
        return backends.open_variant(content, variant, threads=threads)
    for entry in entry_points(group="argan.evaluators", name=variant.format):
        try:
            model = entry.load()(content.package(variant))
        except (ModuleNotFoundError, MissingExtraError) as error:
            helps = 'or have it evaluated: pip install "argan[export]"'
            raise InputError(f"{absent}; {helps}") from error
        return Canonical(model, content, variant)
    raise InputError(absent)


def files(content: Bundle, variant: Variant) -> dict[str, bytes]:
    """What a variant consists of."""
    if variant.format == "coreml":
        return content.package(variant)
    return {variant.file: content.model(variant)}


def size(content: Bundle, variant: Variant) -> int:
    """In bytes."""
    return sum(len(data) for data in files(content, variant).values())
