"""Runs of a model, right or with a fault, as traces that lie in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import Array, has_state, is_input, is_own_state, is_tap, is_weight, traits_of
from aprgraph.graph.stages import is_logits
from aprgraph.graph.tap_plan import Plan
from aprgraph.graph.text import print_graph
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.manifest import TraceEntry, TraceInfo
from aprgraph.runtime.trace.reader import Trace
from tests.zoo.arithmetic import Float32
from tests.zoo.planting import Call, Plant, Stored
from tests.zoo.subjects import TOKENS, Subject, recorded

NOTHING = Plant()


class MemoryTrace(Trace):
    """A trace whose tensors and graph are at hand: thousands are compared, and files are other tests' subject."""

    def __init__(self, name: str, graph: Graph | None, tensors: Mapping[Place, tuple[str, F32]], info: TraceInfo) -> None:
        entries = [
            TraceEntry(stage, layer, step, value.shape, f"{step}-{layer}-{stage}", node)
            for (step, layer, stage), (node, value) in tensors.items()
        ]
        super().__init__(Path(name), entries, info)
        self._graph = graph
        self._tensors = {key: value for key, (_, value) in tensors.items()}

    def load_unverified(self, entry: TraceEntry) -> F32:
        return self._tensors[entry.key]

    def graph(self) -> Graph | None:
        return self._graph


@dataclass
class Run:
    """``tensors`` of every stage by key: the node, and its value. ``generated`` tokens. In ``visible``, how far planted values are off."""

    subject: Subject
    tokens: tuple[int, ...]
    tensors: dict[Place, tuple[str, F32]] = field(default_factory=dict)
    generated: list[int] = field(default_factory=list)
    visible: dict[tuple[int, str], float] = field(default_factory=dict)
    target: str = "float32"

    def trace(self, name: str, plan: Plan) -> MemoryTrace:
        """What a run with the taps of ``plan`` leaves. The manifest has the right graph: a bug does not stand there."""
        subject = self.subject
        model = {
            "name": subject.model.path.name,
            "architecture": subject.model.family.architecture,
            "fingerprint": subject.fingerprint,
            "overrides": dict(subject.model.overrides),
        }
        extra = {"generated": self.generated} if subject.steps > 1 else {}
        info = TraceInfo(model, self.target, self.tokens, plan.describe(), "last", _text(subject, plan), extra)
        tensors = {key: one for key, one in self.tensors.items() if plan.selects(key[2], key[1])}
        return MemoryTrace(name, recorded(subject, plan), tensors, info)


@cache
def _text(subject: Subject, plan: Plan) -> str:
    return print_graph(recorded(subject, plan))


def run(subject: Subject, seed: int, plant: Plant = NOTHING, tokens: Sequence[int] = TOKENS) -> Run:
    """Run a model in float32 of the given seed, with what ``plant`` puts into it."""
    result = Run(subject, tuple(tokens))
    states: dict[str, Array] = {}
    for step in range(subject.steps):
        given = tokens if step == 0 else result.generated[-1:]
        start = 0 if step == 0 else len(tokens) + step - 1
        values = _pass(result, Float32(seed), plant, step, np.asarray(given), start, states)
        if subject.steps > 1:
            result.generated.append(int(values["lm_head"][-1].argmax()))
    return result


def _pass(
    result: Run, arithmetic: Float32, plant: Plant, step: int, tokens: Array, start: int, states: dict[str, Array]
) -> dict[str, Array]:
    subject = result.subject
    graph = subject.graph
    values: dict[str, Array] = {"tokens": tokens.astype(np.int64), "positions": np.arange(start, start + len(tokens))}
    misread = {name: _read_wrongly(subject, plant, name) for name in plant.weights}
    for node in graph:
        if is_weight(node) or is_input(node):
            continue
        names = graph.operand_names(node.name)
        if is_tap(node):
            _record(result, step, node, names[0], values[names[0]])
            continue
        right = [values[name] if name in values else subject.weight(graph[name].attr_str("tensor")) for name in names]
        call = Call(subject, node, right, values, step, arithmetic, states.get(node.name))
        patch = plant.nodes.get(node.name) if step in plant.steps else None
        if patch is not None:
            with np.errstate(all="ignore"):
                values[node.name] = np.asarray(patch(call), np.float32)
        elif any(name in misread for name in names):
            values[node.name] = call.compute([misread.get(name, operand) for name, operand in zip(names, right, strict=True)])
        else:
            values[node.name] = _computed(call)
        if patch is not None or any(name in misread for name in names):
            result.visible[step, node.name] = distance(values[node.name], _computed(call))
        if has_state(node):
            states[node.name] = values[node.name] if is_own_state(node) else _advanced(call)[1]
    return values


def _computed(call: Call) -> Array:
    return _advanced(call)[0] if has_state(call.node) else call.compute()


def _advanced(call: Call) -> tuple[Array, Array]:
    """The value of a node with a state, and that state after the pass, both f32."""
    state = traits_of(call.node).state
    assert state is not None
    with np.errstate(all="ignore"):
        value, after = state.advance(call.operands, call.node.attrs, call.earlier)
    return np.asarray(value, np.float32), np.asarray(after, np.float32)


def _read_wrongly(subject: Subject, plant: Plant, tensor: str) -> F32:
    info = subject.model.tensor(tensor)
    raw = subject.model.file.tensor_bytes(info).copy()
    value: F32 = np.asarray(plant.weights[tensor](Stored(subject, info, raw, subject.weight(tensor))), np.float32)
    assert value.shape == info.dims, f"{tensor} is {value.shape}, expected {info.dims}"
    return value


def _record(result: Run, step: int, tap: Node, name: str, value: Array) -> None:
    assert tap.stage is not None
    shape = (value.size,) if is_logits(tap.stage) else value.shape
    result.tensors[step, tap.layer, tap.stage] = (name, np.asarray(value, np.float32).reshape(shape))


def distance(a: Array, b: Array) -> float:
    """How far two values are apart: the relative mean square error of the worst row or column, Inf where only one is finite."""
    if a.shape != b.shape or (np.isfinite(a) != np.isfinite(b)).any():
        return math.inf
    finite = np.isfinite(a) & np.isfinite(b)
    wide_a, wide_b = (np.where(finite, side, 0.0).astype(np.float64).reshape(-1, a.shape[-1]) for side in (a, b))
    error, signal = np.square(wide_a - wide_b), np.square(wide_b)
    scale = float(signal.mean())
    if scale == 0.0:
        return math.inf if error.any() else 0.0
    return float(max(error.mean(axis=0).max(), error.mean(axis=1).max())) / scale
