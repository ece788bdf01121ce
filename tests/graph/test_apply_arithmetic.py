"""apply-arithmetic as text: what is rounded, where, and what stays."""

from __future__ import annotations

from textwrap import dedent

import pytest

from aprgraph.graph.errors import GraphError
from aprgraph.graph.families import FAMILIES
from aprgraph.graph.outline import small_outline
from aprgraph.graph.passes import ApplyArithmetic, make_passes, run_passes
from aprgraph.graph.text import parse_graph, print_graph
from aprgraph.graph.verify import verify
from tests.support.graphs import graph_of

#: Weights of three kinds of rounding side by side, of which one has minima.
MIXED = """
    graph @mixed {
      %tokens = input : i32[n]
      %table = weight {dims = [9, 256], dtype = "q8_0", tensor = "token_embd.weight"} : q8_0[9, 256]
      %x = embed(%tokens, %table) {scale = 1.0} : f32[n, 256]
      %q = weight {dims = [8, 256], dtype = "q4_k", tensor = "q"} : q4_k[8, 256]
      %k = weight {dims = [4, 256], dtype = "q6_k", tensor = "k"} : q6_k[4, 256]
      %v = weight {dims = [4, 256], dtype = "q4_1", tensor = "v"} : q4_1[4, 256]
      %layer0.qkv_matmul = linear(%x, %q, %k, %v) stage qkv_matmul layer 0 : f32[n, 16]
      %router = weight {dims = [4, 16], dtype = "f32", tensor = "router"} : f32[4, 16]
      %layer0.moe_router_logits = linear(%layer0.qkv_matmul, %router) stage moe_router_logits layer 0 : f32[n, 4]
      return %layer0.moe_router_logits
    }
    """


def applied(before: str, arithmetic: str) -> list[str]:
    """The lines that the pass changes or adds, without the weights."""
    graph = graph_of(before)
    after = run_passes(graph, [ApplyArithmetic(arithmetic)])
    assert print_graph(graph) == dedent(before).strip("\n") + "\n", "the pass changed its argument"
    assert parse_graph(print_graph(after)) == after
    lines = {line.strip() for line in before.splitlines()}
    return [line for line in map(str.strip, print_graph(after).splitlines()) if line not in lines and not line.startswith(("graph @", "}"))]


def test_each_weight_is_multiplied_by_what_its_format_wants() -> None:
    """The embedding rounds nothing, nor does a weight in F32; q and k want one rounding, v another, with its sums beside."""
    assert applied(MIXED, "ggml-avx2") == [
        '%x_as_q8_k = round(%x) {scheme = "q8_k"} : f32[n, 256]',
        "%layer0.qkv_matmul_part0 = linear(%x_as_q8_k, %q, %k) layer 0 : f32[n, 12]",
        '%x_as_q8_1_avx = round(%x) {scheme = "q8_1_avx"} : f32[n, 256]',
        "%layer0.qkv_matmul_part1_rounded = linear(%x_as_q8_1_avx, %v) layer 0 : f32[n, 4]",
        '%x_sums_as_q8_1_avx = round_sum_errors(%x) {scheme = "q8_1_avx"} : f32[n, 8]',
        '%v_minima = weight {dims = [4, 256], dtype = "q4_1", part = "minima", tensor = "v"} : f32[4, 8]',
        "%layer0.qkv_matmul_part1_of_sums = linear(%x_sums_as_q8_1_avx, %v_minima) layer 0 : f32[n, 4]",
        "%layer0.qkv_matmul_part1 = add(%layer0.qkv_matmul_part1_rounded, %layer0.qkv_matmul_part1_of_sums) layer 0 : f32[n, 4]",
        "%layer0.qkv_matmul = join_heads(%layer0.qkv_matmul_part0, %layer0.qkv_matmul_part1) {heads = 1} stage qkv_matmul layer 0 : f32[n, 16]",
    ]


def test_three_runs_are_joined_in_order() -> None:
    mixed = MIXED.replace("(%x, %q, %k, %v)", "(%x, %q, %v, %k)")
    joins = [line for line in applied(mixed, "ggml-avx2") if "join_heads" in line]
    assert joins == [
        "%layer0.qkv_matmul_parts0to1 = join_heads(%layer0.qkv_matmul_part0, %layer0.qkv_matmul_part1) {heads = 1} layer 0 : f32[n, 12]",
        (
            "%layer0.qkv_matmul = join_heads(%layer0.qkv_matmul_parts0to1, %layer0.qkv_matmul_part2) {heads = 1} "
            "stage qkv_matmul layer 0 : f32[n, 16]"
        ),
    ]


ATTENTION = """
    graph @attention {
      %tokens = input : i32[n]
      %table = weight {dims = [9, 8], dtype = "f32", tensor = "token_embd.weight"} : f32[9, 8]
      %q = embed(%tokens, %table) {scale = 1.0} : f32[n, 8]
      %k = columns(%q) {start = 0, stop = 4} : f32[n, 4]
      %layer0.k_cache = cache(%k) layer 0 : f32[t, 4]
      %layer0.attn_scores = attn_scores(%q, %layer0.k_cache) {heads = 4, kv_heads = 2, scale = 0.5, window = 0} stage attn_scores layer 0 : f32[4, n, t]
      %layer0.attn_softmax = attn_softmax(%layer0.attn_scores) {window = 0} stage attn_softmax layer 0 : f32[4, n, t]
      %layer0.attention = attn_mix(%layer0.attn_softmax, %layer0.k_cache) {kv_heads = 2, window = 0} stage attention layer 0 : f32[n, 8]
      %layer0.ffn_silu = gelu(%layer0.attention) stage ffn_silu layer 0 : f32[n, 8]
      return %layer0.ffn_silu
    }
    """


def test_the_cache_is_half_and_so_is_what_meets_it() -> None:
    assert applied(ATTENTION, "ggml-scalar,flash=off") == [
        '%k_as_f16 = round(%k) {scheme = "f16"} : f32[n, 4]',
        "%layer0.k_cache = cache(%k_as_f16) layer 0 : f32[t, 4]",
        '%q_as_f16 = round(%q) {scheme = "f16"} : f32[n, 8]',
        (
            "%layer0.attn_scores = attn_scores(%q_as_f16, %layer0.k_cache) {heads = 4, kv_heads = 2, scale = 0.5, window = 0} "
            "stage attn_scores layer 0 : f32[4, n, t]"
        ),
        '%layer0.attn_softmax_as_f16 = round(%layer0.attn_softmax) {scheme = "f16"} layer 0 : f32[4, n, t]',
        (
            "%layer0.attention = attn_mix(%layer0.attn_softmax_as_f16, %layer0.k_cache) {kv_heads = 2, window = 0} "
            "stage attention layer 0 : f32[n, 8]"
        ),
        "%layer0.ffn_silu = gelu_half(%layer0.attention) stage ffn_silu layer 0 : f32[n, 8]",
    ]


def test_flash_attention_has_no_scores() -> None:
    assert applied(ATTENTION, "ggml-avx2,cache=f32") == [
        '%k_as_f16 = round(%k) {scheme = "f16"} : f32[n, 4]',
        "%layer0.k_cache = cache(%k_as_f16) layer 0 : f32[t, 4]",
        (
            "%layer0.attention = flash_attention(%q, %layer0.k_cache, %layer0.k_cache) "
            "{heads = 4, kv_heads = 2, lanes = 8, scale = 0.5, window = 0} stage attention layer 0 : f32[n, 8]"
        ),
        "%layer0.ffn_silu = gelu_half(%layer0.attention) stage ffn_silu layer 0 : f32[n, 8]",
    ]


def test_what_is_float32_there_stays_so() -> None:
    assert applied(ATTENTION, "ggml-avx2,cache=f32,flash=off") == [
        "%layer0.ffn_silu = gelu_half(%layer0.attention) stage ffn_silu layer 0 : f32[n, 8]"
    ]
    assert applied(ATTENTION, "plain") == []


@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_of_every_family_can_be_brought_into_it(family: str) -> None:
    """Stages are the same, but for those that flash attention does not have."""
    graph = small_outline(FAMILIES[family]).graph
    for flash, missing in (("off", set()), ("on", {"attn_scores", "attn_softmax"})):
        after = ApplyArithmetic(f"ggml-avx2,flash={flash}")(graph)
        verify(after)
        stages = [{(node.stage, node.layer) for node in each.staged()} for each in (graph, after)]
        assert {stage for stage, _ in stages[0] - stages[1]} <= missing
        assert stages[1] <= stages[0]


def test_a_graph_is_in_one_arithmetic() -> None:
    with pytest.raises(GraphError, match=r"graph @mixed is in the arithmetic ggml-avx2,cache=f16,flash=on already"):
        run_passes(graph_of(MIXED), make_passes("apply-arithmetic{arithmetic=ggml-avx2},apply-arithmetic{arithmetic=ggml-scalar}"))


def test_formats_of_which_nothing_is_known_are_refused() -> None:
    lacking = MIXED.replace('dtype = "f32", tensor = "router"} : f32', 'dtype = "f64", tensor = "router"} : f64')
    with pytest.raises(GraphError) as caught:
        ApplyArithmetic("ggml-avx2")(parse_graph(dedent(lacking).strip("\n")))
    assert str(caught.value).startswith(
        "apply-arithmetic: %router is F64, and it is not known what ggml-avx2 multiplies such weights by; expected one of F32, "
    )
