"""The numbers of the table of tolerances, measured: over a thousand random cases, honest noise is within them, and not far below.

Each source of noise is one way in which two engines that are both right differ. What it costs in one operation stands against ``own``,
what the whole of a small model makes of it against ``limit`` (test_diff_noise_models.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from aprgraph.graph.stages import STAGE_BY_NAME, StageKind
from aprgraph.runtime.diff.indices import compare_indices
from aprgraph.runtime.diff.metrics import compare_tensors
from aprgraph.runtime.diff.tolerance_rules import exceeds
from aprgraph.runtime.diff.tolerances import PROFILES, find_tolerance
from tests.support.arithmetic import (
    F64,
    Rounding,
    exact,
    through_format,
    to_bfloat16,
    to_float16,
    to_float32,
    to_q8_0,
    to_q8_k,
    to_tf32,
)

F32 = npt.NDArray[np.float32]
CASES_EACH = 40
#: The largest number of products of one case: the sums in float32 below hold every product.
PRODUCTS = 1 << 20


@dataclass(frozen=True)
class Source:
    """One way to compute a stage twice: ``run(seed)`` gives both results. ``factor`` is how far the noise may stay below ``own``."""

    name: str
    profile: str
    stage: str
    run: Callable[[int], tuple[F64 | F32, F64 | F32]]
    factor: float


def operands(seed: int) -> tuple[F64, F64]:
    """x [n, K] and w [R, K] of random sizes, one position among them; in every other case a few channels are 1000 times larger."""
    generator = np.random.default_rng([31, seed])
    columns, n, rows = (int(generator.choice(sizes)) for sizes in ((32, 64, 256, 576, 1024, 4096), (1, 1, 2, 7, 32), (16, 64, 256)))
    rows = max(16, min(rows, PRODUCTS // (columns * n)))
    x, w = generator.standard_normal((n, columns)), generator.standard_normal((rows, columns))
    if seed % 2:
        x[:, generator.choice(columns, 1 + columns // 500, replace=False)] *= 1000
    return x, w


# -- sums in float32, in several orders --------------------------------------------------------------------------------


def one_after_the_other(x: F32, w: F32) -> F32:
    return np.cumsum(x[:, None] * w[None], axis=2, dtype=np.float32)[..., -1]


def pairwise_from_the_end(x: F32, w: F32) -> F32:
    return np.asarray((x[:, None, ::-1] * w[None, :, ::-1]).sum(axis=-1, dtype=np.float32))


def by_the_library(x: F32, w: F32) -> F32:
    return x @ w.T


def in_blocks_of_32(x: F32, w: F32) -> F32:
    parts = [x[:, first : first + 32] @ w[:, first : first + 32].T for first in range(0, x.shape[1], 32)]
    return np.asarray(np.cumsum(parts, axis=0, dtype=np.float32)[-1])


def in_two_orders(one: Callable[[F32, F32], F32], other: Callable[[F32, F32], F32]) -> Callable[[int], tuple[F32, F32]]:
    def run(seed: int) -> tuple[F32, F32]:
        x, w = (side.astype(np.float32) for side in operands(seed))
        return one(x, w), other(x, w)

    return run


# -- matmuls of rounded operands ---------------------------------------------------------------------------------------


def rounded(x_to: Rounding = exact, w_to: Rounding = exact, y_to: Rounding = exact) -> Callable[[int], tuple[F64, F64]]:
    def run(seed: int) -> tuple[F64, F64]:
        x, w = operands(seed)
        return x @ w.T, y_to(x_to(x) @ w_to(w).T)

    return run


def beside_q4_0(seed: int) -> tuple[F64, F64]:
    x, w = operands(seed)
    w = through_format(w, "Q4_0")
    return x @ w.T, to_q8_0(x) @ w.T


def of_format(name: str) -> Callable[[int], tuple[F64, F64]]:
    return rounded(w_to=lambda w: through_format(w, name))


# -- norms, elementwise operations, softmax, RoPE ----------------------------------------------------------------------


def norm(rounding: Rounding) -> Callable[[int], tuple[F64, F64]]:
    """RMSNorm: the squares summed in float32, in 8 lanes from either end, what is multiplied rounded."""

    def run(seed: int) -> tuple[F64, F64]:
        x, w = operands(seed)
        x, weight = rounding(x), rounding(w[0])

        def normed(squares: F64, to: Rounding) -> F64:
            lanes = squares.astype(np.float32).reshape(len(x), -1, 8)
            mean = np.cumsum(lanes, axis=1)[:, -1].sum(axis=1, keepdims=True) / np.float32(squares.shape[1])
            return to(to(x * to_float32(1 / np.sqrt(mean.astype(np.float64) + 1e-5))) * weight)

        return normed(x**2, to_float32), normed((x**2)[:, ::-1], rounding)

    return run


def gate(rounding: Rounding) -> Callable[[int], tuple[F64, F64]]:
    """SiLU(x) · y."""

    def run(seed: int) -> tuple[F64, F64]:
        x, w = operands(seed)
        y = np.resize(w, x.shape)
        x = np.clip(x, -60, 60)
        x, y = rounding(x), rounding(y)
        return x / (1 + np.exp(-x)) * y, rounding(rounding(x * to_float32(1 / (1 + to_float32(np.exp(-x))))) * y)

    return run


def softmax(rounding: Rounding) -> Callable[[int], tuple[F64, F64]]:
    def run(seed: int) -> tuple[F64, F64]:
        x, _ = operands(seed)
        x = rounding(np.clip(x, -50, 50))

        def weights(to: Rounding) -> F64:
            exponents = to(np.exp(to(x - x.max(axis=1, keepdims=True))))
            return to(exponents / to(exponents.sum(axis=1, keepdims=True)))

        return weights(exact), weights(rounding)

    return run


def rope(rounding: Rounding, angles_to: Rounding = to_float32) -> Callable[[int], tuple[F64, F64]]:
    def run(seed: int) -> tuple[F64, F64]:
        generator = np.random.default_rng([37, seed])
        n, size = int(generator.choice([1, 7, 300, 2000])), int(generator.choice([8, 64, 128]))
        base = float(generator.choice([1e4, 1e5, 1e6]))
        x = rounding(generator.standard_normal((n, size)))
        angles = np.arange(n)[:, None] * base ** (-np.arange(0, size, 2) / size)

        def turned(angles: F64, to: Rounding) -> F64:
            cos, sin, even, odd = to(np.cos(angles)), to(np.sin(angles)), x[:, 0::2], x[:, 1::2]
            return np.concatenate([to(to(even * cos) - to(odd * sin)), to(to(even * sin) + to(odd * cos))], axis=1)

        return turned(angles, exact), turned(angles_to(angles), rounding)

    return run


F32_GRAPH, F16_GRAPH, BF16_GRAPH = "same-graph-f32", "same-graph-f16", "same-graph-bf16"
Q8, Q8_K, QUANT = "cross-engine-q8act", "cross-engine-q8k", "quant-vs-float"
SOURCES = (
    Source("one after the other, or pairwise", F32_GRAPH, "ffn_gate", in_two_orders(one_after_the_other, pairwise_from_the_end), 20),
    Source("one after the other, or the library's", F32_GRAPH, "ffn_gate", in_two_orders(one_after_the_other, by_the_library), 20),
    Source("in blocks of 32, or the library's", F32_GRAPH, "ffn_gate", in_two_orders(in_blocks_of_32, by_the_library), 100),
    Source("float32 norm", F32_GRAPH, "attn_norm", norm(to_float32), 500),
    Source("float32 gate", F32_GRAPH, "ffn_swigl", gate(to_float32), 500),
    Source("float32 softmax", F32_GRAPH, "attn_softmax", softmax(to_float32), 500),
    Source("RoPE in float32", F32_GRAPH, "q_post_rope", rope(to_float32), 20),
    Source("float16 inputs", F16_GRAPH, "ffn_gate", rounded(to_float16), 30),
    Source("float16 throughout", F16_GRAPH, "ffn_gate", rounded(to_float16, to_float16, to_float16), 10),
    Source("TF32", F16_GRAPH, "ffn_gate", rounded(to_tf32, to_tf32), 20),
    Source("float16 norm", F16_GRAPH, "attn_norm", norm(to_float16), 20),
    Source("float16 gate", F16_GRAPH, "ffn_swigl", gate(to_float16), 20),
    Source("float16 softmax", F16_GRAPH, "attn_softmax", softmax(to_float16), 20),
    Source("RoPE in float16", F16_GRAPH, "q_post_rope", rope(to_float16), 20),
    Source("bfloat16 inputs", BF16_GRAPH, "ffn_gate", rounded(to_bfloat16), 40),
    Source("bfloat16 throughout", BF16_GRAPH, "ffn_gate", rounded(to_bfloat16, to_bfloat16, to_bfloat16), 20),
    Source("bfloat16 norm", BF16_GRAPH, "attn_norm", norm(to_bfloat16), 20),
    Source("bfloat16 gate", BF16_GRAPH, "ffn_swigl", gate(to_bfloat16), 20),
    Source("bfloat16 softmax", BF16_GRAPH, "attn_softmax", softmax(to_bfloat16), 20),
    Source("RoPE in bfloat16", BF16_GRAPH, "q_post_rope", rope(to_bfloat16), 20),
    Source("8-bit activations, blocks of 32", Q8, "ffn_gate", rounded(to_q8_0), 20),
    Source("8-bit activations beside Q4_0", Q8, "ffn_gate", beside_q4_0, 20),
    Source("8-bit activations, blocks of 256", Q8_K, "ffn_gate", rounded(to_q8_k), 20),
    Source("Q4_0 weights", QUANT, "ffn_gate", of_format("Q4_0"), 5),
    Source("Q4_1 weights", QUANT, "ffn_gate", of_format("Q4_1"), 5),
    Source("Q4_K weights", QUANT, "ffn_gate", of_format("Q4_K"), 5),
    Source("Q5_0 weights", QUANT, "ffn_gate", of_format("Q5_0"), 20),
    Source("Q8_0 weights", QUANT, "ffn_gate", of_format("Q8_0"), 1000),
)


@pytest.mark.contract("DIFF-NOISE-1")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_honest_noise_stays_within_what_its_profile_allows_one_operation(source: Source) -> None:
    tolerance = find_tolerance(source.profile, source.stage)
    found = []
    for seed in range(CASES_EACH):
        a, b = (np.asarray(side, np.float32) for side in source.run(seed))
        metrics = compare_tensors(a, b)
        assert metrics.nmse is not None
        assert exceeds(metrics, tolerance.own) is None, (seed, a.shape)
        assert exceeds(metrics, tolerance.limit, tolerance) is None, (seed, a.shape)
        found.append(metrics.nmse)
    assert max(found) > tolerance.own / source.factor, f"own is {tolerance.own:g}, and nothing came near it: {max(found):.1e}"


def test_these_are_more_than_a_thousand_cases() -> None:
    assert len(SOURCES) * CASES_EACH > 1000
    assert {source.profile for source in SOURCES} == set(PROFILES)


@pytest.mark.contract("DIFF-NOISE-1")
@pytest.mark.parametrize("profile", PROFILES)
def test_no_profile_flags_what_a_finer_one_allows(profile: str) -> None:
    """A table that is looser in name only would flag, under a coarser profile, what the finer one lets pass."""
    finer = PROFILES[F32_GRAPH]
    for kind, tolerance in PROFILES[profile].items():
        assert tolerance.limit >= finer[kind].limit, kind
        assert tolerance.own >= finer[kind].own, kind


@pytest.mark.parametrize(("profile", "nmse"), [(F16_GRAPH, 2e-5), (BF16_GRAPH, 2e-3), (Q8, 6e-3), (Q8_K, 4.3e-2), (QUANT, 4.3e-2)], ids=str)
@pytest.mark.parametrize(("experts", "used"), [(8, 2), (64, 8), (128, 8)])
@pytest.mark.parametrize("positions", [1, 7, 300])
def test_choices_of_experts_by_noisy_scores_stay_within_the_share(
    profile: str, nmse: float, experts: int, used: int, positions: int
) -> None:
    limit = PROFILES[profile][StageKind.INDEX].limit
    for seed in range(20):
        generator = np.random.default_rng([41, seed, experts, positions])
        scores = generator.standard_normal((positions, experts))
        noisy = scores + np.sqrt(nmse) * generator.standard_normal(scores.shape)
        a, b = (np.argsort(-side, axis=1)[:, :used].astype(np.float32) for side in (scores, noisy))
        metrics = compare_indices(a, b)
        assert metrics is not None
        assert exceeds(metrics, limit) is None, seed


@pytest.mark.contract("DIFF-LOCAL-1")
@pytest.mark.parametrize("seed", range(5))
def test_swapped_rows_stand_out_of_quantisation_noise(seed: int) -> None:
    """Less NMSE than the noise of Q4_0 has, in two channels."""
    generator = np.random.default_rng([43, seed])
    x, w = generator.standard_normal((64, 256)), generator.standard_normal((1024, 256))
    # What arrives at a matmul in the middle of a quantised model is itself off.
    quantised, arrives = through_format(w, "Q4_0"), x + 0.05 * generator.standard_normal(x.shape)
    swapped = quantised.copy()
    swapped[[17, 900]] = quantised[[900, 17]]
    tolerance = find_tolerance(QUANT, "ffn_gate")
    good, bad = (
        compare_tensors(*(np.asarray(y @ side.T, np.float32) for y, side in ((x, w), (arrives, other)))) for other in (quantised, swapped)
    )
    assert good.nmse is not None
    assert 0.007 < good.nmse < 0.02
    assert exceeds(good, tolerance.limit, tolerance) is None
    reason = exceeds(bad, tolerance.limit, tolerance)
    assert reason is not None
    assert "channel 17 alone" in reason or "channel 900 alone" in reason


def test_one_channel_of_one_position_is_not_judged_by_the_others() -> None:
    """The square of one normal number says little: a single element may be far off."""
    a = np.ones((1, 256), np.float32)
    b = a.copy()
    b[0, 5] = -1.0
    tolerance = find_tolerance(QUANT, "ffn_gate")
    assert exceeds(compare_tensors(a, b), tolerance.limit, tolerance) is None
    a, b = np.repeat(a, 8, axis=0), np.repeat(b, 8, axis=0)
    assert "channel 5 alone" in str(exceeds(compare_tensors(a, b), tolerance.limit, tolerance))


@pytest.mark.parametrize("stage", ["attn_out", "ffn_gate", "qkv_matmul"])
def test_what_has_nothing_to_do_with_the_other_is_found_under_every_profile(stage: str) -> None:
    generator = np.random.default_rng(47)
    a, b = (generator.standard_normal((7, 96)).astype(np.float32) for _ in range(2))
    assert STAGE_BY_NAME[stage].kind is StageKind.MATMUL
    for profile in PROFILES:
        tolerance = find_tolerance(profile, stage)
        for other in (b, -a, np.zeros_like(a)):
            assert exceeds(compare_tensors(a, other), tolerance.limit, tolerance) is not None, profile
