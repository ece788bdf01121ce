"""The cell of a trace: what ran, and a row a stage with the range of what was recorded."""

from __future__ import annotations

from collections.abc import Sequence

from aprgraph.graph.words import counted, shape_text
from aprgraph.notebook.cell import cell, facts, line, notes, says, table
from aprgraph.runtime.blame.wrong_rows import group_keys
from aprgraph.runtime.diff.side_facts import trace_fact
from aprgraph.runtime.diff.side_names import name_of
from aprgraph.runtime.trace.manifest import TraceEntry
from aprgraph.runtime.trace.reader import Trace

_TOKENS = 32


def trace_cell(trace: Trace) -> str:
    """What the trace holds, and what lies beside it and was not read."""
    by_key = {entry.key: entry for entry in trace}
    groups = group_keys(by_key, lambda key: by_key[key].shape)
    rows = [[group.label, *_row([by_key[key] for key in group.keys])] for group in groups]
    tokens = () if trace.info is None else trace.info.tokens
    ids = ", ".join(map(str, tokens[:_TOKENS])) + (" …" if len(tokens) > _TOKENS else "")
    unread = [one.sentence for one in trace.unread]
    return cell(
        says(f"Trace {trace_fact(name_of(str(trace.directory)), str(trace.directory), trace)}"),
        facts([("prompt", f"{counted(len(tokens), 'token')}: {ids}" if tokens else "")]),
        notes([f"not read: {one}" for one in unread]),
        table(["tensor", "shape", "least", "largest", "rms", "NaN and Inf"], rows, ".frame() has all"),
        line(f'trace["{trace.entries[0].key.name}"] is a tensor') if trace.entries else "",
    )


def _row(entries: Sequence[TraceEntry]) -> list[str]:
    found = [entry.statistics for entry in entries if entry.statistics is not None]
    low = [one.min for one in found if one.min is not None]
    high = [one.max for one in found if one.max is not None]
    rms = [one.rms for one in found if one.rms is not None]
    nonfinite = sum(one.nan + one.inf for one in found)
    spread = "" if not rms else f"{min(rms):.3g}" if min(rms) == max(rms) else f"{min(rms):.3g} to {max(rms):.3g}"
    return [
        shape_text(entries[0].shape),
        f"{min(low):.4g}" if low else "",
        f"{max(high):.4g}" if high else "",
        spread,
        f"{nonfinite:,}" if nonfinite else "",
    ]
