"""A replay: one step of a trace as a graph that reads what was recorded, and what that graph is evaluated on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import Array, is_weight
from aprgraph.graph.passes.prune import Prune
from aprgraph.graph.passes.replay_recorded import PREFIX
from aprgraph.runtime.blame.recorded import Recorded, RecordedTensor
from aprgraph.runtime.trace.aprt import F32

if TYPE_CHECKING:
    from aprgraph.runtime.blame.audit import Auditor


@dataclass(frozen=True)
class Replay:
    """One step as a graph whose outputs are the recorded tensors that can be computed again, and what it is evaluated on.

    ``inputs`` are token ids, positions and recorded tensors by node; ``caches`` hold the rows of earlier steps.
    """

    graph: Graph
    inputs: Mapping[str, Array]
    caches: Mapping[str, Array]
    order: Mapping[str, int]


class ReplayInputs(Mapping[str, Array]):
    """What a replay is evaluated on. Recorded tensors are read when they are asked for: all of them at once may be gigabytes.

    Those of ``as_they_stand`` are read without the reading that was found for them.
    """

    def __init__(
        self,
        inputs: Mapping[str, Array],
        tensors: Mapping[str, RecordedTensor],
        recorded: Recorded,
        as_they_stand: Collection[str] = (),
    ) -> None:
        self._inputs, self._tensors, self._recorded, self._as_they_stand = inputs, tensors, recorded, as_they_stand

    def __getitem__(self, name: str) -> Array:
        if name.startswith(PREFIX):
            source = name.removeprefix(PREFIX)
            return self._recorded.value(self._tensors[source], as_it_stands=source in self._as_they_stand)
        return self._inputs[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._inputs
        yield from (f"{PREFIX}{name}" for name in self._tensors)

    def __len__(self) -> int:
        return len(self._inputs) + len(self._tensors)

    def standing(self, names: Collection[str]) -> ReplayInputs:
        """The same with the recorded tensors ``names`` as they stand in the trace."""
        return ReplayInputs(self._inputs, self._tensors, self._recorded, names)


def as_recorded_type(value: Array, tensor: RecordedTensor) -> F32:
    """A computed value as the trace would hold it: float32, of the last position alone where the trace holds no more."""
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 is Inf there
        computed: F32 = value.astype(np.float32)
    return computed if tensor.last_axis is None else computed.take([-1], axis=tensor.last_axis)


def recompute(auditor: Auditor, replay: Replay, tensor: RecordedTensor, inputs: Mapping[str, Array]) -> F32:
    """The value of one tensor alone, computed once more on other ``inputs``."""
    graph = replay.graph.copy()
    graph.outputs = (tensor.node.name,)
    value: Array | None = None
    for _, value in auditor.run(replace(replay, inputs=inputs), graph=Prune()(graph)):  # noqa: B007 -- the last one is the tensor
        pass
    assert value is not None
    return as_recorded_type(value, tensor)


def operands_of(auditor: Auditor, replay: Replay, name: str) -> list[Array]:
    """The values that a node of a replay is computed from, in float64, weights among them."""
    graph = replay.graph.copy()
    operands = graph.operands(name)
    graph.outputs = tuple(operand.name for operand in operands if not is_weight(operand))
    values = {node.name: value for node, value in auditor.run(replay, graph=Prune()(graph)) if node.name in graph.outputs}
    return [auditor.weights.read(operand, replay.graph[name]) if is_weight(operand) else values[operand.name] for operand in operands]
