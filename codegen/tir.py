"""Helpers over TVM's IRBuilder: kernels are Python functions that emit loops and stores.

All index arithmetic is int64 (a weight matrix may exceed 2^31 bytes; TVM wants one width inside one buffer's indices).
Multiply-adds are explicit: a fused multiply-add where the CPU has one, a product and a sum where it has not, and never
left to the compiler, so that two kernels that must agree bit by bit do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

#: A TVM expression, variable or buffer; TVM ships no types.
Expr = Any
Buffer = Any


def i64(value: int) -> Expr:
    """An int64 constant."""
    return tirx.IntImm("int64", value)


def f32(value: float) -> Expr:
    """An f32 constant."""
    return tirx.FloatImm("float32", value)


class Arithmetic(ABC):
    """Arithmetic that every target does alike, but for how it says multiply-add."""

    @abstractmethod
    def fma(self, a: Expr, b: Expr, c: Expr) -> Expr:
        """a · b + c in f32, rounded once where the target can."""

    def exp(self, x: Expr) -> Expr:
        """e^x in f32 within 2 ulp, 0 below -87.3, inf above 88.7; NaN stays. Vectorises, unlike the library's.

        Cody and Waite's reduction x = k·ln 2 + r (ln 2 in two parts), a polynomial on |r| <= ln 2 / 2 with the
        coefficients of Cephes' expf, and 2^k put together from its exponent bits, in two halves so that k may be -150..129.
        """
        clamped = T.max(T.min(x, f32(89.0)), f32(-104.0))
        k = T.floor(self.fma(clamped, f32(1.4426950408889634), f32(0.5)))
        r = self.fma(k, f32(-0.693359375), clamped)
        r = self.fma(k, f32(2.12194440e-4), r)
        p = f32(1.9875691500e-4)
        for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            p = self.fma(p, r, f32(coefficient))
        p = self.fma(p, r * r, r + f32(1.0))
        whole = T.Cast("int32", k)
        half = whole >> tirx.IntImm("int32", 1)
        return T.Select(is_nan(x), x, p * _normal_power(half) * _normal_power(whole - half))

    def power_of_two(self, exponent: Expr) -> Expr:
        """2^exponent in f32 for an int32 from -149 to 127: in two factors, for what lies below the normal numbers."""
        half = exponent >> tirx.IntImm("int32", 1)
        return _normal_power(half) * _normal_power(exponent - half)


def _normal_power(exponent: Expr) -> Expr:
    """2^exponent put together from its bits, for an int32 from -126 to 127."""
    return T.reinterpret("float32", (exponent + 127) << tirx.IntImm("int32", 23))


def is_nan(x: Expr) -> Expr:
    """Whether an f32 is NaN, by its bits: TVM simplifies x != x to false."""
    magnitude = T.reinterpret("int32", x) & tirx.IntImm("int32", 0x7FFFFFFF)
    return magnitude > tirx.IntImm("int32", 0x7F800000)


def is_finite(x: Expr) -> Expr:
    """Whether an f32 is neither NaN nor Inf, by its bits."""
    magnitude = T.reinterpret("int32", x) & tirx.IntImm("int32", 0x7FFFFFFF)
    return magnitude < tirx.IntImm("int32", 0x7F800000)


def along(buffer: Buffer, *indices: Expr) -> Callable[[Expr], Expr]:
    """The elements of ``buffer`` from ``indices`` on along its last dimension, by lane."""
    *rows, column = indices

    def element(lane: Expr) -> Expr:
        index = (*rows, column + lane)
        return buffer[index]

    return element


def only(buffer: Buffer) -> Expr:
    """The one element of a buffer that stands for a variable."""
    return buffer[i64(0)]


@contextmanager
def block(name: str = "body") -> Iterator[None]:
    """A TVM block, which allocations need."""
    with T.sblock(name):
        yield


def scratch(shape: Sequence[int], dtype: str = "float32") -> Buffer:
    """A buffer in the thread's workspace, aligned to 64 bytes."""
    return T.sblock_alloc_buffer([i64(dim) for dim in shape], dtype)


def registers(count: int, dtype: str = "float32") -> Buffer:
    """A small buffer that the compiler keeps in registers. TVM moves more than 1024 bytes to the heap."""
    assert count * 4 <= 1024
    return T.sblock_alloc_buffer((i64(count),), dtype, scope="local")


class Parameters:
    """Declares the parameters of a kernel in order, and the sizes n and t that they share."""

    def __init__(self) -> None:
        self._symbols: dict[str, Expr] = {}

    def size(self, dim: int | str) -> Expr:
        """A dimension as int64; a symbol is one variable throughout the kernel."""
        if isinstance(dim, int):
            return i64(dim)
        if dim not in self._symbols:
            self._symbols[dim] = tirx.Var(dim, "int64")
        return self._symbols[dim]

    def buffer(self, name: str, dims: Sequence[int | str], dtype: str, align: int = 64) -> Buffer:
        """The next parameter, a buffer whose data begins at a multiple of ``align`` bytes."""
        handle = T.arg(name, T.handle())
        return T.match_buffer(handle, [self.size(dim) for dim in dims], dtype, align=align)


def build_function(name: str, emit: Callable[[Parameters], None]) -> Any:
    """A PrimFunc ``name`` whose parameters and body ``emit`` declares."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        emit(Parameters())
    return builder.get()
