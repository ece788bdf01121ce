"""The command line. Commands lie one a file; nothing heavy is imported until a command runs."""

from __future__ import annotations

# What `signal` is made of, built into Python: that module makes enums of it, in the midst of which an interrupt may come.
import _signal  # type: ignore[import-not-found]
import os

__all__ = ["main"]


def main() -> None:
    """The console script, for a process of its own: a signal that asks it to end does so (see leaving.py)."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # until there is something that could be left half-written
    from aprgraph.cli.leaving import own_process  # noqa: PLC0415

    # What multiplies large matrices does so in threads of its own (graph/blas_threads.py). Those of NumPy's BLAS, which begin when NumPy
    # is imported, would spin beside them after each small product: two fifths of the processor time of an audit.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with own_process():
        from aprgraph.cli.freed_memory import look_seldom_for_cycles  # noqa: PLC0415

        look_seldom_for_cycles()
        from aprgraph.cli.app import run_command  # noqa: PLC0415

        run_command()
