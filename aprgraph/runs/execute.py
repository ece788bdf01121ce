"""Carries a run out: the prompt, in one pass or in parts, then one token after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from aprgraph.graph.errors import NonFiniteError
from aprgraph.graph.ir import Graph, Node
from aprgraph.runs.plan import PromptPart, RunPlan
from aprgraph.runtime.engine import Engine, OnTap
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.statistics import Statistics

#: Called with the step, the part of the prompt (None in a later step), the tap's node, its value and its statistics.
OnStepTap = Callable[[int, PromptPart | None, Node, F32, Statistics], None]
#: Called with each generated token as it is chosen.
OnToken = Callable[[int], None]


@dataclass(frozen=True)
class Outcome:
    """``outputs`` of the last pass that ran, by node; the tokens that were ``generated``, and what ended that, in words."""

    outputs: dict[str, F32]
    generated: tuple[int, ...]
    ended_by: str | None


def execute(
    run: RunPlan, engine: Engine, on_tap: OnStepTap | None, end_tokens: Collection[int] = (), on_token: OnToken | None = None
) -> Outcome:
    """Run every step. Raises NonFiniteError where a choice among experts or tokens cannot be made, and what ``on_tap`` raises."""

    def tell(step: int, part: PromptPart | None) -> OnTap | None:
        if on_tap is None:
            return None
        return lambda node, value, statistics: on_tap(step, part, node, value, statistics)

    outputs: dict[str, F32] = {}
    failure: NonFiniteError | None = None
    for part in run.parts:
        try:
            outputs = engine.run(run.graph_of(0, part), run.tokens[part.start : part.stop], part.start, tell(0, part))
        except NonFiniteError as error:  # noqa: PERF203 -- the later parts still run, so that the prompt's tensors become whole
            failure = failure or error
    if failure is not None:
        raise failure
    generated: list[int] = []
    for step in range(run.options.max_tokens):
        if step:
            outputs = engine.run(run.graph_of(step), generated[-1:], len(run.tokens) + step - 1, tell(step, None))
        generated.append(_choose(run.graph_of(step), outputs, step))
        if on_token is not None:
            on_token(generated[-1])
        if generated[-1] in end_tokens:
            return Outcome(outputs, tuple(generated), "an end token")
    return Outcome(outputs, tuple(generated), "the number of tokens" if generated else None)


def _choose(graph: Graph, outputs: dict[str, F32], step: int) -> int:
    """The token of the largest logit of the last position, the lowest id where several are equal."""
    logits = outputs[graph.outputs[-1]].reshape(-1, outputs[graph.outputs[-1]].shape[-1])[-1]
    if np.isnan(logits).any():
        raise NonFiniteError(
            f"lm_head of step {step}: {int(np.isnan(logits).sum())} of {logits.size} logits are NaN, so no token can be chosen; "
            "tap the stages before it to see where that comes from"
        )
    return int(logits.argmax())
