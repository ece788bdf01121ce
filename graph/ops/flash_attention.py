"""Flash attention as ggml's CPU backend computes it (ggml_compute_forward_flash_attn_ext_f16 of ggml-cpu/ops.cpp).

A pass of fewer than 64 positions goes from key to key: q and v are float16, and so is the running sum of v, which is
scaled again whenever a score is the largest so far (online softmax, Milakov and Gimelshein 2018, arXiv:1805.02867). A
longer pass is computed in tiles of float32, which is `attention`. Keys and values are of float16 in any case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from aprgraph.graph.ir import Attr
from aprgraph.graph.ops.attention import ATTENTION, cap_of, is_causal, mask_of, value_size_of
from aprgraph.graph.ops.base import Array, Attrs, Op, integer, number
from aprgraph.graph.ops.c_library import expf, tanhf

#: Passes of as many positions are computed in tiles.
TILE = 64
#: Keys are divided among threads where there are as many cells or more, which come by so many.
DIVIDED_CELLS, CELLS = 512, 256
#: What an attribute is that a graph does not name: one thread, and llama.cpp's own size of a pass.
DEFAULTS: Mapping[str, Attr] = {"threads": 1, "ubatch": 512}
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


def passes_of(n: int, ubatch: int) -> list[tuple[int, int]]:
    """How llama.cpp takes ``n`` positions apart, where each pass has ``ubatch`` of them at most (-ub): from where to where each goes."""
    return [(start, min(start + ubatch, n)) for start in range(0, n, ubatch)]


def chunk_of(n: int, t: int, threads: int) -> int:
    """How many keys each thread has for a pass of ``n`` positions, the last of ``t``: all that there are, unless the keys are divided.

    ggml counts the cells of the KV cache that llama.cpp gives it: as many as there are keys, rounded up to the next ``CELLS``.
    """
    cells = -(-t // CELLS) * CELLS
    return -(-cells // threads) if n == 1 and cells >= DIVIDED_CELLS else cells


@dataclass
class _Sums:
    """What has been summed for rows of heads: ``mixed`` [H, R, V], ``largest`` and ``total`` [H, R]."""

    mixed: F32
    largest: F32
    total: F32

    @classmethod
    def none(cls, heads: int, rows: int, size: int) -> _Sums:
        """Those of no key."""
        return cls(np.zeros((heads, rows, size), _F32), np.full((heads, rows), -np.inf, _F32), np.zeros((heads, rows), _F32))


def _online(operands: Sequence[Array], attrs: Attrs, mask: Array) -> Array:
    """A pass from key to key; with ``mask`` [n, t]."""
    q, k, v, *sinks = operands
    heads, kv_heads, lanes = integer(attrs, "heads"), integer(attrs, "kv_heads"), integer(attrs, "lanes")
    n, t, repeats = len(q), len(k), heads // kv_heads
    queries = _half(q.reshape(n, heads, -1).transpose(1, 0, 2))
    size = v.shape[1] // kv_heads
    keys = np.repeat(_half(k.reshape(t, kv_heads, -1)), repeats, axis=1)
    values = np.repeat(_half(v.reshape(t, kv_heads, size)[..., : value_size_of(attrs, size)]), repeats, axis=1)
    # A row for each position, or for each thread that has some of the keys: by row, the keys in order.
    chunk = chunk_of(n, t, integer({**DEFAULTS, **attrs}, "threads"))
    order = np.broadcast_to(np.arange(t), (n, t))
    if chunk < t:
        order = np.arange(-(-t // chunk) * chunk).reshape(-1, chunk)
        queries = np.broadcast_to(queries, (heads, len(order), queries.shape[-1]))
        mask = (order < t) & mask[0, np.minimum(order, t - 1)]
    sums = _Sums.none(heads, len(order), values.shape[-1])
    for at in range(order.shape[1]):
        rows = np.flatnonzero(mask[:, at])
        if rows.size:
            _add_keys(sums, rows, queries, keys[order[rows, at]], values[order[rows, at]], attrs)
    if sinks:
        _add_sink(sums, sinks[0].astype(_F32), slice(1) if chunk < t else slice(None), lanes)
    if chunk < t:
        sums = _merged(sums, lanes)
    mixed = sums.mixed * np.where(sums.total == 0, _F32(0), _F32(1) / sums.total)[..., None]
    return mixed.transpose(1, 0, 2).reshape(n, -1).astype(np.float64)


def _add_keys(sums: _Sums, rows: npt.NDArray[np.int64], queries: F32, keys: F32, values: F32, attrs: Attrs) -> None:
    """One key more for each of ``rows``: of queries [H, R, D], keys [rows, H, D], values [rows, H, V]."""
    lanes, cap = integer(attrs, "lanes"), _F32(cap_of(attrs))
    scale = _F32(number(attrs, "scale")) / cap if cap else _F32(number(attrs, "scale"))
    score = _dot(queries[:, rows], keys.transpose(1, 0, 2), lanes) * scale
    if cap:
        score = cap * tanhf(score)
    before = sums.largest[:, rows]
    is_new = score > before
    after = np.where(is_new, score, before)
    shrink = np.where(is_new, expf(before - after), _F32(1))
    share = np.where(is_new, _F32(1), expf(score - after))
    mixed = sums.mixed[:, rows]
    shrunk = np.where(is_new[..., None], _half(mixed * shrink[..., None]), mixed)
    sums.mixed[:, rows] = _half(_multiply_add(values.transpose(1, 0, 2), share[..., None], shrunk, lanes))
    sums.total[:, rows] = _multiply_add(sums.total[:, rows], shrink, share, lanes)
    sums.largest[:, rows] = after


def _add_sink(sums: _Sums, sinks: F32, rows: slice, lanes: int) -> None:
    """The logits [H] beside the scores of ``rows``."""
    sink, before = sinks[:, None], sums.largest[:, rows]
    is_new = sink > before
    shrink = np.where(is_new, expf(before - sink), _F32(1))
    share = np.where(is_new, _F32(1), expf(sink - before))
    sums.mixed[:, rows] = sums.mixed[:, rows] * shrink[..., None]
    sums.total[:, rows] = _multiply_add(sums.total[:, rows], shrink, share, lanes)
    sums.largest[:, rows] = np.where(is_new, sink, before)


def _merged(parts: _Sums, lanes: int) -> _Sums:
    """The rows of all threads as one, in float32."""
    heads, rows, size = parts.mixed.shape
    found = _Sums.none(heads, 1, size)
    for row in range(rows):
        part = _Sums(parts.mixed[:, [row]], parts.largest[:, [row]], parts.total[:, [row]])
        counts = part.total != 0
        after = np.where(counts, np.maximum(found.largest, part.largest), _F32(0))
        before, new = expf(found.largest - after), expf(part.largest - after)
        mixed = _multiply_add(found.mixed, before[..., None], part.mixed * new[..., None], lanes)
        found.mixed = np.where(counts[..., None], mixed, found.mixed)
        found.total = np.where(counts, _multiply_add(found.total, before, part.total * new, lanes), found.total)
        found.largest = np.where(counts, after, found.largest)
    return found


def _multiply_add(a: F32, b: F32, c: F32, lanes: int) -> F32:
    """a · b + c, rounded once where there are vectors, for these come with a fused operation."""
    return _fma(a, b, c) if lanes else a * b + c


def _flash_reference(operands: Sequence[Array], attrs: Attrs) -> Array:
    q, k, v, *sinks = operands
    n, t = len(q), len(k)
    # Attention to later positions takes all of them at once: llama.cpp refuses texts that are longer than a pass.
    passes = passes_of(n, integer({**DEFAULTS, **attrs}, "ubatch")) if is_causal(attrs) else [(0, n)]
    assert ATTENTION.reference is not None
    found = []
    for start, stop in passes:
        known = t - n + stop if is_causal(attrs) else t
        part = [q[start:stop], k[:known], v[:known], *sinks]
        if stop - start < TILE:
            found.append(_online(part, attrs, mask_of(stop - start, known, attrs)))
        else:
            found.append(ATTENTION.reference(part, attrs))
    return np.concatenate(found) if found else ATTENTION.reference(operands, attrs)


FLASH_ATTENTION = Op(
    "flash_attention",
    "`attention` by ggml's flash attention on a CPU: a pass of fewer than 64 positions by an online softmax whose sums are float16, "
    "with vectors of `lanes` elements (0: none): q [n, H·D], k [t, K·D], v [t, K·V], sinks [H] -> [n, H·V].",
    ATTENTION.operands,
    infer=ATTENTION.infer,
    reference=_flash_reference,
    attrs={**ATTENTION.attrs, "lanes": int, "threads": int, "ubatch": int},
    defaults={**ATTENTION.defaults, **DEFAULTS},
    numbers=ATTENTION.numbers,
    traits=replace(ATTENTION.traits, variant_of=ATTENTION.name),
)
