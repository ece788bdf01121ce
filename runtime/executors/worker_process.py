"""What runs in a worker's process."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

#: Libraries read these when they are loaded.
_VARIABLES = ("TVM_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def prepare_worker(threads: int) -> None:
    """Keep this process to ``threads`` threads, and BLAS to one: its sums have the same bits on every machine then, however many it has."""
    os.environ.update(dict.fromkeys(_VARIABLES, str(threads)), OPENBLAS_NUM_THREADS="1")
    from aprgraph.graph.blas_threads import keep_one_blas_thread  # noqa: PLC0415 -- loads NumPy, which reads these
    from aprgraph.graph.threads import limit_threads  # noqa: PLC0415

    keep_one_blas_thread()
    limit_threads(threads)


def prepare_local_worker(threads: int) -> None:
    """The same of a child process of this machine's executor, which leaves interrupts to its parent and ends when that does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare_worker(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])  # a parent that was killed ends no child
        os._exit(1)


def outcome_of(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> tuple[bool, Any]:
    """(True, what a call returns) or (False, what it raises), for workers whose transport has errors of its own."""
    try:
        return True, function(*arguments, **keywords)
    except Exception as error:  # noqa: BLE001 -- raised again by whoever asked
        return False, error
