"""A remark on a tensor that diverges first: one side holds there what the other has at another stage of the layer, as gate for up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from aprgraph.runtime.diff.align import Pair
from aprgraph.runtime.diff.classify import State
from aprgraph.runtime.diff.measure import Measured, Measurer
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.reader import Trace

#: Another stage explains a tensor only where it leaves less than this part of the error.
_LEFT = 1e-2
#: Larger tensors, and more first divergences, are not looked at: each costs passes over all tensors of its layer.
_LARGEST, _MOST = 1 << 23, 4


def with_exchanges(
    judged: Mapping[Place, Measured], firsts: Iterable[Place], pairs: Sequence[Pair], traces: tuple[Trace, Trace], measurer: Measurer
) -> dict[Place, Measured]:
    """``judged`` with a word on those of ``firsts`` that stand at another stage. Raises TraceError that names a damaged file.

    It is said of the side without a graph; else of B.
    """
    by_key = {pair.key: pair for pair in pairs}
    side = "A" if traces[0].graph() is None and traces[1].graph() is not None else "B"
    found = dict(judged)
    for key in list(firsts)[:_MOST]:
        pair, one = by_key[key], judged[key]
        if one.state is not State.EXCEEDS or not isinstance(one.metrics, TensorMetrics) or one.metrics.count > _LARGEST:
            continue
        stage = _stands_for(pair, one, pairs, traces, measurer, side)
        if stage is not None:
            found[key] = replace(one, reason=f"{one.reason}; or {side} holds {stage} there")
    return found


def _stands_for(pair: Pair, one: Measured, pairs: Sequence[Pair], traces: tuple[Trace, Trace], measurer: Measurer, side: str) -> str | None:
    """The stage of the same layer whose tensor on the other side is the one that ``side`` holds here."""
    a, b = pair.load(*traces)
    for other in pairs:
        if other.key[:2] != pair.key[:2] or other.key == pair.key or other.a is None or other.b is None or other.shape != pair.shape:
            continue
        there = other.load(*traces)
        under = measurer.measure_values(pair, *((a, there[1]) if side == "A" else (there[0], b)))
        if under.state in (State.IDENTICAL, State.NOISE) and (under.nmse or 0.0) <= _LEFT * (one.nmse or 0.0):
            return other.key.stage
    return None
