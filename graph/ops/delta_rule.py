"""The gated delta rule (Yang et al. 2024, arXiv:2412.06464): linear attention whose state forgets and corrects itself.

Each head has a state S, a matrix that gives for a key the value kept under it. A position first lets S fade by its decay,
then moves what S gives for its key towards its value, as far as `beta` says, then reads S with its query.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, integer, number, require, width
from aprgraph.graph.ops.state import Fixed
from aprgraph.graph.ops.traits import Traits


def _sizes(types: Types, attrs: Attrs) -> tuple[int, int, int]:
    """How many heads v has, and the sizes of a head of k and of v."""
    heads, key_heads = width(types[3].dims[1], "columns of the decay"), integer(attrs, "key_heads")
    keys, values = width(types[1].dims[1], "columns of k"), width(types[2].dims[1], "columns of v")
    require(key_heads >= 1 and keys % key_heads == 0, f"k is {types[1]}, whose columns do not divide into {key_heads} heads")
    require(heads % key_heads == 0, f"{heads} heads of v do not divide among {key_heads} heads of k")
    require(values % heads == 0, f"v is {types[2]}, whose columns do not divide into {heads} heads")
    return heads, keys // key_heads, values // heads


def _infer(types: Types, attrs: Attrs) -> TensorType:
    for name, kind in zip(("q", "k", "v", "decay", "beta"), types, strict=True):
        activation(2, kind, name)
        require(kind.dims[0] == types[0].dims[0], f"{name} is {kind}, but q is {types[0]}")
    q, k, v, decay, beta = types
    require(q == k, f"q is {q}, but k is {k}")
    require(decay == beta, f"the decay is {decay}, but beta is {beta}: expected one for each head of v")
    _sizes(types, attrs)
    number(attrs, "scale")
    return v


def _step(operands: Sequence[Array], attrs: Attrs, state: Array) -> tuple[Array, Array]:
    q, k, v, decay, beta = operands
    heads, key_heads, n = decay.shape[1], integer(attrs, "key_heads"), len(q)
    own = key_heads_of(heads, attrs)
    queries, keys = (x.reshape(n, key_heads, -1)[:, own] for x in (q, k))
    values, result = v.reshape(n, heads, -1), np.empty_like(v)
    for position in range(n):
        key = keys[position][:, :, None]
        state = state * np.exp(decay[position])[:, None, None]
        correction = (values[position] - (state * key).sum(axis=1)) * beta[position][:, None]
        state = state + key * correction[:, None, :]
        result[position] = (state * queries[position][:, :, None]).sum(axis=1).reshape(-1) * number(attrs, "scale")
    return result, state


def key_heads_of(heads: int, attrs: Attrs) -> list[int]:
    """For each head of v that of q and k which it goes with: neighbours share one, or, if `tiled`, every so manieth."""
    key_heads = integer(attrs, "key_heads")
    return [head % key_heads if attrs.get("tiled", False) else head // (heads // key_heads) for head in range(heads)]


_STATE = Fixed(_sizes, _step)

DELTA_RULE = Op(
    "delta_rule",
    "Of each head, position after position: S = exp(decay) · S, S = S + k (beta · (v - k S)), and S read by q · scale: q, k [n, G·K], v "
    "[n, H·V], decay, beta [n, H] -> [n, H·V]. The state is S [H, K, V]. The H heads of v share the G = `key_heads` of q and k: "
    "neighbours one, or, if `tiled`, those that are G apart.",
    ("q", "k", "v", "decay", "beta"),
    infer=_infer,
    reference=_STATE.first_pass,
    attrs={"key_heads": int, "scale": float, "tiled": bool},
    defaults={"tiled": False},
    traits=Traits(sums=True, state=_STATE),
)
