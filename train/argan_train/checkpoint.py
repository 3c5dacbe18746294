"""Checkpoints: safetensors and JSON, never pickle; written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from argan.errors import InputError, MissingFileError


@contextmanager
def partial(path: Path) -> Iterator[Path]:
    """A sibling to be written, which then takes the place of `path`, unless an error ends it."""
    part = path.with_name(path.name + ".partial")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Atomic: a killed or failed save leaves the file that was there. Raises OSError."""
    with partial(path) as part:
        try:
            dense = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
            save_file(dense, part, metadata)
        except SafetensorError as error:  # its way to say "no space left"
            raise OSError(str(error)) from None
        part.chmod(0o644)  # safetensors creates it for the owner alone
        with part.open("rb") as written:
            os.fsync(written.fileno())  # on the disk before it takes the old one's place


def load_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise MissingFileError(f"no checkpoint at {path}: give a run folder that has trained")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}): take an earlier copy") from None


def load_floats(path: Path) -> dict[str, Tensor]:
    """Weights as float32, also where they are kept in half precision."""
    return {k: v.float() if v.is_floating_point() else v for k, v in load_tensors(path).items()}


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    with partial(path) as part:
        part.write_text(text)


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(
            f"no {path.name} in {path.parent}: give a folder made by argan train"
        )
    try:
        value = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{path} can't be read ({error}): take an earlier copy") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} was not made by argan train: give a folder that was")
    return value


def check_folder(path: Path) -> None:
    """That what a command writes can go there, before it works; it is not made yet."""
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise InputError(f"{path} can't be written: name a folder that is one, or can be made")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flatten(prefix: str, part: nn.Module | torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of a network or of Adam as named tensors."""
    if isinstance(part, nn.Module):
        return {f"{prefix}.{name}": value for name, value in part.state_dict().items()}
    states = part.state_dict()["state"]
    return {f"{prefix}.{i}.{k}": v for i, state in states.items() for k, v in state.items()}


def restore(
    prefix: str, part: nn.Module | torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """The inverse of `flatten`, in place."""
    own = {
        k.removeprefix(prefix + "."): v for k, v in tensors.items() if k.startswith(prefix + ".")
    }
    if isinstance(part, nn.Module):
        part.load_state_dict(own)
        return
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in own.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    part.load_state_dict(part.state_dict() | {"state": state})
    # In the parameters' own memory layout, which fused optimizers take for granted.
    for parameter, moments in part.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).detach().copy_(value)


def mean(several: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Of the weights of several networks that are built alike; what counts is the last one's."""
    shapes = [{name: w.shape for name, w in weights.items()} for weights in several]
    if any(shape != shapes[-1] for shape in shapes):
        raise InputError("runs of different networks have no mean: give runs of one network")
    return {
        name: torch.stack([weights[name] for weights in several]).mean(dim=0)
        if last.is_floating_point()
        else last
        for name, last in several[-1].items()
    }
