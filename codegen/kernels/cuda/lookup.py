"""Kernels that pick rows or columns: the embedding, columns of every row, the first row, the last row, and the mean of all rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import Emitter, get, launch_over, put, registers, split_index, where
from aprgraph.codegen.kernels.cuda.weights import QUAD, Weight
from aprgraph.codegen.kernels.lookup import row_of
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64
from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.ops.lookup import heads_of


def embed(request: KernelRequest) -> Any:
    """tokens [n] i32, table [V, E] -> out [n, E] f32, times `scale`. Token ids are checked before the run."""

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        tokens = parameters.buffer("tokens", ("n",), "int32")
        table = Weight(emitter, parameters, "table", request.operands[1])
        scale = number_parameters(parameters, request).get("scale")
        out = parameters.buffer("out", ("n", table.columns), "float32")
        table.open()
        threads = table.blocks * (RUN // QUAD)
        with launch_over(parameters.size("n") * threads) as index:
            p, rest = T.floordiv(index, i64(threads)), T.floormod(index, i64(threads))
            block, quad = T.floordiv(rest, i64(RUN // QUAD)), T.floormod(rest, i64(RUN // QUAD))
            for first in range(0, table.elements, RUN):
                for j, value in enumerate(table.quad(row_of(request, tokens[p]), block, first, quad)):
                    column = block * table.elements + quad * QUAD + (first + j)

                    def store(column: Expr = column, value: Expr = value) -> None:
                        assign(out, value if scale is None else value * scale, [p, column])

                    where(column < table.columns, store, always=table.columns % RUN == 0)

    return build_function(request.symbol, emit)


def copy_kernel(source: int, count: int, start: int, request: KernelRequest, *, to_end: bool = False) -> Any:
    """Columns start .. start + count of every row, to the end of the output if it has t rows."""

    def emit(parameters: Parameters) -> None:
        n = parameters.size("n")
        x = parameters.buffer("x", ("n", source), "float32")
        out = parameters.buffer("out", ("t" if to_end else "n", count), "float32")
        offset = parameters.size("t") - n if to_end else i64(0)
        with launch_over(n * count) as index:
            p, column = split_index(index, count)
            assign(out, x[p, column + start], [offset + p, column])

    return build_function(request.symbol, emit)


def columns(request: KernelRequest) -> Any:
    """x [n, H·C] -> out [n, H·(stop - start)]: of each head, or of the whole row."""
    start, stop, heads = request.attr_int("start"), request.attr_int("stop"), heads_of(request.attrs)
    total = int(request.operands[0].dims[-1])
    if len(request.operands[0].dims) == len(("n", "k", "C")):
        return _columns_of_experts(request)
    if heads == 1:
        return copy_kernel(total, stop - start, start, request)
    size, taken = total // heads, stop - start

    def emit(parameters: Parameters) -> None:
        x = parameters.buffer("x", ("n", total), "float32")
        out = parameters.buffer("out", ("n", heads * taken), "float32")
        with launch_over(parameters.size("n") * (heads * taken)) as index:
            p, head, column = split_index(index, heads, taken)
            assign(out, x[p, head * size + start + column], [p, head * taken + column])

    return build_function(request.symbol, emit)


def _columns_of_experts(request: KernelRequest) -> Any:
    """x [n, k, C] -> out [n, k, stop - start]."""
    _, k, total = request.operands[0].dims
    start, taken = request.attr_int("start"), request.attr_int("stop") - request.attr_int("start")

    def emit(parameters: Parameters) -> None:
        x = parameters.buffer("x", ("n", k, total), "float32")
        out = parameters.buffer("out", ("n", k, taken), "float32")
        with launch_over(parameters.size("n") * (int(k) * taken)) as index:
            p, choice, column = split_index(index, int(k), taken)
            assign(out, x[p, choice, column + start], [p, choice, column])

    return build_function(request.symbol, emit)


def last_row(request: KernelRequest) -> Any:
    """x [n, C] -> out [1, C]."""
    return _one_row(request, lambda n: n - 1)


def first_row(request: KernelRequest) -> Any:
    """x [n, C] -> out [1, C]."""
    return _one_row(request, lambda _: i64(0))


def _one_row(request: KernelRequest, which: Callable[[Expr], Expr]) -> Any:
    """A copy of the row ``which`` of n."""
    width = int(request.operands[0].dims[1])

    def emit(parameters: Parameters) -> None:
        x = parameters.buffer("x", ("n", width), "float32")
        out = parameters.buffer("out", (1, width), "float32")
        with launch_over(i64(width)) as column:
            assign(out, x[which(parameters.size("n")), column], [i64(0), column])

    return build_function(request.symbol, emit)


def mean_rows(request: KernelRequest) -> Any:
    """x [n, C] -> out [1, C]: the sum of all rows in order, divided by their number; a thread has a column."""
    width = int(request.operands[0].dims[1])

    def emit(parameters: Parameters) -> None:
        x = parameters.buffer("x", ("n", width), "float32")
        out = parameters.buffer("out", (1, width), "float32")
        n = parameters.size("n")
        with launch_over(i64(width)) as column:
            total = registers(1)
            put(total, f32(0.0))
            with T.serial(i64(0), n) as p:
                put(total, get(total) + x[p, column])
            assign(out, get(total) / T.Cast("float32", n), [i64(0), column])

    return build_function(request.symbol, emit)
