"""The reference semantics of each op against scalar loops, closed forms and published properties; what each op rejects."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Attr, Node, TensorType
from aprgraph.graph.ops import OPS
from aprgraph.graph.ops.attention import causal_mask

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


def test_columns_and_last_row() -> None:
    x = np.arange(12.0).reshape(3, 4)
    close(run("columns", x, start=1, stop=3), [[1, 2], [5, 6], [9, 10]])
    close(run("last_row", x), [[8, 9, 10, 11]])
    close(run("last_row", x[:1]), [[0, 1, 2, 3]])


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


def test_rms_norm_eps_is_added_to_the_mean_square() -> None:
    close(run("rms_norm", [[0.0, 0.0]], [1.0, 1.0], eps=1e-5, groups=1), [[0.0, 0.0]])
    close(run("rms_norm", [[1.0, -1.0]], [1.0, 1.0], eps=3.0, groups=1), [[0.5, -0.5]])


def test_rms_norm_of_groups_is_that_of_each_group_with_the_same_weight() -> None:
    x, weight = normal(2, 12), normal(4, seed=1)
    parts = [run("rms_norm", x[:, i : i + 4], weight, eps=0.1, groups=1) for i in (0, 4, 8)]
    close(run("rms_norm", x, weight, eps=0.1, groups=3), np.concatenate(parts, axis=1))


# -- rope -----------------------------------------------------------------------------------------------------------------


def angles(positions: Sequence[int], dims: int, base: float = 100.0, scale: float = 1.0) -> F64:
    return run("rope_angles", positions, base=base, dims=dims, scale=scale)


def test_rope_angles_by_hand() -> None:
    """Frequencies base^(-2i/dims) of Su et al. 2021, eq. 15: 1 and 1/10 here."""
    close(angles([0, 3], 4), [[1.0, 1.0, 0.0, 0.0], [math.cos(3), math.cos(0.3), math.sin(3), math.sin(0.3)]])


def test_rope_angles_scale_multiplies_positions_and_factors_divide_frequencies() -> None:
    close(angles([6], 4, scale=0.5), angles([3], 4))
    halved = run("rope_angles", [6], [2.0, 4.0], base=100.0, dims=4, scale=1.0)
    close(halved, [[math.cos(3), math.cos(0.15), math.sin(3), math.sin(0.15)]])


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
    scores = run("attn_scores", q, k, heads=heads, kv_heads=kv_heads, scale=scale)
    weights = run("attn_softmax", scores)
    mixed = run("attn_mix", weights, v, kv_heads=kv_heads)
    for h in range(heads):
        kv = slice(h // 2 * size, (h // 2 + 1) * size)
        for i in range(n):
            row = q[i, h * size : (h + 1) * size]
            products = [float(row @ k[j, kv]) * scale for j in range(t - n + i + 1)]
            total = sum(math.exp(p) for p in products)
            close(scores[h, i], products + [0.0] * (n - i - 1))
            close(weights[h, i], [math.exp(p) / total for p in products] + [0.0] * (n - i - 1))
            close(mixed[i, h * size : (h + 1) * size], sum(math.exp(p) / total * v[j, kv] for j, p in enumerate(products)))


def test_causal_mask() -> None:
    assert causal_mask(2, 4).tolist() == [[True, True, True, False], [True, True, True, True]]


def test_softmax_of_large_scores_and_of_shifted_scores() -> None:
    scores = np.array([[[1000.0, 1000.0]], [[-1000.0, -1000.0]], [[5.0, 7.0]]])
    close(run("attn_softmax", scores)[:2], [[[0.5, 0.5]], [[0.5, 0.5]]])
    close(run("attn_softmax", scores + 300), run("attn_softmax", scores))


def test_what_is_masked_is_never_read() -> None:
    """A NaN in a later position stays there; 0 · NaN would not be 0."""
    q, k, v = normal(3, 4), normal(3, 4, seed=1), normal(3, 4, seed=2)
    k[2], v[2] = np.nan, np.inf
    scores = run("attn_scores", q, k, heads=1, kv_heads=1, scale=1.0)
    assert np.isfinite(scores[:, :2]).all()
    assert not scores[:, 0, 1:].any()
    weights = run("attn_softmax", scores)
    assert np.isfinite(weights[:, :2]).all()
    assert not weights[:, 0, 1:].any()
    mixed = run("attn_mix", weights, v, kv_heads=1)
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


def test_tap_gives_its_operand() -> None:
    assert np.array_equal(run("tap", [[1.0, np.nan]]), [[1.0, np.nan]], equal_nan=True)


def test_every_op_but_the_sources_has_reference_semantics_and_a_summary() -> None:
    assert [op.name for op in OPS.values() if op.reference is None] == ["input", "weight"]
    assert all(op.summary and name == op.name for name, op in OPS.items())


# -- rejections -----------------------------------------------------------------------------------------------------------


def types(text: str) -> list[TensorType]:
    """``"f32[n,4] q8_0[8,32]"`` as types."""
    result = []
    for word in text.split():
        dtype, _, dims = word.rstrip("]").partition("[")
        result.append(TensorType(dtype, tuple(int(dim) if dim.isdigit() else dim for dim in dims.split(",") if dim)))
    return result


GOOD: dict[str, tuple[str, Mapping[str, Attr], str]] = {
    "input": ("", {}, "i32[n]"),
    "weight": ("", {"tensor": "w", "dtype": "q8_0", "dims": (4, 64)}, "q8_0[4,64]"),
    "embed": ("i32[n] q4_k[9,256]", {"scale": 1.0}, "f32[n,256]"),
    "columns": ("f32[n,8]", {"start": 2, "stop": 8}, "f32[n,6]"),
    "last_row": ("f32[n,8]", {}, "f32[1,8]"),
    "linear": ("f32[n,64] q8_0[4,64] f16[2,64]", {}, "f32[n,6]"),
    "bias_add": ("f32[n,6] f32[4] f32[2]", {}, "f32[n,6]"),
    "rms_norm": ("f32[n,8] f32[4]", {"eps": 1e-5, "groups": 2}, "f32[n,8]"),
    "rope_angles": ("i32[n] f32[2]", {"base": 1e4, "dims": 4, "scale": 1.0}, "f32[n,4]"),
    "rope": ("f32[n,24] f32[n,4]", {"heads": 2, "head_size": 6, "start": 12, "pairing": "halves"}, "f32[n,12]"),
    "attn_scores": ("f32[n,12] f32[t,6]", {"heads": 4, "kv_heads": 2, "scale": 0.5}, "f32[4,n,t]"),
    "attn_softmax": ("f32[4,n,t]", {}, "f32[4,n,t]"),
    "attn_mix": ("f32[4,n,t] f32[t,6]", {"kv_heads": 2}, "f32[n,12]"),
    "add": ("f32[n,8] f32[n,8]", {}, "f32[n,8]"),
    "mul": ("f32[n,8] f32[n,8]", {}, "f32[n,8]"),
    "silu": ("f32[n,8]", {}, "f32[n,8]"),
    "tap": ("f32[4,n,t]", {}, "f32[4,n,t]"),
}


def check(op: str, operands: str, attrs: Mapping[str, Attr], result: str) -> None:
    OPS[op].check(Node("x", op, types(result)[0], attrs), types(operands))


@pytest.mark.parametrize("op", OPS)
def test_a_good_use_passes(op: str) -> None:
    check(op, *GOOD[op])


@pytest.mark.parametrize("op", OPS)
def test_a_result_of_another_type_is_rejected_with_what_the_op_gives(op: str) -> None:
    operands, attrs, _ = GOOD[op]
    with pytest.raises(GraphError, match=rf"{op} gives .*, but the node says f32\[77\]"):
        check(op, operands, attrs, "f32[77]")


@pytest.mark.parametrize("op", OPS)
def test_operands_too_many_or_too_few_are_rejected_with_their_names(op: str) -> None:
    operands, attrs, result = GOOD[op]
    words = operands.split()
    least = sum(not name.endswith("?") for name in OPS[op].operands)
    wrong = [" ".join(words[: least - 1])] if least else []
    if not OPS[op].operands or not OPS[op].operands[-1].endswith("*"):
        wrong.append(" ".join([*words, "f32[1]"]))
    assert wrong
    for text in wrong:
        message = f"{op} has {len(text.split())} operands, expected ({', '.join(OPS[op].operands) or 'none'})"
        with pytest.raises(GraphError, match=re.escape(message)):
            check(op, text, attrs, result)


@pytest.mark.parametrize("op", OPS)
def test_attributes_missing_added_or_of_another_type_are_rejected(op: str) -> None:
    operands, attrs, result = GOOD[op]
    with pytest.raises(GraphError, match=f"{op} has the attributes .*'bogus'.*, expected {', '.join(sorted(attrs)) or 'none'}"):
        check(op, operands, {**attrs, "bogus": 1}, result)
    for name, value in attrs.items():
        with pytest.raises(GraphError, match=f"{op} has the attributes .*, expected {', '.join(sorted(attrs))}"):
            check(op, operands, {key: attrs[key] for key in attrs if key != name}, result)
        with pytest.raises(GraphError, match=f"{op}: attribute {name} is True, expected {type(value).__name__}"):
            check(op, operands, {**attrs, name: True}, result)
        if isinstance(value, float):
            for bad in (math.nan, math.inf):
                with pytest.raises(GraphError, match=f"{op}: attribute {name} is {bad}, expected a finite number"):
                    check(op, operands, {**attrs, name: bad}, result)


@pytest.mark.parametrize(
    ("op", "operands", "changed", "message"),
    [
        ("weight", "", {"dims": ()}, r"dims is \(\), expected a list of whole numbers above 0"),
        ("weight", "", {"dims": (0, 64)}, r"dims is \(0, 64\), expected a list of whole numbers above 0"),
        ("weight", "", {"dims": (True, 64)}, "expected a list of whole numbers above 0"),
        ("weight", "", {"dims": ("n", 64)}, "expected a list of whole numbers above 0"),
        ("weight", "", {"dtype": "q9_0"}, "dtype is 'q9_0', expected one of f32, f16, bf16, q8_0"),
        ("weight", "", {"dtype": "Q8_0"}, "dtype is 'Q8_0', expected one of f32"),
        ("weight", "", {"dims": (4, 40)}, "rows have 40 elements, expected a multiple of 32 for q8_0"),
        ("embed", "f32[n] q4_k[9,256]", {}, r"tokens are f32\[n\], expected i32\[n\]"),
        ("embed", "i32[n] f32[9]", {}, r"the embedding table is f32\[9\], expected \[vocabulary, hidden\]"),
        ("columns", "f32[n,7]", {}, r"columns 2\.\.8 do not lie in f32\[n, 7\]"),
        ("columns", "f32[n,8]", {"start": 8}, r"columns 8\.\.8 do not lie in"),
        ("columns", "f32[n,8]", {"start": -1}, r"columns -1\.\.8 do not lie in"),
        ("columns", "f32[8,n]", {}, "columns of x is the symbol 'n', expected a number"),
        ("last_row", "f32[8]", {}, r"x is f32\[8\], expected f32 of 2 dims"),
        ("linear", "q8_0[4,64] q8_0[4,64]", {}, r"x is q8_0\[4, 64\], expected f32 of 2 dims"),
        ("linear", "f32[n,64] q8_0[4,32]", {}, r"a weight is q8_0\[4, 32\], but x has rows of 64"),
        ("linear", "f32[n,64] f32[64]", {}, r"a weight is f32\[64\], expected \[out, in\]"),
        ("linear", "f32[n,64] f32[n,64]", {}, "rows of a weight is the symbol 'n', expected a number"),
        ("bias_add", "f32[n,6] f32[4]", {}, r"the biases have 4 elements, but x is f32\[n, 6\]"),
        ("bias_add", "f32[n,6] f32[1,6]", {}, r"a bias is f32\[1, 6\], expected one dimension"),
        ("rms_norm", "f32[n,8] f32[8]", {}, r"the norm's weight is f32\[8\] for 2 groups, but x is f32\[n, 8\]"),
        ("rms_norm", "f32[n,8] f32[2,4]", {}, r"the norm's weight is f32\[2, 4\], expected one dimension"),
        ("rms_norm", "f32[n,8] f32[4]", {"groups": 0}, "for 0 groups"),
        ("rope_angles", "f32[n] f32[2]", {}, r"positions are f32\[n\], expected i32\[n\]"),
        ("rope_angles", "i32[n] f32[3]", {}, r"the frequency factors are f32\[3\], expected 2 elements"),
        ("rope_angles", "i32[n]", {"dims": 3}, "dims is 3, expected an even number of at least 2"),
        ("rope_angles", "i32[n]", {"dims": 0}, "dims is 0, expected an even number of at least 2"),
        ("rope_angles", "i32[n]", {"base": 0.0}, "base is 0.0, expected a positive number"),
        ("rope", "f32[n,24] f32[m,4]", {}, r"x is f32\[n, 24\], but the angles are f32\[m, 4\]"),
        ("rope", "f32[n,24] f32[n,8]", {}, r"the angles are f32\[n, 8\], but heads have 6 elements"),
        ("rope", "f32[n,24] f32[n,3]", {}, r"the angles are f32\[n, 3\], expected an even number of columns"),
        ("rope", "f32[n,23] f32[n,4]", {}, r"2 heads of 6 from column 12 do not lie in f32\[n, 23\]"),
        ("rope", "f32[n,24] f32[n,4]", {"start": -1}, "from column -1 do not lie in"),
        ("rope", "f32[n,24] f32[n,4]", {"pairing": "thirds"}, "pairing is 'thirds', expected one of interleaved, halves"),
        ("attn_scores", "f32[n,13] f32[t,6]", {}, "q: 13 columns do not divide into 4 heads"),
        ("attn_scores", "f32[n,12] f32[t,8]", {}, "heads of q have 3 elements, heads of k 4"),
        ("attn_scores", "f32[n,12] f32[t,9]", {"kv_heads": 3}, "4 query heads do not divide among 3 KV heads"),
        ("attn_scores", "f32[n,12] f32[t,6]", {"kv_heads": 0}, "k: 6 columns do not divide into 0 heads"),
        ("attn_softmax", "f32[n,t]", {}, r"scores is f32\[n, t\], expected f32 of 3 dims"),
        ("attn_mix", "f32[4,n,t] f32[n,6]", {}, r"v is f32\[n, 6\], but the weights are f32\[4, n, t\]"),
        ("attn_mix", "f32[4,n,t] f32[t,6]", {"kv_heads": 3}, "4 query heads do not divide among 3 KV heads"),
        ("attn_mix", "f32[4,n,t] f32[t,6]", {"kv_heads": 0}, "v: 6 columns do not divide into 0 heads"),
        ("add", "f32[n,8] f32[n,9]", {}, r"operands differ: f32\[n, 8\], f32\[n, 9\]"),
        ("mul", "f32[n,8] i32[n]", {}, r"operands are f32\[n, 8\], i32\[n\], expected f32"),
        ("silu", "q8_0[2,32]", {}, r"operands are q8_0\[2, 32\], expected f32"),
    ],
)
def test_wrong_operands_are_rejected_with_what_was_expected(op: str, operands: str, changed: Mapping[str, Attr], message: str) -> None:
    _, attrs, result = GOOD[op]
    with pytest.raises(GraphError, match=message):
        check(op, operands, {**attrs, **changed}, result)
