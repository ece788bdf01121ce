"""A number that was added to one of each row, as epsilon is, told from the sums, which float32 holds as exactly as they are small."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.ops import Array

#: The least part of a number of float32 that shows what was added.
_SEEN = 1e-7


def middle_of_exact(found: Array, beside: Array) -> float | None:
    """The middle of what each row says is added to its number in ``beside``, those that say it most exactly counting most: a number of
    float32 says what was added to it as exactly as it is small, and first tokens often have numbers a million times as large as others.
    None where no row says anything.
    """
    known = np.isfinite(found) & (beside > 0)
    if not known.any():
        return None
    exact = 1.0 / np.square(beside[known] / beside[known].min())
    return float(np.quantile(found[known], 0.5, weights=exact, method="inverted_cdf"))


def is_seen_twice(change: float, beside: Array) -> bool:
    """Whether what is added shows in two rows: it would explain whatever happened to one."""
    return bool((abs(change) > _SEEN * beside).sum() > 1)
