"""How B's rows have to be taken to be A's: one candidate explanation, tried on a sample and then on all rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from aprgraph.runtime.weights.measures import Measures
from aprgraph.runtime.weights.rows import Index, Rows, pieces

#: Rows that a candidate is tried on first, and the fewest elements of them.
_SAMPLE_ROWS = 48
_SAMPLE_ELEMENTS = 4096
#: A factor that is given in fewer digits may add this share to the error.
_HARDLY = 0.02
#: Below this a factor explains nothing.
_LEAST_COSINE = 0.5


@dataclass(frozen=True)
class Fit:
    """A's rows are the rows ``order(numbers)`` of ``rows``, times ``factor``, plus ``offset``.

    ``kind`` is its name for programs, ``text`` says it in words of one tensor, and ``slot_text`` in words that are the same in
    every layer.
    """

    kind: str
    text: str
    rows: Rows
    order: Callable[[Index], Index] | None = None
    factor: float = 1.0
    offset: float = 0.0
    slot_text: str = ""

    @property
    def summary(self) -> str:
        """Words that are the same in every layer."""
        return self.slot_text or self.text


def measure(a: Rows, fit: Fit, numbers: Index | None = None, count: int | None = None, *, exact: bool = False) -> Measures:
    """Compare A's rows, or those of ``numbers``, or the first ``count``, with what ``fit`` makes of B's.

    ``exact``: as if nothing had been rounded.
    """
    found = Measures()
    unit = max(a.unit, fit.rows.unit)
    for piece in pieces(len(numbers) if numbers is not None else count or a.count, a.columns):
        rows = piece if numbers is None else numbers[piece]
        theirs = rows if fit.order is None else fit.order(rows)
        found.add(rows, a.fetch(rows), fit.rows.fetch(theirs), unit, fit.factor, fit.offset, exact=exact)
    return found


def sample_of(rows: Rows) -> Index:
    """Some row numbers, ascending, the same in every call; neither evenly spaced nor all even."""
    wanted = min(rows.count, max(_SAMPLE_ROWS, _SAMPLE_ELEMENTS // rows.columns))
    chosen = np.random.default_rng(0).choice(rows.count, wanted, replace=False) if wanted < rows.count else np.arange(rows.count)
    return np.sort(chosen).astype(np.int64)


def fits(a: Rows, fit: Fit, *, with_factor: bool = False) -> tuple[Fit, Measures] | None:
    """The fit, perhaps with a factor, and the measures over all rows, if rounding explains what is left of the difference."""
    if fit.rows.columns != a.columns or (fit.order is None and fit.rows.count != a.count):
        return None
    sample = sample_of(a)
    found = measure(a, fit, sample)
    if not found.is_rounding:
        if not with_factor or abs(found.cosine) < _LEAST_COSINE or not np.isfinite(found.slope):
            return None
        fit = replace(fit, factor=_round_number(found))
        if not measure(a, fit, sample).is_rounding:
            return None
    whole = measure(a, fit)
    return (fit, whole) if whole.is_rounding else None


def _round_number(found: Measures) -> float:
    """The factor in as few digits as make the error hardly larger than the best one does."""
    least = found.a_squares - found.slope * found.products
    for digits in range(1, 8):
        rounded = float(f"{found.slope:.{digits}g}")
        if (rounded - found.slope) ** 2 * found.b_squares <= _HARDLY * max(least, 0.0):
            return rounded
    return found.slope
