"""What ops say of themselves, held against what they do: in a model of each family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import GraphError
from aprgraph.graph.families import FAMILIES
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.ops import OPS, Role, is_weight, operand_named, states_of, taps_of, weights_of
from aprgraph.graph.text import parse_graph
from aprgraph.runtime.decoded_weights import decode_weight
from aprgraph.runtime.reference import interpret
from tests.support.graphs import graph_of

Tiny = Callable[..., Path]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_of_a_rowwise_op_depends_on_the_same_row_of_its_operands_alone(family: str, tiny_model: Tiny) -> None:
    model = load_model(tiny_model(family=family, layers=2))
    graph, tokens = build_graph(model), [3, 1, 4, 1, 5]
    values = {"tokens": np.array(tokens), "positions": np.arange(5), **interpret(graph, model, tokens)}
    tested = set()
    for node in graph:
        op = OPS[node.op]
        if not op.traits.is_rowwise or node.type.dims[0] != "n":
            continue
        for row in range(5):
            operands = [
                decode_weight(model, one) if is_weight(one) else values[one.name][row : row + 1] for one in graph.operands(node.name)
            ]
            assert op.reference is not None
            np.testing.assert_allclose(op.reference(operands, node.attrs)[0], values[node.name][row], rtol=1e-12, atol=1e-13)
        tested.add(node.op)
    assert {"embed", "linear", FAMILIES[family].norm_op, "columns", "add"} <= tested
    assert {"rope_angles", "rope"} <= tested or family in (
        "gpt2",
        "mamba",
        "jamba",
        "starcoder",
        "mamba2",
        "granitehybrid",
        "nemotron_h",
        "nemotron_h_moe",
        "bert",
    )
    assert {"mul", "clamped_swiglu", "gelu", "relu_squared", "xielu"} & tested


def test_ops_that_look_at_other_positions_are_not_rowwise() -> None:
    computed = {name for name, op in OPS.items() if op.traits.role is Role.COMPUTED and not op.traits.is_rowwise}
    assert computed == {
        "last_row",
        "first_row",
        "mean_rows",
        "context_choice",
        "cache",
        "attn_scores",
        "attn_softmax",
        "attn_mix",
        "attention",
        "flash_attention",
        "short_conv",
        "delta_rule",
        "ssm_scan",
    }


def test_traits_name_operands_that_there_are() -> None:
    for op in OPS.values():
        traits, names = op.traits, set(op.operands_named(len(op.operands)))
        assert {*traits.weights, *traits.attended, *filter(None, [traits.picks_rows_by])} <= names, op.name
        assert traits.picks_rows_by is None or traits.weights, op.name
        assert traits.multiplied is None or traits.multiplied in names, op.name
        assert traits.multiplied is not None or not traits.is_matmul, op.name
        if traits.variant_of is not None:
            other = OPS[traits.variant_of]
            assert other.operands == op.operands
            assert other.attrs.items() <= op.attrs.items()


def test_what_is_asked_of_a_graph() -> None:
    graph = graph_of("""
        graph @g {
          %tokens = input : i32[n]
          %table = weight {dims = [9, 4], dtype = "f32", tensor = "table"} : f32[9, 4]
          %x = embed(%tokens, %table) {scale = 1.0} stage embedding layer 0 : f32[n, 4]
          %tap.x = tap(%x) stage embedding layer 0 : f32[n, 4]
          %rows = cache(%x) : f32[t, 4]
          return %tap.x, %rows
        }
    """)
    names = [[node.name for node in find(graph)] for find in (weights_of, taps_of, states_of)]
    assert names == [["table"], ["tap.x"], ["rows"]]
    assert operand_named(graph, graph["x"], "table").name == "table"
    unknown = parse_graph("graph @g {\n  %x = mystery : f32[n]\n}\n")
    assert not weights_of(unknown)
    assert not states_of(unknown)


def test_a_weight_must_be_one() -> None:
    with pytest.raises(GraphError, match="rms_norm takes a weight as weight, but %w is the result of silu"):
        graph_of("""
            graph @g {
              %tokens = input : i32[n]
              %table = weight {dims = [9, 4], dtype = "f32", tensor = "table"} : f32[9, 4]
              %x = embed(%tokens, %table) {scale = 1.0} : f32[n, 4]
              %v = weight {dims = [4], dtype = "f32", tensor = "v"} : f32[4]
              %w = silu(%v) : f32[4]
              %y = rms_norm(%x, %w) {eps = 0.5, groups = 1} : f32[n, 4]
              return %y
            }
        """)
