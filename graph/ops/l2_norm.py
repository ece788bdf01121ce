"""Heads of length 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, integer, number, require, width
from aprgraph.graph.ops.traits import Traits


def _l2_norm(types: Types, attrs: Attrs) -> TensorType:
    _, columns = activation(2, types[0], "x")
    groups = integer(attrs, "groups")
    require(groups >= 1 and width(columns, "columns of x") % groups == 0, f"x is {types[0]}, which does not divide into {groups} groups")
    return types[0]


def _l2_norm_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    (x,) = operands
    grouped = x.reshape(x.shape[0], integer(attrs, "groups"), -1)
    return np.asarray(grouped / np.sqrt(np.square(grouped).sum(axis=-1, keepdims=True) + number(attrs, "eps"))).reshape(x.shape)


L2_NORM = Op(
    "l2_norm",
    "x / sqrt(sum(x²) + eps), over each of `groups` equal parts of a row: [n, C] -> [n, C].",
    ("x",),
    infer=_l2_norm,
    reference=_l2_norm_reference,
    attrs={"eps": float, "groups": int},
    numbers={"eps": None},
    traits=Traits(is_rowwise=True),
)
