"""Tolerances that a user sets for some stages: ``ffn_.*=nmse:1e-6``, ``moe_router_indices=ids:0.05``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aprgraph.graph.errors import ComparisonError, quoted
from aprgraph.graph.regular_expression import compile_expression
from aprgraph.graph.stage_suggestions import did_you_mean
from aprgraph.graph.stages import StageKind
from aprgraph.runtime.diff.tolerances import Tolerance, find_tolerance, kind_of

EXPECTED = "expected REGEX=nmse:VALUE, such as 'ffn_.*=nmse:1e-6', or REGEX=ids:SHARE for the ids of experts"


@dataclass(frozen=True)
class Override:
    """``text`` as it was given; ``value`` is the limit of the stages whose whole name ``pattern`` matches and that ``measure`` measures."""

    text: str
    pattern: re.Pattern[str]
    measure: str
    value: float

    def applies(self, stage: str) -> bool:
        """Whether it sets the limit of ``stage``."""
        return (kind_of(stage) is StageKind.INDEX) == (self.measure == "ids") and self.pattern.fullmatch(stage) is not None


def parse_override(text: str) -> Override:
    """Parse ``REGEX=nmse:VALUE`` or ``REGEX=ids:SHARE``. Raises ComparisonError."""
    pattern, equals, rest = text.rpartition("=")
    measure, colon, number = rest.partition(":")
    if not (equals and pattern and colon) or measure not in ("nmse", "ids"):
        raise ComparisonError(f"tolerance {quoted(text)}: {EXPECTED}")
    try:
        compiled = compile_expression(pattern)
    except ValueError as error:
        raise ComparisonError(f"tolerance {quoted(text)}: {quoted(pattern)} is not a regular expression ({error}); {EXPECTED}") from None
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf or (measure == "ids" and value > 1):
        wanted = "a share from 0 to 1" if measure == "ids" else "a number of at least 0"
        raise ComparisonError(f"tolerance {quoted(text)}: {quoted(number)} is not {wanted}")
    return Override(text, compiled, measure, value)


class Tolerances:
    """The tolerance of each stage: that of the profile, unless one of ``overrides`` sets another, the last that applies.

    Raises ComparisonError for what cannot be parsed, and for an override that applies to none of ``stages``.
    """

    def __init__(self, profile: str, overrides: Sequence[str], stages: Iterable[str]) -> None:
        self._profile = profile
        self._overrides = [parse_override(text) for text in overrides]
        names = sorted(set(stages))
        for override in self._overrides:
            if not any(override.applies(stage) for stage in names):
                other = [stage for stage in names if override.pattern.fullmatch(stage)]
                hint = f"; {other[0]} is measured by {'ids' if override.measure == 'nmse' else 'nmse'}" if other else ""
                hint = hint or did_you_mean(override.pattern.pattern)
                known = ", ".join(names) or "none"
                raise ComparisonError(f"tolerance {quoted(override.text)} applies to no stage of either trace{hint}; their stages: {known}")

    def find(self, stage: str, positions: int = 0) -> Tolerance:
        """The tolerance of ``stage`` in a run whose last position is the ``positions``-th; 0 where that is not known."""
        override = self.override(stage)
        if override is None:
            return find_tolerance(self._profile, stage, positions)
        return Tolerance(override.value, override.value, f"Set by {override.text}.")

    def override(self, stage: str) -> Override | None:
        """What was set for ``stage``, if anything was."""
        return next((override for override in reversed(self._overrides) if override.applies(stage)), None)
