"""Ops that pick rows or columns without arithmetic of their own, and the mean of all rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, integer, number, require, width
from aprgraph.graph.ops.traits import Traits

#: Dims of a tensor with a row for each expert of a position.
_OF_EXPERTS = 3


def _embed(types: Types, _attrs: Attrs) -> TensorType:
    tokens, table = types
    require(tokens.dtype == "i32" and len(tokens.dims) == 1, f"tokens are {tokens}, expected i32[n]")
    require(len(table.dims) == 2, f"the embedding table is {table}, expected [vocabulary, hidden]")
    return TensorType("f32", (tokens.dims[0], table.dims[1]))


def first_for_others(attrs: Attrs) -> bool:
    """Whether a token id that the table has no row for takes the first row."""
    return bool(attrs.get("first_for_others", False))


def rows_taken(attrs: Attrs, ids: Array, count: int) -> Array:
    """The rows of a table of ``count`` rows that ``ids`` take."""
    return np.where(ids < count, ids, 0) if first_for_others(attrs) else ids


def _embed_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    tokens, table = operands
    return np.asarray(table[rows_taken(attrs, tokens, table.shape[0])]) * number(attrs, "scale")


EMBED = Op(
    "embed",
    "Rows of the table, one per token id, times `scale`: tokens [n], table [V, E] -> [n, E]. With `first_for_others` an id that the table "
    "has no row for takes the first row.",
    ("tokens", "table"),
    infer=_embed,
    reference=_embed_reference,
    attrs={"scale": float, "first_for_others": bool},
    defaults={"first_for_others": False},
    numbers={"scale": 1.0},
    traits=Traits(weights=("table",), picks_rows_by="tokens", is_rowwise=True),
)


def _columns(types: Types, attrs: Attrs) -> TensorType:
    start, stop, heads = integer(attrs, "start"), integer(attrs, "stop"), heads_of(attrs)
    if len(types[0].dims) == _OF_EXPERTS:
        rows, k, columns = activation(_OF_EXPERTS, types[0], "x")
        require(heads == 1, f"x is {types[0]}, whose rows have no heads")
        require(0 <= start < stop <= width(columns, "columns of x"), f"columns {start}..{stop} do not lie in {types[0]}")
        return TensorType("f32", (rows, k, stop - start))
    rows, columns = activation(2, types[0], "x")
    total = width(columns, "columns of x")
    require(heads >= 1 and total % heads == 0, f"the columns of {types[0]} do not divide into {heads} heads")
    where = f"{types[0]}" if heads == 1 else f"{types[0]}, which has {heads} heads of {total // heads} columns"
    require(0 <= start < stop <= total // heads, f"columns {start}..{stop} do not lie in {where}")
    return TensorType("f32", (rows, heads * (stop - start)))


def _columns_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    x, heads = operands[0], heads_of(attrs)
    if x.ndim == _OF_EXPERTS:
        return x[..., integer(attrs, "start") : integer(attrs, "stop")]
    return x.reshape(len(x), heads, -1)[:, :, integer(attrs, "start") : integer(attrs, "stop")].reshape(len(x), -1)


def heads_of(attrs: Attrs) -> int:
    """Of how many heads columns are taken: 1 stands for the whole row."""
    return integer({"heads": 1, **attrs}, "heads")


COLUMNS = Op(
    "columns",
    "Columns start..stop of every row, or of each of its `heads` heads: [n, H·C] -> [n, H·(stop - start)]; or of every row of each "
    "position's experts: [n, k, C] -> [n, k, stop - start].",
    ("x",),
    infer=_columns,
    reference=_columns_reference,
    attrs={"start": int, "stop": int, "heads": int},
    defaults={"heads": 1},
    traits=Traits(is_rowwise=True),
)


def _one_row(types: Types, _attrs: Attrs) -> TensorType:
    _, columns = activation(2, types[0], "x")
    return TensorType("f32", (1, columns))


LAST_ROW = Op(
    "last_row",
    "The last position alone: [n, C] -> [1, C].",
    ("x",),
    infer=_one_row,
    reference=lambda operands, _attrs: operands[0][-1:],
    traits=Traits(keeps_last_position=True),
)

FIRST_ROW = Op(
    "first_row",
    "The first position alone: [n, C] -> [1, C].",
    ("x",),
    infer=_one_row,
    reference=lambda operands, _attrs: operands[0][:1],
    traits=Traits(pools=True),
)

MEAN_ROWS = Op(
    "mean_rows",
    "The mean of all positions: [n, C] -> [1, C].",
    ("x",),
    infer=_one_row,
    reference=lambda operands, _attrs: operands[0].mean(axis=0, keepdims=True),
    traits=Traits(sums=True, pools=True),
)
