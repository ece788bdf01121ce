"""The passes as text: a graph, a pass, and the graph that comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import ClassVar

import pytest

from aprgraph.graph.errors import GraphError, PlanError
from aprgraph.graph.ir import Graph, TensorType, renamed
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes import PASSES, AllPositions, FillCaches, FixContext, InsertTaps, OnePass, Pass, Prune, make_pass, run_passes
from aprgraph.graph.tap_plan import Plan, parse_plan
from aprgraph.graph.text import print_graph
from tests.support.graphs import TOY, graph_of, random_graph

Tiny = Callable[..., Path]


def assert_becomes(before: str, passes: list[Pass], after: str) -> None:
    graph = graph_of(before)
    assert print_graph(run_passes(graph, passes)) == dedent(after).strip("\n") + "\n"
    assert print_graph(graph) == dedent(before).strip("\n") + "\n", "the pass changed its argument"


def assert_fails(taps: str, layers: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        run_passes(graph_of(TOY), [InsertTaps(parse_plan(taps, layers))])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# -- insert-taps ----------------------------------------------------------------------------------------------------------


@pytest.mark.contract("TAPS-GRAPH-1")
def test_taps_read_stages_and_become_the_outputs() -> None:
    """A tap follows its stage at once, whatever the plan's order; whole-model stages are tapped under any layers."""
    after = ""
    for line in TOY.splitlines(keepends=True):
        after += line
        for stage in ("layer0.attn_norm", "final_norm"):
            if line.lstrip().startswith(f"%{stage} ="):
                layer = " layer 0" if stage.startswith("layer") else ""
                after += f"  %tap.{stage} = tap(%{stage}) stage {stage.split('.')[-1]}{layer} : f32[n, 4]\n"
    after = after.replace("  return %lm_head\n", "  return %tap.layer0.attn_norm, %tap.final_norm\n")
    assert_becomes(TOY, [InsertTaps(parse_plan("final_norm,attn_norm"))], after)


def test_layers_of_the_plan() -> None:
    graph = run_passes(graph_of(TOY), [InsertTaps(parse_plan("attn_norm,lm_head", "1..2"))])
    assert graph.outputs == ("tap.layer1.attn_norm", "tap.lm_head")


@pytest.mark.contract("PLAN-ALL-1")
def test_all_taps_what_the_model_has() -> None:
    graph = run_passes(graph_of(TOY), [InsertTaps(parse_plan("all", "0..2"))])
    assert graph.outputs == (
        "tap.layer0.embedding", "tap.layer0.attn_norm", "tap.layer0.post_ffn_residual", "tap.layer1.attn_norm",
        "tap.layer1.post_ffn_residual", "tap.final_norm", "tap.lm_head",
    )  # fmt: skip


def test_an_empty_plan_changes_nothing() -> None:
    assert_becomes(TOY, [InsertTaps(Plan())], TOY)


@pytest.mark.contract("PLAN-ABSENT-1")
def test_a_stage_that_the_model_lacks_is_an_error_that_names_its_own() -> None:
    own = "embedding, attn_norm, post_ffn_residual, final_norm, lm_head"
    assert_fails("attn_norm,moe_router,qkv_bias", "0..1", f"this model has no stage qkv_bias, moe_router; its stages are: {own}")


@pytest.mark.parametrize("taps", ["attn_norm", "all", "attn_norm,lm_head"])
@pytest.mark.parametrize("layers", ["0..3", "2..3", "7..9"])
def test_layers_past_the_end(taps: str, layers: str) -> None:
    assert_fails(taps, layers, f"layers={layers!r}: the model has 2 layers, expected END of at most 2")


@pytest.mark.contract("PLAN-LAYERS-3")
def test_layers_do_not_matter_to_whole_model_stages() -> None:
    graph = run_passes(graph_of(TOY), [InsertTaps(parse_plan("lm_head", "7..9"))])
    assert graph.outputs == ("tap.lm_head",)


def test_the_embedding_of_another_layer() -> None:
    assert_fails("embedding", "1..2", "nothing selected; the embedding belongs to layer 0")


# -- prune ----------------------------------------------------------------------------------------------------------------


def test_prune_drops_what_no_output_needs() -> None:
    before = """
        graph @g {
          %tokens = input : i32[n]
          %positions = input : i32[n]
          %table = weight {dims = [9, 4], dtype = "f32", tensor = "table"} : f32[9, 4]
          %unused = weight {dims = [4], dtype = "f32", tensor = "unused"} : f32[4]
          %x = embed(%tokens, %table) {scale = 1.0} : f32[n, 4]
          %y = bias_add(%x, %unused) : f32[n, 4]
          %z = silu(%x) : f32[n, 4]
          return %z
        }
    """
    after = """
        graph @g {
          %tokens = input : i32[n]
          %table = weight {dims = [9, 4], dtype = "f32", tensor = "table"} : f32[9, 4]
          %x = embed(%tokens, %table) {scale = 1.0} : f32[n, 4]
          %z = silu(%x) : f32[n, 4]
          return %z
        }
    """
    assert_becomes(before, [Prune()], after)


def test_prune_keeps_a_graph_that_is_needed_whole() -> None:
    assert_becomes(TOY, [Prune()], TOY)


def test_prune_without_outputs_keeps_nothing() -> None:
    assert_becomes(TOY.replace("  return %lm_head\n", ""), [Prune()], "graph @toy {layers = 2} {\n}")


@pytest.mark.contract("PRUNE-ANCESTORS-1")
@pytest.mark.parametrize("seed", range(20))
def test_prune_of_random_graphs_is_idempotent_and_keeps_ancestors(seed: int) -> None:
    graph = random_graph(seed)
    pruned = run_passes(graph, [Prune()])
    assert {node.name for node in pruned} == graph.ancestors(graph.outputs)
    assert all(pruned.operand_names(node.name) == graph.operand_names(node.name) and pruned[node.name] == node for node in pruned)
    assert run_passes(pruned, [Prune()]) == pruned


def weights(graph: Graph) -> set[str]:
    return {node.attr_str("tensor") for node in graph.with_op("weight")}


@pytest.mark.contract("PRUNE-WEIGHTS-1")
@pytest.mark.parametrize(
    ("taps", "layers", "expected"),
    [
        (
            "qkv_matmul",
            "0..1",
            {"token_embd.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"},
        ),
        ("embedding", "0..1", {"token_embd.weight"}),
        ("attn_norm", "0..1", {"token_embd.weight", "blk.0.attn_norm.weight"}),
    ],
)
def test_a_pruned_plan_touches_only_the_weights_that_it_needs(tiny_model: Tiny, taps: str, layers: str, expected: set[str]) -> None:
    model = load_model(tiny_model(layers=3, qkv_bias=True, rope_freqs=True))
    pruned = run_passes(build_graph(model), [InsertTaps(parse_plan(taps, layers)), Prune()])
    assert weights(pruned) == expected


def test_biases_come_in_with_the_stage_after_them(tiny_model: Tiny) -> None:
    graph = build_graph(load_model(tiny_model(layers=3, qkv_bias=True, rope_freqs=True)))
    biased = run_passes(graph, [InsertTaps(parse_plan("qkv_bias")), Prune()])
    rotated = run_passes(graph, [InsertTaps(parse_plan("q_post_rope")), Prune()])
    assert weights(rotated) - weights(biased) == {"rope_freqs.weight"}
    assert {name for name in weights(biased) if name.endswith("bias")} == {f"blk.0.attn_{part}.bias" for part in "qkv"}
    assert "positions" in rotated
    assert "positions" not in biased


def test_a_later_layer_needs_all_that_comes_before_it(tiny_model: Tiny) -> None:
    pruned = run_passes(build_graph(load_model(tiny_model(layers=3))), [InsertTaps(parse_plan("attn_norm", "1..2")), Prune()])
    assert {name.split(".")[1] for name in weights(pruned) if name.startswith("blk.")} == {"0", "1"}
    assert {name for name in weights(pruned) if name.startswith("blk.1")} == {"blk.1.attn_norm.weight"}


@pytest.mark.contract("PLAN-ABSENT-1", "PLAN-ALL-1")
def test_a_model_without_biases_has_no_qkv_bias_stage(tiny_model: Tiny) -> None:
    graph = build_graph(load_model(tiny_model()))
    with pytest.raises(PlanError, match="this model has no stage qkv_bias; its stages are: embedding, attn_norm, qkv_matmul, q_"):
        run_passes(graph, [InsertTaps(parse_plan("qkv_bias"))])
    tapped = run_passes(graph, [InsertTaps(parse_plan("all"))])
    assert "qkv_bias" not in {tapped[name].stage for name in tapped.outputs}


# -- all-positions --------------------------------------------------------------------------------------------------------


def test_all_positions_takes_the_last_row_out_and_widens_what_follows() -> None:
    before = """
        graph @g {
          %tokens = input : i32[n]
          %table = weight {dims = [9, 4], dtype = "f32", tensor = "table"} : f32[9, 4]
          %x = embed(%tokens, %table) {scale = 1.0} : f32[n, 4]
          %last = last_row(%x) : f32[1, 4]
          %lm_head = linear(%last, %table) stage lm_head : f32[1, 9]
          %twice = add(%lm_head, %lm_head) : f32[1, 9]
          return %twice, %last
        }
    """
    after = """
        graph @g {
          %tokens = input : i32[n]
          %table = weight {dims = [9, 4], dtype = "f32", tensor = "table"} : f32[9, 4]
          %x = embed(%tokens, %table) {scale = 1.0} : f32[n, 4]
          %lm_head = linear(%x, %table) stage lm_head : f32[n, 9]
          %twice = add(%lm_head, %lm_head) : f32[n, 9]
          return %twice, %x
        }
    """
    assert_becomes(before, [AllPositions()], after)


def test_all_positions_of_what_looks_at_other_positions_is_refused() -> None:
    graph = graph_of("""
        graph @g {
          %tokens = input : i32[n]
          %table = weight {dims = [9, 4], dtype = "f32", tensor = "table"} : f32[9, 4]
          %x = embed(%tokens, %table) {scale = 1.0} : f32[n, 4]
          %rows = cache(%x) : f32[t, 4]
          %last = last_row(%x) : f32[1, 4]
          %y = silu(%last) : f32[1, 4]
          %scores = attn_scores(%y, %rows) {heads = 1, kv_heads = 1, scale = 0.5, window = 0} : f32[1, 1, t]
          return %scores
        }
    """)
    with pytest.raises(GraphError, match=r"%scores \(attn_scores\) is computed from the last position and looks at others"):
        run_passes(graph, [AllPositions()])


def test_all_positions_twice_is_once() -> None:
    once = run_passes(graph_of(TOY), [AllPositions()])
    assert run_passes(once, [AllPositions()]) == once
    assert str(once["lm_head"].type) == "f32[n, 9]"


def test_all_positions_and_taps_in_either_order_tap_the_same() -> None:
    taps = InsertTaps(parse_plan("lm_head,attn_norm"))
    orders: list[list[Pass]] = [[AllPositions(), taps], [taps, AllPositions()]]
    first, second = (run_passes(graph_of(TOY), passes) for passes in orders)
    assert first == second
    assert str(first["tap.lm_head"].type) == "f32[n, 9]"


# -- running --------------------------------------------------------------------------------------------------------------


LONG_OR_SHORT = """
graph @toy {
  %positions = input : i32[n]
  %short = weight {dims = [2], dtype = "f32", tensor = "short"} : f32[2]
  %long = weight {dims = [2], dtype = "f32", tensor = "long"} : f32[2]
  %factors = context_choice(%short, %long) {limit = 8} : f32[2]
  %angles = rope_angles(%positions, %factors) {base = 100.0, dims = 4, magnitude = 1.0, ramp_end = 0.0, ramp_start = -1.0, scale = 1.0} : f32[n, 4]
  return %angles
}
"""


@pytest.mark.parametrize(("total", "chosen"), [(1, "short"), (8, "short"), (9, "long")])
def test_fix_context_chooses_by_the_whole_run(total: int, chosen: str) -> None:
    graph = run_passes(graph_of(LONG_OR_SHORT), [FixContext(total), Prune()])
    assert graph.operand_names("angles") == ("positions", chosen)
    assert [node.name for node in graph.with_op("weight")] == [chosen]


def test_fix_context_leaves_other_graphs_alone() -> None:
    graph = graph_of(TOY)
    assert FixContext(5)(graph) is graph


CACHED = """
graph @toy {
  %tokens = input : i32[n]
  %table = weight {dims = [9, 4], dtype = "f32", tensor = "table"} : f32[9, 4]
  %layer0.embedding = embed(%tokens, %table) {scale = 1.0} stage embedding layer 0 : f32[n, 4]
  %cache = cache(%layer0.embedding) : f32[t, 4]
  %w = weight {dims = [4], dtype = "f32", tensor = "w"} : f32[4]
  %final_norm = rms_norm(%layer0.embedding, %w) {eps = 0.5, groups = 1} stage final_norm : f32[n, 4]
  %last = last_row(%final_norm) : f32[1, 4]
  %lm_head = linear(%last, %table) stage lm_head : f32[1, 9]
  return %lm_head
}
"""


def test_fill_caches_keeps_what_later_parts_read_and_leaves_the_last_position_out() -> None:
    graph = run_passes(graph_of(CACHED), [InsertTaps(parse_plan("embedding,lm_head")), FillCaches(), Prune()])
    assert graph.outputs == ("tap.layer0.embedding", "cache")
    assert "final_norm" not in graph
    graph = run_passes(graph_of(CACHED), [InsertTaps(parse_plan("final_norm")), FillCaches(), Prune()])
    assert graph.outputs == ("tap.final_norm", "cache")


ATTENDED = """
graph @toy {
  %tokens = input : i32[n]
  %table = weight {dims = [9, 4], dtype = "f32", tensor = "table"} : f32[9, 4]
  %x = embed(%tokens, %table) {scale = 1.0} : f32[n, 4]
  %rows = cache(%x) : f32[t, 4]
  %scores = attn_scores(%x, %rows) {heads = 1, kv_heads = 1, scale = 0.5, window = 0} stage attn_scores layer 0 : f32[1, n, t]
  %tap.scores = tap(%scores) stage attn_scores layer 0 : f32[1, n, t]
  return %tap.scores, %rows
}
"""


def test_one_pass_attends_to_its_own_positions_alone() -> None:
    after = """
        graph @toy {
          %tokens = input : i32[n]
          %table = weight {dims = [9, 4], dtype = "f32", tensor = "table"} : f32[9, 4]
          %x = embed(%tokens, %table) {scale = 1.0} : f32[n, 4]
          %scores = attn_scores(%x, %x) {heads = 1, kv_heads = 1, scale = 0.5, window = 0} stage attn_scores layer 0 : f32[1, n, n]
          %tap.scores = tap(%scores) stage attn_scores layer 0 : f32[1, n, n]
          return %tap.scores
        }
    """
    assert_becomes(ATTENDED, [OnePass()], after)
    assert_becomes(after, [OnePass()], after)


def test_taps_beside_the_outputs_of_a_run_that_goes_on() -> None:
    graph = run_passes(graph_of(TOY), [InsertTaps(parse_plan("final_norm"), keep_outputs=True), Prune()])
    assert graph.outputs == ("tap.final_norm", "lm_head")


#: The options that a pass cannot do without.
NEEDED = {
    "replay-recorded": {"sources": "layer0.embedding", "targets": "lm_head"},
    "apply-arithmetic": {"arithmetic": "ggml-avx2"},
    "split-layers": {"first": "0", "end": "1"},
}


def test_every_pass_has_a_name_and_can_be_made() -> None:
    assert list(PASSES) == [
        "fix-context", "all-positions", "insert-taps", "prune", "fill-caches", "fuse-attention", "fuse-rounding", "one-pass",
        "replay-recorded", "apply-arithmetic", "split-layers",
    ]  # fmt: skip
    assert [make_pass(name, NEEDED.get(name, {})).name for name in PASSES] == list(PASSES)
    with pytest.raises(GraphError, match="unknown pass 'fold'; expected one of fix-context, all-positions, insert-taps, prune"):
        make_pass("fold", {})


def test_observers_see_each_pass_in_order() -> None:
    seen: list[tuple[str, int]] = []
    passes: list[Pass] = [AllPositions(), InsertTaps(parse_plan("embedding")), Prune()]
    run_passes(graph_of(TOY), passes, lambda name, graph: seen.append((name, len(graph))))
    assert seen == [("all-positions", 10), ("insert-taps", 11), ("prune", 4)]


@dataclass(frozen=True)
class Widen:
    """A pass with a bug: it changes a type and forgets the users."""

    name: ClassVar[str] = "widen"

    def __call__(self, graph: Graph) -> Graph:
        result = graph.copy()
        node = result["w"]
        result.replace_node(renamed(node, attrs={**node.attrs, "dims": (8,)}, type=TensorType("f32", (8,))))
        return result


def test_a_pass_that_breaks_the_graph_is_named_with_those_before_it() -> None:
    with pytest.raises(GraphError) as caught:
        run_passes(graph_of(TOY), [AllPositions(), Widen(), Prune()])
    message = str(caught.value)
    assert message.startswith(
        "pass widen (after: all-positions) left an invalid graph: graph @toy: the norm's weight is f32[8] for 1 groups"
    )
    assert "%layer0.attn_norm = rms_norm(%layer0.embedding, %w)" in message
    assert "graph @toy {layers = 2} {" in message
