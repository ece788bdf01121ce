"""The kernel of the softmax of a row."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64, only, registers


def softmax(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] -> out [n, C]."""
    columns = int(request.operands[0].dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", columns), "float32")
        out = parameters.buffer("out", ("n", columns), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p:
            largest, total = registers(1), registers(1)
            sums = registers(cpu.lanes)

            def accumulate(column: Expr, width: int) -> None:
                def step(lane: Expr) -> None:
                    assign(out, emitter.exp(x[p, column + lane] - only(largest)), [p, column + lane])
                    assign(sums, sums[lane] + out[p, column + lane], [lane])

                emitter.vector(width, step)

            def divide(column: Expr, width: int) -> None:
                emitter.vector(width, lambda lane: assign(out, out[p, column + lane] / only(total), [p, column + lane]))

            assign(largest, f32(float("-inf")), [i64(0)])
            with T.serial(i64(0), i64(columns)) as column:
                assign(largest, T.max(only(largest), x[p, column]), [i64(0)])
            emitter.zero(sums, 0, cpu.lanes)
            emitter.chunks(columns, accumulate)
            assign(total, emitter.sum_lanes(sums, 0), [i64(0)])
            emitter.chunks(columns, divide)

    return build_function(request.symbol, emit)
