"""The arithmetic that elementwise ops are declared in: one formula is the reference in float64 and the kernels' in f32.

A formula uses ``+``, ``-``, ``*`` and ``/`` on its operands and on numbers, and what ``Arithmetic`` has. It runs on
three kinds of values: on arrays (``Float64``), on TVM expressions (codegen/kernels/elementwise.py), and on text
(``Written``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Arithmetic(Protocol):
    """Functions of formulas, of values or numbers. A NaN among the arguments gives NaN, but for ``where``."""

    def exp(self, x: Any) -> Any:
        """e^x."""

    def tanh(self, x: Any) -> Any:
        """The hyperbolic tangent."""

    def sqrt(self, x: Any) -> Any:
        """The square root; NaN below 0."""

    def minimum(self, a: Any, b: Any) -> Any:
        """The smaller one."""

    def maximum(self, a: Any, b: Any) -> Any:
        """The larger one."""

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """``a`` where a comparison (``<``, ``<=``, ``>``, ``>=``) holds, else ``b``. Both are computed."""

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a · b + c, rounded once where the target can."""

    def softplus(self, x: Any) -> Any:
        """log(1 + e^x)."""

    def erfc(self, x: Any) -> Any:
        """1 - erf(x), the complementary error function."""


_ERFC = np.vectorize(math.erfc, otypes=[np.float64])


class Float64:
    """On NumPy arrays: the reference."""

    exp, tanh, sqrt = np.exp, np.tanh, np.sqrt
    minimum, maximum, where = np.minimum, np.maximum, staticmethod(np.where)

    def softplus(self, x: Any) -> Any:
        """See ``Arithmetic.softplus``."""
        return np.logaddexp(0.0, x)

    def erfc(self, x: Any) -> Any:
        """See ``Arithmetic.erfc``."""
        return _ERFC(x) if np.size(x) else np.asarray(x, np.float64)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """See ``Arithmetic.fma``."""
        return a * b + c


@dataclass(frozen=True, eq=False)
class Term:
    """A value that is its own text."""

    text: str

    def __str__(self) -> str:
        return self.text

    def __add__(self, other: Any) -> Term:
        return _joined(self, "+", other)

    def __radd__(self, other: Any) -> Term:
        return _joined(other, "+", self)

    def __sub__(self, other: Any) -> Term:
        return _joined(self, "-", other)

    def __rsub__(self, other: Any) -> Term:
        return _joined(other, "-", self)

    def __mul__(self, other: Any) -> Term:
        return _joined(self, "*", other)

    def __rmul__(self, other: Any) -> Term:
        return _joined(other, "*", self)

    def __truediv__(self, other: Any) -> Term:
        return _joined(self, "/", other)

    def __rtruediv__(self, other: Any) -> Term:
        return _joined(other, "/", self)

    def __lt__(self, other: Any) -> Term:
        return _joined(self, "<", other)

    def __le__(self, other: Any) -> Term:
        return _joined(self, "<=", other)

    def __gt__(self, other: Any) -> Term:
        return _joined(self, ">", other)

    def __ge__(self, other: Any) -> Term:
        return _joined(self, ">=", other)

    def __neg__(self) -> Term:
        return Term(f"(-{self})")

    def __bool__(self) -> bool:
        raise TypeError("a formula cannot branch on an element: use m.where(condition, a, b)")


def _joined(a: Any, sign: str, b: Any) -> Term:
    return Term(f"({_text(a)} {sign} {_text(b)})")


def _text(value: Any) -> str:
    if isinstance(value, Term):
        return value.text
    if isinstance(value, (int, float)):
        return repr(value)
    raise TypeError(f"a formula is made of its operands and numbers, not of {value!r}")


def _called(function: str) -> Any:
    def call(_self: Written, *arguments: Any) -> Term:
        return Term(f"{function}({', '.join(map(_text, arguments))})")

    return call


class Written:
    """On text: the formula as it is computed, whatever names and helpers its function has."""

    exp, tanh, sqrt, softplus, erfc = _called("exp"), _called("tanh"), _called("sqrt"), _called("softplus"), _called("erfc")
    minimum, maximum, where, fma = _called("minimum"), _called("maximum"), _called("where"), _called("fma")
