"""Graphviz DOT."""

from __future__ import annotations

from collections.abc import Iterator

from aprgraph.graph.export.describe import details, lines
from aprgraph.graph.export.escape import dot
from aprgraph.graph.export.view import ELIDED, NodeView, View


def export_dot(view: View) -> str:
    """The view as a DOT digraph: a cluster per layer or fold, and one for the legend."""
    return "\n".join([*_document(view), ""])


def _document(view: View) -> Iterator[str]:
    yield f"digraph {dot(view.graph.name)} {{"
    yield f"  label={dot(view.graph.name + chr(10) + view.subtitle)}; labelloc=t; rankdir=TB; fontname=Helvetica;"
    yield '  node [shape=box, style="rounded,filled", fillcolor=white, color="#8a94a6", fontname=Helvetica, fontsize=11];'
    yield '  edge [color="#5f6b7c", arrowsize=0.7];'
    boxes = {node.id: node for node in view.nodes}
    grouped = {name for group in view.groups for name in group.nodes}
    for node in view.nodes:
        if node.id not in grouped:
            yield "  " + _box(node)
    for group in view.groups:
        yield f"  subgraph {dot('cluster_' + group.id)} {{"
        yield f'    label={dot(group.title)}; style="rounded,filled"; color="#c3cad5"; fillcolor="#f5f7fa";'
        for name in group.nodes:
            yield "    " + _box(boxes[name])
        yield "  }"
    for edge in view.edges:
        # A repeat points back up the cluster; it must not take part in the ranking.
        attributes = ' [style=dashed, constraint=false, label="next layer"]' if edge.repeat else ""
        yield f"  {dot(edge.source)} -> {dot(edge.target)}{attributes};"
    if view.legend:
        yield "  subgraph cluster_legend {"
        yield '    label="legend"; style=rounded; color="#c3cad5";'
        for cls, count in view.legend:
            label = f"{cls.name} ({count})\n{cls.summary}"
            yield f'    {dot("legend_" + cls.name)} [label={dot(label)}, fillcolor="{cls.light}", color="{cls.bar}"];'
        yield "  }"
    yield "}"


def _box(node: NodeView) -> str:
    attributes = [f"label={dot(chr(10).join(lines(node)))}", f"tooltip={dot(details(node))}"]
    if node.op == ELIDED:
        attributes.append('style="rounded,dashed"')
    if node.tapped:
        attributes.append("peripheries=2")
    if node.divergence is not None:
        attributes.append(f'fillcolor="{node.divergence.cls.light}", color="{node.divergence.cls.bar}", penwidth=2')
    if node.suspect:
        attributes.append('fontcolor="#a83f00", style="rounded,filled,bold,dashed"')
    return f"{dot(node.id)} [{', '.join(attributes)}];"
