"""What runs the network: one file per backend, one method each."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tensors = dict[str, NDArray[np.float32]]


class Backend(Protocol):
    def run(self, inputs: Tensors) -> Tensors:
        """Named inputs -> named outputs, with the shapes and ranges of the bundle's manifest."""
        ...
