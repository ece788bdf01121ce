"""Rows times a vector, or times one number of the model's."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.block_formats import weight_format
from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Attrs, Op, Types, activation, require
from aprgraph.graph.ops.traits import Traits


def _scale_columns(types: Types, _attrs: Attrs) -> TensorType:
    _, columns = activation(2, types[0], "x")
    fits = types[1].dims in ((columns,), (1,))
    require(fits, f"the factors are {types[1]}, but x is {types[0]}: expected one for each column, or one for all")
    require(not weight_format(types[1]).arrives_in_blocks, f"the factors are {types[1]}, expected f32, f16 or bf16")
    return types[0]


SCALE_COLUMNS = Op(
    "scale_columns",
    "Each column times its factor, or all times one: x [n, C], factors [C] or [1] -> [n, C].",
    ("x", "factors"),
    infer=_scale_columns,
    reference=lambda operands, _attrs: operands[0] * np.asarray(operands[1]),
    traits=Traits(weights=("factors",), is_rowwise=True),
)
