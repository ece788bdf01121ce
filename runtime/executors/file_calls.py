"""Calls by way of files, for workers that share nothing with the head but a folder, such as jobs of Slurm.

A worker's folder has call-<n>.pickle, written by the head, and outcome-<n>.pickle, by the worker; ``ready`` says which process it
is. ``stop`` ends it, and so does a head that has not touched ``head`` for long. Only the user can read the folder, since
whoever could write there could run code.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aprgraph.runtime.executors.worker_process import outcome_of, prepare_worker

#: Seconds between two looks: the first after a call, and, four times as long each time, the longest.
_FIRST, _LONGEST = 0.005, 0.5
#: Seconds without a sign of the head after which a worker ends.
_ORPHANED = 600.0


def looks() -> Iterator[None]:
    """Now, and then after pauses that grow."""
    pause = _FIRST
    while True:
        yield
        time.sleep(pause)
        pause = min(_LONGEST, pause * 1.3)


def write_pickle(path: Path, value: Any) -> None:
    """Write ``path`` whole or not at all. Raises OSError, and what pickle does."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(pickle.dumps(value))
    temporary.replace(path)


def read_pickle(path: Path) -> Any:
    """What ``write_pickle`` wrote; the file goes."""
    value = pickle.loads(path.read_bytes())  # noqa: S301 -- of this user's own processes, in a folder of this user's alone
    path.unlink()
    return value


def send(folder: Path, number: int, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Path:
    """Give a worker a call; the path at which its outcome will be."""
    write_pickle(folder / f"call-{number}.pickle", (function, arguments, keywords))
    return folder / f"outcome-{number}.pickle"


def serve(folder: str, threads: int) -> int:
    """What the worker does: its calls, one after the other, until it is to stop. Returns how many there were."""
    here = Path(folder)
    prepare_worker(threads)
    (here / ".ready").write_text(f"process {os.getpid()} on {os.uname().nodename}")
    (here / ".ready").replace(here / "ready")
    number = 0
    while True:
        call = here / f"call-{number}.pickle"
        for _ in looks():
            if call.exists():
                break
            if (here / "stop").exists() or _is_orphaned(here):
                return number
        write_pickle(here / f"outcome-{number}.pickle", outcome_of(_call, (call,), {}))
        number += 1


def _call(path: Path) -> Any:
    """Do the call of a file. What cannot be read here, such as a function of a package that is not installed, is its own error."""
    function, arguments, keywords = read_pickle(path)
    return function(*arguments, **keywords)


def _is_orphaned(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return time.time() - (folder / "head").stat().st_mtime > _ORPHANED
    return not folder.is_dir()
