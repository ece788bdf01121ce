"""The statistics kernel: one pass over a tapped tensor, sums in float64 in a fixed order. See the CPU's."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.cuda.emitter import THREADS, get, launch, put, registers, shared, sync_block
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64, is_finite, is_nan
from aprgraph.graph.calling_convention import STATISTICS_CHUNK, STATISTICS_COLUMNS, STATISTICS_KERNEL


def tensor_statistics() -> Any:
    """x [count] f32 -> out [chunks, STATISTICS_COLUMNS] f64, one row per STATISTICS_CHUNK elements."""

    def emit(parameters: Parameters) -> None:
        count = parameters.size("count")
        x = parameters.buffer("x", ("count",), "float32")
        out = parameters.buffer("out", ("chunks", STATISTICS_COLUMNS), "float64")
        with launch(parameters.size("chunks"), THREADS) as (chunk, thread):
            low, high = registers(1), registers(1)
            sums = registers(4, "float64")  # NaN, Inf, sum, sum of squares
            put(low, f32(float("inf")))
            put(high, f32(float("-inf")))
            for at in range(4):
                put(sums, T.float64(0.0), at)
            with T.serial(i64(0), i64(STATISTICS_CHUNK // THREADS)) as step:
                index = chunk * STATISTICS_CHUNK + step * THREADS + thread
                with T.If(index < count), T.Then():
                    value = x[index]
                    wide = T.Cast("float64", value)
                    with T.If(is_finite(value)):
                        with T.Then():
                            put(low, T.min(get(low), value))
                            put(high, T.max(get(high), value))
                            put(sums, get(sums, 2) + wide, 2)
                            put(sums, get(sums, 3) + wide * wide, 3)
                        with T.Else():
                            put(sums, get(sums, 0) + T.Select(is_nan(value), T.float64(1.0), T.float64(0.0)), 0)
                            put(sums, get(sums, 1) + T.Select(is_nan(value), T.float64(0.0), T.float64(1.0)), 1)
            columns: list[tuple[Expr, Any]] = [
                (get(sums, 0), _add), (get(sums, 1), _add),
                (T.Cast("float64", get(low)), T.min), (T.Cast("float64", get(high)), T.max),
                (get(sums, 2), _add), (get(sums, 3), _add),
            ]  # fmt: skip
            rows = shared(THREADS, dtype="float64")
            for column, (value, combine) in enumerate(columns):
                assign(rows, value, [thread])
                sync_block()
                distance = THREADS // 2
                while distance:
                    with T.If(thread < distance), T.Then():
                        assign(rows, combine(rows[thread], rows[thread + distance]), [thread])
                    sync_block()
                    distance //= 2
                with T.If(thread == 0), T.Then():
                    assign(out, rows[i64(0)], [chunk, i64(column)])
                sync_block()

    return build_function(STATISTICS_KERNEL, emit)


def _add(a: Expr, b: Expr) -> Expr:
    return a + b
