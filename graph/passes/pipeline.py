"""Every pass between a model's graph and what runs, in order.

1. fix-context       what depends on the number of positions of the whole run
2. all-positions     if the logits of all positions are asked for
3. insert-taps       a tap on every stage that the plan selects
4. prune             what no output needs is dropped
   = the recorded graph: interpreted by the reference target, and written into the trace's manifest
5. fill-caches, prune   for a part of the prompt that is not its last
6. fuse-attention    scores, softmax and mix in one kernel where neither scores nor softmax is tapped
7. fuse-rounding     on a CPU: in an engine's arithmetic, roundings and the products that they are for
8. one-pass          if the run is one pass: no KV caches
   = the executed graph: lowered to the program that runs on a compiled target
9. split-layers      for a run on several machines: the part of one
"""

from __future__ import annotations

from aprgraph.graph.ir import Graph
from aprgraph.graph.passes.all_positions import AllPositions
from aprgraph.graph.passes.base import Pass, run_passes
from aprgraph.graph.passes.fill_caches import FillCaches
from aprgraph.graph.passes.fix_context import FixContext
from aprgraph.graph.passes.fuse_attention import FuseAttention
from aprgraph.graph.passes.fuse_rounding import FuseRounding
from aprgraph.graph.passes.insert_taps import InsertTaps
from aprgraph.graph.passes.one_pass import OnePass
from aprgraph.graph.passes.prune import Prune
from aprgraph.graph.tap_plan import Plan


def recorded_graph(graph: Graph, plan: Plan, positions: str, total: int, *, keep_outputs: bool = False) -> Graph:
    """Phases 1 to 4, for a run of ``total`` positions. Raises PlanError for a plan that the model cannot follow."""
    first: list[Pass] = [FixContext(total)]
    if positions == "all":
        first.append(AllPositions())
    return run_passes(graph, [*first, InsertTaps(plan, keep_outputs), Prune()])


def early_graph(recorded: Graph) -> Graph:
    """Phase 5: the graph of a part of the prompt that is not its last."""
    return run_passes(recorded, [FillCaches(), Prune()])


def executed_graph(recorded: Graph, *, one_pass: bool, target: str = "llvm") -> Graph:
    """Phases 6 to 8; ``one_pass`` says that the run is one."""
    return run_passes(recorded, [FuseAttention(), *_for_target(target), *([OnePass()] if one_pass else [])])


def compiled_graphs(graph: Graph, target: str = "llvm") -> tuple[Graph, ...]:
    """Graphs that together need every kernel that any plan on ``graph`` can need: with everything tapped, and with nothing."""
    fixed = run_passes(graph, [FixContext(0), *_for_target(target)])
    return (fixed, executed_graph(fixed, one_pass=False, target=target))


def _for_target(target: str) -> list[Pass]:
    """What is fused whatever is tapped."""
    return [FuseRounding()] if target == "llvm" else []
