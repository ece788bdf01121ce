"""Reads CUDA fat binaries: which images are inside, for which architectures, with which kernels, and what each kernel takes.

A fat binary, little-endian (magic and header: fatbinary_section.h and fatBinaryHeader of the CUDA toolkit; entries: as
cuobjdump shows them, with which this reader was compared):

    0   u32 magic 0xBA55ED50, u16 version 1, u16 size of this header (16), u64 size of all entries
    then entries, each:
    0   u16 kind (1 PTX, 2 SASS), u16 version, u32 size of the entry's header, u64 size of the payload after it
    24  u16 minor and u16 major version: of the PTX language, or of the cubin's format
    28  u32 architecture (80, 120)
    40  u64 flags: 0x2000 or 0x8000 compressed (LZ4, Zstandard), 0x100000 suffix a, 0x200000 suffix f

PTX is text, filled up with NULs. SASS is a cubin, an ELF64 object of machine 190: a kernel is a function symbol with
0x10 in st_other; registers and stack stand in .nv.info, whose attributes are u8 format, u8 attribute and, for format 4, u16
size and that many bytes (here u32 symbol, u32 value); static shared memory is the size of the section .nv.shared.KERNEL,
of which, from sm_90 on, the first 1024 bytes are the system's, wherever there is a section .nv.shared.reserved.0.

Every size is checked against the bytes that there are before it is followed: damaged data raises ArtifactError.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from aprgraph.codegen.cuda.architectures import Architecture
from aprgraph.graph.errors import ArtifactError

_MAGIC = struct.pack("<IHH", 0xBA55ED50, 1, 16)  # with the version and the header size that belong to it
_HEADER = struct.Struct("<8sQ")
_ENTRY = struct.Struct("<HHIQ8xHHI8xQ")
_KINDS: dict[int, Literal["SASS", "PTX"]] = {1: "PTX", 2: "SASS"}
_COMPRESSED = 0x2000 | 0x8000
_SUFFIXES = {0: "", 0x100000: "a", 0x200000: "f"}

_ELF = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_ATTRIBUTE = struct.Struct("<BBH")
_PAIR = struct.Struct("<II")
_CUDA_MACHINE = 190
_SYMBOL_TABLE = 2
_FUNCTION, _KERNEL = 2, 0x10
_SIZED, _REGISTERS, _STACK = 0x04, 0x2F, 0x12  # EIFMT_SVAL, EIATTR_REGCOUNT, EIATTR_MIN_STACK_SIZE
_RESERVED_SHARED = 1024  # bytes a block, from compute capability 9.0 on

_PTX_ENTRY = re.compile(r"\.entry\s+([A-Za-z_$%][\w$]*)")


@dataclass(frozen=True)
class Kernel:
    """One kernel of an image. The numbers are None where the image does not tell: in PTX.

    ``registers`` a thread; ``shared_bytes`` of static shared memory a block, without what the system reserves;
    ``local_bytes`` a thread: the stack, of spilled registers and arrays, with that of functions called. As ptxas -v says.
    """

    name: str
    registers: int | None = None
    shared_bytes: int | None = None
    local_bytes: int | None = None


@dataclass(frozen=True)
class Image:
    """One image of a fat binary.

    It lies at byte ``offset`` of the data and takes ``size`` bytes. ``version`` is that of the PTX language ("9.0") or of the
    cubin's format. ``kernels`` are sorted by name; a compressed image is not looked into, and has none. ``text`` is the PTX.
    """

    kind: Literal["SASS", "PTX"]
    architecture: Architecture
    offset: int
    size: int
    version: str
    compressed: bool
    kernels: tuple[Kernel, ...]
    text: str | None

    @property
    def kernel_names(self) -> tuple[str, ...]:
        return tuple(kernel.name for kernel in self.kernels)

    def __str__(self) -> str:
        return str(self.architecture) if self.kind == "SASS" else f"PTX compute_{self.architecture.number}"


def read_fat_binary(data: bytes) -> list[Image]:
    """The images of the fat binary ``data``, in its order. Raises ArtifactError: not a fat binary, damaged, or data after it."""
    magic, size = _unpack(_HEADER, data, 0, len(data), "header")
    if magic != _MAGIC:
        raise ArtifactError(f"not a CUDA fat binary: it begins with {magic.hex(' ')} at byte 0, expected {_MAGIC.hex(' ')}")
    end = _end(data, _HEADER.size, size, len(data), "entries")
    images = list(_images(data, _HEADER.size, end))
    if end != len(data):
        raise ArtifactError(f"fat binary: {len(data) - end} bytes follow its end at byte {end}; expected none")
    return images


def _images(data: bytes, at: int, end: int) -> Iterator[Image]:
    while at < end:
        kind, _, header, size, minor, major, number, flags = _unpack(_ENTRY, data, at, end, "entry")
        if kind not in _KINDS:
            raise _damaged(f"the entry at byte {at} is of kind {kind}; expected 1 (PTX) or 2 (SASS)")
        if header < _ENTRY.size:
            raise _damaged(f"the entry at byte {at} has a header of {header} bytes; expected {_ENTRY.size} or more")
        suffix = _SUFFIXES.get(flags & sum(_SUFFIXES))
        if not 10 <= number < 1000 or suffix is None:
            raise _damaged(f"the entry at byte {at} is for architecture {number} with flags {flags:#x}; expected one such as 80")
        start = _end(data, at, header, end, "entry's header")
        at = _end(data, start, size, end, "image")
        compressed = bool(flags & _COMPRESSED)
        text: str | None = None
        kernels: tuple[Kernel, ...] = ()
        if not compressed and _KINDS[kind] == "PTX":
            text = _ptx(data, start, at)
            kernels = tuple(Kernel(name) for name in sorted(_PTX_ENTRY.findall(text)))
        elif not compressed:
            kernels = tuple(_Cubin(data, start, at).kernels())
        architecture = Architecture(number // 10, number % 10, suffix)
        yield Image(_KINDS[kind], architecture, start, size, f"{major}.{minor}", compressed, kernels, text)


def _ptx(data: bytes, start: int, end: int) -> str:
    try:
        return data[start:end].rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(f"the PTX at byte {start} is not text: byte {start + error.start}") from error


class _Section(NamedTuple):
    """A section header of an ELF64 object; ``name`` is a byte of the table of names."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class _Cubin:
    """The cubin in ``data`` from ``start`` to ``end``. Raises ArtifactError wherever it leads outside of these."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._data, self._start, self._end = data, start, end
        ident, _, machine, _, _, _, table, _, _, _, _, entry_size, count, names = _unpack(_ELF, data, start, end, "cubin's header")
        if ident[:6] != b"\x7fELF\x02\x01" or machine != _CUDA_MACHINE:
            raise _damaged(f"the image at byte {start} is not a cubin: an ELF64 object, little-endian, of machine {_CUDA_MACHINE}")
        if entry_size != _SECTION.size or names >= count:
            raise _damaged(f"the cubin at byte {start} has {count} section headers of {entry_size} bytes, names in {names}")
        at = start + table
        _end(data, at, count * entry_size, end, "table of sections")
        self._headers = [_Section(*_SECTION.unpack_from(data, at + i * entry_size)) for i in range(count)]
        self._sections = {self._text(names, section.name): section for section in self._headers}

    def kernels(self) -> list[Kernel]:
        """Sorted by name."""
        symbols = [symbol for section in self._headers if section.type == _SYMBOL_TABLE for symbol in self._symbols(section)]
        registers, stack = self._attributes()
        reserved = _RESERVED_SHARED if ".nv.shared.reserved.0" in self._sections else 0
        found = []
        for index, (name, info, other) in enumerate(symbols):
            if info & 0xF == _FUNCTION and other & _KERNEL:
                shared = self._sections.get(f".nv.shared.{name}")
                size = max(shared.size - reserved, 0) if shared else 0
                found.append(Kernel(name, registers.get(index), size, stack.get(index)))
        return sorted(found, key=lambda kernel: kernel.name)

    def _symbols(self, section: _Section) -> Iterator[tuple[str, int, int]]:
        """Name, st_info and st_other of each symbol."""
        start, end = self._contents(section)
        for at in range(start, end - _SYMBOL.size + 1, _SYMBOL.size):
            name, info, other, _, _, _ = _SYMBOL.unpack_from(self._data, at)
            yield self._text(section.link, name), info, other

    def _attributes(self) -> tuple[dict[int, int], dict[int, int]]:
        """Registers and stack bytes, by the symbol of the kernel, from .nv.info."""
        registers: dict[int, int] = {}
        stack: dict[int, int] = {}
        if ".nv.info" not in self._sections:
            return registers, stack
        at, end = self._contents(self._sections[".nv.info"])
        while at < end:
            layout, attribute, size = _unpack(_ATTRIBUTE, self._data, at, end, ".nv.info")
            at += _ATTRIBUTE.size
            if layout == _SIZED:  # in every other format, what is the size here is the value
                value, at = at, _end(self._data, at, size, end, ".nv.info")
                if attribute in (_REGISTERS, _STACK):
                    symbol, number = _unpack(_PAIR, self._data, value, at, ".nv.info")
                    (registers if attribute == _REGISTERS else stack)[symbol] = number
        return registers, stack

    def _contents(self, section: _Section) -> tuple[int, int]:
        """Where the section begins and ends in the data."""
        start = self._start + section.offset
        return start, _end(self._data, start, section.size, self._end, "section")

    def _text(self, table: int, at: int) -> str:
        """The string that begins at byte ``at`` of the section ``table``."""
        if table >= len(self._headers):
            raise _damaged(f"the cubin at byte {self._start} names section {table} of {len(self._headers)}")
        start, end = self._contents(self._headers[table])
        stop = self._data.find(b"\0", start + at, end)
        if stop < 0:
            raise _damaged(f"the string at byte {start + at} does not end within its section")
        return self._data[start + at : stop].decode("ascii", errors="backslashreplace")


def _unpack(layout: struct.Struct, data: bytes, start: int, end: int, what: str) -> tuple[Any, ...]:
    _end(data, start, layout.size, end, what)
    return layout.unpack_from(data, start)


def _end(data: bytes, start: int, size: int, limit: int, what: str) -> int:
    """Where ``size`` bytes from ``start`` end. Raises ArtifactError if that is after ``limit``."""
    if start + size > limit:
        of = "data ends" if limit == len(data) else "what it is part of ends"
        raise _damaged(f"the {what} at byte {start} takes {size} bytes, but the {of} at byte {limit}")
    return start + size


def _damaged(what: str) -> ArtifactError:
    return ArtifactError(f"damaged CUDA fat binary: {what}; compile again")
