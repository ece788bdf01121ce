"""What lies behind a near-tie that fell the other way: from there on the two runs compute something else, and neither is wrong.

At a position that chose another expert, the layer's output differs by as much as two experts' do; the layers behind it differ there,
and through attention at every later position, or at every one if the model is not causal. A tensor that exceeds its limit behind a
near-tie is judged by the positions before; where there is none, it is UNMEASURED, neither equal nor divergent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from aprgraph.runtime.diff.align import Pair
from aprgraph.runtime.diff.classify import State
from aprgraph.runtime.diff.dependencies import Dependencies
from aprgraph.runtime.diff.experts import is_slotted
from aprgraph.runtime.diff.indices import IndexMetrics
from aprgraph.runtime.diff.measure import Measured, Measurer
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.tolerance_rules import exceeds
from aprgraph.runtime.place import Place


def set_aside(
    measured: Mapping[Place, Measured], pairs: Sequence[Pair], dependencies: Dependencies, measurer: Measurer
) -> dict[Place, Measured]:
    """``measured`` with what near-ties explain taken out of what exceeds its limit. Raises TraceError that names a damaged file."""
    result = dict(measured)
    # Counted from the end: of some tensors a side holds the last position only.
    flipped = {key: tuple(position - _positions(one) for position in one.near_ties) for key, one in measured.items() if one.near_ties}
    if not flipped:
        return result
    behind = {key: dependencies.behind({dependencies.value_of[key]}) for key in flipped}
    for pair in pairs:
        one = measured[pair.key]
        sources = [key for key in flipped if dependencies.value_of[pair.key] in behind[key]]
        if one.state is State.EXCEEDS and sources and isinstance(one.metrics, TensorMetrics):
            result[pair.key] = _judge(pair, one, {key: flipped[key] for key in sources}, measurer, causal=dependencies.causal)
    return result


def _positions(ids: Measured) -> int:
    assert isinstance(ids.metrics, IndexMetrics)
    return ids.metrics.positions


def _judge(pair: Pair, one: Measured, flipped: Mapping[Place, Sequence[int]], measurer: Measurer, *, causal: bool) -> Measured:
    excluded = set().union(*(_affected(pair, key, positions, causal=causal) for key, positions in flipped.items()))
    if not excluded:
        return one
    first = min(flipped, key=lambda key: (key.step, key.layer or 0))
    where = f"{'' if first.step == 0 else f'step {first.step} '}layer {first.layer}"
    metrics = measurer.measure_without(pair, excluded)
    if metrics is None:
        reason = f"all of it lies behind experts that were chosen otherwise at a near-tie ({where})"
        return replace(one, state=State.UNMEASURED, reason=reason, metrics=None, logits=None)
    still = exceeds(metrics, one.limit)
    if still is not None:
        return replace(one, reason=f"{still}, without the positions behind a near-tie among experts")
    remark = f"{len(excluded)} positions left out, behind experts that were chosen otherwise at a near-tie ({where})"
    return replace(one, state=State.NOISE, reason=None, metrics=replace(metrics, bit_identical=False), remark=remark)


def _affected(pair: Pair, source: Place, from_end: Sequence[int], *, causal: bool) -> set[int]:
    """The positions of a tensor that positions of ``source``, counted from the end, reach."""
    assert pair.shape is not None
    count = pair.shape[pair.position_axis] if pair.position_axis is not None else 1
    if pair.key.step != source.step:
        return set(range(count))  # a later step attends to all of an earlier one
    if pair.key.layer == source.layer and is_slotted(pair.key.stage):
        return set()  # compared expert by expert already
    if pair.key.layer == source.layer:
        return {count + position for position in from_end if count + position >= 0}
    return set(range(max(count + from_end[0], 0) if causal else 0, count))
