"""What to tap in the next run, so that a region of suspicion becomes a stage."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from aprgraph.graph.plan import Plan
from aprgraph.graph.stages import STAGE_BY_NAME, STAGES
from aprgraph.runtime.blame.local import Blame, LocalError, LocalState, Verdict
from aprgraph.runtime.diff.align import Key
from aprgraph.runtime.diff.report import DiffReport

#: The one stage that ends a layer: tapped alone, it says which layer a fault is in.
END_OF_LAYER = "post_ffn_residual"

_NODE = re.compile(r"(?:step \d+ )?(?:layer(\d+)\.)?([a-z_]+)")
_GAP = re.compile(r"(?:step \d+ )?layers (\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Suspicion:
    """A tensor that is wrong or differs, what lies between it and what is known to be right, and what that is.

    ``region`` are names of nodes as ``FirstDivergence.region`` has them, ``known`` recorded tensors.
    """

    key: Key
    region: tuple[str, ...]
    known: tuple[Key, ...]


def suspicion_of(report: DiffReport, blame: Blame | None) -> Suspicion | None:
    """The first thing to look into; None if nothing is wrong and nothing differs."""
    if blame is not None:
        guilty = guilty_of(blame)
        if guilty is not None:
            return Suspicion(guilty[1].key, guilty[1].region, guilty[1].sources)
    if report.first:
        first = report.first[0]
        return Suspicion(first.key, first.region, first.good)
    return None


def guilty_of(blame: Blame) -> tuple[str, LocalError] | None:
    """The first tensor that one side is wrong at, and the side, "A" or "B"; None if neither is."""
    for key, verdict in blame.verdicts.items():
        for side, audit, verdicts in (
            ("A", blame.a, (Verdict.A_WRONG, Verdict.BOTH_WRONG)),
            ("B", blame.b, (Verdict.B_WRONG,)),
        ):
            if verdict in verdicts and key in audit.by_key and audit.by_key[key].state is LocalState.WRONG:
                return side, audit.by_key[key]
    return None


def suggest(suspicion: Suspicion, recorded: Collection[Key], layers: int | None = None) -> Plan | None:
    """The plan of the next run; None where the region holds no stage but the suspect itself, so that nothing narrows it.

    A region of several layers is first cut at their ends. What is known to be right is tapped again, because the next trace
    is another one. ``layers`` is how many the model has, where that is known.
    """
    unseen = unseen_stages(suspicion, recorded, layers)
    if not unseen:
        return None
    frame = [suspicion.key, *suspicion.known]
    inside = sorted({layer for layer, _ in unseen if layer is not None})
    if len(inside) > 1:
        wanted = {END_OF_LAYER, *(stage for _, _, stage in frame), *(stage for layer, stage in unseen if layer is None)}
    else:
        wanted = {stage for _, stage in unseen} | {stage for _, _, stage in frame}
    of_layers = [*inside, *(layer for _, layer, _ in frame if layer is not None)]
    span = range(min(of_layers), max(of_layers) + 1) if of_layers else range(1)
    return Plan(tuple(stage.name for stage in STAGES if stage.name in wanted), span)


def unseen_stages(suspicion: Suspicion, recorded: Collection[Key], layers: int | None = None) -> list[tuple[int | None, str]]:
    """The stages of the region that were not recorded, in execution order, the suspect itself aside."""
    step = suspicion.key[0]
    return [
        (layer, stage)
        for layer, stage in _stages(suspicion.region, layers)
        if (step, layer, stage) not in recorded and (layer, stage) != suspicion.key[1:]
    ]


def _stages(region: Iterable[str], layers: int | None) -> Iterable[tuple[int | None, str]]:
    """The stages among the nodes of a region; a gap of unseen layers counts as their ends."""
    for name in region:
        gap = _GAP.fullmatch(name)
        if gap is not None:
            yield from ((layer, END_OF_LAYER) for layer in range(int(gap[1]), min(int(gap[2]), layers or int(gap[2]))))
            continue
        match = _NODE.fullmatch(name)
        if match is not None and match[2] in STAGE_BY_NAME:
            yield (None if match[1] is None else int(match[1])), match[2]


def command_options(plan: Plan, step: int) -> str:
    """The options of ``aprgraph run`` for ``plan``: ``--taps ffn_gate,ffn_up --layers 3..4``."""
    steps = f" --max-tokens {step + 1} --steps {step}..{step + 1}" if step else ""
    return f"--taps {','.join(plan.stages)} --layers {plan.layers.start}..{plan.layers.stop}{steps}"
