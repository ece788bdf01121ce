"""Flash attention as ggml's CPU backend computes it, row by row: see graph/ops/flash_attention.py.

A pass of fewer than 64 positions goes from key to key with sums in float16, a longer one is computed as `attention`. So here what a
position gets depends on how many there are in its pass, as it does in the engine; nothing else changes a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.attention import AttentionTiles, Sinks
from aprgraph.codegen.kernels.cpu.attention_rows import Heads, Row, Values, for_each_row, for_each_tile, mask_of, size_of_heads, values_of
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.flash_passes import FlashPasses
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Buffer, Expr, Parameters, assign, build_function, f32, i64, only, registers, scratch
from aprgraph.graph.ops.flash_attention import AVX_LANES, SUMS


def flash_attention(request: KernelRequest, cpu: Cpu) -> Any:
    """q [n, H·D], k [t, K·D], v [t, K·V], sinks [H] -> out [n, H·V]."""
    count, kv_heads = request.attr_int("heads"), request.attr_int("kv_heads")
    size, values = size_of_heads(request), values_of(request, request.operands[2])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        q = parameters.buffer("q", ("n", count * size), "float32")
        k = parameters.buffer("k", ("t", kv_heads * size), "float32")
        v = parameters.buffer("v", ("t", kv_heads * values.pitch), "float32")
        sinks = Sinks(emitter, parameters, request.operands[3:])
        numbers = number_parameters(parameters, request)
        out = parameters.buffer("out", ("n", count * values.size), "float32")
        passes = FlashPasses(request, parameters.size("n"), parameters.size("t"))
        online = _OnlineRows(emitter, request.attr_int("lanes"), numbers, size, values, passes)
        tiles = AttentionTiles(emitter, request, numbers, sinks)
        mask = mask_of(request, numbers)
        first, n = passes.first_online, parameters.size("n")
        with T.If(first > 0), T.Then():
            for_each_tile(parameters, tiles.heads, mask, lambda tile: tiles.emit(tile, q, k, v, out), count=first)
        with T.If(first < n), T.Then():
            one = Heads(count, kv_heads, 1)
            for_each_row(parameters, one, mask, lambda row: online.emit(row, q, k, v, sinks, out), first=first, count=n - first)

    return build_function(request.symbol, emit)


class _Sums:
    """What has been summed of the keys of one row."""

    def __init__(self, size: int) -> None:
        self.mixed, self.largest, self.total = scratch((size,)), registers(1), registers(1)


class _OnlineRows:
    """One position of one head: keys in order, with a running maximum, sum and mix, for each thread that has some of them."""

    def __init__(self, emitter: Emitter, lanes: int, numbers: Mapping[str, Expr], size: int, values: Values, passes: FlashPasses) -> None:
        self._emitter, self._lanes, self._size, self._values, self._passes = emitter, lanes, size, values, passes
        self._scale, self._cap = numbers["scale"], numbers.get("cap")

    def emit(self, row: Row, q: Buffer, k: Buffer, v: Buffer, sinks: Sinks, out: Buffer) -> None:
        """Emit the row."""
        emitter, size, values = self._emitter, self._size, self._values
        query, sums = scratch((size,)), _Sums(values.size)
        shrink, share = registers(1), registers(1)
        dot = _Dot(emitter, self._lanes, size)
        self._each(size, lambda column: assign(query, emitter.half(q[row.position, row.first_head * size + column]), [column]))

        def keys(first: Expr, count: Expr) -> None:
            self._clear(sums)
            with T.serial(i64(0), count) as number:
                key = first + number
                dot.emit(lambda column: query[column], lambda column: emitter.half(k[key, row.kv_head * size + column]))
                self._add_key(sums, shrink, share, dot.result, lambda column: v[key, row.kv_head * values.pitch + column])

        def sink() -> None:
            value = sinks.of(row.first_head)
            if value is not None:
                self._weigh(sums, shrink, share, value)
                self._each(values.size, lambda column: assign(sums.mixed, sums.mixed[column] * only(shrink), [column]))
                self._count(sums, only(shrink), only(share))
                assign(sums.largest, T.max(only(sums.largest), value), [i64(0)])

        if self._passes.threads == 1:
            keys(row.first_key, row.seen)
            sink()
        else:
            whole = sums
            sums = _Sums(values.size)
            self._clear(whole)
            threads, each = self._passes.keys_of_thread(row.position)
            with T.serial(i64(0), threads) as thread:
                first = T.max(row.first_key, thread * each)
                keys(first, T.max(T.min(row.first_key + row.seen, (thread + 1) * each) - first, i64(0)))
                with T.If(thread == 0), T.Then():
                    sink()
                with T.If(only(sums.total) != f32(0.0)), T.Then():
                    self._merge(whole, sums, shrink, share)
            sums = whole
        total = sums.total
        assign(share, T.Select(only(total) == f32(0.0), f32(0.0), f32(1.0) / only(total)), [i64(0)])
        at = row.first_head * values.size
        self._each(values.size, lambda column: assign(out, sums.mixed[column] * only(share), [row.position, at + column]))

    def _clear(self, sums: _Sums) -> None:
        self._each(self._values.size, lambda column: assign(sums.mixed, f32(0.0), [column]))
        assign(sums.largest, f32(float("-inf")), [i64(0)])
        assign(sums.total, f32(0.0), [i64(0)])

    def _weigh(self, sums: _Sums, shrink: Buffer, share: Buffer, value: Expr) -> None:
        """Set what the sums so far are worth beside ``value``, and what it is worth itself."""
        is_new = value > only(sums.largest)
        assign(shrink, T.Select(is_new, self._exp(only(sums.largest) - value), f32(1.0)), [i64(0)])
        assign(share, T.Select(is_new, f32(1.0), self._exp(value - only(sums.largest))), [i64(0)])

    def _count(self, sums: _Sums, shrink: Expr, share: Expr) -> None:
        assign(sums.total, self._multiply_add(only(sums.total), shrink, share), [i64(0)])

    def _add_key(self, sums: _Sums, shrink: Buffer, share: Buffer, product: Expr, value: Callable[[Expr], Expr]) -> None:
        """One key, of which q · k is ``product``."""
        emitter, size, score, mixed = self._emitter, self._values.size, registers(1), sums.mixed
        assign(score, product * (self._scale if self._cap is None else self._scale / self._cap), [i64(0)])
        if self._cap is not None:
            assign(score, self._cap * self._tanh(only(score)), [i64(0)])
        self._weigh(sums, shrink, share, only(score))
        with T.If(only(score) > only(sums.largest)), T.Then():
            self._each(size, lambda column: assign(mixed, emitter.half(mixed[column] * only(shrink)), [column]))
            assign(sums.largest, only(score), [i64(0)])

        def add(column: Expr) -> None:
            added = self._multiply_add(emitter.half(value(column)), only(share), mixed[column])
            assign(mixed, emitter.half(added), [column])

        self._each(size, add)
        self._count(sums, only(shrink), only(share))

    def _merge(self, whole: _Sums, part: _Sums, before: Buffer, new: Buffer) -> None:
        """Add the sums of a thread to those of the threads before it, in float32."""
        rounded = self._emitter.rounded
        largest = registers(1)
        assign(largest, T.max(only(whole.largest), only(part.largest)), [i64(0)])
        assign(before, self._exp(only(whole.largest) - only(largest)), [i64(0)])
        assign(new, self._exp(only(part.largest) - only(largest)), [i64(0)])

        def add(column: Expr) -> None:
            added = self._multiply_add(whole.mixed[column], only(before), rounded(part.mixed[column] * only(new)))
            assign(whole.mixed, added, [column])

        self._each(self._values.size, add)
        self._count(whole, only(before), rounded(only(part.total) * only(new)))
        assign(whole.largest, only(largest), [i64(0)])

    def _each(self, count: int, body: Callable[[Expr], None]) -> None:
        emitter = self._emitter
        emitter.chunks(count, lambda start, width: emitter.vector(width, lambda lane: body(start + lane)))

    def _multiply_add(self, a: Expr, b: Expr, c: Expr) -> Expr:
        """Fused where the engine has vectors, for these come with such an operation."""
        return self._emitter.fused(a, b, c) if self._lanes else self._emitter.rounded(a * b) + c

    @staticmethod
    def _exp(x: Expr) -> Expr:
        """The nearest float32, which glibc's expf gives but of one argument in 1,700: graph/ops/c_library.py."""
        return T.Cast("float32", T.exp(T.Cast("float64", x)))

    @staticmethod
    def _tanh(x: Expr) -> Expr:
        return T.Cast("float32", T.tanh(T.Cast("float64", x)))


class _Dot:
    """The products of two rows of float16 values, summed as ggml_vec_dot_f16 does with vectors of ``lanes`` elements.

    A product is exact, so that nothing depends on whether it is fused with the sum.
    """

    def __init__(self, emitter: Emitter, lanes: int, size: int) -> None:
        self._emitter, self._lanes, self._size = emitter, lanes, size
        self._step = SUMS * lanes
        self._whole = size // self._step * self._step if lanes else 0
        self._sums = registers(max(self._step, 1))
        self._total = registers(1, "float64")

    @property
    def result(self) -> Expr:
        """The last sum, in f32."""
        return T.Cast("float32", only(self._total))

    def emit(self, a: Callable[[Expr], Expr], b: Callable[[Expr], Expr]) -> None:
        """Compute the sum of a(column) · b(column)."""
        emitter, sums, step = self._emitter, self._sums, self._step
        assign(self._total, T.float64(0.0), [i64(0)])
        if self._whole:
            emitter.zero(sums, 0, step)
            with T.serial(i64(0), i64(self._whole // step)) as number:
                emitter.vector(step, lambda lane: assign(sums, sums[lane] + a(number * step + lane) * b(number * step + lane), [lane]))
            while step > SUMS:  # halves upon halves: of the vectors, then of their lanes
                step //= 2
                emitter.fold(sums, 0, step)
            # Neighbours first with vectors of 8, halves first with longer ones.
            order = (0, 1, 2, 3) if self._lanes <= AVX_LANES else (0, 2, 1, 3)
            first, second, third, fourth = (sums[i64(index)] for index in order)
            assign(self._total, T.Cast("float64", (first + second) + (third + fourth)), [i64(0)])
        with T.serial(i64(self._whole), i64(self._size)) as column:
            assign(self._total, only(self._total) + T.Cast("float64", a(column) * b(column)), [i64(0)])
