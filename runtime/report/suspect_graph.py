"""The graph around the suspect region: what can hold the cause, what is still good before it, and what follows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aprgraph.graph.export.svg import export_svg
from aprgraph.graph.export.svg_style import style_sheet
from aprgraph.graph.export.view import make_view
from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import is_tap
from aprgraph.runtime.comparison.comparison import Comparison
from aprgraph.runtime.diff.classify import FirstDivergence
from aprgraph.runtime.trace.reader import Trace

#: First divergences that are drawn; and boxes beyond which only the part of each region nearest to its tensor is.
_DRAWN = 6
_BOXES = 90
_NEAREST = 16


@dataclass(frozen=True)
class SuspectGraph:
    """``svg`` is an SVG element; ``note`` says what it leaves out."""

    svg: str
    note: str


def draw_suspects(report: Comparison, suspects: Sequence[FirstDivergence], trace_a: Trace, trace_b: Trace) -> SuspectGraph | str:
    """The graph around ``suspects``, or why there is none to draw."""
    if not suspects:
        return "Nothing diverged, so there is no region to draw."
    candidates = (trace_a.graph(), trace_b.graph(), None if report.blame is None else report.blame.graph)
    known = [graph for graph in candidates if graph is not None]
    graph = next((graph for graph in known if suspects[0].region and suspects[0].region[-1] in graph), None)
    if graph is None:
        which = "that holds this tensor" if known else "(it lies in a trace's manifest, trace.json)"
        return f"Neither trace has a graph {which}, so the region is named, but not drawn."
    drawn = [one for one in suspects if one.key.step == suspects[0].key.step][:_DRAWN]
    step = suspects[0].key.step
    colouring = report.colouring(step)
    note = f"{len(drawn)} of {len(suspects)} are drawn." if len(drawn) < len(suspects) else ""
    view = make_view(_around(graph, drawn, None), colouring=colouring, suspects=report.suspects, sides=report.names.both)
    if len(view.nodes) > _BOXES:
        view = make_view(_around(graph, drawn, _NEAREST), colouring=colouring, suspects=report.suspects, sides=report.names.both)
        note = f"Of each region the {_NEAREST} nodes nearest to its tensor are drawn. {note}".strip()
    # The legend counts all tensors, not those that happen to be drawn, so that it agrees with the rest of the page.
    view = replace(view, legend=tuple((look, report.tally.get(look.name, 0)) for look, _ in view.legend if report.tally.get(look.name)))
    svg = re.sub("<style>.*?</style>", "", export_svg(view), count=1, flags=re.DOTALL)
    return SuspectGraph(svg.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1), note)


def graph_rules() -> str:
    """The style sheet of the graph's pictures, confined to the page's drawing, and dark also where the page's switch says so."""
    light, _, dark = style_sheet().partition("@media (prefers-color-scheme: dark)")
    screen = f'@media screen and (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) .suspects {dark} }}'
    return f'.suspects {{ {light} }}\n{screen}\n@media screen {{ :root[data-theme="dark"] .suspects {dark} }}\n'


def _around(graph: Graph, suspects: Sequence[FirstDivergence], nearest: int | None) -> Graph:
    """The part of ``graph`` to draw. Nodes at its border are there without their own operands."""
    staged = {(node.layer, node.stage): node.name for node in graph.staged()}
    users = {node.name: [user.name for user in graph.users(node.name) if not is_tap(user)] for node in graph}
    core: set[str] = set()
    for suspect in suspects:
        region = [name for name in suspect.region if name in graph]
        core.update(region if nearest is None else region[-nearest:])
        core.update(name for key in suspect.following if (name := staged.get(key.in_step)) is not None)
        core.update(users[region[-1]])
        core.update(name for name in suspect.weights if name in graph)
    good = {name for suspect in suspects for key in suspect.good if (name := staged.get(key.in_step)) is not None}
    if nearest is not None:
        good &= {operand for name in core for operand in graph.operand_names(name)}
    # What the region reads is drawn as well, so that every arrow into it begins somewhere.
    border = {operand for name in core for operand in graph.operand_names(name)} - core
    result = Graph(graph.name, graph.attrs)
    for node in graph:
        if node.name in core:
            result.add(node, graph.operand_names(node.name))
        elif node.name in border or node.name in good:
            result.add(node, [operand for operand in graph.operand_names(node.name) if operand in result])
    return result
