"""Notices: what a user should know, on standard error, so that standard output stays data."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from aprgraph.cli.terminal import printable
from aprgraph.cli.verbosity import is_quiet
from aprgraph.option_words import in_option_words


def print_notices(notices: Iterable[str]) -> None:
    """One line each; none of a quiet command."""
    for notice in () if is_quiet() else notices:
        typer.echo(f"note: {printable(in_option_words(notice))}", err=True)


def print_notice(notice: str) -> None:
    """One alone."""
    print_notices([notice])
