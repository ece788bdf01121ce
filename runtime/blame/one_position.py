"""Tensors that were recorded at one position: it is taken for the last, and where the values are another's, it was recorded there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.stages import StageKind, is_logits
from aprgraph.runtime.blame.compare_case import compare_case
from aprgraph.runtime.blame.doubts import Case
from aprgraph.runtime.blame.local_errors import LocalError, LocalState
from aprgraph.runtime.diff.tolerances import kind_of
from aprgraph.runtime.place import Place


@dataclass(frozen=True)
class _Alone:
    """A tensor of one position: ``positions`` are those at which the replay ``value``, of all of them, is what was recorded."""

    case: Case
    value: Array
    positions: frozenset[int]

    @property
    def last(self) -> int:
        """The last position."""
        return int(self.value.shape[self.case.tensor.last_axis or 0]) - 1

    def read_at(self, local: LocalError, position: int) -> LocalError:
        """``local`` where the tensor is that of ``position``."""
        computed = self.value.take([position], axis=self.case.tensor.last_axis or 0).astype(np.float32)
        found = compare_case(replace(local, state=LocalState.RIGHT, reason=None), replace(self.case, computed=computed))
        words = f"at position {position}, not at the last"
        return replace(found, reading=words, reason=f"it was recorded {words}")


class OnePosition:
    """The tensors of one position, as they are judged. ``read`` says where those of a step were recorded."""

    def __init__(self) -> None:
        self._steps: dict[int, dict[Place, _Alone]] = {}
        #: Those that were not looked into, since they may have been recorded elsewhere.
        self.deferred: set[Place] = set()
        #: The positions, by step, that are not the last.
        self.others: dict[int, int] = {}

    def is_elsewhere(self, local: LocalError, case: Case, value: Array) -> bool:
        """Take a tensor for known; whether it is wrong at the last position and right at another one.

        Logits are the last position's in every program.
        """
        axis, stage = case.tensor.last_axis, local.key.stage
        if axis is None or value.shape[axis] < 2 or is_logits(stage) or kind_of(stage) is StageKind.INDEX:
            return False
        rows = np.moveaxis(value.astype(np.float64), axis, 0).reshape(value.shape[axis], -1)
        recorded = case.recorded.astype(np.float64).reshape(1, -1)
        with np.errstate(all="ignore"):
            errors = np.square(rows - recorded).sum(axis=1) / np.square(rows).sum(axis=1)
        alone = _Alone(case, value, frozenset(np.flatnonzero(errors <= local.limit).tolist()))
        self._steps.setdefault(case.step, {})[local.key] = alone
        if local.state is not LocalState.WRONG or not alone.positions:
            return False
        self.deferred.add(local.key)
        return True

    def case_of(self, key: Place) -> Case:
        """The case of a tensor that was taken for known."""
        return self._steps[key.step][key].case

    def read(self, found: Iterable[LocalError]) -> Mapping[Place, LocalError]:
        """Those of ``found`` that are wrong at the last position and right where most tensors of their step were recorded, read there."""
        wrong = {local.key: local for local in found if local.state is LocalState.WRONG}
        taken: dict[Place, LocalError] = {}
        for step, alone in self._steps.items():
            counts = Counter(position for one in alone.values() for position in sorted(one.positions))
            last = next(iter(alone.values())).last
            position, votes = max(counts.items(), key=lambda item: (item[1], item[0] == last), default=(last, 0))
            if position == last or 2 * votes <= len(alone):
                continue
            self.others[step] = position
            there = {key: one for key, one in alone.items() if key in wrong and position in one.positions}
            taken |= {key: one.read_at(wrong[key], position) for key, one in there.items()}
        return taken
