"""The compiled inner loops of the lens, where the install has them; NumPy does it otherwise.

`native.cpp` is built beside this file when argan is built on a machine with a C++ compiler.
ARGAN_NATIVE=0 leaves it aside.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path

VERSION = 3  # of the functions' arguments
LIBRARY = Path(__file__).with_name("_native.so")

_f, _i, _n, _p = ctypes.c_float, ctypes.c_int, ctypes.c_long, ctypes.c_void_p
FUNCTIONS: dict[str, tuple[list[type], type | None]] = {  # arguments, result
    "argan_add_slices": (
        [_p, _p, _p, _n, _n, _p, _n, _p, _p, _p, _p, _p, _i, _f, _p, _n, _n],
        None,
    ),
    "argan_spans": ([_p, _p, _p, _n, _p, _n, _p, _n, _p, _p], None),
    "argan_shrink": (
        [_p, _p, _p, _n, _n, _n, _n, _f, _f, _f, _i, _i, _f, _p, _p, _n, _n, _n, _n],
        None,
    ),
    "argan_enlarge": ([_p, _n, _n, _n, _i, _n, _n, _p, _n, _n, _n, _n, _i], None),
    "argan_farthest_of_four": ([_p, _n, _n, _f, _f, _p], None),
    "argan_keep_farthest": ([_p, _n, _n, _p, _f], None),
    "argan_extremes": ([_p, _n, _p], _i),
    "argan_squared": ([_p, _n, _n, _n, _f, _f, _f, _p, _p], None),
    "argan_decode": ([_p, _n, _n, _n, _p, _p], None),
    "argan_recover": ([_p, _n, _n, _n, _p, _n, _n, _f, _n, _n, _f, _p], None),
    "argan_light_field": ([_p, _n, _n, _p, _n, _n, _n, _p, _n, _p], None),
    "argan_encode": ([_p, _n, _n, _n, _n, _p, _n, _p, _n], None),
}


@lru_cache
def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where this install has none."""
    if os.environ.get("ARGAN_NATIVE") == "0" or not LIBRARY.exists():
        return None
    try:
        loaded = ctypes.CDLL(os.fspath(LIBRARY))
        if loaded.argan_native_version() != VERSION:
            return None
        for name, (arguments, result) in FUNCTIONS.items():
            getattr(loaded, name).argtypes = arguments
            getattr(loaded, name).restype = result
    except (OSError, AttributeError):  # of another machine, or of an older argan
        return None
    return loaded
