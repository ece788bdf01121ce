"""What comes after a verdict: what to tap next, and the guilty stage alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from aprgraph.cli.write_errors import written_by
from aprgraph.option_words import option_words

if TYPE_CHECKING:
    from aprgraph.comparison import Guilty
    from aprgraph.graph.arguments import Argument
    from aprgraph.graph.model import Model


def print_suggestion(arguments: Sequence[Argument] | None, why_none: str, *, as_json: bool) -> None:
    """What to tap next, as options of ``aprgraph run``: these alone on standard output, and why there are none on standard error."""
    options = None if arguments is None else " ".join(map(option_words, arguments))
    if as_json:
        typer.echo(json.dumps({"options": options, "why_none": why_none if options is None else None}))
    elif options is None:
        print(f"nothing to tap: {why_none}", file=sys.stderr)
    else:
        typer.echo(options)


def check_repro(directory: Path | None) -> None:
    """Raise TraceError for a place of --repro that cannot be written, before anything takes time."""
    if directory is not None:
        from aprgraph.runtime.blame.repro import check_repro_place  # noqa: PLC0415

        with written_by("--repro"):
            check_repro_place(directory)


def write_guilty(directory: Path, guilty: Guilty | None, model: Model, tokens: Sequence[int] | None = None) -> None:
    """Write the guilty stage into ``directory`` and say how to run it, on stderr; or that there is none. Raises TraceError."""
    from aprgraph.runtime.blame.repro import write_repro  # noqa: PLC0415

    if guilty is None:
        print("nothing to reproduce: no replay found anything wrong", file=sys.stderr)
        return
    script = write_repro(directory, guilty.trace, model, guilty.local, profile=guilty.profile, tokens=tokens)
    whose = f" of {guilty.side}" if guilty.side is not None else ""
    print(f"{guilty.local.label}{whose} alone: python {script}", file=sys.stderr)


def check_page(html: Path | None) -> None:
    """Raise TraceError for a place of --html that cannot be written, before anything takes time."""
    if html is not None:
        from aprgraph.runtime.report import check_place  # noqa: PLC0415

        with written_by("--html"):
            check_place(html)
