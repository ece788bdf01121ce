"""What breaks a tolerance: whether what was measured of two tensors is more than noise.

The rules; breaking any makes a tensor divergent:

1. NMSE of the whole tensor (see metrics.py) at most the limit (or ``own``); of a tensor of fewer than
   ``FEW_ELEMENTS`` elements, ``FEW_FACTOR`` times that.
2. Local NMSE of every single position and every single channel at most ``LOCAL_FACTOR`` times the limit, and
   ``FEW_FACTOR`` times that where it has fewer than ``CROWDED_FROM`` elements, since the square of one number says
   little. A fault in two of 4096 weight rows, or at one of 500 positions, is diluted by all the others: two swapped
   rows cost an NMSE of 5.5e-3, less than the honest noise of 4-bit weights. The factor is what noise alone needs:
   where errors are normal, the square of the largest of 10⁶ is about 2 ln 10⁶ = 28 times the mean square. The share
   of the error energy in the worst position or 1 % of channels is reported, but decides nothing by itself: where two
   runs differ in the last bit of three elements, or where a few channels carry very large activations, all of an
   honest error is there too.
3. Where noise is so large that rule 2 sees nothing (a wrong row has a local NMSE of 1 to 2.6), ``crowding`` compares
   a position or channel with the others of its tensor: its local NMSE is at most ``crowding`` times the larger of the
   tensor's NMSE and ``own``, which gives no more than ``LOST_ROW``; half as much again where it has fewer than
   ``CROWD`` elements, and twice as much where it is below ``WRONG_ROW``, which no wrong row is. A position or channel
   of fewer than ``CROWDED_FROM`` elements is not judged so.
4. A channel that is 0 at all of several positions on one side alone, and no small one on the other, is a lost row,
   whatever the limit. Not so where a quarter of both tensors is 0, as behind a gate that is cut off above a bound.

Ids are compared as sets (indices.py). Where the router's logits were recorded, a choice may differ at a near-tie
alone; where they were not, at the share ``limit`` of the positions, and three standard deviations of chance.

Cosine decides nothing: a dropped block of K hides under a cosine of 0.999.
"""

from __future__ import annotations

import math

from aprgraph.graph.words import listed
from aprgraph.runtime.diff.indices import IndexMetrics
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.tolerances import Tolerance

LOCAL_FACTOR = 30.0
FEW_FACTOR = 4.0
#: The least number of elements of a position or channel that is compared with the others of its tensor.
CROWDED_FROM = 5
#: So many that chance is not what makes them differ.
CROWD = 16
#: The least local NMSE of a wrong row, with room: one that is 0, or another, has 1 to 2.6.
WRONG_ROW = 0.5
#: The local NMSE of a row that is 0: what a stage's own arithmetic explains by itself is no more.
LOST_ROW = 1.0
#: Tensors of fewer elements, such as the scores of one position, may be all small by chance, where rounding is not.
FEW_ELEMENTS = 32


def exceeds(metrics: TensorMetrics | IndexMetrics, limit: float, tolerance: Tolerance | None = None) -> str | None:
    """Which rule ``metrics`` break under ``limit``, in words; None if none. ``tolerance`` brings its crowding with it."""
    if isinstance(metrics, IndexMetrics):
        return _ids_exceed(metrics, limit)
    if metrics.count < FEW_ELEMENTS:
        limit *= FEW_FACTOR
    if metrics.nmse is not None and metrics.nmse > limit:
        return f"NMSE {metrics.nmse:.1e}, limit {limit:.2g}"
    if metrics.dead_channels:
        return f"channel {listed(metrics.dead_channels, 1)} 0 at every position on one side alone"
    for name, axis in (("position", metrics.positions), ("channel", metrics.channels)):
        if axis is None:
            continue
        bound, why = LOCAL_FACTOR * limit, ""
        if metrics.count < CROWDED_FROM * axis.size:
            bound *= FEW_FACTOR
        elif tolerance is not None and tolerance.crowding is not None:
            crowd = max(tolerance.crowding * (metrics.nmse or 0.0), min(tolerance.crowding * tolerance.own, LOST_ROW))
            crowd *= 1.5 if metrics.count < CROWD * axis.size else 1.0
            crowd = min(2 * crowd, max(crowd, WRONG_ROW))
            if crowd < bound:
                bound, why = crowd, f" where the whole has {metrics.nmse or 0.0:.1e}"
        if axis.local_nmse > bound:
            return f"{name} {axis.local_index} alone has a local NMSE of {axis.local_nmse:.1e}{why}, limit {bound:.2g}"
    return None


def _ids_exceed(metrics: IndexMetrics, limit: float) -> str | None:
    if metrics.judged:
        if not metrics.unexplained:
            return None
    else:
        expected = limit * metrics.positions
        if metrics.differing <= expected + 3 * math.sqrt(expected * (1 - limit)):
            return None
    return metrics.describe()
