"""``audit``: one trace against the model, stage by stage, each from the inputs that the trace itself recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.model import Model
from aprgraph.graph.ops import Array
from aprgraph.graph.passes.prune import Prune
from aprgraph.graph.passes.replay_recorded import PREFIX, Origins, ReplayRecorded, find_origins
from aprgraph.graph.stages import StageKind
from aprgraph.runtime.aprt import F32
from aprgraph.runtime.blame.broken_model import see_broken_model
from aprgraph.runtime.blame.conditioning import explained_by_rounding
from aprgraph.runtime.blame.local import Audit, LocalError, LocalState
from aprgraph.runtime.blame.recorded import PromptTokens, Recorded, RecordedTensor, tokens_of
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.blame.sentences import audit_sentence
from aprgraph.runtime.blame.ties import NearTies
from aprgraph.runtime.diff.align import Key
from aprgraph.runtime.diff.indices import compare_indices
from aprgraph.runtime.diff.metrics import TensorMetrics, compare_tensors
from aprgraph.runtime.diff.overrides import Tolerances
from aprgraph.runtime.diff.profiles import overruled, own_profile
from aprgraph.runtime.diff.tolerances import check_profile, exceeds, kind_of
from aprgraph.runtime.reference import evaluate
from aprgraph.runtime.tokens import check_tokens
from aprgraph.runtime.trace import Trace

#: Called after each tensor with its label.
Progress = Callable[[str], None]


def audit(
    trace: Trace,
    model: Model | ReplayedModel,
    *,
    tokens: PromptTokens = None,
    profile: str | None = None,
    tolerances: Sequence[str] = (),
    progress: Progress | None = None,
) -> Audit:
    """Replay every tensor of ``trace`` that can be. See ``Auditor`` for the arguments and errors."""
    auditor = Auditor(trace, model, tokens=tokens, profile=profile, tolerances=tolerances)
    found = []
    for local in auditor.locals():
        if progress is not None:
            progress(local.label)
        found.append(local)
    return auditor.finish(found)


@dataclass(frozen=True)
class Replay:
    """One step as a graph whose outputs are the recorded tensors that can be computed again, and what it is evaluated on.

    ``inputs`` are token ids, positions and recorded tensors by node; ``caches`` hold the rows of earlier steps.
    """

    graph: Graph
    inputs: Mapping[str, Array]
    caches: Mapping[str, Array]
    order: Mapping[str, int]


class Auditor:
    """Replays a trace. ``locals`` yields what it finds as it goes, so that two traces can be replayed side by side.

    ``tokens`` are those of the prompt, for a trace whose manifest does not name them. ``profile`` covers the arithmetic of whoever
    computed the trace; it holds whatever its manifest says. ``tolerances`` set limits for some stages,
    as for ``diff``, and ``stages`` are those that they may name (default: the trace's). Audits of one model may share a
    ReplayedModel.

    Raises ComparisonError for tokens that contradict the manifest or an unknown profile, TokenError for tokens that the model
    does not have, TraceError for a damaged file, ModelError for a model that cannot be built.
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
    ) -> None:
        if profile is not None:
            check_profile(profile)
        replayed = ReplayedModel.of(model)
        self.model = model = replayed.model
        self.weights = replayed.weights
        known = tokens_of(trace, tokens)
        if known is not None:
            check_tokens(known, model)
        self.graph = _graph_of(trace, replayed, known)
        self.recorded = Recorded(trace, self.graph, known)
        self.profile = profile or own_profile(trace.info, self.graph)
        self._find = Tolerances(self.profile, tolerances, [entry.stage for entry in trace.entries] if stages is None else stages).find
        self._ties = NearTies()

    def finish(self, locals_: Sequence[LocalError]) -> Audit:
        """The audit that consists of what ``locals`` has yielded."""
        found = Audit(str(self.recorded.trace.directory), str(self.model.path), self.profile, tuple(locals_), tuple(self._notes()))
        found = see_broken_model(found, self.model.file)
        return replace(found, sentence=audit_sentence(found))

    def _notes(self) -> Iterator[str]:
        trace, recorded = self.recorded.trace, self.recorded
        fingerprint = trace.info.model.get("fingerprint") if trace.info is not None else None
        if fingerprint is not None and fingerprint != self.model.file.fingerprint():
            yield f"{trace.directory} was recorded from another model file than {self.model.path} (the fingerprints differ)"
        if (other := overruled(self.profile, trace.info, self.graph)) is not None:
            yield f"{trace.directory} is held to {self.profile}, as asked for; {other}"
        if recorded.tokens is None:
            yield f"the tokens of {trace.directory} are not known, so its embedding is not checked; give them with --tokens"
        if recorded.foreign:
            names = ", ".join(entry.label for entry in recorded.foreign[:3]) + (" and more" if len(recorded.foreign) > 3 else "")
            yield f"{trace.directory} holds what the model has not: {names}"

    # -- replaying ------------------------------------------------------------------------------------------------------

    def locals(self) -> Iterator[LocalError]:
        """One local error per tensor of the trace that is a stage of the model, in execution order."""
        last = max(self.recorded.steps, default=-1)
        caches: dict[str, Array] = {}
        lost: frozenset[str] = frozenset()
        for step in range(last + 1):
            tensors = self.recorded.of_step(step)
            replay = self.replay(step, caches, lost, keep_caches=step < last)
            found = {local.key: local for local in self._evaluate(step, replay, tensors, caches)}
            for tensor in tensors.values():
                yield found.get(tensor.entry.key) or self._unknown(tensor, self._why_not(tensor, lost))
            lost |= self._lost(replay)

    def replay(self, step: int, caches: Mapping[str, Array], lost: frozenset[str], *, keep_caches: bool) -> Replay:
        """The replay of one step; ``caches`` is what the steps before it left, but for those ``lost``."""
        recorded, tensors = self.recorded, self.recorded.of_step(step)
        tokens, start, length = recorded.pass_tokens(step), recorded.pass_start(step), recorded.pass_length(step)
        inputs: dict[str, Array] = {}
        if tokens:
            inputs["tokens"] = np.asarray(tokens, dtype=np.int64)
        if start is not None and length is not None:
            inputs["positions"] = np.arange(start, start + length)
        kept = [cache.name for cache in self.graph.with_op("cache")] if keep_caches else []
        transform = ReplayRecorded(
            sources=frozenset(name for name, tensor in tensors.items() if tensor.is_whole),
            targets=frozenset(name for name, tensor in tensors.items() if tensor.misfit is None),
            given=frozenset(inputs),
            kept=frozenset(kept),
            lost=lost,
        )
        graph = Prune()(transform(self.graph))  # not verified: for a long trace that takes longer than the replay
        order = {node.name: index for index, node in enumerate(graph)}
        return Replay(graph, _Inputs(inputs, tensors, recorded), dict(caches), order)

    def replay_of(self, step: int) -> Replay:
        """The replay of one step, with the caches that the steps before it leave."""
        caches: dict[str, Array] = {}
        lost: frozenset[str] = frozenset()
        for earlier in range(step):
            replay = self.replay(earlier, caches, lost, keep_caches=True)
            for _ in self.run(replay, caches):
                pass
            lost |= self._lost(replay)
        return self.replay(step, caches, lost, keep_caches=False)

    def run(self, replay: Replay, caches: dict[str, Array] | None = None, *, graph: Graph | None = None) -> Iterator[tuple[Node, Array]]:
        """Every computed node of a replay, or of a part of its graph, with its value in float64; ``caches`` is brought up to date."""
        graph, weights = graph or replay.graph, self.weights
        state = dict(replay.caches) if caches is None else caches
        return evaluate(graph, replay.inputs, lambda node: weights.read(graph, node), embedding=weights.embedding_rows, caches=state)

    def _lost(self, replay: Replay) -> frozenset[str]:
        """The caches that a replay does not bring up to date."""
        return frozenset(cache.name for cache in self.graph.with_op("cache") if cache.name not in replay.graph)

    def _evaluate(self, step: int, replay: Replay, tensors: Mapping[str, RecordedTensor], caches: dict[str, Array]) -> Iterator[LocalError]:
        targets = {name for name in replay.graph.outputs if name in tensors}
        for node, value in self.run(replay, caches):
            self._ties.see(replay.graph, node, value, self._find)
            if node.name in targets:
                yield self._judge(step, tensors[node.name], value, replay)

    def _judge(self, step: int, tensor: RecordedTensor, value: Array, replay: Replay) -> LocalError:
        """Compare what was recorded with its replay."""
        node = tensor.node
        assert node.stage is not None
        recorded = self.recorded.load(tensor)
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 is Inf there
            computed: F32 = value.astype(np.float32)
        if tensor.last_axis is not None:
            computed = computed.take([-1], axis=tensor.last_axis)
        origins = find_origins(replay.graph, node.name, replay.order)
        tolerance = self._find(node.stage)
        # What lies between recorded tensors and could have been recorded too has an error of its own.
        is_own = not any(self.graph[name].stage is not None for name in origins.region[:-1])
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
        axis = node.type.dims.index("n") if "n" in node.type.dims else None
        metrics = compare_tensors(recorded, computed, position_axis=axis)
        local = replace(local, metrics=metrics)
        if metrics.mismatched_nonfinite:
            return self._judge_nonfinite(local, metrics, origins, step)
        reason = exceeds(metrics, local.limit, tolerance)
        if reason is None:
            return local
        tie = self._ties.find(origins.region)
        if tie is not None:
            return replace(local, state=LocalState.UNKNOWN, reason=tie)
        rounding = explained_by_rounding(self, replay, tensor, computed, metrics, profile=self.profile)
        if rounding is not None:
            return replace(local, reason=rounding)
        return replace(local, state=LocalState.WRONG, reason=reason)

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

    def _judge_nonfinite(self, local: LocalError, metrics: TensorMetrics, origins: Origins, step: int) -> LocalError:
        """Of tensors with NaN or Inf at other places than the replay."""
        tensors = self.recorded.of_step(step)
        for name in origins.sources:
            if not np.isfinite(self.recorded.load(tensors[name])).all():
                reason = f"{tensors[name].entry.label}, from which it is computed, holds NaN or Inf; what follows from those is not defined"
                return replace(local, state=LocalState.UNKNOWN, reason=reason)
        held, due = metrics.nonfinite
        reason = f"it holds {'no NaN or Inf' if held == 'none' else held}, the replay {due}"
        return replace(local, state=LocalState.WRONG, reason=reason)

    def _key(self, step: int, name: str) -> Key:
        node = self.graph[name]
        assert node.stage is not None
        return (step, node.layer, node.stage)

    def _unknown(self, tensor: RecordedTensor, reason: str) -> LocalError:
        assert tensor.node.stage is not None
        limit = self._find(tensor.node.stage).limit
        return LocalError(tensor.entry.key, tensor.entry.label, LocalState.UNKNOWN, limit, reason=reason)

    def _why_not(self, tensor: RecordedTensor, lost: frozenset[str]) -> str:
        if tensor.misfit is not None:
            return tensor.misfit
        ancestors = self.graph.ancestors([tensor.node.name])
        step = tensor.entry.step
        if step and lost & ancestors:
            return "it needs keys and values of earlier steps, which were not recorded; record the steps from 0 on"
        if step and self.recorded.pass_tokens(step) is None:
            return f"what it is computed from was not recorded, nor does the manifest name the token of step {step}"
        return "what it is computed from was not recorded, and the tokens are not known; give them with --tokens"


class _Inputs(Mapping[str, Array]):
    """What a replay is evaluated on. Recorded tensors are read when they are asked for: all of them at once may be gigabytes."""

    def __init__(self, inputs: Mapping[str, Array], tensors: Mapping[str, RecordedTensor], recorded: Recorded) -> None:
        self._inputs, self._tensors, self._recorded = inputs, tensors, recorded

    def __getitem__(self, name: str) -> Array:
        if name.startswith(PREFIX):
            return self._recorded.value(self._tensors[name.removeprefix(PREFIX)])
        return self._inputs[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._inputs
        yield from (f"{PREFIX}{name}" for name in self._tensors)

    def __len__(self) -> int:
        return len(self._inputs) + len(self._tensors)


def _graph_of(trace: Trace, replayed: ReplayedModel, tokens: Sequence[int] | None) -> Graph:
    """The model's graph, of which the trace is a run: for as many positions, with the logits of as many. Raises ModelError."""
    model = replayed.model
    generated = trace.info.extra.get("generated", []) if trace.info is not None else []
    total = len(tokens or ()) + max(len(generated) - 1, 0)
    if total > model.hyperparameters.context:
        raise ComparisonError(
            f"{trace.directory}: {total} positions, but {model.path} has room for {model.hyperparameters.context}; another model's trace?"
        )
    head = next((entry for entry in trace.entries if entry.stage == "lm_head" and entry.step == 0), None)
    every = head is not None and np.prod(head.shape, dtype=np.int64) > model.vocabulary
    return replayed.graph_of("all" if every else "last", total)
