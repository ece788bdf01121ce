"""fix-context: decide what depends on the number of positions of the whole run, such as LongRoPE's factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops.rope import CONTEXT_CHOICE


@dataclass(frozen=True)
class FixContext:
    """Replaces every `context_choice` by one of its operands: the second if the run is longer than its limit.

    By the whole run, and not by the pass at hand: otherwise a position would change its angles when the text grows past the
    limit, and the keys that lie in the cache would not fit the new ones.
    """

    positions: int = 0
    name: ClassVar[str] = "fix-context"

    def __call__(self, graph: Graph) -> Graph:
        if not context_choices(graph):
            return graph
        result = Graph(graph.name, graph.attrs)
        instead: dict[str, str] = {}
        for node in graph:
            operands = [instead.get(name, name) for name in graph.operand_names(node.name)]
            if node.op == CONTEXT_CHOICE.name:
                instead[node.name] = operands[self.positions > node.attr_int("limit")]
            else:
                result.add(node, operands)
        result.outputs = tuple(instead.get(name, name) for name in graph.outputs)
        return result


def context_choices(graph: Graph) -> list[Node]:
    """The nodes that depend on the length of the run and have not been decided."""
    # By name: this pass is there for the one op that kernels do not know.
    return graph.with_op(CONTEXT_CHOICE.name)


def fix_context(graph: Graph, positions: int) -> Graph:
    """``graph`` for a run of ``positions`` positions in all."""
    return FixContext(positions)(graph)
