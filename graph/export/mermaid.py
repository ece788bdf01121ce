"""Mermaid flowcharts, which GitHub and others draw inside Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator

from aprgraph.graph.export.describe import lines
from aprgraph.graph.export.escape import mermaid, printable
from aprgraph.graph.export.view import View


def export_mermaid(view: View) -> str:
    """The view as a Mermaid flowchart: a subgraph per layer or fold, and one for the legend."""
    return "\n".join([*_document(view), ""])


def _document(view: View) -> Iterator[str]:
    yield from ("---", f"title: {json.dumps(printable(view.graph.name))}", "---", "flowchart TB")
    # Names such as layer0.attn_out are no Mermaid identifiers, and words such as "end" would end a subgraph.
    ids = {node.id: f"n{index}" for index, node in enumerate(view.nodes)}
    grouped = {name for group in view.groups for name in group.nodes}
    boxes = {node.id: f'{ids[node.id]}["{mermaid(chr(10).join(lines(node)))}"]' for node in view.nodes}
    for node in view.nodes:
        if node.id not in grouped:
            yield f"  {boxes[node.id]}"
    for index, group in enumerate(view.groups):
        yield f'  subgraph g{index}["{mermaid(group.title)}"]'
        yield from (f"    {boxes[name]}" for name in group.nodes)
        yield "  end"
    for edge in view.edges:
        arrow = "-. next layer .->" if edge.repeat else "-->"
        yield f"  {ids[edge.source]} {arrow} {ids[edge.target]}"
    if any(node.tapped for node in view.nodes):
        yield "  classDef tapped stroke-width:3px"
        yield f"  class {','.join(ids[node.id] for node in view.nodes if node.tapped)} tapped"
    if any(node.suspect for node in view.nodes):
        yield "  classDef suspect stroke-width:4px,stroke-dasharray:6 3"
        yield f"  class {','.join(ids[node.id] for node in view.nodes if node.suspect)} suspect"
    if view.legend:
        yield '  subgraph legend["legend"]'
        for index, (cls, count) in enumerate(view.legend):
            yield f'    c{index}["{mermaid(f"{cls.name} ({count}){chr(10)}{cls.summary}")}"]'
        yield "  end"
        for index, (cls, _) in enumerate(view.legend):
            members = [ids[node.id] for node in view.nodes if node.divergence is not None and node.divergence.cls.name == cls.name]
            yield f"  classDef class{index} fill:{cls.light},stroke:{cls.bar},color:#1c2430"
            yield f"  class {','.join([f'c{index}', *members])} class{index}"
