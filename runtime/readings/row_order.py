"""In which order the rows of q and k are that RoPE turns, as a manifest says it, and how a trace is brought to the other order.

Converting a llama checkpoint to GGUF permutes them (llama.cpp, conversion of llama models): in the file RoPE pairs neighbours, in the
checkpoint halves. Scores are the same in both.
"""

from __future__ import annotations

import math

from aprgraph.graph.ir import Graph
from aprgraph.graph.ops.rope import PAIRINGS
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings.as_read import TraceAsRead
from aprgraph.runtime.readings.layout import Layout, is_turned, layout_of
from aprgraph.runtime.readings.reading import Reading
from aprgraph.runtime.readings.steps import row_order
from aprgraph.runtime.trace.manifest import QK_ROWS, TraceEntry
from aprgraph.runtime.trace.reader import Trace


def order_of_graph(graph: Graph) -> str | None:
    """What RoPE pairs in a graph, where all of it pairs the same: ``interleaved`` or ``halves``."""
    found = {node.attr_str("pairing") for node in graph.with_op("rope")}
    return found.pop() if len(found) == 1 else None


def order_of(trace: Trace) -> str | None:
    """What the manifest of a trace says of the rows of q and k; None where it says nothing."""
    said = None if trace.info is None else trace.info.extra.get(QK_ROWS)
    return said if said in PAIRINGS else None


def rows_of(trace: Trace, graph: Graph) -> dict[Place, Layout]:
    """The tensors of a trace with rows of q or k, each with how its heads lie; ``graph`` is that of the model, or what was run of it."""
    nodes = {(node.layer, node.stage): node for node in graph.staged()}
    found = {}
    for entry in trace.entries:
        node = nodes.get(entry.key.in_step)
        if node is None or not is_turned(entry.stage) or entry.file is None or len(entry.shape) != 2 or not math.prod(entry.shape):
            continue
        if node.type.dims[1:] == entry.shape[1:]:
            layout = layout_of(graph, node, entry.shape)
            if layout.heads and layout.head_size % 2 == 0:
                found[entry.key] = layout
    return found


def in_row_order(trace: Trace, order: str, layouts: dict[Place, Layout]) -> Trace:
    """``trace``, whose manifest names the other order, with the rows of ``layouts`` in ``order``."""
    recorded = order_of(trace)
    assert recorded is not None
    assert trace.info is not None
    entries: dict[Place, TraceEntry] = {entry.key: entry for entry in trace.entries}
    readings = {key: (Reading((row_order(layout, recorded, order),)), entries[key].shape) for key, layout in layouts.items()}
    return TraceAsRead(trace, readings=readings, extra={**trace.info.extra, QK_ROWS: order})
