"""What each side of a comparison is, for the head of a report."""

from __future__ import annotations

from collections.abc import Iterator

from aprgraph.graph.words import plain
from aprgraph.runtime.diff.report import DiffReport
from aprgraph.runtime.trace.reader import Trace


def side_facts(report: DiffReport, trace_a: Trace, trace_b: Trace) -> Iterator[tuple[str, str]]:
    """(``A``, ``ours: model.gguf, llvm, at runs/ours, 35 tensors``), and the same of B."""
    yield "A", trace_fact(report.names.a, report.a, trace_a)
    yield "B", trace_fact(report.names.b, report.b, trace_b)


def trace_fact(name: str, path: str, trace: Trace) -> str:
    """What one trace is, by its manifest; ``path`` is told where it is more than the name."""
    info = trace.info
    about = ["no manifest"] if info is None else [str(info.model.get("name", "")), info.target]
    if name != path:
        about.append(f"at {path}")
    about.append(f"{len(trace):,} tensor{'' if len(trace) == 1 else 's'}")
    return plain(f"{name}: {', '.join(filter(None, about))}")
