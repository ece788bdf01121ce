"""The statistics kernels: one pass over tapped tensors on all threads, sums in float64, in a fixed order.

Not ops of the graph: the runtime calls them from taps, so that a full trace does not spend longer on its summary than
on the forward pass.
"""

from __future__ import annotations

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
    """Row ``chunk`` of ``out``: lanes first, then the few left over, each in its lane, then the lanes in order."""
    low, high = registers(_LANES), registers(_LANES)
    nan, inf, total, squares = (registers(_LANES, "float64") for _ in range(4))
    whole = T.floordiv(size, i64(_LANES))

    def reset(lane: Expr) -> None:
        assign(low, f32(float("inf")), [lane])
        assign(high, f32(float("-inf")), [lane])
        for buffer in (nan, inf, total, squares):
            assign(buffer, T.float64(0.0), [lane])

    def accumulate(lane: Expr, index: Expr) -> None:
        value = x[index]
        nan_here, finite = is_nan(value), is_finite(value)
        wide = T.Cast("float64", T.Select(finite, value, f32(0.0)))
        one, none = T.float64(1.0), T.float64(0.0)
        assign(nan, nan[lane] + T.Select(nan_here, one, none), [lane])
        assign(inf, inf[lane] + T.Select(T.Or(nan_here, finite), none, one), [lane])
        assign(low, T.Select(T.And(finite, value < low[lane]), value, low[lane]), [lane])
        assign(high, T.Select(T.And(finite, value > high[lane]), value, high[lane]), [lane])
        assign(total, total[lane] + wide, [lane])
        assign(squares, squares[lane] + wide * wide, [lane])

    emitter.vector(_LANES, reset)
    with T.serial(i64(0), whole) as step:
        emitter.vector(_LANES, lambda lane: accumulate(lane, first + step * _LANES + lane))
    with T.serial(i64(0), size - whole * _LANES) as rest:
        accumulate(rest, first + whole * _LANES + rest)
    smallest, largest = low[i64(0)], high[i64(0)]
    for lane in range(1, _LANES):
        smallest, largest = T.min(smallest, low[i64(lane)]), T.max(largest, high[i64(lane)])
    extremes = (T.Cast("float64", smallest), T.Cast("float64", largest))
    results = (_total(nan), _total(inf), *extremes, _total(total), _total(squares))
    for column, value in enumerate(results):
        assign(out, value, [chunk, i64(column)])
