"""Replays by the workers of an executor: each computes parts of a graph, and the values come back in the order of the graph.

Judging stays where the trace is. How one tensor is judged may change how it is read by what follows, so a part is computed on what is
known when it is begun, and once more if it turns out to have been read otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.model import Model
from aprgraph.graph.ops import Array, Role, has_state, is_computed, is_weight, traits_of
from aprgraph.graph.passes.prune import part_of
from aprgraph.graph.passes.replay_recorded import PREFIX
from aprgraph.runtime.blame.recorded import Recorded
from aprgraph.runtime.blame.replay import Replay
from aprgraph.runtime.blame.replay_worker import compute_part
from aprgraph.runtime.executors.workers import WorkersExecutor
from aprgraph.runtime.model_place import ModelPlace
from aprgraph.runtime.readings import Reading

#: So many elements of weights make a part: enough that decoding them takes longer than sending what they are multiplied by.
_PART = 1 << 22
#: How many parts are begun beyond those that the workers are at, so that none waits.
_AHEAD = 2


class ReplayWorkers:
    """The workers of ``executor``, as they replay one model, which each of them finds at the path that it has here."""

    def __init__(self, executor: WorkersExecutor, model: Model) -> None:
        self.executor = executor
        self.place = ModelPlace.of(model)

    def run(self, recorded: Recorded, step: int, replay: Replay, states: dict[str, Array], graph: Graph) -> Iterator[tuple[Node, Array]]:
        """The values of ``graph``, which is that of the replay of a step or a part of it, as ``Replayer.run`` gives them.

        Those of nodes without a stage are left out, but for outputs and for choices and what is chosen by. ``states`` is brought up to
        date. What a recorded tensor is read by is what is known when the node behind it would be computed, as in one process.
        """
        return _Walk(self, recorded, step, replay, states, graph).run()


@dataclass
class _Task:
    """A part that was begun; ``read_by`` says how the recorded tensors that it reads were read."""

    future: Future[tuple[dict[str, Array], dict[str, Array]]]
    read_by: Mapping[str, Reading | None]


class _Walk:
    """One step, from the first node to the last."""

    def __init__(
        self, workers: ReplayWorkers, recorded: Recorded, step: int, replay: Replay, states: dict[str, Array], graph: Graph
    ) -> None:
        self._workers, self._recorded, self._step, self._replay = workers, recorded, step, replay
        self._states, self._graph = states, graph
        self._parts = parts_of_replay(graph, _PART)
        self._wanted = frozenset(node.name for node in graph if _is_looked_at(graph, node))
        self._tasks: dict[int, _Task | None] = {}
        self._passed: dict[str, Reading | None] = {}  # the recorded nodes that are behind, as they were read

    def run(self) -> Iterator[tuple[Node, Array]]:
        """See ``ReplayWorkers.run``."""
        try:
            for number, part in enumerate(self._parts):
                last = min(number + self._workers.executor.workers + _AHEAD, len(self._parts))
                for ahead in range(number, last):
                    if ahead not in self._tasks:
                        self._tasks[ahead] = self._begin(self._parts[ahead])
                for node in part:
                    if traits_of(node).role is Role.RECORDED:
                        self._passed[node.name] = self._reading(node.name)
                    if node.name in self._wanted:
                        yield node, self._results(number)[0][node.name] if is_computed(node) else self._given(node)
                if self._tasks[number] is not None:
                    self._states.update(self._results(number)[1])
                del self._tasks[number]
        finally:
            for task in self._tasks.values():
                if task is not None:
                    task.future.cancel()

    def _results(self, number: int) -> tuple[dict[str, Array], dict[str, Array]]:
        task = self._tasks[number]
        assert task is not None
        if any(self._passed.get(name, reading) is not reading for name, reading in task.read_by.items()):
            task.future.cancel()
            task = self._tasks[number] = self._begin(self._parts[number])
            assert task is not None
        return task.future.result()

    def _begin(self, part: Sequence[Node]) -> _Task | None:
        """Have a part computed; None where nothing of it is asked for."""
        ends = [node.name for node in part if is_computed(node) and (node.name in self._wanted or has_state(node))]
        if not ends:
            return None
        graph = part_of(self._graph, ends)
        read_by = {node.name: self._reading(node.name) for node in graph if traits_of(node).role is Role.RECORDED}
        inputs = {node.name: self._given(node) for node in graph if traits_of(node).role in (Role.INPUT, Role.RECORDED)}
        states = {node.name: self._states[node.name] for node in graph if node.name in self._states}
        wanted = self._wanted.intersection(ends)
        return _Task(self._workers.executor.submit(compute_part, self._workers.place, graph, inputs, states, wanted), read_by)

    def _given(self, node: Node) -> Array:
        if traits_of(node).role is Role.INPUT:
            return np.asarray(self._replay.inputs[node.name], dtype=np.int64)
        tensor = self._recorded.of_step(self._step)[node.name.removeprefix(PREFIX)]
        return self._recorded.value_by(tensor, self._reading(node.name))

    def _reading(self, name: str) -> Reading | None:
        """What a recorded node is read by: at the time when it was passed, or as far as is known now."""
        if name in self._passed:
            return self._passed[name]
        return self._recorded.readings.get((self._step, name.removeprefix(PREFIX)))


def parts_of_replay(graph: Graph, least: int) -> list[list[Node]]:
    """The nodes of a replay but its weights, in order, in parts of about ``least`` elements of weights or more.

    From one part to the next nothing goes that takes more than a moment to compute again: each begins at what was recorded.
    """
    nodes = [node for node in graph if not is_weight(node)]
    index = {node.name: number for number, node in enumerate(nodes)}
    parts: list[list[Node]] = [[]]
    cheap: set[str] = set()
    reaches, elements = -1, 0
    for number, node in enumerate(nodes):
        if reaches < number and elements >= least:
            parts.append([])
            elements = 0
        parts[-1].append(node)
        if _is_cheap(node) and all(operand.name in cheap or is_weight(operand) for operand in graph.operands(node.name)):
            cheap.add(node.name)
        else:
            reaches = max([reaches, *(index[user.name] for user in graph.users(node.name))])
        elements += sum(math.prod(operand.type.bind()) for operand in graph.operands(node.name) if is_weight(operand))
    return parts


def _is_cheap(node: Node) -> bool:
    traits = traits_of(node)
    return not (traits.is_matmul or traits.attended or traits.state is not None or traits.chooses)


def _is_looked_at(graph: Graph, node: Node) -> bool:
    """Whether the judge looks at a node's value: see ``Judge.see``."""
    if node.name in graph.outputs or traits_of(node).chooses:
        return not is_weight(node)
    return (is_computed(node) and node.stage is not None) or any(traits_of(user).chooses for user in graph.users(node.name))
