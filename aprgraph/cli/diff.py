"""``aprgraph diff``: where do two traces first part?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aprgraph.cli.follow_up import check_page, check_repro, print_suggestion, write_guilty
from aprgraph.cli.notices import print_notices
from aprgraph.cli.options import Families, Html, Ignore, Map, Override, ReplayExecutor, ReplayTokens, Repro, Suggest, Tolerance, Workers
from aprgraph.cli.progress import comparing, replaying
from aprgraph.cli.recorded_models import Overrides, model_of_manifest
from aprgraph.cli.verbosity import Quiet, Verbose, is_quiet
from aprgraph.cli.write_errors import Afterwards
from aprgraph.graph.words import plain
from aprgraph.option_words import document_in_option_words, in_option_words, option_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aprgraph.graph.model import Model
    from aprgraph.runtime.diff import DiffReport
    from aprgraph.runtime.diff.sources import Source


def diff(
    a: Annotated[
        Path,
        typer.Argument(
            help="A trace directory, or one APRT file (.bin), or a file of arrays (docs/captures.md).", metavar="A", show_default=False
        ),
    ],
    b: Annotated[Path, typer.Argument(help="The same of the other side.", metavar="B", show_default=False)],
    top: Annotated[int, typer.Option("--top", min=1, metavar="K", help="Compare the K best tokens of the logits.")] = 10,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            metavar="NAME",
            help="What the two runs have in common, whatever the manifests say (default: as they say): same-graph-f32 (same weights, "
            "float32), same-graph-f16 and same-graph-bf16 (one side computes in float16, TF32 or bfloat16), cross-engine-q8act and "
            "cross-engine-q8k (one side rounds activations to 8 bits, as llama.cpp does beside Q4_0 to Q8_0, and beside K-quants), "
            "quant-vs-float (one side has the float weights of a model that the other has quantised).",
            show_default=False,
        ),
    ] = None,
    tolerances: Tolerance = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="The model that both are to be runs of: say which side is wrong.", show_default=False
        ),
    ] = None,
    model_a: Annotated[
        Path | None,
        typer.Option(
            "--model-a",
            metavar="MODEL",
            help="The model of A, where B is of another file of it (with --model-b or --model): each side is replayed by its own, "
            "and what their weights make the two differ by is told apart.",
            show_default=False,
        ),
    ] = None,
    model_b: Annotated[Path | None, typer.Option("--model-b", metavar="MODEL", help="The model of B.", show_default=False)] = None,
    replay: Annotated[
        bool,
        typer.Option(
            "--replay",
            help="As --model-a and --model-b, with the models that the manifests name, where they lie beside the traces, one folder up, "
            "or in the current folder, and with what these override.",
        ),
    ] = False,
    tokens: ReplayTokens = None,
    override_kv: Override = None,
    ignore: Ignore = None,
    names: Map = None,
    workers: Workers = None,
    executor: ReplayExecutor = None,
    suggest: Suggest = False,
    repro: Repro = None,
    html: Html = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
    apr_json: Annotated[
        bool,
        typer.Option("--apr-json", help="Of two APRT files, print apr's own document (apr-stage-diff-v1), with --top elements."),
    ] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Print every tensor, not only those around the first divergence.")] = False,
    _family: Families = None,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Compare two traces stage by stage, and name the first stage that differs.

    Prints a verdict, then the first divergent tensors with the nearest ones before and after them. Between those before
    and the divergent one lies the cause: tap the stages there to narrow it down; --suggest prints the options for that.

    The first to differ is not always wrong, nor is its side. With --model each stage of each side is computed again in float64
    from what that side itself recorded, which says who is wrong, and where. All of the report then goes by verdicts, a row a stage:
    A WRONG, B WRONG, BOTH WRONG, FOLLOWS (right, behind something wrong), ADDS UP, RECORDING, OTHER GRAPH,
    OTHER WEIGHTS, RIGHT, UNKNOWN. docs/verdicts.md has all words.

    \b
    Example:
      aprgraph run model.gguf --taps all --layers all -o good
      aprgraph run model.gguf --taps all --layers all -o bad --override-kv llama.rope.freq_base=float:10000
      aprgraph diff good bad
      aprgraph diff good bad --model model.gguf --html report.html --repro guilty
      aprgraph diff quantised original --model-a model.gguf --model-b checkpoint/

    Either side may come from another program that writes APRT files. Tensors that one side lacks are UNMEASURED:
    neither equal nor divergent. So is what lies behind experts that the two chose differently at a near-tie.

    How far two tensors may differ is in docs/tolerances.md, with where each number comes from.

    Exit code: 0 alike, 1 diverged (or a side is wrong), 2 could not be compared, 3 nothing was measured, or less than went unread.
    With --apr-json 0, whatever differs.
    """
    from aprgraph import comparison  # noqa: PLC0415
    from aprgraph.cli.diff_report import print_report  # noqa: PLC0415
    from aprgraph.runtime.comparison import Comparison  # noqa: PLC0415
    from aprgraph.runtime.diff.sources import open_foreign_sides, open_pair  # noqa: PLC0415

    if apr_json:
        _print_as_apr(
            a,
            b,
            top,
            {
                "--json": as_json,
                "--html": html,
                "--model": model or model_a or model_b,
                "--replay": replay,
                "--suggest": suggest,
                "--map": names,
            },
        )
        return
    check_page(html)
    check_repro(repro)
    one, other = sides = open_pair(*open_foreign_sides([a, b], names or []))
    recorded: tuple[Overrides, Overrides] = ({}, {})
    if replay:
        given = zip("AB", sides, (model_a or model, model_b or model), strict=True)
        (model_a, of_a), (model_b, of_b) = (model_of_manifest(trace, side, chosen) for side, trace, chosen in given)
        recorded = of_a, of_b
    truth = _load(sides, (model, model_a, model_b), tokens, override_kv or [], ignore or [], repro, recorded, workers, executor)
    ids = None
    if tokens is not None:
        from aprgraph.runtime.tokens import parse_tokens  # noqa: PLC0415

        ids = parse_tokens(tokens)
    late = Afterwards()
    report = Comparison.of(_compare(one, other, top, profile, tolerances or []))
    if truth is not None:
        from aprgraph.runtime.comparison.with_blame import with_blame  # noqa: PLC0415

        with replaying(len(one.entries) + len(other.entries)) as progress, comparison.workers_or_none(workers, executor) as where:
            report = with_blame(
                report,
                *sides,
                truth[0],
                model_b=truth[1],
                tokens=ids,
                profile=profile,
                tolerances=tolerances or [],
                top=top,
                progress=progress,
                executor=where,
            )
        if repro is not None:
            guilty = comparison.guilty_of_diff(report, *sides)
            with late.written_by("--repro"):
                write_guilty(repro, guilty, truth[guilty is not None and guilty.is_b], ids)
    if html is not None:
        from aprgraph.runtime.report import write_page  # noqa: PLC0415

        with late.written_by("--html"):
            write_page(html, report, *(report.traces or sides), option_words)
    if suggest:
        arguments = comparison.suggested_arguments(report, sides)
        print_suggestion(arguments, "what differs is one stage" if report.exit_code == 1 else "nothing differs", as_json=as_json)
    elif as_json:
        typer.echo(json.dumps(document_in_option_words(report.to_json()), indent=1, allow_nan=False))
    elif is_quiet():
        typer.echo(plain(in_option_words(report.headline)))
    else:
        print_report(report, sides, show_all=show_all, is_done=repro is not None)
    late.finish()
    raise typer.Exit(report.exit_code)


def _print_as_apr(a: Path, b: Path, top: int, others: dict[str, object]) -> None:
    """apr's own document of two files. Raises AprgraphError, also for options that it has no room for."""
    from aprgraph.graph.errors import ComparisonError  # noqa: PLC0415
    from aprgraph.runtime.diff.apr_stage_diff import apr_stage_diff  # noqa: PLC0415

    for option, given in others.items():
        if given:
            raise ComparisonError(f"{option} and --apr-json exclude each other; give one of them")
    for path in (a, b):
        if path.is_dir():
            raise ComparisonError(f"{path}: a directory, and --apr-json is of two APRT files (.bin); --json is the report of two traces")
    typer.echo(json.dumps(apr_stage_diff(a, b, top), indent=2, allow_nan=False))


def _load(
    sides: Sequence[Source],
    models: tuple[Path | None, Path | None, Path | None],
    tokens: str | None,
    override_kv: list[str],
    ignore: list[str],
    repro: Path | None,
    recorded: tuple[Overrides, Overrides],
    workers: int | None,
    executor: str | None,
) -> tuple[Model, Model] | None:
    """The models to replay A and B by, if any is named: of both, of A, of B. Raises AprgraphError, also for options that need one.

    ``recorded`` are what the manifests of A and of B override.
    """
    from aprgraph.comparison import load_models_of  # noqa: PLC0415
    from aprgraph.graph.errors import ComparisonError  # noqa: PLC0415
    from aprgraph.graph.metadata import parse_overrides  # noqa: PLC0415

    a, b = sides
    loaded = load_models_of(a, b, *models, parse_overrides(override_kv), ignore, recorded)
    if loaded is not None:
        print_notices(tuple(dict.fromkeys(notice for model in loaded for notice in model.notices)))
        return loaded
    for option, given in (
        ("--tokens", tokens),
        ("--override-kv", override_kv),
        ("--ignore", ignore),
        ("--repro", repro),
        ("--workers", workers),
        ("--executor", executor),
    ):
        if given:
            raise ComparisonError(f"{option} is for the replay of a model; name it with --model")
    return None


def _compare(a: Source, b: Source, top: int, profile: str | None, tolerances: list[str]) -> DiffReport:
    """The comparison, with a progress bar where someone is watching."""
    from aprgraph.runtime.diff import diff as compare  # noqa: PLC0415

    # Nothing in this process computes in threads of its own by now, unless torch has read a file: then a fork could wait for them.
    forks = "torch" not in sys.modules
    with comparing() as progress:
        return compare(a, b, top=top, profile=profile, tolerances=tolerances, progress=progress, forks=forks)
