"""Where a tensor is wrong, along each of its axes: which positions, heads, columns, choices or keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.words import listed

#: An index whose error is below this part of the largest one's is right.
_RIGHT = 1e-6
_NAMED = 4
#: What the axes of the stage table are called; columns have many letters.
_NAMES = {"n": "position", "t": "key", "H": "head", "K": "KV head", "D": "element of each head", "X": "expert", "k": "choice", "V": "token"}


def extent_of(axes: Sequence[tuple[str, int]], recorded: Array, due: Array) -> tuple[str, ...]:
    """What of a wrong tensor is wrong, such as ``positions 24 to 31`` or ``heads 1, 3``. An axis that is wrong in most places is not named.

    ``axes`` are the letters and sizes of its finest axes, outermost first.
    """
    with np.errstate(all="ignore"):
        off = np.square(recorded.astype(np.float64) - due)
    sizes = [size for _, size in axes]
    if off.size != np.prod(sizes, dtype=np.int64):
        return ()
    off = np.where(np.isfinite(off), off, np.inf).reshape(sizes)
    others = range(len(sizes))
    return tuple(
        words
        for axis, (letter, _) in enumerate(axes)
        for words in _named(_NAMES.get(letter, "column"), off.sum(axis=tuple(other for other in others if other != axis)))
    )


def _named(name: str, energy: Array) -> Iterator[str]:
    wrong = np.flatnonzero((energy > _RIGHT * energy.max()) | np.isinf(energy))
    if not 0 < 2 * wrong.size <= energy.size:
        return
    runs = np.split(wrong, np.flatnonzero(np.diff(wrong) > 1) + 1)
    texts = [f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    first, _, rest = name.partition(" of")
    yield f"{first}{'s' if wrong.size > 1 else ''}{' of' * bool(rest)}{rest} {listed(texts, _NAMED)}"
