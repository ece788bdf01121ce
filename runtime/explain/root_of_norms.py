"""Mistakes of what a norm divides by: epsilon outside the root, the variance of a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.runtime.explain.alternative import SOLVED, Alternative, explains
from aprgraph.runtime.explain.site import Site
from aprgraph.runtime.explain.small_addends import is_seen_twice, middle_of_exact

#: Numbers that agree to this, relative to their size, are said to be the same.
_SAME = 1e-2


@explains("rms_norm", "layer_norm")
def epsilon_outside(site: Site) -> Iterator[Alternative]:
    """Epsilon is added to the root, and not under it."""
    own = site.node.attr_float("eps")
    yield Alternative("norm-eps-place", f"epsilon, {own:.3g}, is added to the root and not under it", partial(_outside, site, own))
    root = _root(site, site.operands[0])
    if site.recorded is None or root.shape[1] != 1:
        return
    plain = _outside(site, 0.0, site.operands) - _bias(site)
    with np.errstate(all="ignore"):
        ratio = ((site.recorded - _bias(site)) * plain).sum(axis=1) / np.square(plain).sum(axis=1)
        roots = root[:, 0, 0]
        found = middle_of_exact(roots * (1 / ratio - 1), roots)
    if found is None or found <= 0 or abs(found / own - 1) <= _SAME or not is_seen_twice(found, roots):
        return
    if site.fits(_outside(site, found, site.operands)):
        words = f"{found:.3g} is added to the root, and not epsilon, {own:.3g}, under it"
        yield Alternative("norm-eps-place", words, partial(_outside, site, found), SOLVED)


@explains("rms_norm", "layer_norm")
def squares_left_out(site: Site) -> Iterator[Alternative]:
    """The mean of the squares is taken for 0, so that rows are divided by the root of epsilon alone."""
    eps = site.node.attr_float("eps")
    if eps > 0:
        words = f"the mean of the squares is taken for 0: rows are divided by the root of epsilon, {eps:.3g}, alone"
        yield Alternative("norm-variance", words, partial(_by_epsilon, site, eps))


@explains("layer_norm")
def variance_of_a_sample(site: Site) -> Iterator[Alternative]:
    """The squares are divided by one less than there are."""
    size = _grouped(site, site.operands[0]).shape[-1]
    if size > 1:
        words = f"the variance is that of a sample, divided by {size - 1} in place of {size}"
        yield Alternative("norm-variance", words, partial(_of_a_sample, site, size / (size - 1)))


def _grouped(site: Site, x: Array) -> Array:
    grouped = x.reshape(len(x), site.node.attr_int("groups", 1), -1)
    return grouped - grouped.mean(axis=-1, keepdims=True) if site.node.op == "layer_norm" else grouped


def _root(site: Site, x: Array) -> Array:
    """The root of the mean square, [n, groups, 1]."""
    return np.asarray(np.sqrt(np.square(_grouped(site, x)).mean(axis=-1, keepdims=True)))


def _bias(site: Site) -> Array:
    return np.asarray(site.operands[2]) if len(site.operands) > 2 else np.zeros(1)


def _divided(site: Site, operands: Sequence[Array], root: Array) -> Array:
    x, *weights = operands
    value = (_grouped(site, x) / root).reshape(len(x), -1)
    if weights:
        count = value.shape[1] // np.asarray(weights[0]).size
        value = (value.reshape(len(x), count, -1) * np.asarray(weights[0]).reshape(-1)).reshape(len(x), -1)
    return (value + weights[1] if len(weights) > 1 else value).reshape(x.shape)


def _outside(site: Site, eps: float, operands: Sequence[Array]) -> Array:
    return _divided(site, operands, _root(site, operands[0]) + eps)


def _of_a_sample(site: Site, more: float, operands: Sequence[Array]) -> Array:
    return _divided(site, operands, np.sqrt(np.square(_root(site, operands[0])) * more + site.node.attr_float("eps")))


def _by_epsilon(site: Site, eps: float, operands: Sequence[Array]) -> Array:
    return _divided(site, operands, np.sqrt(np.full_like(_root(site, operands[0]), eps)))
