"""Two targets, one model: the first stage at which their runs part, found in rounds of few taps.

A round taps the ends of layers, evenly spaced, as many as the disk is to hold; the next one those between the last that
agreed and the first that did not; the last one every stage of the layer that is left. Each round's tensors are removed before
the next. So a region of a model of which no whole trace fits on the disk is searched in a few passes.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aprgraph.api import CompiledModel, RunOptions
from aprgraph.comparison import diff
from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.model import Model
from aprgraph.graph.plan import Plan
from aprgraph.graph.stages import STAGE_BY_NAME, STAGES
from aprgraph.run_plan import RunPlan
from aprgraph.runtime.blame.suggest import END_OF_LAYER, Suspicion, plan_of, suspicion_of, unseen_stages
from aprgraph.runtime.diff import DiffReport
from aprgraph.runtime.diff.align import Key
from aprgraph.runtime.trace import Trace

#: Bytes that the two traces of a round may take together.
DEFAULT_ROOM = 1 << 30
_WHOLE = tuple(stage.name for stage in STAGES if not stage.per_layer)


@dataclass(frozen=True)
class Round:
    """One round: what was tapped, the bytes of both traces together, and what the comparison said."""

    plan: Plan
    nbytes: int
    report: DiffReport


@dataclass(frozen=True)
class Bisection:
    """``rounds`` in order. ``report`` is the last comparison, with blame; ``a`` and ``b`` are its traces.

    ``left`` are stages of the region that were too large for the room that was given.
    """

    rounds: tuple[Round, ...]
    report: DiffReport
    a: Trace
    b: Trace
    left: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The sentence to read first."""
        if not self.report.diverged and self.rounds[0].report.diverged:
            first = self.rounds[0].report.verdict
            return f"Not the same twice: the first round says {first!r}, and the last one, which tapped that again, finds both sides alike."
        if self.left:
            return f"{self.report.headline} Not tapped for want of room: {', '.join(self.left)}; give more with --room."
        return self.report.headline


def bisect(
    model: Model,
    a: CompiledModel,
    b: CompiledModel,
    tokens: Sequence[int],
    directory: Path,
    *,
    room: int = DEFAULT_ROOM,
    profile: str | None = None,
    threads: int | None = None,
    on_round: Callable[[Plan, int], None] | None = None,
) -> Bisection:
    """Find the first stage at which runs of ``a`` and ``b`` part, and which of the two is wrong there by ``model``.

    ``directory`` takes the traces, in ``a`` and ``b``; those of the last round stay. ``room`` is in bytes; ``on_round`` is called
    before each round with its plan and bytes. Raises ComparisonError if not even one end of a layer fits into ``room``, and what
    a run or a comparison raises.
    """
    search = _Search(model, (a, b), tokens, directory, room, profile, threads, on_round)
    plan: Plan | None = search.ends(range(model.hyperparameters.layers), _WHOLE)
    while plan is not None:
        plan = search.round(plan)
    return search.result()


class _Search:
    """What the rounds so far have found: ``suspicion`` is the first tensor that differed, and what was alike before it."""

    def __init__(
        self,
        model: Model,
        sides: tuple[CompiledModel, CompiledModel],
        tokens: Sequence[int],
        directory: Path,
        room: int,
        profile: str | None,
        threads: int | None,
        on_round: Callable[[Plan, int], None] | None,
    ) -> None:
        self.model, self.sides, self.tokens, self.directory = model, sides, tokens, directory
        self.room, self.profile, self.threads, self.on_round = room, profile, threads, on_round
        self.rounds: list[Round] = []
        self.traces: tuple[Trace, Trace] | None = None
        self.suspicion: Suspicion | None = None
        self.left: tuple[str, ...] = ()

    # -- rounds ---------------------------------------------------------------------------------------------------------

    def round(self, plan: Plan) -> Plan | None:
        """Run and compare; the plan of the next round, or None if this was the last."""
        runs = self._runs(plan)
        nbytes = sum(run.nbytes for run in runs)
        if self.on_round is not None:
            self.on_round(plan, nbytes)
        places = [self.directory / name for name in ("a", "b")]
        for place in places:
            shutil.rmtree(place, ignore_errors=True)
        traces = [side.record(run, place, threads=self.threads) for side, run, place in zip(self.sides, runs, places, strict=True)]
        self.traces = (traces[0], traces[1])
        report = diff(*self.traces, profile=self.profile)
        self.rounds.append(Round(plan, nbytes, report))
        recorded = {entry.key for entry in traces[0].entries}
        found = suspicion_of(report, None)
        if found is not None:
            self.suspicion = found
        elif self.suspicion is not None:
            # What was tapped lies before the suspect, and agrees: the search goes on behind it.
            self.suspicion = self._behind(self.suspicion, recorded)
        if self.suspicion is None:
            return None
        return self._next(self.suspicion, recorded)

    def _behind(self, suspicion: Suspicion, alike: set[Key]) -> Suspicion | None:
        """``suspicion`` after tensors before it were found alike; None if the suspect itself is one of them."""
        if suspicion.key in alike:  # a side that gives other numbers each time
            return None
        region = list(suspicion.region)
        names = [(_node_name(key), key) for key in alike]
        last = max((region.index(name) for name, _ in names if name in region), default=-1)
        known = tuple(key for name, key in names if name in region and region.index(name) == last)
        return replace(suspicion, region=tuple(region[last + 1 :]), known=known or suspicion.known)

    def _next(self, suspicion: Suspicion, recorded: set[Key]) -> Plan | None:
        unseen = unseen_stages(suspicion, recorded, self.model.hyperparameters.layers)
        if not unseen:
            return None
        layers = sorted({layer for layer, _ in unseen if layer is not None})
        if len(layers) > 1:
            whole = tuple(stage for layer, stage in unseen if layer is None)
            last = suspicion.key[1]
            # The suspect's own layer needs no tap at its end: that is what differs, or lies behind it.
            return self.ends(range(layers[0], layers[-1] + (last is None)), whole)
        return self._stages(unseen, suspicion)

    def ends(self, layers: range, others: Sequence[str]) -> Plan:
        """The plan that taps as many ends of ``layers`` as there is room for, evenly spaced, and the stages ``others``."""
        for step in range(1, len(layers) + 1):
            # From the far end, so that the last one is always among them.
            chosen = range(layers.stop - 1 - (len(layers) - 1) // step * step, layers.stop, step)
            plan = Plan(_in_order({END_OF_LAYER, *others}), chosen)
            if self._fits(plan):
                return plan
        raise ComparisonError(
            f"{', '.join(plan.stages)} of one layer take {sum(run.nbytes for run in self._runs(plan)):,} bytes on both sides, more than the "
            f"room of {self.room:,}; give more with --room, or a shorter prompt"
        )

    def _stages(self, unseen: Sequence[tuple[int | None, str]], suspicion: Suspicion) -> Plan | None:
        """The plan that taps the stages of one layer, without the largest ones if there is no room for all."""
        size = {node.stage: node.type for node in self.sides[0].artifact.graph.staged()}
        n = len(self.tokens)

        def elements(item: tuple[int | None, str]) -> int:
            count = 1
            for dim in size[item[1]].bind(n=n, t=n):
                count *= dim
            return count

        chosen = sorted((item for item in unseen if item[1] in size), key=elements)
        while chosen:
            plan = plan_of(chosen, suspicion)
            if self._fits(plan):
                self.left = tuple(stage for _, stage in unseen if stage not in plan.stages)
                return plan
            chosen.pop()
        self.left = tuple(stage for _, stage in unseen)
        return None

    def _fits(self, plan: Plan) -> bool:
        return sum(run.nbytes for run in self._runs(plan)) <= self.room

    def _runs(self, plan: Plan) -> list[RunPlan]:
        return [side.plan(plan, self.tokens, RunOptions()) for side in self.sides]

    def result(self) -> Bisection:
        """The last round's comparison again, with blame."""
        assert self.traces is not None
        report = self.rounds[-1].report
        if report.diverged:
            report = diff(*self.traces, model=self.model, profile=self.profile)
        return Bisection(tuple(self.rounds), report, *self.traces, self.left)


def _in_order(stages: set[str]) -> tuple[str, ...]:
    return tuple(name for name in STAGE_BY_NAME if name in stages)


def _node_name(key: Key) -> str:
    return key[2] if key[1] is None else f"layer{key[1]}.{key[2]}"


@contextlib.contextmanager
def place_for(directory: Path | None) -> Iterator[Path]:
    """``directory``, made if need be, or a temporary one that is gone afterwards. Raises ComparisonError if something is in it."""
    if directory is not None:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ComparisonError(f"{directory}: is not an empty folder; rounds remove what those before them wrote, so give another one")
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="aprgraph-bisect-") as place:
        yield Path(place)
