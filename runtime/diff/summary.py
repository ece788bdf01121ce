"""What two traces alone say of each other, in parts."""

from __future__ import annotations

from collections.abc import Iterator

from aprgraph.graph.arguments import AGAIN, MODEL
from aprgraph.graph.message import Message
from aprgraph.graph.words import counted, listed
from aprgraph.runtime.diff.classify import FirstDivergence
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.report import DiffReport, DiffRow
from aprgraph.runtime.summary import Summary

#: So many first divergences, and names of what lies between, are told.
_FIRST, _NAMED = 4, 6
#: A position holds most of the error if it has this many times its share.
_MORE_THAN_ITS_SHARE = 2


def summary_of_diff(report: DiffReport) -> Summary:
    """The parts of a comparison."""
    causes = tuple(one.sentence for one in report.reservations if one.is_cause)
    if not report.diverged:
        known = (*(one.sentence for one in report.reservations if not one.is_cause), *causes)
        return Summary(report.parting, notes=(*known, *report.all_notes))
    return Summary(
        outcome_of_diff(report),
        where=tuple(where_they_part(report)),
        whose=("the two alone do not tell; a replay of the model does",),
        why=causes or (_not_known(report),),
        next=("which side is wrong, and the mistake that explains it:", Message(_with_model(report))),
        notes=(*(one.sentence for one in report.reservations if not one.is_cause and not one.only_if_alike), *report.all_notes),
    )


def outcome_of_diff(report: DiffReport) -> str:
    """``Diverged: 48 of 51 compared tensors differ.``"""
    if not report.diverged:
        return report.parting
    unmeasured = len(report.rows) - report.compared
    aside = f"; {unmeasured} more not measured" if unmeasured else ""
    differ = "differs" if report.diverged == 1 else "differ"
    return f"Diverged: {report.diverged:,} of {counted(report.compared, 'compared tensor')} {differ}{aside}."


def where_they_part(report: DiffReport) -> Iterator[str]:
    """The first divergences, a line for each, and how many more differ behind them."""
    rows = [report.row(first.key) for first in report.first]
    for row in rows[:_FIRST]:
        yield f"{row.label}: {row.reason}{_position(row)}"
    rest = report.diverged - len(rows[:_FIRST])
    if rest > 0:
        yield f"{rest:,} more {'differs' if rest == 1 else 'differ'}" + (" behind it" if len(rows) == 1 else " beside and behind them")


def _not_known(report: DiffReport) -> str:
    """Where it lies, where nothing says why."""
    if report.suspects:
        return f"not known; what can explain all of them at once: {listed(report.suspects, _NAMED)}"
    return f"not known; {region_line(report, report.first[0])}" if report.first else "not known"


def region_line(report: DiffReport, first: FirstDivergence) -> str:
    """Where the cause of one first divergence can lie."""
    labels = {row.key: row.label for row in report.rows}
    weights = f", or in the weights {listed(first.weights[::-1], _NAMED)}" if first.weights else ""
    good = [labels.get(key, key.label) for key in first.good[::-1]]
    after = f"; still good: {listed(good, _NAMED)}" if good else "; nothing before it was measured"
    of = f", of {labels[first.key]}," if len(report.first) > 1 else ""
    return f"the cause{of} lies in {listed(first.region[::-1], _NAMED)}{weights}{after}"


def _position(row: DiffRow) -> str:
    metrics = row.metrics
    if not isinstance(metrics, TensorMetrics) or metrics.positions is None or metrics.mismatched_nonfinite:
        return ""
    worst = metrics.positions
    if worst.size < 2 or worst.share * worst.size < _MORE_THAN_ITS_SHARE:
        return ""
    return f"; {worst.share:.0%} of it at position {worst.worst[0]} of {worst.size}"


def _with_model(report: DiffReport) -> Message:
    infos = [] if report.traces is None else [trace.info for trace in report.traces]
    names = {str(info.model.get("name") or "") for info in infos if info is not None}
    model = next(iter(names)) if len(names) == 1 and all(names) else "MODEL"
    return Message(AGAIN.with_options(MODEL.given(model), in_python=f"aprgraph.diff(…, model={model!r})"))
