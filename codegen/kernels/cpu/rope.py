"""Kernels of rotary position embeddings: the angles of a pass's positions, and the rotation."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.weights import Weight
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.kernels.rope import chained_step, rope_angle, scaled_chained_angle
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, each_row, i64, only, registers


def rope_angles(request: KernelRequest, cpu: Cpu) -> Any:
    """positions [n] i32, factors [dims/2] -> out [n, dims]: cosines, then sines, of angles computed in float64."""
    dims = request.attr_int("dims")
    half = dims // 2

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        positions = parameters.buffer("positions", ("n",), "int32")
        factors = Weight(emitter, parameters, "factors", request.operands[1]) if len(request.operands) > 1 else None
        numbers = number_parameters(parameters, request, "float64")
        out = parameters.buffer("out", ("n", dims), "float32")
        with T.serial(i64(0), parameters.size("n")) as p, T.serial(i64(0), i64(half)) as i:
            angle = rope_angle(dims, numbers, positions[p], i)
            if factors is not None:
                angle = angle / T.Cast("float64", factors.plain(i64(0), i))
            assign(out, T.Cast("float32", T.cos(angle) * numbers["magnitude"]), [p, i])
            assign(out, T.Cast("float32", T.sin(angle) * numbers["magnitude"]), [p, i + half])

    return build_function(request.symbol, emit)


def rope_angles_chained(request: KernelRequest, cpu: Cpu) -> Any:
    """positions [n] i32, factors [dims/2] -> out [n, dims]: cosines, then sines, of angles multiplied up in float32."""
    dims = request.attr_int("dims")
    half = dims // 2

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        positions = parameters.buffer("positions", ("n",), "int32")
        factors = Weight(emitter, parameters, "factors", request.operands[1]) if len(request.operands) > 1 else None
        numbers = number_parameters(parameters, request, "float64")
        out = parameters.buffer("out", ("n", dims), "float32")
        with T.serial(i64(0), parameters.size("n")) as p:
            chained, step, angle = registers(1), registers(1), registers(1)
            assign(chained, T.Cast("float32", positions[p]), [i64(0)])
            assign(step, chained_step(dims, numbers), [i64(0)])
            with T.serial(i64(0), i64(half)) as i:
                own = only(chained) if factors is None else only(chained) / factors.plain(i64(0), i)
                assign(angle, own, [i64(0)])
                assign(angle, scaled_chained_angle(emitter, numbers, only(angle), i), [i64(0)])
                for function, column in ((T.cos, i), (T.sin, i + half)):
                    value = T.Cast("float32", function(T.Cast("float64", only(angle))))
                    assign(out, value * T.Cast("float32", numbers["magnitude"]), [p, column])
                assign(chained, only(chained) * only(step), [i64(0)])

    return build_function(request.symbol, emit)


def rope(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C], angles [n, dims] -> out [n, heads · head_size], pairs rotated, the rest copied."""
    x_type, angles_type = request.operands
    heads, size, start = request.attr_int("heads"), request.attr_int("head_size"), request.attr_int("start")
    dims = int(angles_type.dims[1])
    half = dims // 2
    # Distance between the elements of a pair, and between one pair and the next.
    apart, stride = (1, 2) if request.attrs["pairing"] == "interleaved" else (half, 1)

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", int(x_type.dims[1])), "float32")
        angles = parameters.buffer("angles", ("n", dims), "float32")
        out = parameters.buffer("out", ("n", heads * size), "float32")

        def turn(p: Expr) -> None:
            with T.serial(i64(0), i64(heads)) as head:

                def rotate(first: Expr, width: int) -> None:
                    def pair(lane: Expr) -> None:
                        i = first + lane
                        at = head * size + i * stride
                        a, b = x[p, at + start], x[p, at + start + apart]
                        cos, sin = angles[p, i], angles[p, i + half]
                        assign(out, emitter.fma(a, cos, -(b * sin)), [p, at])
                        assign(out, emitter.fma(a, sin, b * cos), [p, at + apart])

                    emitter.vector(width, pair)

                emitter.chunks(half, rotate)
                if size > dims:

                    def keep(column: Expr) -> None:
                        assign(out, x[p, head * size + dims + column + start], [p, head * size + dims + column])

                    emitter.chunks(size - dims, lambda first, width: emitter.vector(width, lambda lane: keep(first + lane)))

        each_row(parameters.size("n"), heads * size, turn)

    return build_function(request.symbol, emit)
