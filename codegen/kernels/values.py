"""What single elements are computed as: the same expressions on every target."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.tir import Arithmetic, Expr, f32

#: Of the arithmetic and the operands' elements, f32 each.
Value = Callable[..., Expr]


def _gelu(arithmetic: Arithmetic, x: Expr) -> Expr:
    # (1 + tanh u) / 2 is the sigmoid of 2u, which loses no digits where tanh is close to -1.
    inner = x * arithmetic.fma(x * x, f32(0.044715), f32(1.0))
    return x / (f32(1.0) + arithmetic.exp(inner * f32(-2.0 * math.sqrt(2.0 / math.pi))))


ELEMENTWISE: dict[str, Value] = {
    "add": lambda _arithmetic, a, b: a + b,
    "mul": lambda _arithmetic, a, b: a * b,
    "silu": lambda arithmetic, x: x / (f32(1.0) + arithmetic.exp(-x)),
    "gelu": _gelu,
    "sigmoid": lambda arithmetic, x: f32(1.0) / (f32(1.0) + arithmetic.exp(-x)),
}


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
