"""Ops that are not in the package: how a family's file brings its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import overload

from aprgraph.graph.errors import GraphError, shown
from aprgraph.graph.ops import OPS
from aprgraph.graph.ops.formula import Elementwise, Formula, declare

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
    op = declare(name, formula, summary, per_row=per_row, is_own=True)
    there = OPS.setdefault(name, op)
    if there is not op and not op.is_same(there):
        other = there.place if isinstance(there, Elementwise) else "one of aprgraph's own"
        raise GraphError(f"two ops are called {name!r}: {op.place} and {other}; expected one, so rename one of them")
    assert isinstance(there, Elementwise)
    return there


def is_own_formula(op: str) -> bool:
    """Whether the op ``op`` is a formula that a user's file brought: its name alone does not say what it computes."""
    found = OPS.get(op)
    return isinstance(found, Elementwise) and found.is_own
