"""fuse-rounding: a rounding and its product become one op where blocks are whole numbers, whatever is tapped."""

from __future__ import annotations

from textwrap import dedent

import pytest

from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import OPS
from aprgraph.graph.passes import ApplyArithmetic, FuseRounding, InsertTaps, run_passes
from aprgraph.graph.passes.pipeline import compiled_graphs
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.graph.text import parse_graph, print_graph
from aprgraph.graph.verify import verify

PLAIN = dedent("""\
    graph @toy {
      %tokens = input : i32[n]
      %table = weight {dims = [9, 256], dtype = "f32", tensor = "token_embd.weight"} : f32[9, 256]
      %a = weight {dims = [6, 256], dtype = "q4_1", tensor = "a"} : q4_1[6, 256]
      %b = weight {dims = [5, 256], dtype = "q4_k", tensor = "b"} : q4_k[5, 256]
      %c = weight {dims = [4, 256], dtype = "q6_k", tensor = "c"} : q6_k[4, 256]
      %d = weight {dims = [3, 256], dtype = "f16", tensor = "d"} : f16[3, 256]
      %x = embed(%tokens, %table) {scale = 1.0} : f32[n, 256]
      %layer0.qkv_matmul = linear(%x, %b, %c) stage qkv_matmul layer 0 : f32[n, 9]
      %layer0.ffn_gate = linear(%x, %a) stage ffn_gate layer 0 : f32[n, 6]
      %layer0.ffn_up = linear(%x, %d) stage ffn_up layer 0 : f32[n, 3]
      return %layer0.qkv_matmul, %layer0.ffn_gate, %layer0.ffn_up
    }
    """)

FUSED = dedent("""\
      %x_as_f16 = round(%x) {scheme = "f16"} : f32[n, 256]
      %layer0.qkv_matmul = rounded_linear(%x, %b, %c) {scheme = "q8_k"} stage qkv_matmul layer 0 : f32[n, 9]
      %layer0.ffn_gate = rounded_linear(%x, %a) {scheme = "q8_1_avx"} stage ffn_gate layer 0 : f32[n, 6]
      %layer0.ffn_up = linear(%x_as_f16, %d) stage ffn_up layer 0 : f32[n, 3]
    """)


def fused(graph: Graph) -> Graph:
    verify(graph)
    result = FuseRounding()(graph)
    verify(result)
    return result


def computed(graph: Graph) -> set[str]:
    """The lines of what is computed of x."""
    return {line.strip() for line in print_graph(graph).splitlines() if " = " in line and "(%x" in line}


def test_products_with_whole_numbers_take_their_rounding_in() -> None:
    found = fused(ApplyArithmetic("ggml-avx2")(parse_graph(PLAIN)))
    assert computed(found) == {line.strip() for line in FUSED.splitlines()}
    assert not any("minima" in node.name or node.op == "round_sum_errors" for node in found)


def test_taps_do_not_matter() -> None:
    graph = run_passes(parse_graph(PLAIN), [ApplyArithmetic("ggml-avx2"), InsertTaps(parse_plan("all"))])
    assert computed(fused(graph)) == {line.strip() for line in FUSED.splitlines()}


def test_a_plain_graph_stays() -> None:
    graph = parse_graph(PLAIN)
    assert FuseRounding()(graph) is graph


def test_what_else_is_read_stays() -> None:
    """A rounded x that is a result too, and a sum of what another x is off."""
    graph = ApplyArithmetic("ggml-avx2")(parse_graph(PLAIN))
    graph.outputs = (*graph.outputs, "x_as_q8_k", "layer0.ffn_gate_of_sums")
    found = fused(graph)
    assert "x_as_q8_k" in found
    assert found["layer0.ffn_gate"].op == "add"
    assert found["layer0.qkv_matmul"].op == "rounded_linear"


@pytest.mark.parametrize(("target", "has"), [("llvm", True), ("cuda", False)])
def test_it_is_for_cpus(target: str, has: bool) -> None:
    graphs = compiled_graphs(ApplyArithmetic("ggml-avx2")(parse_graph(PLAIN)), target)
    assert {any(node.op == "rounded_linear" for node in graph) for graph in graphs} == {has}


def test_what_it_does_not_compute_is_refused() -> None:
    q4_0, q4_k, x = (parse_graph(PLAIN.replace("q4_1", "q4_0"))["a"].type, parse_graph(PLAIN)["b"].type, parse_graph(PLAIN)["x"].type)
    for weight, scheme in ((q4_k, "q8_0_avx"), (q4_0, "q8_cuda_sums"), (q4_0, "q9")):
        with pytest.raises(GraphError, match="scheme is 'q9', expected one of f16|and x is rounded by"):
            OPS["rounded_linear"].infer([x, weight], {"scheme": scheme})
