"""Comparing ids, such as those of the chosen experts: as a set per position. A distance between ids means nothing.

Where the scores that the ids were chosen by are recorded, a choice that differs is judged by them:

    near-tie      each side that recorded its scores chose its own best, and by these the experts that the two sides do not
                  share lie no further apart than noise can bring them: the difference is noise
    tie           both sides' scores are exactly equal there, and the tie was broken differently: a convention differs
    unexplained   anything else
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from aprgraph.runtime.trace.aprt import F32

#: The largest number of differing choices that a report describes one by one.
DESCRIBED = 16


class ChoiceState(str, Enum):
    """What a choice that differs comes from; see the module docstring."""

    NEAR_TIE = "near-tie"
    TIE = "tie"
    UNEXPLAINED = "unexplained"
    UNJUDGED = "unjudged"  # neither side recorded its scores


@dataclass(frozen=True)
class Choice:
    """One position that chose another set on the two sides; what both chose is left out of ``only_a`` and ``only_b``.

    ``margin_*`` is the distance from the last chosen to the first unchosen expert's score on that side, below 0 where the choice is
    not the best by its own scores; None where the side did not record them. ``allowed`` is how far apart noise can bring two scores.
    """

    position: int
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]
    margin_a: float | None = None
    margin_b: float | None = None
    allowed: float | None = None
    state: ChoiceState = ChoiceState.UNJUDGED

    def describe(self) -> str:
        """In words: ``position 3 chose {5} in A, {7} in B; margin 2e-07 in A, 3e-07 in B``."""
        sets = (f"{{{', '.join(map(str, ids))}}}" for ids in (self.only_a, self.only_b))
        text = "position {} chose {} in A, {} in B".format(self.position, *sets)
        margins = [f"{value:.1e} in {side}" for side, value in (("A", self.margin_a), ("B", self.margin_b)) if value is not None]
        return text + (f"; margin {', '.join(margins)}" if margins else "")

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "position": self.position,
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "margin_a": self.margin_a,
            "margin_b": self.margin_b,
            "allowed": self.allowed,
            "state": self.state.value,
        }


@dataclass(frozen=True)
class IndexMetrics:
    """``differing`` of ``positions`` positions chose another set of ids, first at ``first``; ``reordered`` more chose
    the same set in another order.

    ``judged``: scores were recorded, so that ``near_ties`` and ``ties`` of the differing choices are known as such, and the rest
    is unexplained. ``choices`` describe the first of the differing positions, those that are no near-ties before the others.
    ``near_tie_positions`` are all of theirs. ``chosen_by`` is the stage of the scores.
    """

    count: int
    bit_identical: bool
    positions: int
    differing: int
    reordered: int
    first: int | None
    judged: bool = False
    near_ties: int = 0
    ties: int = 0
    choices: tuple[Choice, ...] = ()
    near_tie_positions: tuple[int, ...] = field(default=(), repr=False)
    chosen_by: str = field(default="moe_router_logits", repr=False)

    @property
    def share(self) -> float:
        """The part of the positions whose sets differ."""
        return self.differing / self.positions

    @property
    def unexplained(self) -> int:
        """How many positions chose another set that no near-tie explains."""
        return self.differing - self.near_ties

    @property
    def unexplained_share(self) -> float:
        """Their part of the positions."""
        return self.unexplained / self.positions

    def describe(self) -> str:
        """Where the sets differ beyond near-ties, in words."""
        where = "" if self.first is None else f", first position {self.first}"
        text = f"another set of ids at {self.unexplained} of {self.positions} positions{where}"
        worst = next((choice for choice in self.choices if choice.state is not ChoiceState.NEAR_TIE), None)
        if not self.judged or worst is None:
            return text
        where = f"another set of ids at {self.unexplained} of {self.positions} positions: {worst.describe()}"
        if worst.state is ChoiceState.TIE:
            return f"{where}: a tie, broken differently (the lower id comes first)"
        wrong = [side for side, margin in (("A", worst.margin_a), ("B", worst.margin_b)) if margin is not None and margin < 0]
        if wrong:
            return f"{where}: not the best by the scores of {' and '.join(wrong)}"
        return f"{where}, where noise explains {worst.allowed or 0.0:.1e}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "count": self.count,
            "bit_identical": self.bit_identical,
            "positions": self.positions,
            "differing": self.differing,
            "reordered": self.reordered,
            "first": self.first,
            "share": self.share,
            "judged": self.judged,
            "near_ties": self.near_ties,
            "ties": self.ties,
            "unexplained": self.unexplained,
            "choices": [choice.to_json() for choice in self.choices],
        }


def compare_indices(a: F32, b: F32, *, structured: bool = True) -> IndexMetrics | None:
    """Compare two tensors of ids, [..., k], as sets of k along the last axis.

    Where the shape is not known (``structured`` false) the whole is one set with repetitions: if those differ, then
    some position's do. If they are equal in another order nothing is certain, and the answer is None.
    """
    bits_a, bits_b = (np.ascontiguousarray(side).view(np.uint32) for side in (a, b))
    width = a.shape[-1] if structured and a.ndim else a.size
    rows_a, rows_b = (side.reshape(-1, width) for side in (bits_a, bits_b))
    sets_differ = (np.sort(rows_a, axis=1) != np.sort(rows_b, axis=1)).any(axis=1)
    order_differs = (rows_a != rows_b).any(axis=1) & ~sets_differ
    if not structured and order_differs.any():
        return None
    return IndexMetrics(
        count=a.size,
        bit_identical=bool(np.array_equal(bits_a, bits_b)),
        positions=len(rows_a),
        differing=int(sets_differ.sum()),
        reordered=int(order_differs.sum()),
        first=int(sets_differ.argmax()) if structured and sets_differ.any() else None,
    )
