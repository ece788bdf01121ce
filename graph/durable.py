"""Has the system write files to the disk, so that what is reported as done is there after a power cut.

A file is written under a temporary name, synced, renamed, and then its folder is synced, which holds the name (fsync(2), NOTES).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterable
from functools import cache
from typing import Any

#: What fsync(2) says of what cannot be synced, as pipes and some file systems: there is nothing that could be done.
_NOT_TO_BE_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS)


def sync_file(path: str | os.PathLike[str]) -> None:
    """Wait until the contents of the file ``path`` are on the disk. Raises OSError."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Wait until the names in the folder ``path`` are on the disk. Raises OSError."""
    with contextlib.suppress(PermissionError):  # one that may be written in, but not be listed
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_files(folder: str | os.PathLike[str], files: Iterable[str], folders: Iterable[str]) -> None:
    """Wait until hundreds of ``files``, and the names in ``folders``, are on the disk, all below ``folder``. Raises OSError.

    In one call for the whole file system, syncfs(2): a twentieth of the time of one for each file, since each would have the disk empty
    its cache. What others write there meanwhile is waited for too.
    """
    function = _syncfs()
    if function is None:
        for file in files:
            sync_file(file)
        for one in folders:
            sync_folder(one)
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if function(descriptor) != 0:
            number = ctypes.get_errno()
            if number not in _NOT_TO_BE_SYNCED:
                raise OSError(number, os.strerror(number), os.fspath(folder))
    finally:
        os.close(descriptor)


def sync_tree(folder: str | os.PathLike[str]) -> None:
    """Wait until ``folder`` and the few files below it are on the disk. Raises OSError."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            if not os.path.islink(path):
                sync_file(path)
        sync_folder(place)


def _sync(path: str | os.PathLike[str], flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_TO_BE_SYNCED:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        os.close(descriptor)


@cache
def _syncfs() -> Any | None:
    function = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if function is not None:
        function.argtypes = (ctypes.c_int,)
    return function
