"""Walking the graph: first divergences, what follows from them, where the cause can lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.text import parse_graph
from aprgraph.runtime.diff import Class, DiffReport, diff
from aprgraph.runtime.diff.classify import Finding, State, classify
from aprgraph.runtime.diff.dependencies import Dependencies, from_graph, from_stage_table
from aprgraph.runtime.place import Place
from tests.support.traces import Tensor, noisy, trace_model, values, write_bare, write_trace

DIAMOND = """graph @diamond {
  %tokens = input : i32[n]
  %table = weight {dims = [9, 4], dtype = "f32", tensor = "table"} : f32[9, 4]
  %w = weight {dims = [4, 4], dtype = "f32", tensor = "w"} : f32[4, 4]
  %norm = embed(%tokens, %table) stage ffn_norm layer 0 : f32[n, 4]
  %gate = linear(%norm, %w) stage ffn_gate layer 0 : f32[n, 4]
  %up = linear(%norm, %w) stage ffn_up layer 0 : f32[n, 4]
  %between = silu(%gate) : f32[n, 4]
  %product = mul(%between, %up) stage ffn_swigl layer 0 : f32[n, 4]
  %out = linear(%product, %w) stage ffn_out layer 0 : f32[n, 4]
}
"""
NORM, GATE, UP, PRODUCT, OUT = ((0, 0, stage) for stage in ("ffn_norm", "ffn_gate", "ffn_up", "ffn_swigl", "ffn_out"))
Findings = dict[Place, Finding]

GOOD, BAD = Finding(State.NOISE, 1e-13), Finding(State.EXCEEDS, 1e-3)
GONE = Finding(State.UNMEASURED)


def _networkx(dependencies: Dependencies) -> nx.DiGraph[tuple[int, str]]:
    """What is computed from what, for networkx to walk."""
    return nx.DiGraph(dependencies.readers)


def diamond() -> Dependencies:
    return from_graph(parse_graph(DIAMOND))


@pytest.mark.contract("DIFF-FIRST-1")
def test_what_follows_from_a_divergence_is_propagated() -> None:
    classes, first = classify({NORM: GOOD, GATE: BAD, UP: GOOD, PRODUCT: BAD, OUT: BAD}, diamond())
    assert list(classes.values()) == [Class.NOISE, Class.INTRODUCED, Class.NOISE, Class.PROPAGATED, Class.PROPAGATED]
    assert [one.key for one in first] == [GATE]
    assert first[0].region == ("gate",)
    assert first[0].weights == ("w",)
    assert first[0].good == (NORM,)
    assert first[0].following == (PRODUCT,)


@pytest.mark.contract("DIFF-FIRST-1")
def test_parallel_branches_diverge_first_side_by_side() -> None:
    classes, first = classify({NORM: GOOD, GATE: BAD, UP: BAD, PRODUCT: BAD, OUT: BAD}, diamond())
    assert [one.key for one in first] == [GATE, UP]
    assert [classes[key] for key in (GATE, UP, PRODUCT)] == [Class.INTRODUCED, Class.INTRODUCED, Class.PROPAGATED]


@pytest.mark.contract("DIFF-REGION-1")
def test_the_region_reaches_back_to_the_nearest_good_tensors() -> None:
    classes, (first,) = classify({NORM: GOOD, GATE: GONE, UP: GOOD, PRODUCT: GONE, OUT: BAD}, diamond())
    assert classes[GATE] is Class.UNMEASURED
    assert first.region == ("gate", "between", "product", "out")
    assert first.good == (NORM, UP)
    _, (first,) = classify({NORM: GONE, GATE: GONE, UP: GONE, PRODUCT: GONE, OUT: BAD}, diamond())
    assert first.region == ("norm", "gate", "up", "between", "product", "out")
    assert first.good == ()
    assert first.weights == ("table", "w"), "the input's tokens are the same on both sides, the weights may not be"


@pytest.mark.contract("DIFF-FIRST-1")
def test_an_unmeasured_stage_hides_no_divergent_ancestor() -> None:
    classes, first = classify({NORM: BAD, GATE: GONE, UP: GONE, PRODUCT: GONE, OUT: BAD}, diamond())
    assert classes[OUT] is Class.PROPAGATED
    assert [one.key for one in first] == [NORM]


@pytest.mark.contract("DIFF-ACCUMULATED-1")
def test_error_that_its_inputs_already_carry_is_accumulated() -> None:
    heavy = Finding(State.NOISE, 0.9e-10)
    classes, first = classify({NORM: GOOD, GATE: heavy, UP: GOOD, PRODUCT: Finding(State.EXCEEDS, 1.2e-10), OUT: BAD}, diamond())
    assert classes[PRODUCT] is Class.ACCUMULATED
    assert [one.key for one in first] == [PRODUCT]
    assert classes[OUT] is Class.PROPAGATED
    classes, _ = classify({NORM: GOOD, GATE: heavy, UP: GOOD, PRODUCT: BAD, OUT: BAD}, diamond())
    assert classes[PRODUCT] is Class.INTRODUCED


def test_facts_stay_what_they_are_behind_a_divergence() -> None:
    findings: Findings = {NORM: GOOD, GATE: BAD, UP: Finding(State.SHAPE), PRODUCT: Finding(State.NAN), OUT: Finding(State.NAN)}
    classes, first = classify(findings, diamond())
    assert list(classes.values()) == [Class.NOISE, Class.INTRODUCED, Class.SHAPE, Class.NAN, Class.NAN]
    assert [one.key for one in first] == [GATE, UP]


def test_later_steps_depend_on_earlier_ones_through_the_cache(tiny_model: Callable[..., Path]) -> None:
    graph = build_graph(load_model(tiny_model()))
    keys = [(step, node.layer, str(node.stage)) for step in (0, 1) for node in graph.staged()]
    for dependencies in (from_graph(graph, (0, 1)), from_stage_table(keys)):

        def reads(target: str, source: str, dependencies: Dependencies = dependencies) -> bool:
            """Whether ``target`` of step 1 is computed from ``source`` of step 0 other than through the next token."""
            without = _networkx(dependencies)
            without.remove_edge(dependencies.value_of[0, None, "lm_head"], dependencies.value_of[1, 0, "embedding"])
            return nx.has_path(without, dependencies.value_of[0, 1, source], dependencies.value_of[1, 1, target])

        assert reads("attn_scores", "k_post_rope")
        assert reads("attention", "qkv_matmul")
        assert reads("post_ffn_residual", "k_post_rope")
        assert not reads("attn_scores", "q_post_rope")
        assert not reads("q_post_rope", "k_post_rope")
        assert not reads("attention", "attn_softmax")
        findings: Findings = dict.fromkeys(keys, GOOD)
        findings[0, None, "lm_head"] = findings[1, 0, "embedding"] = BAD
        assert classify(findings, dependencies)[0][1, 0, "embedding"] is Class.PROPAGATED, "the next token was picked from the logits"


@pytest.mark.parametrize("options", [{}, {"qkv_bias": True}, {"layers": 3}])
def test_the_stage_table_knows_what_the_graph_knows(tiny_model: Callable[..., Path], options: dict[str, object]) -> None:
    """Which stage depends on which, for every pair of stages of a dense model."""
    graph = build_graph(load_model(tiny_model(**options)))
    exact = from_graph(graph)
    table = from_stage_table(exact.value_of)
    assert set(table.value_of) >= set(exact.value_of)

    def closure(dependencies: Dependencies) -> set[tuple[object, object]]:
        key_of = {dependencies.value_of[key]: key for key in exact.value_of}
        graph = _networkx(dependencies)
        return {(key_of[x], key_of[y]) for y in key_of for x in nx.ancestors(graph, y) if x in key_of}

    assert closure(table) == closure(exact)
    assert len(closure(exact)) > 400


AFTER = """graph @norms_after {
  %tokens = input : i32[n]
  %table = weight {dims = [9, 4], dtype = "f32", tensor = "table"} : f32[9, 4]
  %w = weight {dims = [4, 4], dtype = "f32", tensor = "w"} : f32[4, 4]
  %x = embed(%tokens, %table) {scale = 1.0} stage embedding layer 0 : f32[n, 4]
  %gate = linear(%x, %w) stage ffn_gate layer 0 : f32[n, 4]
  %up = linear(%x, %w) stage ffn_up layer 0 : f32[n, 4]
  %norm = mul(%gate, %up) stage ffn_norm layer 0 : f32[n, 4]
}
"""


def test_a_graph_decides_the_order_though_the_other_side_recorded_more(tmp_path: Path) -> None:
    """A norm behind what the stage table has behind it; the other side holds what this graph does not know."""
    x = values(3, 4)
    a = write_trace(tmp_path / "a", {(0, "embedding"): x, (0, "ffn_gate"): x, (0, "ffn_norm"): x}, graph=AFTER)
    theirs = {(0, "embedding"): x, (0, "ffn_gate"): -x, (0, "ffn_norm"): -x, (0, "ffn_out"): x, (1, "ffn_norm"): x}
    report = diff(a, write_trace(tmp_path / "b", theirs))
    assert report.row((0, 0, "ffn_gate")).classification is Class.INTRODUCED
    assert report.row((0, 0, "ffn_norm")).classification is Class.PROPAGATED
    assert [row.classification for row in report.rows if row.key[1:] in ((0, "ffn_out"), (1, "ffn_norm"))] == [Class.UNMEASURED] * 2


def test_the_stage_table_of_experts_and_of_missing_layers() -> None:
    layered = [(2, "moe_router_indices"), (2, "moe_ffn_out"), (7, "attn_norm"), (None, "lm_head"), (3, "no_such_stage")]
    keys = [Place(0, layer, stage) for layer, stage in layered]
    table = from_stage_table(keys)
    assert all(key in table.value_of for key in keys)
    _, (first,) = classify({keys[0]: GOOD, keys[1]: GOOD, keys[2]: BAD}, table)
    assert "layers 4..7" in first.region
    assert first.good == (keys[1],)
    assert not any("ffn_gate" in name for name in first.region), "a layer of experts has no dense FFN"
    _, (first,) = classify({keys[0]: BAD, keys[1]: BAD}, table)
    assert first.key == keys[0]
    assert first.region[0] == "layers 0..2"


# -- whole traces of a tiny model -------------------------------------------------------------------------------------


def classes(report: DiffReport) -> dict[tuple[int | None, str], Class]:
    return {row.key[1:]: row.classification for row in report.rows}


def firsts(report: DiffReport) -> list[tuple[int | None, str]]:
    return [first.key[1:] for first in report.first]


@pytest.mark.contract("DIFF-FIRST-3", "DIFF-SYMMETRY-1")
@pytest.mark.parametrize("manifests", [True, False])
@pytest.mark.parametrize("swap", [True, False])
def test_another_rope_base_is_first_seen_in_q_and_k(tmp_path: Path, tiny_model: Callable[..., Path], manifests: bool, swap: bool) -> None:
    trace_model(tmp_path / "a", tiny_model(), noise=5e-7)
    trace_model(tmp_path / "b", tiny_model(), noise=5e-7, overrides={"llama.rope.freq_base": 500000.0})
    if not manifests:
        for side in "ab":
            (tmp_path / side / "trace.json").unlink()
    report = diff(*(tmp_path / side for side in ("ba" if swap else "ab")))
    assert firsts(report) == [(0, "q_post_rope"), (0, "k_post_rope")]
    assert report.exit_code == 1
    found = classes(report)
    assert found[0, "qkv_matmul"] is Class.NOISE
    assert found[0, "attn_scores"] is Class.PROPAGATED
    assert all(name is Class.PROPAGATED for (layer, _), name in found.items() if layer != 0)
    assert report.verdict.startswith("Diverged: first at layer 0 q_post_rope (NMSE ")
    assert all(first.good == ((0, 0, "qkv_matmul"),) for first in report.first)
    if manifests:
        assert report.common_suspects == ("rope_angles",)
        a, b = ("500000.0", "10000.0") if swap else ("10000.0", "500000.0")
        assert report.verdict.endswith(f" The graphs differ at %rope_angles: base = {a} in A, {b} in B.")


@pytest.mark.contract("DIFF-REGION-1")
def test_few_taps_give_a_region(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    trace_model(tmp_path / "a", tiny_model(), taps="attn_norm,attn_out")
    trace_model(tmp_path / "b", tiny_model(), overrides={"llama.rope.freq_base": 500000.0})
    (first,) = diff(tmp_path / "a", tmp_path / "b").first
    assert first.key == (0, 0, "attn_out")
    assert first.good == ((0, 0, "attn_norm"),)
    assert {"layer0.qkv_matmul", "layer0.q_post_rope", "layer0.attn_softmax", "rope_angles", "layer0.attn_out"} <= set(first.region)
    assert "layer0.attn_norm" not in first.region
    assert "tokens" not in first.region
    assert "blk.0.attn_output.weight" in first.weights
    assert not any("ffn" in name for name in first.weights)


@pytest.mark.contract("DIFF-NOISE-1")
@pytest.mark.parametrize("seed", range(10))
def test_noise_is_alike(tmp_path: Path, tiny_model: Callable[..., Path], seed: int) -> None:
    trace_model(tmp_path / f"a{seed}", tiny_model(), noise=5e-7)
    trace_model(tmp_path / f"b{seed}", tiny_model(), noise=5e-7)
    report = diff(tmp_path / f"a{seed}", tmp_path / f"b{seed}")
    assert set(classes(report).values()) == {Class.NOISE}
    assert report.exit_code == 0
    assert report.verdict == "Alike: all 35 compared tensors agree within same-graph-f32."


def test_a_small_error_behind_identical_inputs_is_found(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """A wrong epsilon costs less than the noise of a deep model; behind an identical embedding nothing else explains it."""
    trace_model(tmp_path / "a", tiny_model())
    trace_model(tmp_path / "b", tiny_model(), overrides={"llama.attention.layer_norm_rms_epsilon": 1e-6})
    report = diff(tmp_path / "a", tmp_path / "b")
    assert firsts(report) == [(0, "attn_norm")]
    assert classes(report)[0, "qkv_matmul"] is Class.NOISE
    row = report.row((0, 0, "attn_norm"))
    assert row.limit == 1e-11
    assert "where all inputs are identical" in str(row.reason)
    # With another stage in between, unmeasured, the wider limit of the trace holds.
    trace_model(tmp_path / "c", tiny_model(), taps="embedding,qkv_matmul", overrides={"llama.attention.layer_norm_rms_epsilon": 1e-6})
    row = diff(tmp_path / "a", tmp_path / "c").row((0, 0, "qkv_matmul"))
    assert row.classification in (Class.NOISE, Class.INTRODUCED)


FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "scaled": lambda x: x * np.float32(1.001),
    "rows swapped": lambda x: x[::-1].copy(),
    "zeros": np.zeros_like,
    "one element": lambda x: np.where(np.arange(x.size).reshape(x.shape) == x.size - 1, x + 1, x).astype(np.float32),
    "shifted": lambda x: np.roll(x, 1, axis=-1),
}


@pytest.mark.contract("DIFF-FIRST-2")
@pytest.mark.each_choice(least=2)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", ["layer0.attn_norm", "layer1.ffn_up", "layer1.attn_softmax", "final_norm"])
@pytest.mark.parametrize("swap", [True, False])
def test_a_fault_is_named_at_its_stage(tmp_path: Path, tiny_model: Callable[..., Path], place: str, fault: str, swap: bool) -> None:
    trace_model(tmp_path / "a", tiny_model(), noise=5e-7)
    trace_model(tmp_path / "b", tiny_model(), noise=5e-7, fault=lambda name, x: FAULTS[fault](x) if name == place else x)
    report = diff(*(tmp_path / side for side in ("ba" if swap else "ab")))
    (first,) = report.first
    row = report.row(first.key)
    assert row.node == place
    assert row.classification is Class.INTRODUCED
    assert report.exit_code == 1
    assert [other.node for other in report.rows if other.classification is not Class.NOISE] == [place]


@pytest.mark.contract("DIFF-NAN-1")
@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_nan_or_inf_on_one_side(tmp_path: Path, tiny_model: Callable[..., Path], value: float, swap: bool) -> None:
    def fault(name: str, x: Tensor) -> Tensor:
        if name in ("layer1.ffn_gate", "layer1.ffn_silu"):
            x = x.copy()
            x[2, 3] = value
        return x

    trace_model(tmp_path / "a", tiny_model())
    trace_model(tmp_path / "b", tiny_model(), fault=fault)
    report = diff(*(tmp_path / side for side in ("ba" if swap else "ab")))
    assert firsts(report) == [(1, "ffn_gate")]
    assert [key for key, name in classes(report).items() if name is Class.NAN] == [(1, "ffn_gate"), (1, "ffn_silu")]
    what = "1 NaN" if np.isnan(value) else "1 Inf"
    held = f"{what} in A, none in B" if swap else f"none in A, {what} in B"
    assert f"({held}, first at position 2, column 3)" in report.verdict
    assert report.exit_code == 1


def test_the_same_nan_on_both_sides_is_alike_and_noted(tmp_path: Path) -> None:
    x, y = values(2, 8), noisy(values(2, 8))
    x[0, 0] = y[0, 0] = np.nan
    report = diff(write_trace(tmp_path / "a", {(0, "ffn_up"): x}), write_trace(tmp_path / "b", {(0, "ffn_up"): y}))
    assert report.exit_code == 0
    assert classes(report) == {(0, "ffn_up"): Class.NOISE}
    assert "both sides hold NaN or Inf, first in layer 0 ffn_up at position 0, column 0" in report.notes


@pytest.mark.contract("DIFF-SETS-1")
def test_expert_ids_in_another_order_are_alike_and_another_set_is_not(tmp_path: Path) -> None:
    ids = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    a = write_trace(tmp_path / "a", {(0, "moe_router_indices"): ids})
    b = write_trace(tmp_path / "b", {(0, "moe_router_indices"): ids[:, ::-1]})
    c = write_trace(tmp_path / "c", {(0, "moe_router_indices"): np.array([[1, 2], [3, 4], [5, 7]], np.float32)})
    report = diff(a, b)
    assert report.exit_code == 0
    assert any("another order at 3 positions" in note for note in report.notes)
    report = diff(a, c)
    assert report.exit_code == 1
    assert "another set of ids at 1 of 3 positions, first position 2" in report.verdict
    write_bare(tmp_path / "d", {(0, "moe_router_indices"): ids})
    write_bare(tmp_path / "e", {(0, "moe_router_indices"): ids[:, ::-1]})
    assert diff(tmp_path / "d", tmp_path / "e").exit_code == 3, "flat ids in another order prove nothing"
