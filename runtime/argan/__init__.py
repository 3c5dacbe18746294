"""argan: depth and bokeh from one photo, on a CPU or a phone, without torch.

    >>> argan.refocus("photo.jpg", focus=(640, 480), f_number=1.8).image.save("bokeh.jpg")
"""

__version__ = "0.1.0"

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
