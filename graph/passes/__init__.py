"""The passes, one file each; ``PASSES`` is the table that the command line goes by."""

from __future__ import annotations

from collections.abc import Mapping

from aprgraph.graph.errors import GraphError, shown
from aprgraph.graph.near_names import did_you_mean_one_of
from aprgraph.graph.passes.all_positions import AllPositions
from aprgraph.graph.passes.apply_arithmetic import ApplyArithmetic
from aprgraph.graph.passes.base import Pass, run_passes
from aprgraph.graph.passes.fill_caches import FillCaches
from aprgraph.graph.passes.fix_context import FixContext
from aprgraph.graph.passes.fuse_attention import FuseAttention
from aprgraph.graph.passes.fuse_rounding import FuseRounding
from aprgraph.graph.passes.insert_taps import InsertTaps
from aprgraph.graph.passes.one_pass import OnePass
from aprgraph.graph.passes.options import StagesOfModel, build_pass, split_passes
from aprgraph.graph.passes.prune import Prune
from aprgraph.graph.passes.replay_recorded import ReplayRecorded
from aprgraph.graph.passes.split_layers import SplitLayers
from aprgraph.graph.tap_plan import Plan

PASSES: dict[str, type[Pass]] = {
    FixContext.name: FixContext,
    AllPositions.name: AllPositions,
    InsertTaps.name: InsertTaps,
    Prune.name: Prune,
    FillCaches.name: FillCaches,
    FuseAttention.name: FuseAttention,
    FuseRounding.name: FuseRounding,
    OnePass.name: OnePass,
    ReplayRecorded.name: ReplayRecorded,
    ApplyArithmetic.name: ApplyArithmetic,
    SplitLayers.name: SplitLayers,
}


def make_pass(name: str, options: Mapping[str, str], plan: Plan | None = None, stages: StagesOfModel | None = None) -> Pass:
    """The pass ``name`` with ``options`` as text; see graph/passes/options.py. Raises GraphError, or PlanError for its taps."""
    if name not in PASSES:
        raise GraphError(f"unknown pass {shown(name)}{did_you_mean_one_of(name, PASSES)}; expected one of {', '.join(PASSES)}")
    return build_pass(PASSES[name], options, plan, stages)


def make_passes(text: str, plan: Plan | None = None, stages: StagesOfModel | None = None) -> list[Pass]:
    """The passes of ``text``, such as ``insert-taps{taps=qkv_matmul layers=0..2},prune``; ``plan`` is for those that name no taps.

    ``stages`` gives those of the model, for a message. Raises GraphError, or PlanError for taps.
    """
    return [make_pass(name, options, plan, stages) for name, options in split_passes(text)]


__all__ = [
    "PASSES",
    "AllPositions",
    "ApplyArithmetic",
    "FillCaches",
    "FixContext",
    "FuseAttention",
    "InsertTaps",
    "OnePass",
    "Pass",
    "Prune",
    "ReplayRecorded",
    "SplitLayers",
    "make_pass",
    "make_passes",
    "run_passes",
    "split_passes",
]
