"""From a graph to what a picture shows: boxes, arrows, and clusters of layers.

Weights become a property of the box that uses them, taps a mark on the box that they read, and a run of equal layers is
folded into one cluster. All exporters draw the same view.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from aprgraph.graph.arguments import LAYERS
from aprgraph.graph.errors import PlanError
from aprgraph.graph.export.divergence import Colouring, Divergence, DivergenceClass, divergence_of, named, severity, worst
from aprgraph.graph.export.fold import drawn_layer, equal_runs, local_name, tensor_pattern
from aprgraph.graph.ir import Attr, Dim, Graph, Node, TensorType
from aprgraph.graph.ops import is_tap, is_weight, taps_of
from aprgraph.graph.tap_plan import closed

#: The ``op`` of a box that stands for layers which were left out.
ELIDED = "elided"


@dataclass(frozen=True)
class WeightView:
    """A weight of a box: its tensor's name in the file (``{layer}`` for the number in a fold), block format, dims."""

    tensor: str
    format: str
    dims: tuple[Dim, ...]
    suspect: bool = False

    @property
    def short_name(self) -> str:
        """``attn_q`` of ``blk.3.attn_q.weight``."""
        parts = self.tensor.removesuffix(".weight").split(".")
        return ".".join(parts[2:]) if parts[0] == "blk" and len(parts) > 2 else ".".join(parts)

    def __str__(self) -> str:
        return f"{self.short_name} {self.format}[{', '.join(map(str, self.dims))}]"


@dataclass(frozen=True)
class NodeView:
    """One box. ``names`` are the graph's nodes that it stands for, ``layers`` theirs (None outside layers). A ``suspect``, or a
    box with a weight that is one, can explain everything that is wrong.
    """

    id: str
    label: str
    op: str
    type: TensorType | None
    attrs: Mapping[str, Attr]
    stage: str | None
    layers: range | None
    names: tuple[str, ...]
    weights: tuple[WeightView, ...] = ()
    tapped: bool = False
    divergence: Divergence | None = None
    suspect: bool = False


@dataclass(frozen=True)
class EdgeView:
    """An arrow; ``operand`` is the operand's index at the target. A ``repeat`` leads from one layer of a fold to its next."""

    source: str
    target: str
    operand: int
    repeat: bool = False


@dataclass(frozen=True)
class GroupView:
    """A cluster: one layer, or a fold of several."""

    id: str
    title: str
    layers: range
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """A drawable graph. ``nodes`` are in execution order. ``shown`` are the layers it was restricted to, None for all.

    ``legend`` has the classes of a coloured view, the least severe first, with the number of (layer, stage) pairs in each, also of layers
    that are not shown; it is empty otherwise. ``facts`` are what is known of the tensors of a stage in a layer, by name.
    """

    graph: Graph
    nodes: tuple[NodeView, ...]
    edges: tuple[EdgeView, ...]
    groups: tuple[GroupView, ...]
    shown: range | None = None
    colouring: Colouring | None = None
    legend: tuple[tuple[DivergenceClass, int], ...] = ()
    facts: Mapping[tuple[int | None, str], Mapping[str, str]] = field(default_factory=dict)

    @property
    def subtitle(self) -> str:
        """``llama, 30 layers``, and what is not shown."""
        architecture, layers = self.graph.attrs.get("architecture"), self.graph.attrs.get("layers")
        parts = [str(architecture)] if architecture is not None else []
        parts += [f"{layers} layer{'' if layers == 1 else 's'}"] if layers is not None else []
        parts += [f"only layer{'' if len(self.shown) == 1 else 's'} {_span(self.shown)} shown"] if self.shown is not None else []
        return ", ".join(parts)


def make_view(
    graph: Graph,
    *,
    layers: range | None = None,
    fold: bool = True,
    colouring: Colouring | None = None,
    suspects: Collection[str] = (),
    sides: tuple[str, str] = ("A", "B"),
) -> View:
    """The view of ``graph``: equal layers folded if ``fold``, or only ``layers``, unfolded, and a box for those before and after.

    ``suspects`` are names of nodes and of the model's tensors that are to be marked, ``sides`` what the legend calls A and B.
    Raises PlanError for layers that the graph does not have.
    """
    return _Viewer(graph, layers, fold, colouring, frozenset(suspects), sides).view()


def _span(layers: range) -> str:
    return str(layers.start) if len(layers) == 1 else f"{layers.start}-{layers.stop - 1}"


class _Viewer:
    def __init__(
        self,
        graph: Graph,
        shown: range | None,
        fold: bool,
        colouring: Colouring | None,
        suspects: frozenset[str],
        sides: tuple[str, str],
    ) -> None:
        self.graph, self.shown, self.colouring, self.suspects, self.sides = graph, shown, colouring, suspects, sides
        self.tapped = {name for tap in taps_of(graph) for name in graph.operand_names(tap.name)}
        self.drawn = [node for node in graph if not is_weight(node) and not is_tap(node)]
        self.by_layer: dict[int, list[Node]] = {}
        for node in self.drawn:
            layer = drawn_layer(node)
            if layer is not None:
                self.by_layer.setdefault(layer, []).append(node)
        if shown is not None:
            there = {node.layer for node in self.drawn if node.layer is not None}
            self.shown = shown = closed(shown, 1 + max(there, default=-1))
            if not shown or not there.issuperset(shown):
                last = max(there, default=-1)
                raise PlanError(
                    LAYERS.given(f"{shown.start}..{shown.stop}", f"'{shown.start}..{shown.stop}'"),
                    f": graph @{graph.name} has layers 0..{last + 1} (END is exclusive); choose among them",
                )
        if fold and shown is None:
            runs = equal_runs(graph, self.by_layer, self.tapped, colouring, suspects)
        else:
            runs = [range(layer, layer + 1) for layer in sorted(self.by_layer) if shown is None or layer in shown]
        self.runs = runs

    def view(self) -> View:
        members: dict[str, list[Node]] = {}
        groups: list[GroupView] = []
        for run in self.runs:
            ids = []
            for index, first in enumerate(self.by_layer[run.start]):
                box = first.name if len(run) == 1 else f"layers{_span(run)}.{local_name(first)}"
                members[box] = [self.by_layer[layer][index] for layer in run]
                ids.append(box)
            title = f"layer {run.start}" if len(run) == 1 else f"layers {_span(run)} (x{len(run)})"
            groups.append(GroupView(f"layers{_span(run)}" if len(run) > 1 else f"layer{run.start}", title, run, tuple(ids)))
        inside = {node.name for nodes in members.values() for node in nodes}
        for node in self.drawn:
            if node.name not in inside:
                members.setdefault(self.outside_box(node), []).append(node)
        box_of = {node.name: box for box, nodes in members.items() for node in nodes}
        order = list(dict.fromkeys(box_of[node.name] for node in self.drawn))
        boxes = tuple(self.box(box, members[box]) for box in order)
        return View(self.graph, boxes, self.edges(box_of), tuple(groups), self.shown, self.colouring, self.legend())

    def outside_box(self, node: Node) -> str:
        """The box of a node outside clusters: its own, or that of the layers left out."""
        if self.shown is None or node.layer is None or node.layer in self.shown:
            return node.name
        return "layers-before" if node.layer < self.shown.start else "layers-after"

    def box(self, box: str, nodes: list[Node]) -> NodeView:
        first = nodes[0]
        if box in ("layers-before", "layers-after"):
            numbers = sorted({node.layer for node in nodes if node.layer is not None})
            span = range(numbers[0], numbers[-1] + 1)
            label = f"layer{'' if len(span) == 1 else 's'} {_span(span)}"
            return NodeView(box, label, ELIDED, None, {}, None, span, tuple(node.name for node in nodes))
        layers = None if first.layer is None else range(first.layer, first.layer + len(nodes))
        divergence = None
        if self.colouring is not None and first.stage is not None:
            divergence = worst([divergence_of(self.colouring, node.layer, first.stage) for node in nodes])
        weights = tuple(
            WeightView(
                tensor_pattern(tensor, first.layer) if len(nodes) > 1 else tensor,
                operand.type.dtype,
                operand.type.dims,
                not self.suspects.isdisjoint((operand.name, tensor)),
            )
            for operand in self.graph.operands(first.name)
            if is_weight(operand) and (tensor := str(operand.attrs.get("tensor", operand.name)))
        )
        names = tuple(node.name for node in nodes)
        suspect = not self.suspects.isdisjoint(names) or any(weight.suspect for weight in weights)
        return NodeView(
            box, local_name(first), first.op, first.type, first.attrs, first.stage, layers, names, weights,
            first.name in self.tapped, divergence, suspect,
        )  # fmt: skip

    def edges(self, box_of: Mapping[str, str]) -> tuple[EdgeView, ...]:
        found: dict[EdgeView, None] = {}
        for node in self.drawn:
            target = box_of[node.name]
            for index, source_name in enumerate(self.graph.operand_names(node.name)):
                source = box_of.get(source_name)
                left_out = target in ("layers-before", "layers-after")
                if source is None or (left_out and source == target):
                    continue
                from_layer, to_layer = drawn_layer(self.graph[source_name]), drawn_layer(node)
                repeat = (
                    None not in (from_layer, to_layer)
                    and from_layer != to_layer
                    and any(from_layer in run and to_layer in run for run in self.runs)
                )
                found[EdgeView(source, target, 0 if left_out else index, repeat)] = None
        return tuple(found)

    def legend(self) -> tuple[tuple[DivergenceClass, int], ...]:
        if self.colouring is None:
            return ()
        counts: dict[DivergenceClass, int] = {}
        for node in self.drawn:
            if node.stage is not None:
                cls = divergence_of(self.colouring, node.layer, node.stage).cls
                counts[cls] = counts.get(cls, 0) + 1
        return tuple((named(cls, self.sides), count) for cls, count in sorted(counts.items(), key=lambda item: severity(item[0])))
