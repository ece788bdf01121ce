"""A verdict in the terminal: what came out, and below it the parts, each with its label."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from aprgraph.cli.tables import columns
from aprgraph.cli.verbosity import is_quiet
from aprgraph.graph.words import plain
from aprgraph.option_words import in_option_words, option_words

if TYPE_CHECKING:
    from aprgraph.runtime.summary import Summary


def print_verdict(summary: Summary, sentence: str, *, is_done: bool = False) -> None:
    """The parts; of a quiet command the one ``sentence`` in their place. In a terminal lines are broken between words.

    ``is_done``: the guilty stage was written, so that nobody is told to give the command again for it.
    """
    from aprgraph.runtime.summary import LABEL, wrapped  # noqa: PLC0415

    if is_quiet():
        typer.echo(plain(in_option_words(sentence)))
        return
    summary = summary.for_others if is_done else summary
    width = columns()
    outcome, lines = wrapped(in_option_words(summary.outcome), width), summary.lines(width, option_words)
    if width is None:
        typer.echo("\n".join([*outcome, *lines]))
        return
    from rich.text import Text  # noqa: PLC0415 -- what a pipe need not wait for

    from aprgraph.cli.terminal import harmless_console  # noqa: PLC0415

    console = harmless_console(sys.stdout, highlight=False, soft_wrap=True, force_terminal=True)
    for line in outcome:
        console.print(Text(line, style="bold"))
    for line in lines:
        console.print(Text.assemble((line[:LABEL], "bold"), line[LABEL:]))


def echo_wrapped(text: str) -> None:
    """A line that goes on indented where a terminal is not wide enough for it."""
    from aprgraph.runtime.summary import wrapped  # noqa: PLC0415

    for line in wrapped(text, columns(), "", "  "):
        typer.echo(line)
