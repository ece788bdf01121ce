"""Writes folders whole or not at all: under a temporary name beside their place, which they are given once they are complete."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from aprgraph.graph.claimed_names import name_for_old, new_folder, remove_leftovers
from aprgraph.graph.durable import sync_folder, sync_tree
from aprgraph.graph.interrupts import held
from aprgraph.graph.temporary_files import remove

#: Of renameat2(2): paths are relative to the current folder; the two change places.
_HERE, _EXCHANGE = -100, 2
#: What it says where a file system cannot do that, or the system does not know it.
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The folder to write into. After the block it is at ``path``, on the disk, in place of what was there; a link there stays one.

    Where the block raises, or the new folder cannot be put in place, nothing has changed. Missing folders above are made. Raises OSError.
    """
    place = os.path.realpath(path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    remove_leftovers(place)
    with new_folder(place) as temporary:
        yield Path(temporary)
        os.chmod(temporary, 0o777 & ~_umask())
        sync_tree(temporary)
        with held():
            put_in_place(temporary, place)
        sync_folder(os.path.dirname(place))


def put_in_place(temporary: str, place: str) -> None:
    """Give ``temporary`` the name ``place``. What was there has the other name then, or is gone. Raises OSError, and then it is there."""
    try:
        os.rename(temporary, place)  # fails if a folder is there that is not empty, perhaps since a moment ago and by another process
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        return
    if not exchange(temporary, place):
        _replace(temporary, place)


def exchange(first: str, second: str) -> bool:
    """Let two files or folders change their names, in one step; whether the system can do that. Raises OSError."""
    function = _renameat2()
    if function is None or function(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0:
        return function is not None
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), second)


def _replace(temporary: str, place: str) -> None:
    """In two steps: between them, a process that is killed leaves what was there under a name that the next one gives back."""
    old = name_for_old(place)
    os.rename(place, old)
    try:
        os.rename(temporary, place)
    except OSError as error:
        try:
            os.rename(old, place)
        except OSError:  # it is not lost
            raise OSError(error.errno, f"{error.strerror} (what was there is at {old})", place) from None
        raise
    remove(old)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@cache
def _renameat2() -> Any | None:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return function
