"""What explains a wrong stage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from aprgraph.graph.words import joined

#: So many mistakes that fit as well as the first are named.
_OTHERS = 3
#: Mistakes by which queries do not see keys that they should see.
HIDING = ("window", "mask-itself", "mask-hides", "causal")
#: The rows of other tokens: right ones, so that no weight is to blame.
ANOTHER_PROMPT = "other-token"


@dataclass(frozen=True)
class Candidate:
    """A mistake that explains a stage: its ``name``, ``words`` that go on "it fits if", and the ``error`` that it leaves (NMSE).

    ``shows_in`` are ops that compute otherwise by the same mistake where they read the stage. ``nodes`` are the graph's nodes that
    it is made at, where that is known, and ``changes`` is how many elements of their values it changes. ``rank``, ``begins_at`` and
    ``counts`` are the alternative's.
    """

    name: str
    words: str
    error: float
    shows_in: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    changes: int = 0
    rank: int = 0
    begins_at: int | None = None
    counts: tuple[int, ...] = ()


def how_well(error: float) -> str:
    """How well something fits that leaves the NMSE ``error``: ``to 3e-14``."""
    return f"to {error:.0e}" if error else "exactly"


@dataclass(frozen=True)
class Explanation:
    """The mistakes under which a stage is what was recorded, to rounding: the ``first``, and ``others`` that fit as well.

    Where there are others, the trace does not tell them apart. A convention of recording, and no mistake, has words that say what bears
    it out (``borne_out``): the tensor is right.
    """

    first: Candidate
    others: tuple[Candidate, ...] = ()
    borne_out: str = ""

    @property
    def is_convention(self) -> bool:
        """Whether it is how the tensor was recorded, and not what was computed."""
        return bool(self.borne_out)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All of them, the likeliest first."""
        return (self.first, *self.others)

    def where_values_hide(self) -> Explanation:
        """The same of scores that hold -inf where a mistake hides keys: what reads them hides these too, by the values alone."""
        first, *others = (replace(one, shows_in=()) if one.name in HIDING else one for one in self.candidates)
        return replace(self, first=first, others=tuple(others))

    @property
    def sentence(self) -> str:
        """``it fits to 3e-14 if RoPE pairs neighbours in place of halves``."""
        return f"it fits {how_well(self.first.error)} if {self._joined('if ')}"

    @property
    def cause(self) -> str:
        """The same without how well it fits: ``RoPE pairs neighbours in place of halves``."""
        return self._joined("")

    def _joined(self, conjunction: str) -> str:
        if not self.others:
            return self.first.words
        more = f", or one of {len(self.others) - _OTHERS} more" if len(self.others) > _OTHERS else ""
        either = joined([self.first.words, *(f"{conjunction}{other.words}" for other in self.others[:_OTHERS])], "or")
        return f"{either}{more}: this trace does not tell these apart"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "kind": "convention" if self.is_convention else "mistake",
            "name": self.first.name,
            "words": self.first.words,
            "error": self.first.error,
            "others": [one.words for one in self.others],
            "borne_out": self.borne_out or None,
        }
