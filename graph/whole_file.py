"""Writes files whole or not at all: under a temporary name beside their place, which they are given once they are complete."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from aprgraph.graph.claimed_names import new_file, remove_leftovers
from aprgraph.graph.durable import sync_file, sync_folder
from aprgraph.graph.temporary_files import noted


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """The name to write under; the file is at ``path`` after the block. Where that raises, nothing stays; an interrupt too.

    Raises OSError.
    """
    place = os.fspath(path)
    temporary = temporary_name(place)
    with noted(temporary):
        try:
            yield temporary
            put_in_place(temporary, place)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


@contextlib.contextmanager
def durable_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """As ``whole_file``, and the file is on the disk afterwards, for what is reported as done. Leftovers of killed processes go.

    Missing folders are made. A link stays one, and what it points to is written. Raises OSError.
    """
    place = os.path.realpath(path)
    folder = os.path.dirname(place)
    os.makedirs(folder, exist_ok=True)
    remove_leftovers(place)
    with new_file(place) as temporary:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, place)
        sync_folder(folder)


def write_whole(path: Path, data: bytes) -> Path:
    """Write ``path`` whole or not at all, and return it. Its folder, but not what that lies in, is made. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as temporary:
        _make_new(temporary)
        Path(temporary).write_bytes(data)
    return path


def _make_new(path: str) -> None:
    """Make an empty file. What has the name, such as a link that somebody put there to have another file overwritten, goes."""
    for _ in range(2):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
        except FileExistsError:  # noqa: PERF203 -- twice at most
            os.unlink(path)
        else:
            return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


def temporary_name(place: str) -> str:
    """A hidden name beside ``place`` that no other thread or process uses."""
    directory, name = os.path.split(place)
    return os.path.join(directory, f".{name}.{os.getpid()}-{threading.get_ident()}.tmp")


def put_in_place(temporary: str, place: str, *, alone: bool = False) -> None:
    """Give a file its name, in place of what has it. Raises OSError.

    ``alone``: nobody else looks for it meanwhile, so that an old file may be removed first. Renaming over a file makes ext4 write
    the new one's data to disk, 4 ms for each of hundreds.
    """
    if alone:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place)
    os.replace(temporary, place)
