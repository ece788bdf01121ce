"""Kernels of routers: which experts a position chooses, and what they weigh."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Buffer, Expr, Parameters, assign, block, build_function, f32, i64, is_nan, only, registers

_NAN = float("nan")


def top_k(request: KernelRequest, cpu: Cpu) -> Any:
    """scores [n, X] -> out [n, k]: ids of the largest, as f32; NaN throughout a row that holds a NaN.

    By selection: the best of those that come after the one chosen last, k times. Neither k nor X is large.
    """
    del cpu
    experts, k = int(request.operands[0].dims[1]), request.attr_int("k")

    def emit(parameters: Parameters) -> None:
        scores = parameters.buffer("scores", ("n", experts), "float32")
        out = parameters.buffer("out", ("n", k), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p, block("row"):
            last, best, broken = registers(1), registers(1), registers(1)
            last_id, best_id = registers(1, "int32"), registers(1, "int32")

            def put(buffer: Buffer, value: Expr) -> None:
                assign(buffer, value, [i64(0)])

            put(broken, f32(0.0))
            with T.serial(i64(0), i64(experts)) as expert:
                put(broken, T.Select(is_nan(scores[p, expert]), f32(_NAN), only(broken)))
            put(last, f32(float("inf")))
            put(last_id, T.int32(-1))
            with T.serial(i64(0), i64(k)) as choice:
                put(best_id, T.int32(-1))
                with T.serial(i64(0), i64(experts)) as expert:
                    score, index = scores[p, expert], T.Cast("int32", expert)
                    later = T.Or(score < only(last), T.And(score == only(last), index > only(last_id)))
                    better = T.Or(only(best_id) < 0, score > only(best))
                    with T.If(T.And(later, better)), T.Then():
                        put(best, score)
                        put(best_id, index)
                put(last, only(best))
                put(last_id, only(best_id))
                assign(out, T.Cast("float32", only(best_id)) + only(broken), [p, choice])

    return build_function(request.symbol, emit)


def router_weights(request: KernelRequest, cpu: Cpu) -> Any:
    """scores [n, X], ids [n, k] -> out [n, k]: softmax of all scores, or their sigmoids, at the ids, perhaps normalised, · `scale`."""
    experts, k = int(request.operands[0].dims[1]), int(request.operands[1].dims[1])
    normalise, by_sigmoid = bool(request.attrs["normalise"]), request.attrs.get("gating") == "sigmoid"

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        scores = parameters.buffer("scores", ("n", experts), "float32")
        ids = parameters.buffer("ids", ("n", k), "float32")
        scale = number_parameters(parameters, request).get("scale")
        out = parameters.buffer("out", ("n", k), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p, block("row"):
            largest, total = registers(1), registers(1)
            sums = registers(cpu.lanes)

            def put(buffer: Buffer, value: Expr) -> None:
                assign(buffer, value, [i64(0)])

            emitter.zero(sums, 0, cpu.lanes)

            def accumulate(column: Expr, width: int) -> None:
                def step(lane: Expr) -> None:
                    assign(sums, sums[lane] + emitter.exp(scores[p, column + lane] - only(largest)), [lane])

                emitter.vector(width, step)

            if not by_sigmoid:
                put(largest, f32(float("-inf")))
                with T.serial(i64(0), i64(experts)) as expert:
                    put(largest, T.max(only(largest), scores[p, expert]))
                emitter.chunks(experts, accumulate)
                put(total, emitter.sum_lanes(sums, 0))
            with T.serial(i64(0), i64(k)) as choice:
                unknown = is_nan(ids[p, choice])
                expert = T.Cast("int64", T.Select(unknown, f32(0.0), ids[p, choice]))
                if by_sigmoid:
                    weight = f32(1.0) / (f32(1.0) + emitter.exp(-scores[p, expert]))
                else:
                    weight = emitter.exp(scores[p, expert] - only(largest)) / only(total)
                assign(out, T.Select(unknown, f32(_NAN), weight), [p, choice])
            if normalise:
                put(total, f32(0.0))
                with T.serial(i64(0), i64(k)) as choice:
                    put(total, only(total) + out[p, choice])
                with T.serial(i64(0), i64(k)) as choice:
                    assign(out, out[p, choice] / only(total), [p, choice])
            if scale is not None:
                with T.serial(i64(0), i64(k)) as choice:
                    assign(out, out[p, choice] * scale, [p, choice])

    return build_function(request.symbol, emit)
