"""replay-recorded as text: what is recorded is read, and computed only to be compared."""

from __future__ import annotations

from aprgraph.graph.passes import Prune, run_passes
from aprgraph.graph.passes.replay_recorded import ReplayRecorded, find_origins
from aprgraph.graph.text import parse_graph, print_graph
from tests.support.graphs import TOY, graph_of


def replay(sources: set[str], targets: set[str], **options: object) -> str:
    transform = ReplayRecorded(frozenset(sources), frozenset(targets), **options)  # type: ignore[arg-type]
    return print_graph(run_passes(graph_of(TOY), [transform, Prune()]))


def test_users_read_what_was_recorded() -> None:
    text = replay({"layer0.post_ffn_residual"}, {"layer1.attn_norm"})
    assert text == (
        "graph @toy {layers = 2} {\n"
        '  %w = weight {dims = [4], dtype = "f32", tensor = "w"} : f32[4]\n'
        '  %recorded.layer0.post_ffn_residual = recorded {type = "f32[n, 4]"} layer 0 : f32[n, 4]\n'
        "  %layer1.attn_norm = rms_norm(%recorded.layer0.post_ffn_residual, %w) {eps = 0.5, groups = 1} stage attn_norm layer 1 : f32[n, 4]\n"
        "  return %layer1.attn_norm\n"
        "}\n"
    )
    assert print_graph(parse_graph(text)) == text


def test_a_target_is_computed_from_the_nearest_recorded_ones() -> None:
    sources = {"layer0.attn_norm", "layer0.post_ffn_residual", "layer1.post_ffn_residual"}
    graph = parse_graph(replay(sources, sources | {"lm_head"}))
    order = {node.name: index for index, node in enumerate(graph)}
    assert graph.outputs == ("layer0.attn_norm", "layer0.post_ffn_residual", "layer1.post_ffn_residual", "lm_head")
    norm = find_origins(graph, "layer0.attn_norm", order)
    assert (norm.sources, norm.region, norm.weights) == ((), ("layer0.embedding", "layer0.attn_norm"), ("table", "w"))
    end = find_origins(graph, "layer1.post_ffn_residual", order)
    assert (end.sources, end.region) == (("layer0.post_ffn_residual",), ("layer1.attn_norm", "layer1.post_ffn_residual"))
    head = find_origins(graph, "lm_head", order)
    assert (head.sources, head.region) == (("layer1.post_ffn_residual",), ("final_norm", "last", "lm_head"))


def test_what_cannot_be_computed_is_no_output() -> None:
    graph = parse_graph(replay({"layer0.embedding"}, {"layer0.embedding", "layer0.attn_norm"}, given=frozenset()))
    assert graph.outputs == ("layer0.attn_norm",)
    assert "tokens" not in graph
