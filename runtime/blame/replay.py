"""Replays: one step of a trace as a graph that reads what was recorded, and the evaluation of that graph in float64."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import Array, is_weight, states_of
from aprgraph.graph.passes.prune import Prune, part_of
from aprgraph.graph.passes.replay_recorded import PREFIX, ReplayRecorded
from aprgraph.runtime.blame.recorded import Recorded, RecordedTensor
from aprgraph.runtime.reference import evaluate
from aprgraph.runtime.trace.aprt import F32

#: Decodes a weight for the node that reads it, in float64.
ReadWeight = Callable[[Node, Node], Array]


@dataclass(frozen=True)
class Replay:
    """One step as a graph whose outputs are the recorded tensors that can be computed again, and what it is evaluated on.

    ``inputs`` are token ids, positions and recorded tensors by node; ``states`` are what earlier steps left, such as the
    rows of KV caches.
    """

    graph: Graph
    inputs: Mapping[str, Array]
    states: Mapping[str, Array]
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


class Replayer:
    """Replays the steps of one trace: ``recorded`` by the ``graph`` of its model, on weights as ``read`` gives them.

    ``read_in_parts`` gives them to the references of ops, which may have them decoded as they go (default: ``read``).
    """

    def __init__(self, graph: Graph, recorded: Recorded, read: ReadWeight, read_in_parts: ReadWeight | None = None) -> None:
        self.graph, self.recorded, self.read = graph, recorded, read
        self._read_in_parts = read_in_parts or read

    def replay(self, step: int, states: Mapping[str, Array], lost: frozenset[str], *, keep_states: bool) -> Replay:
        """The replay of one step; ``states`` is what the steps before it left, but for those ``lost``."""
        recorded, tensors = self.recorded, self.recorded.of_step(step)
        tokens, start, length = recorded.pass_tokens(step), recorded.pass_start(step), recorded.pass_length(step)
        inputs: dict[str, Array] = {}
        if tokens:
            inputs["tokens"] = np.asarray(tokens, dtype=np.int64)
        if start is not None and length is not None:
            inputs["positions"] = np.arange(start, start + length)
        kept = [node.name for node in states_of(self.graph)] if keep_states else []
        transform = ReplayRecorded(
            sources=frozenset(name for name, tensor in tensors.items() if tensor.is_whole),
            targets=frozenset(name for name, tensor in tensors.items() if tensor.is_readable),
            given=frozenset(inputs),
            kept=frozenset(kept),
            lost=lost,
        )
        graph = Prune()(transform(self.graph))  # not verified: for a long trace that takes longer than the replay
        order = {node.name: index for index, node in enumerate(graph)}
        return Replay(graph, ReplayInputs(inputs, tensors, recorded), dict(states), order)

    def replay_of(self, step: int) -> Replay:
        """The replay of one step, with the states that the steps before it leave."""
        states: dict[str, Array] = {}
        lost = self.lost_before()
        for earlier in self.recorded.passes():
            if earlier >= step:
                break
            replay = self.replay(earlier, states, lost, keep_states=True)
            for _ in self.run(replay, states):
                pass
            lost |= self.lost(replay)
        return self.replay(step, states, lost, keep_states=False)

    def run(
        self,
        replay: Replay,
        states: dict[str, Array] | None = None,
        *,
        graph: Graph | None = None,
        change: Callable[[Node, Array], Array] | None = None,
    ) -> Iterator[tuple[Node, Array]]:
        """Every computed node of a replay, or of a part of its graph, with its value in float64; ``states`` is brought up to date.

        ``change`` gives what others read in the place of a computed node's value.
        """
        states = dict(replay.states) if states is None else states
        return evaluate(graph or replay.graph, replay.inputs, self._read_in_parts, states, change)

    def lost_before(self) -> frozenset[str]:
        """The states that positions before the first recorded one have left, and nobody knows."""
        return frozenset(node.name for node in states_of(self.graph)) if self.recorded.beginning.before else frozenset()

    def lost(self, replay: Replay) -> frozenset[str]:
        """The states that a replay does not bring up to date."""
        return frozenset(node.name for node in states_of(self.graph) if node.name not in replay.graph)

    def recompute(
        self,
        replay: Replay,
        tensor: RecordedTensor,
        inputs: Mapping[str, Array],
        change: Callable[[Node, Array], Array] | None = None,
    ) -> F32:
        """The value of one tensor alone, computed once more on other ``inputs``, with what ``change`` makes of values on the way."""
        graph = part_of(replay.graph, (tensor.node.name,))
        value: Array | None = None
        for _, value in self.run(replace(replay, inputs=inputs), graph=graph, change=change):  # noqa: B007 -- the last one is the tensor
            pass
        assert value is not None
        return as_recorded_type(value, tensor)

    def operands_of(self, replay: Replay, name: str) -> list[Array]:
        """The values that a node of a replay is computed from, in float64, weights among them."""
        operands = replay.graph.operands(name)
        graph = part_of(replay.graph, tuple(operand.name for operand in operands if not is_weight(operand)))
        values = {node.name: value for node, value in self.run(replay, graph=graph) if node.name in graph.outputs}
        return [self.read(operand, replay.graph[name]) if is_weight(operand) else values[operand.name] for operand in operands]
