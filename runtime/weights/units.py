"""Some rows of two tensors in units of some elements: sums over each unit, and whether rounding explains the difference there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.weights.decoded import Decoded, sums_of_products

#: f32, and f64 where that overflows.
Reals = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

#: A quantiser that weighs elements by importance may leave a block's inner elements so many times the square of half a gap.
_WEIGHED = 2.0
#: Sums of squares below these are made in f64: f32 is exact to 2^-126, and a radius of rounding is 2^-24 of its value.
_LEAST_ERROR, _LEAST_ENERGY = 2.0**-112, 2.0**-64


@dataclass(frozen=True)
class Units:
    """Rows of A and B, and sums over their units of ``size`` elements, float64 [rows, units].

    ``difference`` is A - B by element; ``squares`` are the sums of its squares, ``products`` those of A times B, ``a_squares`` and
    ``b_squares`` those of each side's. ``a_radii`` and ``b_radii`` are what rounding may add to the squares at most.
    """

    a: Decoded
    b: Decoded
    size: int
    difference: Reals
    squares: F64
    products: F64
    a_squares: F64
    b_squares: F64
    a_radii: F64
    b_radii: F64

    @staticmethod
    def of(a: Decoded, b: Decoded, size: int) -> Units:
        """The units of some rows; ``size`` divides their length."""
        with np.errstate(invalid="ignore", over="ignore"):
            difference: Reals = a.values - b.values
            sums = _all_sums(a.values, b.values, difference, size)
            wide = _beyond_f32(sums, a.values, b.values, difference)
            if wide.size:
                ours, theirs = (side.values[wide].astype(np.float64) for side in (a, b))
                difference = difference.astype(np.float64)
                difference[wide] = ours - theirs
                sums[:, wide] = _all_sums(ours, theirs, difference[wide], size)
            squares, products, of_a, of_b = sums
            radii = a.radius_squares(size, of_a), b.radius_squares(size, of_b)
        return Units(a, b, size, difference, squares, products, of_a, of_b, *radii)

    @property
    def finite(self) -> Flags:
        """Where all of the sums are finite."""
        sums = (self.squares, self.products, self.a_squares, self.b_squares, self.a_radii, self.b_radii)
        return np.asarray(np.all([np.isfinite(one) for one in sums], axis=0))

    def beyond_rounding(self) -> Flags:
        """The units whose difference no rounding explains."""
        # What is infinite has no limit of rounding: of an infinite one, anything would be within it.
        measured: Flags = np.asarray(np.isfinite(self.squares) & np.isfinite(self.a_radii) & np.isfinite(self.b_radii))
        with np.errstate(invalid="ignore", over="ignore"):
            within: Flags = np.asarray(measured & (self.squares <= np.square(np.sqrt(self.a_radii) + np.sqrt(self.b_radii))))
        bad: Flags = np.asarray(~within & (self.squares != 0))
        if not bad.any():
            return bad
        # What was cut off is no more than the energy of the float weights; two blocks that have nothing to do with each other
        # differ by the sum of their energies.
        larger, smaller = np.maximum(self.a_squares, self.b_squares), np.minimum(self.a_squares, self.b_squares)
        cut = measured & (self.squares <= larger + smaller * 0.5)
        # Of a row most of which is no rounding, the rest need not be looked at.
        doubtful = np.flatnonzero((bad & cut).any(axis=1) & (2 * (bad & ~cut).sum(axis=1) <= bad.shape[1]))
        if doubtful.size:
            bad[doubtful] &= ~cut[doubtful] | _is_bad(self.difference[doubtful], (self.a, self.b), doubtful, self.size)
        return bad


def _all_sums(a: Reals, b: Reals, delta: Reals, unit: int) -> F64:
    """All that is summed over units, [4, rows, units]: squares of the difference, products, squares of A and of B."""
    return np.stack([sums_of_products(left, right, unit) for left, right in ((delta, delta), (a, b), (a, a), (b, b))])


def _beyond_f32(sums: F64, a: Reals, b: Reals, delta: Reals) -> npt.NDArray[np.intp]:
    """The rows whose squares do not fit into f32: beyond its range, or rounded to 0 or nearly so though the values are not 0."""
    wide: Flags = np.asarray(~np.isfinite(sums).all(axis=(0, 2)))
    for of_units, values, least in ((sums[0], delta, _LEAST_ERROR), (sums[2], a, _LEAST_ENERGY), (sums[3], b, _LEAST_ENERGY)):
        rows = np.flatnonzero((of_units < least).any(axis=1) & ~wide)
        wide[rows] = values[rows].any(axis=1)
    return np.flatnonzero(wide)


def _is_bad(delta: Reals, sides: tuple[Decoded, Decoded], rows: npt.NDArray[np.intp], unit: int) -> Flags:
    """Whether units of some rows are bad for other reasons than that their outermost elements were cut off."""
    inner = np.ones(delta.shape, np.bool_)
    for side in sides:
        if side.outer is not None:
            inner &= ~side.outer[rows]
    with np.errstate(invalid="ignore", over="ignore"):
        limit = sides[0].radius[rows].astype(delta.dtype) + sides[1].radius[rows]
        within, radius = np.where(inner, delta, 0), np.where(inner, limit, 0)
        return ~(sums_of_products(within, within, unit) <= _WEIGHED * sums_of_products(radius, radius, unit))
