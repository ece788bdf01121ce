"""The RMSNorm kernel."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.weights import Weight, half_table
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, each_row, f32, i64, registers


def rms_norm(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C], weight [C / groups] or [groups, C / groups], which may be left out -> out [n, C], normalised over each group of columns."""
    x_type, *weight_types = request.operands
    columns, groups = int(x_type.dims[1]), request.attr_int("groups")
    size = columns // groups

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        halves = half_table(parameters, request)
        x = parameters.buffer("x", ("n", columns), "float32")
        weights = [Weight(emitter, parameters, "weight", kind, halves) for kind in weight_types]
        eps = number_parameters(parameters, request)["eps"]
        out = parameters.buffer("out", ("n", columns), "float32")

        def normalise(index: Expr) -> None:
            sums = registers(cpu.lanes)
            factor = registers(1)
            p = T.floordiv(index, i64(groups))
            group = T.floormod(index, i64(groups))
            start = group * size
            emitter.zero(sums, 0, cpu.lanes)

            def square(column: Expr, width: int) -> None:
                emitter.dot_step(sums, 0, width, lambda lane: x[p, start + column + lane], lambda lane: x[p, start + column + lane])

            emitter.chunks(size, square)
            mean = emitter.sum_lanes(sums, 0) * f32(1.0 / size)
            assign(factor, f32(1.0) / T.sqrt(mean + eps), [i64(0)])

            def scale(column: Expr, value: Expr | None = None) -> None:
                normal = x[p, start + column] * factor[i64(0)]
                assign(out, normal if value is None else normal * value, [p, start + column])

            for weight in weights:
                weight.decode_row(group if len(weight_types[0].dims) > 1 else i64(0), scale)
            if not weights:
                emitter.chunks(size, lambda column, width: emitter.vector(width, lambda lane: scale(column + lane)))

        each_row(parameters.size("n") * groups, size, normalise)

    return build_function(request.symbol, emit)
