"""The graph as one HTML page that opens offline: the picture, and an outline to search, fold and read, with everything about each node.

The outline is plain HTML (`details`), so that it is read without the script, by keyboard, and aloud. The script ties it to the picture.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files

from aprgraph.graph.export.describe import SUSPECT, headline, layers_text, summary
from aprgraph.graph.export.escape import xml
from aprgraph.graph.export.svg import export_svg
from aprgraph.graph.export.svg_style import style_sheet
from aprgraph.graph.export.view import NodeView, View
from aprgraph.graph.words import counted, shape_text

#: Classes and verdicts of what is right, or not known.
_QUIET = frozenset(("IDENTICAL", "NOISE", "RIGHT", "FOLLOWS", "UNMEASURED", "UNKNOWN"))
#: In the head of each page, by which it is known as one.
MARK = '<meta name="generator" content="aprgraph graph">'


def export_html(view: View) -> str:
    """The page of one graph."""
    return render([view])


def render(views: list[View], called: list[str] | None = None) -> str:
    """The page of one graph, or of two side by side, in which what differs is said at each node; ``called`` are what names them."""
    style, script, drawing = _resource("page.css"), _resource("page.js"), style_sheet()
    names = [xml(name) for name in called or [view.graph.name for view in views]]
    panes = [
        _pane(view, names[index], index, _compared(view, views[1 - index]) if len(views) > 1 else {}) for index, view in enumerate(views)
    ]
    policy = (
        f"default-src 'none'; style-src {_hash(style)} {_hash(drawing)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return "\n".join([
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        MARK,
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{' and '.join(names)}, aprgraph graph</title>",
        f"<style>{style}</style>",
        f"<style>{drawing}</style>",
        "</head>",
        "<body>",
        '<a class="skip" href="#find">Skip to the search</a>',
        f"<header><p>aprgraph graph</p><h1>{' and '.join(names)}</h1>",
        '<div class="tools" hidden><label for="find">Search nodes, stages, ops, weights, values</label>',
        '<input id="find" type="search" autocomplete="off" spellcheck="false"> <span id="found" role="status"></span>',
        '<button type="button" id="unfold">Open all</button> <button type="button" id="fold">Close all</button></div>',
        "</header>",
        f'<main class="{"two" if len(views) > 1 else "one"}">',
        *panes,
        "</main>",
        f"<script>{script}</script>",
        "</body>",
        "</html>",
        "",
    ])  # fmt: skip


def _pane(view: View, name: str, index: int, compared: Mapping[str, str]) -> str:
    """One graph: its outline and its picture."""
    inside = {name for group in view.groups for name in group.nodes}
    nodes = {node.id: node for node in view.nodes}
    first_of = {group.nodes[0]: group for group in view.groups}
    lines = [f'<section class="pane" aria-label="{name}">', '<div class="outline">']
    lines += [f"<h2>{name}</h2>"] if compared else []
    lines += [f"<p>{xml(view.subtitle)}</p>", f"<p>{xml(summary(view))}</p>"]
    if compared:
        differing = sum(bool(text) for text in compared.values())
        lines.append(f"<p>{xml(counted(differing, 'node'))} not as in the other graph</p>")
    for node in view.nodes:
        if node.id in first_of:
            group = first_of[node.id]
            lines.append(f'<details class="cluster-of" open><summary>{xml(group.title)}</summary>')
            lines += [line for name in group.nodes for line in _entry(nodes[name], view, compared.get(name, ""))]
            lines.append("</details>")
        elif node.id not in inside:
            lines += _entry(node, view, compared.get(node.id, ""))
    # Ids are of the whole page; in the second picture they get another beginning.
    picture = export_svg(view).partition("<svg")[2]
    before, _, after = picture.partition("<style>")
    picture = ("<svg" + before + after.partition("</style>")[2]).replace('role="img"', 'role="group"', 1)  # with buttons in it
    if index:
        picture = picture.replace(' id="', ' id="second-').replace('aria-labelledby="graph-title graph-description"', "")
    lines += ["</div>", f'<div class="picture" tabindex="0" role="group" aria-label="Picture of {name}; scrolls">', picture]
    return "\n".join([*lines, "</div>", "</section>"])


def _entry(node: NodeView, view: View, compared: str) -> Iterator[str]:
    """A node, as an entry of the outline."""
    error = ""
    if node.divergence is not None:
        error = f' <span class="{"quiet" if node.divergence.cls.name in _QUIET else "error"}">{xml(node.divergence.label)}</span>'
    marks = "".join(f" <em>{xml(word)}</em>" for word in (*(["tap"] if node.tapped else []), *(["suspect"] if node.suspect else [])))
    differs = f" <strong>{xml(compared.partition(':')[0])}</strong>" if compared else ""
    yield f'<details class="entry" data-node="{xml(node.id)}"><summary><code>{xml(node.label)}</code>{error}{marks}{differs}</summary>'
    yield "<dl>"
    for name, value in _facts(node, compared):
        yield f"<div><dt>{xml(name)}</dt><dd>{xml(value)}</dd></div>"
    yield "</dl>"
    yield from _values(node, view)
    yield "</details>"


def _facts(node: NodeView, compared: str) -> Iterator[tuple[str, str]]:
    yield "op", headline(node)
    if node.stage is not None and node.stage != node.label:
        yield "stage", node.stage
    if node.layers is not None:
        yield "layers", layers_text(node.layers)
    for name in sorted(node.attrs):
        yield name, str(node.attrs[name])
    for weight in node.weights:
        yield "weight", f"{weight.tensor}: {weight.format}[{shape_text(weight.dims)}]" + (", suspect" if weight.suspect else "")
    if node.tapped:
        yield "tapped", "yes"
    if node.suspect:
        yield "suspect", SUSPECT.partition(": ")[2]
    if node.divergence is not None:
        yield "error", node.divergence.label + (f"; {node.divergence.note}" if node.divergence.note else "")
    if compared:
        yield "other graph", compared
    yield "nodes", ", ".join(node.names[:3]) + (f" and {len(node.names) - 3} more" if len(node.names) > 3 else "")


def _values(node: NodeView, view: View) -> Iterator[str]:
    """What is known of the tensor in each of the layers that a box stands for, a row each."""
    layers: list[int | None] = [None] if node.layers is None else list(node.layers)
    rows = [(layer, found) for layer in layers if node.stage is not None and (found := view.facts.get((layer, node.stage)))]
    if not rows:
        return
    names = list(dict.fromkeys(name for _, found in rows for name in found))
    heads = "".join(f'<th scope="col">{xml(name)}</th>' for name in names)
    yield '<div class="wide" tabindex="0" role="group" aria-label="Values; scrolls sideways">'
    yield f'<table><tr><th scope="col">layer</th>{heads}</tr>'
    for layer, found in rows:
        cells = "".join(f"<td>{xml(found.get(name, ''))}</td>" for name in names)
        yield f'<tr><th scope="row">{"all" if layer is None else layer}</th>{cells}</tr>'
    yield "</table></div>"


def _compared(view: View, other: View) -> dict[str, str]:
    """Node -> how the other graph has it: empty where it is the same, ``only here``, or ``differs: op rope, not rope_neox``."""
    there = {node.id: node for node in other.nodes}
    return {node.id: _difference(node, there.get(node.id)) for node in view.nodes}


def _difference(node: NodeView, other: NodeView | None) -> str:
    if other is None:
        return "only here: no node of this name in the other graph"
    pairs = [("op", node.op, other.op), ("type", str(node.type), str(other.type))]
    pairs += [(name, str(node.attrs.get(name)), str(other.attrs.get(name))) for name in sorted({*node.attrs, *other.attrs})]
    pairs += [("weights", ", ".join(map(str, node.weights)), ", ".join(map(str, other.weights)))]
    found = [f"{name} is {mine or 'none'}, there {theirs or 'none'}" for name, mine, theirs in pairs if mine != theirs]
    return f"differs: {'; '.join(found)}" if found else ""


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
