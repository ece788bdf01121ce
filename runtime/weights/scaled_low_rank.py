"""Whether two matrices differ by a low rank once each row has a factor of its own, as merging an adapter of DoRA leaves them.

DoRA (Liu et al. 2024, arXiv:2402.09353) adds a product of low rank to a matrix and gives each row another length: A = D (B + L).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.weights.block_scales import ScaledRows
from aprgraph.runtime.weights.low_rank import MOST_RANK, SHARE, find_rank, sample, without
from aprgraph.runtime.weights.measures import Measures
from aprgraph.runtime.weights.rows import Rows, pieces

Reals = npt.NDArray[np.float64]

#: Times that factors and directions are found from each other, first to see whether there is a low rank, and then to the last digit.
_FIRST, _THEN = 8, 60
#: What directions of a low rank may leave of the difference, at most; of noise they leave a half.
_MOST_LEFT = 0.1
_SETTLED = 1e-10
#: Ranks that are tried, those of adapters among them.
_RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
#: Factors that differ by less are one.
_LEAST_SPREAD = 1e-4


def find_scaled_rank(a: Rows, b: Rows) -> tuple[int, Measures] | None:
    """The rank of A - D B, where D is a factor for each row, and what is left beside a difference of that rank, if that is rounding."""
    most = min(MOST_RANK, min(a.count, a.columns) // SHARE)
    if most < 1 or a.count != b.count or a.columns != b.columns:
        return None
    rows = sample(a)
    ours, theirs = (side.fetch(rows).values.astype(np.float64) for side in (a, b))
    if not np.isfinite(ours).all() or not np.isfinite(theirs).all() or not theirs.any(axis=1).all():
        return None
    if _alternate(ours, theirs, most, _FIRST)[2] > _MOST_LEFT:
        return None
    factors = np.ones(a.count, np.float32)
    for rank in (one for one in _RANKS if one <= most):
        factors[rows], directions, left = _alternate(ours, theirs, rank, _THEN)
        if left > _MOST_LEFT or not np.isfinite(factors).all():
            continue
        if without(a, ScaledRows(b, factors), directions.astype(np.float32), rows).is_rounding:
            for piece in pieces(a.count, a.columns):
                factors[piece] = _factors(a.fetch(piece).values.astype(np.float64), b.fetch(piece).values.astype(np.float64), directions)
            usable = np.isfinite(factors).all() and np.ptp(factors) > _LEAST_SPREAD * np.abs(factors).max()
            return find_rank(a, ScaledRows(b, factors)) if usable else None
    return None


def _alternate(ours: Reals, theirs: Reals, rank: int, turns: int) -> tuple[Reals, Reals, float]:
    """Factors of rows and ``rank`` directions, each found from the other in turn: the factors, orthonormal columns that span the rows of
    L, and the share of the difference that is along none of them.
    """
    factors = np.einsum("rc,rc->r", ours, theirs) / np.einsum("rc,rc->r", theirs, theirs)
    directions, left = np.zeros((ours.shape[1], 0)), 1.0
    for _ in range(turns):
        delta = ours - factors[:, None] * theirs
        energies, vectors = np.linalg.eigh(delta @ delta.T)
        largest = energies[::-1][:rank]
        kept = largest > 1e-14 * energies[-1]
        directions = np.linalg.qr(delta.T @ vectors[:, ::-1][:, :rank][:, kept] / np.sqrt(largest[kept]))[0]
        left = 1 - float(largest.sum() / energies.sum()) if energies.any() else 0.0
        before, factors = factors, _factors(ours, theirs, directions)
        if not np.isfinite(factors).all() or np.abs(factors - before).max() <= _SETTLED * np.abs(factors).max():
            break
    return factors, directions, left


def _factors(ours: Reals, theirs: Reals, directions: Reals) -> Reals:
    """Of each row the factor by which B's is A's beside ``directions``."""
    a, b = (side - side @ directions @ directions.T for side in (ours, theirs))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.einsum("rc,rc->r", a, b) / np.einsum("rc,rc->r", b, b))
