"""Alternatives: other computations of one node, each a mistake that engines make, declared for the ops that it can happen to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aprgraph.graph.ir import Attr
from aprgraph.graph.ops import Array, traits_named

if TYPE_CHECKING:
    from aprgraph.runtime.explain.site import Site

#: What a node gives in place of what it should, from the operands that it has, in float64.
Compute = Callable[[Sequence[Array]], Array]


@dataclass(frozen=True)
class Alternative:
    """What an engine may have computed at one node.

    ``name`` is the mistake's, one wherever it is made. ``words`` go on "it fits if". ``rank`` says how much they say: of what
    fits as well, what has a higher one is not named. ``shows_in`` are ops that the same mistake changes where they read the node.
    ``together`` are the words of a mistake that is made at several nodes at once, where the name alone does not say which are alike.
    ``after`` gives what it leaves in the node's state, where that is another thing than the node's value. ``begins_at`` is the position
    that the first of the pass would be, and ``counts`` are those of all of them, where that is the mistake.
    """

    name: str
    words: str
    compute: Compute
    rank: int = 0
    shows_in: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    after: Compute | None = None
    begins_at: int | None = None
    counts: tuple[int, ...] = ()


#: The rank of what can happen to any op, of what was solved for, and of what says no more than where.
GENERAL, SOLVED, LOOSE = 1, 2, 3

#: The alternatives of one node, the likelier first. A rule that solves for a number looks at what was recorded.
Rule = Callable[["Site"], Iterator[Alternative]]

_RULES: dict[str, list[Rule]] = {}
_ALONE: set[Rule] = set()
#: The name under which rules of every op stand.
_ANY = ""


def explains(*ops: str, alone: bool = False) -> Callable[[Rule], Rule]:
    """Declare a rule for nodes of ``ops``; of every op where none is named.

    One that goes ``alone`` offers nothing as the second mistake at a node: its mistakes say too little beside another (their rank is
    ``GENERAL`` or ``LOOSE``), or take too long to look for.
    """

    def register(rule: Rule) -> Rule:
        if alone:
            _ALONE.add(rule)
        for op in ops or (_ANY,):
            _RULES.setdefault(op, []).append(rule)
        return rule

    return register


def rules_of(op: str) -> Sequence[Rule]:
    """The rules of an op, its own first, then those of the op that it is in another arithmetic."""
    other = traits_named(op).variant_of
    return (*_RULES.get(op, ()), *(() if other is None else _RULES.get(other, ())), *_RULES.get(_ANY, ()))


def second_rules_of(op: str) -> Sequence[Rule]:
    """Those of them that offer the second mistake at one node."""
    return [rule for rule in rules_of(op) if rule not in _ALONE]


def tried_of(ops: Sequence[str]) -> int:
    """How many kinds of mistakes are tried of nodes of these ops."""
    return len({rule for op in ops for rule in rules_of(op)})


@dataclass(frozen=True)
class Changed:
    """A node of which ``operands``, by their places, are changed, or ``attrs``: a Compute that another mistake can go with."""

    site: Site
    operands: Mapping[int, Callable[[Array], Array]]
    attrs: Mapping[str, Attr]

    def __call__(self, operands: Sequence[Array]) -> Array:
        return self.site.compute(self.change(operands), **self.attrs)

    def change(self, operands: Sequence[Array]) -> list[Array]:
        """What the node reads."""
        return [self.operands[i](operand) if i in self.operands else operand for i, operand in enumerate(operands)]


def with_operand(site: Site, index: int, change: Callable[[Array], Array]) -> Compute:
    """The node with one operand changed."""
    return Changed(site, {index: change}, {})


def with_value(site: Site, index: int, value: Array) -> Compute:
    """The node with another value in place of one operand."""
    return with_operand(site, index, lambda _: value)


def with_attrs(site: Site, **attrs: Attr) -> Compute:
    """The node with other attributes."""
    return Changed(site, {}, attrs)


def goes_on(index: int) -> Compute:
    """An operand as it is, in place of the node's value."""
    return lambda operands: np.asarray(operands[index])


def known_mistakes() -> list[tuple[str, str]]:
    """What each rule tries, as its docstring says, with the ops that it is for ("any" of a rule for all)."""
    ops: dict[Rule, list[str]] = {}
    for op, rules in _RULES.items():
        for rule in rules:
            ops.setdefault(rule, []).append(op or "any")
    return [(", ".join(names), " ".join((rule.__doc__ or "").split())) for rule, names in ops.items()]
