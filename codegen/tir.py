"""Helpers over TVM's IRBuilder: kernels are Python functions that emit loops and stores.

All index arithmetic is int64 (a weight matrix may exceed 2^31 bytes; TVM wants one width inside one buffer's indices).
Multiply-adds are explicit: a fused multiply-add where the CPU has one, a product and a sum where it has not, and never
left to the compiler, so that two kernels that must agree bit by bit do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
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


#: Of 8-bit floating-point numbers: bits of the mantissa, bias of the exponent, and the least magnitude that is no number.
_FLOAT8 = {"float8_e4m3fn": (3, 7, 127), "float8_e5m2": (2, 15, 124)}


class Values:
    """Variables for what an expression reads several times: it is computed once.

    Without, it would be compiled as often as it is read, and one of several such as often as their product. What is read once is
    none: TVM's last pass looks at each variable with all that it is computed from.
    """

    def __init__(self) -> None:
        self._held: list[tuple[Expr, Expr]] = []

    def named(self, value: Expr) -> Expr:
        """A variable that holds ``value``; a variable or a constant is one as it is."""
        if isinstance(value, (tirx.Var, tirx.IntImm, tirx.FloatImm)):
            return value
        self._held.append((tirx.Var("value", value.ty), value))
        return self._held[-1][0]

    def whole(self, value: Expr) -> Expr:
        """``value`` with the variables that it reads. Each may be in one expression only."""
        for variable, held in reversed(self._held):
            value = tirx.Let(variable, held, value)
        return value


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
        values = Values()
        named = values.named
        x = named(x)
        clamped = named(T.max(T.min(x, f32(89.0)), f32(-104.0)))
        k = named(T.floor(self.fma(clamped, f32(1.4426950408889634), f32(0.5))))
        r = self.fma(k, f32(-0.693359375), clamped)
        r = named(self.fma(k, f32(2.12194440e-4), r))
        p = f32(1.9875691500e-4)
        for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            p = self.fma(p, r, f32(coefficient))
        p = self.fma(p, r * r, r + f32(1.0))
        whole = named(T.Cast("int32", k))
        half = named(whole >> tirx.IntImm("int32", 1))
        return values.whole(T.Select(is_nan(x), x, p * _normal_power(half) * _normal_power(whole - half)))

    def float8(self, dtype: str, bits: Expr) -> Expr:
        """The f32 value of an int32 that holds the bits of a float8_e4m3fn or float8_e5m2."""
        mantissa, bias, least_nan = _FLOAT8[dtype]
        magnitude = bits & tirx.IntImm("int32", 127)
        shifted = magnitude << tirx.IntImm("int32", 23 - mantissa)
        normal = shifted + tirx.IntImm("int32", (127 - bias) << 23)
        below_normal = T.reinterpret("int32", T.Cast("float32", magnitude) * f32(2.0 ** (1 - bias - mantissa)))
        value = T.Select(magnitude < 1 << mantissa, below_normal, normal)
        value = T.Select(magnitude >= least_nan, shifted | tirx.IntImm("int32", 0x7FC00000 if mantissa == 3 else 0x7F800000), value)
        sign = T.Cast("uint32", bits & tirx.IntImm("int32", 128)) << tirx.IntImm("uint32", 24)
        return T.reinterpret("float32", T.Cast("uint32", value) | sign)

    def rounded(self, x: Expr) -> Expr:
        """A product, rounded before anything is added to it. Only for compilers that would fuse the two."""
        return x

    def half(self, x: Expr) -> Expr:
        """The nearest float16 of an f32, half to even, as f32; NaN stays. By its bits, which every target has."""
        bits = T.reinterpret("int32", x)
        size = bits & tirx.IntImm("int32", 0x7FFFFFFF)
        odd = (size >> tirx.IntImm("int32", 13)) & tirx.IntImm("int32", 1)
        normal = (size + (odd + tirx.IntImm("int32", 0xFFF))) & tirx.IntImm("int32", -0x2000)
        # Below 2^-14 the step is 2^-24, which is that of a float32 from a half to 1: a sum there counts in such steps.
        steps = T.reinterpret("int32", T.reinterpret("float32", size) + f32(0.5)) - tirx.IntImm("int32", 0x3F000000)
        small = T.reinterpret("int32", T.Cast("float32", steps) * f32(2.0**-24))
        rounded = T.Select(size < tirx.IntImm("int32", 0x38800000), small, normal)
        rounded = T.Select(size >= tirx.IntImm("int32", 0x477FF000), tirx.IntImm("int32", 0x7F800000), rounded)
        rounded = T.Select(size > tirx.IntImm("int32", 0x7F800000), size, rounded)
        return T.reinterpret("float32", rounded | (bits ^ size))

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


class RowMajor:
    """A buffer of several dimensions over one of one dimension, which its elements lie in row by row.

    Kernels compute the place of an element themselves: TVM's own pass for that simplifies every single index, which was most of
    the time that a kernel took to compile. ``dims`` are int64.
    """

    def __init__(self, elements: Buffer, dims: Sequence[Expr]) -> None:
        self.elements, self._dims = elements, dims

    def place(self, indices: Any) -> Expr:
        """Where the element at ``indices`` lies."""
        place, *inner = indices if isinstance(indices, (tuple, list)) else (indices,)
        for index, dim in zip(inner, self._dims[1:], strict=True):
            place = place * dim + index
        return place

    def __getitem__(self, indices: Any) -> Expr:
        return self.elements[self.place(indices)]

    @property
    def data(self) -> Expr:
        """The pointer to the first element."""
        return self.elements.data

    def at(self, data: Expr) -> RowMajor:
        """A buffer of as many columns whose first element lies where ``data`` points."""
        found = self.elements
        return RowMajor(T.decl_buffer(found.shape, found.dtype, data=data, align=found.data_alignment), self._dims)


def assign(buffer: Buffer, value: Expr, indices: Sequence[Expr]) -> None:
    """Emit ``buffer[indices] = value``."""
    if isinstance(buffer, RowMajor):
        T.buffer_store(buffer.elements, value, [buffer.place(list(indices))])
    else:
        T.buffer_store(buffer, value, list(indices))


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


#: Elements of cheap work that take one thread about as long as waking another.
_FEW = 8192


def each_row(count: Expr, elements: int, body: Callable[[Expr], None]) -> None:
    """Emit ``body`` for each of ``count`` rows of about so many elements: in parallel, or one after the other where all take less time than
    other threads take to begin. A decoded token is hundreds of such kernels.
    """
    with T.If(count <= max(1, _FEW // elements)):
        with T.Then(), T.serial(i64(0), count) as row:
            body(row)
        with T.Else(), T.parallel(i64(0), count) as row:
            body(row)


def _product(dims: Sequence[Expr]) -> Expr:
    """How many elements there are, int64."""
    count = dims[0]
    for dim in dims[1:]:
        count = i64(int(count) * int(dim)) if isinstance(count, tirx.IntImm) and isinstance(dim, tirx.IntImm) else count * dim
    return count


def scratch(shape: Sequence[int | Expr], dtype: str = "float32") -> Buffer:
    """A buffer in the thread's workspace, aligned to 64 bytes."""
    dims = [i64(dim) if isinstance(dim, int) else dim for dim in shape]
    return RowMajor(T.alloc_buffer([_product(dims)], dtype), dims)


def registers(count: int, dtype: str = "float32") -> Buffer:
    """A small buffer that the compiler keeps in registers.

    TVM has those of its scope "local", and those of more than 1024 bytes, allocated by a call each time, as ``scratch`` is.
    """
    assert count * 4 <= 1024
    return T.alloc_buffer((i64(count),), dtype)


class Parameters:
    """Declares the parameters of a kernel in order, and the sizes n and t that they share."""

    def __init__(self) -> None:
        self._symbols: dict[str, Expr] = {}
        #: What the body declares first: each parameter as a buffer of one dimension.
        self.declarations: list[Any] = []

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
        sizes = [self.size(dim) for dim in dims]
        given = T.match_buffer(handle, sizes, dtype, align=align)
        elements = tirx.decl_buffer([_product(sizes)], dtype, name=name, data=given.data, data_alignment=align)
        self.declarations.append(tirx.DeclBuffer(elements, data=given.data))
        return RowMajor(elements, sizes)

    def number(self, name: str, dtype: str) -> Expr:
        """The next parameter, a number: ``dtype`` is int64, float32 or float64."""
        number = tirx.Var(name, dtype)
        T.arg(name, number)
        return number


def build_function(name: str, emit: Callable[[Parameters], None]) -> Any:
    """A PrimFunc ``name`` whose parameters and body ``emit`` declares."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        parameters = Parameters()
        emit(parameters)
    function = builder.get()
    return function.with_body(tirx.SeqStmt([*parameters.declarations, function.body]))
