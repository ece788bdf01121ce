"""Where a tensor is wrong, along each of its axes: positions, heads, columns, choices or keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.words import plural, runs
from aprgraph.runtime.element import AXIS_NAMES, COLUMN

#: An index whose error is below this part of the largest one's is right.
_RIGHT = 1e-6
_NAMED = 4
#: The errors of more indices are summed up.
_FEW = 8


@dataclass(frozen=True)
class AxisErrors:
    """How far off each index of one axis is: its share of the error's energy over its share of the signal's mean (NMSE)."""

    name: str
    errors: tuple[float, ...]

    @property
    def wrong(self) -> tuple[int, ...]:
        """The indices that are off."""
        most = max(self.errors, default=0.0)
        return tuple(index for index, error in enumerate(self.errors) if error > _RIGHT * most or error == np.inf)

    @property
    def extent(self) -> str | None:
        """``positions 24 to 31``; None where most of them are wrong."""
        return self.places if 0 < 2 * len(self.wrong) <= len(self.errors) else None

    @property
    def places(self) -> str:
        """The wrong indices: ``positions 24 to 31``."""
        wrong = np.asarray(self.wrong)
        first, of, rest = self.name.partition(" of")
        return f"{plural(wrong.size, first)}{of}{rest} {runs(wrong, _NAMED)}"

    @property
    def words(self) -> str:
        """``by head: 0, 1.2e-03, 0, 4e-04``; of many the least, the middle one and the largest."""
        texts = [f"{error:.1e}" if error else "0" for error in self.errors]
        if len(texts) <= _FEW:
            return f"by {self.name}: {', '.join(texts)}"
        order = np.argsort(self.errors, kind="stable")
        low, middle, high = (int(order[place]) for place in (0, len(order) // 2, -1))
        return f"by {self.name}: {texts[low]} at {low}, {texts[middle]} in the middle, {texts[high]} at {high}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; Inf as null."""
        return {"axis": self.name, "errors": [error if np.isfinite(error) else None for error in self.errors], "extent": self.extent}


def axis_errors(axes: Sequence[tuple[str, int]], recorded: Array, due: Array) -> tuple[AxisErrors, ...]:
    """The errors along each axis of more than one index; ``axes`` are the letters and sizes of the finest ones, outermost first."""
    with np.errstate(all="ignore"):
        wide = due.astype(np.float64)
        off, signal = np.square(recorded.astype(np.float64) - wide), float(np.square(np.where(np.isfinite(wide), wide, 0.0)).mean())
    sizes = [size for _, size in axes]
    if off.size != np.prod(sizes, dtype=np.int64) or not off.size:
        return ()
    off = np.where(np.isfinite(off), off, np.inf).reshape(sizes)
    found = []
    for axis, (letter, size) in enumerate(axes):
        energy = off.sum(axis=tuple(other for other in range(len(sizes)) if other != axis)) * size / off.size
        if size > 1:
            errors = energy / signal if signal else np.where(energy > 0, np.inf, 0.0)
            found.append(AxisErrors(AXIS_NAMES.get(letter, COLUMN), tuple(float(error) for error in errors)))
    return tuple(found)
