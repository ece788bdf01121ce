"""Where everything of an SVG picture goes: clusters laid out one by one, then all of them as boxes of the whole.

Graphviz would do it, but it is a system program that users would have to install. Graphs of transformers need little: rows
from top to bottom, lanes at the side, and boxes within boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from aprgraph.graph.export.layering import Box, Link
from aprgraph.graph.export.placement import Placed, place
from aprgraph.graph.export.view import EdgeView, GroupView, View
from aprgraph.graph.ops import Role, traits_named

PADDING = 18.0
TITLE_BAR = 30.0
TITLE_CHARACTER = 7.6  # of the bold 13 px title, on average
_INSIDE = (26.0, 30.0, 20.0)
_OUTSIDE = (36.0, 36.0, 36.0)


def entry(source: str) -> str:
    """The item where arrows of ``source`` enter a cluster."""
    return f"in:{source}"


def leaving(source: str) -> str:
    """The item where arrows of ``source`` leave its cluster."""
    return f"out:{source}"


@dataclass(frozen=True)
class Cluster:
    """A laid-out cluster; ``inside`` has its own coordinates, and ``origin`` maps them to the cluster's corner."""

    group: GroupView
    inside: Placed
    width: float
    height: float

    @property
    def origin(self) -> float:
        """The x of the left border in the coordinates of ``inside``."""
        return (self.inside.left + self.inside.right - self.width) / 2

    def port(self, item: str) -> float:
        """The x of an entry or exit, from the cluster's centre."""
        return self.inside.x[item] - self.origin - self.width / 2

    def title_x(self, width: float) -> float:
        """Where a title of ``width`` starts, from the left border: the first place that no arrow passes."""
        ports = sorted(self.inside.x[name] - self.origin for name, box in self.inside.items.items() if box.pin == "first")
        for start in (14.0, *(x + 12.0 for x in ports)):
            if not any(start - 6 <= x <= start + width for x in ports):
                return start
        return 14.0


@dataclass(frozen=True)
class Scene:
    """The whole picture, in the coordinates of ``outside``."""

    outside: Placed
    clusters: Mapping[str, Cluster]


def make_scene(view: View, sizes: Mapping[str, tuple[float, float]]) -> Scene:
    """Lay out ``view``, whose boxes have ``sizes`` (width and height by node id)."""
    edges = [edge for edge in view.edges if not edge.repeat]
    groups = _drawable(view, edges)
    # What all layers share, such as the angles of RoPE, comes in at the side.
    shared = {node.id for node in view.nodes if node.stage is None and node.layers is None and traits_named(node.op).role is not Role.INPUT}
    loose = {node.id for node in view.nodes if node.layers is None}
    kept: dict[object, Placed] = {}
    clusters = {group.id: _cluster(group, edges, sizes, shared, kept) for group in groups}
    item_of = {node.id: node.id for node in view.nodes} | {name: group.id for group in groups for name in group.nodes}
    items: dict[str, Box] = {}
    for node in view.nodes:
        item = item_of[node.id]
        width, height = (clusters[item].width, clusters[item].height) if item in clusters else sizes[node.id]
        items[item] = Box(width, height)
    links: dict[Link, None] = {}
    for edge in edges:
        source, target = item_of[edge.source], item_of[edge.target]
        if source != target:
            out = clusters[source].port(leaving(edge.source)) if source in clusters else 0.0
            into = clusters[target].port(entry(edge.source)) if target in clusters else 0.0
            side = -1 if edge.source in shared and target not in loose else 1
            links[Link(source, target, edge.source, out, into, side)] = None
    return Scene(place(items, list(links), _OUTSIDE), clusters)


def _drawable(view: View, edges: Sequence[EdgeView]) -> list[GroupView]:
    """The groups that can be one box each: those that no arrow leaves and comes back to."""
    item_of = {name: group.id for group in view.groups for name in group.nodes}
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(group.id for group in view.groups)
    pairs = [(item_of.get(edge.source, edge.source), item_of.get(edge.target, edge.target)) for edge in edges]
    graph.add_edges_from(pair for pair in pairs if pair[0] != pair[1])
    tangled = {name for component in nx.strongly_connected_components(graph) if len(component) > 1 for name in component}
    return [group for group in view.groups if group.id not in tangled]


def _cluster(
    group: GroupView,
    edges: Sequence[EdgeView],
    sizes: Mapping[str, tuple[float, float]],
    shared: set[str],
    kept: dict[object, Placed],
) -> Cluster:
    inside = set(group.nodes)
    items: dict[str, Box] = {}
    links: dict[Link, None] = {}
    for edge in edges:
        if edge.target in inside and edge.source not in inside:
            items[entry(edge.source)] = Box(0, TITLE_BAR, "first")
    for name in group.nodes:
        items[name] = Box(*sizes[name])
    for edge in edges:
        if edge.target in inside:
            if edge.source in inside:
                links[Link(edge.source, edge.target, edge.source)] = None
            else:
                side = -1 if edge.source in shared else 1
                links[Link(entry(edge.source), edge.target, edge.source, side=side)] = None
        elif edge.source in inside:
            items[leaving(edge.source)] = Box(0, 0, "last")
            links[Link(edge.source, leaving(edge.source), edge.source)] = None
    placed = _place_once(items, list(links), kept)
    has_entry = any(box.pin == "first" for box in items.values())
    top = 0.0 if has_entry else TITLE_BAR
    bottom = 0.0 if any(box.pin == "last" for box in items.values()) else _INSIDE[2]
    width = max(placed.right - placed.left + 2 * PADDING, len(group.title) * TITLE_CHARACTER + 60)
    return Cluster(group, placed, width, top + placed.height + bottom)


def _place_once(items: Mapping[str, Box], links: Sequence[Link], kept: dict[object, Placed]) -> Placed:
    """Unfolded layers are mostly equal: what was laid out once is used again under the new names."""
    number = {name: index for index, name in enumerate(items)}
    trunks: dict[str, int] = {}
    shape = tuple((number[link.source], number[link.target], trunks.setdefault(link.trunk, len(trunks)), link.side) for link in links)
    key = (tuple(items.values()), shape)
    if key not in kept:
        kept[key] = place(items, links, _INSIDE)
    return kept[key].renamed(items, links)
