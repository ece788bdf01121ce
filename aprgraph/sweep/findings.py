"""What a sweep comes to: the state of each cell, and which stages, prompts, models and versions those have in common that are off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from aprgraph.graph.errors import TraceError
from aprgraph.graph.words import as_sentence, counted, joined, listed
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.manifest import MANIFEST
from aprgraph.sweep.cells import RunCell
from aprgraph.sweep.log import Log
from aprgraph.sweep.matrix import VERSIONS
from aprgraph.sweep.plan import At, SweepPlan
from aprgraph.sweep.store import Store

FORMAT, VERSION = "aprgraph-sweep", 1
#: The states of a cell of a run and of a comparison, by exit code; MISSING and FAILED have no cell.
RUN_STATES = {0: "RIGHT", 1: "WRONG", 3: "UNKNOWN"}
PAIR_STATES = {0: "ALIKE", 1: "DIVERGED", 2: "NOT COMPARABLE", 3: "NOTHING MEASURED"}
MISSING, FAILED = "MISSING", "FAILED"
_OFF = ("WRONG", "DIVERGED")
_NAMED = 4


@dataclass(frozen=True)
class Finding:
    """One cell of the matrix. ``along`` and ``beside`` say what a comparison is with; ``stages`` are (layer, stage, step) that are off."""

    at: At
    key: str
    state: str
    sentence: str
    tokens: int
    along: str | None = None
    beside: str | None = None
    counts: Mapping[str, int] | None = None
    stages: tuple[Place, ...] = ()
    since: str | None = None
    left_out: int = 0

    @property
    def is_off(self) -> bool:
        """Whether something is wrong there, or parts."""
        return self.state in _OFF

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "prompt": self.at.prompt,
            "tokens": self.tokens,
            "model": self.at.model,
            "target": self.at.target,
            "arithmetic": self.at.arithmetic,
            "overrides": self.at.overrides,
            "along": self.along,
            "beside": self.beside,
            "cell": self.key,
            "state": self.state,
            "sentence": self.sentence,
            "counts": dict(self.counts or {}),
            "stages": [place._asdict() for place in self.stages],
            "since": self.since,
            "left_out": self.left_out,
        }


@dataclass(frozen=True)
class Findings:
    """All cells of a matrix, in its order: runs, then comparisons."""

    cells: tuple[Finding, ...]

    @property
    def off(self) -> list[Finding]:
        """Those that are wrong, or part."""
        return [cell for cell in self.cells if cell.is_off]

    @property
    def counts(self) -> dict[str, int]:
        """How many cells are in each state."""
        return dict(Counter(cell.state for cell in self.cells))

    @property
    def exit_code(self) -> int:
        """As of ``diff``: 1 something is off, 2 a cell is not there or not comparable, 3 nothing was measured in one, else 0."""
        states = {cell.state for cell in self.cells}
        if states & {*_OFF}:
            return 1
        if states & {MISSING, FAILED, "NOT COMPARABLE"}:
            return 2
        return 3 if states & {"UNKNOWN", "NOTHING MEASURED"} else 0

    @property
    def sentence(self) -> str:
        """What to read first."""
        missing = sum(cell.state in (MISSING, FAILED) for cell in self.cells)
        there = len(self.cells) - missing
        lacking = f"; {counted(missing, 'cell')} {'is' if missing == 1 else 'are'} not there" if missing else ""
        if not there:
            return f"Nothing is computed yet of {counted(len(self.cells), 'cell')}."
        if not self.off:
            unsaid = sum(cell.state in ("UNKNOWN", "NOTHING MEASURED", "NOT COMPARABLE") for cell in self.cells)
            rest = f"; of {counted(unsaid, 'cell')} that cannot be said" if unsaid else ""
            return f"Nothing is off in {counted(there, 'cell')}{rest}{lacking}."
        wrong, parted = (sum(cell.state == state for cell in self.cells) for state in _OFF)
        runs = sum(cell.along is None for cell in self.cells)
        parts = [f"{wrong:,} of {counted(runs, 'run')} wrong"] if wrong else []
        parts += [f"{parted:,} of {counted(len(self.cells) - runs, 'comparison')} diverged"] if parted else []
        return as_sentence(f"{joined(parts)}{lacking}")

    @cached_property
    def common(self) -> tuple[str, ...]:
        """What those that are off have in common, in sentences."""
        return tuple(_common(self.cells))

    @property
    def by_stage(self) -> list[tuple[str, int, str]]:
        """(stage, in how many cells it is among the first that are off, of which layers), the most frequent first."""
        layers: dict[str, set[int]] = {}
        count: Counter[str] = Counter()
        for cell in self.off:
            for stage in dict.fromkeys(place.stage for place in cell.stages):
                count[stage] += 1
            for place in cell.stages:
                if place.layer is not None:
                    layers.setdefault(place.stage, set()).add(place.layer)
        return [(stage, number, listed(sorted(layers.get(stage, ())), 6)) for stage, number in count.most_common()]

    def by(self, field: str) -> list[tuple[str, int, int]]:
        """(value, how many of its cells are off, of how many) of ``prompt``, ``model``, ``target``, ``arithmetic`` or ``overrides``."""
        total = Counter(getattr(cell.at, field) for cell in self.cells)
        off = Counter(getattr(cell.at, field) for cell in self.off)
        return [(value, off[value], number) for value, number in total.items()]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "sentence": self.sentence,
            "exit_code": self.exit_code,
            "common": list(self.common),
            "counts": self.counts,
            "stages": [{"stage": stage, "cells": number, "layers": layers} for stage, number, layers in self.by_stage],
            "cells": [cell.to_json() for cell in self.cells],
        }


def find(plan: SweepPlan, store: Store, failures: Mapping[str, str] | None = None) -> Findings:
    """What the store has of the cells of ``plan``. Raises TraceError for a cell that cannot be read."""
    history = _History(store)
    failures = failures or {}
    cells = [_finding(store, history, run.at, run.cell.key, run.cell.slot, len(run.cell.tokens), failures, RUN_STATES) for run in plan.runs]
    cells += [
        _finding(store, history, one.at, one.cell.key, one.cell.slot, len(one.cell.b.tokens), failures, PAIR_STATES, one.along, one.beside)
        for one in plan.pairs
    ]
    if any(compare.along == VERSIONS for compare in plan.matrix.compare):
        cells += [_beside_last(store, history, run.at, run.cell) for run in plan.runs if store.has(run.cell.key)]
    return Findings(tuple(cells))


def _finding(
    store: Store,
    history: _History,
    at: At,
    key: str,
    slot: str,
    tokens: int,
    failures: Mapping[str, str],
    states: Mapping[int, str],
    along: str | None = None,
    beside: str | None = None,
) -> Finding:
    if not store.has(key):
        state, why = (FAILED, failures[key]) if key in failures else (MISSING, "not computed yet")
        return Finding(at, key, state, why, tokens, along, beside)
    document = store.read(key)
    try:
        state = states[document["exit_code"]]
        stages = tuple(Place(step, layer, stage) for layer, stage, step in document["stages"])
        sentence, counts, left_out = str(document["sentence"]), dict(document["counts"]), int(document["left_out"])
    except (KeyError, TypeError, ValueError):
        raise TraceError(f"{store.place(key)}: not the cell that this program wrote; remove its folder, and sweep again") from None
    since = history.since(slot, key, document["exit_code"]) if state in _OFF else None
    return Finding(at, key, state, sentence, tokens, along, beside, counts, stages, since, left_out)


class _History:
    """When the cells of each slot were computed, the first first: of the version at hand, and of those before."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cells: dict[str, dict[str, str]] = {}  # of each slot: the time of each cell
        for line in Log(store.log).lines():
            if line.get("event") == "done" and all(isinstance(line.get(name), str) for name in ("slot", "cell", "time")):
                self._cells.setdefault(line["slot"], {}).setdefault(line["cell"], line["time"])

    def since(self, slot: str, key: str, exit_code: int) -> str | None:
        """Since which run it has been as it is."""
        times = self._cells.get(slot, {})
        if key not in times:
            return None
        since, right = times[key], False
        for other, when in reversed([*times.items()][: [*times].index(key)]):
            if not self._store.has(other):
                continue
            if self._store.read(other).get("exit_code") != exit_code:
                right = True
                break
            since = when
        return f"{since}, not before" if right else since

    def last_before(self, slot: str, key: str) -> str | None:
        """The cell of the version before."""
        others = [other for other in self._cells.get(slot, {}) if other != key and self._store.has(other)]
        return others[-1] if others else None


def _beside_last(store: Store, history: _History, at: At, cell: RunCell) -> Finding:
    """A run beside that of the version before, by the statistics that are kept of every tensor."""
    tokens = len(cell.tokens)
    other = history.last_before(cell.slot, cell.key)
    if other is None:
        return Finding(at, cell.key, "NOTHING MEASURED", "the store has no run of another version", tokens, VERSIONS, "last")
    ours, theirs = (store.read(key, MANIFEST)["tensors"] for key in (cell.key, other))
    before = {(one["step"], one["layer"], one["stage"]): (one["shape"], one["statistics"]) for one in theirs}
    changed = [
        Place(one["step"], one["layer"], one["stage"])
        for one in ours
        if before.get((one["step"], one["layer"], one["stage"])) != (one["shape"], one["statistics"])
    ]
    if not changed:
        return Finding(
            at,
            cell.key,
            "ALIKE",
            f"the statistics of {counted(len(ours), 'tensor')} are those of the version before",
            tokens,
            VERSIONS,
            "last",
        )
    sentence = (
        f"{counted(len(changed), 'tensor')} of {len(ours):,} have other statistics than in the version before, first {changed[0].label}"
    )
    return Finding(at, cell.key, "DIVERGED", sentence, tokens, VERSIONS, "last", {}, tuple(changed[:1]))


_AXES = {"model": "the model", "target": "the target", "arithmetic": "the arithmetic", "overrides": "the overrides"}


def _common(cells: Sequence[Finding]) -> Iterator[str]:
    """Sentences about what is off: by the length of prompts, by the values of each axis, by stages."""
    off = [cell for cell in cells if cell.is_off]
    if not off:
        return
    # Of the comparisons that are off only those along the same axis say something about what is not off.
    kinds = {cell.along for cell in off}
    right = [cell for cell in cells if cell.along in kinds and cell.state in ("RIGHT", "ALIKE")]
    for field, called in _AXES.items():
        values = dict.fromkeys(getattr(cell.at, field) for cell in off)
        others = {getattr(cell.at, field) for cell in cells if cell.along in kinds} - values.keys()
        if others and len(values) <= _NAMED:
            yield f"All of it has {called} {joined([*values], 'or')}; with {listed(sorted(others), _NAMED)} nothing is off."
    alike = _same_places(off, right)
    shortest, longest = min(cell.tokens for cell in off), max((cell.tokens for cell in alike), default=None)
    prompts = {cell.at.prompt for cell in off}
    if longest is not None and longest < shortest:
        yield (
            f"Only prompts of {shortest} tokens and more are off ({counted(len(prompts), 'prompt')}); "
            f"those of up to {longest} are not: look for what begins beyond {longest} positions, such as a window."
        )
    elif alike and len(prompts) < len({cell.at.prompt for cell in (*off, *alike)}):
        yield f"Some prompts show it and others do not: {listed(sorted(prompts), _NAMED)}."
    first = Counter(cell.stages[0].stage for cell in off if cell.stages)
    if first:
        stage, number = first.most_common(1)[0]
        yield f"First off: {stage} in {number:,} of {counted(len(off), 'cell')}."


def _same_places(off: Sequence[Finding], right: Sequence[Finding]) -> list[Finding]:
    """Those of ``right`` that differ from one of ``off`` by the prompt alone."""
    places = {(cell.along, cell.beside, cell.at.model, cell.at.target, cell.at.arithmetic, cell.at.overrides) for cell in off}
    return [
        cell for cell in right if (cell.along, cell.beside, cell.at.model, cell.at.target, cell.at.arithmetic, cell.at.overrides) in places
    ]
