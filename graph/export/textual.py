"""The textual form. It parses back unless the view was restricted to some layers; divergence stands in comments."""

from __future__ import annotations

from aprgraph.graph.export.describe import SUSPECT
from aprgraph.graph.export.divergence import divergence_of
from aprgraph.graph.export.view import View
from aprgraph.graph.ops import is_tap, is_weight
from aprgraph.graph.text import print_graph


def export_text(view: View) -> str:
    """The graph of ``view`` as text; folding does not matter here."""
    head, *lines = print_graph(view.graph).splitlines()
    result = [head]
    if view.shown is not None:
        layers = f"{view.shown.start}..{view.shown.stop}"
        result.append(f"  // only layers {layers} are shown; values of other layers are used, but not defined here")
    nodes = list(view.graph)
    marked = {name for box in view.nodes if box.suspect for name in box.names}
    shown_weights = {
        name for node in nodes if view.shown is None or node.layer is None or node.layer in view.shown
        for name in view.graph.operand_names(node.name)
    }  # fmt: skip
    for node, line in zip(nodes, lines, strict=False):
        if view.shown is not None:
            if node.layer is not None and node.layer not in view.shown:
                continue
            if is_weight(node) and node.name not in shown_weights:
                continue
        if node.name in marked:
            result.append(f"  // {SUSPECT}")
        if view.colouring is not None and node.stage is not None and not is_tap(node):
            result.append(f"  // {divergence_of(view.colouring, node.layer, node.stage).label}")
        result.append(line)
    return "\n".join([*result, *lines[len(nodes) :], ""])
