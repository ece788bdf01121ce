"""Dot products of bytes, four at a time, for several rows of a weight side by side: by the instructions of each CPU level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import AARCH64, Cpu
from aprgraph.codegen.kernels.cpu.vectors import by_parts, bytes_of, dtype_of, lanes_of, part_of, same_word
from aprgraph.codegen.tir import Expr

#: Bytes of one row in a vector: what one 32-bit lane holds.
FOUR = 4
#: Bytes of a register of SSE and NEON, and of one table that is looked up in.
_SIXTEEN = 16
#: f32 in a vector from which on an x86-64 level has these instructions for 32 bytes, and not for 16.
_WIDE = 8

#: A vector of weights, as the instructions take it; the last of them is that of the weights themselves.
Weights = tuple[Expr, ...]


@dataclass(frozen=True)
class Word:
    """Four elements of x, as an i32; and, where weights have an ``offset``, their sum times that, taken off."""

    elements: Expr
    offset: Expr | None = None


@dataclass(frozen=True)
class Scaled:
    """``scales`` as the dot product made them, and ``sums``, i32 [rows], that products are added to.

    ``is_short``: four products are less than 2^15.
    """

    scales: Expr
    sums: Expr
    is_short: bool


class IntegerDot(ABC):
    """Emits expressions for ``rows`` rows side by side: i32 [rows], or u8 [4 · rows], of which lane r holds four elements of row r.

    Whole numbers are exact, so that all levels give the same. x is from -127 on.
    """

    rows = 8

    @abstractmethod
    def prepared(self, weights: Expr, *, signed: bool) -> Weights:
        """What ``products`` takes of u8 [4 · rows], ``signed`` numbers of 8 bits or unsigned ones (of 7, where offset() is 0)."""

    def offset(self, signed: bool, offset: int, scaled: bool) -> int:
        """By how much weights are to be more than they are, so that they are unsigned; 0 to take them as they are.

        ``offset`` is by how much they are more as they lie in memory, and ``scaled`` whether their products are multiplied by ``scales``.
        """
        del signed, offset, scaled
        return 0

    @abstractmethod
    def scales(self, whole: Expr) -> Expr:
        """What ``products`` takes of a whole number of 16 bits for each row, i32 [rows]."""

    @abstractmethod
    def products(self, weights: Weights, x: Word, *, signed: bool, scaled: Scaled | None) -> Expr:
        """The products of each row with x, four of them added: i32 [rows]. With ``scaled`` times its scales, and added to its sums."""

    @abstractmethod
    def none(self, offset: Expr | None, *, is_tiny: bool) -> Expr:
        """The sum of no products for ``more``; ``offset`` as in ``Word``, of all that will be added."""

    @abstractmethod
    def more(self, sums: Expr, weights: Weights, x: Expr, *, signed: bool, scales: Expr | None) -> Expr:
        """``sums``, and the products with four elements of x; times ``scales``, where the sums are not of 16 bits."""

    @abstractmethod
    def whole(self, sums: Expr, scales: Expr | None, offset: Expr | None) -> Expr:
        """What ``more`` added up, times ``scales``: i32 [rows]."""

    @abstractmethod
    def multiply_pairs(self, a: Expr, b: Expr) -> Expr:
        """The products of two i16 of each row, in i32 [rows], with those of one i32, added: i32 [rows]."""

    @abstractmethod
    def look_up(self, table: Sequence[int], index: Expr) -> Expr:
        """The bytes of a table of 16 at u8 [4 · rows], each below 16."""


def integer_dot(cpu: Cpu) -> IntegerDot:
    """That of a CPU."""
    if cpu.machine == AARCH64:
        return _Neon(has_sdot=cpu.has_sdot)
    return _Vnni() if cpu.has_vnni else _X86(is_wide=cpu.lanes >= _WIDE)


class _X86(IntegerDot):
    """By products of unsigned with signed bytes, two of them added into 16 bits."""

    def __init__(self, *, is_wide: bool) -> None:
        self._is_wide = is_wide

    def prepared(self, weights: Expr, *, signed: bool) -> Weights:
        """See ``IntegerDot.prepared``: the absolute values, as unsigned numbers, and what has the signs."""
        return (self._call("psign.b", "uint8", weights, weights), weights) if signed else (weights,)

    def scales(self, whole: Expr) -> Expr:
        """See ``IntegerDot.scales``: i16 [2 · rows], for pairs of neighbours."""
        return T.reinterpret(f"int16x{2 * self.rows}", whole & 0xFFFF | whole << 16)

    def offset(self, signed: bool, offset: int, scaled: bool) -> int:
        """See ``IntegerDot.offset``: signs cost more than a sum, if there is no factor before it."""
        return offset if signed and not scaled else 0

    def products(self, weights: Weights, x: Word, *, signed: bool, scaled: Scaled | None) -> Expr:
        """See ``IntegerDot.products``."""
        numbers = same_word(x.elements, self.rows, "int8")
        if signed:
            numbers = self._call("psign.b", "int8", numbers, weights[-1])
        pairs = self._call("pmadd.ub.sw", "int16", weights[0], numbers)
        if scaled is not None:
            assert x.offset is None
            return scaled.sums + self._call("pmadd.wd", "int32", pairs, scaled.scales)
        fours = self._call("pmadd.wd", "int32", pairs, self._ones())
        return fours if x.offset is None else fours + tirx.Broadcast(x.offset, self.rows)

    def _ones(self) -> Expr:
        return tirx.Broadcast(tirx.IntImm("int16", 1), 2 * self.rows)

    def none(self, offset: Expr | None, *, is_tiny: bool) -> Expr:
        """See ``IntegerDot.none``: sums of pairs, if they remain within 16 bits."""
        del offset
        return tirx.Broadcast(tirx.IntImm("int16" if is_tiny else "int32", 0), self.rows * (2 if is_tiny else 1))

    def more(self, sums: Expr, weights: Weights, x: Expr, *, signed: bool, scales: Expr | None) -> Expr:
        """See ``IntegerDot.more``."""
        numbers = same_word(x, self.rows, "int8")
        if signed:
            numbers = self._call("psign.b", "int8", numbers, weights[-1])
        pairs = self._call("pmadd.ub.sw", "int16", weights[0], numbers)
        return sums + (
            pairs if dtype_of(sums) == "int16" else self._call("pmadd.wd", "int32", pairs, self._ones() if scales is None else scales)
        )

    def whole(self, sums: Expr, scales: Expr | None, offset: Expr | None) -> Expr:
        """See ``IntegerDot.whole``."""
        if dtype_of(sums) == "int16":
            sums = self._call("pmadd.wd", "int32", sums, self._ones() if scales is None else scales)
        return sums if offset is None else sums + tirx.Broadcast(offset, self.rows)

    def multiply_pairs(self, a: Expr, b: Expr) -> Expr:
        """See ``IntegerDot.multiply_pairs``."""
        return self._call("pmadd.wd", "int32", T.reinterpret(f"int16x{2 * self.rows}", a), same_word(b, self.rows, "int16"))

    def look_up(self, table: Sequence[int], index: Expr) -> Expr:
        """See ``IntegerDot.look_up``."""
        return self._call("pshuf.b", "uint8", bytes_of(list(table) * (lanes_of(index) // _SIXTEEN)), index)

    def _call(self, name: str, dtype: str, *operands: Expr) -> Expr:
        nbytes = lanes_of(operands[0]) * (1 if name != "pmadd.wd" else 2)
        if nbytes > _SIXTEEN and not self._is_wide:
            return by_parts(nbytes // _SIXTEEN, lambda *parts: self._call(name, dtype, *parts), *operands)
        lanes = nbytes // {"uint8": 1, "int8": 1, "int16": 2, "int32": 4}[dtype]
        short, wide = _INTRINSICS[name]
        return T.call_llvm_pure_intrin(f"{dtype}x{lanes}", f"llvm.x86.{wide if nbytes > _SIXTEEN else short}", *operands)


#: Names of LLVM's, for 16 bytes and for 32.
_INTRINSICS = {
    "psign.b": ("ssse3.psign.b.128", "avx2.psign.b"),
    "pmadd.ub.sw": ("ssse3.pmadd.ub.sw.128", "avx2.pmadd.ub.sw"),
    "pmadd.wd": ("sse2.pmadd.wd", "avx2.pmadd.wd"),
    "pshuf.b": ("ssse3.pshuf.b.128", "avx2.pshuf.b"),
}


class _Vnni(IntegerDot):
    """By one instruction of AVX-512 VNNI, which adds four products of unsigned bytes with signed ones, those of x."""

    rows = 16

    def offset(self, signed: bool, offset: int, scaled: bool) -> int:
        """See ``IntegerDot.offset``: x is what has the signs."""
        del scaled
        return (offset or 128) if signed else 0

    def prepared(self, weights: Expr, *, signed: bool) -> Weights:
        """See ``IntegerDot.prepared``: as they are."""
        assert not signed
        return (weights,)

    def scales(self, whole: Expr) -> Expr:
        """See ``IntegerDot.scales``: as numbers of 16 bits, beside 0."""
        return whole & 0xFFFF

    def products(self, weights: Weights, x: Word, *, signed: bool, scaled: Scaled | None) -> Expr:
        """See ``IntegerDot.products``."""
        del signed
        before = tirx.Broadcast(tirx.IntImm("int32", 0) if x.offset is None else x.offset, self.rows)
        fours = self._call("vpdpbusd", before, weights[0], same_word(x.elements, self.rows, "int8"))
        if scaled is None:
            return fours
        if not scaled.is_short:
            return scaled.sums + fours * (scaled.scales << 16 >> 16)
        # The upper halves of the four, which have their signs, meet the zeros.
        return self._call("vpdpwssd", scaled.sums, *(T.reinterpret(f"int16x{2 * self.rows}", each) for each in (fours, scaled.scales)))

    def none(self, offset: Expr | None, *, is_tiny: bool) -> Expr:
        """See ``IntegerDot.none``."""
        del is_tiny
        return tirx.Broadcast(tirx.IntImm("int32", 0) if offset is None else offset, self.rows)

    def more(self, sums: Expr, weights: Weights, x: Expr, *, signed: bool, scales: Expr | None) -> Expr:
        """See ``IntegerDot.more``."""
        del signed, scales
        return self._call("vpdpbusd", sums, weights[0], same_word(x, self.rows, "int8"))

    def whole(self, sums: Expr, scales: Expr | None, offset: Expr | None) -> Expr:
        """See ``IntegerDot.whole``."""
        del offset
        return sums if scales is None else sums * (scales << 16 >> 16)

    def multiply_pairs(self, a: Expr, b: Expr) -> Expr:
        """See ``IntegerDot.multiply_pairs``."""
        pairs = T.reinterpret(f"int16x{2 * self.rows}", a), same_word(b, self.rows, "int16")
        return self._call("pmaddw.d", *pairs)

    def look_up(self, table: Sequence[int], index: Expr) -> Expr:
        """See ``IntegerDot.look_up``."""
        whole = bytes_of(list(table) * (lanes_of(index) // _SIXTEEN))
        return T.call_llvm_pure_intrin(f"uint8x{FOUR * self.rows}", "llvm.x86.avx512.pshuf.b.512", whole, index)

    def _call(self, name: str, *operands: Expr) -> Expr:
        return T.call_llvm_pure_intrin(f"int32x{self.rows}", f"llvm.x86.avx512.{name}.512", *operands)


class _Neon(IntegerDot):
    """By products of signed bytes: unsigned ones of 7 bits are that too. With ``has_sdot`` one instruction adds four of them."""

    def __init__(self, *, has_sdot: bool) -> None:
        self._has_sdot = has_sdot

    def prepared(self, weights: Expr, *, signed: bool) -> Weights:
        """See ``IntegerDot.prepared``: as they are."""
        del signed
        return (weights,)

    def scales(self, whole: Expr) -> Expr:
        """See ``IntegerDot.scales``: as they are."""
        return whole

    def products(self, weights: Weights, x: Word, *, signed: bool, scaled: Scaled | None) -> Expr:
        """See ``IntegerDot.products``."""
        del signed
        numbers = T.reinterpret(f"int8x{FOUR * self.rows}", weights[0]), same_word(x.elements, self.rows, "int8")
        fours = by_parts(FOUR * self.rows // _SIXTEEN, self._fours, *numbers)
        return fours if scaled is None else scaled.sums + fours * scaled.scales

    def none(self, offset: Expr | None, *, is_tiny: bool) -> Expr:
        """See ``IntegerDot.none``."""
        del offset, is_tiny
        return tirx.Broadcast(tirx.IntImm("int32", 0), self.rows)

    def more(self, sums: Expr, weights: Weights, x: Expr, *, signed: bool, scales: Expr | None) -> Expr:
        """See ``IntegerDot.more``."""
        del signed, scales
        numbers = T.reinterpret(f"int8x{FOUR * self.rows}", weights[0]), same_word(x, self.rows, "int8")
        return sums + by_parts(FOUR * self.rows // _SIXTEEN, self._fours, *numbers)

    def whole(self, sums: Expr, scales: Expr | None, offset: Expr | None) -> Expr:
        """See ``IntegerDot.whole``."""
        del offset
        return sums if scales is None else sums * scales

    def _fours(self, w: Expr, x: Expr) -> Expr:
        """The same of i8 [16]: i32 [4]."""
        if self._has_sdot:
            zero = tirx.Broadcast(tirx.IntImm("int32", 0), 4)
            return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sdot", zero, w, x)
        low, high = (_call_neon("smull", "int16x8", *(part_of(vector, 2, part) for vector in (w, x))) for part in (0, 1))
        # Two products are at most 2 * 128 * 127, which 16 bits hold.
        return _call_neon("saddlp", "int32x4", _call_neon("addp", "int16x8", low, high))

    def multiply_pairs(self, a: Expr, b: Expr) -> Expr:
        """See ``IntegerDot.multiply_pairs``."""

        def pairs(a: Expr, b: Expr) -> Expr:
            low, high = (_call_neon("smull", "int32x4", *(part_of(vector, 2, part) for vector in (a, b))) for part in (0, 1))
            return _call_neon("addp", "int32x4", low, high)

        numbers = T.reinterpret(f"int16x{2 * self.rows}", a), same_word(b, self.rows, "int16")
        return by_parts(FOUR * self.rows // _SIXTEEN, pairs, *numbers)

    def look_up(self, table: Sequence[int], index: Expr) -> Expr:
        """See ``IntegerDot.look_up``."""
        whole = bytes_of(list(table))
        return by_parts(lanes_of(index) // _SIXTEEN, lambda part: _call_neon("tbl1", f"uint8x{_SIXTEEN}", whole, part), index)


def _call_neon(name: str, kind: str, *operands: Expr) -> Expr:
    return T.call_llvm_pure_intrin(kind, f"llvm.aarch64.neon.{name}", *operands)
