"""Mistakes of norms: another weight, another epsilon, the mean, the part of a row that one norm is over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.words import listed, plural
from aprgraph.runtime.explain.alternative import SOLVED, Alternative, Compute, explains, with_attrs, with_operand, with_value
from aprgraph.runtime.explain.site import Site
from aprgraph.runtime.explain.small_addends import is_seen_twice, middle_of_exact

_EPSILONS = (1e-5, 1e-6, 1e-8, 1e-12)
#: Numbers that agree to this, relative to their size, are said to be the same.
_SAME = 1e-3
_NAMED = 4


@explains("rms_norm", "layer_norm", "l2_norm")
def other_epsilon(site: Site) -> Iterator[Alternative]:
    """A default in place of the file's epsilon, or whatever was recorded says."""
    own = site.node.attr_float("eps")
    for eps in (own / 10, own * 10, *_EPSILONS, 0.0):
        if not math.isclose(eps, own):
            yield Alternative("norm-eps", f"epsilon is {eps:.3g} in place of {own:.3g}", with_attrs(site, eps=eps))
    yield from _solved_epsilon(site)


@explains("rms_norm", "layer_norm")
def other_weight(site: Site) -> Iterator[Alternative]:
    """The weight with 1 added or taken off, none at all, or another norm's."""
    if len(site.operands) < 2:
        return
    weight = site.operands[1]
    for shift, words in ((1.0, "1 more"), (-1.0, "1 less")):
        yield Alternative(
            "norm-offset",
            f"the norm's weight is {words} than the file's in every channel",
            with_operand(site, 1, partial(np.add, shift)),
        )
    yield Alternative("norm-without-weight", "the norm is without its weight", with_operand(site, 1, np.ones_like))
    for other in site.weights_like(site.operand_names[1]):
        if site.recorded is None or site.fits(site.compute([site.operands[0], site.read(other), *site.operands[2:]])):
            words = f"the norm has the weight {site.label_of(other)} in place of {site.label(1)}"
            yield Alternative("other-weight", words, with_value(site, 1, site.read(other)))
    yield from _solved_weight(site, weight)


@explains("rms_norm", "layer_norm")
def mean(site: Site) -> Iterator[Alternative]:
    """The mean of each row was left in where a LayerNorm takes it off, or taken off where an RMSNorm leaves it."""
    has_mean = site.node.op == "rms_norm"
    words = "the norm is a LayerNorm, which takes the mean off" if has_mean else "the norm leaves the mean in"
    yield Alternative("norm-mean", words, _other_mean(site, take_off=has_mean))
    if len(site.operands) > 2:
        yield Alternative("norm-mean", f"{words}, and has no bias", partial(_without_bias, _other_mean(site, take_off=has_mean)))
        yield Alternative("bias-missing", f"{site.label(2)} is left out", partial(_without_bias, site.compute))


@explains("rms_norm", "layer_norm")
def before_the_sum(site: Site) -> Iterator[Alternative]:
    """One of two is normalised before they are added, where their sum should be."""
    graph = site.around.graph
    source = graph[site.operand_names[0]]
    names = graph.operand_names(source.name)
    if source.op != "add" or site.recorded is None:
        return
    for kept, normed in (names, names[::-1]):
        a, b = site.around.value(kept), site.around.value(normed)
        if a is not None and b is not None and a.shape == b.shape == site.due.shape:
            words = f"{site.label_of(graph[normed])} is normalised before {site.label_of(graph[kept])} is added, and not their sum"
            yield Alternative("norm-before-sum", words, partial(_added_behind, site, a, b))


def _added_behind(site: Site, kept: Array, normed: Array, operands: Sequence[Array]) -> Array:
    return np.asarray(kept + site.compute([normed, *operands[1:]]))


@explains("rms_norm")
def by_length(site: Site) -> Iterator[Alternative]:
    """The sum of the squares is taken where it should be their mean."""
    size = site.operands[0].shape[1] // site.node.attr_int("groups")
    words = "the norm divides by the root of the sum of squares, and not of their mean"
    yield Alternative("norm-sum", words, lambda operands: site.compute(operands) / math.sqrt(size))


@explains("rms_norm")
def other_groups(site: Site) -> Iterator[Alternative]:
    """One norm over the row in place of one for each head, or the reverse."""
    groups = site.node.attr_int("groups")
    heads = [node.attr_int("heads") for node in site.around.graph if node.layer == site.node.layer and "heads" in node.attrs]
    for other in dict.fromkeys((1, *heads)):
        if other != groups and site.operands[0].shape[1] % other == 0:
            words = "the norm is over the whole row" if other == 1 else f"the norm is over each of {other} parts of a row"
            yield Alternative("norm-groups", words, _grouped(site, other))


@explains("rms_norm", "layer_norm")
def over_and_over(site: Site) -> Iterator[Alternative]:
    """It is normalised twice, or by one root mean square for all positions together."""
    if site.recorded is None:
        return

    def twice(operands: Sequence[Array]) -> Array:
        return site.compute([site.compute(operands), *operands[1:]])

    if site.fits(twice(site.operands)):
        yield Alternative("norm-twice", f"{site.called} is normalised twice, its weight included", twice)
    if site.node.op == "rms_norm" and len(site.operands[0]) > 1:
        yield from _of_all_positions(site)


def _of_all_positions(site: Site) -> Iterator[Alternative]:
    eps = site.node.attr_float("eps")

    def together(operands: Sequence[Array]) -> Array:
        square = np.square(operands[0].reshape(len(operands[0]), site.node.attr_int("groups"), -1))
        # Each row is normalised already: what is left is by how much its own root differs from that of all.
        roots = np.sqrt(square.mean(axis=-1, keepdims=True) + eps) / math.sqrt(square.mean() + eps)
        return np.asarray((site.compute(operands).reshape(square.shape) * roots).reshape(operands[0].shape))

    if site.fits(together(site.operands)):
        yield Alternative("norm-axis", "the norm takes one root mean square for all positions together", together)


def _without_bias(compute: Compute, operands: Sequence[Array]) -> Array:
    return compute(operands[:2])


def _normed(x: Array, groups: int, eps: float, *, take_off: bool) -> Array:
    grouped = x.reshape(len(x), groups, -1)
    if take_off:
        grouped = grouped - grouped.mean(axis=-1, keepdims=True)
    return np.asarray(grouped / np.sqrt(np.square(grouped).mean(axis=-1, keepdims=True) + eps))


def _other_mean(site: Site, *, take_off: bool) -> Compute:
    groups, eps = site.node.attr_int("groups", 1), site.node.attr_float("eps")

    def compute(operands: Sequence[Array]) -> Array:
        x, *weights = operands
        value = _normed(x, groups, eps, take_off=take_off)
        for weight in weights[:1]:
            value = value * weight
        for bias in weights[1:]:
            value = value + bias
        return value.reshape(x.shape)

    return compute


def _grouped(site: Site, groups: int) -> Compute:
    own = site.node.attr_int("groups")

    def compute(operands: Sequence[Array]) -> Array:
        x, *weights = operands
        normed = _normed(x, groups, site.node.attr_float("eps"), take_off=False).reshape(len(x), own, -1)
        for weight in weights:
            normed = normed * weight
        return normed.reshape(x.shape)

    return compute


def _solved_epsilon(site: Site) -> Iterator[Alternative]:
    if site.recorded is None or site.node.op != "rms_norm":
        return
    x, *weights = site.operands
    weight = weights[0] if weights else np.ones(x.shape[1] // site.node.attr_int("groups"))
    if weight.ndim > 1:  # of each group its own: then a row of it is no row of the norm
        return
    rows, inputs = site.recorded.reshape(-1, weight.size), x.reshape(-1, weight.size)
    with np.errstate(all="ignore"):
        scaled = inputs * weight
        ratio = (rows * scaled).sum(axis=1) / np.square(scaled).sum(axis=1)
        squares = np.square(inputs).mean(axis=1)
        eps = middle_of_exact(1.0 / np.square(ratio) - squares, squares)
    own = site.node.attr_float("eps")
    if eps is None or eps < 0 or not is_seen_twice(eps - own, squares):
        return
    if site.fits(site.compute(eps=eps)):
        words = f"epsilon is {eps:.3g} in place of {own:.3g}"
        yield Alternative("norm-eps", words, with_attrs(site, eps=eps), SOLVED)


def _solved_weight(site: Site, weight: Array) -> Iterator[Alternative]:
    """A norm's output over its normalised input is its weight. One position explains everything, so it takes two."""
    if site.recorded is None or len(site.operands) != 2:
        return
    rows = site.recorded.reshape(-1, weight.size)
    if len(rows) < 2:
        return
    normed = site.compute([site.operands[0], np.ones_like(weight)]).reshape(rows.shape)
    with np.errstate(all="ignore"):
        other = (rows * normed).sum(axis=0) / np.square(normed).sum(axis=0)
    if not np.isfinite(other).all() or not site.fits((normed * other).reshape(site.recorded.shape)):
        return
    yield Alternative("norm-weight", _weight_words(other, weight.reshape(-1)), with_value(site, 1, other.reshape(weight.shape)), SOLVED)


def _weight_words(other: Array, weight: Array) -> str:
    scale = max(float(np.abs(weight).max()), 1.0)
    if np.abs(other - other.mean()).max() < _SAME * abs(other.mean()):
        return f"the norm's weight is {other.mean():.4g} in every channel"
    energy = float(weight @ weight)
    factor = float(other @ weight) / energy if energy else math.nan
    if np.abs(other - factor * weight).max() < _SAME * abs(factor) * scale:
        return f"the norm's weight is {factor:.4g} times the file's"
    changed = np.flatnonzero(np.abs(other - weight) > _SAME * scale)
    if changed.size <= weight.size // 8:
        at = int(changed[0])
        where = f"{plural(len(changed), 'channel')} {listed(map(int, changed), _NAMED)}"
        return f"the norm's weight differs from the file's at {where} ({other[at]:.4g} for {weight[at]:.4g})"
    ranges = [f"from {one.min():.4g} to {one.max():.4g}" for one in (other, weight)]
    return f"the norm has another weight ({ranges[0]}; the file's is {ranges[1]})"
