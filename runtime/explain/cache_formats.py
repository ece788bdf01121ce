"""KV caches of 8 bits and fewer: int8 and FP8 with scales, and the block formats of GGUF files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.ops.base import integer
from aprgraph.graph.roundings import ROUNDINGS, round_values
from aprgraph.runtime.explain.alternative import GENERAL, SOLVED, Alternative, Changed, explains
from aprgraph.runtime.explain.site import Site, is_left
from aprgraph.runtime.explain.static_scales import STATIC, find_scale

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
_INT8 = 127.0

#: The name of a mistake, words, what becomes of k and of v, and of q where attention rounds that too.
_Format = tuple[str, str, tuple[Callable[[Array], Array], Callable[[Array], Array]], Callable[[Array], Array] | None]
#: Bits, and columns of a head that share a scale and a least value, as MLX and others have them.
_AFFINE_BITS, _GROUPS = (8, 4, 2), (32, 64, 128)
#: Attention of which nothing was recorded is tried with every format up to so many elements of its scores.
_SMALL = 1 << 16


@explains("attn_scores", "attn_mix", "attention", alone=True)
def scaled_cache(site: Site) -> Iterator[Alternative]:
    """The KV cache is int8, or FP8 with a scale, or of a block format: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1; or of 8, 4 or 2 bits with a scale and
    a least value for each position, group of columns or channel.
    """
    recorded, kv_heads = site.recorded, integer(site.node.attrs, "kv_heads")
    if any(not np.isfinite(operand).all() for operand in site.operands):
        return
    if site.due.size > _SMALL if recorded is None else not np.isfinite(recorded).all():
        return
    at = {"attention": {1: 0, 2: 1}, "attn_scores": {1: 0}, "attn_mix": {1: 1}}[site.node.op]
    seen: set[bytes] = set()
    for name, words, both, queries in _formats(kv_heads, site.operands[1].shape[1]):
        changed = {place: both[which] for place, which in at.items()}
        kept = b"".join(change(site.operands[place]).tobytes() for place, change in changed.items())
        if kept in seen and both[0] is both[1]:  # one KV head, or one position, makes scales alike
            continue
        seen.add(kept)
        with_queries = [False, *([True] if queries is not None and site.node.op != "attn_mix" else [])]
        for is_rounded in with_queries:
            changes = {**changed, **({0: queries} if is_rounded and queries is not None else {})}
            change = Changed(site, changes, {})
            if recorded is None or (_fits_the_last(site, change) and site.fits(change(site.operands))):
                yield Alternative(
                    f"cache-{name}",
                    f"k and v of the KV cache are {words}",
                    change,
                    GENERAL,
                    together=(f"k and v of the KV cache are {words}",),
                )
                break


@explains("attn_scores", "attn_mix", alone=True)
def static_cache(site: Site) -> Iterator[Alternative]:
    """The KV cache is int8 or FP8 with one scale that was set beforehand, for k and for v."""
    recorded = site.recorded
    if recorded is None or not np.isfinite(recorded).all() or any(not np.isfinite(operand).all() for operand in site.operands):
        return
    first, kept = site.operands[0], site.operands[1]
    query, wanted, due = (np.take(value, [-1], value.ndim - 2) for value in (first, recorded, site.due))  # which sees all keys
    energy = float(np.square(wanted - due).sum())

    def image(values: Array) -> Array:
        """Each of several caches [s, t, C] as it is read: side by side they are one of more heads."""
        count, length, columns = values.shape
        is_mix = site.node.op == "attn_mix"
        several = {name: count * integer(site.node.attrs, name) for name in (("kv_heads",) if is_mix else ("heads", "kv_heads"))}
        queries = np.concatenate([query] * count, axis=0 if is_mix else 1)  # weights [H, n, t], q [n, H·D]
        read = site.compute([queries, values.transpose(1, 0, 2).reshape(length, count * columns)], **several)
        return np.asarray(read.reshape(count, -1))

    for one in STATIC if kept.size <= _SMALL else ():
        scale = find_scale(one, kept, image, wanted, energy)
        if scale is not None:
            change = Changed(site, {1: partial(one.rounded, scale=scale)}, {})
            if site.fits(change(site.operands)):
                which = "k" if site.node.op == "attn_scores" else "v"
                words = f"{which} of the KV cache is {one.words} with one scale that was set beforehand"
                yield Alternative(f"cache-static-{one.name}", words, change, SOLVED)


def _fits_the_last(site: Site, change: Changed) -> bool:
    """Whether a change explains the last query: one costs little."""
    assert site.recorded is not None
    axis = site.recorded.ndim - 2
    first = site.operands[0]
    operands = [np.take(first, [-1], axis=first.ndim - 2), *site.operands[1:]]
    return is_left(np.take(site.recorded, [-1], axis), change(operands), np.take(site.due, [-1], axis))


def _formats(kv_heads: int, columns: int) -> Iterator[_Format]:
    for what, axes in _SCALES.items():
        yield "int8", f"int8 with a scale for {what}", _alike(partial(_int8, kv_heads, axes)), None
    for what in ("each position and head", "each head", "the whole tensor"):
        words = f"FP8 (E4M3) with a scale for {what}"
        yield "fp8-e4m3-scaled", words, _alike(partial(_fp8_scaled, kv_heads, _SCALES[what])), None
    for name, activations in _BLOCK_FORMATS.items() if columns % _BLOCK == 0 else ():
        yield name.lower(), name, _alike(partial(_blocks, name)), partial(_rounded, activations)
    for bits in _AFFINE_BITS:
        yield from _affine_formats(bits, kv_heads, columns // kv_heads)


def _affine_formats(bits: int, kv_heads: int, size: int) -> Iterator[_Format]:
    """Codes with a scale and a least value, or a zero point, for each position and head, groups of its columns, or each channel."""
    called = f"uint{bits}" if bits == 8 else f"{bits} bits"
    for group in dict.fromkeys((size, *(group for group in _GROUPS if group < size and size % group == 0))):
        what = "each position and head" if group == size else f"each {group} columns of a head"
        for words, rounded in (("a least value", _least), ("a zero point", _zero_point), ("a bias as MLX chooses them", _of_mlx)):
            change = partial(_affine, partial(rounded, (1 << bits) - 1), kv_heads, group, by_channel=False)
            yield f"{bits}-bits", f"{called} with a scale and {words} for {what}", _alike(change), None
    for words, rounded in (("a least value", _least), ("a zero point", _zero_point)):
        ways = [partial(_affine, partial(rounded, (1 << bits) - 1), kv_heads, size, by_channel=channel) for channel in (True, False)]
        yield f"{bits}-bits", f"{called} with a scale and {words} for each channel", _alike(ways[0]), None
        yield (
            f"{bits}-bits",
            f"{called} with a scale and {words}, k's for each channel and v's for each position and head",
            (ways[0], ways[1]),
            None,
        )


def _alike(change: Callable[[Array], Array]) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    return change, change


def _by_heads(change: Callable[[Array], Array], kv_heads: int, x: Array) -> Array:
    """``change`` of x [t, K·D] as [t, K, D], in float32."""
    value = change(x.reshape(len(x), kv_heads, -1).astype(np.float32))
    return np.asarray(value.reshape(x.shape).astype(np.float64))


def _scaled(x: Array, most: float, axes: Sequence[int], rounded: Callable[[Array], Array]) -> Array:
    scale = np.abs(x).max(axis=tuple(axes), keepdims=True) / np.float32(most)
    return np.asarray(rounded(x / np.where(scale == 0, 1, scale)) * scale)


def _int8(kv_heads: int, axes: Sequence[int], x: Array) -> Array:
    return _by_heads(lambda heads: _scaled(heads, _INT8, axes, np.rint), kv_heads, x)


def _affine(rounded: Callable[[Array], Array], kv_heads: int, group: int, x: Array, *, by_channel: bool) -> Array:
    """Groups of columns, or all positions of each channel, along the last axis."""

    def of_heads(heads: Array) -> Array:
        if by_channel:
            return np.asarray(np.moveaxis(rounded(np.moveaxis(heads, 0, -1)), -1, 0))
        return np.asarray(rounded(heads.reshape(*heads.shape[:2], -1, group)).reshape(heads.shape))

    return _by_heads(of_heads, kv_heads, x)


def _ends(x: Array, most: int) -> tuple[Array, Array, Array]:
    least, largest = x.min(axis=-1, keepdims=True), x.max(axis=-1, keepdims=True)
    scale = (largest - least) / np.float32(most)
    return least, largest, np.where(scale == 0, np.float32(1), scale)


def _least(most: int, x: Array) -> Array:
    least, _, scale = _ends(x, most)
    return np.asarray(np.clip(np.rint((x - least) / scale), 0, most) * scale + least)


def _zero_point(most: int, x: Array) -> Array:
    least, _, scale = _ends(x, most)
    zero = np.rint(-least / scale)
    return np.asarray((np.clip(np.rint(x / scale) + zero, 0, most) - zero) * scale)


def _of_mlx(most: int, x: Array) -> Array:
    """The edge that is further from 0 is a level, and 0 is one (mlx.core.quantize)."""
    least, largest, scale = _ends(x, most)
    is_low = np.abs(least) > np.abs(largest)
    edge = np.where(is_low, least, largest)
    scale = np.where(is_low, scale, -scale)
    steps = np.rint(edge / scale)
    scale = np.where(steps != 0, edge / np.where(steps != 0, steps, 1), scale)
    bias = np.where(steps != 0, edge, np.float32(0))
    return np.asarray(np.clip(np.rint((x - bias) / scale), 0, most) * scale + bias)


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
