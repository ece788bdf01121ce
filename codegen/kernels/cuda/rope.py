"""Kernels of rotary position embeddings: the angles of a pass's positions, and the rotation."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import Emitter, get, launch_over, put, registers, split_index
from aprgraph.codegen.kernels.cuda.weights import Weight
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.kernels.rope import chained_step, rope_angle, scaled_chained_angle
from aprgraph.codegen.tir import Parameters, assign, build_function, i64


def rope_angles(request: KernelRequest) -> Any:
    """positions [n] i32, factors [dims/2] -> out [n, dims]: cosines, then sines, of angles computed in float64."""
    dims = request.attr_int("dims")
    half = dims // 2

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        positions = parameters.buffer("positions", ("n",), "int32")
        factors = Weight(emitter, parameters, "factors", request.operands[1]) if len(request.operands) > 1 else None
        numbers = number_parameters(parameters, request, "float64")
        out = parameters.buffer("out", ("n", dims), "float32")
        if factors is not None:
            factors.open()
        with launch_over(parameters.size("n") * half) as index:
            p, i = split_index(index, half)
            angle = registers(1, "float64")
            value = rope_angle(dims, numbers, positions[p], i)
            put(angle, value if factors is None else value / T.Cast("float64", factors.element(i64(0), i)))
            assign(out, T.Cast("float32", T.cos(get(angle)) * numbers["magnitude"]), [p, i])
            assign(out, T.Cast("float32", T.sin(get(angle)) * numbers["magnitude"]), [p, i + half])

    return build_function(request.symbol, emit)


def rope_angles_chained(request: KernelRequest) -> Any:
    """positions [n] i32, factors [dims/2] -> out [n, dims]: cosines, then sines, of angles multiplied up in float32."""
    dims = request.attr_int("dims")
    half = dims // 2

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        positions = parameters.buffer("positions", ("n",), "int32")
        factors = Weight(emitter, parameters, "factors", request.operands[1]) if len(request.operands) > 1 else None
        numbers = number_parameters(parameters, request, "float64")
        out = parameters.buffer("out", ("n", dims), "float32")
        if factors is not None:
            factors.open()
        with launch_over(parameters.size("n") * half) as index:
            p, i = split_index(index, half)
            angle, step = registers(1), registers(1)
            put(angle, T.Cast("float32", positions[p]))
            put(step, chained_step(dims, numbers))
            with T.serial(i64(0), i):
                put(angle, get(angle) * get(step))
            if factors is not None:
                put(angle, get(angle) / factors.element(i64(0), i))
            put(angle, scaled_chained_angle(emitter, numbers, get(angle), i))
            for function, column in ((T.cos, i), (T.sin, i + half)):
                value = T.Cast("float32", function(T.Cast("float64", get(angle))))
                assign(out, value * T.Cast("float32", numbers["magnitude"]), [p, column])

    return build_function(request.symbol, emit)


def rope(request: KernelRequest) -> Any:
    """x [n, C], angles [n, dims] -> out [n, heads · head_size], pairs rotated, the rest copied."""
    x_type, angles_type = request.operands
    heads, size, start = request.attr_int("heads"), request.attr_int("head_size"), request.attr_int("start")
    dims = int(angles_type.dims[1])
    half = dims // 2
    # Distance between the elements of a pair, and between one pair and the next.
    apart, stride = (1, 2) if request.attrs["pairing"] == "interleaved" else (half, 1)

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", int(x_type.dims[1])), "float32")
        angles = parameters.buffer("angles", ("n", dims), "float32")
        out = parameters.buffer("out", ("n", heads * size), "float32")
        # A thread for each pair, and for each element that is copied.
        with launch_over(parameters.size("n") * (heads * (half + size - dims))) as index:
            p, head, i = split_index(index, heads, half + size - dims)
            with T.If(i < half):
                with T.Then():
                    at = head * size + i * stride
                    a, b = x[p, at + start], x[p, at + start + apart]
                    cos, sin = angles[p, i], angles[p, i + half]
                    assign(out, emitter.fma(a, cos, -(b * sin)), [p, at])
                    assign(out, emitter.fma(a, sin, b * cos), [p, at + apart])
                with T.Else():
                    at = head * size + i + half
                    assign(out, x[p, at + start], [p, at])

    return build_function(request.symbol, emit)
