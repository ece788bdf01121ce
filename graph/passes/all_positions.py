"""all-positions: logits of every position instead of the last alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Graph, renamed
from aprgraph.graph.ops import OPS, is_tap, traits_of


@dataclass(frozen=True)
class AllPositions:
    """Removes the op that keeps the last position. Its users read its operand, and their types are inferred again.

    Raises GraphError if an op after it is not rowwise: such an op would then read other positions than before.
    """

    name: ClassVar[str] = "all-positions"

    def __call__(self, graph: Graph) -> Graph:
        result = Graph(graph.name, graph.attrs)
        instead: dict[str, str] = {}
        of_last: set[str] = set()  # the last position, and what is computed from it
        for node in graph:
            operands = [instead.get(name, name) for name in graph.operand_names(node.name)]
            if traits_of(node).keeps_last_position:
                instead[node.name] = operands[0]
                of_last.add(node.name)
                continue
            if not of_last.isdisjoint(graph.operand_names(node.name)):
                if not traits_of(node).is_rowwise and not is_tap(node):
                    raise GraphError(f"all-positions: %{node.name} ({node.op}) is computed from the last position and looks at others")
                of_last.add(node.name)
            types = [result[name].type for name in operands]
            result.add(renamed(node, type=OPS[node.op].infer(types, node.attrs)), operands)
        result.outputs = tuple(instead.get(name, name) for name in graph.outputs)
        return result
