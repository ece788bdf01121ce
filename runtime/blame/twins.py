"""Tensors that hold what another stage holds: compared by samples, since all values of a long run cannot be kept."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.runtime.place import Place

_SAMPLE = 64
#: The relative error of samples of one value: float32 and half precision of it, no more.
_SAME = 1e-4


class Twins:
    """Samples of every stage's value as it was recorded, and as it was computed."""

    def __init__(self) -> None:
        self._recorded: dict[Place, tuple[int, Array]] = {}
        self._computed: dict[Place, tuple[int, Array]] = {}

    def see(self, key: Place, recorded: Array | None, computed: Array) -> None:
        """Take both values of a tensor, or the computed one of a stage that was not recorded."""
        self._computed[key] = _sample(computed)
        if recorded is not None:
            self._recorded[key] = _sample(recorded)

    def find(self, key: Place) -> Place | None:
        """Another stage of the same step that holds what was recorded at ``key``, a recorded one rather than a computed one."""
        mine = self._recorded.get(key)
        if mine is None or not mine[1].any():
            return None
        for others in (self._recorded, self._computed):
            found = _nearest(key, mine, others)
            if found is not None:
                return found
        return None


def _nearest(key: Place, mine: tuple[int, Array], others: Mapping[Place, tuple[int, Array]]) -> Place | None:
    size, values = mine
    for other, (count, sample) in others.items():
        if other != key and other.step == key.step and count == size and np.abs(values - sample).max() <= _SAME * np.abs(values).max():
            return other
    return None


def _sample(values: Array) -> tuple[int, Array]:
    """The number of elements, and some of them from all over."""
    flat = np.asarray(values).reshape(-1)
    with np.errstate(all="ignore"):
        chosen = flat[_places(flat.size)].astype(np.float32)
    chosen[~np.isfinite(chosen)] = 0
    return flat.size, chosen


@lru_cache(maxsize=256)  # a model's tensors have few sizes
def _places(size: int) -> Array:
    """The indices of a sample of ``size`` elements."""
    return np.linspace(0, size - 1, min(_SAMPLE, size)).astype(np.int64)
