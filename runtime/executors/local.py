"""Workers on this machine: each a process, started anew and not forked, since TVM and BLAS have threads."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from aprgraph.graph.errors import ExecutorError
from aprgraph.runtime.executors.worker_process import prepare_local_worker
from aprgraph.runtime.executors.workers import ATTEMPTS, OnNotice, WorkerLostError, WorkersExecutor, available_processors

MAX_WORKERS = 1024


class LocalWorker:
    """A child process. It is a pool of one, so that its death breaks no other's call, and is known to be its own call's."""

    def __init__(self, threads: int) -> None:
        self._pool = ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=prepare_local_worker, initargs=(threads,)
        )
        self._id: int | None = None
        self._id = self.call(os.getpid, (), {})
        self.place = f"process {self._id}"

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """See ``Worker.call``."""
        try:
            return self._pool.submit(function, *arguments, **keywords).result()
        except BrokenProcessPool:
            which = "a worker process" if self._id is None else f"worker process {self._id}"
            raise WorkerLostError(f"{which} ended in the middle of its work (killed, out of memory, or crashed)") from None

    def close(self) -> None:
        """See ``Worker.close``."""
        self._pool.shutdown()

    def kill(self) -> None:
        """See ``Worker.kill``."""
        if self._id is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._id, signal.SIGKILL)


def open_local(
    workers: int | None = None, *, threads: int | None = None, attempts: int = ATTEMPTS, on_notice: OnNotice | None = None
) -> WorkersExecutor:
    """An executor of ``workers`` processes here (default: one for each processor) with ``threads`` threads each.

    By default the processors are shared out, at least one thread to each. Raises ExecutorError for numbers that cannot be.
    """
    processors = available_processors()
    workers = processors if workers is None else workers
    if not 1 <= workers <= MAX_WORKERS:
        raise ExecutorError(f"{workers} workers: expected 1 to {MAX_WORKERS}")
    share = max(1, processors // workers) if threads is None else threads
    return WorkersExecutor(
        lambda _lane: LocalWorker(share),
        workers,
        attempts=attempts,
        on_notice=on_notice,
        on_close=_pipes_are_errors(),
        one_machine=True,
    )


def _pipes_are_errors() -> Callable[[], None] | None:
    """Where a broken pipe ends this process, as the command line has it, ignore that: a pipe to a worker breaks when that dies.

    Returns what puts it back as it was.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGPIPE) != signal.SIG_DFL:
        return None
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def restore() -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)

    return restore
