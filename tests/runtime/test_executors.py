"""Executors: what is submitted is done though workers die, elsewhere first, and not for ever."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from concurrent.futures import as_completed
from pathlib import Path

import pytest

from aprgraph.graph.errors import ExecutorError, PlanError
from aprgraph.graph.threads import threads
from aprgraph.runtime.executors import open_executor
from aprgraph.runtime.executors.workers import NotOnThisMachineError, WorkersExecutor


class _Here:
    """A worker in this process, so that tests of the order of things start none."""

    def __init__(self, lane: int) -> None:
        self.place, self.lane = f"lane {lane}", lane

    def call(self, function, arguments, keywords):
        return function(self.lane, *arguments, **keywords)

    def close(self) -> None:
        pass

    kill = close


def _die_once(flag: str) -> int:
    path = Path(flag)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _refuse() -> None:
    raise PlanError("no such stage")


def _shares() -> tuple[int, str, str]:
    return threads(), os.environ["TVM_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"]


def test_a_call_whose_process_dies_is_done_again_and_no_other_is_lost(tmp_path: Path) -> None:
    notices: list[str] = []
    with open_executor("local", 2, threads=1, attempts=3, on_notice=notices.append) as executor:
        others = [executor.submit(pow, number, 2) for number in range(8)]
        dies = executor.submit(_die_once, str(tmp_path / "died"))
        assert [future.result() for future in others] == [number**2 for number in range(8)]
        assert dies.result() != os.getpid()
        assert executor.submit(_shares).result() == (1, "1", "1")
        with pytest.raises(ExecutorError, match=r"^given up after 3 attempts: worker process \d+ ended in the middle of its work"):
            executor.submit(_die).result()
        with pytest.raises(PlanError, match="no such stage"):
            executor.submit(_refuse).result()
        assert list(executor.map(pow, (2, 3), (5, 2))) == [32, 9]
    assert [notice.rpartition("; ")[2] for notice in notices] == ["attempt 2 of 3", "attempt 2 of 3", "attempt 3 of 3"]
    with pytest.raises(RuntimeError, match="was shut down"):
        executor.submit(os.getpid)


def test_an_exception_in_the_block_ends_the_workers_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), open_executor("local", 1) as executor:  # noqa: PT012 -- the block is what is tried
        worker = executor.submit(os.getpid).result()
        running = executor.submit(time.sleep, 60)
        waiting = executor.submit(time.sleep, 60)
        while not running.running():
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert time.monotonic() - began < 30
    assert isinstance(running.exception(), ExecutorError)
    assert waiting.cancelled()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device", "x"), MemoryError(), NotOnThisMachineError("no model")])
def test_what_one_machine_lacks_is_tried_on_another(error: Exception) -> None:
    both = threading.Barrier(2, timeout=30)

    def lacks(lane: int) -> int:
        if lane == 0:
            raise error
        return lane

    with WorkersExecutor(_Here, 2) as executor:
        for met in as_completed([executor.submit(lambda lane: both.wait()) for _ in range(2)]):  # so that there are two lanes
            met.result()
        assert [executor.submit(lacks).result() for _ in range(4)] == [1] * 4


def test_other_errors_of_the_system_are_the_calls_own() -> None:
    def missing(lane: int) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")

    with WorkersExecutor(_Here, 1) as executor, pytest.raises(FileNotFoundError):
        executor.submit(missing).result()


@pytest.mark.parametrize(
    ("words", "workers", "message"),
    [
        ("locale", None, r"^no executor 'locale' \(did you mean 'local'\?\); expected local"),
        ("local", 0, "^0 workers: expected 1 to 1024$"),
    ],
)
def test_executors_that_there_are_not(words: str, workers: int | None, message: str) -> None:
    with pytest.raises(ExecutorError, match=message):
        open_executor(words, workers)
