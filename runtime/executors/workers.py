"""An executor whose calls outlive its workers: what a worker was doing when it died is done again by another one."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TypeVar

from aprgraph.graph.errors import ExecutorError
from aprgraph.graph.words import counted, plain

Result = TypeVar("Result")
#: Told, in a sentence, what was lost and is tried again.
OnNotice = Callable[[str], None]

#: How often a call is begun before it is given up.
ATTEMPTS = 5
#: What a machine may lack that another has, or the same later: memory, room on a disk, the disk itself, open files, processes.
_OF_THE_MACHINE = {errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EAGAIN}


class WorkerLostError(Exception):
    """A worker is gone, or never came; the message says what is known of its end."""


class NotOnThisMachineError(Exception):
    """Raised by a call that may succeed on another machine, such as one that has the model's file; the message says why."""


class NotNowError(Exception):
    """Raised by a call that may succeed later, or on another machine, such as one whose server is busy; the message says why."""


class Call(Protocol):
    """Calls a function in a worker: what it returns, or what it raises, and WorkerLostError."""

    def __call__(self, function: Callable[..., Result], /, *arguments: Any) -> Result: ...


class Worker(Protocol):
    """A process that runs calls, one after the other. It is used by one thread, but for ``kill``."""

    #: Which process it is, for a person.
    place: str

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """What the function returns there. Raises what it raises there, and WorkerLostError."""

    def close(self) -> None:
        """End it, between two calls."""

    def kill(self) -> None:
        """End it at once, whatever it does. It may be called from any thread."""


@dataclass
class _Task:
    future: Future[Any]
    talk: Callable[[Worker], Any]
    tried: list[int] = field(default_factory=list)  # the lanes that began it


class WorkersExecutor(Executor):
    """Runs each call by one of ``workers`` workers, which keep what they have loaded from call to call.

    ``open_worker`` gives the worker of a lane, 0 to ``workers`` - 1, or raises WorkerLostError. A call whose worker dies, or whose
    machine lacks memory, room or the file that it reads, is begun again, where there are several lanes by another one, until it
    was begun ``attempts`` times: then its future has an ExecutorError of one line. So it has at once where the workers are all on
    ``one_machine`` that lacks what it needs. What else a call raises, its future has.
    Leaving the ``with`` block by an exception ends all workers at once.
    """

    def __init__(
        self,
        open_worker: Callable[[int], Worker],
        workers: int,
        *,
        attempts: int = ATTEMPTS,
        on_notice: OnNotice | None = None,
        on_close: Callable[[], None] | None = None,
        one_machine: bool = False,
    ) -> None:
        self.workers, self.one_machine = workers, one_machine
        self._open_worker, self._attempts, self._on_notice, self._on_close = open_worker, attempts, on_notice, on_close
        self._waiting: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._idle = 0  # lanes that wait for work
        self._is_closed = self._is_killed = False
        self._open: dict[int, Worker] = {}
        self._lanes: list[threading.Thread] = []

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """A future of ``fn(*args, **kwargs)``; the three are pickled. Raises RuntimeError after ``shutdown``."""
        return self._begin(lambda worker: worker.call(fn, args, kwargs))

    def converse(self, talk: Callable[[Call], Result]) -> Future[Result]:
        """A future of what ``talk`` returns, which runs here, in a thread, and is given what calls functions in one worker.

        It is begun again, with another worker, where one of its calls would be. Raises RuntimeError after ``shutdown``.
        """
        return self._begin(lambda worker: talk(lambda function, /, *arguments: worker.call(function, arguments, {})))

    def _begin(self, talk: Callable[[Worker], Result]) -> Future[Result]:
        future: Future[Result] = Future()
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the executor was shut down, so nothing more can be submitted to it")
            self._waiting.append(_Task(future, talk))
            self._changed.notify_all()
            if len(self._lanes) < self.workers and len(self._waiting) > self._idle:
                self._begin_lane()
        return future

    def open_worker(self, lane: int) -> Worker:
        """The worker of a lane for the caller alone, who closes it: nobody else's calls come between. Raises WorkerLostError."""
        return self._open_worker(lane)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers when all is done that was submitted, or, with ``cancel_futures``, when what has begun is done."""
        with self._changed:
            self._is_closed = True
            if cancel_futures:
                while self._waiting:
                    self._waiting.popleft().future.cancel()
            self._changed.notify_all()
        if not wait:
            return
        for lane in self._lanes:
            lane.join()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close()

    def kill(self) -> None:
        """End the workers at once; futures of what has begun have an ExecutorError, all others are cancelled."""
        self._is_killed = True
        self.shutdown(wait=False, cancel_futures=True)
        for worker in list(self._open.values()):
            worker.kill()
        self.shutdown()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Wait for what was submitted; after an exception, end it."""
        if kind is None:
            self.shutdown()
        else:
            self.kill()

    def places(self) -> list[str]:
        """Which workers there are at the moment."""
        return [worker.place for _, worker in sorted(self._open.items())]

    def _begin_lane(self) -> None:
        lane = threading.Thread(target=self._serve, args=(len(self._lanes),), name=f"aprgraph-lane-{len(self._lanes)}", daemon=True)
        self._lanes.append(lane)
        lane.start()

    def _serve(self, lane: int) -> None:
        """Take tasks, one after the other, until there are no more to come."""
        try:
            while (task := self._next(lane)) is not None:
                self._run(task, lane)
        finally:
            worker = self._open.pop(lane, None)
            if worker is not None:
                worker.close()

    def _next(self, lane: int) -> _Task | None:
        with self._changed:
            while True:
                for task in self._waiting:
                    if lane in task.tried and len(set(task.tried)) < len(self._lanes):
                        continue  # another lane's turn
                    self._waiting.remove(task)
                    if task.tried or task.future.set_running_or_notify_cancel():
                        return task
                    break
                else:
                    if self._is_closed and not self._waiting:
                        return None
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1

    def _run(self, task: _Task, lane: int) -> None:
        task.tried.append(lane)
        try:
            if lane not in self._open:
                self._open[lane] = self._open_worker(lane)
                if self._is_killed:
                    self._open[lane].kill()
            result = task.talk(self._open[lane])
        except WorkerLostError as error:
            worker = self._open.pop(lane, None)
            if worker is not None:
                worker.close()
            self._again(task, str(error))
        except NotOnThisMachineError as error:
            if self.one_machine:
                task.future.set_exception(ExecutorError(plain(str(error))))
            else:
                self._again(task, str(error))
        except NotNowError as error:
            self._again(task, str(error))
        except MemoryError as error:
            self._again(task, f"not enough memory{f': {error}' if str(error) else ''}")
        except OSError as error:
            if error.errno in _OF_THE_MACHINE:
                self._again(task, f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}")
            else:
                task.future.set_exception(error)
        except BaseException as error:  # noqa: BLE001 -- it is the future's
            task.future.set_exception(error)
        else:
            task.future.set_result(result)

    def _again(self, task: _Task, why: str) -> None:
        why = plain(why)
        if self._is_killed:
            task.future.set_exception(ExecutorError("the work was broken off"))
            return
        if len(task.tried) >= self._attempts:
            task.future.set_exception(ExecutorError(f"given up after {counted(len(task.tried), 'attempt')}: {why}"))
            return
        if self._on_notice is not None:
            self._on_notice(f"{why}; attempt {len(task.tried) + 1} of {self._attempts}")
        with self._changed:
            self._waiting.appendleft(task)  # the others come later as they would have
            while len(self._lanes) < min(self.workers, 2) and not self._is_closed:
                self._begin_lane()  # "elsewhere"
            self._changed.notify_all()


def available_processors() -> int:
    """How many processors this process may use."""
    return max(1, len(os.sched_getaffinity(0)))
