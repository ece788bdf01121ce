"""prune: drop everything that no output needs, weights included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from aprgraph.graph.ir import Graph


@dataclass(frozen=True)
class Prune:
    """Keeps the outputs and their ancestors."""

    name: ClassVar[str] = "prune"

    def __call__(self, graph: Graph) -> Graph:
        return part_of(graph, graph.outputs)


def part_of(graph: Graph, outputs: Sequence[str]) -> Graph:
    """A new graph of the nodes ``outputs`` and what they are computed from."""
    return graph.rebuild(graph.in_order(graph.ancestors(outputs)), outputs)
