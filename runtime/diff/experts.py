"""Tensors of chosen experts, aligned by expert: the slots of [n, k, …] are in the order of each side's own choice.

Where both sides recorded their ids, slot j of one side is compared with the slot of the same expert on the other. Experts that
one side alone chose are left out. Without ids on both sides slots are compared as they stand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aprgraph.graph.ops import traits_of
from aprgraph.graph.ops.router import Groups, groups_of
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.runtime.diff.align import Pair, last_rows
from aprgraph.runtime.diff.shapes import ShapedTrace
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.reader import Trace

#: The one choice of a layer, by whose order its experts' values lie.
IDS = "moe_router_indices"


@dataclass(frozen=True)
class Slots:
    """How the slots of B lie in those of A: ``taken`` [n, k] is B's slot for each of A's, -1 where B did not choose that expert."""

    taken: npt.NDArray[np.int64]

    @property
    def left_out(self) -> int:
        """How many slots of either side have no counterpart."""
        return int((self.taken < 0).sum())

    @property
    def reordered(self) -> int:
        """How many positions have the same experts in other slots."""
        own = np.arange(self.taken.shape[1])
        return int(((self.taken != own) & (self.taken >= 0)).any(axis=1).sum())

    def apply(self, a: F32, b: F32) -> tuple[F32, F32]:
        """Both tensors [n, k, …] with B's slots in A's order, 0 on both sides where there is no counterpart.

        Positions whose slots agree already are copied as they are.
        """
        missing = self.taken < 0
        moved = np.flatnonzero((self.taken != np.arange(self.taken.shape[1])).any(axis=1))
        left, right = a, np.array(b)
        for row in moved:
            right[row] = b[row][np.maximum(self.taken[row], 0)]
        if missing.any():
            left = np.array(a)
            left[missing] = 0.0
            right[missing] = 0.0
        return left, right


def is_slotted(stage: str) -> bool:
    """Whether a stage holds one value or row for each chosen expert, in the order of the choice."""
    return stage in STAGE_BY_NAME and STAGE_BY_NAME[stage].is_per_choice


def scores_of(ids: Place, a: Trace, b: Trace) -> str:
    """The stage of the scores that the choice ``ids`` is made by, as either trace's graph or what it recorded says."""
    (scores,) = STAGE_BY_NAME[ids.stage].reads
    if any(_has(trace, ids._replace(stage=scores)) for trace in (a, b)):
        return scores
    return STAGE_BY_NAME[scores].reads[0]


def groups_of_choice(ids: Place, a: Trace, b: Trace) -> Groups:
    """The groups that the choice ``ids`` is made by, as either trace's graph says; none where neither has a graph."""
    for graph in (trace.graph() for trace in (a, b)):
        for node in graph or ():
            if (node.layer, node.stage) == (ids.layer, ids.stage) and traits_of(node).chooses:
                return groups_of(node.attrs)
    return Groups()


def _has(trace: Trace, place: Place) -> bool:
    graph = trace.graph()
    return place in trace or (graph is not None and any((node.layer, node.stage) == (place.layer, place.stage) for node in graph))


def find_slots(a: ShapedTrace, b: ShapedTrace, pair: Pair) -> Slots | None:
    """The slots of a pair of tensors of a stage that ``is_slotted``; None where they agree, or where the ids or the shapes do not tell.

    Raises TraceError that names a damaged file.
    """
    if not is_slotted(pair.key.stage) or not pair.structured or pair.shape is None or len(pair.shape) < 2:
        return None
    n, k = pair.shape[:2]
    ours, theirs = (last_rows(trace, pair.key._replace(stage=IDS), n, k) for trace in (a, b))
    if ours is None or theirs is None or np.array_equal(ours, theirs):
        return None
    same = ours[:, :, None] == theirs[:, None, :]
    if (same.sum(axis=2) > 1).any() or (same.sum(axis=1) > 1).any():  # an expert chosen twice: a fault that the ids' own row shows
        return None
    return Slots(np.where(same.any(axis=2), same.argmax(axis=2), -1))


def find_scores(trace: ShapedTrace, key: Place, n: int, least: int) -> F32 | None:
    """The scores [n, X] ``key`` of a choice, of the last ``n`` positions; None where they are not recorded or not certain.

    ``least`` is the number of experts that there are at least. Raises TraceError that names a damaged file.
    """
    scores = last_rows(trace, key, n, None)
    return scores if scores is not None and scores.shape[1] >= least else None
