"""How activations are rounded in kernels: the schemes of graph/roundings.py as expressions, the same on every target.

Each operation is that of the declaration, in float32 and rounded once, so that a kernel gives the very numbers of the reference: a
quotient is one, not a product with an inverse, and what is half-way goes where the engine has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.tir import Arithmetic, Expr, f32, is_nan

#: Keeps a value that is read several times in a register, and gives what reads it.
Hold = Callable[[Expr], Expr]

_MAGNITUDE = 0x7FFFFFFF
_INFINITE = 0x7F800000
#: The bits of the float32 below one half: added before the fraction is cut off, it takes nothing below a half up to 1.
_BELOW_HALF = 0x3EFFFFFF


@dataclass(frozen=True)
class Quantised:
    """A block: x stands as ``kept`` · ``quantise(x)``. ``scale`` is what ``kept`` was before the engine rounded it, ``peak`` its peak."""

    peak: Expr
    scale: Expr
    kept: Expr
    quantise: Callable[[Expr], Expr]


@dataclass(frozen=True)
class BlockScheme:
    """A rounding of blocks. ``prepare`` gives what becomes of a block, from its peak: the largest magnitude, or, if ``signed``, the
    first element that has it. ``sums_values``: the sums that the engine keeps are of x itself, and not of what x stands for.
    """

    prepare: Callable[[Arithmetic, Hold, Expr], Quantised]
    signed: bool = False
    sums_values: bool = False


def magnitude_bits(x: Expr) -> Expr:
    """The bits of abs(x) as int32, which are ordered as the numbers are, with NaN above all."""
    return T.reinterpret("int32", x) & tirx.IntImm("int32", _MAGNITUDE)


def bfloat16(x: Expr) -> Expr:
    """The nearest bfloat16 of an f32, half to even, as f32."""
    bits = T.reinterpret("int32", x)
    odd = (bits >> tirx.IntImm("int32", 16)) & tirx.IntImm("int32", 1)
    rounded = (bits + (odd + tirx.IntImm("int32", 0x7FFF))) & tirx.IntImm("int32", -0x10000)
    return T.Select(is_nan(x), x, T.reinterpret("float32", rounded))


def _to_even(x: Expr) -> Expr:
    return T.nearbyint(x)


def _away(x: Expr) -> Expr:
    """The nearest whole number, half away from 0, below 2^22."""
    bits = T.reinterpret("int32", x)
    below_half = (bits ^ (bits & tirx.IntImm("int32", _MAGNITUDE))) | tirx.IntImm("int32", _BELOW_HALF)
    return T.trunc(x + T.reinterpret("float32", below_half))


def _finite_or_zero(x: Expr) -> Expr:
    return T.Select(tirx.EQ(magnitude_bits(x), tirx.IntImm("int32", _INFINITE)), f32(0.0), x)


def _scale_of(hold: Hold, peak: Expr) -> Expr:
    """d = max|x| / 127. TVM would make a product with 1/127 of a quotient by a constant, which is rounded otherwise."""
    return hold(peak / hold(f32(127.0)))


def _q8(
    arithmetic: Arithmetic, hold: Hold, peak: Expr, *, inverse: Callable[[Expr, Expr], Expr], nearest: Callable[[Expr], Expr]
) -> Quantised:
    scale = _scale_of(hold, peak)
    factor = hold(T.Select(tirx.EQ(scale, f32(0.0)), f32(0.0), inverse(peak, scale)))
    factor = hold(_finite_or_zero(factor))
    return Quantised(peak, scale, hold(arithmetic.half(scale)), lambda x: nearest(arithmetic.rounded(x * factor)))


def _of_peak(peak: Expr, _scale: Expr) -> Expr:
    return f32(127.0) / peak


def _of_scale(_peak: Expr, scale: Expr) -> Expr:
    return f32(1.0) / scale


def _q8_cuda(arithmetic: Arithmetic, hold: Hold, peak: Expr) -> Quantised:
    scale = _scale_of(hold, peak)
    return Quantised(
        peak, scale, hold(arithmetic.half(scale)), lambda x: T.Select(tirx.EQ(scale, f32(0.0)), f32(0.0), _away(x / scale))
    )  # fmt: skip


def _q8_k(_arithmetic: Arithmetic, hold: Hold, peak: Expr, *, fused: bool) -> Quantised:
    inverse = hold(_finite_or_zero(hold(f32(-127.0) / peak)))
    scale = hold(T.Select(tirx.EQ(inverse, f32(0.0)), f32(0.0), f32(1.0) / inverse))

    def whole(x: Expr) -> Expr:
        if fused:  # the product of two float32 is exact in float64
            return T.Cast("float32", T.nearbyint(T.Cast("float64", x) * T.Cast("float64", inverse)))
        return T.nearbyint(x * inverse)

    # Not T.min, which loses a NaN: a comparison with one is false.
    return Quantised(peak, scale, scale, lambda x: T.Select(whole(x) > f32(127.0), f32(127.0), whole(x)))


_AVX = BlockScheme(partial(_q8, inverse=_of_peak, nearest=_to_even))
_SCALAR = BlockScheme(partial(_q8, inverse=_of_scale, nearest=_away))
_NEON = BlockScheme(partial(_q8, inverse=_of_scale, nearest=_to_even))

#: Roundings of each element alone.
ELEMENT_SCHEMES: dict[str, Callable[[Arithmetic, Expr], Expr]] = {
    "f16": lambda arithmetic, x: arithmetic.half(x),
    "bf16": lambda _arithmetic, x: bfloat16(x),
}

#: Roundings of blocks.
BLOCK_SCHEMES: dict[str, BlockScheme] = {
    "q8_0_avx": _AVX,
    "q8_0_scalar": _SCALAR,
    "q8_0_neon": _NEON,
    "q8_1_avx": _AVX,
    "q8_1_scalar": _SCALAR,
    "q8_1_neon": _NEON,
    "q8_cuda": BlockScheme(_q8_cuda),
    "q8_cuda_sums": BlockScheme(_q8_cuda, sums_values=True),
    "q8_k": BlockScheme(partial(_q8_k, fused=False), signed=True),
    "q8_k_fused": BlockScheme(partial(_q8_k, fused=True), signed=True),
}


def sum_error(arithmetic: Arithmetic, scheme: BlockScheme, block: Quantised, quants: Expr, values: Expr) -> Expr:
    """What the kept sum of a block is off the sum of what its x stand for. ``quants`` is Σq, ``values`` Σx in the engine's order."""
    kept = arithmetic.half(values if scheme.sums_values else block.scale * quants)
    # Whole numbers times one of 11 bits: exact.
    return kept - block.kept * quants
