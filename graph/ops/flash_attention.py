"""Flash attention as ggml's CPU backend computes it (ggml_compute_forward_flash_attn_ext_f16 of ggml-cpu/ops.cpp).

A pass of fewer than 64 positions goes from key to key: q and v are float16, and so is the running sum of v, which is
scaled again whenever a score is the largest so far (online softmax, Milakov and Gimelshein 2018, arXiv:1805.02867). A
longer pass is computed in tiles of float32, which is `attention`. Keys and values are of float16 in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from aprgraph.graph.ops.attention import ATTENTION, cap_of, mask_of, value_size_of
from aprgraph.graph.ops.base import Array, Attrs, Op, integer, number
from aprgraph.graph.ops.c_library import expf, tanhf

#: Passes of as many positions are computed in tiles.
TILE = 64
#: Vectors of AVX hold as many float32.
AVX_LANES = 8
#: Vectors of partial sums that a dot product keeps.
SUMS = 4
_F32 = np.float32
F32 = npt.NDArray[np.float32]


def _half(x: Array) -> F32:
    """The nearest float16 of a float32."""
    return x.astype(_F32).astype(np.float16).astype(_F32)


def _fma(a: F32, b: F32, c: F32) -> F32:
    """a · b + c, rounded once; the product is exact in float64."""
    return (a.astype(np.float64) * b + c).astype(_F32)


def _dot(a: F32, b: F32, lanes: int) -> F32:
    """The products of the last axis of two arrays of float16 values, summed as ggml_vec_dot_f16 does.

    With vectors of ``lanes`` elements it keeps four sums, and folds them; what is left over, and all of it where there are
    no vectors (``lanes`` is 0), is summed in float64.
    """
    products = a * b  # exact: of 11 bits each
    step = SUMS * lanes
    whole = products.shape[-1] // step * step if step else 0
    total = np.zeros(products.shape[:-1], np.float64)
    if whole:
        sums = np.zeros((*products.shape[:-1], step), _F32)
        for start in range(0, whole, step):
            sums = sums + products[..., start : start + step]
        while sums.shape[-1] > SUMS:  # halves upon halves: of the vectors, then of their lanes
            middle = sums.shape[-1] // 2
            sums = sums[..., :middle] + sums[..., middle:]
        # The last four: neighbours first with vectors of 8 (hadd), halves first with longer ones.
        order = (0, 1, 2, 3) if lanes <= AVX_LANES else (0, 2, 1, 3)
        first, second, third, fourth = (sums[..., index] for index in order)
        total += (first + second) + (third + fourth)
    for index in range(whole, products.shape[-1]):
        total += products[..., index]
    return total.astype(_F32)


def _online(operands: Sequence[Array], attrs: Attrs) -> Array:
    q, k, v, *sinks = operands
    heads, kv_heads, lanes = integer(attrs, "heads"), integer(attrs, "kv_heads"), integer(attrs, "lanes")
    n, t, repeats = len(q), len(k), heads // kv_heads
    queries = _half(q.reshape(n, heads, -1).transpose(1, 0, 2))
    size = v.shape[1] // kv_heads
    keys = np.repeat(_half(k.reshape(t, kv_heads, -1)), repeats, axis=1)
    values = np.repeat(_half(v.reshape(t, kv_heads, size)[..., : value_size_of(attrs, size)]), repeats, axis=1)
    cap = _F32(cap_of(attrs))
    scale = _F32(number(attrs, "scale")) / cap if cap else _F32(number(attrs, "scale"))
    mask = mask_of(n, t, attrs)
    mixed = np.zeros((heads, n, values.shape[-1]), _F32)
    largest, total = np.full((heads, n), -np.inf, _F32), np.zeros((heads, n), _F32)
    for key in range(t):
        rows = np.flatnonzero(mask[:, key])
        if not rows.size:
            continue
        score = _dot(queries[:, rows], keys[key][:, None], lanes) * scale
        if cap:
            score = cap * tanhf(score)
        before = largest[:, rows]
        is_new = score > before
        after = np.where(is_new, score, before)
        shrink = np.where(is_new, expf(before - after), _F32(1))
        share = np.where(is_new, _F32(1), expf(score - after))
        shrunk = np.where(is_new[..., None], _half(mixed[:, rows] * shrink[..., None]), mixed[:, rows])
        mixed[:, rows] = _half(_multiply_add(values[key][:, None], share[..., None], shrunk, lanes))
        total[:, rows] = _multiply_add(total[:, rows], shrink, share, lanes)
        largest[:, rows] = after
    if sinks:
        sink = sinks[0].astype(_F32)[:, None]
        is_new = sink > largest
        shrink = np.where(is_new, expf(largest - sink), _F32(1))
        share = np.where(is_new, _F32(1), expf(sink - largest))
        mixed, total = mixed * shrink[..., None], _multiply_add(total, shrink, share, lanes)
    mixed = mixed * np.where(total == 0, _F32(0), _F32(1) / total)[..., None]
    return mixed.transpose(1, 0, 2).reshape(n, -1).astype(np.float64)


def _multiply_add(a: F32, b: F32, c: F32, lanes: int) -> F32:
    """a · b + c, rounded once where there are vectors, for these come with a fused operation."""
    return _fma(a, b, c) if lanes else a * b + c


def _flash_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    if len(operands[0]) < TILE:
        return _online(operands, attrs)
    assert ATTENTION.reference is not None
    return ATTENTION.reference(operands, attrs)


FLASH_ATTENTION = Op(
    "flash_attention",
    "`attention` by ggml's flash attention on a CPU: a pass of fewer than 64 positions by an online softmax whose sums are float16, "
    "with vectors of `lanes` elements (0: none): q [n, H·D], k [t, K·D], v [t, K·V], sinks [H] -> [n, H·V].",
    ATTENTION.operands,
    infer=ATTENTION.infer,
    reference=_flash_reference,
    attrs={**ATTENTION.attrs, "lanes": int},
    defaults=ATTENTION.defaults,
    numbers=ATTENTION.numbers,
    traits=replace(ATTENTION.traits, variant_of=ATTENTION.name),
)
