"""JSON, for programs. The names and meanings of fields stay within one ``version``; fields may be added."""

from __future__ import annotations

import json
from typing import Any

from aprgraph.graph.export.view import NodeView, View

FORMAT = "aprgraph-graph"
VERSION = 1


def export_json(view: View) -> str:
    """The view as one JSON object.

    ``nodes`` (in execution order) have ``id``, ``label``, ``op``, ``stage``, ``group``, ``type`` (``dtype`` and ``dims``, null for
    layers left out), ``layers`` ([first, last + 1] or null), ``names`` (the graph's nodes it stands for), ``attrs``,
    ``weights``, ``tapped``, ``suspect``, and ``divergence`` (``class``, which is a verdict where the colours are those of blame, ``nmse``,
    ``measure``, which says what that number is, ``layer``, ``note``; null in a view without colours).
    ``edges`` have ``source``, ``target``, ``operand`` and ``repeat``; ``groups`` have ``id``, ``title``, ``layers``, ``nodes``.
    """
    group_of = {name: group.id for group in view.groups for name in group.nodes}
    document = {
        "format": FORMAT,
        "version": VERSION,
        "name": view.graph.name,
        "attrs": _plain(view.graph.attrs),
        "shown": _range(view.shown),
        "outputs": list(view.graph.outputs),
        "groups": [
            {"id": group.id, "title": group.title, "layers": _range(group.layers), "nodes": list(group.nodes)} for group in view.groups
        ],
        "nodes": [_node(node, group_of.get(node.id)) for node in view.nodes],
        "edges": [{"source": edge.source, "target": edge.target, "operand": edge.operand, "repeat": edge.repeat} for edge in view.edges],
        "legend": [{"class": cls.name, "summary": cls.summary, "count": count} for cls, count in view.legend],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _range(layers: range | None) -> list[int] | None:
    return None if layers is None else [layers.start, layers.stop]


def _plain(attrs: Any) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in sorted(attrs.items())}


def _node(node: NodeView, group: str | None) -> dict[str, Any]:
    divergence = node.divergence
    return {
        "id": node.id,
        "label": node.label,
        "op": node.op,
        "stage": node.stage,
        "group": group,
        "layers": _range(node.layers),
        "type": None if node.type is None else {"dtype": node.type.dtype, "dims": list(node.type.dims)},
        "attrs": _plain(node.attrs),
        "weights": [{"tensor": weight.tensor, "format": weight.format, "dims": list(weight.dims)} for weight in node.weights],
        "tapped": node.tapped,
        "suspect": node.suspect,
        "names": list(node.names),
        "divergence": None
        if divergence is None
        else {
            "class": divergence.cls.name,
            "nmse": finite(divergence.nmse),
            "measure": divergence.measure,
            "layer": divergence.layer,
            "note": divergence.note,
        },
    }


def finite(value: float | None) -> float | None:
    """``value``, or None for the NaN and Inf that JSON has no number for; the class says then what is wrong."""
    return value if value is not None and value - value == 0 else None
