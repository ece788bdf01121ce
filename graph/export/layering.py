"""Layered drawing, first half: rows and the order within them (Sugiyama, Tagawa and Toda 1981).

Items get rows by their longest path. An arrow that passes rows gets a lane: one bend point in each row that it passes,
shared by all arrows of its trunk. Long lanes are kept at the side, as residual connections are usually drawn.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

#: An item by its name, or the bend point of (trunk, row).
Vertex = str | tuple[str, int]

LONG = 4  # an arrow over so many rows is drawn at the side

#: One step of an arrow between neighbouring rows: upper vertex, lower vertex, and the shifts of its ends.
_Segment = tuple[Vertex, Vertex, float, float]


@dataclass(frozen=True)
class Box:
    """An item to be placed: width and height; ``row`` fixes it to the first or the last row."""

    width: float
    height: float
    pin: str | None = None


@dataclass(frozen=True)
class Link:
    """An arrow between items. Shifts say where it starts and ends, from the centres; links of one ``trunk`` share a lane.

    ``side`` is where its lane goes when it passes rows: -1 always at the left, 1 at the right if it is long. Links of side
    -1 bring what every layer uses, such as the angles of RoPE; they do not shape the picture.
    """

    source: str
    target: str
    trunk: str
    source_shift: float = 0.0
    target_shift: float = 0.0
    side: int = 1


@dataclass
class Layering:
    """Rows of vertices from left to right, and for each link the vertices that it visits."""

    rows: list[list[Vertex]] = field(default_factory=list)
    paths: dict[Link, list[Vertex]] = field(default_factory=dict)


def make_layering(items: Mapping[str, Box], links: Sequence[Link]) -> Layering:
    """Rows and order for ``items`` (in their preferred order from left to right) and acyclic ``links``."""
    row_of = _rows(items, links)
    layering = Layering([[] for _ in range(1 + max(row_of.values(), default=0))])
    for name in items:
        layering.rows[row_of[name]].append(name)
    lanes: dict[tuple[str, int], list[Link]] = {}
    for link in links:
        first, last = row_of[link.source], row_of[link.target]
        bends: list[Vertex] = [(link.trunk, row) for row in range(first + 1, last)]
        layering.paths[link] = [link.source, *bends, link.target]
        for row in range(first + 1, last):
            lanes.setdefault((link.trunk, row), []).append(link)
    sides: dict[Vertex, tuple[int, int]] = {}
    for bend, users in lanes.items():
        layering.rows[bend[1]].append(bend)
        span = max(row_of[link.target] - row_of[link.source] for link in users)
        if any(link.side < 0 for link in users):
            sides[bend] = (-1, -span)
        elif span >= LONG:
            sides[bend] = (1, span)
    _order(layering, sides)
    return layering


def _rows(items: Mapping[str, Box], links: Sequence[Link]) -> dict[str, int]:
    """Longest paths from the top; an item without operands is then lowered to just above its first user."""
    above: dict[str, list[str]] = {name: [] for name in items}
    below: dict[str, list[str]] = {name: [] for name in items}
    for link in links:
        above[link.target].append(link.source)
        below[link.source].append(link.target)
    row_of: dict[str, int] = {}
    least = 1 if any(item.pin == "first" for item in items.values()) else 0
    waiting = {name: len(above[name]) for name in items}
    ready = [name for name in items if not waiting[name]]
    while ready:
        name = ready.pop()
        floor = 0 if items[name].pin == "first" else least
        row_of[name] = max((row_of[operand] + 1 for operand in above[name]), default=floor)
        for user in below[name]:
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    last = 1 + max((row for name, row in row_of.items() if items[name].pin != "last"), default=-1)
    for name, item in items.items():
        if item.pin == "last":
            row_of[name] = last
        elif item.pin is None and not above[name] and below[name]:
            row_of[name] = max(row_of[name], min(row_of[user] for user in below[name]) - 1)
    return row_of


def _order(layering: Layering, sides: Mapping[Vertex, tuple[int, int]]) -> None:
    """Barycentre sweeps over what is not a side lane; the order with the fewest crossings stays."""
    neighbours: dict[Vertex, list[tuple[Vertex, float]]] = {vertex: [] for row in layering.rows for vertex in row}
    segments: list[_Segment] = []
    for link, path in layering.paths.items():
        for upper, lower in pairwise(path):
            start = link.source_shift if upper == link.source else 0.0
            end = link.target_shift if lower == link.target else 0.0
            segments.append((upper, lower, start, end))
            neighbours[upper].append((lower, end))
            neighbours[lower].append((upper, start))

    def arranged(row: Sequence[Vertex]) -> list[Vertex]:
        left = sorted((v for v in row if sides.get(v, (0, 0))[0] < 0), key=lambda v: sides[v][1])
        right = sorted((v for v in row if sides.get(v, (0, 0))[0] > 0), key=lambda v: sides[v][1])
        return [*left, *(v for v in row if v not in sides), *right]

    rows = [arranged(row) for row in layering.rows]
    best, fewest = rows, crossings(rows, segments)
    for sweep in range(8):
        if not fewest:
            break
        place = _places(rows)
        indices = range(1, len(rows)) if sweep % 2 == 0 else range(len(rows) - 2, -1, -1)
        rows = [list(row) for row in rows]
        for index in indices:
            beside = set(rows[index - 1 if sweep % 2 == 0 else index + 1])
            wish: dict[Hashable, float] = {}
            for vertex in rows[index]:
                # Ports of one box count by their order too, though they share its place.
                near = [place[v] + shift * 1e-6 for v, shift in neighbours[vertex] if v in beside]
                wish[vertex] = sum(near) / len(near) if near else place[vertex]
            rows[index] = arranged(sorted(rows[index], key=wish.__getitem__))
            place.update(_places([rows[index]]))
        count = crossings(rows, segments)
        if count < fewest:
            best, fewest = rows, count
    layering.rows[:] = best


def _places(rows: Sequence[Sequence[Vertex]]) -> dict[Vertex, float]:
    """Places between 0 and 1, so that rows of different lengths compare."""
    return {vertex: (index + 0.5) / len(row) for row in rows for index, vertex in enumerate(row)}


def crossings(rows: Sequence[Sequence[Vertex]], segments: Sequence[_Segment]) -> int:
    """How many pairs of segments between neighbouring rows cross."""
    total = 0
    for upper_row, lower_row in pairwise(rows):
        upper = {vertex: index for index, vertex in enumerate(upper_row)}
        lower = {vertex: index for index, vertex in enumerate(lower_row)}
        here = list({((upper[a], x), (lower[b], y)) for a, b, x, y in segments if a in upper and b in lower})
        total += sum((a < c and b > d) or (a > c and b < d) for i, (a, b) in enumerate(here) for c, d in here[:i])
    return total
