"""One rank of a tensor-parallel run: tensors of half, a quarter or an eighth of the width, where others are whole.

Such a run (Megatron-LM, arXiv:1909.08053) splits heads and the FFN over its ranks, so that what a rank holds of q, k, v, scores and the
FFN is a part of the columns or heads, while hidden states are whole on every rank. Sizes alone tell a part of the width from fewer
positions where some tensor is whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.graph.words import joined, plural

#: How many ranks a run may have.
RANKS = (2, 4, 8, 16, 32, 64)
#: What ranks split, by the letters of the stage table: heads, columns of the FFN, rows of the vocabulary.
_SPLIT = frozenset(("(H+2K)*D", "H*D", "K*D", "H", "F", "V"))
#: The largest number of stages that a sentence names.
_NAMED = 3
_PARTS = {2: "half", 4: "a quarter of", 8: "an eighth of"}
_COUNTS = {2: "two", 4: "four", 8: "eight"}


@dataclass(frozen=True)
class Held:
    """How much a side holds of one tensor: ``count`` elements, where ``whole`` are expected. ``width`` is the size of the axis that ranks
    split (columns, or heads), None where that is not known. ``certain``: its shape says that all positions are there.
    """

    stage: str
    count: int
    whole: int
    width: int | None = None
    certain: bool = False

    @property
    def ranks(self) -> int | None:
        """Of how many ranks this would be one; None where it is whole, or no such part."""
        if not is_split(self.stage):
            return None
        return next((ranks for ranks in RANKS if self.count * ranks == self.whole and (self.width or ranks) % ranks == 0), None)

    def describe(self) -> str:
        """``32 of 64 columns of q_post_rope``."""
        ranks = self.ranks
        assert ranks is not None
        if self.width is None:
            return f"{self.count} of {self.whole} elements of {self.stage}"
        return f"{self.width // ranks} of {self.width} {'heads' if 'H' in STAGE_BY_NAME[self.stage].dims else 'columns'} of {self.stage}"


@dataclass(frozen=True)
class Shard:
    """One rank of ``ranks``; ``held`` are the tensors of which it has its part, one of each stage."""

    ranks: int
    held: tuple[Held, ...]

    @property
    def part(self) -> str:
        """``half`` (the width), ``a quarter of``."""
        return _PARTS.get(self.ranks, f"1/{self.ranks} of")

    @property
    def rank(self) -> str:
        """``one rank of two``."""
        return f"one rank of {_COUNTS.get(self.ranks, self.ranks)}"

    def sentence(self, side: str) -> str:
        """What ``side`` holds, what that looks like, and what to do about it."""
        named = [held.describe() for held in self.held[:_NAMED]]
        more = len(self.held) - len(named)
        if more:
            named.append(f"of {more} more {plural(more, 'stage')}")
        looks_like = f"{self.part} the width is what {self.rank} of a tensor-parallel run has"
        return f"{looks_like}: {side} holds {joined(named)}; gather the ranks before writing"


def find_shard(tensors: Iterable[Held]) -> Shard | None:
    """What most of the tensors of split stages say; None where they are whole, or where fewer positions explain the sizes as well.

    ``tensors`` are those of one pass, without what is known to hold the last position alone.
    """
    tensors = list(tensors)
    parts = [held for held in tensors if held.ranks is not None]
    if not parts:
        return None
    [(ranks, votes)] = Counter(held.ranks for held in parts).most_common(1)
    assert ranks is not None
    # As many positions less would make parts of all stages; hidden states are whole on every rank.
    all_positions = any(held.certain for held in parts) or any(held.count == held.whole for held in tensors if not is_split(held.stage))
    whole = sum(held.count == held.whole for held in tensors if is_split(held.stage))
    if not all_positions or votes <= whole:
        return None
    return Shard(ranks, tuple({held.stage: held for held in reversed(parts) if held.ranks == ranks}.values())[::-1])


def is_split(stage: str) -> bool:
    """Whether each rank holds a part of a stage only."""
    return stage in STAGE_BY_NAME and bool(_SPLIT & {*STAGE_BY_NAME[stage].dims})
