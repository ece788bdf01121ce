"""Weights inside kernels: parameters in the file's own layout, and rows decoded from it.

The layouts come from graph/block_formats.py; nothing here knows a format by name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.tir import Buffer, Expr, Parameters, i64
from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.block_format import BlockFormat
from aprgraph.graph.block_formats import weight_format, weight_storage
from aprgraph.graph.calling_convention import HALF_TABLE_SIZE
from aprgraph.graph.ir import TensorType
from aprgraph.graph.weight_pieces import comes_in_pieces, table_shape

Known = TypeVar("Known")
#: Receives a column and the value there, of as many lanes as the surrounding vector has.
Store = Callable[[Expr, Expr], None]
#: Gives the element of a buffer of bytes that is so many behind the first one of something.
Bytes = Callable[[Expr], Expr]

#: One of several equal parts of a row's columns: which, and of how many. It has whole blocks.
Part = tuple[Expr, int]

#: Bytes of a line of the cache.
LINE = 64
WHOLE: Part = (i64(0), 1)
#: A GGUF file aligns tensors to `general.alignment`, which may be as little as 8 bytes.
_WEIGHT_ALIGNMENT = 8


def half_table(parameters: Parameters, request: KernelRequest) -> Buffer | None:
    """The next parameter, if ``request`` needs it: the f32 value of every half-precision bit pattern, f32 [65536].

    A block's scales are scalars. Converting one takes three operations on the port that decoding needs most, a table in
    the cache one load; decoding is over half of a linear kernel's time when there are few positions.
    """
    return parameters.buffer("halves", (HALF_TABLE_SIZE,), "float32") if request.needs_half_table else None


def side_by_side(element: Expr, count: int) -> Expr:
    """``count`` elements of a buffer of one dimension from ``element`` on, as a vector."""
    (place,) = element.indices
    return element.source[tirx.Ramp(place, i64(1), count)]


class KernelBlock:
    """BlockReader whose values are TVM expressions. ``block`` gives the block's bytes, ``scales`` those that lie apart."""

    def __init__(self, emitter: Emitter, fmt: BlockFormat, halves: Buffer, block: Bytes, scales: Bytes | None) -> None:
        self._emitter, self._format, self._halves, self._block, self._scales = emitter, fmt, halves, block, scales

    def _byte(self, field: str, index: Any, byte: int = 0) -> Expr:
        size = self._format.field(field).itemsize
        at = self._format.offset(field) + index * size + byte
        if self._format.lies_apart(field):
            assert self._scales is not None
            return self._scales(at)
        return self._block(at)

    def _word(self, field: str, first: int) -> Expr:
        """Four bytes from ``first`` on, little-endian, in an int32."""
        parts = [T.Cast("int32", self._byte(field, 0, first + byte)) << 8 * byte for byte in range(4)]
        return parts[0] | parts[1] | parts[2] | parts[3]

    def integer(self, field: str, index: Any = 0) -> Expr:
        kind = self._format.field(field)
        value = self._byte(field, index)
        if kind.dtype == "int8":
            value = T.Cast("int8", value)
        value = T.Cast("int32", value)
        for byte in range(1, kind.itemsize):
            value = value | (T.Cast("int32", self._byte(field, index, byte)) << 8 * byte)
        return value

    def bytes(self, field: str, first: int, count: int) -> Expr:
        """``count`` bytes of a field side by side, as a vector."""
        return side_by_side(self._byte(field, first), count)

    def bit(self, field: str, first: int, lane: Expr) -> Expr:
        # A run lies within one 32-bit word, which all of its lanes share.
        return (self._word(field, first // 32 * 4) >> T.Cast("int32", first % 32 + lane)) & 1

    def nibble(self, field: str, first: int, lane: Expr) -> Expr:
        # A run is two words, which all of its lanes share.
        low, high = (self._word(field, first // 2 + 4 * half) for half in (0, 1))
        return (T.Select(lane > 7, high, low) >> T.Cast("int32", (lane & 7) << 2)) & 15

    def real(self, field: str, index: Any = 0) -> Expr:
        dtype = self._format.field(field).dtype
        if dtype.startswith("float8"):
            return self._emitter.float8(dtype, T.Cast("int32", self._byte(field, index)))
        if dtype == "float32":
            return T.reinterpret("float32", self._word(field, 4 * index))
        assert dtype == "float16"
        return self._halves[T.Cast("int64", T.reinterpret("uint16", side_by_side(self._byte(field, index), 2)))]

    def to_real(self, value: Expr) -> Expr:
        return T.Cast("float32", value)

    def fma(self, a: Expr, b: Expr, c: Expr) -> Expr:
        return self._emitter.fma(a, b, c)

    def lookup(self, table: tuple[int, ...], index: Expr) -> Expr:
        # Two numbers hold the table, a byte an element: a select and a shift, where a gather takes ten times as long.
        low, high = (i64(int.from_bytes(bytes(value & 255 for value in half), "little", signed=True)) for half in (table[:8], table[8:]))
        chosen = T.Select(index > 7, high, low) >> T.Cast("int64", (index & 7) << 3)
        return T.Cast("int32", T.Cast("int8", chosen))

    def power_of_two(self, exponent: Expr) -> Expr:
        return self._emitter.power_of_two(exponent)


class Weight:
    """A weight parameter of a kernel: [rows, columns] elements, [columns], or [experts, rows, columns].

    One that comes in pieces (graph/weight_pieces.py) is two parameters: all memory that its pieces lie in as one buffer,
    and the table of places.
    """

    def __init__(self, emitter: Emitter, parameters: Parameters, name: str, weight: TensorType, halves: Buffer | None = None) -> None:
        dtype, dims = weight_storage(weight)
        self.format = weight_format(weight)
        self.columns = int(weight.dims[-1])
        self.rows = int(weight.dims[-2]) if len(weight.dims) >= 2 else 1
        self._emitter = emitter
        self._halves = halves
        self._dtype = dtype
        self._rank = len(dims)
        self._known: dict[str, Any] = {}
        self._places: Buffer | None = None
        if comes_in_pieces(weight):
            self._buffer = parameters.buffer(name, (f"{name}_span",), dtype, align=_WEIGHT_ALIGNMENT)
            self._places = parameters.buffer(f"{name}_places", table_shape(weight), "int64")
        else:
            self._buffer = parameters.buffer(name, dims, dtype, align=_WEIGHT_ALIGNMENT)

    @property
    def outputs(self) -> int:
        """How many outputs the rows give."""
        return self.rows

    def tiles_of(self, rows: int) -> int:
        """Tiles of so many rows, the last one perhaps not full."""
        return -(-self.rows // rows)

    def fills(self, rows: int) -> bool:
        """Whether all tiles of so many rows are full."""
        return self.rows % rows == 0

    def take(self, tile: Expr, _rows: int) -> tuple[Expr, Expr]:
        """Turn to tile ``tile`` of so many rows each: its number in the weight, and which of the outputs the weight's first row gives."""
        return tile, i64(0)

    @property
    def end(self) -> Expr:
        """How many rows there are."""
        return i64(self.rows)

    @property
    def rows_are_of(self) -> object:
        """What weights share whose rows are read alike; of one in pieces, or whose scales lie apart, nothing."""
        return self if self._places is not None or self.format.scales is not None else (self._dtype, self.format.name, self.columns)

    def known(self, what: str, find: Callable[[], Known]) -> Known:
        """What ``find`` finds out about the weight, which is asked again and again while a kernel is written."""
        if what not in self._known:
            self._known[what] = find()
        found: Known = self._known[what]
        return found

    def _line(self, row: Expr, expert: Expr | None, start: Expr, table: int = 0) -> Bytes:
        """The elements of the buffer in a row, from the ``start``-th on; with ``table`` 1 those in a row of scales."""
        if self._places is None:
            rows = () if self._rank == 1 else (row,)
            return lambda at: self._buffer[(*rows, start + at)]
        # The table counts bytes.
        shift = i64(np.dtype(self._dtype).itemsize.bit_length() - 1)
        matrix = i64(0) if expert is None else expert
        first, stride = (self._places[matrix, i64(2 * table + column)] >> shift for column in (0, 1))
        if self.format.in_columns:
            return lambda at: self._buffer[first + (start + at) * stride + row]
        return lambda at: self._buffer[first + row * stride + (start + at)]

    def block(self, row: Expr, index: Expr, expert: Expr | None = None) -> KernelBlock:
        """The block ``index`` of a row."""
        fmt, scales = self.format, None
        if fmt.scales is not None:
            group = T.floordiv(index, i64(fmt.scales.blocks)) if fmt.scales.blocks else i64(0)
            line = T.floordiv(row, i64(fmt.scales.rows)) if fmt.scales.rows else i64(0)
            scales = self._line(line, expert, group * fmt.scales.group_bytes, table=1)
        return KernelBlock(self._emitter, fmt, self._halves, self._line(row, expert, index * fmt.block_bytes), scales)

    def bytes(self, row: Expr, start: Expr, count: int) -> Expr:
        """``count`` bytes of a row from one on, as a vector; of a weight that is not in pieces."""
        assert self._places is None
        first = self._buffer.place((row, start))
        return self._buffer.elements[first if count == 1 else tirx.Ramp(first, i64(1), count)]

    @property
    def lines(self) -> int:
        """Lines of the cache that a block touches at least."""
        return -(-self.format.block_bytes // LINE)

    @property
    def comes_in_pieces(self) -> bool:
        """Whether it is two parameters."""
        return self._places is not None

    def prefetch(self, row: Expr, index: Expr, byte: Expr) -> None:
        """Ask the memory for the line of a byte of block ``index`` of a row, which need not be there. Not of a weight in pieces."""
        if self._places is not None:
            return
        place = self._buffer.place((row, index * self.format.block_bytes)) + byte
        read, near, data = (tirx.IntImm("int32", value) for value in (0, 2, 1))
        T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", T.address_of(self._buffer.elements[place]), read, near, data))

    def plain(self, row: Expr, column: Expr, expert: Expr | None = None) -> Expr:
        """One element of a weight that does not come in blocks, as f32."""
        value = self._line(row, expert, i64(0))(column)
        if self._dtype == "uint16":
            return T.reinterpret("float32", T.Cast("uint32", value) << T.uint32(16))
        return value if self._dtype == "float32" else T.Cast("float32", value)

    def vectors(self) -> list[tuple[int, int]]:
        """The elements of a block as vectors of the CPU: where each begins, and its width."""
        width = min(RUN, self._emitter.lanes)
        return [(first, width) for first in range(0, self.format.elements, width)]

    def element(self, reader: KernelBlock, first: int, lane: Expr) -> Expr:
        """The element ``first + lane`` of a block, as f32; all lanes are of one run."""
        assert self.format.decode is not None
        inside = first % RUN
        return self.format.decode(reader, first - inside, lane + inside if inside else lane)

    def _store_run(self, store: Store, reader: KernelBlock, column: Expr, first: int, lane: Expr) -> None:
        assert self.format.decode is not None
        store(column + first + lane, self.format.decode(reader, first, lane))

    def decode_row(self, row: Expr, store: Store, expert: Expr | None = None, part: Part = WHOLE) -> None:
        """Emit ``store(column, value)`` for every element of a part of a row, as vectors, values in f32; its columns count from 0."""
        emitter = self._emitter
        number, parts = part
        columns = self.columns // parts
        if not self.format.arrives_in_blocks:
            before = number * columns

            def vector(start: Expr, width: int) -> None:
                emitter.vector(width, lambda lane: store(start + lane, self.plain(row, before + start + lane, expert)))

            emitter.chunks(columns, vector)
            return
        fmt = self.format
        blocks = columns // fmt.elements
        with T.serial(i64(0), i64(blocks)) as index:
            reader = self.block(row, number * blocks + index, expert)
            for first in range(0, fmt.elements, RUN):
                emitter.vector(RUN, partial(self._store_run, store, reader, index * fmt.elements, first))
