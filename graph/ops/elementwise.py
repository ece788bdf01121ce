"""Ops that work on each element alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, require


def _same(types: Types, _attrs: Attrs) -> TensorType:
    require(all(t.dtype == "f32" for t in types), f"operands are {', '.join(map(str, types))}, expected f32")
    require(len(set(types)) == 1, f"operands differ: {', '.join(map(str, types))}")
    return types[0]


def _silu_reference(operands: Sequence[Array], _attrs: Attrs) -> Array:
    x = operands[0]
    with np.errstate(over="ignore"):  # exp(-x) = inf for very negative x, and x / inf is the right answer
        return np.asarray(x / (1.0 + np.exp(-x)))


ADD = Op("add", "a + b, of one shape.", ("a", "b"), infer=_same, reference=lambda operands, _attrs: operands[0] + operands[1])
MUL = Op("mul", "a · b, of one shape.", ("a", "b"), infer=_same, reference=lambda operands, _attrs: operands[0] * operands[1])
SILU = Op("silu", "x / (1 + exp(-x)) (Elfwing et al. 2017, arXiv:1702.03118).", ("x",), infer=_same, reference=_silu_reference)
