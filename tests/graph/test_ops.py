"""The reference semantics of each op against scalar loops, closed forms and published properties."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from aprgraph.graph.ir import Attr
from aprgraph.graph.ops import OPS
from aprgraph.graph.ops.attention import attention_mask

F64 = npt.NDArray[np.float64]


def run(op: str, *operands: object, **attrs: Attr) -> F64:
    reference = OPS[op].reference
    assert reference is not None
    return np.asarray(reference([np.asarray(operand) for operand in operands], attrs))


def normal(*shape: int, seed: int = 0) -> F64:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def close(a: npt.ArrayLike, b: npt.ArrayLike) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-12, atol=1e-13)


# -- lookup and linear ----------------------------------------------------------------------------------------------------


def test_embed_takes_rows_and_scales_them() -> None:
    table = np.arange(12.0).reshape(4, 3)
    close(run("embed", [2, 0, 2], table, scale=10.0), [[60, 70, 80], [0, 10, 20], [60, 70, 80]])


def test_columns_and_single_rows() -> None:
    x = np.arange(12.0).reshape(3, 4)
    close(run("columns", x, start=1, stop=3), [[1, 2], [5, 6], [9, 10]])
    close(run("last_row", x), [[8, 9, 10, 11]])
    close(run("last_row", x[:1]), [[0, 1, 2, 3]])
    close(run("first_row", x), [[0, 1, 2, 3]])
    close(run("mean_rows", x), [[4, 5, 6, 7]])
    close(run("mean_rows", x[:1]), [[0, 1, 2, 3]])


def test_linear_is_a_dot_product_with_each_row_of_each_weight() -> None:
    x, first, second = normal(3, 5), normal(2, 5), normal(4, 5)
    expected = [[sum(row[i] * w[i] for i in range(5)) for w in [*first, *second]] for row in x]
    close(run("linear", x, first, second), expected)
    close(run("linear", x, first), run("linear", x, first, second)[:, :2])


def test_biases_lie_side_by_side() -> None:
    close(run("bias_add", np.zeros((2, 3)), [1.0], [2.0, 3.0]), [[1, 2, 3]] * 2)


# -- normalisation --------------------------------------------------------------------------------------------------------


def test_rms_norm_by_hand() -> None:
    close(run("rms_norm", [[3.0, 4.0]], [1.0, 2.0], eps=0.0, groups=1), [[3 / math.sqrt(12.5), 8 / math.sqrt(12.5)]])


def test_rms_norm_gives_unit_rms_and_ignores_the_scale_of_its_input() -> None:
    x = normal(4, 16)
    result = run("rms_norm", x, np.ones(16), eps=0.0, groups=1)
    close(np.mean(result**2, axis=1), np.ones(4))
    close(run("rms_norm", 1000 * x, np.ones(16), eps=0.0, groups=1), result)


def test_rms_norm_without_weights_is_that_with_ones() -> None:
    x = normal(3, 12)
    close(run("rms_norm", x, eps=0.1, groups=3), run("rms_norm", x, np.ones(4), eps=0.1, groups=3))


def test_what_is_scaled() -> None:
    close(run("scale_columns", [[1.0, 2.0]], [3.0, 5.0]), [[3.0, 10.0]])
    close(run("scale_columns", [[1.0, 2.0]], [3.0]), [[3.0, 6.0]])
    close(run("expert_scale", [[1.0, 2.0], [4.0, 8.0]], [[2.0, 0.0], [1.0, math.nan]], [3.0, 5.0, 7.0]), [[7.0, 6.0], [20.0, math.nan]])
    close(run("columns", [[[1.0, 2.0], [3.0, 4.0]]], start=1, stop=2), [[[2.0], [4.0]]])


def test_streams() -> None:
    """Two streams of two columns; what goes from stream j to stream i stands at i · 2 + j."""
    x = [[1.0, 2.0, 10.0, 20.0]]
    close(run("altup_predict", x, [[0.0, 1.0, 0.5, 0.0]]), [[11.0, 22.0, 10.5, 21.0]])
    close(run("altup_correct", x, [[4.0, 4.0]], [[0.0, 1.0]], active=0), [[4.0, 4.0, 16.0, 24.0]])
    close(run("altup_correct", x, [[4.0, 4.0]], [[0.0, 1.0]], active=1), [[-5.0, -14.0, -2.0, -12.0]])
    close(run("stream_add", x, [[1.0, 1.0]], streams=2, start=1), [[1.0, 2.0, 11.0, 21.0]])
    close(run("stream_mean", x, streams=2), [[5.5, 11.0]])
    close(run("match_rms", [[3.0, 3.0, 0.0, 0.1]], [[2.0, 2.0]], least=0.04), [[2.0, 2.0, 0.0, 1.0]])


def test_what_lies_above_a_bound_is_left() -> None:
    """Mean 4; the variance is 5 of the whole row, and 20 / 3 of a sample."""
    row = [[1.0, 3.0, 5.0, 7.0]]
    close(run("gaussian_top_k", row, factor=0.5), [[0.0, 0.0, 0.0, 3.0 - math.sqrt(5) / 2]])
    close(run("gaussian_top_k", row, factor=0.5, sample=True), [[0.0, 0.0, 0.0, 3.0 - math.sqrt(20 / 3) / 2]])
    close(run("gaussian_top_k", row, factor=-0.5), [[0.0, math.sqrt(5) / 2 - 1.0, math.sqrt(5) / 2 + 1.0, math.sqrt(5) / 2 + 3.0]])


def test_weights_among_those_that_are_nearly_as_good() -> None:
    """4 and 3 are within a quarter of 4; of what is left when 4 is chosen, 3 has no neighbour, and 3 of a sum of 4s has."""
    e = math.exp(-1.0)
    close(run("sparse_mixer", [[4.0, 3.0, 0.0]], [[0.0, 1.0]], tolerance=0.25), [[1 / (1 + e), 1.0]])
    close(run("sparse_mixer", [[4.0, 3.0, 0.0]], [[0.0, 1.0]], tolerance=0.2), [[1.0, 1.0]])
    close(run("sparse_mixer", [[4.0, 4.0, 4.0]], [[0.0, 1.0]], tolerance=0.0), [[1 / 3, 1 / 2]])
    close(run("sparse_mixer", [[-2.0, -1.0, -4.0]], [[1.0, 0.0]], tolerance=0.5), [[1 / (1 + e), 1 / (1 + math.exp(-2.0))]])
    close(run("sparse_mixer", [[1.0, math.nan]], [[math.nan, math.nan]], tolerance=0.5), [[math.nan, math.nan]])


def test_rms_norm_eps_is_added_to_the_mean_square() -> None:
    close(run("rms_norm", [[0.0, 0.0]], [1.0, 1.0], eps=1e-5, groups=1), [[0.0, 0.0]])
    close(run("rms_norm", [[1.0, -1.0]], [1.0, 1.0], eps=3.0, groups=1), [[0.5, -0.5]])


def test_rms_norm_of_groups_is_that_of_each_group_with_the_same_weight() -> None:
    x, weight = normal(2, 12), normal(4, seed=1)
    parts = [run("rms_norm", x[:, i : i + 4], weight, eps=0.1, groups=1) for i in (0, 4, 8)]
    close(run("rms_norm", x, weight, eps=0.1, groups=3), np.concatenate(parts, axis=1))


def test_layer_norm_by_hand() -> None:
    close(run("layer_norm", [[3.0, 5.0]], [1.0, 2.0], eps=0.0, groups=1), [[-1.0, 2.0]])
    close(run("layer_norm", [[3.0, 5.0]], [1.0, 2.0], [10.0, 20.0], eps=3.0, groups=1), [[9.5, 21.0]])


def test_layer_norm_ignores_what_is_added_to_its_input() -> None:
    x = normal(4, 16)
    result = run("layer_norm", x, np.ones(16), eps=0.0, groups=1)
    close(result.mean(axis=1), np.zeros(4))
    close(np.mean(result**2, axis=1), np.ones(4))
    close(run("layer_norm", 1000 * x + 5, np.ones(16), eps=0.0, groups=1), result)


def test_layer_norm_of_groups_is_that_of_each_group_with_a_weight_for_all_or_its_own() -> None:
    x, weights, biases = normal(2, 12), normal(3, 4, seed=1), normal(3, 4, seed=2)
    alike, own = (
        np.concatenate([run("layer_norm", x[:, 4 * i : 4 * i + 4], w, b, eps=0.1, groups=1) for i, (w, b) in enumerate(parts)], axis=1)
        for parts in ([(weights[0], biases[0])] * 3, zip(weights, biases, strict=True))
    )
    close(run("layer_norm", x, weights[0], biases[0], eps=0.1, groups=3), alike)
    close(run("layer_norm", x, weights, biases, eps=0.1, groups=3), own)


# -- rope -----------------------------------------------------------------------------------------------------------------


PLAIN = {"ramp_start": -1.0, "ramp_end": 0.0, "magnitude": 1.0}


def angles(positions: Sequence[int], dims: int, base: float = 100.0, scale: float = 1.0) -> F64:
    return run("rope_angles", positions, base=base, dims=dims, scale=scale, **PLAIN)


def test_rope_angles_by_hand() -> None:
    """Frequencies base^(-2i/dims) of Su et al. 2021, eq. 15: 1 and 1/10 here."""
    close(angles([0, 3], 4), [[1.0, 1.0, 0.0, 0.0], [math.cos(3), math.cos(0.3), math.sin(3), math.sin(0.3)]])


def test_rope_angles_scale_multiplies_positions_and_factors_divide_frequencies() -> None:
    close(angles([6], 4, scale=0.5), angles([3], 4))
    halved = run("rope_angles", [6], [2.0, 4.0], base=100.0, dims=4, scale=1.0, **PLAIN)
    close(halved, [[math.cos(3), math.cos(0.15), math.sin(3), math.sin(0.15)]])


def test_query_temperature_grows_from_span_to_span() -> None:
    found = run("query_temperature", [0, 3, 4, 7, 8, 100], strength=0.5, span=4)
    close(found, [[1.0], [1.0], [1 + 0.5 * math.log(2)], [1 + 0.5 * math.log(2)], [1 + 0.5 * math.log(3)], [1 + 0.5 * math.log(26)]])


@pytest.mark.parametrize(("pairing", "pairs"), [("interleaved", [(0, 1), (2, 3)]), ("halves", [(0, 2), (1, 3)])])
def test_rope_rotates_pairs_as_complex_numbers(pairing: str, pairs: list[tuple[int, int]]) -> None:
    x, positions, heads, start = normal(3, 11), [0, 1, 5], 2, 2
    result = run("rope", x, angles(positions, 4), heads=heads, head_size=4, start=start, pairing=pairing)
    for row, position in enumerate(positions):
        for head in range(heads):
            for i, (a, b) in enumerate(pairs):
                column = start + 4 * head
                turned = complex(x[row, column + a], x[row, column + b]) * np.exp(1j * position * 100.0 ** (-2 * i / 4))
                close(result[row, 4 * head + a], turned.real)
                close(result[row, 4 * head + b], turned.imag)


@pytest.mark.parametrize("pairing", ["interleaved", "halves"])
def test_rope_leaves_position_0_and_the_dims_beyond_the_angles_alone(pairing: str) -> None:
    x = normal(2, 12)
    result = run("rope", x, angles([0, 9], 4), heads=2, head_size=6, start=0, pairing=pairing)
    close(result[0], x[0])
    close(result.reshape(2, 2, 6)[:, :, 4:], x.reshape(2, 2, 6)[:, :, 4:])
    close(np.sum(result**2), np.sum(x**2))


@pytest.mark.parametrize("pairing", ["interleaved", "halves"])
def test_rope_makes_products_depend_on_the_distance_alone(pairing: str) -> None:
    """The defining property, Su et al. 2021, eq. 11."""
    q, k = normal(1, 8), normal(1, 8, seed=1)

    def product(m: int, n: int) -> float:
        turned = [run("rope", x, angles([p], 8), heads=1, head_size=8, start=0, pairing=pairing) for x, p in ((q, m), (k, n))]
        return float(np.sum(turned[0] * turned[1]))

    close(product(3, 1), product(12, 10))
    assert abs(product(3, 1) - product(3, 2)) > 1e-3


def test_the_two_pairings_are_one_permutation_apart() -> None:
    x, order = normal(3, 8), [0, 2, 4, 6, 1, 3, 5, 7]
    attrs: dict[str, Attr] = {"heads": 1, "head_size": 8, "start": 0}
    interleaved = run("rope", x, angles([1, 2, 3], 8), pairing="interleaved", **attrs)
    close(interleaved[:, order], run("rope", x[:, order], angles([1, 2, 3], 8), pairing="halves", **attrs))


def test_rope_does_not_change_its_operand() -> None:
    x = normal(2, 4)
    before = x.copy()
    run("rope", x, angles([1, 2], 4), heads=1, head_size=4, start=0, pairing="halves")
    assert np.array_equal(x, before)


# -- attention ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "t"), [(1, 1), (3, 3), (1, 4), (2, 5)])
def test_attention_by_loops(n: int, t: int) -> None:
    """Grouped heads: query head h reads KV head h // (H / K). Query i of n is position t - n + i."""
    heads, kv_heads, size, scale = 4, 2, 3, 0.7
    q, k, v = normal(n, heads * size), normal(t, kv_heads * size, seed=1), normal(t, kv_heads * size, seed=2)
    scores = run("attn_scores", q, k, heads=heads, kv_heads=kv_heads, scale=scale, window=0)
    weights = run("attn_softmax", scores, window=0)
    mixed = run("attn_mix", weights, v, kv_heads=kv_heads, window=0)
    for h in range(heads):
        kv = slice(h // 2 * size, (h // 2 + 1) * size)
        for i in range(n):
            row = q[i, h * size : (h + 1) * size]
            products = [float(row @ k[j, kv]) * scale for j in range(t - n + i + 1)]
            total = sum(math.exp(p) for p in products)
            close(scores[h, i], products + [0.0] * (n - i - 1))
            close(weights[h, i], [math.exp(p) / total for p in products] + [0.0] * (n - i - 1))
            close(mixed[i, h * size : (h + 1) * size], sum(math.exp(p) / total * v[j, kv] for j, p in enumerate(products)))


def test_heads_of_v_may_have_another_size() -> None:
    q, k, v = normal(2, 4 * 3), normal(5, 2 * 3, seed=1), normal(5, 2 * 7, seed=2)
    attrs: dict[str, Attr] = {"kv_heads": 2, "window": 0}
    weights = run("attn_softmax", run("attn_scores", q, k, heads=4, scale=0.7, **attrs), window=0)
    mixed = run("attn_mix", weights, v, **attrs)
    assert mixed.shape == (2, 4 * 7)
    for h in range(4):
        close(mixed[:, h * 7 : (h + 1) * 7], weights[h] @ v[:, h // 2 * 7 : (h // 2 + 1) * 7])
    assert np.array_equal(run("attention", q, k, v, heads=4, scale=0.7, **attrs), mixed)


def test_capped_scores() -> None:
    """Gemma 2, arXiv:2408.00118, section 2: cap · tanh(score / cap)."""
    q, k = normal(3, 4), normal(3, 4, seed=1)
    plain = run("attn_scores", q, k, heads=1, kv_heads=1, scale=40.0, window=0)
    capped = run("attn_scores", q, k, heads=1, kv_heads=1, scale=40.0, window=0, cap=2.0)
    close(capped, [[[2 * math.tanh(x / 2) if j <= i else 0.0 for j, x in enumerate(row)] for i, row in enumerate(plain[0])]])
    assert np.abs(capped).max() <= 2 < np.abs(plain).max()
    close(run("attn_scores", q, k, heads=1, kv_heads=1, scale=40.0, window=0, cap=0.0), plain)


def test_a_sink_takes_part_in_the_denominator_alone() -> None:
    """gpt-oss, arXiv:2508.10925: a logit a head beside the scores, dropped after the softmax."""
    scores, sinks = normal(2, 3, 4), np.array([0.5, -800.0])
    got = run("attn_softmax", scores, sinks, window=2)
    for h in range(2):
        for i in range(3):
            position = 4 - 3 + i
            exponents = {j: math.exp(scores[h, i, j]) for j in range(max(position - 1, 0), position + 1)}
            total = sum(exponents.values()) + math.exp(sinks[h])
            close(got[h, i], [exponents.get(j, 0.0) / total for j in range(4)])
    assert (got[0].sum(axis=-1) < 1).all()
    close(got[1], run("attn_softmax", scores, window=2)[1])
    close(run("attn_softmax", scores + 900, sinks + 900, window=2), got)


def test_attention_mask() -> None:
    assert attention_mask(2, 4, 0).tolist() == [[True, True, True, False], [True, True, True, True]]
    assert attention_mask(2, 4, 2).tolist() == [[False, True, True, False], [False, False, True, True]]
    assert attention_mask(3, 3, 1).tolist() == np.eye(3, dtype=bool).tolist()
    assert attention_mask(2, 4, 2, causal=False).tolist() == [[False, True, True, True], [False, False, True, True]]
    to_both_sides = [[abs(i - j) <= 2 for j in range(6)] for i in range(6)]
    assert attention_mask(6, 6, 4, causal=False, symmetric=True).tolist() == to_both_sides
    assert attention_mask(6, 6, 5, causal=False, symmetric=True).tolist() == to_both_sides
    assert attention_mask(2, 6, 5, causal=False, symmetric=True).tolist() == to_both_sides[4:]


def test_chunks_of_positions() -> None:
    """Llama 4: a position sees those of its own chunk, however many of them there are, and no others."""
    assert attention_mask(5, 5, 3, chunked=True).astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert attention_mask(2, 7, 3, chunked=True).astype(int).tolist() == [[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 1]]
    assert attention_mask(2, 2, 0, chunked=True).tolist() == attention_mask(2, 2, 0).tolist()
    q, k, v = normal(7, 4), normal(7, 4, seed=1), normal(7, 4, seed=2)
    attrs: dict[str, Attr] = {"heads": 1, "kv_heads": 1, "scale": 0.5}
    chunks = [run("attention", *(x[start : start + 3] for x in (q, k, v)), window=0, **attrs) for start in (0, 3, 6)]
    close(run("attention", q, k, v, window=3, chunked=True, **attrs), np.concatenate(chunks))
    k[2], v[2] = np.nan, np.inf
    assert np.isfinite(run("attention", q, k, v, window=3, chunked=True, **attrs)[3:]).all()


def test_inputs_of_experts_times_their_weights() -> None:
    x, weights = normal(3, 4), normal(3, 2, seed=1)
    got = run("expert_inputs", x, weights)
    assert got.shape == (3, 2, 4)
    for n in range(3):
        for k in range(2):
            close(got[n, k], x[n] * weights[n, k])
    outputs = normal(3, 2, 5, seed=2)
    close(run("expert_sum", outputs), outputs[:, 0] + outputs[:, 1])


def test_the_temperature_of_queries_counts_from_an_offset() -> None:
    """Llama 4's positions count from 1: of chunks of 4, that at 3 is the first to grow."""
    positions = np.arange(9)
    got = run("query_temperature", positions, strength=0.5, span=4, offset=1)
    close(got[:, 0], [1 + 0.5 * math.log(1 + (position + 1) // 4) for position in range(9)])
    close(run("query_temperature", positions + 1, strength=0.5, span=4), got)


def test_softmax_of_large_scores_and_of_shifted_scores() -> None:
    scores = np.array([[[1000.0, 1000.0]], [[-1000.0, -1000.0]], [[5.0, 7.0]]])
    close(run("attn_softmax", scores, window=0)[:2], [[[0.5, 0.5]], [[0.5, 0.5]]])
    close(run("attn_softmax", scores + 300, window=0), run("attn_softmax", scores, window=0))


def test_what_is_masked_is_never_read() -> None:
    """A NaN in a later position stays there; 0 · NaN would not be 0."""
    q, k, v = normal(3, 4), normal(3, 4, seed=1), normal(3, 4, seed=2)
    k[2], v[2] = np.nan, np.inf
    scores = run("attn_scores", q, k, heads=1, kv_heads=1, scale=1.0, window=0)
    assert np.isfinite(scores[:, :2]).all()
    assert not scores[:, 0, 1:].any()
    weights = run("attn_softmax", scores, window=0)
    assert np.isfinite(weights[:, :2]).all()
    assert not weights[:, 0, 1:].any()
    mixed = run("attn_mix", weights, v, kv_heads=1, window=0)
    assert np.isfinite(mixed[:2]).all()
    assert not np.isfinite(mixed[2]).any()


# -- elementwise ----------------------------------------------------------------------------------------------------------


def test_add_and_mul() -> None:
    close(run("add", [[1.0, 2.0]], [[10.0, 20.0]]), [[11, 22]])
    close(run("mul", [[1.0, 2.0]], [[10.0, 20.0]]), [[10, 40]])


@pytest.mark.filterwarnings("error")
def test_silu() -> None:
    """x · sigmoid(x): 0 at 0, x for large x, -0 for very negative x; its minimum is -0.27846 at -1.27846."""
    x = np.array([[0.0, 1.0, 800.0, -800.0, -1.2784645]])
    close(run("silu", x), [[0, 1 / (1 + math.exp(-1)), 800, 0, -0.27846454276107374]])
    assert np.isnan(run("silu", [[np.nan]])[0, 0])


def test_xielu_is_accurate_on_both_sides_of_0() -> None:
    x = np.array([[-700.0, -3.0, -1e-5, -1e-9, 0.0, 1e-9, 2.0]])
    below = (np.expm1(np.minimum(x, -1e-6)) - x) * 0.9 + 0.5 * x
    expected = np.where(x > 0, 0.8 * x * x + 0.5 * x, below)
    np.testing.assert_allclose(run("xielu", x, alpha_p=0.8, alpha_n=0.9, beta=0.5, eps=-1e-6), expected, rtol=1e-13)


def test_softmax_of_rows() -> None:
    close(run("softmax", [[0.0, math.log(3.0)], [800.0, 800.0]]), [[0.25, 0.75], [0.5, 0.5]])
    assert np.isnan(run("softmax", [[np.nan, 0.0]])).all()


def test_scale_soft_cap_and_relu_squared() -> None:
    close(run("scale", [[1.0, -2.0]], factor=0.25), [[0.25, -0.5]])
    close(run("soft_cap", [[0.0, 3.0, -3000.0]], cap=30.0), [[0.0, 30 * math.tanh(0.1), -30.0]])
    close(run("relu_squared", [[-3.0, 0.0, 3.0]]), [[0.0, 0.0, 9.0]])


def test_clamped_swiglu_by_hand() -> None:
    """gpt-oss: both sides clamped, the gate from above alone."""
    gate, up = [[-90.0, -1.0, 2.0, 90.0, 90.0]], [[1.0, 2.0, -9.0, 9.0, -0.5]]

    def swish(x: float) -> float:
        return x / (1 + math.exp(-1.702 * x))

    expected = [[swish(-90.0) * 2, swish(-1.0) * 3, swish(2.0) * -6, swish(7.0) * 8, swish(7.0) * 0.5]]
    close(run("clamped_swiglu", gate, up, limit=7.0, alpha=1.702), expected)
    assert np.isnan(run("clamped_swiglu", [[np.nan, 1.0]], [[1.0, np.nan]], limit=7.0, alpha=1.702)).all()


def test_biases_of_the_chosen_experts() -> None:
    x, bias = normal(2, 2, 3), normal(4, 3, seed=1)
    got = run("expert_bias_add", x, [[3.0, 0.0], [1.0, np.nan]], bias)
    close(got[0], x[0] + bias[[3, 0]])
    close(got[1, 0], x[1, 0] + bias[1])
    assert np.isnan(got[1, 1]).all()


def test_tap_gives_its_operand() -> None:
    assert np.array_equal(run("tap", [[1.0, np.nan]]), [[1.0, np.nan]], equal_nan=True)


def test_every_op_but_the_sources_has_reference_semantics_and_a_summary() -> None:
    assert [op.name for op in OPS.values() if op.reference is None] == ["input", "weight", "recorded", "received", "context_choice"]
    assert all(op.summary and name == op.name for name, op in OPS.items())
