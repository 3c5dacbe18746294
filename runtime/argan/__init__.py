"""argan: depth and bokeh from one photo, on a CPU or a phone, without torch.

    >>> argan.refocus("photo.jpg", focus=(640, 480), f_number=1.8).image.save("bokeh.jpg")
"""

__version__ = "0.1.0"

import os
import sys


def _start_command() -> None:
    """As NumPy is imported, OpenBLAS starts a thread for each core: 0.1 s of CPU, of no use to a
    command of argan's. Programs that import argan, and what is imported later, are left alone."""
    name = "OPENBLAS_NUM_THREADS"
    if os.path.basename(next(iter(sys.argv), "")) not in ("argan", "-m") or name in os.environ:
        return
    os.environ[name] = "1"
    import numpy  # noqa: F401

    del os.environ[name]


_start_command()

from argan.errors import (
    BundleError,
    Error,
    InputError,
    MissingExtraError,
    MissingFileError,
    ShapeError,
)
from argan.photo import Photo

# The function takes the name of its module: `from argan.refocus import ...` still finds the module.
from argan.refocus import Refocuser, Result, load, refocus

__all__ = [
    "BundleError", "Error", "InputError", "MissingExtraError", "MissingFileError", "Photo",
    "Refocuser", "Result", "ShapeError", "__version__", "load", "refocus",
]  # fmt: skip
