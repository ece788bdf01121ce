"""Attention kernels: scores, softmax, mix, each alone for when it is tapped, and the three in one for when none is.

Rows are computed one position at a time, query heads that share a KV head together. A query's loops end at the last key
that it may attend to, and the order of every sum depends on the key's position alone. So a position that attends to no later
ones has the same bits whether these are there or not; and since the fused kernel emits the very same rows, keeping scores and
softmax in scratch memory instead of in [H, n, t] buffers changes no bit either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.tir import Buffer, Expr, Parameters, along, block, build_function, f32, i64, is_nan, registers
from aprgraph.graph.ops.attention import is_causal

_KEYS_AT_ONCE = 4
#: Head columns that a register buffer holds at once in the mix.
_PIECE_LIMIT = 256


def _mask(request: KernelRequest) -> tuple[int, bool]:
    """The window, and whether a position attends to none after it."""
    return request.attr_int("window"), is_causal(request.attrs)


def _largest_divisor(number: int, limit: int) -> int:
    return max(d for d in range(1, number + 1) if number % d == 0 and d <= max(limit, 1))


@dataclass(frozen=True)
class _Heads:
    """How heads are grouped: ``together`` query heads of one KV head are one row of work. ``window`` is 0 for none."""

    heads: int
    kv_heads: int
    size: int
    together: int
    window: int
    causal: bool

    @property
    def groups(self) -> int:
        return self.heads // self.together


@dataclass(frozen=True)
class _Row:
    """One position and one group of heads. The position may attend to ``seen`` keys of ``t``, from ``first_key`` on."""

    heads: _Heads
    position: Expr
    first_head: Expr
    kv_head: Expr
    first_key: Expr
    seen: Expr
    t: Expr


def _for_each_row(parameters: Parameters, heads: _Heads, body: Callable[[_Row], None]) -> None:
    """Emit ``body`` for every position and group of heads, in parallel.

    Positions come from both ends in turn: threads take contiguous halves of the loop, and late positions see more keys.
    """
    n, t = parameters.size("n"), parameters.size("t")
    with T.parallel(i64(0), n * heads.groups) as index, block("row"):
        step = T.floordiv(index, i64(heads.groups))
        half = T.floordiv(step, i64(2))
        position = T.Select(T.floormod(step, i64(2)) == 0, half, n - 1 - half)
        first_head = T.floormod(index, i64(heads.groups)) * heads.together
        kv_head = T.floordiv(first_head, i64(heads.heads // heads.kv_heads))
        after = t - n + position + 1
        stop = after if heads.causal else t
        first_key = T.max(after - heads.window, i64(0)) if heads.window else i64(0)
        body(_Row(heads, position, first_head, kv_head, first_key, stop - first_key, t))


def _scores_together(share: int, cpu: Cpu) -> int:
    return _largest_divisor(share, cpu.registers // 2 // _KEYS_AT_ONCE)


def _mix_piece(size: int, cpu: Cpu) -> int:
    """A head's columns in pieces that fit the registers."""
    return min(size, cpu.registers // 2 * cpu.lanes, _PIECE_LIMIT)


def _mix_together(share: int, size: int, cpu: Cpu) -> int:
    return _largest_divisor(share, (cpu.registers - 6) * cpu.lanes // _mix_piece(size, cpu))


def _same(value: Expr, _lane: Expr) -> Expr:
    """One value in every lane."""
    return value


# -- rows: what all four kernels are made of -----------------------------------------------------------------------------


def _emit_scores(emitter: Emitter, row: _Row, q: Buffer, k: Buffer, scale: float, store: Callable[[int, Expr, Expr], None]) -> None:
    """``store(head of the group, key, score)`` for every key that the row may attend to; keys count from its first one."""
    lanes, size, together = emitter.lanes, row.heads.size, row.heads.together
    sums = [registers(_KEYS_AT_ONCE * lanes) for _ in range(together)]

    def keys(first_key: Expr, count: int) -> None:
        for h in range(together):
            emitter.zero(sums[h], 0, count * lanes)

        def step(column: Expr, width: int) -> None:
            for h in range(together):
                for j in range(count):
                    a = along(q, row.position, (row.first_head + h) * size + column)
                    b = along(k, row.first_key + first_key + j, row.kv_head * size + column)
                    emitter.dot_step(sums[h], j * lanes, width, a, b)

        emitter.chunks(size, step)
        for h in range(together):
            for j in range(count):
                store(h, first_key + j, emitter.sum_lanes(sums[h], j * lanes) * f32(scale))

    whole = T.floordiv(row.seen, i64(_KEYS_AT_ONCE))
    with T.serial(i64(0), whole) as step_of_keys:
        keys(step_of_keys * _KEYS_AT_ONCE, _KEYS_AT_ONCE)
    with T.serial(i64(0), row.seen - whole * _KEYS_AT_ONCE) as rest:
        keys(whole * _KEYS_AT_ONCE + rest, 1)


def _emit_softmax(emitter: Emitter, row: _Row, score: Callable[[Expr], Expr], out: Buffer, *at: Expr) -> None:
    """out(key) = softmax over the keys that the row may attend to; ``score(key)`` may be that same place.

    Keys count from the row's first one; the last of ``at`` is where that one lies in ``out``.
    """
    lanes = emitter.lanes
    lane_values, total = registers(lanes), registers(1)
    whole = T.floordiv(row.seen, i64(lanes))

    *outer, first = at

    def stored(key: Expr) -> Expr:
        index = (*outer, first + key)
        return out[index]

    def over_row(body: Callable[[Expr, Expr], None]) -> None:
        """``body(lane, key)`` for whole vectors of keys, then for those left over one at a time, each in its lane."""
        with T.serial(i64(0), whole) as step:
            emitter.vector(lanes, lambda lane: body(lane, step * lanes + lane))
        with T.serial(i64(0), row.seen - whole * lanes) as rest:
            body(rest, whole * lanes + rest)

    def keep_larger(lane: Expr, value: Expr) -> None:
        # Not max(): a NaN score must reach the result, whichever operand it is (a comparison with NaN is false).
        best = lane_values[lane]
        T.buffer_store(lane_values, T.Select(T.Or(value > best, is_nan(value)), value, best), [lane])

    def exponent(lane: Expr, key: Expr) -> None:
        T.buffer_store(out, emitter.exp(score(key) - total[i64(0)]), [*outer, first + key])
        T.buffer_store(lane_values, lane_values[lane] + stored(key), [lane])

    emitter.vector(lanes, lambda lane: T.buffer_store(lane_values, f32(float("-inf")), [lane]))
    over_row(lambda lane, key: keep_larger(lane, score(key)))
    for lane in range(1, lanes):
        keep_larger(i64(0), lane_values[i64(lane)])
    T.buffer_store(total, lane_values[i64(0)], [i64(0)])
    emitter.zero(lane_values, 0, lanes)
    over_row(exponent)
    T.buffer_store(total, emitter.sum_lanes(lane_values, 0), [i64(0)])
    over_row(lambda _lane, key: T.buffer_store(out, stored(key) / total[i64(0)], [*outer, first + key]))


def _emit_mix(emitter: Emitter, row: _Row, weight: Callable[[int, Expr], Expr], v: Buffer, out: Buffer) -> None:
    """out[position, columns of the row's heads] = sum over keys, in order, of ``weight(head of the group, key)`` · v.

    Keys count from the row's first one.
    """
    size, together = row.heads.size, row.heads.together
    piece = _mix_piece(size, emitter.cpu)
    sums = [registers(piece) for _ in range(together)]
    for start in range(0, size, piece):
        count = min(piece, size - start)
        # Vectors of the piece; unrolled, so that the sums stay in registers.
        spans = [(at, min(emitter.lanes, count - at)) for at in range(0, count, emitter.lanes)]
        for h in range(together):
            for at, width in spans:
                emitter.zero(sums[h], at, width)
        with T.serial(i64(0), row.seen) as key:
            for h in range(together):
                for at, width in spans:
                    values = along(v, row.first_key + key, row.kv_head * size + start + at)
                    emitter.dot_step(sums[h], at, width, partial(_same, weight(h, key)), values)
        for h in range(together):
            for at, width in spans:
                column = (row.first_head + h) * size + start + at
                emitter.vector(width, partial(emitter.copy, sums[h], i64(at), out, row.position, column))


def _emit_masked(row: _Row, out: Buffer, head: Expr) -> None:
    """0 at the keys that the row may not attend to: those before its window, and those after its own position."""
    if row.heads.window:
        with T.serial(i64(0), row.first_key) as early:
            T.buffer_store(out, f32(0.0), [head, row.position, early])
    stop = row.first_key + row.seen
    with T.serial(i64(0), row.t - stop) as late:
        T.buffer_store(out, f32(0.0), [head, row.position, stop + late])


# -- kernels -------------------------------------------------------------------------------------------------------------


def attn_scores(request: KernelRequest, cpu: Cpu) -> Any:
    """q [n, H·D], k [t, K·D] -> out [H, n, t]: q · k · scale, 0 at masked keys."""
    count, kv_heads, scale = request.attr_int("heads"), request.attr_int("kv_heads"), request.attr_float("scale")
    size = int(request.operands[0].dims[1]) // count
    heads = _Heads(count, kv_heads, size, _scores_together(count // kv_heads, cpu), *_mask(request))

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        q = parameters.buffer("q", ("n", count * size), "float32")
        k = parameters.buffer("k", ("t", kv_heads * size), "float32")
        out = parameters.buffer("out", (count, "n", "t"), "float32")

        def body(row: _Row) -> None:
            def store(h: int, key: Expr, score: Expr) -> None:
                T.buffer_store(out, score, [row.first_head + h, row.position, row.first_key + key])

            _emit_scores(emitter, row, q, k, scale, store)
            for h in range(heads.together):
                _emit_masked(row, out, row.first_head + h)

        _for_each_row(parameters, heads, body)

    return build_function(request.symbol, emit)


def attn_softmax(request: KernelRequest, cpu: Cpu) -> Any:
    """scores [H, n, t] -> out [H, n, t]: softmax over the keys that a query may attend to, 0 at the others."""
    count = int(request.operands[0].dims[0])
    heads = _Heads(count, count, 1, 1, *_mask(request))

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        scores = parameters.buffer("scores", (count, "n", "t"), "float32")
        out = parameters.buffer("out", (count, "n", "t"), "float32")

        def body(row: _Row) -> None:
            head, position, first = row.first_head, row.position, row.first_key
            _emit_softmax(emitter, row, lambda key: scores[head, position, first + key], out, head, position, first)
            _emit_masked(row, out, head)

        _for_each_row(parameters, heads, body)

    return build_function(request.symbol, emit)


def attn_mix(request: KernelRequest, cpu: Cpu) -> Any:
    """weights [H, n, t], v [t, K·D] -> out [n, H·D]: each query's weighted sum of v, keys in order."""
    weights_type, v_type = request.operands
    count, kv_heads = int(weights_type.dims[0]), request.attr_int("kv_heads")
    size = int(v_type.dims[1]) // kv_heads
    heads = _Heads(count, kv_heads, size, _mix_together(count // kv_heads, size, cpu), *_mask(request))

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        weights = parameters.buffer("weights", (count, "n", "t"), "float32")
        v = parameters.buffer("v", ("t", kv_heads * size), "float32")
        out = parameters.buffer("out", ("n", count * size), "float32")

        def body(row: _Row) -> None:
            _emit_mix(emitter, row, lambda h, key: weights[row.first_head + h, row.position, row.first_key + key], v, out)

        _for_each_row(parameters, heads, body)

    return build_function(request.symbol, emit)


def attention(request: KernelRequest, cpu: Cpu) -> Any:
    """q [n, H·D], k [t, K·D], v [t, K·D] -> out [n, H·D]: the three above, a row of scores at a time in scratch memory."""
    count, kv_heads, scale = request.attr_int("heads"), request.attr_int("kv_heads"), request.attr_float("scale")
    size = int(request.operands[0].dims[1]) // count
    share = count // kv_heads
    together = min(_scores_together(share, cpu), _mix_together(share, size, cpu))
    heads = _Heads(count, kv_heads, size, _largest_divisor(share, together), *_mask(request))

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        q = parameters.buffer("q", ("n", count * size), "float32")
        k = parameters.buffer("k", ("t", kv_heads * size), "float32")
        v = parameters.buffer("v", ("t", kv_heads * size), "float32")
        out = parameters.buffer("out", ("n", count * size), "float32")

        def body(row: _Row) -> None:
            scores = T.sblock_alloc_buffer((i64(heads.together), row.seen), "float32")
            _emit_scores(emitter, row, q, k, scale, lambda h, key, score: T.buffer_store(scores, score, [i64(h), key]))
            for h in range(heads.together):
                _emit_softmax(emitter, row, partial(_score_of, scores, h), scores, i64(h), i64(0))
            _emit_mix(emitter, row, lambda h, key: scores[i64(h), key], v, out)

        _for_each_row(parameters, heads, body)

    return build_function(request.symbol, emit)


def _score_of(scores: Buffer, head: int, key: Expr) -> Expr:
    return scores[i64(head), key]
