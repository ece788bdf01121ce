"""How far two tensors are apart, and whether rounding explains it: sums over all elements, and blocks where it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.weights.rounding import Decoded

#: f32, and f64 where that overflows.
Reals = npt.NDArray[Any]

#: Elements that are judged together where neither side has blocks.
_USUAL_UNIT = 32
#: An error that is uniform within a radius has a third of its square as its mean square.
_UNIFORM = 1 / 3
#: What all of a tensor's elements together may differ by, as a multiple of what rounding is expected to cost: ggml's quantisers are
#: between 0.04 and 1.02 of it, whatever the distribution of the weights, with an importance matrix and without.
_MOST = 2.0
#: A factor between the two is one if it explains this share of the error; rounding shrinks a tensor by up to a fifth of its own error.
_OF_FACTOR = 0.25
#: In a few elements that is chance: so many standard deviations of it are not.
_CHANCE = 36
#: Where rounding may cost this share of a tensor's energy, it says little that a difference is within that.
_TELLS_NOTHING = 0.5
#: A quantiser that weighs elements by importance may leave a block's inner elements so many times the square of half a gap.
_WEIGHED = 2.0


@dataclass
class Measures:
    """Sums over elements a of A and b of B in float64, and the units (some elements of a row) where rounding cannot explain a - b.

    ``expected`` is the sum of squares that rounding is expected to cost, ``good_error`` what it did in units that are not bad.
    ``in_blocks``: a side has blocks, whose limits say little of one element. ``bad_rows`` counts bad units by row.
    """

    elements: int = 0
    error: float = 0.0
    good_error: float = 0.0
    in_blocks: bool = False
    expected: float = 0.0
    a_squares: float = 0.0
    b_squares: float = 0.0
    products: float = 0.0
    largest: float = 0.0
    units: int = 0
    bad_units: int = 0
    unequal_units: int = 0
    #: Elements of A and of B that are NaN or infinite.
    not_finite: tuple[int, int] = (0, 0)
    #: Bad units in which all of A, and all of B, is 0.
    bad_zeros: tuple[int, int] = (0, 0)
    bad_rows: dict[int, int] = field(default_factory=dict)
    #: Where in a row bad units are, by their number.
    bad_blocks: set[int] = field(default_factory=set)
    bad_spans: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def is_exact(self) -> bool:
        """Whether all elements are equal."""
        return not self.unequal_units

    @property
    def is_rounding(self) -> bool:
        """Whether rounding explains all of the difference."""
        return not self.bad_units and self.is_rounding_on_the_whole

    @property
    def is_rounding_on_the_whole(self) -> bool:
        """Whether it explains the sum of it over all units that are not bad, and no factor does better.

        What is rounded element by element is judged so, too: a norm may hold one value, and err in one direction.
        """
        return not self.in_blocks or (self.good_error <= _MOST * self.expected and (self.bad_units > 0 or not self._has_factor))

    @property
    def tells(self) -> bool:
        """Whether it says something that a difference is within rounding: that may cost less than half of what there is."""
        return self.expected < _TELLS_NOTHING * max(self.a_squares, self.b_squares) or not self.expected

    @property
    def slope(self) -> float:
        """The factor by which B is multiplied to be A, in the sense of least squares; 0 where B is 0."""
        return self.products / self.b_squares if self.b_squares else 0.0

    @property
    def _has_factor(self) -> bool:
        if not self.error or self.expected >= self.b_squares:
            return False
        explained = (self.slope - 1) ** 2 * self.b_squares
        return explained > max(self.error, self.expected) * max(_OF_FACTOR, _CHANCE / max(1, self.elements))

    @property
    def nmse(self) -> float:
        """Σ (a - b)² / Σ a²; infinite if A is 0 and B is not."""
        return self.error / self.a_squares if self.a_squares else math.inf if self.error else 0.0

    @property
    def cosine(self) -> float:
        """The cosine between the two as vectors; the rounding of sums in f32 takes it no further than 1."""
        size = math.sqrt(self.a_squares) * math.sqrt(self.b_squares)
        return max(-1.0, min(1.0, self.products / size)) if size else float(self.a_squares == self.b_squares)

    @property
    def is_without_numbers(self) -> bool:
        """Whether NaN or Inf is in every unit, or all else is 0, so that no sum says anything."""
        return any(self.not_finite) and not self.a_squares and not self.b_squares

    def add(
        self,
        rows: npt.NDArray[np.int64],
        a: Decoded,
        b: Decoded,
        unit: int,
        factor: float = 1.0,
        offset: float = 0.0,
        *,
        exact: bool = False,
    ) -> None:
        """Take in the rows of these numbers; B's values are multiplied by ``factor`` and ``offset`` is added.

        ``exact``: every unit that is not equal is bad.
        """
        columns = a.values.shape[1]
        self.in_blocks |= unit > 1
        unit = max(unit, _USUAL_UNIT)
        if columns % unit:
            unit = columns
        theirs: npt.NDArray[np.float32] = b.values
        spread: npt.NDArray[np.float32] = b.radius
        if factor != 1 or offset:
            theirs = (theirs * np.float32(factor) + np.float32(offset)).astype(np.float32)
            # Whoever applied these rounded once more.
            spread = (spread * np.float32(abs(factor)) + np.abs(theirs) * np.float32(2.0**-23)).astype(np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            delta = a.values - theirs
            sums = _all_sums((a.values, theirs, delta, a.radius, spread), unit)
            wide = _beyond_f32(sums, a.values, theirs, delta)
            if wide.size:
                parts = [part[wide].astype(np.float64) for part in (a.values, theirs, a.radius, spread)]
                delta, sums = delta.astype(np.float64), sums.astype(np.float64)
                delta[wide] = parts[0] - parts[1]
                sums[:, wide] = _all_sums((parts[0], parts[1], delta[wide], parts[2], parts[3]), unit)
        squares, products, energy_a, energy_b, of_a, of_b, crossed = sums
        bad: npt.NDArray[np.bool_] = np.asarray(~(squares <= of_a + of_b + 2 * crossed))
        self.unequal_units += int(np.count_nonzero(squares))
        if exact:
            bad = squares != 0
        elif bad.any():
            bad &= _is_bad(delta, a, b, spread, np.maximum(energy_a, energy_b) + np.minimum(energy_a, energy_b) * np.float32(0.5), unit)
        if bad.any():
            self._note_bad(rows, bad, unit)
            zeros = [int(np.count_nonzero(bad & (energy == 0))) for energy in (energy_a, energy_b)]
            self.bad_zeros = (self.bad_zeros[0] + zeros[0], self.bad_zeros[1] + zeros[1])
        self.elements += delta.size
        self.units += bad.size
        finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(sums).all(axis=0))
        if not finite.all():
            infinite = [int((~np.isfinite(side)).sum()) for side in (a.values, theirs)]
            self.not_finite = (self.not_finite[0] + infinite[0], self.not_finite[1] + infinite[1])
            delta = delta[np.isfinite(delta)]
        self.largest = max(self.largest, float(delta.max(initial=0)), -float(delta.min(initial=0)))
        self.error += _total(squares, finite)
        self.good_error += _total(squares, finite & ~bad)
        self.expected += _UNIFORM * (_total(of_a, finite) + _total(of_b, finite))
        self.a_squares += _total(energy_a, finite)
        self.b_squares += _total(energy_b, finite)
        self.products += _total(products, finite)

    def _note_bad(self, rows: npt.NDArray[np.int64], bad: npt.NDArray[np.bool_], unit: int) -> None:
        counts = bad.sum(axis=1)
        self.bad_units += int(counts.sum())
        self.bad_blocks.update(np.flatnonzero(bad.any(axis=0)).tolist())
        for row in np.flatnonzero(counts).tolist():
            self.bad_rows[int(rows[row])] = int(counts[row])
        for row, at in np.argwhere(bad)[: max(0, _SPANS - len(self.bad_spans))].tolist():
            self.bad_spans.append((int(rows[row]), at * unit, (at + 1) * unit))


#: Sums of squares below these are made in f64: f32 is exact to 2^-126, and a radius of rounding is 2^-24 of its value.
_LEAST_ERROR, _LEAST_ENERGY = np.float32(2.0**-112), np.float32(2.0**-64)

#: Places of bad units that are kept.
_SPANS = 64


def _dots(a: Reals, b: Reals, unit: int) -> Reals:
    """The sum of products over each unit: [rows, units]."""
    shape = (len(a), -1, unit)
    found: Reals = np.einsum("rui,rui->ru", a.reshape(shape), b.reshape(shape))
    return found


def _all_sums(parts: Sequence[Reals], unit: int) -> Reals:
    """All that is summed over units: [7, rows, units]. ``parts`` are A, B, their difference, and the radii of both."""
    a, b, delta, radius, spread = parts
    pairs = ((delta, delta), (a, b), (a, a), (b, b), (radius, radius), (spread, spread), (radius, spread))
    return np.stack([_dots(left, right, unit) for left, right in pairs])


def _beyond_f32(sums: Reals, a: Reals, b: Reals, delta: Reals) -> npt.NDArray[np.intp]:
    """The rows whose squares do not fit into f32: beyond its range, or rounded to 0 or nearly so though the values are not 0."""
    wide: npt.NDArray[np.bool_] = np.asarray(~np.isfinite(sums).all(axis=(0, 2)))
    for of_units, values, least in ((sums[0], delta, _LEAST_ERROR), (sums[2], a, _LEAST_ENERGY), (sums[3], b, _LEAST_ENERGY)):
        rows = np.flatnonzero((of_units < least).any(axis=1) & ~wide)
        wide[rows] = values[rows].any(axis=1)
    return np.flatnonzero(wide)


def _total(of_units: Reals, chosen: npt.NDArray[np.bool_]) -> float:
    return float(of_units[chosen].sum(dtype=np.float64))


def _is_bad(delta: Reals, a: Decoded, b: Decoded, spread: npt.NDArray[np.float32], energy: Reals, unit: int) -> npt.NDArray[np.bool_]:
    """Whether units are bad for other reasons than that their outermost elements were cut off.

    That leaves no more than the energy of the float weights; two blocks that have nothing to do with each other differ by
    the sum of their energies.
    """
    inner = np.ones(delta.shape, np.bool_)
    for side in (a, b):
        if side.outer is not None:
            inner &= ~side.outer
    with np.errstate(invalid="ignore", over="ignore"):
        within, radius = np.where(inner, delta, 0), np.where(inner, a.radius.astype(delta.dtype) + spread, 0)
        bad = ~(_dots(within, within, unit) <= _WEIGHED * _dots(radius, radius, unit)) | ~(_dots(delta, delta, unit) <= energy)
    found: npt.NDArray[np.bool_] = bad
    return found
