"""split-layers: of a graph, what computes one range of its layers, with what it receives and what it hands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import has_state, is_input, is_own_state, is_received, is_weight
from aprgraph.graph.passes.base import run_passes


@dataclass(frozen=True)
class SplitLayers:
    """Keeps the layers ``first`` to ``end`` - 1: what runs from the first node of the one to the first of the other.

    Before the first layer that is from the beginning, and up to the last to the end, so that the parts of a graph have each computed
    node once, in the order that it had. What a part reads and does not compute is a `received` node of the same name; what other
    parts read of it is an output. A KV cache of another part is kept here once more, from the rows that it is filled with, so
    that rows of earlier passes need not come again.

    ``caches`` are those of other parts that this one reads in another graph of the same run, and ``handed_on`` the values that other
    parts read there: a cache is filled in every pass, whether it is read in that or not. See ``split_graphs``.
    Raises GraphError where the layers are not in order, or where what crosses is kept in a state of fixed size.
    """

    first: int
    end: int
    caches: frozenset[str] = frozenset()
    handed_on: frozenset[str] = frozenset()
    name: ClassVar[str] = "split-layers"

    def __call__(self, graph: Graph) -> Graph:
        own = _own(graph, range(self.first, self.end))
        caches = _caches_of_others(graph, own).union(name for name in self.caches if name in graph)
        read = {operand for name in own | caches for operand in graph.operand_names(name)}
        result = Graph(graph.name, graph.attrs)
        for node in graph:
            if node.name in own or node.name in caches:
                result.add(node, graph.operand_names(node.name))
            elif node.name in read:
                result.add(node if is_weight(node) or is_input(node) else _received(node))
        handed_on = _read_by_others(graph, own) | self.handed_on
        outputs = [name for name in graph.outputs if name in own]
        outputs += [node.name for node in graph if node.name in (handed_on & own) | caches]
        result.outputs = tuple(dict.fromkeys(outputs))
        return result


def split_graphs(graphs: Sequence[Graph], layers: Sequence[range]) -> list[list[Graph]]:
    """For each of ``layers``, which are all there are, in order, its part of each of the graphs of one run. Raises GraphError."""
    caches = [frozenset(name for graph in graphs for name in _caches_of_others(graph, _own(graph, numbers))) for numbers in layers]
    rows = frozenset(graph.operand_names(name)[0] for graph in graphs for names in caches for name in names if name in graph)
    parts = [SplitLayers(numbers.start, numbers.stop, those, rows) for numbers, those in zip(layers, caches, strict=True)]
    return [[run_passes(graph, [part]) for graph in graphs] for part in parts]


def computes(part: Graph) -> bool:
    """Whether there is anything to do in a part: none of the layers need be left when a plan needs none of them."""
    return any(_is_computed(node) for node in part)


def _own(graph: Graph, layers: range) -> set[str]:
    computed = _computed(graph)
    return {node.name for node in computed[_cut(computed, layers.start) : _cut(computed, layers.stop)]}


def _caches_of_others(graph: Graph, own: set[str]) -> frozenset[str]:
    """The KV caches that the nodes ``own`` read and that are not among them."""
    return frozenset(operand.name for name in own for operand in graph.operands(name) if is_own_state(operand)) - own


def _read_by_others(graph: Graph, own: set[str]) -> frozenset[str]:
    """Those of the nodes ``own`` whose values others read; for a KV cache, what it is filled with. Raises GraphError."""
    found: set[str] = set()
    for name in own:
        if all(user.name in own for user in graph.users(name)):
            continue
        value = graph.operands(name)[0] if is_own_state(graph[name]) else graph[name]
        if has_state(value):
            raise GraphError(f"%{value.name} is {value.op}, and what keeps a state cannot be handed on; split the layers elsewhere")
        found.add(value.name)
    return frozenset(found)


def _is_computed(node: Node) -> bool:
    return not (is_weight(node) or is_input(node) or is_received(node))


def _computed(graph: Graph) -> list[Node]:
    """All that is neither a weight nor given to a run, in execution order. Raises GraphError where layers are not in order."""
    computed = [node for node in graph if _is_computed(node)]
    last = 0
    for node in computed:
        if node.layer is not None and node.layer < last:
            raise GraphError(f"%{node.name} of layer {node.layer} comes behind a node of layer {last}, so the layers cannot be split")
        last = last if node.layer is None else node.layer
    return computed


def _cut(computed: Sequence[Node], layer: int) -> int:
    """Where the layers from ``layer`` on begin."""
    if layer == 0:
        return 0
    return next((index for index, node in enumerate(computed) if node.layer is not None and node.layer >= layer), len(computed))


def _received(node: Node) -> Node:
    return Node(node.name, "received", node.type, {"type": str(node.type)}, None, node.layer)
