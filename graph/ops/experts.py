"""Experts: the matrix products of those that each position chose, and their weighted sum.

Where an id is NaN (graph/ops/router.py), so is all that follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.block_formats import weight_format
from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, require
from aprgraph.graph.ops.traits import Traits
from aprgraph.graph.threads import in_threads


def _expert_linear(types: Types, _attrs: Attrs) -> TensorType:
    x, ids, weight = types
    require(x.dtype == "f32" and len(x.dims) in (2, 3), f"x is {x}, expected f32 of 2 dims, or of 3 with a row for each expert")
    rows, k = activation(2, ids, "ids")
    require(x.dims[:-1] in ((rows,), (rows, k)), f"x is {x}, but the ids are {ids}")
    require(len(weight.dims) == 3, f"the experts' weight is {weight}, expected [experts, out, in]")
    require(weight.dims[2] == x.dims[-1], f"the experts' weight is {weight}, but x is {x}")
    return TensorType("f32", (rows, k, weight.dims[1]))


def _expert_linear_reference(operands: Sequence[Array], _attrs: Attrs) -> Array:
    x, ids, weight = operands
    n, k = ids.shape
    inputs = x if x.ndim == 3 else np.repeat(x[:, None], k, axis=1)
    result = np.full((n, k, weight.shape[1]), np.nan)

    def multiply(expert: int) -> None:
        chosen = ids == expert
        result[chosen] = inputs[chosen] @ np.asarray(weight[expert]).T

    chosen_ones = np.unique(ids[~np.isnan(ids)]).astype(np.int64).tolist()
    for _ in in_threads(multiply, chosen_ones, products=inputs.size * weight.shape[1]):
        pass
    return result


EXPERT_LINEAR = Op(
    "expert_linear",
    "x · Wᵀ with the weights of each position's experts: x [n, C], or [n, k, C] with a row for each expert, ids [n, k], "
    "W [X, R, C] -> [n, k, R].",
    ("x", "ids", "weight"),
    infer=_expert_linear,
    reference=_expert_linear_reference,
    traits=Traits(weights=("weight",), picks_rows_by="ids", is_matmul=True, sums=True, multiplied="x", is_rowwise=True),
)


def _expert_bias_add(types: Types, _attrs: Attrs) -> TensorType:
    x, ids, bias = types
    rows, k, columns = activation(3, x, "x")
    require(ids == TensorType("f32", (rows, k)), f"x is {x}, but the ids are {ids}")
    require(bias.dims[1:] == (columns,), f"the experts' bias is {bias}, but x is {x}: expected [experts, {columns}]")
    return x


def _expert_bias_add_reference(operands: Sequence[Array], _attrs: Attrs) -> Array:
    x, ids, bias = operands
    known = ~np.isnan(ids)
    chosen = np.asarray(bias[np.where(known, ids, 0).astype(np.int64).reshape(-1)]).reshape(x.shape)
    return np.where(known[..., None], x + chosen, np.nan)


EXPERT_BIAS_ADD = Op(
    "expert_bias_add",
    "x plus the biases of each position's experts: x [n, k, C], ids [n, k], bias [X, C] -> [n, k, C].",
    ("x", "ids", "bias"),
    infer=_expert_bias_add,
    reference=_expert_bias_add_reference,
    traits=Traits(weights=("bias",), picks_rows_by="ids", is_rowwise=True),
)


def _expert_inputs(types: Types, _attrs: Attrs) -> TensorType:
    rows, columns = activation(2, types[0], "x")
    weight_rows, k = activation(2, types[1], "weights")
    require(rows == weight_rows, f"x is {types[0]}, but the weights are {types[1]}")
    return TensorType("f32", (rows, k, columns))


EXPERT_INPUTS = Op(
    "expert_inputs",
    "What each chosen expert reads where its weight goes into its input: x times that weight (Llama 4): x [n, C], weights [n, k] -> "
    "[n, k, C].",
    ("x", "weights"),
    infer=_expert_inputs,
    reference=lambda operands, _attrs: operands[0][:, None] * operands[1][..., None],
    traits=Traits(is_rowwise=True),
)


def _expert_scale(types: Types, _attrs: Attrs) -> TensorType:
    x, ids, factors = types
    rows, k = activation(2, x, "x")
    require(ids == TensorType("f32", (rows, k)), f"x is {x}, but the ids are {ids}")
    require(
        len(factors.dims) == 1 and not weight_format(factors).arrives_in_blocks,
        f"the experts' factors are {factors}, expected f32, f16 or bf16, one for each expert",
    )
    return x


def _expert_scale_reference(operands: Sequence[Array], _attrs: Attrs) -> Array:
    x, ids, factors = operands
    known = ~np.isnan(ids)
    return np.where(known, x * np.asarray(factors)[np.where(known, ids, 0).astype(np.int64)], np.nan)


EXPERT_SCALE = Op(
    "expert_scale",
    "x times the factors of each position's experts: x [n, k], ids [n, k], factors [X] -> [n, k].",
    ("x", "ids", "factors"),
    infer=_expert_scale,
    reference=_expert_scale_reference,
    traits=Traits(weights=("factors",), is_rowwise=True),
)


def _expert_sum(types: Types, _attrs: Attrs) -> TensorType:
    rows, k, columns = activation(3, types[0], "x")
    for weights in types[1:]:
        require(weights == TensorType("f32", (rows, k)), f"x is {types[0]}, but the weights are {weights}")
    return TensorType("f32", (rows, columns))


def _expert_sum_reference(operands: Sequence[Array], _attrs: Attrs) -> Array:
    x, *weights = operands
    return np.asarray(np.einsum("nkc,nk->nc", x, weights[0]) if weights else x.sum(axis=1))


EXPERT_SUM = Op(
    "expert_sum",
    "The experts' outputs, each times its weight if there are weights, summed in the order of the choice: x [n, k, C], weights [n, k] "
    "-> [n, C].",
    ("x", "weights?"),
    infer=_expert_sum,
    reference=_expert_sum_reference,
    traits=Traits(sums=True, is_rowwise=True),
)
