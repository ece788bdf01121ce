"""`aprgraph check`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aprgraph.cli.options import Families
from aprgraph.cli.progress import byte_bar
from aprgraph.cli.terminal import printable
from aprgraph.cli.verbosity import Quiet, Verbose, is_quiet
from aprgraph.cli.verdict import echo_wrapped
from aprgraph.option_words import document_in_option_words, in_option_words

if TYPE_CHECKING:
    from aprgraph.runtime.check import CheckReport, Finding


def check(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A GGUF file, an .apr file or a checkpoint, or what was meant to be one.", show_default=False),
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave the values of the weights unread: names, shapes, metadata, tokenizer.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every finding as JSON (docs/check.schema.json).")] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Print each finding on a line of its own, however many are alike.")] = False,
    _family: Families = None,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Say what is wrong with a model file, before anybody runs it.

    Reads all of it once: NaN, Inf and absurd values among the weights, parts of them that are 0, keys that are not there,
    tensors that are missing or have no place, the tokenizer, and what the file is if it is no whole model. Goes on where
    opening it as a model would end.

    \b
    Example:
      aprgraph check model.gguf
      aprgraph check model.gguf --quick --json

    Exit code: 0 nothing wrong (notes alone), 1 errors or warnings, 2 could not be checked.
    """
    from aprgraph.graph.sources.split_gguf import places_of_parts  # noqa: PLC0415
    from aprgraph.runtime.check import check as check_file  # noqa: PLC0415

    size = 0 if quick else sum(place.stat().st_size for place in places_of_parts(model) if place.is_file())
    with byte_bar(f"reading {model.name}", size) as progress:
        report = check_file(model, weights=not quick, progress=progress)
    if as_json:
        typer.echo(json.dumps(document_in_option_words(report.to_json()), indent=1, allow_nan=False))
    else:
        _print(report, show_all)
    raise typer.Exit(report.exit_code)


def _print(report: CheckReport, show_all: bool) -> None:
    echo_wrapped(printable(report.sentence))
    if is_quiet():
        return
    for group in report.by_rule.values():
        for line in _lines(group, show_all):
            echo_wrapped(printable(line))
    for what in report.not_looked_at:
        echo_wrapped(printable(f"not looked at: {in_option_words(what)}"))
    if report.exit_code and report.tensors_read:
        typer.echo(report.extent)


def _lines(group: Sequence[Finding], show_all: bool) -> list[str]:
    """One kind of findings: a line, and what to do."""
    from aprgraph.runtime.check.report import NAMED  # noqa: PLC0415

    rule = group[0].rule
    named = [(finding.name, in_option_words(finding.text)) for finding in group]
    texts = [f"{name}: {text}" if name else text for name, text in named]
    if show_all and len(texts) > 1:
        lines = [f"{rule.level.value}: {rule.title}:", *(f"  {text}" for text in texts)]
    else:
        more = f"; and {len(texts) - NAMED} more (--all)" if len(texts) > NAMED else ""
        lines = [f"{rule.level.value}: {rule.title}: {'; '.join(texts[:NAMED])}{more}"]
    return [*lines, f"  {in_option_words(group[0].advice)}"] if group[0].advice else lines
