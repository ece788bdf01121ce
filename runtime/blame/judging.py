"""What one tensor's replay says of it: right, wrong, of another shape, or not known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import Array, is_computed, is_weight, traits_of
from aprgraph.graph.ops.attention import ATTN_SOFTMAX
from aprgraph.graph.passes.prune import part_of
from aprgraph.graph.passes.replay_recorded import Origins, find_origins
from aprgraph.graph.stages import StageKind
from aprgraph.runtime.blame.agreement import agreed
from aprgraph.runtime.blame.compare_case import compare_any, compare_case, is_far
from aprgraph.runtime.blame.doubts import Case, Doubts
from aprgraph.runtime.blame.excuses import Excuses
from aprgraph.runtime.blame.flash_division import FlashDivision
from aprgraph.runtime.blame.float_range import FLOAT16, FLOAT32
from aprgraph.runtime.blame.float_weights import FloatWeights
from aprgraph.runtime.blame.hypotheses import Hypothesis, likeliest_of, turned_rows
from aprgraph.runtime.blame.local_errors import LocalError, LocalState
from aprgraph.runtime.blame.one_position import OnePosition
from aprgraph.runtime.blame.recorded import RecordedTensor
from aprgraph.runtime.blame.replay import Replay, Replayer, as_recorded_type
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.blame.ties import NearTies
from aprgraph.runtime.blame.twins import Twins
from aprgraph.runtime.decoded_weights import held
from aprgraph.runtime.diff.indices import compare_indices
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.overrides import Tolerances
from aprgraph.runtime.diff.tolerance_rules import exceeds
from aprgraph.runtime.diff.tolerances import Tolerance, kind_of
from aprgraph.runtime.explain import LEFT, MOST_NODES, Around, Evidence, Explainer, Explanation, axis_errors
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings import Reading, hidden_by_mask, layout_of, unmasked
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.reader import Trace


class Judge:
    """Judges the tensors of one trace in execution order; ``settle`` says what came of the doubts."""

    def __init__(
        self,
        model: ReplayedModel,
        replayer: Replayer,
        profile: str,
        limits: Tolerances,
        float_weights: FloatWeights | None,
        *,
        in_float16: bool = False,
        division: FlashDivision | None = None,
    ) -> None:
        self._model, self._weights = model.model, [node for node in model.graph if is_weight(node)]
        self._replayer, self._recorded, self._graph = replayer, replayer.recorded, replayer.graph
        self._limits, self._float_weights = limits, float_weights
        self._find = limits.find
        self._ties = NearTies()
        self._excuses = Excuses(replayer, profile, float_weights, self._ties, FLOAT16 if in_float16 else FLOAT32, division)
        self._doubts = Doubts(replayer, compare_case)
        self._explainer = Explainer()
        self._twins = Twins()
        self._one_position = OnePosition()

    def tolerance(self, stage: str, step: int) -> Tolerance:
        """What a stage is held to in one step, of which the last position is known as far as the prompt's length is."""
        start, length = self._recorded.pass_start(step), self._recorded.pass_length(step)
        return self._find(stage, 0 if start is None or length is None else start + length)

    def _of_weights(self, tolerance: Tolerance, stage: str, origins: Origins, recorded: F32, node: Node) -> Tolerance:
        """``tolerance`` where the trace has the float weights of a file that has them quantised: what those that it reads cost."""
        float_weights = self._float_weights
        if float_weights is None or self._limits.override(stage) is not None:
            return tolerance
        positions = recorded.shape[node.type.dims.index("n")] if "n" in node.type.dims else 1
        return float_weights.tolerance(tolerance, stage, origins.weights, positions)

    def see(self, step: int, graph: Graph, node: Node, value: Array) -> None:
        """Take a node's value as it appears, before the tensors that it decides are judged."""
        if node.stage is not None and is_computed(node):
            tensor = self._recorded.of_step(step).get(node.name)
            recorded = self._unmasked(node, self._recorded.load(tensor)) if tensor is not None and tensor.is_whole else None
            self._twins.see(Place(step, node.layer, node.stage), recorded, value)
        self._ties.see(graph, node, value, lambda stage: self._find(stage, 0))

    def judge(self, step: int, tensor: RecordedTensor, value: Array, replay: Replay, *, explain: bool = True) -> LocalError:
        """Compare what was recorded with its replay ``value``, and ``explain`` what is wrong."""
        node = tensor.node
        assert node.stage is not None
        recorded, computed = self._recorded.load(tensor), as_recorded_type(value, tensor)
        origins = find_origins(replay.graph, node.name, replay.order)
        tolerance = self._of_weights(self.tolerance(node.stage, step), node.stage, origins, recorded, node)
        # What lies between recorded tensors and could have been recorded too has an error of its own.
        is_own = not any(self._graph[name].stage is not None for name in origins.region[:-1])
        local = LocalError(
            tensor.entry.key,
            tensor.entry.label,
            LocalState.RIGHT,
            tolerance.own if is_own else tolerance.limit,
            sources=tuple(self._key(step, name) for name in origins.sources),
            region=origins.region,
            weights=origins.weights,
            inside=tuple(self._key(step, name) for name in origins.region if self._graph[name].stage is not None),
            ops=tuple(
                dict.fromkeys(traits_of(self._graph[name]).variant_of or self._graph[name].op for name in origins.region[-MOST_NODES:])
            ),
        )
        case = self._doubts.as_decided(Case(tensor, recorded, computed, replay, origins, tolerance))
        if kind_of(node.stage) is StageKind.INDEX:
            found = self._judge_ids(local, recorded, case.computed, node)
            return replace(found, explanation=self._explain(found, case, "")) if explain and found.state is LocalState.WRONG else found
        found = compare_case(local, case)
        if self._one_position.is_elsewhere(found, case, value):
            return found  # what it is, the others of one position tell
        return self._looked_at(found, case, explain=explain)

    def _looked_at(self, found: LocalError, case: Case, *, explain: bool) -> LocalError:
        """What a comparison ``found``, with what excuses or explains a wrong tensor."""
        if found.state is LocalState.WRONG:
            as_it_stands = self._doubts.as_they_stand(found, case)
            if as_it_stands is not None:
                found, case = as_it_stands
                if found.state is LocalState.RIGHT:
                    return found
            found = self._excuses.excused(found, case)
        if found.state is LocalState.WRONG:
            found = self._looked_into(found, case) if explain else self._doubts.read_otherwise(found, case)
        if found.state is LocalState.RIGHT:
            self._doubts.testify(found, case)
        return found

    def _looked_into(self, wrong: LocalError, case: Case) -> LocalError:
        """A wrong tensor with its explanation; or as it is read, where it was recorded otherwise."""
        reading = self._doubts.reading_of(wrong, case)
        if reading is not None and reading.certain:
            return self._doubts.take(wrong, case, reading)  # nobody asks why it is wrong as it stands
        as_read = replace(case, recorded=self._unmasked(case.tensor.node, case.recorded))
        seen = compare_case(wrong, as_read) if as_read.recorded is not case.recorded else wrong
        if seen.state is not LocalState.WRONG:
            seen = wrong
        elif seen is not wrong:
            seen = replace(seen, reason=f"{seen.reason}, but for what stands at masked places")
        standing = self._doubts.standing(as_read)
        first = [Hypothesis(seen, as_read), *([] if standing is None else [self._hypothesis(seen, standing, standing=True)])]
        if reading is not None:
            fits = next((one for one in map(partial(self._explained, apart=", in doubt"), first) if one.explanation), first[0])
            return self._doubts.take(self._described(replace(first[0], explanation=fits.explanation), case), case, reading)
        explained = self._hypotheses(first)
        best = likeliest_of(explained, reads_row_order=self._doubts.reads_row_order(as_read))
        if standing is not None:
            ways = {one.standing for one in best}
            self._doubts.decide(as_read, standing, recorded=not ways.pop() if len(ways) == 1 else None)
        likeliest = self._described(best[0], case)
        if best[0].turned is None:
            return likeliest
        return self._doubts.turn(likeliest, self._described(explained[0], case), case, best[0].turned)

    def _hypotheses(self, found: Sequence[Hypothesis]) -> list[Hypothesis]:
        """The hypotheses ``found``, explained, and the same with a wrong tensor's own rows in the other order."""
        explained = list(map(self._explained, found))
        rows = turned_rows(self._graph, found[0].case)
        if rows is not None and min(one.mistakes for one in explained) > (1, 0):  # one that is known leaves nothing to look for
            for one in found:
                case = replace(one.case, recorded=rows.restore(one.case.recorded))
                turned = self._hypothesis(one.wrong, case, standing=one.standing, turned=rows)
                if turned.wrong.state is LocalState.WRONG:
                    explained.append(self._explained(turned))
        return explained

    def _hypothesis(self, wrong: LocalError, case: Case, *, standing: bool, turned: Reading | None = None) -> Hypothesis:
        return Hypothesis(compare_case(replace(wrong, state=LocalState.RIGHT, reason=None), case), case, standing, turned)

    def _explained(self, one: Hypothesis, apart: str = "") -> Hypothesis:
        return replace(one, explanation=self._explain(one.wrong, one.case, f"{apart}{one.words}"))

    def _described(self, one: Hypothesis, case: Case) -> LocalError:
        """What is wrong under a hypothesis: its explanation, and where it is off."""
        layout = layout_of(self._graph, case.tensor.node, case.computed.shape)
        explanation = one.explanation
        if explanation is not None and one.turned is None and one.case.recorded is not case.recorded:
            explanation = explanation.where_values_hide()
        by_axis = axis_errors(layout.axes, one.case.recorded, one.case.computed)
        return replace(one.wrong, explanation=explanation, by_axis=by_axis)

    def _unmasked(self, node: Node, recorded: Array) -> Array:
        """Scores, or their softmax, without the numbers that stand at masked places; others as they are."""
        hidden = hidden_by_mask(self._graph, node, recorded.shape)
        if hidden is None:
            return recorded
        found = unmasked(recorded, hidden, are_weights=node.op == ATTN_SOFTMAX.name)
        return recorded if found is None else found

    def settle(self, found: Iterable[LocalError]) -> list[LocalError]:
        """``found`` with the doubts decided: those that nothing decides are wrong, or were recorded otherwise, and say so.

        A wrong tensor that holds what another stage holds says that.
        """
        found = list(found)
        read = self._one_position.read(found)
        left = self._one_position.deferred - read.keys()
        found = [read.get(local.key, local) for local in found]
        found = [self._looked_at(one, self._one_position.case_of(one.key), explain=True) if one.key in left else one for one in found]
        return agreed([self._with_twin(self._doubts.settled(local)) for local in found], self._graph)

    def _with_twin(self, local: LocalError) -> LocalError:
        twin = self._twins.find(local.key) if local.state is LocalState.WRONG else None
        if twin is None:
            return local
        return replace(local, twin=twin)

    @property
    def positions(self) -> Mapping[int, int]:
        """Of which position the tensors of one position are, by step, where that is not the last."""
        return self._one_position.others

    def as_read(self, trace: Trace) -> Trace:
        """``trace`` with the tensors that were recorded otherwise as they are to be read."""
        return self._doubts.as_read(trace)

    # -- one tensor -----------------------------------------------------------------------------------------------------

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

    def _explain(self, wrong: LocalError, case: Case, apart: str) -> Explanation | None:
        """The mistake under which a wrong tensor is what was recorded; ``apart``: see ``Explainer.explain``."""
        name, step, recorded = case.tensor.node.name, case.step, self._recorded
        tensors, start = recorded.of_step(step), recorded.pass_start(step) or 0
        part = part_of(case.replay.graph, (name,))

        def value(other: str) -> Array | None:
            tensor = tensors.get(other)
            return recorded.value(tensor) if tensor is not None and tensor.is_whole else None

        # Of a tensor with NaN or Inf in other places the error says nothing.
        nonfinite = isinstance(wrong.metrics, TensorMetrics) and wrong.metrics.mismatched_nonfinite
        most = math.inf if nonfinite else LEFT * (wrong.error or 0.0)

        def error(value: Array) -> float | None:
            computed = as_recorded_type(value, case.tensor)
            if isinstance(wrong.metrics, TensorMetrics) and is_far(case.recorded, computed, most):
                return None
            found = compare_any(wrong, replace(case, computed=computed))
            return found.error if found.state is LocalState.RIGHT and (found.error or 0.0) <= most else None

        around = Around(
            self._model,
            self._graph,
            self._weights,
            held(self._replayer.read, {node.name for node in part if is_weight(node)}),
            value,
            (*(recorded.tokens or ()), *recorded.generated),
            np.arange(start, start + (recorded.pass_length(step) or 0)),
            case.replay.states,
            self._explainer.left_wrong,
        )
        with np.errstate(invalid="ignore"):  # signalling NaNs
            whole = case.recorded.astype(np.float64) if case.tensor.is_whole else None
        values = {node.name: computed for node, computed in self._replayer.run(case.replay, graph=part)}
        return self._explainer.explain(Evidence(self._graph[name], whole, error, part, values, around), apart=apart)

    def _key(self, step: int, name: str) -> Place:
        node = self._graph[name]
        assert node.stage is not None
        return Place(step, node.layer, node.stage)
