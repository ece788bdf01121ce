"""Blocks of weights as whole numbers, of several rows side by side: from the same declarations as everything else.

A decoder (graph/block_decoders.py) says how elements come out of a block. Here it is given a reader whose values are kept apart: what
is one real number for the block, what is a whole number for a run of elements, and the elements' own 8 bits; each for all rows at once,
a row in each 32-bit lane of a vector. So blocks are turned from rows to lanes as they lie in memory, and decoded whole registers at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.integer_dot import FOUR, IntegerDot
from aprgraph.codegen.kernels.cpu.vectors import bytes_of, joined, lanes_of, shuffled
from aprgraph.codegen.kernels.cpu.weights import Weight
from aprgraph.codegen.tir import Expr
from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.errors import GraphError

#: Vectors of four elements of each row that a run has.
STEPS = RUN // FOUR
#: Bytes of each row that are turned at once, and the words in them.
_WINDOW, _WORDS = 16, 4


@dataclass(frozen=True)
class Quants:
    """Elements of 8 bits, four of each row in a vector: those of a run, ``STEPS`` vectors; ``signed`` says how they are to be read.

    None is farther from 0 than ``most``. Where a number was taken off unsigned ones, these are ``unsigned`` and the number is ``offset``.
    """

    bits: tuple[Expr, ...]
    signed: bool = False
    most: int = 255
    unsigned: tuple[Expr, ...] = ()
    offset: int = 0

    def __rshift__(self, count: int) -> Quants:
        return self._each(lambda vector: vector >> same_byte(vector, count), self.most >> count)

    def __lshift__(self, count: int) -> Quants:
        return self._each(lambda vector: vector << same_byte(vector, count), min(255, self.most << count))

    def __and__(self, mask: int) -> Quants:
        return self._each(lambda vector: vector & same_byte(vector, mask), min(self.most, mask))

    def __or__(self, other: Quants) -> Quants:
        return Quants(tuple(a | b for a, b in zip(self.bits, other.bits, strict=True)), most=self.most | other.most)

    def __sub__(self, number: int) -> Quants:
        most = max(number, self.most - number)
        found = self._each(lambda vector: vector - same_byte(vector, number), most)
        return replace(found, signed=True, unsigned=self.bits, offset=number)

    def _each(self, function: Callable[[Expr], Expr], most: int) -> Quants:
        return Quants(tuple(map(function, self.bits)), most=most)


@dataclass(frozen=True)
class Product:
    """A product of real numbers of the block, of whole numbers of the run, and perhaps of the elements. ``name`` says which reals."""

    name: str = ""
    real: Expr | None = None
    whole: Expr | None = None
    quants: Quants | None = None
    negative: bool = False

    def __mul__(self, other: Product | float) -> Product:
        if not isinstance(other, Product):
            raise GraphError(f"an element times {other}: not known as whole numbers")
        assert self.whole is None or other.whole is None
        assert self.quants is None or other.quants is None
        real = self.real if other.real is None else other.real if self.real is None else self.real * other.real
        whole, quants = other.whole if self.whole is None else self.whole, self.quants or other.quants
        return Product(f"{self.name}{other.name}", real, whole, quants, self.negative != other.negative)

    def __neg__(self) -> Product:
        return replace(self, negative=not self.negative)


@dataclass(frozen=True)
class Run:
    """``RUN`` elements: ``scaled``, and perhaps ``minimum``, which is added to each."""

    scaled: Product
    minimum: Product | None = None


@dataclass(frozen=True)
class _Lane:
    """The elements ``offset`` .. ``offset`` + RUN - 1 of a field."""

    offset: int = 0

    def __add__(self, other: int) -> _Lane:
        return _Lane(self.offset + other)

    __radd__ = __add__


def same_byte(vector: Expr, value: int) -> Expr:
    """One byte in every lane of such a vector."""
    return tirx.Broadcast(tirx.IntImm("uint8", value), lanes_of(vector))


class WordsOfRows:
    """The bytes of block ``index`` of ``rows`` of ``weight``, four or a multiple of it, as words: a row in each 32-bit lane.

    ``hold`` is given what is read several times.
    """

    def __init__(self, emitter: Emitter, weight: Weight, rows: Sequence[Expr], index: Expr, hold: Callable[[Expr], Expr]) -> None:
        self.count, self.weight = len(rows), weight
        self._emitter, self._rows, self._hold = emitter, rows, hold
        self._start = index * weight.format.block_bytes
        #: Vectors of words, i32, by the byte of the block that the first of them begins at.
        self._windows: dict[int, list[Expr]] = {}

    def window(self, at: int) -> list[Expr]:
        """The 16 bytes of the block from ``at`` on: four words of each row."""
        if at not in self._windows:
            lines = [T.reinterpret(f"int32x{_WORDS}", self.weight.bytes(row, self._start + at, _WINDOW)) for row in self._rows]
            self._windows[at] = [self._hold(word) for word in _turned(lines, self._hold)]
        return self._windows[at]

    def word(self, at: int) -> tuple[Expr, int]:
        """A word of each row that has byte ``at`` of the block in it, and the bit where that begins."""
        first = next((start for start in self._windows if start <= at < start + _WINDOW), None)
        if first is None:
            first = min(at // _WINDOW * _WINDOW, self.weight.format.block_bytes - _WINDOW)
        return self.window(first)[(at - first) // FOUR], (at - first) % FOUR * 8

    def integer(self, field: str, index: int = 0) -> Expr:
        """Element ``index`` of an integer field, i32."""
        kind = self.weight.format.field(field)
        first = self.weight.format.offset(field) + index * kind.itemsize
        value = self._byte(first, signed=kind.dtype == "int8")
        for byte in range(1, kind.itemsize):
            value = value | self._byte(first + byte) << 8 * byte
        return value

    def _byte(self, at: int, *, signed: bool = False) -> Expr:
        word, bit = self.word(at)
        return word << (24 - bit) >> 24 if signed else word >> bit & 255

    def half(self, field: str, index: int = 0) -> Expr | None:
        """Element ``index`` of a field of float16, f32; None where the CPU converts none, or of another field."""
        if not self._emitter.cpu.fma or self.weight.format.field(field).dtype != "float16":
            return None
        word, bit = self.word(self.weight.format.offset(field) + 2 * index)
        bits = T.reinterpret(f"float16x{self.count}", T.Cast(f"uint16x{self.count}", word >> bit))
        return T.Cast(f"float32x{self.count}", bits)


def power_of_two(exponent: Expr) -> Expr:
    """2^exponent, f32, of a vector of i32 from -149 to 127: see ``Arithmetic.power_of_two``."""
    half = exponent >> 1
    low, high = (T.reinterpret(f"float32x{lanes_of(exponent)}", part + 127 << 23) for part in (half, exponent - half))
    return low * high


class RowsOfBlock:
    """BlockReader of block ``index`` of ``rows`` of ``weight``, whose values stay apart; ``dot`` is what will take them."""

    def __init__(
        self, emitter: Emitter, dot: IntegerDot, weight: Weight, rows: Sequence[Expr], index: Expr, hold: Callable[[Expr], Expr]
    ) -> None:
        self._dot, self._weight, self._rows, self._index = dot, weight, rows, index
        self._words = WordsOfRows(emitter, weight, rows, index, hold)

    def runs(self) -> list[Run]:
        """The whole block, in order."""
        decode: Callable[..., Any] | None = self._weight.format.decode
        assert decode is not None
        found = [decode(self, first, _Lane()) for first in range(0, self._weight.format.elements, RUN)]
        return [run if isinstance(run, Run) else Run(run) for run in found]

    def integer(self, field: str, index: Any = 0) -> Any:
        if not isinstance(index, _Lane):
            return self._words.integer(field, index)
        kind, at = self._weight.format.field(field), self._weight.format.offset(field) + index.offset
        quants = tuple(T.reinterpret(f"uint8x{FOUR * self._dot.rows}", word) for word in self._words.window(at))
        return Quants(quants, signed=kind.dtype == "int8", most=128 if kind.dtype == "int8" else 255)

    def bit(self, field: str, first: int, lane: _Lane) -> Quants:
        # A byte of each row has the bits of eight elements: it comes into four lanes, and in each its own bit is left.
        at = self._weight.format.offset(field)
        found = []
        for step in range(STEPS):
            element = first + lane.offset + FOUR * step
            word, bit = self._words.word(at + element // 8)
            each = T.reinterpret(f"uint8x{FOUR * self._dot.rows}", word)
            spread = shuffled([each], [row * FOUR + bit // 8 for row in range(self._dot.rows) for _ in range(FOUR)])
            mask = bytes_of([1 << element % 8 + number for number in range(FOUR)] * self._dot.rows)
            found.append(T.Cast(f"uint8x{FOUR * self._dot.rows}", tirx.NE(spread & mask, same_byte(spread, 0))))
        return Quants(tuple(found), most=1)

    def nibble(self, field: str, *_at: Any) -> Quants:
        raise GraphError(f"{field}: nibbles in order are not known as whole numbers")

    def real(self, field: str, index: Any = 0) -> Product:
        half = self._words.half(field, index)
        return Product(field, self._by_rows(lambda block: block.real(field, index)) if half is None else half)

    def _by_rows(self, read: Callable[[Any], Expr]) -> Expr:
        """A number of each row, one after the other."""
        return joined(*(read(self._weight.block(row, self._index)) for row in self._rows))

    def to_real(self, value: Any) -> Product:
        return Product(quants=value) if isinstance(value, Quants) else Product(whole=value)

    def fma(self, a: Product, b: Product, c: Product) -> Run:
        return Run(a * b, c)

    def lookup(self, table: tuple[int, ...], index: Quants) -> Quants:
        return Quants(tuple(self._dot.look_up(table, vector) for vector in index.bits), signed=True, most=max(map(abs, table)))

    def power_of_two(self, exponent: Expr) -> Product:
        return Product("e", power_of_two(exponent))


def _turned(lines: Sequence[Expr], hold: Callable[[Expr], Expr]) -> list[Expr]:
    """Vectors of four words, one a row, as four vectors of a word of each row.

    Within each register of 16 bytes four rows are turned; those that follow each other there are far apart here.
    """
    count = len(lines) // _WORDS
    a, b, c, d = (hold(joined(*lines[first::_WORDS])) for first in range(_WORDS))

    def zipped(low: Expr, high: Expr, pattern: Sequence[int]) -> Expr:
        lanes = [lane % _WORDS + lane // _WORDS * _WORDS * count + _WORDS * part for part in range(count) for lane in pattern]
        return shuffled([low, high], lanes)

    low, high = (0, 4, 1, 5), (2, 6, 3, 7)
    ab_low, ab_high, cd_low, cd_high = (hold(zipped(*pair, pattern)) for pair in ((a, b), (c, d)) for pattern in (low, high))
    first, second = (0, 1, 4, 5), (2, 3, 6, 7)
    return [zipped(x, y, half) for x, y in ((ab_low, cd_low), (ab_high, cd_high)) for half in (first, second)]
