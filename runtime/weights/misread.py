"""Packed integers that one side reads, or has packed, with a mistake: what it then holds is exactly what the mistake makes of them."""

from __future__ import annotations

from collections.abc import Iterator

from aprgraph.graph.sources.source import TensorInfo
from aprgraph.runtime.weights.fit import Fit, Sampled, measure
from aprgraph.runtime.weights.measures import Measures
from aprgraph.runtime.weights.rows import MisreadRows
from aprgraph.runtime.weights.tensor_pair import TensorPair

#: What a mistake leaves of the difference, at most. Integers are told from those that are a step away: without the mistake they are
#: where rounding has put them, a twelfth of a step from the weight in the mean square, or where they were read from.
_LEFT = 0.25


def find_misreading(pair: TensorPair, direct: Measures) -> tuple[Fit, Measures] | None:
    """The mistake that leaves the least of the difference, and what it leaves, if that is little and no more than rounding."""
    if direct.is_exact or not (pair.a.misreadings() or pair.b.misreadings()):
        return None
    sampled = Sampled(pair.rows_a, tuple(direct.bad_rows))
    numbers, _ = sampled.more
    best, least = None, _LEFT * measure(pair.rows_a, Fit("same", "", pair.rows_b), numbers).error
    for fit in _readings(pair):
        error = measure(pair.rows_a if fit.target is None else fit.target, fit, numbers).error
        if error < least or (error == 0 and best is None):
            best, least = fit, error
    if best is None:
        return None
    found = measure(pair.rows_a if best.target is None else best.target, best)
    return (best, found) if found.is_rounding and found.tells and found.error <= _LEFT * direct.error else None


def _readings(pair: TensorPair) -> Iterator[Fit]:
    for one in pair.a.misreadings():
        yield Fit("misread", _text("B", "A", pair.a, one.words), pair.rows_b, target=MisreadRows(pair.a, one))
    for one in pair.b.misreadings():
        yield Fit("misread", _text("A", "B", pair.b, one.words), pair.files.in_order(pair.b, MisreadRows(pair.b, one)))


def _text(other: str, side: str, info: TensorInfo, words: str) -> str:
    return f"{other} is {side}'s {info.stored} read {words}: {other} was read so, or {side} was packed so"
