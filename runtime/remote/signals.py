"""Broken pipes while a session on a TVM RPC server is open."""

from __future__ import annotations

import signal


class BrokenPipes:
    """SIGPIPE is blocked until ``restore``, in the thread that made it: TVM writes to sockets that may be closed, without regard to it."""

    def __init__(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])

    def restore(self, *, lost: bool) -> None:
        """Put back what was there before; of a connection that was ``lost``, SIGPIPE is forgotten."""
        if lost:
            signal.sigtimedwait([signal.SIGPIPE], 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
