"""TFLite on the CPU (XNNPACK), by whichever interpreter is there."""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from argan.backends import Port, Signature, Tensors
from argan.errors import BundleError, MissingExtraError

# Each has a class `Interpreter` of the same use. Preferred first: the present one, its predecessor
# on older or 32-bit systems, TensorFlow's own.
PACKAGES = (
    "ai_edge_litert.interpreter",
    "tflite_runtime.interpreter",
    "tensorflow.lite.python.interpreter",
)


class TFLite:
    """`model` is a .tflite file's content; `threads` None means every core."""

    def __init__(self, model: bytes, *, threads: int | None = None) -> None:
        with _quiet():
            interpreter = _interpreter()
        try:
            with _quiet():
                self.interpreter = interpreter(
                    model_content=model, num_threads=threads or os.cpu_count() or 1
                )
                self.interpreter.allocate_tensors()
            names = self.interpreter.get_signature_list()
            self.runners = {name: self.interpreter.get_signature_runner(name) for name in names}
        except Exception as error:  # ValueError or RuntimeError, by where it fails
            raise BundleError(f"TFLite can't load the model: {_brief(error)}") from error
        self.signatures = tuple(
            Signature(name, _ports(runner.get_input_details()), _ports(runner.get_output_details()))
            for name, runner in self.runners.items()
        ) or (
            # A file without signatures: its main graph.
            Signature(
                "",
                _ports({d["name"]: d for d in self.interpreter.get_input_details()}),
                _ports({d["name"]: d for d in self.interpreter.get_output_details()}),
            ),
        )

    def run(self, inputs: Tensors, signature: str = "") -> Tensors:
        try:
            if self.runners:
                self._check(inputs, signature)
                return dict(self.runners[signature](**inputs))
            return self._run_main(inputs)
        except Exception as error:
            raise BundleError(f"TFLite can't run the model: {_brief(error)}") from error

    def _check(self, inputs: Tensors, signature: str) -> None:
        """The interpreter would resize an input of another shape, and with it not the constants
        that were computed for the old one."""
        for port in next(s for s in self.signatures if s.name == signature).inputs:
            got = inputs[port.name].shape
            if len(got) != len(port.shape) or any(
                side not in (None, n) for side, n in zip(port.shape, got, strict=True)
            ):
                raise ValueError(f"{port.name} is {list(got)}, not {list(port.shape)}")

    def _run_main(self, inputs: Tensors) -> Tensors:
        for detail in self.interpreter.get_input_details():
            value = inputs[detail["name"]]
            if tuple(detail["shape"]) != value.shape:
                self.interpreter.resize_tensor_input(detail["index"], value.shape, strict=True)
        self.interpreter.allocate_tensors()  # at once where nothing was resized
        for detail in self.interpreter.get_input_details():
            self.interpreter.set_tensor(detail["index"], inputs[detail["name"]])
        self.interpreter.invoke()
        return {
            detail["name"]: self.interpreter.get_tensor(detail["index"])
            for detail in self.interpreter.get_output_details()
        }


def _interpreter() -> Any:
    for package in PACKAGES:
        try:
            return importlib.import_module(package).Interpreter
        except ImportError:
            continue
    raise MissingExtraError("a TFLite interpreter", "tflite")


def _ports(details: Mapping[str, Mapping[str, Any]]) -> tuple[Port, ...]:
    return tuple(_port(name, detail) for name, detail in details.items())


def _port(name: str, detail: Mapping[str, Any]) -> Port:
    quantization = detail["quantization_parameters"]
    scales, zeros = quantization["scales"], quantization["zero_points"]
    if len(scales) > 1:
        raise BundleError(f"the model's {name} has a scale per channel; export it with one scale")
    return Port(
        name,
        tuple(None if side < 0 else int(side) for side in detail["shape_signature"]),
        np.dtype(detail["dtype"]),
        float(scales[0]) if len(scales) else 0.0,
        int(zeros[0]) if len(zeros) else 0,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The C++ library announces its delegate on stderr, which no setting stops; TensorFlow says
    what it would run better on, and that its interpreter has moved."""
    stderr = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(sink)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
