"""Routers: which experts a position chooses, and what they weigh.

Ids of experts are f32, as traces hold them (exact below 2^24). A position whose scores hold a NaN can choose nothing:
its ids are NaN, and so is all that follows from them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, integer, number, require, width
from aprgraph.graph.ops.traits import Traits

#: How the scores of experts become weights.
GATINGS = ("softmax", "sigmoid")


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
    gating = attrs.get("gating", "softmax")
    require(gating in GATINGS, f"gating is {gating!r}, expected one of {', '.join(GATINGS)}")
    return types[1]


def _gather(values: Array, ids: Array) -> Array:
    """values[row, id], NaN where the id is."""
    known = ~np.isnan(ids)
    chosen = np.take_along_axis(values, np.where(known, ids, 0).astype(np.int64), axis=-1)
    return np.where(known, chosen, np.nan)


def _router_weights_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    scores, ids = operands
    if attrs.get("gating", "softmax") == "sigmoid":
        shares = 1 / (1 + np.exp(-scores))
    else:
        exponents = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares = exponents / exponents.sum(axis=-1, keepdims=True)
    weights = _gather(shares, ids)
    if attrs["normalise"]:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return np.asarray(weights * number(attrs, "scale"))


ROUTER_WEIGHTS = Op(
    "router_weights",
    "Softmax over the scores of all experts, or the sigmoid of each (`gating`), of which the chosen ones' share is taken, divided by "
    "its sum if `normalise`, times `scale`: scores [n, X], ids [n, k] -> [n, k].",
    ("scores", "ids"),
    infer=_router_weights,
    reference=_router_weights_reference,
    attrs={"normalise": bool, "scale": float, "gating": str},
    defaults={"gating": "softmax"},
    numbers={"scale": 1.0},
    traits=Traits(is_rowwise=True),
)
