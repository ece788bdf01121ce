"""CUDA kernels of mixtures of experts.

With few positions each (position, choice) pair is a product of its own. With many, a block has rows of one expert, and
collects the pairs that want it, in order: each tile of rows is decoded for all of them. Nothing is counted atomically,
and a pair's sums are those of the linear kernel whoever else chose the expert, so a position has the same bits alone
and among others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import (
    WARP,
    Emitter,
    ballot,
    ceil_div,
    count_bits,
    get,
    launch,
    launch_over,
    put,
    registers,
    shared,
    split_index,
    sync_block,
    where,
)
from aprgraph.codegen.kernels.cuda.linear import FEW, TILE_POSITIONS, TILE_THREADS, Product
from aprgraph.codegen.kernels.cuda.weights import QUAD, Weight
from aprgraph.codegen.tir import Buffer, Expr, Parameters, assign, build_function, f32, i64, is_nan
from aprgraph.graph.block_decoders import RUN

_NAN = float("nan")


class _Pairs:
    """The (position, choice) pairs of one expert, numbered position · k + choice, which a block finds together."""

    def __init__(self, ids: Buffer, pairs: Expr, k: int, expert: Expr, thread: Expr) -> None:
        self._ids, self._pairs, self._k, self._expert, self._thread = ids, pairs, k, expert, thread
        self.chosen = shared(TILE_POSITIONS, dtype="int32")
        self._counts = shared(TILE_THREADS // WARP, dtype="int32")
        self.seen = registers(1, "int32")
        self._votes = registers(1, "uint32")

    def _scan(self, found: Callable[[Expr, Expr], None]) -> None:
        """``found(pair, rank)`` for those of the thread's pairs that are the expert's; ``seen`` counts all of them."""
        put(self.seen, T.int32(0))
        lane, warp = T.floormod(self._thread, i64(WARP)), T.floordiv(self._thread, i64(WARP))
        with T.serial(i64(0), ceil_div(self._pairs, TILE_THREADS)) as step:
            pair = step * TILE_THREADS + self._thread
            # A NaN is no expert's id. T.if_then_else reads the id of a pair that exists only.
            chosen = T.if_then_else(
                pair < self._pairs, self._ids[T.floordiv(pair, i64(self._k)), T.floormod(pair, i64(self._k))], f32(-1.0)
            )
            put(self._votes, ballot(chosen == T.Cast("float32", self._expert)))
            with T.If(lane == 0), T.Then():
                assign(self._counts, count_bits(get(self._votes)), [warp])
            sync_block()
            with T.If(((get(self._votes) >> T.Cast("uint32", lane)) & T.uint32(1)) == T.uint32(1)), T.Then():
                below = get(self._votes) & ((T.uint32(1) << T.Cast("uint32", lane)) - T.uint32(1))
                before = sum(
                    (T.Select(warp > other, self._counts[i64(other)], T.int32(0)) for other in range(TILE_THREADS // WARP)),
                    start=get(self.seen),
                )
                found(pair, before + count_bits(below))
            put(self.seen, sum((self._counts[i64(other)] for other in range(TILE_THREADS // WARP)), start=get(self.seen)))
            sync_block()

    def count(self) -> Expr:
        """How many there are."""
        self._scan(lambda _pair, _rank: None)
        return T.Cast("int64", get(self.seen))

    def collect(self, first: Expr) -> None:
        """Put those of rank ``first`` … into ``chosen``, as many as it holds."""

        def keep(pair: Expr, rank: Expr) -> None:
            place = T.Cast("int64", rank) - first
            with T.If(T.And(place >= 0, place < TILE_POSITIONS)), T.Then():
                assign(self.chosen, T.Cast("int32", pair), [place])

        self._scan(keep)


def expert_linear(request: KernelRequest) -> Any:
    """x [n, C] or [n, k, C], ids [n, k], W [X, R, C] -> out [n, k, R]; rows of pairs without an expert are NaN."""
    x_type, ids_type, weight_type = request.operands
    k, experts = int(ids_type.dims[1]), int(weight_type.dims[0])
    columns = int(weight_type.dims[2])
    has_row_each = len(x_type.dims) == 3

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        n = parameters.size("n")
        x = parameters.buffer("x", ("n", k, columns) if has_row_each else ("n", columns), "float32")
        ids = parameters.buffer("ids", ("n", k), "float32")
        weight = Weight(emitter, parameters, "weight", weight_type)
        out = parameters.buffer("out", ("n", k, weight.rows), "float32")
        weight.open()
        product = Product(emitter, weight)

        def place(pair: Expr) -> tuple[Expr, Expr]:
            return T.floordiv(pair, i64(k)), T.floormod(pair, i64(k))

        def element(pair: Expr, column: Expr) -> Expr:
            position, choice = place(pair)
            return x[position, choice, column] if has_row_each else x[position, column]

        def few() -> None:
            with launch(n * k * product.few_blocks, WARP) as (index, thread):
                pair, block = T.floordiv(index, i64(product.few_blocks)), T.floormod(index, i64(product.few_blocks))
                position, choice = place(pair)
                with T.If(T.Not(is_nan(ids[position, choice]))), T.Then():

                    def store(_index: Expr, row: Expr, value: Expr) -> None:
                        assign(out, value, [position, choice, row])

                    expert = T.Cast("int64", ids[position, choice])
                    product.few(block, thread, 1, lambda _index, column: element(pair, column), store, expert)

        def many() -> None:
            with launch(i64(experts * product.row_tiles), TILE_THREADS) as (index, thread):
                expert, tile = T.floordiv(index, i64(product.row_tiles)), T.floormod(index, i64(product.row_tiles))
                pairs = _Pairs(ids, n * k, k, expert, thread)
                total = registers(1, "int64")
                put(total, pairs.count())

                def chosen(number: Expr) -> Expr:
                    return T.Cast("int64", pairs.chosen[number])

                with T.serial(i64(0), ceil_div(get(total), TILE_POSITIONS)) as wave:
                    pairs.collect(wave * TILE_POSITIONS)

                    def store(number: Expr, row: Expr, value: Expr) -> None:
                        assign(out, value, [*place(chosen(number)), row])

                    count = T.min(get(total) - wave * TILE_POSITIONS, i64(TILE_POSITIONS))
                    product.many(tile, thread, i64(0), count, lambda number, column: element(chosen(number), column), store, expert)
                    sync_block()

        with launch_over(n * (k * weight.rows)) as index:
            pair, row = T.floordiv(index, i64(weight.rows)), T.floormod(index, i64(weight.rows))
            position, choice = place(pair)
            with T.If(is_nan(ids[position, choice])), T.Then():
                assign(out, f32(_NAN), [position, choice, row])
        with T.If(n <= FEW):
            with T.Then():
                few()
            with T.Else():
                many()

    return build_function(request.symbol, emit)


def expert_bias_add(request: KernelRequest) -> Any:
    """x [n, k, C], ids [n, k], bias [X, C] -> out [n, k, C]; rows of pairs without an expert are NaN."""
    k, columns = (int(dim) for dim in request.result.dims[1:])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", k, columns), "float32")
        ids = parameters.buffer("ids", ("n", k), "float32")
        bias = Weight(emitter, parameters, "bias", request.operands[2])
        out = parameters.buffer("out", ("n", k, columns), "float32")
        bias.open()
        threads = bias.blocks * (RUN // QUAD)
        with launch_over(parameters.size("n") * (k * threads)) as index:
            position, choice, rest = split_index(index, k, threads)
            block, quad = T.floordiv(rest, i64(RUN // QUAD)), T.floormod(rest, i64(RUN // QUAD))
            unknown = is_nan(ids[position, choice])
            expert = T.Cast("int64", T.Select(unknown, f32(0.0), ids[position, choice]))
            for first in range(0, bias.elements, RUN):
                for j, value in enumerate(bias.quad(expert, block, first, quad)):
                    column = block * bias.elements + quad * QUAD + (first + j)

                    def store(column: Expr = column, value: Expr = value) -> None:
                        total = T.Select(unknown, f32(_NAN), x[position, choice, column] + value)
                        assign(out, total, [position, choice, column])

                    where(column < columns, store, always=columns % RUN == 0)

    return build_function(request.symbol, emit)


def expert_inputs(request: KernelRequest) -> Any:
    """x [n, C], weights [n, k] -> out [n, k, C]: x times each of the weights."""
    k, columns = (int(dim) for dim in request.result.dims[1:])

    def emit(parameters: Parameters) -> None:
        x = parameters.buffer("x", ("n", columns), "float32")
        weights = parameters.buffer("weights", ("n", k), "float32")
        out = parameters.buffer("out", ("n", k, columns), "float32")
        with launch_over(parameters.size("n") * (k * columns)) as index:
            pair, column = T.floordiv(index, i64(columns)), T.floormod(index, i64(columns))
            p, choice = T.floordiv(pair, i64(k)), T.floormod(pair, i64(k))
            assign(out, x[p, column] * weights[p, choice], [p, choice, column])

    return build_function(request.symbol, emit)


def expert_scale(request: KernelRequest) -> Any:
    """x [n, k], ids [n, k], factors [X] -> out [n, k]; NaN for pairs without an expert."""
    k = int(request.result.dims[1])

    def emit(parameters: Parameters) -> None:
        x = parameters.buffer("x", ("n", k), "float32")
        ids = parameters.buffer("ids", ("n", k), "float32")
        factors = Weight(Emitter(), parameters, "factors", request.operands[2])
        out = parameters.buffer("out", ("n", k), "float32")
        factors.open()
        with launch_over(parameters.size("n") * k) as index:
            p, choice = split_index(index, k)
            unknown = is_nan(ids[p, choice])
            expert = T.Cast("int64", T.Select(unknown, f32(0.0), ids[p, choice]))
            scaled = x[p, choice] * factors.element(i64(0), expert)
            assign(out, T.Select(unknown, f32(_NAN), scaled), [p, choice])

    return build_function(request.symbol, emit)


def expert_sum(request: KernelRequest) -> Any:
    """x [n, k, C], weights [n, k], which may be left out -> out [n, C]: the sum over the choices, in their order."""
    k, columns = (int(dim) for dim in request.operands[0].dims[1:])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", k, columns), "float32")
        weights = [parameters.buffer("weights", ("n", k), "float32") for _ in request.operands[1:]]
        out = parameters.buffer("out", ("n", columns), "float32")
        with launch_over(parameters.size("n") * columns) as index:
            p, column = T.floordiv(index, i64(columns)), T.floormod(index, i64(columns))
            total = registers(1)
            put(total, f32(0.0))
            with T.serial(i64(0), i64(k)) as choice:
                value = x[p, choice, column]
                put(total, emitter.fma(weights[0][p, choice], value, get(total)) if weights else get(total) + value)
            assign(out, get(total), [p, column])

    return build_function(request.symbol, emit)
