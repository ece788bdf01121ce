"""Integer dot products of 32 elements of 8 bits, by the instructions that every CPU level has for them."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.tir import Buffer, Expr, i64

#: Elements of a dot product, and the sums that it gives: each of four elements.
WIDTH, LANES = 32, 8
#: f32 in a vector from which on the level has these instructions for 32 bytes, and not for 16.
_WIDE = 8


class IntegerDot:
    """Emits the expressions of one CPU level."""

    def __init__(self, cpu: Cpu) -> None:
        self._is_wide = cpu.lanes >= _WIDE

    def magnitude(self, w: Expr) -> Expr:
        """The absolute values of i8 [32], as unsigned numbers."""
        return self._call("psign.b", "int8", w, w)

    def pairs(self, magnitude: Expr, x: Expr, signs: Expr | None) -> Expr:
        """The products with x, i8 [32], of unsigned numbers of 7 bits (8 where ``x`` is from -127 on), two of them added: i16 [16].

        Where ``signs`` are given these are the signs of the former.
        """
        return self._call("pmadd.ub.sw", "int16", magnitude, x if signs is None else self._call("psign.b", "int8", x, signs))

    def fours(self, pairs: Expr, scales: Expr | None = None) -> Expr:
        """Neighbours of i16 [16], each times one of the ``scales`` if there are some, added: i32 [8]."""
        ones = tirx.Broadcast(tirx.IntImm("int16", 1), lanes_of(pairs))
        return self.multiply_pairs(pairs, ones if scales is None else scales)

    def multiply_pairs(self, a: Expr, b: Expr) -> Expr:
        """The products of i16 [16] or [8], two of them added: i32 of half as many."""
        return self._call("pmadd.wd", "int32", a, b)

    def _call(self, name: str, dtype: str, *operands: Expr) -> Expr:
        nbytes = lanes_of(operands[0]) * (1 if name != "pmadd.wd" else 2)
        if nbytes == WIDTH and not self._is_wide:
            halves = [[_half(operand, part) for operand in operands] for part in (0, 1)]
            return joined(*(self._call(name, dtype, *half) for half in halves))
        lanes = nbytes // {"int8": 1, "int16": 2, "int32": 4}[dtype]
        short = {"psign.b": "ssse3.psign.b.128", "pmadd.ub.sw": "ssse3.pmadd.ub.sw.128", "pmadd.wd": "sse2.pmadd.wd"}[name]
        intrinsic = f"llvm.x86.avx2.{name}" if nbytes == WIDTH else f"llvm.x86.{short}"
        return T.call_llvm_pure_intrin(f"{dtype}x{lanes}", intrinsic, *operands)


def lanes_of(vector: Expr) -> int:
    """How many elements a vector has."""
    _, _, lanes = str(vector.ty).partition("x")
    return int(lanes or 1)


def joined(low: Expr, high: Expr) -> Expr:
    """Two vectors as one."""
    return tirx.Shuffle([low, high], [tirx.IntImm("int32", lane) for lane in range(2 * lanes_of(low))])


def _half(vector: Expr, part: int) -> Expr:
    lanes = lanes_of(vector) // 2
    return tirx.Shuffle([vector], [tirx.IntImm("int32", part * lanes + lane) for lane in range(lanes)])


def vector_of(values: list[Expr]) -> Expr:
    """Scalars as a vector."""
    return tirx.Shuffle(values, [tirx.IntImm("int32", lane) for lane in range(len(values))])


def load_vector(buffer: Buffer, at: int, lanes: int) -> Expr:
    """``lanes`` elements of a small buffer."""
    return buffer[i64(at) if lanes == 1 else tirx.Ramp(i64(at), i64(1), lanes)]


def store_vector(buffer: Buffer, at: int, value: Expr) -> None:
    """Write a vector into a small buffer."""
    lanes = lanes_of(value)
    T.buffer_store(buffer, value, [i64(at) if lanes == 1 else tirx.Ramp(i64(at), i64(1), lanes)])
