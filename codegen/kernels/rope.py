"""The angles of RoPE: the same expression on every target."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm.tirx.script import builder as T

from aprgraph.codegen.tir import Arithmetic, Expr, f32


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


def chained_step(dims: int, numbers: Mapping[str, Expr]) -> Expr:
    """What the angle of each frequency is multiplied by for the next: base^(-2/dims) in float32."""
    exponent = T.Cast("float64", f32(float(np.float32(-2) / np.float32(dims))))
    return T.Cast("float32", T.pow(T.Cast("float64", T.Cast("float32", numbers["base"])), exponent))


def scaled_chained_angle(arithmetic: Arithmetic, numbers: Mapping[str, Expr], angle: Expr, i: Expr) -> Expr:
    """The chained ``angle`` of frequency ``i`` as YaRN scales it, in float32, rounded after every operation."""
    one, zero = f32(1.0), f32(0.0)
    scale, start, end = (T.Cast("float32", numbers[name]) for name in ("scale", "ramp_start", "ramp_end"))
    scaled = scale * angle
    along = (T.Cast("float32", i) - start) / T.max(f32(0.001), end - start)
    # 0 where every pair is scaled, and then the sum below is ``scaled`` to the last bit.
    unscaled = one - T.min(one, T.max(zero, along))
    return arithmetic.rounded(scaled * (one - unscaled)) + arithmetic.rounded(angle * unscaled)
