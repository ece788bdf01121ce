"""Kernels of mixtures of experts.

The matrix products first sort the (position, choice) pairs by expert: only the chosen experts' rows are decoded, each
tile of them once, for all pairs that want it. A pair's sums are those of the linear kernel, in the same order whoever
else chose the expert, so a position has the same bits alone and among others.
"""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.linear import Tiles
from aprgraph.codegen.kernels.cpu.weights import Weight, half_table
from aprgraph.codegen.tir import Buffer, Expr, Parameters, assign, build_function, f32, i64, is_nan, only, registers, scratch

_NAN = float("nan")


class _Grouping:
    """The pairs (position, choice), numbered position · k + choice, sorted by expert.

    ``pairs[first[e] .. first[e + 1] - 1]`` are those of expert e, in order; ``active`` lists the experts that have
    some, and ``number`` holds how many these are.
    """

    def __init__(self, ids: Buffer, pairs: Expr, k: int, experts: int) -> None:
        self.pairs = T.alloc_buffer((pairs,), "int64")
        self.first = scratch((experts + 1,), "int64")
        self.active = scratch((experts,), "int64")
        self.number = scratch((1,), "int64")
        following = scratch((experts,), "int64")

        def of_pair(pair: Expr) -> tuple[Expr, Expr]:
            value = ids[T.floordiv(pair, i64(k)), T.floormod(pair, i64(k))]
            unknown = is_nan(value)
            return T.Not(unknown), T.Cast("int64", T.Select(unknown, f32(0.0), value))

        with T.serial(i64(0), i64(experts)) as expert:
            assign(following, i64(0), [expert])
        with T.serial(i64(0), pairs) as pair:
            known, expert = of_pair(pair)
            with T.If(known), T.Then():
                assign(following, following[expert] + 1, [expert])
        assign(self.first, i64(0), [i64(0)])
        assign(self.number, i64(0), [i64(0)])
        with T.serial(i64(0), i64(experts)) as expert:
            assign(self.first, self.first[expert] + following[expert], [expert + 1])
            with T.If(following[expert] > 0), T.Then():
                assign(self.active, expert, [only(self.number)])
                assign(self.number, only(self.number) + 1, [i64(0)])
            assign(following, self.first[expert], [expert])
        with T.serial(i64(0), pairs) as pair:
            known, expert = of_pair(pair)
            with T.If(known), T.Then():
                assign(self.pairs, pair, [following[expert]])
                assign(following, following[expert] + 1, [expert])


def expert_linear(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] or [n, k, C], ids [n, k], W [X, R, C] -> out [n, k, R]; rows of pairs without an expert are NaN."""
    x_type, ids_type, weight_type = request.operands
    k, experts = int(ids_type.dims[1]), int(weight_type.dims[0])
    columns = int(weight_type.dims[2])
    has_row_each = len(x_type.dims) == 3

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        halves = half_table(parameters, request)
        x = parameters.buffer("x", ("n", k, columns) if has_row_each else ("n", columns), "float32")
        ids = parameters.buffer("ids", ("n", k), "float32")
        weight = Weight(emitter, parameters, "weight", weight_type, halves)
        out = parameters.buffer("out", ("n", k, weight.rows), "float32")
        tiles = Tiles(emitter, weight)

        def place(pair: Expr) -> tuple[Expr, Expr]:
            return T.floordiv(pair, i64(k)), T.floormod(pair, i64(k))

        pairs = parameters.size("n") * k
        grouping = _Grouping(ids, pairs, k, experts)
        with T.serial(i64(0), pairs) as pair:
            position, choice = place(pair)
            with T.If(is_nan(ids[position, choice])), T.Then(), T.serial(i64(0), i64(weight.rows)) as row:
                assign(out, f32(_NAN), [position, choice, row])
        with T.parallel(i64(0), only(grouping.number) * tiles.count) as index:
            expert = grouping.active[T.floordiv(index, i64(tiles.count))]
            tile = T.floormod(index, i64(tiles.count))
            start = grouping.first[expert]

            def element(i: Expr, column: Expr) -> Any:
                position, choice = place(grouping.pairs[start + i])
                row = (position, choice) if has_row_each else (position,)
                return lambda lane: x[(*row, column + lane)]

            def store(i: Expr, row: Expr, value: Expr) -> None:
                assign(out, value, [*place(grouping.pairs[start + i]), row])

            tiles.products(tile, grouping.first[expert + 1] - start, element, store, expert)

    return build_function(request.symbol, emit)


def expert_bias_add(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, k, C], ids [n, k], bias [X, C] -> out [n, k, C]; rows of pairs without an expert are NaN."""
    k, columns = (int(dim) for dim in request.result.dims[1:])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        halves = half_table(parameters, request)
        x = parameters.buffer("x", ("n", k, columns), "float32")
        ids = parameters.buffer("ids", ("n", k), "float32")
        bias = Weight(emitter, parameters, "bias", request.operands[2], halves)
        out = parameters.buffer("out", ("n", k, columns), "float32")
        with T.parallel(i64(0), parameters.size("n") * k) as pair:
            position, choice = T.floordiv(pair, i64(k)), T.floormod(pair, i64(k))
            unknown = is_nan(ids[position, choice])
            expert = T.Cast("int64", T.Select(unknown, f32(0.0), ids[position, choice]))

            def add(column: Expr, value: Expr) -> None:
                total = T.Select(unknown, f32(_NAN), x[position, choice, column] + value)
                assign(out, total, [position, choice, column])

            bias.decode_row(expert, add)

    return build_function(request.symbol, emit)


def expert_inputs(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C], weights [n, k] -> out [n, k, C]: x times each of the weights."""
    k, columns = (int(dim) for dim in request.result.dims[1:])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", columns), "float32")
        weights = parameters.buffer("weights", ("n", k), "float32")
        out = parameters.buffer("out", ("n", k, columns), "float32")
        with T.parallel(i64(0), parameters.size("n") * k) as pair:
            p, choice = T.floordiv(pair, i64(k)), T.floormod(pair, i64(k))

            def scale(column: Expr) -> None:
                assign(out, x[p, column] * weights[p, choice], [p, choice, column])

            emitter.chunks(columns, lambda column, width: emitter.vector(width, lambda lane: scale(column + lane)))

    return build_function(request.symbol, emit)


def expert_scale(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, k], ids [n, k], factors [X] -> out [n, k]; NaN for pairs without an expert."""
    k = int(request.result.dims[1])

    def emit(parameters: Parameters) -> None:
        x = parameters.buffer("x", ("n", k), "float32")
        ids = parameters.buffer("ids", ("n", k), "float32")
        factors = Weight(Emitter(cpu), parameters, "factors", request.operands[2])
        out = parameters.buffer("out", ("n", k), "float32")
        with T.serial(i64(0), parameters.size("n")) as p, T.serial(i64(0), i64(k)) as choice:
            unknown = is_nan(ids[p, choice])
            expert = T.Cast("int64", T.Select(unknown, f32(0.0), ids[p, choice]))
            scaled = x[p, choice] * factors.plain(i64(0), expert)
            assign(out, T.Select(unknown, f32(_NAN), scaled), [p, choice])

    return build_function(request.symbol, emit)


def expert_sum(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, k, C], weights [n, k], which may be left out -> out [n, C]: the sum over the choices, in their order."""
    k, columns = (int(dim) for dim in request.operands[0].dims[1:])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", k, columns), "float32")
        weights = [parameters.buffer("weights", ("n", k), "float32") for _ in request.operands[1:]]
        out = parameters.buffer("out", ("n", columns), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p:
            sums = registers(cpu.lanes)

            def piece(column: Expr, width: int) -> None:
                emitter.zero(sums, 0, width)
                with T.serial(i64(0), i64(k)) as choice:
                    if weights:
                        emitter.dot_step(sums, 0, width, lambda _lane: weights[0][p, choice], lambda lane: x[p, choice, column + lane])
                    else:
                        emitter.vector(width, lambda lane: assign(sums, sums[lane] + x[p, choice, column + lane], [lane]))
                emitter.vector(width, lambda lane: assign(out, sums[lane], [p, column + lane]))

            emitter.chunks(columns, piece)

    return build_function(request.symbol, emit)
