"""all-positions: logits of every position instead of the last alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aprgraph.graph.ir import Graph, renamed
from aprgraph.graph.ops import OPS, traits_of


@dataclass(frozen=True)
class AllPositions:
    """Takes out the op that keeps the last position; what follows it gets its operand, and types to match."""

    name: ClassVar[str] = "all-positions"

    def __call__(self, graph: Graph) -> Graph:
        result = Graph(graph.name, graph.attrs)
        instead: dict[str, str] = {}
        for node in graph:
            operands = [instead.get(name, name) for name in graph.operand_names(node.name)]
            if traits_of(node).keeps_last_position:
                instead[node.name] = operands[0]
                continue
            types = [result[name].type for name in operands]
            result.add(renamed(node, type=OPS[node.op].infer(types, node.attrs)), operands)
        result.outputs = tuple(instead.get(name, name) for name in graph.outputs)
        return result
