"""The linear kernel of rounded activations: integer dot products of 32 elements, as ggml's vec_dot functions have them.

Every output is eight partial sums, lane l of elements 4l to 4l + 3 of each 32: where a block has scales inside, of whole numbers
first. What is added to all elements has sums of its own, or is among these, as ggml has it for each format. Blocks follow each other
in order, and the eight are added by halves. That is ggml's order with AVX2 for one position; here it is that of every CPU level and
of any number of positions, and threads do not change it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.integer_blocks import IntegerBlock, Run
from aprgraph.codegen.kernels.cpu.integer_dot import (
    LANES,
    WIDTH,
    IntegerDot,
    dtype_of,
    integer_dot,
    joined,
    lanes_of,
    load_vector,
    store_vector,
    vector_of,
)
from aprgraph.codegen.kernels.cpu.quantised_rows import QuantisedRows
from aprgraph.codegen.kernels.cpu.weights import Weight, half_table
from aprgraph.codegen.tir import Buffer, Expr, Parameters, assign, block, build_function, f32, i64, registers
from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.roundings import ROUNDINGS

#: Positions that a row of the weights meets at once.
_POSITIONS = 4
#: Rows of a tile, which one thread computes.
_ROWS = 16
_RUNS_OF_DOT = WIDTH // RUN

#: Formats of which ggml takes the offset of elements off by sums of x, and multiplies unsigned numbers.
_OFFSET_BY_SUMS = ("Q6_K",)
#: Formats of which ggml adds the minima of a block up to one whole number.
_MINIMA_AS_ONE = ("Q5_K",)

#: Takes a position, a row of the weight and the output there.
Store = Callable[[Expr, Expr, Expr], None]
#: Where the sums of a row with a position lie, and the position.
Meeting = tuple[int, Expr]


def rounded_linear(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C] f32, weights [R, C] each -> out [n, sum of R] f32, the results side by side."""
    x_type, *weight_types = request.operands
    columns, scheme = int(x_type.dims[1]), str(request.attrs["scheme"])
    keeps_sums = ROUNDINGS[scheme].sum_errors is not None

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
        with block("product"):
            each = () if keeps_sums else sorted({found for weight in weights if (found := _elements_of_sums(dot, weight))})
            rows = QuantisedRows(emitter, scheme, x, n, columns, each, keeps_sums=keeps_sums)
            start = 0
            for weight in weights:
                _Segment(emitter, dot, weight, rows).emit(n, partial(store, start))
                start += weight.rows

    return build_function(request.symbol, emit)


def _elements_of_minima(dot: IntegerDot, weight: Weight) -> int:
    """How many elements of a block share a minimum, 16 or 32; 0 where none is added."""
    runs = IntegerBlock(dot, weight, i64(0), i64(0)).runs()
    minima = [run.minimum.whole for run in runs if run.minimum is not None]
    if not minima:
        return 0
    return WIDTH if all(map(_are_alike, minima[::2], minima[1::2])) else RUN


def _elements_of_sums(dot: IntegerDot, weight: Weight) -> int:
    """How many quants of x are summed for a weight; 0 for none."""
    return RUN if weight.format.name in _OFFSET_BY_SUMS else _elements_of_minima(dot, weight)


def _are_alike(a: Expr | None, b: Expr | None) -> bool:
    """Whether two expressions are one."""
    return a is b or bool(tvm_ffi.structural_equal(a, b))


class _Segment:
    """One weight: tiles of its rows in parallel; a row meets positions in groups."""

    def __init__(self, emitter: Emitter, dot: IntegerDot, weight: Weight, rows: QuantisedRows) -> None:
        self._emitter, self._dot, self._weight, self._x = emitter, dot, weight, rows
        self._each = _elements_of_minima(dot, weight)
        # Minima of 16 elements have as many partial sums as products, and are among these.
        self._has_sums_of_minima = self._each > RUN

    def emit(self, n: Expr, store: Store) -> None:
        """Emit the product of all rows with all positions."""
        count = self._weight.rows
        with T.parallel(i64(0), i64(-(-count // _ROWS))) as tile, block("tile"):
            self._sums = registers(_POSITIONS * LANES)
            self._minima = registers(_POSITIONS * LANES)
            self._whole = registers(_POSITIONS * LANES, "int32")
            first, those = tile * _ROWS, T.min(i64(_ROWS), i64(count) - tile * _ROWS)
            # A group of positions meets all rows of the tile while its quants are in the first-level cache.
            with T.serial(i64(0), T.floordiv(n, i64(_POSITIONS))) as group, T.serial(i64(0), those) as r:
                self._products([first + r], group * _POSITIONS, _POSITIONS, store)
            rest = T.floormod(n, i64(_POSITIONS))
            for together in range(1, _POSITIONS):
                count = self._rows_together(together)
                with T.If(rest == together), T.Then(), T.serial(i64(0), T.floordiv(those + (count - 1), i64(count))) as group:
                    # At an odd end the last row goes along twice.
                    rows = [first + T.min(group * count + r, those - 1) if count > 1 else first + group for r in range(count)]
                    self._products(rows, n - together, together, store)

    def _rows_together(self, positions: int) -> int:
        """How many rows meet so many positions at once: of short blocks, sums of one row and position wait for each other."""
        return _POSITIONS if positions == 1 and self._x.elements == WIDTH else 1

    def _products(self, rows: Sequence[Expr], first: Expr, together: int, store: Store) -> None:
        # Where the sums of a row and a position lie, and the position.
        meetings = [[(r * together + p, first + p) for p in range(together)] for r in range(len(rows))]
        for p in range(len(rows) * together):
            store_vector(self._sums, p * LANES, tirx.Broadcast(f32(0.0), LANES))
            if self._has_sums_of_minima:
                zero = f32(0.0) if self._lanes == 1 else tirx.Broadcast(f32(0.0), self._lanes)
                store_vector(self._minima, p * LANES, zero)
        with T.serial(i64(0), i64(self._x.blocks)) as index:
            for row, positions in zip(rows, meetings, strict=True):
                if together < _POSITIONS:  # with more, products take longer than reading
                    self._weight.prefetch(row, index)
                runs = IntegerBlock(self._dot, self._weight, row, index).runs()
                if runs[0].minimum is not None:
                    self._add_minima(runs, positions, index)
                self._add_products(runs, positions, index)
        for row, positions in zip(rows, meetings, strict=True):
            for p, position in positions:
                total = self._folded(self._sums, p, LANES)
                if self._has_sums_of_minima:
                    total = total + self._folded(self._minima, p, self._lanes)
                store(position, row, total)

    @property
    def _lanes(self) -> int:
        """Partial sums of the minima: of two neighbours each, or of all."""
        is_one = self._x.kept_sums is not None or self._weight.format.name in _MINIMA_AS_ONE
        return 1 if is_one else self._x.elements // self._each // 2

    def _folded(self, sums: Buffer, p: int, lanes: int) -> Expr:
        """The partial sums of a position, added by halves."""
        first = p * LANES
        while lanes > 1:
            lanes //= 2
            low, high = (load_vector(sums, first + part * lanes, lanes) for part in (0, 1))
            store_vector(sums, first, low + high)
        return sums[i64(first)]

    def _add_products(self, runs: Sequence[Run], positions: Sequence[Meeting], index: Expr) -> None:
        dots = [runs[at : at + _RUNS_OF_DOT] for at in range(0, len(runs), _RUNS_OF_DOT)]
        by_sums = self._weight.format.name in _OFFSET_BY_SUMS
        for number, (low, high) in enumerate(dots):
            quants = [run.scaled.quants for run in (low, high) if run.scaled.quants is not None]
            weights = _hold(joined(*(each.unsigned if by_sums else each.bits for each in quants)))
            signed = quants[0].signed and not by_sums
            prepared = self._dot.prepared(weights, signed=signed)
            prepared = prepared if prepared is weights else _hold(prepared)
            scales = self._scales(low.scaled.whole, high.scaled.whole)
            for p, position in positions:
                x = self._x.vector(position, index * self._x.elements + number * WIDTH, WIDTH)
                found = self._dot.fours(prepared, weights if signed else None, x, scales)
                if number:
                    found = load_vector(self._whole, p * LANES, LANES) + found
                store_vector(self._whole, p * LANES, found)
        if by_sums:
            self._take_offset_off(runs, positions, index)
        for p, position in positions:
            scale = self._scale(runs[0].scaled.real, position, index, negative=runs[0].scaled.negative)
            whole = T.Cast(f"float32x{LANES}", load_vector(self._whole, p * LANES, LANES))
            self._multiply_add(self._sums, p, scale, whole)

    def _take_offset_off(self, runs: Sequence[Run], positions: Sequence[Meeting], index: Expr) -> None:
        """From whole numbers, for each run the sum of x there times its scale and the offset."""
        quants, count = runs[0].scaled.quants, len(runs)
        assert quants is not None
        scales = _hold(vector_of([T.Cast("int16", run.scaled.whole) for run in runs]))
        for p, position in positions:
            found = self._dot.multiply_pairs(scales, self._x.vector_of_sums(RUN, position, index * count, count))
            offset = tirx.Broadcast(tirx.IntImm("int32", quants.offset), LANES)
            store_vector(self._whole, p * LANES, load_vector(self._whole, p * LANES, LANES) - found * offset)

    def _add_minima(self, runs: Sequence[Run], positions: Sequence[Meeting], index: Expr) -> None:
        minima = [run.minimum for run in runs if run.minimum is not None]
        real, negative = minima[0].real, minima[0].negative
        if self._x.kept_sums is not None:
            for p, position in positions:
                at, kept = i64(p * LANES), self._x.kept_sums[position, index]
                assign(self._minima, self._emitter.fma(real, -kept if negative else kept, self._minima[at]), [at])
            return
        step = self._each // RUN
        count = self._x.elements // self._each
        whole = _hold(vector_of([T.Cast("int16", minimum.whole) for minimum in minima[::step]]))
        for p, position in positions:
            scale = self._scale(real, position, index, negative=negative)
            found = self._dot.multiply_pairs(whole, self._x.vector_of_sums(self._each, position, index * count, count))
            if self._lanes == 1:
                store_vector(self._whole, p * LANES, found)
                parts = [self._whole[i64(p * LANES + part)] for part in range(count // 2)]
                total = T.Cast("float32", sum(parts[1:], start=parts[0]))
                at = i64(p * LANES)
                assign(self._minima, self._emitter.fma(scale, total, self._minima[at]), [at])
                continue
            sums = self._minima if self._has_sums_of_minima else self._sums
            self._multiply_add(sums, p, scale, T.Cast(f"float32x{count // 2}", found))

    def _scale(self, real: Expr, position: Expr, index: Expr, *, negative: bool) -> Expr:
        """What whole numbers of a block are multiplied by."""
        x = self._x.scales[position, index]
        return real * (-x if negative else x)

    def _scales(self, low: Expr | None, high: Expr | None) -> Expr | None:
        """What the two runs of a dot product are multiplied by, in a register; None for 1."""
        if low is None or high is None:
            return None
        scales = self._dot.scales(low, high, alike=_are_alike(low, high))
        return _hold(scales)

    def _multiply_add(self, sums: Buffer, p: int, scale: Expr, whole: Expr) -> None:
        lanes = lanes_of(whole)
        before = load_vector(sums, p * LANES, lanes)
        factor = tirx.Broadcast(scale, lanes)
        if self._emitter.cpu.fma:
            after = T.call_llvm_pure_intrin(f"float32x{lanes}", "llvm.fma", factor, whole, before)
        else:
            after = factor * whole + before
        store_vector(sums, p * LANES, after)


def _hold(vector: Expr) -> Expr:
    """A vector in a register, for those who read it several times."""
    lanes = lanes_of(vector)
    kept = registers(lanes, dtype_of(vector))
    store_vector(kept, 0, vector)
    return load_vector(kept, 0, lanes)
