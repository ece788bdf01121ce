"""Pieces of work done by forks of this process, where threads would wait for Python's own lock.

Only for a process that is the command's own: a fork has none of the other threads, which may have held locks.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from aprgraph.graph.threads import threads

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

Piece = TypeVar("Piece")
Result = TypeVar("Result")

#: What a user or a system ends processes by. A fork dies of it without a word: the first process says the line.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SET_DEATH_SIGNAL = 1  # of prctl, in linux/prctl.h
#: In a fork, what it is for: numbers of pieces are all that it is sent.
_work: list[tuple[Callable[[Any], Any], Sequence[Any]]] = []


def in_forks(function: Callable[[Piece], Result], pieces: Sequence[Piece]) -> Iterator[Result]:
    """What a function gives of each piece, in their order, by as many processes as ``threads`` says; its errors are raised here.

    Results are pickled; what else ``function`` changes is changed in a fork alone. Where there can be no forks, all is done here,
    and so is what is left where one is lost.
    """
    count, done = min(threads(), len(pieces)), 0
    if count > 1 and sys.platform.startswith("linux"):
        from concurrent.futures.process import BrokenProcessPool  # noqa: PLC0415 -- takes as long as to compare a small trace

        with contextlib.suppress(BrokenProcessPool, OSError, ImportError), _forked(count, function, pieces) as pool:
            begun: deque[Future[Result]] = deque()
            for number in range(len(pieces)):
                begun.append(pool.submit(_do, number))
                if len(begun) > 2 * count:
                    yield begun.popleft().result()
                    done += 1
            while begun:
                yield begun.popleft().result()
                done += 1
    yield from map(function, pieces[done:])


@contextlib.contextmanager
def _forked(count: int, function: Callable[[Piece], Result], pieces: Sequence[Piece]) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes are there: they have ``pieces`` from this one's memory."""
    import multiprocessing  # noqa: PLC0415
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

    pool = ProcessPoolExecutor(count, multiprocessing.get_context("fork"), _begin, (function, pieces))
    try:
        # Until a fork has handlers of its own, it would run those of this process. And the pool's threads, which begin here too, are not
        # to end the process when they write to forks that are gone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_ENDING, signal.SIGPIPE))
        try:
            pool.submit(int)  # the first that is asked for makes all of them
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield pool
    except OSError:  # some may be there without a pool that would end them
        for one in multiprocessing.active_children():
            one.kill()
        raise
    finally:
        # Waiting for the pool's thread: where the process ends meanwhile, Python writes to a pipe that this thread has just closed.
        pool.shutdown(cancel_futures=True)


def _begin(function: Callable[[Any], Any], pieces: Sequence[Any]) -> None:
    """What a fork does first: it is to end with the process that made it, and by signals without a word."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    for number in _ENDING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    _work[:] = [(function, pieces)]


def _do(number: int) -> Any:
    function, pieces = _work[0]
    return function(pieces[number])
