"""Pictures and exports of a graph, one format a file; ``EXPORTERS`` is the table that the command line goes by."""

from __future__ import annotations

from collections.abc import Callable

from aprgraph.graph.export.divergence import Colouring
from aprgraph.graph.export.dot import export_dot
from aprgraph.graph.export.graphml import export_graphml
from aprgraph.graph.export.json_document import export_json
from aprgraph.graph.export.mermaid import export_mermaid
from aprgraph.graph.export.svg import export_svg
from aprgraph.graph.export.textual import export_text
from aprgraph.graph.export.view import View, make_view

EXPORTERS: dict[str, Callable[[View], str]] = {
    "text": export_text,
    "dot": export_dot,
    "svg": export_svg,
    "json": export_json,
    "graphml": export_graphml,
    "mermaid": export_mermaid,
}

#: The format that a file name's ending asks for.
FORMAT_BY_SUFFIX: dict[str, str] = {
    ".txt": "text",
    ".dot": "dot",
    ".gv": "dot",
    ".svg": "svg",
    ".json": "json",
    ".graphml": "graphml",
    ".mmd": "mermaid",
    ".mermaid": "mermaid",
}

__all__ = ["EXPORTERS", "FORMAT_BY_SUFFIX", "Colouring", "View", "make_view"]
