"""One replay of a trace: each stage is computed again from the inputs that the trace recorded, and held against what it recorded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aprgraph.graph.arguments import TOKENS
from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.ir import Graph
from aprgraph.graph.message import Message
from aprgraph.graph.model import Model
from aprgraph.graph.ops import Array, has_state
from aprgraph.graph.passes.apply_arithmetic import apply_arithmetic
from aprgraph.graph.passes.prune import part_of
from aprgraph.graph.stages import LOGITS
from aprgraph.runtime.blame.arithmetic_fit import limits_of
from aprgraph.runtime.blame.audit_notes import notes_on_the_file, notes_on_the_fingerprint, notes_on_the_recording, reservations_of_audit
from aprgraph.runtime.blame.broken_model import see_broken_model
from aprgraph.runtime.blame.chosen_arithmetic import ChosenArithmetic
from aprgraph.runtime.blame.file_suspect import is_run_of, suspect_file
from aprgraph.runtime.blame.float_weights import FloatWeights
from aprgraph.runtime.blame.judging import Judge
from aprgraph.runtime.blame.local_errors import Audit, LocalError, LocalState
from aprgraph.runtime.blame.other_model import check_sizes, find_other_model
from aprgraph.runtime.blame.other_places import Hopeless
from aprgraph.runtime.blame.prompt_text import with_text
from aprgraph.runtime.blame.recorded import BEGINNING, Beginning, PromptTokens, Recorded, RecordedTensor, tokens_of
from aprgraph.runtime.blame.replay import Replay, Replayer
from aprgraph.runtime.blame.replay_workers import ReplayWorkers
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.blame.sentences import audit_sentence
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
from aprgraph.runtime.diff.side_names import name_of
from aprgraph.runtime.diff.tolerances import check_profile
from aprgraph.runtime.executors.workers import WorkersExecutor
from aprgraph.runtime.explain.explanation import ANOTHER_PROMPT
from aprgraph.runtime.place import Place
from aprgraph.runtime.tokens import check_tokens
from aprgraph.runtime.trace.reader import Trace

#: Called with the label of each tensor, after it was replayed.
Progress = Callable[[str], None]


@dataclass(frozen=True)
class AuditOptions:
    """What an audit goes by, beside the trace and the model.

    ``tokens`` are the token ids of the prompt, for a trace whose manifest lacks them. ``profile`` names the tolerances for the
    arithmetic that computed the trace, in place of those that the manifest calls for. ``tolerances`` set limits for single stages, as
    in ``diff``; ``stages`` are the stages that they may name (default: those of the trace). ``arithmetic`` is that which the trace was
    computed in (default: the one that the manifest names, or, without a manifest, that explains the trace). The workers of
    ``executor`` compute the values (default: this process). ``beginning`` is where the trace's positions begin.
    """

    tokens: PromptTokens = None
    profile: str | None = None
    tolerances: Sequence[str] = ()
    stages: Collection[str] | None = None
    arithmetic: ChosenArithmetic | None = None
    executor: WorkersExecutor | None = None
    beginning: Beginning = BEGINNING


class Auditor:
    """Replays a trace. ``locals`` is a generator, so that two traces can be replayed side by side.

    Audits of one model may share a ReplayedModel.

    Raises ComparisonError for an unknown profile or tokens that contradict the manifest, TokenError for ids outside
    the vocabulary, TraceError for a damaged file, and ModelError for a model whose graph cannot be built.
    """

    def __init__(self, trace: Trace, model: Model | ReplayedModel, options: AuditOptions = AuditOptions()) -> None:
        if options.profile is not None:
            check_profile(options.profile)
        self._options = options
        self._replayed = replayed = ReplayedModel.of(model)
        self.model = replayed.model
        self._tokens = tokens_of(trace, options.tokens)
        if self._tokens is not None:
            check_tokens(self._tokens, self.model)
        self.graph = _graph_of(trace, replayed, self._tokens)
        check_sizes(trace, replayed, self.graph)
        self.recorded = Recorded(trace, self.graph, self._tokens, options.beginning)
        self._kept = None if options.profile is not None else kept_in(trace)
        kept_format = None if self._kept is None else self._kept.format
        self.profile = options.profile or own_profile(trace.info, self.graph, kept_format)
        self._arithmetic = options.arithmetic or ChosenArithmetic()
        stages = [entry.stage for entry in trace.entries] if options.stages is None else list(options.stages)
        tolerances = (*self._round_as_chosen(stages), *options.tolerances)
        self.replayer = Replayer(self.graph, self.recorded, replayed.weights.read, replayed.weights.read_in_parts)
        self._workers = None if options.executor is None else ReplayWorkers(options.executor, self.model)
        self._judge = Judge(
            replayed,
            self.replayer,
            self.profile,
            Tolerances(self.profile, tolerances, stages),
            FloatWeights.of(trace.info, self.graph, kept_format) if self.profile == QUANT_VS_FLOAT else None,
            in_float16=computes_in_float16(self.profile, trace.info, kept_format),
            division=self._arithmetic.division,
        )

    def _round_as_chosen(self, stages: Collection[str]) -> tuple[str, ...]:
        """Put the arithmetic of an engine, if one is chosen, into the graph. Returns the tolerances of ``stages`` that it asks for."""
        trace, options = self.recorded.trace, self._options
        is_by_manifest = options.profile is None and self._kept is None and self.profile != QUANT_VS_FLOAT
        is_open = is_by_manifest and not states_arithmetic(trace.info)
        chosen = self._arithmetic.of(trace.info, self.graph, self.recorded, self._replayed.weights.read, is_open=is_open)
        if chosen is None:
            return ()
        self.graph = apply_arithmetic(self.graph, chosen)
        self.recorded = Recorded(trace, self.graph, self._tokens, options.beginning)
        if is_by_manifest:
            self.profile = EXACT_PROFILE
        return limits_of(self.graph, stages)

    def audit(self, progress: Progress | None = None) -> Audit:
        """The whole audit."""
        found = self.audit_unless(lambda _: False, progress)
        assert found is not None
        return found

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
        found = replace(found, other_model=other, notes=tuple(self._notes(found, is_other=other is not None)))
        found = see_broken_model(found, self.model.file)
        found = replace(found, reservations=tuple(reservations_of_audit(found, self.recorded, self._judge.positions)))
        if found.wrong and other is None and not is_run_of(trace, self._replayed):
            # Rows of other tokens are in the file, and right: the prompt is another.
            wrong = [one for one in found.wrong if one.explanation is None or one.explanation.first.name != ANOTHER_PROMPT]
            suspect = suspect_file(wrong, self.model, self.graph)
            # A stage that depends on no weight and no metadata key is not the fault of the file.
            found = replace(found, suspect=suspect if suspect.weights or suspect.keys else None)
        prompt = with_text(prompt_of([trace.info]), self.model, self.recorded.tokens)
        return replace(found, sentence=audit_sentence(found), prompt=prompt)

    def _notes(self, found: Audit, *, is_other: bool) -> Iterator[str]:
        """What a reader should know; ``is_other`` says that the trace is known to be of another model."""
        trace = self.recorded.trace
        name = name_of(str(trace.directory))
        yield from self._arithmetic.notes(name)
        yield from as_opened(trace, name)
        yield from notes_on_the_file(trace, self._replayed, is_other=is_other)
        if self._kept is not None:
            yield Caveat(self._kept.describe(name))
        if self._arithmetic.chosen is None and (other := overruled(self.profile, trace.info, self.graph)) is not None:
            yield f"{trace.directory} is held to {self.profile}, as asked for; {other}"
        yield from notes_on_the_recording(self.recorded, self._judge.positions)
        yield from notes_on_the_fingerprint(found, trace, self._replayed)

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
