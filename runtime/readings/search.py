"""Finding the reading of a tensor: the fewest steps under which it is what it should be, to rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from aprgraph.runtime.readings.layout import Layout
from aprgraph.runtime.readings.logits import logits_otherwise
from aprgraph.runtime.readings.reading import Reading, Restoration
from aprgraph.runtime.readings.steps import axis_orders, factors, fused_heads, masked_places, row_orders
from aprgraph.runtime.trace.aprt import F32

#: Makes the steps of one kind that a tensor, as it is read so far, can need.
_Convention = Callable[[F32, F32, Layout], Iterator[Restoration]]

#: In the order in which they are undone. A factor comes last: it is found by what the others leave.
_CONVENTIONS: tuple[_Convention, ...] = (axis_orders, fused_heads, row_orders, masked_places, logits_otherwise, factors)
_MOST_STEPS = 3
#: Tensors of more elements are read with one step only: each reading that is tried costs passes over all of them.
_LARGE = 1 << 23


def find_reading(recorded: F32, expected: F32, layout: Layout, fits: Callable[[F32], bool]) -> Reading | None:
    """The reading under which ``recorded`` is ``expected``; None if there is none, or if it is without one.

    Both are f32 of the stage's shape. ``fits(values)`` says whether values of that shape are ``expected`` to rounding.
    """
    if recorded.shape != expected.shape or not expected.size or not np.isfinite(expected).all():
        return None
    for steps in range(1, (1 if expected.size > _LARGE else _MOST_STEPS) + 1):
        for reading in _readings(recorded, expected, layout, steps, 0):
            if fits(reading.restore(recorded)):
                return reading
    return None


def is_far(values: F32, expected: F32, most: float) -> bool:
    """Whether the NMSE of two tensors is certainly beyond ``most``: of many readings that are tried, most are far off.

    False where either holds NaN or Inf; then a whole comparison has to tell.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        a, b = (side.reshape(-1).astype(np.float64) for side in (values, expected))
        signal = max(np.vecdot(a, a), np.vecdot(b, b))
        np.subtract(a, b, out=a)
        error = np.vecdot(a, a)
    return bool(np.isfinite(error) and error > 1.01 * most * signal)  # beyond what another order of the sums could change


def _readings(recorded: F32, expected: F32, layout: Layout, steps: int, first: int) -> Iterator[Reading]:
    """Every combination of so many steps, of conventions from the ``first`` on."""
    for index in range(first, len(_CONVENTIONS)):
        for step in _CONVENTIONS[index](recorded, expected, layout):
            if steps == 1:
                yield Reading((step,))
                continue
            for rest in _readings(step.restore(recorded), expected, layout, steps - 1, index + 1):
                yield Reading((step, *rest.steps))
