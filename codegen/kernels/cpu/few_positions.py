"""A linear kernel's products with few rows of x: blocks are decoded in registers and multiplied at once.

Where an element of the weight meets one or two of x, writing it into the cache and reading it back is most of the work. Here some
rows of the weight go along together, since the multiply-adds of one wait for each other. Values and the order of sums are those of
the tiles (linear.py), so that a position has the same bits alone and among others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import X86_64
from aprgraph.codegen.kernels.cpu.element_vectors import (
    VALUES,
    CodesOfRows,
    ElementVectors,
    has_groups,
    has_tables,
    has_vectors,
    vectors_together,
)
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.scales_of_rows import SHORT, blocks_of_rows
from aprgraph.codegen.kernels.cpu.vectors import fused, hold, load_vector, store_vector
from aprgraph.codegen.kernels.cpu.weights import LINE, KernelBlock, Weight, side_by_side
from aprgraph.codegen.tir import Expr, i64, registers
from aprgraph.graph.block_format import BlockFormat

#: Gives the elements of a row of x from a column on, by lane.
Row = Callable[[Expr], Callable[[Expr], Expr]]

#: Up to so many rows of x leave registers for twice as many rows of the weight; more than so many for half as many.
_FEWEST, _MANY = 2, 3


def few_positions(emitter: Emitter, weight: Weight) -> tuple[int, ...]:
    """Numbers of rows of x that there is code for, which fewer rows run too. Of more than the last, decoding a row once is faster.

    Measured at 4096 rows of 14,336 elements, and at 1536 of 576. The code of a long block is long. Where elements are whole vectors soon, a
    row of x more takes an eighth of the time of three, and there are registers for seven. Code for a number is a tenth of a kernel's time
    to compile: each has some only where fewer rows would take longer than decoding into the cache does.
    """
    fmt = weight.format
    if fmt.in_columns:
        return ()
    if not fmt.arrives_in_blocks:
        return (1, 2, 3, 4)
    if fmt.elements > SHORT:
        return (1,)
    if emitter.cpu.machine != X86_64 or not emitter.cpu.fma or not (has_tables(emitter, weight) or _has_bytes(fmt)):
        return (1, 2)
    return (1, 3, 7) if emitter.lanes == VALUES else (1, 2, 4, 7)


def rows_together(fmt: BlockFormat, positions: int, tile: int) -> int:
    """How many rows of the weight go along together: as a ``tile`` of registers has, twice or half as many.

    Twice where elements lie apart already, so that there is room in the registers.
    """
    if positions > _MANY:
        return tile // 2
    return 2 * tile if positions <= _FEWEST and _has_bytes(fmt) else tile


def _has_bytes(fmt: BlockFormat) -> bool:
    """Whether each element has a byte of its own."""
    return fmt.block_bytes >= fmt.elements


def dot_rows(
    emitter: Emitter, weight: Weight, rows: Sequence[Expr], positions: Sequence[Row], expert: Expr | None = None
) -> list[list[Callable[[], Expr]]]:
    """Emit the products of ``rows`` of the weight with rows of x, by position and row: what emits the last sums of one, its expression."""
    lanes = emitter.lanes
    sums = [registers(len(rows) * lanes) for _ in positions]
    for those in sums:
        for j in range(len(rows)):
            emitter.zero(those, j * lanes, lanes)

    def step(row: int, width: int, x: Sequence[Callable[[Expr], Expr]], element: Callable[[Expr], Expr]) -> None:
        for those, a in zip(sums, x, strict=True):
            emitter.dot_step(those, row * lanes, width, a, element)

    def whole(row: int, x: Sequence[Callable[[Expr], Expr]], elements: Expr) -> None:
        for those, a in zip(sums, x, strict=True):
            before = load_vector(those, row * lanes, lanes)
            store_vector(those, row * lanes, fused(side_by_side(a(i64(0)), lanes), elements, before))

    def apart(start: Expr, width: int) -> None:
        x = [position(start) for position in positions]
        for j, row in enumerate(rows):
            step(j, width, x, partial(_element_apart, weight, row, start, expert))

    by_vectors = has_vectors(emitter, weight)

    def in_groups(index: Expr, groups: CodesOfRows) -> None:
        with T.serial(i64(0), i64(groups.count)) as group:
            start = index * weight.format.elements + group * (weight.format.elements // groups.count)
            for j in range(len(rows)):
                weight.prefetch(rows[0] + (len(rows) + j), index, group * (weight.format.block_bytes // groups.count))
                for first, elements in groups.vectors(group, j):
                    whole(j, [position(start + first) for position in positions], hold(elements))

    def in_vectors(index: Expr, blocks: Sequence[Any]) -> None:
        vectors = [ElementVectors(emitter, weight, block) for block in blocks] if by_vectors else []
        asked = _lines_ahead(weight, rows, len(weight.vectors()) // vectors_together(emitter, weight) if by_vectors else 1)
        for number, together in enumerate(_in_groups(weight.vectors(), vectors_together(emitter, weight))):
            for row, line in asked[number] if number < len(asked) else ():
                weight.prefetch(row, index, i64(line * LINE))
            for j, block in enumerate(blocks):
                for first, width in together:
                    x = [position(index * weight.format.elements + first) for position in positions]
                    if vectors:
                        whole(j, x, hold(vectors[j].elements(first, width)))
                    else:
                        step(j, width, x, partial(weight.element, block, first))

    if weight.format.arrives_in_blocks:
        with T.serial(i64(0), i64(weight.columns // weight.format.elements)) as index:
            read = blocks_of_rows if by_vectors else _blocks
            blocks = read(emitter, weight, rows, index, expert)
            if has_groups(emitter, weight, blocks):
                in_groups(index, CodesOfRows(emitter, weight, blocks))
            else:
                in_vectors(index, blocks)
    else:
        emitter.chunks(weight.columns, apart)
    return [[partial(emitter.sum_lanes, those, j * lanes) for j in range(len(rows))] for those in sums]


def _in_groups(vectors: list[tuple[int, int]], count: int) -> list[list[tuple[int, int]]]:
    return [vectors[start : start + count] for start in range(0, len(vectors), count)]


def _blocks(_emitter: Emitter, weight: Weight, rows: Sequence[Expr], index: Expr, expert: Expr | None) -> list[KernelBlock]:
    return [weight.block(row, index, expert) for row in rows]


def _lines_ahead(weight: Weight, rows: Sequence[Expr], parts: int) -> list[list[tuple[Expr, int]]]:
    """What to ask the memory for beforehand, in as many parts: lines of the rows that are next.

    The processor follows a few rows by itself, but not so many that lie so close. With one part all is asked for before anything is read,
    for between two vectors it would keep the compiler from reading a scale once for both.
    """
    lines = [(rows[0] + (len(rows) + j), line) for line in range(weight.lines) for j in range(len(rows))]
    each = -(-len(lines) // parts)
    return [lines[start : start + each] for start in range(0, len(lines), each)]


def _element_apart(weight: Weight, row: Expr, start: Expr, expert: Expr | None, lane: Expr) -> Expr:
    return weight.plain(row, start + lane, expert)
