"""q and k normalised behind RoPE where they should be before it, or the reverse: what differs is the channel that each weight is of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import OPS, Array, is_computed, is_weight
from aprgraph.runtime.explain.alternative import Alternative, explains
from aprgraph.runtime.explain.site import LEFT, Site, compute

_NAME = "norm-rope-order"
_WORDS = {
    "rope": "the norm of heads comes before RoPE, and not behind it",
    "norm": "the norm of heads comes behind RoPE, and not before it",
}
_NORMS = ("rms_norm", "layer_norm")
#: So many nodes without a stage lie between a recorded tensor and heads that are turned or normalised.
_MOST_BETWEEN = 3


@explains("rope", *_NORMS)
def other_order(site: Site) -> Iterator[Alternative]:
    """q and k are normalised and turned by RoPE in the other order."""
    if site.recorded is None or site.due.ndim != 2:
        return
    graph = site.around.graph
    for first, second in (
        (graph[site.operand_names[0]], site.node),
        *((site.node, node) for node in graph.users(site.node.name)),
    ):
        if {_kind(first), _kind(second)} != {"norm", "rope"} or graph.operand_names(second.name)[0] != first.name:
            continue
        name = graph.operand_names(first.name)[0]
        x = site.operands[0] if first is site.node else _value(site, name)
        if x is None:
            continue
        x = _heads_of(first, x)
        ways = [partial(_in_order, site, (second, first))]
        if second is site.node and _is_close(site.around.value(first.name), ways[0](x)):
            ways.append(partial(_in_order, site, (second,)))  # which comes first then, and was recorded before the other
        for way in ways:
            one = Alternative(_NAME, _WORDS[_kind(first)], partial(_of, way, x))
            if site.fits(one.compute(site.operands)):
                yield one


@explains("attn_scores")
def scores_of_the_other(site: Site) -> Iterator[Alternative]:
    """Scores are of q and k as they were recorded before the last of norm and RoPE, which come in the other order."""
    graph = site.around.graph
    nodes = [graph[name] for name in site.operand_names]
    nodes = [graph[graph.operand_names(node.name)[0]] if node.op == "cache" else node for node in nodes]
    before = [graph[graph.operand_names(node.name)[0]] for node in nodes if _kind(node)]
    if site.recorded is None or len(before) < len(nodes):
        return
    if any({_kind(first), _kind(second)} != {"norm", "rope"} for first, second in zip(before, nodes, strict=True)):
        return
    values = [site.around.value(node.name) for node in before]
    taken = [value for value in values if value is not None]
    shapes = [np.shape(operand) for operand in site.operands]
    if [value.shape for value in taken] == shapes and site.fits(site.compute(taken)):
        yield Alternative(_NAME, _WORDS[_kind(before[0])], lambda _: site.compute(taken))


def _kind(node: Node) -> str:
    return "norm" if node.op in _NORMS else node.op if node.op == "rope" else ""


def _value(site: Site, name: str, most: int = _MOST_BETWEEN) -> Array | None:
    """A value of this step: as it was recorded, or by a few nodes from what was."""
    found = site.around.value(name)
    graph = site.around.graph
    if found is not None or not most or not is_computed(graph[name]) or graph[name].stage is not None:
        return found
    operands = [
        site.read(graph[other]) if is_weight(graph[other]) else _value(site, other, most - 1) for other in graph.operand_names(name)
    ]
    known = [operand for operand in operands if operand is not None]
    return compute(graph[name], known, site.around) if len(known) == len(operands) else None


def _heads_of(first: Node, x: Array) -> Array:
    """The columns of ``x`` that are turned, or all of them where they are normalised first."""
    if first.op != "rope":
        return x
    start, width = first.attr_int("start"), first.attr_int("heads") * first.attr_int("head_size")
    return x[:, start : start + width]


def _is_close(a: Array | None, b: Array) -> bool:
    return a is not None and a.shape == b.shape and bool(np.square(a - b).sum() <= LEFT * LEFT * np.square(b).sum())


def _of(way: partial[Array], x: Array, _operands: Sequence[Array]) -> Array:
    return way(x)


def _in_order(site: Site, nodes: Sequence[Node], x: Array) -> Array:
    """What ``nodes`` make of the heads ``x``, one after the other."""
    graph = site.around.graph
    for node in nodes:
        if node.op != "rope":
            x = compute(node, [x, *(site.read(graph[name]) for name in graph.operand_names(node.name)[1:])], site.around)
            continue
        angles = graph[graph.operand_names(node.name)[1]]
        factors = [site.read(graph[name]) for name in graph.operand_names(angles.name)[1:]]
        table = compute(angles, [site.around.positions, *factors], site.around)
        reference = OPS["rope"].reference
        assert reference is not None
        x = reference([x, table], {**node.attrs, "start": 0})
    return np.asarray(x)
