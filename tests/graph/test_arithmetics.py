"""The arithmetics of ggml against ggml: tests/golden/ggml_arithmetic.npz holds what its CPU backend computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aprgraph.graph.arithmetics import ARITHMETICS, EngineArithmetic, parse_arithmetic
from aprgraph.graph.block_formats import decode_minima, decode_reference, find_format
from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import Array, is_weight
from aprgraph.graph.passes.apply_arithmetic import apply_arithmetic
from aprgraph.graph.roundings import ROUNDINGS, round_values
from aprgraph.graph.verify import verify
from aprgraph.runtime.reference import evaluate
from tests.golden import ggml_cases as cases
from tests.support.golden import nmse
from tests.support.graphs import graph_of

#: What the same numbers in another order of summation may differ by.
ALIKE = 1e-12
#: What rounding otherwise costs at least.
APART = 1e-9


@pytest.fixture(scope="module")
def golden() -> Mapping[str, Any]:
    with np.load(cases.GOLDEN) as arrays:
        return dict(arrays)


def run(graph: Graph, arithmetic: EngineArithmetic, inputs: Mapping[str, Array], blocks: Any = None, sinks: Any = None) -> Array:
    """The one output of ``graph`` in ``arithmetic``."""
    changed = apply_arithmetic(graph, arithmetic)
    verify(changed)

    def weight(node: Node, _user: Node) -> Array:
        if blocks is None:
            return np.asarray(sinks, np.float64)
        fmt = find_format(node.attr_str("dtype").upper())
        assert fmt is not None
        return decode_minima(fmt, blocks) if "part" in node.attrs else decode_reference(fmt, blocks, (len(blocks), cases.COLUMNS))

    for node, value in evaluate(changed, inputs, weight):
        if node.name in changed.outputs:
            return value
    raise AssertionError("no output")


# -- matrix products ------------------------------------------------------------------------------------------------------


def product(name: str, rows: int = cases.ROWS) -> Graph:
    dims, dtype = f"[{rows}, {cases.COLUMNS}]", name.lower()
    return graph_of(f"""
        graph @product {{
          %recorded.x = recorded {{type = "f32[n, {cases.COLUMNS}]"}} : f32[n, {cases.COLUMNS}]
          %w = weight {{dims = {dims}, dtype = "{dtype}", tensor = "w"}} : {dtype}{dims}
          %y = linear(%recorded.x, %w) : f32[n, {rows}]
          return %y
        }}
    """)


@pytest.mark.contract("ARITHMETIC-GGML-1")
@pytest.mark.parametrize("level", [level for level in cases.LEVELS if level not in cases.ONLY_ATTENTION])
@pytest.mark.parametrize("name", cases.FORMATS)
def test_products_are_those_of_ggml(golden: Mapping[str, Any], name: str, level: str) -> None:
    """In all counts of rows; and no other rounding explains what ggml gives."""
    arithmetic, graph, blocks = ARITHMETICS[cases.LEVELS[level]], product(name), golden[f"weights/{name}"]
    own = arithmetic.activations[name]
    has_minima = ROUNDINGS[own].sum_errors is not None if own else False
    others = {
        scheme: replace(arithmetic, activations={name: scheme})
        for scheme, rounding in ROUNDINGS.items()
        # NEON's differ from the others' where a quotient lies within a rounding of a half; without minima Q8_1 is Q8_0.
        if scheme != own and not {"neon", "cuda", "fused"} & set(scheme.split("_")) and (has_minima or rounding.sum_errors is None)
        if rounding.sum_errors is None or has_minima
    }
    if own:
        others["exact"] = replace(arithmetic, activations={name: ""})
    x = cases.activations(max(cases.COUNTS)).astype(np.float64)
    explained = run(graph, arithmetic, {"recorded.x": x}, blocks)
    by_others = {scheme: run(graph, other, {"recorded.x": x}, blocks) for scheme, other in others.items()}
    assert len(by_others) >= 4
    for count in cases.COUNTS:
        measured = golden[f"{level}/{name}/{count}"]
        assert nmse(measured, explained[:count]) <= ALIKE
        for scheme, other in by_others.items():
            assert nmse(measured, other[:count]) >= APART, (count, scheme)


#: What is left where the order of sums alone differs; and where minima are added to products of the other sign, as with Q8_1.
SUMS, SUMS_OF_MINIMA = 2e-13, 4e-13


@pytest.mark.contract("ARITHMETIC-GGML-1")
@pytest.mark.parametrize("level", [level for level in cases.LEVELS if level not in cases.ONLY_ATTENTION])
@pytest.mark.parametrize("name", cases.FORMATS)
def test_products_of_long_passes_are_those_of_ggml(golden: Mapping[str, Any], name: str, level: str) -> None:
    x = cases.activations(max(cases.LONG_COUNTS)).astype(np.float64)
    explained = run(product(name), ARITHMETICS[cases.LEVELS[level]], {"recorded.x": x}, golden[f"weights/{name}"])
    limit = SUMS_OF_MINIMA if name in ("Q4_1", "Q5_1") else SUMS
    for count in cases.LONG_COUNTS:
        assert nmse(golden[f"{level}/{name}/{count}"], explained[cases.kept_rows(count)]) <= limit


@pytest.mark.contract("ARITHMETIC-GGML-1")
@pytest.mark.parametrize("name", cases.REPACKED)
def test_products_of_weights_in_the_order_of_ggml(golden: Mapping[str, Any], name: str) -> None:
    """What it lays out otherwise it multiplies by functions of their own, whose rounding is the same."""
    graph, arithmetic = product(name, cases.REPACKED_ROWS), ARITHMETICS["ggml-avx2"]
    for count in cases.REPACKED_COUNTS:
        explained = run(graph, arithmetic, {"recorded.x": cases.activations(count).astype(np.float64)}, golden[f"repacked-weights/{name}"])
        assert nmse(golden[f"repacked/{name}/{count}"], explained[cases.kept_rows(count)]) <= SUMS


def test_neon_rounds_as_neither(golden: Mapping[str, Any]) -> None:
    """1 / (max / 127) is not always 127 / max: numbers between which way to go depends on it."""
    largest = np.float32(1.0) + np.arange(4096, dtype=np.float32) / 4096
    scale = largest / np.float32(127)
    differ = np.float32(1) / scale != np.float32(127) / largest
    assert 0.1 < differ.mean() < 0.9
    x = np.zeros((int(differ.sum()), 32), np.float32)
    x[:, 0] = largest[differ]
    for index in range(1, 32):
        x[:, index] = np.nextafter(largest[differ] * np.float32((2 * index + 1) / 254), np.float32(0 if index % 2 else 9))
    avx, neon = (round_values(x, ROUNDINGS[f"q8_0_{variant}"]) for variant in ("avx", "neon"))
    assert (avx != neon).any()


@pytest.mark.parametrize(("name", "middle"), [("Q4_0", 8), ("Q5_0", 16), ("Q8_0", 0)])
def test_products_as_a_gpu_of_nvidia_has_them(golden: Mapping[str, Any], name: str, middle: int) -> None:
    """vec_dot_q4_0_q8_1_impl and its like, by hand: d4 · (Σ q4 · q8 · d8 - 8 · s), with s of the x that was not rounded."""
    blocks, x = golden[f"weights/{name}"], cases.activations(8)
    fmt = find_format(name)
    assert fmt is not None
    cells, rows = x.reshape(8, -1, 32), blocks.reshape(cases.ROWS, -1, fmt.block_bytes)
    scale = np.abs(cells).max(-1, keepdims=True) / np.float32(127)
    q8 = np.trunc(cells.astype(np.float64) / scale + np.copysign(0.5, cells))
    d8, sums = scale.astype(np.float16).astype(np.float64), cells.astype(np.float64).sum(-1).astype(np.float16)
    d4 = rows[..., :2].copy().view(np.float16)[..., 0].astype(np.float64)
    decoded = decode_reference(fmt, blocks, (cases.ROWS, cases.COLUMNS)).reshape(cases.ROWS, -1, 32)
    q4 = decoded / d4[..., None] + middle
    assert np.array_equal(q4, np.rint(q4))
    products = np.einsum("nbe,rbe->nrb", q8, q4) * d8[:, None, :, 0] - (middle * sums.astype(np.float64))[:, None]
    expected = (products * d4).sum(-1)
    inputs = {"recorded.x": x.astype(np.float64)}
    assert nmse(expected, run(product(name), ARITHMETICS["ggml-cuda"], inputs, blocks)) <= 1e-9  # where a quotient is a half
    assert nmse(expected, run(product(name), ARITHMETICS["ggml-scalar"], inputs, blocks)) >= (1e-8 if middle else 0)
    more = {"recorded.x": cases.activations(9).astype(np.float64)}
    with pytest.raises(GraphError, match="is how a pass of up to 8 positions is rounded, and this one has 9; run fewer at once"):
        run(product(name), ARITHMETICS["ggml-cuda"], more, blocks)


def test_a_product_that_is_not_rounded_before_it_is_made_whole() -> None:
    """Numbers whose product lies within a rounding of a half: twelve of ten million normal ones, in llama.cpp's own function too."""
    largest = np.float32(5.3)
    inverse = np.float32(-127) / largest
    halves = ((np.arange(126) + 0.5) / -float(inverse)).astype(np.float32)
    near = np.concatenate([halves + step * np.spacing(halves) for step in (-2, -1, 0, 1, 2)])[: 2 * 255].astype(np.float32)
    x = np.concatenate([np.full((2, 1), largest), near.reshape(2, 255)], axis=1)
    scale = 1 / np.float64(np.float32(1) / inverse)
    apart, fused = (round_values(x, ROUNDINGS[scheme]) for scheme in ("q8_k", "q8_k_fused"))
    assert np.array_equal(np.rint(apart * scale), np.rint(inverse * x))
    assert np.array_equal(np.rint(fused * scale), np.rint(np.float64(inverse) * x))
    assert not np.array_equal(apart, fused)


def test_blocks_that_are_nothing_stay_so() -> None:
    zeros, tiny = np.zeros((1, 256), np.float32), np.full((1, 256), 1e-40, np.float32)
    for rounding in ROUNDINGS.values():
        assert np.array_equal(round_values(zeros, rounding), zeros)
        assert np.isfinite(round_values(tiny, rounding)).all()
    broken = np.full((1, 256), np.nan, np.float32)
    with np.errstate(invalid="ignore"):
        assert all(np.isnan(round_values(broken, rounding)).all() for rounding in ROUNDINGS.values())


def test_roundings_by_hand() -> None:
    """A block of which the largest is 127: q are the numbers themselves, and halves go their own way."""
    x = np.zeros((1, 256), np.float32)
    x[0, :6] = [-127.0, 2.5, -2.5, 3.5, 0.49999997, 127.0]
    wanted = {"q8_0_avx": [-127, 2, -2, 4, 0, 127], "q8_0_scalar": [-127, 3, -3, 4, 0, 127], "q8_k": [-127, 2, -2, 4, 0, 127]}
    for scheme, expected in wanted.items():
        assert round_values(x, ROUNDINGS[scheme])[0, :6].tolist() == expected
    # The first of the largest decides about the sign, and -127 / -127.5 · 127.5 is beyond nothing.
    x[0, :2] = [127.5, -127.5]
    assert round_values(x, ROUNDINGS["q8_k"])[0, :2].tolist() == pytest.approx([127.5, -127.5], rel=1e-7)


# -- the other operations -------------------------------------------------------------------------------------------------


@pytest.mark.contract("ARITHMETIC-GGML-1")
@pytest.mark.parametrize("level", [level for level in cases.LEVELS if level not in cases.ONLY_ATTENTION])
@pytest.mark.parametrize("name", cases.ROPES)
def test_rope_is_that_of_ggml(golden: Mapping[str, Any], name: str, level: str) -> None:
    case = cases.ROPES[name]
    x, factors = cases.rope_inputs(case)
    half, columns = case.size // 2, x.shape[1]
    attrs = ", ".join(f"{key} = {value}" for key, value in sorted(case.attrs.items()))
    graph = graph_of(f"""
        graph @rope {{
          %positions = input : i32[n]
          %factors = weight {{dims = [{half}], dtype = "f32", tensor = "factors"}} : f32[{half}]
          %angles = rope_angles(%positions{", %factors" if case.with_factors else ""}) {{{attrs}}} : f32[n, {case.size}]
          %recorded.x = recorded {{type = "f32[n, {columns}]"}} : f32[n, {columns}]
          %y = rope(%recorded.x, %angles) {{head_size = {case.size}, heads = {cases.ROPE_HEADS}, pairing = "{case.pairing}", start = 0}} : f32[n, {columns}]
          return %y
        }}
    """)
    inputs = {"positions": np.array(cases.POSITIONS), "recorded.x": x.astype(np.float64)}
    measured = golden[f"{level}/rope/{name}"]
    assert nmse(measured, run(graph, ARITHMETICS[cases.LEVELS[level]], inputs, sinks=factors)) <= ALIKE
    assert nmse(measured, run(graph, ARITHMETICS["plain"], inputs, sinks=factors)) >= APART


@pytest.mark.parametrize("level", [level for level in cases.LEVELS if level not in cases.ONLY_ATTENTION])
def test_gelu_is_that_of_ggml(golden: Mapping[str, Any], level: str) -> None:
    graph = graph_of("""
        graph @gelu {
          %recorded.x = recorded {type = "f32[n, 2000]"} : f32[n, 2000]
          %y = gelu(%recorded.x) : f32[n, 2000]
          return %y
        }
    """)
    x = cases.gelu_input()
    assert x.min() < -10 < 10 < x.max()
    inputs = {"recorded.x": x.astype(np.float64)}
    assert nmse(golden[f"{level}/gelu"], run(graph, ARITHMETICS[cases.LEVELS[level]], inputs)) <= ALIKE
    assert nmse(golden[f"{level}/gelu"], run(graph, ARITHMETICS["plain"], inputs)) >= APART


def attention_graph(case: cases.AttentionCase) -> Graph:
    attrs = case.attrs
    cap = f"cap = {case.cap}, " if case.cap else ""
    sinks = ", %sinks" if case.with_sinks else ""
    q, k = 4 * case.size, 2 * case.size
    return graph_of(f"""
        graph @attention {{
          %recorded.q = recorded {{type = "f32[n, {q}]"}} : f32[n, {q}]
          %recorded.k = recorded {{type = "f32[n, {k}]"}} : f32[n, {k}]
          %recorded.v = recorded {{type = "f32[n, {k}]"}} : f32[n, {k}]
          %sinks = weight {{dims = [4], dtype = "f32", tensor = "sinks"}} : f32[4]
          %k = cache(%recorded.k) : f32[t, {k}]
          %v = cache(%recorded.v) : f32[t, {k}]
          %scores = attn_scores(%recorded.q, %k) {{{cap}heads = 4, kv_heads = 2, scale = {attrs["scale"]}, window = {case.window}}} : f32[4, n, t]
          %softmax = attn_softmax(%scores{sinks}) {{window = {case.window}}} : f32[4, n, t]
          %mix = attn_mix(%softmax, %v) {{kv_heads = 2, window = {case.window}}} : f32[n, {q}]
          return %mix
        }}
    """)


#: With several threads ggml was tried on a CPU without AVX-512.
ATTENTIONS = [
    (level, name)
    for level in cases.LEVELS
    for name, case in cases.ATTENTIONS.items()
    if case.threads == 1 or level not in cases.ONLY_ATTENTION
]


@pytest.mark.contract("ARITHMETIC-GGML-1")
@pytest.mark.parametrize(("level", "name"), ATTENTIONS)
def test_attention_is_that_of_ggml(golden: Mapping[str, Any], name: str, level: str) -> None:
    case = cases.ATTENTIONS[name]
    q, k, v, sinks = cases.attention_inputs(case)
    graph = attention_graph(case)
    inputs = {f"recorded.{what}": value.reshape(len(value), -1).astype(np.float64) for what, value in (("q", q), ("k", k), ("v", v))}
    measured = golden[f"{level}/attention/{name}"]
    arithmetic = replace(ARITHMETICS[cases.LEVELS[level]], flash=case.flash, threads=case.threads if case.flash else None)
    assert nmse(measured, run(graph, arithmetic, inputs, sinks=sinks)[case.kept]) <= ALIKE
    others = [replace(arithmetic, flash=not case.flash), replace(arithmetic, cache="f32", flash=False)]
    if case.threads > 1 and case.n == 1 and case.t > 256:
        others += [replace(arithmetic, threads=threads) for threads in (1, case.threads + 1)]
    for other in others:
        assert nmse(measured, run(graph, other, inputs, sinks=sinks)[case.kept]) >= 1e-8


@pytest.mark.contract("ARITHMETIC-GGML-1")
@pytest.mark.parametrize("architecture", ["gemma3", "llama"])
@pytest.mark.parametrize("flash", [True, False])
def test_queries_that_are_scaled_before_they_are_rounded(architecture: str, flash: bool) -> None:
    """Of small ones float16 keeps fewer digits: Gemma's are scaled first, others' scores are."""
    rng = np.random.default_rng(5)
    q, k, v = (1e-4 * rng.standard_normal((7, 256)), *rng.standard_normal((2, 7, 128)))
    case = next(case for case in cases.ATTENTIONS.values() if case.size == 64 and not case.cap and not case.with_sinks and not case.window)
    graph = attention_graph(case)
    graph.attrs["architecture"] = architecture
    scale = case.attrs["scale"]
    graph.outputs = ("scores", "mix")
    found = apply_arithmetic(graph, replace(ARITHMETICS["ggml-avx2"], flash=flash))
    scaled = [node for node in found if node.op == "scale"]
    assert [node.attrs for node in scaled] == ([{"factor": scale}] if architecture == "gemma3" else [])
    if not flash:
        factor = np.float32(scale)
        half = (q.astype(np.float32) * factor).astype(np.float16) if scaled else q.astype(np.float16) * factor.astype(np.float64)
        keys = np.repeat(k.astype(np.float16).reshape(7, 2, 64), 2, axis=1).astype(np.float64)
        due = np.einsum("nhd,thd->hnt", half.astype(np.float64).reshape(7, 4, 64), keys) * np.tri(7)
        inputs = {f"recorded.{name}": value for name, value in (("q", q), ("k", k), ("v", v))}
        values = {node.name: value for node, value in evaluate(found, inputs, lambda *_: np.zeros(4))}
        assert nmse(due, values["scores"]) < 1e-15


# -- the table ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "ggml",
            "arithmetic 'ggml': there is no 'ggml'; expected one of plain, ggml-avx2, ggml-avx512, ggml-avx2-native, ggml-avx512-native, ggml-scalar, ggml-neon, ggml-cuda",
        ),
        (
            "ggml-avx2,cache=q8",
            "'cache=q8' is no option of it; expected cache=f16|f32, flash=on|off, threads=1 to 1024, ubatch=1 to 1048576",
        ),
        ("ggml-avx2,threads=0", "'threads=0' is no option of it"),
        ("ggml-avx2,ubatch=1048577", "'ubatch=1048577' is no option of it"),
        ("ggml-avx2,flash=off,threads=4", "threads changes flash attention alone; expected flash=on, or no threads"),
        ("ggml-neon,ubatch=64", "ubatch changes flash attention alone; expected flash=on, or no ubatch"),
        ("ggml-avx2,kv=f16", "'kv=f16' is no option of it"),
        ("ggml-cuda,flash=on", "nothing is known of ggml-cuda's flash attention; expected flash=off"),
        ("plain,flash=on", "plain rounds nothing, so it has no options; expected plain alone"),
    ],
)
def test_texts_that_name_none(text: str, wanted: str) -> None:
    with pytest.raises(GraphError) as caught:
        parse_arithmetic(text)
    assert wanted in str(caught.value)


def test_a_text_gives_what_it_says() -> None:
    found = parse_arithmetic("ggml-avx2,cache=f32,flash=off")
    assert (found.cache, found.flash) == ("f32", False)
    assert parse_arithmetic(found.text) == found
    found = parse_arithmetic("ggml-avx2,threads=4,ubatch=256")
    assert (found.threads, found.ubatch, found.text) == (4, 256, "ggml-avx2,cache=f16,flash=on,threads=4,ubatch=256")
    assert parse_arithmetic(found.text) == found
    for arithmetic in ARITHMETICS.values():
        assert parse_arithmetic(arithmetic.text) == arithmetic


def test_only_weights_have_parts() -> None:
    graph = apply_arithmetic(product("Q5_1"), ARITHMETICS["ggml-avx2"])
    assert [str(node.type) for node in graph if is_weight(node)] == ["q5_1[6, 768]", "f32[6, 24]"]
