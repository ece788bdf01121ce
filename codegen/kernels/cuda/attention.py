"""CUDA attention kernels: scores, softmax, mix, each alone for when it is tapped, and in one for when none is.

A block has a few queries of one head, and goes through the keys in tiles of as many as it has threads; a tile begins at
a multiple of that, wherever the first query stands. A thread's scores are those of one key in each tile, its part of
the softmax's sum those keys in order, and a column of the mix all keys in order. None of that depends on which other
positions there are, nor on whether scores and softmax are kept: the fused kernel computes the scores three times (for
the largest, for the sum and for the mix), so that the numbers are those of the three kernels and no buffer of [H, n, t]
is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.attention_tiles import KEYS, Block, Mix, Scores, Softmax, for_each_block
from aprgraph.codegen.kernels.cuda.emitter import Emitter, ceil_div, shared, sync_block
from aprgraph.codegen.kernels.cuda.weights import Weight
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64
from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.attention import value_size_of


def attn_scores(request: KernelRequest) -> Any:
    """q [n, H·D], k [t, K·D] -> out [H, n, t]: q · k · scale, capped if there is a cap, 0 at masked keys."""
    heads, kv_heads = request.attr_int("heads"), request.attr_int("kv_heads")
    size = int(request.operands[0].dims[1]) // heads

    def emit(parameters: Parameters) -> None:
        q = parameters.buffer("q", ("n", heads * size), "float32")
        k = parameters.buffer("k", ("t", kv_heads * size), "float32")
        numbers = number_parameters(parameters, request)
        out = parameters.buffer("out", (heads, "n", "t"), "float32")

        def body(block: Block) -> None:
            scores = Scores(block, q, k, size, _kv_head(block, heads, kv_heads), numbers)

            def store(query: int, key: Expr, score: Expr) -> None:
                with T.If(T.And(block.exists(query), key < block.t)), T.Then():
                    visible = T.Select(block.sees(query, key), score, f32(0.0))
                    assign(out, visible, [block.head, block.first + query, key])

            with T.serial(i64(0), ceil_div(block.t, KEYS)) as tile:
                scores.of_tile(tile * KEYS, store)

        for_each_block(parameters, request, numbers, heads, body)

    return build_function(request.symbol, emit)


def attn_softmax(request: KernelRequest) -> Any:
    """scores [H, n, t], sinks [H] -> out [H, n, t]: softmax over the keys that a query may attend to, else 0."""
    heads = int(request.operands[0].dims[0])

    def emit(parameters: Parameters) -> None:
        scores = parameters.buffer("scores", (heads, "n", "t"), "float32")
        sinks = Sinks(parameters, request.operands[1:])
        numbers = number_parameters(parameters, request)
        out = parameters.buffer("out", (heads, "n", "t"), "float32")
        sinks.open()

        def body(block: Block) -> None:
            softmax = Softmax(block, shared(1, KEYS), sinks.of(block.head))

            def over_keys(use: Callable[[Expr], None]) -> None:
                def tile(first_key: Expr) -> None:
                    key = first_key + block.thread
                    with T.If(block.sees(0, key)), T.Then():
                        use(key)

                block.for_tiles(tile)

            def score(key: Expr) -> Expr:
                return scores[block.head, block.first, key]

            over_keys(lambda key: softmax.see(0, score(key)))
            softmax.seen()
            over_keys(lambda key: softmax.add(0, score(key)))
            softmax.added()
            with T.serial(i64(0), ceil_div(block.t, KEYS)) as step:
                key = step * KEYS + block.thread
                with T.If(key < block.t), T.Then():
                    value = T.if_then_else(block.sees(0, key), softmax.weight(0, score(key)), f32(0.0))
                    assign(out, value, [block.head, block.first, key])

        for_each_block(parameters, request, numbers, heads, body, queries=1)

    return build_function(request.symbol, emit)


def attn_mix(request: KernelRequest) -> Any:
    """weights [H, n, t], v [t, K·V] -> out [n, H·V]: each query's weighted sum of v, keys in order."""
    weights_type, v_type = request.operands
    heads, kv_heads, pitch = int(weights_type.dims[0]), request.attr_int("kv_heads"), int(v_type.dims[1]) // request.attr_int("kv_heads")
    size = value_size_of(request.attrs, pitch)

    def emit(parameters: Parameters) -> None:
        weights = parameters.buffer("weights", (heads, "n", "t"), "float32")
        v = parameters.buffer("v", ("t", kv_heads * pitch), "float32")
        numbers = number_parameters(parameters, request)
        out = parameters.buffer("out", ("n", heads * size), "float32")

        def body(block: Block) -> None:
            tile_weights = shared(block.queries, KEYS)
            mix = Mix(block, v, size, _kv_head(block, heads, kv_heads) * pitch, tile_weights)

            def tile(first_key: Expr) -> None:
                key = first_key + block.thread
                for query in range(block.queries):
                    known = T.And(block.exists(query), key < block.t)
                    value = T.if_then_else(known, weights[block.head, block.first + query, key], f32(0.0))
                    assign(tile_weights, value, [i64(query), block.thread])
                sync_block()
                mix.add_tile(first_key)
                sync_block()

            block.for_tiles(tile)
            mix.store(out)

        for_each_block(parameters, request, numbers, heads, body)

    return build_function(request.symbol, emit)


class AttentionOperands:
    """The parameters of a kernel of attention: q [n, H·D], k [t, K·D], v [t, K·V], sinks [H], numbers, out [n, H·V]."""

    def __init__(self, parameters: Parameters, request: KernelRequest) -> None:
        self.heads, self.kv_heads = request.attr_int("heads"), request.attr_int("kv_heads")
        self.size = int(request.operands[0].dims[1]) // self.heads
        self.pitch = int(request.operands[2].dims[1]) // self.kv_heads
        self.value_size = value_size_of(request.attrs, self.pitch)
        self.q = parameters.buffer("q", ("n", self.heads * self.size), "float32")
        self.k = parameters.buffer("k", ("t", self.kv_heads * self.size), "float32")
        self.v = parameters.buffer("v", ("t", self.kv_heads * self.pitch), "float32")
        self.sinks = Sinks(parameters, request.operands[3:])
        self.numbers = number_parameters(parameters, request)
        self.out = parameters.buffer("out", ("n", self.heads * self.value_size), "float32")
        self.sinks.open()


def attention(request: KernelRequest) -> Any:
    """q [n, H·D], k [t, K·D], v [t, K·V], sinks [H] -> out [n, H·V]: the three above, a tile of scores at a time."""

    def emit(parameters: Parameters) -> None:
        emit_attention(parameters, request, AttentionOperands(parameters, request))

    return build_function(request.symbol, emit)


def emit_attention(parameters: Parameters, request: KernelRequest, operands: AttentionOperands) -> None:
    """Emit the launch of it."""

    def body(block: Block) -> None:
        kv_head = _kv_head(block, operands.heads, operands.kv_heads)
        scores = Scores(block, operands.q, operands.k, operands.size, kv_head, operands.numbers)
        tile_weights = shared(block.queries, KEYS)
        softmax = Softmax(block, tile_weights, operands.sinks.of(block.head))
        mix = Mix(block, operands.v, operands.value_size, kv_head * operands.pitch, tile_weights)

        def where_seen(use: Callable[[int, Expr], None]) -> Callable[[int, Expr, Expr], None]:
            def store(query: int, key: Expr, score: Expr) -> None:
                with T.If(block.sees(query, key)), T.Then():
                    use(query, score)

            return store

        block.for_tiles(lambda first_key: scores.of_tile(first_key, where_seen(softmax.see)))
        softmax.seen()
        block.for_tiles(lambda first_key: scores.of_tile(first_key, where_seen(softmax.add)))
        softmax.added()

        def keep(query: int, key: Expr, score: Expr) -> None:
            value = T.if_then_else(block.sees(query, key), softmax.weight(query, score), f32(0.0))
            assign(tile_weights, value, [i64(query), block.thread])

        def tile(first_key: Expr) -> None:
            scores.of_tile(first_key, keep)
            sync_block()
            mix.add_tile(first_key)

        block.for_tiles(tile)
        mix.store(operands.out)

    for_each_block(parameters, request, operands.numbers, operands.heads, body)


def _kv_head(block: Block, heads: int, kv_heads: int) -> Expr:
    return T.floordiv(block.head, i64(heads // kv_heads))


class Sinks:
    """The parameter of the heads' sinks, where there is one: ``types`` holds its type, or nothing."""

    def __init__(self, parameters: Parameters, types: Sequence[TensorType]) -> None:
        self._weights = [Weight(Emitter(), parameters, "sinks", kind) for kind in types]

    def open(self) -> None:
        """Makes them readable, once all parameters of the kernel have been declared."""
        for weight in self._weights:
            weight.open()

    def of(self, head: Expr) -> Expr | None:
        """The sink of a head."""
        return self._weights[0].element(i64(0), head) if self._weights else None
