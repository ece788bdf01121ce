"""The whole numbers of 32 elements as float32, with AVX2: made of bytes, 32 at once.

Of 4 bits they are looked up. A whole number of up to 8 bits has zeros in the lower half of its float32, so that two tables of 16 bytes, one
of the highest bytes and one of those below, make halves of floats, and interleaving, with each other and with zeros, makes floats. One of
up to 7 bits is the lower byte of such a half: with 0x43 above it, 128 more than it is. Converting bytes to numbers and these to floats
takes about twice as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.cpu.vectors import bytes_of, hold, joined, lanes_of, shuffled
from aprgraph.codegen.tir import Expr
from aprgraph.graph.block_decoders import RUN

#: Elements in 16 bytes, and bytes of the instruction's table and of each half of a register.
ELEMENTS, _HALF = 32, 16
#: Elements of a vector of AVX2: half of a run.
HALF_RUN = 8
#: Values that are looked up, and what more than a byte holds that is made a float by another byte: 2^7 with 7 bits behind it.
_LOOKED_UP, _ABOVE, _UPPER_BYTE = 16, 128, 0x43
#: Which 4 bytes of the 16 that hold 32 elements go where: interleaving is done in each half of a register, and brings the elements of a
#: vector side by side. Those of their upper bits come last.
_ORDER = (0, 2, 0, 2, 1, 3, 1, 3)


@dataclass(frozen=True)
class Bits:
    """Bits of bytes of a field from ``offset`` on: those that ``mask`` has of the byte shifted down, then shifted up."""

    field: str
    offset: Any
    shift: Any = 0
    mask: int = 255
    up: int = 0


@dataclass(frozen=True)
class Codes:
    """Whole numbers of eight elements, before they are real, as decoders compute with them: ``bits`` side by side, less ``minus``, or the
    ``values`` at these places. Without ``bits`` it is something that is not made here.
    """

    bits: tuple[Bits, ...]
    minus: int = 0
    values: tuple[int, ...] | None = None

    @property
    def most(self) -> int:
        """The largest number that the bits are."""
        return sum(one.mask << one.up for one in self.bits)

    @property
    def table(self) -> np.ndarray[Any, np.dtype[np.uint32]] | None:
        """The float32 of each number, uint32 [16], where they are looked up."""
        if self.most >= _LOOKED_UP:
            return None
        values = self.values or tuple(range(-self.minus, _LOOKED_UP - self.minus))
        return np.array(values, np.float32).view(np.uint32)

    @property
    def is_known(self) -> bool:
        """Whether they can be made here."""
        if not self.bits or (self.values is not None and self.minus):
            return False
        table = self.table
        return self.values is None and self.most < _ABOVE if table is None else not (table & 0xFFFF).any()

    def __rshift__(self, count: int) -> Codes:
        return self._with(lambda one: replace(one, shift=one.shift + count, mask=one.mask >> count))

    def __and__(self, mask: int) -> Codes:
        return self._with(lambda one: replace(one, mask=one.mask & mask))

    def __lshift__(self, count: int) -> Codes:
        return self._with(lambda one: replace(one, up=count))

    def _with(self, change: Any) -> Codes:
        is_plain = len(self.bits) == 1 and not self.bits[0].up and not self.minus and self.values is None
        return Codes((change(self.bits[0]),) if is_plain else ())

    def __or__(self, other: Any) -> Codes:
        if not isinstance(other, Codes) or self.minus or other.minus or self.values or other.values or self.most & other.most:
            return Codes(())
        return Codes((*self.bits, *other.bits) if self.bits and other.bits else ())

    def __sub__(self, number: int) -> Codes:
        return replace(self, minus=self.minus + number)

    def looked_up(self, table: tuple[int, ...]) -> Codes:
        """The elements of a table at these places."""
        return replace(self, values=table) if not self.minus and self.values is None else Codes(())

    def moved(self, steps: Sequence[tuple[Any, Any]]) -> Codes:
        """Those whose bits lie so many bytes, and so many bits, further on."""
        moved = (replace(one, offset=one.offset + step, shift=one.shift + bits) for one, (step, bits) in zip(self.bits, steps, strict=True))
        return replace(self, bits=tuple(moved))

    def steps_to(self, other: Codes) -> list[tuple[int, int]]:
        """What ``moved`` takes to make these of others."""
        return [(theirs.offset - one.offset, theirs.shift - one.shift) for one, theirs in zip(self.bits, other.bits, strict=True)]

    def in_same_bytes(self, other: Codes) -> bool:
        """Whether others are other bits of the same bytes."""
        return len(self.bits) == len(other.bits) and self.moved([(0, shift) for _, shift in self.steps_to(other)]) == other


class Pairs:
    """The runs of a block, each given by the codes of its first half, in pairs that lie in the same bytes."""

    def __init__(self, runs: Sequence[Codes]) -> None:
        self.runs = runs
        #: By each run, which of its pair it is, and the pair.
        self.of: dict[int, tuple[int, tuple[int, int]]] = {}
        for number, run in enumerate(runs):
            other = next((other for other in range(number) if other not in self.of and runs[other].in_same_bytes(run)), None)
            if other is not None:
                self.of[other], self.of[number] = (0, (other, number)), (1, (other, number))

    @property
    def are_all(self) -> bool:
        """Whether every run is in one."""
        return len(self.of) == len(self.runs)

    @property
    def group(self) -> int:
        """The least number of runs that hold whole pairs, and behind which the same comes again so many bytes and bits further on."""
        return next(count for count in range(2, len(self.runs) + 1) if len(self.runs) % count == 0 and self._comes_again(count))

    def steps(self, count: int) -> list[tuple[int, int]]:
        """How far the bits of each group of ``count`` runs lie behind those of the one before."""
        return self.runs[0].steps_to(self.runs[count % len(self.runs)])

    def _comes_again(self, count: int) -> bool:
        steps = self.steps(count)
        return all(
            one // count == other // count
            and self.runs[number]
            == self.runs[number % count].moved([(number // count * byte, number // count * bit) for byte, bit in steps])
            and self.of[number][0] == self.of[number % count][0]
            for number, (_, (one, other)) in self.of.items()
        )


class TwoRuns:
    """Two runs of 16 elements that lie in the same bytes: their float32, f32 [8] of each half of each."""

    def __init__(self, runs: Sequence[Codes], block: Any) -> None:
        places, table = hold(_places(runs, block)), runs[0].table
        self._above: int | None = None
        if table is None:
            self._above = _ABOVE + runs[0].minus
            self._low, self._high = places, tirx.Broadcast(tirx.IntImm("uint8", _UPPER_BYTE), ELEMENTS)
        else:
            self._low, self._high = (
                hold(_looked_up(bytes_of([int(byte) for byte in table >> shift & 255] * 2), places)) for shift in (16, 24)
            )

    def halves(self, run: int) -> list[Expr]:
        """The elements of the first or the second run."""
        words = hold(T.reinterpret(f"uint16x{_HALF}", _interleaved(self._low, self._high, run)))
        zeros = tirx.Broadcast(tirx.IntImm("uint16", 0), _HALF)
        found = [T.reinterpret(f"float32x{HALF_RUN}", _interleaved(zeros, words, half)) for half in range(2)]
        if self._above is not None:
            found = [one - tirx.Broadcast(tirx.FloatImm("float32", self._above), HALF_RUN) for one in found]
        return [hold(one) for one in found]


def _places(runs: Sequence[Codes], block: Any) -> Expr:
    """Of 32 elements the whole numbers of their bits, uint8 [32], in the order in which they are interleaved."""
    kind = f"uint32x{len(_ORDER)}"
    order = bytes_of([4 * word + byte for word in _ORDER for byte in range(4)])
    found: Expr | None = None
    for one, other in zip(*(run.bits for run in runs), strict=True):
        some = block.bytes(one.field, one.offset, RUN)
        wide = T.reinterpret(kind, _looked_up(joined(some, some), _hidden(order)))
        # Byte by byte: what crosses from one into another is masked away.
        wide = (wide >> _by_run(one.shift, other.shift)) & tirx.Broadcast(tirx.IntImm("uint32", one.mask * 0x01010101), len(_ORDER))
        if one.up:
            wide = wide << tirx.Broadcast(tirx.IntImm("uint32", one.up), len(_ORDER))
        found = wide if found is None else found | wide
    assert found is not None
    return T.reinterpret(f"uint8x{ELEMENTS}", found)


def _by_run(one: Any, other: Any) -> Expr:
    """A number for the elements of each of two runs, uint32 [8]."""
    if isinstance(one, int) and isinstance(other, int):
        numbers = [(one, other)[number // 2 % 2] for number in range(len(_ORDER))]
        return tirx.Shuffle([tirx.IntImm("uint32", number) for number in numbers], [tirx.IntImm("int32", i) for i in range(len(numbers))])
    scalars = [T.Cast("uint32", number) for number in (one, other)]
    return tirx.Shuffle([scalars[number // 2 % 2] for number in range(len(_ORDER))], [tirx.IntImm("int32", i) for i in range(len(_ORDER))])


def _hidden(constant: Expr) -> Expr:
    """A constant that LLVM does not see through: of an order that it knows it makes an instruction that takes longer."""
    kind = f"float32x{len(_ORDER)}"
    return T.reinterpret(f"uint8x{ELEMENTS}", T.call_llvm_pure_intrin(kind, "llvm.arithmetic.fence", T.reinterpret(kind, constant)))


def _looked_up(table: Expr, places: Expr) -> Expr:
    """The bytes of a table at places, in each half of a register."""
    return T.call_llvm_pure_intrin(f"uint8x{ELEMENTS}", "llvm.x86.avx2.pshuf.b", table, places)


def _interleaved(low: Expr, high: Expr, part: int) -> Expr:
    """The lower (``part`` 0) or upper elements of each half of two registers, in turns."""
    count = lanes_of(low)
    half = count // 2
    at = [side * half + part * half // 2 + i for side in range(2) for i in range(half // 2)]
    return shuffled([low, high], [place for i in at for place in (i, count + i)])
