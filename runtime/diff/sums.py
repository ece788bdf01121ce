"""The sums that the distance of two tensors is made of: one pass over both, in pieces, accumulated in float64.

They are added in an order that the shape alone decides, and by functions that no number of threads changes. In large pieces some
hundred squares at a time are added in float32, which takes a fifth of the time, where all of them are numbers that float32 holds well.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.trace.aprt import F32

F64 = npt.NDArray[np.float64]
#: Rows and columns of a matrix.
Cut = tuple[slice, slice]

#: Elements that are looked at first to see whether two pieces differ: these decide most of the time.
_GLANCE = 64
#: Rows narrower than this are added side by side: NumPy's inner loop over a short row costs more than the additions.
_NARROW = 1024
#: Longest vector of one dot product. From 10,001 elements on OpenBLAS uses threads, which would change the order of the
#: additions, and which wait for each other for milliseconds where something else uses the processors.
_DOT = 1 << 13
#: Elements of a sum in float32, of which one has some 32 parts, so that it is off by no more than 1e-6; and squares that are summed so, on
#: an average: those that are too small for float32 are nothing beside it.
_SHORT_DOT, _LEAST_SQUARE = 1024, 1e-30
#: Elements of a piece, and its columns, of which sums are in float32: fewer take no time, and of narrow ones the columns are long.
_MANY, _WIDE = 1 << 14, 256
#: So many pieces, one below the other, are looked at together as long as both sides are the same.
_BAND = 4
_ONES = np.ones(_SHORT_DOT, np.float32)


class Sums:
    """What is added up over the elements of two matrices [rows, columns]; ``piece`` elements are in work at a time.

    ``rows`` [3, rows] and ``columns`` [3, columns], or [3, 0] where they are not asked for, are sums of squares of the error a - b,
    of a, and of b, over the elements that are finite on both sides. ``elsewhere`` are those of each side's elements that are finite on
    that side only; ``nan`` and ``inf`` count by side, ``nonfinite`` elements that are finite on at most one side, ``mismatched`` those of
    them that are NaN or Inf on one side and something else on the other. ``first_mismatched`` and ``first_nonfinite`` are the indices of
    the first ones in the flat matrix, None where there is none. ``largest`` is the largest square of the error, below 0
    where nothing was added, and ``largest_index`` its index in the flat matrix, the first of equals.

    ``mapped`` says that what is added is there to the end. Then pieces that are bit for bit the same are in no sums by row and column until
    others are not: where all are, ``put_off_energy`` is the sum of their squares. ``low``, ``high`` and ``total`` are of each side's finite
    elements, where ``described`` asks for them.
    """

    def __init__(
        self, rows: int, columns: int, *, by_column: bool, piece: int, mapped: bool = False, described: tuple[bool, bool] = (False, False)
    ) -> None:
        self.rows = np.zeros((3, rows))
        self.columns = np.zeros((3, columns if by_column else 0))
        self.bit_identical = True
        self.nan = [0, 0]
        self.inf = [0, 0]
        self.elsewhere = [0.0, 0.0]
        self.mismatched = 0
        self.nonfinite = 0
        self.first_mismatched: int | None = None
        self.first_nonfinite: int | None = None
        self.largest, self.largest_index = -1.0, 0
        self.low, self.high, self.total = [math.inf] * 2, [-math.inf] * 2, [0.0] * 2
        self._stride, self._by_column, self._piece = columns, by_column, piece
        self._described = described
        #: Rows that are the same on both sides, with their place, that of their first column, and the pieces they are cut into.
        self._put_off: list[tuple[F32, slice, int, Sequence[Cut]]] | None = [] if mapped else None
        self.put_off_energy = 0.0
        self._buffer = np.empty(3 * min(piece, rows * columns))
        self._errors = np.empty(min(piece, rows * columns), np.float32)

    def add(self, a: F32, b: F32, where: Cut) -> None:
        """Add both sides, f32, of the cut ``where``; each part of the matrices is given once."""
        a, b = np.asarray(a), np.asarray(b)
        top, left = where[0].start, where[1].start
        # A signalling NaN raises the invalid flag when it is widened; it is counted all the same.
        with np.errstate(invalid="ignore"):
            for band, pieces in _bands(a.shape[0], a.shape[1], self._piece):
                rows = slice(top + band.start, top + band.stop)
                if self._put_off is not None and self._put_off_band(a[band], b[band], rows, left, pieces):
                    continue
                self._take_up()
                for cut in pieces:
                    self._add_piece(a[band][cut], b[band][cut], _moved(cut, rows.start, left))

    def _add_piece(self, a: F32, b: F32, at: Cut) -> None:
        same = _same_bits(a, b)
        if a.size >= _MANY and a.shape[1] >= _WIDE and self._add_in_float32(a, b, at, same=same):
            return
        # The error, a and b lie one behind the other, so that each step is one call for all three.
        three = self._buffer[: 3 * a.size].reshape(3, *a.shape)
        np.copyto(three[1], a)
        if same:
            energies = _by_row(three[1:2])
            if np.isfinite(energies).all():
                self._describe((a,))
                self._put(slice(1, 3), three[1:2], energies, at)
                self._found(0.0, at[0].start, at[1].start)
                return
        else:
            self.bit_identical = False
        np.copyto(three[2], b)
        np.subtract(three[1], three[2], out=three[0])
        energies = _by_row(three)
        if not np.isfinite(energies).all():
            self._take_out_nonfinite(three[1], three[2], at)
            np.subtract(three[1], three[2], out=three[0])
            energies = _by_row(three)
        else:
            self._describe((a, b))
        self._put(slice(0, 3), three, energies, at)
        squares = three[0] if self._by_column else np.multiply(three[0], three[0], out=three[0])
        row, column = divmod(int(squares.argmax()), a.shape[1])
        self._found(float(squares[row, column]), at[0].start + row, at[1].start + column)

    def _add_in_float32(self, a: F32, b: F32, at: Cut, *, same: bool) -> bool:
        """Add a piece by sums in float32. False, and nothing is added, where these would not be close to the ones in float64."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            # Rounded once, an error is as close to a - b as float32 comes to any number.
            error = np.subtract(a, b, out=self._errors[: a.size].reshape(a.shape)) if not same else a
            sides = (a,) if same else (error, a, b)
            energies = np.stack([_energies(values) for values in sides])
            by_column = [np.einsum("ij,ij->j", values, values) for values in sides] if self._by_column else []
        for number, values in enumerate(sides):
            if not _are_close(energies[number], values) or (by_column and not _are_close(by_column[number], values.T)):
                return False
        which = slice(1, 3) if same else slice(0, 3)
        self.rows[which, at[0]] += energies
        if by_column:
            self.columns[which, at[1]] += by_column
        self._describe(sides[-2:])
        if same:
            self._found(0.0, at[0].start, at[1].start)
            return True
        self.bit_identical = False
        for index in (int(error.argmax()), int(error.argmin())):
            row, column = divmod(index, a.shape[1])
            self._found((float(a[row, column]) - float(b[row, column])) ** 2, at[0].start + row, at[1].start + column)
        return True

    def _put_off_band(self, a: F32, b: F32, rows: slice, left: int, pieces: Sequence[Cut]) -> bool:
        """Leave rows that are the same on both sides for later, if their elements are finite and their squares are numbers of float32."""
        if not _same_bits(a, b):
            return False
        with np.errstate(over="ignore"):
            squares = float(sum(np.vecdot(part, part).sum(dtype=np.float64) for part in _short(a)))
        if not _LEAST_SQUARE * a.size < squares < math.inf:
            return False
        self._describe((a,))
        assert self._put_off is not None
        self._put_off.append((a, rows, left, pieces))
        self.put_off_energy += squares
        self._found(0.0, rows.start, left)
        return True

    def _take_up(self) -> None:
        """Add what was put off: sums by row and column are needed, since the sides differ, or are no plain numbers."""
        waiting, self._put_off, self.put_off_energy = self._put_off, None, 0.0
        for a, rows, left, pieces in waiting or ():
            for cut in pieces:
                values = self._buffer[: a[cut].size].reshape(1, *a[cut].shape)
                np.copyto(values[0], a[cut])
                self._put(slice(1, 3), values, _by_row(values), _moved(cut, rows.start, left))

    def _describe(self, sides: tuple[F32, ...]) -> None:
        """Take what a manifest tells of elements, all of them finite; one side is given where both are the same."""
        for number, values in enumerate(sides):
            those = (0, 1) if len(sides) == 1 else (number,)
            if any(self._described[side] for side in those):
                # Of float32 half as many bytes are looked through.
                total = float(sum(np.vecdot(part, _ONES[: part.shape[-1]]).sum(dtype=np.float64) for part in _short(values)))
                low, high = float(values.min()), float(values.max())
                for side in those:
                    self._tell(side, low, high, total)

    def _tell(self, side: int, low: float, high: float, total: float) -> None:
        self.low[side], self.high[side] = min(self.low[side], low), max(self.high[side], high)
        self.total[side] += total

    def _put(self, which: slice, values: F64, energies: F64, at: Cut) -> None:
        """Add the energies of ``values``, which become squares where sums by column are asked for."""
        self.rows[which, at[0]] += energies
        if self._by_column:
            np.multiply(values, values, out=values)
            self.columns[which, at[1]] += _by_column(values)

    def _found(self, square: float, row: int, column: int) -> None:
        index = row * self._stride + column
        if square > self.largest or (square == self.largest and index < self.largest_index):
            self.largest, self.largest_index = square, index

    def _take_out_nonfinite(self, a: F64, b: F64, at: Cut) -> None:
        """Count what is not finite, and set it to 0 on both sides so that it takes no part in the sums."""
        finite = (np.isfinite(a), np.isfinite(b))
        both = finite[0] & finite[1]
        for side, values in enumerate((a, b)):
            nan = np.isnan(values)
            self.nan[side] += int(nan.sum())
            self.inf[side] += int((~finite[side] & ~nan).sum())
            self.elsewhere[side] += float(np.square(values[finite[side] & ~both]).sum())
            if self._described[side] and finite[side].any():
                there = values[finite[side]]
                self._tell(side, float(there.min()), float(there.max()), float(there.sum()))
        mismatched = ~both & ~((a == b) | (np.isnan(a) & np.isnan(b)))
        self.mismatched += int(mismatched.sum())
        self.nonfinite += int((~both).sum())
        self.first_mismatched = self._first(mismatched, at, self.first_mismatched)
        self.first_nonfinite = self._first(~both, at, self.first_nonfinite)
        a[~both] = 0.0
        b[~both] = 0.0

    def _first(self, marked: npt.NDArray[np.bool_], at: Cut, before: int | None) -> int | None:
        """The least index in the flat matrix of what is ``marked`` in a piece, or that of the pieces ``before``."""
        if not marked.any():
            return before
        row, column = divmod(int(marked.argmax()), marked.shape[1])
        index = int((at[0].start + row) * self._stride + at[1].start + column)
        return index if before is None else min(index, before)


def cuts(rows: int, columns: int, size: int) -> Iterator[Cut]:
    """A matrix [rows, columns] in row-major order, cut into whole rows, or parts of one row, of at most ``size`` elements."""
    height, width = max(1, size // max(columns, 1)), min(columns, size)
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield slice(top, min(top + height, rows)), slice(left, min(left + width, columns))


def _bands(rows: int, columns: int, size: int) -> Iterator[tuple[slice, Sequence[Cut]]]:
    """Rows that go together, and the pieces of at most ``size`` elements that they are cut into: several rows high if there are any, since
    sums by column are loaded and stored once for each piece.
    """
    width = max(1, min(columns, size, max(_DOT, size // max(rows, 1))))
    height = max(1, size // width)
    lefts = [left for _, left in cuts(1, columns, width)]
    for band, _ in cuts(rows, 1, height * _BAND):
        tops = [top for top, _ in cuts(band.stop - band.start, 1, height)]
        yield band, [(top, left) for top in tops for left in lefts]


def _moved(cut: Cut, rows: int, columns: int) -> Cut:
    """A cut so many rows and columns further."""
    top, left = cut
    return slice(top.start + rows, top.stop + rows), slice(left.start + columns, left.stop + columns)


def _short(values: F32) -> Iterator[F32]:
    """All elements in parts whose sums are sums in float32: rows of ``_SHORT_DOT``, and what is left over."""
    if values.flags.c_contiguous:
        flat = values.reshape(-1)
        whole = flat.size - flat.size % _SHORT_DOT
        yield flat[:whole].reshape(-1, _SHORT_DOT)
        yield flat[whole:]
    else:
        for left in range(0, values.shape[1], _SHORT_DOT):
            yield values[:, left : left + _SHORT_DOT]


def _energies(values: F32) -> F64:
    """The sum of squares of each row, of which parts are sums in float32."""
    columns = values.shape[1]
    width = _part_of(columns)
    if columns == width:
        return np.asarray(np.vecdot(values, values), np.float64)
    if width and values.flags.c_contiguous:
        parts = values.reshape(-1, columns // width, width)
        return np.asarray(np.vecdot(parts, parts).sum(axis=1, dtype=np.float64))
    slices = (values[:, left : left + _SHORT_DOT] for left in range(0, columns, _SHORT_DOT))
    return np.asarray(sum(np.vecdot(part, part).astype(np.float64) for part in slices))


@cache
def _part_of(columns: int) -> int:
    """The largest part, of at most ``_SHORT_DOT`` columns, that a row can be cut into; 0 where all are small."""
    return next((width for width in range(min(columns, _SHORT_DOT), _WIDE // 2, -1) if columns % width == 0), 0)


def _are_close(sums: npt.NDArray[Any], values: F32) -> bool:
    """Whether sums of squares of the rows of ``values`` are of squares that float32 holds: of none too large and not of all too small."""
    small = sums < _LEAST_SQUARE * values.shape[1]
    return bool(np.isfinite(sums).all()) and not (small.any() and values[small].any())


#: Of the C library. It reads memory as fast as it can be read; NumPy, which writes an answer for each element, at half that.
_compare_memory = ctypes.CDLL(None).memcmp
_compare_memory.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t


def _same_bits(a: F32, b: F32) -> bool:
    """Whether two pieces are equal bit for bit."""
    bits_a, bits_b = a.view(np.uint32), b.view(np.uint32)
    if not (bits_a[0, :_GLANCE] == bits_b[0, :_GLANCE]).all():
        return False
    if a.flags.c_contiguous and b.flags.c_contiguous:
        return not _compare_memory(a.ctypes.data, b.ctypes.data, a.nbytes)
    return np.array_equal(bits_a, bits_b)


def _by_row(values: F64) -> F64:
    """The sum of squares of each row of [sides, rows, columns]."""
    if values.shape[-1] <= _DOT:
        return np.asarray(np.vecdot(values, values))
    parts = (values[..., left : left + _DOT] for left in range(0, values.shape[-1], _DOT))
    return np.asarray(sum(np.vecdot(part, part) for part in parts))


def _by_column(squares: F64) -> F64:
    """The sums over the rows of [sides, rows, columns], which lie without gaps."""
    sides, rows, columns = squares.shape
    beside = min(rows, _NARROW // columns)
    if beside < 2:
        return np.asarray(squares.sum(axis=1))
    whole = rows - rows % beside
    wide = squares[:, :whole].reshape(sides, whole // beside, beside * columns)
    wide = wide[:, 0] if whole == beside else wide.sum(axis=1)
    sums = wide.reshape(sides, beside, columns).sum(axis=1)
    return np.asarray(sums if whole == rows else sums + squares[:, whole:].sum(axis=1))
