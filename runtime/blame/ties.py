"""Choices among experts that rounding may have changed: where the last chosen and the first rejected score nearly tie."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import Array, traits_of
from aprgraph.runtime.diff.margins import NOISE_FACTOR
from aprgraph.runtime.diff.tolerances import Tolerance


class NearTies:
    """The margins of the choices that one replay has computed, by the `top_k` node; of a later step, the later ones."""

    def __init__(self) -> None:
        self._scores: dict[str, Array] = {}
        self._margins: dict[str, Array] = {}
        self._noise: dict[str, Array] = {}

    def see(self, graph: Graph, node: Node, value: Array, find: Callable[[str], Tolerance]) -> None:
        """Take a node's value as it appears: scores, and then the choice among them."""
        if any(traits_of(user).chooses for user in graph.users(node.name)):
            self._scores[node.name] = value
        if traits_of(node).chooses:
            scores = self._scores.pop(graph.operand_names(node.name)[0])
            k = node.attr_int("k")
            ranked = -np.sort(-scores, axis=-1)
            with np.errstate(invalid="ignore"):  # of NaN, or of two Inf: NaN, which is no tie
                margin = ranked[:, k - 1] - ranked[:, k] if k < scores.shape[-1] else np.full(len(scores), np.inf)
            self._margins[node.name] = margin
            rms = np.sqrt(np.mean(np.square(scores), axis=-1))
            self._noise[node.name] = NOISE_FACTOR * math.sqrt(find(graph[graph.operand_names(node.name)[0]].stage or "").limit) * rms

    def find(self, region: Sequence[str]) -> str | None:
        """A near-tie among the choices of ``region``, in words; None if there is none."""
        for name in region:
            if name in self._margins:
                close = np.flatnonzero(self._margins[name] <= self._noise[name])
                if close.size:
                    margin = self._margins[name][close[0]]
                    return (
                        f"at %{name} the scores of position {close[0]} nearly tie (margin {margin:.1e}), and which experts were chosen was "
                        "not recorded; tap moe_router_indices"
                    )
        return None

    def covers(self, name: str, positions: Iterable[int]) -> bool:
        """Whether the scores nearly tie at each of ``positions``."""
        return all(self._margins[name][position] <= self._noise[name][position] for position in positions)

    def is_tie(self, name: str, position: int) -> bool:
        """Whether the scores tie exactly at ``position``."""
        return bool(self._margins[name][position] == 0.0)
