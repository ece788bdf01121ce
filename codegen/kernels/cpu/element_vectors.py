"""Elements of a block as whole vectors, where that is faster than lane by lane: long blocks, and tables of 4 bits.

A long block's scales are those of several rows at once (scales_of_rows.py). Where an element has 4 bits, the 16 values that it can have
are what the format's decoder makes of 0 to 15, and AVX-512 looks sixteen of them up by one instruction. Either way the values are those of
every other way to decode, and no decoder knows of it.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import X86_64
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.scales_of_rows import SHORT, Across, met
from aprgraph.codegen.kernels.cpu.vectors import fused, hold, lanes_of
from aprgraph.codegen.kernels.cpu.weights import Weight
from aprgraph.codegen.tir import Buffer, Expr, i64
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


class ElementVectors:
    """The elements of a block, a vector at a time. Each table is made once."""

    def __init__(self, emitter: Emitter, weight: Weight, block: Any) -> None:
        self._emitter, self._weight, self._block = emitter, weight, block
        self._by_table = has_tables(emitter, weight)
        self._tables: list[tuple[Expr, Expr]] = []

    def elements(self, first: int, width: int) -> Expr:
        """The elements ``first`` .. ``first`` + ``width`` - 1, which are of one run: f32 [width]."""
        if not self._by_table:
            return _direct(self._weight, self._block, first, width)
        table, places = _table(self._weight, self._block, first)
        kept = next((register for made, register in self._tables if tvm_ffi.structural_equal(made, table)), None)
        if kept is None:
            kept = hold(table)
            self._tables.append((table, kept))
        return T.call_llvm_pure_intrin(f"float32x{VALUES}", "llvm.x86.avx512.permvar.sf.512", kept, places)


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


def has_tables(emitter: Emitter, weight: Weight) -> bool:
    """Whether a weight's elements are of 4 bits, and the CPU looks 16 values up at once."""
    if emitter.cpu.machine != X86_64 or emitter.lanes != VALUES or not weight.format.arrives_in_blocks:
        return False
    return _is_here(lambda block: _table(weight, block, 0), weight)


def has_vectors(emitter: Emitter, weight: Weight) -> bool:
    """Whether one position is to meet a weight's elements as whole vectors."""
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


def look_up_row(emitter: Emitter, weight: Weight, row: Expr, decoded: Buffer, r: Expr, expert: Expr | None) -> None:
    """Emit the elements of a row of the weight, which has tables, into row ``r`` of ``decoded``, f32."""
    elements = weight.format.elements
    with T.serial(i64(0), i64(weight.columns // elements)) as index:
        block = ElementVectors(emitter, weight, weight.block(row, index, expert))
        for first in range(0, elements, VALUES):
            place = decoded.place((r, index * elements + first))
            T.buffer_store(decoded.elements, block.elements(first, VALUES), [tirx.Ramp(place, i64(1), VALUES)])
