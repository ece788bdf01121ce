"""Summary statistics of a tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from aprgraph.runtime.trace.aprt import F32

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Statistics:
    """Over the finite elements: min, max, mean and root mean square (None if there is none); and counts of the others.

    Sums are accumulated in float64.
    """

    count: int
    min: float | None
    max: float | None
    mean: float | None
    rms: float | None
    nan: int
    inf: int

    @property
    def is_finite(self) -> bool:
        """Whether no element is NaN or Inf."""
        return self.nan == 0 and self.inf == 0

    def to_json(self) -> dict[str, float | int | None]:
        """As a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, float | int | None]) -> Statistics:
        """From what ``to_json`` gives."""
        count, nan, inf = (int(data[name] or 0) for name in ("count", "nan", "inf"))
        low, high, mean, rms = (None if (value := data[name]) is None else float(value) for name in ("min", "max", "mean", "rms"))
        return Statistics(count, low, high, mean, rms, nan, inf)


def statistics_from_sums(count: int, nan: int, inf: int, low: float, high: float, total: float, squares: float) -> Statistics:
    """Statistics from sums over the finite elements."""
    finite = count - nan - inf
    if finite == 0:
        return Statistics(count, None, None, None, None, nan, inf)
    return Statistics(count, low, high, total / finite, math.sqrt(squares / finite), nan, inf)


def compute_statistics(values: F32) -> Statistics:
    """The statistics of ``values`` (any shape, float64 of other programs too), in chunks, so that memory stays bounded."""
    found = _statistics(values, 1.0)
    if found.rms is not None and not math.isfinite(found.rms + abs(found.mean or 0.0)):
        # Squares and sums of float64 end where float64 does.
        scale = max(abs(value) for value in (found.min, found.max) if value is not None)
        parts = _statistics(values, scale)
        assert parts.mean is not None
        assert parts.rms is not None
        return replace(found, mean=parts.mean * scale, rms=parts.rms * scale)
    return found


def _statistics(values: F32, scale: float) -> Statistics:
    """Those of ``values`` over ``scale``."""
    flat = values.reshape(-1)
    nan = inf = 0
    low, high, total, squares = math.inf, -math.inf, 0.0, 0.0
    for start in range(0, flat.size, _CHUNK):
        with np.errstate(invalid="ignore"):  # signalling NaNs
            chunk = flat[start : start + _CHUNK].astype(np.float64)
        finite = np.isfinite(chunk)
        if not finite.all():
            nan += int(np.isnan(chunk).sum())
            inf += int(np.isinf(chunk).sum())
            chunk = chunk[finite]
        if chunk.size:
            chunk /= scale
            low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
            with np.errstate(over="ignore"):
                total += float(chunk.sum())
                squares += float(np.square(chunk).sum())
    return statistics_from_sums(flat.size, nan, inf, low, high, total, squares)
