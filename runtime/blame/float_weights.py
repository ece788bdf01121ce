"""A trace of float weights against the file that has them quantised: what the file's block formats cost one operation of its replay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import weights_of
from aprgraph.graph.stages import StageKind
from aprgraph.runtime.diff.inputs import LINEAR
from aprgraph.runtime.diff.profiles import arithmetic_profiles, states_float_weights
from aprgraph.runtime.diff.tolerance_rules import CROWDED_FROM
from aprgraph.runtime.diff.tolerances import PROFILES, Tolerance, kind_of
from aprgraph.runtime.diff.weight_noise import LOOKUP_FACTOR, format_noise
from aprgraph.runtime.trace.manifest import TraceInfo


@dataclass(frozen=True)
class FloatWeights:
    """``formats`` are those of the file's tensors, ``arithmetics`` the profiles that cover what the trace was computed in."""

    formats: Mapping[str, str]
    arithmetics: tuple[str, ...]

    @staticmethod
    def of(info: TraceInfo | None, graph: Graph, kept: str | None) -> FloatWeights | None:
        """Of a trace whose manifest says that its weights were float; None of any other. ``graph`` is the model's."""
        if not states_float_weights(info):
            return None
        formats = {weight.attr_str("tensor"): weight.attr_str("dtype").upper() for weight in weights_of(graph)}
        return FloatWeights(formats, arithmetic_profiles([info], [kept]))

    def tolerance(self, tolerance: Tolerance, stage: str, weights: Iterable[str], positions: int) -> Tolerance:
        """``tolerance`` with the ``own`` of a stage that reads ``weights`` and of which so many positions are compared."""
        kind = kind_of(stage)
        arithmetic = max(PROFILES[profile][kind].own for profile in self.arithmetics)
        if kind is StageKind.NORM and not self.noise(weights):  # its weight is F32 in the file: nothing was quantised
            return replace(tolerance, own=min(tolerance.own, arithmetic))
        if kind not in (StageKind.MATMUL, StageKind.LOOKUP):
            return tolerance
        gain = LINEAR.many if positions >= CROWDED_FROM else LINEAR.few
        factor = LOOKUP_FACTOR if kind is StageKind.LOOKUP else gain
        # Norms' weights and biases, and what the table allows stages without any, are as in the profile.
        own = max(factor * self.noise(weights) + arithmetic, PROFILES["quant-vs-float"][StageKind.ELEMENTWISE].own)
        return replace(tolerance, own=own, limit=max(tolerance.limit, own))

    def noise(self, weights: Iterable[str]) -> float:
        """What quantising tensors of the file cost one matmul."""
        return max((format_noise(self.formats[name]) for name in weights if name in self.formats), default=0.0)

    def unit(self, weights: Iterable[str]) -> float:
        """The rounding error of an element, at most, whose mean square is that noise."""
        return math.sqrt(3 * self.noise(weights))
