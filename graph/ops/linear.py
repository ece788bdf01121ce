"""Matrix products with weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, require, width
from aprgraph.graph.ops.traits import Traits


def _linear(types: Types, _attrs: Attrs) -> TensorType:
    rows, columns = activation(2, types[0], "x")
    total = 0
    for weight in types[1:]:
        require(len(weight.dims) in (1, 2), f"a weight is {weight}, expected [out, in], or [in] for one row")
        require(weight.dims[-1] == columns, f"a weight is {weight}, but x has rows of {columns}")
        total += width(weight.dims[0], "rows of a weight") if len(weight.dims) == 2 else 1
    return TensorType("f32", (rows, total))


#: Elements of a weight that the reference multiplies by at once: a weight that decodes the rows it is asked for is
#: never whole in memory, where 150,000 rows of 4096 would be 5 GB in float64.
_BLOCK = 1 << 23


def _linear_reference(operands: Sequence[Array], _attrs: Attrs) -> Array:
    x, *weights = operands
    rows = max(1, _BLOCK // x.shape[1])
    products = []
    for weight in weights:
        if len(weight.shape) == 1:
            products.append(x @ weight[:, None])
        else:
            products += [x @ np.asarray(weight[start : start + rows]).T for start in range(0, weight.shape[0], rows)]
    return np.concatenate(products, axis=1)


LINEAR = Op(
    "linear",
    "x · Wᵀ for one or more weights, results side by side: x [n, C], W [R, C] each, or [C] for one row -> [n, sum of R].",
    ("x", "weights*"),
    infer=_linear,
    reference=_linear_reference,
    traits=Traits(weights=("weights",), is_matmul=True, sums=True, multiplied="x", is_rowwise=True),
)
