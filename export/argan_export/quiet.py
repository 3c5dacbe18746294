"""The converters' chatter kept off the terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Converters chat, their C++ parts on file descriptor 2, draw bars, and warn of their own
    internals, of untested versions and of libraries that only Apple has."""
    with ExitStack() as stack:
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.WARNING)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for redirect in (contextlib.redirect_stdout, contextlib.redirect_stderr):
            stack.enter_context(redirect(io.StringIO()))
        stderr = os.dup(2)
        stack.callback(os.close, stderr)
        stack.callback(os.dup2, stderr, 2)
        os.dup2(stack.enter_context(open(os.devnull, "wb")).fileno(), 2)
        yield
