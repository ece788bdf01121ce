"""The linear kernels: for few positions, bound by memory's speed, and for many, tiled in shared memory.

Both add up in the same order, so that a position has the same bits alone and among others. A row's blocks are split
into ``parts`` contiguous segments. The products of a segment are summed one after the other, and then the segments'
sums. The kernel for few positions gives each segment to a thread; the kernel for many walks them in turn, and adds its
accumulators to the totals at the end of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import (
    WARP,
    Emitter,
    ceil_div,
    get,
    launch,
    put,
    registers,
    shared,
    sync_block,
    where,
    zero,
)
from aprgraph.codegen.kernels.cuda.weights import QUAD, Weight
from aprgraph.codegen.tir import Buffer, Expr, Parameters, along, assign, build_function, f32, i64
from aprgraph.graph.block_decoders import RUN

#: With up to this many positions each weight is decoded where it is used; with more, once for a tile of positions.
FEW = 8
#: Positions that the kernel for few takes at once.
_TOGETHER = 4
#: At most so many parts: half a warp, so that a warp has two rows at least.
_MOST_PARTS = 16

#: The tile of the kernel for many: positions × rows, and what each of its threads has of it.
TILE_POSITIONS, TILE_ROWS = 64, 64
_POSITIONS, _ROWS = 8, 4
TILE_THREADS = TILE_POSITIONS // _POSITIONS * (TILE_ROWS // _ROWS)
#: Rows of a tile in shared memory are this much longer, so that threads that write down a column meet different banks.
_PADDING = 4

#: Element ``column`` of the x that belongs to an index.
X = Callable[[Expr, Expr], Expr]
#: Stores the value of an index and a weight row.
Store = Callable[[Expr, Expr, Expr], None]


@dataclass(frozen=True)
class FewRoom:
    """Shared memory of a block of the kernel for few positions: decoded weights, and sums of ``together`` positions."""

    decoded: Buffer
    sums: Buffer

    @staticmethod
    def of(together: int = _TOGETHER) -> FewRoom:
        """New shared memory, which weights that one launch is for may share."""
        return FewRoom(shared(WARP, RUN + _PADDING), shared(together, WARP))


@dataclass(frozen=True)
class ManyRoom:
    """Shared memory of a block of the kernel for many positions: a tile of x and a tile of weights, column by column."""

    xs: Buffer
    ws: Buffer

    @staticmethod
    def new() -> ManyRoom:
        """New shared memory, which weights that one launch is for may share."""
        return ManyRoom(shared(RUN, TILE_POSITIONS + _PADDING), shared(RUN, TILE_ROWS + _PADDING))


@dataclass(frozen=True)
class Product:
    """x · Wᵀ of one weight."""

    emitter: Emitter
    weight: Weight

    @property
    def parts(self) -> int:
        """Segments of a row: the largest power of two up to _MOST_PARTS, and up to the number of blocks."""
        return min(_MOST_PARTS, 1 << (self.weight.blocks.bit_length() - 1))

    @property
    def few_rows(self) -> int:
        """Rows of a block of the kernel for few positions, which is one warp."""
        return WARP // self.parts

    @property
    def few_blocks(self) -> int:
        """Blocks of that kernel that cover all rows."""
        return -(-self.weight.rows // self.few_rows)

    @property
    def row_tiles(self) -> int:
        """Tiles of the kernel for many positions that cover all rows."""
        return -(-self.weight.rows // TILE_ROWS)

    def _start(self, part: Expr) -> Expr:
        """The first block of a part."""
        return T.floordiv(part * self.weight.blocks, i64(self.parts))

    def _load_x(self, target: Buffer, at: int, x: X, index: Expr, column: Expr) -> None:
        """target[at + j] = x(index)[column + j] for one quad, 0 beyond the end of the row."""
        if self.weight.columns % RUN == 0:  # rows of x then begin at multiples of 16 bytes
            self.emitter.load(target, at, QUAD, lambda lane: x(index, column + lane))
            return
        for j in range(QUAD):
            put(target, T.if_then_else(column + j < self.weight.columns, x(index, column + j), f32(0.0)), at + j)

    def _decode(self, run: Expr, count: int, quad: Callable[[Expr], tuple[Quad, Expr]], store: Callable[[Expr, int, Expr], None]) -> None:
        """``store(k, j, value)`` for element j of each of ``count`` quads, all of run ``run`` of their blocks. ``quad(k)`` is where one
        lies, and whether there is one.
        """
        for number in range(self.weight.elements // RUN):
            with T.If(run == number), T.Then(), T.unroll(i64(0), i64(count)) as k:
                place, valid = quad(k)
                with T.If(valid), T.Then():
                    for j, value in enumerate(self.weight.quad(place.row, place.block, number * RUN, place.quad, place.expert)):
                        store(k, j, value)

    def few(
        self, block: Expr, thread: Expr, count: Expr | int, x: X, store: Store, expert: Expr | None = None, room: FewRoom | None = None
    ) -> None:
        """The body of the kernel for few positions: rows ``few_rows`` · block …, indices 0 .. ``count`` - 1. In ``room``, or in its own."""
        weight, parts = self.weight, self.parts
        together = 1 if count == 1 else _TOGETHER
        room = room or FewRoom.of(together)
        decoded, partial_sums = room.decoded, room.sums
        sums, w, a, total = registers(together), registers(QUAD), registers(QUAD), registers(1)
        first_row = block * self.few_rows

        def pair(number: Expr) -> tuple[Expr, Expr, Expr]:
            """The row and part of a pair, and the block after its last."""
            part = T.floormod(number, i64(parts))
            return first_row + T.floordiv(number, i64(parts)), self._start(part), self._start(part + 1)

        def dot(step: Expr, run: Expr, first: Expr) -> None:
            def number(k: Expr) -> Expr:
                return T.floordiv(thread, i64(QUAD)) + k * (WARP // QUAD)

            def quad(k: Expr) -> tuple[Quad, Expr]:
                row, start, stop = pair(number(k))
                return Quad(row, start + step, T.floormod(thread, i64(QUAD)), expert), T.And(row < weight.rows, start + step < stop)

            def keep(k: Expr, j: int, value: Expr) -> None:
                assign(decoded, value, [number(k), T.floormod(thread, i64(QUAD)) * QUAD + j])

            self._decode(run, RUN // QUAD, quad, keep)
            sync_block()
            row, start, stop = pair(thread)
            with T.If(T.And(row < weight.rows, start + step < stop)), T.Then():
                column = (start + step) * weight.elements + run * RUN
                with T.unroll(i64(0), i64(RUN // QUAD)) as at:
                    self.emitter.load(w, 0, QUAD, along(decoded, thread, at * QUAD))
                    for i in range(together):

                        def multiply(i: int = i) -> None:
                            self._load_x(a, 0, x, first + i, column + at * QUAD)
                            for j in range(QUAD):
                                put(sums, self.emitter.fma(get(w, j), get(a, j), get(sums, i)), i)

                        where(first + i < count, multiply, always=together == 1)
            sync_block()

        with T.serial(i64(0), ceil_div(_expr(count), together)) as group:
            first = group * together
            zero(sums, together)
            with (
                T.serial(i64(0), i64(-(-weight.blocks // parts))) as step,
                T.serial(i64(0), i64(weight.elements // RUN)) as run,
            ):
                dot(step, run, first)
            for i in range(together):
                assign(partial_sums, get(sums, i), [i64(i), thread])
            sync_block()
            row = first_row + thread
            with T.If(T.And(thread < self.few_rows, row < weight.rows)), T.Then():
                for i in range(together):

                    def fold(i: int = i) -> None:
                        put(total, f32(0.0))
                        for part in range(parts):
                            put(total, get(total) + partial_sums[i64(i), thread * parts + part])
                        store(first + i, row, get(total))

                    where(first + i < count, fold, always=together == 1)
            sync_block()

    def many(
        self,
        tile: Expr,
        thread: Expr,
        first: Expr,
        count: Expr,
        x: X,
        store: Store,
        expert: Expr | None = None,
        room: ManyRoom | None = None,
    ) -> None:
        """The kernel for many: rows TILE_ROWS · tile …, TILE_POSITIONS indices from ``first``, below ``count``.

        In ``room``, or in shared memory of its own.
        """
        weight, emitter = self.weight, self.emitter
        room = room or ManyRoom.new()
        xs, ws = room.xs, room.ws
        sums, totals = registers(_POSITIONS * _ROWS), registers(_POSITIONS * _ROWS)
        a, w, loaded = registers(_POSITIONS), registers(_ROWS), registers(QUAD)
        across = TILE_ROWS // _ROWS
        my_position, my_row = T.floordiv(thread, i64(across)) * _POSITIONS, T.floormod(thread, i64(across)) * _ROWS
        quad = T.floormod(thread, i64(QUAD))
        lines = TILE_ROWS // (TILE_THREADS // QUAD)

        def line_of(k: Expr) -> Expr:
            return T.floordiv(thread, i64(QUAD)) + k * (TILE_THREADS // QUAD)

        def load(block: Expr, run: Expr) -> None:
            column = block * weight.elements + run * RUN + quad * QUAD
            with T.unroll(i64(0), i64(lines)) as k:
                line = line_of(k)
                zero(loaded, QUAD)
                with T.If(first + line < count), T.Then():
                    self._load_x(loaded, 0, x, first + line, column)
                for j in range(QUAD):
                    assign(xs, get(loaded, j), [quad * QUAD + j, line])
                with T.If(tile * TILE_ROWS + line >= weight.rows), T.Then():
                    for j in range(QUAD):
                        assign(ws, f32(0.0), [quad * QUAD + j, line])

            def row(k: Expr) -> tuple[Quad, Expr]:
                row = tile * TILE_ROWS + line_of(k)
                return Quad(row, block, quad, expert), row < weight.rows

            self._decode(run, lines, row, lambda k, j, value: assign(ws, value, [quad * QUAD + j, line_of(k)]))

        def multiply() -> None:
            with T.serial(i64(0), i64(RUN)) as column:
                for at in range(0, _POSITIONS, QUAD):
                    emitter.load(a, at, QUAD, along(xs, column, my_position + at))
                emitter.load(w, 0, _ROWS, along(ws, column, my_row))
                for i in range(_POSITIONS):
                    for j in range(_ROWS):
                        at = i * _ROWS + j
                        put(sums, emitter.fma(get(w, j), get(a, i), get(sums, at)), at)

        zero(totals, _POSITIONS * _ROWS)
        with T.serial(i64(0), i64(self.parts)) as part:
            zero(sums, _POSITIONS * _ROWS)
            start = self._start(part)
            with (
                T.serial(i64(0), self._start(part + 1) - start) as step,
                T.serial(i64(0), i64(weight.elements // RUN)) as run,
            ):
                load(start + step, run)
                sync_block()
                multiply()
                sync_block()
            for at in range(_POSITIONS * _ROWS):
                put(totals, get(totals, at) + get(sums, at), at)
        for i in range(_POSITIONS):
            for j in range(_ROWS):
                index, row = first + my_position + i, tile * TILE_ROWS + my_row + j
                with T.If(T.And(index < count, row < weight.rows)), T.Then():
                    store(index, row, get(totals, i * _ROWS + j))


@dataclass(frozen=True)
class Quad:
    """Where a quad of weights lies."""

    row: Expr
    block: Expr
    quad: Expr
    expert: Expr | None


def _expr(count: Expr | int) -> Expr:
    return i64(count) if isinstance(count, int) else count


def linear(request: KernelRequest) -> Any:
    """x [n, C] f32, weights [R, C] each -> out [n, sum of R] f32, the results side by side."""
    x_type, *weight_types = request.operands
    columns = int(x_type.dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        n = parameters.size("n")
        x = parameters.buffer("x", ("n", columns), "float32")
        weights = [Weight(emitter, parameters, f"w{index}", kind) for index, kind in enumerate(weight_types)]
        out = parameters.buffer("out", ("n", sum(weight.rows for weight in weights)), "float32")
        for weight in weights:
            weight.open()
        products = [Product(emitter, weight) for weight in weights]
        stores = [partial(_store_at, out, start) for start in accumulate([0, *(weight.rows for weight in weights[:-1])])]

        def row_of_x(index: Expr, column: Expr) -> Expr:
            return x[index, column]

        with T.If(n <= FEW):
            with T.Then(), launch(i64(sum(product.few_blocks for product in products)), WARP) as (block, thread):
                few_room = FewRoom.of()

                def few(number: int, block: Expr) -> None:
                    products[number].few(block, thread, n, row_of_x, stores[number], room=few_room)

                _one_of([product.few_blocks for product in products], block, few)
            row_tiles = sum(product.row_tiles for product in products)
            with T.Else(), launch(ceil_div(n, TILE_POSITIONS) * row_tiles, TILE_THREADS) as (block, thread):
                many_room = ManyRoom.new()
                first = T.floordiv(block, i64(row_tiles)) * TILE_POSITIONS

                def many(number: int, tile: Expr) -> None:
                    products[number].many(tile, thread, first, n, row_of_x, stores[number], room=many_room)

                _one_of([product.row_tiles for product in products], T.floormod(block, i64(row_tiles)), many)

    return build_function(request.symbol, emit)


def _store_at(out: Buffer, start: int, index: Expr, row: Expr, value: Expr) -> None:
    assign(out, value, [index, row + start])


def _one_of(counts: Sequence[int], index: Expr, body: Callable[[int, Expr], None], number: int = 0) -> None:
    """Emit ``body`` for each of several things of which one after the other has so many indices: it is given its number, and the index
    within it. One launch for all of them computes them side by side.
    """
    if number == len(counts) - 1:
        body(number, index)
        return
    with T.If(index < counts[number]):
        with T.Then():
            body(number, index)
        with T.Else():
            _one_of(counts, index - counts[number], body, number + 1)
