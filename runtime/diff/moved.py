"""Traces whose tensors stand in other places than those of the stage table, as far as the values tell: read so, the two sides agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aprgraph.graph.errors import ComparisonError
from aprgraph.runtime.diff.classify import Class
from aprgraph.runtime.diff.report import DiffReport
from aprgraph.runtime.diff.reservations import Reservation
from aprgraph.runtime.readings import TraceAsRead
from aprgraph.runtime.readings.doubles import doubles_agree
from aprgraph.runtime.readings.places import Places, other_places
from aprgraph.runtime.trace.reader import Trace

#: Other places explain a difference where they leave at most this part of it. Hidden states of neighbouring layers are not far apart, so
#: that wide limits alone would let one pass for the other.
_LEFT = 0.1


def in_other_places(report: DiffReport, traces: tuple[Trace, Trace], again: Callable[[Trace, Trace], DiffReport]) -> DiffReport:
    """``report`` of two traces that differ, or what ``again`` says of them where one is read in other places and the two then agree.

    A side with a graph of its own has its tensors where they belong. Raises TraceError that names a damaged file.
    """
    for side, name in ((1, "B"), (0, "A")):
        if traces[side].graph() is not None:
            continue
        layers = _layers(traces[1 - side])
        for places in other_places(traces[side], layers):
            if not doubles_agree(places, traces[side], layers):
                continue
            sides = list(traces)
            sides[side] = TraceAsRead(traces[side], places=places.moved)
            try:
                found = again(sides[0], sides[1])
            except ComparisonError:  # a limit that was set for a stage that is none there
                continue
            if found.diverged or 2 * found.compared < report.compared or _worst(found) > _LEFT * _worst(report):
                continue
            if not _is_borne_out(places, report, found):
                continue
            looks_like = Reservation(
                f"this looks like the recording, not the computation: of {report.names.of(name)}, {places.words}; read so, all that was "
                "compared agrees"
            )
            return replace(found, reservations=(looks_like, *found.reservations))
    return report


def _is_borne_out(places: Places, report: DiffReport, found: DiffReport) -> bool:
    """Whether no tensor that moves escapes: what ``report`` compared is compared in its new place in ``found``, and behind one that is left
    out, since it is there twice, something else is.
    """
    before = {row.key for row in report.rows_compared}
    after = {row.key: row.classification for row in found.rows_compared}
    for key, target in places.moved.items():
        if target is None:
            if not any(step == key.step and (layer is None or (key.layer is not None and layer > key.layer)) for step, layer, _ in after):
                return False
        elif key in before and after.get(target) not in (Class.IDENTICAL, Class.NOISE, Class.OTHER_FORM):
            return False
    return True


def _layers(trace: Trace) -> int:
    """How many layers the model of a trace has, as far as it tells."""
    graph = trace.graph()
    layers = None if graph is None else graph.attrs.get("layers")
    if isinstance(layers, int):
        return layers
    return 1 + max((entry.layer for entry in trace.entries if entry.layer is not None), default=-1)


def _worst(report: DiffReport) -> float:
    """The largest error of a comparison; 1 where shapes or NaN differ."""
    return max((1.0 if row.error is None else row.error for row in report.rows_compared), default=0.0)
