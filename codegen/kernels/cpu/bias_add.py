"""The kernels that add biases, and a row of a table."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.weights import Weight, half_table
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, i64


def bias_add(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] f32, biases of C elements together -> out [n, C] f32."""
    x_type, *bias_types = request.operands
    columns = int(x_type.dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        halves = half_table(parameters, request)
        x = parameters.buffer("x", ("n", columns), "float32")
        biases = [Weight(emitter, parameters, f"b{index}", kind, halves) for index, kind in enumerate(bias_types)]
        out = parameters.buffer("out", ("n", columns), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p:
            start = 0
            for bias in biases:

                def add(column: Expr, value: Expr, start: int = start) -> None:
                    assign(out, x[p, column + start] + value, [p, column + start])

                bias.decode_row(i64(0), add)
                start += bias.columns

    return build_function(request.symbol, emit)


def row_add(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] f32, a row of the table [T, C] -> out [n, C] f32."""
    columns, row = int(request.operands[0].dims[1]), request.attr_int("row")

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        halves = half_table(parameters, request)
        x = parameters.buffer("x", ("n", columns), "float32")
        table = Weight(emitter, parameters, "table", request.operands[1], halves)
        out = parameters.buffer("out", ("n", columns), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p:
            table.decode_row(i64(row), lambda column, value: assign(out, x[p, column] + value, [p, column]))

    return build_function(request.symbol, emit)
