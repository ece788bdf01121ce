"""What one pass over the bytes of a weight matrix leaves: counts, places and histograms, in memory that does not grow with the matrix.

A matrix is looked at in units: the blocks of a quantised format, by their scales; the rows of a plain one, by their largest element, or
its elements, where it has few rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

#: How many places of one kind are kept.
KEPT = 8
#: Octaves of magnitude are exponents of float32, whatever the format: octave o holds 2^(o - 127) up to twice that.
OCTAVES = 256
NONFINITE = 255
#: Fewer blocks or rows say nothing about what is usual.
LEAST_UNITS = 16


@dataclass(frozen=True)
class Place:
    """Part of a matrix: a row (0 where there is but one), and the columns from ``start`` up to ``stop``."""

    row: int
    start: int
    stop: int
    matrix: int = 0


@dataclass
class SurveyedMatrix:
    """``rows`` and ``columns`` of the matrix number ``index`` of its tensor, and what was found in it.

    ``nan`` and ``inf`` count units' scales, or elements where the format is plain; ``octaves`` is a histogram of magnitudes, by
    field, of what is finite and not 0. ``live_rows`` and ``live_columns`` say of each row and each column of units whether
    anything in it is not 0. ``hole`` is the longest run of zero units that is not whole rows, as its first unit and its length.
    ``normal``: something in it is at least the smallest normal number of its dtype. ``varied``: its elements are not all equal; else
    they are ``value``.
    """

    index: int
    rows: int
    columns: int
    live_rows: npt.NDArray[np.bool_]
    live_columns: npt.NDArray[np.bool_]
    nan: int = 0
    inf: int = 0
    places: list[Place] = field(default_factory=list)
    octaves: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    normal: bool = False
    varied: bool = False
    value: float | None = None
    hole: tuple[int, int] = (0, 0)
    _open_run: tuple[int, int] = (0, 0)

    @staticmethod
    def empty(index: int, rows: int, columns: int, units: int) -> SurveyedMatrix:
        """One that nothing has been seen of, with ``units`` units in a row."""
        return SurveyedMatrix(index, rows, columns, np.zeros(rows, bool), np.zeros(units, bool))

    @property
    def is_zero(self) -> bool:
        """Whether every element is 0."""
        return not self.live_rows.any()

    def add_octaves(self, name: str, counts: npt.NDArray[np.int64]) -> None:
        """Add to the histogram of a field."""
        known = self.octaves.get(name)
        self.octaves[name] = counts if known is None else known + counts

    def add_place(self, place: Place) -> None:
        """Keep a place of NaN or Inf, if there is room."""
        if len(self.places) < KEPT and place not in self.places:
            self.places.append(place)

    def add_zeros(self, row: int, zero: npt.NDArray[np.bool_] | None, rows: int) -> None:
        """``zero`` [rows, units of a row] says which units are 0 (None: none is)."""
        if zero is None:
            self.live_columns[:] = True
            self.live_rows[row : row + rows] = True
            self._open_run = (0, 0)
            return
        self.live_columns |= ~zero.all(axis=0)
        self.live_rows[row : row + rows] = ~zero.all(axis=1)
        self._add_runs(row * zero.shape[1], zero.ravel())

    def _add_runs(self, first: int, zero: npt.NDArray[np.bool_]) -> None:
        """Bring the longest run of zero units up to date; one may go on from chunk to chunk."""
        if zero.all():  # long stretches of zeros are read at the rate of the others
            start, length = self._open_run if sum(self._open_run) == first and self._open_run[1] else (first, 0)
            self._open_run = (start, length + zero.size)
            if start % len(self.live_columns) and self._open_run[1] > self.hole[1]:
                self.hole = self._open_run
            return
        edges = np.flatnonzero(np.diff(np.concatenate(([False], zero, [False])).astype(np.int8)))
        starts, lengths = edges[::2] + first, edges[1::2] - edges[::2]
        if starts.size and starts[0] == first and sum(self._open_run) == first and self._open_run[1]:
            lengths[0] += self._open_run[1]
            starts[0] = self._open_run[0]
        across = len(self.live_columns)
        inside = np.where((starts % across != 0) | ((starts + lengths) % across != 0), lengths, 0)
        if starts.size and inside.max() > self.hole[1]:
            longest = int(inside.argmax())
            self.hole = (int(starts[longest]), int(lengths[longest]))
        ends_here = starts.size and starts[-1] + lengths[-1] == first + zero.size
        self._open_run = (int(starts[-1]), int(lengths[-1])) if ends_here else (0, 0)

    def add_value(self, value: float | None) -> None:
        """All elements of a chunk are ``value``; None if they are not equal."""
        self.varied = self.varied or value is None or self.value not in (None, value)
        self.value = value
