"""`aprgraph weights`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aprgraph.cli.freed_memory import keep_freed_memory
from aprgraph.cli.options import Families, Html
from aprgraph.cli.progress import byte_bar
from aprgraph.cli.terminal import printable
from aprgraph.cli.verbosity import Quiet, Verbose, is_quiet
from aprgraph.cli.write_errors import Afterwards, written_by
from aprgraph.option_words import document_in_option_words

if TYPE_CHECKING:
    from aprgraph.runtime.weights import WeightsReport


def weights(
    a: Annotated[Path, typer.Argument(metavar="A", help="A model file.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another.", show_default=False)],
    html: Html = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON (docs/weights.schema.json).")] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Print every tensor, not only those that are not the same.")] = False,
    _family: Families = None,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Say whether two model files hold the same model, and if not, what was done to it.

    Compares each tensor, decoded: identical; the same up to what its block format rounds; or different, and by which
    transform it would be equal: rows of q and k permuted, transposed, 1 added to norms, gate and up swapped or
    interleaved, experts in another order, a factor, another layer's weights, a merged adapter, damaged blocks. Beside
    them the hyperparameters and the tokenizer.

    \b
    Example:
      aprgraph weights model-f16.gguf model-q4_0.gguf
      aprgraph weights mine.gguf theirs.gguf --html weights.html

    Exit code: 0 the same model, 1 different, 2 could not be compared, 3 it cannot be said.
    """
    from aprgraph.graph.sources.open import open_source  # noqa: PLC0415
    from aprgraph.runtime.weights import bytes_to_read, compare_files  # noqa: PLC0415

    if html is not None:
        from aprgraph.runtime.weights.page import check_place  # noqa: PLC0415

        with written_by("--html"):
            check_place(html)
    keep_freed_memory()
    left, right = open_source(a), open_source(b)
    with byte_bar(f"reading {a.name} and {b.name}", bytes_to_read(left, right)) as progress:
        report = compare_files(left, right, progress)
    late = Afterwards()
    if html is not None:
        from aprgraph.runtime.weights.page import write_page  # noqa: PLC0415

        with late.written_by("--html"):
            write_page(html, report)
    if as_json:
        typer.echo(json.dumps(document_in_option_words(report.to_json()), indent=1, allow_nan=False))
    else:
        _print(report, show_all)
    late.finish()
    raise typer.Exit(report.exit_code)


def _print(report: WeightsReport, show_all: bool) -> None:
    from aprgraph.runtime.weights.report import key_lines, measures_in_words  # noqa: PLC0415

    typer.echo(printable(report.sentence))
    if is_quiet():
        return
    if show_all:
        for one in report.findings:
            text = f": {one.text}" if one.text else ""
            typer.echo(printable(f"{one.status.value}: {one.name}{text}{measures_in_words(one)}"))
    else:
        for group in report.groups:
            typer.echo(printable(f"{group.first.status.value}: {group.sentence}{measures_in_words(group.first)}"))
    for note in report.notes:
        typer.echo(f"note: {note}")
    for title, differences in (("hyperparameters", report.hyperparameters), ("tokenizer", report.tokenizer)):
        typer.echo(f"{title}: {'the same' if not differences else f'{len(differences)} differ'}")
        for line in key_lines(differences):
            typer.echo(printable(f"  {line}"))
