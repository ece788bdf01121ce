"""What the charts have in common: logarithmic scales and their ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class LogScale:
    """Decades ``low`` to ``high`` (powers of ten) from ``bottom`` to ``top``, in pixels downwards."""

    low: int
    high: int
    bottom: float
    top: float

    @staticmethod
    def over(values: Iterable[float], bottom: float, top: float) -> LogScale:
        """A scale of whole decades that holds all positive ``values``; at most 24 decades, from the largest down."""
        exponents = [math.log10(value) for value in values if value > 0]
        high = math.ceil(max(exponents, default=0.0))
        low = min(math.floor(min(exponents, default=-1.0)), high - 1)
        return LogScale(max(low, high - 24), high, bottom, top)

    def y(self, value: float) -> float:
        """Where ``value`` stands; below the scale at its bottom."""
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return self.bottom - min(max(part, 0.0), 1.0) * (self.bottom - self.top)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """(y, ``10⁻⁶``) of whole decades, at most ``most`` and a few more."""
        step = max(1, -(-(self.high - self.low) // most))
        return [(self.y(10.0**decade), f"10{str(decade).translate(_SUPERSCRIPTS)}") for decade in range(self.high, self.low - 1, -step)]
