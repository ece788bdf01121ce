"""LayerNorm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, integer, number, require, width
from aprgraph.graph.ops.traits import Traits


def _layer_norm(types: Types, attrs: Attrs) -> TensorType:
    rows, columns = activation(2, types[0], "x")
    groups = integer(attrs, "groups")
    if len(types) == 1:
        require(groups >= 1 and width(columns, "columns of x") % groups == 0, f"x is {types[0]}, which has no {groups} equal groups")
        return TensorType("f32", (rows, columns))
    weight, *others = types[1:]
    of_each = width(weight.dims[0], "the weight's rows") == groups if len(weight.dims) == 2 else len(weight.dims) == 1
    require(
        groups >= 1 and of_each and width(weight.dims[-1], "length of the norm's weight") * groups == columns,
        f"the norm's weight is {weight} for {groups} groups, but x is {types[0]}",
    )
    for bias in others:
        require(bias.dims == weight.dims, f"the norm's bias is {bias}, but its weight is {weight}")
    return TensorType("f32", (rows, columns))


def _layer_norm_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    x, *weights = operands
    grouped = x.reshape(x.shape[0], integer(attrs, "groups"), -1)
    centred = grouped - np.mean(grouped, axis=-1, keepdims=True)
    variance = np.mean(np.square(centred), axis=-1, keepdims=True)
    result = centred / np.sqrt(variance + number(attrs, "eps"))
    for weight in weights[:1]:
        result = result * weight
    for bias in weights[1:]:
        result = result + bias
    return np.asarray(result).reshape(x.shape)


LAYER_NORM = Op(
    "layer_norm",
    "(x - mean(x)) / sqrt(mean((x - mean(x))²) + eps) · weight + bias, over each of `groups` equal parts of a row (Ba et al. 2016, "
    "arXiv:1607.06450): x [n, C], weight and bias, which may be left out, [C / groups] for all parts, or [groups, C / groups] -> [n, C].",
    ("x", "weight?", "bias?"),
    infer=_layer_norm,
    reference=_layer_norm_reference,
    attrs={"eps": float, "groups": int},
    numbers={"eps": None},
    traits=Traits(weights=("weight", "bias"), sums=True, is_rowwise=True),
)
