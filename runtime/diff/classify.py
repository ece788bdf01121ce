"""Which divergent tensors are the first, which follow from them, and where between taps the cause can lie."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from aprgraph.runtime.diff.dependencies import Dependencies, Value
from aprgraph.runtime.place import Place

#: A divergent tensor whose nearest measured ancestors carry at least this part of its NMSE got most of it from them.
INHERITED_PART = 0.1


class Class(str, Enum):
    """What became of one tensor."""

    IDENTICAL = "IDENTICAL"
    NOISE = "NOISE"
    PROPAGATED = "PROPAGATED"
    INTRODUCED = "INTRODUCED"
    ACCUMULATED = "ACCUMULATED"
    NAN = "NAN"
    SHAPE = "SHAPE"
    OTHER_FORM = "OTHER FORM"
    UNMEASURED = "UNMEASURED"


class State(Enum):
    """What the numbers of one pair say by themselves, before its place in the graph is looked at."""

    IDENTICAL = "identical"
    NOISE = "noise"
    EXCEEDS = "exceeds"
    NAN = "nan"
    SHAPE = "shape"
    OTHER_FORM = "other form"
    UNMEASURED = "unmeasured"


#: Classes that say that two tensors differ, and states that do.
DIVERGED = frozenset({Class.PROPAGATED, Class.INTRODUCED, Class.ACCUMULATED, Class.NAN, Class.SHAPE})
DIVERGENT = frozenset({State.EXCEEDS, State.NAN, State.SHAPE})


@dataclass(frozen=True)
class Finding:
    """``state`` of one tensor; ``nmse`` where it is known. ``own``: it is more than what the tensor is computed from explains."""

    state: State
    nmse: float | None = None
    own: bool = False


@dataclass(frozen=True)
class FirstDivergence:
    """A divergent tensor without a divergent measured ancestor.

    ``region`` names the graph nodes that can hold the cause, in execution order, the tensor's own last: everything
    between it and ``good``, its nearest measured ancestors. ``weights`` are the model tensors that the region reads.
    ``following`` are the nearest measured tensors after it. ``inside`` are the stages of the region; of layers of which nothing was
    measured, their ends.
    """

    key: Place
    region: tuple[str, ...]
    weights: tuple[str, ...]
    good: tuple[Place, ...]
    following: tuple[Place, ...]
    inside: tuple[Place, ...] = ()


def classify(findings: Mapping[Place, Finding], dependencies: Dependencies) -> tuple[dict[Place, Class], tuple[FirstDivergence, ...]]:
    """The class of each tensor, and the first divergences; both in the order of ``findings``.

    NAN and SHAPE are facts and stay what they are wherever they stand. A tensor beyond its tolerance is PROPAGATED
    behind a divergent ancestor, else INTRODUCED, or ACCUMULATED where its nearest measured ancestors, each within
    tolerance, carry most of it already.
    """
    key_of = {value: key for key, value in dependencies.value_of.items() if key in findings}
    divergent = {key for key, finding in findings.items() if finding.state in DIVERGENT}
    behind = dependencies.behind({dependencies.value_of[key] for key in divergent})
    measured = {value for value, key in key_of.items() if findings[key].state is not State.UNMEASURED}
    order = {value: index for index, value in enumerate(dependencies.operands)}
    classes: dict[Place, Class] = {}
    firsts: list[FirstDivergence] = []
    for key, finding in findings.items():
        value = dependencies.value_of[key]
        if finding.state is not State.EXCEEDS:
            classes[key] = Class[finding.state.name]
        elif value in behind:
            classes[key] = Class.PROPAGATED
        if key not in divergent or value in behind:
            continue
        first = _first(key, dependencies, measured, key_of, order)
        firsts.append(first)
        if key not in classes:
            inherited = max((findings[good].nmse or 0.0 for good in first.good), default=0.0)
            accumulated = finding.nmse is not None and inherited >= INHERITED_PART * finding.nmse > 0
            classes[key] = Class.ACCUMULATED if accumulated and not finding.own else Class.INTRODUCED
    return classes, tuple(firsts)


def computed_from_identical(states: Mapping[Place, State], dependencies: Dependencies) -> set[Place]:
    """The tensors within tolerance that are computed from identical tensors alone, with no unmeasured stage between."""
    stages = {value: states.get(key, State.UNMEASURED) for key, value in dependencies.value_of.items()}
    found: set[Place] = set()
    for key, state in states.items():
        if state is State.NOISE:
            _, inputs = own_computation(dependencies.value_of[key], dependencies, stages)
            if inputs and all(stages[value] is State.IDENTICAL for value in inputs):
                found.add(key)
    return found


def own_computation(value: Value, dependencies: Dependencies, stages: Container[Value]) -> tuple[set[Value], set[Value]]:
    """What a stage computes by itself, from the nearest of ``stages``; and those."""
    return _reach(value, dependencies.operands, stages)


def _reach(start: Value, neighbours: Mapping[Value, Iterable[Value]], stop: Container[Value]) -> tuple[set[Value], set[Value]]:
    """What lies between ``start`` and the nearest of ``stop``, ``start`` included; and those nearest ones."""
    between, nearest, todo = {start}, set(), [start]
    while todo:
        for value in neighbours[todo.pop()]:
            if value in stop:
                nearest.add(value)
            elif value not in between:
                between.add(value)
                todo.append(value)
    return between, nearest


def _first(
    key: Place, dependencies: Dependencies, measured: set[Value], key_of: Mapping[Value, Place], order: Mapping[Value, int]
) -> FirstDivergence:
    value = dependencies.value_of[key]
    region, good = _reach(value, dependencies.operands, measured)
    _, following = _reach(value, dependencies.readers, measured)
    steps = {step for step, _ in region}
    names: dict[bool, list[str]] = {False: [], True: []}
    values = sorted(region, key=order.__getitem__)
    for step, name in values:
        is_weight = (step, name) in dependencies.weights
        label = name if is_weight or steps == {0} else f"step {step} {name}"
        if label not in names[is_weight]:
            names[is_weight].append(label)
    before, after = (tuple(key_of[near] for near in sorted(side, key=order.__getitem__)) for side in (good, following))
    inside = tuple(place for value in values for place in dependencies.inside.get(value, ()))
    return FirstDivergence(key, tuple(names[False]), tuple(names[True]), before, after, inside)
