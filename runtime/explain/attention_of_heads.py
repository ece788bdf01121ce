"""Mistakes of attention that what was recorded tells: the KV head that each query head read, the keys seen, how sharp the softmax is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.ops.attention import is_causal, mask_of
from aprgraph.graph.ops.base import integer
from aprgraph.graph.words import joined, plural, runs
from aprgraph.runtime.explain.alternative import SOLVED, Alternative, explains, with_attrs, with_operand
from aprgraph.runtime.explain.attention import under
from aprgraph.runtime.explain.site import LEFT, Site

#: With more KV heads it is not tried which one each query head reads.
_MOST_KV_HEADS = 16
_NAMED = 4


@explains("attn_scores", "attn_mix")
def heads_read(site: Site) -> Iterator[Alternative]:
    """Which KV head each query head reads, where that is not its own."""
    kv_heads = integer(site.node.attrs, "kv_heads")
    is_scores = site.node.op == "attn_scores"
    count = integer(site.node.attrs, "heads") if is_scores else len(site.operands[0])
    if site.recorded is None or not 1 < kv_heads <= min(count, _MOST_KV_HEADS):
        return
    own = np.arange(count) // (count // kv_heads)

    def by_head(value: Array) -> Array:
        return value.reshape(count, -1) if is_scores else value.reshape(len(value), count, -1).transpose(1, 0, 2).reshape(count, -1)

    recorded, due = by_head(site.recorded), by_head(site.due)
    off = np.square(recorded - due).sum(axis=1)
    wrong = off > LEFT * LEFT * off.max()
    taken, known = own.copy(), ~wrong
    for kv_head in range(kv_heads):
        value = by_head(_reading(site, count, np.full(count, kv_head), site.operands))
        fits = wrong & ~known & (np.square(recorded - value).sum(axis=1) <= LEFT * off)
        taken[fits], known = kv_head, known | fits
    if not wrong.any() or not known.all() or np.array_equal(taken, np.arange(count) % kv_heads):
        return
    by_kv_head = [(kv_head, np.flatnonzero(wrong & (taken == kv_head))) for kv_head in np.unique(taken[wrong])]
    groups = [f"{_named(heads)} KV head {kv_head}" for kv_head, heads in by_kv_head[:_NAMED]]
    more = ", and so on" if len(by_kv_head) > _NAMED else ""
    words = f"{joined(groups)}{more}, in place of {'its own' if wrong.sum() == 1 else 'their own'}"
    yield Alternative("heads-read", words, partial(_reading, site, count, taken), SOLVED)


def _named(heads: Array) -> str:
    return f"query head {heads[0]} reads" if len(heads) == 1 else f"query heads {runs(heads, _NAMED)} read"


def _reading(site: Site, count: int, taken: Array, operands: Sequence[Array]) -> Array:
    rows = operands[1].reshape(len(operands[1]), integer(site.node.attrs, "kv_heads"), -1)
    return site.compute([operands[0], rows[:, taken].reshape(len(rows), -1)], kv_heads=count)


@explains("attn_softmax")
def sharpness(site: Site) -> Iterator[Alternative]:
    """The scores are multiplied by a number before the softmax, or it goes over the queries and not the keys."""
    if site.recorded is None:
        return
    scores = site.operands[0]
    mask = mask_of(scores.shape[1], scores.shape[2], site.node.attrs) & (site.recorded > 0).all(axis=0)
    with np.errstate(all="ignore"):
        logs = np.where(mask, np.log(site.recorded), 0.0)
    seen = np.maximum(mask.sum(axis=-1, keepdims=True), 1)
    a, b = (np.where(mask, side - np.where(mask, side, 0.0).sum(axis=-1, keepdims=True) / seen, 0.0) for side in (logs, scores))
    energy = float((b * b).sum())
    factor = float((a * b).sum()) / energy if energy else 1.0
    change = partial(np.multiply, factor)
    if factor > 0 and site.fits(site.compute([change(scores), *site.operands[1:]])):
        words = f"the scores are multiplied by {factor:.6g} before the softmax"
        yield Alternative("softmax-scale", words, with_operand(site, 0, change), SOLVED)
    yield Alternative("softmax-axis", "the softmax goes over the queries, and not over the keys", partial(_over_queries, site))


def _over_queries(site: Site, operands: Sequence[Array]) -> Array:
    scores = operands[0]
    masked = np.where(mask_of(scores.shape[1], scores.shape[2], site.node.attrs), scores, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(masked - masked.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@explains("attn_scores", "attn_softmax", "attn_mix")
def keys_seen(site: Site) -> Iterator[Alternative]:
    """Which keys each query sees, where what was recorded, or the weights that were, are not 0."""
    shows = site.operands[0] if site.node.op == "attn_mix" and site.recorded is not None else site.recorded
    if shows is None or shows.ndim != 3 or not np.isfinite(shows).all():
        return
    n, t = shows.shape[1:]
    due, seen = mask_of(n, t, site.node.attrs), (shows != 0).any(axis=0)
    if (seen == due).all() or not seen.any(axis=1).all():
        return
    shown = ("attn_softmax",) if site.node.op == "attn_scores" else ()
    window = int(seen[-1].sum())
    if is_causal(site.node.attrs) and 0 < window < t and (seen == mask_of(n, t, {**site.node.attrs, "window": window})).all():
        own = integer(site.node.attrs, "window")
        words = f"its window is of {window} positions" + (f" in place of {own}" if own else "")
        yield Alternative("window", words, with_attrs(site, window=window), SOLVED, shown)
        return
    name = "mask" if (seen & ~due).any() else "mask-hides"
    yield Alternative(name, _words(due, seen), under(site, lambda _: seen), SOLVED, shown)


@explains("attn_softmax")
def padding(site: Site) -> Iterator[Alternative]:
    """Queries see no key, and hold NaN for it, as those of padding do; nor does any query see theirs."""
    recorded = site.recorded
    if recorded is None or recorded.ndim != 3:
        return
    due, nan = mask_of(recorded.shape[1], recorded.shape[2], site.node.attrs), np.isnan(recorded)
    empty: Array = np.asarray((nan | ~due).all(axis=(0, 2)))
    if not empty.any() or empty.all() or nan[:, ~empty].any():
        return
    hidden = np.flatnonzero((due & ~(recorded != 0).any(axis=0))[~empty].any(axis=0))
    seen = due & ~empty[:, None] & ~np.isin(np.arange(due.shape[1]), hidden)
    queries = np.flatnonzero(empty)
    which = f"query {queries[0]} sees" if len(queries) == 1 else f"queries {runs(queries, _NAMED)} see"
    others = f", and no query sees {plural(len(hidden), 'key')} {runs(hidden, _NAMED)}" if hidden.size else ""
    words = f"{which} no key, so that the softmax is NaN there{others}: as where padding is masked"
    yield Alternative("mask", words, under(site, lambda _: seen), SOLVED)


def _words(due: Array, seen: Array) -> str:
    wrong = np.flatnonzero((due != seen).any(axis=1))
    first = int(wrong[0])
    more, less = (np.flatnonzero(one[first]) for one in (seen & ~due, due & ~seen))
    parts = [
        f"{verb} {plural(len(keys), 'key')} {runs(keys, _NAMED)}{rest}"
        for verb, keys, rest in (("sees", more, " too"), ("does not see", less, ""))
        if len(keys)
    ]
    rest = len(wrong) - 1
    others = f" ({rest} more {'queries differ' if rest > 1 else 'query differs'} too)" if rest else ""
    return f"query {first} {joined(parts)}{others}"
