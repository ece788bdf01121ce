"""Comparing ids, such as those of the chosen experts: as a set per position. A distance between ids means nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from aprgraph.runtime.aprt import F32


@dataclass(frozen=True)
class IndexMetrics:
    """``differing`` of ``positions`` positions chose another set of ids, first at ``first``; ``reordered`` more chose
    the same set in another order.
    """

    count: int
    bit_identical: bool
    positions: int
    differing: int
    reordered: int
    first: int | None

    @property
    def share(self) -> float:
        """The part of the positions whose sets differ."""
        return self.differing / self.positions

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "share": self.share}


def compare_indices(a: F32, b: F32, *, structured: bool = True) -> IndexMetrics | None:
    """Compare two tensors of ids, [..., k], as sets of k along the last axis.

    Where the shape is not known (``structured`` false) the whole is one set with repetitions: if those differ, then
    some position's do. If they are equal in another order nothing is certain, and the answer is None.
    """
    bits_a, bits_b = (np.ascontiguousarray(side).view(np.uint32) for side in (a, b))
    width = a.shape[-1] if structured and a.ndim else a.size
    rows_a, rows_b = (side.reshape(-1, width) for side in (bits_a, bits_b))
    sets_differ = (np.sort(rows_a, axis=1) != np.sort(rows_b, axis=1)).any(axis=1)
    order_differs = (rows_a != rows_b).any(axis=1) & ~sets_differ
    if not structured and order_differs.any():
        return None
    return IndexMetrics(
        count=a.size,
        bit_identical=bool(np.array_equal(bits_a, bits_b)),
        positions=len(rows_a),
        differing=int(sets_differ.sum()),
        reordered=int(order_differs.sum()),
        first=int(sets_differ.argmax()) if structured and sets_differ.any() else None,
    )
