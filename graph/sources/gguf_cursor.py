"""Reads a GGUF header value by value, and checks every length against the end of the file before it is followed."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from aprgraph.graph.errors import ModelFileError
from aprgraph.graph.metadata import Scalar

#: Numbers of the value types: those that are not scalars, and `struct` layouts of those that are.
STRING, ARRAY, BOOL = 8, 9, 7
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}


class Cursor:
    """Reads little-endian values in order; every read is checked against the end of the file first."""

    def __init__(self, data: mmap.mmap | bytes, path: Path) -> None:
        self.data, self.path, self.position, self.size = data, path, 0, len(data)

    def take(self, count: int, what: str) -> int:
        """The offset of the next ``count`` bytes, which become consumed."""
        start = self.position
        if count > self.size - start:
            raise ModelFileError(
                f"{self.path}: truncated in {what} at byte {start}: {count} more bytes expected, "
                f"{self.size - start} are there; copy or download the file again"
            )
        self.position = start + count
        return start

    def scalar(self, code: int, what: str) -> Scalar:
        layout = SCALARS[code]
        value = struct.unpack_from(layout, self.data, self.take(struct.calcsize(layout), what))[0]
        return bool(value) if code == BOOL else value

    def u32(self, what: str) -> int:
        return int(self.scalar(4, what))

    def u64(self, what: str) -> int:
        return int(self.scalar(10, what))

    def text(self, what: str, most: int | None = None) -> str:
        return self.raw_text(what, most).decode("utf-8", errors="replace")

    def raw_text(self, what: str, most: int | None = None) -> bytes:
        length = self.u64(what)
        if most is not None and most < length <= self.size - self.position:
            raise ModelFileError(f"{self.path}: {what} has {length} bytes, expected at most {most}; the file is damaged")
        start = self.take(length, what)
        return bytes(self.data[start : start + length])

    def count(self, value: int, least_bytes: int, what: str) -> int:
        """``value`` if that many items of at least ``least_bytes`` can still follow."""
        if value > (self.size - self.position) // least_bytes:
            raise ModelFileError(
                f"{self.path}: {what} says {value} entries at byte {self.position}, more than the rest of the file "
                f"({self.size - self.position} bytes) can hold; the file is damaged or truncated"
            )
        return value
