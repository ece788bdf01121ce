"""What the values of any op show by themselves: they lie in other places, are cut off, or the same numbers were added to each position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array, traits_of
from aprgraph.graph.words import joined
from aprgraph.runtime.explain.alternative import GENERAL, LOOSE, Alternative, explains
from aprgraph.runtime.explain.orders import found_order, order_words, positions_in_words
from aprgraph.runtime.explain.site import Site
from aprgraph.runtime.readings.layout import layout_of

#: The largest numbers of formats that saturate.
_LARGEST = {65504.0: "float16", 57344.0: "float8 (e5m2)", 448.0: "float8 (e4m3)", 240.0: "float8 (e4m3, with Inf)"}
#: Of fewer elements that were cut off, the largest one may be anything.
_LEAST_CUT = 3
#: Positions at which the same numbers were added.
_LEAST_POSITIONS = 3
#: Numbers that agree to this, relative to their size, are said to be the same.
_SAME = 1e-3


@explains(alone=True)
def rearranged(site: Site) -> Iterator[Alternative]:
    """Positions, heads or columns hold what others of the same tensor should, or its axes are in another order."""
    if site.recorded is None or site.due.ndim < 2 or traits_of(site.node).chooses or not np.isfinite(site.recorded).all():
        return
    for axis, noun in ((0, None), *(((1, "columns"),) if site.due.ndim == 2 and not traits_of(site.node).is_matmul else ())):
        is_of_positions = axis == 0 and site.node.type.dims[:1] == ("n",)
        if axis == 0 and not is_of_positions and site.due.ndim < 3:
            continue
        order = found_order(*(np.moveaxis(side, axis, -1).reshape(-1, side.shape[axis]) for side in (site.recorded, site.due)))
        if order is None:
            continue
        if noun is None:
            words = positions_in_words(order, "position" if is_of_positions else "head", site.called)
        else:
            axes = layout_of(site.around.graph, site.node, site.due.shape).axes[1:]
            words = order_words(order, site.called, [size for _, size in axes[:-1]], noun)
        yield Alternative("rearranged", words, partial(_taken, site, order, axis), LOOSE)


def _taken(site: Site, order: Array, axis: int, operands: Sequence[Array]) -> Array:
    return site.compute(operands).take(order, axis=axis)


@explains(alone=True)
def cut_off(site: Site) -> Iterator[Alternative]:
    """It is cut off at a number, as at the largest float16."""
    if site.recorded is None or not site.recorded.size or not np.isfinite(site.recorded).all():
        return
    limit = float(np.abs(site.recorded).max())
    name = _LARGEST.get(limit)
    beyond = int((np.abs(site.due) > limit * (1 + 1e-6)).sum())
    if limit and beyond >= (1 if name else _LEAST_CUT) and site.fits(np.clip(site.due, -limit, limit)):
        words = f"{site.called} is cut off at {limit:g}" + (f", the largest {name}" if name else "")
        yield Alternative("cut-off", words, lambda operands: np.clip(site.compute(operands), -limit, limit), GENERAL)


@explains(alone=True)
def same_added(site: Site) -> Iterator[Alternative]:
    """The same numbers are added at every position, as a bias is: one of the model's, or whatever they are."""
    dims = site.node.type.dims
    if site.recorded is None or site.due.ndim != 2 or dims[0] != "n" or len(site.due) < _LEAST_POSITIONS:
        return
    adders = [node for node in site.around.graph.users(site.node.name) if node.op == "bias_add"]
    if adders and site.around.value(site.node.name) is None:
        return  # then what adds biases to it may have added these
    added = (site.recorded - site.due).mean(axis=0)
    if not np.isfinite(added).all() or not site.fits(site.due + added):
        return
    compute = partial(_added, site, added)
    for weight in (one for one in site.around.weights if one.type.dims == dims[1:]):
        value = site.read(weight)
        for sign, words in ((1.0, f"{site.label_of(weight)} is added to"), (-1.0, f"{site.label_of(weight)} is taken off")):
            if _is_close(added, sign * value):
                yield Alternative("bias-added", f"{words} {site.called}", partial(_added, site, sign * value), GENERAL)
                return
    for adder in adders:
        biases = [site.read(site.around.graph[name]) for name in site.around.graph.operand_names(adder.name)[1:]]
        if _is_close(added, np.concatenate(biases)):
            its = [site.label_of(site.around.graph[name]) for name in site.around.graph.operand_names(adder.name)[1:]]
            words = f"{joined(its)} {'is' if len(its) == 1 else 'are'} in {site.called} already"
            yield Alternative("bias-added", words, compute, GENERAL)
            return
    if site.node.op == "bias_add":  # of whose biases is said which one is another
        return
    if _is_close(added, np.full_like(added, added.mean())):
        words = f"{added.mean():.4g} is added to each element of {site.called}"
    else:
        words = f"the same numbers, {added.min():.4g} to {added.max():.4g}, are added at every position of {site.called}, as a bias is"
    yield Alternative("same-added", words, compute, LOOSE)


def _is_close(a: Array, b: Array) -> bool:
    return bool(np.abs(a - b).max() <= _SAME * np.abs(b).max())


def _added(site: Site, added: Array, operands: Sequence[Array]) -> Array:
    return site.compute(operands) + added
