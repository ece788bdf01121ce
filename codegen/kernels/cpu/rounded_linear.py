"""The linear kernel of rounded activations: integer dot products, of several rows of the weight side by side.

The orders of sums are llama.cpp's, on every CPU level and for any number of positions; threads do not change them. Weights that it lays out
by eight rows have one sum: the products of a block are whole numbers first, and blocks follow each other in order. Every other output is
eight partial sums, number l of elements 4l to 4l + 3 of each 32, as ggml's functions for AVX2 have it for one position: where a block has
scales inside, of whole numbers first; what is added to all elements has sums of its own, or is among these; the eight are added by halves.

One position meets blocks as they are read. For several, a tile of rows is laid out once as the dot products take it, and its sums with
some positions at once stay in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.block_plan import SUMS, WIDTH, BlockPlan
from aprgraph.codegen.kernels.cpu.block_values import BlockValues, FreshBlock, KeptBlocks
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.integer_dot import FOUR, IntegerDot, Scaled, Word, integer_dot
from aprgraph.codegen.kernels.cpu.quantised_rows import QuantisedRows
from aprgraph.codegen.kernels.cpu.vectors import hold, load_vector, store_vector, total
from aprgraph.codegen.kernels.cpu.weights import Weight, half_table
from aprgraph.codegen.kernels.cpu.weights_alike import alike
from aprgraph.codegen.tir import Buffer, Expr, Parameters, assign, build_function, f32, i64, registers

#: Takes a position, a row of the weight and the output there.
Store = Callable[[Expr, Expr, Expr], None]


def rounded_linear(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] f32, weights [R, C] each -> out [n, sum of R] f32, the results side by side."""
    x_type, *weight_types = request.operands
    columns, scheme = int(x_type.dims[1]), str(request.attrs["scheme"])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        n = parameters.size("n")
        halves = half_table(parameters, request)
        x = parameters.buffer("x", ("n", columns), "float32")
        weights = [Weight(emitter, parameters, f"w{index}", kind, halves) for index, kind in enumerate(weight_types)]
        out = parameters.buffer("out", ("n", sum(weight.rows for weight in weights)), "float32")

        def store(start: int, position: Expr, row: Expr, value: Expr) -> None:
            assign(out, value, [position, row + start])

        dot = integer_dot(cpu)
        plans = [BlockPlan(emitter, dot, weight, scheme) for weight in alike(weights)]
        each = sorted({plan.elements_of_sums for plan in plans if plan.elements_of_sums})
        keeps_sums = any(plan.keeps_sums for plan in plans)
        offsets = sorted({(plan.offset, plan.elements_of_offset) for plan in plans if plan.offset})
        rows = QuantisedRows(emitter, scheme, x, n, columns, each, offsets, keeps_sums=keeps_sums)
        start = 0
        for plan in plans:
            _Segment(emitter, dot, plan, rows).emit(n, partial(store, start))
            start += plan.weight.outputs

    return build_function(request.symbol, emit)


class _Segment:
    """One weight: tiles of its rows in parallel; a tile meets positions in groups."""

    def __init__(self, emitter: Emitter, dot: IntegerDot, plan: BlockPlan, rows: QuantisedRows) -> None:
        self._emitter, self._dot, self._plan, self._x = emitter, dot, plan, rows
        self._rows = dot.rows

    def emit(self, n: Expr, store: Store) -> None:
        """Emit the product of all rows with all positions."""
        # Two loops: what several positions need is allocated, by calls, where the body of a loop begins, whichever branch it takes.
        with T.If(n == 1):
            with T.Then():
                self._each_tile(store, self._one)
            with T.Else():
                self._each_tile(store, partial(self._several, n))

    def _each_tile(self, store: Store, body: Callable[[Expr, list[Expr], Store], None]) -> None:
        """Emit ``body`` in parallel for the first row of each tile, all of its rows, and what stores their outputs."""
        weight = self._plan.weight
        with T.parallel(i64(0), i64(weight.tiles_of(self._rows))) as index:
            tile, before = weight.take(index, self._rows)
            first = tile * self._rows
            # Of the last tile, which is perhaps not full, the last row that there is goes along several times.
            last = weight.end - 1
            rows = [first + r if weight.fills(self._rows) else T.min(first + r, last) for r in range(self._rows)]
            body(first, rows, lambda position, row, value: store(position, row + before, value))

    def _one(self, first: Expr, rows: list[Expr], store: Store) -> None:
        self._products(FreshBlock(self._emitter, self._dot, self._plan, rows), [i64(0)], first, store)

    def _several(self, n: Expr, first: Expr, rows: list[Expr], store: Store) -> None:
        kept = KeptBlocks(self._emitter, self._dot, self._plan, rows, self._x.blocks)
        together = self._plan.positions_together
        with T.serial(i64(0), T.floordiv(n, i64(together))) as group:
            self._products(kept, [group * together + p for p in range(together)], first, store)
        rest = T.floormod(n, i64(together))
        for left in range(1, together):
            with T.If(rest == left), T.Then():
                self._products(kept, [n - left + p for p in range(left)], first, store)

    def _products(self, values: BlockValues, positions: Sequence[Expr], first: Expr, store: Store) -> None:
        """Emit the product of the tile's rows, from ``first`` on, with some positions."""
        plan, lanes = self._plan, self._rows
        sums = [self._zeros(plan.sums) for _ in positions]
        minima = [self._zeros(plan.sums_of_minima) if plan.has_sums_of_minima else those for those in sums]
        with T.serial(i64(0), i64(self._x.blocks)) as index:
            values.begin(index)
            real = values.real()
            scales = [hold(self._scaled(real, self._x.scales[p, index], negative=plan.negative)) for p in positions]
            if plan.has_minima:
                self._add_minima(values, positions, index, minima)
            if plan.is_one_sum:
                self._add_whole(values, positions, index, sums, scales)
            elif plan.groups == 1:
                self._add_block(values, positions, index, sums, scales)
            else:
                self._add_runs(values, positions, index, sums, scales)
        for position, those, beside in zip(positions, sums, minima, strict=True):
            found = self._folded(those, plan.sums)
            if plan.has_sums_of_minima:
                found = found + self._folded(beside, plan.sums_of_minima)
            outputs = registers(lanes)
            store_vector(outputs, 0, found)
            with T.serial(i64(0), T.min(i64(lanes), plan.weight.end - first)) as r:
                store(position, first + r, outputs[r])

    def _zeros(self, count: int, dtype: str = "float32") -> list[Buffer]:
        zero = f32(0.0) if dtype == "float32" else tirx.IntImm(dtype, 0)
        found = [registers(self._rows, dtype) for _ in range(count)]
        for each in found:
            store_vector(each, 0, tirx.Broadcast(zero, self._rows))
        return found

    def _add_block(
        self, values: BlockValues, positions: Sequence[Expr], index: Expr, sums: Sequence[Sequence[Buffer]], scales: Sequence[Expr]
    ) -> None:
        """Emit the products of a block of 32 elements, which has one scale."""
        for number in range(SUMS):
            values.prefetch(i64(0), number)
            weights = values.weights(i64(0), number)
            for position, those, scale in zip(positions, sums, scales, strict=True):
                word = self._word(position, index * SUMS + number)
                found = self._dot.products(weights, word, signed=self._plan.signed, scaled=None)
                self._multiply_add(those[number], scale, found)

    def _word(self, position: Expr, number: Expr) -> Word:
        return Word(self._x.word(position, number), self._x.offset(position, number, self._plan.offset, FOUR))

    def _add_whole(
        self, values: BlockValues, positions: Sequence[Expr], index: Expr, sums: Sequence[Sequence[Buffer]], scales: Sequence[Expr]
    ) -> None:
        """Emit the products of a block, which add up to one whole number."""
        plan, dot = self._plan, self._dot
        whole = [registers(self._rows, "int32") for _ in positions]

        def add(group: Expr) -> None:
            place = index * plan.groups + group
            offsets = [self._x.offset(position, place, plan.offset, WIDTH) for position in positions]
            scale = values.scale(group, 0) if plan.scales_in_group else None
            found = [hold(dot.none(offset, is_tiny=plan.is_tiny)) for offset in offsets]
            for number in range(SUMS):
                values.prefetch(group, number)
                weights = values.weights(group, number)
                words = [self._x.word(position, place * SUMS + number) for position in positions]
                found = [
                    hold(dot.more(one, weights, word, signed=plan.signed, scales=scale)) for one, word in zip(found, words, strict=True)
                ]
            for those, one, offset in zip(whole, found, offsets, strict=True):
                products = dot.whole(one, scale, offset)
                store_vector(those, 0, self._load(those) + products if plan.groups > 1 else products)

        if plan.groups > 1:
            for those in whole:
                store_vector(those, 0, tirx.Broadcast(tirx.IntImm("int32", 0), self._rows))
        values.each_group(add)
        for those, (into,), scale in zip(whole, sums, scales, strict=True):
            self._multiply_add(into, scale, self._load(those))

    def _add_runs(
        self, values: BlockValues, positions: Sequence[Expr], index: Expr, sums: Sequence[Sequence[Buffer]], scales: Sequence[Expr]
    ) -> None:
        """Emit the products of a block of 256 elements, of which 16 or 32 have a scale: in whole numbers first."""
        plan = self._plan
        whole = [self._zeros(SUMS, "int32") for _ in positions]

        def add(group: Expr) -> None:
            for number in range(SUMS):
                values.prefetch(group, number)
                weights, scale = values.weights(group, number), values.scale(group, number)
                for position, those in zip(positions, whole, strict=True):
                    word = self._word(position, (index * plan.groups + group) * SUMS + number)
                    scaled = Scaled(scale, self._load(those[number]), plan.is_short)
                    store_vector(those[number], 0, self._dot.products(weights, word, signed=plan.signed, scaled=scaled))

        values.each_group(add)
        if plan.offset_of_runs:
            for number in range(SUMS):
                pairs = values.scale_pairs(number)
                for position, those in zip(positions, whole, strict=True):
                    sums_of_x = self._x.pair_of_sums(plan.elements_of_sums, position, index * 2 * SUMS + 2 * number)
                    found = self._dot.multiply_pairs(pairs, sums_of_x)
                    store_vector(those[number], 0, self._load(those[number]) - found * plan.offset_of_runs)
        for those, into, scale in zip(whole, sums, scales, strict=True):
            for number in range(SUMS):
                self._multiply_add(into[number], scale, self._load(those[number]))

    def _add_minima(self, values: BlockValues, positions: Sequence[Expr], index: Expr, minima: Sequence[Sequence[Buffer]]) -> None:
        plan, real = self._plan, values.minimum()
        if self._x.kept_sums is not None:
            for position, (those,) in zip(positions, minima, strict=True):
                kept = self._x.kept_sums[position, index]
                store_vector(those, 0, self._fused(real, self._same(-kept if plan.minima_negative else kept), self._load(those)))
            return
        count = self._x.elements // plan.elements_of_sums
        pairs = [values.minimum_pairs(number) for number in range(count // 2)]
        for position, those in zip(positions, minima, strict=True):
            scale = hold(self._scaled(real, self._x.scales[position, index], negative=plan.minima_negative))
            found = [
                self._dot.multiply_pairs(pair, self._x.pair_of_sums(plan.elements_of_sums, position, index * count + 2 * number))
                for number, pair in enumerate(pairs)
            ]
            for into, one in zip(those, [total(found)] if len(those) == 1 else found, strict=True):
                self._multiply_add(into, scale, one)

    def _scaled(self, real: Expr, x: Expr, *, negative: bool) -> Expr:
        """What whole numbers of a block are multiplied by."""
        return real * self._same(-x if negative else x)

    def _same(self, value: Expr) -> Expr:
        return tirx.Broadcast(value, self._rows)

    def _load(self, buffer: Buffer) -> Expr:
        return load_vector(buffer, 0, self._rows)

    def _multiply_add(self, sums: Buffer, scale: Expr, whole: Expr) -> None:
        store_vector(sums, 0, self._fused(scale, T.Cast(f"float32x{self._rows}", whole), self._load(sums)))

    def _fused(self, a: Expr, b: Expr, c: Expr) -> Expr:
        if self._emitter.cpu.fma:
            return T.call_llvm_pure_intrin(f"float32x{self._rows}", "llvm.fma", a, b, c)
        return a * b + c

    def _folded(self, sums: Sequence[Buffer], count: int) -> Expr:
        """Partial sums, added by halves."""
        parts = [self._load(each) for each in sums[:count]]
        while len(parts) > 1:
            middle = len(parts) // 2
            parts = [low + high for low, high in zip(parts[:middle], parts[middle:], strict=True)]
        return parts[0]
