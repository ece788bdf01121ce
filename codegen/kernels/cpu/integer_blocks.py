"""Blocks of weights as whole numbers: what integer dot products take, from the same declarations as everything else.

A decoder (graph/block_decoders.py) says how elements come out of a block. Here it is given a reader whose values are kept apart: what
is one real number for the block, what is a whole number for a run of elements, and the elements' own 8 bits as a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.cpu.integer_dot import IntegerDot, joined, vector_of
from aprgraph.codegen.kernels.cpu.weights import Weight
from aprgraph.codegen.tir import Expr
from aprgraph.graph.block_decoders import RUN
from aprgraph.graph.errors import GraphError


@dataclass(frozen=True)
class Quants:
    """A vector of ``RUN`` elements of 8 bits; ``signed`` says how they are to be read.

    Where a number was taken off unsigned ones, these are ``unsigned`` and the number is ``offset``.
    """

    bits: Expr
    signed: bool = False
    unsigned: Expr | None = None
    offset: int = 0

    def __rshift__(self, count: int) -> Quants:
        return Quants(self.bits >> _same(count))

    def __lshift__(self, count: int) -> Quants:
        return Quants(self.bits << _same(count))

    def __and__(self, mask: int) -> Quants:
        return Quants(self.bits & _same(mask))

    def __or__(self, other: Quants) -> Quants:
        return Quants(self.bits | other.bits)

    def __sub__(self, number: int) -> Quants:
        return Quants(self.bits - _same(number), signed=True, unsigned=self.bits, offset=number)


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


def _same(value: int) -> Expr:
    """One byte in every lane."""
    return tirx.Broadcast(tirx.IntImm("uint8", value), RUN)


def bytes_of(values: Sequence[int]) -> Expr:
    """A vector of these bytes."""
    return vector_of([tirx.IntImm("uint8", value & 255) for value in values])


class IntegerBlock:
    """BlockReader of block ``index`` of a row of ``weight``, whose values stay apart; ``dot`` is what will take them."""

    def __init__(self, dot: IntegerDot, weight: Weight, row: Expr, index: Expr) -> None:
        self._dot, self._weight, self._row, self._start = dot, weight, row, index * weight.format.block_bytes
        self._scalars = weight.block(row, index)

    def runs(self) -> list[Run]:
        """The whole block, in order."""
        decode: Callable[..., Any] | None = self._weight.format.decode
        assert decode is not None
        found = [decode(self, first, _Lane()) for first in range(0, self._weight.format.elements, RUN)]
        return [run if isinstance(run, Run) else Run(run) for run in found]

    def _vector(self, field: str, at: int, count: int = RUN) -> Expr:
        return self._weight.bytes(self._row, self._start + (self._weight.format.offset(field) + at), count)

    def integer(self, field: str, index: Any = 0) -> Any:
        if not isinstance(index, _Lane):
            return self._scalars.integer(field, index)
        return Quants(self._vector(field, index.offset), signed=self._weight.format.field(field).dtype == "int8")

    def bit(self, field: str, first: int, lane: _Lane) -> Quants:
        # Two bytes hold the bits of a run: each of them eight times, and in each lane its own bit.
        at = (first + lane.offset) // 8
        pair = [self._vector(field, at + byte, 1) for byte in (0, 1)]
        spread = joined(*(tirx.Broadcast(byte, RUN // 2) for byte in pair))
        mask = bytes_of([1 << lane % 8 for lane in range(RUN)])
        return Quants(T.Cast(f"uint8x{RUN}", tirx.NE(spread & mask, _same(0))))

    def nibble(self, field: str, *_at: Any) -> Quants:
        raise GraphError(f"{field}: nibbles in order are not known as whole numbers")

    def real(self, field: str, index: Any = 0) -> Product:
        return Product(field, self._scalars.real(field, index))

    def to_real(self, value: Any) -> Product:
        return Product(quants=value) if isinstance(value, Quants) else Product(whole=value)

    def fma(self, a: Product, b: Product, c: Product) -> Run:
        return Run(a * b, c)

    def lookup(self, table: tuple[int, ...], index: Quants) -> Quants:
        return Quants(self._dot.look_up(bytes_of(table), index.bits), signed=True)

    def power_of_two(self, exponent: Expr) -> Product:
        return Product("e", self._scalars.power_of_two(exponent))
