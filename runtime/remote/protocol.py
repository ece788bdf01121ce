"""What is said to a TVM RPC server, and what it may answer: version 0.8.0 of TVM's protocol, as far as it is needed.

A packet is a u64 length, an i32 code and what belongs to that. Values are packed as an i32 count, then of each an i32 type and
its content. All numbers are little-endian. (apache-tvm 0.27.0: src/runtime/rpc/minrpc/rpc_reference.h and rpc_endpoint.cc;
the types' numbers: tvm/ffi/c_api.h.)

TVM's own client does what a server tells it: the codes by which a client calls functions go both ways, and among the functions
is one that runs shell commands. Here a server can answer, and nothing else: an answer is a few plain values, of bounded size,
that are read without being trusted. Handles are numbers that only the server can use.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

PROTOCOL_VERSION = "0.8.0"
MAGIC = 0xFF271
OTHER_KEY = MAGIC + 2
#: Of an answer that is no tensor; those that are needed have less than 10 KB.
MOST_ANSWER_BYTES = 1 << 20


class Code(IntEnum):
    """What a packet is. A server may send the codes RETURN, EXCEPTION and COPY_ACK."""

    SHUTDOWN = 1
    INIT_SERVER = 2
    CALL_FUNCTION = 3
    RETURN = 4
    EXCEPTION = 5
    COPY_FROM_SERVER = 6
    COPY_TO_SERVER = 7
    COPY_ACK = 8
    GET_GLOBAL_FUNCTION = 9
    GET_DEVICE_ATTRIBUTE = 12
    ALLOCATE = 13
    FREE = 14


class ValueType(IntEnum):
    """The types of packed values."""

    NONE = 0
    INT = 1
    BOOL = 2
    FLOAT = 3
    HANDLE = 4
    DTYPE = 5
    DEVICE = 6
    TENSOR = 7
    TEXT = 8
    BYTES = 9
    SMALL_STRING = 11
    SMALL_BYTES = 12
    STRING_OBJECT = 65
    BYTES_OBJECT = 66
    FUNCTION = 68
    MODULE = 73
    OBJECT = 115  # TVM's runtime's own: 13 below the first that is given out while it runs


class ProtocolError(Exception):
    """What came is not an answer. The text says what came instead."""


@dataclass(frozen=True)
class Device:
    """A device of the server: DLPack's type (1 the CPU, 2 CUDA) and its number."""

    kind: int
    index: int = 0

    def packed(self) -> bytes:
        return struct.pack("<ii", self.kind, self.index)


@dataclass(frozen=True)
class Handle:
    """What the server calls something by, and what it is: a function, a module, or any other object."""

    number: int
    type: ValueType = ValueType.HANDLE


@dataclass(frozen=True)
class Tensor:
    """A tensor on the server: ``shape`` of ``dtype`` (NumPy's name) from byte ``offset`` of the memory ``data`` on."""

    data: int
    device: Device
    shape: tuple[int, ...]
    dtype: str
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def packed(self) -> bytes:
        """As TVM writes a DLTensor; the bytes of its shape are between two fixed parts."""
        head = struct.pack("<Q8si4s", self.data, self.device.packed(), len(self.shape), packed_dtype(self.dtype))
        return head + struct.pack(f"<{len(self.shape)}qQ", *self.shape, self.offset)


#: DLPack's codes of NumPy's kinds.
_DTYPE_CODES = {"i": 0, "u": 1, "f": 2}


def packed_dtype(name: str) -> bytes:
    """A dtype as DLPack has it: code, bits, lanes."""
    dtype = np.dtype(name)
    return struct.pack("<BBH", _DTYPE_CODES[dtype.kind], dtype.itemsize * 8, 1)


Value = int | float | bool | str | bytes | np.dtype | Device | Handle | Tensor | None


def pack(values: Sequence[Value]) -> bytes:
    """Packed values."""
    return struct.pack("<i", len(values)) + b"".join(map(_packed, values))


def _packed(value: Value) -> bytes:
    if value is None:
        return struct.pack("<i", ValueType.NONE)
    if isinstance(value, Tensor):
        return struct.pack("<i", ValueType.TENSOR) + value.packed()
    if isinstance(value, bool):
        return struct.pack("<iq", ValueType.BOOL, value)
    if isinstance(value, int):
        return struct.pack("<iq", ValueType.INT, value)
    if isinstance(value, float):
        return struct.pack("<id", ValueType.FLOAT, value)
    if isinstance(value, str):
        text = value.encode()
        return struct.pack("<iQ", ValueType.TEXT, len(text)) + text
    if isinstance(value, bytes):
        return struct.pack("<iQ", ValueType.BYTES, len(value)) + value
    if isinstance(value, Device):
        return struct.pack("<i", ValueType.DEVICE) + value.packed()
    if isinstance(value, np.dtype):
        return struct.pack("<i4si", ValueType.DTYPE, packed_dtype(value.name), 0)
    if value.type is ValueType.OBJECT:  # an object says its type twice
        return struct.pack("<iIQ", ValueType.OBJECT, ValueType.OBJECT, value.number)
    return struct.pack("<iQ", value.type, value.number)


class Reader:
    """Reads a packet's content. Raises ProtocolError where it ends too early, or is of a kind that no answer has."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def values(self) -> list[Value]:
        """Packed values, to the end of the data."""
        (count,) = self._unpack("<i")
        if not 0 <= count <= len(self._data):
            raise ProtocolError(f"an answer of {count} values")
        values = [self._value() for _ in range(count)]
        if self._at != len(self._data):
            raise ProtocolError(f"an answer with {len(self._data) - self._at} bytes behind its end")
        return values

    def _value(self) -> Value:
        (kind,) = self._unpack("<i")
        if kind == ValueType.NONE:
            return None
        if kind in (ValueType.INT, ValueType.BOOL):
            return int(self._unpack("<q")[0])
        if kind == ValueType.FLOAT:
            return float(self._unpack("<d")[0])
        if kind in (ValueType.HANDLE, ValueType.FUNCTION, ValueType.MODULE):
            return Handle(int(self._unpack("<Q")[0]))
        if kind == ValueType.TEXT:
            return self._bytes().decode(errors="replace")
        if kind == ValueType.BYTES:
            return self._bytes()
        if kind in (ValueType.SMALL_STRING, ValueType.SMALL_BYTES, ValueType.STRING_OBJECT, ValueType.BYTES_OBJECT, ValueType.OBJECT):
            return self._object()
        raise ProtocolError(f"a value of type {kind}")

    def _object(self) -> Value:
        (kind,) = self._unpack("<I")
        if kind == ValueType.STRING_OBJECT:
            return self._bytes().decode(errors="replace")
        if kind == ValueType.BYTES_OBJECT:
            return self._bytes()
        if kind == ValueType.OBJECT:
            return Handle(int(self._unpack("<Q")[0]), ValueType.OBJECT)
        raise ProtocolError(f"an object of type {kind}")

    def _bytes(self) -> bytes:
        (size,) = self._unpack("<Q")
        if size > len(self._data) - self._at:
            raise ProtocolError(f"{size} bytes in an answer of {len(self._data)}")
        start, self._at = self._at, self._at + size
        return self._data[start : self._at]

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        size = struct.calcsize(layout)
        if size > len(self._data) - self._at:
            raise ProtocolError(f"an answer that ends at byte {len(self._data)}, in the middle of a value")
        found = struct.unpack_from(layout, self._data, self._at)
        self._at += size
        return found
