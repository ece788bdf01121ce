"""fill-caches: of a prompt in parts, what a part other than the last has to compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import states_of, taps_of, traits_of


@dataclass(frozen=True)
class FillCaches:
    """Makes the nodes with a state, such as KV caches, and the taps the outputs: later parts need the states.

    Taps of the last position are left out, since this part does not hold it.
    """

    name: ClassVar[str] = "fill-caches"

    def __call__(self, graph: Graph) -> Graph:
        of_last: set[str] = set()
        for node in graph:
            if traits_of(node).keeps_last_position or of_last.intersection(graph.operand_names(node.name)):
                of_last.add(node.name)
        taps = [node.name for node in taps_of(graph) if node.name not in of_last]
        return graph.rebuild(graph, [*taps, *(node.name for node in states_of(graph))])
