"""The verifier: what it refuses, and the diagnostic."""

from __future__ import annotations

from textwrap import dedent

import pytest

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import TensorType, renamed
from aprgraph.graph.text import parse_graph
from aprgraph.graph.verify import verify
from tests.support.graphs import TOY, graph_of


def diagnostic(text: str) -> str:
    with pytest.raises(GraphError) as caught:
        verify(parse_graph(dedent(text).strip("\n")))
    return str(caught.value)


def changed(before: str, after: str) -> str:
    assert TOY.count(before) == 1, before
    return TOY.replace(before, after)


def test_the_toy_is_valid() -> None:
    graph_of(TOY)


def test_the_diagnostic_shows_the_node_and_its_operands() -> None:
    """A linear whose weight has the wrong width."""
    assert diagnostic("""
        graph @bad {
          %tokens = input : i32[n]
          %table = weight {dims = [9, 4], dtype = "f32", tensor = "t"} : f32[9, 4]
          %x = embed(%tokens, %table) {scale = 1.0} : f32[n, 4]
          %w = weight {dims = [2, 5], dtype = "f16", tensor = "w"} : f16[2, 5]
          %y = linear(%x, %w) : f32[n, 2]
          return %y
        }
    """) == dedent("""\
        graph @bad: a weight is f16[2, 5], but x has rows of 4
          at  %y = linear(%x, %w) : f32[n, 2]
          with operands:
            %x = embed(%tokens, %table) {scale = 1.0} : f32[n, 4]
            %w = weight {dims = [2, 5], dtype = "f16", tensor = "w"} : f16[2, 5]""")


def test_a_node_without_operands_says_so() -> None:
    assert diagnostic("graph @bad {\n  %x = input : f32[n]\n}").endswith("at  %x = input : f32[n]\n  with operands: none")


CASES: dict[str, tuple[str, str, str]] = {
    "unknown op": ("= last_row(", "= second_row(", "unknown op 'second_row'; expected one of input, weight, recorded, received, embed"),
    "unknown stage": ("stage lm_head", "stage lm_feet", "unknown stage 'lm_feet'"),
    "per-layer stage without layer": ("stage attn_norm layer 1", "stage attn_norm", "stage attn_norm needs a layer"),
    "whole-model stage in a layer": ("stage final_norm", "stage final_norm layer 0", "stage final_norm has no layer"),
    "embedding in another layer": (
        "stage embedding layer 0",
        "stage embedding layer 1",
        "stage embedding belongs to layer 0 alone, not to layer 1",
    ),
    "one stage twice in a layer": (
        "stage attn_norm layer 1",
        "stage attn_norm layer 0",
        "stage attn_norm of layer 0 is already %layer0.attn_norm",
    ),
    "one whole-model stage twice": (
        "%last = last_row(%final_norm)",
        "%last = last_row(%final_norm) stage final_norm",
        "stage final_norm is already %final_norm",
    ),
    "output that is not there": ("return %lm_head", "return %lm_feet", "returns %lm_feet, which is not in it"),
    "wrong result": ("stage lm_head : f32[1, 9]", "stage lm_head : f32[1, 8]", "linear gives f32[1, 9], but the node says f32[1, 8]"),
    "wrong dtype of the result": (
        "stage lm_head : f32[1, 9]",
        "stage lm_head : f16[1, 9]",
        "linear gives f32[1, 9], but the node says f16[1, 9]",
    ),
    "whole number for a real one": (
        "embed(%tokens, %table) {scale = 1.0}",
        "embed(%tokens, %table) {scale = 1}",
        "embed: attribute scale is 1, expected float",
    ),
    "missing attribute": ("embed(%tokens, %table) {scale = 1.0}", "embed(%tokens, %table)", "embed has the attributes [], expected scale"),
    "infinite attribute": (
        "embed(%tokens, %table) {scale = 1.0}",
        "embed(%tokens, %table) {scale = 1e999}",
        "embed: attribute scale is inf, expected a finite number",
    ),
    "operand too many": ("last_row(%final_norm)", "last_row(%final_norm, %final_norm)", "last_row has 2 operands, expected (x)"),
}


@pytest.mark.parametrize("case", CASES)
def test_broken_rules(case: str) -> None:
    before, after, message = CASES[case]
    found = diagnostic(changed(before, after))
    assert found.startswith("graph @toy: ")
    assert message in found.split("\n")[0]


def with_taps(*lines: str) -> str:
    return TOY.replace("  return %lm_head\n", "".join(f"  {line}\n" for line in lines) + "  return %lm_head\n")


def test_taps_of_stages_are_valid() -> None:
    graph_of(with_taps(
        "%t0 = tap(%layer0.attn_norm) stage attn_norm layer 0 : f32[n, 4]",
        "%t1 = tap(%lm_head) stage lm_head : f32[1, 9]",
    ))  # fmt: skip


TAPS: dict[str, tuple[list[str], str]] = {
    "no stage": (["%t = tap(%tokens) : i32[n]"], "a tap has no stage"),
    "another stage": (
        ["%t = tap(%layer0.attn_norm) stage ffn_norm layer 0 : f32[n, 4]"],
        "a tap has the stage and the layer of what it saves: attn_norm of layer 0",
    ),
    "another layer": (
        ["%t = tap(%layer0.attn_norm) stage attn_norm layer 1 : f32[n, 4]"],
        "a tap has the stage and the layer of what it saves: attn_norm of layer 0",
    ),
    "another type": (
        ["%t = tap(%layer0.attn_norm) stage attn_norm layer 0 : f32[n, 5]"],
        "tap gives f32[n, 4], but the node says f32[n, 5]",
    ),
    "the same stage twice": (
        [
            "%t = tap(%layer0.attn_norm) stage attn_norm layer 0 : f32[n, 4]",
            "%u = tap(%layer0.attn_norm) stage attn_norm layer 0 : f32[n, 4]",
        ],
        "stage attn_norm of layer 0 is already tapped by %t",
    ),
    "a tap that is read": (
        ["%t = tap(%layer0.attn_norm) stage attn_norm layer 0 : f32[n, 4]", "%u = silu(%t) : f32[n, 4]"],
        "%t is a tap, and nothing may read a tap: use %layer0.attn_norm",
    ),
    "a tap of a tap": (
        ["%t = tap(%layer0.attn_norm) stage attn_norm layer 0 : f32[n, 4]", "%u = tap(%t) stage attn_norm layer 0 : f32[n, 4]"],
        "%t is a tap, and nothing may read a tap: use %layer0.attn_norm",
    ),
}


@pytest.mark.contract("TAPS-GRAPH-1")
@pytest.mark.parametrize("case", TAPS)
def test_taps_that_break_rules(case: str) -> None:
    lines, message = TAPS[case]
    assert message in diagnostic(with_taps(*lines)).split("\n")[0]


def test_a_node_replaced_by_one_of_another_type_is_found_at_its_user() -> None:
    graph = graph_of(TOY)
    graph.replace_node(renamed(graph["w"], attrs={**graph["w"].attrs, "dims": (5,)}, type=TensorType("f32", (5,))))
    with pytest.raises(GraphError, match=r"the norm's weight is f32\[5\] for 1 groups, but x is f32\[n, 4\]\n  at  %layer0.attn_norm"):
        verify(graph)


def test_what_a_pass_changes_is_looked_at_again_with_what_reads_it() -> None:
    graph = graph_of(TOY)
    verify(graph)
    assert graph.verified
    narrower = graph.copy()
    assert not narrower.verified
    assert narrower.unchanged_from(graph) == {node.name for node in graph}
    table = narrower["table"]
    narrower.replace_node(renamed(table, type=TensorType("f32", (9, 3)), attrs={**table.attrs, "dims": (9, 3)}))
    assert not {"table", "layer0.embedding", "lm_head"} & narrower.unchanged_from(graph)
    assert "w" in narrower.unchanged_from(graph)
    with pytest.raises(GraphError, match=r"%layer0\.embedding"):
        verify(narrower, graph)


def test_a_graph_that_was_verified_and_changed_is_verified_again() -> None:
    graph = graph_of(TOY)
    verify(graph)
    verify(graph)
    graph.replace_node(renamed(graph["lm_head"], stage="final_norm"))
    with pytest.raises(GraphError, match="final_norm"):
        verify(graph)
