"""Of which position a side has recorded what it holds one position of: it is compared as the last, and the values may be another's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from aprgraph.graph.stages import is_logits
from aprgraph.graph.words import counted
from aprgraph.runtime.diff.align import Pair
from aprgraph.runtime.diff.caveats import Caveat
from aprgraph.runtime.diff.classify import DIVERGED
from aprgraph.runtime.diff.report import DiffRow
from aprgraph.runtime.trace.reader import Trace

#: So many tensors are looked at, of at most so many elements each.
_LOOKED_AT, _LARGEST = 8, 1 << 24


def other_positions(pairs: Sequence[Pair], rows: Sequence[DiffRow], traces: tuple[Trace, Trace]) -> Iterator[Caveat]:
    """Where most of the tensors of one position that differ agree with another position of the other side, which one that is."""
    limits = {row.key: row.limit for row in rows if row.classification in DIVERGED}
    for whole, holder in (("a", "B"), ("b", "A")):
        alone = [pair for pair in pairs if pair.last_of == whole and not is_logits(pair.key.stage) and pair.shape is not None]
        differing = [pair for pair in alone if pair.key in limits][:_LOOKED_AT]
        fits = Counter(position for pair in differing for position in _fitting(pair, limits[pair.key], traces))
        position, votes = max(fits.items(), key=lambda item: (item[1], -item[0]), default=(0, 0))
        if 2 * votes > len(differing):
            yield Caveat(
                f"{holder} seems to hold position {position}, not the last: {counted(votes, 'tensor')} of the {len(differing)} that were "
                "looked at agree there; record the last position, or all of them"
            )


def _fitting(pair: Pair, limit: float, traces: tuple[Trace, Trace]) -> list[int]:
    """The positions but the last at which the side that holds all of them has what the other holds."""
    assert pair.a is not None
    assert pair.b is not None
    assert pair.position_axis is not None
    axis, place = pair.position_axis, 0 if pair.last_of == "a" else 1
    entry, other = (pair.a, pair.b) if place == 0 else (pair.b, pair.a)
    whole = traces[place].load(entry)
    if whole.size > _LARGEST:
        return []
    rows = np.moveaxis(whole, axis, 0).reshape(whole.shape[axis], -1).astype(np.float64)
    row = traces[1 - place].load(other).reshape(-1).astype(np.float64)
    if row.size != rows.shape[1]:
        return []
    with np.errstate(all="ignore"):
        errors = np.square(rows - row).sum(axis=1) / np.square(rows).sum(axis=1)
    return np.flatnonzero(errors[:-1] <= limit).tolist()
