"""Files and folders that are not to outlive the process, whichever way it ends in order.

What makes one notes it here before it is there, so that whoever ends the process can remove all of them. That may be in the middle
of anything, an import among it: nothing is imported then, and before nothing that takes time.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_noted: set[str] = set()


@contextlib.contextmanager
def noted(path: str) -> Iterator[None]:
    """``path``, a file or a folder, goes if the process ends during the block."""
    _noted.add(path)
    try:
        yield
    finally:
        _noted.discard(path)


def note(path: str) -> None:
    """As ``noted``, until ``forget``."""
    _noted.add(path)


def forget(path: str) -> None:
    """``path`` may outlive the process, or is gone."""
    _noted.discard(path)


@contextlib.contextmanager
def temporary_folder(prefix: str = "aprgraph-", directory: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """A new folder that only this user can read, in ``directory`` (default: the system's for temporary files). Gone after the block.

    Raises OSError.
    """
    place = _new_name(prefix, directory)
    with noted(place):
        os.mkdir(place, 0o700)
        try:
            yield Path(place)
        finally:
            remove(place)


def folder_of_this_process(prefix: str) -> Path:
    """A new folder that only this user can read. It is removed when the process ends. Raises OSError."""
    place = _new_name(prefix, None)
    _noted.add(place)
    os.mkdir(place, 0o700)
    atexit.register(remove, place)
    return Path(place)


def remove(path: str) -> None:
    """Remove a file or a folder; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            _remove_tree(path)
        else:
            os.unlink(path)


def remove_all() -> None:
    """Remove all that is noted. For the end of the process: another thread may still write there."""
    for path in tuple(_noted):
        if os.path.isdir(path) and not os.path.islink(path):
            # Under another name, so that a thread that goes on finds no folder to put files into.
            aside = f"{path}.{os.urandom(4).hex()}"
            with contextlib.suppress(OSError):
                os.rename(path, aside)
                path = aside
        remove(path)


def _new_name(prefix: str, directory: str | os.PathLike[str] | None) -> str:
    if directory is None:
        import tempfile  # noqa: PLC0415

        directory = tempfile.gettempdir()
    return os.path.join(directory, f"{prefix}{os.urandom(8).hex()}")


def _remove_tree(folder: str) -> None:
    for place, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            path = os.path.join(place, name)
            with contextlib.suppress(OSError):
                if name in files or os.path.islink(path):
                    os.unlink(path)
                else:
                    os.rmdir(path)
    with contextlib.suppress(OSError):
        os.rmdir(folder)
