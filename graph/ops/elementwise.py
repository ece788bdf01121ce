"""Ops that work on each element alone, and on each row by one factor: a formula each."""

from __future__ import annotations

import math
from typing import Any

from aprgraph.graph.ops.arithmetic import Arithmetic
from aprgraph.graph.ops.formula import declare


def _gelu(m: Arithmetic, x: Any) -> Any:
    # (1 + tanh u) / 2 is the sigmoid of 2u, which loses no digits where tanh is close to -1.
    inner = x * m.fma(x * x, 0.044715, 1.0)
    return x / (1.0 + m.exp(inner * (-2.0 * math.sqrt(2.0 / math.pi))))


ADD = declare("add", lambda _, a, b: a + b, "a + b, of one shape.")
MUL = declare("mul", lambda _, a, b: a * b, "a · b, of one shape.")
SILU = declare("silu", lambda m, x: x / (1.0 + m.exp(-x)), "x / (1 + exp(-x)) (Elfwing et al. 2017, arXiv:1702.03118).")
GELU = declare(
    "gelu",
    _gelu,
    "x/2 · (1 + tanh(sqrt(2/π) · (x + 0.044715 x³))), the approximation with tanh (Hendrycks and Gimpel 2016, arXiv:1606.08415).",
)
SIGMOID = declare("sigmoid", lambda m, x: 1.0 / (1.0 + m.exp(-x)), "1 / (1 + exp(-x)).")
SCALE_ROWS = declare(
    "scale_rows",
    lambda _, x, factors: x * factors,
    "Each row times its factor: x [n, C], factors [n, 1] -> [n, C].",
    per_row=("factors",),
)
