"""Scales and minima of long blocks, of several rows at once: a vector operation for what would be one for each row.

A long block has eight or sixteen scales of a few bits each, and taking these apart is more work than its elements are. The decoder of
the format does it as before (graph/block_decoders.py): what it computes of no element is here a number for each row, and the one of the
block's own row where it meets elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.rows_of_block import WordsOfRows, power_of_two
from aprgraph.codegen.kernels.cpu.vectors import hold, lanes_of
from aprgraph.codegen.kernels.cpu.weights import KernelBlock, Weight
from aprgraph.codegen.tir import Expr

#: Blocks of at most so many elements have one scale, or two.
SHORT = 32
#: Rows are turned into lanes by so many.
_ROWS = 4


class Elements:
    """Stands for elements, f32, in what a decoder computes of them and of scales."""


@dataclass(frozen=True)
class ScaledElements:
    """``scale`` · elements + ``offset``, which may be None, rounded once."""

    scale: Across
    offset: Across | None = None


class Across:
    """A number for each row, of which ``row`` is the block's own: what becomes of it depends on what it meets."""

    def __init__(self, each: Expr, row: int) -> None:
        self.each, self.row = each, row

    def own(self, lanes: int = 1) -> Expr:
        """That of the block's own row, in so many lanes."""
        number = tirx.Shuffle([self.each], [tirx.IntImm("int32", self.row)])
        return number if lanes == 1 else tirx.Broadcast(number, lanes)

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Across):
            return Across(self.each * other.each, self.row)
        if isinstance(other, float):
            return Across(self.each * tirx.Broadcast(tirx.FloatImm("float32", other), lanes_of(self.each)), self.row)
        if isinstance(other, Elements):
            return ScaledElements(self)
        return self.own(lanes_of(other)) * other

    def __neg__(self) -> Across:
        return Across(-self.each, self.row)

    def __or__(self, other: Across) -> Across:
        return Across(self.each | other.each, self.row)

    def __and__(self, mask: int) -> Across:
        return Across(self.each & mask, self.row)

    def __sub__(self, number: int) -> Across:
        return Across(self.each - number, self.row)

    def __rshift__(self, count: int) -> Across:
        return Across(self.each >> count, self.row)

    def __lshift__(self, count: int) -> Across:
        return Across(self.each << count, self.row)


def met(value: Any, lanes: int) -> Expr:
    """A value as elements meet it."""
    return value.own(lanes) if isinstance(value, Across) else value


class BlockOfRows:
    """BlockReader of one of several rows. ``block`` reads elements, and what ``words`` does not have."""

    def __init__(self, emitter: Emitter, block: KernelBlock, words: WordsOfRows, row: int) -> None:
        self._emitter, self._block, self._words, self._row = emitter, block, words, row
        self.bytes, self.bit, self.nibble, self.lookup = block.bytes, block.bit, block.nibble, block.lookup

    def integer(self, field: str, index: Any = 0) -> Any:
        return Across(self._words.integer(field, index), self._row) if isinstance(index, int) else self._block.integer(field, index)

    def real(self, field: str, index: Any = 0) -> Any:
        half = self._words.half(field, index) if isinstance(index, int) else None
        return self._block.real(field, index) if half is None else Across(half, self._row)

    def to_real(self, value: Any) -> Any:
        if isinstance(value, Across):
            return Across(T.Cast(f"float32x{self._words.count}", value.each), self._row)
        return self._block.to_real(value)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self._emitter.fma(met(a, 1), met(b, 1), met(c, 1))

    def power_of_two(self, exponent: Any) -> Any:
        return Across(power_of_two(exponent.each), self._row) if isinstance(exponent, Across) else self._block.power_of_two(exponent)


def blocks_of_rows(emitter: Emitter, weight: Weight, rows: Sequence[Expr], index: Expr, expert: Expr | None) -> list[Any]:
    """BlockReaders of block ``index`` of each row."""
    blocks = [weight.block(row, index, expert) for row in rows]
    if weight.format.elements <= SHORT or weight.comes_in_pieces or not emitter.cpu.fma:
        return blocks
    turned = [*rows, *[rows[-1]] * (-len(rows) % _ROWS)]
    words = WordsOfRows(emitter, weight, turned, index, hold)
    return [BlockOfRows(emitter, block, words, row) for row, block in enumerate(blocks)]
