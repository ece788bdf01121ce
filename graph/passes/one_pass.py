"""one-pass: remove what a run that computes all positions in a single pass does not need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aprgraph.graph.ir import Graph, renamed
from aprgraph.graph.ops import OPS, is_own_state


@dataclass(frozen=True)
class OnePass:
    """Replace each KV cache by its operand, so that t becomes n: no other pass leaves rows or needs them.

    A KV cache among the outputs is removed, since only a later pass would read it. A state of a fixed shape stays:
    it begins as zeros, and the op updates it within the pass.
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
