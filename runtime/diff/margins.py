"""Judging the choices of experts that differ, by the router's logits: a near-tie, a tie, or unexplained (indices.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from aprgraph.graph.ops.router import Groups, group_scores
from aprgraph.runtime.diff.indices import DESCRIBED, Choice, ChoiceState, IndexMetrics
from aprgraph.runtime.diff.tolerance_rules import LOCAL_FACTOR
from aprgraph.runtime.trace.aprt import F32

F64 = npt.NDArray[np.float64]
_NO_GROUPS = Groups()

#: How far noise brings two scores together, in units of their error's rms: each of them is off by at most √LOCAL_FACTOR of it
#: (the largest of 10⁶ normal errors), and the errors of two are independent, which is a factor of √2.
NOISE_FACTOR = math.sqrt(2 * LOCAL_FACTOR)


def judge_choices(
    metrics: IndexMetrics, ids_a: F32, ids_b: F32, scores: Sequence[F32 | None], limit: float, groups: Groups = _NO_GROUPS
) -> IndexMetrics:
    """``metrics`` of ids [n, k] with what the scores [n, X] of both sides (None: not recorded) say of the differing choices.

    ``limit`` is the NMSE that the scores may have. Where both sides' are recorded, what they differ by at a position counts. ``groups``
    are those that experts were chosen by.
    """
    rows_a, rows_b = (np.ascontiguousarray(side).reshape(-1, side.shape[-1]) for side in (ids_a, ids_b))
    sorted_bits = [np.sort(rows.view(np.uint32), axis=1) for rows in (rows_a, rows_b)]  # a NaN equals itself
    differing = np.flatnonzero((sorted_bits[0] != sorted_bits[1]).any(axis=1))
    with np.errstate(invalid="ignore", over="ignore"):
        sides = [None if side is None else np.asarray(side, np.float64) for side in scores]
        noise = _noise(sides, limit)
    choices = [_judge(int(position), rows_a[position], rows_b[position], sides, noise, groups) for position in differing]
    judged = any(side is not None for side in sides)
    near = tuple(choice.position for choice in choices if choice.state is ChoiceState.NEAR_TIE)
    plain_first = sorted(choices, key=lambda choice: choice.state is ChoiceState.NEAR_TIE)
    return replace(
        metrics,
        judged=judged,
        near_ties=len(near),
        ties=sum(choice.state is ChoiceState.TIE for choice in choices),
        choices=tuple(plain_first[:DESCRIBED]),
        near_tie_positions=near,
    )


def _noise(sides: Sequence[F64 | None], limit: float) -> F64 | None:
    """How far apart noise can bring two scores of each position, f64 [n]; None where no side recorded them."""
    known = [side for side in sides if side is not None]
    if not known:
        return None
    signal = np.max([np.square(side).mean(axis=1) for side in known], axis=0)
    # A small value out of a large sum carries the rounding of the large one, so the mean is a floor (as in metrics.py).
    signal = np.maximum(signal, signal.mean())
    allowed = np.full(signal.shape, limit)
    if len(known) == 2 and signal.any():
        error = np.square(known[0] - known[1]).mean(axis=1)
        measured = np.maximum(error / signal, error.mean() / signal.mean())
        allowed = np.minimum(measured, LOCAL_FACTOR * limit)
    return np.asarray(NOISE_FACTOR * np.sqrt(allowed * signal))


def _judge(position: int, ids_a: F32, ids_b: F32, sides: Sequence[F64 | None], noise: F64 | None, groups: Groups) -> Choice:
    only_a, only_b = (np.setdiff1d(ids, others) for ids, others in ((ids_a, ids_b), (ids_b, ids_a)))
    choice = Choice(position, _whole(only_a), _whole(only_b))
    if noise is None:
        return choice
    margins: list[float | None] = []
    gaps: list[float] = []
    for side, ids, their_ids, mine, others in ((sides[0], ids_a, ids_b, only_a, only_b), (sides[1], ids_b, ids_a, only_b, only_a)):
        scores = None if side is None else side[position]
        margins.append(None if scores is None else _margin(scores, ids, groups))
        if scores is not None:
            # How much of the scores' order has to change for the other side's choice.
            gaps.append(_gap(scores, mine, others) if groups.count == 1 else _gap_of_groups(scores, their_ids, groups))
    allowed = float(noise[position])
    choice = replace(choice, margin_a=margins[0], margin_b=margins[1], allowed=allowed if math.isfinite(allowed) else None)
    known = [margin for margin in margins if margin is not None]
    is_equal = known == [0.0, 0.0] if groups.count == 1 else all(margin >= 0 for margin in known)
    if len(known) == 2 and is_equal and gaps == [0.0, 0.0]:
        state = ChoiceState.TIE
    elif len(known) == len(gaps) and all(margin >= 0 for margin in known) and all(gap <= allowed for gap in gaps):
        state = ChoiceState.NEAR_TIE
    else:
        state = ChoiceState.UNEXPLAINED
    return replace(choice, state=state)


def _margin(scores: F64, ids: F32, groups: Groups) -> float | None:
    """From the last chosen to the first unchosen score; None for ids that are none, or scores that are not finite.

    With groups, among the experts of those that are used; below 0 where an expert of another group was chosen.
    """
    if not np.isfinite(scores).all() or not _are_ids(ids, scores.size):
        return None
    chosen = np.zeros(scores.size, bool)
    chosen[ids.astype(np.int64)] = True
    by_group, size = group_scores(scores, groups), scores.size // groups.count
    # Of equal groups those count as used that were.
    order = np.lexsort((~chosen.reshape(groups.count, size).any(axis=1), -by_group))
    open_to = np.isin(np.arange(scores.size) // size, order[: groups.used])
    if (chosen & ~open_to).any():
        return float(-np.ptp(scores) - 1)
    return float(scores[chosen].min() - scores[open_to & ~chosen].max()) if (open_to & ~chosen).any() else None


def _gap_of_groups(scores: F64, others: F32, groups: Groups) -> float:
    """How far scores have to move for the choice ``others``: for its groups to be used, and for its experts to be their best.

    NaN where that cannot be said. The error of a sum of two scores is √2 of that of one, by which distances of groups are divided.
    """
    if not (np.isfinite(scores).all() and _are_ids(others, scores.size)):
        return math.nan
    wanted, by_group = others.astype(np.int64), group_scores(scores, groups)
    size = scores.size // groups.count
    used = set(np.argsort(-by_group, kind="stable")[: groups.used].tolist())
    theirs = set((wanted // size).tolist())
    entering = sorted(theirs - used)
    leaving = sorted(used - theirs, key=by_group.__getitem__)[: len(entering)]
    if len(leaving) < len(entering):
        return math.nan
    gaps = [float(by_group[leaving].max() - by_group[entering].min()) / math.sqrt(groups.best)] if entering else []
    open_to = np.flatnonzero(np.isin(np.arange(scores.size) // size, list((used - set(leaving)) | theirs)))
    best = open_to[np.argsort(-scores[open_to], kind="stable")[: wanted.size]]
    mine, missing = np.setdiff1d(best, wanted), np.setdiff1d(wanted, best)
    if mine.size:
        gaps.append(float(scores[mine].max() - scores[missing].min()))
    return max(gaps, default=0.0)


def _gap(scores: F64, mine: F32, others: F32) -> float:
    """The best score that this side alone chose less the worst that the other alone did; NaN where that cannot be said."""
    if not (_are_ids(mine, scores.size) and _are_ids(others, scores.size) and mine.size and others.size):
        return math.nan
    with np.errstate(invalid="ignore"):  # of two Inf: NaN
        return float(scores[mine.astype(np.int64)].max() - scores[others.astype(np.int64)].min())


def _are_ids(ids: F32, count: int) -> bool:
    return bool(np.isfinite(ids).all() and (ids >= 0).all() and (ids < count).all() and (ids == np.floor(ids)).all())


def _whole(ids: F32) -> tuple[int, ...]:
    """Ids for a sentence; what is not finite is shown as -1."""
    return tuple(int(value) if math.isfinite(value) else -1 for value in ids)
