"""The tensor that the page shows element by element: the first that a side is wrong at, else the first divergence, else the worst."""

from __future__ import annotations

from dataclasses import dataclass

from aprgraph.graph.stages import StageKind
from aprgraph.runtime.comparison.comparison import Comparison
from aprgraph.runtime.diff.align import Pair, align, align_single
from aprgraph.runtime.diff.report import DiffRow
from aprgraph.runtime.diff.tolerances import kind_of
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.reader import Trace


@dataclass(frozen=True)
class Guilty:
    """One tensor, shown element by element: A's and B's values (f32, of ``pair.shape``, memory-mapped), and why this one."""

    row: DiffRow
    pair: Pair
    why: str
    a: F32
    b: F32

    @property
    def is_ids(self) -> bool:
        """Whether the elements are ids, whose difference means nothing."""
        return kind_of(self.row.key.stage) is StageKind.INDEX


def find_guilty(report: Comparison, trace_a: Trace, trace_b: Trace) -> Guilty | str:
    """The tensor to show, or why there is none. Raises TraceError, naming the file, if one has been damaged since."""
    blame = report.blame
    if blame is not None and blame.wrong:
        key = blame.wrong[0]
        why = f"the first with the verdict {blame.verdicts[key].value}"
    elif report.first:
        key, why = report.first[0].key, "the first that diverges"
    else:
        compared = [row for row in report.rows_compared if row.metrics is not None]
        if not compared:
            return "No tensor was compared, so there is none to show."
        worst = max(compared, key=lambda row: (row.error or 0.0) / row.limit if row.limit else row.error or 0.0)
        key, why = worst.key, "the one that comes closest to its limit"
    row, pair = report.row(key), _pairs(report, trace_a, trace_b)[key]
    if pair.shape is None:
        return f"{row.label} cannot be shown element by element: {pair.mismatch or pair.missing}."
    a, b = pair.load(trace_a, trace_b)
    return Guilty(row, pair, why, a, b)


def _pairs(report: Comparison, trace_a: Trace, trace_b: Trace) -> dict[Place, Pair]:
    """As ``diff`` has paired them: the one tensor of two files that the user named is compared whatever each is called."""
    named = len(report.rows) == len(trace_a) == len(trace_b) == 1
    return {pair.key: pair for pair in (align_single if named else align)(trace_a, trace_b)}
