"""The page: its sections gathered, and the template filled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aprgraph.graph.message import Words
from aprgraph.graph.words import counted, listed, small_number
from aprgraph.runtime.blame.wrong_rows import Group, first_by_axis, wrong_rows
from aprgraph.runtime.comparison.comparison import Comparison
from aprgraph.runtime.comparison.pointed import matter, one_a_stage, suspects
from aprgraph.runtime.diff.classify import FirstDivergence
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.report import outcomes
from aprgraph.runtime.diff.side_facts import side_facts
from aprgraph.runtime.diff.side_names import SideNames
from aprgraph.runtime.diff.tolerances import TABLE_VERSION
from aprgraph.runtime.output_file import check_file_place, write_text_atomically
from aprgraph.runtime.report.axis_chart import axis_charts
from aprgraph.runtime.report.depth_chart import draw_overview, draw_panels
from aprgraph.runtime.report.guilty import Guilty, find_guilty
from aprgraph.runtime.report.histogram import make_histograms
from aprgraph.runtime.report.histogram_chart import describe, draw_histograms
from aprgraph.runtime.report.marks import LEVEL_TEXTS, class_rules
from aprgraph.runtime.report.numbers import dims
from aprgraph.runtime.report.png import data_uri
from aprgraph.runtime.report.rows import make_columns, table_rows
from aprgraph.runtime.report.stage_map import make_maps
from aprgraph.runtime.report.suspect_graph import SuspectGraph, draw_suspects, graph_rules
from aprgraph.runtime.report.template import NAMED, policy, resource, template
from aprgraph.runtime.report.tensor_map import make_tensor_map, scale_png
from aprgraph.runtime.trace.reader import Trace

#: Stages of which it is shown what the weights of two models make.
_SHARES = 12
#: Tensors of which the page says in words where their cause can lie.
_REGIONS = 4
#: In the head of each page.
_GENERATOR = b'<meta name="generator" content="aprgraph">'
_OUTCOMES = {0: "alike", 1: "diverged", 3: "nothing measured"}


def write_page(path: Path, report: Comparison, trace_a: Trace, trace_b: Trace, words: Words = str) -> None:
    """Write the page that ``render_page`` makes to ``path``, whole or not at all.

    Raises TraceError where that fails, or a tensor to show cannot be read.
    """
    check_place(path)
    write_text_atomically(path, render_page(report, trace_a, trace_b, words))


def check_place(path: Path) -> None:
    """Raise TraceError unless a page can be written to ``path``: a file that is there must be a page that this wrote."""
    check_file_place(path, lambda head: _GENERATOR in head, "page")


def render_page(report: Comparison, trace_a: Trace, trace_b: Trace, words: Words = str) -> str:
    """The comparison ``report`` of two traces as an HTML document.

    ``words`` say how arguments of the Python API are named. Where the report has blame, rows and charts show verdicts
    and local errors. The traces are read for the one tensor that is shown element by element. Raises TraceError, naming
    the file, if that one has been damaged since.
    """
    style = resource("page.css") + class_rules() + graph_rules()
    script = resource("page.js")
    blame = report.blame
    columns = make_columns(report)
    rows = table_rows(report, columns)
    guilty = find_guilty(report, trace_a, trace_b)
    number_of = {row.key: number for number, row in enumerate(report.rows)}
    current = number_of[guilty.row.key] if isinstance(guilty, Guilty) else next(iter(number_of[one.key] for one in report.first), None)
    regions = one_a_stage(suspects(report))
    graph = draw_suspects(report, [one for _, one in regions], trace_a, trace_b)
    page: str = template("page.html.jinja", words).render(
        style=style,
        script=script,
        policy=policy(style, script),
        summary=report.summary.for_others,
        outcome=_outcome(report),
        report=report,
        names=report.names,
        facts=list(_facts(report, trace_a, trace_b)),
        word="class" if blame is None else "verdict",
        wrong=[] if blame is None else wrong_rows(blame),
        by_axis=[] if blame is None else axis_charts(first_by_axis(map(blame.local_of, blame.wrong))),
        shares=[] if blame is None or blame.other_weights is None else blame.other_weights.largest[:_SHARES],
        small=small_number,
        regions=[_region(report, group, region) for group, region in regions[:_REGIONS]],
        regions_left=max(0, len(regions) - _REGIONS),
        common=listed(report.suspects, NAMED),
        logits=[row.outcome_sentence for row in outcomes(report.rows)],
        columns=columns,
        short=[index for index, column in enumerate(columns) if column.short],
        rows=rows,
        matter=[rows[number_of[row.key]] for row in matter(report)],
        first=frozenset(number_of[first.key] for first in report.first) if blame is None or not blame.wrong else frozenset(),
        current=current,
        maps=make_maps(report, current),
        glyphs={row.mark: row.meaning for row in rows},
        levels=list(enumerate(LEVEL_TEXTS)),
        overview=draw_overview(report),
        panels=draw_panels(report),
        blamed=blame is not None,
        graph=graph if isinstance(graph, str) else None,
        graph_svg=graph.svg if isinstance(graph, SuspectGraph) else None,
        graph_note=graph.note if isinstance(graph, SuspectGraph) else "",
        tensor=_tensor(guilty, report.names) if isinstance(guilty, Guilty) else None,
        no_tensor=guilty if isinstance(guilty, str) else "",
    )
    return page


def _facts(report: Comparison, trace_a: Trace, trace_b: Trace) -> Iterator[tuple[str, str]]:
    yield from side_facts(report, trace_a, trace_b)
    yield "prompt", str(report.prompt)
    blame = report.blame
    if blame is not None:
        yield "model", blame.a.model
        for side, audit in (("A", blame.a), ("B", blame.b)):
            yield f"replay of {side}", f"{counted(audit.replayed, 'tensor')}, profile {audit.profile}"
    yield "profile", f"{report.profile}, tolerances version {TABLE_VERSION}"
    yield "tensors", ", ".join(f"{count:,} {word}" for word, count in report.tally.items()) or "none"
    yield "exit code", f"{report.exit_code}, {_outcome(report)}"


def _outcome(report: Comparison) -> str:
    if report.diverged or report.blame is None or not (report.blame.a.wrong or report.blame.b.wrong):
        return _OUTCOMES[report.exit_code]
    return "a side is wrong"


@dataclass(frozen=True)
class _Region:
    """Where the cause of one tensor can lie, in words."""

    label: str
    region: str
    weights: str
    good: str
    following: str


def _region(report: Comparison, group: Group, found: FirstDivergence) -> _Region:
    labels = {row.key: row.label for row in report.rows}
    return _Region(
        labels[found.key] if len(group.keys) == 1 else f"{group.label}; below, of {labels[found.key]}",
        listed(found.region[::-1], NAMED),
        listed(found.weights[::-1], NAMED),
        listed((labels.get(key, key.stage) for key in found.good[::-1]), NAMED),
        listed((labels.get(key, key.stage) for key in found.following), NAMED),
    )


@dataclass(frozen=True)
class _Tensor:
    """What the page shows of one tensor, in words and pictures."""

    label: str
    why: str
    shape: str
    picture: str
    scale: str
    low: str
    high: str
    rows: str
    row_name: str
    columns: str
    column_name: str
    block: str
    words: list[str]
    histograms: list[tuple[list[tuple[int, str]], str]]
    is_ids: bool


def _tensor(guilty: Guilty, names: SideNames) -> _Tensor:
    shown = make_tensor_map(guilty.a, guilty.b, guilty.pair.position_axis)
    a, b, apart = make_histograms(guilty.a, guilty.b)
    height, width = shown.cells.shape
    low, high = shown.range or (0.0, 0.0)
    block = f"a cell is the largest of up to {-(-shown.rows // height)} × {-(-shown.columns // width)} elements"
    if height == shown.rows and width == shown.columns:
        block = "a cell is one element"
    if shown.pooled:
        block += f", and of {shown.pooled}"
    sides, difference = [(0, describe(a, names.of("A"))), (1, describe(b, names.of("B")))], [(2, describe(apart))]
    return _Tensor(
        label=guilty.row.label,
        why=guilty.why,
        shape=dims(guilty.pair.shape),
        picture=data_uri(shown.png()),
        scale=data_uri(scale_png()) if shown.range else "",
        low=small_number(low),
        high=small_number(high),
        rows=str(shown.rows - 1),
        row_name=shown.row_name,
        columns=str(shown.columns - 1),
        column_name=shown.column_name,
        block=block,
        words=list(_worst_places(guilty)),
        histograms=[
            (sides, draw_histograms((a, b), "Histogram of both sides")),
            (difference, draw_histograms((apart,), "Histogram of the difference")),
        ],
        is_ids=guilty.is_ids,
    )


def _worst_places(guilty: Guilty) -> Iterator[str]:
    """The picture in words."""
    metrics = guilty.row.metrics
    if not isinstance(metrics, TensorMetrics):
        yield f"{guilty.row.reason}." if guilty.row.reason else "The same ids at every position."
        return
    if metrics.bit_identical:
        yield "Both sides have the same bits."
        return
    if metrics.max_abs and metrics.max_index is not None:
        at = f" at [{', '.join(map(str, metrics.max_index))}]" if metrics.max_index else ""
        yield f"Largest difference {small_number(metrics.max_abs)}{at}."
    for name, axis in (("position", metrics.positions), ("channel", metrics.channels)):
        if axis is not None and axis.size > 1 and axis.share:
            worst = f"{name}{'s' if len(axis.worst) > 1 else ''} {listed(axis.worst, 8)}"
            yield f"Of the error energy {axis.share:.0%} is in {worst} of {axis.size}."
    if metrics.mismatched_nonfinite:
        yield f"{counted(metrics.mismatched_nonfinite, 'element')} with NaN or Inf on one side and something else on the other."
