"""What the elements of elementwise ops are computed as: the same expressions on every target."""

from __future__ import annotations

import math
from collections.abc import Callable

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
