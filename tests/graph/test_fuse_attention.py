"""fuse-attention: three ops become one, unless somebody looks at what lies between."""

from __future__ import annotations

from textwrap import dedent

from aprgraph.graph.passes import FuseAttention, InsertTaps, Prune, run_passes
from aprgraph.graph.passes.pipeline import compiled_graphs, executed_graph, recorded_graph
from aprgraph.graph.tap_plan import Plan, parse_plan
from aprgraph.graph.text import parse_graph, print_graph
from aprgraph.graph.verify import verify

SEPARATE = dedent("""\
    graph @toy {
      %tokens = input : i32[n]
      %table = weight {dims = [9, 8], dtype = "f32", tensor = "token_embd.weight"} : f32[9, 8]
      %q = embed(%tokens, %table) {scale = 1.0} : f32[n, 8]
      %k = columns(%q) {start = 0, stop = 4} : f32[n, 4]
      %v = columns(%q) {start = 4, stop = 8} : f32[n, 4]
      %layer0.attn_scores = attn_scores(%q, %k) {heads = 4, kv_heads = 2, scale = 0.5, window = 0} stage attn_scores layer 0 : f32[4, n, n]
      %layer0.attn_softmax = attn_softmax(%layer0.attn_scores) {window = 0} stage attn_softmax layer 0 : f32[4, n, n]
      %layer0.attention = attn_mix(%layer0.attn_softmax, %v) {kv_heads = 2, window = 0} stage attention layer 0 : f32[n, 8]
      return %layer0.attention
    }
    """)

FUSED = dedent("""\
    graph @toy {
      %tokens = input : i32[n]
      %table = weight {dims = [9, 8], dtype = "f32", tensor = "token_embd.weight"} : f32[9, 8]
      %q = embed(%tokens, %table) {scale = 1.0} : f32[n, 8]
      %k = columns(%q) {start = 0, stop = 4} : f32[n, 4]
      %v = columns(%q) {start = 4, stop = 8} : f32[n, 4]
      %layer0.attention = attention(%q, %k, %v) {heads = 4, kv_heads = 2, scale = 0.5, window = 0} stage attention layer 0 : f32[n, 8]
      return %layer0.attention
    }
    """)


def fused(taps: str | None) -> str:
    graph = parse_graph(SEPARATE)
    verify(graph)
    plan = parse_plan(taps) if taps else Plan()
    return print_graph(run_passes(graph, [InsertTaps(plan), Prune(), FuseAttention()]))


def test_untapped_attention_becomes_one_op() -> None:
    assert fused(None) == FUSED


def test_a_tap_behind_it_does_not_matter() -> None:
    assert "= attention(" in fused("attention")


def test_a_tap_between_keeps_the_three() -> None:
    for taps in ("attn_scores,attention", "attn_softmax,attention"):
        text = fused(taps)
        assert "= attention(" not in text
        assert "= attn_mix(" in text


def test_the_recorded_graph_stays_as_the_model_is() -> None:
    graph = parse_graph(SEPARATE)
    recorded = recorded_graph(graph, parse_plan("attention"), "last", 3)
    assert [node.op for node in recorded if node.stage == "attention" and node.op != "tap"] == ["attn_mix"]
    assert [node.op for node in executed_graph(recorded, one_pass=False) if node.stage == "attention" and node.op != "tap"] == ["attention"]


def test_an_artifact_has_the_kernels_of_both() -> None:
    ops = {node.op for graph in compiled_graphs(parse_graph(SEPARATE)) for node in graph}
    assert {"attn_scores", "attn_softmax", "attn_mix", "attention"} <= ops


def test_the_cap_and_the_sinks_go_along() -> None:
    text = SEPARATE.replace("{heads = 4, kv_heads = 2, scale = 0.5", "{cap = 5.0, heads = 4, kv_heads = 2, scale = 0.5")
    sinks = '  %sinks = weight {dims = [4], dtype = "f32", tensor = "sinks"} : f32[4]\n'
    text = text.replace("  %layer0.attn_softmax", sinks + "  %layer0.attn_softmax")
    graph = parse_graph(text.replace("attn_softmax(%layer0.attn_scores)", "attn_softmax(%layer0.attn_scores, %sinks)"))
    verify(graph)
    result = run_passes(graph, [FuseAttention()])
    verify(result)
    (line,) = (line.strip() for line in print_graph(result).splitlines() if "= attention(" in line)
    assert line == (
        "%layer0.attention = attention(%q, %k, %v, %sinks) {cap = 5.0, heads = 4, kv_heads = 2, scale = 0.5, window = 0} "
        "stage attention layer 0 : f32[n, 8]"
    )
