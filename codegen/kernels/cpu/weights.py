"""Weights inside kernels: parameters in the file's own layout, and rows decoded from it.

The layouts come from graph/block_formats.py; nothing here knows a format by name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.tir import Buffer, Expr, Parameters, i64
from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.block_formats import BlockFormat, weight_format, weight_storage
from aprgraph.graph.calling_convention import HALF_TABLE_SIZE
from aprgraph.graph.ir import TensorType

#: Receives a column and the value there, of as many lanes as the surrounding vector has.
Store = Callable[[Expr, Expr], None]
#: The indices of a row in its weight: all but the last.
Row = tuple[Expr, ...]

#: A GGUF file aligns tensors to `general.alignment`, which may be as little as 8 bytes.
_WEIGHT_ALIGNMENT = 8


def half_table(parameters: Parameters, request: KernelRequest) -> Buffer | None:
    """The next parameter, if ``request`` needs it: the f32 value of every half-precision bit pattern, f32 [65536].

    A block's scales are scalars. Converting one takes three operations on the port that decoding needs most, a table in
    the cache one load; decoding is over half of a linear kernel's time when there are few positions.
    """
    return parameters.buffer("halves", (HALF_TABLE_SIZE,), "float32") if request.needs_half_table else None


class _KernelBlock:
    """BlockReader whose values are TVM expressions; ``start`` is the block's byte offset in its row."""

    def __init__(self, emitter: Emitter, fmt: BlockFormat, weight: Buffer, halves: Buffer, row: Row, start: Expr) -> None:
        self._emitter, self._format, self._weight, self._halves, self._row, self._start = emitter, fmt, weight, halves, row, start

    def _byte(self, field: str, index: Any, byte: int = 0) -> Expr:
        size = self._format.field(field).itemsize
        at = (*self._row, self._start + self._format.offset(field) + index * size + byte)
        return self._weight[at]

    def integer(self, field: str, index: Any = 0) -> Expr:
        kind = self._format.field(field)
        value = self._byte(field, index)
        if kind.dtype == "int8":
            value = T.Cast("int8", value)
        value = T.Cast("int32", value)
        for byte in range(1, kind.itemsize):
            value = value | (T.Cast("int32", self._byte(field, index, byte)) << 8 * byte)
        return value

    def bit(self, field: str, first: int, lane: Expr) -> Expr:
        # A run lies within one 32-bit word, which all of its lanes share.
        word = first // 32 * 4
        parts = [T.Cast("int32", self._byte(field, word + byte)) << 8 * byte for byte in range(4)]
        return ((parts[0] | parts[1] | parts[2] | parts[3]) >> T.Cast("int32", first % 32 + lane)) & 1

    def real(self, field: str, index: Any = 0) -> Expr:
        assert self._format.field(field).dtype == "float16"
        low, high = (T.Cast("int64", self._byte(field, index, byte)) for byte in (0, 1))
        return self._halves[low | (high << i64(8))]

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
    """A weight parameter of a kernel: [rows, columns] elements, [columns], or [experts, rows, columns]."""

    def __init__(self, emitter: Emitter, parameters: Parameters, name: str, weight: TensorType, halves: Buffer | None = None) -> None:
        dtype, dims = weight_storage(weight)
        self.format = weight_format(weight)
        self.columns = int(weight.dims[-1])
        self.rows = int(weight.dims[-2]) if len(weight.dims) >= 2 else 1
        self._emitter = emitter
        self._halves = halves
        self._dtype = dtype
        self._rank = len(dims)
        self._buffer = parameters.buffer(name, dims, dtype, align=_WEIGHT_ALIGNMENT)

    def _row(self, row: Expr, expert: Expr | None) -> Row:
        return ((), (row,), (expert, row))[self._rank - 1]

    def plain(self, row: Expr, column: Expr, expert: Expr | None = None) -> Expr:
        """One element of a weight that does not come in blocks, as f32."""
        at = (*self._row(row, expert), column)
        value = self._buffer[at]
        if self._dtype == "uint16":
            return T.reinterpret("float32", T.Cast("uint32", value) << T.uint32(16))
        return value if self._dtype == "float32" else T.Cast("float32", value)

    def _store_run(self, store: Store, reader: _KernelBlock, column: Expr, first: int, lane: Expr) -> None:
        assert self.format.decode is not None
        store(column + first + lane, self.format.decode(reader, first, lane))

    def decode_row(self, row: Expr, store: Store, expert: Expr | None = None) -> None:
        """Emit ``store(column, value)`` for every element of a row, as vectors, values in f32."""
        emitter = self._emitter
        if not self.format.arrives_in_blocks:
            emitter.chunks(
                self.columns,
                lambda start, width: emitter.vector(width, lambda lane: store(start + lane, self.plain(row, start + lane, expert))),
            )
            return
        fmt = self.format
        with T.serial(i64(0), i64(self.columns // fmt.elements)) as index:
            reader = _KernelBlock(emitter, fmt, self._buffer, self._halves, self._row(row, expert), index * fmt.block_bytes)
            for first in range(0, fmt.elements, RUN):
                emitter.vector(RUN, partial(self._store_run, store, reader, index * fmt.elements, first))
