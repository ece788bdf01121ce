"""Packs host code as a fat binary of CUDA: the container that drivers, cuobjdump and aprgraph.codegen.cuda.fat_binary read.

What stands in it for a cubin is the kernel library, an ELF object for the host, marked as CUDA's: the machine in its header is
190, and its kernels have CUDA's mark in st_other. The emulated driver puts the machine back.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence

_HEADER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQQHHIIIQQQ")
_MAGIC, _VERSION = 0xBA55ED50, 1
_PTX, _SASS = 1, 2
_FLAGS = {"": 0x11, "a": 0x11 | 0x100000, "f": 0x11 | 0x200000}  # 64-bit, made on Linux

_ELF = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_CUDA_MACHINE = 190
_SYMBOL_TABLE, _FUNCTION, _KERNEL_MARK = 2, 2, 0x10


def pack(library: bytes, kernels: Collection[str], sass: Sequence[str], ptx: Sequence[str]) -> bytes:
    """A fat binary of ``library`` for the architectures ``sass`` and, as text that only names ``kernels``, ``ptx``: "80", "90a"."""
    entries = [_entry(_SASS, number, as_cubin(library, kernels), (1, 8)) for number in sass]
    entries += [_entry(_PTX, number, _ptx(number, kernels), (0, 9)) for number in ptx]
    body = b"".join(entries)
    return _HEADER.pack(_MAGIC, _VERSION, _HEADER.size, len(body)) + body


def _entry(kind: int, architecture: str, payload: bytes, version: tuple[int, int]) -> bytes:
    suffix = architecture[-1] if architecture[-1] in "af" else ""
    number = int(architecture.removesuffix(suffix))
    payload += bytes(-len(payload) % 8)
    return _ENTRY.pack(kind, 0x101, _ENTRY.size, len(payload), 0, *version, number, 0, 0, _FLAGS[suffix], 0, 0) + payload


def _ptx(architecture: str, kernels: Collection[str]) -> bytes:
    lines = ["// No code: the emulated driver runs the host code of another image.", ".version 9.0", f".target sm_{architecture}"]
    lines += [".address_size 64", *(f".visible .entry {name}() {{ ret; }}" for name in kernels), ""]
    return "\n".join(lines).encode() + b"\0"


def as_cubin(library: bytes, kernels: Collection[str]) -> bytes:
    """The ELF object, marked as CUDA's."""
    data = bytearray(library)
    header = list(_ELF.unpack_from(data))
    table, count = header[6], header[12]
    header[2] = _CUDA_MACHINE
    _ELF.pack_into(data, 0, *header)
    sections = [_SECTION.unpack_from(data, table + i * _SECTION.size) for i in range(count)]
    for kind, offset, size, link in [(section[1], section[4], section[5], section[6]) for section in sections]:
        if kind != _SYMBOL_TABLE:
            continue
        for at in range(offset, offset + size, _SYMBOL.size):
            name, info, other, *rest = _SYMBOL.unpack_from(data, at)
            start = sections[link][4] + name
            if info & 0xF == _FUNCTION and data[start : data.index(0, start)].decode() in kernels:
                _SYMBOL.pack_into(data, at, name, info, other | _KERNEL_MARK, *rest)
    return bytes(data)
