"""Tap plans: which stages of which layers a run saves. Parsed and checked before any model is opened."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from aprgraph.graph.arguments import LAYERS, STEPS, TAPS, Argument
from aprgraph.graph.errors import AprgraphError, PlanError, shown
from aprgraph.graph.stage_suggestions import did_you_mean, nearest_first, nearest_stage
from aprgraph.graph.stages import APR_STAGES, STAGE_ALIASES, STAGE_BY_NAME, STAGES

#: The words for every stage, and for those of them that `apr trace` saves.
ALL, APR = "all", "apr"
_RANGE = re.compile(r"(\d+)(?:(\.\.)(\d+)?)?")
#: What makes a name of --taps a pattern, in the syntax of a shell.
_WILD = re.compile(r"[*?\[]")
#: The END of a range that goes on to the last layer, or step, there is: how many there are is known when the model is open.
OPEN_END = sys.maxsize


@dataclass(frozen=True)
class Plan:
    """The stages and the layers to save.

    ``stages`` are canonical names in execution order; ``everything`` says that the user wrote ``all`` or ``apr``, under
    which a stage that the model lacks is simply not there. ``layers`` filters per-layer stages only; the command line
    gives ranges without a step, a bisection every n-th layer; a range up to OPEN_END goes on to the last. ``only`` are the
    tensors to save of those, by (layer, stage), where that is not all of them. ``patterns`` were written in place of names, and
    ``optional`` are the stages that these alone select: a model need not have all of them.
    """

    stages: tuple[str, ...] = ()
    layers: range = range(1)
    everything: bool = False
    only: frozenset[tuple[int | None, str]] | None = None
    patterns: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is tapped."""
        return not self.stages

    def selects(self, stage: str, layer: int | None) -> bool:
        """Whether the tensor of ``stage`` in ``layer`` (None for whole-model stages) is saved."""
        chosen = stage in self.stages and (not STAGE_BY_NAME[stage].per_layer or layer in self.layers)
        return chosen and (self.only is None or (layer, stage) in self.only)

    @property
    def selects_layers(self) -> bool:
        """Whether ``layers`` bears on what is saved."""
        return any(STAGE_BY_NAME[stage].per_layer for stage in self.stages)

    def within(self, there: Collection[str], layers: int) -> Plan:
        """The plan on a model that has the stages ``there`` and so many ``layers``: no open end, and of patterns what there is.

        Raises PlanError for a pattern that none of the stages matches, and for layers that begin behind the last.
        """
        for pattern in self.patterns:
            if not any(stage in there for stage in _matching(pattern)):
                raise PlanError(TAPS, f": no stage of this model matches {shown(pattern)}; {listing([pattern], there)}")
        if self.layers.stop == OPEN_END and self.layers.start >= layers and self.selects_layers:
            given = f"{self.layers.start}.."
            raise PlanError(LAYERS.given(given, repr(given)), f": the model has the layers 0 to {layers - 1}; begin at one of them")
        stages = tuple(stage for stage in self.stages if stage in there or stage not in self.optional)
        return replace(self, stages=stages, layers=closed(self.layers, layers), patterns=(), optional=frozenset())

    def describe(self) -> str:
        """The plan in one canonical form: as the command line would spell it, if it can."""
        if self.is_empty:
            return "none"
        names = self._word if self.everything else ",".join(self.stages)
        every = f" every {self.layers.step}" if self.layers.step > 1 else ""
        only = "" if self.only is None else f", {len(self.only)} tensors of these"
        return f"{names} {range_text(self.layers)}{every}{only}"

    @property
    def _word(self) -> str:
        """The word for all of ``stages``."""
        return APR if self.stages == APR_STAGES else ALL


def parse_taps(taps: str | Iterable[str], stages: Callable[[], Collection[str]] | None = None) -> Plan:
    """Parse taps: a comma list of stage names and of patterns such as ``attn_*``, or ``all``, or ``apr`` for the stages that
    `apr trace` saves; case and blanks around names do not matter. From Python, also several such texts.

    Returns the plan for the first layer. Raises PlanError for an empty or unknown name, and for a pattern that nothing matches,
    listing the valid ones: those of the model, where ``stages`` gives them.
    """
    parts = [taps] if isinstance(taps, str) or not isinstance(taps, Iterable) else list(taps)
    if not all(isinstance(part, str) for part in parts):
        raise PlanError(TAPS.given(shown(taps)), f": expected stage names, or 'all'; {_valid([], _of_model(stages))}")
    text = ",".join(parts)
    names = [name.strip().lower() for name in text.split(",")]
    if names in ([ALL], [APR]):
        return Plan(APR_STAGES if names == [APR] else tuple(stage.name for stage in STAGES), everything=True)
    if "" in names:
        expected = "expected a comma list of stage names, or 'all'"
        raise PlanError(TAPS.given(shown(text)), f": empty stage name; {expected}; {_valid([], _of_model(stages))}")
    chosen: set[str] = set()
    matched: set[str] = set()
    for name in names:
        canonical = STAGE_ALIASES.get(name, name)
        if name in (ALL, APR):
            alone = f"'{name}' stands alone; drop the other names, or list stages by name"
            raise PlanError(TAPS.given(shown(text)), f": {alone}; {_valid([], _of_model(stages))}")
        if _WILD.search(name):
            found = _matching(name)
            if not found:
                raise PlanError(TAPS, f": no stage matches {shown(name)}; {_valid([name], _of_model(stages))}")
            matched |= found
        elif canonical not in STAGE_BY_NAME:
            raise PlanError(TAPS, f": unknown stage {_unknown(name, _of_model(stages))}, or 'all'")
        else:
            chosen.add(canonical)
    return Plan(
        tuple(stage.name for stage in STAGES if stage.name in chosen | matched),
        patterns=tuple(name for name in names if _WILD.search(name)),
        optional=frozenset(matched - chosen),
    )


def listing(names: Sequence[str], there: Collection[str]) -> str:
    """``its stages are: …``, of a model that has the stages ``there``, the nearest to ``names`` first."""
    return f"its stages are: {', '.join(nearest_first(names, (stage for stage in STAGE_BY_NAME if stage in there)))}"


def _valid(names: Sequence[str], there: Collection[str] | None) -> str:
    """Which stages there are: ``there`` in the model, or, where it is not known, those of all families."""
    if there is None:
        return f"the stages are: {', '.join(nearest_first(names, STAGE_BY_NAME))}"
    return f"this model's {listing(names, there).removeprefix('its ')}"


def _of_model(stages: Callable[[], Collection[str]] | None) -> Collection[str] | None:
    """The stages of the model; None where it is not known, or cannot be opened, which is said next."""
    if stages is not None:
        with contextlib.suppress(AprgraphError):
            return stages()
    return None


def _unknown(name: str, there: Collection[str] | None) -> str:
    """A name that no stage has, what may be meant by it, and what there is."""
    near = nearest_stage(name)
    meant = did_you_mean(name) if there is None or near is None or near in there else f" ({near!r} is not in this model)"
    return f"{shown(name)}{meant}; {_valid([name], there)}"


def _matching(pattern: str) -> set[str]:
    """The stages whose name, or another name of theirs, ``pattern`` matches as a shell's does."""
    names = {**{stage.name: stage.name for stage in STAGES}, **STAGE_ALIASES}
    return {stage for name, stage in names.items() if fnmatchcase(name, pattern)}


def parse_layers(text: str | int | range) -> range:
    """Parse layers: ``START..END`` (END exclusive), ``START..`` to the last, one number, or ``all``. From Python, also a number or a range.

    Raises PlanError that says what was expected.
    """
    return parse_range(text, LAYERS, "layer", "such as 0..1 for the first layer")


def closed(numbers: range, count: int) -> range:
    """``numbers``, where they have an open end, up to ``count``."""
    return range(numbers.start, max(numbers.start, count), numbers.step) if numbers.stop == OPEN_END else numbers


def range_text(numbers: range) -> str:
    """``0..2``, as an option takes it; ``2..`` with an open end."""
    return f"{numbers.start}..{'' if numbers.stop == OPEN_END else numbers.stop}"


def parse_range(numbers: str | int | range, argument: Argument, what: str, example: str) -> range:
    """Parse a range in the forms of ``parse_layers``. Raises PlanError that names the ``argument`` and says what was expected."""
    if isinstance(numbers, range) and numbers.step == 1:
        numbers = f"{numbers.start}..{numbers.stop}"
    text = str(numbers)
    if text.strip().lower() == ALL:
        return range(OPEN_END)
    match = _RANGE.fullmatch(text.strip())
    if match is None or not match[0].isascii() or len(match[0]) > 20:
        raise PlanError(
            argument.given(shown(text)),
            f": expected START..END with two whole numbers, END exclusive, {example}; or START.. up to the last {what}, one {what}, or all",
        )
    start = int(match[1])
    if match[3] is None:
        return range(start, OPEN_END if match[2] else start + 1)
    end = int(match[3])
    if start >= end:
        raise PlanError(
            argument.given(shown(text)),
            f": no {what} in it; END is exclusive, so START must be below END, such as {start}..{start + 1}",
        )
    return range(start, end)


def parse_steps(text: str | int | range) -> range:
    """Parse steps, in the forms of ``parse_layers``; step 0 is the prompt. Raises PlanError that says what was expected."""
    return parse_range(text, STEPS, "step", "such as 0..3 for the prompt and two generated tokens")


def parse_plan(
    taps: str | Iterable[str] | None, layers: str | int | range = "0..1", stages: Callable[[], Collection[str]] | None = None
) -> Plan:
    """Parse both options into a Plan; ``taps`` None means that nothing is saved. Raises PlanError.

    ``stages`` gives those of the model, for a message; it is called only then.
    """
    layer_range = parse_layers(layers)
    return replace(Plan() if taps is None else parse_taps(taps, stages), layers=layer_range)
