"""How far two tensors are apart: one pass over both, in pieces, accumulated in float64.

Every measure is the same whichever tensor comes first. With e = a - b, and energies meaning sums of squares over the
elements that are finite on both sides:

    NMSE    energy(e) / max(energy(a), energy(b)); SQNR in dB is -10 · log10 of it
    local   of one position or channel: energy(e) there / max(signal there, mean signal), where signal is the larger of
            both sides' energies. The mean as a floor, because a small value that comes out of a large sum carries the
            rounding of the large one; the signal itself above that, because a rounding error grows with the value, so
            that channels with very large activations hold most of an honest error too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.aprt import F32

#: Elements of one piece: its float64 buffers together stay within a core's cache.
PIECE = 1 << 15

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Concentration:
    """Where along one axis the error lies.

    ``worst`` are the indices with most error energy, worst first (for channels: 1 % of them, at least one);
    ``share`` is their part of the error energy and ``signal_share`` their part of the signal energy. ``local_nmse`` is
    the largest local NMSE (module docstring) of any index, ``local_index`` that index.
    """

    size: int
    worst: tuple[int, ...]
    share: float
    signal_share: float
    local_nmse: float
    local_index: int

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; at most eight of the worst indices are named."""
        return {
            "size": self.size,
            "worst": list(self.worst[:8]),
            "worst_count": len(self.worst),
            "share": self.share,
            "signal_share": self.signal_share,
            "local_nmse": self.local_nmse,
            "local_index": self.local_index,
        }


@dataclass(frozen=True)
class TensorMetrics:
    """The distance of two tensors of equal shape. RMS of each side is over that side's finite elements.

    None where there is no answer: no element finite on both sides, a cosine with a zero vector, a position or channel
    of a tensor whose shape is unknown. ``mismatched_nonfinite`` counts elements that are NaN or Inf on one side and
    something else on the other.
    """

    count: int
    bit_identical: bool
    nmse: float | None
    cosine: float | None
    rms_a: float | None
    rms_b: float | None
    max_abs: float | None
    max_index: tuple[int, ...] | None
    nan_a: int
    nan_b: int
    inf_a: int
    inf_b: int
    mismatched_nonfinite: int
    positions: Concentration | None
    channels: Concentration | None

    @property
    def sqnr_db(self) -> float | None:
        """Signal to noise ratio in dB; None where there is no noise, or no signal."""
        return -10.0 * math.log10(self.nmse) if self.nmse else None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object without NaN or Infinity."""
        return {
            "count": self.count,
            "bit_identical": self.bit_identical,
            "nmse": self.nmse,
            "sqnr_db": self.sqnr_db,
            "cosine": self.cosine,
            "rms_a": self.rms_a,
            "rms_b": self.rms_b,
            "max_abs": self.max_abs,
            "max_index": None if self.max_index is None else list(self.max_index),
            "nan_a": self.nan_a,
            "nan_b": self.nan_b,
            "inf_a": self.inf_a,
            "inf_b": self.inf_b,
            "mismatched_nonfinite": self.mismatched_nonfinite,
            "positions": None if self.positions is None else self.positions.to_json(),
            "channels": None if self.channels is None else self.channels.to_json(),
        }


def compare_tensors(a: F32, b: F32, *, structured: bool = True, position_axis: int | None = 0) -> TensorMetrics:
    """Compare two f32 tensors of one shape; channels are the last axis, positions the axis ``position_axis``.

    ``structured`` false says that the shape is not known and the tensors are flat: positions and channels are None
    then. Memory beside the tensors: a few pieces and one number per row and channel.
    """
    assert a.shape == b.shape
    columns = a.shape[-1] if a.ndim else 1
    rows = a.size // columns if columns else 0
    totals = _Totals(rows, columns, structured)
    flat_a, flat_b = (np.ascontiguousarray(side).reshape(rows, columns) for side in (a, b))
    # A signalling NaN raises the invalid flag when it is widened; it is counted below all the same.
    with np.errstate(invalid="ignore"):
        height, width = max(1, PIECE // max(columns, 1)), min(columns, PIECE)
        for top in range(0, rows, height):
            for left in range(0, columns, width):
                cut = (slice(top, min(top + height, rows)), slice(left, min(left + width, columns)))
                totals.add(flat_a[cut], flat_b[cut], cut)
    return totals.result(a.shape, position_axis)


class _Totals:
    """Sums over the pieces. ``*_rows`` and ``*_columns`` hold energies of error, of a and of b."""

    def __init__(self, rows: int, columns: int, structured: bool) -> None:
        self.structured = structured
        self.columns = columns
        self.buffers = [np.empty(max(PIECE, 1), np.float64) for _ in range(3)]
        self.rows_error, self.rows_a, self.rows_b = (np.zeros(rows) for _ in range(3))
        width = columns if structured else 0
        self.columns_error, self.columns_a, self.columns_b = (np.zeros(width) for _ in range(3))
        self.bit_identical = True
        self.nan = [0, 0]
        self.inf = [0, 0]
        self.mismatched = 0
        self.finite_on_both = rows * columns
        self.energy_elsewhere = [0.0, 0.0]  # of elements that are finite on this side only
        self.largest, self.largest_index = -1.0, 0

    def add(self, a: F32, b: F32, cut: tuple[slice, slice]) -> None:
        same = _same_bits(a, b)
        self.bit_identical = self.bit_identical and same
        wide_a, wide_b, scratch = (buffer[: a.size].reshape(a.shape) for buffer in self.buffers)
        np.copyto(wide_a, a)
        squares = np.multiply(wide_a, wide_a, out=scratch)
        energy_a = squares.sum(axis=1)
        finite = bool(np.isfinite(energy_a).all())
        if finite and not same:
            np.copyto(wide_b, b)
            finite = math.isfinite(np.vdot(wide_b, wide_b))
        if not finite:
            np.copyto(wide_b, b)
            self._take_out_nonfinite(wide_a, wide_b)
            squares = np.multiply(wide_a, wide_a, out=scratch)
            energy_a = squares.sum(axis=1)
        self._put(self.rows_a, self.columns_a, squares, energy_a, cut)
        if same:
            self._put(self.rows_b, self.columns_b, squares, energy_a, cut)
            self._largest(0.0, cut[0].start * self.columns + cut[1].start)
            return
        np.multiply(wide_b, wide_b, out=scratch)
        self._put(self.rows_b, self.columns_b, scratch, scratch.sum(axis=1), cut)
        error = np.subtract(wide_a, wide_b, out=wide_a)
        np.multiply(error, error, out=error)
        self._put(self.rows_error, self.columns_error, error, error.sum(axis=1), cut)
        row, column = divmod(int(error.argmax()), error.shape[1])
        self._largest(float(error[row, column]), (cut[0].start + row) * self.columns + cut[1].start + column)

    def _largest(self, square: float, index: int) -> None:
        if square > self.largest:
            self.largest, self.largest_index = square, index

    def _put(self, rows: F64, columns: F64, squares: F64, by_row: F64, cut: tuple[slice, slice]) -> None:
        rows[cut[0]] += by_row
        if self.structured:
            columns[cut[1]] += squares.sum(axis=0)

    def _take_out_nonfinite(self, a: F64, b: F64) -> None:
        """Count what is not finite, and set it to 0 on both sides so that it takes no part in the sums."""
        finite = (np.isfinite(a), np.isfinite(b))
        both = finite[0] & finite[1]
        for side, values in enumerate((a, b)):
            nan = np.isnan(values)
            self.nan[side] += int(nan.sum())
            self.inf[side] += int((~finite[side] & ~nan).sum())
            self.energy_elsewhere[side] += float(np.square(values[finite[side] & ~both]).sum())
        self.mismatched += int((~both & ~((a == b) | (np.isnan(a) & np.isnan(b)))).sum())
        self.finite_on_both -= int((~both).sum())
        a[~both] = 0.0
        b[~both] = 0.0

    def result(self, shape: tuple[int, ...], position_axis: int | None) -> TensorMetrics:
        count = self.rows_a.size * self.columns
        error, energy_a, energy_b = (float(part.sum()) for part in (self.rows_error, self.rows_a, self.rows_b))
        measured = self.finite_on_both > 0
        signal = max(energy_a, energy_b)
        norms = math.sqrt(energy_a) * math.sqrt(energy_b)
        # a · b follows from |a - b|², which is the more accurate of the two when a and b are close.
        cosine = max(-1.0, min(1.0, (energy_a + energy_b - error) / (2 * norms))) if norms else None
        return TensorMetrics(
            count=count,
            bit_identical=self.bit_identical,
            nmse=(error / signal if signal else 0.0) if measured else None,
            cosine=cosine,
            rms_a=_rms(energy_a + self.energy_elsewhere[0], count - self.nan[0] - self.inf[0]),
            rms_b=_rms(energy_b + self.energy_elsewhere[1], count - self.nan[1] - self.inf[1]),
            max_abs=math.sqrt(self.largest) if measured else None,
            max_index=tuple(int(i) for i in np.unravel_index(self.largest_index, shape)) if measured else None,
            nan_a=self.nan[0],
            nan_b=self.nan[1],
            inf_a=self.inf[0],
            inf_b=self.inf[1],
            mismatched_nonfinite=self.mismatched,
            positions=self._positions(shape, position_axis) if measured and self.structured else None,
            channels=self._channels() if measured and self.structured else None,
        )

    def _channels(self) -> Concentration:
        signal = np.maximum(self.columns_a, self.columns_b)
        return _concentration(self.columns_error, signal, max(1, self.columns // 100))

    def _positions(self, shape: tuple[int, ...], axis: int | None) -> Concentration | None:
        leading = shape[:-1]
        if axis is None or axis >= len(leading):
            return None
        others = tuple(other for other in range(len(leading)) if other != axis)
        error, a, b = (part.reshape(leading).sum(axis=others) for part in (self.rows_error, self.rows_a, self.rows_b))
        return _concentration(error, np.maximum(a, b), 1)


def _same_bits(a: F32, b: F32) -> bool:
    """Whether two pieces are equal bit for bit; the first row alone decides most of the time."""
    bits_a, bits_b = a.view(np.uint32), b.view(np.uint32)
    return bool(np.array_equal(bits_a[0], bits_b[0]) and np.array_equal(bits_a, bits_b))


def _rms(energy: float, count: int) -> float | None:
    return math.sqrt(energy / count) if count else None


def _concentration(error: F64, signal: F64, count: int) -> Concentration:
    floor = float(signal.mean())
    # Without any signal there is no error either: both sides are 0 everywhere.
    local = error / np.maximum(signal, floor) if floor else np.zeros_like(error)
    worst = np.argsort(-error, kind="stable")[:count]
    total, total_signal = float(error.sum()), float(signal.sum())
    return Concentration(
        size=error.size,
        worst=tuple(int(index) for index in worst),
        share=float(error[worst].sum()) / total if total else 0.0,
        signal_share=float(signal[worst].sum()) / total_signal if total_signal else 0.0,
        local_nmse=float(local.max()),
        local_index=int(local.argmax()),
    )
