"""insert-taps: put a tap on every stage that the plan selects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from aprgraph.graph.arguments import LAYERS, TAPS
from aprgraph.graph.errors import PlanError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import is_tap
from aprgraph.graph.tap_plan import Plan, listing, range_text


@dataclass(frozen=True)
class InsertTaps:
    """A tap reads a stage's value and nothing reads a tap, so no other node changes.

    The taps become the only outputs of the graph, so that `prune` can remove what they do not need. With
    ``keep_outputs``, the earlier outputs stay too, for a run that goes on from its logits. An empty plan is a no-op.
    """

    plan: Plan
    keep_outputs: bool = False
    name: ClassVar[str] = "insert-taps"

    def __call__(self, graph: Graph) -> Graph:
        """Raises PlanError if the plan names a stage, or only layers, that the model does not have."""
        if self.plan.is_empty:
            return graph
        staged = graph.staged()
        plan = self.plan.within({node.stage for node in staged if node.stage is not None}, layer_count(staged))
        _check(plan, staged)
        result = Graph(graph.name, graph.attrs)
        taps = []
        for node in graph:
            result.add(node, graph.operand_names(node.name))
            if not is_tap(node) and node.stage is not None and plan.selects(node.stage, node.layer):
                tap = Node(f"tap.{node.name}", "tap", node.type, {}, node.stage, node.layer)
                taps.append(result.add(tap, [node.name]).name)
        result.outputs = (*taps, *graph.outputs) if self.keep_outputs else tuple(taps)
        return result


def stages_in(graph: Graph) -> frozenset[str]:
    """The stages that a graph has, taps or not."""
    return frozenset(node.stage for node in graph.staged() if node.stage is not None)


def layer_count(staged: Iterable[Node]) -> int:
    """How many layers there are, by the stages of a graph."""
    return 1 + max((node.layer for node in staged if node.layer is not None), default=-1)


def _check(plan: Plan, staged: list[Node]) -> None:
    stages, span = ",".join(plan.stages), range_text(plan.layers)
    there = {node.stage for node in staged if node.stage is not None}
    layers = layer_count(staged)
    if not plan.everything:
        missing = [stage for stage in plan.stages if stage not in there]
        if missing:
            raise PlanError(TAPS, f": this model has no stage {', '.join(missing)}; {listing(missing, there)}")
    if plan.layers.stop > layers and plan.selects_layers:
        raise PlanError(
            LAYERS.given(span, repr(span)), f": the model has {layers} layers, expected END of at most {layers} (END is exclusive)"
        )
    if not any(node.stage and plan.selects(node.stage, node.layer) for node in staged):
        raise PlanError(
            TAPS.given(stages, repr(stages)),
            " ",
            LAYERS.given(span, repr(span)),
            ": nothing selected; the embedding belongs to layer 0, so add layer 0 to ",
            LAYERS,
        )
