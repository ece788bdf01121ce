"""The angles of RoPE: the same expression on every target."""

from __future__ import annotations

from collections.abc import Mapping

from tvm.tirx.script import builder as T

from aprgraph.codegen.tir import Expr


def rope_angle(dims: int, numbers: Mapping[str, Expr], position: Expr, i: Expr) -> Expr:
    """The angle of frequency ``i`` (int64) at ``position`` (int32), before it is divided by a factor; all in float64.

    ``numbers`` holds the attributes of the op in float64.
    """
    one, number = T.float64(1.0), T.Cast("float64", i)
    start, end = numbers["ramp_start"], numbers["ramp_end"]
    # Where every pair is scaled, from -1 to 0, this is 1 to the last bit.
    scaled = T.max(T.min((number - start) * (one / (end - start)), one), T.float64(0.0))
    stretch = scaled * numbers["scale"] + (one - scaled)
    return T.Cast("float64", position) * (T.pow(numbers["base"], number * T.float64(-2.0 / dims)) * stretch)
