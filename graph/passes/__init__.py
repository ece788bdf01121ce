"""The passes, one file each; ``make_pass`` is the table that the command line goes by."""

from __future__ import annotations

from collections.abc import Callable

from aprgraph.graph.errors import GraphError
from aprgraph.graph.passes.all_positions import AllPositions
from aprgraph.graph.passes.base import Pass, run_passes
from aprgraph.graph.passes.fill_caches import FillCaches
from aprgraph.graph.passes.fix_context import FixContext
from aprgraph.graph.passes.fuse_attention import FuseAttention
from aprgraph.graph.passes.insert_taps import InsertTaps
from aprgraph.graph.passes.one_pass import OnePass
from aprgraph.graph.passes.prune import Prune
from aprgraph.graph.plan import Plan

PASSES: dict[str, Callable[[Plan], Pass]] = {
    FixContext.name: lambda _plan: FixContext(0),  # of a short run
    AllPositions.name: lambda _plan: AllPositions(),
    InsertTaps.name: InsertTaps,
    Prune.name: lambda _plan: Prune(),
    FillCaches.name: lambda _plan: FillCaches(),
    FuseAttention.name: lambda _plan: FuseAttention(),
    OnePass.name: lambda _plan: OnePass(),
}


def make_pass(name: str, plan: Plan) -> Pass:
    """The pass ``name`` for ``plan``. Raises GraphError that lists the passes."""
    if name not in PASSES:
        raise GraphError(f"unknown pass {name!r}; expected one of {', '.join(PASSES)}")
    return PASSES[name](plan)


__all__ = [
    "PASSES",
    "AllPositions",
    "FillCaches",
    "FixContext",
    "FuseAttention",
    "InsertTaps",
    "OnePass",
    "Pass",
    "Prune",
    "make_pass",
    "run_passes",
]
