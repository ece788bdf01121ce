"""The lines of an SVG picture: from a layout to path data and arrow heads.

Lines run straight through rows and curve only in the spaces between them, so they cross no box. A lane that ends beside
its box turns into the box's side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from aprgraph.graph.export.layering import Vertex
from aprgraph.graph.export.placement import Placed

_CORNER = 9.0
_HEAD = 6.5


@dataclass
class Route:
    """The lines of one source: path data, and the arrow heads as path data too."""

    lines: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)


def routes(placed: Placed, offset: tuple[float, float], ports: set[str]) -> dict[str, Route]:
    """The lines of ``placed`` by their trunk, moved by ``offset``. ``ports`` are items without a box, which get no arrow head."""
    return _Router(placed, offset, ports).run()


def number(value: float) -> str:
    """Coordinates with one decimal at most."""
    return f"{value:.1f}".removesuffix(".0")


class _Router:
    def __init__(self, placed: Placed, offset: tuple[float, float], ports: set[str]) -> None:
        self.placed, self.offset, self.ports = placed, offset, ports
        self.result: dict[str, Route] = {}
        self.arrivals = self.spread()

    def at(self, x: float, y: float) -> str:
        return f"{number(x + self.offset[0])} {number(y + self.offset[1])}"

    def segments(self) -> list[tuple[str, Vertex, Vertex, float, float]]:
        """(trunk, upper, lower, x at the upper, x at the lower), each once."""
        found: dict[tuple[str, Vertex, Vertex, float, float], None] = {}
        for link, path in self.placed.layering.paths.items():
            for upper, lower in pairwise(path):
                x0 = self.placed.x[upper] + (link.source_shift if upper == link.source else 0)
                x1 = self.placed.x[lower] + (link.target_shift if lower == link.target else 0)
                # Two lines between the same items (two ports of a cluster) are two segments.
                found[link.trunk, upper, lower, x0, x1] = None
        return list(found)

    def spread(self) -> dict[tuple[Vertex, str], float]:
        """Where lines end on the top of a box that has several: side by side, the straight one in the middle."""
        ends: dict[str, list[tuple[float, Vertex]]] = {}
        for _, upper, lower, x0, x1 in self.segments():
            if isinstance(lower, str) and lower not in self.ports and self.side(upper, lower) is None and x1 == self.placed.x[lower]:
                ends.setdefault(lower, []).append((x0, upper))
        result: dict[tuple[Vertex, str], float] = {}
        for lower, uppers in ends.items():
            uppers.sort(key=lambda end: end[0])
            straight = [index for index, (x0, _) in enumerate(uppers) if abs(x0 - self.placed.x[lower]) < 1]
            middle = straight[0] if straight else (len(uppers) - 1) / 2
            step = min(30.0, self.placed.items[lower].width * 0.8 / len(uppers))
            for index, (_, upper) in enumerate(uppers):
                result[upper, lower] = (index - middle) * step
        return result

    def side(self, upper: Vertex, lower: Vertex) -> float | None:
        """The x of the side of the box ``lower`` that a lane can turn into, or None if it must come from above."""
        if isinstance(upper, str) or not isinstance(lower, str) or lower in self.ports or lower not in self.placed.items:
            return None
        placed, x = self.placed, self.placed.x
        half = placed.items[lower].width / 2
        lane = x[upper]
        edge = x[lower] + half if lane > x[lower] else x[lower] - half
        if abs(lane - x[lower]) < half + _CORNER + _HEAD:
            return None
        low, high = min(lane, edge) - 4, max(lane, edge) + 4
        for other in placed.layering.rows[placed.row_of[lower]]:
            reach = placed.items[other].width / 2 if isinstance(other, str) else 0.0
            if other != lower and x[other] + reach > low and x[other] - reach < high and (isinstance(other, str) or other[0] != upper[0]):
                return None
        return edge

    def run(self) -> dict[str, Route]:
        placed = self.placed
        passed: set[Vertex] = set()
        for trunk, upper, lower, x0, x1 in self.segments():
            route = self.result.setdefault(trunk, Route())
            row0, row1 = placed.row_of[upper], placed.row_of[lower]
            if isinstance(upper, tuple):
                y0 = placed.bottom[row0]
                if upper not in passed and placed.bottom[row0] > placed.top[row0]:
                    route.lines.append(f"M{self.at(x0, placed.top[row0])}L{self.at(x0, placed.bottom[row0])}")
                passed.add(upper)
            elif placed.items[upper].pin == "first":
                y0 = placed.top[row0]
            else:
                y0 = placed.centre(upper)[1] + placed.items[upper].height / 2
            edge = self.side(upper, lower)
            if edge is not None and isinstance(lower, str):
                self.turn(route, x0, y0, edge, placed.centre(lower)[1])
                continue
            if isinstance(lower, str) and lower not in self.ports:
                x1 += self.arrivals.get((upper, lower), 0.0)
                y1 = placed.centre(lower)[1] - placed.items[lower].height / 2
                route.heads.append(self.head(x1, y1, "down"))
                y1 -= _HEAD - 1
            elif isinstance(lower, str):
                y1 = placed.centre(lower)[1] - placed.items[lower].height / 2
            else:
                y1 = placed.top[row1]
            self.curve(route, (x0, y0), (x1, y1), placed.bottom[row0], placed.top[row1] - (_HEAD - 1))
        return self.result

    def curve(self, route: Route, start: tuple[float, float], end: tuple[float, float], above: float, below: float) -> None:
        """Down to ``above``, an S to ``below``, and down to the end."""
        if abs(start[0] - end[0]) < 0.5:
            route.lines.append(f"M{self.at(*start)}L{self.at(*end)}")
            return
        middle = (above + below) / 2
        path = f"M{self.at(*start)}"
        if start[1] < above:
            path += f"L{self.at(start[0], above)}"
        path += f"C{self.at(start[0], middle)} {self.at(end[0], middle)} {self.at(end[0], below)}"
        route.lines.append(path + f"L{self.at(*end)}")

    def turn(self, route: Route, x: float, y: float, edge: float, centre: float) -> None:
        """Down the lane, round a corner, and into the side of a box."""
        sign = 1 if edge > x else -1
        route.heads.append(self.head(edge, centre, "right" if sign > 0 else "left"))
        route.lines.append(
            f"M{self.at(x, y)}L{self.at(x, centre - _CORNER)}Q{self.at(x, centre)} {self.at(x + sign * _CORNER, centre)}"
            f"L{self.at(edge - sign * (_HEAD - 1), centre)}"
        )

    def head(self, x: float, y: float, way: str) -> str:
        """A triangle whose tip is at (x, y)."""
        if way == "down":
            corners = [(x - 3.6, y - _HEAD), (x + 3.6, y - _HEAD)]
        else:
            back = x - _HEAD if way == "right" else x + _HEAD
            corners = [(back, y - 3.6), (back, y + 3.6)]
        return f"M{self.at(x, y)}L{self.at(*corners[0])}L{self.at(*corners[1])}Z"
