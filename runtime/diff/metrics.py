"""How far two tensors are apart: one pass over both, in pieces, accumulated in float64 (sums.py).

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
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aprgraph.runtime.diff.sums import F64, Sums, cuts
from aprgraph.runtime.trace.aprt import F32, give_back
from aprgraph.runtime.trace.statistics import Statistics, statistics_from_sums

#: Elements of one piece: its buffers stay in the processor's last cache, and the overhead of a call is small beside its work.
PIECE = 1 << 18
#: Elements of each side, 16 MB, after which the pages that were read are given back.
BLOCK = 1 << 22
#: The least number of rows that make a channel of zeros more than chance, and the part of its mean energy that the other side has in it.
DEAD_FROM = 4
DEAD_PART = 0.01
#: Where such a part of all elements is 0 on both sides, a channel of zeros says nothing.
SPARSE = 0.25


@dataclass(frozen=True)
class Concentration:
    """Where along one axis the error lies.

    ``worst`` are the indices with most error energy, worst first (for channels: 1 % of them, at least one), none where there is no
    error; ``share`` is their part of the error energy and ``signal_share`` their part of the signal energy. ``local_nmse`` is
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
    something else on the other, and ``nonfinite_index`` is the first of these, or where there is none the first that is NaN or Inf on
    both. ``dead_channels`` are 0 at every position on one side alone, of several positions; none are
    named where zeros are common, as behind a gate that is cut off.
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
    dead_channels: tuple[int, ...] = ()
    nonfinite_index: tuple[int, ...] | None = None

    @property
    def nonfinite(self) -> tuple[str, str]:
        """How many NaN and Inf each side holds, in words."""
        sides = ((self.nan_a, self.inf_a), (self.nan_b, self.inf_b))
        a, b = (" and ".join(f"{count} {what}" for count, what in zip(side, ("NaN", "Inf"), strict=True) if count) for side in sides)
        return a or "none", b or "none"

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
            "nonfinite_index": None if self.nonfinite_index is None else list(self.nonfinite_index),
            "positions": None if self.positions is None else self.positions.to_json(),
            "channels": None if self.channels is None else self.channels.to_json(),
            "dead_channels": list(self.dead_channels[:8]),
        }


def compare_tensors(a: F32, b: F32, *, structured: bool = True, position_axis: int | None = 0) -> TensorMetrics:
    """Compare two f32 tensors of one shape; channels are the last axis, positions the axis ``position_axis``.

    ``structured`` false says that the shape is not known and the tensors are flat: positions and channels are None
    then. Memory beside the tensors: a few pieces and one number per row and channel. Of tensors that ``read_aprt`` mapped, only
    the pages that are being read are in memory.
    """
    return compare_described(a, b, structured=structured, position_axis=position_axis, described=(False, False))[0]


def compare_described(
    a: F32, b: F32, *, structured: bool, position_axis: int | None, described: tuple[bool, bool]
) -> tuple[TensorMetrics, tuple[Statistics | None, Statistics | None]]:
    """As ``compare_tensors``, and the statistics of each side that ``described`` asks for; else None."""
    assert a.shape == b.shape
    columns = a.shape[-1] if a.ndim else 1
    rows = a.size // columns if columns else 0
    sums = Sums(rows, columns, by_column=structured, piece=PIECE, mapped=True, described=described)
    flat_a, flat_b = ((side if side.flags.c_contiguous else np.ascontiguousarray(side)).reshape(rows, columns) for side in (a, b))
    for cut in cuts(rows, columns, BLOCK):
        part_a, part_b = flat_a[cut], flat_b[cut]
        sums.add(part_a, part_b, cut)
        give_back(part_a)
        give_back(part_b)
    found = _result(sums, a.shape, structured, position_axis)
    is_sparse = found.dead_channels and all(side.size - np.count_nonzero(side) > SPARSE * side.size for side in (a, b))
    statistics = tuple(
        statistics_from_sums(
            a.size,
            sums.nan[side],
            sums.inf[side],
            sums.low[side],
            sums.high[side],
            sums.total[side],
            float(sums.rows[1 + side].sum()) + sums.put_off_energy + sums.elsewhere[side],
        )
        if asked
        else None
        for side, asked in enumerate(described)
    )
    return replace(found, dead_channels=()) if is_sparse else found, (statistics[0], statistics[1])


def compare_blocks(shape: tuple[int, ...], blocks: Iterable[tuple[F32, F32]], *, position_axis: int | None = 0) -> TensorMetrics:
    """As ``compare_tensors``, of tensors of ``shape`` that are made while they are compared.

    ``blocks`` are both sides, f32 [m, *shape[1:]], from the first index of the first axis to the last.
    """
    columns = shape[-1]
    sums = Sums(math.prod(shape[:-1]), columns, by_column=True, piece=PIECE)
    top = 0
    for a, b in blocks:
        rows = a.size // columns
        sums.add(a.reshape(rows, columns), b.reshape(rows, columns), (slice(top, top + rows), slice(0, columns)))
        top += rows
    assert top == sums.rows.shape[1]
    return _result(sums, shape, True, position_axis)


def _result(sums: Sums, shape: tuple[int, ...], structured: bool, position_axis: int | None) -> TensorMetrics:
    count = math.prod(shape)
    error, *energies = sums.rows.sum(axis=1).tolist()
    energy_a, energy_b = (energy + sums.put_off_energy for energy in energies)
    measured = sums.nonfinite < count
    first = sums.first_nonfinite if sums.first_mismatched is None else sums.first_mismatched
    signal = max(energy_a, energy_b)
    norms = math.sqrt(energy_a) * math.sqrt(energy_b)
    # a · b follows from |a - b|², which is the more accurate of the two when a and b are close.
    cosine = max(-1.0, min(1.0, (energy_a + energy_b - error) / (2 * norms))) if norms else None
    return TensorMetrics(
        count=count,
        bit_identical=sums.bit_identical,
        nmse=(error / signal if signal else 0.0) if measured else None,
        cosine=cosine,
        rms_a=_rms(energy_a + sums.elsewhere[0], count - sums.nan[0] - sums.inf[0]),
        rms_b=_rms(energy_b + sums.elsewhere[1], count - sums.nan[1] - sums.inf[1]),
        max_abs=math.sqrt(sums.largest) if measured else None,
        max_index=_index(sums.largest_index, shape) if measured else None,
        nan_a=sums.nan[0],
        nan_b=sums.nan[1],
        inf_a=sums.inf[0],
        inf_b=sums.inf[1],
        mismatched_nonfinite=sums.mismatched,
        positions=_positions(sums.rows, shape, position_axis) if measured and structured else None,
        channels=_channels(sums.columns) if measured and structured else None,
        dead_channels=_dead(sums.columns) if measured and structured and sums.rows.shape[1] >= DEAD_FROM else (),
        nonfinite_index=None if first is None else _index(first, shape),
    )


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The place of an element in row-major order, axis by axis."""
    found: list[int] = []
    for dim in reversed(shape):
        flat, at = divmod(flat, dim)
        found.append(at)
    return tuple(reversed(found))


def _channels(columns: F64) -> Concentration:
    error, a, b = columns
    return _concentration(error, np.maximum(a, b), max(1, error.size // 100))


def _dead(columns: F64) -> tuple[int, ...]:
    """The channels that are 0 on one side and, on the other, no small part of it."""
    _, a, b = columns
    if columns[1:].all():
        return ()
    found = ((a == 0) & (b > DEAD_PART * b.mean())) | ((b == 0) & (a > DEAD_PART * a.mean()))
    return tuple(int(index) for index in np.flatnonzero(found))


def _positions(rows: F64, shape: tuple[int, ...], axis: int | None) -> Concentration | None:
    leading = shape[:-1]
    if axis is None or axis >= len(leading):
        return None
    others = tuple(other for other in range(len(leading)) if other != axis)
    error, a, b = (part.reshape(leading).sum(axis=others) for part in rows) if others else rows
    return _concentration(error, np.maximum(a, b), 1)


def _rms(energy: float, count: int) -> float | None:
    return math.sqrt(energy / count) if count else None


def _concentration(error: F64, signal: F64, count: int) -> Concentration:
    total, total_signal = float(np.add.reduce(error)), float(np.add.reduce(signal))
    if not total:
        return Concentration(error.size, (), 0.0, 0.0, 0.0, 0)
    floor = total_signal / signal.size
    # Without any signal there is no error either: both sides are 0 everywhere.
    local = error / np.maximum(signal, floor) if floor else np.zeros_like(error)
    most = int(local.argmax())
    worst: list[int]
    if count == 1:
        worst = [int(error.argmax())]
        held, held_signal = float(error[worst[0]]), float(signal[worst[0]])
    else:
        worst = np.argsort(-error, kind="stable")[:count].tolist()
        held, held_signal = float(error[worst].sum()), float(signal[worst].sum())
    return Concentration(
        size=error.size,
        worst=tuple(worst),
        share=held / total,
        signal_share=held_signal / total_signal if total_signal else 0.0,
        local_nmse=float(local[most]),
        local_index=most,
    )
