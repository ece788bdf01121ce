"""The head of a sweep: sends out the groups that the store lacks, and keeps what comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path

from aprgraph.graph.errors import AprgraphError, TraceError
from aprgraph.option_words import in_option_words
from aprgraph.runtime.executors import WorkersExecutor
from aprgraph.runtime.executors.workers import NotOnThisMachineError
from aprgraph.sweep.cells import Group, RunCell
from aprgraph.sweep.log import Log
from aprgraph.sweep.plan import SweepPlan
from aprgraph.sweep.store import Store
from aprgraph.sweep.work import Done, Lacks, work_on

#: Called after each group: how many cells are done, of how many, and how many seconds the rest takes at this rate (None: not known).
OnProgress = Callable[[int, int, float | None], None]
#: Groups that are with the executor at once, for each worker: a thousand workers need no million futures.
_AHEAD = 3


@dataclass(frozen=True)
class Swept:
    """What a sweep did: cells that it computed, those that were there, and why there are none of others, by key."""

    computed: int
    found: int
    failures: dict[str, str]


def run_sweep(
    plan: SweepPlan, store: Store, executor: WorkersExecutor, *, on_progress: OnProgress | None = None, log: Log | None = None
) -> Swept:
    """Compute what of ``plan`` the ``store`` lacks. Raises TraceError where the store cannot be written."""
    log = log or Log(store.log)
    groups = plan.groups
    cells = {cell.key: cell for group in groups for cell in group.cells}
    missing = {key for key in cells if not store.has(key)}
    waiting = [group for group in groups if any(cell.key in missing for cell in group.cells)]
    log.write("begun", matrix=str(plan.matrix.path), cells=len(cells), missing=len(missing))
    try:
        with log.probe() as probe:
            failures = _Head(store, executor, log, probe, _offered(waiting, plan.matrix.upload), on_progress, missing).all(waiting)
    except OSError as error:
        raise TraceError.unwritable(error.filename or store.path, error) from None
    store.remove_leftovers()
    log.write("ended", computed=len(missing) - len(failures), failed=len(failures))
    return Swept(len(missing) - len(failures), len(cells) - len(missing), failures)


def _offered(groups: list[Group], most: int) -> dict[str, Path]:
    """The models' files that can be sent, by fingerprint: those that are single files of at most ``most`` bytes."""
    models = {cell.model.fingerprint: cell.model for group in groups for cell in group.cells if isinstance(cell, RunCell)}
    paths = {fingerprint: Path(model.path) for fingerprint, model in models.items()}
    return {fingerprint: path for fingerprint, path in paths.items() if path.is_file() and path.stat().st_size <= most}


class _Head:
    def __init__(
        self,
        store: Store,
        executor: WorkersExecutor,
        log: Log,
        probe: str,
        offered: Mapping[str, Path],
        on_progress: OnProgress | None,
        missing: set[str],
    ) -> None:
        self._store, self._executor, self._log, self._probe, self._offered = store, executor, log, probe, offered
        self._on_progress, self._missing, self._finished = on_progress, missing, 0
        self._began = time.monotonic()
        self._failures: dict[str, str] = {}
        self._running: dict[Future[list[Done] | Lacks], Group] = {}

    def all(self, groups: list[Group]) -> dict[str, str]:
        """Have all done, a few ahead of the workers. Returns why there is none of some cells."""
        waiting = groups[::-1]
        while waiting or self._running:
            while waiting and len(self._running) < _AHEAD * self._executor.workers:
                self._submit(waiting.pop(), {})
            for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                self._take(self._running.pop(future), future)
        return self._failures

    def _submit(self, group: Group, sent: Mapping[str, bytes]) -> None:
        store, offered = str(self._store.path.absolute()), frozenset(self._offered) - sent.keys()
        self._running[self._executor.submit(work_on, group, store, self._probe, offered, sent)] = group

    def _take(self, group: Group, future: Future[list[Done] | Lacks]) -> None:
        try:
            done = future.result()
        except AprgraphError as error:
            self._fail(group, in_option_words(error.message))
        except NotOnThisMachineError as error:
            self._fail(group, str(error))
        else:
            if isinstance(done, Lacks):  # with all that it may lack, since another worker may take it
                wanted = {cell.model.fingerprint for cell in group.cells if isinstance(cell, RunCell)}
                self._log.write("sent", model=done.fingerprint)
                self._submit(group, {one: path.read_bytes() for one, path in self._offered.items() if one in wanted})
                return
            self._keep(group, done)
        self._finished += sum(cell.key in self._missing for cell in group.cells)
        if self._on_progress is not None:
            spent, total = time.monotonic() - self._began, len(self._missing)
            self._on_progress(self._finished, total, spent / self._finished * (total - self._finished) if self._finished else None)

    def _keep(self, group: Group, done: list[Done]) -> None:
        slots = {cell.key: cell.slot for cell in group.cells}
        for one in done:
            if one.error is not None:
                self._note_failure(one.key, slots[one.key], one.error)
                continue
            if one.files is not None:
                self._store.put(one.key, one.files)
            facts = {"worker": one.worker, "seconds": round(one.seconds, 4), "overhead": round(one.overhead, 4)}
            self._log.write("done", cell=one.key, slot=slots[one.key], **facts)

    def _fail(self, group: Group, why: str) -> None:
        for cell in group.cells:
            if not self._store.has(cell.key):
                self._note_failure(cell.key, cell.slot, why)

    def _note_failure(self, key: str, slot: str, why: str) -> None:
        self._failures[key] = why
        self._log.write("failed", cell=key, slot=slot, why=why)
