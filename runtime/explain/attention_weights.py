"""Mistakes of the weights that attention mixes by: keys that a mask leaves in, a softmax over heads, or twice, padding that is seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.ops.attention import cap_of, mask_of, scores_by_layer
from aprgraph.graph.ops.base import integer
from aprgraph.runtime.explain.alternative import GENERAL, SOLVED, Alternative, Compute, explains
from aprgraph.runtime.explain.attention import exponentials, lengths, under
from aprgraph.runtime.explain.site import Site

#: Numbers that agree to this, relative to their size, are said to be the same.
_SAME = 1e-3
#: Of fewer queries any number for each of them explains what was recorded.
_LEAST_QUERIES = 3
#: Weights below this are what rounding left, of which a logarithm says nothing.
_LEAST_WEIGHT = 1e-20
#: What every query gives to other keys is more than rounding.
_LEAST_SHARE = 1e-6
_PADDING = "part of each query's attention goes to keys that were not recorded, as where padding to the left is not masked"


@explains("attn_scores", "attn_softmax", "attn_mix")
def finite_mask(site: Site) -> Iterator[Alternative]:
    """Masked keys take part in the softmax with a finite score: minus the soft cap, where that comes after the mask, 0, or another."""
    mask = mask_of(*lengths(site, site.operands), site.node.attrs)
    if mask.all():
        return
    weights = site.around.value(site.operand_names[0]) if site.node.op == "attn_mix" else site.recorded
    if site.recorded is None or weights is None:
        # Nobody knows the score, and the nodes between take part.
        for score in _scores_of_masks(site):
            words = _words(site, score)
            yield Alternative("mask-finite", words, _with_masked(site, score), GENERAL, together=(words,))
        return
    found = _score_at_masked(site, mask) if site.node.op == "attn_scores" else _score_of(_scores_before(site), weights, mask)
    if found is not None:
        yield Alternative("mask-finite", _words(site, found), _with_masked(site, found))
    elif site.node.op == "attn_mix" and _are_alike(weights, mask):
        yield Alternative("mask-finite", "masked keys take part in the softmax, all with one score that is finite", _with_masked(site, 0.0))


def _scores_of_masks(site: Site) -> list[float]:
    """What masked keys may have for a score where that was not recorded."""
    scores = scores_by_layer(site.around.graph).get(site.node.layer)
    cap = 0.0 if scores is None else cap_of(scores.attrs)
    return [-cap, 0.0] if cap else [0.0]


def _words(site: Site, score: float) -> str:
    words = f"masked keys take part in the softmax, with a score of {score:.4g} and not of -inf"
    scores = scores_by_layer(site.around.graph).get(site.node.layer)
    cap = 0.0 if scores is None else cap_of(scores.attrs)
    return f"{words}: the soft cap of {cap:g} comes after the mask" if cap and abs(score + cap) <= _SAME * cap else words


def _score_at_masked(site: Site, mask: Array) -> float | None:
    """The one score that was recorded at all masked places."""
    assert site.recorded is not None
    held = site.recorded[:, ~mask]
    score = float(held.flat[0])
    return score if score and np.isfinite(score) and (held == score).all() else None


def _scores_before(site: Site) -> Sequence[Array]:
    """What the softmax was computed from, at that node or at the mix behind it: scores, and sinks; nothing where they are not known."""
    if site.node.op == "attn_softmax":
        return site.operands
    graph, softmax = site.around.graph, site.operand_names[0]
    if graph[softmax].op != "attn_softmax":
        return []
    first, *sinks = graph.operand_names(softmax)
    scores = site.around.value(first)
    return [] if scores is None else [scores, *(site.read(graph[name]) for name in sinks)]


def _score_of(operands: Sequence[Array], weights: Array, mask: Array) -> float | None:
    """The one score that masked keys have, by the weights of a softmax [H, n, t]; None where that is not one, or not known."""
    if not operands or operands[0].shape != weights.shape or not np.isfinite(weights).all() or (weights[:, ~mask] <= _LEAST_WEIGHT).any():
        return None
    largest = np.where(mask, weights, 0.0).argmax(axis=-1)[..., None]
    seen, score = (np.take_along_axis(side, largest, axis=-1) for side in (weights, operands[0]))
    with np.errstate(all="ignore"):
        found = (np.log(weights) - np.log(seen) + score)[:, ~mask]
    middle = float(np.median(found))
    near = float(f"{middle:.4g}") if abs(middle) > _SAME else 0.0  # a number that somebody chose
    return near if np.isfinite(middle) and np.abs(found - near).max() <= _SAME * max(1.0, abs(near)) else None


def _are_alike(weights: Array, mask: Array) -> bool:
    """Whether each query gives all its masked keys the same weight, which is not 0."""
    hidden = np.where(mask, np.nan, weights)[:, (~mask).sum(axis=-1) > 1]
    if not hidden.size or not np.isfinite(weights).all():
        return False
    low, high = np.nanmin(hidden, axis=-1), np.nanmax(hidden, axis=-1)
    return bool((low > _LEAST_WEIGHT).all() and (high - low <= _SAME * high).all())


def _with_masked(site: Site, score: float) -> Compute:
    """The node with ``score`` at masked places, which count."""
    everything = under(site, np.ones_like)

    def compute(operands: Sequence[Array]) -> Array:
        mask = mask_of(*lengths(site, operands), site.node.attrs)
        if site.node.op == "attn_scores":
            return np.where(mask, site.compute(operands), score)
        if site.node.op == "attn_softmax":
            return everything([np.where(mask, operands[0], score), *operands[1:]])
        return everything(operands)

    return compute


@explains("attn_softmax", "attn_mix")
def other_softmax(site: Site) -> Iterator[Alternative]:
    """The softmax goes over the heads, or is taken twice."""
    mask = mask_of(*lengths(site, site.operands), site.node.attrs)
    operands = _scores_before(site)
    weights = None if site.node.op == "attn_softmax" else site.around.value(site.operand_names[0])
    is_softmax = site.node.op == "attn_softmax"
    if not operands or (not is_softmax and (weights is None or site.recorded is None)):
        return
    ways = (
        ("softmax-heads", "the softmax goes over the heads, and not over the keys", _over_heads),
        ("softmax-twice", "the softmax is taken twice", _twice),
        ("softmax-twice", "the softmax is taken twice, the second time over masked keys too", _twice_over_all),
    )
    for name, words, way in ways:
        if is_softmax:
            one = Alternative(name, words, partial(way, mask))
            if site.fits(one.compute(operands)):
                yield one
        elif (
            weights is not None and way is _twice_over_all and _is_close(weights, way(mask, operands))
        ):  # whose weights a mix has to take as they are
            yield Alternative(name, words, under(site, np.ones_like))


def _over_heads(mask: Array, operands: Sequence[Array]) -> Array:
    scores = operands[0]
    weights = np.exp(scores - scores.max(axis=0, keepdims=True))
    return np.where(mask, weights / weights.sum(axis=0, keepdims=True), 0.0)


def _once(mask: Array, operands: Sequence[Array]) -> Array:
    weights, sums = exponentials(operands, mask)
    return np.asarray(weights / sums)


def _twice(mask: Array, operands: Sequence[Array]) -> Array:
    return _once(mask, [_once(mask, operands), *operands[1:]])


def _twice_over_all(mask: Array, operands: Sequence[Array]) -> Array:
    return _once(np.ones_like(mask), [_once(mask, operands), *operands[1:]])


def _is_close(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.abs(a - b).max(initial=0.0) <= _SAME * np.abs(b).max(initial=0.0))


@explains("attn_softmax")
def missing_keys(site: Site) -> Iterator[Alternative]:
    """The weights of each query add up to less than 1: the rest is that of a sink, or of keys that were not recorded."""
    recorded, due = site.recorded, site.due
    if recorded is None or recorded.ndim != 3 or recorded.shape[1] < _LEAST_QUERIES or not np.isfinite(recorded).all():
        return
    energy = np.square(due).sum(axis=-1, keepdims=True)
    kept = np.where(energy > 0, (recorded * due).sum(axis=-1, keepdims=True) / np.where(energy > 0, energy, 1.0), 1.0)
    if not ((kept > 0) & (kept < 1 - _LEAST_SHARE)).all() or np.ptp(kept, axis=1).max() <= _SAME or not site.fits(due * kept):
        return  # a number that is the same for every query, or of some of them alone, is a factor
    mask = mask_of(*lengths(site, site.operands), site.node.attrs)
    scores, *sinks = site.operands
    logits = np.where(mask, scores, -np.inf)
    largest = logits.max(axis=-1, keepdims=True)
    # What the sum has beside the keys, as the logarithm of one more exponential.
    with np.errstate(divide="ignore"):
        more = np.log(np.exp(logits - largest).sum(axis=-1)) + np.log(np.maximum(1 / kept[..., 0] - 1, 0)) + largest[..., 0]
    of_heads = np.median(more, axis=1)
    if not sinks and np.isfinite(more).all() and (np.abs(more - of_heads[:, None]) <= _SAME * np.maximum(1, np.abs(more))).all():
        low, high = float(of_heads.min()), float(of_heads.max())
        size = f"{low:.4g}" if high - low <= _SAME else f"{low:.4g} to {high:.4g}"
        words = (
            f"each head has a sink beside its keys, of {size if abs(low) > _SAME or high - low > _SAME else '0'}, which the file has not"
        )
        yield Alternative("sinks-extra", words, lambda operands: site.compute([*operands[:1], of_heads]), SOLVED)
        return
    yield Alternative("padding-seen", _PADDING, lambda operands: site.compute(operands) * kept, SOLVED)


@explains("attn_mix")
def missing_values(site: Site) -> Iterator[Alternative]:
    """What each query's weights lack of 1 goes to one more value for each KV head, as padding has it, the same at all its places."""
    recorded, kv_heads = site.recorded, integer(site.node.attrs, "kv_heads")
    rest = 1.0 - site.operands[0].sum(axis=-1)  # [H, n]
    if recorded is None or not np.isfinite(recorded).all() or len(recorded) < _LEAST_QUERIES:
        return
    if not (rest >= -_SAME).all() or rest.max() < _SAME:
        return
    heads, n = rest.shape
    if recorded.shape[1] % heads or heads % kv_heads or len(site.around.graph.operand_names(site.operand_names[0])) > 1:  # sinks take some
        return
    off = (recorded - site.due).reshape(n, kv_heads, heads // kv_heads, -1)
    part = rest.T.reshape(n, kv_heads, heads // kv_heads, 1)
    energy = np.square(part).sum(axis=(0, 2))
    value = (off * part).sum(axis=(0, 2)) / np.where(energy > 0, energy, 1.0)  # [K, D]
    added = (part * value[None, :, None]).reshape(recorded.shape)
    if site.fits(site.due + added):
        yield Alternative("padding-seen", _PADDING, lambda operands: site.compute(operands) + added, SOLVED)
