"""Kernels that work on one position's row at a time: norms, RoPE, copies, elementwise ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.weights import Weight
from aprgraph.codegen.kernels.values import ELEMENTWISE, Value, rope_angle
from aprgraph.codegen.tir import Expr, Parameters, block, build_function, f32, i64, registers


def rms_norm(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C], weight [C / groups] -> out [n, C], normalised over each group of columns."""
    x_type, weight_type = request.operands
    columns, groups, eps = int(x_type.dims[1]), request.attr_int("groups"), request.attr_float("eps")
    size = columns // groups

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", columns), "float32")
        weight = Weight(emitter, parameters, "weight", weight_type)
        out = parameters.buffer("out", ("n", columns), "float32")
        with T.parallel(i64(0), parameters.size("n") * groups) as index, block("row"):
            sums = registers(cpu.lanes)
            factor = registers(1)
            p = T.floordiv(index, i64(groups))
            start = T.floormod(index, i64(groups)) * size
            emitter.zero(sums, 0, cpu.lanes)

            def square(column: Expr, width: int) -> None:
                emitter.dot_step(sums, 0, width, lambda lane: x[p, start + column + lane], lambda lane: x[p, start + column + lane])

            emitter.chunks(size, square)
            mean = emitter.sum_lanes(sums, 0) * f32(1.0 / size)
            T.buffer_store(factor, f32(1.0) / T.sqrt(mean + f32(eps)), [i64(0)])
            weight.decode_row(
                i64(0),
                lambda column, value: T.buffer_store(out, x[p, start + column] * factor[i64(0)] * value, [p, start + column]),
            )

    return build_function(request.symbol, emit)


def rope_angles(request: KernelRequest, cpu: Cpu) -> Any:
    """positions [n] i32, factors [dims/2] -> out [n, dims]: cosines, then sines, of angles computed in float64."""
    dims, magnitude = request.attr_int("dims"), T.float64(request.attr_float("magnitude"))
    half = dims // 2

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        positions = parameters.buffer("positions", ("n",), "int32")
        factors = Weight(emitter, parameters, "factors", request.operands[1]) if len(request.operands) > 1 else None
        out = parameters.buffer("out", ("n", dims), "float32")
        with T.serial(i64(0), parameters.size("n")) as p, T.serial(i64(0), i64(half)) as i:
            angle = rope_angle(request, positions[p], i)
            if factors is not None:
                angle = angle / T.Cast("float64", factors.plain(i64(0), i))
            T.buffer_store(out, T.Cast("float32", T.cos(angle) * magnitude), [p, i])
            T.buffer_store(out, T.Cast("float32", T.sin(angle) * magnitude), [p, i + half])

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
        with T.parallel(i64(0), parameters.size("n")) as p, T.serial(i64(0), i64(heads)) as head:

            def rotate(first: Expr, width: int) -> None:
                def pair(lane: Expr) -> None:
                    i = first + lane
                    at = head * size + i * stride
                    a, b = x[p, at + start], x[p, at + start + apart]
                    cos, sin = angles[p, i], angles[p, i + half]
                    T.buffer_store(out, emitter.fma(a, cos, -(b * sin)), [p, at])
                    T.buffer_store(out, emitter.fma(a, sin, b * cos), [p, at + apart])

                emitter.vector(width, pair)

            emitter.chunks(half, rotate)
            if size > dims:
                emitter.chunks(
                    size - dims,
                    lambda column, width: emitter.vector(
                        width,
                        lambda lane: T.buffer_store(
                            out, x[p, head * size + dims + column + lane + start], [p, head * size + dims + column + lane]
                        ),
                    ),
                )

    return build_function(request.symbol, emit)


def _copy(source: int, columns: int, start: int, request: KernelRequest, cpu: Cpu, *, last: bool = False, to_end: bool = False) -> Any:
    """Columns start .. start + columns of every row; of the ``last`` row alone; or to the end of an output that has t rows."""

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        n = parameters.size("n")
        x = parameters.buffer("x", ("n", source), "float32")
        out = parameters.buffer("out", (1 if last else "t" if to_end else "n", columns), "float32")

        def row(to: Expr, from_row: Expr) -> None:
            emitter.chunks(
                columns,
                lambda column, width: emitter.vector(
                    width, lambda lane: T.buffer_store(out, x[from_row, start + column + lane], [to, column + lane])
                ),
            )

        if last:
            row(i64(0), n - 1)
        else:
            offset = parameters.size("t") - n if to_end else i64(0)
            with T.serial(i64(0), n) as p:
                row(offset + p, p)

    return build_function(request.symbol, emit)


def columns(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] -> out [n, stop - start]."""
    start, stop = request.attr_int("start"), request.attr_int("stop")
    return _copy(int(request.operands[0].dims[1]), stop - start, start, request, cpu)


def last_row(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] -> out [1, C]."""
    width = int(request.operands[0].dims[1])
    return _copy(width, width, 0, request, cpu, last=True)


def cache(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] -> the last n rows of out [t, C]; the rows before them stay as earlier passes left them."""
    width = int(request.operands[0].dims[1])
    return _copy(width, width, 0, request, cpu, to_end=True)


def scale_rows(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C], factors [n, 1] -> out [n, C]."""
    width = int(request.operands[0].dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", width), "float32")
        factors = parameters.buffer("factors", ("n", 1), "float32")
        out = parameters.buffer("out", ("n", width), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p:

            def scale(column: Expr, count: int) -> None:
                emitter.vector(count, lambda lane: T.buffer_store(out, x[p, column + lane] * factors[p, i64(0)], [p, column + lane]))

            emitter.chunks(width, scale)

    return build_function(request.symbol, emit)


def _elementwise(value: Value) -> Callable[[KernelRequest, Cpu], Any]:
    """A kernel of ``value(emitter, operands…)`` on every element of [n, C] or [n, k, C] operands."""

    def kernel(request: KernelRequest, cpu: Cpu) -> Any:
        _, *inner, width = request.result.dims
        dims = ("n", *inner, width)
        each = int(inner[0]) if inner else 1

        def emit(parameters: Parameters) -> None:
            emitter = Emitter(cpu)
            inputs = [parameters.buffer(f"x{i}", dims, "float32") for i in range(len(request.operands))]
            out = parameters.buffer("out", dims, "float32")
            with T.parallel(i64(0), parameters.size("n") * each) as index:
                row = (T.floordiv(index, i64(each)), T.floormod(index, i64(each))) if inner else (index,)

                def store(column: Expr, count: int) -> None:
                    def element(lane: Expr) -> None:
                        at = (*row, column + lane)
                        T.buffer_store(out, value(emitter, *(x[at] for x in inputs)), list(at))

                    emitter.vector(count, element)

                emitter.chunks(int(width), store)

        return build_function(request.symbol, emit)

    return kernel


add = _elementwise(ELEMENTWISE["add"])
mul = _elementwise(ELEMENTWISE["mul"])
silu = _elementwise(ELEMENTWISE["silu"])
gelu = _elementwise(ELEMENTWISE["gelu"])
sigmoid = _elementwise(ELEMENTWISE["sigmoid"])
