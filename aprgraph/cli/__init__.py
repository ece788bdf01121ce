"""The command line. Commands lie one a file; nothing heavy is imported until a command runs."""

from __future__ import annotations

import signal

__all__ = ["main"]


def main() -> None:
    """The console script, for a process of its own: a signal that asks it to end does so (see leaving.py)."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something that could be left half-written
    from aprgraph.cli.leaving import own_process  # noqa: PLC0415

    with own_process():
        from aprgraph.cli.app import run_command  # noqa: PLC0415

        run_command()
