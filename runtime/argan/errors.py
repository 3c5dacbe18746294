"""The error tree. Every message is one line that says what to do.

Error
├── InputError      (ValueError)         a photo, map or option that can't be used
│   └── ShapeError                       two arrays whose sizes don't fit each other
├── MissingFileError (FileNotFoundError) nothing at that path
├── BundleError     (ValueError)         a bundle that fails a check; nothing of it ran
└── MissingExtraError (ImportError)      an optional package is absent; has the pip command
"""


class Error(Exception):
    """Base of everything argan raises on purpose; the command line turns it into exit code 2."""


class InputError(Error, ValueError):
    """A photo, a disparity map or an option that can't be used."""


class ShapeError(InputError):
    """Two arrays whose sizes don't fit each other."""


class MissingFileError(Error, FileNotFoundError):
    """Nothing at that path."""


class BundleError(Error, ValueError):
    """A bundle that fails a check. Nothing in it was run."""


class MissingExtraError(Error, ImportError):
    """An optional package is absent."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'{package} is not installed; run: pip install "argan[{extra}]"')
