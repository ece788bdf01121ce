"""The shapes of tensors without a manifest, as far as they are certain; a flat tensor has neither positions nor channels.

A manifest on the other side tells every stage's width; then a tensor's size tells its number of positions, and the stages of a
step have to agree on that. Without any manifest the softmax of attention tells: each of its rows sums to 1, so that its sum is
H·n and its size H·n². Stages that `apr` dumps for the last position alone are told by the width that they share with others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aprgraph.graph.stages import STAGE_BY_NAME, StageKind, is_logits
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.aprt import F32, give_back
from aprgraph.runtime.trace.manifest import TraceEntry
from aprgraph.runtime.trace.reader import Trace

#: What two traces are paired by: step, layer (None for a whole-model stage), stage.
Shape = tuple[int, ...]

#: A row of float32 weights sums to 1 within this.
_SUM_ERROR = 1e-3
#: Elements of attention weights that are looked at at once.
_SLICE = 1 << 20


@dataclass(frozen=True)
class ShapedTrace:
    """A trace whose entries have shapes as far as these are certain: those of ``known``. The others are flat.

    ``positions`` is the number of positions of each step, where that is certain.
    """

    trace: Trace
    known: frozenset[Place]
    positions: Mapping[int, int]

    @property
    def has_manifest(self) -> bool:
        """Whether shapes and tokens are known from a manifest."""
        return self.trace.info is not None


def position_axis(stage: str) -> int | None:
    """The axis of the positions; logits are V or n, V."""
    if stage not in STAGE_BY_NAME:
        return None
    dims = STAGE_BY_NAME[stage].dims
    return dims.index("n") if "n" in dims else 0


def _is_perhaps_last(stage: str) -> bool:
    """Whether `apr` dumps a stage for the last position only: its size alone does not tell how many positions it holds."""
    return stage in STAGE_BY_NAME and (STAGE_BY_NAME[stage].network == "experts" or STAGE_BY_NAME[stage].is_logits)


def _has_hidden_rows(stage: str) -> bool:
    """Whether a stage is of as many columns as the hidden state, and of all positions: what layers are given, and their norms."""
    known = STAGE_BY_NAME[stage]
    return known.dims == ("n", "E") and known.per_layer and known.kind in (StageKind.LOOKUP, StageKind.NORM)


def find_shapes(a: Trace, b: Trace) -> tuple[ShapedTrace, ShapedTrace]:
    """Both traces with their shapes. Raises TraceError that names a damaged file."""
    told = [_from_manifest(trace) if trace.info is not None else None for trace in (a, b)]
    return (told[0] or _from_other(a, told[1]), told[1] or _from_other(b, told[0]))


def _from_manifest(trace: Trace) -> ShapedTrace:
    assert trace.info is not None
    positions: dict[int, int] = {0: len(trace.info.tokens)}
    for entry in trace.entries:
        axis = position_axis(entry.stage)
        if axis is not None and len(entry.shape) > max(axis, 1):
            positions[entry.step] = max(positions.get(entry.step, 1), entry.shape[axis])
    return ShapedTrace(trace, frozenset(entry.key for entry in trace.entries), positions)


def _from_other(bare: Trace, other: ShapedTrace | None) -> ShapedTrace:
    shapes: dict[Place, Shape] = {}
    positions: dict[int, int] = {}
    for step in sorted({entry.step for entry in bare.entries}):
        entries = [entry for entry in bare.entries if entry.step == step]
        found, n = _by_widths(entries, other) if other is not None else _by_softmax(bare, entries)
        shapes |= found
        if n is not None:
            positions[step] = n
    return ShapedTrace(bare.with_shapes(shapes), frozenset(shapes), positions)


def _by_widths(entries: list[TraceEntry], other: ShapedTrace) -> tuple[dict[Place, Shape], int | None]:
    """The shapes of one step's tensors, whose widths the other side knows; and the number of positions."""
    like = {entry.key: entry.shape for entry in other.trace.entries}
    sizes = {entry.key: math.prod(entry.shape) for entry in entries}
    candidates = {key: _positions(key.stage, size, like[key]) for key, size in sizes.items() if key in like}
    whole = {n for key, n in candidates.items() if n is not None and not _is_perhaps_last(key.stage)}
    n = max(whole) if whole and whole <= {1, max(whole)} else None
    if n is None and not whole and entries:
        n = other.positions.get(entries[0].step)  # nothing but stages that may be of the last position
    shapes: dict[Place, Shape] = {}
    for key, found in candidates.items():
        if found is None or found not in (n, 1):
            # Equal sizes are equal shapes all the same: the widths are the other side's.
            if sizes[key] == math.prod(like[key]):
                shapes[key] = like[key]
            continue
        axis = position_axis(key.stage)
        assert axis is not None
        shape = list(like[key]) if len(like[key]) > 1 else [1, *like[key]]
        shape[axis] = found
        if key.stage in STAGE_BY_NAME and STAGE_BY_NAME[key.stage].dims[-1] == "t" and sizes[key] != math.prod(shape):
            shape[-1] = found
        shapes[key] = tuple(shape)
    return shapes, n


def _positions(stage: str, size: int, like: Shape) -> int | None:
    """How many positions of a tensor shaped ``like`` one of ``size`` elements is; None if that does not come out even."""
    axis = position_axis(stage)
    if axis is None or not like or (len(like) < 2 and not is_logits(stage)):
        return None
    if len(like) < 2:
        like = (1, *like)
    width = math.prod(like[:axis] + like[axis + 1 :])
    if STAGE_BY_NAME[stage].dims[-1] == "t" and size != math.prod(like):
        # [H, n, t]: t is n in a prefill, and the last of n positions has a row of t.
        heads = like[0]
        n = math.isqrt(size // heads) if heads else 0
        if heads and heads * n * n == size > 0:
            return n
    return size // width if width and size and size % width == 0 else None


def _by_softmax(bare: Trace, entries: list[TraceEntry]) -> tuple[dict[Place, Shape], int | None]:
    """The shapes of one step's tensors that nothing but the softmax of a layer tells, if it does."""
    n: int | None = None
    heads = 0
    entries = [entry for entry in entries if entry.stage in STAGE_BY_NAME]
    for entry in entries:
        if STAGE_BY_NAME[entry.stage].rows_sum_to_1:
            n, heads = _shape_of_softmax(bare.load(entry))
            break
    if n is None:
        return {}, None
    sizes = {entry.key: math.prod(entry.shape) for entry in entries}
    hidden = next((size // n for key, size in sizes.items() if _has_hidden_rows(key.stage) and size % n == 0), None)
    shapes: dict[Place, Shape] = {}
    for key, size in sizes.items():
        dims = STAGE_BY_NAME[key.stage].dims
        if dims == ("H", "n", "t") and size == heads * n * n:
            shapes[key] = (heads, n, n)
        elif dims == ("n", "E") and hidden is not None and size in (hidden, n * hidden):
            shapes[key] = (size // hidden, hidden)
        elif not _is_perhaps_last(key.stage) and len(dims) == 2 and size and size % n == 0:
            shapes[key] = (n, size // n)
    return shapes, n


def _shape_of_softmax(weights: F32) -> tuple[int | None, int]:
    """n and H of attention weights [H, n, n] of a prefill, given flat: (None, 0) where these are not that."""
    flat = weights.reshape(-1)
    total = 0.0
    for start in range(0, flat.size, _SLICE):  # a long prompt's attention weights are gigabytes
        piece = flat[start : start + _SLICE]
        total += float(piece.sum(dtype=np.float64))
        give_back(piece)
    if not math.isfinite(total) or total < 0.5:
        return None, 0
    n = round(flat.size / total)
    if n < 1 or flat.size % (n * n):
        return None, 0
    heads = flat.reshape(-1, n, n)
    fits = all(_is_softmax(head) for head in heads)
    return (n, len(heads)) if fits else (None, 0)


def _is_softmax(head: F32) -> bool:
    """Whether the rows of one head [n, n] sum to 1, with 0 at later positions, or, of a model that is not causal, with 0 nowhere."""
    n = len(head)
    causal = everywhere = True
    for start in range(0, n, max(1, _SLICE // n)):
        rows = head[start : start + max(1, _SLICE // n)]
        causal = causal and not np.triu(rows, start + 1).any()
        everywhere = everywhere and bool(rows.all())
        fits = (causal or everywhere) and np.abs(rows.sum(axis=1, dtype=np.float64) - 1).max() < _SUM_ERROR
        give_back(rows)
        if not fits:
            return False
    return True
