"""Ops of a family's own that compute each row from the same row of their operands, and from weights, in NumPy.

The reference alone runs them: kernels are made of formulas (formula.py), and this is no formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Dim, TensorType
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, require
from aprgraph.graph.ops.formula import parameters_of, place_of
from aprgraph.graph.ops.traits import Traits

#: ``function(*operands, **attributes)`` of float64 arrays: rows [n, C] or [n, k, C], and weights in their dims.
Function = Callable[..., Any]
#: The number of columns of the result, of the dims of each operand.
Columns = Callable[..., Dim]


@dataclass(frozen=True, kw_only=True)
class Rowwise(Op):
    """An op that is a function of rows."""

    function: Function

    @property
    def place(self) -> str:
        """Where the function stands: file and line."""
        return place_of(self.function)

    def is_same(self, other: Op) -> bool:
        """Whether another op has the same code."""
        return isinstance(other, Rowwise) and self.function.__code__ == other.function.__code__


def declare_rowwise(name: str, function: Function, weights: Sequence[str], columns: Columns | None) -> Rowwise:
    """The op ``name``. The parameters of ``function`` are those of a formula, without the arithmetic.

    Raises GraphError for a function with other parameters.
    """
    what = f"the op {name!r} ({place_of(function)})"
    operands, attrs, defaults = parameters_of(function, what, "operands, then attributes behind a '*', such as (x, weight, *, eps)")
    strange = sorted(set(weights) - set(operands[1:]))
    require(not strange, f"{what}: weights names {', '.join(strange)}, expected operands after the first")
    return Rowwise(
        name, (function.__doc__ or name).strip().partition("\n")[0], operands,
        infer=partial(_infer, operands, frozenset(weights), columns),
        reference=partial(_reference, what, function, [operand in weights for operand in operands], defaults),
        attrs=attrs, defaults=defaults, traits=Traits(weights=tuple(weights), is_rowwise=True), function=function,
    )  # fmt: skip


def _infer(names: Sequence[str], weights: frozenset[str], columns: Columns | None, types: Types, _attrs: Attrs) -> TensorType:
    for name, kind in zip(names, types, strict=True):
        rows = kind.dims[:-1] == types[0].dims[:-1] and kind.dtype == "f32"
        require(name in weights or rows, f"{name} is {kind}, expected f32 with the rows of {names[0]}, which is {types[0]}")
    last = types[0].dims[-1] if columns is None else columns(*(kind.dims for kind in types))
    return TensorType("f32", (*types[0].dims[:-1], last))


def _reference(what: str, function: Function, is_weight: Sequence[bool], defaults: Attrs, operands: Sequence[Array], attrs: Attrs) -> Array:
    def compute(rows: slice) -> Array:
        parts = [each if whole else each[rows] for each, whole in zip(operands, is_weight, strict=True)]
        try:
            return np.asarray(function(*parts, **{**defaults, **attrs}), dtype=np.float64)
        except Exception as error:
            raise GraphError(f"{what} could not be computed: {type(error).__name__}: {error}") from error

    result, last = compute(slice(None)), compute(slice(-1, None))
    # Passes that hold other positions would otherwise give other numbers, such as those of a decoded token.
    alike = result[-1:].shape == last.shape and np.allclose(result[-1:], last, rtol=1e-9, atol=1e-12, equal_nan=True)
    require(alike, f"{what} looks at other rows: the last one alone gives something else; expected each row of the same row alone")
    return result
