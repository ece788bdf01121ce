"""What a picture shows: folding, restriction to layers, weights, taps, colours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.graph.errors import PlanError
from aprgraph.graph.export.divergence import Colouring
from aprgraph.graph.export.view import ELIDED, NodeView, View, WeightView, make_view
from aprgraph.graph.ir import Graph
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes import InsertTaps, Prune
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.graph.text import parse_graph
from aprgraph.graph.verify import verify

Models = Callable[..., Path]


def stack(layers: int, *, formats: dict[int, str] | None = None, eps: dict[int, float] | None = None) -> Graph:
    """A graph of ``layers`` small layers: a norm, a projection, and the residual add."""
    lines = [
        f'graph @stack {{architecture = "llama", layers = {layers}}} {{',
        "%tokens = input : i32[n]",
        '%token_embd.weight = weight {dims = [32, 32], dtype = "q8_0", tensor = "token_embd.weight"} : q8_0[32, 32]',
        "%layer0.embedding = embed(%tokens, %token_embd.weight) {scale = 1.0} stage embedding layer 0 : f32[n, 32]",
    ]
    stream = "layer0.embedding"
    for layer in range(layers):
        fmt, norm = (formats or {}).get(layer, "q4_0"), f"blk.{layer}.attn_norm.weight"
        weight, following = f"blk.{layer}.attn_output.weight", f"layer{layer}.post_attn_residual"
        attrs = f"{{eps = {(eps or {}).get(layer, 1e-5)}, groups = 1}}"
        lines += [
            f'%{norm} = weight {{dims = [32], dtype = "f32", tensor = "{norm}"}} : f32[32]',
            f"%layer{layer}.attn_norm = rms_norm(%{stream}, %{norm}) {attrs} stage attn_norm layer {layer} : f32[n, 32]",
            f'%{weight} = weight {{dims = [32, 32], dtype = "{fmt}", tensor = "{weight}"}} : {fmt}[32, 32]',
            f"%layer{layer}.attn_out = linear(%layer{layer}.attn_norm, %{weight}) stage attn_out layer {layer} : f32[n, 32]",
            f"%{following} = add(%{stream}, %layer{layer}.attn_out) stage post_attn_residual layer {layer} : f32[n, 32]",
        ]
        stream = following
    graph = parse_graph("\n".join([*lines, f"return %{stream}", "}"]))
    verify(graph)
    return graph


def titles(view: View) -> list[str]:
    return [group.title for group in view.groups]


def box(view: View, name: str) -> NodeView:
    return next(node for node in view.nodes if node.id == name)


def test_equal_layers_are_one_cluster_and_the_embedding_stands_before_it() -> None:
    view = make_view(stack(4))
    assert titles(view) == ["layers 0-3 (x4)"]
    assert [node.id for node in view.nodes] == [
        "tokens", "layer0.embedding", "layers0-3.attn_norm", "layers0-3.attn_out", "layers0-3.post_attn_residual",
    ]  # fmt: skip
    assert view.groups[0].nodes == tuple(node.id for node in view.nodes[2:])
    assert box(view, "layers0-3.attn_out").names == tuple(f"layer{layer}.attn_out" for layer in range(4))
    assert box(view, "layers0-3.attn_out").layers == range(4)


def test_the_way_from_one_layer_of_a_fold_to_the_next_is_a_repeat() -> None:
    edges = {(edge.source, edge.target, edge.repeat) for edge in make_view(stack(3)).edges}
    last, norm = "layers0-2.post_attn_residual", "layers0-2.attn_norm"
    assert {(source, target) for source, target, repeat in edges if repeat} == {(last, norm), (last, last)}
    assert ("layer0.embedding", norm, False) in edges
    assert ("layers0-2.attn_out", last, False) in edges


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        (0, ["layer 0", "layers 1-4 (x4)"]),
        (2, ["layers 0-1 (x2)", "layer 2", "layers 3-4 (x2)"]),
        (4, ["layers 0-3 (x4)", "layer 4"]),
    ],
)
def test_a_layer_with_another_block_format_or_attribute_is_not_folded(odd: int, expected: list[str]) -> None:
    assert titles(make_view(stack(5, formats={odd: "q4_1"}))) == expected
    assert titles(make_view(stack(5, eps={odd: 1e-6}))) == expected


def test_a_layer_that_reads_another_place_of_the_layer_before_is_not_folded() -> None:
    text = """graph @skip {
      %tokens = input : i32[n]
      %table = weight {dims = [8, 8], dtype = "f32", tensor = "table"} : f32[8, 8]
      %layer0.embedding = embed(%tokens, %table) {scale = 1.0} stage embedding layer 0 : f32[n, 8]
      %layer0.ffn_silu = silu(%layer0.embedding) stage ffn_silu layer 0 : f32[n, 8]
      %layer0.ffn_swigl = mul(%layer0.ffn_silu, %layer0.ffn_silu) stage ffn_swigl layer 0 : f32[n, 8]
      %layer1.ffn_silu = silu(%layer0.ffn_swigl) stage ffn_silu layer 1 : f32[n, 8]
      %layer1.ffn_swigl = mul(%layer1.ffn_silu, %layer1.ffn_silu) stage ffn_swigl layer 1 : f32[n, 8]
      %layer2.ffn_silu = silu(%layer1.FROM) stage ffn_silu layer 2 : f32[n, 8]
      %layer2.ffn_swigl = mul(%layer2.ffn_silu, %layer2.ffn_silu) stage ffn_swigl layer 2 : f32[n, 8]
      return %layer2.ffn_swigl
    }"""
    assert titles(make_view(parse_graph(text.replace("FROM", "ffn_swigl")))) == ["layers 0-2 (x3)"]
    assert titles(make_view(parse_graph(text.replace("FROM", "ffn_silu")))) == ["layers 0-1 (x2)", "layer 2"]


def test_a_real_builder_folds_and_one_odd_weight_unfolds(tiny_model: Models) -> None:
    assert titles(make_view(build_graph(load_model(tiny_model(layers=4))))) == ["layers 0-3 (x4)"]
    odd = build_graph(load_model(tiny_model(layers=4, format="Q8_0", formats={"blk.1.attn_k.weight": "F16"})))
    assert titles(make_view(odd)) == ["layer 0", "layer 1", "layers 2-3 (x2)"]


def test_unfolded_every_stage_is_there_once(tiny_model: Models) -> None:
    graph = build_graph(load_model(tiny_model(layers=3, qkv_bias=True, output_bias=True)))
    view = make_view(graph, fold=False)
    assert titles(view) == ["layer 0", "layer 1", "layer 2"]
    assert [node.id for node in view.nodes if node.stage] == [node.name for node in graph.staged()]
    assert sorted(name for node in view.nodes for name in node.names) == sorted(node.name for node in graph if node.op != "weight")
    assert all(len(node.names) == 1 for node in view.nodes)
    assert not any(edge.repeat for edge in view.edges)


def test_every_operand_that_is_no_weight_is_an_arrow(tiny_model: Models) -> None:
    graph = build_graph(load_model(tiny_model(layers=2)))
    arrows = {(edge.source, edge.target, edge.operand) for edge in make_view(graph, fold=False).edges}
    assert arrows == {
        (operand.name, node.name, index)
        for node in graph
        for index, operand in enumerate(graph.operands(node.name))
        if operand.op != "weight"
    }


def test_weights_belong_to_the_box_that_uses_them(tiny_model: Models) -> None:
    view = make_view(build_graph(load_model(tiny_model(format="Q8_0", tied=True))))
    assert all(node.op != "weight" for node in view.nodes)
    qkv = box(view, "layers0-1.qkv_matmul")
    assert [weight.tensor for weight in qkv.weights] == [f"blk.{{layer}}.attn_{part}.weight" for part in "qkv"]
    assert {weight.format for weight in qkv.weights} == {"q8_0"}
    assert qkv.weights[0].dims == (64, 64)
    table = WeightView("token_embd.weight", "q8_0", (288, 64))
    assert box(view, "layer0.embedding").weights == box(view, "lm_head").weights == (table,)
    assert str(table) == "token_embd q8_0[288, 64]"
    assert box(make_view(stack(1)), "layer0.attn_out").weights[0].tensor == "blk.0.attn_output.weight"


def test_layers_restrict_and_boxes_stand_for_the_others() -> None:
    view = make_view(stack(6), layers=range(2, 4))
    assert titles(view) == ["layer 2", "layer 3"]
    assert [(node.id, node.label) for node in view.nodes if node.op == ELIDED] == [
        ("layers-before", "layers 0-1"), ("layers-after", "layers 4-5"),
    ]  # fmt: skip
    assert {node.layers.start for node in view.nodes if node.layers and node.op != ELIDED} == {2, 3}
    arrows = {(edge.source, edge.target) for edge in view.edges}
    assert {("tokens", "layers-before"), ("layers-before", "layer2.attn_norm"), ("layer3.post_attn_residual", "layers-after")} <= arrows
    assert not any(source == target for source, target in arrows)
    assert "only layers 2-3 shown" in view.subtitle


def test_the_first_and_the_last_layer_need_one_box_only() -> None:
    assert [node.label for node in make_view(stack(3), layers=range(1)).nodes if node.op == ELIDED] == ["layers 1-2"]
    last = make_view(stack(3), layers=range(2, 3))
    assert [node.label for node in last.nodes if node.op == ELIDED] == ["layers 0-1"]
    assert "layer0.embedding" not in {node.id for node in last.nodes}


def test_layers_that_are_not_there_are_an_error() -> None:
    with pytest.raises(PlanError, match=r"layers='2\.\.5': graph @stack has layers 0\.\.3"):
        make_view(stack(3), layers=range(2, 5))


def test_taps_are_marks_and_keep_layers_apart() -> None:
    tapped = InsertTaps(parse_plan("attn_out", "1..3"))(stack(5))
    view = make_view(tapped)
    assert titles(view) == ["layer 0", "layers 1-2 (x2)", "layers 3-4 (x2)"]
    assert [node.id for node in view.nodes if node.tapped] == ["layers1-2.attn_out"]
    assert not any(node.op == "tap" for node in view.nodes)
    # Pruned, layer 2 ends at its tap, so that it no longer equals layer 1.
    assert titles(make_view(Prune()(tapped))) == ["layer 0", "layer 1", "layer 2"]


def colours(graph: Graph, **special: tuple[str, float | None]) -> Colouring:
    """IDENTICAL everywhere but at ``layer1_attn_out=...``."""
    result: dict[tuple[int | None, str], tuple[str, float | None]] = {}
    for node in graph.staged():
        assert node.stage is not None
        result[node.layer, node.stage] = special.get(f"layer{node.layer}_{node.stage}", ("IDENTICAL", 0.0))
    return result


def test_where_a_divergence_begins_stays_apart() -> None:
    graph = stack(5)
    view = make_view(graph, colouring=colours(graph, layer1_attn_out=("INTRODUCED", 0.5), layer2_attn_out=("PROPAGATED", 0.25)))
    assert titles(view) == ["layer 0", "layer 1", "layers 2-4 (x3)"]
    introduced = box(view, "layer1.attn_out").divergence
    assert introduced is not None
    assert introduced.label == "INTRODUCED, NMSE 5.0e-01"
    folded = box(view, "layers2-4.attn_out").divergence
    assert folded is not None
    assert (folded.cls.name, folded.nmse, folded.layer) == ("PROPAGATED", 0.25, 2)
    assert folded.note == "worst: layer 2; 2 IDENTICAL"


def test_a_fold_shows_the_worst_of_its_layers() -> None:
    graph = stack(3)
    noise: Colouring = colours(graph, layer0_attn_out=("NOISE", 1e-13), layer1_attn_out=("NOISE", 3e-12), layer2_attn_out=("NOISE", 2e-12))
    view = make_view(graph, colouring=noise)
    worst = box(view, "layers0-2.attn_out").divergence
    assert worst is not None
    assert (worst.nmse, worst.layer, worst.note) == (3e-12, 1, "worst: layer 1")
    same = box(view, "layers0-2.attn_norm").divergence
    assert same is not None
    assert (same.label, same.note) == ("IDENTICAL", None)


def test_what_the_colouring_lacks_is_unmeasured_and_never_hidden_by_a_measured_layer() -> None:
    graph = stack(4)
    partial = {key: value for key, value in colours(graph).items() if key[0] == 0}
    view = make_view(graph, colouring=partial)
    assert titles(view) == ["layer 0", "layers 1-3 (x3)"]
    unmeasured = box(view, "layers1-3.attn_out").divergence
    assert unmeasured is not None
    assert unmeasured.cls.name == "UNMEASURED"
    assert [(cls.name, count) for cls, count in view.legend] == [("IDENTICAL", 4), ("UNMEASURED", 9)]


def test_legend_counts_every_stage_and_is_absent_without_colours() -> None:
    graph = stack(3)
    view = make_view(graph, colouring=colours(graph, layer2_attn_out=("NAN", None)))
    assert sum(count for _, count in view.legend) == len(graph.staged())
    assert view.legend[-1][0].name == "NAN"
    assert make_view(graph).legend == ()


def test_a_class_that_the_table_lacks_is_shown_under_its_name() -> None:
    graph = stack(2)
    view = make_view(graph, colouring=colours(graph, layer1_attn_out=("STRANGE", None)))
    assert titles(view) == ["layer 0", "layer 1"]
    strange = box(view, "layer1.attn_out").divergence
    assert strange is not None
    assert strange.label == "STRANGE"
