"""Rows of activations in 8 bits, as integer dot products take them: whole numbers, and for each block a scale and perhaps sums."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.rounding import BlockOfRow
from aprgraph.codegen.kernels.roundings import BLOCK_SCHEMES, Quantised, magnitude_bits
from aprgraph.codegen.tir import Buffer, Expr, assign, each_row, f32, i64, only, registers, scratch
from aprgraph.graph.roundings import ROUNDINGS

_NAN = float("nan")

#: How much longer an element takes than in an elementwise op.
_WORK = 8


class QuantisedRows:
    """x [n, C] rounded by a scheme, in the workspace of the kernel.

    ``quants`` is i8 [n, C]; ``scales`` f32 [n, blocks] is what they are multiplied by, NaN for a block with NaN or Inf. ``kept_sums`` f32
    [n, blocks] are those that the engine keeps. Beside them are sums of as many quants as ``each`` says, i16, and for each (offset,
    count) of ``offsets`` sums of so many times the offset, negative, i32.
    """

    def __init__(
        self,
        emitter: Emitter,
        scheme: str,
        x: Buffer,
        n: Expr,
        columns: int,
        each: Sequence[int],
        offsets: Sequence[tuple[int, int]],
        *,
        keeps_sums: bool,
    ) -> None:
        self.elements = ROUNDINGS[scheme].elements
        self.blocks = columns // self.elements
        self._emitter, self._scheme, self._x = emitter, BLOCK_SCHEMES[scheme], x
        self.quants = scratch((n, columns), "int8")
        self.scales = scratch((n, self.blocks))
        self.kept_sums = scratch((n, self.blocks)) if keeps_sums else None
        self._sums = {count: scratch((n, columns // count), "int16") for count in each}
        self._offsets = {(offset, count): scratch((n, columns // count), "int32") for offset, count in offsets}
        each_row(n, _WORK * columns, self._emit_row)

    def _emit_row(self, p: Expr) -> None:
        with T.serial(i64(0), i64(self.blocks)) as number:
            self._emit_block(p, number)

    def _emit_block(self, p: Expr, number: Expr) -> None:
        emitter, x, first = self._emitter, self._x, number * self.elements
        found = BlockOfRow(emitter, self.elements, lambda column: x[p, first + column]).quantise(self._scheme)
        total = registers(1, "int32")
        assign(total, tirx.IntImm("int32", 0), [i64(0)])

        def store(column: Expr, width: int) -> None:
            def put(lane: Expr) -> None:
                at = first + column + lane
                assign(self.quants, T.Cast("int8", T.Cast("int32", found.quantise(x[p, at]))), [p, at])

            emitter.vector(width, put)

        emitter.chunks(self.elements, store)
        assign(self.scales, self._known(found), [p, number])
        for count, sums in self._sums.items():
            with T.serial(i64(0), i64(self.elements // count)) as part:
                self._add(total, p, first + part * count, count)
                assign(sums, T.Cast("int16", only(total)), [p, number * (self.elements // count) + part])
        for (offset, count), sums in self._offsets.items():
            with T.serial(i64(0), i64(self.elements // count)) as part:
                self._add(total, p, first + part * count, count)
                assign(sums, only(total) * -offset, [p, number * (self.elements // count) + part])
        if self.kept_sums is not None:
            self._add(total, p, first, self.elements)
            assign(self.kept_sums, emitter.half(found.scale * T.Cast("float32", only(total))), [p, number])

    def _add(self, total: Buffer, p: Expr, first: Expr, count: int) -> None:
        assign(total, tirx.IntImm("int32", 0), [i64(0)])
        with T.serial(i64(0), i64(count)) as column:
            assign(total, only(total) + T.Cast("int32", self.quants[p, first + column]), [i64(0)])

    @staticmethod
    def _known(found: Quantised) -> Expr:
        """The scale; where the block has a NaN or an Inf, what its quants are is not defined, and nothing of it is a number."""
        return T.Select(magnitude_bits(found.peak) >= tirx.IntImm("int32", 0x7F800000), f32(_NAN), found.kept)

    def word(self, p: Expr, number: Expr) -> Expr:
        """Quants 4 · ``number`` to 4 · ``number`` + 3 of a row, i32."""
        return _word(self.quants, p, number * 4, 4)

    def offset(self, p: Expr, number: Expr, offset: int, count: int) -> Expr | None:
        """What the products of so many quants, the ``number``-th of a row, have too much where weights are ``offset`` more; negative."""
        return self._offsets[offset, count][p, number] if offset else None

    def pair_of_sums(self, each: int, p: Expr, first: Expr) -> Expr:
        """Two sums of ``each`` quants of a row, i32."""
        return _word(self._sums[each], p, first, 2)


def _word(buffer: Buffer, p: Expr, first: Expr, count: int) -> Expr:
    """``count`` elements of a row as one i32."""
    return T.reinterpret("int32", buffer.elements[tirx.Ramp(buffer.place((p, first)), i64(1), count)])
