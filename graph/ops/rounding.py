"""Activations rounded as an engine rounds them before a matrix product (graph/roundings.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ir import Dim, TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, require, width
from aprgraph.graph.ops.traits import Traits
from aprgraph.graph.roundings import ROUNDINGS, Rounding, round_values, sum_errors


def _rounding(attrs: Attrs) -> Rounding:
    scheme = str(attrs["scheme"])
    require(scheme in ROUNDINGS, f"scheme is {scheme!r}, expected one of {', '.join(ROUNDINGS)}")
    return ROUNDINGS[scheme]


def _blocks(types: Types, rounding: Rounding) -> tuple[Dim, ...]:
    """The dims of x in blocks. What is rounded one by one may have any number of columns."""
    x = types[0]
    require(x.dtype == "f32" and len(x.dims) > 1, f"x is {x}, expected f32 of two dims or more")
    if rounding.elements == 1:
        return x.dims
    columns = width(x.dims[-1], "columns of x")
    require(columns % rounding.elements == 0, f"rows of x have {columns} elements, expected a multiple of {rounding.elements}")
    return (*x.dims[:-1], columns // rounding.elements)


def _round(types: Types, attrs: Attrs) -> TensorType:
    _blocks(types, _rounding(attrs))
    return types[0]


def _checked(x: Array, attrs: Attrs) -> Rounding:
    rounding = _rounding(attrs)
    require(
        rounding.most_rows is None or len(x) <= rounding.most_rows,
        f"{rounding.name} is how a pass of up to {rounding.most_rows} positions is rounded, and this one has {len(x)}; run fewer at once",
    )
    return rounding


def _round_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    return round_values(operands[0], _checked(operands[0], attrs))


ROUND = Op(
    "round",
    "x as float32, each row rounded block by block by `scheme`, and multiplied out again: [n, C] or [n, k, C] -> the same.",
    ("x",),
    infer=_round,
    reference=_round_reference,
    attrs={"scheme": str},
    traits=Traits(is_rowwise=True),
)


def _sum_errors(types: Types, attrs: Attrs) -> TensorType:
    rounding = _rounding(attrs)
    require(rounding.sum_errors is not None, f"scheme is {rounding.name!r}, which has no sums of blocks")
    return TensorType("f32", _blocks(types, rounding))


def _sum_errors_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    return np.asarray(sum_errors(operands[0], _checked(operands[0], attrs)))


ROUND_SUM_ERRORS = Op(
    "round_sum_errors",
    "What the sums of the blocks of x that `scheme` keeps are off the sums of what it rounds x to: [n, C] or [n, k, C] -> "
    "[n, blocks] or [n, k, blocks]. Times the minima of a weight's blocks, it is what this adds to a matrix product.",
    ("x",),
    infer=_sum_errors,
    reference=_sum_errors_reference,
    attrs={"scheme": str},
    traits=Traits(is_rowwise=True),
)
