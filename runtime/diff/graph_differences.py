"""Where the graphs that two manifests hold compute something else: another attribute, operation or operand at a node of one name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import complete_attrs, is_tap, is_weight
from aprgraph.graph.words import counted
from aprgraph.runtime.readings.row_order import order_of
from aprgraph.runtime.trace.reader import Trace

#: The largest number of differences that are told one by one.
NAMED = 4


@dataclass(frozen=True)
class GraphDifference:
    """``change`` in words: ``base = 100000.0 in A, 10000.0 in B``; ``nodes`` are those that it is the same at."""

    nodes: tuple[str, ...]
    change: str

    @property
    def sentence(self) -> str:
        """``the graphs differ at %rope_angles: base = 100000.0 in A, 10000.0 in B``."""
        others = [f"%{self.nodes[1]}"] if len(self.nodes) == 2 else [f"{len(self.nodes) - 1} more nodes"] if len(self.nodes) > 2 else []
        return f"the graphs differ at {' and '.join([f'%{self.nodes[0]}', *others])}: {self.change}"


@dataclass(frozen=True)
class GraphDifferences:
    """What is computed otherwise, in execution order, and in what formats the weights lie where these are not the same.

    Other formats are no other computation: one file may be the other, quantised. ``formats`` maps (A's, B's) to the number of weights.
    """

    computed: tuple[GraphDifference, ...] = ()
    formats: tuple[tuple[tuple[str, str], int], ...] = ()

    @property
    def formats_sentence(self) -> str | None:
        """In what formats the weights lie, None where these are the same."""
        if not self.formats:
            return None
        parts = [f"{a.upper()} in A, {b.upper()} in B ({counted(count, 'weight')})" for (a, b), count in self.formats[:NAMED]]
        more = len(self.formats) - len(parts)
        return f"weights lie in other formats: {'; '.join(parts)}" + (f"; {more} more pairs of formats" if more else "")


def graph_differences(a: Trace, b: Trace) -> GraphDifferences:
    """The differences of the graphs of two manifests; none where one has no graph.

    Where both sides hold q and k in one order, because one was brought to it, what RoPE paired is no difference.
    """
    graph_a, graph_b = a.graph(), b.graph()
    # Graphs of equal text are mostly one, parsed once.
    if graph_a is None or graph_b is None or graph_a is graph_b:
        return GraphDifferences()
    order = order_of(a)
    return compare_graphs(graph_a, graph_b, same_rows=order is not None and order == order_of(b))


def compare_graphs(graph_a: Graph, graph_b: Graph, *, same_rows: bool = False) -> GraphDifferences:
    """The differences of two graphs at the nodes that both have. ``same_rows``: other pairs in RoPE are none."""
    found: dict[str, list[str]] = {}
    formats: Counter[tuple[str, str]] = Counter()
    for node in graph_a:
        # What one side's plan pruned is no difference.
        if node.name not in graph_b or is_tap(node):
            continue
        other = graph_b[node.name]
        if is_weight(node) and is_weight(other) and node.attrs.get("dtype") != other.attrs.get("dtype"):
            formats[str(node.attrs.get("dtype")), str(other.attrs.get("dtype"))] += 1
        change = "; ".join(_changes(graph_a, node, graph_b, other, same_rows=same_rows))
        if change:
            found.setdefault(change, []).append(node.name)
    return GraphDifferences(tuple(GraphDifference(tuple(nodes), change) for change, nodes in found.items()), tuple(formats.most_common()))


def _changes(graph_a: Graph, node: Node, graph_b: Graph, other: Node, *, same_rows: bool) -> Iterator[str]:
    if node.op != other.op:
        yield f"{node.op} in A, {other.op} in B"
    attrs, others = complete_attrs(node), complete_attrs(other)
    for name in sorted({*attrs, *others}):
        ours, theirs = attrs.get(name), others.get(name)
        how_the_file_holds_it = name in ("dtype", "scale", "layout") if is_weight(node) else same_rows and name == "pairing"
        if ours != theirs and not how_the_file_holds_it:
            yield f"{name} = {_shown(ours)} in A, {_shown(theirs)} in B"
    operands = graph_a.operand_names(node.name), graph_b.operand_names(node.name)
    if node.op == other.op and operands[0] != operands[1]:
        only = [", ".join(f"%{name}" for name in side if name not in rest) for side, rest in (operands, operands[::-1])]
        if not any(only):
            yield "its operands stand in another order"
        else:
            yield f"it is computed from {only[0] or 'fewer values'} in A, {only[1] or 'fewer values'} in B"


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
