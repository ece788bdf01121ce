"""The statistics kernels: one pass over tapped tensors on all threads, sums in float64, in a fixed order.

Not ops of the graph: the runtime calls them from taps, so that a full trace does not spend longer on its summary than
on the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.tir import Buffer, Expr, Parameters, assign, build_function, f32, i64, is_finite, is_nan, registers
from aprgraph.graph.calling_convention import CHUNKS_KERNEL, STATISTICS_CHUNK, STATISTICS_COLUMNS, STATISTICS_KERNEL

_LANES = 8
#: So many chunks, of other tensors each, are a tenth of a millisecond's work at most.
_FEW_CHUNKS = 4


def _total(lanes: Buffer) -> Expr:
    """The sum of a buffer's lanes, in order."""
    return sum((lanes[i64(lane)] for lane in range(1, _LANES)), start=lanes[i64(0)])


def tensor_statistics(cpu: Cpu) -> Any:
    """x [count] f32 -> out [chunks, STATISTICS_COLUMNS] f64, one row per STATISTICS_CHUNK elements."""

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        count, chunks = parameters.size("count"), parameters.size("chunks")
        x = parameters.buffer("x", ("count",), "float32")
        out = parameters.buffer("out", ("chunks", STATISTICS_COLUMNS), "float64")
        # Waking the other threads costs more than a small tensor.
        with T.If(chunks == 1):
            with T.Then():
                _summarise_chunk(emitter, x, out, i64(0), *_place(count, i64(0)))
            with T.Else(), T.parallel(i64(0), chunks) as chunk:
                _summarise_chunk(emitter, x, out, chunk, *_place(count, chunk))

    return build_function(STATISTICS_KERNEL, emit)


def _place(count: Expr, chunk: Expr) -> tuple[Expr, Expr]:
    """The first element of a chunk of a tensor, and how many it has."""
    first = chunk * STATISTICS_CHUNK
    return first, T.min(count - first, i64(STATISTICS_CHUNK))


def chunk_statistics(cpu: Cpu) -> Any:
    """x [count] f32, firsts [chunks] i64, sizes [chunks] i64 -> out [chunks, STATISTICS_COLUMNS] f64, a row for each chunk."""

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        chunks = parameters.size("chunks")
        x = parameters.buffer("x", ("count",), "float32")
        firsts, sizes = (parameters.buffer(name, ("chunks",), "int64", align=8) for name in ("firsts", "sizes"))
        out = parameters.buffer("out", ("chunks", STATISTICS_COLUMNS), "float64", align=8)
        with T.If(chunks < _FEW_CHUNKS):
            with T.Then(), T.serial(i64(0), chunks) as chunk:
                _summarise_chunk(emitter, x, out, chunk, firsts[chunk], sizes[chunk])
            with T.Else(), T.parallel(i64(0), chunks) as chunk:
                _summarise_chunk(emitter, x, out, chunk, firsts[chunk], sizes[chunk])

    return build_function(CHUNKS_KERNEL, emit)


def _summarise_chunk(emitter: Emitter, x: Buffer, out: Buffer, chunk: Expr, first: Expr, size: Expr) -> None:
    """Row ``chunk`` of ``out``. As if each element were finite, which is half the work; where one was not, once more with all elements
    looked at.
    """
    sums = _Sums(emitter, x, first, size)
    sums.of_finite()
    # A square of f32 is finite in f64, so that their sum is too, unless an element was not. (One too large for f32 goes the long way.)
    with T.If(is_finite(T.Cast("float32", _total(sums.squares)))):
        with T.Then():
            sums.store(out, chunk)
        with T.Else():
            sums.of_any()
            sums.store(out, chunk)


class _Sums:
    """What is summed of the elements ``first`` .. ``first`` + ``size`` - 1: by lanes, then the few left over, each in its lane."""

    def __init__(self, emitter: Emitter, x: Buffer, first: Expr, size: Expr) -> None:
        self._emitter, self._x, self._first, self._size = emitter, x, first, size
        self._low, self._high = registers(_LANES), registers(_LANES)
        self._nan, self._inf, self._total, self.squares = (registers(_LANES, "float64") for _ in range(4))

    def of_finite(self) -> None:
        """Sum elements that are all finite."""
        self._over_all(lambda lane, value: self._add(lane, value, T.bool(True)))

    def of_any(self) -> None:
        """Sum those that are, and count the others."""

        def accumulate(lane: Expr, value: Expr) -> None:
            nan_here, finite = is_nan(value), is_finite(value)
            one, none = T.float64(1.0), T.float64(0.0)
            assign(self._nan, self._nan[lane] + T.Select(nan_here, one, none), [lane])
            assign(self._inf, self._inf[lane] + T.Select(T.Or(nan_here, finite), none, one), [lane])
            self._add(lane, T.Select(finite, value, f32(0.0)), finite)

        self._over_all(accumulate)

    def _add(self, lane: Expr, value: Expr, is_here: Expr) -> None:
        wide = T.Cast("float64", value)
        low, high = self._low[lane], self._high[lane]
        assign(self._low, T.Select(T.And(is_here, value < low), value, low), [lane])
        assign(self._high, T.Select(T.And(is_here, value > high), value, high), [lane])
        assign(self._total, self._total[lane] + wide, [lane])
        assign(self.squares, self.squares[lane] + wide * wide, [lane])

    def _over_all(self, accumulate: Callable[[Expr, Expr], None]) -> None:
        def reset(lane: Expr) -> None:
            assign(self._low, f32(float("inf")), [lane])
            assign(self._high, f32(float("-inf")), [lane])
            for buffer in (self._nan, self._inf, self._total, self.squares):
                assign(buffer, T.float64(0.0), [lane])

        first, whole = self._first, T.floordiv(self._size, i64(_LANES))
        self._emitter.vector(_LANES, reset)
        with T.serial(i64(0), whole) as step:
            self._emitter.vector(_LANES, lambda lane: accumulate(lane, self._x[first + step * _LANES + lane]))
        with T.serial(i64(0), self._size - whole * _LANES) as rest:
            accumulate(rest, self._x[first + whole * _LANES + rest])

    def store(self, out: Buffer, row: Expr) -> None:
        """Store the lanes' sums, in order, in a row of ``out``."""
        smallest, largest = self._low[i64(0)], self._high[i64(0)]
        for lane in range(1, _LANES):
            smallest, largest = T.min(smallest, self._low[i64(lane)]), T.max(largest, self._high[i64(lane)])
        extremes = (T.Cast("float64", smallest), T.Cast("float64", largest))
        results = (_total(self._nan), _total(self._inf), *extremes, _total(self._total), _total(self.squares))
        for column, value in enumerate(results):
            assign(out, value, [row, i64(column)])
