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
from aprgraph.codegen.kernels.cpu.attention import AttentionRows, Sinks
from aprgraph.codegen.kernels.cpu.attention_rows import Heads, Row, Values, for_each_row, mask_of, size_of_heads, values_of
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Buffer, Expr, Parameters, assign, build_function, f32, i64, only, registers, scratch
from aprgraph.graph.ops.flash_attention import AVX_LANES, SUMS, TILE


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
        online = _OnlineRows(emitter, request.attr_int("lanes"), numbers, size, values)
        tiles = AttentionRows(emitter, request, numbers, sinks)
        mask = mask_of(request, numbers)
        with T.If(parameters.size("n") < i64(TILE)):
            with T.Then():
                for_each_row(parameters, Heads(count, kv_heads, 1), mask, lambda row: online.emit(row, q, k, v, sinks, out))
            with T.Else():
                for_each_row(parameters, tiles.heads, mask, lambda row: tiles.emit(row, q, k, v, out))

    return build_function(request.symbol, emit)


class _OnlineRows:
    """One position of one head: keys in order, with a running maximum, sum and mix."""

    def __init__(self, emitter: Emitter, lanes: int, numbers: Mapping[str, Expr], size: int, values: Values) -> None:
        self._emitter, self._lanes, self._size, self._values = emitter, lanes, size, values
        self._scale, self._cap = numbers["scale"], numbers.get("cap")

    def emit(self, row: Row, q: Buffer, k: Buffer, v: Buffer, sinks: Sinks, out: Buffer) -> None:
        emitter, size, values = self._emitter, self._size, self._values
        query, mixed = scratch((size,)), scratch((values.size,))
        score, largest, total, shrink, share = (registers(1) for _ in range(5))
        dot = _Dot(emitter, self._lanes, size)
        self._each(size, lambda column: assign(query, emitter.half(q[row.position, row.first_head * size + column]), [column]))
        self._each(values.size, lambda column: assign(mixed, f32(0.0), [column]))
        assign(largest, f32(float("-inf")), [i64(0)])
        assign(total, f32(0.0), [i64(0)])

        def weigh(value: Expr) -> None:
            """Set what the sums so far are worth beside ``value``, and what it is worth itself."""
            is_new = value > only(largest)
            assign(shrink, T.Select(is_new, self._exp(only(largest) - value), f32(1.0)), [i64(0)])
            assign(share, T.Select(is_new, f32(1.0), self._exp(value - only(largest))), [i64(0)])

        def count() -> None:
            assign(total, self._multiply_add(only(total), only(shrink), only(share)), [i64(0)])

        scale = self._scale if self._cap is None else self._scale / self._cap
        with T.serial(i64(0), row.seen) as number:
            key = row.first_key + number
            dot.emit(lambda column: query[column], lambda column: emitter.half(k[key, row.kv_head * size + column]))
            assign(score, dot.result * scale, [i64(0)])
            if self._cap is not None:
                assign(score, self._cap * self._tanh(only(score)), [i64(0)])
            weigh(only(score))
            with T.If(only(score) > only(largest)), T.Then():
                self._each(values.size, lambda column: assign(mixed, emitter.half(mixed[column] * only(shrink)), [column]))
                assign(largest, only(score), [i64(0)])

            def add(column: Expr) -> None:
                value = emitter.half(v[key, row.kv_head * values.pitch + column])
                assign(mixed, emitter.half(self._multiply_add(value, only(share), mixed[column])), [column])

            self._each(values.size, add)
            count()
        sink = sinks.of(row.first_head)
        if sink is not None:
            weigh(sink)
            self._each(values.size, lambda column: assign(mixed, mixed[column] * only(shrink), [column]))
            count()
        assign(share, T.Select(only(total) == f32(0.0), f32(0.0), f32(1.0) / only(total)), [i64(0)])
        at = row.first_head * values.size
        self._each(values.size, lambda column: assign(out, mixed[column] * only(share), [row.position, at + column]))

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
