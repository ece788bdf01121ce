"""LZ4 blocks and zstd frames that compress nothing, written by the formats' documents, and what unpacks them here.

lz4.org's lz4_Block_format.md: a sequence of literals alone ends a block. RFC 8878: a frame of raw blocks. Both are what
the packages `lz4` and `zstandard` read; where these are not installed, stand-ins that know such streams alone.
"""

from __future__ import annotations

import importlib.util
import io
import sys
from types import ModuleType
from typing import Any

import pytest

_ZSTD_MAGIC, _RAW = b"\x28\xb5\x2f\xfd", 1 << 16


def lz4_block(data: bytes) -> bytes:
    """The size, and one sequence of literals."""
    rest = len(data) - 15
    count = b"\xff" * (rest // 255) + bytes([rest % 255]) if rest >= 0 else b""
    return len(data).to_bytes(4, "little") + bytes([min(len(data), 15) << 4]) + count + data


def zstd_frame(data: bytes) -> bytes:
    """One segment, its size in 4 bytes, and raw blocks of up to 64 KiB."""
    blocks = [data[start : start + _RAW] for start in range(0, len(data), _RAW)]
    head = _ZSTD_MAGIC + b"\xa0" + len(data).to_bytes(4, "little")
    return head + b"".join((len(one) << 3 | (one is blocks[-1])).to_bytes(3, "little") + one for one in blocks)


class _Lz4BlockError(Exception):
    pass


class _ZstdError(Exception):
    pass


def _unpack_lz4(block: bytes, uncompressed_size: int) -> bytes:
    data = block[-uncompressed_size:] if uncompressed_size else b""
    if lz4_block(data)[4:] != block:
        raise _Lz4BlockError("Decompression failed: corrupt input or insufficient space in destination buffer")
    return data


class _ZstdDecompressor:
    def stream_reader(self, source: Any, *, closefd: bool) -> io.BytesIO:
        assert not closefd
        frame = source.read()
        if not frame.startswith(_ZSTD_MAGIC):
            raise _ZstdError("zstd decompress error: Unknown frame descriptor")
        data, place, last = b"", 9, False
        while not last and place < len(frame):
            header = int.from_bytes(frame[place : place + 3], "little")
            data, place, last = data + frame[place + 3 : place + 3 + (header >> 3)], place + 3 + (header >> 3), bool(header & 1)
        return io.BytesIO(data)


def provide_unpackers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-ins in the place of packages that are not installed."""
    members: dict[str, dict[str, object]] = {
        "lz4": {},
        "lz4.block": {"decompress": _unpack_lz4, "LZ4BlockError": _Lz4BlockError},
        "zstandard": {"ZstdDecompressor": _ZstdDecompressor, "ZstdError": _ZstdError},
    }
    missing = [name for name in members if importlib.util.find_spec(name.partition(".")[0]) is None]
    for name, values in members.items():
        if name in missing:
            module = ModuleType(name)
            module.__dict__.update(values)
            monkeypatch.setitem(sys.modules, name, module)
