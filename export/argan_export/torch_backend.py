"""A training run as it is, for the runtime: `argan refocus --backend torch --model RUN`."""

from __future__ import annotations

from pathlib import Path

import torch

from argan import Refocuser
from argan_train.ar_gan_dr import refocuser


def open_run(run: Path, threads: int | None = None) -> Refocuser:
    """What the entry point "torch" of the group "argan.backends" names. `threads` holds for the
    whole process; None leaves PyTorch's own choice."""
    if threads is not None:
        torch.set_num_threads(threads)
    opened = refocuser(run)
    opened.threads = threads
    return opened
