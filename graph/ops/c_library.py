"""Functions of the C library that engines call, with the float32 that it returns, which is not always the nearest one.

Those of glibc: expf since 2.27 (sysdeps/ieee754/flt-32/e_expf.c and e_exp2f_data.c), tanhf up to 2.40 (s_tanhf.c and
s_expm1f.c of the same folder; later ones round to the nearest). Tried bit by bit against glibc 2.36 on x86-64.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

#: expf splits its argument into k · ln 2 / 32 and a rest, of which a polynomial gives the power of two; 2^(i/32) is a table.
_STEPS = 32
_POWERS: F64 = np.exp2(np.arange(_STEPS) / _STEPS)
_PER_UNIT = float.fromhex("0x1.71547652b82fep+0") * _STEPS
_CUBE, _SQUARE, _LINEAR = (
    float.fromhex(digits) / _STEPS**power
    for digits, power in (("0x1.c6af84b912394p-5", 3), ("0x1.ebfce50fac4f3p-3", 2), ("0x1.62e42ff0c52d6p-1", 1))
)


def expf(x: F32) -> F32:
    """e^x of float32, computed in float64 and rounded once; NaN, Inf and what is beyond float32 as usual."""
    wide = np.clip(x.astype(np.float64), -200.0, 200.0)
    scaled = _PER_UNIT * wide
    whole = np.rint(scaled)
    rest = scaled - whole
    number = np.where(np.isnan(whole), 0, whole).astype(np.int64)
    power = np.ldexp(_POWERS[number % _STEPS], number // _STEPS)
    polynomial = (_CUBE * rest + _SQUARE) * (rest * rest) + (_LINEAR * rest + 1)
    with np.errstate(over="ignore", under="ignore"):
        result: F32 = (polynomial * power).astype(np.float32)
    return result


#: tanhf is 1 - 2 / (t + 2) with t = expm1f(2x), or of small x -t / (t + 2) with t = expm1f(-2x), all of it in float32.
_ONE, _TWO, _HALF = np.float32(1), np.float32(2), np.float32(0.5)
_LN2_HIGH, _LN2_LOW, _PER_LN2 = np.array([0x3F317180, 0x3717F7D1, 0x3FB8AA3B], np.uint32).view(np.float32)
_EXPM1 = np.array([0xBD088889, 0x3AD00D01, 0xB8A670CD, 0x36867E54, 0xB457EDBB], np.uint32).view(np.float32)
_HALF_LN2, _MORE_LN2 = np.array([0x3EB17218, 0x3F851592], np.uint32).view(np.float32)
#: From here on tanh is 1.
_SATURATED = np.float32(22)
#: e^x - 1 loses its 1 from here on: other sums are taken there.
_DIGITS, _LARGE = 23, 56


def tanhf(x: F32) -> F32:
    """tanh x of float32, every operation rounded to float32."""
    size = np.abs(x)
    is_large = size >= _ONE
    with np.errstate(all="ignore"):
        t = _expm1f(np.where(is_large, _TWO * size, -_TWO * size))
        found = np.where(is_large, _ONE - _TWO / (t + _TWO), -t / (t + _TWO))
    result: F32 = np.copysign(np.where(size >= _SATURATED, _ONE, found), x).astype(np.float32)
    return result


def _expm1f(x: F32) -> F32:
    """e^x - 1 for -2 <= x < 44."""
    size = np.abs(x)
    steps = np.where(size < _MORE_LN2, np.sign(x), np.trunc(_PER_LN2 * x + np.copysign(_HALF, x)))
    count = np.where((size > _HALF_LN2) & (size <= 2 * _SATURATED), steps, 0).astype(np.int32)
    high, low = x - count.astype(np.float32) * _LN2_HIGH, count.astype(np.float32) * _LN2_LOW
    rest = high - low
    lost = np.where(count == 0, np.float32(0), (high - rest) - low)
    half = _HALF * rest
    square = rest * half
    polynomial = _EXPM1[4]
    for coefficient in _EXPM1[3::-1]:
        polynomial = coefficient + square * polynomial
    ratio = _ONE + square * polynomial
    t = np.float32(3) - ratio * half
    error = square * ((ratio - t) / (np.float32(6) - rest * t))
    off = (rest * (error - lost) - lost) - square
    inverse = np.ldexp(_ONE, -count)
    result: F32 = np.select(
        [count == 0, count == -1, count == 1, (count < 0) | (count > _LARGE), count < _DIGITS],
        [
            rest - (rest * error - square),
            _HALF * (rest - off) - _HALF,
            np.where(rest < np.float32(-0.25), -_TWO * (off - (rest + _HALF)), _ONE + _TWO * (rest - off)),
            np.ldexp(_ONE - (off - rest), count) - _ONE,
            np.ldexp((_ONE - inverse) - (off - rest), count),
        ],
        np.ldexp((rest - (off + inverse)) + _ONE, count),
    )
    return result
