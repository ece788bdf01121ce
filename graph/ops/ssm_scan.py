"""The scan of a state space model whose steps depend on the input: Mamba 2 (Dao and Gu 2024, arXiv:2405.21060), and Mamba (Gu and Dao
2023, arXiv:2312.00752).

Each head has a state S, a matrix. A position first lets S fade by its decay, then adds its x along its b, as much as its step
says, then reads S along its c. In Mamba 2 all of a head's S fades alike; in Mamba each row of S has a rate of its own, and each
column of x is a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.block_formats import weight_format
from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, integer, require, width
from aprgraph.graph.ops.state import Fixed
from aprgraph.graph.ops.traits import Traits


def _sizes(types: Types, attrs: Attrs) -> tuple[int, int, int]:
    """How many heads x has, the size of b and c of a group, and that of a head of x."""
    heads, groups = width(types[3].dims[1], "columns of the decay"), integer(attrs, "groups")
    keys, values = width(types[1].dims[1], "columns of b"), width(types[0].dims[1], "columns of x")
    require(groups >= 1 and keys % groups == 0, f"b is {types[1]}, whose columns do not divide into {groups} groups")
    require(heads % groups == 0, f"{heads} heads of x do not divide among {groups} groups")
    require(values % heads == 0, f"x is {types[0]}, whose columns do not divide into {heads} heads")
    return heads, keys // groups, values // heads


def _infer(types: Types, attrs: Attrs) -> TensorType:
    for name, kind in zip(("x", "b", "c", "decay", "step"), types, strict=False):
        activation(2, kind, name)
        require(kind.dims[0] == types[0].dims[0], f"{name} is {kind}, but x is {types[0]}")
    x, b, c, decay, step, skip, *rates = types
    require(b == c, f"b is {b}, but c is {c}")
    require(decay == step, f"the decay is {decay}, but the step is {step}: expected one for each head of x")
    heads, keys, values = _sizes(types, attrs)
    require(skip.dims == (heads,), f"the weight of x is {skip}, expected one for each of {heads} heads")
    require(not weight_format(skip).arrives_in_blocks, f"the weight of x is {skip}, expected f32, f16 or bf16")
    for one in rates:
        require(values == 1, f"x is {x}, expected one column for each of {heads} heads, for there are rates")
        require(one.dims == (heads, keys), f"the rates are {one}, expected one for each of {heads} heads and {keys} columns of b")
        require(not weight_format(one).arrives_in_blocks, f"the rates are {one}, expected f32, f16 or bf16")
    return x


def _step(operands: Sequence[Array], attrs: Attrs, state: Array) -> tuple[Array, Array]:
    x, b, c, decay, step, skip, *rates = operands
    n, heads, groups = len(x), decay.shape[1], integer(attrs, "groups")
    writes, reads = (np.repeat(one.reshape(n, groups, -1), heads // groups, axis=1) for one in (b, c))
    values, result = x.reshape(n, heads, -1), np.empty_like(x)
    for position in range(n):
        added = writes[position][:, :, None] * (values[position] * step[position][:, None])[:, None, :]
        faded = decay[position][:, None] * np.asarray(rates[0]) if rates else decay[position][:, None]
        state = state * np.exp(faded)[:, :, None] + added
        read = (state * reads[position][:, :, None]).sum(axis=1)
        result[position] = (read + values[position] * np.asarray(skip)[:, None]).reshape(-1)
    return result, state


_STATE = Fixed(_sizes, _step)

SSM_SCAN = Op(
    "ssm_scan",
    "Of each head, position after position: S = exp(decay) · S + b (step · x), and S read by c, plus skip · x: x [n, H·V], b, c [n, G·K], "
    "decay, step [n, H], skip [H] -> [n, H·V]. The state is S [H, K, V]. The H heads share the b and c of G = `groups`, neighbours one. "
    "With rates [H, K] row i of S fades by exp(decay · rate i), and V is 1.",
    ("x", "b", "c", "decay", "step", "skip", "rates?"),
    infer=_infer,
    reference=_STATE.first_pass,
    attrs={"groups": int},
    traits=Traits(weights=("skip", "rates"), sums=True, state=_STATE),
)
