"""Reading and measuring one pair of tensors: its numbers, and what these say by themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aprgraph.graph.stages import StageKind, is_logits
from aprgraph.runtime.diff.align import Pair
from aprgraph.runtime.diff.classify import State
from aprgraph.runtime.diff.experts import Slots, find_scores, find_slots, groups_of_choice, scores_of
from aprgraph.runtime.diff.indices import IndexMetrics, compare_indices
from aprgraph.runtime.diff.logits import LogitMetrics, compare_logits
from aprgraph.runtime.diff.margins import judge_choices
from aprgraph.runtime.diff.masked_places import SCORES, WithoutFills, hidden_places, may_hold_fills
from aprgraph.runtime.diff.metrics import BLOCK, TensorMetrics, compare_blocks, compare_described, compare_tensors
from aprgraph.runtime.diff.overrides import Tolerances
from aprgraph.runtime.diff.reservations import RECORDED
from aprgraph.runtime.diff.shapes import ShapedTrace
from aprgraph.runtime.diff.tolerance_rules import exceeds
from aprgraph.runtime.diff.tolerances import Tolerance, kind_of
from aprgraph.runtime.element import first_in_words
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import F32, give_back


@dataclass(frozen=True)
class Measured:
    """One pair: its state by itself, why in words, the limit that it was held to, and its numbers.

    ``remark`` is what else a reader should know of how it was compared. ``beyond_inputs``: it exceeds what it is computed from explains.
    """

    state: State
    limit: float
    reason: str | None = None
    metrics: TensorMetrics | IndexMetrics | None = None
    logits: LogitMetrics | None = None
    remark: str | None = None
    beyond_inputs: bool = False

    @property
    def nmse(self) -> float | None:
        """None for ids, and for what was not measured."""
        return self.metrics.nmse if isinstance(self.metrics, TensorMetrics) else None

    @property
    def near_ties(self) -> tuple[int, ...]:
        """The positions that chose other experts at near-ties."""
        return self.metrics.near_tie_positions if isinstance(self.metrics, IndexMetrics) else ()


class Measurer:
    """Measures pairs of two traces; ``top`` is the K of the top-K overlap of logits. ``of_weights`` makes the tolerance of a tensor that of
    the weights before it.
    """

    def __init__(
        self,
        a: ShapedTrace,
        b: ShapedTrace,
        tolerances: Tolerances,
        top: int,
        of_weights: Callable[[Place, Tolerance, int], Tolerance] | None = None,
    ) -> None:
        self._a, self._b = a, b
        self._tolerances = tolerances
        self._top = top
        self._of_weights = of_weights

    @property
    def prompt(self) -> int:
        """How many positions step 0 has; 0 where that is not known."""
        return max((side.positions[0] for side in (self._a, self._b) if 0 in side.positions), default=0)

    def tolerance(self, pair: Pair) -> Tolerance:
        """What a pair is held to."""
        positions = self.prompt + pair.key.step if self.prompt else 0
        tolerance = self._tolerances.find(pair.key.stage, positions)
        if self._of_weights is None or self._tolerances.override(pair.key.stage) is not None:
            return tolerance
        return self._of_weights(pair.key, tolerance, positions)

    def measure(self, pair: Pair) -> Measured:
        """Read and measure one pair. Raises TraceError that names a damaged file."""
        tolerance = self.tolerance(pair)
        if pair.missing is not None:
            return Measured(State.UNMEASURED, tolerance.limit, pair.missing)
        if pair.mismatch is not None:
            return Measured(State.SHAPE, tolerance.limit, pair.mismatch)
        if kind_of(pair.key.stage) is StageKind.INDEX:
            return self._ids(pair, *pair.load(self._a.trace, self._b.trace), tolerance)
        slots = find_slots(self._a, self._b, pair)
        if slots is None:
            a, b, numbers = self._read(pair)
            return self._without_fills(pair, a, b, self._values(pair, a, b, tolerance, numbers), tolerance)
        a, b = pair.load(self._a.trace, self._b.trace)
        if slots.left_out == slots.taken.size:
            return Measured(State.UNMEASURED, tolerance.limit, "the two sides chose no expert in common")
        blocks = _blocks(a, b, range(len(a)), slots)
        found = self._judge(pair, compare_blocks(a.shape, blocks, position_axis=pair.position_axis), tolerance)
        parts = []
        if slots.reordered:
            parts.append(f"slots put in order by expert at {slots.reordered} positions")
        if slots.left_out:
            parts.append(f"{slots.left_out} of {slots.taken.size} slots left out, whose experts one side alone chose")
        # What had to be moved, or left out, was not the same bits.
        metrics = replace(found.metrics, bit_identical=False) if isinstance(found.metrics, TensorMetrics) else found.metrics
        state = State.NOISE if found.state is State.IDENTICAL else found.state
        return replace(found, state=state, metrics=metrics, remark="; ".join(parts))

    def note_described(self, pair: Pair) -> None:
        """A fork of this process has measured ``pair``, and thereby held it against its statistics."""
        for trace, entry in ((self._a.trace, pair.a), (self._b.trace, pair.b)):
            if entry is not None:
                trace.note_described(entry)

    def measure_values(self, pair: Pair, a: F32, b: F32) -> Measured:
        """Measure values of a pair's shape in place of those that were recorded."""
        return self._values(pair, a, b, self.tolerance(pair))

    def measure_without(self, pair: Pair, positions: Collection[int]) -> TensorMetrics | None:
        """The numbers of a pair without some of its positions; None where none is left, or where they are not known."""
        axis, shape = pair.position_axis, pair.shape
        if not pair.structured or axis is None or shape is None:
            return None
        kept = [position for position in range(shape[axis]) if position not in positions]
        if not kept:
            return None
        a, b = pair.load(self._a.trace, self._b.trace)
        rest = (*shape[:axis], len(kept), *shape[axis + 1 :])
        if axis == 0:
            blocks = _blocks(a, b, kept, find_slots(self._a, self._b, pair))
        else:
            blocks = ((left.take(kept, axis), right.take(kept, axis)) for left, right in _blocks(a, b, range(len(a)), None))
        return compare_blocks(rest, blocks, position_axis=axis)

    def _read(self, pair: Pair) -> tuple[F32, F32, TensorMetrics]:
        """Both tensors and their numbers. Whether they are what the manifests describe is looked at in the same pass."""
        traces = self._a.trace, self._b.trace
        if pair.last_of is not None:
            a, b = pair.load(*traces)
            return a, b, compare_tensors(a, b, structured=pair.structured, position_axis=pair.position_axis)
        assert pair.a is not None
        assert pair.b is not None
        asked = traces[0].is_to_be_described(pair.a), traces[1].is_to_be_described(pair.b)
        a, b = pair.load_unverified(*traces)
        metrics, found = compare_described(a, b, structured=pair.structured, position_axis=pair.position_axis, described=asked)
        for is_asked, trace, entry, values, statistics in zip(asked, traces, (pair.a, pair.b), (a, b), found, strict=True):
            if is_asked:
                trace.settle(entry, values, statistics)
        return a, b, metrics

    def _values(self, pair: Pair, a: F32, b: F32, tolerance: Tolerance, numbers: TensorMetrics | None = None) -> Measured:
        metrics = numbers or compare_tensors(a, b, structured=pair.structured, position_axis=pair.position_axis)
        return self._judge(pair, metrics, tolerance, compare_logits(a, b, self._top) if is_logits(pair.key.stage) else None)

    def _without_fills(self, pair: Pair, a: F32, b: F32, found: Measured, tolerance: Tolerance) -> Measured:
        """``found``, or what is found without the numbers that stand for masks in scores."""
        if pair.key.stage != SCORES or not isinstance(found.metrics, TensorMetrics) or not may_hold_fills(found.metrics):
            return found
        hidden = hidden_places(pair, (self._a.trace, self._b.trace), a.shape)
        if hidden is None:
            return found
        without = WithoutFills(hidden)
        blocks = without.blocks(_blocks(a, b, range(len(a)), None))
        metrics = compare_blocks(a.shape, blocks, position_axis=pair.position_axis)
        remark = without.remark()
        if remark is None:
            # The same numbers on both sides: they are so large that the scores beside them were nothing.
            return self._judge(pair, metrics, tolerance)
        said = RECORDED.join(remark)
        judged = self._judge(pair, replace(metrics, bit_identical=False), tolerance)
        if judged.state is State.NOISE:
            return replace(judged, state=State.OTHER_FORM, remark=said)
        return replace(judged, remark=f"{said}, which is no error, and is compared as 0")

    def _judge(self, pair: Pair, metrics: TensorMetrics, tolerance: Tolerance, logits: LogitMetrics | None = None) -> Measured:
        if metrics.mismatched_nonfinite:
            return Measured(State.NAN, tolerance.limit, _nonfinite(metrics, pair.key.stage), metrics, logits)
        reason = exceeds(metrics, tolerance.limit, tolerance)
        state = state_of(metrics.bit_identical, reason)
        return Measured(state, tolerance.limit, reason, metrics, logits, beyond_inputs=reason is not None and bool(metrics.dead_channels))

    def _ids(self, pair: Pair, a: F32, b: F32, tolerance: Tolerance) -> Measured:
        limit = tolerance.limit
        ids = compare_indices(a, b, structured=pair.structured)
        if ids is None:
            return Measured(State.UNMEASURED, limit, "the ids stand in another order, and no manifest says how many belong to a position")
        if ids.differing and pair.structured:
            largest = max((float(side[np.isfinite(side)].max(initial=0.0)) for side in (a, b)), default=0.0)
            traces = self._a.trace, self._b.trace
            chosen_by = scores_of(pair.key, *traces)
            key = pair.key._replace(stage=chosen_by)
            scores = [find_scores(trace, key, ids.positions, int(largest) + 1) for trace in (self._a, self._b)]
            groups, limit_of_scores = groups_of_choice(pair.key, *traces), self._tolerances.find(chosen_by).limit
            ids = judge_choices(replace(ids, chosen_by=chosen_by), a, b, scores, limit_of_scores, groups)
        reason = exceeds(ids, limit)
        return Measured(state_of(ids.bit_identical, reason), limit, reason, ids)


def _blocks(a: F32, b: F32, rows: Sequence[int], slots: Slots | None) -> Iterator[tuple[F32, F32]]:
    """Some rows of the first axis of both tensors, a few MB at a time, with B's slots in A's order; pages that were read are given back."""
    size = max(1, BLOCK // max(1, math.prod(a.shape[1:])))
    for start in range(0, len(rows), size):
        part = list(rows[start : start + size])
        left, right = np.asarray(a[part]), np.asarray(b[part])
        yield (left, right) if slots is None else Slots(slots.taken[part]).apply(left, right)
        for side in (a, b):
            give_back(side[part[0] : part[-1] + 1])


def held_to_its_own(one: Measured, tolerance: Tolerance) -> Measured:
    """``one`` under the limit of its own arithmetic, since nothing else explains a difference."""
    assert one.metrics is not None
    reason = exceeds(one.metrics, tolerance.own)
    if reason is None:
        return replace(one, limit=tolerance.own)
    return replace(one, state=State.EXCEEDS, limit=tolerance.own, reason=f"{reason} where all inputs are identical")


def state_of(bit_identical: bool, reason: str | None) -> State:
    """The state of two tensors without NaN or Inf on one side: ``reason`` says which rule they break."""
    if bit_identical:
        return State.IDENTICAL
    return State.NOISE if reason is None else State.EXCEEDS


def _nonfinite(metrics: TensorMetrics, stage: str) -> str:
    a, b = metrics.nonfinite
    held = f"{a} in A, {b} in B" if a != b else f"{a} on each side, at different places"
    return f"{held}{first_in_words(stage, metrics.nonfinite_index)}"
