"""Layered drawing, second half: coordinates.

Vertices that should stand in one column (the bends of a lane, an item and its only user) are tied into blocks. Then the
blocks are moved so that the sum of squared horizontal distances along the arrows is least, while neighbours in a row keep
their distance: a small convex quadratic programme, solved by Hildreth's method (1957), which has one optimum, so that the
picture is balanced, and always the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import numpy as np
import numpy.typing as npt

from aprgraph.graph.export.layering import LONG, Box, Layering, Link, Vertex, make_layering

_Vector = npt.NDArray[np.float64]

_ITEM_GAP = 26.0
_LANE_GAP = 18.0
_SWEEPS = 600
_LIGHT, _PLAIN = 0.02, 1.0  # pull of arrows into and out of lanes, and of all others


@dataclass(frozen=True)
class Placed:
    """A finished drawing: ``x`` of every vertex's centre, ``top`` and ``bottom`` of every row, and the links' paths."""

    items: Mapping[str, Box]
    layering: Layering
    x: Mapping[Vertex, float]
    row_of: Mapping[Vertex, int]
    top: Sequence[float]
    bottom: Sequence[float]
    left: float
    right: float

    @property
    def height(self) -> float:
        """From the top of the first row to the bottom of the last."""
        return self.bottom[-1] if self.bottom else 0.0

    def renamed(self, items: Mapping[str, Box], links: Sequence[Link]) -> Placed:
        """The same drawing for items and links of other names, in the same order."""
        names: dict[str, str] = dict(zip(self.items, items, strict=True))
        trunks = {old.trunk: new.trunk for old, new in zip(self.layering.paths, links, strict=True)}

        def of(vertex: Vertex) -> Vertex:
            return names[vertex] if isinstance(vertex, str) else (trunks[vertex[0]], vertex[1])

        paths = zip(links, self.layering.paths.values(), strict=True)
        layering = Layering([[of(v) for v in row] for row in self.layering.rows], {link: [of(v) for v in path] for link, path in paths})
        x = {of(vertex): value for vertex, value in self.x.items()}
        row_of = {of(vertex): row for vertex, row in self.row_of.items()}
        return Placed(items, layering, x, row_of, self.top, self.bottom, self.left, self.right)

    def centre(self, name: str) -> tuple[float, float]:
        """The centre of an item."""
        row = self.row_of[name]
        return self.x[name], (self.top[row] + self.bottom[row]) / 2


def place(items: Mapping[str, Box], links: Sequence[Link], gaps: tuple[float, float, float]) -> Placed:
    """Lay out ``items`` and acyclic ``links``. ``gaps`` are the spaces after the first row, between rows, before the last."""
    layering = make_layering(items, links)
    row_of = {vertex: index for index, row in enumerate(layering.rows) for vertex in row}
    x = _horizontal(items, links, layering)
    top, bottom, y = [], [], 0.0
    for index, row in enumerate(layering.rows):
        height = max((items[v].height for v in row if isinstance(v, str)), default=0.0)
        top.append(y)
        bottom.append(y + height)
        is_first, is_last = index == 0, index == len(layering.rows) - 2
        y += height + (gaps[0] if is_first else gaps[2] if is_last else gaps[1])
    half = {vertex: _width(items, vertex) / 2 for vertex in row_of}
    left = min((x[v] - half[v] for v in row_of), default=0.0)
    right = max((x[v] + half[v] for v in row_of), default=0.0)
    return Placed(items, layering, x, row_of, top, bottom, left, right)


def _width(items: Mapping[str, Box], vertex: Vertex) -> float:
    return items[vertex].width if isinstance(vertex, str) else 0.0


def _horizontal(items: Mapping[str, Box], links: Sequence[Link], layering: Layering) -> dict[Vertex, float]:
    pulls = _pulls(links, layering)
    block_of, shift = _blocks(layering, pulls, _columns(layering))
    blocks = sorted(set(block_of.values()))
    number = {block: index for index, block in enumerate(blocks)}
    size = len(blocks)
    if not size:
        return {}
    hessian = np.eye(size) * 1e-3
    linear = np.zeros(size)
    for (a, b), (difference, weight) in pulls.items():
        i, j = number[block_of[a]], number[block_of[b]]
        if i != j:
            # weight · (x_i - x_j - wanted)²
            wanted = difference - shift[a] + shift[b]
            hessian[[i, j], [i, j]] += weight
            hessian[[i, j], [j, i]] -= weight
            linear[i] += weight * wanted
            linear[j] -= weight * wanted
    normals, bounds = [], []
    for left, right in _neighbours(layering):
        normal = np.zeros(size)
        normal[number[block_of[right]]] += 1
        normal[number[block_of[left]]] -= 1
        normals.append(normal)
        bounds.append(_distance(items, left, right) + shift[left] - shift[right])
    x = np.round(_minimise(hessian, linear, normals, bounds))
    return {vertex: float(x[number[block]]) + shift[vertex] for vertex, block in block_of.items()}


def _pulls(links: Sequence[Link], layering: Layering) -> dict[tuple[Vertex, Vertex], tuple[float, float]]:
    """For each segment: by how much the upper vertex should stand right of the lower one, and how strongly."""
    pulls: dict[tuple[Vertex, Vertex], tuple[float, float]] = {}
    for link in links:
        path = layering.paths[link]
        for upper, lower in pairwise(path):
            start = link.source_shift if upper == link.source else 0.0
            end = link.target_shift if lower == link.target else 0.0
            lane_end = isinstance(upper, tuple) != isinstance(lower, tuple)
            pulls[upper, lower] = (end - start, _LIGHT if lane_end or link.side < 0 else _PLAIN)
    return pulls


def _columns(layering: Layering) -> list[tuple[str, str, float]]:
    """Items that should stand in one column, with the shift between them, the most wanted first.

    These are both ends of a long arrow, which is how the residual stream becomes the picture's axis, and an item with its
    only user that is in the next row.
    """
    long, steps = [], []
    for link, path in layering.paths.items():
        if link.side > 0:
            found = (link.source, link.target, link.target_shift - link.source_shift)
            if len(path) > LONG:
                long.append(found)
            elif len(path) == 2:
                steps.append(found)
    uppers = [source for source, _, _ in steps]
    lowers = [target for _, target, _ in steps]
    return [*long, *(step for step in steps if uppers.count(step[0]) == 1 and lowers.count(step[1]) == 1)]


def _neighbours(layering: Layering) -> list[tuple[Vertex, Vertex]]:
    return [pair for row in layering.rows for pair in pairwise(row)]


def _distance(items: Mapping[str, Box], left: Vertex, right: Vertex) -> float:
    gap = _ITEM_GAP if isinstance(left, str) and isinstance(right, str) else _LANE_GAP
    return (_width(items, left) + _width(items, right)) / 2 + gap


def _blocks(
    layering: Layering,
    pulls: Mapping[tuple[Vertex, Vertex], tuple[float, float]],
    columns: Sequence[tuple[str, str, float]],
) -> tuple[dict[Vertex, str], dict[Vertex, float]]:
    """Tie vertices into columns: the block of each, and its place relative to the block."""
    vertices = [vertex for row in layering.rows for vertex in row]
    members: dict[str, list[Vertex]] = {str(vertex): [vertex] for vertex in vertices}
    block_of: dict[Vertex, str] = {vertex: str(vertex) for vertex in vertices}
    shift: dict[Vertex, float] = dict.fromkeys(vertices, 0.0)
    order: nx.DiGraph[str] = nx.DiGraph()
    order.add_nodes_from(members)
    order.add_edges_from((str(left), str(right)) for left, right in _neighbours(layering))

    def lower_of(vertex: Vertex) -> list[Vertex]:
        return [lower for upper, lower in pulls if upper == vertex]

    def upper_of(vertex: Vertex) -> list[Vertex]:
        return [upper for upper, lower in pulls if lower == vertex]

    def tie(upper: Vertex, lower: Vertex, difference: float = 0.0) -> None:
        one, other = block_of[upper], block_of[lower]
        # A path from one to the other in the left-to-right order means that they cannot share a column.
        if one == other or nx.has_path(order, one, other) or nx.has_path(order, other, one):
            return
        move = shift[upper] - difference - shift[lower]
        for vertex in members.pop(other):
            members[one].append(vertex)
            block_of[vertex] = one
            shift[vertex] += move
        order.add_edges_from([(left, one) for left in order.predecessors(other)] + [(one, right) for right in order.successors(other)])
        order.remove_node(other)

    segments = list(pulls)
    for upper, lower in segments:
        if isinstance(upper, tuple) and isinstance(lower, tuple):
            tie(upper, lower)
    for upper_item, lower_item, difference in columns:
        tie(upper_item, lower_item, difference)
    for upper, lower in segments:
        if isinstance(upper, str) != isinstance(lower, str) and len(lower_of(upper)) == 1 and len(upper_of(lower)) == 1:
            tie(upper, lower, pulls[upper, lower][0])
    return block_of, shift


def _minimise(hessian: _Vector, linear: _Vector, normals: Sequence[_Vector], bounds: list[float]) -> _Vector:
    """The x with the least ½ xᵀ·hessian·x - linear·x such that normal · x >= bound for all (Hildreth 1957: dual coordinate ascent)."""
    inverse = np.linalg.inv(hessian)
    x: _Vector = inverse @ linear
    steps = [inverse @ normal for normal in normals]
    lengths = [float(normal @ step) for normal, step in zip(normals, steps, strict=True)]
    multipliers = [0.0] * len(normals)
    for _ in range(_SWEEPS):
        moved = 0.0
        for index, (normal, step, bound) in enumerate(zip(normals, steps, bounds, strict=True)):
            change = max(-multipliers[index], (bound - float(normal @ x)) / lengths[index])
            if change:
                multipliers[index] += change
                x = x + change * step
                moved = max(moved, abs(change) * lengths[index])
        if moved < 0.05:
            break
    return x
