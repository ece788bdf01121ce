"""Two runs of which nobody knows whether they are of one prompt, and whose values say that they are not.

Before attention a row depends on the token at its position alone. So where some rows are those of the other side, and the others are
nothing like them, the tokens are others there: no weight makes that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aprgraph.graph.arguments import TOKENS
from aprgraph.graph.message import Message
from aprgraph.graph.ops import Array
from aprgraph.graph.stages import EMBEDDING
from aprgraph.graph.words import joined, listed, plural
from aprgraph.runtime.diff.align import Pair
from aprgraph.runtime.diff.report import DiffReport
from aprgraph.runtime.diff.reservations import Reservation
from aprgraph.runtime.diff.shapes import ShapedTrace

#: What is of each token alone, by the first layer. Products may have lost a row by themselves.
_OF_TOKENS = (EMBEDDING, "attn_norm")
#: How far rows of one token are apart at most, by whatever arithmetic, and those of two tokens at least; vectors with nothing in common: 2.
_ALIKE, _UNLIKE = 0.1, 0.3
#: So many tokens more in front are looked for, in rows of at most so many elements; and so many positions are named.
_IN_FRONT, _LARGEST, _NAMED = 64, 1 << 24, 6


def prompt_reservation(report: DiffReport, shaped: tuple[ShapedTrace, ShapedTrace], pairs: Sequence[Pair]) -> Reservation | None:
    """That the two are of other tokens; None where both manifests name them, or where the values do not say so."""
    names = [report.names.of(side) for side in "AB"]
    unknown = [name for name, side in zip(names, shaped, strict=True) if side.trace.info is None or not side.trace.info.tokens]
    if not report.diverged or not unknown:
        return None
    rows = _rows_of_tokens(shaped, pairs)
    lengths = [side.positions.get(0) for side in shaped] if rows is None else [len(side) for side in rows]
    found = ""
    if None not in lengths and lengths[0] != lengths[1]:
        found = f"the prompts are of different lengths, {lengths[0]} positions in {names[0]} and {lengths[1]} in {names[1]}"
        found += "" if rows is None else _in_front(rows, names)
    elif rows is not None:
        found = _other_tokens(rows, names)
    if not found:
        return None
    return Reservation(Message(f"{found}; the tokens of {joined(unknown)} are not known: run both on the same ", TOKENS), is_cause=True)


def _rows_of_tokens(shaped: tuple[ShapedTrace, ShapedTrace], pairs: Sequence[Pair]) -> tuple[Array, Array] | None:
    """The first rows that are of a token each, of both sides: float64 [positions, width]."""
    keys = (pair.key for pair in pairs if (pair.key.step, pair.key.layer) == (0, 0) and pair.key.stage in _OF_TOKENS)
    key = next((key for key in keys if all(key in side.trace for side in shaped)), None)
    if key is None or any(key not in side.known for side in shaped):
        return None
    entries = [side.trace.get(key.stage, key.layer) for side in shaped]
    if any(entry.file is None or len(entry.shape) != 2 or math.prod(entry.shape) > _LARGEST for entry in entries):
        return None
    a, b = (side.trace.load(entry).astype(np.float64) for side, entry in zip(shaped, entries, strict=True))
    # Rows of zeros, and of NaN, are of no token: something did not write them.
    is_whole = a.shape[1] == b.shape[1] and all(np.isfinite(side).all() and side.any(axis=1).all() for side in (a, b))
    return (a, b) if is_whole else None


def _apart(a: Array, b: Array) -> Array:
    """How far the rows of two sides are apart, beside the mean of their squares: float64 [positions]."""
    return np.asarray(2 * np.square(a - b).sum(axis=1) / (np.square(a).sum(axis=1) + np.square(b).sum(axis=1)))


def _in_front(rows: tuple[Array, Array], names: Sequence[str]) -> str:
    """Where the longer side has what the other has not; empty where it has not all of that side's rows, one after the other."""
    first = 0 if len(rows[0]) < len(rows[1]) else 1
    short, long, shorter, longer = rows[first], rows[1 - first], names[first], names[1 - first]
    for more in range(min(len(long) - len(short), _IN_FRONT) + 1) if len(short) > 1 else ():
        if (_apart(short, long[more : more + len(short)]) < _ALIKE).all():
            if not more:
                return f": {longer} goes on where {shorter} ends"
            tokens = "one token, such as BOS," if more == 1 else f"{more} tokens, as of a chat template,"
            ends = "" if len(long) == len(short) + more else ", and goes on behind it"
            return f": {longer} has {tokens} in front of what {shorter} has{ends}"
    return ""


def _other_tokens(rows: tuple[Array, Array], names: Sequence[str]) -> str:
    """Where the tokens are others, of as many positions on both sides; empty where the rows do not say so."""
    a, b = rows
    other = np.flatnonzero(_apart(a, b) > _UNLIKE)
    for one, two, late, early in ((a, b, names[1], names[0]), (b, a, names[0], names[1])) if len(other) and len(a) > 2 else ():
        if (_apart(one[:-1], two[1:]) < _ALIKE).all():
            return f"{late} has one token, such as BOS, in front of what {early} has, and is without the last"
    rest = np.delete(_apart(a, b), other)
    if not len(other) or not len(rest) or rest.max() > _ALIKE:
        return ""
    where = f"{plural(len(other), 'position')} {listed(other.tolist(), _NAMED)} of {len(a)}"
    return f"this is as where the tokens are others: the rows at {where} have nothing in common, and all others agree"
