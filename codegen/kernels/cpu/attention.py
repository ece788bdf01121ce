"""Attention kernels: scores, softmax and mix (the weighted sum of v), each as its own kernel, and one fused kernel.

The three kernels run if scores or softmax are tapped, the fused one if not.

A kernel computes some positions at a time, for some query heads that share a KV head. The loops of a query end at the
last key that it attends to, and the order of each sum depends only on the positions of the keys. So with a causal
mask, later positions do not change a bit of earlier ones. The fused kernel emits the same loops for a tile, and keeps
scores and softmax in scratch memory in place of [H, n, t] buffers. So fusing changes no bit either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.attention_rows import (
    Heads,
    Row,
    Tile,
    clear_mix,
    emit_masked,
    emit_mix,
    emit_scores,
    emit_softmax,
    for_each_row,
    for_each_tile,
    heads_together,
    mask_of,
    size_of_heads,
    values_of,
)
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.weights import Weight
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Buffer, Expr, Parameters, RowMajor, assign, build_function, i64, scratch
from aprgraph.graph.ir import TensorType


def attn_scores(request: KernelRequest, cpu: Cpu) -> Any:
    """q [n, H·D], k [t, K·D] -> out [H, n, t]: q · k · scale, soft-capped if asked for; 0 at masked keys."""
    count, kv_heads, size = request.attr_int("heads"), request.attr_int("kv_heads"), size_of_heads(request)
    heads = Heads(count, kv_heads, heads_together(count // kv_heads, cpu))

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        q = parameters.buffer("q", ("n", count * size), "float32")
        k = parameters.buffer("k", ("t", kv_heads * size), "float32")
        numbers = number_parameters(parameters, request)
        out = parameters.buffer("out", (count, "n", "t"), "float32")

        def part(_number: Expr, row: Row, first: Expr, stop: Expr) -> None:
            def store(h: int, key: Expr, score: Expr) -> None:
                assign(out, score, [row.first_head + h, row.position, row.first_key + key])

            emit_scores(emitter, row, (first, stop), q, k, size, numbers, store)

        def masked(_number: Expr, row: Row) -> None:
            for h in range(heads.together):
                emit_masked(row, out, row.first_head + h)

        def body(tile: Tile) -> None:
            tile.for_each_part(part)
            tile.for_each_row(masked)

        for_each_tile(parameters, heads, mask_of(request, numbers), body)

    return build_function(request.symbol, emit)


def attn_softmax(request: KernelRequest, cpu: Cpu) -> Any:
    """scores [H, n, t], sinks [H] -> out [H, n, t]: softmax over the keys that a query attends to; 0 at masked keys."""
    count = int(request.operands[0].dims[0])
    heads = Heads(count, count, 1)

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        scores = parameters.buffer("scores", (count, "n", "t"), "float32")
        sinks = Sinks(emitter, parameters, request.operands[1:])
        numbers = number_parameters(parameters, request)
        out = parameters.buffer("out", (count, "n", "t"), "float32")

        def body(row: Row) -> None:
            head, position, first = row.first_head, row.position, row.first_key
            start = T.bind(scores.place((head, position, first)))
            emit_softmax(emitter, row, lambda key: scores.elements[start + key], out.elements, start, sink=sinks.of(head))
            emit_masked(row, out, head)

        for_each_row(parameters, heads, mask_of(request, numbers), body)

    return build_function(request.symbol, emit)


def attn_mix(request: KernelRequest, cpu: Cpu) -> Any:
    """weights [H, n, t], v [t, K·V] -> out [n, H·V]: the weighted sum of v for each query, in the order of the keys."""
    weights_type, v_type = request.operands
    count, kv_heads, values = int(weights_type.dims[0]), request.attr_int("kv_heads"), values_of(request, v_type)
    heads = Heads(count, kv_heads, heads_together(count // kv_heads, cpu))

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        weights = parameters.buffer("weights", (count, "n", "t"), "float32")
        v = parameters.buffer("v", ("t", kv_heads * values.pitch), "float32")
        numbers = number_parameters(parameters, request)
        out = parameters.buffer("out", ("n", count * values.size), "float32")

        def part(_number: Expr, row: Row, first: Expr, stop: Expr) -> None:
            def weight(h: int, key: Expr) -> Expr:
                return weights[row.first_head + h, row.position, row.first_key + key]

            emit_mix(emitter, row, (first, stop), values, weight, v, out)

        def body(tile: Tile) -> None:
            tile.for_each_row(lambda _number, row: clear_mix(emitter, row, values, out))
            tile.for_each_part(part)

        for_each_tile(parameters, heads, mask_of(request, numbers), body)

    return build_function(request.symbol, emit)


def attention(request: KernelRequest, cpu: Cpu) -> Any:
    """q [n, H·D], k [t, K·D], v [t, K·V], sinks [H] -> out [n, H·V]: the three above, fused row by row."""
    count, kv_heads, size = request.attr_int("heads"), request.attr_int("kv_heads"), size_of_heads(request)
    values = values_of(request, request.operands[2])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        q = parameters.buffer("q", ("n", count * size), "float32")
        k = parameters.buffer("k", ("t", kv_heads * size), "float32")
        v = parameters.buffer("v", ("t", kv_heads * values.pitch), "float32")
        sinks = Sinks(emitter, parameters, request.operands[3:])
        numbers = number_parameters(parameters, request)
        out = parameters.buffer("out", ("n", count * values.size), "float32")
        tiles = AttentionTiles(emitter, request, numbers, sinks)
        for_each_tile(parameters, tiles.heads, mask_of(request, numbers), lambda tile: tiles.emit(tile, q, k, v, out))

    return build_function(request.symbol, emit)


class AttentionTiles:
    """Scores, softmax and mix of one tile, with what lies between them in scratch memory."""

    def __init__(self, emitter: Emitter, request: KernelRequest, numbers: Mapping[str, Expr], sinks: Sinks) -> None:
        count, kv_heads, self._size = request.attr_int("heads"), request.attr_int("kv_heads"), size_of_heads(request)
        self._values = values_of(request, request.operands[2])
        self.heads = Heads(count, kv_heads, heads_together(count // kv_heads, emitter.cpu))
        self._emitter, self._numbers, self._sinks = emitter, numbers, sinks

    def emit(self, tile: Tile, q: Buffer, k: Buffer, v: Buffer, out: Buffer) -> None:
        """Emit the tile."""
        emitter, together = self._emitter, self.heads.together
        scores = RowMajor(scratch((tile.rows * together, tile.room)).elements, (tile.rows * together, tile.span))

        def score(number: Expr, row: Row, first: Expr, stop: Expr) -> None:
            start = T.bind(scores.place((number * together, i64(0))))

            def store(h: int, key: Expr, value: Expr) -> None:
                T.buffer_store(scores.elements, value, [start + h * tile.span + key])

            emit_scores(emitter, row, (first, stop), q, k, self._size, self._numbers, store)

        def softmax(number: Expr, row: Row) -> None:
            clear_mix(emitter, row, self._values, out)
            with T.serial(i64(0), i64(together)) as h:
                start = T.bind(scores.place((number * together + h, i64(0))))
                those = scores.elements
                emit_softmax(emitter, row, lambda key: those[start + key], those, start, sink=self._sinks.of(row.first_head + h))

        def mix(number: Expr, row: Row, first: Expr, stop: Expr) -> None:
            start = T.bind(scores.place((number * together, i64(0))))
            emit_mix(emitter, row, (first, stop), self._values, lambda h, key: scores.elements[start + h * tile.span + key], v, out)

        tile.for_each_part(score)
        tile.for_each_row(softmax)
        tile.for_each_part(mix)


class Sinks:
    """The parameter `sinks` [H] of a kernel, if it has one. ``types`` holds its type, or is empty."""

    def __init__(self, emitter: Emitter, parameters: Parameters, types: Sequence[TensorType]) -> None:
        self._weights = [Weight(emitter, parameters, "sinks", kind) for kind in types]

    def of(self, head: Expr) -> Expr | None:
        """The sink of ``head``; None if the kernel has no sinks."""
        return self._weights[0].plain(i64(0), head) if self._weights else None
