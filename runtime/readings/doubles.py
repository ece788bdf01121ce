"""Tensors that are to be there twice: whether two of a trace hold the same values."""

from __future__ import annotations

import numpy as np

from aprgraph.graph.stages import EMBEDDING, FINAL_NORM
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings.places import Places
from aprgraph.runtime.trace.reader import Trace

#: Values that are there twice differ by no more than this, relative to the largest.
_SAME = 1e-6


def doubles_agree(places: Places, trace: Trace, layers: int) -> bool:
    """Whether the tensors of ``trace`` that ``places`` has twice are. ``layers`` is the number of the model's. Raises TraceError."""
    keys = {entry.key for entry in trace.entries}
    for key, target in places.moved.items():
        if target is not None or key not in keys:
            continue
        other = double_of(places, key, layers)
        if other not in keys or not are_same(trace, key, other):
            return False
    return True


def double_of(places: Places, key: Place, layers: int) -> Place:
    """Where the tensor ``key``, which ``places`` has twice, is once more."""
    usual = Place(key.step, 0, EMBEDDING) if key.layer == 0 and layers > 1 else Place(key.step, None, FINAL_NORM)
    return places.doubles.get(key, usual)


def are_same(trace: Trace, one: Place, other: Place) -> bool:
    """Whether two tensors of a trace hold the same, in whatever shape; false where a file is missing. Raises TraceError as loading does."""
    entries = [trace.get(stage, layer, step) for step, layer, stage in (one, other)]
    if any(entry.file is None for entry in entries):
        return False
    a, b = (np.asarray(trace.load(entry)).reshape(-1) for entry in entries)
    largest = float(np.abs(b).max(initial=0))
    if a.size != b.size or not np.isfinite(largest):
        return a.size == b.size and np.array_equal(a, b, equal_nan=True)
    return bool(np.allclose(a, b, rtol=0, atol=_SAME * largest))
