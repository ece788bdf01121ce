"""From a matrix to cells: models are opened, prompts become tokens, and what cannot be run is said before anything is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from aprgraph.api import LoadedModel, load
from aprgraph.codegen.cpu.levels import find_cpu
from aprgraph.graph.errors import AprgraphError, PlanError
from aprgraph.graph.families.registry import own_sources
from aprgraph.graph.metadata import parse_overrides
from aprgraph.graph.passes.insert_taps import stages_in
from aprgraph.graph.tap_plan import parse_plan, parse_steps
from aprgraph.runs.plan import RunOptions
from aprgraph.sweep.cells import Group, ModelOf, PairCell, RunCell, group_cells
from aprgraph.sweep.matrix import VERSIONS, Compare, Matrix, ModelEntry, PromptOf, Variant
from aprgraph.sweep.work import identity_here


@dataclass(frozen=True)
class At:
    """Where a cell stands in the matrix, by the names of its values."""

    prompt: str
    model: str
    target: str
    arithmetic: str
    overrides: str

    def without(self, along: str) -> At:
        """The same place but for the axis ``along``."""
        return replace(self, **{_FIELDS[along]: ""})


_FIELDS = {"models": "model", "targets": "target", "arithmetics": "arithmetic", "overrides": "overrides"}


@dataclass(frozen=True)
class PlannedRun:
    """A cell of the matrix; several may be of one cell of the store."""

    at: At
    cell: RunCell


@dataclass(frozen=True)
class PlannedPair:
    """A comparison: ``at`` is the place of its second side, ``beside`` the value of the axis ``along`` that it is compared with."""

    at: At
    along: str
    beside: str
    cell: PairCell


@dataclass(frozen=True)
class SweepPlan:
    """All cells of a matrix; ``tokens`` are how many each prompt has, of the first model; ``notices`` what is to be known of models."""

    matrix: Matrix
    runs: tuple[PlannedRun, ...]
    pairs: tuple[PlannedPair, ...]
    tokens: dict[str, int]
    notices: tuple[str, ...]

    @property
    def groups(self) -> list[Group]:
        """What workers are given."""
        return group_cells([run.cell for run in self.runs], [pair.cell for pair in self.pairs])


def plan_sweep(matrix: Matrix, say: Callable[[str], None] = lambda _: None) -> SweepPlan:
    """The cells of ``matrix``. Raises AprgraphError, naming the cell, for what no run could do."""
    identity = identity_here()
    cpu = find_cpu(matrix.cpu).name
    loaded: dict[tuple[str, str], tuple[LoadedModel, ModelOf]] = {}
    notices: dict[str, None] = {}
    for entry, variant in product(matrix.models, matrix.overrides):
        say(f"{entry.name}, {variant.name}")
        opened = load(entry.path, parse_overrides(list(variant.set)), entry.ignore)
        notices |= dict.fromkeys(opened.model.notices)
        loaded[entry.name, variant.name] = opened, _named(opened, entry, variant)
    runs: list[PlannedRun] = []
    tokens: dict[str, int] = {}
    known: dict[tuple[str, PromptOf], tuple[int, ...]] = {}
    for (entry, variant), prompt in product(product(matrix.models, matrix.overrides), matrix.prompts):
        opened, model = loaded[entry.name, variant.name]
        ids = known.get((entry.name, prompt))
        if ids is None:
            ids = known[entry.name, prompt] = _encode(opened, prompt, matrix)
        tokens.setdefault(prompt.name, len(ids))
        for target, arithmetic in product(matrix.targets, matrix.arithmetics):
            at = At(prompt.name, entry.name, target, arithmetic, variant.name)
            cell = RunCell(model, target, cpu if target.startswith(("llvm", "rpc")) else "", arithmetic, ids, matrix.recording, identity)
            runs.append(PlannedRun(at, cell))
    _check(matrix, loaded, runs)
    order = {prompt.name: index for index, prompt in enumerate(matrix.prompts)}
    runs.sort(key=lambda run: order[run.at.prompt])
    pairs = [pair for compare in matrix.compare if compare.along != VERSIONS for pair in _pairs(compare, runs)]
    return SweepPlan(matrix, tuple(runs), tuple(pairs), tokens, tuple(notices))


def _named(opened: LoadedModel, entry: ModelEntry, variant: Variant) -> ModelOf:
    path = Path(entry.path).absolute()
    files, sources = own_sources(type(opened.model.family))
    return ModelOf(str(path), path.name, opened.model.file.fingerprint(), variant.set, entry.ignore, files, sources)


def _encode(opened: LoadedModel, prompt: PromptOf, matrix: Matrix) -> tuple[int, ...]:
    try:
        if prompt.tokens is not None:
            return prompt.tokens
        assert prompt.text is not None
        return tuple(opened.encode_chat(prompt.text, prompt.system) if prompt.chat else opened.encode(prompt.text))
    except AprgraphError as error:
        raise PlanError(f"{matrix.path}: {prompt.name} for {opened.model.path.name}: ", error.message) from None


def _check(matrix: Matrix, loaded: dict[tuple[str, str], tuple[LoadedModel, ModelOf]], runs: list[PlannedRun]) -> None:
    """Plan the longest prompt of each model, without compiling: taps, layers and lengths that cannot be are said here."""
    asked = matrix.recording
    longest: dict[tuple[str, str, str], PlannedRun] = {}
    for run in runs:
        key = (run.at.model, run.at.overrides, run.at.arithmetic)
        if key not in longest or len(longest[key].cell.tokens) < len(run.cell.tokens):
            longest[key] = run
    for (model, variant, arithmetic), run in longest.items():
        options = RunOptions(asked.positions, asked.max_tokens, parse_steps(asked.steps), asked.prefill_chunk, arithmetic)
        opened = loaded[model, variant][0]
        try:
            taps = parse_plan(asked.taps, asked.layers, lambda opened=opened: stages_in(opened.graph))  # type: ignore[misc]
            planned = opened.plan(taps, run.cell.tokens, options)
        except AprgraphError as error:
            raise PlanError(f"{matrix.path}: {run.at.prompt} on {model}, {variant}: ", error.message) from None
        if planned.plan.is_empty:
            raise PlanError(f"{matrix.path}: taps is {asked.taps!r}, which records nothing; expected all, or a list of stages")


def _pairs(compare: Compare, runs: list[PlannedRun]) -> Iterator[PlannedPair]:
    beside: dict[At, list[PlannedRun]] = {}
    for run in runs:
        beside.setdefault(run.at.without(compare.along), []).append(run)
    field = _FIELDS[compare.along]
    for group in beside.values():
        first = next((run for run in group if getattr(run.at, field) == compare.with_), group[0])
        for run in group:
            if run is not first:
                yield PlannedPair(run.at, compare.along, getattr(first.at, field), PairCell(first.cell, run.cell))
