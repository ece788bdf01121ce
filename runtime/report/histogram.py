"""How the elements of one tensor are distributed, on each side and in the difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.report.pieces import F64, difference, flat_pieces
from aprgraph.runtime.trace.aprt import F32

BINS = 64


@dataclass(frozen=True)
class Histogram:
    """``counts``, i64 [BINS], of the elements between ``edges``, f64 [BINS + 1]; ``no_number`` elements are in none of them."""

    name: str
    edges: F64
    counts: npt.NDArray[np.int64]
    nan: int
    inf: int

    @property
    def total(self) -> int:
        """All elements, counted or not."""
        return int(self.counts.sum()) + self.nan + self.inf


def make_histograms(a: F32, b: F32) -> tuple[Histogram, Histogram, Histogram]:
    """Of A, of B (both in the same bins), and of A - B; the tensors are read twice, in pieces.

    In A - B, NaN counts the elements that are a number on one side only; equal infinities and NaN on both sides count as 0.
    """
    both, apart = _Range(), _Range()
    for left, right in flat_pieces(a, b):
        both.add(left)
        both.add(right)
        apart.add(difference(left, right))
    edges, edges_apart = both.edges(), apart.edges()
    counters = (_Counter("A", edges), _Counter("B", edges), _Counter("A − B", edges_apart))
    for left, right in flat_pieces(a, b):
        for counter, values in zip(counters, (left, right, difference(left, right)), strict=True):
            counter.add(values)
    return counters[0].result(), counters[1].result(), counters[2].result()


class _Range:
    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def add(self, values: F64) -> None:
        finite = values[np.isfinite(values)]
        if finite.size:
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))

    def edges(self) -> F64:
        """Edges of equal bins over the range; one of some width where all values are equal, or there is none."""
        low, high = (self.low, self.high) if self.low <= self.high else (0.0, 0.0)
        if low == high:
            room = abs(low) / 2 or 0.5
            low, high = low - room, high + room
        return np.linspace(low, high, BINS + 1)


class _Counter:
    def __init__(self, name: str, edges: F64) -> None:
        self.name, self.edges = name, edges
        self.counts = np.zeros(len(edges) - 1, np.int64)
        self.nan = self.inf = 0

    def add(self, values: F64) -> None:
        finite = np.isfinite(values)
        if not finite.all():
            nan = int(np.isnan(values).sum())
            self.nan += nan
            self.inf += int((~finite).sum()) - nan
            values = values[finite]
        # Equal bins: the number of the bin follows from the value; rounding may not push one out at the ends.
        low, high = self.edges[0], self.edges[-1]
        bins = ((values - low) / (high - low) * len(self.counts)).astype(np.int64)
        self.counts += np.bincount(np.clip(bins, 0, len(self.counts) - 1), minlength=len(self.counts))

    def result(self) -> Histogram:
        return Histogram(self.name, self.edges, self.counts, self.nan, self.inf)
