"""How much a command says: --quiet and --verbose. Errors, and the document of --json, are the same either way."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from aprgraph.cli.terminal import printable


class _Level:
    """Of the command that this process carries out."""

    quiet = False
    verbose = False
    #: What is said when it is known whether anything is to be.
    pending = ""


def _set_quiet(value: bool) -> bool:
    _Level.quiet = value
    return value


def _set_verbose(value: bool) -> bool:
    _Level.verbose = value
    if _Level.pending and not _Level.quiet:
        print(f"note: {printable(_Level.pending)}", file=sys.stderr)
    _Level.pending = ""
    return value


Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=_set_quiet, help="Print the result alone: of a report its first line; no notes, no progress."),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", callback=_set_verbose, help="Say on standard error what is used, how long it takes, and the memory."),
]


def note_unless_quiet(text: str) -> None:
    """A notice, of the command whose options are read next."""
    _Level.pending = text


def is_quiet() -> bool:
    """Whether notes, progress and all of a report but its first line are left out."""
    return _Level.quiet


def explain(text: str) -> None:
    """Say what is being done, on standard error, where --verbose asks for it."""
    if _Level.verbose:
        print(f"aprgraph: {printable(text)}", file=sys.stderr)


@contextmanager
def command_said() -> Iterator[None]:
    """For one command: neither quiet nor verbose until its options say so; at its end the time and the memory, if verbose."""
    _Level.quiet, _Level.verbose, _Level.pending = False, False, ""
    begun = time.monotonic()
    try:
        yield
    finally:
        if _Level.verbose:
            import resource  # noqa: PLC0415

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            explain(f"{time.monotonic() - begun:.2f} s, at most {peak / 1e6:,.0f} MB of memory")
