"""What an interrupt may not cut in two: SIGINT, SIGTERM and the other signals whose handlers may raise.

Python runs a handler between any two instructions. What it raises there is lost in TVM, which makes an error of its own of it, or
crashes where that is in the middle of a callback's arguments; and it leaves half of a message to a server, or of two renames.

In a host program, a block under ``held`` has handlers that only take notes; the host's own are called at its end, or where the
block says that they may be. In a process of its own, the command line ends the process by a handler that raises nothing
(aprgraph/cli/leaving.py), so that only blocks have to be waited for that leave something in two halves.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

#: The signals by which others ask a program to stop or to look up, so that hosts make exceptions of them.
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)


class _Interrupts:
    """Of the process: how deep the main thread is in blocks that hold, and what waits for their end."""

    def __init__(self) -> None:
        self.depth = 0
        self.foreign = 0  # of these, how many run code that must not meet an exception at all
        self.waiting: list[tuple[int, FrameType | None]] = []
        self.handlers: dict[int, Any] = {}  # the host's, while ours are in their place
        self.leave: Callable[[], None] | None = None  # where the process is our own: ends it if it is to end

    def take_note(self, number: int, frame: FrameType | None) -> None:
        """The handler while a block holds. A second interrupt does not wait: whoever is asked for an answer may never give one."""
        if self.waiting and not self.foreign:
            self.handlers[number](number, frame)
        else:
            self.waiting.append((number, frame))

    def install(self) -> None:
        """Put ours in place of handlers that may raise."""
        for number in ASKING:
            handler = signal.getsignal(number)
            if callable(handler) and handler != self.take_note:
                self.handlers[number] = handler
                signal.signal(number, self.take_note)

    def restore(self) -> None:
        """Put back the host's handlers. One that raises meanwhile raises when all are back."""
        failure: BaseException | None = None
        while self.handlers:
            try:
                for number, handler in self.handlers.items():
                    signal.signal(number, handler)
                break
            except BaseException as error:  # noqa: BLE001 -- raised below
                failure = error
        self.handlers = {}
        if failure is not None:
            raise failure

    def call_handlers(self, handlers: dict[int, Any]) -> None:
        """Let the host's handlers see what waits, each signal once. Raises what the first of those raises that raise."""
        waiting, self.waiting = self.waiting, []
        frames: dict[int, FrameType | None] = {}
        for number, frame in waiting:
            frames.setdefault(number, frame)
        failure: BaseException | None = None
        for number, frame in frames.items():
            try:
                handlers[number](number, frame)
            except BaseException as error:  # noqa: BLE001, PERF203 -- raised below
                failure = failure or error
        if failure is not None:
            raise failure


_interrupts = _Interrupts()


class held:  # noqa: N801 -- a context manager, as those of contextlib
    """An interrupt during the block comes at its end, or where ``let_through`` is called in it.

    ``may_end``: the block may end with the process, so that a process of our own need not wait for it; only no exception may
    arise in it. Blocks may lie in each other. In other threads than the main one, where no handler runs, nothing is done.
    """

    def __init__(self, *, may_end: bool = False) -> None:
        self._may_end = may_end
        self._counts = False

    def __enter__(self) -> None:
        is_own = _interrupts.leave is not None
        if threading.current_thread() is not threading.main_thread() or (is_own and self._may_end):
            return
        self._counts = True
        _interrupts.depth += 1
        _interrupts.foreign += self._may_end
        if not is_own and _interrupts.depth == 1:
            try:
                _interrupts.install()
            except BaseException:
                _interrupts.depth = _interrupts.foreign = 0
                _interrupts.restore()
                raise

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None) -> None:
        if not self._counts:
            return
        _interrupts.foreign -= self._may_end
        if _interrupts.depth > 1:
            _interrupts.depth -= 1
            return
        handlers = _interrupts.handlers
        try:
            _interrupts.restore()
        finally:
            _interrupts.depth = 0
            if _interrupts.leave is not None:
                _interrupts.leave()
            _interrupts.call_handlers(handlers)


def let_through() -> None:
    """Inside a block that holds: an interrupt that waits comes now. Raises what the host's handler raises."""
    if threading.current_thread() is not threading.main_thread():
        return
    if _interrupts.leave is not None:
        _interrupts.leave()
    _interrupts.call_handlers(_interrupts.handlers)


def own_process(leave: Callable[[], None] | None) -> None:
    """From now on this process is the command line's: ``leave`` ends it if it has been asked to end. None: a host's again."""
    _interrupts.leave = leave


def is_own_process() -> bool:
    """Whether this process is the command line's, with nobody else's code in it but what the user named."""
    return _interrupts.leave is not None


def is_held() -> bool:
    """Whether the main thread is in a block that is to be waited for."""
    return _interrupts.depth > 0
