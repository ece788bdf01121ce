"""The error along depth: one chart of all tensors in execution order, and one of each stage along the layers.

With blame the first shows local errors against their limits: what merely follows lies as low there as what is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aprgraph.graph.export.divergence import LOOKS
from aprgraph.graph.export.escape import xml
from aprgraph.graph.export.svg_style import class_name
from aprgraph.graph.words import counted, small_number
from aprgraph.runtime.blame import Audit, Blame, Verdict
from aprgraph.runtime.comparison.comparison import Comparison
from aprgraph.runtime.diff.classify import DIVERGED, Class
from aprgraph.runtime.diff.report import DiffRow
from aprgraph.runtime.report.drawing import LogScale
from aprgraph.runtime.report.marks import finding, is_guilty, judged_error
from aprgraph.runtime.report.numbers import place


@dataclass(frozen=True)
class Frame:
    """The size of a chart and of the plot in it. Above the plot is a rail for what differs without a number (NaN, another shape),
    below it one for what has no error at all.
    """

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    ticks: int


_OVERVIEW = Frame(900, 300, 50, 890, 36, 240, 8)
_PANEL = Frame(220, 128, 40, 212, 30, 92, 3)
#: From the plot to the rails.
_RAIL = 12
_WITHOUT_NUMBER = frozenset({Class.NAN, Class.SHAPE})
#: Guilty tensors that are ringed, so that many of them do not hide each other.
_RINGED = 80


@dataclass(frozen=True)
class Mark:
    """One tensor in a chart: the number of its row, where it stands, its error and limit; y is None where it is not measured."""

    number: int
    x: float
    y: float | None
    row: DiffRow
    error: float | None
    limit: float


def draw_overview(report: Comparison) -> str:
    """Every tensor in execution order, as an SVG element; the limit as a line, what is wrong (or the first divergences) ringed."""
    judged = [judged_error(report, row) for row in report.rows]
    scale, frame = LogScale.over([value for pair in judged for value in pair if value], _OVERVIEW.bottom, _OVERVIEW.top), _OVERVIEW
    rows = report.rows
    step = (frame.right - frame.left) / max(1, len(rows))
    marks = [
        Mark(number, frame.left + (number + 0.5) * step, _judged_y(report, row, error, scale, frame), row, error, limit)
        for number, (row, (error, limit)) in enumerate(zip(rows, judged, strict=True))
    ]
    title = "All tensors in execution order" + ("" if report.blame is None else ", local errors")
    over = sum(is_guilty(report, row) if report.blame is not None else row.classification in DIVERGED for row in rows)
    summary = f"{over} of them {'wrong' if report.blame is not None else 'divergent'}"
    lines = [*_open("overview", frame, marks, title, summary, tabindex=0), *_axis(scale, frame, marks)]
    lines += _layers(rows, frame, step)
    lines += _limits(marks, scale, step)
    for look in LOOKS:
        dots = [mark for mark in marks if finding(report, mark.row).value == look.name and mark.y is not None]
        if dots:
            lines.append(f'<path class="dots {class_name(look)}" d="{_dots(dots)}"/>')
    first = {item.key for item in report.first}
    wrong = [mark for mark in marks if is_guilty(report, mark.row) and mark.y is not None]
    ringed = wrong or [mark for mark in marks if mark.row.key in first and mark.y is not None]
    lines += [f'<circle class="ring" cx="{place(mark.x)}" cy="{place(mark.y or 0)}" r="7"/>' for mark in ringed[: _RINGED if wrong else 8]]
    if ringed:
        mark = ringed[0]
        anchor, x = ("end", mark.x - 11) if mark.x > (frame.left + frame.right) / 2 else ("start", mark.x + 11)
        where = f'x="{place(x)}" y="{place(max((mark.y or 0) - 15, 12))}"'
        lines.append(f'<text class="first" {where} text-anchor="{anchor}">{xml(mark.row.label)}</text>')
    return "".join([*lines, "</svg>"])


def draw_panels(report: Comparison) -> list[str]:
    """An SVG element for each stage along the layers (and steps), all of one scale. With blame, also each side's local error."""
    blame = report.blame
    scale, frame = _scale(report, blame, _PANEL), _PANEL
    by_stage: dict[str, list[tuple[int, DiffRow]]] = {}
    for number, row in enumerate(report.rows):
        by_stage.setdefault(row.key.stage, []).append((number, row))
    columns = sorted({row.key[:2] for row in report.rows if row.key.layer is not None}, key=lambda column: (column[0], column[1] or 0))
    steps = [(step, None) for step in sorted({row.key.step for row in report.rows})]
    panels: list[str] = []
    for stage, rows in by_stage.items():
        own = {row.key[:2] for _, row in rows}
        # A stage of layers that a manifest also lists without one has a column more.
        there = steps if own <= set(steps) else [*columns, *(step for step in steps if step in own)]
        x_of = {column: frame.left + (index + 0.5) * (frame.right - frame.left) / len(there) for index, column in enumerate(there)}
        marks = [Mark(number, x_of[row.key[:2]], _y(row, row.error, scale, frame), row, row.error, row.limit) for number, row in rows]
        summary = f"{sum(row.classification in DIVERGED for _, row in rows)} of them divergent"
        wrong = sum(is_guilty(report, row) for _, row in rows)
        summary += f", {wrong} wrong" if wrong else ""
        name = "panel guilty" if wrong else "panel"
        lines = [
            *_open(name, frame, marks, f"{stage} along the layers", summary, tabindex=-1 if panels else 0),
            *_axis(scale, frame, marks),
        ]
        lines.append(f'<text class="name" x="{place(frame.left)}" y="11">{xml(stage)}{f", {wrong} wrong" if wrong else ""}</text>')
        lines += _ends(marks, frame)
        lines += _limits(marks, scale, (frame.right - frame.left) / len(there))
        lines += _series("apart", [(mark.x, mark.y) for mark in marks])
        if blame is not None:
            for side, audit in (("a", blame.a), ("b", blame.b)):
                lines += _series(f"local-{side}", [(mark.x, _local_y(audit, mark.row, scale, frame)) for mark in marks])
        panels.append("".join([*lines, "</svg>"]))
    return panels


def _scale(report: Comparison, blame: Blame | None, frame: Frame) -> LogScale:
    values = [value for row in report.rows for value in (row.error, row.limit) if value]
    if blame is not None:
        values += [one.error for audit in (blame.a, blame.b) for one in audit.locals if one.error]
    return LogScale.over(values, frame.bottom, frame.top)


def _y(row: DiffRow, error: float | None, scale: LogScale, frame: Frame) -> float | None:
    """The height of an error; the rail below for none, the rail above for what has no number; None for what is not measured."""
    if row.classification in _WITHOUT_NUMBER:
        return frame.top - _RAIL
    if error is None:
        return None
    return scale.y(error) if error > 0 else frame.bottom + _RAIL


def _judged_y(report: Comparison, row: DiffRow, error: float | None, scale: LogScale, frame: Frame) -> float | None:
    """The same of the error that a row is judged by. Above is also what is wrong without a number."""
    if report.blame is None:
        return _y(row, error, scale, frame)
    if error is None:
        return frame.top - _RAIL if finding(report, row) is not Verdict.UNKNOWN else None
    return scale.y(error) if error > 0 else frame.bottom + _RAIL


def _local_y(audit: Audit, row: DiffRow, scale: LogScale, frame: Frame) -> float | None:
    local = audit.by_key.get(row.key)
    if local is None or local.error is None:
        return None
    return scale.y(local.error) if local.error > 0 else frame.bottom + _RAIL


def _open(name: str, frame: Frame, marks: Sequence[Mark], title: str, summary: str, *, tabindex: int) -> Iterator[str]:
    """The element; its label says what the drawing shows, its data where each tensor stands, for the page's script."""
    errors = [(mark.error, mark.row.label) for mark in marks if mark.error is not None]
    summary = f"{title}: {counted(len(marks), 'tensor')}, {summary}"
    if errors:
        (low, low_at), (high, high_at) = min(errors), max(errors)
        summary += f"; least error {small_number(low)} at {low_at}, largest {small_number(high)} at {high_at}"
    points = " ".join(f"{mark.number},{place(mark.x)},{place(mark.y)}" for mark in marks if mark.y is not None)
    yield (
        f'<svg class="chart {name}" viewBox="0 0 {place(frame.width)} {place(frame.height)}" role="img" tabindex="{tabindex}" '
        f'aria-label="{xml(summary)}" data-points="{points}">'
    )


def _axis(scale: LogScale, frame: Frame, marks: Sequence[Mark]) -> Iterator[str]:
    for y, text in scale.ticks(frame.ticks):
        yield f'<path class="grid" d="M{place(frame.left)} {place(y)}H{place(frame.right)}"/>'
        yield _tick(frame, y, text)
    rails = {frame.bottom + _RAIL: "0"}
    if any(mark.y == frame.top - _RAIL for mark in marks):
        rails[frame.top - _RAIL] = "n/a"
    for y, text in rails.items():
        yield f'<path class="rail" d="M{place(frame.left)} {place(y)}H{place(frame.right)}"/>'
        yield _tick(frame, y, text)


def _tick(frame: Frame, y: float, text: str) -> str:
    return f'<text class="tick" x="{place(frame.left - 6)}" y="{place(y + 3.5)}" text-anchor="end">{text}</text>'


def _layers(rows: Sequence[DiffRow], frame: Frame, step: float) -> Iterator[str]:
    """Where layers begin, with as many numbers as there is room for."""
    begins: list[tuple[float, DiffRow]] = []
    for number, row in enumerate(rows):
        if not begins or begins[-1][1].key[:2] != row.key[:2]:
            begins.append((frame.left + number * step, row))
    last = -100.0
    for x, row in begins:
        yield f'<path class="grid" d="M{place(x)} {place(frame.top)}V{place(frame.bottom + 20)}"/>'
        text = "model" if row.key.layer is None else str(row.key.layer)
        if row.key.step:
            text = f"{row.key.step}:{text}"
        if x - last >= 8.0 * len(text) + 10 and x + 7.0 * len(text) <= frame.width:
            last = x
            yield f'<text class="tick" x="{place(x + 3)}" y="{place(frame.bottom + 34)}">{text}</text>'
    middle = place((frame.left + frame.right) / 2)
    yield f'<text class="tick" x="{middle}" y="{place(frame.bottom + 54)}" text-anchor="middle">layer, in execution order</text>'


def _ends(marks: Sequence[Mark], frame: Frame) -> Iterator[str]:
    """The first and the last layer below a panel, or step, where there are several."""
    steps = len({mark.row.key.step for mark in marks}) > 1
    for mark in (marks[0], marks[-1]) if len(marks) > 1 else marks:
        step, layer, _ = mark.row.key
        text = f"step {step}" if steps else "model" if layer is None else f"layer {layer}"
        x = min(max(mark.x, frame.left + 16), frame.right - 18)
        yield f'<text class="tick" x="{place(x)}" y="{place(frame.bottom + 30)}" text-anchor="middle">{text}</text>'


def _limits(marks: Sequence[Mark], scale: LogScale, width: float) -> Iterator[str]:
    """The limit of each tensor, a line for each run of equal ones."""
    runs: list[tuple[float, float, float]] = []
    for mark in marks:
        if mark.limit:
            left, right, limit = mark.x - width / 2, mark.x + width / 2, mark.limit
            if runs and runs[-1][2] == limit and abs(runs[-1][1] - left) < width / 2:
                left = runs.pop()[0]
            runs.append((left, right, limit))
    if runs:
        lines = "".join(f"M{place(left)} {place(scale.y(limit))}H{place(right)}" for left, right, limit in runs)
        yield f'<path class="limit" d="{lines}"/>'


def _series(name: str, places: Sequence[tuple[float, float | None]]) -> Iterator[str]:
    """A line through the places, broken where there is none, and a dot at each."""
    line, pen = [], "M"
    for x, y in places:
        if y is None:
            pen = "M"
            continue
        line.append(f"{pen}{place(x)} {place(y)}")
        pen = "L"
    if line:
        yield f'<path class="line {name}" d="{"".join(line)}"/>'
        yield f'<path class="dots {name}" d="{"".join(f"M{place(x)} {place(y)}h0" for x, y in places if y is not None)}"/>'


def _dots(marks: Sequence[Mark]) -> str:
    """Points without length, which round line ends draw as dots."""
    return "".join(f"M{place(mark.x)} {place(mark.y)}h0" for mark in marks if mark.y is not None)
