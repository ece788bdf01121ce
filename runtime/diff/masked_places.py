"""Numbers that stand for masks in one side's scores, such as -inf or NaN, where the other side holds 0 or another such number.

They are no numbers that were computed, and so neither an error nor to be measured beside real scores, which they would hide. At a
place that no mask hides they stay what they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.graph.ops.attention import attention_mask, mask_of, scores_by_layer
from aprgraph.runtime.diff.align import Pair
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.readings.steps import AT_MASKED, LEAST_FILL, fill_in_words, is_fill
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.reader import Trace

SCORES = "attn_scores"


def may_hold_fills(metrics: TensorMetrics) -> bool:
    """Whether numbers that stand for masks can be in one of two tensors, by what was measured."""
    if metrics.inf_a or metrics.inf_b or metrics.nan_a or metrics.nan_b:
        return True
    return any(rms is not None and rms * math.sqrt(metrics.count) >= LEAST_FILL for rms in (metrics.rms_a, metrics.rms_b))


def hidden_places(pair: Pair, traces: tuple[Trace, Trace], shape: tuple[int, ...]) -> Array | None:
    """bool [n, t]: what masks hide of scores [H, n, t], by the graphs of both sides; without one, what stands after a position.

    None for other stages, where nothing is hidden, and where that is not known.
    """
    if pair.key.stage != SCORES or not pair.structured or len(shape) != 3 or shape[1] > shape[2]:
        return None
    seen = np.zeros(shape[1:], bool)
    graphs = [graph for graph in (trace.graph() for trace in traces) if graph is not None]
    for graph in graphs:
        node = scores_by_layer(graph).get(pair.key.layer)
        if node is None:
            return None
        seen |= mask_of(shape[1], shape[2], node.attrs)
    if not graphs:
        # A program that attends to later positions has scores there, which are not 0.
        seen = attention_mask(shape[1], shape[2], 0)
    return None if seen.all() else ~seen


class WithoutFills:
    """Both sides of scores with 0 at the ``hidden`` places where one holds a number for the mask and the other that, another, or 0.

    After ``blocks`` was read to its end, ``filled`` holds each side's number, None for 0; it is None where the sides hold the same.
    """

    def __init__(self, hidden: Array) -> None:
        self._hidden = hidden
        self.filled: tuple[float | None, float | None] | None = None

    def blocks(self, blocks: Iterable[tuple[F32, F32]]) -> Iterator[tuple[F32, F32]]:
        """The same blocks f32 [m, n, t] without these numbers."""
        for a, b in blocks:
            fills = is_fill(a) | np.isnan(a), is_fill(b) | np.isnan(b)
            alike = self._hidden & (fills[0] | (a == 0)) & (fills[1] | (b == 0)) & (fills[0] | fills[1])
            differing = alike & (a != b) & ~(np.isnan(a) & np.isnan(b))
            if self.filled is None and differing.any():
                first = tuple(int(axis[0]) for axis in np.nonzero(differing))
                one, other = float(a[first]), float(b[first])
                self.filled = (one or None, other or None)
            zero = np.float32(0)
            yield (np.where(alike, zero, a), np.where(alike, zero, b)) if alike.any() else (a, b)

    def remark(self) -> tuple[str, str] | None:
        """The side that holds a number for the mask, and that in words; None where the sides hold the same."""
        if self.filled is None:
            return None
        a, b = self.filled
        if a is not None and b is not None:
            return "B", f"{fill_in_words(b)}, where A has {fill_in_words(a)},{AT_MASKED}"
        side, fill = ("B", b) if b is not None else ("A", a)
        return side, f"{fill_in_words(fill or 0.0)}{AT_MASKED}"
