"""The graph in a manifest, from its text."""

from __future__ import annotations

from functools import lru_cache

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import OPS
from aprgraph.graph.stage_declarations import make_stages_known
from aprgraph.graph.text import parse_graph
from aprgraph.graph.verify import verify


def graph_of_text(text: str) -> Graph | None:
    """The graph, verified; not to be changed. None where it does not hold together, which ``why_no_graph`` explains.

    The stages that it declares become known. One with ops that a family's file brought is not verified where they are not known.
    Raises GraphError for what is no text of a graph.
    """
    return _known(text) if why_no_graph(text) is None else None


def why_no_graph(text: str) -> str | None:
    """Why the graph does not hold together here, such as that of a version whose ops have other attributes; None where it does.

    Raises GraphError for what is no text of a graph.
    """
    return _fault(text) if all(node.op in OPS for node in _known(text)) else None


def _known(text: str) -> Graph:
    graph = _parsed(text)
    make_stages_known(graph.attrs)  # each time: a family's file that declared them since may be gone
    return graph


@lru_cache(maxsize=8)  # a comparison asks for both sides' several times
def _parsed(text: str) -> Graph:
    return parse_graph(text)


@lru_cache(maxsize=8)
def _fault(text: str) -> str | None:
    try:
        verify(_parsed(text))
    except GraphError as error:
        return str(error).partition("\n")[0]
    return None
