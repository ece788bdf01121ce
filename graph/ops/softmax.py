"""The softmax of a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation
from aprgraph.graph.ops.traits import Traits


def _softmax(types: Types, _attrs: Attrs) -> TensorType:
    return TensorType("f32", activation(2, types[0], "x"))


def _softmax_reference(operands: Sequence[Array], _attrs: Attrs) -> Array:
    (x,) = operands
    exponents = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=-1, keepdims=True))


SOFTMAX = Op(
    "softmax",
    "exp(x - max(x)) / sum(exp(x - max(x))) of each row: x [n, C] -> [n, C].",
    ("x",),
    infer=_softmax,
    reference=_softmax_reference,
    traits=Traits(is_rowwise=True),
)
