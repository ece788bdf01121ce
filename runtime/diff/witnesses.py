"""What can tell whether a tensor was computed or only recorded in another form: the nearest tensors after it that it would have changed.

Norms take a factor away. An order of experts, and the token that is picked from logits, are the same whatever the factor. The softmax of
one score is 1. And at the last position a causal mask hides nothing, so that nothing which was compared there alone can miss it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

from aprgraph.graph.stages import STAGE_BY_NAME, StageKind
from aprgraph.runtime.diff.align import Pair
from aprgraph.runtime.diff.dependencies import Dependencies, Value
from aprgraph.runtime.diff.tolerances import kind_of
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings import Reading

_BLIND_TO_FACTORS = frozenset({StageKind.NORM, StageKind.INDEX, StageKind.LOOKUP})


class Witnesses:
    """``pairs`` are those of a comparison by key; ``prompt`` is how many positions step 0 has, 0 where that is not known."""

    def __init__(self, pairs: Mapping[Place, Pair], dependencies: Dependencies, prompt: int) -> None:
        self._pairs = pairs
        self._dependencies = dependencies
        self._key_of: Mapping[Value, Place] = {value: key for key, value in dependencies.value_of.items()}
        self._prompt = prompt

    def of(self, key: Place, reading: Reading, measured: Container[Place]) -> set[Place]:
        """The nearest of ``measured`` after a tensor that would be others if its ``reading`` were what was computed."""
        has_factor = any(step.name == "factor" for step in reading.steps)
        has_scores = any(step.name == "mask" and not step.certain for step in reading.steps)
        found: set[Place] = set()
        start = self._dependencies.value_of[key]
        seen, todo = {start}, [start]
        while todo:
            for value in self._dependencies.readers[todo.pop()]:
                if value in seen:
                    continue
                seen.add(value)
                near = self._key_of.get(value)
                if near is not None and has_factor and self._is_blind(near):
                    continue
                if near in measured and near is not None and not (has_scores and self._is_part(near, key)):
                    found.add(near)
                else:
                    todo.append(value)
        return found

    def _is_blind(self, key: Place) -> bool:
        """Whether a stage gives the same whatever the factor of what it reads."""
        step, _, stage = key
        is_one = step == 0 and self._prompt == 1 and stage in STAGE_BY_NAME and STAGE_BY_NAME[stage].rows_sum_to_1
        return is_one or kind_of(stage) in _BLIND_TO_FACTORS

    def _is_part(self, witness: Place, key: Place) -> bool:
        """Whether not all positions of a tensor were compared in what is computed from it."""
        counts = [_positions(self._pairs[one]) for one in (witness, key)]
        return witness.step == key.step and (counts[0] is None or counts[0] != counts[1])


def _positions(pair: Pair) -> int | None:
    """How many positions of a pair are compared, None where that is not known."""
    return None if pair.shape is None or pair.position_axis is None else pair.shape[pair.position_axis]
