"""The conventions of recording that are known, each declared once: which tensors it may hold for, and how it is undone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.runtime.readings.convention import convention
from aprgraph.runtime.readings.layout import Layout
from aprgraph.runtime.readings.reading import Restoration
from aprgraph.runtime.trace.aprt import F32

#: Which elements of a head RoPE turns together.
PAIRS_IN_WORDS = {"interleaved": "neighbours (2i, 2i + 1)", "halves": "halves (i, i + D/2)"}
#: Natural factors, by how they are called; the scale of a stage comes first.
_LOG2_E = math.log2(math.e)
_CLOSE = 1e-4
#: What stands at masked places in other programs, negative: no score of a model comes near it.
LEAST_FILL = 1e4
#: What the words of a reading that is of such numbers alone end with.
AT_MASKED = " at masked places"


@convention("any")
def axis_orders(_recorded: F32, _expected: F32, layout: Layout) -> Iterator[Restoration]:
    """The same elements with the axes in another order: heads first, transposed, positions first."""
    sizes = layout.sizes
    letters = [letter for letter, _ in layout.axes]
    identity = tuple(range(len(sizes)))
    seen = {_strides(sizes, identity)}
    for order in permutations(identity):
        # Orders that differ in axes of one element alone are the same.
        if _strides(sizes, order) in seen:
            continue
        seen.add(_strides(sizes, order))
        words = "transposed" if len(sizes) == 2 else f"as [{', '.join(letters[i] for i in order)}]"
        if len(sizes) == 3 and order == (1, 0, 2) and letters[1] in ("H", "K"):
            words = f"heads first, {words}"
        yield Restoration("axes", words, _reorder(sizes, order))


def _strides(sizes: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Where each axis of more than one element lies, in elements, when they are laid out in ``order``."""
    strides = [0] * len(sizes)
    step = 1
    for axis in reversed(order):
        if sizes[axis] > 1:
            strides[axis] = step
        step *= sizes[axis]
    return tuple(strides)


def _reorder(sizes: Sequence[int], order: Sequence[int]) -> Callable[[F32], F32]:
    back = tuple(int(i) for i in np.argsort(order))

    def restore(recorded: F32) -> F32:
        laid = recorded.reshape([sizes[i] for i in order]).transpose(back)
        return np.ascontiguousarray(laid).reshape(recorded.shape)

    return restore


@convention("qkv_matmul, qkv_bias")
def fused_heads(_recorded: F32, _expected: F32, layout: Layout) -> Iterator[Restoration]:
    """q, k and v not side by side, but the heads of one KV group after the other: G query heads, their key, their value."""
    if len(layout.heads) != 2 or layout.kv_heads < 2:
        return
    heads, kv_heads = layout.heads
    group, size = heads // kv_heads, layout.head_size

    def restore(recorded: F32) -> F32:
        n = recorded.shape[0]
        grouped = recorded.reshape(n, kv_heads, group + 2, size)
        parts = (grouped[:, :, :group], grouped[:, :, group], grouped[:, :, group + 1])
        return np.concatenate([part.reshape(n, -1) for part in parts], axis=1)

    yield Restoration("groups", f"as [n, K, {group} q + k + v, D], KV group after KV group", restore)


@convention("qkv_matmul, qkv_bias, q_norm, k_norm, q_post_rope, k_post_rope")
def row_orders(_recorded: F32, _expected: F32, layout: Layout) -> Iterator[Restoration]:
    """The rows of q and k in the other order of RoPE's pairs: converting a llama checkpoint to GGUF permutes them."""
    if not layout.heads or layout.head_size % 2:
        return
    for mine, theirs in (("halves", "interleaved"), ("interleaved", "halves")):
        yield row_order(layout, mine, theirs)


def row_order(layout: Layout, recorded: str, wanted: str) -> Restoration:
    """Rows of q and k that were ``recorded`` as ``halves`` or ``interleaved``, brought to the other order."""
    size, columns = layout.head_size, sum(layout.heads) * layout.head_size
    shape = (2, size // 2) if recorded == "halves" else (size // 2, 2)

    def restore(values: F32) -> F32:
        n = values.shape[0]
        turned = values[:, :columns].reshape(n, -1, *shape).swapaxes(2, 3).reshape(n, columns)
        return np.concatenate([turned, values[:, columns:]], axis=1)

    words = f"with RoPE's pairs as {PAIRS_IN_WORDS[recorded]}, where the file has {PAIRS_IN_WORDS[wanted]}"
    return Restoration("rows", words, restore)


@convention("attn_scores; attn_softmax, of NaN alone")
def masked_places(recorded: F32, _expected: F32, layout: Layout) -> Iterator[Restoration]:
    """Something else than 0 at masked places: -inf, NaN, the least number of a format, scores from before the mask."""
    if layout.mask is None:
        return
    mask = layout.mask
    values = recorded.reshape(-1, *mask.shape)[:, ~mask]
    if not values.size or not (values != 0).any():
        return

    def restore(scores: F32) -> F32:
        return np.where(mask, scores.reshape(-1, *mask.shape), np.float32(0)).reshape(scores.shape)

    with np.errstate(invalid="ignore"):
        fill = bool((np.isnan(values) | ((values <= -LEAST_FILL) & (not layout.is_softmax)) | (values == 0)).all())
    if layout.is_softmax and not fill:
        return  # weights of what should not be seen
    unusual = values[values != 0]
    if fill:
        first = float(unusual.flat[0])
        words = f"{fill_in_words(first)}{AT_MASKED}"
    else:
        words = "masked places holding scores too, as before the mask"
    # NaN among the weights of a softmax is in the result too, unless nobody reads it there: that has to show.
    yield Restoration("mask", words, restore, transparent=True, certain=fill and not layout.is_softmax)


def fill_in_words(fill: float) -> str:
    """What a number that stands for a mask is called."""
    return "NaN" if math.isnan(fill) else f"{fill:.4g}"


def is_fill(scores: Array) -> Array:
    """bool of the shape of ``scores``: where a number can only stand for a mask, -inf or far below any score."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return np.asarray(scores <= -LEAST_FILL)


def unmasked(scores: Array, hidden: Array, *, are_weights: bool = False) -> Array | None:
    """Scores [H, n, t] with 0 for every number that can only stand for a mask, -inf or far below any score, and for NaN at ``hidden``
    places, bool [n, t]; None where there is none. Of the weights that a softmax makes of them (``are_weights``), for such NaN alone.

    For what is wrong: those numbers say where the mask is, and are else so large, or not finite, that they hide all others.
    """
    fill = np.isnan(scores) & hidden
    if not are_weights:
        fill |= is_fill(scores)
    return np.where(fill, scores.dtype.type(0), scores) if fill.any() else None


@convention("any")
def factors(recorded: F32, expected: F32, layout: Layout) -> Iterator[Restoration]:
    """All elements times one number: scores before their scale, an embedding before its own."""
    with np.errstate(over="ignore", invalid="ignore"):
        there = np.isfinite(recorded) & np.isfinite(expected)
        a, b = recorded[there].astype(np.float64), expected[there].astype(np.float64)
        energy = float(b @ b)
        factor = float(a @ b) / energy if energy else 0.0
    if not factor or not math.isfinite(factor) or abs(factor - 1) < 1e-12:
        return
    divisor = np.float64(factor)

    def restore(values: F32) -> F32:
        with np.errstate(over="ignore", invalid="ignore"):
            restored: F32 = (values.astype(np.float64) / divisor).astype(np.float32)
        return restored

    yield Restoration("factor", _factor_words(factor, layout.scale), restore)


def _factor_words(factor: float, scale: float | None) -> str:
    text = f"{factor:.4g} times as large"
    if scale is not None and scale not in (0.0, 1.0):
        for natural, words in ((1 / scale, "as before its scale"), (_LOG2_E / scale, "as before its scale and in powers of two")):
            if abs(factor / natural - 1) < _CLOSE:
                return f"{text}, {words}"
    if abs(factor / _LOG2_E - 1) < _CLOSE:
        return f"{text}, as for powers of two"
    return "with the opposite sign" if abs(factor + 1) < _CLOSE else text
