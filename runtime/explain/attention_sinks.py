"""Mistakes of sinks, which take part in the softmax of each head: those of another layer or head, in base 2, scaled, others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import Array
from aprgraph.graph.ops.attention import scores_by_layer
from aprgraph.graph.words import listed, runs
from aprgraph.runtime.explain.alternative import GENERAL, SOLVED, Alternative, Compute, explains, with_value
from aprgraph.runtime.explain.site import Site

#: Numbers that agree to this, relative to their size, are said to be the same.
_SAME = 1e-3
#: Fewer queries do not tell a sink from a factor.
_LEAST_QUERIES = 3
_NAMED = 8


@explains("attn_softmax")
def other_sinks(site: Site) -> Iterator[Alternative]:
    """The sinks are those of another layer, or of other heads, in base 2, scaled as scores are, or others."""
    if len(site.operands) < 2:
        return
    if site.recorded is None:  # what they are does not show, and each of these is computed to the next stage that was recorded
        yield from (Alternative("sinks", words, with_value(site, 1, sinks), GENERAL) for words, sinks in _known(site, site.node))
    own, weights = np.asarray(site.operands[1]), site.recorded
    if weights is not None and weights.shape == site.due.shape:
        yield from _named(site, site.node, own, _solved(own, site.due.sum(axis=-1), weights.sum(axis=-1)), partial(with_value, site, 1))


@explains("attn_mix")
def sinks_of_a_mix(site: Site) -> Iterator[Alternative]:
    """The sinks are others, and the softmax was not recorded: each head of a query counts by another factor."""
    graph, weights = site.around.graph, site.operands[0]
    softmax = graph[site.operand_names[0]]
    names = graph.operand_names(softmax.name)
    if site.recorded is None or softmax.op != "attn_softmax" or len(names) < 2 or site.around.value(softmax.name) is not None:
        return
    own, (heads, n) = np.asarray(site.read(graph[names[1]])), weights.shape[:2]
    recorded, due = (side.reshape(n, heads, -1).swapaxes(0, 1) for side in (site.recorded, site.due))
    kept = weights.sum(axis=-1)
    with np.errstate(all="ignore"):
        factors = (recorded * due).sum(axis=-1) / np.square(due).sum(axis=-1)

    def by(sinks: Array) -> Compute:
        # Of a sum Z of exponentials and a sink s, Z / (Z + exp(s)) goes to the keys.
        other = kept / (kept + (1 - kept) * np.exp(sinks - own)[:, None])
        return lambda operands: site.compute([operands[0] * (other / kept)[..., None], operands[1]])

    yield from _named(site, softmax, own, _solved(own, kept, kept * factors), by)


def _named(site: Site, softmax: Node, own: Array, found: Array | None, by: Callable[[Array], Compute]) -> Iterator[Alternative]:
    """What the sinks that were ``found`` are."""
    if found is None or (found == own).all():
        return
    for words, sinks in (*_known(site, softmax), *_of_other_heads(own)):
        if np.abs(sinks - found).max() <= _SAME * max(1.0, np.abs(found).max()):
            yield Alternative("sinks", words, by(sinks))
            return
    if site.fits(by(found)(site.operands)):
        moved = np.flatnonzero(found != own)
        values = listed((f"{sink:.4g}" for sink in found[moved]), _NAMED)
        what, verb = ("sink of head", "is") if len(moved) == 1 else ("sinks of heads", "are")
        words = f"the {what} {runs(moved, _NAMED)} {verb} {values} in place of the file's"
        yield Alternative("sinks", words, by(found), SOLVED)


def _known(site: Site, softmax: Node) -> Iterator[tuple[str, Array]]:
    """What may be taken for the sinks of a softmax, in words and as it is."""
    graph = site.around.graph
    own = np.asarray(site.read(graph[graph.operand_names(softmax.name)[1]]))
    for node in graph.with_op("attn_softmax"):
        names = graph.operand_names(node.name)
        if node.name != softmax.name and len(names) > 1 and (sinks := site.read(graph[names[1]])).shape == own.shape:
            yield f"the sinks are those of layer {node.layer}", np.asarray(sinks)
    yield "sinks are powers of 2, and not of e", own * math.log(2)
    yield "sinks are multiplied by 1 / ln 2, as scores are for powers of 2, and the sum is of powers of e", own / math.log(2)
    scores = scores_by_layer(graph).get(softmax.layer)
    if scores is not None:
        yield "sinks are multiplied by the scale of scores", own * scores.attr_float("scale")


def _of_other_heads(own: Array) -> Iterator[tuple[str, Array]]:
    """The sinks in another order, as heads may lie on several devices."""
    count = len(own)
    for shards in (shards for shards in (2, 4, 8) if count % shards == 0 and count > shards):
        for shard in range(shards):
            part = own[shard * count // shards : (shard + 1) * count // shards]
            yield f"every {count // shards} heads have the sinks of part {shard + 1} of {shards} of the heads", np.tile(part, shards)
    for shift in range(1, count):
        yield f"each head has the sink of that {shift} further on", np.roll(own, -shift)


def _solved(own: Array, due: Array, recorded: Array) -> Array | None:
    """The sinks [H] by what goes to the keys [H, n], and should go there with the sinks ``own``, if they are the same for every query.

    Of a sum Z of exponentials, Z / (Z + exp(s)) goes to the keys beside a sink s.
    """
    if due.shape[1] < _LEAST_QUERIES:
        return None
    with np.errstate(all="ignore"):
        sinks = own[:, None] + np.log(due / (1 - due)) + np.log(1 / recorded - 1)
    found = np.median(sinks, axis=1)
    if not np.isfinite(sinks).all() or (np.abs(sinks - found[:, None]) > _SAME * np.maximum(1, np.abs(sinks))).any():
        return None
    return np.asarray(np.where(np.abs(found - own) <= _SAME * np.maximum(1, np.abs(own)), own, found))
