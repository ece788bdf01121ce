"""What the declaration of an op says: operands, attributes, the type of its result, and its meaning in float64.

Everything else about an op follows from its declaration: the verifier, the parser, the reference interpreter, the
generated documentation. The TVM kernels of an op lie in ``codegen/kernels``, in ``cpu`` and ``cuda``, in the file that bears
the name of this one's; an op that is a formula (formula.py) needs none of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aprgraph.graph.errors import GraphError, shown
from aprgraph.graph.ir import Attr, Dim, Node, TensorType
from aprgraph.graph.ops.aliases import Array, Attrs, Types
from aprgraph.graph.ops.traits import NO_TRAITS, Traits

__all__ = ["Array", "Attrs", "Op", "Types", "activation", "integer", "number", "require", "width"]

#: How many uses of an op ``check`` remembers.
_USES_KEPT = 1000


@dataclass(frozen=True)
class Op:
    """The declaration of one op.

    ``operands`` names the operands in order; a trailing ``*`` means one or more of the last, ``?`` that it may be
    absent. ``attrs`` maps attribute names to what they hold; those of ``defaults`` may be absent, and graphs leave them
    out where they have the default, so that a graph reads as it did before there was the attribute. ``infer`` gives the
    result's type or raises GraphError. ``reference`` computes the result from float64 operands, with a state that of a
    first pass. ``traits`` are what other code asks for.

    ``numbers`` names the attributes that shape no code, such as an epsilon: a kernel takes them when it is called, so
    that another value needs no other kernel. Each is mapped to the value that means "leave this out", or to None.
    """

    name: str
    summary: str
    operands: tuple[str, ...]
    infer: Callable[[Types, Attrs], TensorType]
    reference: Callable[[Sequence[Array], Attrs], Array] | None = None
    attrs: Mapping[str, type] = field(default_factory=dict)
    defaults: Mapping[str, Attr] = field(default_factory=dict)
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    traits: Traits = NO_TRAITS
    #: What ``check`` has found good: layers are alike, and so are the graphs of a model with other taps.
    _good_uses: set[object] = field(default_factory=set, init=False, repr=False, compare=False)

    def index(self, operand: str) -> int:
        """The place of an operand by its name: of one that may be repeated, the first."""
        return [name.rstrip("*?") for name in self.operands].index(operand)

    def operands_named(self, count: int) -> list[str]:
        """The names of ``count`` operands of one node, in order."""
        names = [name.rstrip("*?") for name in self.operands]
        return names[:count] + names[-1:] * (count - len(names))

    def numbers_of(self, attrs: Attrs) -> dict[str, int | float]:
        """Of ``numbers`` those that a kernel takes for ``attrs``, in order: all that are not left out."""
        values = {**self.defaults, **attrs}
        return {name: _as_number(values[name]) for name, left_out in self.numbers.items() if values[name] != left_out}

    def check(self, node: Node, operand_types: Types) -> None:
        """Raise GraphError unless ``node`` is a well-formed use of this op: operand count, attributes, result type."""
        # With the types of the attributes, for 1, 1.0 and True are equal.
        use = (tuple(operand_types), tuple((name, type(value), value) for name, value in node.attrs.items()), node.type)
        if use in self._good_uses:
            return
        inferred = self.result(operand_types, node.attrs)
        if inferred != node.type:
            raise GraphError(f"{self.name} gives {inferred}, but the node says {node.type}")
        if len(self._good_uses) >= _USES_KEPT:
            self._good_uses.clear()
        self._good_uses.add(use)

    def result(self, operand_types: Types, attrs: Attrs) -> TensorType:
        """The type of the result. Raises GraphError for operands or attributes that are not as declared."""
        least = sum(1 for name in self.operands if not name.endswith("?"))
        most = None if self.operands and self.operands[-1].endswith("*") else len(self.operands)
        if len(operand_types) < least or (most is not None and len(operand_types) > most):
            expected = ", ".join(self.operands) or "none"
            raise GraphError(f"{self.name} has {len(operand_types)} operands, expected ({expected})")
        if not set(self.attrs) - set(self.defaults) <= set(attrs) <= set(self.attrs):
            expected = ", ".join(sorted(set(self.attrs) - set(self.defaults))) or "none"
            others = f" (and perhaps {', '.join(self.defaults)})" if self.defaults else ""
            raise GraphError(f"{self.name} has the attributes {sorted(attrs)}, expected {expected}{others}")
        for name, value in attrs.items():
            kind = self.attrs[name]
            ok = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
            if not ok:
                raise GraphError(f"{self.name}: attribute {name} is {shown(value)}, expected {kind.__name__}")
            if isinstance(value, float) and not math.isfinite(value):
                raise GraphError(f"{self.name}: attribute {name} is {shown(value)}, expected a finite number")
        return self.infer(operand_types, attrs)


def require(condition: bool, message: str) -> None:
    """Raise GraphError with ``message`` unless ``condition``."""
    if not condition:
        raise GraphError(message)


def activation(rank: int, operand: TensorType, what: str) -> tuple[Dim, ...]:
    """The dims of an f32 operand of ``rank`` dims. Raises GraphError for anything else."""
    require(operand.dtype == "f32" and len(operand.dims) == rank, f"{what} is {operand}, expected f32 of {rank} dims")
    return operand.dims


def width(dim: Dim, what: str) -> int:
    """A dimension that must be a number."""
    if isinstance(dim, str):
        raise GraphError(f"{what} is the symbol {dim!r}, expected a number")
    return dim


def integer(attrs: Attrs, name: str) -> int:
    """An integer attribute that has been checked before."""
    value = attrs[name]
    assert isinstance(value, int)
    return value


def number(attrs: Attrs, name: str) -> float:
    """A number attribute that has been checked before."""
    return float(_as_number(attrs[name]))


def _as_number(value: Attr) -> int | float:
    assert isinstance(value, (int, float))
    return value
