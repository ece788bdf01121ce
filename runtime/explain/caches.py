"""Mistakes of KV caches: rows of other positions, rows that were not written, rows before RoPE."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ir import Node
from aprgraph.graph.ops import OPS, Array, is_computed, traits_of
from aprgraph.runtime.explain.alternative import GENERAL, Alternative, explains, with_value
from aprgraph.runtime.explain.site import Site, compute

#: Of a longer cache not every pair of rows is tried.
_MOST_ROWS = 32
#: So many nodes behind a cache its rows are looked for.
_MOST_BEHIND = 3
#: So many times keys may have been turned again: at each of as many steps.
_MOST_TURNS = 2


@explains("cache")
def cached_rows(site: Site) -> Iterator[Alternative]:
    """A row of the cache is another one: of another position, never written, or not rotated."""
    if site.earlier is None:
        return
    before = len(site.earlier)
    unrotated = list(_unrotated(site))
    for left in site.left_wrong:  # what an earlier step left in the cache is still there
        earlier = np.concatenate([left.value[:before], site.earlier[len(left.value) :]])
        yield Alternative(left.name, left.words, partial(_cache_of, site, earlier, None))
        for _, source in (*unrotated, *(_of_other_layers(site) if left.name == "other-input" else ())):
            yield Alternative(left.name, left.words, partial(_cache_of, site, earlier, source))
    new = "the new row of the cache"
    yield Alternative("row-not-written", f"{new} was not written before it was read", partial(_cache_of, site, None, np.zeros(1)))
    yield Alternative("row-not-written", f"{new} is that of the position before", partial(_cache_of, site, None, site.earlier[-1:]))
    for last, source in unrotated:
        yield Alternative("row-unrotated", f"new rows go into the cache as they are before {last}", partial(_cache_of, site, None, source))
    if before > _MOST_ROWS:
        return
    for row in range(before):
        for other in range(before):
            if row != other:
                words = f"row {row} of the cache is that of position {other}"
                yield Alternative("row-stale", words, partial(_cache_of, site, _taken(site.earlier, {row: other}), None))
    for row in range(before - 1):
        words = f"the rows {row} and {row + 1} of the cache have changed places"
        yield Alternative("rows-exchanged", words, partial(_cache_of, site, _taken(site.earlier, {row: row + 1, row + 1: row}), None))


@explains("cache")
def turned_again(site: Site) -> Iterator[Alternative]:
    """The keys that are in the cache already are turned by RoPE once more, as where it is applied to the whole of it."""
    graph, earlier = site.around.graph, site.earlier
    rope = next((node for node in _before(site) if node.op == "rope"), None)
    if earlier is None or rope is None or not len(earlier):
        return
    angles = graph[graph.operand_names(rope.name)[1]]
    reference = OPS["rope"].reference
    if angles.op != "rope_angles" or reference is None:
        return
    factors = [site.read(graph[name]) for name in graph.operand_names(angles.name)[1:]]
    table = compute(angles, [np.arange(len(earlier) + len(site.operands[0])), *factors], site.around)
    attrs = {**rope.attrs, "start": 0}
    rows = np.asarray(earlier)
    for times in range(1, _MOST_TURNS + 1):
        rows = reference([rows, table[: len(earlier)]], attrs)
        more = "again" if times == 1 else f"{times} times more"
        words = f"the keys that lie in the cache are turned by RoPE {more}"
        yield Alternative("row-turned-again", words, partial(_cache_of, site, rows, None), GENERAL)
        new = partial(_cache_of, site, rows, reference([site.operands[0], table[len(earlier) :]], attrs))
        yield Alternative("row-turned-again", f"{words}, and the new one too", new, GENERAL)


def _before(site: Site) -> Iterator[Node]:
    """The nodes that the rows of a cache come through."""
    node = site.around.graph[site.operand_names[0]]
    for _ in range(_MOST_BEHIND):
        if not is_computed(node) or not traits_of(node).is_rowwise:
            return
        yield node
        node = site.around.graph[site.around.graph.operand_names(node.name)[0]]


@explains("attn_scores", "attn_mix")
def other_cache(site: Site) -> Iterator[Alternative]:
    """The keys, or the values, are those of another layer."""
    graph = site.around.graph
    own = graph[site.operand_names[1]]
    if own.op != "cache" or site.recorded is None:
        return
    for other in graph.with_op("cache"):
        new = site.around.value(graph.operand_names(other.name)[0])
        if other.layer == own.layer or other.type != own.type or new is None:
            continue
        rows = compute(other, [new], site.around)
        if site.fits(site.compute([site.operands[0], rows])):
            words = f"{site.called} reads the cache of layer {other.layer} in place of layer {own.layer}"
            yield Alternative("other-layer", words, with_value(site, 1, rows))


def _taken(rows: Array, other: Mapping[int, int]) -> Array:
    return rows[[other.get(row, row) for row in range(len(rows))]]


def _cache_of(site: Site, earlier: Array | None, own: Array | None, operands: Sequence[Array]) -> Array:
    """The cache with other rows of earlier passes, or of this one."""
    assert site.earlier is not None
    rows = np.broadcast_to(operands[0] if own is None else own, operands[0].shape)
    return np.concatenate([site.earlier if earlier is None else earlier, rows])


def _of_other_layers(site: Site) -> Iterator[tuple[str, Array]]:
    """What other layers' nodes like that which goes into the cache hold."""
    graph = site.around.graph
    own = graph[site.operand_names[0]]
    for node in graph:
        value = site.around.value(node.name) if node.stage == own.stage and node.type == own.type and node.name != own.name else None
        if node.stage is not None and value is not None:
            yield site.label_of(node), value


def _unrotated(site: Site) -> Iterator[tuple[str, Array]]:
    """What the rows that go into the cache are made of, where it has the columns for it: heads before RoPE, or before their norm."""
    graph = site.around.graph
    node, columns = graph[site.operand_names[0]], site.operands[0].shape[1]
    for _ in range(_MOST_BEHIND):
        if not is_computed(node) or not traits_of(node).is_rowwise:
            return
        start = node.attr_int("start", 0)
        source = graph[graph.operand_names(node.name)[0]]
        value = site.around.value(source.name)
        value = _made(site, source) if value is None else value
        if value is not None and value.ndim == 2 and value.shape[1] >= start + columns:
            yield site.label_of(node), value[:, start : start + columns]
        node = source


def _made(site: Site, node: Node) -> Array | None:
    """What a node that is no stage makes of a recorded one, such as q, k and v within their bounds."""
    if not is_computed(node) or not traits_of(node).is_rowwise:
        return None
    operands = [value for name in site.around.graph.operand_names(node.name) if (value := site.around.value(name)) is not None]
    return compute(node, operands, site.around) if len(operands) == len(site.around.graph.operand_names(node.name)) else None
