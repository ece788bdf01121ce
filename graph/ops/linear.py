"""Matrix products with weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, require, width
from aprgraph.graph.ops.traits import Traits
from aprgraph.graph.threads import in_threads


def _linear(types: Types, _attrs: Attrs) -> TensorType:
    rows, columns = activation(2, types[0], "x")
    total = 0
    for weight in types[1:]:
        require(len(weight.dims) in (1, 2), f"a weight is {weight}, expected [out, in], or [in] for one row")
        require(weight.dims[-1] == columns, f"a weight is {weight}, but x has rows of {columns}")
        total += width(weight.dims[0], "rows of a weight") if len(weight.dims) == 2 else 1
    return TensorType("f32", (rows, total))


#: Elements of a weight that the reference multiplies by at once: with what decoding makes on the way they stay in the cache of a
#: processor, and a weight that decodes the rows it is asked for is never whole in memory.
_TILE = 1 << 17
#: Of long prompts a tile has so many rows all the same, or each would cost as much to go through the positions as to multiply.
_LEAST_ROWS = 256


def multiplied(x: Array, weight: Array) -> Array:
    """x [n, C] · Wᵀ of a weight [R, C], which may decode the rows that it is asked for -> [n, R]. By all processors, tile by tile:
    what comes out does not depend on how many there are.
    """
    rows = max(1, _TILE // x.shape[1], min(len(x), _LEAST_ROWS))
    starts = range(0, weight.shape[0], rows)
    return np.concatenate(list(in_threads(lambda start: x @ np.asarray(weight[start : start + rows]).T, starts)), axis=1)


def _linear_reference(operands: Sequence[Array], _attrs: Attrs) -> Array:
    x, *weights = operands
    products = [x @ weight[:, None] if len(weight.shape) == 1 else multiplied(x, weight) for weight in weights]
    return np.concatenate(products, axis=1)


LINEAR = Op(
    "linear",
    "x · Wᵀ for one or more weights, results side by side: x [n, C], W [R, C] each, or [C] for one row -> [n, sum of R].",
    ("x", "weights*"),
    infer=_linear,
    reference=_linear_reference,
    traits=Traits(weights=("weights",), is_matmul=True, sums=True, multiplied="x", is_rowwise=True),
)
