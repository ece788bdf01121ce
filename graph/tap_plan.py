"""Tap plans: which stages of which layers a run saves. Parsed and checked before any model is opened."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aprgraph.graph.arguments import LAYERS, STEPS, TAPS, Argument
from aprgraph.graph.errors import PlanError, shown
from aprgraph.graph.stage_suggestions import did_you_mean
from aprgraph.graph.stages import APR_STAGES, STAGE_ALIASES, STAGE_BY_NAME, STAGES

#: The words for every stage, and for those of them that `apr trace` saves.
ALL, APR = "all", "apr"
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Plan:
    """The stages and the layers to save.

    ``stages`` are canonical names in execution order; ``everything`` says that the user wrote ``all`` or ``apr``, under
    which a stage that the model lacks is simply not there. ``layers`` filters per-layer stages only; the command line
    gives ranges without a step, a bisection every n-th layer. ``only`` are the tensors to save of those, by (layer, stage), where
    that is not all of them.
    """

    stages: tuple[str, ...] = ()
    layers: range = range(1)
    everything: bool = False
    only: frozenset[tuple[int | None, str]] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is tapped."""
        return not self.stages

    def selects(self, stage: str, layer: int | None) -> bool:
        """Whether the tensor of ``stage`` in ``layer`` (None for whole-model stages) is saved."""
        chosen = stage in self.stages and (not STAGE_BY_NAME[stage].per_layer or layer in self.layers)
        return chosen and (self.only is None or (layer, stage) in self.only)

    def describe(self) -> str:
        """The plan in one canonical form: as the command line would spell it, if it can."""
        if self.is_empty:
            return "none"
        names = self._word if self.everything else ",".join(self.stages)
        every = f" every {self.layers.step}" if self.layers.step > 1 else ""
        only = "" if self.only is None else f", {len(self.only)} tensors of these"
        return f"{names} {self.layers.start}..{self.layers.stop}{every}{only}"

    @property
    def _word(self) -> str:
        """The word for all of ``stages``."""
        return APR if self.stages == APR_STAGES else ALL


def parse_taps(text: str) -> tuple[tuple[str, ...], bool]:
    """Parse taps: a comma list of stage names, ``all``, or ``apr`` for the stages that `apr trace` saves; case and blanks
    around names do not matter.

    Returns the canonical names in execution order, and whether the text was ``all`` or ``apr``.
    Raises PlanError for an empty or unknown name, listing the valid ones.
    """
    valid = ", ".join(stage.name for stage in STAGES)
    names = [name.strip().lower() for name in text.split(",")]
    if names in ([ALL], [APR]):
        return APR_STAGES if names == [APR] else tuple(stage.name for stage in STAGES), True
    if "" in names:
        raise PlanError(TAPS.given(shown(text)), f": empty stage name; expected a comma list of stage names, or 'all'. Stages: {valid}")
    chosen: set[str] = set()
    for name in names:
        canonical = STAGE_ALIASES.get(name, name)
        if name in (ALL, APR):
            raise PlanError(
                TAPS.given(shown(text)), f": '{name}' stands alone; drop the other names, or list stages by name. Stages: {valid}"
            )
        if canonical not in STAGE_BY_NAME:
            raise PlanError(TAPS, f": unknown stage {shown(name)}{did_you_mean(name)}; expected one of: {valid}, or 'all'")
        chosen.add(canonical)
    return tuple(stage.name for stage in STAGES if stage.name in chosen), False


def parse_layers(text: str) -> range:
    """Parse layers, ``START..END`` (END exclusive). Raises PlanError that says what was expected."""
    return _parse_range(text, LAYERS, "layer", "such as 0..1 for the first layer")


def _parse_range(text: str, argument: Argument, what: str, example: str) -> range:
    match = _RANGE.fullmatch(text.strip())
    if match is None or not match[1].isascii() or not match[2].isascii() or len(match[0]) > 20:
        raise PlanError(argument.given(shown(text)), f": expected START..END with two whole numbers, END exclusive, {example}")
    start, end = int(match[1]), int(match[2])
    if start >= end:
        raise PlanError(
            argument.given(shown(text)),
            f": no {what} in it; END is exclusive, so START must be below END, such as {start}..{start + 1}",
        )
    return range(start, end)


def parse_steps(text: str) -> range:
    """Parse steps, ``A..B`` (B exclusive); step 0 is the prompt. Raises PlanError that says what was expected."""
    return _parse_range(text, STEPS, "step", "such as 0..3 for the prompt and two generated tokens")


def parse_plan(taps: str | None, layers: str = "0..1") -> Plan:
    """Parse both options into a Plan; ``taps`` None means that nothing is saved. Raises PlanError."""
    layer_range = parse_layers(layers)
    if taps is None:
        return Plan(layers=layer_range)
    stages, everything = parse_taps(taps)
    return Plan(stages, layer_range, everything)
