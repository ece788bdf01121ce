"""A file whose bytes are mapped into memory, read-only, and that can also be read by the system's calls."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import struct
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import ModelFileError
from aprgraph.graph.sources.file_kind import HEAD_BYTES, kind_of_bytes

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
            raise ModelFileError(f"{path}: cannot be opened: {error.strerror}; give the path of {expected}") from None
        except ValueError as error:  # a path with a NUL in it, or a file that was emptied meanwhile
            raise ModelFileError(f"{str(path)!r}: cannot be opened: {error}; give the path of {expected}") from None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.mapping)

    def view(self, offset: int, count: int) -> npt.NDArray[np.uint8]:
        """``count`` bytes from ``offset`` on, without copying."""
        return np.frombuffer(self.mapping, dtype=np.uint8, count=count, offset=offset)

    def read(self, offset: int, into: npt.NDArray[np.uint8]) -> None:
        """Fill ``into`` with the bytes from ``offset`` on.

        Not through the mapping: of a disk that fails, or a file that becomes shorter, this tells by a ModelFileError.
        """
        view, done = into.data.cast("B"), 0
        while done < len(view):
            try:
                count = os.preadv(self._descriptor, [view[done:]], offset + done)
            except OSError as error:
                where = f"{self.path}: cannot be read at byte {offset + done}: {error.strerror}"
                raise ModelFileError(f"{where}; the disk may be failing") from None
            if not count:
                raise ModelFileError(f"{self.path}: became shorter while it was read; let whatever writes it finish")
            done += count

    def fingerprint(self, data_start: int) -> str:
        """SHA-256 over the size, everything before the data, and 256 samples of 4 KiB of the data; 64 hex digits.

        Samples, because reading a 30 GB file to name it would take longer than tracing a layer of it. Two files that
        differ only between samples share a fingerprint; a model quantised or trained again does not.
        """
        digest = hashlib.sha256(struct.pack("<Q", self.size))
        digest.update(self.mapping[:data_start])
        room = max(self.size - data_start - SAMPLE_BYTES, 0)
        for index in range(SAMPLES):
            start = data_start + room * index // (SAMPLES - 1)
            digest.update(self.mapping[start : start + SAMPLE_BYTES])
        self.release()
        return digest.hexdigest()

    def release(self) -> None:
        """Give back the memory of all pages that were read; the next touch reads them again, if need be from the disk."""
        self.mapping.madvise(mmap.MADV_DONTNEED)
