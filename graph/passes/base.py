"""Passes: small functions Graph -> Graph with a name; they are frozen dataclasses, and their fields are their options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Graph
from aprgraph.graph.text import print_graph
from aprgraph.graph.verify import verify


class Pass(Protocol):
    """A pass. It leaves its argument as it was, and the result valid."""

    @property
    def name(self) -> str:
        """Its name on the command line."""

    def __call__(self, graph: Graph) -> Graph:
        """The transformed graph."""


def run_passes(graph: Graph, passes: Sequence[Pass], observe: Callable[[str, Graph], None] | None = None) -> Graph:
    """Run ``passes`` in order, verifying after each; ``observe`` is given each pass's name and result.

    Raises GraphError that names the pass, those before it, and prints the graph that it left broken.
    """
    done: list[str] = []
    for transform in passes:
        before_it, graph = graph, transform(graph)
        try:
            verify(graph, before_it)
        except GraphError as error:
            before = ", ".join(done) or "none"
            raise GraphError(f"pass {transform.name} (after: {before}) left an invalid graph: {error}\n{print_graph(graph)}") from None
        done.append(transform.name)
        if observe is not None:
            observe(transform.name, graph)
    return graph
