"""Elements of a block as whole vectors, where that is faster than lane by lane: long blocks, and elements of few bits.

A long block's scales are those of several rows at once (scales_of_rows.py). Where an element has 4 bits, the 16 values that it can have
are what the format's decoder makes of 0 to 15, and AVX-512 looks sixteen of them up by one instruction. AVX2 makes the whole numbers of 32
elements of up to 7 bits at once (codes.py). Each way the values are those of every other way to decode, and no decoder knows of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import X86_64
from aprgraph.codegen.kernels.cpu.codes import HALF_RUN, Bits, Codes, Pairs, TwoRuns
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.scales_of_rows import SHORT, Across, BlockOfRows, Elements, ScaledElements, met
from aprgraph.codegen.kernels.cpu.vectors import fused, hold, lanes_of, store_vector
from aprgraph.codegen.kernels.cpu.weights import WHOLE, Part, Weight
from aprgraph.codegen.tir import Buffer, Expr, f32, i64, registers
from aprgraph.graph.block_decoders import RUN

#: Values that four bits have: as many as a register of AVX-512 has f32, and as a run has elements.
VALUES = 16
assert VALUES == RUN


class _NotHereError(Exception):
    """A decoder reads what has no vectors here."""


class _Lane:
    """The elements ``offset`` .. ``offset`` + RUN - 1 of a field."""

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset

    def __add__(self, other: int) -> _Lane:
        return _Lane(self.offset + other)

    __radd__ = __add__


class _VectorReader:
    """BlockReader whose elements are vectors of ``width``. ``block`` reads what is no element."""

    def __init__(self, block: Any, weight: Weight, width: int) -> None:
        self._block, self._weight, self._width = block, weight, width

    def integer(self, field: str, index: Any = 0) -> Any:
        if not isinstance(index, _Lane):
            return self._block.integer(field, index)
        found = self._block.bytes(field, index.offset, self._width)
        if self._weight.format.field(field).dtype == "int8":
            found = T.reinterpret(f"int8x{self._width}", found)
        return T.Cast(f"int32x{self._width}", found)

    def bit(self, *_at: Any) -> Any:
        raise _NotHereError

    nibble = lookup = bit

    def real(self, field: str, index: Any = 0) -> Any:
        if isinstance(index, _Lane):
            raise _NotHereError
        return self._for_all(self._block.real(field, index))

    def to_real(self, value: Any) -> Any:
        if isinstance(value, Across) or lanes_of(value) == 1:
            return self._for_all(self._block.to_real(value))
        return T.Cast(f"float32x{self._width}", value)

    def fma(self, a: Any, b: Any, c: Any) -> Expr:
        return fused(*(met(value, self._width) for value in (a, b, c)))

    def power_of_two(self, exponent: Any) -> Any:
        return self._for_all(self._block.power_of_two(exponent))

    def _for_all(self, value: Any) -> Any:
        """A number that all elements meet; of several rows it stays as it is."""
        return value if isinstance(value, Across) else tirx.Broadcast(value, self._width)


class _Bits:
    """Whole numbers of 16 elements, i32 [16], none of them more than ``most``: the lowest four bits of ``wide``, where that is 15.

    Where a decoder computes with them they become the ``reader``'s 0 to 15.
    """

    def __init__(self, reader: _TableReader, wide: Expr, most: int) -> None:
        self._reader, self.wide, self.most = reader, wide, most

    def __rshift__(self, count: int) -> _Bits:
        return _Bits(self._reader, self.wide >> count, self.most >> count)

    def __and__(self, mask: int) -> _Bits:
        return _Bits(self._reader, self.wide if mask == VALUES - 1 else self.wide & mask, min(self.most, mask))

    def __sub__(self, number: int) -> Expr:
        return self._reader.numbers(self) - number

    def __or__(self, _other: Any) -> Any:
        raise _NotHereError

    __ror__ = __lshift__ = __or__


class _TableReader(_VectorReader):
    """BlockReader whose elements are 0 to 15, and which remembers as ``places`` which of them the elements of the block are."""

    def __init__(self, block: Any, weight: Weight) -> None:
        super().__init__(block, weight, VALUES)
        self.places: Expr | None = None

    def integer(self, field: str, index: Any = 0) -> Any:
        found = super().integer(field, index)
        return _Bits(self, found, 255) if isinstance(index, _Lane) else found

    def numbers(self, bits: _Bits) -> Expr:
        """0 to 15, in place of elements."""
        if bits.most != VALUES - 1:
            raise _NotHereError
        self.places = bits.wide
        return tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), VALUES)

    def to_real(self, value: Any) -> Any:
        return super().to_real(self.numbers(value) if isinstance(value, _Bits) else value)

    def lookup(self, table: tuple[int, ...], index: _Bits) -> Expr:
        self.numbers(index)
        return tirx.Shuffle([tirx.IntImm("int32", value) for value in table], [tirx.IntImm("int32", lane) for lane in range(VALUES)])


class _CodeReader(_VectorReader):
    """BlockReader whose whole numbers of elements are ``Codes``. It remembers those that became real as ``seen``; they are
    ``real_values``.
    """

    def __init__(self, block: Any, weight: Weight, real_values: Expr | Elements | None = None) -> None:
        super().__init__(block, weight, HALF_RUN)
        self.seen: Codes | None = None
        self._real_values = real_values

    def integer(self, field: str, index: Any = 0) -> Any:
        if not isinstance(index, _Lane):
            return super().integer(field, index)
        if self._weight.format.field(field).dtype != "uint8":
            raise _NotHereError
        return Codes((Bits(field, index.offset),))

    def lookup(self, table: tuple[int, ...], index: Codes) -> Codes:
        return index.looked_up(table)

    def to_real(self, value: Any) -> Any:
        if not isinstance(value, Codes):
            return super().to_real(value)
        if not value.is_known or self.seen is not None:
            raise _NotHereError
        self.seen = value
        return tirx.Broadcast(f32(0.0), self._width) if self._real_values is None else self._real_values

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return ScaledElements(a, c) if isinstance(b, Elements) else super().fma(a, b, c)


class ElementVectors:
    """The elements of a block, a vector at a time. Each table is made once, and so is what several vectors are made of."""

    def __init__(self, emitter: Emitter, weight: Weight, block: Any) -> None:
        self._emitter, self._weight, self._block = emitter, weight, block
        self._by_table = has_tables(emitter, weight)
        self._tables: list[tuple[Expr, Expr]] = []
        self._pairs = _pairs(weight, block) if self._by_table and emitter.lanes < VALUES else None
        self._two: dict[tuple[int, int], TwoRuns] = {}
        self._made: dict[int, list[Expr]] = {}

    def elements(self, first: int, width: int) -> Expr:
        """The elements ``first`` .. ``first`` + ``width`` - 1, which are of one run: f32 [width]."""
        if not self._by_table:
            return _direct(self._weight, self._block, first, width)
        if width < VALUES:
            return self._half_run(first)
        table, places = _table(self._weight, self._block, first)
        kept = next((register for made, register in self._tables if tvm_ffi.structural_equal(made, table)), None)
        if kept is None:
            kept = hold(table)
            self._tables.append((table, kept))
        return T.call_llvm_pure_intrin(f"float32x{VALUES}", "llvm.x86.avx512.permvar.sf.512", kept, places)

    def _half_run(self, first: int) -> Expr:
        run, half = divmod(first // HALF_RUN, 2)
        if run not in self._made:
            assert self._pairs is not None
            place, pair = self._pairs.of[run]
            if pair not in self._two:
                self._two[pair] = TwoRuns([self._pairs.runs[number] for number in pair], self._block)
            self._made[run] = self._two[pair].halves(place)
        assert self._weight.format.decode is not None
        reader = _CodeReader(self._block, self._weight, self._made[run][half])
        found: Expr = self._weight.format.decode(reader, run * RUN, _Lane(half * HALF_RUN))
        return found


def _direct(weight: Weight, block: Any, first: int, width: int) -> Expr:
    assert weight.format.decode is not None
    found: Expr = weight.format.decode(_VectorReader(block, weight, width), first - first % RUN, _Lane(first % RUN))
    return found


def _table(weight: Weight, block: Any, first: int) -> tuple[Expr, Expr]:
    assert weight.format.decode is not None
    reader = _TableReader(block, weight)
    table = weight.format.decode(reader, first, _Lane())
    if reader.places is None:
        raise _NotHereError
    return table, reader.places


def _runs(weight: Weight, block: Any) -> list[Codes]:
    """The whole numbers of each run of a block, given by those of its first half."""
    assert weight.format.decode is not None
    found = []
    for first in range(0, weight.format.elements, RUN):
        readers = [_CodeReader(block, weight) for _ in range(2)]
        for half, reader in enumerate(readers):
            weight.format.decode(reader, first, _Lane(half * HALF_RUN))
        one, other = (reader.seen for reader in readers)
        if one is None or other != one.moved([(HALF_RUN, 0)] * len(one.bits)):
            raise _NotHereError
        found.append(one)
    return found


def _pairs(weight: Weight, block: Any) -> Pairs:
    """The runs of a block."""
    pairs = Pairs(_runs(weight, block))
    if not pairs.are_all:
        raise _NotHereError
    return pairs


class CodesOfRows:
    """The elements of a block of several rows, some runs of it at a time, in a loop over these: the code of a whole long block has more in
    work than there are registers. What the elements of each run are multiplied by, and what is added, is kept for all rows beforehand.
    """

    def __init__(self, emitter: Emitter, weight: Weight, blocks: Sequence[Any]) -> None:
        self._weight, self._blocks, self._lanes = weight, blocks, emitter.lanes
        self._pairs = _pairs(weight, blocks[0])
        self._runs = self._pairs.group
        self.count = weight.format.elements // (self._runs * RUN)
        self._rows = 0
        self._scales: Buffer | None = None
        self._offsets: Buffer | None = None
        for run in range(weight.format.elements // RUN):
            found = _scaled(weight, blocks[0], run)
            self._scales = self._kept(self._scales, run, found.scale.each)
            if found.offset is not None:
                self._offsets = self._kept(self._offsets, run, found.offset.each)

    def _kept(self, buffer: Buffer | None, run: int, each: Expr) -> Buffer:
        self._rows = lanes_of(each)
        if buffer is None:
            buffer = registers(self._weight.format.elements // RUN * self._rows)
        store_vector(buffer, run * self._rows, each)
        return buffer

    def vectors(self, group: Expr, row: int) -> Iterator[tuple[int, Expr]]:
        """The elements of a group in one row: where each vector begins in it, and its f32 [lanes]."""
        steps = [(group * byte, group * bit if bit else 0) for byte, bit in self._pairs.steps(self._runs)]
        two: dict[tuple[int, int], TwoRuns] = {}
        for run in range(self._runs):
            place, pair = self._pairs.of[run]
            if pair not in two:
                two[pair] = TwoRuns([self._pairs.runs[number].moved(steps) for number in pair], self._blocks[row])
            at = (group * self._runs + run) * self._rows + row
            scale, offset = (
                None if kept is None else hold(tirx.Broadcast(kept[at], self._lanes)) for kept in (self._scales, self._offsets)
            )
            for half, values in enumerate(two[pair].halves(place)):
                yield run * RUN + half * self._lanes, scale * values if offset is None else fused(scale, values, offset)


def _scaled(weight: Weight, block: Any, run: int) -> Any:
    """What becomes of the elements of a run, for all rows at once."""
    assert weight.format.decode is not None
    return weight.format.decode(_CodeReader(block, weight, Elements()), run * RUN, _Lane())


def has_groups(emitter: Emitter, weight: Weight, blocks: Sequence[Any]) -> bool:
    """Whether ``CodesOfRows`` has these blocks."""
    if emitter.lanes == VALUES or not all(isinstance(block, BlockOfRows) for block in blocks) or not has_tables(emitter, weight):
        return False
    runs = range(weight.format.elements // RUN)
    return all(isinstance(_scaled(weight, blocks[0], run), ScaledElements) for run in runs)


def vectors_together(emitter: Emitter, weight: Weight) -> int:
    """How many vectors are made of the same bytes or lie between such, and are to be used before those of another row."""
    return weight.known("vectors together", lambda: _vectors_together(emitter, weight))


def _vectors_together(emitter: Emitter, weight: Weight) -> int:
    if emitter.lanes == VALUES or not has_tables(emitter, weight):
        return 1
    return _pairs(weight, weight.block(i64(0), i64(0), i64(0))).group * RUN // emitter.lanes


def has_tables(emitter: Emitter, weight: Weight) -> bool:
    """Whether the CPU makes many of a weight's elements at once: looks them up, with AVX-512, or makes them of bytes, with AVX2."""
    return weight.known("tables", lambda: _has_tables(emitter, weight))


def _has_tables(emitter: Emitter, weight: Weight) -> bool:
    if emitter.cpu.machine != X86_64 or not emitter.cpu.fma or not weight.format.arrives_in_blocks:
        return False
    if emitter.lanes == VALUES:
        return _is_here(lambda block: _table(weight, block, 0), weight)
    return emitter.lanes == HALF_RUN and _is_here(lambda block: _pairs(weight, block), weight)


def has_vectors(emitter: Emitter, weight: Weight) -> bool:
    """Whether one position is to meet a weight's elements as whole vectors."""
    return weight.known("vectors", lambda: _has_vectors(emitter, weight))


def _has_vectors(emitter: Emitter, weight: Weight) -> bool:
    if has_tables(emitter, weight):
        return True
    is_long = weight.format.arrives_in_blocks and weight.format.elements > SHORT
    return is_long and emitter.cpu.fma and _is_here(lambda block: _direct(weight, block, 0, emitter.lanes), weight)


def _is_here(read: Any, weight: Weight) -> bool:
    try:
        read(weight.block(i64(0), i64(0), i64(0)))
    except _NotHereError:
        return False
    return True


def look_up_row(emitter: Emitter, weight: Weight, row: Expr, decoded: Buffer, r: Expr, expert: Expr | None, part: Part = WHOLE) -> None:
    """Emit the elements of a part of a row of the weight, which has tables, into row ``r`` of ``decoded``, f32."""
    elements = weight.format.elements
    number, parts = part
    blocks = weight.columns // parts // elements
    with T.serial(i64(0), i64(blocks)) as index:
        block = ElementVectors(emitter, weight, weight.block(row, number * blocks + index, expert))
        for first, width in weight.vectors():
            place = decoded.place((r, index * elements + first))
            T.buffer_store(decoded.elements, block.elements(first, width), [tirx.Ramp(place, i64(1), width)])
