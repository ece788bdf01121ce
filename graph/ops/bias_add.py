"""Biases."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Attrs, Op, Types, activation, require, width
from aprgraph.graph.ops.traits import Traits


def _bias(types: Types, _attrs: Attrs) -> TensorType:
    _, columns = activation(2, types[0], "x")
    total = 0
    for bias in types[1:]:
        require(len(bias.dims) == 1, f"a bias is {bias}, expected one dimension")
        total += width(bias.dims[0], "length of a bias")
    require(total == columns, f"the biases have {total} elements, but x is {types[0]}")
    return types[0]


BIAS_ADD = Op(
    "bias_add",
    "x plus biases that lie side by side: x [n, C], biases of C elements together -> [n, C].",
    ("x", "biases*"),
    infer=_bias,
    reference=lambda operands, _attrs: operands[0] + np.concatenate(operands[1:]),
    traits=Traits(weights=("biases",), is_rowwise=True),
)
