"""A comparison in the terminal: the verdict in its parts, what was compared, and then the tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from aprgraph.cli.verdict import echo_wrapped, print_verdict
from aprgraph.graph.words import listed, plain, shape_text, small_number
from aprgraph.option_words import in_option_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

    from aprgraph.runtime.blame import Blame
    from aprgraph.runtime.blame.weight_share import OtherWeights
    from aprgraph.runtime.blame.wrong_rows import Group
    from aprgraph.runtime.comparison import Comparison
    from aprgraph.runtime.diff import DiffRow, FirstDivergence
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
    "OTHER WEIGHTS": "cyan",
    "UNKNOWN": "dim",
}


def print_report(report: Comparison, traces: tuple[Trace, Trace], *, show_all: bool, is_done: bool = False) -> None:
    """The verdict in its parts, what was compared, and then the tables; all of what is wrong, where ``show_all`` asks for it.

    ``is_done`` as of ``print_verdict``.
    """
    from aprgraph.cli.terminal import harmless_console  # noqa: PLC0415
    from aprgraph.runtime.comparison.pointed import matter, one_a_stage, suspects  # noqa: PLC0415
    from aprgraph.runtime.diff.report import outcomes  # noqa: PLC0415

    watched = sys.stdout.isatty()
    console = harmless_console(sys.stdout, highlight=False, soft_wrap=True, force_terminal=watched, width=None if watched else _WIDE)
    print_verdict(report.summary, report.headline, is_done=is_done)
    console.print()
    for line in _head(report, traces):
        echo_wrapped(line)
    pointed = suspects(report)
    if show_all:
        for group, first in one_a_stage(pointed):
            echo_wrapped(_suspects(report, group, first))
    if report.suspects and (show_all or not _is_explained(report)):
        echo_wrapped(f"common to all of them: {listed(report.suspects, _NAMES_SHOWN)}")
    if report.blame is not None and report.blame.wrong and (show_all or not _is_of_another_model(report.blame)):
        console.print()
        console.print(_blame_table(report.blame, each=show_all), markup=False)
        for line in _axis_lines(report.blame, show_all=show_all):
            echo_wrapped(line)
    if report.blame is not None and report.blame.other_weights is not None and report.blame.other_weights.shares:
        console.print()
        console.print(_weights_table(report.blame.other_weights, each=show_all), markup=False)
    rows = _rows_of_common_layers(report) if show_all else matter(report)
    if rows:
        console.print()
        _print_table(console, report, rows, {first.key for first in pointed})
    for row in outcomes(rows):
        echo_wrapped(row.outcome_sentence)
    if len(rows) < len(report.rows):
        more = "the others are of layers that one side lacks" if show_all else "--all prints every one"
        console.print(f"{len(rows)} of {len(report.rows)} tensors shown; {more}", markup=False)


def _is_explained(report: Comparison) -> bool:
    """Whether mistakes explain all that a side is wrong at."""
    if report.blame is None or not report.blame.wrong:
        return False
    from aprgraph.runtime.blame.sentences import is_explained  # noqa: PLC0415

    return is_explained(report.blame.a) and is_explained(report.blame.b)


def _is_of_another_model(blame: Blame) -> bool:
    """Whether a side is a trace of another model: what is wrong by this one says nothing then."""
    return blame.a.other_model is not None or blame.b.other_model is not None


def _axis_lines(blame: Blame, *, show_all: bool) -> list[str]:
    """How far off wrong tensors are along their axes: those that nothing explains, or all."""
    from aprgraph.runtime.blame.wrong_rows import axis_lines  # noqa: PLC0415

    found = [blame.local_of(key) for key in blame.wrong]
    return axis_lines(one for one in found if one is not None and (show_all or one.explanation is None))


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
    # Why it is so stands above, of each stage once.
    cells = [[row.verdict, row.group.label, row.a, row.b, row.limit, row.worst, in_option_words(row.why) if each else ""] for row in shown]
    header = ("", "tensor", "local A", "local B", "limit", "largest at", "why")
    table = format_table(header, cells, right=(2, 3, 4), drop_empty=True, spare=() if each else (5, 4))
    hidden = len(rows) - len(shown)
    return table + (f"\n{hidden} more stages that a side is wrong at; --all prints every tensor" if hidden else "")


def _weights_table(other: OtherWeights, *, each: bool) -> str:
    """What the weights of the two models make the sides differ by: at the stages where it is most, or at ``each`` in order."""
    from aprgraph.cli.tables import format_table  # noqa: PLC0415

    shown = other.shares if each else other.largest[:_WRONG_SHOWN]
    cells = [[share.label, *map(small_number, (share.total, share.by_weights, share.from_inputs)), share.tensors] for share in shown]
    table = format_table(("tensor", "differs by", "by weights", "from inputs", "weights"), cells, right=(1, 2, 3))
    table += "".join(f"\nby the file: {plain(name)}: {plain(text)}" for name, text in other.by_file.items())
    hidden = len(other.shares) - len(shown)
    return table + (f"\n{hidden} more stages whose weights differ; --all prints every one" if hidden else "")


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
