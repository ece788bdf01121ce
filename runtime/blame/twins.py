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
        self._alike: list[dict[tuple[int, int], _Samples]] = []

    def see(self, key: Place, recorded: Array | None, computed: Array) -> None:
        """Take both values of a tensor, or the computed one of a stage that was not recorded."""
        self._alike = []
        self._computed[key] = _sample(computed)
        if recorded is not None:
            self._recorded[key] = _sample(recorded)

    def find(self, key: Place) -> Place | None:
        """Another stage of the same step that holds what was recorded at ``key``, a recorded one rather than a computed one."""
        mine = self._recorded.get(key)
        if mine is None or not mine[1].any():
            return None
        if not self._alike:  # all are seen before the first is looked for
            self._alike = [_by_step_and_size(self._recorded), _by_step_and_size(self._computed)]
        size, values = mine
        for groups in self._alike:
            found = groups[key.step, size].nearest(key, values) if (key.step, size) in groups else None
            if found is not None:
                return found
        return None


class _Samples:
    """The samples of tensors of one step and size, which are found by one of their elements: each against each takes hours where there
    are thousands.
    """

    def __init__(self, samples: Mapping[Place, Array]) -> None:
        self._places = list(samples)
        self._values = np.stack(list(samples.values()))
        self._sorted: dict[int, tuple[Array, Array]] = {}

    def nearest(self, key: Place, values: Array) -> Place | None:
        """The first other one whose sample is ``values``, but for rounding."""
        element = int(np.abs(values).argmax())
        if element not in self._sorted:
            order = np.argsort(self._values[:, element], kind="stable")
            self._sorted[element] = order, self._values[order, element].astype(np.float64)
        order, column = self._sorted[element]
        most = _SAME * float(np.abs(values[element]))
        # A little more than may be, which is looked at in float32.
        low, high = np.searchsorted(column, [float(values[element]) - 2 * most, float(values[element]) + 2 * most])
        near = np.sort(order[low:high])
        alike = near[np.abs(values - self._values[near]).max(axis=1) <= _SAME * np.abs(values).max()]
        return next((self._places[index] for index in alike if self._places[index] != key), None)


def _by_step_and_size(samples: Mapping[Place, tuple[int, Array]]) -> dict[tuple[int, int], _Samples]:
    groups: dict[tuple[int, int], dict[Place, Array]] = {}
    for place, (size, values) in samples.items():
        groups.setdefault((place.step, size), {})[place] = values
    return {which: _Samples(group) for which, group in groups.items()}


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
