"""The graph in a manifest, from its text."""

from __future__ import annotations

from functools import lru_cache

from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import OPS
from aprgraph.graph.text import parse_graph
from aprgraph.graph.verify import verify


@lru_cache(maxsize=8)  # a comparison asks for both sides' several times
def graph_of_text(text: str) -> Graph:
    """The graph, verified; not to be changed. The stages that it declares become known.

    One with ops that a family's file brought is not verified where they are not known. Raises GraphError.
    """
    graph = parse_graph(text)
    if all(node.op in OPS for node in graph):
        verify(graph)
    return graph
