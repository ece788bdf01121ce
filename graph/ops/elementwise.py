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


def _clamped_swiglu(m: Arithmetic, gate: Any, up: Any, *, limit: float, alpha: float) -> Any:
    gate, up = m.minimum(gate, limit), m.maximum(m.minimum(up, limit), -limit)
    return gate / (1.0 + m.exp(gate * -alpha)) * (up + 1.0)


def _relu_squared(m: Arithmetic, x: Any) -> Any:
    positive = m.maximum(x, 0.0)
    return positive * positive


def _xielu(m: Arithmetic, x: Any, *, alpha_p: float, alpha_n: float, beta: float, eps: float) -> Any:
    # e^y - 1 is 2t / (1 - t) with t = tanh(y / 2), which loses no digits where y is close to 0.
    t = m.tanh(m.minimum(x, eps) * 0.5)
    below = (2.0 * t / (1.0 - t) - x) * alpha_n + x * beta
    return m.where(x > 0.0, (x * alpha_p + beta) * x, below)


ADD = declare("add", lambda _, a, b: a + b, "a + b, of one shape.")
MUL = declare("mul", lambda _, a, b: a * b, "a · b, of one shape.")
SILU = declare("silu", lambda m, x: x / (1.0 + m.exp(-x)), "x / (1 + exp(-x)) (Elfwing et al. 2017, arXiv:1702.03118).")
GELU = declare(
    "gelu",
    _gelu,
    "x/2 · (1 + tanh(sqrt(2/π) · (x + 0.044715 x³))), the approximation with tanh (Hendrycks and Gimpel 2016, arXiv:1606.08415).",
)
GELU_ERF = declare(
    "gelu_erf",
    lambda m, x: m.erfc(x * -math.sqrt(0.5)) * (x * 0.5),
    "x/2 · (1 + erf(x / √2)), exact (Hendrycks and Gimpel 2016, arXiv:1606.08415).",
)
SIGMOID = declare("sigmoid", lambda m, x: 1.0 / (1.0 + m.exp(-x)), "1 / (1 + exp(-x)).")
TANH = declare("tanh", lambda m, x: m.tanh(x), "(exp(x) - exp(-x)) / (exp(x) + exp(-x)).")
SOFTPLUS = declare("softplus", lambda m, x: m.softplus(x), "log(1 + exp(x)) (Dugas et al. 2001).")
SCALE_ROWS = declare(
    "scale_rows",
    lambda _, x, factors: x * factors,
    "Each row times its factor: x [n, C], factors [n, 1] -> [n, C].",
    per_row=("factors",),
)
SCALE = declare("scale", lambda _, x, *, factor: x * factor, "x · factor.")
SOFT_CAP = declare(
    "soft_cap", lambda m, x, *, cap: m.tanh(x / cap) * cap, "cap · tanh(x / cap): x where it is small, ±cap at most (arXiv:2408.00118)."
)
CLAMP = declare("clamp", lambda m, x, *, bound: m.maximum(m.minimum(x, bound), -bound), "max(-bound, min(bound, x)).")
CLAMPED_SWIGLU = declare(
    "clamped_swiglu",
    _clamped_swiglu,
    "g · sigmoid(alpha · g) · (u + 1), of g = min(gate, limit) and up clamped to ±limit, u (gpt-oss, arXiv:2508.10925).",
)
RELU_SQUARED = declare("relu_squared", _relu_squared, "max(x, 0)² (So et al. 2021, arXiv:2109.08668).")
XIELU = declare(
    "xielu",
    _xielu,
    "alpha_p x² + beta x above 0, alpha_n (exp(min(x, eps)) - 1 - x) + beta x below (Huang and Schlag 2024, arXiv:2411.13010).",
)
