"""Single files that a command writes, such as pages and pictures: whether their place may be written, and writing them.

What says that this program wrote it is replaced. Everything else is somebody's, and is written over only where that is asked for.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from aprgraph.graph.errors import TraceError
from aprgraph.graph.whole_file import durable_file

#: What says that a directory is an artifact; compiling again would remove what else is in it.
_ARTIFACT = "artifact.json"
#: How much of a file tells what it is.
_HEAD = 4096


def check_file_place(path: Path, is_ours: Callable[[bytes], bool], what: str, *, forcible: bool = False) -> None:
    """Raise TraceError unless ``path`` can be written, and nothing is there but a file that this program wrote, such as a page (``what``).

    ``is_ours`` is asked about the first bytes of a file.
    """
    if (path.parent / _ARTIFACT).is_file():
        raise TraceError.at_place(f"{path}: would lie in an artifact, which compiling again removes")
    try:
        if path.is_dir():
            raise TraceError.at_place(f"{path}: is a folder, expected the name of a file")
        if not os.path.lexists(path):
            probe(path.parent)
            return
        if not path.is_file():  # a device, or a pipe
            return
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise TraceError.unwritable(path, error) from None
    if head and not is_ours(head):
        raise TraceError.at_place(f"{path}: is there, and is no {what} that aprgraph wrote", forcible=forcible)
    probe(path.parent)


def refuse_input(path: Path, inputs: Iterable[Path], is_ours: Callable[[bytes], bool]) -> None:
    """Raise TraceError where ``path`` is one of the files ``inputs``, by whatever name, or lies in one of the folders, or is of a model.

    What this program has written into such a folder beside what is read (``is_ours``, of the first bytes) is none of it.
    """
    try:
        if not path.is_file():
            return
        with path.open("rb") as file:
            head = file.read(_HEAD)
        for one in inputs:
            inside = not is_ours(head) and one.is_dir() and any(path.samefile(file) for file in one.rglob("*") if file.is_file())
            if inside or (one.is_file() and path.samefile(one)):
                raise TraceError.at_place(f"{path}: is what is to be read")
        from aprgraph.graph.sources.open import is_of_model  # noqa: PLC0415 -- which knows all model files

        if not is_ours(head) and is_of_model(path, head):  # such as another part of it
            raise TraceError.at_place(f"{path}: is a model, or a part of one")
    except OSError as error:
        raise TraceError.unwritable(path, error) from None


def probe(directory: Path) -> None:
    """Raise TraceError unless a file can be made in ``directory``, whose missing parents would be made; all is gone again afterwards."""
    missing = []
    place = directory.absolute()
    while not os.path.lexists(place):
        missing.append(place)
        place = place.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise TraceError.unwritable(directory, error) from None
    finally:
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` to a temporary name beside ``path``, then rename. Raises TraceError; nothing is left behind then.

    When it returns, the file is on the disk. Missing folders are made. A link stays one, and what it points to is written; devices
    and pipes, which no file may replace, are written as they are.
    """
    if os.path.isdir(path):
        raise TraceError.at_place(f"{path}: cannot be written: it is a folder, expected the name of a file")
    if os.path.exists(path) and not os.path.isfile(path):
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise TraceError.unwritable(path, error) from None
        return
    try:
        with durable_file(path) as temporary:
            Path(temporary).write_text(text, encoding="utf-8")
    except OSError as error:
        raise TraceError.unwritable(path, error) from None
