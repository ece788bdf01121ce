"""Weights inside CUDA kernels: parameters in the file's own layout, decoded four elements a thread.

The layouts come from graph/block_formats.py; nothing here knows a format by name. Blocks are read in words, of as many
bytes as every block's start is a multiple of (4 for most, 2 for those with an odd half-precision scale): neighbouring
threads read neighbouring words, and what the scales of a run cost is shared by four elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.cuda.emitter import Emitter, get, put, registers
from aprgraph.codegen.tir import Buffer, Expr, Parameters, f32, i64
from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.block_formats import BlockFormat, weight_format, weight_storage
from aprgraph.graph.ir import TensorType

#: Elements that one thread decodes at once.
QUAD = 4
#: Device memory is allocated at multiples of 256 bytes, whatever the alignment in the file.
_ALIGNMENT = 64


@dataclass(frozen=True)
class _QuadLane:
    """The element ``QUAD · quad + offset`` of a run: ``quad`` is a thread's, ``offset`` a number."""

    quad: Expr
    offset: int

    def __add__(self, other: int) -> _QuadLane:
        return _QuadLane(self.quad, self.offset + other)

    __radd__ = __add__


class _Block:
    """BlockReader whose values are TVM expressions; ``start`` is the number of the block's first word."""

    def __init__(self, emitter: Emitter, fmt: BlockFormat, words: Buffer, width: int, start: Expr) -> None:
        self._emitter, self._format, self._words, self._width, self._start = emitter, fmt, words, width, start

    def _bits(self, byte: int, count: int, quad: Expr | None, stride: int) -> Expr:
        """``count`` bytes (1, 2 or 4) from ``byte`` + ``stride`` · quad on, little-endian, in a uint32."""
        width = self._width
        value: Expr | None = None
        got = 0
        while got < count:
            inside = (byte + got) % width
            take = min(width - inside, count - got)
            at = self._start + (byte + got) // width
            if quad is not None:
                assert stride % width == 0 or width == 1
                at += quad * (stride // width)
            part = T.Cast("uint32", self._words[at])
            if inside:
                part >>= T.uint32(8 * inside)
            if take < 4 and inside + take < width:
                part &= T.uint32((1 << 8 * take) - 1)
            if got:
                part <<= T.uint32(8 * got)
            value = part if value is None else value | part
            got += take
        return value

    def integer(self, field: str, index: Any = 0) -> Expr:
        kind = self._format.field(field)
        offset, quad = (index.offset, index.quad) if isinstance(index, _QuadLane) else (index, None)
        size = kind.itemsize
        bits = self._bits(self._format.offset(field) + offset * size, size, quad, QUAD * size)
        if kind.dtype == "int8":
            return T.Cast("int32", T.Cast("int8", bits))
        return T.Cast("int32", bits)

    def bit(self, field: str, first: int, lane: _QuadLane) -> Expr:
        word = self._bits(self._format.offset(field) + first // 32 * 4, 4, None, 0)
        shift = T.Cast("uint32", lane.quad * QUAD + (first % 32 + lane.offset))
        return T.Cast("int32", (word >> shift) & T.uint32(1))

    def real(self, field: str, index: int = 0) -> Expr:
        assert self._format.field(field).dtype == "float16"
        bits = self._bits(self._format.offset(field) + 2 * index, 2, None, 0)
        return T.Cast("float32", T.reinterpret("float16", T.Cast("uint16", bits)))

    def to_real(self, value: Expr) -> Expr:
        # Conversions run at a quarter of the rate of an addition. Below 2^22, which all of these are, an integer added
        # to the bits of 1.5 · 2^23 is that many units in the last place of it.
        magic = T.reinterpret("float32", T.Cast("int32", value) + T.int32(0x4B400000))
        return magic - f32(12582912.0)

    def fma(self, a: Expr, b: Expr, c: Expr) -> Expr:
        return self._emitter.fma(a, b, c)

    def lookup(self, table: tuple[int, ...], index: Expr) -> Expr:
        # Four registers hold the table, a byte an element.
        words = [int.from_bytes(bytes(value & 255 for value in table[at : at + 4]), "little") for at in range(0, 16, 4)]
        place = registers(1, "int32")
        put(place, index)
        index = get(place)  # which is written several times below
        low = T.Select(index < 4, T.uint32(words[0]), T.uint32(words[1]))
        high = T.Select(index < 12, T.uint32(words[2]), T.uint32(words[3]))
        chosen = T.Select(index < 8, low, high) >> T.Cast("uint32", (index & 3) << 3)
        return T.Cast("int32", T.Cast("int8", chosen))

    def power_of_two(self, exponent: Expr) -> Expr:
        return self._emitter.power_of_two(exponent)


class Weight:
    """A weight parameter of a kernel: [rows, columns] elements, [columns], or [experts, rows, columns].

    A row is ``blocks`` blocks of ``elements`` elements; those of a plain format are taken by runs, the last perhaps not
    whole.
    """

    def __init__(self, emitter: Emitter, parameters: Parameters, name: str, weight: TensorType) -> None:
        dtype, dims = weight_storage(weight)
        self.format = weight_format(weight)
        self.columns = int(weight.dims[-1])
        self.rows = int(weight.dims[-2]) if len(weight.dims) >= 2 else 1
        self.elements = self.format.elements if self.format.arrives_in_blocks else RUN
        self.blocks = -(-self.columns // self.elements)
        self._emitter = emitter
        self._dtype = dtype
        self._buffer = parameters.buffer(name, dims, dtype, align=_ALIGNMENT)
        self._width = math.gcd(self.format.block_bytes, 4) if self.format.arrives_in_blocks else 1
        self._words = math.prod(dims) // self._width
        self._flat: Buffer = None

    def open(self) -> None:
        """Makes the weight readable, once all parameters of the kernel have been declared."""
        per_element = f"uint{8 * self._width}" if self.format.arrives_in_blocks else self._dtype
        self._flat = T.decl_buffer((i64(self._words),), per_element, data=self._buffer.data)

    def _row(self, row: Expr, expert: Expr | None) -> Expr:
        return row if expert is None else expert * self.rows + row

    def element(self, row: Expr, column: Expr, expert: Expr | None = None) -> Expr:
        """One element of a weight that does not come in blocks, as f32."""
        value = self._flat[self._row(row, expert) * self.columns + column]
        if self._dtype == "uint16":
            return T.reinterpret("float32", T.Cast("uint32", value) << T.uint32(16))
        return value if self._dtype == "float32" else T.Cast("float32", value)

    def quad(self, row: Expr, block: Expr, first: int, quad: Expr, expert: Expr | None = None) -> list[Expr]:
        """Elements ``first + QUAD · quad + j`` of a block of a row, for j in 0 .. QUAD - 1; 0 beyond the row's end."""
        fmt = self.format
        if fmt.arrives_in_blocks:
            assert fmt.decode is not None
            start = (self._row(row, expert) * self.blocks + block) * (fmt.block_bytes // self._width)
            reader = _Block(self._emitter, fmt, self._flat, self._width, start)
            return [fmt.decode(reader, first, _QuadLane(quad, j)) for j in range(QUAD)]
        columns = [block * RUN + (first + j) + quad * QUAD for j in range(QUAD)]
        if self.columns % RUN == 0:
            return [self.element(row, column, expert) for column in columns]
        return [T.if_then_else(column < self.columns, self.element(row, column, expert), f32(0.0)) for column in columns]

    def scan(self, thread: Expr, threads: int, body: Callable[[Expr, Expr], None], row: Expr | None = None) -> None:
        """Emit ``body(column, value)`` for every element of a row, shared out among ``threads`` threads.

        A weight of one row has that for every ``row``.
        """
        row = i64(0) if row is None or self.rows == 1 else row
        if not self.format.arrives_in_blocks:
            with T.serial(i64(0), i64(-(-self.columns // threads))) as step:
                column = step * threads + thread
                with T.If(column < self.columns), T.Then():
                    body(column, self.element(row, column))
            return
        quads = self.blocks * (RUN // QUAD)
        with T.serial(i64(0), i64(-(-quads // threads))) as step:
            index = step * threads + thread
            with T.If(index < quads), T.Then():
                block, quad = T.floordiv(index, i64(RUN // QUAD)), T.floormod(index, i64(RUN // QUAD))
                for first in range(0, self.elements, RUN):
                    for j, value in enumerate(self.quad(row, block, first, quad)):
                        body(block * self.elements + quad * QUAD + (first + j), value)
