"""Engines run graphs on a target, pass by pass. They keep states, such as KV caches, from pass to pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from aprgraph.graph.errors import NonFiniteError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.model import Model
from aprgraph.graph.ops import Array, has_state, is_tap, traits_of
from aprgraph.runtime.reference import run_reference
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.statistics import Statistics, compute_statistics
from aprgraph.runtime.trace.writing_between import WriteFiles, write_each

#: Called with a tap's node, its value (f32 in its shape; whoever wants it later must copy it, or hold it where ``Engine.write_files`` is
#: there) and its statistics.
OnTap = Callable[[Node, F32, Statistics], None]


class Engine(Protocol):
    """Runs graphs of one model. Passes come in the order of their positions."""

    @property
    def target_name(self) -> str:
        """The name of the target, as in traces."""

    @property
    def write_files(self) -> WriteFiles | None:
        """Writes files of values that ``on_tap`` was given, in it or in the same thread. None where these do not stay as they are for as
        long as they are held, or where the engine computes meanwhile.
        """

    def run(self, graph: Graph, tokens: Sequence[int], start: int, on_tap: OnTap | None) -> dict[str, F32]:
        """Run ``tokens`` at positions start, start + 1, …; ``on_tap`` is called as tapped tensors appear.

        Returns the outputs that have no state and are no taps, by node name. Raises what ``on_tap`` raises, NonFiniteError
        after a pass in which a router's scores were NaN, and MemoryError where the values do not fit into memory.
        """

    def summarise(self, values: F32) -> Statistics:
        """The statistics of a tensor, as those that ``on_tap`` is given."""


class Choices:
    """Notes the first place where a NaN kept a router from choosing, for one error at the end of the pass."""

    def __init__(self) -> None:
        #: The node and the position.
        self.first: tuple[Node, int] | None = None

    def see(self, node: Node, ids: Array, start: int) -> None:
        """``ids`` [n, k] is what a node chose at the positions from ``start`` on."""
        rows = np.flatnonzero(np.isnan(ids[:, 0]))
        if rows.size:
            self.note(node, start + int(rows[0]))

    def note(self, node: Node, position: int) -> None:
        """A node could not choose at a position."""
        self.first = self.first or (node, position)

    def check(self) -> None:
        """Raise NonFiniteError if there was a choice that could not be made since the last check."""
        first, self.first = self.first, None
        if first is not None:
            node, position = first
            raise NonFiniteError(
                f"layer {node.layer} moe_router_logits: the router's scores at position {position} hold a NaN, so no expert can be "
                "chosen there, and all that follows is NaN; tap the stages before it to see where it comes from"
            )


@dataclass(frozen=True)
class Received:
    """What a part of a split graph is given: the ``values`` of its `received` nodes, f32 by name.

    In ``choices`` it notes what could not be chosen, for the end of the whole pass, and raises no error itself.
    """

    values: Mapping[str, F32]
    choices: Choices


class PartEngine(Engine, Protocol):
    """Runs parts of split graphs too."""

    def run(
        self, graph: Graph, tokens: Sequence[int], start: int, on_tap: OnTap | None, received: Received | None = None
    ) -> dict[str, F32]:
        """See ``Engine.run``; ``received`` is there for a part of a graph."""


class ReferenceEngine:
    """Interprets graphs in float64; values are rounded to f32 where they leave it."""

    target_name = "reference"
    write_files = staticmethod(write_each)

    def __init__(self, model: Model) -> None:
        self._model = model
        self._states: dict[str, Array] = {}
        self._choices = Choices()

    def run(self, graph: Graph, tokens: Sequence[int], start: int, on_tap: OnTap | None) -> dict[str, F32]:
        """See ``Engine.run``."""
        outputs: dict[str, F32] = {}
        for node, value in run_reference(graph, self._model, tokens, start, self._states):
            if traits_of(node).chooses:
                self._choices.see(node, value, start)
            if has_state(node) or (not is_tap(node) and node.name not in graph.outputs):
                continue
            with np.errstate(over="ignore"):  # beyond float32 is Inf there
                narrow = value.astype(np.float32)
            if not is_tap(node):
                outputs[node.name] = narrow
            elif on_tap is not None:
                on_tap(node, narrow, compute_statistics(narrow))
        self._choices.check()
        return outputs

    def summarise(self, values: F32) -> Statistics:
        """See ``Engine.summarise``."""
        return compute_statistics(values)
