"""KV caches of 8 bits and fewer: int8 and FP8 with scales, and the block formats of GGUF files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.ops.base import integer
from aprgraph.graph.roundings import ROUNDINGS, round_values
from aprgraph.runtime.explain.alternative import GENERAL, Alternative, Changed, explains
from aprgraph.runtime.explain.site import Site, is_left

#: Over which axes of [t, K, D] one scale is taken, by what it is for.
_SCALES = {
    "each position and head": (2,),
    "each position": (1, 2),
    "each head": (0, 2),
    "each channel": (0,),
    "the whole tensor": (0, 1, 2),
}
#: Block formats that llama.cpp keeps caches in (tools/server/README.md, --cache-type-k), and in what it rounds the queries then.
_BLOCK_FORMATS = {"Q8_0": "q8_0_avx", "Q4_0": "q8_0_avx", "Q4_1": "q8_1_avx", "Q5_0": "q8_0_avx", "Q5_1": "q8_1_avx"}
_BLOCK = 32
_INT8, _UINT8 = 127.0, 255.0

#: The name of a mistake, words, what becomes of k and v, and of q where attention rounds that too.
_Format = tuple[str, str, Callable[[Array], Array], Callable[[Array], Array] | None]


@explains("attn_scores", "attn_mix", "attention")
def scaled_cache(site: Site) -> Iterator[Alternative]:
    """The KV cache is int8, or FP8 with a scale, or of a block format: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1."""
    recorded, kv_heads = site.recorded, integer(site.node.attrs, "kv_heads")
    if recorded is None or not np.isfinite(recorded).all() or any(not np.isfinite(operand).all() for operand in site.operands):
        return
    places = (1, 2) if site.node.op == "attention" else (1,)
    seen: set[bytes] = set()
    for name, words, rounded, queries in _formats(kv_heads, site.operands[1].shape[1]):
        kept = rounded(site.operands[1]).tobytes()
        if kept in seen:  # one KV head, or one position, makes scales alike
            continue
        seen.add(kept)
        with_queries = [False, *([True] if queries is not None and site.node.op != "attn_mix" else [])]
        for is_rounded in with_queries:
            changes = {**dict.fromkeys(places, rounded), **({0: queries} if is_rounded and queries is not None else {})}
            change = Changed(site, changes, {})
            if _fits_the_last(site, change) and site.fits(change(site.operands)):
                yield Alternative(f"cache-{name}", f"k and v of the KV cache are {words}", change, GENERAL)
                break


def _fits_the_last(site: Site, change: Changed) -> bool:
    """Whether a change explains the last query: one costs little."""
    assert site.recorded is not None
    axis = site.recorded.ndim - 2
    first = site.operands[0]
    operands = [np.take(first, [-1], axis=first.ndim - 2), *site.operands[1:]]
    return is_left(np.take(site.recorded, [-1], axis), change(operands), np.take(site.due, [-1], axis))


def _formats(kv_heads: int, columns: int) -> Iterator[_Format]:
    for what, axes in _SCALES.items():
        yield "int8", f"int8 with a scale for {what}", partial(_int8, kv_heads, axes), None
    least = "uint8 with a scale and a least value for each position and head"
    yield "uint8", least, partial(_uint8, kv_heads), None
    for what in ("each position and head", "each head", "the whole tensor"):
        words = f"FP8 (E4M3) with a scale for {what}"
        yield "fp8-e4m3-scaled", words, partial(_fp8_scaled, kv_heads, _SCALES[what]), None
    for name, activations in _BLOCK_FORMATS.items() if columns % _BLOCK == 0 else ():
        yield name.lower(), name, partial(_blocks, name), partial(_rounded, activations)


def _by_heads(change: Callable[[Array], Array], kv_heads: int, x: Array) -> Array:
    """``change`` of x [t, K·D] as [t, K, D], in float32."""
    value = change(x.reshape(len(x), kv_heads, -1).astype(np.float32))
    return np.asarray(value.reshape(x.shape).astype(np.float64))


def _scaled(x: Array, most: float, axes: Sequence[int], rounded: Callable[[Array], Array]) -> Array:
    scale = np.abs(x).max(axis=tuple(axes), keepdims=True) / np.float32(most)
    return np.asarray(rounded(x / np.where(scale == 0, 1, scale)) * scale)


def _int8(kv_heads: int, axes: Sequence[int], x: Array) -> Array:
    return _by_heads(lambda heads: _scaled(heads, _INT8, axes, np.rint), kv_heads, x)


def _uint8(kv_heads: int, x: Array) -> Array:
    def rounded(heads: Array) -> Array:
        least = heads.min(axis=2, keepdims=True)
        scale = (heads.max(axis=2, keepdims=True) - least) / np.float32(_UINT8)
        return np.asarray(np.rint((heads - least) / np.where(scale == 0, 1, scale)) * scale + least)

    return _by_heads(rounded, kv_heads, x)


def _fp8_scaled(kv_heads: int, axes: Sequence[int], x: Array) -> Array:
    import ml_dtypes  # noqa: PLC0415 -- few audits come here

    kind = ml_dtypes.float8_e4m3fn
    most = float(ml_dtypes.finfo(kind).max)
    return _by_heads(lambda heads: _scaled(heads, most, axes, lambda value: value.astype(kind).astype(np.float32)), kv_heads, x)


def _blocks(name: str, x: Array) -> Array:
    from gguf.constants import GGMLQuantizationType  # noqa: PLC0415 -- slow import, and few audits come here
    from gguf.quants import dequantize, quantize  # noqa: PLC0415

    kind = GGMLQuantizationType[name]
    return np.asarray(dequantize(quantize(x.astype(np.float32), kind), kind).astype(np.float64))


def _rounded(name: str, x: Array) -> Array:
    blocks = x.reshape(len(x), -1, _BLOCK)
    return np.asarray(round_values(blocks, ROUNDINGS[name]).reshape(x.shape))
