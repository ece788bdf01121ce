"""Elementwise ops are formulas over any arithmetic (arithmetic.py): what such an op is, and how one is declared.

Reference and kernels come from the formula; operands, attributes and their defaults from its parameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Attr, TensorType
from aprgraph.graph.ops.arithmetic import Arithmetic, Float64, Term, Written
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, require
from aprgraph.graph.ops.traits import Traits

#: ``formula(m, *operands, **attributes)``: what one element is computed as; ``m`` is the arithmetic.
Formula = Callable[..., Any]

#: What an attribute may hold, by the annotation of its parameter, which is text where annotations are postponed.
_KINDS: Mapping[object, type] = {float: float, int: int, bool: bool, "float": float, "int": int, "bool": bool}


@dataclass(frozen=True, kw_only=True)
class Elementwise(Op):
    """An op that is a formula.

    ``per_row`` names the operands that have one value for each row. ``is_own`` says that a user's file brought the op,
    so that its name alone does not tell what it computes.
    """

    formula: Formula
    per_row: frozenset[str] = frozenset()
    is_own: bool = False

    @property
    def place(self) -> str:
        """Where the formula stands: file and line."""
        return place_of(self.formula)

    def value(self, arithmetic: Arithmetic, operands: Sequence[Any], attrs: Attrs) -> Any:
        """One element of the result, of those of the operands."""
        return self.formula(arithmetic, *operands, **{**self.defaults, **attrs})

    def is_same(self, other: Op) -> bool:
        """Whether another op computes the same, as far as two sets of attributes show."""
        if not isinstance(other, Elementwise) or (self.operands, self.per_row) != (other.operands, other.per_row):
            return False
        if (self.attrs, self.defaults) != (other.attrs, other.defaults):
            return False
        samples = ({name: kind(number) for name, kind in self.attrs.items()} for number in (2.5, 0.625))
        return all(self.written(sample) == other.written(sample) for sample in samples)

    def written(self, attrs: Attrs) -> str:
        """The formula as text, with the attributes' values in it: equal for equal computations."""
        return str(self.value(Written(), [Term(name) for name in self.operands], attrs))


def declare(name: str, formula: Formula, summary: str = "", *, per_row: Sequence[str] = (), is_own: bool = False) -> Elementwise:
    """The elementwise op ``name``.

    The parameters of ``formula`` after the first are the operands: f32, of one shape [n, C] or [n, k, C], or for those
    of ``per_row`` [n, 1] or [n, k, 1]. Keyword-only parameters are attributes: float unless annotated as int or bool.
    Without a ``summary`` the formula stands for it. Raises GraphError for a function that is no formula.
    """
    expected = "the arithmetic, then operands, then attributes behind a '*', such as (m, x, *, cap)"
    (_, *operands), attrs, defaults = parameters_of(formula, _what(name, formula), expected, least=2)
    strange = sorted(set(per_row) - set(operands[1:]))
    require(not strange, f"{_what(name, formula)}: per_row names {', '.join(strange)}, expected operands after the first")
    return Elementwise(
        name, summary or _written_with_names(name, formula, operands, attrs), tuple(operands),
        infer=partial(_infer, operands, frozenset(per_row)),
        reference=partial(_reference, formula, defaults),
        attrs=attrs, defaults=defaults, numbers=_numbers(attrs, is_own=is_own), traits=Traits(is_rowwise=True),
        formula=formula, per_row=frozenset(per_row), is_own=is_own,
    )  # fmt: skip


def _numbers(attrs: Mapping[str, type], *, is_own: bool) -> dict[str, None]:
    """The attributes that kernels take when they are called, in f32: the reals of the package's formulas.

    These use an attribute or its negative as an operand and in no other way, so that it is the same in f32. A formula of
    a user's file may branch on an attribute, or compute with it in float64 first.
    """
    return {} if is_own else dict.fromkeys(name for name, kind in attrs.items() if kind is float)


def parameters_of(
    function: Callable[..., Any], what: str, expected: str, *, least: int = 1
) -> tuple[tuple[str, ...], dict[str, type], dict[str, Attr]]:
    """The positional parameters of a function, ``least`` or more, the attributes behind them, and their defaults.

    Raises GraphError that names ``what`` is declared, and what parameters are ``expected``.
    """
    parameters = list(inspect.signature(function).parameters.values())
    operands = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty)
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    require(len(operands) >= least and len(operands) + len(keywords) == len(parameters), f"{what}: expected a function of {expected}")
    attrs: dict[str, type] = {}
    defaults: dict[str, Attr] = {}
    for parameter in keywords:
        kind = float if parameter.annotation is parameter.empty else _KINDS.get(parameter.annotation)
        require(kind is not None, f"{what}: attribute {parameter.name} is {parameter.annotation}, expected float, int or bool")
        assert kind is not None
        attrs[parameter.name] = kind
        if parameter.default is not parameter.empty:
            defaults[parameter.name] = kind(parameter.default)
    return operands, attrs, defaults


def _written_with_names(name: str, formula: Formula, operands: Sequence[str], attrs: Mapping[str, type]) -> str:
    """The formula as text, attributes by name if it does not branch on them. Raises GraphError for what is none."""
    by_name = {attr: Term(attr) for attr in attrs}
    try:
        try:
            return str(formula(Written(), *map(Term, operands), **by_name))
        except TypeError:
            return str(formula(Written(), *map(Term, operands), **{attr: kind(1) for attr, kind in attrs.items()}))
    except (TypeError, AttributeError) as error:
        functions = ", ".join(function for function in vars(Arithmetic) if not function.startswith("_"))
        raise GraphError(
            f"{_what(name, formula)} cannot be written as a formula: {error}; expected + - * / and functions of the arithmetic: {functions}"
        ) from None


def _what(name: str, formula: Formula) -> str:
    return f"the elementwise op {name!r} ({place_of(formula)})"


def place_of(formula: Formula) -> str:
    """The file and the line that a function stands in."""
    code = getattr(inspect.unwrap(formula), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(formula)


def _infer(names: Sequence[str], per_row: frozenset[str], types: Types, _attrs: Attrs) -> TensorType:
    require(all(t.dtype == "f32" for t in types), f"operands are {', '.join(map(str, types))}, expected f32")
    whole = [kind for name, kind in zip(names, types, strict=True) if name not in per_row]
    require(len(set(whole)) == 1, f"operands differ: {', '.join(map(str, whole))}")
    for name, kind in zip(names, types, strict=True):
        expected = TensorType("f32", (*whole[0].dims[:-1], 1))
        require(
            name not in per_row or kind == expected,
            f"the {name} are {kind}, but {names[0]} is {whole[0]}: expected one {name.rstrip('s')} a row",
        )
    return whole[0]


def _reference(formula: Formula, defaults: Attrs, operands: Sequence[Array], attrs: Attrs) -> Array:
    with np.errstate(all="ignore"):  # x / exp(-x) is 0 where exp(-x) is inf, and inf - inf is NaN
        return np.asarray(formula(Float64(), *operands, **{**defaults, **attrs}))
