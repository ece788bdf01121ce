"""How far two tensors are apart, and whether rounding explains it: sums over all elements, and blocks where it does not."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.weights.decoded import Decoded
from aprgraph.runtime.weights.units import Flags, Reals, Units

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
    #: Elements of A and of B that are infinite where the other side is finite and beyond what float16 holds.
    overflown: tuple[int, int] = (0, 0)
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
        self.in_blocks |= unit > 1
        size = max(unit, _USUAL_UNIT)
        if factor != 1 or offset:
            b = _moved(b, factor, offset)
        units = Units.of(a, b, a.values.shape[1] if a.values.shape[1] % size else size)
        bad: Flags = np.asarray(units.squares != 0) if exact else units.beyond_rounding()
        self.elements += units.difference.size
        self.units += bad.size
        self.unequal_units += int(np.count_nonzero(units.squares))
        if bad.any():
            self._note_bad(rows, bad, units)
        self._add_sums(units, bad)

    def _add_sums(self, units: Units, bad: Flags) -> None:
        """Take in the sums over units that are finite."""
        finite, difference, (a, b) = units.finite, units.difference, (units.a.values, units.b.values)
        if not finite.all():
            infinite = [int((~np.isfinite(values)).sum()) for values in (a, b)]
            self.not_finite = (self.not_finite[0] + infinite[0], self.not_finite[1] + infinite[1])
            self.overflown = (self.overflown[0] + _overflown(a, b), self.overflown[1] + _overflown(b, a))
            difference = difference[np.isfinite(difference)]
        self.largest = max(self.largest, float(difference.max(initial=0)), -float(difference.min(initial=0)))
        self.error += _total(units.squares, finite)
        self.good_error += _total(units.squares, finite & ~bad)
        self.expected += _UNIFORM * (_total(units.a_radii, finite) + _total(units.b_radii, finite))
        self.a_squares += _total(units.a_squares, finite)
        self.b_squares += _total(units.b_squares, finite)
        self.products += _total(units.products, finite)

    def merge(self, other: Measures) -> None:
        """Take in what was measured of other rows."""
        for name in (
            "elements",
            "error",
            "good_error",
            "expected",
            "a_squares",
            "b_squares",
            "products",
            "units",
            "bad_units",
            "unequal_units",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.in_blocks |= other.in_blocks
        self.largest = max(self.largest, other.largest)
        self.not_finite = self.not_finite[0] + other.not_finite[0], self.not_finite[1] + other.not_finite[1]
        self.overflown = self.overflown[0] + other.overflown[0], self.overflown[1] + other.overflown[1]
        self.bad_zeros = self.bad_zeros[0] + other.bad_zeros[0], self.bad_zeros[1] + other.bad_zeros[1]
        self.bad_rows.update(other.bad_rows)
        self.bad_blocks.update(other.bad_blocks)
        self.bad_spans += other.bad_spans[: max(0, _SPANS - len(self.bad_spans))]

    def _note_bad(self, rows: npt.NDArray[np.int64], bad: Flags, units: Units) -> None:
        counts = bad.sum(axis=1)
        self.bad_units += int(counts.sum())
        self.bad_blocks.update(np.flatnonzero(bad.any(axis=0)).tolist())
        for row in np.flatnonzero(counts).tolist():
            self.bad_rows[int(rows[row])] = int(counts[row])
        for row, at in np.argwhere(bad)[: max(0, _SPANS - len(self.bad_spans))].tolist():
            self.bad_spans.append((int(rows[row]), at * units.size, (at + 1) * units.size))
        zeros = [int(np.count_nonzero(bad & (squares == 0))) for squares in (units.a_squares, units.b_squares)]
        self.bad_zeros = (self.bad_zeros[0] + zeros[0], self.bad_zeros[1] + zeros[1])


#: The largest finite number of float16.
LARGEST_F16 = 65504

#: Places of bad units that are kept.
_SPANS = 64


def _overflown(a: Reals, b: Reals) -> int:
    """How many of ``a`` are infinite where ``b`` is finite and beyond what float16 holds."""
    return int(np.count_nonzero(np.isinf(a) & np.isfinite(b) & (np.abs(b) > LARGEST_F16)))


def _moved(b: Decoded, factor: float, offset: float) -> Decoded:
    """B's values times a factor, plus an offset. Whoever applied these rounded once more."""
    with np.errstate(invalid="ignore", over="ignore"):
        values = (b.values * np.float32(factor) + np.float32(offset)).astype(np.float32)
        radius = (b.radius * np.float32(abs(factor)) + np.abs(values) * np.float32(2.0**-23)).astype(np.float32)
    return Decoded(values, radius, b.outer)


def _total(of_units: Reals, chosen: Flags) -> float:
    return float(of_units[chosen].sum(dtype=np.float64))
