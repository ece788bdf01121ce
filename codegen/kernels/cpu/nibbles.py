"""The whole numbers of 4 bits of 32 elements as float32, with AVX2: looked up by bytes, 32 at once.

A whole number of up to 8 bits has zeros in the lower half of its float32. So two tables of 16 bytes, one of the highest bytes and one of
those below, make halves of floats of 4 bits, and interleaving, with each other and with zeros, makes floats. Converting bytes to
32-bit numbers and these to floats takes about twice as long.
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
BYTES_OF_HALF_RUN = 8
_NUMBERS = 16
#: Which 4 bytes of the 16 that hold 32 elements go where: interleaving is done in each half of a register, and brings the elements of a
#: vector side by side. Those of their upper bits come last.
_ORDER = (0, 2, 0, 2, 1, 3, 1, 3)


@dataclass(frozen=True)
class Nibbles:
    """Whole numbers of eight elements: what ``values`` has at the bits from ``shift`` on, at most ``most``, of bytes of a field from
    ``offset`` on. What decoders compute of whole numbers before they are real.
    """

    field: str
    offset: int
    shift: int = 0
    most: int = 255
    values: tuple[int, ...] = tuple(range(_NUMBERS))

    @property
    def is_whole(self) -> bool:
        """Whether these are 4 bits, of values whose float32 has zeros in its lower half."""
        bits = np.array(self.values, np.float32).view(np.uint32)
        return self.most == _NUMBERS - 1 and not (bits & 0xFFFF).any()

    def __rshift__(self, count: int) -> Nibbles:
        return replace(self, shift=self.shift + count, most=self.most >> count)

    def __and__(self, mask: int) -> Nibbles:
        # Other bits than the lowest four are not looked at, nor those of bytes' upper halves where these are shifted down.
        return replace(self, most=mask if self.most & mask == mask else -1)

    def __sub__(self, number: int) -> Nibbles:
        return replace(self, values=tuple(value - number for value in self.values))

    def __or__(self, _other: Any) -> Nibbles:
        return replace(self, most=-1)

    __lshift__ = __ror__ = __or__

    def looked_up(self, table: tuple[int, ...]) -> Nibbles:
        """The elements of a table at these places."""
        return replace(self, values=table)


def pairs_of_runs(runs: Sequence[Nibbles]) -> list[tuple[int, int]] | None:
    """The runs, each given by its first half, that lie in the same bytes, by their numbers: each in one pair, or None."""
    found = []
    for number, run in enumerate(runs):
        others = [other for other in range(number) if replace(runs[other], shift=run.shift) == run]
        if others:
            found.append((others[0], number))
    return found if sorted(number for pair in found for number in pair) == list(range(len(runs))) else None


class TwoRuns:
    """Two runs of 16 elements that lie in the same bytes: their float32, f32 [8] of each half of each."""

    def __init__(self, runs: Sequence[Nibbles], block: Any) -> None:
        places = hold(_places(runs, block))
        bits = np.array(runs[0].values, np.float32).view(np.uint32)
        self._low, self._high = (hold(_looked_up(bytes_of([int(byte) for byte in bits >> shift & 255] * 2), places)) for shift in (16, 24))

    def halves(self, run: int) -> list[Expr]:
        """The elements of the first or the second run."""
        words = hold(T.reinterpret(f"uint16x{_HALF}", _interleaved(self._low, self._high, run)))
        zeros = tirx.Broadcast(tirx.IntImm("uint16", 0), _HALF)
        return [hold(T.reinterpret(f"float32x{BYTES_OF_HALF_RUN}", _interleaved(zeros, words, half))) for half in range(2)]


def _places(runs: Sequence[Nibbles], block: Any) -> Expr:
    """Of 32 elements the whole numbers 0 to 15, uint8 [32], in the order in which they are interleaved."""
    some = block.bytes(runs[0].field, runs[0].offset, RUN)
    found = _looked_up(joined(some, some), _hidden(bytes_of([4 * word + byte for word in _ORDER for byte in range(4)])))
    shifts = [runs[number // 2 % 2].shift for number in range(len(_ORDER))]
    wide = T.reinterpret(f"uint32x{len(_ORDER)}", found)
    wide = wide >> tirx.Shuffle([tirx.IntImm("uint32", shift) for shift in shifts], [tirx.IntImm("int32", i) for i in range(len(shifts))])
    return T.reinterpret(f"uint8x{ELEMENTS}", wide & tirx.Broadcast(tirx.IntImm("uint32", 0x0F0F0F0F), len(_ORDER)))


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
