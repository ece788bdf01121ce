"""``aprgraph diff``: where do two traces first part?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aprgraph.cli.follow_up import check_repro, print_suggestion, write_guilty
from aprgraph.cli.notices import print_notices
from aprgraph.cli.options import Families, Ignore, Override, ReplayTokens, Repro, Suggest, Tolerance
from aprgraph.cli.places import Afterwards, written_by
from aprgraph.cli.progress import replaying
from aprgraph.graph.words import listed, plain, shape_text, small_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

    from aprgraph.graph.model import Model
    from aprgraph.runtime.blame import Blame
    from aprgraph.runtime.blame.wrong_rows import Group
    from aprgraph.runtime.comparison import Comparison
    from aprgraph.runtime.diff import DiffReport, DiffRow, FirstDivergence
    from aprgraph.runtime.place import Place
    from aprgraph.runtime.trace.reader import Trace

#: Columns of a table that goes to a file or a pipe, where nothing wraps it.
_WIDE = 240
_NAMES_SHOWN = 8
_WRONG_SHOWN = 12
#: (least width of the terminal, number columns shown)
_COLUMNS_FOR_WIDTH = ((155, 9), (115, 5), (0, 2))

#: By class and by verdict; all others are red. What merely follows from something wrong is as quiet as what is right.
_COLOURS = {
    "IDENTICAL": "dim",
    "NOISE": "green",
    "PROPAGATED": "yellow",
    "UNMEASURED": "dim",
    "RIGHT": "green",
    "FOLLOWS": "dim",
    "OTHER FORM": "cyan",
    "RECORDING": "cyan",
    "ADDS UP": "yellow",
    "UNKNOWN": "dim",
}


def diff(
    a: Annotated[Path, typer.Argument(help="A trace directory, or one APRT file (.bin).", metavar="A", show_default=False)],
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
            "--model", "-m", metavar="GGUF", help="The model that both are to be runs of: say which side is wrong.", show_default=False
        ),
    ] = None,
    tokens: ReplayTokens = None,
    override_kv: Override = None,
    ignore: Ignore = None,
    suggest: Suggest = False,
    repro: Repro = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the report as one page that opens offline.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
    show_all: Annotated[bool, typer.Option("--all", help="Print every tensor, not only those around the first divergence.")] = False,
    _family: Families = None,
) -> None:
    """Compare two traces stage by stage, and name the first stage that differs.

    Prints a verdict, then the first divergent tensors with the nearest ones before and after them. Between those before
    and the divergent one lies the cause: tap the stages there to narrow it down; --suggest prints the options for that.

    The first to differ is not always wrong, nor is its side. With --model each stage of each side is computed again in float64
    from what that side itself recorded, which says who is wrong, and where. All of the report then goes by verdicts, a row a stage:
    A WRONG, B WRONG, BOTH WRONG, FOLLOWS (right, behind something wrong), ADDS UP, RECORDING, OTHER GRAPH, RIGHT, UNKNOWN.
    docs/verdicts.md has all words.

    \b
    Example:
      aprgraph run model.gguf --taps all --layers 0..30 -o good
      aprgraph run model.gguf --taps all --layers 0..30 -o bad --override-kv llama.rope.freq_base=float:10000
      aprgraph diff good bad
      aprgraph diff good bad --model model.gguf --html report.html --repro guilty

    Either side may come from another program that writes APRT files. Tensors that one side lacks are UNMEASURED:
    neither equal nor divergent. So is what lies behind experts that the two chose differently at a near-tie.

    How far two tensors may differ is in docs/tolerances.md, with where each number comes from.

    Exit code: 0 alike, 1 diverged (or a side is wrong), 2 could not be compared, 3 nothing was measured, or less than went unread.
    """
    from aprgraph import comparison  # noqa: PLC0415
    from aprgraph.runtime.comparison import Comparison, with_blame  # noqa: PLC0415
    from aprgraph.runtime.diff.sources import open_pair  # noqa: PLC0415
    from aprgraph.runtime.tokens import parse_tokens  # noqa: PLC0415

    _check_places(html, repro)
    truth = _load(model, tokens, override_kv or [], ignore or [], repro)
    ids = None if tokens is None else parse_tokens(tokens)
    late = Afterwards()
    report = Comparison.of(_compare(a, b, top, profile, tolerances or []))
    if truth is not None:
        with replaying() as progress:
            report = with_blame(
                report, *open_pair(a, b), truth, tokens=ids, profile=profile, tolerances=tolerances or [], top=top, progress=progress
            )
        if repro is not None:
            with late.written_by("--repro"):
                write_guilty(repro, comparison.guilty_of_diff(report, *open_pair(a, b)), truth, ids)
    if html is not None:
        from aprgraph.runtime.report import write_page  # noqa: PLC0415

        with late.written_by("--html"):
            write_page(html, report, *(report.traces or open_pair(a, b)))
    if suggest:
        options = comparison.suggested_options(report, open_pair(a, b))
        print_suggestion(options, "what differs is one stage" if report.exit_code == 1 else "nothing differs", as_json=as_json)
    elif as_json:
        typer.echo(json.dumps(report.to_json(), indent=1, allow_nan=False))
    else:
        _print(report, open_pair(a, b), show_all)
    late.finish()
    raise typer.Exit(report.exit_code)


def _check_places(html: Path | None, repro: Path | None) -> None:
    """Raise TraceError for places that cannot be written, before anything takes time."""
    if html is not None:
        from aprgraph.runtime.report import check_place  # noqa: PLC0415

        with written_by("--html"):
            check_place(html)
    check_repro(repro)


def _load(model: Path | None, tokens: str | None, override_kv: list[str], ignore: list[str], repro: Path | None) -> Model | None:
    """The model to replay, if one is named. Raises AprgraphError, also for options that need one."""
    from aprgraph.graph.errors import ComparisonError  # noqa: PLC0415
    from aprgraph.graph.metadata import parse_overrides  # noqa: PLC0415
    from aprgraph.graph.model import load_model  # noqa: PLC0415

    if model is not None:
        loaded = load_model(model, parse_overrides(override_kv), ignore)
        print_notices(loaded.notices)
        return loaded
    for option, given in (("--tokens", tokens), ("--override-kv", override_kv), ("--ignore", ignore), ("--repro", repro)):
        if given:
            raise ComparisonError(f"{option} is for the replay of a model; name it with --model")
    return None


def _compare(a: Path, b: Path, top: int, profile: str | None, tolerances: list[str]) -> DiffReport:
    """The comparison, with a progress bar where someone is watching."""
    from aprgraph.runtime.diff import diff as compare  # noqa: PLC0415

    if not sys.stderr.isatty():
        return compare(a, b, top=top, profile=profile, tolerances=tolerances)
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("comparing")

        def progress(done: int, total: int, label: str) -> None:
            bar.update(task, completed=done, total=total, description=label)

        return compare(a, b, top=top, profile=profile, tolerances=tolerances, progress=progress)


def _print(report: Comparison, traces: tuple[Trace, Trace], show_all: bool) -> None:
    """The verdict, what else has to be known, what was compared, and then the tables."""
    from rich.console import Console  # noqa: PLC0415

    from aprgraph.runtime.comparison.pointed import matter, one_a_stage, suspects  # noqa: PLC0415

    watched = sys.stdout.isatty()
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, force_terminal=watched, width=None if watched else _WIDE)
    console.print(plain(report.headline), style="bold", markup=False)
    for note in report.all_notes:
        console.print(plain(f"note: {note}"), markup=False)
    for line in _head(report, traces):
        console.print(line, style="dim", markup=False)
    pointed = suspects(report)
    for group, first in one_a_stage(pointed)[:_NAMES_SHOWN]:
        console.print(plain(_suspects(report, group, first)), markup=False)
    if report.suspects:
        console.print(plain(f"common to all of them: {listed(report.suspects, _NAMES_SHOWN)}"), markup=False)
    if report.blame is not None and report.blame.wrong:
        console.print()
        console.print(_blame_table(report.blame, each=show_all), markup=False)
    rows = _rows_of_common_layers(report) if show_all else matter(report)
    if rows:
        console.print()
        _print_table(console, report, rows, {first.key for first in pointed})
    for row in rows:
        if row.logits is not None:
            console.print(plain(_logits(row)), markup=False)
    if len(rows) < len(report.rows):
        more = "the others are of layers that one side lacks" if show_all else "--all prints every one"
        console.print(f"{len(rows)} of {len(report.rows)} tensors shown; {more}", markup=False)


def _head(report: Comparison, traces: tuple[Trace, Trace]) -> Iterator[str]:
    """What was compared: both sides, the prompt, and how many tensors have each verdict or class."""
    from aprgraph.runtime.diff.side_facts import side_facts  # noqa: PLC0415

    for side, fact in side_facts(report, *traces):
        yield f"{side} is {fact}"
    yield f"prompt: {report.prompt}"
    yield "tensors: " + (", ".join(f"{count} {word}" for word, count in report.tally.items()) or "none")


def _rows_of_common_layers(report: Comparison) -> list[DiffRow]:
    """All rows but those of layers that one side lacks, which a note names: they would say so hundreds of times."""
    from aprgraph.runtime.diff.align import ONLY_A, ONLY_B  # noqa: PLC0415

    reasons: dict[int | None, set[str | None]] = {}
    for row in report.rows:
        reasons.setdefault(row.key.layer, set()).add(row.reason)
    lacking = {layer for layer, found in reasons.items() if layer is not None and found in ({ONLY_A}, {ONLY_B})}
    return [row for row in report.rows if row.key.layer not in lacking]


def _blame_table(blame: Blame, *, each: bool) -> str:
    """The stages that a side is wrong at, or ``each`` tensor, with both sides' local errors."""
    from aprgraph.cli.tables import format_table  # noqa: PLC0415
    from aprgraph.runtime.blame.wrong_rows import wrong_rows  # noqa: PLC0415

    rows = wrong_rows(blame, each=each)
    shown = rows if each else rows[:_WRONG_SHOWN]
    cells = [[row.verdict, row.group.label, row.a, row.b, row.limit, row.worst, row.why] for row in shown]
    table = format_table(("", "tensor", "local A", "local B", "limit", "largest at", "why"), cells, right=(2, 3, 4), drop_empty=True)
    hidden = len(rows) - len(shown)
    return table + (f"\n{hidden} more stages that a side is wrong at; --all prints every tensor" if hidden else "")


def _suspects(report: Comparison, group: Group, first: FirstDivergence) -> str:
    """Where the cause of one first divergence can lie, in a sentence; of several layers of a stage, in the first of them."""
    labels = {row.key: row.label for row in report.rows}
    after = [labels.get(key, key.stage) for key in first.good]
    several = f", of {labels[first.key]}," if len(group.keys) > 1 else ""
    text = f"{group.label}: the cause{several} lies in {listed(first.region[::-1], _NAMES_SHOWN)}"
    if first.weights:
        text += f", or in the weights {listed(first.weights[::-1], _NAMES_SHOWN)}"
    good = "computed from" if report.blame is not None and report.blame.wrong else "still good"
    return text + (f"; {good}: {listed(after[::-1], _NAMES_SHOWN)}" if after else "; nothing before it was measured")


def _logits(row: DiffRow) -> str:
    logits = row.logits
    assert logits is not None
    best = f"token {logits.argmax_a} on both sides"
    if logits.argmax_a != logits.argmax_b:
        best = f"token {logits.argmax_a} in A, {logits.argmax_b} in B"
    return f"{row.label}: best {best}; {logits.top_overlap} of the best {logits.top} in common; KL {logits.kl_ab:.2e} nats"


def _print_table(console: Console, report: Comparison, rows: list[DiffRow], first: set[Place]) -> None:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table: Table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "class" if report.blame is None else "verdict", "tensor", "shape"):
        table.add_column(name, no_wrap=True)
    # A narrow terminal gets fewer columns rather than cropped ones.
    shown = next(count for width, count in _COLUMNS_FOR_WIDTH if console.width >= width)
    for name in ("NMSE", "limit", "cosine", "worst position", "worst 1 % channels", "max|Δ|", "NaN+Inf A/B", "rms A", "rms B")[:shown]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        word = report.word(row)
        cells = [Text("▶" if row.key in first else ""), Text(word), Text(plain(row.label)), Text(shape_text(row.shape or ()))]
        table.add_row(*cells, *map(Text, _numbers(row)[:shown]), style=_COLOURS.get(word, "red"))
    console.print(table)


def _numbers(row: DiffRow) -> list[str]:
    """The cells of one row's numbers; the columns that do not apply are empty."""
    from aprgraph.runtime.diff.metrics import TensorMetrics  # noqa: PLC0415

    metrics = row.metrics
    if not isinstance(metrics, TensorMetrics):
        return ["" if row.error is None else f"{row.error:.1%} of ids", _limit(row)] if metrics is not None else []
    positions, channels = metrics.positions, metrics.channels
    return [
        small_number(metrics.nmse),
        _limit(row),
        "" if metrics.cosine is None else f"{metrics.cosine:.6f}",
        f"{positions.worst[0]}: {positions.share:.0%}" if positions is not None and positions.size > 1 and positions.share else "",
        f"{channels.share:.0%}" if channels is not None and channels.share else "",
        small_number(metrics.max_abs),
        f"{metrics.nan_a + metrics.inf_a}/{metrics.nan_b + metrics.inf_b}",
        small_number(metrics.rms_a),
        small_number(metrics.rms_b),
    ]


def _limit(row: DiffRow) -> str:
    """The limit, with a star where --tol set it."""
    return f"{row.limit:.2g}" + ("*" if row.override is not None else "")
