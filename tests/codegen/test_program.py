"""Programs: what a plan is lowered to, and that it can only call kernels that were there before."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.api import CompiledModel, RunOptions
from aprgraph.codegen.kernels import request_of, requests_of
from aprgraph.codegen.program import build_program, lower
from aprgraph.graph.calling_convention import TAP_FUNCTION
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import is_computed
from aprgraph.graph.passes import OnePass
from aprgraph.graph.passes.pipeline import executed_graph
from aprgraph.graph.tap_plan import Plan, parse_plan
from tests.support.compiled import LAYERS, compiled, shared_model
from tests.support.graphs import graph_of

TOKENS = [1, 2, 3]


@pytest.fixture(scope="module")
def tiny(tiny_model: Callable[..., Path]) -> CompiledModel:
    return compiled(shared_model(tiny_model))


def planned(
    model: CompiledModel, taps: str | None = None, layers: str = f"0..{LAYERS}", positions: str = "last", *, one_pass: bool = False
) -> Graph:
    plan = Plan() if taps is None else parse_plan(taps, layers)
    return executed_graph(model.plan(plan, TOKENS, RunOptions(positions)).graph, one_pass=one_pass)


def own_stages(model: CompiledModel) -> list[str]:
    return list(dict.fromkeys(str(node.stage) for node in model.artifact.graph.staged()))


@pytest.mark.parametrize("positions", ["last", pytest.param("all", marks=pytest.mark.sweep)])
def test_no_plan_needs_a_kernel_that_was_not_compiled(tiny: CompiledModel, positions: str) -> None:
    """Every pair of stages, every layer range: kernels come before taps."""
    kernels, plans = set(tiny.artifact.kernels), 0
    for stages in [(), *itertools.combinations(own_stages(tiny), 1), *itertools.combinations(own_stages(tiny), 2), ("all",)]:
        graph = planned(tiny, ",".join(stages) or None, positions=positions, one_pass=plans % 2 == 0)
        assert set(requests_of([graph])) <= kernels, stages
        plans += 1
    for first, last in itertools.combinations(range(LAYERS + 1), 2):
        assert set(requests_of([planned(tiny, "all", f"{first}..{last}")])) <= kernels
    assert plans > 200


def test_every_compiled_kernel_is_used_by_some_plan(tiny: CompiledModel) -> None:
    plans = [planned(tiny, taps, one_pass=one_pass) for taps in (None, "all") for one_pass in (True, False)]
    assert set(requests_of(plans)) == set(tiny.artifact.kernels) == set(requests_of(plans[1::2]))


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("taps", [None, "all", "ffn_silu,lm_head", "attn_scores"])
def test_a_program_is_one_call_for_each_node_and_each_value_has_its_own_storage(
    tiny: CompiledModel, taps: str | None, one_pass: bool
) -> None:
    """In a single pass there is nothing to cache; in one of several, caches are the caller's."""
    graph = planned(tiny, taps, one_pass=one_pass)
    text = lower(graph)["as_text"]()
    computed = [node for node in graph if is_computed(node)]
    assert any(node.op == "cache" for node in graph) != one_pass
    called = [name for name in re.findall(r"^  call  ([\w.]+)", text, re.MULTILINE) if not name.startswith("vm.builtin.")]
    assert [name for name in called if name != TAP_FUNCTION] == [request_of(graph, node).symbol for node in computed]
    assert called.count(TAP_FUNCTION) == len(graph.with_op("tap"))
    assert len(re.findall(r"^  call  vm.builtin.alloc_storage", text, re.MULTILINE)) == len(
        [node for node in computed if node.op != "cache"]
    )


def test_a_tap_is_called_right_behind_its_stage(tiny: CompiledModel) -> None:
    """So that a full trace holds a tensor no longer than a run without taps does."""
    graph = planned(tiny, "all")
    order = [node.name for node in graph if node.op not in ("input", "weight")]
    for tap in graph.with_op("tap"):
        (stage,) = graph.operand_names(tap.name)
        assert order[order.index(stage) + 1] == tap.name


def test_the_same_graph_gives_the_same_bytes(tiny: CompiledModel, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_program(planned(tiny, "ffn_up,attn_out"), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_programs_hold_no_weights(tiny: CompiledModel, tmp_path: Path) -> None:
    build_program(planned(tiny, "all"), tmp_path / "p")
    assert (tmp_path / "p").stat().st_size < 100_000


ATTENDED = """
graph @toy {
  %tokens = input : i32[n]
  %table = weight {dims = [9, 4], dtype = "f32", tensor = "table"} : f32[9, 4]
  %x = embed(%tokens, %table) {scale = 1.0} : f32[n, 4]
  %rows = cache(%x) : f32[t, 4]
  %scores = attn_scores(%x, %rows) {heads = 1, kv_heads = 1, scale = 0.5, window = 0} stage attn_scores layer 0 : f32[1, n, t]
  return %scores
}
"""


def test_the_kernels_of_one_pass_are_those_of_several() -> None:
    graph = graph_of(ATTENDED)
    single = OnePass()(graph)
    assert str(single["scores"].type) == "f32[1, n, n]"
    asked = "attn_scores(f32[n, 4], f32[t, 4], scale) {heads = 1, kv_heads = 1, window = 0} : f32[1, n, t]"
    assert request_of(single, single["scores"]).text == request_of(graph, graph["scores"]).text == asked


def test_threads_compile_one_after_the_other(tiny: CompiledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TVM keeps one stack of builders for all: a thread that begins while another compiles waits, and both succeed."""
    graph, inside, ended = planned(tiny), threading.Event(), threading.Event()
    second = threading.Thread(target=build_program, args=(graph, tmp_path / "second"))

    def held_up(graph: Graph, node: Node) -> object:
        if threading.current_thread() is second:
            inside.set()
            ended.wait(timeout=10)
        elif second.ident is None:
            second.start()
            inside.wait(timeout=0.1)
        return request_of(graph, node)

    monkeypatch.setattr("aprgraph.codegen.program.request_of", held_up)
    try:
        build_program(graph, tmp_path / "first")
    finally:
        ended.set()
        second.join()
    assert (tmp_path / "second").read_bytes() == (tmp_path / "first").read_bytes()
