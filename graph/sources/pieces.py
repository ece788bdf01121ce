"""Copies of files of which only pieces are there: what else lies in them is zeros that nobody may take for weights.

Which pieces these are stands in a file beside the copy. Whoever maps such a file is refused what is not there, and that is noted, for
whoever can get it. Of any file it can be noted what of it is read, so that such a copy can be made.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from aprgraph.graph.errors import ModelFileError
from aprgraph.graph.whole_file import whole_file

#: What the name of the file beside a copy ends with.
_BESIDE = ".aprgraph-pieces"


class Pieces:
    """Bytes of a file, as ranges from a start to an end, in order and apart from each other."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._ends, strict=True))

    @property
    def nbytes(self) -> int:
        """How many bytes they are together."""
        return sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Add the bytes start .. end - 1."""
        if start >= end:
            return
        first, last = bisect.bisect_left(self._ends, start), bisect.bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def holds(self, start: int, end: int) -> bool:
        """Whether all of the bytes start .. end - 1 are among them."""
        index = bisect.bisect_right(self._starts, start) - 1
        return start >= end or (index >= 0 and self._ends[index] >= end)

    def without(self, others: Pieces) -> Iterator[tuple[int, int]]:
        """The ranges of them that are not among ``others``."""
        for start, end in self:
            for first, last in others:
                if first < end and last > start:
                    if start < first:
                        yield start, first
                    start = max(start, last)
            if start < end:
                yield start, end


def pieces_of(path: Path) -> Pieces | None:
    """What is there of a copy; None of a file that is whole. Raises ModelFileError."""
    beside = path.with_name(path.name + _BESIDE)
    if not os.path.lexists(beside):  # a name that is too long for it is of no copy either
        return None
    try:
        return Pieces((int(start), int(end)) for start, end in json.loads(beside.read_bytes()))
    except (OSError, ValueError, TypeError):
        raise ModelFileError(f"{beside}: does not say what of {path.name} is there; remove both") from None


def make_copy(path: Path, size: int) -> Pieces:
    """Make a copy of ``size`` bytes of which nothing is there, or find the one that there is: what is there of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        there = pieces_of(path) if path.exists() else None
        if there is None or path.stat().st_size != size:
            there = Pieces()
            _write(path, there)
            with path.open("wb") as file:
                file.truncate(size)
        return there


def add_piece(path: Path, start: int, data: bytes) -> None:
    """Write bytes of a copy, and then that they are there. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(descriptor, data[done:], start + done)
        os.fdatasync(descriptor)  # a machine that goes down must not keep the one without the other
    finally:
        os.close(descriptor)
    with _alone(path):
        there = pieces_of(path) or Pieces()
        there.add(start, start + len(data))
        _write(path, there)


def _write(path: Path, there: Pieces) -> None:
    with whole_file(path.with_name(path.name + _BESIDE)) as temporary:
        Path(temporary).write_text(json.dumps([*there]), encoding="ascii")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process changes what stands beside a copy in the same folder during the block, where the file system knows locks."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Reads:
    """What of files is read, by path."""

    def __init__(self) -> None:
        self.pieces: dict[Path, Pieces] = {}

    def note(self, path: Path, start: int, end: int) -> None:
        """Note the bytes start .. end - 1 of a file."""
        self.pieces.setdefault(path, Pieces()).add(start, end)


_noting: list[Reads] = []
_one_at_a_time = threading.Lock()
_refused: list[tuple[Path, int, int]] = []


@contextlib.contextmanager
def noted_reads() -> Iterator[Reads]:
    """What of model files is read in this process during the block. One block at a time, whichever thread it is in."""
    with _one_at_a_time:
        reads = Reads()
        _noting.append(reads)
        try:
            yield reads
        finally:
            _noting.remove(reads)


def note_read(path: Path, start: int, end: int) -> None:
    """Say that the bytes start .. end - 1 of a file are read."""
    for reads in _noting:
        reads.note(path, start, end)


def refuse(path: Path, start: int, end: int) -> ModelFileError:
    """The error of bytes that are not there; see ``refused``."""
    _refused.append((path, start, end))
    return ModelFileError(f"{path}: bytes {start} to {end} are not in this copy; give the path of the whole file")


def refused() -> list[tuple[Path, int, int]]:
    """What was refused since the last call: (file, start, end). Somebody may have gone on without it."""
    found = _refused.copy()
    _refused.clear()
    return found
