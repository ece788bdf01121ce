"""CUDA kernels that work on one position's row at a time: norms, RoPE, copies, elementwise ops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import THREADS, WARP, Emitter, get, launch, launch_over, put, registers, shared, sync_block
from aprgraph.codegen.kernels.cuda.weights import Weight
from aprgraph.codegen.kernels.values import ELEMENTWISE, Value, rope_angle
from aprgraph.codegen.tir import Expr, Parameters, build_function, f32, i64

#: Rows up to this long are summed by one warp.
_SHORT = 512


def _split(index: Expr, *sizes: int) -> list[Expr]:
    """``index`` in a row-major array whose inner dimensions are ``sizes``: one index for each dimension."""
    parts = []
    for size in reversed(sizes):
        parts.append(T.floormod(index, i64(size)))
        index = T.floordiv(index, i64(size))
    return [index, *reversed(parts)]


def rms_norm(request: KernelRequest) -> Any:
    """x [n, C], weight [C / groups] -> out [n, C], normalised over each group of columns."""
    x_type, weight_type = request.operands
    columns, groups, eps = int(x_type.dims[1]), request.attr_int("groups"), request.attr_float("eps")
    size = columns // groups
    threads = WARP if size <= _SHORT else THREADS

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", columns), "float32")
        weight = Weight(emitter, parameters, "weight", weight_type)
        out = parameters.buffer("out", ("n", columns), "float32")
        weight.open()
        with launch(parameters.size("n") * groups, threads) as (index, thread):
            total, factor = registers(1), registers(1)
            sums = shared(threads // WARP)
            p, start = T.floordiv(index, i64(groups)), T.floormod(index, i64(groups)) * size
            put(total, f32(0.0))
            with T.serial(i64(0), i64(-(-size // threads))) as step:
                column = step * threads + thread
                with T.If(column < size), T.Then():
                    put(total, emitter.fma(x[p, start + column], x[p, start + column], get(total)))
            emitter.warp_sum(total)
            T.buffer_store(sums, get(total), [T.floordiv(thread, i64(WARP))])
            sync_block()
            put(total, f32(0.0))
            for warp in range(threads // WARP):
                put(total, get(total) + sums[i64(warp)])
            put(factor, f32(1.0) / T.sqrt(get(total) * f32(1.0 / size) + f32(eps)))

            def scale(column: Expr, value: Expr) -> None:
                T.buffer_store(out, x[p, start + column] * get(factor) * value, [p, start + column])

            weight.scan(thread, threads, scale)

    return build_function(request.symbol, emit)


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
                    T.buffer_store(out, x[p, column + start] + value, [p, column + start])

                bias.scan(thread, THREADS, add)
                start += bias.columns

    return build_function(request.symbol, emit)


def rope_angles(request: KernelRequest) -> Any:
    """positions [n] i32, factors [dims/2] -> out [n, dims]: cosines, then sines, of angles computed in float64."""
    dims, magnitude = request.attr_int("dims"), T.float64(request.attr_float("magnitude"))
    half = dims // 2

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        positions = parameters.buffer("positions", ("n",), "int32")
        factors = Weight(emitter, parameters, "factors", request.operands[1]) if len(request.operands) > 1 else None
        out = parameters.buffer("out", ("n", dims), "float32")
        if factors is not None:
            factors.open()
        with launch_over(parameters.size("n") * half) as index:
            p, i = _split(index, half)
            angle = registers(1, "float64")
            value = rope_angle(request, positions[p], i)
            put(angle, value if factors is None else value / T.Cast("float64", factors.element(i64(0), i)))
            T.buffer_store(out, T.Cast("float32", T.cos(get(angle)) * magnitude), [p, i])
            T.buffer_store(out, T.Cast("float32", T.sin(get(angle)) * magnitude), [p, i + half])

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
            p, head, i = _split(index, heads, half + size - dims)
            with T.If(i < half):
                with T.Then():
                    at = head * size + i * stride
                    a, b = x[p, at + start], x[p, at + start + apart]
                    cos, sin = angles[p, i], angles[p, i + half]
                    T.buffer_store(out, emitter.fma(a, cos, -(b * sin)), [p, at])
                    T.buffer_store(out, emitter.fma(a, sin, b * cos), [p, at + apart])
                with T.Else():
                    at = head * size + i + half
                    T.buffer_store(out, x[p, at + start], [p, at])

    return build_function(request.symbol, emit)


def columns(request: KernelRequest) -> Any:
    """x [n, C] -> out [n, stop - start]."""
    start, stop = request.attr_int("start"), request.attr_int("stop")
    return _copy(int(request.operands[0].dims[1]), stop - start, start, request)


def last_row(request: KernelRequest) -> Any:
    """x [n, C] -> out [1, C]."""
    width = int(request.operands[0].dims[1])

    def emit(parameters: Parameters) -> None:
        x = parameters.buffer("x", ("n", width), "float32")
        out = parameters.buffer("out", (1, width), "float32")
        with launch_over(i64(width)) as column:
            T.buffer_store(out, x[parameters.size("n") - 1, column], [i64(0), column])

    return build_function(request.symbol, emit)


def cache(request: KernelRequest) -> Any:
    """x [n, C] -> the last n rows of out [t, C]; the rows before them stay as earlier passes left them."""
    width = int(request.operands[0].dims[1])
    return _copy(width, width, 0, request, to_end=True)


def _copy(source: int, count: int, start: int, request: KernelRequest, *, to_end: bool = False) -> Any:
    """Columns start .. start + count of every row, to the end of the output if it has t rows."""

    def emit(parameters: Parameters) -> None:
        n = parameters.size("n")
        x = parameters.buffer("x", ("n", source), "float32")
        out = parameters.buffer("out", ("t" if to_end else "n", count), "float32")
        offset = parameters.size("t") - n if to_end else i64(0)
        with launch_over(n * count) as index:
            p, column = _split(index, count)
            T.buffer_store(out, x[p, column + start], [offset + p, column])

    return build_function(request.symbol, emit)


def scale_rows(request: KernelRequest) -> Any:
    """x [n, C], factors [n, 1] -> out [n, C]."""
    width = int(request.operands[0].dims[1])

    def emit(parameters: Parameters) -> None:
        x = parameters.buffer("x", ("n", width), "float32")
        factors = parameters.buffer("factors", ("n", 1), "float32")
        out = parameters.buffer("out", ("n", width), "float32")
        with launch_over(parameters.size("n") * width) as index:
            p, column = _split(index, width)
            T.buffer_store(out, x[p, column] * factors[p, i64(0)], [p, column])

    return build_function(request.symbol, emit)


def _elementwise(value: Value) -> Callable[[KernelRequest], Any]:
    """A kernel of ``value(emitter, operands…)`` on every element of [n, C] or [n, k, C] operands."""

    def kernel(request: KernelRequest) -> Any:
        inner = [int(dim) for dim in request.result.dims[1:]]

        def emit(parameters: Parameters) -> None:
            emitter = Emitter()
            inputs = [parameters.buffer(f"x{i}", ("n", *inner), "float32") for i in range(len(request.operands))]
            out = parameters.buffer("out", ("n", *inner), "float32")
            with launch_over(parameters.size("n") * math.prod(inner)) as index:
                at = tuple(_split(index, *inner))
                T.buffer_store(out, value(emitter, *(x[at] for x in inputs)), list(at))

        return build_function(request.symbol, emit)

    return kernel


add = _elementwise(ELEMENTWISE["add"])
mul = _elementwise(ELEMENTWISE["mul"])
silu = _elementwise(ELEMENTWISE["silu"])
gelu = _elementwise(ELEMENTWISE["gelu"])
sigmoid = _elementwise(ELEMENTWISE["sigmoid"])
