"""The kernel that gives heads length 1."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64, only, registers


def l2_norm(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] -> out [n, C], normalised over each group of columns."""
    columns, groups = int(request.operands[0].dims[1]), request.attr_int("groups")
    size = columns // groups

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", columns), "float32")
        eps = number_parameters(parameters, request)["eps"]
        out = parameters.buffer("out", ("n", columns), "float32")
        with T.parallel(i64(0), parameters.size("n") * groups) as index:
            sums, factor = registers(cpu.lanes), registers(1)
            p, start = T.floordiv(index, i64(groups)), T.floormod(index, i64(groups)) * size
            emitter.zero(sums, 0, cpu.lanes)

            def square(column: Expr, width: int) -> None:
                emitter.dot_step(sums, 0, width, lambda lane: x[p, start + column + lane], lambda lane: x[p, start + column + lane])

            def scale(column: Expr, width: int) -> None:
                def put(lane: Expr) -> None:
                    assign(out, x[p, start + column + lane] * only(factor), [p, start + column + lane])

                emitter.vector(width, put)

            emitter.chunks(size, square)
            assign(factor, f32(1.0) / T.sqrt(emitter.sum_lanes(sums, 0) + eps), [i64(0)])
            emitter.chunks(size, scale)

    return build_function(request.symbol, emit)
