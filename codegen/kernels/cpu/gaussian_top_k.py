"""The kernel that leaves what lies above a bound by the mean and the deviation of a row."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.elementwise import KernelArithmetic
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64, only, registers
from aprgraph.graph.ops.gaussian_top_k import of_sample


def gaussian_top_k(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] -> out [n, C]."""
    columns = int(request.operands[0].dims[1])
    count = columns - of_sample(request.attrs)

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        m = KernelArithmetic(emitter)
        x = parameters.buffer("x", ("n", columns), "float32")
        factor = number_parameters(parameters, request)["factor"]
        out = parameters.buffer("out", ("n", columns), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p:
            sums, mean, bound = registers(cpu.lanes), registers(1), registers(1)

            def add(column: Expr, width: int) -> None:
                emitter.vector(width, lambda lane: assign(sums, sums[lane] + x[p, column + lane], [lane]))

            def centred(column: Expr) -> Expr:
                return x[p, column] - only(mean)

            def square(column: Expr, width: int) -> None:
                emitter.dot_step(sums, 0, width, lambda lane: centred(column + lane), lambda lane: centred(column + lane))

            emitter.zero(sums, 0, cpu.lanes)
            emitter.chunks(columns, add)
            assign(mean, emitter.sum_lanes(sums, 0) * f32(1.0 / columns), [i64(0)])
            # The squares of what is left, in a second pass: the difference of two sums loses digits where the mean is large.
            emitter.zero(sums, 0, cpu.lanes)
            emitter.chunks(columns, square)
            assign(bound, only(mean) + T.sqrt(emitter.sum_lanes(sums, 0) * f32(1.0 / count)) * factor, [i64(0)])

            def cut(column: Expr) -> None:
                assign(out, m.maximum(x[p, column] - only(bound), 0.0), [p, column])

            emitter.chunks(columns, lambda column, width: emitter.vector(width, lambda lane: cut(column + lane)))

    return build_function(request.symbol, emit)
