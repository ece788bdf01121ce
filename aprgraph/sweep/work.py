"""What a worker does: it computes the cells of a group that are not in the store, one after the other."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aprgraph.codegen.artifact import versions
from aprgraph.codegen.cache.sources import sources_digest
from aprgraph.graph.claimed_names import new_folder, remove_leftovers
from aprgraph.graph.errors import AprgraphError, DeviceError, RemoteError
from aprgraph.graph.sources.pieces import refused
from aprgraph.option_words import in_option_words
from aprgraph.runtime.executors.workers import NotOnThisMachineError
from aprgraph.sweep.cell_files import CellFiles, Files
from aprgraph.sweep.cells import Cell, Group, ModelOf, PairCell, RunCell
from aprgraph.sweep.models_here import ModelMissingError, forget_models, model_here
from aprgraph.sweep.received import Ranges, name_in_model
from aprgraph.sweep.store import Store


@dataclass(frozen=True)
class Done:
    """What came of one cell: how long it took, and the processor time beside what its run, audit and comparison took.

    ``files`` are there if they are to be kept by whoever asked, None where they are in the store; ``error`` where there is no cell.
    ``worker`` is the process that did it.
    """

    key: str
    seconds: float = 0.0
    overhead: float = 0.0
    files: Files | None = None
    error: str | None = None
    worker: str = ""


def identity_here() -> tuple[str, ...]:
    """The versions and sources of the program, as the names of cells have them."""
    return (*(f"{name} {number}" for name, number in versions().items()), sources_digest("aprgraph.sweep.work"))


@dataclass(frozen=True)
class Absent:
    """Why a cell cannot be computed at a ``place``; ``may_come``: it may be later, such as by a server that serves somebody else."""

    why: str
    place: str
    may_come: bool = False


@dataclass(frozen=True)
class Worked:
    """What came of a group: cells that are done, and those that this machine cannot compute, by key."""

    done: list[Done]
    absent: dict[str, Absent]


@dataclass(frozen=True)
class Lacks:
    """In place of what was done: the machine ``place`` lacks a model, or ``ranges`` of one that it was sent, not known to be read."""

    fingerprint: str
    ranges: Ranges = field(default_factory=dict)
    place: str = field(default_factory=lambda: os.uname().nodename)


def work_on(group: Group, store: str, probe: str, settled: Collection[str], unsent: Mapping[str, str]) -> Worked | Lacks:
    """Compute what of ``group`` is neither in the store nor ``settled``, by key. Raises OSError where the store cannot be written.

    ``probe`` is a file that is there where the head's disk is: then cells go into the store as they are done; else they are returned.
    ``unsent`` says of models that the head does not send, by their fingerprints, why, if it has to be said. Raises NotOnThisMachineError
    for another version of the program.
    """
    entered = time.process_time()
    _check_identity(group.runs)
    refused()
    for run in group.runs:
        if run.model.fingerprint not in unsent and not _is_here(run.model):
            return _lacks(refused()) or Lacks(run.model.fingerprint)
    here = Store(Path(store)) if Path(probe).is_file() else None
    # By a name that the next worker knows, which removes what a killed one left.
    place = os.path.join(tempfile.gettempdir(), f"aprgraph-sweep-{os.geteuid()}")  # noqa: PTH118 -- claimed_names works on texts
    remove_leftovers(place)
    with new_folder(place) as scratch:
        return _Work(group, here, settled, unsent, Path(scratch)).all(entered)


class _Work:
    """The cells of one group."""

    def __init__(self, group: Group, here: Store | None, settled: Collection[str], unsent: Mapping[str, str], scratch: Path) -> None:
        self._cells, self._here, self._unsent, self._files = group.cells, here, unsent, CellFiles(scratch)
        missing = [cell for cell in group.cells if cell.key not in settled and (here is None or not here.has(cell.key))]
        self._missing = {cell.key for cell in missing}
        self._needed = self._missing | {side.key for cell in missing for side in _sides(cell)}
        self._worked = Worked([], {})

    def all(self, entered: float) -> Worked | Lacks:
        """Compute them, but for what a model lacks that was sent. ``entered`` is the processor's time when the group came."""
        for cell in self._cells:
            if cell.key not in self._needed:
                continue
            began, useful = time.monotonic(), self._files.useful
            found = self._compute(cell)
            # Whatever came of it: what looks for explanations goes on without what it cannot read.
            if (lacks := _lacks(refused())) is not None:
                forget_models()
                if lacks.fingerprint not in self._unsent:
                    return lacks
                found = Absent(f"{cell.label} reads more than was sent; {self._unsent[lacks.fingerprint]}", os.uname().nodename)
            if isinstance(found, Absent):
                self._worked.absent[cell.key] = found
            elif isinstance(found, Done):
                self._worked.done.append(found)
            elif found is not None:
                if self._here is not None:
                    self._here.put(cell.key, found)
                overhead = time.process_time() - entered - (self._files.useful - useful)
                worker = f"process {os.getpid()} on {os.uname().nodename}"
                kept = None if self._here is not None else found
                self._worked.done.append(Done(cell.key, time.monotonic() - began, overhead, kept, worker=worker))
            entered = time.process_time()
        return self._worked

    def _compute(self, cell: Cell) -> Files | Absent | Done | None:
        """The files of a cell, or why there are none; None of one that others alone need."""
        for side in _sides(cell):
            if side.key in self._worked.absent:
                return self._worked.absent[side.key]
        try:
            if isinstance(cell, RunCell):
                self._files.run(cell)
            return self._files.of(cell) if cell.key in self._missing else None
        except ModelMissingError as error:
            why = self._unsent.get(error.fingerprint)
            return Absent(f"{error}; {why}" if why else str(error), os.uname().nodename)
        except NotOnThisMachineError as error:
            return Absent(str(error), os.uname().nodename)
        except (DeviceError, RemoteError) as error:
            return Absent(in_option_words(error.message), os.uname().nodename, may_come=True)
        except AprgraphError as error:
            return Done(cell.key, error=in_option_words(error.message))


def _lacks(ranges: Iterable[tuple[Path, int, int]]) -> Lacks | None:
    found: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for path, start, end in ranges:
        if (named := name_in_model(path)) is not None:
            found.setdefault(named[0], {}).setdefault(named[1], []).append((start, end))
    return next((Lacks(*one) for one in found.items()), None)


def _sides(cell: Cell) -> tuple[RunCell, ...]:
    return (cell.a, cell.b) if isinstance(cell, PairCell) else ()


def _is_here(model: ModelOf) -> bool:
    try:
        model_here(model)
    except ModelMissingError:
        return False
    except (AprgraphError, NotOnThisMachineError):
        return True  # it is, and what is wrong with it is said of its cells
    return True


def _check_identity(runs: Iterable[RunCell]) -> None:
    here = identity_here()
    for run in runs:
        if run.identity != here:
            raise NotOnThisMachineError(
                f"the worker has {', '.join(here[:-1])}, sources {here[-1][:8]}; expected {', '.join(run.identity[:-1])}, "
                f"sources {run.identity[-1][:8]}: install there what is here"
            )
