"""GraphML, for yEd, Gephi, Cytoscape and networkx itself."""

from __future__ import annotations

import networkx as nx

from aprgraph.graph.export.describe import layers_text
from aprgraph.graph.export.escape import printable
from aprgraph.graph.export.view import View

_Value = bool | int | float | str


def export_graphml(view: View) -> str:
    """The view as GraphML. All attributes are scalars; absent ones are left out. ``group`` names a node's cluster."""
    graph: nx.MultiDiGraph[str] = nx.MultiDiGraph(name=printable(view.graph.name), subtitle=printable(view.subtitle))
    group_of = {name: group for group in view.groups for name in group.nodes}
    for node in view.nodes:
        group, divergence = group_of.get(node.id), node.divergence
        values: dict[str, _Value | None] = {
            "label": node.label,
            "op": node.op,
            "stage": node.stage,
            "group": None if group is None else group.title,
            "layers": None if node.layers is None else layers_text(node.layers),
            "first_layer": None if node.layers is None else node.layers.start,
            "type": None if node.type is None else str(node.type),
            "attrs": ", ".join(f"{name} = {node.attrs[name]}" for name in sorted(node.attrs)) or None,
            "weights": ", ".join(f"{weight.tensor} {weight.format}{list(weight.dims)}" for weight in node.weights) or None,
            "tapped": node.tapped,
            "suspect": node.suspect,
            "divergence": None if divergence is None else divergence.cls.name,
            "nmse": None if divergence is None or divergence.nmse is None else float(divergence.nmse),
            "note": None if divergence is None else divergence.note,
            "fill": None if divergence is None else divergence.cls.light,
        }
        graph.add_node(printable(node.id), **{key: printable(v) if isinstance(v, str) else v for key, v in values.items() if v is not None})
    for edge in view.edges:
        graph.add_edge(printable(edge.source), printable(edge.target), operand=edge.operand, repeat=edge.repeat)
    return "\n".join([*nx.generate_graphml(graph, named_key_ids=True), ""])
