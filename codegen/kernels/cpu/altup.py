"""Kernels of AltUp: streams that lie side by side in each row."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.elementwise import KernelArithmetic
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64, only, registers
from aprgraph.graph.ops.altup import streams_of


def altup_predict(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, A·E], coefs [n, A·A] -> out [n, A·E]: the sums in the order of the streams, then the stream itself."""
    x_type, coefs_type = request.operands
    streams, total = streams_of(coefs_type), int(x_type.dims[1])
    size = total // streams

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", total), "float32")
        coefs = parameters.buffer("coefs", ("n", streams * streams), "float32")
        out = parameters.buffer("out", ("n", total), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p:

            def mix(p: Expr, column: Expr) -> None:
                for to in range(streams):
                    value = f32(0.0)
                    for source in range(streams):
                        value = emitter.fma(coefs[p, i64(to * streams + source)], x[p, column + source * size], value)
                    assign(out, x[p, column + to * size] + value, [p, column + to * size])

            emitter.chunks(size, lambda start, width: emitter.vector(width, lambda lane: mix(p, start + lane)))

    return build_function(request.symbol, emit)


def altup_correct(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, A·E], activated [n, E], coefs [n, A] -> out [n, A·E]."""
    x_type, activated_type, coefs_type = request.operands
    total, size, streams = (int(kind.dims[1]) for kind in (x_type, activated_type, coefs_type))
    active = request.attr_int("active")

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", total), "float32")
        activated = parameters.buffer("activated", ("n", size), "float32")
        coefs = parameters.buffer("coefs", ("n", streams), "float32")
        out = parameters.buffer("out", ("n", total), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p:

            def correct(p: Expr, column: Expr) -> None:
                innovation = activated[p, column] - x[p, column + active * size]
                for to in range(streams):
                    value = emitter.fma(innovation, coefs[p, i64(to)] + f32(1.0), x[p, column + to * size])
                    assign(out, value, [p, column + to * size])

            emitter.chunks(size, lambda start, width: emitter.vector(width, lambda lane: correct(p, start + lane)))

    return build_function(request.symbol, emit)


def stream_add(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, A·E], y [n, E] -> out [n, A·E]."""
    total, size = (int(kind.dims[1]) for kind in request.operands)
    streams, first = request.attr_int("streams"), request.attr_int("start")

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", total), "float32")
        y = parameters.buffer("y", ("n", size), "float32")
        out = parameters.buffer("out", ("n", total), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p:

            def add(p: Expr, column: Expr) -> None:
                for to in range(streams):
                    value = x[p, column + to * size]
                    assign(out, value if to < first else value + y[p, column], [p, column + to * size])

            emitter.chunks(size, lambda start, width: emitter.vector(width, lambda lane: add(p, start + lane)))

    return build_function(request.symbol, emit)


def stream_mean(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, A·E] -> out [n, E]: the sum in the order of the streams, divided by their number."""
    streams, total = request.attr_int("streams"), int(request.operands[0].dims[1])
    size = total // streams

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", total), "float32")
        out = parameters.buffer("out", ("n", size), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p:

            def mean(p: Expr, column: Expr) -> None:
                value = x[p, column]
                for source in range(1, streams):
                    value = value + x[p, column + source * size]
                assign(out, value / f32(streams), [p, column])

            emitter.chunks(size, lambda start, width: emitter.vector(width, lambda lane: mean(p, start + lane)))

    return build_function(request.symbol, emit)


def match_rms(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, A·E], like [n, E] -> out [n, A·E]."""
    total, size = (int(kind.dims[1]) for kind in request.operands)
    streams = total // size

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        m = KernelArithmetic(emitter)
        x = parameters.buffer("x", ("n", total), "float32")
        like = parameters.buffer("like", ("n", size), "float32")
        least = number_parameters(parameters, request)["least"]
        out = parameters.buffer("out", ("n", total), "float32")
        with T.parallel(i64(0), parameters.size("n") * streams) as index:
            sums, factor = registers(cpu.lanes), registers(1)
            p, start = T.floordiv(index, i64(streams)), T.floormod(index, i64(streams)) * size

            def squares(element: Any) -> Expr:
                emitter.zero(sums, 0, cpu.lanes)

                def square(column: Expr, width: int) -> None:
                    emitter.dot_step(sums, 0, width, lambda lane: element(column + lane), lambda lane: element(column + lane))

                emitter.chunks(size, square)
                return emitter.sum_lanes(sums, 0) * f32(1.0 / size)

            assign(factor, T.sqrt(squares(lambda column: like[p, column])), [i64(0)])
            own = T.sqrt(m.maximum(squares(lambda column: x[p, start + column]), least))
            assign(factor, only(factor) / own, [i64(0)])

            def scale(column: Expr) -> None:
                assign(out, x[p, start + column] * only(factor), [p, start + column])

            emitter.chunks(size, lambda column, width: emitter.vector(width, lambda lane: scale(column + lane)))

    return build_function(request.symbol, emit)
