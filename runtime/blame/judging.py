"""What one tensor's replay says of it: right, wrong, or recorded otherwise than the stage table says.

A tensor that is wrong as it stands may be right under a reading (runtime/readings). Then it is taken that way, and what is computed from
it decides: where that follows from the tensor under the reading, and does not follow from it as it stands, the tensor was recorded
otherwise. Where it follows from the tensor as it stands, the tensor was computed so, and is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import Array
from aprgraph.graph.passes.replay_recorded import Origins, find_origins
from aprgraph.graph.stages import StageKind
from aprgraph.runtime.aprt import F32
from aprgraph.runtime.blame.conditioning import explained_by_rounding
from aprgraph.runtime.blame.local import LocalError, LocalState
from aprgraph.runtime.blame.recorded import RecordedTensor
from aprgraph.runtime.blame.replaying import Replay, ReplayInputs, as_recorded_type, operands_of, recompute
from aprgraph.runtime.blame.telltales import Evidence, find_telltale
from aprgraph.runtime.blame.ties import NearTies
from aprgraph.runtime.blame.twins import Twins
from aprgraph.runtime.diff.align import Key
from aprgraph.runtime.diff.indices import compare_indices
from aprgraph.runtime.diff.metrics import TensorMetrics, compare_tensors
from aprgraph.runtime.diff.overrides import Tolerances
from aprgraph.runtime.diff.tolerances import Tolerance, exceeds, kind_of
from aprgraph.runtime.readings import Reading, TraceAsRead, find_reading, layout_of
from aprgraph.runtime.trace import Trace

if TYPE_CHECKING:
    from aprgraph.runtime.blame.audit import Auditor

#: A reading explains a tensor only where it leaves less than this part of the error, whatever the tolerance would allow.
_LEFT = 1e-2


class _Decided(Enum):
    """What the tensors that are computed from one say of it."""

    OPEN = "nothing yet"
    RECORDED = "it was recorded otherwise"
    COMPUTED = "it was computed otherwise"


@dataclass
class _Doubt:
    """A tensor of ``shape`` that is right under ``reading`` alone.

    ``wrong`` is what it is as it stands, ``witnesses`` are what was computed from it as it stands,
    ``bound`` are doubtful tensors that bear it out if they were recorded otherwise themselves.
    """

    tensor: RecordedTensor
    reading: Reading
    shape: tuple[int, ...]
    wrong: LocalError
    decided: _Decided = _Decided.OPEN
    witnesses: list[str] = field(default_factory=list)
    bound: list[_Doubt] = field(default_factory=list)


class Judge:
    """Judges the tensors of one trace in execution order; ``settle`` says what came of the doubts."""

    def __init__(self, auditor: Auditor, limits: Tolerances, tensors_of: Callable[[int], Mapping[str, RecordedTensor]]) -> None:
        self._auditor = auditor
        self._limits = limits
        self._find = limits.find
        self._tensors_of = tensors_of
        self._ties = NearTies()
        self._doubts: dict[Key, _Doubt] = {}
        self._told: set[str] = set()
        self._twins = Twins()

    def tolerance(self, stage: str, step: int) -> Tolerance:
        """What a stage is held to in one step, of which the last position is known as far as the prompt's length is."""
        recorded = self._auditor.recorded
        start, length = recorded.pass_start(step), recorded.pass_length(step)
        return self._find(stage, 0 if start is None or length is None else start + length)

    def _of_weights(self, tolerance: Tolerance, stage: str, origins: Origins, recorded: F32, node: Node) -> Tolerance:
        """``tolerance`` where the trace has the float weights of a file that has them quantised: what those that it reads cost."""
        float_weights = self._auditor.float_weights
        if float_weights is None or self._limits.override(stage) is not None:
            return tolerance
        positions = recorded.shape[node.type.dims.index("n")] if "n" in node.type.dims else 1
        return float_weights.tolerance(tolerance, stage, origins.weights, positions)

    def see(self, step: int, graph: Graph, node: Node, value: Array) -> None:
        """Take a node's value as it appears, before the tensors that it decides are judged."""
        if node.stage is not None and node.op != "recorded":
            tensor = self._tensors_of(step).get(node.name)
            recorded = self._auditor.recorded.load(tensor) if tensor is not None and tensor.is_whole else None
            self._twins.see((step, node.layer, node.stage), recorded, value)
        self._ties.see(graph, node, value, lambda stage: self._find(stage, 0))

    def judge(self, step: int, tensor: RecordedTensor, value: Array, replay: Replay) -> LocalError:
        """Compare what was recorded with its replay ``value``."""
        node = tensor.node
        assert node.stage is not None
        recorded, computed = self._auditor.recorded.load(tensor), as_recorded_type(value, tensor)
        origins = find_origins(replay.graph, node.name, replay.order)
        tolerance = self._of_weights(self.tolerance(node.stage, step), node.stage, origins, recorded, node)
        # What lies between recorded tensors and could have been recorded too has an error of its own.
        is_own = not any(self._auditor.graph[name].stage is not None for name in origins.region[:-1])
        local = LocalError(
            tensor.entry.key,
            tensor.entry.label,
            LocalState.RIGHT,
            tolerance.own if is_own else tolerance.limit,
            sources=tuple(self._key(step, name) for name in origins.sources),
            region=origins.region,
            weights=origins.weights,
        )
        if kind_of(node.stage) is StageKind.INDEX:
            return self._judge_ids(local, recorded, computed, node)
        found = self._compare(local, tensor, recorded, computed, tolerance)
        if found.state is LocalState.WRONG:
            as_it_stands = self._from_doubts_as_they_stand(found, tensor, recorded, computed, replay, origins, step, tolerance)
            if as_it_stands is not None:
                return as_it_stands
            found = self._excused(found, tensor, computed, replay, origins, step)
        if found.state is LocalState.WRONG:
            found = self._read_otherwise(found, tensor, recorded, computed, tolerance)
        if found.state is LocalState.WRONG:
            found = replace(found, telltale=self._telltale(tensor, recorded, replay))
        if found.state is LocalState.RIGHT:
            self._testify(found, tensor, replay, origins, step, tolerance)
        return found

    def settle(self, found: Iterable[LocalError]) -> list[LocalError]:
        """``found`` with the doubts decided: those that nothing decides are wrong, or were recorded otherwise, and say so.

        A wrong tensor that holds what another stage holds says that.
        """
        return [self._with_twin(self._settled(local)) for local in found]

    def _with_twin(self, local: LocalError) -> LocalError:
        twin = self._twins.find(local.key) if local.state is LocalState.WRONG else None
        if twin is None:
            return local
        where = twin[2] if twin[1] is None else f"layer {twin[1]} {twin[2]}"
        return replace(local, twin=twin, telltale=local.telltale or f"what was recorded is that of {where}")

    def as_read(self, trace: Trace) -> Trace:
        """``trace`` with the tensors that were recorded otherwise as they are to be read."""
        readings = {key: (doubt.reading, doubt.shape) for key, doubt in self._doubts.items() if _was_recorded(doubt)}
        return TraceAsRead(trace, readings=readings) if readings else trace

    def _settled(self, local: LocalError) -> LocalError:
        doubt = self._doubts.get(local.key)
        if doubt is None or _was_recorded(doubt):
            return local
        if doubt.decided is _Decided.COMPUTED:
            says = f"; it is {doubt.reading.words}, and {doubt.witnesses[-1]} is computed from it as it stands"
        else:
            says = f"; or it was recorded {doubt.reading.words}: what reads it was not recorded, or does not tell"
        return replace(doubt.wrong, reason=f"{doubt.wrong.reason}{says}")

    # -- one tensor -----------------------------------------------------------------------------------------------------

    def _compare(self, local: LocalError, tensor: RecordedTensor, recorded: F32, computed: F32, tolerance: Tolerance) -> LocalError:
        axis = tensor.node.type.dims.index("n") if "n" in tensor.node.type.dims else None
        metrics = compare_tensors(recorded, computed, position_axis=axis)
        reason = _nonfinite(metrics) if metrics.mismatched_nonfinite else exceeds(metrics, local.limit, tolerance)
        return replace(local, metrics=metrics, state=LocalState.RIGHT if reason is None else LocalState.WRONG, reason=reason)

    def _excused(self, local: LocalError, tensor: RecordedTensor, computed: F32, replay: Replay, origins: Origins, step: int) -> LocalError:
        """A tensor beyond its limit, before anybody is blamed."""
        assert isinstance(local.metrics, TensorMetrics)
        if local.metrics.mismatched_nonfinite:
            unclear = self._unclear_source(origins, step)
            return local if unclear is None else replace(local, state=LocalState.UNKNOWN, reason=unclear)
        tie = self._ties.find(origins.region)
        if tie is not None:
            return replace(local, state=LocalState.UNKNOWN, reason=tie)
        float_weights = self._auditor.float_weights
        noise = 0.0 if float_weights is None else float_weights.unit(origins.weights)
        rounding = explained_by_rounding(
            self._auditor, replay, tensor, computed, local.metrics, profile=self._auditor.profile, most=noise or math.inf
        )
        return local if rounding is None else replace(local, state=LocalState.RIGHT, reason=rounding)

    def _unclear_source(self, origins: Origins, step: int) -> str | None:
        """Why tensors with NaN or Inf at other places than the replay are neither right nor wrong."""
        tensors, recorded = self._tensors_of(step), self._auditor.recorded
        for name in origins.sources:
            if not np.isfinite(recorded.value(tensors[name])).all():
                return f"{tensors[name].entry.label}, from which it is computed, holds NaN or Inf; what follows from those is not defined"
        return None

    def _judge_ids(self, local: LocalError, recorded: F32, computed: F32, node: Node) -> LocalError:
        metrics = compare_indices(recorded, computed)
        assert metrics is not None
        local = replace(local, metrics=metrics)
        reason = exceeds(metrics, local.limit)
        if reason is None:
            return local
        changed = np.flatnonzero((np.sort(recorded, axis=-1) != np.sort(computed, axis=-1)).any(axis=-1))
        exact = len(local.region) == 1  # chosen from scores that were recorded: nothing but the rule for ties is open
        if not exact and self._ties.covers(node.name, changed):
            return replace(local, reason="another choice where the scores nearly tie")
        if self._ties.is_tie(node.name, int(changed[0])):
            reason += ", where the scores tie: of equal scores the lower id comes first"
        return replace(local, state=LocalState.WRONG, reason=reason)

    def _telltale(self, tensor: RecordedTensor, recorded: F32, replay: Replay) -> str | None:
        """What the error gives away, of the first wrong tensor of each stage: those of later layers are mostly wrong in the same way."""
        stage = tensor.node.stage or ""
        if stage in self._told or not tensor.is_whole:
            return None
        self._told.add(stage)
        operands = operands_of(self._auditor, replay, tensor.node.name)
        return find_telltale(Evidence(tensor.node, operands, recorded.astype(np.float64)))

    # -- readings -------------------------------------------------------------------------------------------------------

    def _read_otherwise(self, wrong: LocalError, tensor: RecordedTensor, recorded: F32, computed: F32, tolerance: Tolerance) -> LocalError:
        """The tensor under the reading that explains it to rounding, if there is one; then what is computed from it has to decide."""
        reading = self._find_reading(wrong, tensor, recorded, computed, tolerance)
        if reading is None:
            return wrong
        self._doubts[wrong.key] = _Doubt(tensor, reading, recorded.shape, wrong)
        if tensor.is_whole:
            self._auditor.recorded.readings[tensor.entry.step, tensor.node.name] = reading
        under = self._compare(replace(wrong, state=LocalState.RIGHT), tensor, reading.restore(recorded), computed, tolerance)
        return replace(under, reason=None, reading=reading.words)

    def _find_reading(
        self, wrong: LocalError, tensor: RecordedTensor, recorded: F32, computed: F32, tolerance: Tolerance
    ) -> Reading | None:
        assert isinstance(wrong.metrics, TensorMetrics)
        most = _LEFT * (1.0 if wrong.metrics.nmse is None or wrong.metrics.mismatched_nonfinite else wrong.metrics.nmse)

        def fits(values: F32) -> bool:
            found = self._compare(replace(wrong, state=LocalState.RIGHT), tensor, values, computed, tolerance)
            return found.state is LocalState.RIGHT and (found.error or 0.0) <= most

        return find_reading(recorded, computed, layout_of(self._auditor.graph, tensor.node, computed.shape), fits)

    def _doubts_of(self, origins: Origins, step: int) -> list[_Doubt]:
        """The undecided tensors that a replay starts from."""
        doubts = (self._doubts.get(self._key(step, name)) for name in origins.sources)
        return [doubt for doubt in doubts if doubt is not None and doubt.decided is _Decided.OPEN]

    def _from_doubts_as_they_stand(
        self,
        wrong: LocalError,
        tensor: RecordedTensor,
        recorded: F32,
        computed: F32,
        replay: Replay,
        origins: Origins,
        step: int,
        tolerance: Tolerance,
    ) -> LocalError | None:
        """A tensor that does not follow from the doubtful ones under their readings: does it from some of them as they stand?

        All of them together come first: q and k may both lack a factor, of which the scores then lack the square. What changes places in
        its result as in its operand, as an activation does, says nothing where it was itself recorded in such a form.
        """
        doubts = self._doubts_of(origins, step)
        for size in range(len(doubts), 0, -1):
            for standing in combinations(doubts, size):
                found = self._compare_with_standing(standing, wrong, tensor, recorded, replay, tolerance)
                if found.state is LocalState.RIGHT or _is_far_less(found, wrong):
                    if all(doubt.reading.only_regroups for doubt in standing):
                        own = self._find_reading(wrong, tensor, recorded, computed, tolerance)
                        if own is not None and own.only_regroups:
                            return None
                    for doubt in standing:
                        doubt.decided = _Decided.COMPUTED
                        doubt.witnesses.append(tensor.entry.label)
                        del self._auditor.recorded.readings[step, doubt.tensor.node.name]
                    return found
                if _is_far_less(wrong, found):  # it is wrong, but of what it was computed from there is no doubt
                    for doubt in standing:
                        doubt.decided = _Decided.RECORDED
        return None

    def _testify(
        self, right: LocalError, tensor: RecordedTensor, replay: Replay, origins: Origins, step: int, tolerance: Tolerance
    ) -> None:
        """A tensor that follows from doubtful ones under their readings: they were recorded so, unless it follows from them either way.

        Where it is in doubt itself, it says so only if it turns out to have been recorded otherwise too.
        """
        own = self._doubts.get(right.key)
        for doubt in self._doubts_of(origins, step):
            if own is not None and own.reading.has("factor") and doubt.reading.has("factor"):
                continue  # a factor of its own may be that of what it is computed from
            if doubt.reading.has("mask") and not _sees_masks(tensor):
                continue
            recorded = self._auditor.recorded.load(tensor)
            values = recorded if own is None else own.reading.restore(recorded)
            if (
                doubt.reading.transparent
                or self._compare_with_standing([doubt], right, tensor, values, replay, tolerance).state is LocalState.WRONG
            ):
                if own is None:
                    doubt.decided = _Decided.RECORDED
                else:
                    doubt.bound.append(own)

    def _compare_with_standing(
        self, standing: Sequence[_Doubt], local: LocalError, tensor: RecordedTensor, recorded: F32, replay: Replay, tolerance: Tolerance
    ) -> LocalError:
        """The tensor against a replay from the doubtful ones ``standing`` as they stand in the trace."""
        assert isinstance(replay.inputs, ReplayInputs)
        names = {doubt.tensor.node.name for doubt in standing}
        computed = recompute(self._auditor, replay, tensor, replay.inputs.standing(names))
        return self._compare(replace(local, reason=None), tensor, recorded, computed, tolerance)

    def _key(self, step: int, name: str) -> Key:
        node = self._auditor.graph[name]
        assert node.stage is not None
        return (step, node.layer, node.stage)


def _was_recorded(doubt: _Doubt) -> bool:
    if doubt.decided is not _Decided.OPEN:
        return doubt.decided is _Decided.RECORDED
    return doubt.reading.certain or any(_was_recorded(other) for other in doubt.bound)


def _sees_masks(tensor: RecordedTensor) -> bool:
    """Whether a tensor depends on masked places, if these were not masked: the last position sees all others anyway."""
    return tensor.is_whole and "n" in tensor.node.type.dims


def _is_far_less(one: LocalError, other: LocalError) -> bool:
    """Whether one error is so much smaller that the other is no explanation beside it."""
    return one.error is not None and other.error is not None and one.error < _LEFT * other.error


def _nonfinite(metrics: TensorMetrics) -> str:
    held, due = metrics.nonfinite
    return f"it holds {'no NaN or Inf' if held == 'none' else held}, the replay {due}"
