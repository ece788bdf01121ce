"""Flash attention as ggml's CPU backend computes it, a warp for each query of a head: see graph/ops/flash_attention.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.attention import AttentionOperands, emit_attention
from aprgraph.codegen.kernels.cuda.attention_tiles import Block
from aprgraph.codegen.kernels.cuda.emitter import WARP, Emitter, get, launch, put, registers, shuffle_xor, split_index, where, zero
from aprgraph.codegen.kernels.flash_passes import FlashPasses
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64
from aprgraph.graph.errors import GraphError
from aprgraph.graph.ops.attention import is_causal, is_chunked, is_symmetric
from aprgraph.graph.ops.flash_attention import AVX_LANES, SUMS


def flash_attention(request: KernelRequest) -> Any:
    """q [n, H·D], k [t, K·D], v [t, K·V], sinks [H] -> out [n, H·V]."""

    def emit(parameters: Parameters) -> None:
        operands = AttentionOperands(parameters, request)
        passes = FlashPasses(request, parameters.size("n"), parameters.size("t"))
        with T.If(passes.first_online > 0), T.Then():
            emit_attention(parameters, request, operands)  # of all positions: what follows writes over its own
        with T.If(passes.first_online < parameters.size("n")), T.Then():
            _emit_online(parameters, request, operands, passes)

    return build_function(request.symbol, emit)


class _Sums:
    """A lane's part of what has been summed of the keys of one query of a head."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.mixed, self.largest, self.total = registers(steps), registers(1), registers(1)

    def clear(self) -> None:
        """None of the keys."""
        zero(self.mixed, self.steps)
        zero(self.total, 1)
        put(self.largest, f32(float("-inf")))


def _emit_online(parameters: Parameters, request: KernelRequest, operands: AttentionOperands, passes: FlashPasses) -> None:
    """A kernel that goes from key to key, with a running maximum, sum and mix."""
    n, t = parameters.size("n"), parameters.size("t")
    numbers, heads, size, values = operands.numbers, operands.heads, operands.size, operands.value_size
    scale, cap, window = numbers["scale"], numbers.get("cap"), numbers.get("window")
    has_vectors = request.attr_int("lanes") > 0
    steps = -(-values // WARP)
    emitter = Emitter()

    def multiply_add(a: Expr, b: Expr, c: Expr) -> Expr:
        """Fused where the engine has vectors, for these come with such an operation."""
        return emitter.fma(a, b, c) if has_vectors else a * b + c

    with launch((n - passes.first_online) * heads, WARP) as (index, lane):
        from_first, head = split_index(index, heads)
        position = passes.first_online + from_first
        kv_head = T.floordiv(head, i64(heads // operands.kv_heads))
        mask = is_causal(request.attrs), is_chunked(request.attrs), is_symmetric(request.attrs)
        block = Block(emitter, lane, head, position, n, t, window, *mask, 1)
        first = i64(0) if window is None else T.max(block.first_key(block.position(0), window), i64(0))
        score, shrink, share = (registers(1) for _ in range(3))
        sums = _Sums(steps)
        mixed, largest, total = sums.mixed, sums.largest, sums.total
        dot = _Dot(emitter, request, lane, size)

        def weigh(value: Expr) -> None:
            """Set what the sums so far are worth beside ``value``, and what it is worth itself."""
            is_new = value > get(largest)
            put(shrink, T.Select(is_new, _exp(get(largest) - value), f32(1.0)))
            put(share, T.Select(is_new, f32(1.0), _exp(value - get(largest))))

        def each_of_mine(body: Callable[[int, Expr], None]) -> None:
            for step in range(steps):
                column = lane + step * WARP
                where(column < values, partial(body, step, column), always=(step + 1) * WARP <= values)

        def add_keys(first: Expr, count: Expr) -> None:
            sums.clear()
            with T.serial(i64(0), count) as number:
                key = first + number
                dot.emit(
                    lambda column: emitter.half(operands.q[position, head * size + column]),
                    lambda column: emitter.half(operands.k[key, kv_head * size + column]),
                )
                put(score, dot.result * (scale if cap is None else scale / cap))
                if cap is not None:
                    put(score, cap * T.Cast("float32", T.tanh(T.Cast("float64", get(score)))))
                weigh(get(score))
                with T.If(get(score) > get(largest)), T.Then():
                    for step in range(steps):
                        put(mixed, emitter.half(get(mixed, step) * get(shrink)), step)
                    put(largest, get(score))

                def add(step: int, column: Expr) -> None:
                    value = emitter.half(operands.v[key, kv_head * operands.pitch + column])
                    put(mixed, multiply_add(value, get(share), get(mixed, step)), step)
                    put(mixed, emitter.half(get(mixed, step)), step)

                each_of_mine(add)
                put(total, multiply_add(get(total), get(shrink), get(share)))

        def add_sink() -> None:
            sink = operands.sinks.of(head)
            if sink is not None:
                put(score, sink)
                weigh(get(score))
                for step in range(steps):
                    put(mixed, get(mixed, step) * get(shrink), step)
                put(total, multiply_add(get(total), get(shrink), get(share)))
                put(largest, T.max(get(largest), get(score)))

        def merge(whole: _Sums) -> None:
            """Add the sums of a thread to those of the threads before it, in float32."""
            put(score, T.max(get(whole.largest), get(largest)))
            put(shrink, _exp(get(whole.largest) - get(score)))
            put(share, _exp(get(largest) - get(score)))
            for step in range(steps):
                put(mixed, get(mixed, step) * get(share), step)
                put(whole.mixed, multiply_add(get(whole.mixed, step), get(shrink), get(mixed, step)), step)
            put(total, get(total) * get(share))
            put(whole.total, multiply_add(get(whole.total), get(shrink), get(total)))
            put(whole.largest, get(score))

        if passes.threads == 1:
            add_keys(first, block.stop - first)
            add_sink()
            whole = sums
        else:
            whole = _Sums(steps)
            whole.clear()
            threads, each = passes.keys_of_thread(position)
            with T.serial(i64(0), threads) as thread:
                own = T.max(first, thread * each)
                add_keys(own, T.max(T.min(block.stop, (thread + 1) * each) - own, i64(0)))
                with T.If(thread == 0), T.Then():
                    add_sink()
                with T.If(get(total) != f32(0.0)), T.Then():
                    merge(whole)
        put(share, T.Select(get(whole.total) == f32(0.0), f32(0.0), f32(1.0) / get(whole.total)))
        each_of_mine(lambda step, column: assign(operands.out, get(whole.mixed, step) * get(share), [position, head * values + column]))


def _exp(x: Expr) -> Expr:
    """The nearest float32, which glibc's expf gives but of one argument in 1,700: graph/ops/c_library.py."""
    return T.Cast("float32", T.exp(T.Cast("float64", x)))


class _Dot:
    """The products of two rows of float16 values, summed as ggml_vec_dot_f16 does with vectors of ``lanes`` elements.

    Its partial sums, 32 for each 8 elements of a vector, are a lane's each; every lane gets the total. A product is exact.
    """

    def __init__(self, emitter: Emitter, request: KernelRequest, lane: Expr, size: int) -> None:
        lanes = request.attr_int("lanes")
        self._step = SUMS * lanes
        if self._step % WARP:
            raise GraphError(f"{request.op} with {lanes} lanes: CUDA's kernel has no vectors but of 8, 16 and so on, and 0")
        self._emitter, self._lane, self._size = emitter, lane, size
        self._whole = size // self._step * self._step if lanes else 0
        self._order = (1, 2) if lanes <= AVX_LANES else (2, 1)
        self._sums = registers(max(self._step // WARP, 1))
        self._total = registers(1, "float64")

    @property
    def result(self) -> Expr:
        """The last sum, in f32."""
        return T.Cast("float32", get(self._total))

    def emit(self, a: Callable[[Expr], Expr], b: Callable[[Expr], Expr]) -> None:
        """Compute the sum of a(column) · b(column)."""
        sums, each = self._sums, self._step // WARP
        put(self._total, T.float64(0.0))
        if self._whole:
            zero(sums, each)
            with T.serial(i64(0), i64(self._whole // self._step)) as number:
                for part in range(each):
                    column = number * self._step + part * WARP + self._lane
                    put(sums, get(sums, part) + a(column) * b(column), part)
            while each > 1:  # halves upon halves: of the vectors, then of their lanes
                each //= 2
                for part in range(each):
                    put(sums, get(sums, part) + get(sums, part + each), part)
            # The last four: neighbours first with vectors of 8, halves first with longer ones.
            for distance in (16, 8, 4, *self._order):
                put(sums, get(sums) + shuffle_xor(get(sums), distance))
            put(self._total, T.Cast("float64", get(sums)))
        with T.serial(i64(self._whole), i64(self._size)) as column:
            put(self._total, get(self._total) + T.Cast("float64", a(column) * b(column)))
