"""Models that a worker was sent, of each what its runs read: copies of pieces (graph/sources/pieces.py) in a folder of this user's alone.

FOLDER/<fingerprint>/<the name of the model's folder>/…   the files, as they lie there
FOLDER/<fingerprint>/opens                                what of it is opened; there when all came that was to come first

They stay for the next sweep, which then sends nothing. Those that none asked for in KEPT_DAYS days go when the next one is received.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from aprgraph.graph.sources.pieces import add_piece, make_copy
from aprgraph.graph.whole_file import write_whole
from aprgraph.runtime.executors.workers import NotOnThisMachineError

#: Ranges of bytes, from a start to an end, by the names of files below the folder of the fingerprint.
Ranges = Mapping[str, list[tuple[int, int]]]

_OPENS = "opens"
#: So long a copy stays that nobody asks for.
KEPT_DAYS = 30
_DAY = 24 * 60 * 60


def received_models() -> Path:
    """Where they lie."""
    return Path(tempfile.gettempdir()) / f"aprgraph-models-{os.geteuid()}"


def received_model(fingerprint: str) -> Path | None:
    """What to open of a model that was sent; None if it was not, or not all of it yet."""
    folder = received_models() / fingerprint
    try:
        found = folder / (folder / _OPENS).read_text(encoding="utf-8")
        os.utime(folder / _OPENS)  # it is in use
    except OSError:
        return None
    return found


def name_in_model(path: Path) -> tuple[str, str] | None:
    """(fingerprint, name below its folder) of a file of a model that was sent; None of another file."""
    if not path.is_relative_to(received_models()):
        return None
    fingerprint, *rest = path.relative_to(received_models()).parts
    return fingerprint, "/".join(rest)


def begin_receiving(fingerprint: str, folder: str, sizes: Mapping[str, int]) -> Ranges:
    """Make the copies of a model's files, or find those that there are: what is there of each. Raises OSError, NotOnThisMachineError.

    ``folder`` is what the model's own folder is called, where the names of ``sizes`` begin with that of a link to it.
    """
    place = received_models()
    place.mkdir(mode=0o700, exist_ok=True)
    if place.stat().st_uid != os.geteuid():
        raise NotOnThisMachineError(f"{place} is another user's")
    _remove_unused(place, fingerprint)
    (place / fingerprint / folder).mkdir(parents=True, exist_ok=True)
    for link in {name.partition("/")[0] for name in sizes} - {folder}:
        with contextlib.suppress(FileExistsError):
            (place / fingerprint / link).symlink_to(folder)
    return {name: [*make_copy(place / fingerprint / name, size)] for name, size in sizes.items()}


def _remove_unused(place: Path, besides: str) -> None:
    """Remove the copies that nobody asked for of late, as far as they can be removed. ``besides`` is the one that is to come."""
    oldest = time.time() - KEPT_DAYS * _DAY
    for folder in place.iterdir():
        try:
            used = max(one.stat().st_mtime for one in (folder, folder / _OPENS) if one.exists())
        except (OSError, ValueError):  # another worker removes it
            continue
        if folder.name != besides and used < oldest:
            shutil.rmtree(folder, ignore_errors=True)


def receive(fingerprint: str, name: str, start: int, data: bytes) -> None:
    """Keep bytes of a file. Raises OSError."""
    add_piece(received_models() / fingerprint / name, start, data)


def end_receiving(fingerprint: str, opens: str) -> None:
    """All has come that was to come first: from now on the model is there. Raises OSError."""
    write_whole(received_models() / fingerprint / _OPENS, opens.encode())
