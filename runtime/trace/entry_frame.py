"""The tensors of a trace as a table of columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aprgraph.runtime.frame import frame_of
from aprgraph.runtime.trace.manifest import TraceEntry

_STATISTICS = ("min", "max", "mean", "rms", "nan", "inf")


def frame_of_entries(entries: Sequence[TraceEntry]) -> dict[str, list[Any]]:
    """A row for each entry."""

    def statistic(name: str) -> list[Any]:
        return [None if entry.statistics is None else getattr(entry.statistics, name) for entry in entries]

    return {
        **frame_of([entry.key for entry in entries], [entry.shape for entry in entries]),
        "file": [entry.file for entry in entries],
        **{name: statistic(name) for name in _STATISTICS},
    }
