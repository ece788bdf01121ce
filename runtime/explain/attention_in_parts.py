"""Mistakes of attention over keys in parts, as of a prompt in chunks: a part is not seen, or what each gives is merged otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.ops.attention import is_causal
from aprgraph.runtime.explain.alternative import Alternative, Compute, explains
from aprgraph.runtime.explain.site import Site

#: A query whose error is below this part of the largest one's is right.
_RIGHT = 1e-6
#: Two parts are merged by the exponentials of their log-sum-exps: what these may be multiplied by, and what it means.
_EXPONENTS = (
    (1 / math.log(2), "by log-sum-exps in base 2 that are taken for natural logarithms"),
    (math.log(2), "by natural log-sum-exps that are taken for logarithms in base 2"),
    (0.0, "as if both had the same log-sum-exp"),
)


@explains("attn_mix")
def parts_of_the_keys(site: Site) -> Iterator[Alternative]:
    """Queries see the keys of their own part of the text alone, or those before it alone."""
    begin = _begin(site)
    if begin is None:
        return
    n, t = site.operands[0].shape[1:]
    queries, keys = np.arange(t - n, t)[:, None], np.arange(t)[None]
    behind = queries >= begin
    seen = {
        f"queries from position {begin} on see no key before that, as where each part of a prompt is alone": ~behind | (keys >= begin),
        f"each query sees the keys of its own part of {begin} positions alone": keys >= queries // max(begin, 1) * begin,
        f"queries from position {begin} on see the keys before that alone": ~behind | (keys < begin),
    }
    tried: list[Array] = []
    for words, mask in seen.items():
        one = Alternative("mask-part", words, _among(site, mask))
        if not any(np.array_equal(mask, other) for other in tried) and site.fits(one.compute(site.operands)):
            tried.append(mask)
            yield one


@explains("attn_mix")
def parts_merged(site: Site) -> Iterator[Alternative]:
    """What two parts of the keys give is merged by wrong log-sum-exps."""
    begin = _begin(site)
    if begin is None:
        return
    for exponent, words in _EXPONENTS:
        which = f"the keys before position {begin} and those from there on are merged {words}"
        one = Alternative("parts-merged", which, _merged(site, begin, exponent))
        if site.fits(one.compute(site.operands)):
            yield one


def _begin(site: Site) -> int | None:
    """The first key of the second part: that of the first wrong query, all queries behind which are wrong; None where there is none."""
    weights, recorded = site.operands[0], site.recorded
    if recorded is None or not is_causal(site.node.attrs) or recorded.shape != site.due.shape or not np.isfinite(recorded).all():
        return None
    off = np.square(recorded - site.due).sum(axis=1)
    wrong = np.flatnonzero(off > _RIGHT * off.max())
    n, t = weights.shape[1:]
    begin = t - n + int(wrong[0]) if wrong.size else 0
    return begin if begin and wrong.size == n - wrong[0] else None


def _among(site: Site, mask: Array) -> Compute:
    """The mix by a softmax over the keys of a mask [n, t] alone, sinks apart."""

    def compute(operands: Sequence[Array]) -> Array:
        weights, v = operands
        rest = 1.0 - np.where(mask, 0.0, weights).sum(axis=-1, keepdims=True)
        return site.compute([np.where(mask, weights, 0.0) / rest, v])

    return compute


def _merged(site: Site, begin: int, exponent: float) -> Compute:
    """The mix by weights of the keys before and from ``begin`` on, the ratio of which is raised to a power."""

    def compute(operands: Sequence[Array]) -> Array:
        weights, v = operands
        first = np.arange(weights.shape[-1]) < begin
        parts = [np.where(side, weights, 0.0).sum(axis=-1, keepdims=True) for side in (first, ~first)]
        both = np.asarray((parts[0] > 0) & (parts[1] > 0))
        ratio = np.where(both, parts[0] / np.where(both, parts[1], 1.0), 1.0)
        share = ratio**exponent / (1 + ratio**exponent)
        merged = np.where(first, weights / np.where(both, parts[0], 1.0) * share, weights / np.where(both, parts[1], 1.0) * (1 - share))
        return site.compute([np.where(both, merged * (parts[0] + parts[1]), weights), v])

    return compute
