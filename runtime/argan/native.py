"""The compiled inner loop of the lens, where the install has it; NumPy and OpenCV do it otherwise.

`native.cpp` is built beside this file when argan is built on a machine with a C++ compiler.
ARGAN_NATIVE=0 leaves it aside.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path

VERSION = 1  # of the functions' arguments
LIBRARY = Path(__file__).with_name("_native.so")


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where this install has none."""
    if os.environ.get("ARGAN_NATIVE") == "0" or not LIBRARY.exists():
        return None
    try:
        loaded = ctypes.CDLL(os.fspath(LIBRARY))
        if loaded.argan_native_version() != VERSION:
            return None
    except (OSError, AttributeError):  # of another machine, or of an older argan
        return None
    number, size, pointer = ctypes.c_float, ctypes.c_long, ctypes.c_void_p
    loaded.argan_add_slice.argtypes = [
        pointer, pointer, size, size, number, number, number, ctypes.c_int,
        pointer, pointer, size, size, number, pointer,
    ]  # fmt: skip
    loaded.argan_add_slice.restype = None
    return loaded
