"""Heads: parts of them side by side, and matrix products of each head with a matrix of its own.

Both are what multi-head latent attention is made of (DeepSeek-V2, arXiv:2405.04434).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, integer, require, width
from aprgraph.graph.ops.traits import Traits


def is_shared(attrs: Attrs) -> bool:
    """Whether all heads have one operand: the second parts that are joined to them, or what they are multiplied with."""
    return bool(attrs.get("shared", False))


def _join_heads(types: Types, attrs: Attrs) -> TensorType:
    heads, sizes = integer(attrs, "heads"), []
    for name, operand, count in (("x", types[0], heads), ("y", types[1], 1 if is_shared(attrs) else heads)):
        rows, columns = activation(2, operand, name)
        require(rows == types[0].dims[0], f"x is {types[0]}, but y is {types[1]}")
        size = width(columns, f"columns of {name}")
        require(count >= 1 and size % count == 0, f"{name} is {operand}, whose columns do not divide into {count} heads")
        sizes.append(size // count)
    return TensorType("f32", (types[0].dims[0], heads * sum(sizes)))


def _join_heads_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    x, y = operands
    heads = integer(attrs, "heads")
    first, second = x.reshape(len(x), heads, -1), y.reshape(len(y), 1 if is_shared(attrs) else heads, -1)
    return np.concatenate([first, np.broadcast_to(second, (len(y), heads, second.shape[2]))], axis=2).reshape(len(x), -1)


JOIN_HEADS = Op(
    "join_heads",
    "Each head's part of x, then its part of y, or all of y if that is `shared`: x [n, H·A], y [n, H·B] or [n, B] -> [n, H·(A + B)].",
    ("x", "y"),
    infer=_join_heads,
    reference=_join_heads_reference,
    attrs={"heads": int, "shared": bool},
    defaults={"shared": False},
    traits=Traits(is_rowwise=True),
)


def _head_linear(types: Types, attrs: Attrs) -> TensorType:
    rows, columns = activation(2, types[0], "x")
    weight = types[1]
    require(len(weight.dims) == 3, f"the heads' weight is {weight}, expected [heads, out, in]")
    heads, out, size = (width(dim, "a dimension of the heads' weight") for dim in weight.dims)
    expected = size if is_shared(attrs) else heads * size
    require(columns == expected, f"the heads' weight is {weight}, but x is {types[0]}: expected {expected} columns")
    return TensorType("f32", (rows, heads * out))


def _head_linear_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    x, weight = operands
    heads, _, size = weight.shape
    x = np.tile(x, heads) if is_shared(attrs) else x
    return np.concatenate([x[:, head * size : (head + 1) * size] @ np.asarray(weight[head]).T for head in range(heads)], axis=1)


HEAD_LINEAR = Op(
    "head_linear",
    "Each head times the transpose of its own matrix, or all of x where that is `shared`: x [n, H·C] or [n, C], W [H, R, C] -> [n, H·R].",
    ("x", "weight"),
    infer=_head_linear,
    reference=_head_linear_reference,
    attrs={"shared": bool},
    defaults={"shared": False},
    traits=Traits(weights=("weight",), is_matmul=True, sums=True, multiplied="x", is_rowwise=True),
)
