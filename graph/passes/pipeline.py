"""Every pass between a model's graph and what runs, in order.

1. all-positions     if the logits of all positions are asked for
2. insert-taps       a tap on every stage that the plan selects
3. prune             what no tap (or, without taps, no output) needs is dropped
   = the recorded graph: interpreted by the reference target, and written into the trace's manifest
4. fuse-attention    scores, softmax and mix in one kernel where neither scores nor softmax is tapped
   = the executed graph: lowered to the program that runs on a compiled target
"""

from __future__ import annotations

from aprgraph.graph.ir import Graph
from aprgraph.graph.passes.all_positions import AllPositions
from aprgraph.graph.passes.base import Pass, run_passes
from aprgraph.graph.passes.fuse_attention import FuseAttention
from aprgraph.graph.passes.insert_taps import InsertTaps
from aprgraph.graph.passes.prune import Prune
from aprgraph.graph.plan import Plan


def recorded_graph(graph: Graph, plan: Plan, positions: str) -> Graph:
    """Phases 1 to 3. Raises PlanError for a plan that the model cannot follow."""
    first: list[Pass] = [AllPositions()] if positions == "all" else []
    return run_passes(graph, [*first, InsertTaps(plan), Prune()])


def executed_graph(recorded: Graph) -> Graph:
    """Phase 4."""
    return run_passes(recorded, [FuseAttention()])


def compiled_graphs(graph: Graph) -> tuple[Graph, ...]:
    """Graphs that together need every kernel that any plan on ``graph`` can need: with everything tapped, and with nothing."""
    return (graph, executed_graph(graph))
