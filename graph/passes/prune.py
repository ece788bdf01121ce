"""prune: drop everything that no output needs, weights included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aprgraph.graph.ir import Graph


@dataclass(frozen=True)
class Prune:
    """Keeps the outputs and their ancestors."""

    name: ClassVar[str] = "prune"

    def __call__(self, graph: Graph) -> Graph:
        needed = graph.ancestors(graph.outputs)
        return graph.rebuild(node for node in graph if node.name in needed)
