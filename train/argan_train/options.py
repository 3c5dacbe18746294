"""Kinds of command-line options: what can't be meant ends in a line that says what to give."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

LARGEST_SEED = 2**31 - 1  # a step's random numbers are seeded with both in 64 bits


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """A whole number from low to high."""

    def convert(text: str) -> int:
        value = int(text) if text.removeprefix("-").isdecimal() else None
        if value is None or value < low or (high is not None and value > high):
            most = "" if high is None else f" to {high}"
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {low}{most}")
        return value

    return convert


seed = whole(0, LARGEST_SEED)


def switch(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r}: give true or false")
    return words[text.lower()]


def device(text: str) -> torch.device:
    """cpu, cuda or cuda:N."""
    try:
        found = torch.device(text)
    except RuntimeError:
        found = torch.device("meta")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"{text}: PyTorch finds no such GPU here; give cpu")
    if found.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text!r}: give cuda or cpu")
    return found


def usual_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
