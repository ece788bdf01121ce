"""Temporary names beside a place, which tell by a lock whether whoever took them is still at work.

The system gives a lock back when its process ends, however that is, in other containers and, by most network file systems, on other
machines. What is there without its lock is a leftover of a process that was killed, and is removed by the next one that writes at
that place. Where the file system knows no locks, nothing is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator

from aprgraph.graph.temporary_files import forget, note, remove


@contextlib.contextmanager
def new_file(place: str) -> Iterator[str]:
    """The name of a new, empty file beside ``place``, which is removed behind the block if it is still there. Raises OSError."""

    def make(path: str) -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))

    with _claimed(place, ".tmp", make) as path:
        yield path


@contextlib.contextmanager
def new_folder(place: str) -> Iterator[str]:
    """The name of a new folder beside ``place``, for this user alone, as ``new_file``. Raises OSError."""
    with _claimed(place, "", lambda path: os.mkdir(path, 0o700)) as path:
        yield path


def remove_leftovers(place: str) -> None:
    """Remove what processes that were killed while they wrote ``place`` left beside it. What cannot be removed stays."""
    folder, name = os.path.split(place)
    left = re.compile(rf"\.{re.escape(name)}\.(old\.)?[0-9a-f]{{8}}(\.tmp|\.[0-9a-f]{{8}})?")
    with contextlib.suppress(OSError), os.scandir(folder or ".") as entries:
        for entry in entries:
            if left.fullmatch(entry.name) is not None:
                _remove_leftover(entry.path, place if ".old." in entry.name[len(name) + 1 :] else None)


def _remove_leftover(path: str, place: str | None) -> None:
    """Remove ``path`` if nobody has its lock; what was moved away from ``place`` for one that never came goes back there."""
    with _with_lock(path) as is_ours:
        if not is_ours:
            return
        if place is not None and not os.path.lexists(place):
            with contextlib.suppress(OSError):
                os.rename(path, place)
        else:
            remove(path)


def remove_if_abandoned(path: str) -> None:
    """Remove a temporary file or folder of this user's, if nobody has its lock."""
    _remove_leftover(path, None)


def name_for_old(place: str) -> str:
    """A name beside ``place`` for what is there, as ``remove_leftovers`` knows it."""
    return _beside(place, f"old.{os.urandom(4).hex()}")


def is_abandoned(path: str) -> bool:
    """Whether nobody has the lock of ``path``, a temporary file or folder of this user's."""
    with _with_lock(path) as is_ours:
        return is_ours


@contextlib.contextmanager
def _with_lock(path: str) -> Iterator[bool]:
    """Whether nobody had the lock of ``path``, of this user's. It is held during the block: whoever makes ``path`` does not get it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.fstat(descriptor).st_uid == os.geteuid()
        except OSError:
            is_ours = False
        yield is_ours
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _claimed(place: str, suffix: str, make: Callable[[str], None]) -> Iterator[str]:
    while True:
        path = _beside(place, f"{os.urandom(4).hex()}{suffix}")
        note(path)
        try:
            make(path)
            descriptor = _locked(path)
        except FileExistsError:
            descriptor = None
        except BaseException:
            remove(path)
            forget(path)
            raise
        if descriptor is not None:
            break
        forget(path)
    try:
        yield path
    finally:
        remove(path)
        forget(path)
        os.close(descriptor)


def _locked(path: str) -> int | None:
    """A descriptor of ``path`` with its lock; None if another process took it for a leftover before it was locked. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:  # no locks here
        return descriptor
    os.close(descriptor)
    return None


def _beside(place: str, ending: str) -> str:
    folder, name = os.path.split(place)
    return os.path.join(folder, f".{name}.{ending}")
