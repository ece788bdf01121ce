"""Mistakes of any op: it is left out, reads something else, is multiplied by a number, or holds the values of other positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations, takewhile

import numpy as np

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import Array, is_computed, traits_of
from aprgraph.graph.words import listed, plural, runs
from aprgraph.runtime.explain.alternative import (
    GENERAL,
    LOOSE,
    Alternative,
    Compute,
    explains,
    goes_on,
    with_attrs,
    with_operand,
    with_value,
)
from aprgraph.runtime.explain.site import Site, compute

#: So many rows away a value is looked for.
_SHIFTS = (1, -1)
_NAMED = 4
#: Of more parts not each is tried.
_PARTS, _PARTS_IN_ORDER = 8, 4
#: What is that much smaller than it should be is what rounding left of zero.
_NOTHING = 1e-9
_NORMS = ("rms_norm", "layer_norm")


@explains()
def left_out(site: Site) -> Iterator[Alternative]:
    """One of its operands goes on as it is."""
    for index, operand in enumerate(site.operands):
        if np.shape(operand) == site.due.shape and isinstance(operand, np.ndarray) and site.fits(operand):
            yield Alternative(
                "left-out",
                f"{site.called} is left out: what it reads, {site.label(index)}, goes on as it is",
                goes_on(index),
                GENERAL,
            )


@explains(alone=True)
def zeros(site: Site) -> Iterator[Alternative]:
    """All zeros."""
    if site.recorded is not None and np.abs(site.recorded).max(initial=0.0) <= _NOTHING * np.abs(site.due).max(initial=0.0):
        yield Alternative("zeros", "it is all zeros", lambda _: np.zeros_like(site.due), GENERAL)


@explains()
def zero_positions(site: Site) -> Iterator[Alternative]:
    """Some positions are zero, as where a kernel forgets what does not fill a tile."""
    if site.recorded is None or site.node.type.dims[:1] != ("n",):
        return
    rows = site.recorded.reshape(len(site.recorded), -1)
    empty: Array = np.asarray(~rows.any(axis=1) & site.due.reshape(rows.shape).any(axis=1))
    if 0 < empty.sum() < len(rows):
        which = f"{plural(int(empty.sum()), 'position')} {listed(map(int, np.flatnonzero(empty)), _NAMED)}"
        words = f"{which} of {site.called} {'is' if empty.sum() == 1 else 'are'} zero"
        yield Alternative("positions-zero", words, partial(_without_positions, site, empty))


@explains()
def zero_columns(site: Site) -> Iterator[Alternative]:
    """Some columns are zero, as where a kernel forgets what does not fill a tile."""
    if site.recorded is None or site.due.ndim != 2 or site.node.type.dims[:1] != ("n",) or traits_of(site.node).chooses:
        return
    empty: Array = np.asarray(~site.recorded.any(axis=0) & site.due.any(axis=0))
    if 1 < empty.sum() < len(empty):
        words = f"columns {runs(np.flatnonzero(empty), _NAMED)} of {site.called} are zero"
        yield Alternative("columns-zero", words, partial(_without_columns, site, empty))


@explains("columns")
def other_columns(site: Site) -> Iterator[Alternative]:
    """Other columns are taken: of what lies beside, of parts in another order, as many further on, the first or last of a head."""
    start, stop = site.node.attr_int("start"), site.node.attr_int("stop")
    width, size = stop - start, site.operands[0].shape[1] // site.node.attr_int("heads", 1)
    beside = [node for node in site.around.graph.users(site.operand_names[0]) if node.op == site.node.op]
    parts = {start: f"part {start // width}" for start in range(0, size, width)} if size // width <= _PARTS and size % width == 0 else {}
    starts = {
        **dict.fromkeys(_in_other_orders(site.node, beside, size), "parts in another order"),
        **parts,
        0: "the first",
        size - width: "the last",
        **{node.attr_int("start"): site.label_of(node) for node in beside},
    }
    for other, what in starts.items():
        if other != start and 0 <= other <= size - width:
            words = f"{site.called} takes the columns {other} to {other + width - 1} ({what}) in place of {start} to {stop - 1}"
            yield Alternative("other-columns", words, with_attrs(site, start=other, stop=other + width))


def _in_other_orders(node: Node, parts: Sequence[Node], size: int) -> Iterator[int]:
    """Where a part may begin if all that make up ``size`` columns lie in another order: behind some of the others."""
    widths = {part.attr_int("start"): part.attr_int("stop") - part.attr_int("start") for part in parts}
    own = widths.pop(node.attr_int("start"), 0)
    if len(widths) < _PARTS_IN_ORDER and sum(widths.values()) + own == size:
        for count in range(len(widths) + 1):
            yield from map(sum, combinations(widths.values(), count))


@explains(alone=True)
def constant_factor(site: Site) -> Iterator[Alternative]:
    """All of it times a number."""
    if site.recorded is None or not np.isfinite(site.recorded).all():
        return
    factor = site.factor()
    if site.fits(site.due * factor):
        words = f"{site.called} is multiplied by {factor:.6g}"
        yield Alternative("factor", words, lambda operands: site.compute(operands) * factor, LOOSE)


@explains(alone=True)
def other_operand(site: Site) -> Iterator[Alternative]:
    """It reads another value of the same shape, as of before or behind a norm."""
    graph = site.around.graph
    for index, name in enumerate(site.operand_names):
        own = graph[name]
        if not is_computed(own):
            continue
        for other in _near(site, own):
            value = site.value(other.name)
            if value is None:
                continue
            operands = [value if i == index else operand for i, operand in enumerate(site.operands)]
            if site.recorded is None or site.fits(site.compute(operands)):
                words = f"{site.called} reads {site.label_of(other)} in place of {site.label(index)}"
                yield Alternative("other-input", words, with_value(site, index, value), GENERAL)


@explains("linear", "expert_linear")
def otherwise_normed(site: Site) -> Iterator[Alternative]:
    """What it reads is the norm of another sum, or was normalised though it should not be."""
    graph = site.around.graph
    own = graph[site.operand_names[0]]
    norms = [node for node in graph if node.layer == site.node.layer and node.op in _NORMS and node.type == own.type]
    if not is_computed(own) or site.recorded is None:
        return
    if own in norms:
        first, *others = graph.operand_names(own.name)
        weights = [site.read(graph[name]) for name in others]
        before = site.around.value(first)
        for other in _near(site, graph[first]):
            added = site.around.value(other.name)
            if before is not None and added is not None:
                value = compute(own, [before + added, *weights], site.around)
                words = f"{site.called} reads {site.label(0)} of {site.label_of(graph[first])} + {site.label_of(other)}"
                yield from _if_it_fits(site, "other-input", words, value)
        return
    for norm in norms:
        weights = [site.read(graph[name]) for name in graph.operand_names(norm.name)[1:]]
        value = compute(norm, [site.operands[0], *weights], site.around)
        yield from _if_it_fits(site, "normed-input", f"{site.called} reads {site.label(0)} behind the norm of {site.label_of(norm)}", value)


def _if_it_fits(site: Site, name: str, words: str, value: Array) -> Iterator[Alternative]:
    if site.fits(site.compute([value, *site.operands[1:]])):
        yield Alternative(name, words, with_value(site, 0, value), GENERAL)


@explains()
def other_positions(site: Site) -> Iterator[Alternative]:
    """Each position holds what the one before, or behind, should."""
    if site.recorded is None or site.node.type.dims[:1] != ("n",) or len(site.due) < 3:
        return
    for shift in _SHIFTS:
        inner = slice(1, None) if shift > 0 else slice(None, -1)
        if site.fits_at(np.roll(site.due, shift, axis=0), inner):
            where = "before" if shift > 0 else "behind"
            first = site.recorded[:1] if shift > 0 else site.recorded[-1:]
            words = f"each position of {site.called} holds what the one {where} it should"
            yield Alternative("positions-shifted", words, _shifted(site, shift, first), GENERAL)


@explains(alone=True)
def other_values(site: Site) -> Iterator[Alternative]:
    """One of several operands is taken for 0 or 1, or with the other sign, or in another's place."""
    if site.recorded is None or len(site.operands) < 2 or traits_of(site.node).is_matmul or traits_of(site.node).chooses:
        return
    for index, operand in enumerate(site.operands):
        if not isinstance(operand, np.ndarray) or operand.dtype.kind != "f":
            continue
        label = site.label(index)
        changes: tuple[tuple[str, str, Callable[[Array], Array]], ...] = (
            ("operand-zero", f"{site.called} takes {label} for 0", np.zeros_like),
            ("operand-one", f"{site.called} takes {label} for 1", np.ones_like),
            ("operand-negated", f"{site.called} takes {label} with the other sign", np.negative),
        )
        for name, words, change in changes:
            yield from _unless_far(site, Alternative(name, words, with_operand(site, index, change), GENERAL))
        for other in range(index + 1, len(site.operands)):
            if np.shape(site.operands[other]) == operand.shape and site.operand_names[index] != site.operand_names[other]:
                words = f"{site.called} takes {label} and {site.label(other)} in each other's place"
                exchanged = partial(_exchanged, site, index, other)
                yield from _unless_far(site, Alternative("operands-exchanged", words, exchanged, GENERAL))


def _unless_far(site: Site, one: Alternative) -> Iterator[Alternative]:
    if site.fits(one.compute(site.operands)):
        yield one


def _exchanged(site: Site, a: int, b: int, operands: Sequence[Array]) -> Array:
    places = {a: b, b: a}
    return site.compute([operands[places.get(index, index)] for index in range(len(operands))])


def _near(site: Site, own: Node) -> Iterator[Node]:
    """Other values of the type of an operand that are there by then: of the same layer, of the one before, and of no layer."""
    layer = site.node.layer
    for node in takewhile(lambda one: one.name != site.node.name, site.around.graph):
        near = layer is None or node.layer is None or 0 <= layer - node.layer <= 1
        if node.stage is not None and node.name != own.name and node.type == own.type and near:
            yield node


def _without_positions(site: Site, empty: Array, operands: Sequence[Array]) -> Array:
    value = site.compute(operands)
    value[empty] = 0.0
    return value


def _without_columns(site: Site, empty: Array, operands: Sequence[Array]) -> Array:
    return np.where(empty, 0.0, site.compute(operands))


def _shifted(site: Site, shift: int, edge: Array) -> Compute:
    def compute(operands: Sequence[Array]) -> Array:
        value = np.roll(site.compute(operands), shift, axis=0)
        value[0 if shift > 0 else -1] = edge[0]
        return value

    return compute
