"""Kernels of routers: which experts a position chooses, and what they weigh."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Buffer, Expr, Parameters, assign, build_function, f32, i64, is_nan, only, registers, scratch
from aprgraph.graph.ops.router import Groups, groups_of

_NAN = float("nan")


def top_k(request: KernelRequest, cpu: Cpu) -> Any:
    """scores [n, X] -> out [n, k]: ids of the largest, as f32; NaN throughout a row that holds a NaN.

    By selection: the best of those that come after the one chosen last, k times. Neither k nor X is large.
    """
    del cpu
    experts, k, groups = int(request.operands[0].dims[1]), request.attr_int("k"), groups_of(request.attrs)

    def emit(parameters: Parameters) -> None:
        scores = parameters.buffer("scores", ("n", experts), "float32")
        out = parameters.buffer("out", ("n", k), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p:
            last, best, broken = registers(1), registers(1), registers(1)
            last_id, best_id = registers(1, "int32"), registers(1, "int32")

            def put(buffer: Buffer, value: Expr) -> None:
                assign(buffer, value, [i64(0)])

            put(broken, f32(0.0))
            with T.serial(i64(0), i64(experts)) as expert:
                put(broken, T.Select(is_nan(scores[p, expert]), f32(_NAN), only(broken)))
            used = _used_groups(scores, p, experts, groups) if groups.count > 1 else None
            put(last, f32(float("inf")))
            put(last_id, T.int32(-1))
            with T.serial(i64(0), i64(k)) as choice:
                put(best_id, T.int32(-1))
                with T.serial(i64(0), i64(experts)) as expert:
                    score, index = scores[p, expert], T.Cast("int32", expert)
                    later = T.Or(score < only(last), T.And(score == only(last), index > only(last_id)))
                    better = T.Or(only(best_id) < 0, score > only(best))
                    wanted = T.And(later, better)
                    if used is not None:
                        wanted = T.And(wanted, used[T.floordiv(expert, i64(experts // groups.count))] > 0)
                    with T.If(wanted), T.Then():
                        put(best, score)
                        put(best_id, index)
                put(last, only(best))
                put(last_id, only(best_id))
                assign(out, T.Cast("float32", only(best_id)) + only(broken), [p, choice])

    return build_function(request.symbol, emit)


def _used_groups(scores: Buffer, p: Expr, experts: int, groups: Groups) -> Buffer:
    """For each group of experts, 1 if it is among those that position ``p`` uses, else 0."""
    size, values, used = experts // groups.count, scratch((groups.count,)), scratch((groups.count,), "int32")
    first, second, rank = registers(1), registers(1), registers(1, "int32")

    def put(buffer: Buffer, value: Expr) -> None:
        assign(buffer, value, [i64(0)])

    with T.serial(i64(0), i64(groups.count)) as group:
        put(first, f32(float("-inf")))
        put(second, f32(float("-inf")))
        with T.serial(i64(0), i64(size)) as index:
            score = scores[p, group * size + index]
            put(second, T.Select(score > only(first), only(first), T.Select(score > only(second), score, only(second))))
            put(first, T.Select(score > only(first), score, only(first)))
        assign(values, only(first) + only(second) if groups.best == 2 else only(first), [group])
    with T.serial(i64(0), i64(groups.count)) as group:
        put(rank, T.int32(0))
        with T.serial(i64(0), i64(groups.count)) as other:
            before = T.Or(values[other] > values[group], T.And(values[other] == values[group], other < group))
            put(rank, only(rank) + T.Select(before, T.int32(1), T.int32(0)))
        assign(used, T.Select(only(rank) < groups.used, T.int32(1), T.int32(0)), [group])
    return used


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
        with T.parallel(i64(0), parameters.size("n")) as p:
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
