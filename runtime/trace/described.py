"""Whether a tensor is the one that a manifest describes, by its statistics: what finds damaged and exchanged files."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np

from aprgraph.runtime.trace.aprt import F32, give_back
from aprgraph.runtime.trace.statistics import Statistics, compute_statistics, statistics_from_sums

#: Elements of a step, whose float64 values stay in the cache, and after which pages that were read are given back.
_STEP, _GIVEN_BACK = 1 << 16, 1 << 22
#: How far off, relative to the largest element, statistics may be: of sums in float64 in another order, and of what was rounded or added up
#: in float32, as other writers may have it.
_EXACT, _ROUGH = 1e-6, 1e-3
#: A number with no more decimal digits may have been rounded to them.
_FEW_DIGITS = 9


def why_not_described(values: F32, statistics: Statistics, found: Statistics | None = None) -> str | None:
    """How ``values`` are not what ``statistics`` say, in words; None where they are, as exactly as the statistics are. ``found`` are those
    of ``values``, where they are known.
    """
    if found is not None:
        return _why_not(found, statistics)
    with np.errstate(invalid="ignore"):  # Inf and -Inf, whose sum is NaN
        return _why_not(_statistics(values.reshape(-1)), statistics)


def _why_not(found: Statistics, statistics: Statistics) -> str | None:
    for what, count, due_count in (("NaN", found.nan, statistics.nan), ("Inf", found.inf, statistics.inf)):
        if count != due_count:
            return f"it holds {count} {what}, there are {due_count} in the manifest"
    largest = max((abs(value) for value in (found.min, found.max) if value is not None), default=0.0)
    of_each = (
        ("min", found.min, statistics.min),
        ("max", found.max, statistics.max),
        ("mean", found.mean, statistics.mean),
        ("rms", found.rms, statistics.rms),
    )
    # Nearly all are as exact as they may have to be, and how exact that is takes longer to find out than their sums.
    doubtful = [one for one in of_each if one[2] is not None and not (one[1] is not None and abs(one[1] - one[2]) <= largest * _EXACT)]
    if not doubtful:
        return None
    tolerance = largest * (_EXACT if any(value is not None and _is_of_float64(value) for _, _, value in of_each) else _ROUGH)
    for name, held, due in doubtful:
        assert due is not None
        if held is None or not abs(held - due) <= max(tolerance, _last_digit(due)):
            return f"its {name} is {'not there' if held is None else f'{held:.7g}'}, {due:.7g} in the manifest"
    return None


def _statistics(flat: F32) -> Statistics:
    low, high, total, squares = math.inf, -math.inf, 0.0, 0.0
    buffer = np.empty(min(_STEP, flat.size))
    # A mapped file is a subclass of arrays, of which each part costs more to make than its sum.
    plain = np.asarray(flat)
    for start in range(0, flat.size, _GIVEN_BACK):
        end = min(start + _GIVEN_BACK, flat.size)
        for step in range(start, end, _STEP):
            values = plain[step : min(step + _STEP, end)]
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            wide = buffer[: values.size]
            np.copyto(wide, values)
            total += float(np.add.reduce(wide))
            squares += float(np.vecdot(wide, wide))
        if not math.isfinite(squares):
            return compute_statistics(flat)
        give_back(flat[start:end])
    return statistics_from_sums(flat.size, 0, 0, low, high, total, squares)


def _is_of_float64(value: float) -> bool:
    """Whether a number has more digits than float32 has."""
    return float(np.float32(value)) != value and len(Decimal(repr(value)).as_tuple().digits) > _FEW_DIGITS


def _last_digit(value: float) -> float:
    """One of the last decimal digit of a number that may have been rounded to it; else 0."""
    digits = Decimal(repr(value)).as_tuple()
    return 10.0**digits.exponent if len(digits.digits) <= _FEW_DIGITS and isinstance(digits.exponent, int) else 0.0
