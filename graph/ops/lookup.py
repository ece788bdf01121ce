"""Ops that pick rows or columns without arithmetic of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, integer, number, require, width
from aprgraph.graph.ops.traits import Traits


def _embed(types: Types, _attrs: Attrs) -> TensorType:
    tokens, table = types
    require(tokens.dtype == "i32" and len(tokens.dims) == 1, f"tokens are {tokens}, expected i32[n]")
    require(len(table.dims) == 2, f"the embedding table is {table}, expected [vocabulary, hidden]")
    return TensorType("f32", (tokens.dims[0], table.dims[1]))


def _embed_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    tokens, table = operands
    return np.asarray(table[tokens]) * number(attrs, "scale")


EMBED = Op(
    "embed",
    "Rows of the table, one per token id, times `scale`: tokens [n], table [V, E] -> [n, E].",
    ("tokens", "table"),
    infer=_embed,
    reference=_embed_reference,
    attrs={"scale": float},
    traits=Traits(weights=("table",), picks_rows_by="tokens", is_rowwise=True),
)


def _columns(types: Types, attrs: Attrs) -> TensorType:
    rows, columns = activation(2, types[0], "x")
    start, stop = integer(attrs, "start"), integer(attrs, "stop")
    require(0 <= start < stop <= width(columns, "columns of x"), f"columns {start}..{stop} do not lie in {types[0]}")
    return TensorType("f32", (rows, stop - start))


COLUMNS = Op(
    "columns",
    "Columns start..stop of every row: [n, C] -> [n, stop - start].",
    ("x",),
    infer=_columns,
    reference=lambda operands, attrs: operands[0][:, integer(attrs, "start") : integer(attrs, "stop")],
    attrs={"start": int, "stop": int},
    traits=Traits(is_rowwise=True),
)


def _last_row(types: Types, _attrs: Attrs) -> TensorType:
    _, columns = activation(2, types[0], "x")
    return TensorType("f32", (1, columns))


LAST_ROW = Op(
    "last_row",
    "The last position alone: [n, C] -> [1, C].",
    ("x",),
    infer=_last_row,
    reference=lambda operands, _attrs: operands[0][-1:],
    traits=Traits(keeps_last_position=True),
)
