"""Mistakes of mixtures of experts: the choice, its weights, another expert, the sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import Array
from aprgraph.graph.ops.router import GATINGS, ROUTER_WEIGHTS, groups_of
from aprgraph.graph.words import counted
from aprgraph.runtime.explain.alternative import Alternative, Compute, explains, with_attrs, with_operand
from aprgraph.runtime.explain.site import Site, compute

#: A distance within which all scores are.
_ANY = 1e30


@explains("top_k")
def choice(site: Site) -> Iterator[Alternative]:
    """Other experts are chosen by the same scores, or by scores without their bias."""
    groups = groups_of(site.node.attrs)
    if groups.count > 1:
        yield Alternative("groups", "experts are chosen among all groups", with_attrs(site, groups=1, used_groups=1, best_of_group=1))
        for best in (1, 2):
            if best != groups.best:
                yield Alternative("groups", f"a group of experts counts by its {best} best", with_attrs(site, best_of_group=best))
        for used in range(1, groups.count):
            if used != groups.used:
                words = f"experts are chosen among the best {counted(used, 'group')}, and not among {groups.used}"
                yield Alternative("groups", words, with_attrs(site, used_groups=used))
    if (bias := _bias_in(site, 0)) is not None:
        weight, values = bias
        words = f"experts are chosen without {site.label_of(weight)}"
        yield Alternative("router-bias", words, with_operand(site, 0, lambda scores: scores - values))
    yield Alternative("top-k-smallest", "the experts of the smallest scores are chosen", with_operand(site, 0, np.negative))

    def higher(operands: Sequence[Array]) -> Array:
        scores = operands[0]
        return np.asarray(scores.shape[1] - 1 - site.compute([scores[:, ::-1]]))

    yield Alternative("top-k-ties", "of equal scores the higher id comes first", higher)


@explains("router_weights")
def weights(site: Site) -> Iterator[Alternative]:
    """The weights of the chosen experts are other shares of their scores."""
    own, gating = bool(site.node.attrs["normalise"]), str(site.node.attrs.get("gating", "softmax"))
    if own:
        yield Alternative("router-sum", "the weights of the chosen experts are not divided by their sum", with_attrs(site, normalise=False))
    else:
        yield Alternative("router-sum", "the weights of the chosen experts are divided by their sum", with_attrs(site, normalise=True))
    for other in GATINGS:
        if other != gating:
            for normalise in (own, not own):
                more = "" if normalise is own else f", {'divided' if normalise else 'not divided'} by their sum"
                words = f"the weights of experts are by {other} and not by {gating}{more}"
                yield Alternative("router-gating", words, with_attrs(site, gating=other, normalise=normalise))
    yield from _normalised_otherwise(site)
    yield from _of_other_scores(site)
    if (bias := _bias_in(site, 0)) is not None:
        weight, values = bias
        words = f"the weights are of scores without {site.label_of(weight)}"
        yield Alternative("router-bias", words, with_operand(site, 0, lambda scores: scores - values))
    if site.operands[1].shape[1] > 1:
        yield Alternative("expert-unweighted", "the last of the chosen experts has no weight", partial(_one_less, site))


@explains("sparse_mixer")
def mixed(site: Site) -> Iterator[Alternative]:
    """Other shares than those among what is left and nearly as good: of a softmax over all, within another distance, or of their sum."""
    for normalise, more in ((True, "divided"), (False, "not divided")):
        words = f"the weights of the chosen experts are shares of a softmax over all, {more} by their sum"
        yield Alternative("router-gating", words, partial(_shares, normalise))
    tolerance = site.node.attr_float("tolerance")
    for factor, words in ((0.5, "half as far"), (2.0, "twice as far")):
        what = f"experts {words} below the best as they should have a share of its weight"
        yield Alternative("router-distance", what, with_attrs(site, tolerance=factor * tolerance))
    yield Alternative("router-distance", "all experts that are left have a share, however far below", with_attrs(site, tolerance=_ANY))

    normalised = "the weights of the chosen experts are divided by their sum"
    yield Alternative("router-sum", normalised, lambda operands: _by_sum(site.compute(operands)))
    if site.operands[1].shape[1] > 1:
        words = "the best expert has a share in the weights of the others too"
        yield Alternative("router-left", words, partial(_among_all, tolerance))


def _by_sum(weights: Array) -> Array:
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _among_all(tolerance: float, operands: Sequence[Array]) -> Array:
    """Each share among all experts within the distance, and not among those that are left."""
    scores, ids = operands
    left = np.ones(scores.shape, bool)
    weights = np.empty(ids.shape)
    for choice in range(ids.shape[1]):
        own = ids[:, choice, None].astype(np.int64)
        best = np.where(left, scores, -np.inf).max(axis=-1, keepdims=True)
        near = best - scores <= tolerance * np.maximum(np.abs(scores), best)
        shares = np.where(near, np.exp(scores - best), 0.0)
        weights[:, choice] = np.take_along_axis(shares / shares.sum(axis=-1, keepdims=True), own, axis=-1)[:, 0]
        np.put_along_axis(left, own, False, axis=-1)
    return weights


def _bias_in(site: Site, index: int) -> tuple[Node, Array] | None:
    """The bias that was added to an operand, where that was recorded: what else reads it has the bias."""
    graph = site.around.graph
    added = graph[site.operand_names[index]]
    if added.op != "bias_add" or site.around.value(added.name) is None:
        return None
    weight = graph[graph.operand_names(added.name)[1]]
    return weight, site.around.read(weight, added)


def _shares(normalise: bool, operands: Sequence[Array]) -> Array:
    reference = ROUTER_WEIGHTS.reference
    assert reference is not None
    return reference(operands, {"normalise": normalise, "scale": 1.0, "gating": "softmax"})


def _normalised_otherwise(site: Site) -> Iterator[Alternative]:
    """A second softmax over the shares of the chosen, or another sum than theirs."""
    if site.recorded is None:
        return
    count = site.operands[1].shape[1]
    scale = site.node.attr_float("scale", 1.0)

    def of_shares(change: Callable[[Array], Array]) -> Compute:
        return lambda operands: scale * change(site.compute(operands, normalise=False, scale=1.0))

    for words, change in (
        ("the weights of the chosen experts go through a second softmax", _softmax),
        (f"the weights of the chosen experts are divided by their number, {count}, and not by their sum", lambda x: x / count),
        ("the weights of the chosen experts are divided by the largest, and not by their sum", lambda x: x / x.max(axis=-1, keepdims=True)),
    ):
        one = Alternative("router-sum", words, of_shares(change))
        if count > 1 and site.fits(one.compute(site.operands)):
            yield one


def _softmax(x: Array) -> Array:
    spread = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(spread / spread.sum(axis=-1, keepdims=True))


def _one_less(site: Site, operands: Sequence[Array]) -> Array:
    weights = site.compute([operands[0], operands[1][:, :-1]])
    return np.concatenate([weights, np.zeros_like(weights[:, :1])], axis=1)


def _of_other_scores(site: Site) -> Iterator[Alternative]:
    """The values by which experts were chosen, bias included, serve as weights."""
    graph, ids = site.around.graph, site.operands[1]
    scores = graph.operand_names(site.operand_names[1])
    if not scores or scores[0] == site.operand_names[0] or np.isnan(ids).any():
        return
    value = _scores(site, graph[scores[0]])
    if value is None:
        return
    scale = site.node.attr_float("scale", 1.0)
    taken = np.take_along_axis(value, ids.astype(np.int64), axis=-1)
    for normalise in (bool(site.node.attrs["normalise"]), not site.node.attrs["normalise"]):
        shares = taken / taken.sum(axis=-1, keepdims=True) if normalise else taken
        words = f"the weights are of {site.label_of(graph[scores[0]])}, by which experts are chosen, bias and all"
        yield Alternative("router-bias", words, partial(_given, shares * scale))


def _scores(site: Site, scores: Node) -> Array | None:
    """What experts were chosen by: as it was recorded, else as it follows from what the weights are of."""
    value, graph = site.around.value(scores.name), site.around.graph
    if value is not None or scores.op != "bias_add":
        return value
    shares, weight = (graph[name] for name in graph.operand_names(scores.name))
    if graph.operand_names(shares.name) != (site.operand_names[0],):
        return None
    return compute(scores, [compute(shares, [site.operands[0]], site.around), site.around.read(weight, scores)], site.around)


@explains("sigmoid", "softmax")
def other_shares(site: Site) -> Iterator[Alternative]:
    """A softmax takes the place of sigmoids, or sigmoids that of a softmax."""
    if site.node.op == "softmax":
        yield Alternative("router-gating", f"{site.called} are sigmoids, and no softmax", lambda operands: 1 / (1 + np.exp(-operands[0])))
    elif site.operands[0].shape[-1] > 1:  # of one number it is 1, whatever that is: the gate is left out, as another rule says
        yield Alternative("router-gating", f"{site.called} is a softmax, and no sigmoid", lambda operands: _softmax(operands[0]))


@explains("expert_sum")
def sums(site: Site) -> Iterator[Alternative]:
    """An expert is left out."""
    k = site.operands[0].shape[1]
    for left_out in range(k):
        kept = np.arange(k) != left_out
        words = f"the sum is without the {'last' if left_out == k - 1 else 'first' if not left_out else f'{left_out + 1}.'} expert"
        yield Alternative("expert-left-out", words, partial(_some, site, kept))
    if len(site.operands) == 1:
        for node in site.around.graph.with_op("router_weights"):
            value = site.around.value(node.name) if node.layer == site.node.layer else None
            if value is not None:
                words = f"the sum is weighed by {site.label_of(node)}"
                yield Alternative("expert-weights-place", words, partial(_weighed, value))


@explains("expert_sum", "expert_inputs")
def other_weights(site: Site) -> Iterator[Alternative]:
    """The weights are in another order, or left out."""
    if len(site.operands) < 2:
        return
    words = "the weights of experts are in the reverse order"
    yield Alternative("expert-weights-order", words, with_operand(site, 1, lambda weights: weights[:, ::-1]))
    words = f"{site.called} is without the weights of experts"
    yield Alternative("expert-weights-place", words, with_operand(site, 1, np.ones_like))


def _weighed(weights: Array, operands: Sequence[Array]) -> Array:
    return np.asarray(np.einsum("nkc,nk->nc", operands[0], weights))


@explains("expert_linear", "expert_bias_add")
def nan_of_one(site: Site) -> Iterator[Alternative]:
    """One expert gives NaN."""
    ids = site.operands[1]
    if site.recorded is None or np.isfinite(site.recorded).all():
        return
    bad = np.isnan(site.recorded).all(axis=-1)
    experts = np.unique(ids[bad])
    if len(experts) == 1 and (bad == (ids == experts[0])).all():
        yield Alternative("nan", f"expert {int(experts[0])} gives NaN", lambda _: np.asarray(site.recorded))


def _given(value: Array, _operands: Sequence[Array]) -> Array:
    return value


def _some(site: Site, kept: Array, operands: Sequence[Array]) -> Array:
    return site.compute([operand[:, kept] for operand in operands])
