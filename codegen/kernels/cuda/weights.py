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

import numpy as np
from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.cuda.emitter import Emitter, get, put, registers
from aprgraph.codegen.tir import Buffer, Expr, Parameters, f32, i64
from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.block_format import BlockFormat
from aprgraph.graph.block_formats import weight_format, weight_storage
from aprgraph.graph.ir import TensorType
from aprgraph.graph.weight_pieces import comes_in_pieces, table_shape

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


@dataclass(frozen=True)
class _Words:
    """Words of ``width`` bytes of ``buffer``, from the one of number ``start`` on."""

    buffer: Buffer
    width: int
    start: Expr


class _Block:
    """BlockReader whose values are TVM expressions. ``block`` is where the block lies, ``scales`` what lies apart."""

    def __init__(self, emitter: Emitter, fmt: BlockFormat, block: _Words, scales: _Words | None) -> None:
        self._emitter, self._format, self._block, self._scales = emitter, fmt, block, scales

    def _bits(self, field: str, byte: int, count: int, quad: Expr | None, stride: int) -> Expr:
        """``count`` bytes (1, 2 or 4) of a field from ``byte`` + ``stride`` · quad on, little-endian, in a uint32."""
        words = self._scales if self._format.lies_apart(field) else self._block
        assert words is not None
        width = words.width
        byte += self._format.offset(field)
        value: Expr | None = None
        got = 0
        while got < count:
            inside = (byte + got) % width
            take = min(width - inside, count - got)
            at = words.start + (byte + got) // width
            if quad is not None:
                assert stride % width == 0 or width == 1
                at += quad * (stride // width)
            part = T.Cast("uint32", words.buffer[at])
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
        bits = self._bits(field, offset * size, size, quad, QUAD * size)
        if kind.dtype == "int8":
            return T.Cast("int32", T.Cast("int8", bits))
        return T.Cast("int32", bits)

    def bit(self, field: str, first: int, lane: _QuadLane) -> Expr:
        word = self._bits(field, first // 32 * 4, 4, None, 0)
        shift = T.Cast("uint32", lane.quad * QUAD + (first % 32 + lane.offset))
        return T.Cast("int32", (word >> shift) & T.uint32(1))

    def nibble(self, field: str, first: int, lane: _QuadLane) -> Expr:
        # A word holds two quads.
        word = self._bits(field, first // 2, 4, T.floordiv(lane.quad, i64(2)), 4)
        shift = T.Cast("uint32", T.floormod(lane.quad, i64(2)) * 16 + 4 * lane.offset)
        return T.Cast("int32", (word >> shift) & T.uint32(15))

    def real(self, field: str, index: Any = 0) -> Expr:
        kind = self._format.field(field)
        if kind.dtype.startswith("float8"):
            return self._emitter.float8(kind.dtype, self.integer(field, index))
        bits = self._bits(field, kind.itemsize * index, kind.itemsize, None, 0)
        if kind.dtype == "float32":
            return T.reinterpret("float32", bits)
        assert kind.dtype == "float16"
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
    whole. One that comes in pieces (graph/weight_pieces.py) is packed, with the table of places as a second parameter.
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
        in_pieces = comes_in_pieces(weight)
        self._buffer = parameters.buffer(name, (math.prod(dims),) if in_pieces else dims, dtype, align=_ALIGNMENT)
        self._places: Buffer | None = None
        if in_pieces:
            self._places = parameters.buffer(f"{name}_places", table_shape(weight), "int64")
        self._width = math.gcd(self.format.block_bytes, 4) if self.format.arrives_in_blocks else 1
        self._count = math.prod(dims)
        self._flat: Buffer = None
        self._scales: Buffer = None

    def open(self) -> None:
        """Makes the weight readable, once all parameters of the kernel have been declared."""
        per_element = f"uint{8 * self._width}" if self.format.arrives_in_blocks else self._dtype
        self._flat = T.decl_buffer((i64(self._count // self._width),), per_element, data=self._buffer.data)
        if self.format.scales is not None:
            width = math.gcd(self.format.scales.group_bytes, 4)
            self._scales = T.decl_buffer((i64(self._count // width),), f"uint{8 * width}", data=self._buffer.data)

    def _line(self, line: Expr, expert: Expr | None, unit: int, length: int, table: int = 0) -> Expr:
        """Where a row, or a column of a format ``in_columns``, begins, in units of so many bytes. A weight that does not come in
        pieces has rows of ``length`` units.
        """
        if self._places is None:
            return line * length
        matrix = i64(0) if expert is None else expert
        first, stride = (self._places[matrix, i64(2 * table + column)] >> i64(unit.bit_length() - 1) for column in (0, 1))
        return first + line * stride

    def _block(self, row: Expr, block: Expr, expert: Expr | None) -> _Block:
        fmt, width = self.format, self._width
        words = fmt.block_bytes // width
        scales = None
        if fmt.scales is not None:
            unit = math.gcd(fmt.scales.group_bytes, 4)
            group = T.floordiv(block, i64(fmt.scales.blocks)) if fmt.scales.blocks else i64(0)
            line = T.floordiv(row, i64(fmt.scales.rows)) if fmt.scales.rows else i64(0)
            scales = _Words(self._scales, unit, self._line(line, expert, unit, 0, table=1) + group * (fmt.scales.group_bytes // unit))
        return _Block(
            self._emitter, fmt, _Words(self._flat, width, self._line(row, expert, width, self.blocks * words) + block * words), scales
        )

    def element(self, row: Expr, column: Expr, expert: Expr | None = None) -> Expr:
        """One element of a weight that does not come in blocks, as f32."""
        line, place = (column, row) if self.format.in_columns else (row, column)
        value = self._flat[self._line(line, expert, np.dtype(self._dtype).itemsize, self.columns) + place]
        if self._dtype == "uint16":
            return T.reinterpret("float32", T.Cast("uint32", value) << T.uint32(16))
        return value if self._dtype == "float32" else T.Cast("float32", value)

    def quad(self, row: Expr, block: Expr, first: int, quad: Expr, expert: Expr | None = None) -> list[Expr]:
        """Elements ``first + QUAD · quad + j`` of a block of a row, for j in 0 .. QUAD - 1; 0 beyond the row's end."""
        fmt = self.format
        if fmt.arrives_in_blocks:
            assert fmt.decode is not None
            reader = self._block(row, block, expert)
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
