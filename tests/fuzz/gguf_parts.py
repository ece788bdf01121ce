"""A GGUF file taken apart into what can be damaged by itself."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.support.gguf_bytes import ARRAY, LAYOUT, STRING, RawGGUF, RawTensor


def read_raw(path: Path) -> tuple[RawGGUF, bytes]:
    """The keys and tensors of a sound file, whose header packs to the same bytes, and its data."""
    data = path.read_bytes()
    position = 24

    def take(layout: str) -> int:
        nonlocal position
        [value] = struct.unpack_from(layout, data, position)
        position += struct.calcsize(layout)
        return int(value)

    def text() -> bytes:
        nonlocal position
        size = take("<Q")
        position += size
        return data[position - size : position]

    def skip(kind: int) -> None:
        nonlocal position
        if kind == STRING:
            text()
        elif kind == ARRAY:
            inner = take("<I")
            for _ in range(take("<Q")):
                skip(inner)
        else:
            position += struct.calcsize(LAYOUT[kind])

    file = RawGGUF()
    tensors, keys = struct.unpack_from("<QQ", data, 8)
    for _ in range(keys):
        name, kind = text(), take("<I")
        start = position
        skip(kind)
        file.keys[name.decode()] = kind, data[start:position]
    for _ in range(tensors):
        name = text()
        dims = tuple(take("<Q") for _ in range(take("<I")))[::-1]
        kind, offset = take("<I"), take("<Q")
        file.tensors[name.decode()] = RawTensor(dims, kind, offset)
    assert file.header() == data[:position]
    return file, data[position + -position % file.alignment :]
