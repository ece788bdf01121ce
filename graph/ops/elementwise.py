"""Ops that work on each element alone, and on each row by one factor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, require
from aprgraph.graph.ops.traits import Traits


def _same(types: Types, _attrs: Attrs) -> TensorType:
    require(all(t.dtype == "f32" for t in types), f"operands are {', '.join(map(str, types))}, expected f32")
    require(len(set(types)) == 1, f"operands differ: {', '.join(map(str, types))}")
    return types[0]


def _silu_reference(operands: Sequence[Array], _attrs: Attrs) -> Array:
    x = operands[0]
    with np.errstate(over="ignore"):  # exp(-x) = inf for very negative x, and x / inf is the right answer
        return np.asarray(x / (1.0 + np.exp(-x)))


def _gelu_reference(operands: Sequence[Array], _attrs: Attrs) -> Array:
    x = operands[0]
    # (1 + tanh u) / 2 is the sigmoid of 2u; 1 + tanh u loses all digits where tanh u is close to -1, in float64 as well.
    with np.errstate(over="ignore"):
        return np.asarray(x / (1.0 + np.exp(-2.0 * np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3))))


def _sigmoid_reference(operands: Sequence[Array], _attrs: Attrs) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-operands[0])))


def _scale_rows(types: Types, _attrs: Attrs) -> TensorType:
    rows, _ = activation(2, types[0], "x")
    require(types[1] == TensorType("f32", (rows, 1)), f"the factors are {types[1]}, but x is {types[0]}: expected one factor a row")
    return types[0]


_ROWWISE = Traits(is_rowwise=True)

ADD = Op(
    "add", "a + b, of one shape.", ("a", "b"), infer=_same, reference=lambda operands, _attrs: operands[0] + operands[1], traits=_ROWWISE
)
MUL = Op(
    "mul", "a · b, of one shape.", ("a", "b"), infer=_same, reference=lambda operands, _attrs: operands[0] * operands[1], traits=_ROWWISE
)
SILU = Op(
    "silu", "x / (1 + exp(-x)) (Elfwing et al. 2017, arXiv:1702.03118).", ("x",), infer=_same, reference=_silu_reference, traits=_ROWWISE
)
GELU = Op(
    "gelu",
    "x/2 · (1 + tanh(sqrt(2/π) · (x + 0.044715 x³))), the approximation with tanh (Hendrycks and Gimpel 2016, arXiv:1606.08415).",
    ("x",),
    infer=_same,
    reference=_gelu_reference,
    traits=_ROWWISE,
)
SIGMOID = Op("sigmoid", "1 / (1 + exp(-x)).", ("x",), infer=_same, reference=_sigmoid_reference, traits=_ROWWISE)
SCALE_ROWS = Op(
    "scale_rows",
    "Each row times its factor: x [n, C], factors [n, 1] -> [n, C].",
    ("x", "factors"),
    infer=_scale_rows,
    reference=lambda operands, _attrs: operands[0] * operands[1],
    traits=_ROWWISE,
)

#: The ops that a family may name as its activation.
ACTIVATIONS = (SILU.name, GELU.name)
