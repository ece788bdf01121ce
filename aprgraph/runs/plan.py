"""A run that has been checked: which graphs run on which tokens in which order, and what they record."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from aprgraph.graph.arguments import MAX_TOKENS, PREFILL_CHUNK, STATS_ONLY, STEPS, TAPS
from aprgraph.graph.arithmetics import PLAIN
from aprgraph.graph.block_formats import weight_format
from aprgraph.graph.errors import PlanError, TokenError, TraceError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.message import Message
from aprgraph.graph.model import Model
from aprgraph.graph.ops import taps_of, traits_of, weights_of
from aprgraph.graph.passes.apply_arithmetic import OF_GRAPH, ApplyArithmetic, most_positions_of
from aprgraph.graph.passes.fix_context import context_choices
from aprgraph.graph.passes.insert_taps import layer_count
from aprgraph.graph.passes.pipeline import early_graph, executed_graph, recorded_graph
from aprgraph.graph.stages import is_logits, is_of_text
from aprgraph.graph.tap_plan import Plan, closed, range_text
from aprgraph.runs.arithmetic import arithmetic_notes, arithmetic_notices
from aprgraph.runtime.place import Place
from aprgraph.runtime.tokens import check_tokens
from aprgraph.runtime.trace.aprt import MAX_ELEMENTS, file_size

POSITIONS = ("last", "all")
FINGERPRINTS = ("sampled", "full")


@dataclass(frozen=True)
class RunOptions:
    """How to run, beside what to record.

    ``positions`` (last or all) are those whose logits `lm_head` holds. ``max_tokens`` is how many tokens to generate, 0 for
    none. ``steps`` are those that record: step 0 is the prompt, step i the i-th generated token. ``prefill_chunk`` is how many
    positions of the prompt to run at once, None for all. ``arithmetic`` names that of an engine (graph/arithmetics.py), None
    for what was compiled. ``fingerprint`` (sampled or full) is what the manifest names the model file by: full is every byte of it.
    """

    positions: str = "last"
    max_tokens: int = 0
    steps: range = range(1)
    prefill_chunk: int | None = None
    arithmetic: str | None = None
    fingerprint: str = "sampled"


@dataclass(frozen=True)
class PromptPart:
    """The positions ``start`` .. ``stop`` - 1 of a prompt, in one pass."""

    start: int
    stop: int
    is_last: bool


@dataclass(frozen=True)
class RunPlan:
    """``graph`` is what a step that records runs, and ``untapped`` what the others do.

    ``notes`` are what whoever reads the run's numbers should know, of the model file and of the run, in sentences.
    """

    graph: Graph
    untapped: Graph
    plan: Plan
    tokens: tuple[int, ...]
    options: RunOptions
    notes: tuple[str, ...] = ()

    @property
    def taps(self) -> list[Node]:
        """The tap nodes, in execution order."""
        return taps_of(self.graph)

    @property
    def total(self) -> int:
        """Positions of the whole run: the prompt's, and those of all generated tokens but the last, which nothing reads."""
        return len(self.tokens) + max(self.options.max_tokens - 1, 0)

    @property
    def is_single_pass(self) -> bool:
        """Whether one pass sees every position, so that there is nothing to cache."""
        return self.total == len(self.tokens) and len(self.parts) == 1

    @cached_property
    def parts(self) -> tuple[PromptPart, ...]:
        """The prompt, in order."""
        count, chunk = len(self.tokens), self.options.prefill_chunk or len(self.tokens)
        return tuple(PromptPart(start, min(start + chunk, count), start + chunk >= count) for start in range(0, count, chunk))

    @cached_property
    def _early(self) -> dict[bool, Graph]:
        return {tapped: early_graph(self.graph if tapped else self.untapped) for tapped in (True, False)}

    def graph_of(self, step: int, part: PromptPart | None = None) -> Graph:
        """The graph of a step; of the prompt, the graph of one part."""
        tapped = step in self.options.steps and not self.plan.is_empty
        if part is not None and not part.is_last:
            return self._early[tapped]
        return self.graph if tapped else self.untapped

    def graphs(self) -> Iterator[Graph]:
        """Every graph that the run may need, each once."""
        wanted = [self.graph_of(0, part) for part in self.parts[:1] + self.parts[-1:]]
        wanted += [self.graph_of(step) for step in range(1, self.options.max_tokens)]
        yield from {id(graph): graph for graph in wanted}.values()

    def executed(self, graph: Graph, target: str) -> Graph:
        """What runs on a compiled target for one of ``graphs``."""
        return executed_graph(graph, one_pass=self.is_single_pass, target=target)

    def shape(self, node: Node, step: int = 0) -> tuple[int, ...]:
        """The shape that a node's tensor is recorded in."""
        count = len(self.tokens)
        return self.recorded_shape(node, node.type.bind(n=count, t=count) if step == 0 else node.type.bind(n=1, t=count + step), step)

    def recorded_shape(self, node: Node, shape: tuple[int, ...], step: int = 0) -> tuple[int, ...]:
        """The same, of a node whose value has a ``shape``: logits of one position and the embedding of a text have one dimension."""
        if is_of_text(node.stage):
            return shape[1:]
        return shape[1:] if is_logits(node.stage) and shape[0] == 1 and (self.options.positions == "last" or step) else shape

    @property
    def nbytes(self) -> int:
        """Bytes of the APRT files that the run writes at most. Raises TraceError if a tensor exceeds what one file can hold."""
        total = 0
        for step in self.options.steps:
            for node in self.taps:
                count = math.prod(self.shape(node, step))
                if count > MAX_ELEMENTS:
                    label = Place(step, node.layer, node.stage or node.name).in_step_label
                    raise TraceError(f"{label} has {count} elements, more than the {MAX_ELEMENTS} of an APRT file; trace fewer positions")
                total += file_size(count)
        return total

    @property
    def notices(self) -> list[str]:
        """What a user should know beforehand, in sentences: the notes, and what the run takes."""
        found = {
            node.name: weight_format(node.type)
            for graph in (self.graph, self.untapped)
            for node in weights_of(graph)
            if weight_format(node.type).is_decoded_when_bound
        }
        beside = arithmetic_notices(self.graph)
        if not found:
            return [*self.notes, *beside]
        nbytes = sum(4 * math.prod(node.type.bind()) for node in weights_of(self.untapped) if node.name in found)
        names = ", ".join(sorted({fmt.name for fmt in found.values()}))
        return [
            *self.notes,
            *beside,
            f"{len(found)} weights of type {names} are decoded in memory by the gguf package ({nbytes:,} bytes): no kernel decodes them",
        ]


def plan_run(graph: Graph, model: Model, plan: Plan, tokens: Sequence[int], options: RunOptions) -> RunPlan:
    """Check everything and run the passes. Raises TokenError or PlanError, and GraphError for an arithmetic that cannot be."""
    ids = check_tokens(tokens, model)
    arithmetic = options.arithmetic or PLAIN
    graph = ApplyArithmetic(arithmetic)(graph)
    if options.positions not in POSITIONS:
        raise TokenError(f"positions {options.positions!r}: expected last or all")
    if options.fingerprint not in FINGERPRINTS:
        raise PlanError(f"fingerprint {options.fingerprint!r}: expected sampled or full")
    if options.prefill_chunk is not None and options.prefill_chunk < 1:
        raise TokenError(f"prefill chunk {options.prefill_chunk}: expected a number of positions, at least 1")
    options = _check_generation(model, plan, ids, options)
    _check_outputs(graph, model, len(ids), options)
    _check_causal(model, len(ids), options)
    _check_passes(graph, len(ids), options)
    total = len(ids) + max(options.max_tokens - 1, 0)
    generates = options.max_tokens > 0
    staged = graph.staged()
    plan = plan.within({node.stage for node in staged if node.stage is not None}, layer_count(staged))
    recorded = recorded_graph(graph, plan, options.positions, total, keep_outputs=generates)
    untapped = recorded_graph(graph, Plan(), options.positions if plan.is_empty else "last", total)
    notes = (*model.notices, *arithmetic_notes(arithmetic), *_context_notes(graph, len(ids), total))
    return RunPlan(recorded, untapped, plan, ids, options, notes)


def _context_notes(graph: Graph, prompt: int, total: int) -> list[str]:
    """Where generating takes a run beyond the context up to which LongRoPE's short factors are for: see the pass fix-context."""
    limits = {node.attr_int("limit") for node in context_choices(graph)}
    return [
        f"with {total - prompt} generated positions the run goes beyond {limit}, so all of it, the prompt of {prompt} too, turns by the "
        "long factors of LongRoPE; transformers turns the prompt by the short ones, and switches when a pass gets there"
        for limit in sorted(limits)
        if prompt <= limit < total
    ]


def gives_logits(graph: Graph) -> bool:
    """Whether the model of a graph gives logits; one that does not gives embeddings."""
    return any(is_logits(graph[name].stage) for name in graph.outputs)


def _check_outputs(graph: Graph, model: Model, count: int, options: RunOptions) -> None:
    """Raise TokenError for what needs logits, of a model that gives none, and for parts of a text that is pooled."""
    if gives_logits(graph):
        return
    why = f"{model.path} is an embedding model and gives no logits"
    if options.max_tokens:
        raise TokenError(MAX_TOKENS.given(options.max_tokens), f": {why}, so no text goes on from it; leave it out to get the embedding")
    if options.positions == "all":
        raise TokenError(f"positions all: {why}, of one position or of all; leave it out")
    if options.prefill_chunk is not None and options.prefill_chunk < count and any(traits_of(node).pools for node in graph):
        raise TokenError(
            PREFILL_CHUNK.given(options.prefill_chunk),
            f": {model.path} makes one embedding of all positions, so the {count} positions run in one pass; leave it out",
        )


def _check_causal(model: Model, count: int, options: RunOptions) -> None:
    """Raise TokenError for a run in several passes of a model whose positions attend to later ones."""
    if model.family.causal:
        return
    why = f"{model.path} is not causal ({model.family.architecture}.attention.causal is false): every position attends to later ones"
    if options.max_tokens:
        raise TokenError(MAX_TOKENS.given(options.max_tokens), f": {why}, so no text goes on from it; leave it out to run the prompt alone")
    if options.prefill_chunk is not None and options.prefill_chunk < count:
        raise TokenError(PREFILL_CHUNK.given(options.prefill_chunk), f": {why}, so the {count} positions run in one pass; leave it out")


def _check_passes(graph: Graph, count: int, options: RunOptions) -> None:
    """Raise PlanError for longer passes than those in which the graph's arithmetic is that of its engine."""
    most, longest = most_positions_of(graph), min(options.prefill_chunk or count, count)
    if most is not None and longest > most:
        raise PlanError(
            f"arithmetic {graph.attrs[OF_GRAPH]}: known of passes of up to {most} positions, and this run has one of {longest}; give ",
            PREFILL_CHUNK.given(most),
        )


def _check_generation(model: Model, plan: Plan, ids: tuple[int, ...], options: RunOptions) -> RunOptions:
    context = model.family.context
    if options.max_tokens < 0:
        raise TokenError(f"max tokens {options.max_tokens}: expected a number of tokens to generate, at least 0")
    if options.steps.start < 0 or not options.steps:
        raise PlanError(f"steps {options.steps.start}..{options.steps.stop}: expected A..B with A below B; step 0 is the prompt")
    if options.steps != range(1) and plan.is_empty:
        raise PlanError(STEPS, " says which steps the taps record; add ", TAPS.given("LIST"), " or ", TAPS.given("all", "'all'"))
    # A generation ends where the context does, as it ends at an end token.
    most = min(options.max_tokens, context - len(ids) + 1)
    last = max(options.max_tokens, 1)
    steps = closed(options.steps, max(most, 1))
    if not steps or steps.stop > last:
        named = range_text(options.steps)
        raise PlanError(
            STEPS.given(named, repr(named)),
            *((f": {options.max_tokens} tokens are generated",) if options.max_tokens else (": nothing is generated without ", MAX_TOKENS)),
            f", so the run has the steps 0..{last} (END exclusive; step 0 is the prompt)",
        )
    return replace(options, max_tokens=most, steps=steps)


def check_room(directory: Path, nbytes: int) -> None:
    """Raise TraceError unless the disk that ``directory`` lies on, or will lie on, has ``nbytes`` and a little more."""
    place = directory.absolute()
    while not os.path.exists(place):  # noqa: PTH110 -- Path.exists raises for a name that is too long, or a folder that is closed to us
        place = place.parent
    free = shutil.disk_usage(place).free
    if nbytes + (1 << 20) > free:
        raise TraceError.at_place(
            f"{directory}: the plan writes {nbytes:,} bytes, but only {free:,} are free there",
            "tap fewer stages or layers",
            Message("keep statistics alone (", STATS_ONLY, ")"),
        )
