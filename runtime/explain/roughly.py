"""A mistake beside 16-bit rounding: it leaves far less than there was to explain, and no more than such rounding leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.runtime.explain.alternative import LOOSE, Alternative
from aprgraph.runtime.explain.evidence import Evidence

#: NMSEs that float16 and bfloat16 leave: their roundings are off by some 2^-12.8 and 2^-9.8 of a number on average, squared 2e-8 and 1e-6.
_LEAST_LEFT, _MOST_LEFT = 1e-10, 4e-6
#: A mistake that is named leaves no more than this part of the error.
_FAR_LESS = 1e-4
#: It is clearly the one if no other leaves less than so many times what it leaves.
CLEARLY = 100.0
#: Of these nothing is named that says no more than where, or a number that anything might be multiplied by.
SAYS_ENOUGH = LOOSE - 1


def but_for_16_bits(evidence: Evidence) -> Callable[[Array], float | None] | None:
    """As ``Evidence.error``, of a mistake that explains all but what 16-bit rounding leaves; None where there is too little to explain."""
    recorded = evidence.recorded
    if recorded is None or not np.isfinite(recorded).all():
        return None
    signal = float(np.square(recorded).sum())

    def left(value: Array) -> float:
        return float(np.square(recorded - value).sum()) / signal

    most = min(_MOST_LEFT, _FAR_LESS * left(evidence.values[evidence.node.name])) if signal else 0.0

    def error(value: Array) -> float | None:
        found = left(value)
        return found if _LEAST_LEFT <= found <= most else None

    return error if most >= _LEAST_LEFT else None


def beside_16_bits(one: Alternative) -> Alternative:
    """A mistake that leaves what 16-bit rounding does: two mistakes, of which the second is not known."""
    words = f"{one.words} (what remains is of the size of 16-bit rounding)"
    return replace(one, name=f"{one.name} + 16 bits", words=words, rank=LOOSE)
