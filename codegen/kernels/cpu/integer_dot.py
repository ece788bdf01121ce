"""Integer dot products of 32 elements of 8 bits, by the instructions that every CPU level has for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import AARCH64, Cpu
from aprgraph.codegen.tir import Buffer, Expr, i64

#: Elements of a dot product, and the sums that it gives: each of four elements.
WIDTH, LANES = 32, 8
#: Elements that share a whole number: half of a dot product.
_HALF = WIDTH // 2
#: f32 in a vector from which on an x86-64 level has these instructions for 32 bytes, and not for 16.
_WIDE = 8
#: Bytes of a register of NEON.
_NEON = 16


class IntegerDot(ABC):
    """Emits the expressions of one CPU level. Whole numbers are exact, so that all levels give the same."""

    @abstractmethod
    def prepared(self, weights: Expr, *, signed: bool) -> Expr:
        """What ``fours`` takes of u8 [32], which are ``signed`` numbers of 8 bits or unsigned ones of 7: for all that they meet."""

    @abstractmethod
    def scales(self, low: Expr, high: Expr, *, alike: bool) -> Expr:
        """What ``fours`` takes of the whole numbers for the first 16 and the last 16 elements; ``alike``: they are the same."""

    @abstractmethod
    def fours(self, prepared: Expr, signs: Expr | None, x: Expr, scales: Expr | None) -> Expr:
        """The products with x, i8 [32], of what is ``prepared``, four of them added, and times ``scales`` if there are some: i32 [8].

        ``signs`` are the weights themselves where they are signed. x is from -127 on.
        """

    @abstractmethod
    def multiply_pairs(self, a: Expr, b: Expr) -> Expr:
        """The products of i16 [16] or [8], two of them added: i32 of half as many."""

    @abstractmethod
    def look_up(self, table: Expr, index: Expr) -> Expr:
        """The bytes of ``table``, u8 [16], at u8 [16], each below 16."""


def integer_dot(cpu: Cpu) -> IntegerDot:
    """That of a CPU."""
    return _Neon(has_sdot=cpu.has_sdot) if cpu.machine == AARCH64 else _X86(is_wide=cpu.lanes >= _WIDE)


class _X86(IntegerDot):
    """By products of unsigned with signed bytes, two of them added into 16 bits."""

    def __init__(self, *, is_wide: bool) -> None:
        self._is_wide = is_wide

    def prepared(self, weights: Expr, *, signed: bool) -> Expr:
        """See ``IntegerDot.prepared``: the absolute values, as unsigned numbers."""
        return self._call("psign.b", "int8", weights, weights) if signed else weights

    def scales(self, low: Expr, high: Expr, *, alike: bool) -> Expr:
        """See ``IntegerDot.scales``: i16 [16], for pairs of neighbours."""
        return _spread(low, high, "int16", _HALF, alike=alike)

    def fours(self, prepared: Expr, signs: Expr | None, x: Expr, scales: Expr | None) -> Expr:
        """See ``IntegerDot.fours``."""
        pairs = self._call("pmadd.ub.sw", "int16", prepared, x if signs is None else self._call("psign.b", "int8", x, signs))
        return self.multiply_pairs(pairs, tirx.Broadcast(tirx.IntImm("int16", 1), _HALF) if scales is None else scales)

    def multiply_pairs(self, a: Expr, b: Expr) -> Expr:
        """See ``IntegerDot.multiply_pairs``."""
        return self._call("pmadd.wd", "int32", a, b)

    def look_up(self, table: Expr, index: Expr) -> Expr:
        """See ``IntegerDot.look_up``."""
        kind = f"int8x{_HALF}"
        operands = [T.reinterpret(kind, vector) for vector in (table, index)]
        return T.reinterpret(f"u{kind}", T.call_llvm_pure_intrin(kind, "llvm.x86.ssse3.pshuf.b.128", *operands))

    def _call(self, name: str, dtype: str, *operands: Expr) -> Expr:
        nbytes = lanes_of(operands[0]) * (1 if name != "pmadd.wd" else 2)
        if nbytes == WIDTH and not self._is_wide:
            return _by_parts(2, lambda *parts: self._call(name, dtype, *parts), *operands)
        lanes = nbytes // {"int8": 1, "int16": 2, "int32": 4}[dtype]
        short = {"psign.b": "ssse3.psign.b.128", "pmadd.ub.sw": "ssse3.pmadd.ub.sw.128", "pmadd.wd": "sse2.pmadd.wd"}[name]
        intrinsic = f"llvm.x86.avx2.{name}" if nbytes == WIDTH else f"llvm.x86.{short}"
        return T.call_llvm_pure_intrin(f"{dtype}x{lanes}", intrinsic, *operands)


class _Neon(IntegerDot):
    """By products of signed bytes: unsigned ones of 7 bits are that too. With ``has_sdot`` one instruction adds four of them."""

    def __init__(self, *, has_sdot: bool) -> None:
        self._has_sdot = has_sdot

    def prepared(self, weights: Expr, *, signed: bool) -> Expr:
        """See ``IntegerDot.prepared``: as they are."""
        del signed
        return weights

    def scales(self, low: Expr, high: Expr, *, alike: bool) -> Expr:
        """See ``IntegerDot.scales``: i32 [8], for four neighbours."""
        return _spread(low, high, "int32", LANES, alike=alike)

    def fours(self, prepared: Expr, signs: Expr | None, x: Expr, scales: Expr | None) -> Expr:
        """See ``IntegerDot.fours``."""
        del signs
        sums = _by_parts(WIDTH // _NEON, self._fours, T.reinterpret(f"int8x{WIDTH}", prepared), x)
        return sums if scales is None else sums * scales

    def _fours(self, w: Expr, x: Expr) -> Expr:
        """The same of i8 [16]: i32 [4]."""
        if self._has_sdot:
            zero = tirx.Broadcast(tirx.IntImm("int32", 0), 4)
            return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sdot", zero, w, x)
        low, high = (_call_neon("smull", "int16x8", *(_part(vector, 2, part) for vector in (w, x))) for part in (0, 1))
        # Two products are at most 2 * 128 * 127, which 16 bits hold.
        return _call_neon("saddlp", "int32x4", _call_neon("addp", "int16x8", low, high))

    def multiply_pairs(self, a: Expr, b: Expr) -> Expr:
        """See ``IntegerDot.multiply_pairs``."""

        def pairs(a: Expr, b: Expr) -> Expr:
            low, high = (_call_neon("smull", "int32x4", *(_part(vector, 2, part) for vector in (a, b))) for part in (0, 1))
            return _call_neon("addp", "int32x4", low, high)

        return _by_parts(lanes_of(a) * 2 // _NEON, pairs, a, b)

    def look_up(self, table: Expr, index: Expr) -> Expr:
        """See ``IntegerDot.look_up``."""
        return _call_neon("tbl1", f"uint8x{_NEON}", table, index)


def _call_neon(name: str, kind: str, *operands: Expr) -> Expr:
    return T.call_llvm_pure_intrin(kind, f"llvm.aarch64.neon.{name}", *operands)


def _spread(low: Expr, high: Expr, dtype: str, lanes: int, *, alike: bool) -> Expr:
    """Two whole numbers in the halves of a vector."""
    if alike:
        return tirx.Broadcast(T.Cast(dtype, low), lanes)
    return joined(*(tirx.Broadcast(T.Cast(dtype, scale), lanes // 2) for scale in (low, high)))


def _by_parts(count: int, function: Callable[..., Expr], *vectors: Expr) -> Expr:
    """What ``function`` gives of each of ``count`` parts of ``vectors``, side by side."""
    if count == 1:
        return function(*vectors)
    found = [function(*(_part(vector, count, part) for vector in vectors)) for part in range(count)]
    return joined(*found)


def lanes_of(vector: Expr) -> int:
    """How many elements a vector has."""
    _, _, lanes = str(vector.ty).partition("x")
    return int(lanes or 1)


def dtype_of(vector: Expr) -> str:
    """The dtype of its elements."""
    return str(vector.ty).partition("x")[0]


def joined(low: Expr, high: Expr) -> Expr:
    """Two vectors as one."""
    return tirx.Shuffle([low, high], [tirx.IntImm("int32", lane) for lane in range(2 * lanes_of(low))])


def _part(vector: Expr, count: int, part: int) -> Expr:
    """One of ``count`` equal parts of a vector."""
    lanes = lanes_of(vector) // count
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
