"""The folder of this user's key and of what this user trusts: opened once, and used only where nobody else may write."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER_VARIABLE = "APRGRAPH_TRUST"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
REMEDY = f"set {FOLDER_VARIABLE} to a folder of yours that nobody else may write"


class NoFolderError(Exception):
    """There is no folder to be relied on. The text says why, as part of a sentence."""


def trust_folder() -> Path:
    """APRGRAPH_TRUST, else ``aprgraph/trust`` in XDG_STATE_HOME or ~/.local/state. Raises NoFolderError."""
    root = os.environ.get(FOLDER_VARIABLE)
    if root:
        return Path(root)
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "aprgraph/trust"
    except RuntimeError:  # no HOME, and a user that the system does not know
        raise NoFolderError("nothing says where this user's home folder is") from None


@contextmanager
def open_folder(*, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder, checked to be this user's own. Raises NoFolderError, or FileNotFoundError unless ``make``.

    What is checked is what is used: all files in it are opened through the descriptor.
    """
    place = trust_folder()
    if make:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise NoFolderError(f"{place} cannot be made: {error.strerror}") from None
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NoFolderError(f"{place} cannot be opened: {error.strerror}") from None
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise NoFolderError(f"{place} belongs to user {found.st_uid}, and this process runs as user {os.geteuid()}")
        if found.st_mode & _OTHERS_WRITE:
            raise NoFolderError(f"{place} may be written by others (mode {stat.S_IMODE(found.st_mode):o}; chmod go-w it)")
        yield descriptor
    finally:
        os.close(descriptor)


def read_private(folder: int, name: str, what: str) -> bytes:
    """The file ``name`` of the folder, which this user alone may read. Raises NoFolderError or FileNotFoundError."""
    place = trust_folder() / name
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NoFolderError(f"{place}, {what}, cannot be opened: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise NoFolderError(f"{place}, {what}, is no file that this user alone may read (chmod 600 it, if it is yours)")
        return file.read(1 << 16)


def write_new(folder: int, name: str, data: bytes) -> None:
    """Make the file ``name`` whole, for this user alone, unless it is there: then that stays. Raises OSError."""
    temporary = f".{name}.{os.urandom(8).hex()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:  # another process was first
            return
    finally:
        os.unlink(temporary, dir_fd=folder)
