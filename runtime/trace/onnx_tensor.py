"""A tensor of ONNX (`.pb` of a test_data_set, `.tensorproto` of ONNX Runtime's node dumps): TensorProto of onnx.proto, read without onnx.

A message of Protocol Buffers is fields one after the other: a number that holds the field's number and how it is encoded, then its value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from aprgraph.graph.errors import TraceError
from aprgraph.graph.input_file import read_input
from aprgraph.graph.words import shape_text

ONNX: Final = (".pb", ".tensorproto")
_MOST_BYTES = 1 << 31
#: How a field is encoded: a number of seven bits a byte, eight bytes, bytes behind their count, four bytes.
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
#: The numbers of TensorProto's fields.
_DIMS, _TYPE, _FLOATS, _INTS, _STRINGS, _LONGS, _NAME, _RAW, _DOUBLES, _UNSIGNED, _EXTERNAL, _LOCATION = (
    1,
    2,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    11,
    13,
    14,
)
#: TensorProto.DataType by number, as far as tensors of a model are of it.
_DTYPES: dict[int, Any] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16,
    11: np.float64, 12: np.uint32, 13: np.uint64, 16: ml_dtypes.bfloat16, 17: ml_dtypes.float8_e4m3fn, 19: ml_dtypes.float8_e5m2,
}  # fmt: skip
_AGAIN = "save it again, or as .npy (numpy.save(path, onnx.numpy_helper.to_array(tensor)))"


def read_onnx_tensor(path: Path) -> tuple[str, Any]:
    """The tensor's name, empty where it has none, and its array. Raises TraceError."""
    try:
        data = memoryview(read_input(path, _MOST_BYTES))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        fields = list(_fields(data))
        return _text(fields), _array(fields)
    except (ValueError, IndexError, OverflowError) as error:
        raise TraceError(f"{path}: is no TensorProto of ONNX that can be read ({error}); {_AGAIN}") from None


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Each field's number, and its value: an integer, or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        encoding = key & 7
        value: int | memoryview
        if encoding == _VARINT:
            value, at = _varint(data, at)
        else:
            size = {_EIGHT: 8, _FOUR: 4}.get(encoding)
            if encoding == _BYTES:
                size, at = _varint(data, at)
            if size is None or at + size > len(data):
                raise ValueError("it is cut off, or something else")
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("it is cut off, or something else")


def _text(fields: list[tuple[int, Any]]) -> str:
    names = [value for number, value in fields if number == _NAME and isinstance(value, memoryview)]
    return bytes(names[-1]).decode("utf-8", "replace") if names else ""


def _array(fields: list[tuple[int, Any]]) -> Any:
    dims = [size for number, value in fields if number == _DIMS for size in _integers(value)]
    kind = next((value for number, value in fields if number == _TYPE), 0)
    dtype = _DTYPES.get(kind) if isinstance(kind, int) else None
    if any(number == _EXTERNAL or (number == _LOCATION and value) for number, value in fields):
        raise ValueError("its data lie in another file")
    if dtype is None or any(number == _STRINGS for number, _ in fields):
        raise ValueError(f"its data_type is {kind}, expected real or whole numbers")
    found = _elements(fields, np.dtype(dtype))
    if found.size != math.prod(dims):
        raise ValueError(f"it has {found.size} elements, expected {shape_text(dims) or 1}")
    return found.reshape(dims)


def _elements(fields: list[tuple[int, Any]], dtype: Any) -> Any:
    """All elements, from the one field that has any."""
    raw = [value for number, value in fields if number == _RAW]
    if raw:
        if not isinstance(raw[-1], memoryview) or len(raw[-1]) % dtype.itemsize:
            raise ValueError("its bytes are no whole number of elements")
        return np.frombuffer(raw[-1], dtype)
    for field, stored in ((_FLOATS, np.float32), (_DOUBLES, np.float64)):
        given = [value for number, value in fields if number == field]
        if given:
            return np.frombuffer(b"".join(map(bytes, given)), stored)
    whole = [one for number, value in fields if number in (_INTS, _LONGS, _UNSIGNED) for one in _integers(value)]
    if dtype.kind in "uib":
        return np.array(whole, np.uint64).astype(np.int64).astype(dtype)
    # Of floats of 16 and 8 bits, the bits.
    return np.array(whole, np.uint64).astype({2: np.uint16, 1: np.uint8}[dtype.itemsize]).view(dtype)


def _integers(value: Any) -> Iterator[int]:
    """The whole numbers of a field: one, or packed one after the other."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        one, at = _varint(value, at)
        yield one
