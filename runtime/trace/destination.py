"""Where a trace is about to go: what is there, whose it is, and whether it may be replaced.

An earlier trace of the same program is replaced whole, and what an interrupted run left, which names itself. Everything else is
somebody's, and is written over only where that is asked for.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from aprgraph.graph.errors import TraceError
from aprgraph.graph.input_file import read_input
from aprgraph.graph.json_documents import ListOf, Record, Text, parse_strict_json
from aprgraph.graph.words import counted, listed
from aprgraph.runtime.trace.manifest import MANIFEST, MARKER, TraceInfo, read_manifest
from aprgraph.runtime.trace.unread_files import list_folder
from aprgraph.runtime.trace.without_manifest import is_place_of_stage

#: What `aprgraph run` writes; other traces are of whoever their manifest names.
OWN = "aprgraph"
#: What says that a directory is an artifact; compiling again would remove what else is in it.
_ARTIFACT = "artifact.json"
_SHOWN = 3
#: The folders of a trace, and the temporary files that a writer has in them (graph/whole_file.py).
_FOLDER = re.compile(r"(layer|step)-\d+", re.ASCII)
_TEMPORARY = re.compile(r"\.(?P<file>[^/]+)\.\d+-\d+\.tmp", re.ASCII)
#: What MARKER holds: the files that were there before the run.
_MARKER = Record({"kept": ListOf(Text(4096))})
_MOST_MARKER_BYTES = 64 << 20


def author_of(info: TraceInfo) -> str:
    """Whose trace it is: the first word of what wrote it, else of the target; OWN where there is a graph, as our own runs have."""
    words = str(info.extra.get("writer") or (OWN if info.graph_text else info.target)).replace(",", " ").split()
    return words[0] if words else "another program"


@dataclass(frozen=True)
class TracePlace:
    """What a directory for a trace holds: ``old``, the files of a trace that is to be replaced, and ``others``, which stay.

    ``problem`` says what of it is somebody's, None where nothing is, and ``replaced`` what goes, None where nothing does. Both lists
    are relative to the directory.
    """

    old: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    problem: str | None = None
    replaced: str | None = None


def look_at(directory: Path, author: str) -> TracePlace:
    """What is at ``directory``, where a trace of ``author`` is to go. Raises TraceError for what is no place for a trace by any means."""
    if not os.path.lexists(directory):
        return TracePlace()
    if not directory.is_dir():
        raise TraceError.at_place(f"{directory}: is no folder, which a trace is")
    if (directory / _ARTIFACT).is_file():
        raise TraceError.at_place(f"{directory}: holds an artifact")
    refuse_links(directory)
    folder = list_folder(directory)
    names = [file for file in (*folder.files, *folder.apart) if file not in (MARKER, MANIFEST)]
    tensors = [file for file in names if is_place_of_stage(file)]
    if (directory / MARKER).exists():
        if _is_locked(directory / MARKER):
            raise TraceError.at_place(f"{directory}: another run is writing there", "wait for it")
        kept = _kept_by(directory / MARKER)
        left = [file for file in tensors if file not in kept]
        gone = f"what an interrupted run left ({counted(len(left), 'tensor')})" if left else None
        return TracePlace(tuple(left), tuple(file for file in names if file not in left), replaced=gone)
    if not os.path.lexists(directory / MANIFEST):
        return TracePlace((), tuple(names), _strangers(names, tensors))
    try:
        entries, info = read_manifest(directory, with_graph=False)
    except TraceError:
        return TracePlace((), tuple(names), f"a {MANIFEST} that is no whole manifest")
    # What a manifest names beside tensors, by mistake or not, is not removed for it.
    recorded = {entry.file for entry in entries if entry.file is not None and is_place_of_stage(entry.file)}
    others = tuple(file for file in names if file not in recorded)
    whose, problem = author_of(info), None
    if whose != author:
        problem = f"a trace that {whose} wrote"
    elif unlisted := [file for file in tensors if file not in recorded]:
        problem = f"tensors that its {MANIFEST} does not list ({listed(unlisted, _SHOWN)})"
    run = f", {len(info.tokens)} tokens" if info.tokens else ""
    return TracePlace(tuple(sorted(recorded)), others, problem, f"an earlier trace ({counted(len(entries), 'tensor')}{run})")


def refuse_links(directory: Path) -> None:
    """Raise TraceError for a folder of a trace that is a link: what is written into it would lie elsewhere."""
    try:
        for place in (directory, *directory.glob("step-*")):
            for folder in place.glob("*-*"):
                if _FOLDER.fullmatch(folder.name) and folder.is_symlink():
                    raise TraceError.at_place(f"{folder}: is a link, and a trace is written into folders of its own", "remove it")
    except OSError as error:
        raise TraceError.unwritable(directory, error) from None


def check_trace_place(directory: Path, author: str = OWN, *, force: bool = False) -> TracePlace:
    """What ``look_at`` says. Raises TraceError for what is somebody's, unless ``force`` says to write there all the same."""
    place = look_at(directory, author)
    if place.problem is not None and not force:
        raise TraceError.at_place(f"{directory}: holds {place.problem}", forcible=True)
    return place


def _strangers(names: Collection[str], tensors: Collection[str]) -> str | None:
    if tensors:
        return f"tensors without a {MANIFEST}, as another program leaves them ({listed(tensors, _SHOWN)})"
    return f"what is no trace ({listed(names, _SHOWN)})" if names else None


def describe_replaced(directory: Path, replaced: str) -> str:
    """A sentence on what goes when the first tensor of the next trace is there."""
    return f"{directory} holds {replaced}, which this run replaces"


def describe_others(directory: Path, others: Collection[str]) -> str:
    """A sentence on what stays beside a trace."""
    return f"{directory} also holds what is not of this trace, and stays: {listed(others, _SHOWN)}"


def _is_locked(marker: Path) -> bool:
    """Whether a run is writing there at this moment."""
    try:
        with marker.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def mark_kept(marker: int, others: Collection[str]) -> None:
    """Note in the open file MARKER what was there before this run, so that nobody takes it for what this run left."""
    os.ftruncate(marker, 0)
    if others:
        os.pwrite(marker, json.dumps({"kept": list(others)}).encode(), 0)


def _kept_by(marker: Path) -> frozenset[str]:
    try:
        found = parse_strict_json(read_input(marker, _MOST_MARKER_BYTES).decode("utf-8"))
        _MARKER.check(found)
    except (OSError, ValueError):  # of an older version, or cut off: it is empty
        return frozenset()
    return frozenset(found["kept"])


def remove_old(directory: Path, files: Collection[str]) -> None:
    """Remove the files of an old trace, and the folders that this leaves empty; nothing that a link leads out to. Raises TraceError."""
    inside = directory.resolve()
    folders = set()
    for file in files:
        path = directory / file
        if inside not in path.parent.resolve().parents and path.parent.resolve() != inside:
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise TraceError.unwritable(path, error) from None
        folders |= {parent for parent in path.parents if directory in parent.parents}
    for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
        with contextlib.suppress(OSError):  # not empty, or not there
            folder.rmdir()


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files of runs that were killed. For who has the lock of MARKER: nobody else is writing there."""
    for place, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if _FOLDER.fullmatch(name)]
        for name in files:
            temporary = _TEMPORARY.fullmatch(name)
            if temporary and is_place_of_stage((Path(place) / temporary["file"]).relative_to(directory).as_posix()):
                with contextlib.suppress(OSError):
                    (Path(place) / name).unlink()
