"""Blocks of 4 bits an element: the 16 values that an element can have, of which AVX-512 looks up sixteen by one instruction.

A table is what the format's decoder makes of 0 to 15, so its values are those of every other way to decode, and no decoder knows of it.
"""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import X86_64
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.integer_dot import hold
from aprgraph.codegen.kernels.cpu.weights import KernelBlock, Weight
from aprgraph.codegen.tir import Buffer, Expr, i64
from aprgraph.graph.block_decoders import RUN

#: Values that four bits have: as many as a register of AVX-512 has f32, and as a run has elements.
VALUES = 16
assert VALUES == RUN


class _NotFourBitsError(Exception):
    """An element is not one of 16 values of its block's scales."""


class _Lane:
    """The elements ``offset`` .. ``offset`` + RUN - 1 of a field."""

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset

    def __add__(self, other: int) -> _Lane:
        return _Lane(self.offset + other)

    __radd__ = __add__


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
        raise _NotFourBitsError

    __ror__ = __lshift__ = __or__


class _TableReader:
    """BlockReader whose elements are 0 to 15, and which remembers as ``places`` which of them the elements of the block are."""

    def __init__(self, block: KernelBlock) -> None:
        self._block = block
        self.places: Expr | None = None

    def integer(self, field: str, index: Any = 0) -> Any:
        if not isinstance(index, _Lane):
            return self._block.integer(field, index)
        return _Bits(self, T.Cast(f"int32x{VALUES}", self._block.bytes(field, index.offset, VALUES)), 255)

    def numbers(self, bits: _Bits) -> Expr:
        """0 to 15, in place of elements."""
        if bits.most != VALUES - 1:
            raise _NotFourBitsError
        self.places = bits.wide
        return tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), VALUES)

    def bit(self, *_at: Any) -> Any:
        raise _NotFourBitsError

    nibble = bit

    def real(self, field: str, index: Any = 0) -> Expr:
        if isinstance(index, _Lane):
            raise _NotFourBitsError
        return tirx.Broadcast(self._block.real(field, index), VALUES)

    def to_real(self, value: Any) -> Expr:
        if isinstance(value, _Bits):
            value = self.numbers(value)
        elif not isinstance(value, tirx.Ramp) and "x" not in str(value.ty):
            return tirx.Broadcast(T.Cast("float32", value), VALUES)
        return T.Cast(f"float32x{VALUES}", value)

    def fma(self, a: Expr, b: Expr, c: Expr) -> Expr:
        return fused(a, b, c)

    def lookup(self, table: tuple[int, ...], index: _Bits) -> Expr:
        self.numbers(index)
        return tirx.Shuffle([tirx.IntImm("int32", value) for value in table], [tirx.IntImm("int32", lane) for lane in range(VALUES)])

    def power_of_two(self, exponent: Expr) -> Expr:
        return tirx.Broadcast(self._block.power_of_two(exponent), VALUES)


class TableBlock:
    """A block whose elements are looked up: 16 of them at once, f32 [16]. Each table is made once."""

    def __init__(self, block: KernelBlock, weight: Weight) -> None:
        self._block, self._decode = block, weight.format.decode
        self._tables: list[tuple[Expr, Expr]] = []

    def elements(self, first: int) -> Expr:
        """The elements ``first`` .. ``first`` + 15."""
        table, places = _table(self._decode, self._block, first)
        kept = next((register for made, register in self._tables if tvm_ffi.structural_equal(made, table)), None)
        if kept is None:
            kept = hold(table)
            self._tables.append((table, kept))
        return T.call_llvm_pure_intrin(f"float32x{VALUES}", "llvm.x86.avx512.permvar.sf.512", kept, places)


def _table(decode: Any, block: KernelBlock, first: int) -> tuple[Expr, Expr]:
    reader = _TableReader(block)
    table = decode(reader, first, _Lane())
    if reader.places is None:
        raise _NotFourBitsError
    return table, reader.places


def has_tables(emitter: Emitter, weight: Weight) -> bool:
    """Whether a weight's elements are of 4 bits, and the CPU looks 16 values up at once."""
    if emitter.cpu.machine != X86_64 or emitter.lanes != VALUES or not weight.format.arrives_in_blocks:
        return False
    try:
        _table(weight.format.decode, weight.block(i64(0), i64(0), i64(0)), 0)
    except _NotFourBitsError:
        return False
    return True


def look_up_row(weight: Weight, row: Expr, decoded: Buffer, r: Expr, expert: Expr | None) -> None:
    """Emit the elements of a row of the weight into row ``r`` of ``decoded``, f32."""
    elements = weight.format.elements
    with T.serial(i64(0), i64(weight.columns // elements)) as index:
        block = TableBlock(weight.block(row, index, expert), weight)
        for first in range(0, elements, VALUES):
            place = decoded.place((r, index * elements + first))
            T.buffer_store(decoded.elements, block.elements(first), [tirx.Ramp(place, i64(1), VALUES)])


def fused(a: Expr, b: Expr, c: Expr) -> Expr:
    """a · b + c of f32 [16], rounded once."""
    return T.call_llvm_pure_intrin(f"float32x{VALUES}", "llvm.fma", a, b, c)
