"""``audit``: compare one trace with the model. Each stage is computed again from the inputs that the trace recorded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from aprgraph.graph.arguments import FINGERPRINT, TOKENS
from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.ir import Graph
from aprgraph.graph.message import Message
from aprgraph.graph.model import Model
from aprgraph.graph.ops import Array, has_state
from aprgraph.graph.passes.apply_arithmetic import apply_arithmetic
from aprgraph.graph.passes.prune import part_of
from aprgraph.graph.sources.whole_digest import sampled_share
from aprgraph.graph.stages import LOGITS, is_logits
from aprgraph.graph.words import joined, listed
from aprgraph.runtime.blame.arithmetic_fit import limits_of
from aprgraph.runtime.blame.beginnings import where_it_begins
from aprgraph.runtime.blame.broken_model import see_broken_model
from aprgraph.runtime.blame.chosen_arithmetic import ChosenArithmetic
from aprgraph.runtime.blame.file_suspect import differs_unseen, is_run_of, suspect_file
from aprgraph.runtime.blame.float_weights import FloatWeights
from aprgraph.runtime.blame.judging import Judge
from aprgraph.runtime.blame.local_errors import Audit, LocalError, LocalState
from aprgraph.runtime.blame.model_row_order import in_order_of_model
from aprgraph.runtime.blame.other_model import check_sizes, find_other_model, named_models
from aprgraph.runtime.blame.other_places import Hopeless, in_other_places
from aprgraph.runtime.blame.prompt_text import with_text
from aprgraph.runtime.blame.recorded import BEGINNING, KEYS, Beginning, PromptTokens, Recorded, RecordedTensor, tokens_of
from aprgraph.runtime.blame.repeated import with_repeats
from aprgraph.runtime.blame.replay import Replay, Replayer
from aprgraph.runtime.blame.replay_workers import ReplayWorkers
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.blame.sentences import audit_sentence
from aprgraph.runtime.blame.texts_apart import texts_apart
from aprgraph.runtime.diff.caveats import Caveat
from aprgraph.runtime.diff.notes import as_opened
from aprgraph.runtime.diff.overrides import Tolerances
from aprgraph.runtime.diff.profiles import (
    EXACT_PROFILE,
    QUANT_VS_FLOAT,
    computes_in_float16,
    kept_in,
    overruled,
    own_profile,
    states_arithmetic,
)
from aprgraph.runtime.diff.prompt import prompt_of
from aprgraph.runtime.diff.reservations import Reservation, one_position, unread_reservation
from aprgraph.runtime.diff.side_facts import trace_fact
from aprgraph.runtime.diff.side_names import name_of
from aprgraph.runtime.diff.tolerances import check_profile
from aprgraph.runtime.executors.workers import WorkersExecutor
from aprgraph.runtime.explain.explanation import ANOTHER_PROMPT
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings.repeats import without_repeats
from aprgraph.runtime.tokens import check_tokens
from aprgraph.runtime.trace.reader import Trace

#: Called with the label of each tensor, after it was replayed.
Progress = Callable[[str], None]


def audit(
    trace: Trace,
    model: Model | ReplayedModel,
    *,
    tokens: PromptTokens = None,
    profile: str | None = None,
    tolerances: Sequence[str] = (),
    stages: Iterable[str] | None = None,
    progress: Progress | None = None,
    arithmetic: str | None = None,
    executor: WorkersExecutor | None = None,
) -> Audit:
    """Replay every tensor of ``trace`` whose inputs are known. See ``Auditor`` for the arguments and errors.

    Tensors may have been recorded under the name of another stage or layer. If the model explains the trace better
    that way, the audit reads it that way (other_places.py).
    """
    replayed = ReplayedModel.of(model)
    once, repeated = without_repeats(trace, replayed.graph)
    once, notes = in_order_of_model(once, replayed)

    chosen = ChosenArithmetic(arithmetic)

    def audit_unless(one: Trace, hopeless: Hopeless, beginning: Beginning = BEGINNING) -> Audit | None:
        auditor = Auditor(
            one, replayed, tokens=tokens, profile=profile, tolerances=tolerances, stages=stages, arithmetic=chosen, executor=executor,
            beginning=beginning,
        )  # fmt: skip
        return auditor.audit_unless(hopeless, progress)

    def audit_from(beginning: Beginning) -> Audit:
        again = audit_unless(once, lambda _: False, beginning)
        assert again is not None
        return again

    found = audit_unless(once, lambda _: False)
    assert found is not None
    found_in = {chosen: found}
    for other in chosen.others() if found.wrong else ():  # the first layers did not tell them apart; what is wrong may
        auditor = Auditor(
            once, replayed, tokens=tokens, profile=profile, tolerances=tolerances, stages=stages, arithmetic=other, executor=executor
        )
        # One that explains none of what is wrong leaves no less. How something was recorded is known of a whole audit alone.
        if not found.is_read_otherwise and not auditor.explains_some({local.key for local in found.wrong}):
            continue
        chosen = other
        again = audit_unless(once, lambda _: False)
        assert again is not None
        found_in[other] = again
    chosen = min(found_in, key=lambda one: len(found_in[one].wrong))
    found = found_in[chosen]

    def audit_text(one: Trace, of: PromptTokens) -> Audit:
        auditor = Auditor(
            one, replayed, tokens=of, profile=profile, tolerances=tolerances, stages=stages, arithmetic=chosen, executor=executor
        )
        text = auditor.audit_unless(lambda _: False, progress)
        assert text is not None
        return text

    found = where_it_begins(found, once, audit_from)
    found = texts_apart(found, once, tokens, audit_text)
    found = with_repeats(in_other_places(found, once, replayed.model.family.layers, audit_unless), repeated)
    return replace(found, notes=(*found.notes, *notes), about=trace_fact(found.name, found.trace, trace))


class Auditor:
    """Replays a trace. ``locals`` is a generator, so that two traces can be replayed side by side.

    ``tokens`` are the token ids of the prompt, for a trace whose manifest lacks them. ``profile`` names the
    tolerances for the arithmetic that computed the trace, in place of those that the manifest calls for.
    ``tolerances`` set limits for single stages, as in ``diff``; ``stages`` are the stages that they may name
    (default: those of the trace). Audits of one model may share a ReplayedModel. ``arithmetic`` is that which the trace was computed
    in, as ``chosen_arithmetic.py`` has it (default: the one that the manifest names, or, without a manifest, that explains the trace).
    The workers of ``executor`` compute the values (default: this process). ``beginning`` is where the trace's positions begin.

    Raises ComparisonError for an unknown profile or tokens that contradict the manifest, TokenError for ids outside
    the vocabulary, TraceError for a damaged file, and ModelError for a model whose graph cannot be built.
    """

    def __init__(
        self,
        trace: Trace,
        model: Model | ReplayedModel,
        *,
        tokens: PromptTokens = None,
        profile: str | None = None,
        tolerances: Sequence[str] = (),
        stages: Iterable[str] | None = None,
        arithmetic: ChosenArithmetic | None = None,
        executor: WorkersExecutor | None = None,
        beginning: Beginning = BEGINNING,
    ) -> None:
        if profile is not None:
            check_profile(profile)
        replayed = ReplayedModel.of(model)
        self._replayed = replayed
        self.model = model = replayed.model
        known = tokens_of(trace, tokens)
        if known is not None:
            check_tokens(known, model)
        self.graph = _graph_of(trace, replayed, known)
        check_sizes(trace, replayed, self.graph)
        self.recorded = Recorded(trace, self.graph, known, beginning)
        self._kept = None if profile is not None else kept_in(trace)
        self.profile = profile or own_profile(trace.info, self.graph, self._kept.format if self._kept is not None else None)
        self._arithmetic = arithmetic or ChosenArithmetic()
        names = [entry.stage for entry in trace.entries] if stages is None else list(stages)
        is_open = profile is None and self._kept is None and self.profile != QUANT_VS_FLOAT and not states_arithmetic(trace.info)
        if (chosen := self._arithmetic.of(trace.info, self.graph, self.recorded, replayed.weights.read, is_open=is_open)) is not None:
            self.graph = apply_arithmetic(self.graph, chosen)
            self.recorded = Recorded(trace, self.graph, known, beginning)
            tolerances = (*limits_of(self.graph, names), *tolerances)
            if self._kept is None and self.profile != QUANT_VS_FLOAT:
                self.profile = profile or EXACT_PROFILE
        self.replayer = Replayer(self.graph, self.recorded, replayed.weights.read, replayed.weights.read_in_parts)
        self._workers = None if executor is None else ReplayWorkers(executor, model)
        limits = Tolerances(self.profile, tolerances, names)
        float_weights: FloatWeights | None = None
        if self.profile == QUANT_VS_FLOAT:
            float_weights = FloatWeights.of(trace.info, self.graph, self._kept.format if self._kept is not None else None)
        in_float16 = computes_in_float16(self.profile, trace.info, self._kept.format if self._kept is not None else None)
        division = self._arithmetic.division
        self._judge = Judge(replayed, self.replayer, self.profile, limits, float_weights, in_float16=in_float16, division=division)

    def audit_unless(self, hopeless: Hopeless, progress: Progress | None = None) -> Audit | None:
        """The whole audit; None as soon as a tensor is ``hopeless``."""
        found = []
        for local in self.locals():
            if progress is not None:
                progress(local.label)
            if hopeless(local):
                return None
            found.append(local)
        return self.finish(found)

    def finish(self, locals_: Sequence[LocalError]) -> Audit:
        """The audit, made of all that ``locals`` yielded."""
        settled = tuple(self._judge.settle(locals_))
        trace = self.recorded.trace
        found = Audit(str(trace.directory), str(self.model.path), self.profile, settled, as_read=self._judge.as_read(trace))
        other = find_other_model(trace, settled, self._replayed)
        found = replace(found, other_model=other, notes=(*self._notes(is_other=other is not None), *self._sampled(found)))
        found = see_broken_model(found, self.model.file)
        found = replace(found, reservations=tuple(self._reservations(found)))
        if found.wrong and other is None and not is_run_of(trace, self._replayed):
            # Rows of other tokens are in the file, and right: the prompt is another.
            wrong = [one for one in found.wrong if one.explanation is None or one.explanation.first.name != ANOTHER_PROMPT]
            suspect = suspect_file(wrong, self.model, self.graph)
            # A stage that depends on no weight and no metadata key is not the fault of the file.
            found = replace(found, suspect=suspect if suspect.weights or suspect.keys else None)
        prompt = with_text(prompt_of([trace.info]), self.model, self.recorded.tokens)
        return replace(found, sentence=audit_sentence(found), prompt=prompt)

    def _reservations(self, found: Audit) -> Iterator[Reservation]:
        recorded = self.recorded
        tensors = [tensor for step in recorded.steps for tensor in recorded.of_step(step).values() if not is_logits(tensor.node.stage)]
        last = sum(tensor.last_axis is not None for tensor in tensors)
        which = "one" if self._judge.positions else "the last"
        for one in (
            unread_reservation(recorded.trace, found.name, found.replayed),
            one_position(recorded.prompt_length, recorded.steps),
            Reservation(f"of {last} of {len(tensors)} tensors one position alone was recorded", f"{which} position shows")
            if 2 * last > len(tensors)
            else None,
        ):
            if one is not None:
                yield one

    def _sampled(self, found: Audit) -> Iterator[str]:
        """How little is known of the file that something wrong is held against."""
        info, share = self.recorded.trace.info, sampled_share(self.model.file)
        if info is None or "digest" in info.model or share == 1.0 or not any(one.weights for one in found.wrong):
            return  # of the header every byte is known
        if info.model.get("fingerprint") == self._replayed.fingerprint:
            yield Caveat(
                f"that {found.name} is a run of {self.model.path.name} is known by the header and {share:.2%} of the weights: a file "
                "that was changed since between these samples looks the same; a run with ",
                FINGERPRINT.given("full", "'full'"),
                " names every byte",
            )

    def _notes(self, *, is_other: bool) -> Iterator[str]:
        trace, recorded = self.recorded.trace, self.recorded
        yield from self._arithmetic.notes(name_of(str(trace.directory)))
        yield from as_opened(trace, name_of(str(trace.directory)))
        fingerprint = trace.info.model.get("fingerprint") if trace.info is not None else None
        if self.model.held is not None:
            yield (
                f"the family {self.model.family.architecture!r} is not known here: stages are judged by the graph that "
                f"{self.model.held.holder} holds, and the metadata of {self.model.path} is not looked at"
            )
        if fingerprint is not None and fingerprint != self._replayed.fingerprint and not is_other:
            named, given = named_models(trace, self.model)
            from_file = f"{named}, " if named else ""
            yield Caveat(f"{trace.directory} was recorded from {from_file}another model file than {given} (the fingerprints differ)")
        elif differs_unseen(trace, self._replayed):
            yield Caveat(
                f"{trace.directory} was recorded from another model file than {self.model.path}: its weights differ where their common "
                "fingerprint does not look"
            )
        if self._kept is not None:
            yield Caveat(self._kept.describe(name_of(str(trace.directory))))
        if self._arithmetic.chosen is None and (other := overruled(self.profile, trace.info, self.graph)) is not None:
            yield f"{trace.directory} is held to {self.profile}, as asked for; {other}"
        if recorded.tokens is None:
            yield Caveat(f"the tokens of {trace.directory} are not known, so its embedding is not checked; give them with ", TOKENS)
        of_text = [tensor.entry for step in recorded.steps for tensor in recorded.of_step(step).values() if tensor.of_text]
        if of_text:
            are_keys = all(entry.stage == KEYS for entry in of_text)
            what = "the KV cache" if are_keys else "all positions so far, as where there is no KV cache,"
            yield Caveat(
                f"{trace.directory} holds {what} in place of {listed((entry.label for entry in of_text), 3)}: the last rows, which are the "
                "step's, are taken, and those before are not checked"
            )
        last = [tensor.entry for step in recorded.steps for tensor in recorded.of_step(step).values() if tensor.last_axis is not None]
        last = [entry for entry in last if not is_logits(entry.stage)]
        if last:
            names = listed((entry.label for entry in last), 3)
            others = [f"position {other}" for other in dict.fromkeys(self._judge.positions.values())]
            which = f"which by the values is {joined(others)}, not the last" if others else "which is taken for the last"
            yield Caveat(f"{trace.directory} holds one position only of {names}, {which}: the others are not checked")
        if recorded.foreign:
            names = listed((entry.label for entry in recorded.foreign), 3)
            yield Caveat(f"{trace.directory} holds what the model has not: {names}")

    # -- replaying ------------------------------------------------------------------------------------------------------

    def explains_some(self, keys: Collection[Place]) -> bool:
        """Whether one of the tensors ``keys`` is right; no more is computed than they need."""
        return any(local.state is LocalState.RIGHT for local in self.locals(only=keys))

    def locals(self, only: Collection[Place] | None = None) -> Iterator[LocalError]:
        """Yield the local error of each tensor of the trace that is a stage of the model, in execution order.

        Of those ``only``, without an explanation, where these are given.
        """
        last = max(self.recorded.steps if only is None else (key.step for key in only), default=-1)
        states: dict[str, Array] = {}
        lost = self.replayer.lost_before()
        for step in (step for step in self.recorded.passes() if step <= last):
            tensors = self.recorded.of_step(step)
            replay = self.replayer.replay(step, states, lost, keep_states=step < last)
            graph = replay.graph
            if only is not None:
                tensors = {name: tensor for name, tensor in tensors.items() if tensor.entry.key in only and name in graph.outputs}
                graph = part_of(graph, [name for name in graph.outputs if name in tensors or has_state(graph[name])])
            evaluated = self._evaluate(step, replay, tensors, states, graph, explain=only is None)
            computed = frozenset(graph.outputs)
            found: dict[str, LocalError] = {}
            for name, tensor in tensors.items():
                if name not in computed:
                    yield self._unknown(tensor, self._why_not(tensor, lost))
                    continue
                while name not in found:  # no further than is asked for: whoever reads may give up
                    found.update([next(evaluated)])
                yield found.pop(name)
            for _ in evaluated:  # what is left brings the states up to date
                pass
            lost |= self.replayer.lost(replay)

    def _evaluate(
        self,
        step: int,
        replay: Replay,
        tensors: Mapping[str, RecordedTensor],
        states: dict[str, Array],
        graph: Graph,
        *,
        explain: bool,
    ) -> Iterator[tuple[str, LocalError]]:
        """The local errors of one step by node, in the order of ``graph``, which is that of the replay or a part of it."""
        targets = tensors.keys() & set(graph.outputs)
        if self._workers is None:
            computed = self.replayer.run(replay, states, graph=graph)
        else:
            computed = self._workers.run(self.recorded, step, replay, states, graph)
        for node, value in computed:
            self._judge.see(step, replay.graph, node, value)
            if node.name in targets:
                yield node.name, self._judge.judge(step, tensors[node.name], value, replay, explain=explain)

    def _unknown(self, tensor: RecordedTensor, reason: str) -> LocalError:
        assert tensor.node.stage is not None
        limit = self._judge.tolerance(tensor.node.stage, tensor.entry.step).limit
        state = LocalState.UNKNOWN if tensor.misfit is None else LocalState.SHAPE
        return LocalError(tensor.entry.key, tensor.entry.label, state, limit, reason=reason)

    def _why_not(self, tensor: RecordedTensor, lost: frozenset[str]) -> str:
        if tensor.misfit is not None or tensor.missing is not None:
            return tensor.misfit or tensor.missing or ""
        ancestors = self.graph.ancestors([tensor.node.name])
        step = tensor.entry.step
        if lost & ancestors:
            steps = "positions" if self.recorded.beginning.before else "steps"
            return f"it needs keys and values of earlier {steps}, which were not recorded; record the {steps} from 0 on"
        if step and self.recorded.pass_tokens(step) is None:
            return f"what it is computed from was not recorded, nor does the manifest name the token of step {step}"
        return Message("what it is computed from was not recorded, and the tokens are not known; give them with ", TOKENS)


def _graph_of(trace: Trace, replayed: ReplayedModel, tokens: Sequence[int] | None) -> Graph:
    """The graph of the run: for its number of positions, with logits of all positions or of the last alone.

    Raises ModelError, and ComparisonError for more positions than the model's context.
    """
    model = replayed.model
    generated = trace.info.extra.get("generated", []) if trace.info is not None else []
    steps = max(len(generated) - 1, max((entry.step for entry in trace), default=0))
    total = len(tokens or ()) + steps
    if total > model.family.context:
        raise ComparisonError(
            f"{trace.directory}: {total} positions, but {model.path} has room for {model.family.context}; another model's trace?"
        )
    head = next((entry for entry in trace.entries if entry.stage == LOGITS and entry.step == 0), None)
    every = head is not None and np.prod(head.shape, dtype=np.int64) > model.vocabulary
    # Some constants, such as LongRoPE's factors, depend on the length of the whole run, which may exceed the recorded
    # part. The graph in the manifest tells which were used.
    context = replayed.context_named_by(trace.graph())
    return replayed.graph_of("all" if every else "last", total if context is None else context)
