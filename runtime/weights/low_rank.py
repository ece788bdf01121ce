"""A difference of low rank, as a merged adapter (LoRA, arXiv:2106.09685) leaves: W + B·A of rank r.

Found by a randomised range finder (Halko, Martinsson, Tropp 2011, arXiv:0909.4061): a few random products tell the space
that the rows of the difference span, and what is left outside of it must be rounding. Three readings of the tensor.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.weights.decoded import Decoded
from aprgraph.runtime.weights.measures import Measures
from aprgraph.runtime.weights.rows import Index, Rows, pieces

#: The largest rank that is looked for, and products beyond it, by which a rank is known to be no larger.
MOST_RANK, _BEYOND = 128, 16
#: Rows by which it is told whether the rank may be low.
_ROWS = 192
#: A rank of more than this share of the smaller dimension is not low.
SHARE = 4


def find_rank(a: Rows, b: Rows) -> tuple[int, Measures] | None:
    """The rank of A - B, and what is left beside a difference of that rank, if that is rounding; None otherwise."""
    most = min(MOST_RANK, min(a.count, a.columns) // SHARE)
    if most < 1 or a.count != b.count or a.columns != b.columns:
        return None
    if not _may_be_low(a, b, most):
        return None
    directions = _row_space(a, b, min(most + _BEYOND, a.columns))
    if directions is None:
        return None
    low, high, found = 0, most, None
    while low < high:  # the least rank that is enough
        middle = (low + high) // 2
        left = without(a, b, directions[:, :middle], sample(a))
        low, high = (low, middle) if left.is_rounding else (middle + 1, high)
    if low <= most:
        left = without(a, b, directions[:, :low])
        found = (low, left) if left.is_rounding and _stands_out(a, b, low) else None
    return found


def _stands_out(a: Rows, b: Rows, rank: int) -> bool:
    """Whether so many directions hold more of the difference than they do of noise, of which they hold a part too."""
    rows = sample(a)
    delta = (a.fetch(rows).values - b.fetch(rows).values).astype(np.float64)
    noise = np.random.default_rng(0).standard_normal(delta.shape)
    held, of_noise = (_share_of_largest(side, rank) for side in (delta, noise))
    return held >= (1 + of_noise) / 2


def _share_of_largest(delta: npt.NDArray[np.float64], rank: int) -> float:
    """How much of the energy lies in the ``rank`` directions that have most of it."""
    values = np.linalg.eigvalsh(delta @ delta.T)[::-1]
    return float(values[:rank].sum() / values.sum())


def _may_be_low(a: Rows, b: Rows, most: int) -> bool:
    """Whether some rows of the difference have no higher rank: what has nothing to do with A is found out without reading all."""
    rows = sample(a)
    with np.errstate(over="ignore", invalid="ignore"):
        delta = a.fetch(rows).values - b.fetch(rows).values
        gram = (delta @ delta.T).astype(np.float64)
    if not np.isfinite(gram).all():  # NaN, or no adapter's numbers
        return False
    values, left = np.linalg.eigh(gram)
    sizes = np.sqrt(np.maximum(values[::-1][:most], 0))
    # In directions in which nothing lies, noise alone would be found.
    left = left[:, ::-1][:, : int((sizes > 1e-6 * sizes[0]).sum())]
    directions = (delta.T @ left.astype(np.float32) / sizes[: left.shape[1]].astype(np.float32)).astype(np.float32)
    return without(a, b, directions, rows).is_rounding


def sample(a: Rows) -> Index:
    """Rows enough to tell ranks apart."""
    return np.unique(np.linspace(0, a.count - 1, min(a.count, _ROWS)).astype(np.int64))


def _row_space(a: Rows, b: Rows, size: int) -> npt.NDArray[np.float32] | None:
    """Orthonormal columns [columns, size] that span the rows of the difference, by falling singular values."""
    random = np.random.default_rng(0)
    products = np.zeros((size, a.columns), np.float64)
    for delta in _differences(a, b):
        products += random.standard_normal((size, len(delta)), dtype=np.float32) @ delta
    if not np.isfinite(products).all():
        return None
    base = np.linalg.qr(products.T)[0].astype(np.float32)
    gram = np.zeros((size, size), np.float64)
    for delta in _differences(a, b):
        inside = delta @ base
        gram += inside.T @ inside
    vectors = np.linalg.eigh(gram)[1][:, ::-1]
    found: npt.NDArray[np.float32] = (base @ vectors).astype(np.float32)
    return found


def _differences(a: Rows, b: Rows) -> Iterator[npt.NDArray[np.float32]]:
    """The rows of A - B, a piece at a time."""
    for piece in pieces(a.count, a.columns):
        yield a.fetch(piece).values - b.fetch(piece).values


def without(a: Rows, b: Rows, directions: npt.NDArray[np.float32], numbers: Index | None = None) -> Measures:
    """Measures of A without what of A - B lies along ``directions``, and B."""
    found = Measures()
    unit = max(a.unit, b.unit)
    for piece in pieces(a.count if numbers is None else len(numbers), a.columns):
        rows = piece if numbers is None else numbers[piece]
        ours, theirs = a.fetch(rows), b.fetch(rows)
        delta = ours.values - theirs.values
        along = (delta @ directions @ directions.T).astype(np.float32)
        # What was added was rounded once more where it was added.
        spread = ours.radius + np.abs(along) * np.float32(2.0**-20)
        found.add(rows, Decoded((ours.values - along).astype(np.float32), spread.astype(np.float32), ours.outer), theirs, unit)
    return found
