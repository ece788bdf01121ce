"""The graph that traces hold, for a replay where the family of their model is not known."""

from __future__ import annotations

from collections.abc import Sequence

from aprgraph.graph.arguments import FAMILY
from aprgraph.graph.errors import ComparisonError, ModelError
from aprgraph.graph.held_graph import HeldGraph, require_known_ops
from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import is_tap
from aprgraph.graph.passes.all_positions import AllPositions
from aprgraph.runtime.diff.graph_differences import compare_graphs
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.recorded_model import recorded_overrides


def graph_of_traces(traces: Sequence[Trace], architecture: str) -> HeldGraph | None:
    """What ``traces`` hold of the graph of a model of ``architecture``, put together; None if they hold nothing.

    Raises UnsupportedModelError for an op that is not known, ModelError for a graph that does not hold together, and ComparisonError if
    the graphs are not of one model.
    """
    for trace in traces:
        if (fault := trace.why_no_graph()) is not None:
            raise ModelError(f"{trace.directory}: its graph does not hold together: {fault}; run it again")
    holding = [
        (trace, graph) for trace in traces if (graph := trace.graph()) is not None and graph.attrs.get("architecture") == architecture
    ]
    if not holding:
        return None
    for trace, graph in holding:
        require_known_ops(graph, str(trace.directory))
    graphs = [without_taps(graph) for _, graph in holding]
    if any(trace.info is not None and trace.info.positions == "all" for trace, _ in holding):
        graphs = [AllPositions()(graph) for graph in graphs]
    first, whole = holding[0][0], graphs[0]
    for (trace, _), graph in zip(holding[1:], graphs[1:], strict=True):
        _check_alike(first, trace, whole, graph)
        whole = _union(whole, graph)
    return HeldGraph(whole, str(first.directory), recorded_overrides(first))


def without_taps(graph: Graph) -> Graph:
    """The graph with what its taps save as the outputs."""
    outputs = [graph.operand_names(name)[0] if is_tap(graph[name]) else name for name in graph.outputs]
    return graph.rebuild((node for node in graph if not is_tap(node)), tuple(dict.fromkeys(outputs)))


def _check_alike(a: Trace, b: Trace, graph_a: Graph, graph_b: Graph) -> None:
    """Raise ComparisonError if two graphs differ: only the family says which one is the model's."""
    differences = compare_graphs(graph_a, graph_b).computed
    if differences or recorded_overrides(a) != recorded_overrides(b):
        how = differences[0].sentence if differences else "metadata keys were overridden in one alone"
        raise ComparisonError(
            f"A = {a.directory} and B = {b.directory} hold the graphs of two models ({how}); their family is not known here, and only that "
            "says which one is the model's: give ",
            FAMILY,
        )


def _union(a: Graph, b: Graph) -> Graph:
    """The nodes of both, which are equal where they bear one name."""
    result = a.copy()
    for node in b:
        if node.name not in result:
            result.add(node, b.operand_names(node.name))
    result.outputs = tuple(dict.fromkeys((*a.outputs, *b.outputs)))
    return result
