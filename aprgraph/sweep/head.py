"""The head of a sweep: sends out the groups that the store lacks, and keeps what comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial

from aprgraph.graph.errors import AprgraphError, TraceError
from aprgraph.option_words import in_option_words
from aprgraph.runtime.executors import WorkersExecutor
from aprgraph.runtime.executors.workers import Call, NotNowError, NotOnThisMachineError
from aprgraph.sweep.cells import Group
from aprgraph.sweep.log import Log
from aprgraph.sweep.plan import SweepPlan
from aprgraph.sweep.store import Store
from aprgraph.sweep.uploads import OnSent, Uploads
from aprgraph.sweep.work import Absent, Done, Lacks, Worked, work_on

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
    plan: SweepPlan,
    store: Store,
    executor: WorkersExecutor,
    *,
    on_progress: OnProgress | None = None,
    on_sent: OnSent | None = None,
    log: Log | None = None,
) -> Swept:
    """Compute what of ``plan`` the ``store`` lacks. Raises TraceError where the store cannot be written.

    ``on_sent`` is called in threads of the workers'.
    """
    log = log or Log(store.log)
    groups = plan.groups
    cells = {cell.key: cell for group in groups for cell in group.cells}
    missing = {key for key in cells if not store.has(key)}
    waiting = [group for group in groups if any(cell.key in missing for cell in group.cells)]
    log.write("begun", matrix=str(plan.matrix.path), cells=len(cells), missing=len(missing))
    try:
        with log.probe() as probe:
            uploads = Uploads([run.cell for run in plan.runs], plan.matrix.upload, on_sent)
            failures = _Head(store, executor, log, probe, uploads, on_progress, missing).all(waiting)
    except OSError as error:
        raise TraceError.unwritable(error.filename or store.path, error) from None
    store.remove_leftovers()
    log.write("ended", computed=len(missing) - len(failures), failed=len(failures))
    return Swept(len(missing) - len(failures), len(cells) - len(missing), failures)


class _Head:
    def __init__(
        self,
        store: Store,
        executor: WorkersExecutor,
        log: Log,
        probe: str,
        uploads: Uploads,
        on_progress: OnProgress | None,
        missing: set[str],
    ) -> None:
        self._store, self._executor, self._log, self._probe, self._uploads = store, executor, log, probe, uploads
        self._on_progress, self._missing, self._finished = on_progress, missing, 0
        self._began = time.monotonic()
        self._failures: dict[str, str] = {}
        self._absent: dict[str, str] = {}
        self._unwritable: OSError | None = None
        self._running: dict[Future[None], Group] = {}

    def all(self, groups: list[Group]) -> dict[str, str]:
        """Have all done, a few ahead of the workers. Returns why there is none of some cells."""
        waiting = groups[::-1]
        while waiting or self._running:
            while len(self._running) < _AHEAD * self._executor.workers and (group := self._next(waiting)) is not None:
                self._running[self._executor.converse(partial(self._have_done, group))] = group
            for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                self._take(self._running.pop(future), future)
        return self._failures

    def _next(self, waiting: list[Group]) -> Group | None:
        """The next group, taken from the end of ``waiting``, that needs no server that another one is using."""
        busy = {server for group in self._running.values() for server in group.servers}
        for index in reversed(range(len(waiting))):
            if busy.isdisjoint(waiting[index].servers):
                return waiting.pop(index)
        return None

    def _have_done(self, group: Group, call: Call) -> None:
        """Have a worker compute a group, and keep what comes of it; in a thread of that worker's."""
        worked = self._ask(group, call)
        try:
            self._keep(group, worked.done)
        except OSError as error:
            self._unwritable = error
            raise TraceError.unwritable(error.filename or self._store.path, error) from None
        slots = {cell.key: cell.slot for cell in group.cells}
        absent = {key: one for key, one in worked.absent.items() if not self._store.has(key)}
        for key in [key for key, one in absent.items() if self._executor.one_machine and not one.may_come]:
            self._note_failure(key, slots[key], absent.pop(key).why)
        if absent:
            self._absent |= {key: one.why if one.place in one.why else f"{one.place}: {one.why}" for key, one in absent.items()}
            raise _lacking(absent)

    def _ask(self, group: Group, call: Call) -> Worked:
        """Have a worker compute a group, and send it what it lacks."""
        settled = {cell.key for cell in group.cells if cell.key in self._failures or self._store.has(cell.key)}
        none = "" if self._executor.one_machine else "the matrix has no upload, so it is not sent"
        there: Lacks | None = None
        unsent = {} if self._uploads.most else {run.model.fingerprint: none for run in group.runs}
        while isinstance(worked := call(work_on, group, str(self._store.path.absolute()), self._probe, settled, unsent), Lacks):
            sent = self._uploads.send(worked, call)
            if isinstance(sent, str):
                unsent[worked.fingerprint] = sent
            elif sent:
                self._log.write("sent", model=worked.fingerprint, bytes=sent)
            elif worked == there:
                unsent[worked.fingerprint] = "all that its runs read of it was sent, and is there"
            there = worked if sent == 0 else None
        return worked

    def _take(self, group: Group, future: Future[None]) -> None:
        if self._unwritable is not None:
            raise self._unwritable
        error = future.exception()
        if isinstance(error, AprgraphError):
            self._fail(group, in_option_words(error.message))
        elif error is not None:
            raise error
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
        """Note why there are none of the cells of a group that are not there: each for its own reason, if that is known."""
        for cell in group.cells:
            if cell.key not in self._failures and not self._store.has(cell.key):
                self._note_failure(cell.key, cell.slot, self._absent.get(cell.key, why))

    def _note_failure(self, key: str, slot: str, why: str) -> None:
        self._failures[key] = why
        self._log.write("failed", cell=key, slot=slot, why=why)


def _lacking(absent: Mapping[str, Absent]) -> Exception:
    """What has a group begun again, where that may help."""
    whys = "; ".join(dict.fromkeys(one.why for one in absent.values()))
    return NotNowError(whys) if any(one.may_come for one in absent.values()) else NotOnThisMachineError(whys)
