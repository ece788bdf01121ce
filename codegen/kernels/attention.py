"""Attention kernels: scores, softmax, mix. A query's loops end at the last key that it may attend to.

Rows are computed one position at a time, query heads that share a KV head together; the order of every sum depends on
the key's position alone, so a position has the same bits whether later ones are there or not.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.tir import Emitter, Expr, Parameters, along, block, build_function, f32, i64, is_nan, registers

_KEYS_AT_ONCE = 4


def _largest_divisor(number: int, limit: int) -> int:
    return max(d for d in range(1, number + 1) if number % d == 0 and d <= max(limit, 1))


def _same(value: Expr, _lane: Expr) -> Expr:
    """One value in every lane."""
    return value


def _balanced(index: Expr, n: Expr) -> Expr:
    """Positions from both ends in turn: threads take contiguous halves of ``index``, and late positions see more keys."""
    half = T.floordiv(index, i64(2))
    return T.Select(T.floormod(index, i64(2)) == 0, half, n - 1 - half)


def attn_scores(request: KernelRequest, cpu: Cpu) -> Any:
    """q [n, H·D], k [t, K·D] -> out [H, n, t]: q · k · scale, 0 at masked keys."""
    heads, kv_heads, scale = request.attr_int("heads"), request.attr_int("kv_heads"), request.attr_float("scale")
    size = int(request.operands[0].dims[1]) // heads
    share = heads // kv_heads
    together = _largest_divisor(share, cpu.registers // 2 // _KEYS_AT_ONCE)

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        lanes = cpu.lanes
        n, t = parameters.size("n"), parameters.size("t")
        q = parameters.buffer("q", ("n", heads * size), "float32")
        k = parameters.buffer("k", ("t", kv_heads * size), "float32")
        out = parameters.buffer("out", (heads, "n", "t"), "float32")
        groups = heads // together
        with T.parallel(i64(0), n * groups) as index, block("row"):
            sums = [registers(_KEYS_AT_ONCE * lanes) for _ in range(together)]
            p = _balanced(T.floordiv(index, i64(groups)), n)
            first_head = T.floormod(index, i64(groups)) * together
            kv_head = T.floordiv(first_head, i64(share))
            seen = t - n + p + 1

            def keys(first_key: Expr, count: int) -> None:
                for h in range(together):
                    emitter.zero(sums[h], 0, count * lanes)

                def step(column: Expr, width: int) -> None:
                    for h in range(together):
                        for j in range(count):
                            a = along(q, p, (first_head + h) * size + column)
                            b = along(k, first_key + j, kv_head * size + column)
                            emitter.dot_step(sums[h], j * lanes, width, a, b)

                emitter.chunks(size, step)
                for h in range(together):
                    for j in range(count):
                        total = emitter.sum_lanes(sums[h], j * lanes) * f32(scale)
                        T.buffer_store(out, total, [first_head + h, p, first_key + j])

            whole = T.floordiv(seen, i64(_KEYS_AT_ONCE))
            with T.serial(i64(0), whole) as step:
                keys(step * _KEYS_AT_ONCE, _KEYS_AT_ONCE)
            with T.serial(i64(0), seen - whole * _KEYS_AT_ONCE) as rest:
                keys(whole * _KEYS_AT_ONCE + rest, 1)
            for h in range(together):
                with T.serial(i64(0), t - seen) as masked:
                    T.buffer_store(out, f32(0.0), [first_head + h, p, seen + masked])

    return build_function(request.symbol, emit)


def attn_softmax(request: KernelRequest, cpu: Cpu) -> Any:
    """scores [H, n, t] -> out [H, n, t]: softmax over the keys that a query may attend to, 0 at the others."""
    heads = int(request.operands[0].dims[0])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        lanes = cpu.lanes
        n, t = parameters.size("n"), parameters.size("t")
        scores = parameters.buffer("scores", (heads, "n", "t"), "float32")
        out = parameters.buffer("out", (heads, "n", "t"), "float32")
        with T.parallel(i64(0), n * heads) as index, block("row"):
            lane_values = registers(lanes)
            total = registers(1)
            p = _balanced(T.floordiv(index, i64(heads)), n)
            head = T.floormod(index, i64(heads))
            seen = t - n + p + 1
            whole = T.floordiv(seen, i64(lanes))

            def over_row(vector: Any, single: Any) -> None:
                """``vector(first)`` for whole vectors of keys, ``single(key, lane)`` for those left over."""
                with T.serial(i64(0), whole) as step:
                    vector(step * lanes)
                with T.serial(i64(0), seen - whole * lanes) as rest:
                    single(whole * lanes + rest, rest)

            def keep_larger(at: Expr, value: Expr) -> None:
                # Not max(): a NaN score must reach the result, whichever operand it is (a comparison with NaN is false).
                best = lane_values[at]
                T.buffer_store(lane_values, T.Select(T.Or(value > best, is_nan(value)), value, best), [at])

            emitter.vector(lanes, lambda lane: T.buffer_store(lane_values, f32(float("-inf")), [lane]))
            over_row(
                lambda first: emitter.vector(lanes, lambda lane: keep_larger(lane, scores[head, p, first + lane])),
                lambda key, lane: keep_larger(lane, scores[head, p, key]),
            )
            for lane in range(1, lanes):
                keep_larger(i64(0), lane_values[i64(lane)])
            T.buffer_store(total, lane_values[i64(0)], [i64(0)])
            largest = total[i64(0)]

            def exponent(at: Expr, key: Expr) -> None:
                T.buffer_store(out, emitter.exp(scores[head, p, key] - largest), [head, p, key])
                T.buffer_store(lane_values, lane_values[at] + out[head, p, key], [at])

            emitter.zero(lane_values, 0, lanes)
            over_row(
                lambda first: emitter.vector(lanes, lambda lane: exponent(lane, first + lane)),
                lambda key, lane: exponent(lane, key),
            )
            T.buffer_store(total, emitter.sum_lanes(lane_values, 0), [i64(0)])

            def divide(key: Expr) -> None:
                T.buffer_store(out, out[head, p, key] / total[i64(0)], [head, p, key])

            over_row(
                lambda first: emitter.vector(lanes, lambda lane: divide(first + lane)), lambda key, _lane: divide(key)
            )
            with T.serial(i64(0), t - seen) as masked:
                T.buffer_store(out, f32(0.0), [head, p, seen + masked])

    return build_function(request.symbol, emit)


def attn_mix(request: KernelRequest, cpu: Cpu) -> Any:
    """weights [H, n, t], v [t, K·D] -> out [n, H·D]: each query's weighted sum of v, keys in order."""
    weights_type, v_type = request.operands
    heads, kv_heads = int(weights_type.dims[0]), request.attr_int("kv_heads")
    size = int(v_type.dims[1]) // kv_heads
    share = heads // kv_heads
    # A head's columns in pieces that fit the registers together with those of the heads beside it.
    piece = min(size, max(cpu.registers // 2, 1) * cpu.lanes, 256)
    together = _largest_divisor(share, (cpu.registers - 6) * cpu.lanes // piece)

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        n, t = parameters.size("n"), parameters.size("t")
        weights = parameters.buffer("weights", (heads, "n", "t"), "float32")
        v = parameters.buffer("v", ("t", kv_heads * size), "float32")
        out = parameters.buffer("out", ("n", heads * size), "float32")
        groups = heads // together
        with T.parallel(i64(0), n * groups) as index, block("row"):
            sums = [registers(piece) for _ in range(together)]
            p = _balanced(T.floordiv(index, i64(groups)), n)
            first_head = T.floormod(index, i64(groups)) * together
            kv_head = T.floordiv(first_head, i64(share))
            for start in range(0, size, piece):
                count = min(piece, size - start)
                # Vectors of the piece; unrolled, so that the sums stay in registers.
                spans = [(at, min(cpu.lanes, count - at)) for at in range(0, count, cpu.lanes)]
                for h in range(together):
                    for at, width in spans:
                        emitter.zero(sums[h], at, width)
                with T.serial(i64(0), t - n + p + 1) as key:
                    for h in range(together):
                        for at, width in spans:
                            weight = weights[first_head + h, p, key]
                            values = along(v, key, kv_head * size + start + at)
                            emitter.dot_step(sums[h], at, width, partial(_same, weight), values)
                for h in range(together):
                    for at, width in spans:
                        column = (first_head + h) * size + start + at
                        emitter.vector(width, partial(emitter.copy, sums[h], i64(at), out, p, column))

    return build_function(request.symbol, emit)
