"""The formats that a graph is exported in: ``EXPORTERS`` is the table that the command line goes by."""

from __future__ import annotations

from collections.abc import Callable

from aprgraph.graph.export.dot import export_dot
from aprgraph.graph.export.graphml import export_graphml
from aprgraph.graph.export.html_page import MARK, export_html
from aprgraph.graph.export.json_document import export_json
from aprgraph.graph.export.mermaid import export_mermaid
from aprgraph.graph.export.model_explorer import export_model_explorer
from aprgraph.graph.export.svg import export_svg
from aprgraph.graph.export.textual import export_text
from aprgraph.graph.export.view import View

EXPORTERS: dict[str, Callable[[View], str]] = {
    "text": export_text,
    "dot": export_dot,
    "svg": export_svg,
    "html": export_html,
    "json": export_json,
    "graphml": export_graphml,
    "mermaid": export_mermaid,
    "model-explorer": export_model_explorer,
}

#: The format that a file name's ending asks for; that of Model Explorer is JSON too, and has to be named.
FORMAT_BY_SUFFIX: dict[str, str] = {
    ".txt": "text",
    ".dot": "dot",
    ".gv": "dot",
    ".svg": "svg",
    ".html": "html",
    ".json": "json",
    ".graphml": "graphml",
    ".mmd": "mermaid",
    ".mermaid": "mermaid",
}

#: What stands near the beginning of each format as it is written here, and hardly in anybody else's file.
_MARKS = (
    b"graph @",
    b"labelloc=t; rankdir=TB; fontname=Helvetica;",
    b'aria-labelledby="graph-title graph-description"',
    b'"format": "aprgraph-graph"',
    b'<key id="repeat" for="edge" attr.name="repeat" attr.type="boolean" />',
    b"---\nflowchart TB\n",
    MARK.encode(),
    b'"graphs": [\n  {\n   "id"',
    b'{\n  "results": {',
)


def is_export(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is one that an exporter wrote."""
    return head.startswith(_MARKS[0]) or any(mark in head for mark in _MARKS[1:])
