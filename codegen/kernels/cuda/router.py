"""Kernels of routers: which experts a position chooses, and what they weigh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import (
    WARP,
    Emitter,
    ballot,
    get,
    launch,
    put,
    registers,
    shared,
    shuffle_xor,
    sync_block,
)
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Buffer, Expr, Parameters, assign, build_function, f32, i64, is_nan
from aprgraph.graph.ops.router import Groups, groups_of

_NAN = float("nan")


def _each_of(count: int, lane: Expr, body: Callable[[int, Expr], None]) -> None:
    """``body(number, index)`` for the lane's own of ``count`` indices: number is what it is in the lane's registers."""
    for number in range(-(-count // WARP)):
        index = lane + number * WARP
        with T.If(index < count), T.Then():
            body(number, index)


def top_k(request: KernelRequest) -> Any:
    """scores [n, X] -> out [n, k]: ids of the largest, as f32; NaN throughout a row that holds a NaN.

    A warp for each row. By selection: the best of those that come after the one chosen last, k times.
    """
    experts, k, groups = int(request.operands[0].dims[1]), request.attr_int("k"), groups_of(request.attrs)

    def emit(parameters: Parameters) -> None:
        scores = parameters.buffer("scores", ("n", experts), "float32")
        out = parameters.buffer("out", ("n", k), "float32")
        with launch(parameters.size("n"), WARP) as (p, lane):
            used = _used_groups(scores, p, lane, experts, groups) if groups.count > 1 else None
            mine = registers(-(-experts // WARP))
            last, best, other = registers(1), registers(1), registers(1)
            last_id, best_id, other_id = (registers(1, "int32") for _ in range(3))
            broken, votes = registers(1, "int32"), registers(1, "uint32")
            put(broken, T.int32(0))

            def load(number: int, expert: Expr) -> None:
                put(mine, scores[p, expert], number)
                put(broken, T.Select(is_nan(get(mine, number)), T.int32(1), get(broken)))

            _each_of(experts, lane, load)
            put(votes, ballot(get(broken) != 0))
            put(last, f32(float("inf")))
            put(last_id, T.int32(-1))
            with T.serial(i64(0), i64(k)) as choice:
                put(best, f32(0.0))
                put(best_id, T.int32(-1))

                def look(number: int, expert: Expr) -> None:
                    score, index = get(mine, number), T.Cast("int32", expert)
                    later = T.Or(score < get(last), T.And(score == get(last), index > get(last_id)))
                    better = T.Or(get(best_id) < 0, score > get(best))
                    wanted = T.And(later, better)
                    if used is not None:
                        wanted = T.And(wanted, used[T.floordiv(expert, i64(experts // groups.count))] > 0)
                    with T.If(wanted), T.Then():
                        put(best, score)
                        put(best_id, index)

                _each_of(experts, lane, look)
                for distance in (16, 8, 4, 2, 1):
                    put(other, shuffle_xor(get(best), distance))
                    put(other_id, shuffle_xor(get(best_id), distance, "int32"))
                    equal = T.And(get(other) == get(best), get(other_id) < get(best_id))
                    better = T.Or(get(best_id) < 0, T.Or(get(other) > get(best), equal))
                    with T.If(T.And(get(other_id) >= 0, better)), T.Then():
                        put(best, get(other))
                        put(best_id, get(other_id))
                put(last, get(best))
                put(last_id, get(best_id))
                with T.If(lane == 0), T.Then():
                    chosen = T.Cast("float32", get(best_id))
                    assign(out, T.Select(get(votes) != T.uint32(0), f32(_NAN), chosen), [p, choice])

    return build_function(request.symbol, emit)


def _used_groups(scores: Buffer, p: Expr, lane: Expr, experts: int, groups: Groups) -> Buffer:
    """For each group of experts, 1 if it is among those that position ``p`` uses, else 0. A lane has a group."""
    size, values, used = experts // groups.count, shared(groups.count), shared(groups.count, dtype="int32")
    first, second, rank = registers(1), registers(1), registers(1, "int32")

    def value(_number: int, group: Expr) -> None:
        put(first, f32(float("-inf")))
        put(second, f32(float("-inf")))
        with T.serial(i64(0), i64(size)) as index:
            score = scores[p, group * size + index]
            put(second, T.Select(score > get(first), get(first), T.Select(score > get(second), score, get(second))))
            put(first, T.Select(score > get(first), score, get(first)))
        assign(values, get(first) + get(second) if groups.best == 2 else get(first), [group])

    def rank_of(_number: int, group: Expr) -> None:
        put(rank, T.int32(0))
        with T.serial(i64(0), i64(groups.count)) as other:
            before = T.Or(values[other] > values[group], T.And(values[other] == values[group], other < group))
            put(rank, get(rank) + T.Select(before, T.int32(1), T.int32(0)))
        assign(used, T.Select(get(rank) < groups.used, T.int32(1), T.int32(0)), [group])

    _each_of(groups.count, lane, value)
    sync_block()
    _each_of(groups.count, lane, rank_of)
    sync_block()
    return used


def router_weights(request: KernelRequest) -> Any:
    """scores [n, X], ids [n, k] -> out [n, k]: softmax of all scores, or their sigmoids, at the ids, perhaps normalised, · `scale`."""
    experts, k = int(request.operands[0].dims[1]), int(request.operands[1].dims[1])
    normalise, by_sigmoid = bool(request.attrs["normalise"]), request.attrs.get("gating") == "sigmoid"

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        scores = parameters.buffer("scores", ("n", experts), "float32")
        ids = parameters.buffer("ids", ("n", k), "float32")
        scale = number_parameters(parameters, request).get("scale")
        out = parameters.buffer("out", ("n", k), "float32")
        with launch(parameters.size("n"), WARP) as (p, lane):
            largest, other, total, share = registers(1), registers(1), registers(1), registers(1)
            chosen = shared(k)
            if not by_sigmoid:
                put(largest, f32(float("-inf")))
                _each_of(experts, lane, lambda _number, expert: put(largest, T.max(get(largest), scores[p, expert])))
                for distance in (16, 8, 4, 2, 1):
                    put(other, shuffle_xor(get(largest), distance))
                    put(largest, T.max(get(largest), get(other)))
                put(total, f32(0.0))
                _each_of(experts, lane, lambda _number, expert: put(total, get(total) + emitter.exp(scores[p, expert] - get(largest))))
                emitter.warp_sum(total)

            def choose(_number: int, choice: Expr) -> None:
                unknown = is_nan(ids[p, choice])
                expert = T.Cast("int64", T.Select(unknown, f32(0.0), ids[p, choice]))
                if by_sigmoid:
                    weight = f32(1.0) / (f32(1.0) + emitter.exp(-scores[p, expert]))
                else:
                    weight = emitter.exp(scores[p, expert] - get(largest)) / get(total)
                assign(chosen, T.Select(unknown, f32(_NAN), weight), [choice])

            _each_of(k, lane, choose)
            sync_block()
            put(total, f32(1.0))
            if normalise:
                put(total, f32(0.0))
                for choice in range(k):
                    put(total, get(total) + chosen[i64(choice)])

            def store(_number: int, choice: Expr) -> None:
                put(share, chosen[choice] / get(total) if normalise else chosen[choice])
                assign(out, get(share) if scale is None else get(share) * scale, [p, choice])

            _each_of(k, lane, store)

    return build_function(request.symbol, emit)
