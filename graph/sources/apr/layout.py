"""The layout of an `.apr` file, version 2: header, JSON metadata, index of tensors, data, checksum.

As paiml/aprender writes it (crates/apr-format/src/v2), little-endian: 64 bytes of header; the metadata, padded to 64
bytes; the index, its entries packed, padded as a whole; each tensor at a multiple of 64 bytes from the data's start;
and the CRC-32 of everything before. Older files lack the padding, the checksums or the order of the index.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

from aprgraph.graph.errors import ModelFileError, UnsupportedModelError, shown
from aprgraph.graph.json_documents import parse_json
from aprgraph.graph.sources.apr.compressed import Compression, unpack
from aprgraph.graph.sources.gguf_cursor import Cursor
from aprgraph.graph.sources.mapped_file import MappedFile

#: The second is what early versions wrote before the same layout.
MAGICS = (b"APR\0", b"APR2")
HEADER_BYTES = 64
ALIGNMENT = 64
FOOTER_BYTES = 4

_VERSION = (2, 0)
_LZ4, _ZSTD, _ENCRYPTED, _SHARDED, _ROW_MAJOR, _COLUMN_MAJOR = 0x1, 0x2, 0x4, 0x10, 0x400, 0x800
#: Where the lower byte of the flags stands.
_FLAGS = 6
#: Where the header's own checksum stands, which it does not cover.
_CHECKSUM, _AFTER_CHECKSUM = 40, 44
#: The metadata of a vocabulary of 256,000 tokens with its merges take some 20 MB; JSON takes ten times that in memory.
_MOST_METADATA = 256 << 20
_MOST_NAME, _MOST_DIMS = 256, 8
#: Name, dtype, rank, offset and size of a tensor without dimensions and without a name.
_LEAST_ENTRY = 20
_U8, _U16 = 0, 2
_AGAIN = "the file is damaged: copy or download it again"


@dataclass(frozen=True)
class Entry:
    """One entry of the index. ``offset`` counts from the start of the file, ``dims`` are as they are written."""

    name: str
    code: int
    dims: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass
class Layout:
    """What an `.apr` file holds: ``metadata`` as they are written, ``entries`` of the index, and where the data begin.

    ``file`` is another one afterwards if the file is compressed: the same without compression. ``notices`` are what is
    unlike the files that `apr` writes today, in sentences. Raises ModelFileError for what is damaged, ModelError where
    there is no room, and UnsupportedModelError for kinds of files that are not read.
    """

    file: MappedFile
    metadata: dict[str, Any] = field(init=False)
    entries: list[Entry] = field(init=False)
    data_start: int = field(init=False)
    notices: list[str] = field(default_factory=list)
    is_compressed: bool = False

    def __post_init__(self) -> None:
        path, size = self.file.path, self.file.size
        head = self.file.mapping[:HEADER_BYTES]
        if size < HEADER_BYTES:
            raise ModelFileError(f"{path}: {size} bytes, expected at least the {HEADER_BYTES} of the header of an .apr file; {_AGAIN}")
        version, flags, count, metadata_at, metadata_size, index_at, self.data_start = struct.unpack_from("<2sHIQIQQ", head, 4)
        if tuple(version) != _VERSION:
            raise UnsupportedModelError(f"{path}: an .apr file of version {version[0]}.{version[1]}, expected 2.0; convert the model again")
        self._check_header(head)
        self._check_flags(flags, metadata_at)
        size = self.file.size
        for what, start in (("metadata", metadata_at + metadata_size), ("index", index_at), ("data", self.data_start)):
            if not HEADER_BYTES <= start <= size:
                raise ModelFileError(f"{path}: byte {start}, where the {what} should be, is not in the file ({size} bytes); {_AGAIN}")
        self.metadata = self._read_metadata(metadata_at, metadata_size)
        self.entries = self._read_index(index_at, count)

    def _check_header(self, head: bytes) -> None:
        stored = int.from_bytes(head[_CHECKSUM:_AFTER_CHECKSUM], "little")
        actual = zlib.crc32(head[:_CHECKSUM] + head[_AFTER_CHECKSUM:])
        if not stored:
            self.notices.append("the header has no checksum, as in old .apr files")
        elif stored != actual:
            raise ModelFileError(f"{self.file.path}: the header's checksum is {stored:08x}, expected {actual:08x}; {_AGAIN}")

    def _check_flags(self, flags: int, metadata_at: int) -> None:
        path, plain = self.file.path, "write it again with `apr` "
        if flags & _ENCRYPTED:
            raise UnsupportedModelError(f"{path}: an encrypted .apr file, which aprgraph does not read; {plain}without encryption")
        if flags & _COLUMN_MAJOR:
            raise UnsupportedModelError(f"{path}: an .apr file with column-major tensors, which `apr` refuses too; import the model again")
        if flags & _SHARDED:
            raise UnsupportedModelError(f"{path}: one of several .apr files of a model, which aprgraph does not read; {plain}as one file")
        if flags & (_ZSTD | _LZ4):
            kind: Compression = "LZ4" if flags & _LZ4 else "zstd"
            # Writers set the flag of LZ4 on plain bodies too, whose metadata begin as JSON does.
            if self.file.mapping[metadata_at : metadata_at + 1] == b"{":
                self.notices.append(f"the file says that it is compressed by {kind}, and is not")
            else:
                self._unpack(kind)
        if not flags & _ROW_MAJOR:
            self.notices.append("the file does not say that its tensors are row-major, as old .apr files do not: they were taken to be so")

    def _unpack(self, kind: Compression) -> None:
        packed = self.file
        self.file, self.is_compressed = unpack(packed, HEADER_BYTES, kind), True
        sizes = f"{packed.size:,} bytes became {self.file.size:,}"
        self.notices.append(f"the file is compressed by {kind} and was unpacked to a temporary file ({sizes})")

    def _read_metadata(self, start: int, size: int) -> dict[str, Any]:
        path = self.file.path
        if size > _MOST_METADATA:
            raise ModelFileError(f"{path}: its metadata take {size} bytes, expected at most {_MOST_METADATA}; {_AGAIN}")
        try:
            value = parse_json(self.file.mapping[start : start + size].decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ModelFileError(f"{path}: its metadata are no JSON ({shown(str(error))}); {_AGAIN}") from None
        if not isinstance(value, dict):
            raise ModelFileError(f"{path}: its metadata are {shown(value)}, expected a JSON object; {_AGAIN}")
        return value

    def _read_index(self, start: int, count: int) -> list[Entry]:
        cursor = Cursor(self.file.mapping, self.file.path)
        cursor.take(start, "the header")
        cursor.count(count, _LEAST_ENTRY, "the tensor count")
        entries = [self._read_entry(cursor, number) for number in range(count)]
        names = [entry.name for entry in entries]
        if names != sorted(names):
            self.notices.append("the index of tensors is not sorted by name")
        return entries

    def _read_entry(self, cursor: Cursor, number: int) -> Entry:
        path, what = self.file.path, f"the name of tensor {number}"
        length = int(cursor.scalar(_U16, what))
        if length > _MOST_NAME:
            raise ModelFileError(f"{path}: {what} has {length} bytes, expected at most {_MOST_NAME}; {_AGAIN}")
        start = cursor.take(length, what)
        name = bytes(cursor.data[start : start + length]).decode("utf-8", errors="replace")
        what = f"the entry of tensor {shown(name)}"
        code, rank = int(cursor.scalar(_U8, what)), int(cursor.scalar(_U8, what))
        if not 1 <= rank <= _MOST_DIMS:
            raise ModelFileError(f"{path}: tensor {shown(name)} has {rank} dimensions, expected 1 to {_MOST_DIMS}; {_AGAIN}")
        dims = tuple(cursor.u64(what) for _ in range(rank))
        offset, nbytes = cursor.u64(what), cursor.u64(what)
        return Entry(name, code, dims, self.data_start + offset, nbytes)

    def headers(self) -> tuple[bytes, ...]:
        """The headers that the checksum at the end may cover: of a compressed file also the one from before it was compressed."""
        own = self.file.mapping[:HEADER_BYTES]
        if not self.is_compressed:
            return (own,)
        plain, checksum = bytearray(own), int.from_bytes(own[_CHECKSUM:_AFTER_CHECKSUM], "little")
        plain[_FLAGS] &= ~(_LZ4 | _ZSTD)
        if checksum:
            checksum = zlib.crc32(plain[:_CHECKSUM] + plain[_AFTER_CHECKSUM:])
        plain[_CHECKSUM:_AFTER_CHECKSUM] = checksum.to_bytes(4, "little")
        return own, bytes(plain)

    def footer_of(self, end: int) -> int | None:
        """Where the file's checksum stands, if the last tensor ends at byte ``end``; None if there is none."""
        padded = -(-end // ALIGNMENT) * ALIGNMENT
        behind = self.file.size - (padded if padded <= self.file.size else end)
        return self.file.size - FOOTER_BYTES if behind >= FOOTER_BYTES else None
