"""CUDA kernels of AltUp: streams that lie side by side in each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import WARP, Emitter, get, launch, launch_over, put, registers, split_index
from aprgraph.codegen.kernels.elementwise import KernelArithmetic
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64
from aprgraph.graph.ops.altup import streams_of


def altup_predict(request: KernelRequest) -> Any:
    """x [n, A·E], coefs [n, A·A] -> out [n, A·E]: the sums in the order of the streams, then the stream itself."""
    x_type, coefs_type = request.operands
    streams, total = streams_of(coefs_type), int(x_type.dims[1])
    size = total // streams

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", total), "float32")
        coefs = parameters.buffer("coefs", ("n", streams * streams), "float32")
        out = parameters.buffer("out", ("n", total), "float32")
        with launch_over(parameters.size("n") * total) as index:
            p, to, column = split_index(index, streams, size)
            value = f32(0.0)
            for source in range(streams):
                value = emitter.fma(coefs[p, to * streams + source], x[p, column + source * size], value)
            assign(out, x[p, to * size + column] + value, [p, to * size + column])

    return build_function(request.symbol, emit)


def altup_correct(request: KernelRequest) -> Any:
    """x [n, A·E], activated [n, E], coefs [n, A] -> out [n, A·E]."""
    x_type, activated_type, coefs_type = request.operands
    total, size, streams = (int(kind.dims[1]) for kind in (x_type, activated_type, coefs_type))
    active = request.attr_int("active")

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", total), "float32")
        activated = parameters.buffer("activated", ("n", size), "float32")
        coefs = parameters.buffer("coefs", ("n", streams), "float32")
        out = parameters.buffer("out", ("n", total), "float32")
        with launch_over(parameters.size("n") * total) as index:
            p, to, column = split_index(index, streams, size)
            innovation = activated[p, column] - x[p, column + active * size]
            value = emitter.fma(innovation, coefs[p, to] + f32(1.0), x[p, to * size + column])
            assign(out, value, [p, to * size + column])

    return build_function(request.symbol, emit)


def stream_add(request: KernelRequest) -> Any:
    """x [n, A·E], y [n, E] -> out [n, A·E]."""
    total, size = (int(kind.dims[1]) for kind in request.operands)
    streams, first = request.attr_int("streams"), request.attr_int("start")

    def emit(parameters: Parameters) -> None:
        x = parameters.buffer("x", ("n", total), "float32")
        y = parameters.buffer("y", ("n", size), "float32")
        out = parameters.buffer("out", ("n", total), "float32")
        with launch_over(parameters.size("n") * total) as index:
            p, to, column = split_index(index, streams, size)
            place = [p, to * size + column]
            with T.If(to < first):
                with T.Then():
                    assign(out, x[place[0], place[1]], place)
                with T.Else():
                    assign(out, x[place[0], place[1]] + y[p, column], place)

    return build_function(request.symbol, emit)


def stream_mean(request: KernelRequest) -> Any:
    """x [n, A·E] -> out [n, E]: the sum in the order of the streams, divided by their number."""
    streams, total = request.attr_int("streams"), int(request.operands[0].dims[1])
    size = total // streams

    def emit(parameters: Parameters) -> None:
        x = parameters.buffer("x", ("n", total), "float32")
        out = parameters.buffer("out", ("n", size), "float32")
        with launch_over(parameters.size("n") * size) as index:
            p, column = split_index(index, size)
            value = x[p, column]
            for source in range(1, streams):
                value = value + x[p, column + source * size]
            assign(out, value / f32(streams), [p, column])

    return build_function(request.symbol, emit)


def match_rms(request: KernelRequest) -> Any:
    """x [n, A·E], like [n, E] -> out [n, A·E], each stream of a position by a warp."""
    total, size = (int(kind.dims[1]) for kind in request.operands)
    streams = total // size

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        m = KernelArithmetic(emitter)
        x = parameters.buffer("x", ("n", total), "float32")
        like = parameters.buffer("like", ("n", size), "float32")
        least = number_parameters(parameters, request)["least"]
        out = parameters.buffer("out", ("n", total), "float32")
        with launch(parameters.size("n") * streams, WARP) as (index, thread):
            sums = registers(2)
            p, start = T.floordiv(index, i64(streams)), T.floormod(index, i64(streams)) * size

            def each_column(body: Callable[[Expr], None]) -> None:
                with T.serial(i64(0), i64(-(-size // WARP))) as step:
                    column = step * WARP + thread
                    with T.If(column < size), T.Then():
                        body(column)

            def add_squares(column: Expr) -> None:
                for at, value in enumerate((like[p, column], x[p, start + column])):
                    put(sums, emitter.fma(value, value, get(sums, at)), at)

            for at in range(2):
                put(sums, f32(0.0), at)
            each_column(add_squares)
            for at in range(2):
                emitter.warp_sum(sums, at)
                put(sums, get(sums, at) * f32(1.0 / size), at)
            put(sums, T.sqrt(get(sums)) / T.sqrt(m.maximum(get(sums, 1), least)))
            each_column(lambda column: assign(out, x[p, start + column] * get(sums), [p, start + column]))

    return build_function(request.symbol, emit)
