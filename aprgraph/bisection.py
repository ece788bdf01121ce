"""Two targets, one model: the first stage at which their runs part, found in rounds of few taps.

A round taps the ends of layers, evenly spaced, as many as the disk is to hold; the next one those between the last that
agreed and the first that did not; the last one every stage of the layer that is left. Each round's tensors are removed before
the next. So a region of a model of which no whole trace fits on the disk is searched in a few passes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aprgraph.api import DEFAULT_PROMPT, CompiledModel, LoadedModel, RunOptions, load, open_artifact, warn
from aprgraph.codegen.artifact_form import TARGETS
from aprgraph.comparison import ModelSource, diff
from aprgraph.graph.arguments import ROOM
from aprgraph.graph.arithmetics import PLAIN
from aprgraph.graph.errors import ArtifactError, ComparisonError, TraceError, shown
from aprgraph.graph.message import Message
from aprgraph.graph.model import Model
from aprgraph.graph.passes.fix_context import fix_context
from aprgraph.graph.shown import Shown
from aprgraph.graph.stages import STAGE_BY_NAME, end_of_layer
from aprgraph.graph.tap_plan import Plan
from aprgraph.graph.temporary_files import temporary_folder
from aprgraph.graph.words import counted, shortened
from aprgraph.progress import progress_line
from aprgraph.runs.plan import RunPlan
from aprgraph.runtime.blame.suggest import Suspicion, unseen_stages
from aprgraph.runtime.comparison import Comparison
from aprgraph.runtime.comparison.other_weights import check_comparable
from aprgraph.runtime.cuda.driver import find_gpu, load_driver
from aprgraph.runtime.diff import Class, FirstDivergence
from aprgraph.runtime.diff.classify import Finding, State, classify
from aprgraph.runtime.diff.dependencies import from_graph
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.side_names import SideNames, side_names
from aprgraph.runtime.output_file import probe
from aprgraph.runtime.place import Place
from aprgraph.runtime.summary import Summary
from aprgraph.runtime.trace.destination import check_trace_place
from aprgraph.runtime.trace.reader import Trace
from aprgraph.target_words import parse_target

#: Bytes that the two traces of a round may take together.
DEFAULT_ROOM = 1 << 30
_STATES = {
    Class.IDENTICAL: State.IDENTICAL,
    Class.NOISE: State.NOISE,
    Class.PROPAGATED: State.EXCEEDS,
    Class.INTRODUCED: State.EXCEEDS,
    Class.ACCUMULATED: State.EXCEEDS,
    Class.NAN: State.NAN,
    Class.SHAPE: State.SHAPE,
    Class.OTHER_FORM: State.OTHER_FORM,
    Class.UNMEASURED: State.UNMEASURED,
}
#: The folders of the two traces.
_SIDES = ("a", "b")


@dataclass(frozen=True)
class Round:
    """One round: what was tapped, the bytes of both traces together, and what the comparison said."""

    plan: Plan
    nbytes: int
    report: Comparison


@dataclass(frozen=True)
class Bisection(Shown):
    """``rounds`` in order. ``report`` is the last comparison, with blame; ``a`` and ``b`` are its traces.

    ``left`` are stages of the region that there was no room for.
    """

    rounds: tuple[Round, ...]
    report: Comparison
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
            return Message(self.report.headline, f" Not tapped for want of room: {', '.join(self.left)}; give more with ", ROOM, ".")
        return self.report.headline

    @property
    def summary(self) -> Summary:
        """The verdict in parts: those of the last comparison, and what it leaves open."""
        last = self.report.summary
        if not self.report.diverged and self.rounds[0].report.diverged:
            first = self.rounds[0].report.summary
            outcome = "Not the same twice: the first round finds a difference, and the last one, which tapped that again, none."
            return replace(last, outcome=outcome, where=first.where)
        if self.left:
            left = Message(f"not tapped for want of room: {', '.join(self.left)}; give more with ", ROOM)
            return replace(last, notes=(left, *last.notes))
        return last

    @property
    def exit_code(self) -> int:
        """That of the last comparison."""
        return self.report.exit_code

    def to_html(self) -> str:
        """The last comparison as one HTML page, as a string. Raises TraceError where its traces are gone, which ``directory`` keeps."""
        return self.report.to_html()

    def __repr__(self) -> str:
        return f"<Bisection in {counted(len(self.rounds), 'round')}: {shortened(self.sentence)}>"


def bisect(
    model: ModelSource,
    a: str | Path | CompiledModel = "llvm",
    b: str | Path | CompiledModel = "reference",
    *,
    prompt: str | None = None,
    tokens: Sequence[int] | None = None,
    model_b: ModelSource | None = None,
    directory: str | Path | None = None,
    arithmetic: str = PLAIN,
    room: int = DEFAULT_ROOM,
    profile: str | None = None,
    threads: int | None = None,
    progress: bool | None = None,
) -> Bisection:
    """Find the first stage at which two targets part on one prompt, and which of them is wrong there.

    ``a`` and ``b`` are targets ("llvm", "cuda", "cuda:1", "reference"), which the model is compiled for into the user's cache, the
    directories of artifacts, or compiled models. ``prompt`` (default: "What is 2+2?") or ``tokens`` is the input. ``model_b`` is
    another file of the model, for ``b``: each side is then judged by its own. ``directory`` keeps the traces of the last round, in
    ``a`` and ``b`` (default: none stays). ``arithmetic`` is what sides that are targets round as (docs/arithmetic.md); ``room`` is how
    many bytes of disk the traces of a round may take. Where somebody watches, a line says what is tapped; ``progress`` False shows nothing.

    Raises AprgraphError for what cannot be read, run or compared.
    """
    if prompt is not None and tokens is not None:
        raise ComparisonError("a prompt and tokens: expected one of them")
    loaded = _loaded(model)
    other = loaded if model_b is None else _loaded(model_b)
    check_comparable(loaded.model, other.model)
    ids = list(tokens) if tokens is not None else loaded.encode(DEFAULT_PROMPT if prompt is None else prompt)
    sides = [
        side if isinstance(side, CompiledModel) else open_side(of, f"side {which}", str(side), arithmetic)
        for of, which, side in ((loaded, "a", a), (other, "b", b))
    ]
    called = [str(side.artifact.directory) if isinstance(side, CompiledModel) else str(side) for side in (a, b)]
    with progress_line(progress, "bisecting") as say, place_for(None if directory is None else Path(directory)) as place:
        return bisect_compiled(
            loaded.model,
            sides[0],
            sides[1],
            ids,
            place,
            model_b=other.model,
            room=room,
            profile=profile,
            threads=threads,
            names=side_names(called[0], called[1]),
            on_round=lambda plan, _nbytes: say(f"taps {','.join(plan.stages)}"),
        )


def _loaded(model: ModelSource) -> LoadedModel:
    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, CompiledModel):
        return LoadedModel(model.model)
    return LoadedModel(model) if isinstance(model, Model) else load(model)


def open_side(loaded: LoadedModel, called: str, text: str, arithmetic: str, on_notice: Callable[[str], None] = warn) -> CompiledModel:
    """A side: a target to compile the model for, or the directory of an artifact. ``called`` is who names it. Raises AprgraphError."""
    if Path(text).is_dir():
        return open_artifact(text)
    target, gpu = parse_target(text, called)
    if target not in TARGETS:
        raise ArtifactError(f"{called} {shown(text)}: expected {', '.join(TARGETS)}, or the directory of an artifact")
    if target == "cuda":  # before anything takes time
        find_gpu(load_driver(), gpu)
    return replace(loaded.compile_cached(target, on_notice=on_notice, progress=False, arithmetic=arithmetic), gpu=gpu)


def bisect_compiled(
    model: Model,
    a: CompiledModel,
    b: CompiledModel,
    tokens: Sequence[int],
    directory: Path,
    *,
    model_b: Model | None = None,
    room: int = DEFAULT_ROOM,
    profile: str | None = None,
    threads: int | None = None,
    names: SideNames | None = None,
    on_round: Callable[[Plan, int], None] | None = None,
) -> Bisection:
    """Find the first stage at which runs of ``a`` and ``b`` part, and which of the two is wrong there by ``model``.

    ``model_b`` is that of ``b`` where it is of another file: each side is then judged by its own.

    ``directory`` takes the traces, in ``a`` and ``b``; those of the last round stay. ``room`` is in bytes; ``names`` are what
    sentences call the sides; ``on_round`` is called before each round with its plan and bytes. Raises ComparisonError if not even
    one end of a layer fits into ``room``, and what a run or a comparison raises.
    """
    search = _Search((model, model if model_b is None else model_b), (a, b), tokens, directory, room, profile, threads, names, on_round)
    plan: Plan | None = search.ends(range(model.family.layers), search.whole_model_stages)
    while plan is not None:
        search.round(plan)
        plan = search.next()
    return search.result()


class _Search:
    """What the rounds so far have found, taken together: both sides give the same numbers each time."""

    def __init__(
        self,
        models: tuple[Model, Model],
        sides: tuple[CompiledModel, CompiledModel],
        tokens: Sequence[int],
        directory: Path,
        room: int,
        profile: str | None,
        threads: int | None,
        names: SideNames | None,
        on_round: Callable[[Plan, int], None] | None,
    ) -> None:
        self.models, self.sides, self.tokens, self.directory = models, sides, tokens, directory
        self.room, self.profile, self.threads, self.names, self.on_round = room, profile, threads, names, on_round
        self.rounds: list[Round] = []
        self.traces: tuple[Trace, Trace] | None = None
        self.left: tuple[str, ...] = ()
        # Of two arithmetics the one with fewer stages: flash attention has neither scores nor softmax.
        graph = min((side.artifact.graph_in_arithmetic for side in sides), key=lambda graph: sum(1 for _ in graph.staged()))
        self._graph = fix_context(graph, len(tokens))
        self.whole_model_stages = tuple(node.stage for node in self._graph.staged() if node.layer is None and node.stage is not None)
        self._end = end_of_layer({node.stage for node in self._graph.staged() if node.stage})
        self._findings: dict[Place, Finding] = {}

    def round(self, plan: Plan) -> None:
        """Run both sides and compare."""
        runs = self._runs(plan)
        nbytes = sum(run.nbytes for run in runs)
        if self.on_round is not None:
            self.on_round(plan, nbytes)
        places = [self.directory / name for name in _SIDES]
        traces = [side.record(run, place, threads=self.threads) for side, run, place in zip(self.sides, runs, places, strict=True)]
        self.traces = (traces[0], traces[1])
        report = diff(*self.traces, profile=self.profile)
        self.rounds.append(Round(plan, nbytes, report))
        for row in report.rows:
            nmse = row.metrics.nmse if isinstance(row.metrics, TensorMetrics) else None
            self._findings[row.key] = Finding(_STATES[row.classification], nmse)

    def next(self) -> Plan | None:
        """The plan of the next round; None if there is nothing to narrow down, or no room for what would."""
        first = self._first()
        if first is None:
            return None
        suspicion = Suspicion(first.key, first.inside, first.good)
        unseen = unseen_stages(suspicion, self._findings)
        layers = sorted({layer for layer, _ in unseen if layer is not None})
        if len(layers) > 1:
            # Where the suspect is the end of the last of them, that is what differs, and needs no second look.
            is_end = first.key.in_step == (layers[-1], self._end)
            return self.ends(range(layers[0], layers[-1] + (not is_end)), tuple(stage for layer, stage in unseen if layer is None))
        if unseen:
            plan = self._exactly(sorted(unseen, key=self._elements))
            if plan is not None:
                return plan
            self.left = tuple(stage for _, stage in unseen)
        return self._frame(suspicion)

    def ends(self, layers: range, others: Sequence[str]) -> Plan:
        """The plan that taps as many ends of ``layers`` as there is room for, evenly spaced, and the stages ``others``."""
        for step in range(1, len(layers) + 1):
            # From the far end, so that the last one is always among them.
            chosen = range(layers.stop - 1 - (len(layers) - 1) // step * step, layers.stop, step)
            plan = Plan(_in_order({self._end, *others}), chosen)
            if self._fits(plan):
                return plan
        raise ComparisonError(
            f"{', '.join(plan.stages)} of one layer take {sum(run.nbytes for run in self._runs(plan)):,} bytes on both sides, more than "
            f"the room of {self.room:,}; give more with ",
            ROOM,
            ", or a shorter prompt",
        )

    def result(self) -> Bisection:
        """The last round's comparison again, with blame where there is any to give: to a side, or to a model that makes both NaN."""
        assert self.traces is not None
        report = self.rounds[-1].report
        if report.diverged or any(entry.statistics and not entry.statistics.is_finite for entry in self.traces[0].entries):
            report = diff(*self.traces, model_a=self.models[0], model_b=self.models[1], profile=self.profile, called=self.names)
        return Bisection(tuple(self.rounds), report, *self.traces, self.left)

    def _first(self) -> FirstDivergence | None:
        _, firsts = classify(self._findings, from_graph(self._graph))
        return firsts[0] if firsts else None

    def _frame(self, suspicion: Suspicion) -> Plan | None:
        """The plan that taps what is wrong and what it is computed from, for blame; None if the last round did."""
        assert self.traces is not None
        wanted = [suspicion.key, *suspicion.known]
        if all(key in self.traces[0] for key in wanted):
            return None
        return self._exactly([key.in_step for key in wanted])

    def _exactly(self, wanted: Sequence[tuple[int | None, str]]) -> Plan | None:
        """The plan that taps ``wanted``, or the first of them that there is room for; None if there is room for none."""
        for count in range(len(wanted), 0, -1):
            chosen = wanted[:count]
            layers = [layer for layer, _ in chosen if layer is not None]
            span = range(min(layers), max(layers) + 1) if layers else range(1)
            plan = Plan(_in_order({stage for _, stage in chosen}), span, only=frozenset(chosen))
            if self._fits(plan):
                return plan
        return None

    def _elements(self, item: tuple[int | None, str]) -> int:
        n = len(self.tokens)
        node = next(node for node in self._graph.staged() if (node.layer, node.stage) == item)
        return math.prod(node.type.bind(n=n, t=n))

    def _fits(self, plan: Plan) -> bool:
        return sum(run.nbytes for run in self._runs(plan)) <= self.room

    def _runs(self, plan: Plan) -> list[RunPlan]:
        return [side.plan(plan, self.tokens, RunOptions()) for side in self.sides]


def _in_order(stages: set[str]) -> tuple[str, ...]:
    return tuple(name for name in STAGE_BY_NAME if name in stages)


def check_place(directory: Path) -> None:
    """Raise TraceError unless ``directory`` is empty, not there, or as an earlier bisection left it: rounds replace its traces."""
    probe(directory)
    if directory.is_dir():
        others = sorted(path.name for path in directory.iterdir() if path.name not in _SIDES and not path.name.startswith("."))
        if others:
            raise TraceError.at_place(f"{directory}: holds what is of no bisection ({', '.join(others[:3])})")
        for name in _SIDES:
            check_trace_place(directory / name)


@contextlib.contextmanager
def place_for(directory: Path | None) -> Iterator[Path]:
    """``directory``, made if need be, or a temporary one that is gone afterwards. Raises TraceError as ``check_place`` does."""
    if directory is not None:
        check_place(directory)
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    with temporary_folder("aprgraph-bisect-") as place:
        yield place
