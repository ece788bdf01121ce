"""The weights of SparseMixer: of each chosen expert a share among those that are left and nearly as good."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, number, require
from aprgraph.graph.ops.traits import Traits


def _sparse_mixer(types: Types, attrs: Attrs) -> TensorType:
    rows, _ = activation(2, types[0], "scores")
    id_rows, _ = activation(2, types[1], "ids")
    require(rows == id_rows, f"the scores are {types[0]}, but the ids are {types[1]}")
    number(attrs, "tolerance")
    return types[1]


def _sparse_mixer_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    scores, ids = operands
    tolerance, known = number(attrs, "tolerance"), np.asarray(~np.isnan(ids).any(axis=-1))
    chosen = np.where(known[:, None], ids, 0).astype(np.int64)
    left = np.ones(scores.shape, bool)
    weights = np.full(ids.shape, np.nan)
    for choice in range(ids.shape[1]):
        own = chosen[:, choice, None]
        best = np.take_along_axis(scores, own, axis=-1)
        near = ~(best - scores > tolerance * np.maximum(np.abs(scores), best))
        shares = np.where(left & near, np.exp(scores - best), 0.0)
        weights[:, choice] = 1 / shares.sum(axis=-1)
        np.put_along_axis(left, own, False, axis=-1)
    return np.where(known[:, None], weights, np.nan)


SPARSE_MIXER = Op(
    "sparse_mixer",
    "The weights of chosen experts, the best first (SparseMixer, arXiv:2310.00811; GRIN, arXiv:2409.12136): the share of each in a softmax "
    "of it and those that are left whose score is within `tolerance` of its own, as a part of the larger of that and of their size: "
    "scores [n, X], ids [n, k] -> [n, k]; NaN throughout a row whose ids are.",
    ("scores", "ids"),
    infer=_sparse_mixer,
    reference=_sparse_mixer_reference,
    attrs={"tolerance": float},
    numbers={"tolerance": None},
    traits=Traits(is_rowwise=True),
)
