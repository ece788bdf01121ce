"""Notices: what a user should know, on standard error, so that standard output stays data."""

from __future__ import annotations

from collections.abc import Iterable

import typer


def print_notices(notices: Iterable[str]) -> None:
    """One line each."""
    for notice in notices:
        # Names in a file may hold line ends and what a terminal takes for commands.
        line = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in notice)
        typer.echo(f"note: {line}", err=True)
