"""Mistakes of v, which attention mixes as it is: it is normalised, or turned by RoPE, as q and k are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import OPS, Array
from aprgraph.graph.ops.attention import value_size_of
from aprgraph.graph.ops.base import integer
from aprgraph.runtime.explain.alternative import GENERAL, Alternative, explains, with_operand
from aprgraph.runtime.explain.site import Site, compute

_NORMS = ("rms_norm", "layer_norm")


@explains("attn_mix")
def values_as_keys(site: Site) -> Iterator[Alternative]:
    """v is normalised head by head, with or without the weight of k's norm, or turned by RoPE, as k is."""
    size = site.operands[1].shape[1] // integer(site.node.attrs, "kv_heads")
    if value_size_of(site.node.attrs, size) != size:
        return
    for name, words, change in (*_normed(site, size), *_turned(site, size)):
        one = Alternative(name, words, with_operand(site, 1, change), 0 if site.recorded is not None else GENERAL)
        if site.recorded is None or site.fits(one.compute(site.operands)):
            yield one


def _normed(site: Site, size: int) -> Iterator[tuple[str, str, Callable[[Array], Array]]]:
    graph, layer = site.around.graph, site.node.layer
    norms = [node for node in graph if node.layer == layer and node.op in _NORMS]
    own = next((node for node in norms if node.stage == "k_norm"), None)
    if own is None and not norms:
        return
    eps = (norms[0] if own is None else own).attr_float("eps")
    yield "values-normed", "v is normalised head by head, without a weight", partial(_of_each_head, size, np.ones(size), eps)
    weights = [] if own is None else [site.read(graph[name]) for name in graph.operand_names(own.name)[1:2]]
    for weight in weights:
        if weight.shape == (size,):
            yield "values-normed", "v is normalised head by head, with the weight of k's norm", partial(_of_each_head, size, weight, eps)


def _of_each_head(size: int, weight: Array, eps: float, v: Array) -> Array:
    heads = v.reshape(len(v), -1, size)
    return np.asarray((heads / np.sqrt(np.square(heads).mean(axis=-1, keepdims=True) + eps) * weight).reshape(v.shape))


def _turned(site: Site, size: int) -> Iterator[tuple[str, str, Callable[[Array], Array]]]:
    graph = site.around.graph
    turned = [node for node in graph.with_op("rope") if node.layer == site.node.layer]
    tables = {graph.operand_names(node.name)[1]: node for node in turned if node.attr_int("head_size") == size}
    for name, node in tables.items():
        if graph[name].op == "rope_angles":
            yield "values-turned", "v is turned by RoPE, as k is", partial(_as_keys, site, graph[name], node)


def _as_keys(site: Site, angles: Node, rope: Node, v: Array) -> Array:
    """``v`` [t, K·D] turned at the positions of the cache."""
    factors = [site.read(site.around.graph[name]) for name in site.around.graph.operand_names(angles.name)[1:]]
    table = compute(angles, [np.arange(len(v)), *factors], site.around)
    reference = OPS["rope"].reference
    assert reference is not None
    kv_heads = integer(site.node.attrs, "kv_heads")
    return reference([v, table], {**rope.attrs, "heads": kv_heads, "start": 0})
