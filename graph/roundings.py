"""How engines round activations before a matrix product: each scheme declared once.

A scheme takes the rows of x apart into blocks of ``elements`` values, and gives each block whole numbers q and a scale d.
What the engine multiplies by is then d · q, which ``values`` gives exactly. Computed as there: in float32, rounded after
every operation. The CPU's are those of ggml (ggml/src/ggml-quants.c and ggml-cpu/arch/x86/quants.c of llama.cpp at
0c1e57098), those of CUDA are its CUDA backend's, where quotients may differ in the last bit, since it is built with fast
division. docs/arithmetic.md says what was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

#: The largest q: eight bits with a sign, and as many below 0 as above.
_MOST = np.float32(127)


@dataclass(frozen=True)
class Rounding:
    """One way to round activations.

    ``values(x)`` gives what stands for ``x``, f32 [..., blocks, elements], in float64 of that shape. Where the engine
    adds up each block beside it, and rounds the sum, ``sum_errors(x)`` gives by how much that is off the sum of the
    values: float64 [..., blocks]. The sums multiply the minima of the weight's blocks (``BlockFormat.minimum``).
    ``precision`` is what a trace's manifest calls it. ``most_rows`` is up to how many rows the engine rounds so.
    """

    name: str
    elements: int
    summary: str
    values: Callable[[F32], F64]
    sum_errors: Callable[[F32], F64] | None = None
    precision: str = "q8-activations"
    most_rows: int | None = None


def _half(x: F32) -> F64:
    """The nearest float16, half to even."""
    return x.astype(np.float16).astype(np.float64)


def _bfloat16(x: F32) -> F64:
    """The nearest bfloat16, half to even."""
    return x.astype(ml_dtypes.bfloat16).astype(np.float64)


def _to_even(x: F32) -> F64:
    """The nearest whole number, half to even: what AVX and the FPU do."""
    return np.rint(x).astype(np.float64)


def _away(x: F32) -> F64:
    """The nearest whole number, half away from 0: ``roundf``. In float64, where x + 0.5 is exact."""
    wide = x.astype(np.float64)
    return np.copysign(np.floor(np.abs(wide) + 0.5), wide)


def _of_maximum(largest: F32, _scale: F32) -> F32:
    """1 / d as 127 / max|x|, rounded once."""
    return _MOST / largest


def _of_scale(_largest: F32, scale: F32) -> F32:
    """1 / d of the rounded d."""
    return np.float32(1) / scale


@dataclass(frozen=True)
class _Blocks:
    """Q8_0 and Q8_1: d = max|x| / 127, and q = x · 1/d. d is kept as float16, but 1/d is of the float32."""

    inverse: Callable[[F32, F32], F32]
    nearest: Callable[[F32], F64]

    def quantise(self, x: F32) -> tuple[F32, F64]:
        """The scale [..., blocks, 1] in float32, and q [..., blocks, elements]."""
        largest = np.abs(x).max(axis=-1, keepdims=True)
        scale = largest / _MOST
        # Where d is too small for 1/d to be finite it is 0 as float16, whatever q is.
        inverse = np.where(scale == 0, np.float32(0), self.inverse(largest, scale))
        q = self.nearest(x * np.where(np.isinf(inverse), np.float32(0), inverse))
        return scale, q

    def values(self, x: F32) -> F64:
        """See ``Rounding.values``."""
        scale, q = self.quantise(x)
        return _half(scale) * q

    def sum_errors(self, x: F32) -> F64:
        """See ``Rounding.sum_errors``: the sum is the float16 of d · Σq with the float32 d."""
        scale, q = self.quantise(x)
        total = q.sum(axis=-1)
        kept, of_values = _half(scale[..., 0] * total.astype(np.float32)), _half(scale[..., 0]) * total
        errors: F64 = kept - of_values
        return errors


def _cuda(x: F32) -> tuple[F64, F64]:
    """The scale and q of ggml's CUDA backend: q = x / d, half away from 0, and d as float16 (quantize_q8_1 of quantize.cu)."""
    scale = np.abs(x).max(axis=-1, keepdims=True) / _MOST
    return _half(scale), np.where(scale == 0, 0.0, _away(x / scale))


def _cuda_values(x: F32) -> F64:
    scale, q = _cuda(x)
    return scale * q


def _cuda_sum_errors(x: F32) -> F64:
    """The sum is that of x itself, which the lanes of a warp add up by halves, as float16."""
    sums = x
    while sums.shape[-1] > 1:
        middle = sums.shape[-1] // 2
        sums = sums[..., :middle] + sums[..., middle:]
    errors: F64 = _half(sums[..., 0]) - _cuda_values(x).sum(axis=-1)
    return errors


def _q8_k(x: F32, *, fused: bool = False) -> F64:
    """Q8_K: the element of the largest |x|, the first of them, becomes -127; d = 1 / (-127 / that) in float32.

    A number is made whole by adding 1.5 · 2^23. ``fused``: the compiler has made one operation of that and the product
    before it, so that the product is not rounded by itself.
    """
    first = np.abs(x).argmax(axis=-1, keepdims=True)
    largest = np.take_along_axis(x, first, axis=-1)
    inverse = -_MOST / largest
    # Of numbers so small that this is infinite, as of zeros, nothing is left there either.
    inverse = np.where(np.isinf(inverse), np.float32(0), inverse)
    scale: F64 = np.where(inverse == 0, np.float32(0), np.float32(1) / inverse).astype(np.float64)
    product = inverse.astype(np.float64) * x if fused else inverse * x
    return scale * np.minimum(np.rint(product).astype(np.float64), 127.0)


_AVX, _SCALAR, _NEON = _Blocks(_of_maximum, _to_even), _Blocks(_of_scale, _away), _Blocks(_of_scale, _to_even)

ROUNDINGS: dict[str, Rounding] = {
    rounding.name: rounding
    for rounding in (
        Rounding("f16", 1, "the nearest float16, half to even", _half, precision="float16"),
        Rounding("bf16", 1, "the nearest bfloat16, half to even", _bfloat16, precision="bfloat16"),
        Rounding("q8_0_avx", 32, "d = max|x| / 127 as float16, q = x · (127 / max|x|), half to even", _AVX.values),
        Rounding("q8_0_scalar", 32, "d as before, q = x · (1 / d), half away from 0", _SCALAR.values),
        Rounding("q8_0_neon", 32, "d as before, q = x · (1 / d), half to even", _NEON.values),
        Rounding("q8_1_avx", 32, "as q8_0_avx, with the sum d · Σq of each block as float16", _AVX.values, _AVX.sum_errors),
        Rounding("q8_1_scalar", 32, "as q8_0_scalar, with the same sum", _SCALAR.values, _SCALAR.sum_errors),
        Rounding("q8_1_neon", 32, "as q8_0_neon, with the same sum", _NEON.values, _NEON.sum_errors),
        Rounding("q8_cuda", 32, "d = max|x| / 127 as float16, q = x / d, half away from 0", _cuda_values, most_rows=8),
        Rounding("q8_cuda_sums", 32, "as q8_cuda, with the sum Σx of each block as float16", _cuda_values, _cuda_sum_errors, most_rows=8),
        Rounding("q8_k", 256, "q = x · (-127 / x at the first max|x|), half to even, d = 1 / that in float32", _q8_k),
        Rounding("q8_k_fused", 256, "as q8_k, without a rounding of x · (-127 / …) before it is made whole", partial(_q8_k, fused=True)),
    )
}


def _in_blocks(x: Any, rounding: Rounding) -> F32:
    narrow: F32 = np.asarray(x, np.float32)
    return narrow.reshape(*narrow.shape[:-1], -1, rounding.elements)


def round_values(x: Any, rounding: Rounding) -> F64:
    """``x`` [..., C] as float32, rounded block by block: float64 [..., C]."""
    with np.errstate(all="ignore"):  # what is NaN, Inf or beyond float16 becomes what it would become there, or NaN
        return rounding.values(_in_blocks(x, rounding)).reshape(np.shape(x))


def sum_errors(x: Any, rounding: Rounding) -> F64:
    """What the rounded sums of the blocks of ``x`` [..., C] are off by: float64 [..., blocks of a row]."""
    assert rounding.sum_errors is not None
    with np.errstate(all="ignore"):
        return rounding.sum_errors(_in_blocks(x, rounding))
