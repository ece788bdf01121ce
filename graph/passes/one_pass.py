"""one-pass: what a run that sees every position at once does without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aprgraph.graph.ir import Graph, renamed
from aprgraph.graph.ops import OPS, is_own_state


@dataclass(frozen=True)
class OnePass:
    """No earlier pass has left rows to attend to, and no later one comes: a KV cache is its operand, and t is n.

    Caches among the outputs are there for later passes, so they go. A state of a fixed shape stays: it begins as zeros.
    """

    name: ClassVar[str] = "one-pass"

    def __call__(self, graph: Graph) -> Graph:
        result = Graph(graph.name, graph.attrs)
        instead: dict[str, str] = {}
        for node in graph:
            operands = [instead.get(name, name) for name in graph.operand_names(node.name)]
            if is_own_state(node):
                instead[node.name] = operands[0]
                continue
            types = [result[name].type for name in operands]
            result.add(renamed(node, type=OPS[node.op].infer(types, node.attrs)), operands)
        result.outputs = tuple(name for name in graph.outputs if name not in instead)
        return result
