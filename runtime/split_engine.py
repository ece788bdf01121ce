"""Runs a graph in parts, each by an engine of its own, and hands on what crosses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import is_received
from aprgraph.runtime.engine import Choices, OnTap, PartEngine, Received
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.statistics import Statistics


class SplitEngine:
    """Runs the parts of a graph, one after the other, in the order of its layers (see ``Engine``).

    ``parts`` holds those of each graph, by id of the graph that ``run`` is given: each with the engine that runs it. The taps come in
    the order of a run in one piece, for the parts have the graph's nodes in its order.
    """

    def __init__(self, parts: Mapping[int, Sequence[tuple[Graph, PartEngine]]]) -> None:
        self._parts = parts
        self._engines = list({id(engine): engine for those in parts.values() for _, engine in those}.values())

    @property
    def target_name(self) -> str:
        """What the engines name the target; where they do not agree, each of their names."""
        return ", ".join(dict.fromkeys(engine.target_name for engine in self._engines))

    write_files = None

    def run(self, graph: Graph, tokens: Sequence[int], start: int, on_tap: OnTap | None) -> dict[str, F32]:
        """See ``Engine.run``."""
        values: dict[str, F32] = {}
        choices = Choices()
        for part, engine in self._parts[id(graph)]:
            received = {node.name: values[node.name] for node in part if is_received(node)}
            values.update(engine.run(part, tokens, start, on_tap, Received(received, choices)))
        choices.check()
        return {name: values[name] for name in graph.outputs if name in values}

    def summarise(self, values: F32) -> Statistics:
        """See ``Engine.summarise``."""
        return self._engines[0].summarise(values)
