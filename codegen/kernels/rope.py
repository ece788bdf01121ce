"""The angles of RoPE: the same expression on every target."""

from __future__ import annotations

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.tir import Expr


def rope_angle(request: KernelRequest, position: Expr, i: Expr) -> Expr:
    """The angle, in float64, of frequency ``i`` (int64) at ``position`` (int32), before it is divided by a factor."""
    dims, base, scale = request.attr_int("dims"), request.attr_float("base"), request.attr_float("scale")
    start, end = request.attr_float("ramp_start"), request.attr_float("ramp_end")

    def wide(value: float) -> Expr:
        return T.float64(value)

    number = T.Cast("float64", i)
    stretch = wide(scale)
    if end > 0:
        scaled = T.max(T.min((number - wide(start)) * wide(1.0 / (end - start)), wide(1.0)), wide(0.0))
        stretch = scaled * wide(scale) + (wide(1.0) - scaled)
    return T.Cast("float64", position) * (T.pow(wide(base), number * wide(-2.0 / dims)) * stretch)
