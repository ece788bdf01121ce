"""How the command line's process ends when it is asked to: 128 and the signal's number, one line, nothing half-written.

An exception would not do: TVM, NumPy's import and every `finally` would have to let it pass. So no handler raises. The main thread
ends the process between two of its instructions. While it is in a long call of foreign code, where no handler runs, a second
thread does, which the system's own handler wakes by a pipe. Both remove what is noted as temporary (graph/temporary_files.py).
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

from aprgraph.graph import interrupts
from aprgraph.graph.temporary_files import remove_all

#: The signals, and what is said of each. The second thread knows them by their numbers.
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
#: Seconds after which the main thread is taken to be in a long call, and after which processes of ours are killed that were asked to end.
_PATIENCE = 0.1
_CHILDREN_PATIENCE = 0.5
#: A signal that comes this many seconds after the first one ends the process at once.
_REPEATED = 1.0
_FLUSH_SECONDS = 0.2


class _Process:
    """What the handler and the two threads know."""

    def __init__(self) -> None:
        self.number: int | None = None  # the first signal that came
        self.since = 0.0
        self.seen = False  # by the main thread
        self.turn = _thread.allocate_lock()  # whose it is to end the process: never given back
        self.before_line: list[bytes] = []
        self.children_before = _children()

    def asked(self, number: int) -> None:
        """A signal came. Whoever asks again after a while does not want to wait for what is being waited for."""
        if self.number is None:
            self.number, self.since = number, time.monotonic()
        elif time.monotonic() - self.since > _REPEATED:
            os._exit(128 + self.number)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """The handler, in the main thread."""
        self.asked(number)
        self.seen = True
        if not interrupts.is_held():
            self.leave()

    def leave(self) -> None:
        """End the process if it has been asked to. Does not return then: a second caller waits for the first."""
        if self.number is None:
            return
        if self.turn.acquire(blocking=False):
            end_process(128 + self.number, _WORDS[signal.Signals(self.number)], self.before_line)
        while True:
            time.sleep(60)

    def watch(self, pipe: int) -> None:
        """The second thread: until a zero comes through ``pipe``, whose other end a process that was forked may keep open."""
        while 0 not in (numbers := os.read(pipe, 64)):
            for number in numbers:
                if number in _WORDS:
                    self._wait_for_main_thread(number)

    def _wait_for_main_thread(self, number: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not self.seen and time.monotonic() < deadline:
            time.sleep(_PATIENCE / 20)
        self.asked(number)
        # Between a message's halves it goes on to the end, and ends the process there.
        if not interrupts.is_held():
            self.leave()


def end_process(code: int, line: str, before_line: Sequence[bytes] = ()) -> NoReturn:
    """End this process with ``line`` on stderr. Nothing that it has started or left half-written stays.

    The main thread may be anywhere, with any lock of Python's library in its hands: none is asked for here.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
    _end_children()
    remove_all()
    done = _thread.allocate_lock()
    done.acquire()
    with contextlib.suppress(RuntimeError):
        _thread.start_new_thread(_flush, (done,))  # whoever reads may have stopped to
        done.acquire(timeout=_FLUSH_SECONDS)
    with contextlib.suppress(OSError):
        os.write(2, b"".join(before_line) + line.encode(errors="backslashreplace") + b"\n")
    os._exit(code)


def _flush(done: _thread.LockType) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    done.release()


def _children() -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                found |= {int(word) for word in file.read().split()}
    return found


def _end_children() -> None:
    """End compilers and workers, which would go on alone; not what a shell had started before it became this process."""
    children = _children() - _process.children_before
    for child in children:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + _CHILDREN_PATIENCE
    while children and time.monotonic() < deadline:
        children = {child for child in children if _is_running(child)}
        time.sleep(0.005 if children else 0)
    for child in children:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)


def _is_running(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG) == (0, 0)
    except OSError:  # the thread that waited for it has been told
        return False


_process = _Process()


@contextlib.contextmanager
def own_process() -> Iterator[None]:
    """The block is all that this process does: a signal that asks it to end does so at any moment. Ignored ones stay ignored.

    Behind the block, while the interpreter ends, the system ends the process by itself.
    """
    global _process  # noqa: PLW0603 -- there is one process
    earlier = _process
    numbers = [number for number in _WORDS if signal.getsignal(number) is not signal.SIG_IGN]
    _process = process = _Process()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = threading.Thread(target=process.watch, args=(reading,), daemon=True)
    try:
        interrupts.own_process(process.leave)
        with contextlib.suppress(RuntimeError):  # no thread to be had: signals wait for the end of a long call
            thread.start()
        for number in numbers:
            signal.signal(number, process.handle)
        yield
    finally:
        remove_all()
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        interrupts.own_process(None)
        signal.set_wakeup_fd(before)
        if thread.ident is not None:
            with contextlib.suppress(BlockingIOError):  # full of signals
                os.write(writing, b"\0")
                thread.join()
        os.close(writing)
        os.close(reading)
        _process = earlier


@contextlib.contextmanager
def line_begun(end: bytes = b"\n") -> Iterator[None]:
    """While the block runs, a line has been begun on the terminal, which ``end`` ends, before a last one is written."""
    process = _process
    process.before_line.append(end)
    try:
        yield
    finally:
        process.before_line.remove(end)
