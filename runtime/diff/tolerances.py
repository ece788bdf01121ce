"""How much two tensors may differ: one versioned table of profile x stage kind, each entry with where it comes from.

A profile says what the two runs have in common. ``limit`` holds for a stage as it stands in a trace, so it covers the
noise that arrives from all earlier stages as well as the stage's own. ``own`` covers the stage's own arithmetic alone;
it holds where everything that the stage is computed from was recorded and is identical, bit for bit, on both sides.

Two rules; breaking either makes a tensor divergent:

1. NMSE of the whole tensor (see metrics.py) at most the limit (or ``own``).
2. Local NMSE of every single position and every single channel at most ``LOCAL_FACTOR`` times the limit. A fault in
   two of 4096 weight rows, or at one of 500 positions, is diluted by all the others: two swapped rows cost an NMSE of
   5.5e-3, less than the honest noise of 4-bit weights. The factor is what noise alone needs: where errors are normal,
   the square of the largest of 10⁶ is about 2 ln 10⁶ = 28 times the mean square. The share of the error energy in the
   worst position or 1 % of channels is reported, but decides nothing by itself: where two runs differ in the last bit
   of three elements, or where a few channels carry very large activations, all of an honest error is there too.

Cosine decides nothing: a dropped block of K hides under a cosine of 0.999.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.stages import STAGE_BY_NAME, StageKind
from aprgraph.runtime.diff.indices import IndexMetrics
from aprgraph.runtime.diff.metrics import TensorMetrics

#: Goes up whenever a number below changes; reports carry it.
TABLE_VERSION = 1
DEFAULT_PROFILE = "same-graph-f32"
LOCAL_FACTOR = 30.0


@dataclass(frozen=True)
class Tolerance:
    """``limit`` and ``own`` are NMSEs; for ids (StageKind.INDEX) they are shares of positions that may hold another set."""

    limit: float
    own: float
    derivation: str


_F32_SUMS = Tolerance(
    1e-10,
    1e-11,
    "Measured: one matmul of K = 4096 in another order of summation gives 1e-13 to 2e-12; end to end over up to 30 layers, "
    "three independent float32 and float64 implementations stay within 3e-12 at every stage, and the compiled kernels here within 2e-12 "
    "of the float64 reference (SmolLM2, 7 and 100 tokens). Thirty times that, for deeper models; still 1000 times below what float16 or "
    "TF32 inputs cost (1e-7). Own: five times the measured single matmul.",
)
_F32_POINTWISE = Tolerance(
    1e-10,
    1e-12,
    "Limit: inherited from the sums before. Own: norms and elementwise operations of independent engines stay within a relative rms of "
    "8e-8 (measured; 6e-15 as NMSE); 1e-12 leaves room for a fast exp, and for sums of squares in any order.",
)
_F32_ROPE = Tolerance(
    1e-10,
    1e-10,
    "An angle p · base^(-2i/D) rounded to float32 is off by 2.4e-8 of itself (rms). Over n positions and the pairs of a head (base "
    "10000, D = 64: mean square frequency 0.071) that is an NMSE of n²/3 · 0.071 · 5.8e-16 = 1.4e-17 n²: 1e-12 at n = 256, and the "
    "limit at n = 2700. Engines that compute angles in float64 stay far below.",
)
_F32_SOFTMAX = Tolerance(
    1e-9,
    1e-12,
    "exp turns an absolute error of a score into a relative error of its weight: scores of rms S multiply the NMSE by up to S². "
    "Ten times the limit of the sums covers S = 3 at that limit, S = 18 at the noise that was measured (3e-12). Own: as for "
    "other elementwise operations.",
)
_F32_LOOKUP = Tolerance(
    1e-12,
    1e-12,
    "Decoding a row takes at most four roundings of 2⁻²⁴ each, (4 · 2⁻²⁴)² = 6e-14; a scale and an offset of opposite sign that "
    "cancel to a quarter multiply that by 16.",
)
_F32_IDS = Tolerance(
    0.0,
    0.0,
    "Noise of 1e-6 reorders experts only where two router scores agree to six digits; report such a tie, do not hide it.",
)

_Q8_SUMS = Tolerance(
    1e-2,
    1e-3,
    "llama.cpp rounds the inputs of a quantised matmul to 8 bits: 1e-5 to 2e-4 for one matmul, and measured end to end 1 to 5 % of "
    "the rms per stage, 2 to 5 % for logits, so 2.5e-3 at most. Four times that; own, five times the single matmul.",
)
_Q8_POINTWISE = Tolerance(
    1e-2,
    1e-12,
    "Limit: every stage behind the first matmul inherits its rounding. Own: computed in float32, as in same-graph-f32.",
)
_Q8_ROPE = Tolerance(1e-2, 1e-10, "As the other stages that are computed in float32; own as in same-graph-f32.")
_Q8_SOFTMAX = Tolerance(
    3e-2,
    1e-12,
    "As for the other stages, times three: the error of a score counts by its absolute size (see same-graph-f32). Not measured alone yet.",
)
_Q8_IDS = Tolerance(
    0.1,
    0.0,
    "Estimate, not measured yet: with 1 to 5 % noise on router scores, a choice flips where the last chosen and the first rejected "
    "expert are closer than that, a few per cent of positions.",
)


PROFILES: Mapping[str, Mapping[StageKind, Tolerance]] = {
    # The same weights and the same computation in float32; other kernels, machines, orders of summation.
    "same-graph-f32": {
        StageKind.LOOKUP: _F32_LOOKUP,
        StageKind.MATMUL: _F32_SUMS,
        StageKind.NORM: _F32_POINTWISE,
        StageKind.ELEMENTWISE: _F32_POINTWISE,
        StageKind.ROPE: _F32_ROPE,
        StageKind.SOFTMAX: _F32_SOFTMAX,
        StageKind.INDEX: _F32_IDS,
    },
    # The same weights; one side rounds activations to 8 bits before each quantised matmul, as llama.cpp does.
    "cross-engine-q8act": {
        StageKind.LOOKUP: _F32_LOOKUP,
        StageKind.MATMUL: _Q8_SUMS,
        StageKind.NORM: _Q8_POINTWISE,
        StageKind.ELEMENTWISE: _Q8_POINTWISE,
        StageKind.ROPE: _Q8_ROPE,
        StageKind.SOFTMAX: _Q8_SOFTMAX,
        StageKind.INDEX: _Q8_IDS,
    },
}


def check_profile(profile: str) -> None:
    """Raise ComparisonError, listing the profiles, unless ``profile`` is one."""
    if profile not in PROFILES:
        raise ComparisonError(f"unknown tolerance profile {profile!r}; expected one of {', '.join(PROFILES)}")


def kind_of(stage: str) -> StageKind:
    """The kind of a stage; a name that is not a stage is taken for a matmul, the commonest."""
    return STAGE_BY_NAME[stage].kind if stage in STAGE_BY_NAME else StageKind.MATMUL


def find_tolerance(profile: str, stage: str) -> Tolerance:
    """The table's entry for a stage."""
    return PROFILES[profile][kind_of(stage)]


def exceeds(metrics: TensorMetrics | IndexMetrics, limit: float) -> str | None:
    """Which rule ``metrics`` break under ``limit``, in words; None if none."""
    if isinstance(metrics, IndexMetrics):
        if metrics.share <= limit:
            return None
        where = "" if metrics.first is None else f", first position {metrics.first}"
        return f"another set of ids at {metrics.differing} of {metrics.positions} positions{where}"
    if metrics.nmse is not None and metrics.nmse > limit:
        return f"NMSE {metrics.nmse:.1e}, limit {limit:.0e}"
    for name, axis in (("position", metrics.positions), ("channel", metrics.channels)):
        if axis is not None and axis.local_nmse > LOCAL_FACTOR * limit:
            return f"{name} {axis.local_index} alone has a local NMSE of {axis.local_nmse:.1e}, limit {LOCAL_FACTOR * limit:.0e}"
    return None
