"""The weights inside a model file, read without the packages that made it.

ONNX is protobuf, TFLite a FlatBuffer, and Core ML keeps its weights in blobs with a small header:
of each a few fields are enough to know every constant tensor, its type, and how its whole numbers
stand for reals. `scaled` changes the strength of one layer in place, for the diagnosis of `verify`.
Formats: onnx/onnx.proto, tensorflow/lite/schema/schema.fbs, coremltools' StorageFormat.hpp.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from argan.errors import BundleError

Array = NDArray[np.float32]

ONNX_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
    21: "uint4", 22: "int4",
}  # fmt: skip
TFLITE_TYPES = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16",
    9: "int8", 10: "float64", 12: "uint64", 15: "uint32", 16: "uint16", 17: "int4",
}  # fmt: skip
COREML_TYPES = {
    1: "float16", 2: "float32", 3: "uint8", 4: "int8", 5: "bfloat16", 6: "int16", 7: "uint16",
    8: "int4", 9: "uint1", 10: "uint2", 11: "uint4", 12: "uint3", 13: "uint6", 14: "int32",
}  # fmt: skip
FLOATS = ("float32", "float16", "float64", "bfloat16")
SENTINEL = 0xDEADBEEF  # before each blob of Core ML


class CutShort(BundleError):
    """A file that ends before what it says it holds."""


@dataclass(frozen=True)
class Scale:
    """real = scale * (stored - zero_point), one pair or one per index of `axis`; `at` is where in
    the file the scales lie, float32."""

    at: slice
    zero_points: tuple[int, ...]
    axis: int


@dataclass(frozen=True)
class Weight:
    """A constant tensor; `at` is where in the file its values lie, `bias` the name of the constant
    that its layer adds, "" where there is none."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    at: slice
    scale: Scale | None = None
    bias: str = ""

    @property
    def size(self) -> int:
        return int(self.at.stop) - int(self.at.start)


def read(data: bytes, format: str) -> list[Weight]:
    """The constant tensors of a model file, "onnx" or "tflite". CutShort where it ends before what
    it says it holds, BundleError where it can't be read otherwise."""
    try:
        return list(_onnx(data) if format == "onnx" else _tflite(data))
    except (IndexError, struct.error) as error:  # what its numbers point at lies beyond its end
        raise CutShort(f"the {format} file ends too early: it was cut short") from error
    except (KeyError, ValueError) as error:
        raise BundleError(f"the file is no readable {format} model ({error})") from error


def values(data: bytes, weight: Weight) -> Array | None:
    """The reals that it stands for; None where they can't be had: types of no whole byte, sizes or
    scales that don't fit its shape."""
    if weight.dtype not in (*FLOATS[:3], "int8", "uint8", "int16", "int32"):
        return None
    if min(weight.shape, default=1) < 0 or weight.size != np.dtype(weight.dtype).itemsize * (
        math.prod(weight.shape)
    ):
        return None
    stored = np.frombuffer(data[weight.at], weight.dtype).reshape(weight.shape)
    if weight.scale is None:
        return None if stored.dtype.kind != "f" else stored.astype(np.float32)
    scales = np.frombuffer(data[weight.scale.at], np.float32)
    zeros = np.array(weight.scale.zero_points, np.float32)
    if scales.size == 1:
        return np.asarray((stored - zeros[:1]) * scales, np.float32)
    if not 0 <= weight.scale.axis < stored.ndim or scales.size != stored.shape[weight.scale.axis]:
        return None
    shape = [1] * stored.ndim
    shape[weight.scale.axis] = -1
    zeros = np.broadcast_to(zeros, scales.shape)
    return np.asarray((stored - zeros.reshape(shape)) * scales.reshape(shape), np.float32)


def scaled(data: bytes, weight: Weight, gain: float) -> bytes:
    """The file with this weight times `gain`: a float's values, of whole numbers the scales."""
    at, dtype = (weight.scale.at, "float32") if weight.scale else (weight.at, weight.dtype)
    numbers = np.frombuffer(data[at], dtype)
    changed = (numbers * numbers.dtype.type(gain)).astype(numbers.dtype)
    return b"".join([data[: at.start], changed.tobytes(), data[at.stop :]])


def census(files: Mapping[str, bytes], format: str) -> dict[str, int]:
    """{type: bytes of constants} of a model; `files` are {its name: content}, of Core ML those of
    its package. BundleError where a file can't be read."""
    counts: dict[str, int] = {}
    for name, data in files.items():
        if format != "coreml":
            sizes = [(weight.dtype, weight.size) for weight in read(data, format)]
        else:
            sizes = list(_blobs(data)) if name.endswith("weight.bin") else []
        for dtype, size in sizes:
            counts[dtype] = counts.get(dtype, 0) + size
    return counts


def operators(model: bytes) -> list[str]:
    """The op type of each node of an ONNX file's main graph."""
    return [
        _text(model, field)
        for number, graph in _fields(model, slice(0, len(model)))
        if number == 7
        for at, node in _fields(model, graph)
        if at == 1
        for key, field in _fields(model, node)
        if key == 4
    ]


# ---- ONNX: a message is a sequence of (number << 3 | kind, value)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """-> the number, and where it ends."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _fields(data: bytes, message: slice) -> Iterator[tuple[int, slice]]:
    """The fields of a message: their number, and where their value lies."""
    at = message.start
    while at < message.stop:
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                end = _varint(data, at)[1]
            case 1:
                end = at + 8
            case 2:
                length, at = _varint(data, at)
                end = at + length
            case 5:
                end = at + 4
            case kind:
                raise ValueError(f"a field of kind {kind}")
        if end > message.stop:
            raise IndexError("a field that ends beyond its message")
        yield key >> 3, slice(at, end)
        at = end


def _text(data: bytes, at: slice) -> str:
    return data[at].decode()


def _onnx(data: bytes) -> Iterator[Weight]:
    graph = next((at for n, at in _fields(data, slice(0, len(data))) if n == 7), slice(0, 0))
    weights: dict[str, Weight] = {}
    integers: dict[str, tuple[int, ...]] = {}  # int32_data: how zero points are often stored
    dequantize: dict[str, tuple[list[str], int]] = {}  # weight: inputs of the op, axis
    stored: dict[str, str] = {}  # a weight that was dequantised: what it is in the file
    biases: dict[str, str] = {}
    for number, at in _fields(data, graph):
        if number == 5:
            weight = _onnx_tensor(data, at)
            weights[weight.name] = weight
            integers[weight.name] = _packed(data, [a for n, a in _fields(data, at) if n == 5])
        elif number == 1:
            node = list(_fields(data, at))
            kind = next((_text(data, a) for n, a in node if n == 4), "")
            inputs = [_text(data, a) for n, a in node if n == 1]
            output = next((_text(data, a) for n, a in node if n == 2), "")
            if kind == "DequantizeLinear":
                dequantize[inputs[0]] = inputs, _axis(data, [a for n, a in node if n == 5])
                stored[output] = inputs[0]
            elif kind in ("Conv", "ConvTranspose", "Gemm") and len(inputs) == 3:
                biases[inputs[1]] = inputs[2]
            elif kind == "Constant":
                for tensor in (t for n, a in node if n == 5 for m, t in _fields(data, a) if m == 5):
                    weight = _onnx_tensor(data, tensor)
                    weights[output] = replace(weight, name=output)
    biases = {stored.get(w, w): stored.get(bias, bias) for w, bias in biases.items()}
    for name, weight in weights.items():
        inputs, axis = dequantize.get(name, ([], 0))
        scale = weights.get(inputs[1]) if len(inputs) > 1 else None
        found = None
        if scale is not None and scale.dtype == "float32":
            zeros: tuple[int, ...] = (0,)
            if len(inputs) > 2 and inputs[2] in weights:
                zero = weights[inputs[2]]
                raw = np.frombuffer(data[zero.at], zero.dtype)
                zeros = integers[zero.name] or tuple(map(int, raw))
            found = Scale(scale.at, zeros, axis + len(weight.shape) if axis < 0 else axis)
        yield replace(weight, scale=found, bias=biases.get(name, ""))


def _onnx_tensor(data: bytes, message: slice) -> Weight:
    name, kind, values = "", 0, slice(0, 0)
    shape: tuple[int, ...] = ()
    for number, at in _fields(data, message):
        if number == 1:
            shape += _packed(data, [at])
        elif number == 2:
            kind = _varint(data, at.start)[0]
        elif number == 8:
            name = _text(data, at)
        elif number in (4, 9):  # float_data and raw_data: the values as they lie in memory
            values = at
    return Weight(name, ONNX_TYPES.get(kind, f"type {kind}"), tuple(shape), values)


def _packed(data: bytes, fields: list[slice]) -> tuple[int, ...]:
    """Numbers stored as varints, packed or one by one."""
    numbers = []
    for field in fields:
        at = field.start
        while at < field.stop:
            number, at = _varint(data, at)
            numbers.append(number - (1 << 64) if number >> 63 else number)
    return tuple(numbers)


def _axis(data: bytes, attributes: list[slice]) -> int:
    """The attribute "axis" of DequantizeLinear, by default 1."""
    for attribute in attributes:
        fields = dict(_fields(data, attribute))
        if _text(data, fields[1]) == "axis":
            return _packed(data, [fields[3]])[0]
    return 1


# ---- TFLite: a table begins with the way back to its list of offsets, one for each field


def _u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, index: int) -> int | None:
    """Where the value of a field lies; None where it is left out."""
    offsets = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * index >= struct.unpack_from("<H", data, offsets)[0]:
        return None
    offset = struct.unpack_from("<H", data, offsets + 4 + 2 * index)[0]
    return table + offset if offset else None


def _vector(data: bytes, table: int, index: int, size: int) -> slice:
    """Where the elements, `size` bytes each, of a field lie."""
    at = _field(data, table, index)
    if at is None:
        return slice(0, 0)
    start = at + _u32(data, at) + 4
    stop = start + size * _u32(data, start - 4)
    if stop > len(data):
        raise IndexError("a vector that ends beyond the file")
    return slice(start, stop)


def _tables(data: bytes, table: int, index: int) -> list[int]:
    at = _vector(data, table, index, 4)
    return [i + _u32(data, i) for i in range(at.start, at.stop, 4)]


def _tflite(data: bytes) -> Iterator[Weight]:
    if data[4:8] != b"TFL3":
        raise ValueError("it does not begin as one")
    model = _u32(data, 0)
    buffers = _tables(data, model, 4)
    seen = set()
    for subgraph in _tables(data, model, 2):  # one for each signature; they share buffers
        tensors = _tables(data, subgraph, 0)
        biases = {}  # index of a weight: index of the bias that its operator takes after it
        for operator in _tables(data, subgraph, 3):
            inputs = np.frombuffer(data[_vector(data, operator, 1, 4)], np.int32)
            if len(inputs) == 3 and inputs[2] >= 0:
                biases[int(inputs[1])] = int(inputs[2])
        for index, tensor in enumerate(tensors):
            at = _field(data, tensor, 2)
            buffer = _u32(data, at) if at else 0
            values = _vector(data, buffers[buffer], 0, 1)
            if values.stop == values.start or buffer in seen:
                continue
            seen.add(buffer)
            kind = _field(data, tensor, 1)
            dtype = TFLITE_TYPES.get(data[kind] if kind else 0, "other")
            shape = np.frombuffer(data[_vector(data, tensor, 0, 4)], np.int32)
            bias = biases.get(index)
            yield Weight(
                _text(data, _vector(data, tensor, 3, 1)), dtype, tuple(map(int, shape)), values,
                _tflite_scale(data, tensor),
                "" if bias is None else _text(data, _vector(data, tensors[bias], 3, 1)),
            )  # fmt: skip


def _tflite_scale(data: bytes, tensor: int) -> Scale | None:
    at = _field(data, tensor, 4)
    if at is None:
        return None
    table = at + _u32(data, at)
    scales = _vector(data, table, 2, 4)
    if scales.stop == scales.start:
        return None
    zeros = np.frombuffer(data[_vector(data, table, 3, 8)], np.int64)
    axis = _field(data, table, 6)
    number = struct.unpack_from("<i", data, axis)[0] if axis else 0
    return Scale(scales, tuple(map(int, zeros)) or (0,), number)


# ---- Core ML: a header of 64 bytes; before each blob another: sentinel, type, size, offset


def _blobs(data: bytes) -> Iterator[tuple[str, int]]:
    """The type and the bytes of each blob of a weight.bin."""
    try:
        count, version = struct.unpack_from("<II", data, 0)
        at = 64
        for _ in range(count if version == 2 else 0):
            sentinel, kind, size, start = struct.unpack_from("<IIQQ", data, at)
            if sentinel != SENTINEL or start + size > len(data):
                raise ValueError("a blob without its header")
            yield COREML_TYPES.get(kind, f"type {kind}"), size
            at = (start + size + 63) // 64 * 64
    except (struct.error, ValueError) as error:
        raise BundleError(f"the weights of the package can't be read ({error})") from error
