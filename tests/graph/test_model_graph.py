"""From a model file to its graph."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.graph.text import parse_graph, print_graph, print_node
from tests.support.gguf_bytes import small_llama

Tiny = Callable[..., Path]

LAYER = (
    "attn_norm", "qkv_matmul", "q_post_rope", "k_post_rope", "attn_scores", "attn_softmax", "attention", "attn_out", "post_attn_residual",
    "ffn_norm", "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out", "post_ffn_residual",
)  # fmt: skip


def built(path: Path) -> Graph:
    return build_graph(load_model(path))


def stages(graph: Graph) -> list[tuple[int | None, str]]:
    return [(node.layer, str(node.stage)) for node in graph.staged()]


def test_the_whole_graph_of_one_layer(tmp_path: Path) -> None:
    """Weights, attributes and stages apart, this is what a llama layer computes."""
    path = tmp_path / "small.gguf"
    path.write_bytes(small_llama().pack())
    graph = built(path)
    lines = [re.sub(r" \{.*\}| (stage|layer) .*(?= :)", "", print_node(graph, node)) for node in graph if node.op != "weight"]
    assert "\n".join(lines) == dedent("""\
        %tokens = input : i32[n]
        %positions = input : i32[n]
        %rope_angles = rope_angles(%positions) : f32[n, 4]
        %layer0.embedding = embed(%tokens, %token_embd.weight) : f32[n, 8]
        %layer0.attn_norm = rms_norm(%layer0.embedding, %blk.0.attn_norm.weight) : f32[n, 8]
        %layer0.qkv_matmul = linear(%layer0.attn_norm, %blk.0.attn_q.weight, %blk.0.attn_k.weight, %blk.0.attn_v.weight) : f32[n, 16]
        %layer0.q_post_rope = rope(%layer0.qkv_matmul, %rope_angles) : f32[n, 8]
        %layer0.k_post_rope = rope(%layer0.qkv_matmul, %rope_angles) : f32[n, 4]
        %layer0.v = columns(%layer0.qkv_matmul) : f32[n, 4]
        %layer0.k_cache = cache(%layer0.k_post_rope) : f32[t, 4]
        %layer0.v_cache = cache(%layer0.v) : f32[t, 4]
        %layer0.attn_scores = attn_scores(%layer0.q_post_rope, %layer0.k_cache) : f32[2, n, t]
        %layer0.attn_softmax = attn_softmax(%layer0.attn_scores) : f32[2, n, t]
        %layer0.attention = attn_mix(%layer0.attn_softmax, %layer0.v_cache) : f32[n, 8]
        %layer0.attn_out = linear(%layer0.attention, %blk.0.attn_output.weight) : f32[n, 8]
        %layer0.post_attn_residual = add(%layer0.embedding, %layer0.attn_out) : f32[n, 8]
        %layer0.ffn_norm = rms_norm(%layer0.post_attn_residual, %blk.0.ffn_norm.weight) : f32[n, 8]
        %layer0.ffn_gate = linear(%layer0.ffn_norm, %blk.0.ffn_gate.weight) : f32[n, 12]
        %layer0.ffn_up = linear(%layer0.ffn_norm, %blk.0.ffn_up.weight) : f32[n, 12]
        %layer0.ffn_silu = silu(%layer0.ffn_gate) : f32[n, 12]
        %layer0.ffn_swigl = mul(%layer0.ffn_silu, %layer0.ffn_up) : f32[n, 12]
        %layer0.ffn_out = linear(%layer0.ffn_swigl, %blk.0.ffn_down.weight) : f32[n, 8]
        %layer0.post_ffn_residual = add(%layer0.post_attn_residual, %layer0.ffn_out) : f32[n, 8]
        %final_norm = rms_norm(%layer0.post_ffn_residual, %output_norm.weight) : f32[n, 8]
        %last_position = last_row(%final_norm) : f32[1, 8]
        %lm_head = linear(%last_position, %token_embd.weight) : f32[1, 4]""")
    assert graph.attrs == {"architecture": "llama", "layers": 1, "context": 16}
    assert graph.outputs == ("lm_head",)


@pytest.mark.contract("STAGES-ORDER-1")
def test_stages_of_a_dense_model_in_execution_order(tiny_model: Tiny) -> None:
    layers = [(layer, name) for layer in range(3) for name in LAYER]
    assert stages(built(tiny_model(layers=3))) == [(0, "embedding"), *layers, (None, "final_norm"), (None, "lm_head")]


@pytest.mark.contract("STAGES-SHAPE-1")
def test_stage_shapes_are_those_of_the_stage_table(tiny_model: Tiny) -> None:
    sizes = {"n": "n", "t": "t", "H": 6, "E": 36, "F": 20, "V": 290, "H*D": 60, "K*D": 20, "(H+2K)*D": 100}
    path = tiny_model(heads=6, kv_heads=2, head_size=10, hidden=36, ffn=20, vocabulary=290, layers=1, qkv_bias=True)
    graph = built(path)
    for node in graph.staged():
        expected = [sizes[dim] for dim in STAGE_BY_NAME[str(node.stage)].dims]
        assert list(node.type.dims) == (expected if node.stage != "lm_head" else [1, *expected]), node.stage


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_the_embedding_table_where_the_file_has_no_other(tiny_model: Tiny, tied: bool) -> None:
    graph = built(tiny_model(tied=tied))
    assert graph.operand_names("lm_head")[1] == ("token_embd.weight" if tied else "output.weight")
    assert ("output.weight" in graph) is not tied


def test_without_biases_there_is_no_bias_stage(tiny_model: Tiny) -> None:
    assert not built(tiny_model()).with_op("bias_add")


def test_qkv_biases_make_the_qkv_bias_stage_that_rope_reads(tiny_model: Tiny) -> None:
    graph = built(tiny_model(qkv_bias=True))
    bias = graph["layer1.qkv_bias"]
    assert (bias.op, bias.stage, bias.layer) == ("bias_add", "qkv_bias", 1)
    assert graph.operand_names(bias.name) == ("layer1.qkv_matmul", *(f"blk.1.attn_{part}.bias" for part in "qkv"))
    assert {user.name for user in graph.users(bias.name)} == {"layer1.q_post_rope", "layer1.k_post_rope", "layer1.v"}
    assert [user.name for user in graph.users("layer1.qkv_matmul")] == ["layer1.qkv_bias"]


@pytest.mark.parametrize(
    ("option", "stage", "bias"),
    [
        ("output_bias", "attn_out", "attn_output"),
        ("ffn_bias", "ffn_gate", "ffn_gate"),
        ("ffn_bias", "ffn_up", "ffn_up"),
        ("ffn_bias", "ffn_out", "ffn_down"),
    ],
)
def test_other_projections_with_a_bias_are_one_stage_after_it(tiny_model: Tiny, option: str, stage: str, bias: str) -> None:
    graph = built(tiny_model(**{option: True}))
    node = graph[f"layer0.{stage}"]
    assert (node.op, node.stage) == ("bias_add", stage)
    assert graph.operand_names(node.name) == (f"layer0.{stage}_matmul", f"blk.0.{bias}.bias")
    assert graph[f"layer0.{stage}_matmul"].stage is None
    assert [found for _, found in stages(graph)] == [found for _, found in stages(built(tiny_model()))]


def test_rope_factors_are_an_operand_of_the_angles(tiny_model: Tiny) -> None:
    assert built(tiny_model()).operand_names("rope_angles") == ("positions",)
    assert built(tiny_model(rope_freqs=True)).operand_names("rope_angles") == ("positions", "rope_freqs.weight")


def test_hyperparameters_reach_the_ops(tiny_model: Tiny) -> None:
    sizes = {"heads": 3, "kv_heads": 1, "head_size": 10, "hidden": 36, "ffn": 20, "rope_dims": 6, "context": 17}
    graph = built(tiny_model(**sizes, rope_base=500.0, rope_linear_factor=4.0, eps=0.25))
    assert graph["rope_angles"].attrs == {"base": 500.0, "dims": 6, "scale": 0.25, "ramp_start": -1.0, "ramp_end": 0.0, "magnitude": 1.0}
    assert graph["layer0.attn_norm"].attr_float("eps") == graph["final_norm"].attr_float("eps") == 0.25
    assert graph["layer1.attn_scores"].attrs == {"heads": 3, "kv_heads": 1, "scale": 10**-0.5, "window": 0}
    assert graph["layer0.k_post_rope"].attrs == {"heads": 1, "head_size": 10, "start": 30, "pairing": "interleaved"}
    assert graph["layer0.v"].attrs == {"start": 40, "stop": 50}
    assert graph.attrs["context"] == 17


def test_block_formats_are_the_weights_types(tiny_model: Tiny) -> None:
    formats = {"blk.1.ffn_down.weight": "Q4_1", "token_embd.weight": "Q8_0", "output.weight": "BF16", "blk.0.attn_norm.weight": "F16"}
    graph = built(tiny_model(formats=formats))
    assert graph["blk.0.ffn_down.weight"].type.dtype == "f32"
    assert {name: graph[name].type.dtype.upper() for name in formats} == formats


@pytest.mark.parametrize("name", ["模型 v1", "a b", "..", "x%y", "-", "é", "model.Q4_1"])
def test_any_file_name_gives_a_graph_name_that_parses(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.gguf"
    path.write_bytes(small_llama().pack())
    graph = built(path)
    assert parse_graph(print_graph(graph)) == graph


def test_equal_layers_differ_in_weights_and_names_alone(tiny_model: Tiny) -> None:
    """What the kernels are built from must not depend on the layer, or compile time would grow with depth."""
    graph = built(tiny_model(layers=3))
    layers = [[node for node in graph if node.layer == layer and node.stage != "embedding"] for layer in range(3)]

    def kinds(layer: list[Node]) -> list[object]:
        return [(node.op, node.stage, node.type, node.attrs, [operand.type for operand in graph.operands(node.name)]) for node in layer]

    assert kinds(layers[0]) == kinds(layers[1]) == kinds(layers[2])
