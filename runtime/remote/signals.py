"""What signals do while a session on a TVM RPC server is open."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class SessionSignals:
    """Until ``restore``, in the thread that made it.

    SIGPIPE is blocked, as TVM writes to sockets that may be closed, without regard to it. An interrupt waits until a
    message is through: TVM's server stops serving when a client leaves in the middle of one. A second interrupt does not wait.
    """

    def __init__(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
        self._depth = 0
        self._waiting: tuple[int, FrameType | None] | None = None
        self._handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: handler for number in _INTERRUPTS if callable(handler := signal.getsignal(number))}
            for number in self._handlers:
                signal.signal(number, self._interrupt)

    def restore(self, *, lost: bool) -> None:
        """Put back what was there before; of a connection that was ``lost``, SIGPIPE is forgotten."""
        if lost:
            signal.sigtimedwait([signal.SIGPIPE], 0)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    @contextmanager
    def held(self) -> Iterator[None]:
        """An interrupt during the block comes at its end."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self.let_through()

    def let_through(self) -> None:
        """An interrupt that waits comes now: no message is on its way."""
        if self._waiting is not None:
            (number, frame), self._waiting = self._waiting, None
            self._handlers[number](number, frame)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._depth and self._waiting is None:
            self._waiting = (number, frame)
        else:
            self._handlers[number](number, frame)
