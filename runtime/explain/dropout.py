"""Dropout that is left on: elements are 0 at random, and the others larger for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array, traits_of
from aprgraph.runtime.explain.alternative import GENERAL, Alternative, explains
from aprgraph.runtime.explain.site import Site

#: What is that much smaller than the largest is 0, or what a difference left of it.
_NOTHING = 1e-6
#: Of so many elements that are 0 a share says something.
_LEAST = 8
#: Shares that models are trained with.
_LOW, _HIGH = 0.005, 0.6
#: A share of elements chosen at random is off what it should be by no more than so many standard deviations.
_DEVIATIONS = 5.0


@explains()
def dropout(site: Site) -> Iterator[Alternative]:
    """Dropout is left on: a share p of the elements is 0, and the others are 1 / (1 - p) times as large (Srivastava et al. 2014)."""
    recorded, due = site.recorded, site.due
    if recorded is None or site.within is not None or traits_of(site.node).chooses or not np.isfinite(recorded).all():
        return
    there = np.abs(due) > _NOTHING * np.abs(due).max(initial=0.0)
    dropped = there & (np.abs(recorded) <= _NOTHING * np.abs(due).max(initial=0.0))
    kept = np.where(dropped, 0.0, due)
    energy, count = float(np.square(kept).sum()), int(there.sum())
    if dropped.sum() < _LEAST or not energy:
        return
    factor, share = float((recorded * kept).sum()) / energy, float(dropped.sum()) / count
    rate = 1 - 1 / factor if factor > 1 else 0.0
    near = _DEVIATIONS * math.sqrt(max(rate * (1 - rate), 0.0) / count)
    if _LOW < rate < _HIGH and abs(share - rate) <= near and site.fits(kept * factor):
        zeros = f"{dropped.sum()} of {count} elements of {site.called} are 0"
        words = f"dropout of {rate:.3g} is left on: {zeros}, and the others {factor:.4g} times as large"
        yield Alternative("dropout", words, partial(_dropped, site, dropped, factor), GENERAL)


def _dropped(site: Site, dropped: Array, factor: float, operands: Sequence[Array]) -> Array:
    return np.where(dropped, 0.0, site.compute(operands) * factor)
