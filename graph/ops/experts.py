"""Mixtures of experts: choosing, the matrix products of the chosen ones, and their weighted sum.

Ids of experts are f32, as traces hold them (exact below 2^24). A position whose scores hold a NaN can choose nothing: its ids
are NaN, and so is all that follows from them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, integer, number, require, width
from aprgraph.graph.ops.traits import Traits


def _top_k(types: Types, attrs: Attrs) -> TensorType:
    rows, experts = activation(2, types[0], "scores")
    k = integer(attrs, "k")
    require(1 <= k <= width(experts, "experts"), f"k is {k}, but the scores are {types[0]}")
    return TensorType("f32", (rows, k))


def _top_k_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    scores = operands[0]
    # Stable, so that of equal scores the lower id comes first.
    ids = np.argsort(-scores, axis=-1, kind="stable")[:, : integer(attrs, "k")].astype(np.float64)
    ids[np.isnan(scores).any(axis=-1)] = np.nan
    return ids


TOP_K = Op(
    "top_k",
    "Ids of the k largest scores of each row, largest first, the lower id first where scores are equal; NaN throughout a row that "
    "holds a NaN: [n, X] -> [n, k].",
    ("scores",),
    infer=_top_k,
    reference=_top_k_reference,
    attrs={"k": int},
    traits=Traits(chooses=True, is_rowwise=True),
)


def _router_weights(types: Types, attrs: Attrs) -> TensorType:
    rows, _ = activation(2, types[0], "scores")
    id_rows, _ = activation(2, types[1], "ids")
    require(rows == id_rows, f"the scores are {types[0]}, but the ids are {types[1]}")
    number(attrs, "scale")
    return types[1]


def _gather(values: Array, ids: Array) -> Array:
    """values[row, id], NaN where the id is."""
    known = ~np.isnan(ids)
    chosen = np.take_along_axis(values, np.where(known, ids, 0).astype(np.int64), axis=-1)
    return np.where(known, chosen, np.nan)


def _router_weights_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    scores, ids = operands
    exponents = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = _gather(exponents / exponents.sum(axis=-1, keepdims=True), ids)
    if attrs["normalise"]:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return np.asarray(weights * number(attrs, "scale"))


ROUTER_WEIGHTS = Op(
    "router_weights",
    "Softmax over the scores of all experts, of which the chosen ones' share is taken, divided by its sum if `normalise`, times "
    "`scale`: scores [n, X], ids [n, k] -> [n, k].",
    ("scores", "ids"),
    infer=_router_weights,
    reference=_router_weights_reference,
    attrs={"normalise": bool, "scale": float},
    traits=Traits(is_rowwise=True),
)


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
    for expert in np.unique(ids[~np.isnan(ids)]).astype(np.int64):
        chosen = ids == expert
        result[chosen] = inputs[chosen] @ np.asarray(weight[expert]).T
    return result


EXPERT_LINEAR = Op(
    "expert_linear",
    "x · Wᵀ with the weights of each position's experts: x [n, C], or [n, k, C] with a row for each expert, ids [n, k], "
    "W [X, R, C] -> [n, k, R].",
    ("x", "ids", "weight"),
    infer=_expert_linear,
    reference=_expert_linear_reference,
    traits=Traits(weights=("weight",), picks_rows_by="ids", is_matmul=True, is_rowwise=True),
)


def _expert_sum(types: Types, _attrs: Attrs) -> TensorType:
    rows, k, columns = activation(3, types[0], "x")
    require(types[1] == TensorType("f32", (rows, k)), f"x is {types[0]}, but the weights are {types[1]}")
    return TensorType("f32", (rows, columns))


EXPERT_SUM = Op(
    "expert_sum",
    "The experts' outputs, each times its weight, summed in the order of the choice: x [n, k, C], weights [n, k] -> [n, C].",
    ("x", "weights"),
    infer=_expert_sum,
    reference=lambda operands, _attrs: np.einsum("nkc,nk->nc", operands[0], operands[1]),
    traits=Traits(is_rowwise=True),
)
