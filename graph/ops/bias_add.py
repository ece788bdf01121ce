"""Biases, and a row of a table that all positions get."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Attrs, Op, Types, activation, integer, require, width
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


def _row_add(types: Types, attrs: Attrs) -> TensorType:
    _, columns = activation(2, types[0], "x")
    table, row = types[1], integer(attrs, "row")
    require(len(table.dims) == 2 and table.dims[1] == columns, f"the table is {table}, but x is {types[0]}")
    rows = width(table.dims[0], "rows of the table")
    require(0 <= row < rows, f"row is {row}, expected one of the {rows} rows of the table")
    return types[0]


ROW_ADD = Op(
    "row_add",
    "x plus one row of a table, the same for all positions: x [n, C], table [T, C] -> [n, C].",
    ("x", "table"),
    infer=_row_add,
    reference=lambda operands, attrs: operands[0] + np.atleast_2d(operands[1])[integer(attrs, "row")],
    attrs={"row": int},
    traits=Traits(weights=("table",), is_rowwise=True),
)
