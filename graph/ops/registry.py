"""Ops that are not in the package: how a family's file brings its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar, overload

from aprgraph.graph.errors import GraphError, shown
from aprgraph.graph.ops import OPS
from aprgraph.graph.ops.formula import Elementwise, Formula, declare
from aprgraph.graph.ops.rowwise import Columns, Function, Rowwise, declare_rowwise

_Own = TypeVar("_Own", Elementwise, Rowwise)
#: What the textual form of a graph takes for the name of an op.
_NAME = re.compile("[a-z_0-9]+")


@overload
def elementwise(name: str, formula: Formula, summary: str = "", *, per_row: Sequence[str] = ()) -> Elementwise: ...


@overload
def elementwise(name: str, *, summary: str = "", per_row: Sequence[str] = ()) -> Callable[[Formula], Elementwise]: ...


def elementwise(
    name: str, formula: Formula | None = None, summary: str = "", *, per_row: Sequence[str] = ()
) -> Elementwise | Callable[[Formula], Elementwise]:
    """Declare the elementwise op ``name`` and make it known, so that graphs may use it; it may stand as a decorator.

        soft_cap = elementwise("soft_cap", lambda m, x, *, cap: m.tanh(x / cap) * cap)

    The first parameter of ``formula`` is the arithmetic (graph/ops/arithmetic.py): the reference runs the formula in
    float64, and kernels are made of it in f32. Its other parameters are operands, f32 tensors of one shape [n, C] or
    [n, k, C]; those that ``per_row`` names have one value for each row, [n, 1] or [n, k, 1]. Keyword-only parameters
    are attributes: float unless annotated as int or bool.

    To declare the same op again is allowed. Raises GraphError for a name that another op has, and for a function that
    is no formula.
    """
    if formula is None:
        return lambda function: elementwise(name, function, summary, per_row=per_row)
    if not _NAME.fullmatch(name):
        raise GraphError(f"an elementwise op is called {shown(name)}, expected small letters, digits and underscores")
    return _make_known(declare(name, formula, summary, per_row=per_row, is_own=True))


def rowwise(name: str, *, weights: Sequence[str] = (), columns: Columns | None = None) -> Callable[[Function], Rowwise]:
    """A decorator that declares the op ``name`` of a function in NumPy, for the target reference: no kernel is made of it.

        @rowwise("scale_norm", weights=["weight"])
        def scale_norm(x, weight, *, eps):
            length = np.sqrt(np.square(x).sum(-1, keepdims=True))
            return x / np.maximum(length, eps) * weight

    The function gets float64 arrays. Operands are f32 tensors [n, C] or [n, k, C] of equal n and k, but those of
    ``weights``, which are weights of any format and dims. Each row of the result must depend on the same row of the
    operands alone. It has as many columns as the first operand, or ``columns(*dims)`` of the dims of each. Keyword-only
    parameters are attributes, as for ``elementwise``.

    Raises GraphError for a name that another op has, and for a function of other parameters.
    """
    if not _NAME.fullmatch(name):
        raise GraphError(f"an op is called {shown(name)}, expected small letters, digits and underscores")
    return lambda function: _make_known(declare_rowwise(name, function, weights, columns))


def _make_known(op: _Own) -> _Own:
    """Add an op to the table, and return it, or the same one that is there. Raises GraphError if another has its name."""
    there = OPS.setdefault(op.name, op)
    if there is not op and not op.is_same(there):
        other = there.place if isinstance(there, (Elementwise, Rowwise)) else "one of aprgraph's own"
        raise GraphError(f"two ops are called {op.name!r}: {op.place} and {other}; expected one, so rename one of them")
    assert isinstance(there, type(op))
    return there


def is_own_formula(op: str) -> bool:
    """Whether the op ``op`` is a formula that a user's file brought: its name alone does not say what it computes."""
    found = OPS.get(op)
    return isinstance(found, Elementwise) and found.is_own
