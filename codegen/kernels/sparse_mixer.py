"""Which experts SparseMixer takes to be too far below another, for all targets: in float64, so that all agree on it."""

from __future__ import annotations

from tvm.tirx.script import builder as T

from aprgraph.codegen.tir import Expr


def is_far(score: Expr, best: Expr, tolerance: Expr) -> Expr:
    """Whether ``score`` is further below ``best``, both float32, than ``tolerance`` times the larger of that and its own size."""
    low, high = T.Cast("float64", score), T.Cast("float64", best)
    return high - low > tolerance * T.max(T.max(low, -low), high)
