"""A file whose bytes are mapped into memory, read-only, and that can also be read by the system's calls."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import struct
import weakref
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelFileError
from aprgraph.graph.near_names import did_you_mean_path
from aprgraph.graph.sources.file_kind import HEAD_BYTES, kind_of_bytes
from aprgraph.graph.sources.pieces import note_read, pieces_of, refuse

SAMPLES = 256
SAMPLE_BYTES = 4096


def read_head(path: Path) -> bytes:
    """The first bytes of a file, as many as tell its kind; none of what is no regular file, or cannot be opened."""
    try:
        # A named pipe would block for ever.
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except (OSError, ValueError):
        return b""


class Digest(Protocol):
    """What bytes are added to: a hash of hashlib."""

    def update(self, data: bytes, /) -> None: ...


class MappedFile:
    """The bytes of a file. ``what`` it should be and what is ``expected`` stand in errors, such as "a GGUF file" and
    "a .gguf file".

    Pages are read when touched, nothing can change the file, and the system counts none of it as memory that it has promised, so
    that a file may be larger than memory and swap together. Raises ModelFileError for what is no regular file, is empty, or cannot
    be opened. ``descriptor``: of a file that is open already, and stands in for the one at ``path``.
    """

    def __init__(self, path: Path, what: str, expected: str, descriptor: int | None = None) -> None:
        self.path = path
        try:
            # A named pipe would block for ever, and a device has no size.
            if descriptor is None and not stat.S_ISREG(path.stat().st_mode):
                raise ModelFileError(f"{path}: not a regular file; give the path of {expected}")
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if descriptor is None else os.dup(descriptor)
            weakref.finalize(self, os.close, self._descriptor)
            if not os.fstat(self._descriptor).st_size:
                kind = kind_of_bytes(b"")
                assert kind is not None
                raise ModelFileError(f"{path}: not {what} but {kind.what}; {kind.advice}")
            self.mapping = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ModelFileError(
                f"{path}: cannot be opened: {error.strerror}{did_you_mean_path(path)}; give the path of {expected}"
            ) from None
        except ValueError as error:  # a path with a NUL in it, or a file that was emptied meanwhile
            raise ModelFileError(f"{str(path)!r}: cannot be opened: {error}; give the path of {expected}") from None
        self._is_another = descriptor is not None
        self._there = None if self._is_another else pieces_of(path)
        if self._is_another:  # it is made of all of it
            note_read(path, 0, path.stat().st_size)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.mapping)

    def view(self, offset: int, count: int) -> npt.NDArray[np.uint8]:
        """``count`` bytes from ``offset`` on, without copying. Raises ModelFileError for what is not in a copy of pieces."""
        self._require(offset, count)
        return np.frombuffer(self.mapping, dtype=np.uint8, count=count, offset=offset)

    def read(self, offset: int, into: npt.NDArray[np.uint8]) -> None:
        """Fill ``into`` with the bytes from ``offset`` on.

        Not through the mapping: of a disk that fails, or a file that becomes shorter, this tells by a ModelFileError.
        """
        view, done = into.data.cast("B"), 0
        self._require(offset, len(view))
        while done < len(view):
            try:
                count = os.preadv(self._descriptor, [view[done:]], offset + done)
            except OSError as error:
                where = f"{self.path}: cannot be read at byte {offset + done}: {error.strerror}"
                raise ModelFileError(f"{where}; the disk may be failing") from None
            if not count:
                raise ModelFileError(f"{self.path}: became shorter while it was read; let whatever writes it finish")
            done += count

    def _require(self, start: int, count: int) -> None:
        """Raise ModelFileError for bytes that are not in a copy of pieces, and let whoever notes what is read know of them."""
        if not self._is_another:
            note_read(self.path, start, start + count)
        if self._there is None or self._there.holds(start, start + count):
            return
        self._there = pieces_of(self.path)  # more may have come
        if self._there is not None and not self._there.holds(start, start + count):
            raise refuse(self.path, start, start + count)

    def fingerprint(self, data_start: int) -> str:
        """SHA-256 over the size, everything before the data, and 256 samples of 4 KiB of the data; 64 hex digits.

        Samples, because reading a 30 GB file to name it would take longer than tracing a layer of it. Two files that
        differ only between samples share a fingerprint; a model quantised or trained again does not.
        """
        digest = hashlib.sha256()
        self.sample(digest, data_start, SAMPLES)
        self.release()
        return digest.hexdigest()

    def sample(self, digest: Digest, data_start: int, samples: int) -> None:
        """Add the size, everything before the data, and ``samples`` samples of 4 KiB of the data to a digest."""
        digest.update(struct.pack("<Q", self.size))
        room = max(self.size - data_start - SAMPLE_BYTES, 0)
        places = [data_start + room * index // max(samples - 1, 1) for index in range(samples)]
        for start, end in ((0, data_start), *((place, min(place + SAMPLE_BYTES, self.size)) for place in places)):
            self._require(start, end - start)
            digest.update(self.mapping[start:end])

    def release(self) -> None:
        """Give back the memory of all pages that were read; the next touch reads them again, if need be from the disk."""
        self.mapping.madvise(mmap.MADV_DONTNEED)
