"""Columns of an output in another order: which, from values alone, and what it is called."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.words import and_more, joined, listed, runs

#: Columns that agree to this, relative to their size, are the same.
_SAME = 1e-5
_FEW = 8
#: What words of an order that is none of those known end with.
IN_ANOTHER_ORDER = "are in another order"
_PAIR = 2


def found_order(recorded: Array, due: Array) -> Array | None:
    """The order in which the columns of ``due`` [m, R] are ``recorded``: recorded[:, j] is due[:, order[j]]. None if there is none.

    One position does not tell columns apart for sure, so it takes two.
    """
    if recorded.shape != due.shape or len(due) < 2 or due.shape[1] < 2:
        return None
    rank = np.argsort(due[0], kind="stable")
    places = np.clip(np.searchsorted(due[0][rank], recorded[0]), 0, len(rank) - 1)
    size = np.abs(due).max()
    best = np.full(len(rank), -1)
    least = np.full(len(rank), np.inf)
    for step in (-2, -1, 0, 1, 2):
        candidates = rank[np.clip(places + step, 0, len(rank) - 1)]
        off = np.abs(recorded - due[:, candidates]).max(axis=0)
        better = off < least
        best[better], least[better] = candidates[better], off[better]
    if (least > _SAME * size).any() or (best == np.arange(len(best))).all():
        return None
    return best


def order_words(order: Array, weight: str, heads: Sequence[int], noun: str = "rows") -> str:
    """What an order of rows, or of what ``noun`` says, is called."""
    moved = np.flatnonzero(order != np.arange(len(order)))
    if len(moved) <= _FEW and set(order[moved]) <= set(moved):
        return f"the {noun} {listed(map(int, moved), _FEW)} of {weight} have changed places"
    if len(moved) <= _FEW:
        which = [f"the {noun.removesuffix('s')} {place}{{}} is that of {order[place]}" for place in moved]
        return joined([which[0].format(f" of {weight}"), *(one.format("") for one in which[1:])])
    for count in dict.fromkeys(heads):
        size = len(order) // count
        of_heads = order.reshape(count, -1)[:, 0] // size if len(order) % count == 0 else order
        if len(of_heads) == count and np.array_equal(order, (of_heads[:, None] * size + np.arange(size)).reshape(-1)):
            return f"the heads of {weight} are in the order {listed(map(int, of_heads), _FEW)}"
    half = len(order) // 2
    if np.array_equal(order, np.roll(np.arange(len(order)), half)):
        return f"the two halves of {weight} have changed places"
    for count in dict.fromkeys(heads):
        for words, of_head in (("halves (i, i + D/2)", _to_halves), ("neighbours (2i, 2i + 1)", _to_neighbours)):
            if len(order) % count == 0 and (len(order) // count) % 2 == 0 and _is_by_heads(order, count, of_head(len(order) // count)):
                return f"the rows of each head of {weight} are in the order of RoPE that pairs {words}"
    if len(set(order[moved])) == 1:
        those = f"all {noun}" if len(moved) >= len(order) - 1 else f"the {noun} {runs(moved, _FEW)}"
        return f"{those} of {weight} are its {noun.removesuffix('s')} {order[moved[0]]}"
    by = int((order[0]) % len(order))
    if np.array_equal(order, np.roll(np.arange(len(order)), -by)):
        far = min(by, len(order) - by)
        return f"the {noun} of {weight} are those {far} {'further on' if far == by else 'before'}"
    return f"{len(moved)} of {len(order)} {noun} of {weight} {IN_ANOTHER_ORDER}"


def positions_in_words(order: Array, noun: str, of: str) -> str:
    """What an order of whole positions, or heads, is called: ``position 9 of ffn_gate holds what position 8 should``."""
    moved = [int(place) for place in np.flatnonzero(order != np.arange(len(order)))]
    if len(moved) > 1 and sorted(order[moved]) == moved:
        what = "have changed places" if len(moved) == _PAIR else f"hold what {listed(map(int, order[moved]), _FEW)} should"
        return f"the {noun}s {listed(moved, _FEW)} of {of} {what}"
    first, *others = [f"{noun} {place}{{}} holds what {noun} {order[place]} should" for place in moved[:_FEW]]
    return joined([first.format(f" of {of}"), *(other.format("") for other in others)]) + and_more(moved[_FEW:])


def _is_by_heads(order: Array, count: int, of_head: Array) -> bool:
    size = len(of_head)
    return np.array_equal(order, (np.arange(count)[:, None] * size + of_head).reshape(-1))


def _to_halves(size: int) -> Array:
    return np.arange(size).reshape(-1, 2).T.reshape(-1)


def _to_neighbours(size: int) -> Array:
    return np.arange(size).reshape(2, -1).T.reshape(-1)
