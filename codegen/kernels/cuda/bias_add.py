"""The kernels that add biases, and a row of a table."""

from __future__ import annotations

from typing import Any

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import THREADS, Emitter, launch
from aprgraph.codegen.kernels.cuda.weights import Weight
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, i64


def bias_add(request: KernelRequest) -> Any:
    """x [n, C] f32, biases of C elements together -> out [n, C] f32."""
    x_type, *bias_types = request.operands
    columns = int(x_type.dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", columns), "float32")
        biases = [Weight(emitter, parameters, f"b{index}", kind) for index, kind in enumerate(bias_types)]
        out = parameters.buffer("out", ("n", columns), "float32")
        for bias in biases:
            bias.open()
        with launch(parameters.size("n"), THREADS) as (p, thread):
            start = 0
            for bias in biases:

                def add(column: Expr, value: Expr, start: int = start) -> None:
                    assign(out, x[p, column + start] + value, [p, column + start])

                bias.scan(thread, THREADS, add)
                start += bias.columns

    return build_function(request.symbol, emit)


def row_add(request: KernelRequest) -> Any:
    """x [n, C] f32, a row of the table [T, C] -> out [n, C] f32."""
    columns, row = int(request.operands[0].dims[1]), request.attr_int("row")

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", columns), "float32")
        table = Weight(emitter, parameters, "table", request.operands[1])
        out = parameters.buffer("out", ("n", columns), "float32")
        table.open()
        with launch(parameters.size("n"), THREADS) as (p, thread):
            table.scan(thread, THREADS, lambda column, value: assign(out, x[p, column] + value, [p, column]), i64(row))

    return build_function(request.symbol, emit)
