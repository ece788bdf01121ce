"""The LayerNorm kernel."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.weights import Weight, half_table
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64, registers


def layer_norm(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C], weight and bias [C / groups] or [groups, C / groups] -> out [n, C], normalised over each group of columns."""
    x_type, *weight_types = request.operands
    columns, groups = int(x_type.dims[1]), request.attr_int("groups")
    size = columns // groups

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        halves = half_table(parameters, request)
        x = parameters.buffer("x", ("n", columns), "float32")
        weights = [Weight(emitter, parameters, name, kind, halves) for name, kind in zip(("weight", "bias"), weight_types, strict=False)]
        eps = number_parameters(parameters, request)["eps"]
        out = parameters.buffer("out", ("n", columns), "float32")
        with T.parallel(i64(0), parameters.size("n") * groups) as index:
            sums = registers(cpu.lanes)
            mean, factor = registers(1), registers(1)
            p, group = T.floordiv(index, i64(groups)), T.floormod(index, i64(groups))
            start = group * size

            def add(column: Expr, width: int) -> None:
                emitter.vector(width, lambda lane: assign(sums, sums[lane] + x[p, start + column + lane], [lane]))

            def centred(column: Expr) -> Expr:
                return x[p, start + column] - mean[i64(0)]

            def square(column: Expr, width: int) -> None:
                emitter.dot_step(sums, 0, width, lambda lane: centred(column + lane), lambda lane: centred(column + lane))

            emitter.zero(sums, 0, cpu.lanes)
            emitter.chunks(size, add)
            assign(mean, emitter.sum_lanes(sums, 0) * f32(1.0 / size), [i64(0)])
            # The squares of what is left, in a second pass: the difference of two sums loses digits where the mean is large.
            emitter.zero(sums, 0, cpu.lanes)
            emitter.chunks(size, square)
            variance = emitter.sum_lanes(sums, 0) * f32(1.0 / size)
            assign(factor, f32(1.0) / T.sqrt(variance + eps), [i64(0)])

            def scale(column: Expr, value: Expr | None = None) -> None:
                normal = centred(column) * factor[i64(0)]
                assign(out, normal if value is None else normal * value, [p, start + column])

            for weight in weights[:1]:
                weight.decode_row(group, scale)
            if not weights:
                emitter.chunks(size, lambda column, width: emitter.vector(width, lambda lane: scale(column + lane)))
            for bias in weights[1:]:
                bias.decode_row(group, lambda column, value: assign(out, out[p, start + column] + value, [p, start + column]))

    return build_function(request.symbol, emit)
