"""Mistakes of attention: masks, scales, heads, the softmax, what the cache holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import OPS, Array
from aprgraph.graph.ops.attention import cap_of, is_causal, is_chunked, is_symmetric, mask_of, value_size_of
from aprgraph.graph.ops.base import integer, number
from aprgraph.graph.ops.rope import PAIRINGS
from aprgraph.runtime.explain.alternative import SOLVED, Alternative, Compute, explains, goes_on, with_attrs, with_operand
from aprgraph.runtime.explain.elementwise import caps
from aprgraph.runtime.explain.site import Site, compute
from aprgraph.runtime.readings.steps import is_fill

#: From a right mask [n, t] to a wrong one.
_Mask = Callable[[Array], Array]
#: Caps that models have, of which one may be taken for another.
_CAPS = (50.0, 30.0, 20.0)
#: What has the same mask as a node that it reads.
_READERS = {"attn_scores": ("attn_softmax",), "attn_softmax": ()}
#: Beyond this e^x is no float32.
_LARGEST_EXPONENT = 88.7


def exponentials(operands: Sequence[Array], mask: Array, *, largest_subtracted: bool = True) -> tuple[Array, Array]:
    """exp of the scores that a mask [n, t] leaves, 0 elsewhere, and their sums with a head's sink."""
    scores, *sinks = operands
    logits = [np.where(mask, scores, -np.inf), *(np.broadcast_to(sink[:, None, None], (*scores.shape[:2], 1)) for sink in sinks)]
    joined = np.concatenate(logits, axis=-1)
    weights = np.exp(joined - joined.max(axis=-1, keepdims=True) if largest_subtracted else joined)
    return weights[..., : scores.shape[-1]], weights.sum(axis=-1, keepdims=True)


def _but_for_masked_nan(weights: Array, mask: Array) -> Array:
    """Weights with 0 for NaN that a mask hides, which nobody looks at in what was recorded either."""
    return np.where(np.isnan(weights) & ~mask, 0.0, weights)


def _scores(site: Site, operands: Sequence[Array], mask: Array) -> Array:
    q, k = operands
    attrs = site.node.attrs
    heads, kv_heads = integer(attrs, "heads"), integer(attrs, "kv_heads")
    keys = np.repeat(k.reshape(len(k), kv_heads, -1), heads // kv_heads, axis=1)
    product = np.einsum("nhd,thd->hnt", q.reshape(len(q), heads, -1), keys) * number(attrs, "scale")
    cap = cap_of(attrs)
    return np.where(mask, cap * np.tanh(product / cap) if cap else product, 0.0)


def _mix(site: Site, operands: Sequence[Array], mask: Array) -> Array:
    weights, v = operands
    kv_heads = integer(site.node.attrs, "kv_heads")
    size = v.shape[1] // kv_heads
    taken = v.reshape(len(v), kv_heads, size)[..., : value_size_of(site.node.attrs, size)]
    values = np.repeat(taken, len(weights) // kv_heads, axis=1)
    return np.asarray(np.einsum("hnt,thd->nhd", np.where(mask, weights, 0.0), values).reshape(weights.shape[1], -1))


def lengths(site: Site, operands: Sequence[Array]) -> tuple[int, int]:
    """How many positions the pass has, and how many are attended to."""
    if site.node.op == "attn_scores":
        return len(operands[0]), len(operands[1])
    return operands[0].shape[1], operands[0].shape[2]


def under(site: Site, wrong: _Mask) -> Compute:
    """The node under another mask."""

    def compute(operands: Sequence[Array]) -> Array:
        due = mask_of(*lengths(site, operands), site.node.attrs)
        mask = wrong(due)
        if site.node.op == "attn_scores":
            return _scores(site, operands, mask)
        if site.node.op == "attn_softmax":
            weights, sums = exponentials(operands, mask)
            with np.errstate(invalid="ignore"):  # a query that sees no key has no softmax
                return _but_for_masked_nan(np.asarray(weights / sums), due)
        return _mix(site, operands, mask)

    return compute


def _one_ahead(mask: Array) -> Array:
    ahead = mask.copy()
    ahead[:, 1:] |= mask[:, :-1]
    return ahead


def _without_itself(mask: Array) -> Array:
    """No query sees its own key, but for the first, which would see nothing."""
    n, t = mask.shape
    hidden = mask.copy()
    index = np.arange(n)[np.arange(n) + t - n > 0]
    hidden[index, index + t - n] = False
    return hidden


@explains("attn_scores", "attn_softmax", "attn_mix")
def masks(site: Site) -> Iterator[Alternative]:
    """Other keys are attended to."""
    yield from (one for one, mask in _masks(site) if not _opens_hidden(site, mask))


def _opens_hidden(site: Site, mask: Array) -> bool:
    """Whether a mask shows keys that scores, or weights, which were recorded hide: who computed those has another mask.

    Or all that it shows has one and the same score: then it is no score, but what stands for a mask (attention_weights.py).
    """
    if site.node.op == "attn_scores" or site.around.value(site.operand_names[0]) is None:
        return False
    held = site.operands[0]
    if site.node.op == "attn_softmax" and mask.all():
        masked = held[:, ~mask_of(*lengths(site, site.operands), site.node.attrs)]
        if masked.size > 1 and (masked == masked.flat[0]).all():
            return True
    hidden = (is_fill(held) if site.node.op == "attn_softmax" else held == 0).all(axis=0)
    return bool((hidden & mask & ~mask_of(*lengths(site, site.operands), site.node.attrs)).any())


def _masks(site: Site) -> Iterator[tuple[Alternative, Array]]:
    """Alternatives, and under which masks they are."""
    attrs = site.node.attrs
    n, t = lengths(site, site.operands)
    window, shown = integer(attrs, "window"), _READERS.get(site.node.op, ())

    def other(name: str, words: str, **changed: bool | int) -> tuple[Alternative, Array]:
        # Of windows there are several, each of which is one mistake of scores, softmax and mixing.
        together = (words,) if name == "window" else ()
        one = Alternative(name, words, with_attrs(site, **changed), shows_in=shown, together=together)
        return one, mask_of(n, t, {**attrs, **changed})

    for size in dict.fromkeys(_windows(site)):
        words = f"its window is of {size} positions" + (f" in place of {window}" if window else "") if size else "it has no window"
        yield other("window", words, window=size, **({} if size else _ONE_SIDED))
    if is_chunked(attrs):
        yield other("chunks", f"its window is the {window} positions before each, across the borders of chunks", chunked=False)
    if is_symmetric(attrs):
        yield other("window-sides", f"its window is the {window} positions before each, and all behind", symmetric=False)
        yield other("window", f"its window reaches {window} positions to either side", window=2 * window)
    for name, words, wrong in (
        ("mask-ahead", "every query sees the key after its own", _one_ahead),
        ("mask-itself", "no query sees its own key", _without_itself),
    ):
        yield Alternative(name, words, under(site, wrong), shows_in=shown), wrong(mask_of(n, t, attrs))
    if is_causal(attrs):
        if not is_chunked(attrs):
            yield other("not-causal", "every query sees all keys, those behind it too", causal=False)
    else:
        yield other("causal", "no query sees a key behind it", causal=True, symmetric=False)
        if window:
            yield other("causal", "no query sees a key behind it, nor has it a window", causal=True, symmetric=False, window=0)


#: Dims of scores: heads, queries, keys.
_SQUARE = 3
#: What a window that is none has no need of.
_ONE_SIDED = {"chunked": False, "symmetric": False}


def _windows(site: Site) -> Iterator[int]:
    """Windows one wider and one narrower, none, those of the model's other layers, and as many keys as the last query sees."""
    own = integer(site.node.attrs, "window")
    yield from (seen for seen in [_seen_by_last(site)] if seen not in (0, own))
    step = 1 + is_symmetric(site.node.attrs)
    if own:
        yield from (one for one in (own + step, own - step, 0) if one >= 0)
    yield from (w for node in site.around.graph.with_op(site.node.op) for w in [integer(node.attrs, "window")] if w != own)


def _seen_by_last(site: Site) -> int:
    """Before how many keys, its own among them, the last query was given none; 0 where it sees the first, or that does not show."""
    recorded = site.recorded
    if recorded is None or recorded.ndim != _SQUARE or is_symmetric(site.node.attrs) or is_chunked(site.node.attrs):
        return 0
    seen = np.flatnonzero((recorded[:, -1] != 0).any(axis=0))
    return recorded.shape[-1] - int(seen[0]) if seen.size and seen[0] else 0


@explains("attn_scores")
def scales(site: Site) -> Iterator[Alternative]:
    """Scores are scaled or capped otherwise."""
    attrs = site.node.attrs
    own, cap = number(attrs, "scale"), cap_of(attrs)
    size = site.operands[0].shape[1] // integer(attrs, "heads")
    usual = (
        (1.0, "1"),
        (size**-0.5, f"1 / sqrt({size}), of the head size,"),
        (1 / size, f"1 / {size}, of the head size,"),
        (own * own, "the square of their scale"),
        (math.sqrt(own), "the root of their scale"),
    )
    tried = [own]
    for scale, words in usual:
        if not any(math.isclose(scale, other, rel_tol=1e-6) for other in tried):
            tried.append(scale)
            yield Alternative("score-scale", f"scores are multiplied by {words} in place of {own:.6g}", with_attrs(site, scale=scale))
    if not cap:
        yield from _solved_scale(site, own)
    if cap:
        yield Alternative("score-cap", f"scores are not capped at {cap:g}", with_attrs(site, cap=0.0))
        yield Alternative("score-cap", f"scores are capped at {cap:g} before they are multiplied by {own:.6g}", _capped_first(site))
        yield from caps(site, lambda operands: site.compute(operands, cap=0.0), cap)
    for other in _CAPS:
        if other != cap:
            yield Alternative(
                "score-cap", f"scores are capped at {other:g}" + (f" in place of {cap:g}" if cap else ""), with_attrs(site, cap=other)
            )


def _capped_first(site: Site) -> Compute:
    scale = number(site.node.attrs, "scale")
    return lambda operands: site.compute(operands, scale=1.0) * scale


def _solved_scale(site: Site, own: float) -> Iterator[Alternative]:
    if site.recorded is None:
        return
    factor = site.factor()
    if site.fits(site.due * factor):
        words = f"scores are multiplied by {own * factor:.6g} in place of {own:.6g}"
        yield Alternative("score-scale", words, with_attrs(site, scale=own * factor), SOLVED)


@explains("attn_scores", "attn_mix")
def heads(site: Site) -> Iterator[Alternative]:
    """Query heads read other KV heads."""
    kv_heads = integer(site.node.attrs, "kv_heads")
    count = integer(site.node.attrs, "heads") if site.node.op == "attn_scores" else len(site.operands[0])
    if kv_heads in (count, 1):
        return

    def in_turn(operands: Sequence[Array]) -> Array:
        rows = operands[1].reshape(len(operands[1]), kv_heads, -1)
        return site.compute([operands[0], rows[:, np.arange(count) % kv_heads].reshape(len(rows), -1)], kv_heads=count)

    words = f"query head h reads KV head h mod {kv_heads}, and not h / {count // kv_heads}"
    yield Alternative("heads-in-turn", words, in_turn)


@explains("attn_softmax")
def softmax(site: Site) -> Iterator[Alternative]:
    """The exponentials are not divided by their sum, or the sinks left out."""

    def mask(operands: Sequence[Array]) -> Array:
        return mask_of(*lengths(site, operands), site.node.attrs)

    def overflowing(operands: Sequence[Array]) -> Array:
        single = [operand.astype(np.float32) for operand in operands]
        with np.errstate(all="ignore"):
            weights, sums = exponentials(single, mask(operands), largest_subtracted=False)
            return _but_for_masked_nan(np.asarray(weights / sums, np.float64), mask(operands))

    if np.abs(site.operands[0]).max(initial=0.0) > _LARGEST_EXPONENT:
        yield Alternative("softmax-overflow", "the softmax overflows: the largest score is not subtracted", overflowing)
    yield Alternative("softmax-sum", "the softmax is not divided by its sum", lambda operands: exponentials(operands, mask(operands))[0])
    if len(site.operands) > 1:
        yield Alternative("sinks", "the softmax is without its sinks", lambda operands: site.compute(operands[:1]))


@explains("attn_softmax", "softmax")
def softmax_left_out(site: Site) -> Iterator[Alternative]:
    """What comes out is what went in."""
    yield Alternative("left-out", f"{site.called} is left out", goes_on(0))


@explains("attn_scores", "attn_mix")
def keys_of_other_positions(site: Site) -> Iterator[Alternative]:
    """The rows of k or v are those of the position before or behind."""
    if site.operands[1].shape[0] < 3:
        return
    what = "keys" if site.node.op == "attn_scores" else "values"
    for shift, where in ((1, "before"), (-1, "behind")):
        yield Alternative(
            "rows-shifted", f"the {what} are those of the position {where}",
            with_operand(site, 1, partial(np.roll, shift=shift, axis=0)),
        )  # fmt: skip


@explains("attn_scores")
def rotated_though_not_to_be(site: Site) -> Iterator[Alternative]:
    """q and k are turned by RoPE in a layer that has none."""
    graph = site.around.graph
    turned = {node.layer for node in graph.with_op("rope")}
    tables = graph.with_op("rope_angles")
    if site.node.layer in turned or not tables:
        return
    angles = compute(tables[0], [site.around.positions], site.around) if len(graph.operand_names(tables[0].name)) == 1 else None
    if angles is None or len(site.operands[1]) != len(angles):
        return
    for pairing in PAIRINGS:
        yield Alternative(
            "rope-extra",
            f"q and k are turned by RoPE (pairs: {pairing}), which this layer has not",
            partial(_turned, site, angles, pairing),
        )


def _turned(site: Site, angles: Array, pairing: str, operands: Sequence[Array]) -> Array:
    counts = (integer(site.node.attrs, "heads"), integer(site.node.attrs, "kv_heads"))
    reference = OPS["rope"].reference
    assert reference is not None
    turned = [
        reference([x, angles], {"heads": count, "head_size": x.shape[1] // count, "start": 0, "pairing": pairing})
        for x, count in zip(operands, counts, strict=True)
    ]
    return site.compute(turned)
