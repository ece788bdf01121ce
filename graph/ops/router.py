"""Routers: which experts a position chooses, and what they weigh.

Ids of experts are f32, as traces hold them (exact below 2^24). A position whose scores hold a NaN can choose nothing:
its ids are NaN, and so is all that follows from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aprgraph.graph.ir import Attr, TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, integer, number, require, width
from aprgraph.graph.ops.traits import Traits

#: How the scores of experts become weights.
GATINGS = ("softmax", "sigmoid")


@dataclass(frozen=True)
class Groups:
    """Experts in ``count`` groups of neighbours: those of the ``used`` best groups can be chosen.

    A group is as good as the sum of its ``best`` largest scores. One group is none.
    """

    count: int = 1
    used: int = 1
    best: int = 1


#: What an attribute of top_k is that a graph does not name.
_GROUP_DEFAULTS: Mapping[str, Attr] = {"groups": 1, "used_groups": 1, "best_of_group": 1}


def groups_of(attrs: Attrs) -> Groups:
    """The groups of a top_k with the attributes ``attrs``."""
    whole = {**_GROUP_DEFAULTS, **attrs}
    return Groups(*(integer(whole, name) for name in _GROUP_DEFAULTS))


def group_scores(scores: Array, groups: Groups) -> Array:
    """How good each group is: of scores [..., X], [..., groups]."""
    by_group = scores.reshape(*scores.shape[:-1], groups.count, -1)
    return np.asarray(-np.sort(-by_group, axis=-1)[..., : groups.best].sum(axis=-1))


def usable(scores: Array, groups: Groups) -> Array:
    """Whether each expert is of a group that is used: of scores [..., X], bool [..., X]. Of equal groups the lower number counts."""
    order = np.argsort(-group_scores(scores, groups), axis=-1, kind="stable")
    used = np.zeros(order.shape, bool)
    np.put_along_axis(used, order[..., : groups.used], True, axis=-1)
    return np.repeat(used, scores.shape[-1] // groups.count, axis=-1)


def _top_k(types: Types, attrs: Attrs) -> TensorType:
    rows, columns = activation(2, types[0], "scores")
    k, experts, groups = integer(attrs, "k"), width(columns, "experts"), groups_of(attrs)
    require(1 <= k <= experts, f"k is {k}, but the scores are {types[0]}")
    require(groups.count >= 1 and experts % groups.count == 0, f"{experts} experts do not divide into {groups.count} groups")
    require(1 <= groups.used <= groups.count, f"used_groups is {groups.used}, expected 1 to {groups.count}")
    size = experts // groups.count
    require(groups.best in (1, 2) and groups.best <= size, f"best_of_group is {groups.best}, expected 1 or 2, of {size} experts")
    require(k <= groups.used * size, f"k is {k}, but {groups.used} groups have {groups.used * size} experts")
    return TensorType("f32", (rows, k))


def _top_k_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    scores, groups = operands[0], groups_of(attrs)
    # Stable, so that of equal scores the lower id comes first.
    order = np.argsort(-scores, axis=-1, kind="stable") if groups.count == 1 else np.lexsort((-scores, ~usable(scores, groups)), axis=-1)
    ids = order[:, : integer(attrs, "k")].astype(np.float64)
    ids[np.isnan(scores).any(axis=-1)] = np.nan
    return ids


TOP_K = Op(
    "top_k",
    "Ids of the k largest scores of each row, largest first, the lower id first where scores are equal; NaN throughout a row that "
    "holds a NaN. With `groups` of neighbours, only those of the `used_groups` best can be chosen, a group being as good as the sum of "
    "its `best_of_group` largest scores (DeepSeek-V2, arXiv:2405.04434; V3, arXiv:2412.19437): [n, X] -> [n, k].",
    ("scores",),
    infer=_top_k,
    reference=_top_k_reference,
    attrs={"k": int, "groups": int, "used_groups": int, "best_of_group": int},
    defaults=_GROUP_DEFAULTS,
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
