"""What the page of ``aprgraph graph`` says of the values at each stage: of a trace its statistics, of two how far they are apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from aprgraph.runtime.comparison import Comparison

#: (layer, stage) -> what is known there, by name.
Facts = Mapping[tuple[int | None, str], Mapping[str, str]]


def facts_of_trace(source: Path) -> Facts:
    """Statistics of the tensors of a trace directory, in the prompt's pass; nothing where it is none."""
    from aprgraph.cli.tables import format_number  # noqa: PLC0415
    from aprgraph.runtime.trace.reader import Trace  # noqa: PLC0415

    if not (source / "trace.json").is_file():
        return {}
    found = {}
    for entry in Trace.open(source).entries:
        if entry.step == 0 and entry.statistics is not None:
            numbers = entry.statistics
            pairs = {"min": numbers.min, "max": numbers.max, "mean": numbers.mean, "rms": numbers.rms}
            found[entry.layer, entry.stage] = {
                "shape": "x".join(map(str, entry.shape)),
                **{name: format_number(value) for name, value in pairs.items()},
                "NaN/Inf": f"{numbers.nan}/{numbers.inf}",
            }
    return found


def facts_of_comparison(report: Comparison) -> Facts:
    """How far two traces are apart at each stage, in the prompt's pass."""
    from aprgraph.graph.words import small_number  # noqa: PLC0415
    from aprgraph.runtime.diff.metrics import TensorMetrics  # noqa: PLC0415

    found = {}
    for row in report.rows:
        if row.key.step == 0:
            values = {"class" if report.blame is None else "verdict": report.word(row)}
            if isinstance(row.metrics, TensorMetrics):
                metrics = row.metrics
                values |= {
                    "NMSE": small_number(metrics.nmse),
                    "limit": small_number(row.limit),
                    "cosine": "" if metrics.cosine is None else f"{metrics.cosine:.6f}",
                    "max|Δ|": small_number(metrics.max_abs),
                    "rms A": small_number(metrics.rms_a),
                    "rms B": small_number(metrics.rms_b),
                }
            found[row.key.layer, row.key.stage] = values
    return found
