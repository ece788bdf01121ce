"""Tensors that were recorded otherwise, or computed otherwise: what is computed from them decides.

A tensor that is wrong as it stands may be right under a reading (runtime/readings). Then it is taken that way. Where what is computed from
it follows from the tensor under the reading, and not from it as it stands, the tensor was recorded otherwise. Where it follows from the
tensor as it stands, the tensor was computed so, and is wrong. Where it follows from neither, because it is wrong itself, the simpler
explanation of it decides (hypotheses.py), and where that tells nothing either, it is not known which of the two it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import combinations

import numpy as np

from aprgraph.graph.ir import Graph
from aprgraph.graph.passes.replay_recorded import Origins
from aprgraph.graph.words import joined
from aprgraph.runtime.blame.conventions import recorded
from aprgraph.runtime.blame.local_errors import LocalError, LocalState
from aprgraph.runtime.blame.recorded import RecordedTensor
from aprgraph.runtime.blame.replay import Replay, Replayer, ReplayInputs
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.tolerances import Tolerance
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings import Reading, TraceAsRead, find_reading, is_far, layout_of
from aprgraph.runtime.readings.layout import is_turned
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.reader import Trace

#: A reading explains a tensor only where it leaves less than this part of the error, whatever the tolerance would allow.
_LEFT = 1e-2
#: What bears a reading out, if nothing speaks against it.
_BORNE_OUT = "read so, it follows from its inputs, and what is computed from it agrees"
#: The same where RoPE lies before it, where what is computed from it is wrong for another reason, and where other tensors bear it out.
_BY_ROPE = "read so, it follows from its inputs, and RoPE turned the pairs of that order"
_BY_A_MISTAKE = "read so, it follows from its inputs, and what is wrong behind it is less so, or explained by fewer mistakes"
_BY_OTHERS = "read so, it follows from its inputs, and others of this trace were recorded so"


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
    otherwise themselves. ``leaning`` says what else speaks for the reading, while nothing speaks against it. ``contested`` are labels of
    tensors that are computed from it, and follow from it neither way.
    """

    tensor: RecordedTensor
    reading: Reading
    shape: tuple[int, ...]
    wrong: LocalError
    decided: _Decided = _Decided.OPEN
    witness: str = ""
    bound: list[_Doubt] = field(default_factory=list)
    leaning: str = ""
    contested: list[str] = field(default_factory=list)

    @property
    def was_recorded(self) -> bool:
        """Whether it was recorded otherwise, as far as is known by now."""
        if self.decided is not _Decided.OPEN:
            return self.decided is _Decided.RECORDED
        return self.reading.certain or bool(self.leaning) or any(other.was_recorded for other in self.bound)

    @property
    def convention(self) -> tuple[str, str]:
        """What other tensors share that were recorded in the same way: the order of rows is one for q and k, wherever they stand."""
        return "" if self.reading.is_row_order else self.tensor.entry.stage, self.reading.words


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
        # Pairs in another order, turned as they should be, are what a checkpoint's rows give: that takes no mistake.
        by_rope = _BY_ROPE if reading.is_row_order and any(case.replay.graph[name].op == "rope" for name in case.origins.region) else ""
        self._doubts[wrong.key] = _Doubt(case.tensor, reading, case.recorded.shape, wrong, leaning=by_rope)
        if case.tensor.is_whole:
            self._replayer.recorded.readings[case.step, case.tensor.node.name] = reading
        under = self._compare(replace(wrong, state=LocalState.RIGHT), replace(case, recorded=reading.restore(case.recorded)))
        under = replace(under, reason=None, reading=reading.words, explanation=None, by_axis=())
        return recorded(under, reading.name, f"it was recorded {reading.words}", _BORNE_OUT)

    def turn(self, turned: LocalError, standing: LocalError, case: Case, reading: Reading) -> LocalError:
        """A tensor that is wrong under ``reading`` too, where it is ``turned``, but less so than ``standing``, or by fewer mistakes."""
        self._doubts[turned.key] = _Doubt(case.tensor, reading, case.recorded.shape, standing, leaning=_BY_A_MISTAKE)
        if case.tensor.is_whole:
            self._replayer.recorded.readings[case.step, case.tensor.node.name] = reading
        return replace(turned, reading=reading.words, reason=f"{turned.reason}; it was recorded {reading.words}")

    def as_they_stand(self, wrong: LocalError, case: Case) -> tuple[LocalError, Case] | None:
        """A tensor that does not follow from the doubtful ones under their readings: does it from some of them as they stand?

        Then the verdict, and the case as it is now: it may be wrong for another reason.

        All of them together come first: q and k may both lack a factor, of which the scores then lack the square. What changes places in
        its result as in its operand, as an activation does, says nothing where it was itself recorded in such a form.
        """
        doubts = self._of(case)
        for size in range(len(doubts), 0, -1):
            for standing in combinations(doubts, size):
                stood = replace(case, computed=self._computed_from(standing, case))
                found = self._compare(replace(wrong, reason=None), stood)
                if found.state is LocalState.RIGHT or is_far_less(found, wrong):
                    if all(doubt.reading.only_regroups for doubt in standing) and self._is_regrouped(wrong, case):
                        return None
                    self._were_computed(standing, case)
                    return found, stood
                if is_far_less(wrong, found):  # it is wrong, but of what it was computed from there is no doubt
                    for doubt in standing:
                        doubt.decided, doubt.leaning = _Decided.RECORDED, _BY_A_MISTAKE
        return None

    def standing(self, case: Case) -> Case | None:
        """The case from the doubtful tensors as they stand, if there are any: what a mistake may have been computed from."""
        doubts = self._of(case)
        if not doubts or not isinstance(case.replay.inputs, ReplayInputs):
            return None
        replay = replace(case.replay, inputs=case.replay.inputs.standing({doubt.tensor.node.name for doubt in doubts}))
        return replace(case, replay=replay, computed=self._computed_from(doubts, case))

    def as_decided(self, case: Case) -> Case:
        """The case from what it is computed from as that was decided, where that was since the pass began, which had read it otherwise."""
        doubts = (self._doubts.get(place) for place in self._sources(case))
        if not any(doubt is not None and doubt.decided is _Decided.COMPUTED for doubt in doubts):
            return case
        return replace(case, computed=self._replayer.recompute(case.replay, case.tensor, case.replay.inputs))

    def decide(self, case: Case, standing: Case, *, recorded: bool | None) -> None:
        """What a wrong tensor says of the doubtful ones that it is computed from: they were ``recorded`` otherwise, or computed so; or,
        None, it does not tell. ``standing`` is the case from these as they stand.
        """
        doubts = self._of(case)
        if recorded is False:
            self._were_computed(doubts, case)
            return
        # What it reads of them may be the same either way: v, and not q and k.
        is_concerned = not np.array_equal(case.computed, standing.computed, equal_nan=True)
        for doubt in doubts:
            if recorded:
                doubt.leaning = _BY_A_MISTAKE
            elif is_concerned:
                doubt.contested.append(case.tensor.entry.label)

    def reads_row_order(self, case: Case) -> bool:
        """Whether a tensor is computed from one whose rows were recorded in another order, as far as is known by now."""
        doubts = (self._doubts.get(place) for place in self._sources(case))
        return any(doubt is not None and doubt.reading.is_row_order and doubt.was_recorded for doubt in doubts)

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
                    doubt.decided, doubt.leaning = _Decided.RECORDED, ""
                elif own.reading.kinds.isdisjoint(doubt.reading.kinds):  # it takes both readings, whatever becomes of its own
                    doubt.leaning = doubt.leaning or _BY_A_MISTAKE
                else:
                    doubt.bound.append(own)

    def settled(self, local: LocalError) -> LocalError:
        """What came of a tensor: right as it was recorded, or wrong, or wrong unless it was recorded so, or not known."""
        doubt = self._doubts.get(local.key)
        if doubt is None:
            return local
        if self._was_recorded(doubt):
            return _borne_out(local, doubt)
        if doubt.decided is _Decided.COMPUTED:
            says = f"; it is {doubt.reading.words}, and {doubt.witness} is computed from it as it stands"
        elif self._is_open(doubt):
            return replace(
                doubt.wrong,
                state=LocalState.UNKNOWN,
                reason=f"it was recorded {doubt.reading.words}, or computed so: {self._why_open(doubt)}",
                either=doubt.reading.words,
                explanation=None,
                by_axis=(),
                is_open=True,
            )
        else:
            says = f"; or it was recorded {doubt.reading.words}: what reads it was not recorded, or does not tell"
        return replace(doubt.wrong, reason=f"{doubt.wrong.reason}{says}")

    def _was_recorded(self, doubt: _Doubt) -> bool:
        """Whether it was recorded otherwise: what is not known of a tensor by itself is taken from others that would be recorded so."""
        return doubt.was_recorded or (doubt.decided is _Decided.OPEN and any(one.was_recorded for one in self._alike(doubt)))

    def _is_open(self, doubt: _Doubt) -> bool:
        """Whether it is not known if a tensor was recorded otherwise or computed so, and neither is likelier.

        In the rows of a checkpoint, what is right otherwise accuses nobody; of another form that nothing but a wrong tensor reads, neither.
        """
        if doubt.contested:
            return True
        return doubt.reading.is_row_order and all(one.decided is not _Decided.COMPUTED for one in self._alike(doubt))

    def _alike(self, doubt: _Doubt) -> list[_Doubt]:
        return [one for one in self._doubts.values() if one is not doubt and one.convention == doubt.convention]

    def _why_open(self, doubt: _Doubt) -> str:
        """What leaves it open, and what to record."""
        graph, step = self._replayer.graph, doubt.tensor.entry.step
        there = self._replayer.recorded.of_step(step)
        behind = _next_stages(graph, doubt.tensor.node.name)
        if doubt.reading.is_row_order:  # v has no rows that RoPE turns
            behind = [name for name in behind if is_turned(graph[name].stage or "")] or behind
        missing = list(dict.fromkeys(graph[name].stage or "" for name in behind if name not in there))
        record = f"; record {joined(missing)} too, which tell{'s' if len(missing) == 1 else ''}" if missing else ""
        if not doubt.contested:
            return f"nothing that was recorded tells{record}"
        return f"{doubt.contested[0]}, which is computed from it, follows from neither{record}"

    def as_read(self, trace: Trace) -> Trace:
        """``trace`` with the tensors that were recorded otherwise as they are to be read."""
        readings = {key: (doubt.reading, doubt.shape) for key, doubt in self._doubts.items() if self._was_recorded(doubt)}
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
        doubts = (self._doubts.get(place) for place in self._sources(case))
        return [doubt for doubt in doubts if doubt is not None and doubt.decided is _Decided.OPEN]

    def _sources(self, case: Case) -> list[Place]:
        nodes = (self._replayer.graph[name] for name in case.origins.sources)
        return [Place(case.step, node.layer, node.stage or "") for node in nodes]

    def _were_computed(self, doubts: Sequence[_Doubt], case: Case) -> None:
        """The tensors were computed so, for ``case`` is computed from them as they stand."""
        for doubt in doubts:
            doubt.decided, doubt.witness = _Decided.COMPUTED, case.tensor.entry.label
            del self._replayer.recorded.readings[case.step, doubt.tensor.node.name]

    def _compare_with_standing(self, standing: Sequence[_Doubt], local: LocalError, case: Case) -> LocalError:
        """The tensor against a replay from the doubtful ones ``standing`` as they stand in the trace."""
        return self._compare(replace(local, reason=None), replace(case, computed=self._computed_from(standing, case)))

    def _computed_from(self, standing: Sequence[_Doubt], case: Case) -> F32:
        assert isinstance(case.replay.inputs, ReplayInputs)
        inputs = case.replay.inputs.standing({doubt.tensor.node.name for doubt in standing})
        return self._replayer.recompute(case.replay, case.tensor, inputs)


def _borne_out(local: LocalError, doubt: _Doubt) -> LocalError:
    """``local``, which was recorded otherwise, with what bears that out."""
    own = local.explanation
    if own is None or not own.is_convention:
        return local
    others = _BORNE_OUT if doubt.was_recorded else _BY_OTHERS
    return replace(local, explanation=replace(own, borne_out=doubt.leaning or others))


def _next_stages(graph: Graph, name: str) -> list[str]:
    """The stages that are computed from a node with no other between."""
    found: list[str] = []
    open_ = [name]
    while open_:
        for node in graph.users(open_.pop()):
            if node.stage is None:
                open_.append(node.name)
            elif node.name not in found:
                found.append(node.name)
    order = {node.name: index for index, node in enumerate(graph)}
    return sorted(found, key=order.__getitem__)


def _sees_masks(tensor: RecordedTensor) -> bool:
    """Whether a tensor depends on masked places, if these were not masked: the last position sees all others anyway."""
    return tensor.is_whole and "n" in tensor.node.type.dims


def is_far_less(one: LocalError, other: LocalError) -> bool:
    """Whether one error is so much smaller that the other is no explanation beside it."""
    return one.error is not None and other.error is not None and one.error < _LEFT * other.error
