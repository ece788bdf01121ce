"""What to tap in the next run, so that a region of suspicion becomes a stage."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from aprgraph.graph.arguments import LAYERS, MAX_TOKENS, STEPS, TAPS, Argument
from aprgraph.graph.stages import STAGE_BY_NAME, STAGES, end_of_layer
from aprgraph.graph.tap_plan import Plan
from aprgraph.runtime.blame.local_errors import Blame, LocalError, LocalState, Verdict
from aprgraph.runtime.diff.report import DiffReport
from aprgraph.runtime.place import Place


@dataclass(frozen=True)
class Suspicion:
    """A tensor that is wrong or differs, the stages ``inside`` what lies between it and what is ``known`` to be right; and that."""

    key: Place
    inside: tuple[Place, ...]
    known: tuple[Place, ...]


def suspicion_of(report: DiffReport, blame: Blame | None) -> Suspicion | None:
    """The first thing to look into; None if nothing is wrong and nothing differs."""
    if blame is not None:
        guilty = guilty_of(blame)
        if guilty is not None:
            return Suspicion(guilty[1].key, guilty[1].inside, guilty[1].sources)
    if report.first:
        first = report.first[0]
        return Suspicion(first.key, first.inside, first.good)
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


def suggest(suspicion: Suspicion, recorded: Collection[Place]) -> Plan | None:
    """The plan of the next run; None where the region holds no stage but the suspect itself, so that nothing narrows it.

    A region of several layers is first cut at their ends. What is known to be right is tapped again, because the next trace
    is another one.
    """
    unseen = unseen_stages(suspicion, recorded)
    if not unseen:
        return None
    frame = [suspicion.key, *suspicion.known]
    inside = sorted({layer for layer, _ in unseen if layer is not None})
    if len(inside) > 1:
        end = end_of_layer({place.stage for place in suspicion.inside})
        wanted = {end, *(key.stage for key in frame), *(stage for layer, stage in unseen if layer is None)}
    else:
        wanted = {stage for _, stage in unseen} | {key.stage for key in frame}
    of_layers = [*inside, *(key.layer for key in frame if key.layer is not None)]
    span = range(min(of_layers), max(of_layers) + 1) if of_layers else range(1)
    return Plan(tuple(stage.name for stage in STAGES if stage.name in wanted), span)


def unseen_stages(suspicion: Suspicion, recorded: Collection[Place]) -> list[tuple[int | None, str]]:
    """The stages inside that were not recorded, as (layer, stage) in execution order, the suspect itself aside."""
    key = suspicion.key
    others = (place for place in suspicion.inside if place.in_step != key.in_step and place.stage in STAGE_BY_NAME)
    return [place.in_step for place in others if place._replace(step=key.step) not in recorded]


def arguments_for(plan: Plan, step: int) -> tuple[Argument, ...]:
    """What a run is to be given so that it records ``plan`` in ``step``."""
    stages, layers = ",".join(plan.stages), f"{plan.layers.start}..{plan.layers.stop}"
    taps = TAPS.given(stages, repr(stages)), LAYERS.given(layers, repr(layers))
    steps = f"{step}..{step + 1}"
    return (*taps, MAX_TOKENS.given(step + 1), STEPS.given(steps, repr(steps))) if step else taps
