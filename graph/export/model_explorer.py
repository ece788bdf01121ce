"""JSON that Google's Model Explorer opens: a collection of one graph.

The form is that of `GraphCollection` in google-ai-edge/model-explorer (src/ui/src/components/visualizer/common/input_graph.ts), whose
loader takes an object with ``label`` and ``graphs`` (src/ui/src/common/utils.ts). Every value of an attribute is a string there. Node data,
which colours nodes by numbers, is a second file in the form of its `ModelNodeData` (node_data_builder.py). Both were opened in
ai-edge-model-explorer 0.1.34 (docs/pictures.md).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from aprgraph.graph.export.describe import SUSPECT
from aprgraph.graph.export.json_document import finite
from aprgraph.graph.export.view import NodeView, View
from aprgraph.graph.words import shape_text

#: The colour of a suspect's border, as in the picture (svg_style.py).
_SUSPECT = "#a83f00"
_DIGITS = 4


def export_model_explorer(view: View) -> str:
    """The view as a graph collection; clusters of layers are namespaces, which Model Explorer folds and unfolds."""
    namespace = {name: group.title for group in view.groups for name in group.nodes}
    incoming: dict[str, list[dict[str, str]]] = {}
    for edge in view.edges:
        if not edge.repeat:  # a cluster has no room for an arrow from its end to its beginning
            found = {"sourceNodeId": edge.source, "sourceNodeOutputId": "0", "targetNodeInputId": str(edge.operand)}
            incoming.setdefault(edge.target, []).append(found)
    graph = {
        "id": view.graph.name,
        "nodes": [_node(node, namespace.get(node.id, ""), incoming.get(node.id, [])) for node in view.nodes],
        "groupNodeAttributes": {"": {name: str(value) for name, value in sorted(view.graph.attrs.items())}},
    }
    return json.dumps({"label": view.graph.name, "graphs": [graph]}, indent=1, ensure_ascii=False) + "\n"


def export_node_data(view: View) -> str:
    """The errors of a coloured view as node data: the number is the NMSE or the local error, the colour that of the class or verdict."""
    results: dict[str, dict[str, Any]] = {}
    for node in view.nodes:
        if node.divergence is not None and node.divergence.nmse is not None:
            value = finite(node.divergence.nmse)
            # NaN and Inf have no number in JSON; the largest float stands for them, and the attribute says what they are. Of the others its
            # table shows every digit that there is.
            shown = 1.7976931348623157e308 if value is None else float(f"{value:.{_DIGITS}g}")
            results[node.id] = {"value": shown, "bgColor": node.divergence.cls.light}
    return json.dumps({view.graph.name: {"results": results}}, indent=1, ensure_ascii=False) + "\n"


def _node(node: NodeView, namespace: str, incoming: list[dict[str, str]]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": node.id,
        "label": f"{node.label} (suspect)" if node.suspect else node.label,
        "namespace": namespace,
        "attrs": [{"key": key, "value": value} for key, value in _attributes(node)],
        "incomingEdges": incoming,
    }
    if node.type is not None:
        shape = [{"key": "tensor_shape", "value": f"{node.type.dtype}[{shape_text(node.type.dims)}]"}]
        document["outputsMetadata"] = [{"id": "0", "attrs": shape}]
    style = {} if node.divergence is None else {"backgroundColor": node.divergence.cls.light, "borderColor": node.divergence.cls.bar}
    if node.suspect:  # a mark beside the name; there are no dashed lines
        style["borderColor"] = _SUSPECT
    if style:
        document["style"] = style
    return document


def _attributes(node: NodeView) -> Iterator[tuple[str, str]]:
    yield "op", node.op
    if node.stage is not None:
        yield "stage", node.stage
    for name in sorted(node.attrs):
        yield name, str(node.attrs[name])
    for weight in node.weights:
        yield weight.tensor, f"{weight.format}[{shape_text(weight.dims)}]"
    if node.tapped:
        yield "tapped", "true"
    if node.suspect:
        yield "suspect", SUSPECT.partition(": ")[2]
    if node.divergence is not None:
        yield "error", node.divergence.label + (f" ({node.divergence.note})" if node.divergence.note else "")
