"""``aprgraph audit``: where is one trace wrong?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aprgraph.cli.follow_up import check_page, check_repro, print_suggestion, write_guilty
from aprgraph.cli.notices import print_notices
from aprgraph.cli.options import Families, Html, Ignore, Map, Override, ReplayExecutor, ReplayTokens, Repro, Suggest, Tolerance, Workers
from aprgraph.cli.progress import replaying
from aprgraph.cli.recorded_models import Overrides, model_of_manifest
from aprgraph.cli.tables import format_table
from aprgraph.cli.verbosity import Quiet, Verbose, is_quiet
from aprgraph.cli.verdict import echo_wrapped, print_verdict
from aprgraph.cli.write_errors import Afterwards
from aprgraph.option_words import document_in_option_words, in_option_words, option_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aprgraph.runtime.blame import Audit
    from aprgraph.runtime.blame.wrong_rows import AuditRow
    from aprgraph.runtime.trace.reader import Trace

#: Stages of what is wrong that are shown without --all.
_SHOWN = 12


def audit(
    trace: Annotated[
        Path,
        typer.Argument(
            help="A trace directory, or one APRT file (.bin), or a file of arrays (docs/captures.md).", metavar="TRACE", show_default=False
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="The model that it is to be a run of [that which its manifest names, beside the trace, one folder up, or in the current "
            "folder, with what the run overrode].",
            show_default=False,
        ),
    ] = None,
    tokens: ReplayTokens = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", help="The arithmetic of what wrote the trace, whatever its manifest says [that of the manifest]."),
    ] = None,
    tolerances: Tolerance = None,
    arithmetic: Annotated[
        str | None,
        typer.Option(
            "--arithmetic",
            metavar="NAME[,cache=f16|f32][,flash=on|off]",
            help="How the engine rounds that wrote the trace: ggml-avx2 and others (docs/arithmetic.md) [the manifest's, else found].",
        ),
    ] = None,
    explain_arithmetic: Annotated[
        bool, typer.Option("--explain-arithmetic", help="Find the arithmetic that explains the trace, and hold it to that.")
    ] = False,
    override_kv: Override = None,
    ignore: Ignore = None,
    names: Map = None,
    workers: Workers = None,
    executor: ReplayExecutor = None,
    suggest: Suggest = False,
    repro: Repro = None,
    html: Html = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole audit as JSON.")] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Print every tensor, not only those that are wrong.")] = False,
    _family: Families = None,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Check one trace against the model, whoever wrote it: which stages are wrong, given what they were computed from?

    Each stage is computed again in float64 from the tensors that the trace itself recorded. An error that came from an
    earlier stage is in these, and so is explained; what is left is the stage's own. Where inputs were not recorded, the
    replay starts at the nearest ones that were.

    \b
    Example:
      aprgraph audit theirs --model model.gguf
      aprgraph audit theirs --model model.gguf --profile cross-engine-q8act --tokens 1780,314,216,34,27,34,47
      aprgraph audit theirs --model model.gguf --explain-arithmetic
      aprgraph audit theirs --model model.gguf --html where.html --repro guilty; python guilty/repro.py

    Exit code: 0 right, 1 wrong, 2 could not be audited, 3 nothing could be replayed.
    """
    from aprgraph import comparison  # noqa: PLC0415
    from aprgraph.graph.errors import ComparisonError  # noqa: PLC0415
    from aprgraph.graph.metadata import parse_overrides  # noqa: PLC0415
    from aprgraph.runtime.blame.chosen_arithmetic import FIND  # noqa: PLC0415
    from aprgraph.runtime.diff.sources import open_audited  # noqa: PLC0415
    from aprgraph.runtime.tokens import parse_tokens  # noqa: PLC0415

    if arithmetic is not None and explain_arithmetic:
        raise ComparisonError("--arithmetic and --explain-arithmetic exclude each other; give one of them")
    chosen = FIND if explain_arithmetic else arithmetic
    check_page(html)
    check_repro(repro)
    ids = None if tokens is None else parse_tokens(tokens)
    opened = open_audited(trace, names or [], model)
    recorded: Overrides = {}
    if model is None:
        model, recorded = model_of_manifest(opened, str(trace), None)
    loaded = comparison.load_model_of([opened], model, {**recorded, **parse_overrides(override_kv or [])}, ignore or [])
    print_notices(loaded.notices)
    with replaying(len(opened.entries)) as progress:
        found = comparison.audit(
            opened,
            loaded,
            tokens=ids,
            profile=profile,
            tolerances=tolerances or [],
            arithmetic=chosen,
            progress=progress,
            workers=workers,
            executor=executor,
        )
    late = Afterwards()
    if repro is not None:
        with late.written_by("--repro"):
            write_guilty(repro, comparison.guilty_of_audit(found, opened), loaded, ids)
    if html is not None:
        from aprgraph.runtime.report.audit_page import write_audit_page  # noqa: PLC0415

        with late.written_by("--html"):
            write_audit_page(html, found, option_words)
    if suggest:
        arguments = comparison.suggested_arguments_of(found, opened)
        print_suggestion(arguments, "what is wrong is one stage" if found.wrong else "nothing is wrong", as_json=as_json)
    elif as_json:
        typer.echo(json.dumps(document_in_option_words(found.to_json()), indent=1, allow_nan=False))
    else:
        _print(found, opened, show_all=show_all, is_done=repro is not None)
    late.finish()
    raise typer.Exit(found.exit_code)


def _print(found: Audit, opened: Trace, *, show_all: bool, is_done: bool) -> None:
    from aprgraph.runtime.blame.sentences import is_explained  # noqa: PLC0415
    from aprgraph.runtime.blame.wrong_rows import audit_rows, axis_lines  # noqa: PLC0415
    from aprgraph.runtime.diff.side_facts import trace_fact  # noqa: PLC0415

    print_verdict(found.summary, found.sentence, is_done=is_done)
    if is_quiet():
        return
    typer.echo("")
    echo_wrapped(trace_fact(found.name, found.trace, opened))
    echo_wrapped(f"prompt: {found.prompt}")
    echo_wrapped("tensors: " + (", ".join(f"{count} {state.value}" for state, count in found.counts.items()) or "none"))
    if found.common and (show_all or not is_explained(found)):
        echo_wrapped(f"common to all of them: {', '.join(found.common)}")
    off = {local.key for local in (*found.wrong, *found.misshapen)}
    rows = audit_rows(found, found.locals if show_all else [local for local in found.locals if local.key in off], each=show_all)
    shown = rows if show_all else [] if found.other_model is not None else rows[:_SHOWN]
    if shown:
        typer.echo("")
        typer.echo(_local_table(shown, with_why=show_all or not found.wrong))
        for line in axis_lines(one for one in found.wrong if show_all or one.explanation is None):
            echo_wrapped(line)
    tensors = sum(len(row.group.keys) for row in shown)
    if tensors < len(found.locals):
        typer.echo(f"{tensors} of {len(found.locals)} tensors shown; --all prints every one")


def _local_table(rows: Sequence[AuditRow], *, with_why: bool) -> str:
    """A table of local errors; ``with_why`` where that does not stand above."""
    cells = [
        [row.state, row.group.label, row.error, row.limit, row.worst, row.sources, in_option_words(row.why) if with_why else ""]
        for row in rows
    ]
    header = ("", "tensor", "local error", "limit", "largest at", "replayed from", "why")
    return format_table(header, cells, right=(2, 3), drop_empty=True, spare=() if with_why else (5, 4))
