"""The words in a box, the same in every picture."""

from __future__ import annotations

from aprgraph.graph.export.divergence import VERDICTS
from aprgraph.graph.export.view import ELIDED, NodeView, View

_VERDICTS = frozenset(look.name for look in VERDICTS)
#: What a marked box says of itself.
SUSPECT = "suspect: can explain all that is wrong"


def headline(node: NodeView) -> str:
    """The second line of a box: ``rope · f32[n, 576]``."""
    return "not shown" if node.op == ELIDED else f"{node.op} · {node.type}"


def lines(node: NodeView) -> list[str]:
    """The lines of a box for formats that have text only."""
    result = [node.label + (" [tap]" if node.tapped else ""), headline(node), *map(str, node.weights)]
    result += [SUSPECT] if node.suspect else []
    if node.divergence is not None:
        result.append(node.divergence.label)
        result += [node.divergence.note] if node.divergence.note else []
    return result


def details(node: NodeView) -> str:
    """Everything about a box, for tooltips and readers that do not see it."""
    if node.op == ELIDED:
        return f"{node.label}, not shown"
    where = "" if node.layers is None else f", layer{'' if len(node.layers) == 1 else 's'} {layers_text(node.layers)}"
    result = [f"{node.label}{where}: {node.op}, {node.type}"]
    result += [f"{name} = {node.attrs[name]}" for name in sorted(node.attrs)]
    result += [f"weight {weight.tensor}: {weight.format}[{', '.join(map(str, weight.dims))}]" for weight in node.weights]
    result += ["tapped"] if node.tapped else []
    result += [SUSPECT] if node.suspect else []
    if node.divergence is not None:
        result.append(node.divergence.label + (f" ({node.divergence.note})" if node.divergence.note else ""))
    return "\n".join(result)


def layers_text(layers: range) -> str:
    """``3``, or ``1-29``."""
    return str(layers.start) if len(layers) == 1 else f"{layers.start}-{layers.stop - 1}"


def summary(view: View) -> str:
    """One sentence or two about the whole picture."""
    clusters = ", ".join(group.title for group in view.groups) or "no layers"
    text = f"Computation graph of {view.graph.name}: {len(view.nodes)} boxes; {clusters}."
    if view.legend:
        by = "whose fault it is" if any(cls.name in _VERDICTS for cls, _ in view.legend) else "how far they diverge"
        text += f" Stages by {by}: " + ", ".join(f"{count} {cls.name}" for cls, count in view.legend) + "."
    marked = [node.label for node in view.nodes if node.suspect]
    if marked:
        text += f" Marked as suspect: {', '.join(dict.fromkeys(marked))}."
    return text
