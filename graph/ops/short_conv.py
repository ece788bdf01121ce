"""Short causal convolutions, which mix each channel of a row with the same channel of the few rows before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.block_formats import weight_format
from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, require, width
from aprgraph.graph.ops.state import Fixed
from aprgraph.graph.ops.traits import Traits


def _infer(types: Types, _attrs: Attrs) -> TensorType:
    x, weight = types[0], types[1]
    _, channels = activation(2, x, "x")
    require(len(weight.dims) == 2 and weight.dims[0] == channels, f"the kernel is {weight}, but x is {x}: expected [{channels}, size]")
    require(width(weight.dims[1], "the kernel's size") >= 2, f"the kernel is {weight}, expected a size of at least 2")
    for each in types[1:]:
        require(not weight_format(each).arrives_in_blocks, f"a weight is {each}, expected f32, f16 or bf16")
    for bias in types[2:]:
        require(bias.dims == (channels,), f"the bias is {bias}, but x is {x}: expected one for each channel")
    return x


def _step(operands: Sequence[Array], _attrs: Attrs, state: Array) -> tuple[Array, Array]:
    x, weight, *biases = operands
    weight = np.asarray(weight)
    size, rows = weight.shape[1], np.concatenate([state, x])
    result = np.zeros_like(x)
    for place in range(size):
        result += rows[place : place + len(x)] * weight[:, place]
    for bias in biases:
        result += np.asarray(bias)
    return result, rows[len(x) :]


_STATE = Fixed(lambda types, _attrs: (width(types[1].dims[1], "the kernel's size") - 1, width(types[0].dims[1], "channels of x")), _step)

SHORT_CONV = Op(
    "short_conv",
    "The sum of each channel's last S values, its own the last, each times its weight, plus a bias if there is one: x [n, C], weight "
    "[C, S], bias [C] -> [n, C]. The state is the last S - 1 rows.",
    ("x", "weight", "bias?"),
    infer=_infer,
    reference=_STATE.first_pass,
    traits=Traits(weights=("weight", "bias"), sums=True, state=_STATE),
)
