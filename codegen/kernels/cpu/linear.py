"""The linear kernel: decode a tile of weight rows into the cache, then dot products in registers; few positions without the former.

Every output is ``lanes`` partial sums over the columns (lane l sums columns l, l + lanes, … in order), added by halves
at the end. That order depends neither on how many positions there are nor on the tile an output falls into, so a
position has the same bits alone and among others, on one thread and on two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.element_vectors import has_tables, look_up_row
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.few_positions import dot_rows, few_positions, rows_together
from aprgraph.codegen.kernels.cpu.weights import LINE, WHOLE, Part, Weight, half_table
from aprgraph.codegen.kernels.cpu.weights_alike import alike
from aprgraph.codegen.tir import Buffer, Expr, Parameters, along, assign, build_function, i64, registers, scratch

#: Gives the elements of a row of x, by its index, from a column on, by lane.
Rows = Callable[[Expr, Expr], Callable[[Expr], Expr]]
#: Takes the index of a row of x, a row of the weight and their product.
Store = Callable[[Expr, Expr, Expr], None]


class Products(Protocol):
    """Emits a tile's products with ``count`` rows of x."""

    def __call__(self, tile: Expr, count: Expr, x: Rows, store: Store, expert: Expr | None = None) -> None: ...


#: A tile of decoded rows should stay in the second-level cache beside the rows of x that pass by it: the more rows there are, the less
#: often rows of x come from the last cache. But there are to be enough tiles for many threads.
_TILE_BYTES, _MOST_GROUPS, _LEAST_TILES = 288 * 1024, 16, 48
#: Where whole rows of x stay in the second-level cache, a tile should stay in the first-level one.
_SMALL_TILE_BYTES, _FEWEST_GROUPS = 28 * 1024, 2
#: So many columns of a tile are decoded at once, and stay in the first-level cache while rows of x pass by.
_PART = 1024
#: Rows of x that pass by all tiles, again and again, should stay in the second-level cache too; of long ones it is their parts, beside the
#: sums that are kept from one part to the next. Each such pass decodes the weight.
_PASS_BYTES, _LEAST_PASS, _PASS_OF_PARTS = 1 << 20, 64, 128
#: A part of a row is asked for so many rows before it is decoded.
_ROWS_AHEAD = 4
#: A tile of a weight that lies column by column has as many rows as share a line of the cache, each of which is read once.
_LINE_BYTES = 64
#: So many columns of one are read together: fewer than ways of the cache, for their lines may all fall into one set.
_COLUMNS = 8


def tile_shape(cpu: Cpu) -> tuple[int, int]:
    """Positions and rows of the register tile: accumulators, a column of x and a row of weights fit the registers."""
    return (4, 6) if cpu.registers >= 32 else (4, 3)


def linear(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] f32, weights [R, C] each -> out [n, sum of R] f32, the results side by side."""
    x_type, *weight_types = request.operands
    columns = int(x_type.dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        n = parameters.size("n")
        halves = half_table(parameters, request)
        x = parameters.buffer("x", ("n", columns), "float32")
        weights = [Weight(emitter, parameters, f"w{index}", kind, halves) for index, kind in enumerate(weight_types)]
        out = parameters.buffer("out", ("n", sum(weight.rows for weight in weights)), "float32")
        start = 0
        for weight in alike(weights):
            _emit_segment(emitter, n, x, weight, out, start)
            start += weight.outputs

    return build_function(request.symbol, emit)


def _emit_segment(emitter: Emitter, n: Expr, x: Buffer, weight: Weight, out: Buffer, start: int) -> None:
    """One weight: some positions after the other; for them tiles of its rows in parallel."""
    tiles_of_many = Tiles(emitter, weight)
    together = tiles_of_many.positions
    with T.serial(i64(0), T.floordiv(n + (together - 1), i64(together))) as number:
        first = number * together
        count = T.min(i64(together), n - first)

        def emit(tiles: Tiles, products: Products) -> None:
            with T.parallel(i64(0), i64(tiles.count)) as index:
                tile, before = weight.take(index, tiles.rows)
                products(
                    tile,
                    count,
                    lambda p, column: along(x, first + p, column),
                    lambda p, row, value: assign(out, value, [first + p, row + (before + start)]),
                )

        tiles_of_many.few_or_many(count, emit)


@dataclass(frozen=True)
class Tiles:
    """A weight's rows in tiles, each decoded once and then multiplied with every row of x that wants it; long rows part by part.

    ``is_whole``: a tile has no more rows than if all of it were decoded at once. There are more tiles then, which few rows of x need.
    """

    emitter: Emitter
    weight: Weight
    is_whole: bool = False

    @property
    def parts(self) -> int:
        """Into how many equal parts of its columns a tile is taken."""
        return _parts(self.weight.columns, self.emitter.lanes)

    @property
    def _decodes_parts(self) -> bool:
        """Whether parts are decoded one by one: they are whole blocks."""
        fmt = self.weight.format
        return not fmt.in_columns and self.weight.columns // self.parts % fmt.elements == 0

    @property
    def positions(self) -> int:
        """How many rows of x may pass by a tile at once."""
        if self.parts > 1 and self._decodes_parts:
            return _PASS_OF_PARTS
        return max(_LEAST_PASS, _PASS_BYTES // (4 * self.weight.columns) // 4 * 4)

    @property
    def groups(self) -> int:
        """How many register tiles of rows one tile holds."""
        _, rows = tile_shape(self.emitter.cpu)
        if self.weight.format.in_columns:
            return -(-_LINE_BYTES // (rows * self.weight.format.block_bytes))
        columns = self.weight.columns // (self.parts if self._decodes_parts and not self.is_whole else 1)
        of_bytes = max(_FEWEST_GROUPS, _SMALL_TILE_BYTES // (rows * columns * 4))
        if self.parts > 1 or self.is_whole:
            of_bytes = _TILE_BYTES // (rows * columns * 4)
        most = min(of_bytes, self.weight.rows // (rows * _LEAST_TILES), _MOST_GROUPS)
        # Few rows of x take up to twice as many rows of the weight at once.
        return max(1, most // 2 * 2)

    @property
    def rows(self) -> int:
        """Weight rows of a tile."""
        return tile_shape(self.emitter.cpu)[1] * self.groups

    @property
    def count(self) -> int:
        """Tiles of the weight, the last one perhaps not full."""
        return self.weight.tiles_of(self.rows)

    def _inside(self, row: Expr, body: Callable[[], None]) -> None:
        """Emit ``body`` for a row that the weight has."""
        if self.weight.fills(self.rows):
            body()
            return
        with T.If(row < self.weight.end), T.Then():
            body()

    def products(self, tile: Expr, count: Expr, x: Rows, store: Store, expert: Expr | None = None) -> None:
        """``store(index, weight row, x(index) · row)`` for index in 0 .. count - 1 and all rows of the tile."""
        if self.parts == 1:
            self._few_or_many(count, self, lambda _, products: products(tile, count, x, store, expert))
            return
        # What is kept from one part to the next is of so many positions.
        together = self.positions
        with T.serial(i64(0), T.floordiv(count + (together - 1), i64(together))) as number:
            first = number * together
            those = T.min(i64(together), count - first)

            def emit(_: Tiles, products: Products) -> None:
                products(
                    tile,
                    those,
                    lambda p, column: x(first + p, column),
                    lambda p, row, value: store(first + p, row, value),
                    expert,
                )

            self._few_or_many(those, self, emit)

    def few_or_many(self, count: Expr, emit: Callable[[Tiles, Products], None]) -> None:
        """Emit ``emit`` for ``count`` being few and for others: it is given tiles, and what then emits the products of one.

        Each has a parallel loop of its own: what many rows of x need is allocated, by a call, where the body of a loop
        begins, whichever branch inside it is taken.
        """
        self._few_or_many(count, replace(self, is_whole=True), emit)

    def _few_or_many(self, count: Expr, tiles_of_few: Tiles, emit: Callable[[Tiles, Products], None]) -> None:
        few = few_positions(self.emitter, self.weight)
        if not few:
            emit(self, self._products_of_many)
            return
        with T.If(count <= few[-1]):
            with T.Then():
                emit(tiles_of_few, partial(tiles_of_few._products_of_up_to, few))
            with T.Else():
                emit(self, self._products_of_many)

    def _products_of_up_to(self, few: Sequence[int], tile: Expr, count: Expr, x: Rows, store: Store, expert: Expr | None = None) -> None:
        for fewer, most in pairwise((0, *few)):
            # Of fewer rows of x than there is code for, the last one goes along several times, and is stored as often.
            positions = [i64(p) if p <= fewer else T.min(i64(p), count - 1) for p in range(most)]
            with T.If(tirx.And(count > fewer, count <= most)), T.Then():
                self._products_of_few(tile, x, positions, store, expert)

    def _products_of_few(self, tile: Expr, x: Rows, positions: list[Expr], store: Store, expert: Expr | None) -> None:
        together = rows_together(self.weight.format, len(positions), tile_shape(self.emitter.cpu)[1])
        together = min(together, self.rows)
        with T.serial(i64(0), i64(self.rows // together)) as part:
            first = tile * self.rows + part * together
            # Of the last tile, which is perhaps not full, the last row that there is goes along several times.
            last = self.weight.end - 1
            rows = [first + j if self.weight.fills(self.rows) else T.min(first + j, last) for j in range(together)]
            dots = dot_rows(self.emitter, self.weight, rows, [partial(x, p) for p in positions], expert)
            for p, line in zip(positions, dots, strict=True):
                for row, total in zip(rows, line, strict=True):
                    store(p, row, total())

    def _decode(self, tile: Expr, expert: Expr | None, decoded: Buffer, part: Part = WHOLE) -> None:
        """Decode a part of the tile's rows into ``decoded``, f32 [rows, columns of the part]."""
        if self.weight.format.in_columns:
            self._decode_columns(tile, decoded, expert)
            return
        with T.serial(i64(0), i64(self.rows)) as r:
            row = tile * self.rows + r
            number, parts = part
            if parts > 1:
                # The processor does not follow a row to its next part, nor from row to row.
                fmt = self.weight.format
                blocks = self.weight.columns // parts // fmt.elements
                with T.serial(i64(0), i64(-(-blocks * fmt.block_bytes // LINE))) as line:
                    self.weight.prefetch(row + _ROWS_AHEAD, number * blocks, line * LINE)

            def decode(row: Expr = row, r: Expr = r) -> None:
                if has_tables(self.emitter, self.weight):
                    look_up_row(self.emitter, self.weight, row, decoded, r, expert, part)
                else:
                    self.weight.decode_row(row, lambda column, value: assign(decoded, value, [r, column]), expert, part)

            self._inside(row, decode)

    def _decode_columns(self, tile: Expr, decoded: Buffer, expert: Expr | None) -> None:
        """Some columns at a time, whose lines of the cache are then there for all rows of the tile."""
        first, columns = tile * self.rows, self.weight.columns
        whole = columns // _COLUMNS * _COLUMNS

        def decode(start: Expr, width: int) -> None:
            with T.serial(i64(0), T.min(i64(self.rows), self.weight.end - first)) as r:

                def store(lane: Expr) -> None:
                    assign(decoded, self.weight.plain(first + r, start + lane, expert), [r, start + lane])

                self.emitter.vector(width, store)

        with T.serial(i64(0), i64(columns // _COLUMNS)) as step:
            decode(step * _COLUMNS, _COLUMNS)
        if whole < columns:
            decode(i64(whole), columns - whole)

    def _products_of_many(self, tile: Expr, count: Expr, x: Rows, store: Store, expert: Expr | None = None) -> None:
        emitter = self.emitter
        lanes = emitter.lanes
        positions, rows = tile_shape(emitter.cpu)
        sums = [registers(rows * lanes) for _ in range(positions)]
        parts, by_parts = self.parts, self._decodes_parts
        width = self.weight.columns // parts
        # What the parts before have added up: taken up again as it was, so that the bits are those of one part.
        kept = scratch((self.positions, self.rows * lanes)) if parts > 1 else None
        decoded = scratch((self.rows, width if by_parts else self.weight.columns))

        def products(first: Expr, together: int, part: Expr) -> None:
            with T.serial(i64(0), i64(self.groups)) as group:
                places = [(i, j, [first + i, (group * rows + j) * lanes]) for i in range(together) for j in range(rows)]
                for i, j, _ in places:
                    emitter.zero(sums[i], j * lanes, lanes)
                if kept is not None:
                    with T.If(part > 0), T.Then():
                        for i, j, place in places:
                            emitter.vector(lanes, partial(_copy, kept, place, sums[i], [i64(j * lanes)]))

                def step(column: Expr, width_of_step: int) -> None:
                    at = part * width + column
                    there = column if by_parts else at
                    for i, j, _ in places:
                        emitter.dot_step(sums[i], j * lanes, width_of_step, x(first + i, at), along(decoded, group * rows + j, there))

                emitter.chunks(width, step)

                def finish() -> None:
                    for i, j, _ in places:
                        row = tile * self.rows + group * rows + j
                        self._inside(row, partial(_store_total, store, first + i, row, partial(emitter.sum_lanes, sums[i], j * lanes)))

                if kept is None:
                    finish()
                    return
                with T.If(part == parts - 1):
                    with T.Then():
                        finish()
                    with T.Else():
                        for i, j, place in places:
                            emitter.vector(lanes, partial(_copy, sums[i], [i64(j * lanes)], kept, place))

        if not by_parts:
            self._decode(tile, expert, decoded)
        with T.serial(i64(0), i64(parts)) as part:
            if by_parts:
                self._decode(tile, expert, decoded, (part, parts))
            with T.serial(i64(0), T.floordiv(count, i64(positions))) as index:
                products(index * positions, positions, part)
            rest = T.floormod(count, i64(positions))
            for together in range(1, positions):
                with T.If(rest == together), T.Then():
                    products(count - together, together, part)


def _parts(columns: int, lanes: int) -> int:
    """Into how many equal parts of whole vectors columns are taken; 1 where none are near ``_PART`` columns."""
    least = -(-columns // _PART)
    return next((parts for parts in range(least, 2 * least) if columns % (parts * lanes) == 0), 1)


def _copy(source: Buffer, start: Sequence[Expr], target: Buffer, place: Sequence[Expr], lane: Expr) -> None:
    *rows, column = start
    *into, first = place
    found = source[(*rows, column + lane)] if rows else source[column + lane]
    assign(target, found, [*into, first + lane])


def _store_total(store: Store, index: Expr, row: Expr, total: Callable[[], Expr]) -> None:
    store(index, row, total())
