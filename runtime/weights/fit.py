"""How B's rows have to be taken to be A's: one candidate explanation, tried on some rows, then on more, then on all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from aprgraph.graph.threads import in_threads
from aprgraph.runtime.weights.decoded import Decoded
from aprgraph.runtime.weights.measures import Measures
from aprgraph.runtime.weights.rows import Index, Rows, pieces

#: Rows that a candidate is tried on, and the fewest elements of them: at first, and if these are alike.
_FIRST, _THEN = (4, 4096), (64, 4096)
#: Rows that are known to differ are among them, so many.
_KNOWN = 8
#: A factor that is given in fewer digits may add this share to the error.
_HARDLY = 0.02
#: Below this a factor explains nothing.
_LEAST_COSINE = 0.5


@dataclass(frozen=True)
class Fit:
    """A's rows are the rows ``order(numbers)`` of ``rows``, times ``factor``, plus ``offset``.

    ``kind`` is its name for programs, ``text`` says it in words of one tensor, and ``slot_text`` in words that are the same in
    every layer. ``target`` stands in A's place where it is not A's rows that are explained. ``moved`` is the order of
    experts or neurons, by which tensors that are reordered alike are known. ``words`` makes both texts, where that takes
    more than to try it.
    """

    kind: str
    text: str
    rows: Rows
    order: Callable[[Index], Index] | None = None
    factor: float = 1.0
    offset: float = 0.0
    slot_text: str = ""
    target: Rows | None = None
    moved: Index | None = None
    words: Callable[[], tuple[str, str]] | None = None

    def in_words(self) -> tuple[str, str]:
        """The text, and in words that are the same in every layer."""
        return (self.text, self.slot_text or self.text) if self.words is None else self.words()


class Sampled:
    """A's rows, of which candidates are tried on some first: those are decoded once. ``known`` are rows that differ."""

    def __init__(self, rows: Rows, known: Sequence[int] = ()) -> None:
        self.rows = rows
        self._known = np.array(sorted(known)[:: max(1, len(known) // _KNOWN)][:_KNOWN], np.int64)

    @cached_property
    def first(self) -> tuple[Index, Decoded]:
        """A few rows."""
        return self._some(*_FIRST)

    @cached_property
    def more(self) -> tuple[Index, Decoded]:
        """More rows."""
        return self._some(*_THEN)

    def _some(self, rows: int, elements: int) -> tuple[Index, Decoded]:
        chosen = np.union1d(sample_of(self.rows, rows, elements), self._known)
        return chosen, self.rows.fetch(chosen)


def measure(a: Rows, fit: Fit, numbers: Index | None = None, count: int | None = None, *, exact: bool = False) -> Measures:
    """Compare A's rows, or those of ``numbers``, or the first ``count``, with what ``fit`` makes of B's.

    ``exact``: as if nothing had been rounded.
    """

    def measured(piece: Index) -> Measures:
        rows = piece if numbers is None else numbers[piece]
        found = Measures()
        _add(found, rows, a.fetch(rows), a.unit, fit, exact=exact)
        return found

    whole = Measures()
    for part in in_threads(measured, pieces(len(numbers) if numbers is not None else count or a.count, a.columns)):
        whole.merge(part)
    return whole


def _add(found: Measures, rows: Index, ours: Decoded, unit: int, fit: Fit, *, exact: bool = False) -> None:
    theirs = rows if fit.order is None else fit.order(rows)
    found.add(rows, ours, fit.rows.fetch(theirs), max(unit, fit.rows.unit), fit.factor, fit.offset, exact=exact)


def sample_of(rows: Rows, count: int = _THEN[0], elements: int = _THEN[1]) -> Index:
    """Some row numbers, ascending, the same in every call; neither evenly spaced nor all even."""
    wanted = min(rows.count, max(count, elements // rows.columns))
    chosen = np.random.default_rng(0).choice(rows.count, wanted, replace=False) if wanted < rows.count else np.arange(rows.count)
    return np.sort(chosen).astype(np.int64)


def fits(a: Sampled, fit: Fit, *, with_factor: bool = False) -> tuple[Fit, Measures] | None:
    """The fit, perhaps with a factor, and the measures over all rows, if rounding explains what is left of the difference."""
    if fit.target is not None:
        a = Sampled(fit.target)
    if fit.rows.columns != a.rows.columns or (fit.order is None and fit.rows.count != a.rows.count):
        return None
    for numbers, ours in (a.first, a.more):
        found = Measures()
        _add(found, numbers, ours, a.rows.unit, fit)
        if not found.tells:
            return None
        if found.is_rounding:
            continue
        if not with_factor or abs(found.cosine) < _LEAST_COSINE or not np.isfinite(found.slope):
            return None
        scaled = replace(fit, factor=_round_number(found))
        again = Measures()
        _add(again, numbers, ours, a.rows.unit, scaled)
        if not again.is_rounding:
            return None
        if numbers is a.more[0]:
            fit = scaled
    whole = measure(a.rows, fit)
    return (fit, whole) if whole.is_rounding and whole.tells else None


def _round_number(found: Measures) -> float:
    """The factor in as few digits as make the error hardly larger than the best one does."""
    least = found.a_squares - found.slope * found.products
    for digits in range(1, 8):
        rounded = float(f"{found.slope:.{digits}g}")
        if (rounded - found.slope) ** 2 * found.b_squares <= _HARDLY * max(least, 0.0):
            return rounded
    return found.slope
