"""How much two tensors may differ: one versioned table of profile x stage kind, each entry with where it comes from.

A profile says what the two runs have in common. ``limit`` holds for a stage as it stands in a trace, so it covers the
noise that arrives from all earlier stages as well as the stage's own. ``own`` covers the stage's own arithmetic
alone; it holds where everything that the stage is computed from was recorded and is identical, bit for bit, on both
sides.

What breaks a tolerance is a matter of four rules (tolerance_rules.py).

On long prompts the float32 angles of RoPE are the largest honest difference: their error grows with the position, so
an NMSE with its square. With P positions, RoPE's limits are at least ``ROPE_GROWTH`` · P² (measured: llama.cpp, which
multiplies an angle up along the pairs of a head, gives 1e-16 · P² with a base of 10⁵, 3e-17 with 10⁴ and 1.2e-17 with
10⁶, the worst position 7 times that; four times the largest). The limits of what inherits it grow by the same factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.stages import STAGE_BY_NAME, StageKind

#: Goes up whenever a number below, or in tolerance_rules.py, changes; reports carry it.
TABLE_VERSION = 6
#: Of the square of the number of positions; see the module docstring.
ROPE_GROWTH = 4e-16


@dataclass(frozen=True)
class Tolerance:
    """``limit`` and ``own`` are NMSEs; for ids (StageKind.INDEX) they are shares of positions that may hold another
    set.

    ``crowding`` is that of the third rule (tolerance_rules.py), None where the second suffices.
    """

    limit: float
    own: float
    derivation: str
    crowding: float | None = None


_F32_SUMS = Tolerance(
    3e-10,
    1e-11,
    "Measured: one matmul of K = 4096 in another order of summation gives 1e-13 to 2e-12; end to end over up to 30 layers, "
    "three independent float32 and float64 implementations stay within 3e-12 at every stage, and the compiled kernels here within 2e-12 "
    "of the float64 reference (SmolLM2, 7 and 100 tokens). Where attention scores have an rms of 35, two float32 runs of a small model are "
    "1.1e-10 apart at the logits. Three times that; still 300 times below what float16 or TF32 inputs cost (1e-7). Own: five times the "
    "measured single matmul.",
)
_F32_NORM = Tolerance(
    3e-10,
    1e-11,
    "Limit: inherited from the sums before. Own: the sum of squares counts. Measured over 2,000 rows of up to 4096: in 8 lanes at most "
    "2e-12, where values 1000 times the others are among them; one after the other at most 7e-12 without such values. With them, a "
    "scalar loop over 4096 squares reaches 1e-10, and is reported: that is a loss to know of. Norms of independent engines stay within "
    "a relative rms of 8e-8 (6e-15 as NMSE).",
)
_F32_POINTWISE = Tolerance(
    3e-10,
    1e-12,
    "Limit: inherited from the sums before. Own: elementwise operations of independent engines stay within a relative rms of 8e-8 "
    "(measured; 6e-15 as NMSE); 1e-12 leaves room for a fast exp.",
)
_F32_ROPE = Tolerance(
    3e-10,
    1e-10,
    "An angle p · base^(-2i/D) rounded to float32 is off by 2.4e-8 of itself (rms). Over n positions and the pairs of a head (base "
    "10000, D = 64: mean square frequency 0.071) that is an NMSE of n²/3 · 0.071 · 5.8e-16 = 1.4e-17 n²: 1e-12 at n = 256. Beyond 500 "
    "positions the limit grows with their square (see above). Engines that compute angles in float64 stay far below.",
)
_F32_SOFTMAX = Tolerance(
    3e-9,
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

_F16_SUMS = Tolerance(
    3e-4,
    1e-6,
    "Measured: inputs rounded to float16 or TF32 cost 4e-8 to 1e-7 in one matmul, weights and results the same again (2e-7 for all). "
    "End to end through 30 layers (SmolLM2; inputs, q, k, v and every result rounded) 3e-5 for 7 and for 60 tokens, 8.4e-5 for one "
    "token. Three times that. Own: five times the single matmul with everything rounded.",
)
_F16_POINTWISE = Tolerance(
    3e-4,
    1e-6,
    "Limit: inherited from the sums before. Own: one rounding to float16 costs 4e-8 to 8e-8, and an operation that keeps its "
    "intermediate results in float16 makes at most four or five.",
)
_F16_SOFTMAX = Tolerance(
    3e-3,
    1e-6,
    "As in same-graph-f32, ten times the limit of the sums, since the error of a score counts by its absolute size (measured: 6.5e-6, "
    "where scores are small). Own: as for other elementwise operations.",
)
_F16_LOOKUP = Tolerance(1e-6, 1e-6, "One rounding to float16 (4e-8), a second where rows are scaled.")
_F16_IDS = Tolerance(
    0.1,
    0.0,
    "Router scores with an NMSE of 2e-5, the largest measured end to end, choose other experts at 4 % of the positions with 8 of 128 "
    "normal scores, and at 1 % with 2 of 8 (simulated). Twice that.",
)

_BF16_SUMS = Tolerance(
    2e-2,
    1e-4,
    "bfloat16 has 3 bits less than float16, so 64 times its noise. Measured: 3e-6 to 6e-6 in one matmul, 2e-5 with everything rounded; "
    "end to end through 30 layers (SmolLM2), every result rounded, 2e-3 for 60 tokens and 1e-2 for one.",
)
_BF16_POINTWISE = Tolerance(2e-2, 1e-4, "64 times same-graph-f16: one rounding to bfloat16 costs 2e-6 to 5e-6.")
_BF16_SOFTMAX = Tolerance(6e-2, 1e-4, "Three times the limit of the sums (measured: 1e-3); own as for other elementwise operations.")
_BF16_LOOKUP = Tolerance(
    1e-4, 1e-4, "One rounding to bfloat16 (2e-6), and where rows are scaled a factor in bfloat16, off by up to 2⁻⁹: 3.8e-6."
)
_BF16_IDS = Tolerance(
    0.5,
    0.0,
    "Router scores with an NMSE of 2e-3, the largest measured end to end for 60 tokens, choose other experts at 34 % of the positions "
    "with 8 of 128 (simulated).",
)

_Q8_SUMS = Tolerance(
    2e-2,
    1e-3,
    "llama.cpp rounds the inputs of a quantised matmul to 8 bits, beside Q4_0 to Q8_0 in blocks of 32: 3e-5 for one matmul of normal "
    "activations, up to 3e-4 where a block holds a value 1000 times the others. Measured end to end with llama.cpp itself 1 to 5 % of "
    "the rms per stage, so 2.5e-3 at most; with the inputs of every linear layer rounded 9.1e-3 (SmolLM2, 30 layers, and Gemma 3 270M; "
    "1 to 60 tokens). Twice that; stages are held to their inputs as well. Own: three times the single matmul.",
)
_Q8_POINTWISE = Tolerance(
    2e-2,
    1e-12,
    "Limit: every stage behind the first matmul inherits its rounding. Own: computed in float32, as in same-graph-f32.",
)
_Q8_NORM = Tolerance(2e-2, 1e-11, "As the other stages that are computed in float32; own as in same-graph-f32.")
_Q8_ROPE = Tolerance(2e-2, 1e-10, "As the other stages that are computed in float32; own as in same-graph-f32.")
_Q8_SOFTMAX = Tolerance(
    6e-2,
    1e-12,
    "As for the other stages, times three: the error of a score counts by its absolute size (see same-graph-f32). Measured: at most 1e-3.",
)
_Q8_IDS = Tolerance(
    0.6,
    0.0,
    "Router scores with an NMSE of 6e-3, the largest measured end to end, choose other experts at 52 % of the positions with 8 of 128, "
    "at 10 % with 2 of 8 (simulated). Tap moe_router_logits, and every choice is judged by its margin instead.",
)

_Q8K_SUMS = Tolerance(
    5e-1,
    1e-2,
    "Beside K-quants, llama.cpp rounds activations in blocks of 256, whose largest value sets the step: 5e-5 for one matmul of normal "
    "activations, up to 2.5e-3 where a block holds a value 1000 times the others. End to end through 30 layers (SmolLM2, whose "
    "activations have such values) 4.3e-2 for 7 and 60 tokens of a text, 9.8e-2 for one, 2.4e-1 for 60 tokens at random; twice that. "
    "Stages are held to their inputs as well. Own: four times the single matmul. "
    "Crowding: twice the largest measured (30).",
    crowding=60.0,
)
_Q8K_POINTWISE = Tolerance(
    5e-1,
    1e-12,
    "As cross-engine-q8act, for blocks of 256. No crowding is asked for: a product of two noises puts 90 times its NMSE into one channel.",
)
_Q8K_NORM = Tolerance(5e-1, 1e-11, "As the other stages that are computed in float32; own as in same-graph-f32.")
_Q8K_ROPE = Tolerance(5e-1, 1e-10, "As the other stages that are computed in float32; own as in same-graph-f32.")
_Q8K_SOFTMAX = Tolerance(6e-1, 1e-12, "Twice what was measured (2.7e-1, 60 tokens at random).")
_Q8K_IDS = Tolerance(
    0.95,
    0.0,
    "As in cross-engine-q8act, with an NMSE of 4.3e-2: 88 % of the positions with 8 of 128 experts (simulated).",
)

_QUANT_SUMS = Tolerance(
    0.9,
    3e-2,
    "Measured: Q4_0 weights cost 7e-3 in one matmul, up to 1.7e-2 in a small one (Q4_K 6e-3, Q5_0 2e-3, Q8_0 3e-5). End to end through "
    "30 layers of a small model (SmolLM2-135M, its weights as Q4_0 against them as they were) up to 0.78, so that a whole tensor says "
    "only whether it has to do with the other: what is unrelated gives 2, another sign 4, zeros 1. Own: twice the single matmul. "
    "These are for 4 bits: where formats are known, limit and own are theirs (see below), and stages are held to their inputs. "
    "Crowding: noise alone puts up to 52 times the tensor's NMSE into one channel of 7 positions, and up to 44 times where that is half "
    "or more, or where there are 60 or 200 (SmolLM2-135M, Gemma 3 270M; 15 formats), so that a wrong row stands out where the tensor's "
    "NMSE is below 0.02. What is subtler takes the model: replay each side.",
    crowding=50.0,
)
_QUANT_POINTWISE = Tolerance(
    0.9,
    1e-4,
    "Limit: inherited. Own: norms' weights and biases are float on both sides, and the float side may compute in bfloat16. Crowding: "
    "112 measured in a product of two noises, 56 where that is half or more.",
    crowding=75.0,
)
_QUANT_NORM = Tolerance(
    0.9,
    1e-4,
    "As the elementwise stages; where the graph has a norm's weight in F32, own is that of the arithmetic. "
    "No crowding is asked for: weights of norms lift what very large activations had hidden, which puts 400 "
    "times the NMSE of the tensor into one channel (Gemma 3 270M).",
)
_QUANT_SOFTMAX = Tolerance(0.9, 1e-4, "Inherited; measured 8e-2. Crowding: 49 measured.", crowding=60.0)
_QUANT_LOOKUP = Tolerance(
    5e-2, 5e-2, "Rows of a quantised embedding: 1.2e-2 for Q4_0 (2e-2 for one row). Crowding: 13 measured.", crowding=25.0
)
_QUANT_IDS = Tolerance(
    0.95,
    0.0,
    "Most positions may choose other experts (see cross-engine-q8k); tap moe_router_logits, and every choice is judged by its margin.",
)


def _profile(
    *, lookup: Tolerance, sums: Tolerance, norm: Tolerance, pointwise: Tolerance, rope: Tolerance, softmax: Tolerance, ids: Tolerance
) -> Mapping[StageKind, Tolerance]:
    return {
        StageKind.LOOKUP: lookup,
        StageKind.MATMUL: sums,
        StageKind.NORM: norm,
        StageKind.ELEMENTWISE: pointwise,
        StageKind.ROPE: rope,
        StageKind.SOFTMAX: softmax,
        StageKind.INDEX: ids,
    }


PROFILES: Mapping[str, Mapping[StageKind, Tolerance]] = {
    "same-graph-f32": _profile(
        lookup=_F32_LOOKUP, sums=_F32_SUMS, norm=_F32_NORM, pointwise=_F32_POINTWISE, rope=_F32_ROPE, softmax=_F32_SOFTMAX, ids=_F32_IDS
    ),
    "same-graph-f16": _profile(
        lookup=_F16_LOOKUP,
        sums=_F16_SUMS,
        norm=_F16_POINTWISE,
        pointwise=_F16_POINTWISE,
        rope=_F16_POINTWISE,
        softmax=_F16_SOFTMAX,
        ids=_F16_IDS,
    ),
    "same-graph-bf16": _profile(
        lookup=_BF16_LOOKUP,
        sums=_BF16_SUMS,
        norm=_BF16_POINTWISE,
        pointwise=_BF16_POINTWISE,
        rope=_BF16_POINTWISE,
        softmax=_BF16_SOFTMAX,
        ids=_BF16_IDS,
    ),
    "cross-engine-q8act": _profile(
        lookup=_F32_LOOKUP, sums=_Q8_SUMS, norm=_Q8_NORM, pointwise=_Q8_POINTWISE, rope=_Q8_ROPE, softmax=_Q8_SOFTMAX, ids=_Q8_IDS
    ),
    "cross-engine-q8k": _profile(
        lookup=_F32_LOOKUP, sums=_Q8K_SUMS, norm=_Q8K_NORM, pointwise=_Q8K_POINTWISE, rope=_Q8K_ROPE, softmax=_Q8K_SOFTMAX, ids=_Q8K_IDS
    ),
    "quant-vs-float": _profile(
        lookup=_QUANT_LOOKUP,
        sums=_QUANT_SUMS,
        norm=_QUANT_NORM,
        pointwise=_QUANT_POINTWISE,
        rope=_QUANT_POINTWISE,
        softmax=_QUANT_SOFTMAX,
        ids=_QUANT_IDS,
    ),
}

#: What two runs have in common, for help texts and docs/tolerances.md.
PROFILE_SUMMARIES: Mapping[str, str] = {
    "same-graph-f32": "the same weights and the same computation in float32; other kernels, machines, orders of summation",
    "same-graph-f16": "the same weights; one side or both multiply, keep or record in float16, or multiply in TF32",
    "same-graph-bf16": "the same in bfloat16",
    "cross-engine-q8act": "the same weights; one side rounds activations to 8 bits in blocks of 32, as llama.cpp does beside Q4_0 to Q8_0",
    "cross-engine-q8k": "the same in blocks of 256, as llama.cpp does beside K-quants",
    "quant-vs-float": "one side has the float weights, the other the same weights quantised",
}


def check_profile(profile: str) -> None:
    """Raise ComparisonError, listing the profiles, unless ``profile`` is one."""
    if profile not in PROFILES:
        raise ComparisonError(f"unknown tolerance profile {profile!r}; expected one of {', '.join(PROFILES)}")


def kind_of(stage: str) -> StageKind:
    """The kind of a stage; a name that is not a stage is taken for a matmul, the commonest."""
    return STAGE_BY_NAME[stage].kind if stage in STAGE_BY_NAME else StageKind.MATMUL


def find_tolerance(profile: str, stage: str, positions: int = 0) -> Tolerance:
    """The table's entry for a stage of a run whose last position is the ``positions``-th; 0 where that is not known."""
    kind = kind_of(stage)
    tolerance = PROFILES[profile][kind]
    growth = ROPE_GROWTH * positions**2 / _F32_ROPE.own
    if growth <= 1 or kind in (StageKind.LOOKUP, StageKind.INDEX):
        return tolerance
    inherited = growth * PROFILES["same-graph-f32"][kind].limit
    own = growth * _F32_ROPE.own if kind is StageKind.ROPE else 0.0
    return replace(tolerance, limit=max(tolerance.limit, inherited), own=max(tolerance.own, own))
