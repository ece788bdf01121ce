"""Kernels that pick rows or columns: the embedding, columns of every row, the first row, the last row, and the mean of all rows."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.weights import Weight, half_table
from aprgraph.codegen.kernels.lookup import row_of
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Buffer, Expr, Parameters, assign, build_function, i64, registers
from aprgraph.graph.ops.lookup import heads_of


def embed(request: KernelRequest, cpu: Cpu) -> Any:
    """tokens [n] i32, table [V, E] -> out [n, E] f32, times `scale`. Token ids are checked before the run."""
    _, table_type = request.operands

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        halves = half_table(parameters, request)
        tokens = parameters.buffer("tokens", ("n",), "int32")
        table = Weight(emitter, parameters, "table", table_type, halves)
        scale = number_parameters(parameters, request).get("scale")
        out = parameters.buffer("out", ("n", table.columns), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p:
            row = row_of(request, tokens[p])
            table.decode_row(row, lambda column, value: assign(out, value if scale is None else value * scale, [p, column]))

    return build_function(request.symbol, emit)


def copy_kernel(
    source: int,
    columns: int,
    start: int,
    request: KernelRequest,
    cpu: Cpu,
    *,
    last: bool = False,
    first: bool = False,
    to_end: bool = False,
) -> Any:
    """Columns start .. start + columns of every row, or of the ``last`` or ``first``; or to the end of an output that has t rows."""

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        n = parameters.size("n")
        x = parameters.buffer("x", ("n", source), "float32")
        out = parameters.buffer("out", (1 if last or first else "t" if to_end else "n", columns), "float32")

        def row(to: Expr, from_row: Expr) -> None:
            emitter.chunks(
                columns,
                lambda column, width: emitter.vector(
                    width, lambda lane: assign(out, x[from_row, start + column + lane], [to, column + lane])
                ),
            )

        if last or first:
            row(i64(0), n - 1 if last else i64(0))
        else:
            offset = parameters.size("t") - n if to_end else i64(0)
            with T.serial(i64(0), n) as p:
                row(offset + p, p)

    return build_function(request.symbol, emit)


def copy_columns(emitter: Emitter, count: int, source: tuple[Buffer, Expr, Expr], target: tuple[Buffer, Expr, Expr]) -> None:
    """Copy ``count`` columns of a row; source and target are each a buffer, a row and its first column."""
    x, from_row, start = source
    out, to_row, to_start = target

    def piece(column: Expr, width: int) -> None:
        emitter.vector(width, lambda lane: assign(out, x[from_row, start + column + lane], [to_row, to_start + column + lane]))

    emitter.chunks(count, piece)


def columns(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, H·C] -> out [n, H·(stop - start)]: of each head, or of the whole row."""
    start, stop, heads = request.attr_int("start"), request.attr_int("stop"), heads_of(request.attrs)
    total = int(request.operands[0].dims[-1])
    if len(request.operands[0].dims) == len(("n", "k", "C")):
        return _columns_of_experts(request, cpu)
    if heads == 1:
        return copy_kernel(total, stop - start, start, request, cpu)
    size, taken = total // heads, stop - start

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", total), "float32")
        out = parameters.buffer("out", ("n", heads * taken), "float32")
        with T.serial(i64(0), parameters.size("n")) as p, T.serial(i64(0), i64(heads)) as head:
            copy_columns(emitter, taken, (x, p, head * size + start), (out, p, head * taken))

    return build_function(request.symbol, emit)


def _columns_of_experts(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, k, C] -> out [n, k, stop - start]."""
    _, k, total = request.operands[0].dims
    start, taken = request.attr_int("start"), request.attr_int("stop") - request.attr_int("start")

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", k, total), "float32")
        out = parameters.buffer("out", ("n", k, taken), "float32")
        with T.serial(i64(0), parameters.size("n")) as p, T.serial(i64(0), i64(int(k))) as choice:
            emitter.chunks(
                taken,
                lambda column, width: emitter.vector(
                    width, lambda lane: assign(out, x[p, choice, start + column + lane], [p, choice, column + lane])
                ),
            )

    return build_function(request.symbol, emit)


def last_row(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] -> out [1, C]."""
    width = int(request.operands[0].dims[1])
    return copy_kernel(width, width, 0, request, cpu, last=True)


def first_row(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] -> out [1, C]."""
    width = int(request.operands[0].dims[1])
    return copy_kernel(width, width, 0, request, cpu, first=True)


def mean_rows(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] -> out [1, C]: the sum of all rows in order, divided by their number."""
    width = int(request.operands[0].dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        n = parameters.size("n")
        x = parameters.buffer("x", ("n", width), "float32")
        out = parameters.buffer("out", (1, width), "float32")
        sums = registers(cpu.lanes)

        def columns(column: Expr, count: int) -> None:
            emitter.zero(sums, 0, count)
            with T.serial(i64(0), n) as p:
                emitter.vector(count, lambda lane: assign(sums, sums[lane] + x[p, column + lane], [lane]))
            emitter.vector(count, lambda lane: assign(out, sums[lane] / T.Cast("float32", n), [i64(0), column + lane]))

        emitter.chunks(width, columns)

    return build_function(request.symbol, emit)
