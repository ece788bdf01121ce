"""Factors and offsets of their own for blocks, rows or columns: scales that were left out, inverted or applied otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from aprgraph.runtime.weights.decoded import Decoded
from aprgraph.runtime.weights.fit import Fit, sample_of
from aprgraph.runtime.weights.rows import Index, Rows
from aprgraph.runtime.weights.tensor_pair import TensorPair

Reals = npt.NDArray[np.float32]
_What = Literal["factor", "offset"]

#: Columns that have a factor of their own at the least: those of a block of FP8 or MXFP4 are 32 and more.
_LEAST = 32
#: Where so many blocks of some rows are as they were, no scale of blocks explains the others.
_MOST_EQUAL = 0.25
#: What is left of the difference, at most: of noise, factors and offsets explain a little too.
_MOST_LEFT = 0.5
#: Factors are the same if they are within this on average: those of quantised blocks are known to 2 %.
_SAME = 0.03
#: Rows by which the size of blocks is found.
_BAND = 512
#: Factors that follow from bytes are so within this.
_EXACTLY = 1e-5
#: FP8 that was multiplied and divided again is on its grid within this.
_ON_GRID = 2.0**-20


def scaled_in_blocks(pair: TensorPair) -> Iterator[Fit]:
    """Each row, each block of columns in a row, or each column has a factor of its own; or each block has an offset."""
    a, b = pair.rows_a, pair.rows_b
    if pair.is_vector or a.columns != b.columns or a.count != b.count or a.count < 2 or a.columns < 2:
        return
    yield from _in_rows(a, b, a.columns, "factor")
    unit = max(a.unit, b.unit, _LEAST)
    if a.columns > unit:
        yield from _in_rows(a, b, unit, "factor")
    yield from _of_columns(a, b)
    for size in (unit, a.columns):
        yield from _in_rows(a, b, size, "offset")


def _in_rows(a: Rows, b: Rows, size: int, what: _What) -> Iterator[Fit]:
    """Fits of ``size`` columns of a row together."""
    rows = FittedRows(a, b, size, what)
    sample = sample_of(a)
    some = rows.numbers(sample)
    neutral = 1.0 if what == "factor" else 0.0
    if some is None or np.mean(some == neutral) > _MOST_EQUAL:
        return
    ours = a.fetch(sample).values
    with np.errstate(over="ignore", invalid="ignore"):
        before, after = (np.square(ours - side.fetch(sample).values).sum(dtype=np.float64) for side in (b, rows))
    if not after <= _MOST_LEFT * before:
        return
    kind = "block-factors" if what == "factor" else "block-offsets"
    yield Fit(kind, "", rows, words=partial(_in_words, a, b, rows, size, what))


def _of_columns(a: Rows, b: Rows) -> Iterator[Fit]:
    rows = sample_of(a)
    ours, theirs = (side.fetch(rows).values for side in (a, b))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        factors = np.einsum("rc,rc->c", ours, theirs) / np.einsum("rc,rc->c", theirs, theirs)
    if not np.isfinite(factors).all() or np.mean(factors == 1) > _MOST_EQUAL:
        return
    short = "each column has a factor of its own, as where those of a norm were multiplied in"
    yield Fit("block-factors", f"{short} (A is {_range(factors)} times B)", ScaledColumns(b, factors.astype(np.float32)), slot_text=short)


class FittedRows:
    """B's rows, with each ``size`` columns of a row multiplied by a factor, or moved by an offset, that makes them most like A's."""

    def __init__(self, a: Rows, b: Rows, size: int, what: _What) -> None:
        self._a, self._b, self._what = a, b, what
        self._starts = np.arange(0, b.columns, size)
        self._sizes = np.diff(self._starts, append=b.columns)
        self.count, self.columns, self.unit = b.count, b.columns, b.unit

    def numbers(self, rows: Index) -> Reals | None:
        """The factors or offsets of some rows, [rows, blocks]; None where there are none."""
        found = self._numbers(self._a.fetch(rows), self._b.fetch(rows))
        return found if np.isfinite(found).all() else None

    def _numbers(self, ours: Decoded, theirs: Decoded) -> Reals:
        a, b = (side.values.astype(np.float64) for side in (ours, theirs))
        if self._what == "offset":
            return np.asarray(self._sums(a - b) / self._sizes, np.float32)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            squares = self._sums(b * b)
            found = np.where(squares > 0, self._sums(a * b) / squares, 1)
        return found.astype(np.float32)

    def _sums(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        with np.errstate(invalid="ignore", over="ignore"):  # of what is infinite: no sum then says anything
            return np.asarray(np.add.reduceat(values, self._starts, axis=1))

    def fetch(self, rows: Index) -> Decoded:
        ours, theirs = self._a.fetch(rows), self._b.fetch(rows)
        each = np.repeat(self._numbers(ours, theirs), self._sizes, axis=1)
        is_factor = self._what == "factor"
        values = np.asarray(theirs.values * each if is_factor else theirs.values + each, np.float32)
        radius = np.asarray(theirs.radius * np.abs(each) if is_factor else theirs.radius + np.abs(each) * np.float32(2.0**-22), np.float32)
        # Whoever scaled them rounded once more, and the factor that is found here is rounded.
        radius += np.abs(values) * np.float32(2.0**-21)
        return Decoded(values, radius, theirs.outer)


class ScaledColumns:
    """Rows with each column multiplied by a factor."""

    def __init__(self, rows: Rows, factors: Reals) -> None:
        self._rows, self._factors = rows, factors
        self.count, self.columns, self.unit = rows.count, rows.columns, rows.unit

    def fetch(self, rows: Index) -> Decoded:
        found = self._rows.fetch(rows)
        values = found.values * self._factors
        return Decoded(values, found.radius * np.abs(self._factors) + np.abs(values) * np.float32(2.0**-21), found.outer)


class ScaledRows:
    """Rows each of which is multiplied by a factor."""

    def __init__(self, rows: Rows, factors: Reals) -> None:
        self._rows, self._factors = rows, factors
        self.count, self.columns, self.unit = rows.count, rows.columns, rows.unit

    def fetch(self, rows: Index) -> Decoded:
        """See ``Rows.fetch``."""
        found, factors = self._rows.fetch(rows), self._factors[rows][:, None]
        values = found.values * factors
        return Decoded(values, found.radius * np.abs(factors) + np.abs(values) * np.float32(2.0**-21), found.outer)


def _in_words(a: Rows, b: Rows, rows: FittedRows, size: int, what: _What) -> tuple[str, str]:
    """The text of one tensor, and that of every layer."""
    numbers = rows.numbers(np.arange(min(a.count, _BAND)))
    if numbers is None:
        return "", ""
    where = _blocks_in_words(numbers, size, a.columns)
    if what == "offset":
        short = f"each {where} has an offset of its own, as where the zeros of a format are off"
        return f"{short} (A is B plus {_range(numbers)})", short
    short = f"each {where} has a factor of its own"
    of_fp8 = _of_fp8(a, b, numbers, size) or _of_e8m0(numbers)
    return f"{short} (A is {_range(numbers)} times B){of_fp8}", short + of_fp8


def _range(numbers: Reals) -> str:
    low, high = float(numbers.min()), float(numbers.max())
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _blocks_in_words(numbers: Reals, size: int, columns: int) -> str:
    """``row``, ``block of 128 x 128``: where the numbers of neighbours are the same."""
    rows, blocks = _common(numbers), _common(numbers.T)
    wide = blocks * size
    if rows == 1:
        return "row" if wide >= columns else f"{wide} columns of a row"
    return f"band of {rows} rows" if wide >= columns else f"block of {rows} x {wide}"


def _common(numbers: Reals) -> int:
    """How many rows of ``numbers`` at a time are the same up to noise: all, or the largest power of 2."""
    count = len(numbers)
    for size in (count, *(1 << power for power in range(count.bit_length() - 1, 0, -1))):
        groups = numbers[: count // size * size].reshape(-1, size, numbers.shape[1])
        with np.errstate(invalid="ignore"):
            if np.square(groups - groups.mean(axis=1, keepdims=True)).mean() <= _SAME**2 * np.square(groups).mean():
                return size
    return 1


def _of_fp8(a: Rows, b: Rows, numbers: Reals, size: int) -> str:
    """Which side has no scales, or divided by them, if one is on the grid of FP8."""
    rows = np.arange(min(a.count, len(numbers), 16))
    ours, theirs = (side.fetch(rows).values for side in (a, b))
    each = np.repeat(numbers[: len(rows)], size, axis=1)[:, : a.columns]
    for side, values in (("A", ours), ("B", theirs)):
        if _is_fp8(values):
            return f"; {side}'s values are FP8 without their scales"
    root = np.sqrt(np.abs(each))
    if _is_fp8(theirs * root):
        return "; one side was divided by the scales of FP8 where the other was multiplied"
    return ""


def _of_e8m0(numbers: Reals) -> str:
    """Which side took the bytes of scales in E8M0, exponents of 2, for something else, if all factors say so."""
    codes = np.arange(1, 255, dtype=np.uint8)
    scales = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    factors = np.unique(numbers.astype(np.float64))
    if (factors <= 0).any() or np.ptp(np.log2(factors)) < 1:  # of one factor any reading may be the right one
        return ""
    for taken, values in (("whole numbers", codes.astype(np.float64)), ("E4M3", codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64))):
        known = scales[values > 0] / values[values > 0]
        for side, wanted in (("B", factors), ("A", 1 / factors)):
            near = np.abs(known[:, None] / wanted - 1).min(axis=0)
            if (near <= _EXACTLY).all():
                return f"; {side} has scales of E8M0, which are exponents of 2, taken for {taken}"
    return ""


def _is_fp8(values: Reals) -> bool:
    """Whether all are numbers of FP8, E4M3."""
    with np.errstate(over="ignore", invalid="ignore"):
        on_grid = values.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        return bool((np.abs(values - on_grid) <= _ON_GRID * np.abs(values)).all()) and bool(values.any())
