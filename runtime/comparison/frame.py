"""A comparison as a table of columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.frame import frame_of, real

if TYPE_CHECKING:
    from aprgraph.runtime.comparison.comparison import Comparison


def frame_of_rows(report: Comparison) -> dict[str, list[Any]]:
    """A row for each tensor, in execution order.

    ``verdict``, the local errors and ``telltale`` are those of blame, None where there was no model; ``class`` and what follows it are of
    the two tensors beside each other: ``error`` is their NMSE, or of ids the share of positions that differ.
    """
    rows, blame = report.rows, report.blame
    metrics = [row.metrics if isinstance(row.metrics, TensorMetrics) else None for row in rows]
    sides = [None if blame is None else (blame.a.by_key.get(row.key), blame.b.by_key.get(row.key)) for row in rows]
    worst = [None if blame is None else blame.local_of(row.key) for row in rows]

    def local(index: int) -> list[float | None]:
        return [None if pair is None or (one := pair[index]) is None else real(one.error) for pair in sides]

    def metric(name: str) -> list[float | None]:
        return [None if one is None else real(getattr(one, name)) for one in metrics]

    return {
        **frame_of([row.key for row in rows], [row.shape for row in rows]),
        "verdict": [None if blame is None else blame.verdicts[row.key].value for row in rows],
        "local_error_a": local(0),
        "local_error_b": local(1),
        "local_limit": [None if one is None or one.error is None else real(one.limit) for one in worst],
        "telltale": [None if one is None or one.telltale is None else str(one.telltale) for one in worst],
        "class": [row.classification.value for row in rows],
        "error": [real(row.error) for row in rows],
        "limit": [real(row.limit) for row in rows],
        "sqnr_db": metric("sqnr_db"),
        "cosine": metric("cosine"),
        "max_abs": metric("max_abs"),
        "rms_a": metric("rms_a"),
        "rms_b": metric("rms_b"),
        "nonfinite_a": [None if one is None else one.nan_a + one.inf_a for one in metrics],
        "nonfinite_b": [None if one is None else one.nan_b + one.inf_b for one in metrics],
        "reason": [None if row.reason is None else str(row.reason) for row in rows],
    }
