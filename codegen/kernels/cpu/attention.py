"""Attention kernels: scores, softmax and mix (the weighted sum of v), each as its own kernel, and one fused kernel.

The three kernels run if scores or softmax are tapped, the fused one if not.

A kernel computes one position at a time, for all query heads that share a KV head. The loops of a query end at the
last key that it attends to, and the order of each sum depends only on the positions of the keys. So with a causal
mask, later positions do not change a bit of earlier ones. The fused kernel emits the same loops for a row, and keeps
scores and softmax in scratch memory in place of [H, n, t] buffers. So fusing changes no bit either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.attention_rows import (
    Heads,
    Row,
    emit_masked,
    emit_mix,
    emit_scores,
    emit_softmax,
    for_each_row,
    largest_divisor,
    mask_of,
    mix_together,
    scores_together,
    size_of_heads,
    values_of,
)
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.weights import Weight
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Buffer, Expr, Parameters, RowMajor, along, assign, build_function, i64, scratch
from aprgraph.graph.ir import TensorType


def attn_scores(request: KernelRequest, cpu: Cpu) -> Any:
    """q [n, H·D], k [t, K·D] -> out [H, n, t]: q · k · scale, soft-capped if asked for; 0 at masked keys."""
    count, kv_heads, size = request.attr_int("heads"), request.attr_int("kv_heads"), size_of_heads(request)
    heads = Heads(count, kv_heads, scores_together(count // kv_heads, cpu))

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        q = parameters.buffer("q", ("n", count * size), "float32")
        k = parameters.buffer("k", ("t", kv_heads * size), "float32")
        numbers = number_parameters(parameters, request)
        out = parameters.buffer("out", (count, "n", "t"), "float32")

        def body(row: Row) -> None:
            def store(h: int, key: Expr, score: Expr) -> None:
                assign(out, score, [row.first_head + h, row.position, row.first_key + key])

            emit_scores(emitter, row, q, k, size, numbers, store)
            for h in range(heads.together):
                emit_masked(row, out, row.first_head + h)

        for_each_row(parameters, heads, mask_of(request, numbers), body)

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
            score = along(scores, head, position, first)
            emit_softmax(emitter, row, score, out, head, position, first, sink=sinks.of(head))
            emit_masked(row, out, head)

        for_each_row(parameters, heads, mask_of(request, numbers), body)

    return build_function(request.symbol, emit)


def attn_mix(request: KernelRequest, cpu: Cpu) -> Any:
    """weights [H, n, t], v [t, K·V] -> out [n, H·V]: the weighted sum of v for each query, in the order of the keys."""
    weights_type, v_type = request.operands
    count, kv_heads, values = int(weights_type.dims[0]), request.attr_int("kv_heads"), values_of(request, v_type)
    heads = Heads(count, kv_heads, mix_together(count // kv_heads, values.size, cpu))

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        weights = parameters.buffer("weights", (count, "n", "t"), "float32")
        v = parameters.buffer("v", ("t", kv_heads * values.pitch), "float32")
        numbers = number_parameters(parameters, request)
        out = parameters.buffer("out", ("n", count * values.size), "float32")

        def body(row: Row) -> None:
            emit_mix(emitter, row, values, lambda h, key: weights[row.first_head + h, row.position, row.first_key + key], v, out)

        for_each_row(parameters, heads, mask_of(request, numbers), body)

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
        rows = AttentionRows(emitter, request, numbers, sinks)
        for_each_row(parameters, rows.heads, mask_of(request, numbers), lambda row: rows.emit(row, q, k, v, out))

    return build_function(request.symbol, emit)


class AttentionRows:
    """Scores, softmax and mix of one row, with what lies between them in scratch memory."""

    def __init__(self, emitter: Emitter, request: KernelRequest, numbers: Mapping[str, Expr], sinks: Sinks) -> None:
        count, kv_heads, self._size = request.attr_int("heads"), request.attr_int("kv_heads"), size_of_heads(request)
        self._values, share = values_of(request, request.operands[2]), count // kv_heads
        together = min(scores_together(share, emitter.cpu), mix_together(share, self._values.size, emitter.cpu))
        self.heads = Heads(count, kv_heads, largest_divisor(share, together))
        self._emitter, self._numbers, self._sinks = emitter, numbers, sinks

    def emit(self, row: Row, q: Buffer, k: Buffer, v: Buffer, out: Buffer) -> None:
        """Emit the row."""
        emitter = self._emitter
        scores = RowMajor(scratch((self.heads.together, row.room)).elements, (i64(self.heads.together), row.seen))
        emit_scores(emitter, row, q, k, self._size, self._numbers, lambda h, key, score: assign(scores, score, [i64(h), key]))
        for h in range(self.heads.together):
            sink = self._sinks.of(row.first_head + h)
            emit_softmax(emitter, row, partial(_score_of, scores, h), scores, i64(h), i64(0), sink=sink)
        emit_mix(emitter, row, self._values, lambda h, key: scores[i64(h), key], v, out)


def _score_of(scores: Buffer, head: int, key: Expr) -> Expr:
    return scores[i64(head), key]


class Sinks:
    """The parameter `sinks` [H] of a kernel, if it has one. ``types`` holds its type, or is empty."""

    def __init__(self, emitter: Emitter, parameters: Parameters, types: Sequence[TensorType]) -> None:
        self._weights = [Weight(emitter, parameters, "sinks", kind) for kind in types]

    def of(self, head: Expr) -> Expr | None:
        """The sink of ``head``; None if the kernel has no sinks."""
        return self._weights[0].plain(i64(0), head) if self._weights else None
