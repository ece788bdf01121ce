"""RMSNorm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, integer, number, require, width
from aprgraph.graph.ops.traits import Traits


def _rms_norm(types: Types, attrs: Attrs) -> TensorType:
    rows, columns = activation(2, types[0], "x")
    groups = integer(attrs, "groups")
    if len(types) == 1:
        require(groups >= 1 and width(columns, "columns of x") % groups == 0, f"x is {types[0]}, which has no {groups} equal groups")
        return TensorType("f32", (rows, columns))
    weight = types[1]
    of_each = width(weight.dims[0], "the weight's rows") == groups if len(weight.dims) == 2 else len(weight.dims) == 1
    require(
        groups >= 1 and of_each and width(weight.dims[-1], "length of the norm's weight") * groups == columns,
        f"the norm's weight is {weight} for {groups} groups, but x is {types[0]}",
    )
    return TensorType("f32", (rows, columns))


def _rms_norm_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    x, *weights = operands
    grouped = x.reshape(x.shape[0], integer(attrs, "groups"), -1)
    mean_square = np.mean(np.square(grouped), axis=-1, keepdims=True)
    result = grouped / np.sqrt(mean_square + number(attrs, "eps"))
    for weight in weights:
        result = result * weight
    return np.asarray(result).reshape(x.shape)


RMS_NORM = Op(
    "rms_norm",
    "x / sqrt(mean(x²) + eps) · weight, over each of `groups` equal parts of a row (Zhang and Sennrich 2019, "
    "arXiv:1910.07467): x [n, C], weight, which may be left out, [C / groups] for all parts, or [groups, C / groups] -> [n, C].",
    ("x", "weight?"),
    infer=_rms_norm,
    reference=_rms_norm_reference,
    attrs={"eps": float, "groups": int},
    numbers={"eps": None},
    traits=Traits(weights=("weight",), is_rowwise=True),
)
