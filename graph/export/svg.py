"""SVG, drawn without Graphviz: for README files, reports and browsers, light and dark."""

from __future__ import annotations

from collections.abc import Iterator

from aprgraph.graph.export.describe import details, headline, summary
from aprgraph.graph.export.escape import xml
from aprgraph.graph.export.routes import Route, number, routes
from aprgraph.graph.export.scene import TITLE_BAR, TITLE_CHARACTER, Cluster, Scene, make_scene
from aprgraph.graph.export.svg_style import class_name, kind_class, style_sheet
from aprgraph.graph.export.view import ELIDED, NodeView, View
from aprgraph.graph.stages import STAGE_BY_NAME

_MARGIN = 24.0
_STRIP = 5.0
_INDENT = 16.0
_CHARACTER = 6.75  # of an 11 px monospace font, the widest of the style sheet's
_STAGE_CHARACTER = 7.95  # of a 13 px one
_LINE = 15.0
_BADGE = 54.0  # the mark of a suspect


def export_svg(view: View) -> str:
    """The view as an SVG document."""
    sizes = _sizes(view)
    scene = make_scene(view, sizes)
    return "\n".join([*_Painter(view, sizes, scene).document(), ""])


def _detail_lines(node: NodeView) -> list[tuple[str, str]]:
    """(emphasised, plain) lines under a box's name."""
    weights = [(weight.format, f"{weight.short_name} [{', '.join(map(str, weight.dims))}]") for weight in node.weights]
    return [("", headline(node)), *weights]


def _divergence_lines(node: NodeView) -> list[str]:
    if node.divergence is None:
        return []
    return [node.divergence.label, *(node.divergence.note.split("; ") if node.divergence.note else [])]


def _sizes(view: View) -> dict[str, tuple[float, float]]:
    """All boxes have one width, that of the widest text; heights follow the number of lines."""
    width = 150.0
    heights: dict[str, float] = {}
    for node in view.nodes:
        rows = [" ".join(filter(None, pair)) for pair in _detail_lines(node)] + _divergence_lines(node)
        name = len(node.label) * _STAGE_CHARACTER + (40 if node.tapped else 0) + (_BADGE + 8 if node.suspect else 0)
        width = max(width, name + _INDENT + 12, *(len(row) * _CHARACTER + _INDENT + 12 for row in rows))
        heights[node.id] = 27 + len(rows) * _LINE + 4
    return {name: (round(width), height) for name, height in heights.items()}


class _Painter:
    def __init__(self, view: View, sizes: dict[str, tuple[float, float]], scene: Scene) -> None:
        self.view, self.sizes, self.scene = view, sizes, scene
        outside = scene.outside
        least = max(len(view.graph.name) * 10.6, len(view.subtitle) * 6.6, 420 if view.legend else 0)
        self.width = max(outside.right - outside.left, least) + 2 * _MARGIN
        self.legend = list(self.legend_lines())
        self.legend_height = 26.0 * len({y for _, y, _ in self.legend_places()})
        top = 78 + (self.legend_height + 8 if view.legend else 0)
        self.origin = ((self.width - outside.left - outside.right) / 2, top)
        self.height = top + outside.height + _MARGIN + (12 if any(len(group.layers) > 1 for group in view.groups) else 0)

    def document(self) -> Iterator[str]:
        width, height = number(self.width), number(self.height)
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            'role="img" aria-labelledby="graph-title graph-description">'
        )
        yield f'<title id="graph-title">{xml(self.view.graph.name)}</title>'
        yield f'<desc id="graph-description">{xml(summary(self.view))}</desc>'
        yield f"<style>{style_sheet()}</style>"
        yield f'<rect class="page" width="{width}" height="{height}" rx="12"/>'
        yield f'<text class="sans heading name" x="{number(_MARGIN)}" y="38">{xml(self.view.graph.name)}</text>'
        yield f'<text class="sans subtitle detail" x="{number(_MARGIN)}" y="58">{xml(self.view.subtitle)}</text>'
        yield from self.legend
        x, y = self.origin
        corners = {}
        for name, cluster in self.scene.clusters.items():
            centre_x, centre_y = self.scene.outside.centre(name)
            corners[name] = (x + centre_x - cluster.width / 2, y + centre_y - cluster.height / 2)
            yield from self.frame(cluster, *corners[name])
        drawn = routes(self.scene.outside, self.origin, set(self.scene.clusters))
        for name, cluster in self.scene.clusters.items():
            ports = {item for item, box in cluster.inside.items.items() if box.pin is not None}
            for source, route in routes(cluster.inside, self.inner_origin(cluster, *corners[name]), ports).items():
                whole = drawn.setdefault(source, Route())
                whole.lines += route.lines
                whole.heads += route.heads
        yield from self.arrows(drawn)
        boxes = {node.id: node for node in self.view.nodes}
        for node in self.view.nodes:
            if node.id in self.scene.outside.row_of:
                yield from self.box(node, *self.scene.outside.centre(node.id), self.origin)
        for name, cluster in self.scene.clusters.items():
            yield f'<g id="{xml("cluster-" + name)}">'
            for item in cluster.group.nodes:
                yield from self.box(boxes[item], *cluster.inside.centre(item), self.inner_origin(cluster, *corners[name]))
            yield "</g>"
        yield "</svg>"

    def inner_origin(self, cluster: Cluster, left: float, top: float) -> tuple[float, float]:
        has_entry = any(box.pin == "first" for box in cluster.inside.items.values())
        return left - cluster.origin, top + (0 if has_entry else TITLE_BAR)

    def frame(self, cluster: Cluster, x: float, y: float) -> Iterator[str]:
        size = f'width="{number(cluster.width)}" height="{number(cluster.height)}" rx="12"'
        if len(cluster.group.layers) > 1:  # cards behind the first stand for the other layers
            for step in (10, 5):
                yield f'<rect class="behind" x="{number(x + step)}" y="{number(y + step)}" {size}/>'
        yield f'<rect class="cluster" x="{number(x)}" y="{number(y)}" {size}/>'
        title = cluster.group.title
        start = x + cluster.title_x(len(title) * TITLE_CHARACTER)
        yield f'<text class="sans title name" x="{number(start)}" y="{number(y + 21)}">{xml(title)}</text>'

    def arrows(self, drawn: dict[str, Route]) -> Iterator[str]:
        targets: dict[str, list[str]] = {}
        for edge in self.view.edges:
            if not edge.repeat:
                targets.setdefault(edge.source, []).append(edge.target)
        for source, route in drawn.items():
            yield f'<g data-source="{xml(source)}" data-targets="{xml(" ".join(dict.fromkeys(targets.get(source, []))))}">'
            yield f'<path class="line" d="{"".join(route.lines)}"/>'
            if route.heads:
                yield f'<path class="head" d="{"".join(route.heads)}"/>'
            yield "</g>"

    def box(self, node: NodeView, centre_x: float, centre_y: float, origin: tuple[float, float]) -> Iterator[str]:
        width, height = self.sizes[node.id]
        x, y = origin[0] + centre_x - width / 2, origin[1] + centre_y - height / 2
        kind = STAGE_BY_NAME[node.stage].kind if node.stage in STAGE_BY_NAME else None
        look, strip, border = "box" if node.stage else "plain", None if kind is None else kind_class(kind), 1.0
        if node.op == ELIDED:
            look = "elided"
        elif node.divergence is not None:
            look = class_name(node.divergence.cls)
            strip, border = f"strip-{look}", 2.4 if node.divergence.cls.stands_apart and strip and node.divergence.nmse is not None else 1.3
        yield f'<g class="node" id="{xml("node-" + node.id)}"><title>{xml(details(node))}</title>'
        place = f'x="{number(x)}" y="{number(y)}" height="{number(height)}"'
        if node.suspect or (node.divergence is not None and node.divergence.is_fault):
            halo = f'x="{number(x - 4)}" y="{number(y - 4)}" width="{number(width + 8)}" height="{number(height + 8)}" rx="10"'
            yield f'<rect class="{"halo" if node.suspect else f"glow strip-{look}"}" {halo}/>'
        yield f'<rect class="{look}" {place} width="{number(width)}" rx="7" stroke-width="{border}"/>'
        if strip is not None:
            left, top, low, reach = number(x), number(y + 7), number(y + height - 7), number(x + _STRIP)
            yield (
                f'<path class="{strip}" d="M{reach} {number(y)}H{number(x + 7)}A7 7 0 0 0 {left} {top}V{low}'
                f'A7 7 0 0 0 {number(x + 7)} {number(y + height)}H{reach}Z"/>'
            )
        text_x = number(x + _INDENT)
        yield f'<text class="{"name stage" if node.stage else "name"}" x="{text_x}" y="{number(y + 20)}">{xml(node.label)}</text>'
        line = y + 36
        for emphasised, plain in _detail_lines(node):
            strong = f'<tspan class="format">{xml(emphasised)}</tspan> ' if emphasised else ""
            yield f'<text class="detail" x="{text_x}" y="{number(line)}">{strong}{xml(plain)}</text>'
            line += _LINE
        for index, text in enumerate(_divergence_lines(node)):
            yield f'<text class="{"detail" if index else "name class"}" x="{text_x}" y="{number(line)}">{xml(text)}</text>'
            line += _LINE
        if node.tapped:
            yield f'<rect class="tap" x="{number(x + width - 38)}" y="{number(y + 9)}" width="28" height="14" rx="7"/>'
            yield f'<text class="tap-text" x="{number(x + width - 24)}" y="{number(y + 19)}" text-anchor="middle">tap</text>'
        if node.suspect:
            start = x + width - 10 - _BADGE - (36 if node.tapped else 0)
            yield f'<rect class="badge" x="{number(start)}" y="{number(y + 8)}" width="{number(_BADGE)}" height="16" rx="8"/>'
            yield f'<text class="badge-text" x="{number(start + _BADGE / 2)}" y="{number(y + 19.5)}" text-anchor="middle">suspect</text>'
        yield "</g>"

    def legend_places(self) -> list[tuple[float, float, str]]:
        """(x, y, text) of each entry, wrapped to the width."""
        places: list[tuple[float, float, str]] = []
        x, y = _MARGIN, 84.0
        for cls, count in self.view.legend:
            text = f"{cls.name} {count}: {cls.summary}" if cls.summary else f"{cls.name} {count}"
            reach = 24 + len(text) * 6.1 + 22
            if x > _MARGIN and x + reach > self.width - _MARGIN:
                x, y = _MARGIN, y + 26
            places.append((x, y, text))
            x += reach
        return places

    def legend_lines(self) -> Iterator[str]:
        if not self.view.legend:
            return
        yield '<g id="legend">'
        for (cls, _), (x, y, text) in zip(self.view.legend, self.legend_places(), strict=True):
            look = class_name(cls)
            yield f'<rect class="{look}" x="{number(x)}" y="{number(y - 11)}" width="16" height="14" rx="3" stroke-width="1.3"/>'
            yield f'<rect class="strip-{look}" x="{number(x)}" y="{number(y - 11)}" width="5" height="14" rx="2"/>'
            yield f'<text class="sans detail" x="{number(x + 24)}" y="{number(y)}">{xml(text)}</text>'
        yield "</g>"
