"""Tensors that were recorded otherwise, or computed otherwise: what is computed from them decides.

A tensor that is wrong as it stands may be right under a reading (runtime/readings). Then it is taken that way. Where what is computed from
it follows from the tensor under the reading, and not from it as it stands, the tensor was recorded otherwise. Where it follows from the
tensor as it stands, the tensor was computed so, and is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import combinations

from aprgraph.graph.passes.replay_recorded import Origins
from aprgraph.runtime.blame.conventions import recorded
from aprgraph.runtime.blame.local_errors import LocalError, LocalState
from aprgraph.runtime.blame.recorded import RecordedTensor
from aprgraph.runtime.blame.replay import Replay, Replayer, ReplayInputs
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.tolerances import Tolerance
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings import Reading, TraceAsRead, find_reading, is_far, layout_of
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.reader import Trace

#: A reading explains a tensor only where it leaves less than this part of the error, whatever the tolerance would allow.
_LEFT = 1e-2
#: What bears a reading out, if nothing speaks against it.
_BORNE_OUT = "read so, it follows from its inputs, and what is computed from it agrees"


@dataclass(frozen=True)
class Case:
    """One tensor before the judge: what was ``recorded`` and ``computed`` of it, both f32, by which ``replay``, from what ``origins``, and
    what it is held to.
    """

    tensor: RecordedTensor
    recorded: F32
    computed: F32
    replay: Replay
    origins: Origins
    tolerance: Tolerance

    @property
    def step(self) -> int:
        """The step that recorded it."""
        return self.tensor.entry.step


#: Compares a case's recorded tensor with its replay: (the verdict to be filled in, the case) to the verdict.
Compare = Callable[[LocalError, Case], LocalError]


class _Decided(Enum):
    """What the tensors that are computed from one say of it."""

    OPEN = "nothing yet"
    RECORDED = "it was recorded otherwise"
    COMPUTED = "it was computed otherwise"


@dataclass
class _Doubt:
    """A tensor of ``shape`` that is right under ``reading`` alone, and ``wrong`` as it stands.

    ``witness`` is what was computed from it as it stands; ``bound`` are doubtful tensors that bear the reading out if they were recorded
    otherwise themselves.
    """

    tensor: RecordedTensor
    reading: Reading
    shape: tuple[int, ...]
    wrong: LocalError
    decided: _Decided = _Decided.OPEN
    witness: str = ""
    bound: list[_Doubt] = field(default_factory=list)

    @property
    def was_recorded(self) -> bool:
        """Whether it was recorded otherwise, as far as is known by now."""
        if self.decided is not _Decided.OPEN:
            return self.decided is _Decided.RECORDED
        return self.reading.certain or any(other.was_recorded for other in self.bound)


class Doubts:
    """The doubtful tensors of one trace, which comes in execution order."""

    def __init__(self, replayer: Replayer, compare: Compare) -> None:
        self._replayer = replayer
        self._compare = compare
        self._doubts: dict[Place, _Doubt] = {}

    def read_otherwise(self, wrong: LocalError, case: Case) -> LocalError:
        """The tensor under the reading that explains it to rounding, if there is one; then what is computed from it has to decide."""
        reading = self.reading_of(wrong, case)
        return wrong if reading is None else self.take(wrong, case, reading)

    def take(self, wrong: LocalError, case: Case, reading: Reading) -> LocalError:
        """The tensor under ``reading``, until what is computed from it has decided."""
        self._doubts[wrong.key] = _Doubt(case.tensor, reading, case.recorded.shape, wrong)
        if case.tensor.is_whole:
            self._replayer.recorded.readings[case.step, case.tensor.node.name] = reading
        under = self._compare(replace(wrong, state=LocalState.RIGHT), replace(case, recorded=reading.restore(case.recorded)))
        under = replace(under, reason=None, reading=reading.words, explanation=None, by_axis=())
        return recorded(under, reading.name, f"it was recorded {reading.words}", _BORNE_OUT)

    def as_they_stand(self, wrong: LocalError, case: Case) -> LocalError | None:
        """A tensor that does not follow from the doubtful ones under their readings: does it from some of them as they stand?

        All of them together come first: q and k may both lack a factor, of which the scores then lack the square. What changes places in
        its result as in its operand, as an activation does, says nothing where it was itself recorded in such a form.
        """
        doubts = self._of(case)
        for size in range(len(doubts), 0, -1):
            for standing in combinations(doubts, size):
                found = self._compare_with_standing(standing, wrong, case)
                if found.state is LocalState.RIGHT or _is_far_less(found, wrong):
                    if all(doubt.reading.only_regroups for doubt in standing) and self._is_regrouped(wrong, case):
                        return None
                    for doubt in standing:
                        doubt.decided, doubt.witness = _Decided.COMPUTED, case.tensor.entry.label
                        del self._replayer.recorded.readings[case.step, doubt.tensor.node.name]
                    return found
                if _is_far_less(wrong, found):  # it is wrong, but of what it was computed from there is no doubt
                    for doubt in standing:
                        doubt.decided = _Decided.RECORDED
        return None

    def standing(self, case: Case) -> list[Replay]:
        """The replay from the doubtful tensors as they stand, if there are any: what a mistake may have been computed from."""
        doubts = self._of(case)
        if not doubts or not isinstance(case.replay.inputs, ReplayInputs):
            return []
        return [replace(case.replay, inputs=case.replay.inputs.standing({doubt.tensor.node.name for doubt in doubts}))]

    def testify(self, right: LocalError, case: Case) -> None:
        """A tensor that follows from doubtful ones under their readings: they were recorded so, unless it follows from them either way.

        Where it is in doubt itself, it says so only if it turns out to have been recorded otherwise too.
        """
        own = self._doubts.get(right.key)
        read = case if own is None else replace(case, recorded=own.reading.restore(case.recorded))
        for doubt in self._of(case):
            if own is not None and own.reading.has("factor") and doubt.reading.has("factor"):
                continue  # a factor of its own may be that of what it is computed from
            if doubt.reading.has("mask") and not _sees_masks(case.tensor):
                continue
            if doubt.reading.transparent or self._compare_with_standing([doubt], right, read).state is LocalState.WRONG:
                if own is None:
                    doubt.decided = _Decided.RECORDED
                else:
                    doubt.bound.append(own)

    def settled(self, local: LocalError) -> LocalError:
        """What came of a tensor: right as it was recorded, or wrong, or wrong unless it was recorded so."""
        doubt = self._doubts.get(local.key)
        if doubt is None or doubt.was_recorded:
            return local
        if doubt.decided is _Decided.COMPUTED:
            says = f"; it is {doubt.reading.words}, and {doubt.witness} is computed from it as it stands"
        else:
            says = f"; or it was recorded {doubt.reading.words}: what reads it was not recorded, or does not tell"
        return replace(doubt.wrong, reason=f"{doubt.wrong.reason}{says}")

    def as_read(self, trace: Trace) -> Trace:
        """``trace`` with the tensors that were recorded otherwise as they are to be read."""
        readings = {key: (doubt.reading, doubt.shape) for key, doubt in self._doubts.items() if doubt.was_recorded}
        return TraceAsRead(trace, readings=readings) if readings else trace

    def reading_of(self, wrong: LocalError, case: Case) -> Reading | None:
        """The reading under which a wrong tensor is right to rounding; None where there is none."""
        assert isinstance(wrong.metrics, TensorMetrics)
        most = _LEFT * (1.0 if wrong.metrics.nmse is None or wrong.metrics.mismatched_nonfinite else wrong.metrics.nmse)

        def fits(values: F32) -> bool:
            if is_far(values, case.computed, most):
                return False
            found = self._compare(replace(wrong, state=LocalState.RIGHT), replace(case, recorded=values))
            return found.state is LocalState.RIGHT and (found.error or 0.0) <= most

        return find_reading(case.recorded, case.computed, layout_of(self._replayer.graph, case.tensor.node, case.computed.shape), fits)

    def _is_regrouped(self, wrong: LocalError, case: Case) -> bool:
        own = self.reading_of(wrong, case)
        return own is not None and own.only_regroups

    def _of(self, case: Case) -> list[_Doubt]:
        """The undecided tensors that a replay starts from."""
        nodes = (self._replayer.graph[name] for name in case.origins.sources)
        doubts = (self._doubts.get(Place(case.step, node.layer, node.stage or "")) for node in nodes)
        return [doubt for doubt in doubts if doubt is not None and doubt.decided is _Decided.OPEN]

    def _compare_with_standing(self, standing: Sequence[_Doubt], local: LocalError, case: Case) -> LocalError:
        """The tensor against a replay from the doubtful ones ``standing`` as they stand in the trace."""
        assert isinstance(case.replay.inputs, ReplayInputs)
        inputs = case.replay.inputs.standing({doubt.tensor.node.name for doubt in standing})
        computed = self._replayer.recompute(case.replay, case.tensor, inputs)
        return self._compare(replace(local, reason=None), replace(case, computed=computed))


def _sees_masks(tensor: RecordedTensor) -> bool:
    """Whether a tensor depends on masked places, if these were not masked: the last position sees all others anyway."""
    return tensor.is_whole and "n" in tensor.node.type.dims


def _is_far_less(one: LocalError, other: LocalError) -> bool:
    """Whether one error is so much smaller that the other is no explanation beside it."""
    return one.error is not None and other.error is not None and one.error < _LEFT * other.error
