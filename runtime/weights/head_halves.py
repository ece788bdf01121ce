"""The two orders of the rows of a head: RoPE turns neighbours (0, 1), (2, 3) … in one, and halves (0, D/2) … in the other."""

from __future__ import annotations

import numpy as np

from aprgraph.runtime.weights.rows import Index


def to_halves(size: int) -> Index:
    """By the row of a head whose pairs are neighbours, the row in halves."""
    return np.arange(size).reshape(2, size // 2).T.reshape(-1)


def to_neighbours(size: int) -> Index:
    """By the row of a head whose pairs are halves, the row where they are neighbours."""
    return np.arange(size).reshape(size // 2, 2).T.reshape(-1)
