"""The command line. Commands lie one a file; nothing heavy is imported until a command runs."""

from __future__ import annotations

# What `signal` is made of, built into Python: that module makes enums of it, in the midst of which an interrupt may come.
import _signal  # type: ignore[import-not-found]

__all__ = ["main"]


def main() -> None:
    """The console script, for a process of its own: a signal that asks it to end does so (see leaving.py)."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # until there is something that could be left half-written
    from aprgraph.cli.leaving import own_process  # noqa: PLC0415

    with own_process():
        from aprgraph.cli.freed_memory import look_seldom_for_cycles  # noqa: PLC0415

        look_seldom_for_cycles()
        from aprgraph.cli.app import run_command  # noqa: PLC0415

        run_command()
