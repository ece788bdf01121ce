"""Which tolerances are chosen, and those that a user sets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.text import print_graph
from aprgraph.runtime.diff import diff
from aprgraph.runtime.diff.classify import DIVERGED
from aprgraph.runtime.diff.overrides import Tolerances, parse_override
from aprgraph.runtime.diff.profiles import ARITHMETICS, choose_profile, own_profile
from aprgraph.runtime.diff.tolerances import PROFILES, find_tolerance
from aprgraph.runtime.trace.manifest import TraceInfo
from aprgraph.runtime.trace.reader import Trace
from tests.support.traces import EMPTY_GRAPH, noisy, values, write_bare, write_trace


def info(graph: str = EMPTY_GRAPH, **says: str) -> TraceInfo:
    return TraceInfo({"name": "m.gguf"}, "reference", (1, 2), "all", "last", graph, says)


@pytest.fixture
def graph(tiny_model: Callable[..., Path]) -> Callable[[str], str]:
    return lambda fmt: print_graph(build_graph(load_model(tiny_model(format=fmt))))


@pytest.mark.contract("DIFF-PROFILE-1")
@pytest.mark.parametrize(
    ("a", "b", "profile", "why"),
    [
        ({}, {}, "same-graph-f32", "both sides compute in float32"),
        ({"arithmetic": "float64"}, {}, "same-graph-f32", "B computes in float32"),
        ({}, {"arithmetic": "float16"}, "same-graph-f16", "B computes in float16 or TF32"),
        ({"arithmetic": "bfloat16"}, {"arithmetic": "float16"}, "same-graph-bf16", "A computes in bfloat16"),
        ({"arithmetic": "bfloat16"}, {"arithmetic": "q8-activations"}, "cross-engine-q8act", "B rounds activations to 8 bits"),
        ({"arithmetic": "float16"}, {"arithmetic": "float16"}, "same-graph-f16", "both sides compute in float16 or TF32"),
        ({"weights": "float"}, {}, "quant-vs-float", "A has the float weights"),
        ({"weights": "float"}, {"weights": "quantised", "arithmetic": "q8-activations"}, "quant-vs-float", "A has the float weights"),
        ({"weights": "float"}, {"weights": "float", "arithmetic": "bfloat16"}, "same-graph-bf16", "B computes in bfloat16"),
    ],
)
def test_the_coarser_side_chooses(a: Mapping[str, str], b: Mapping[str, str], profile: str, why: str) -> None:
    found, reason = choose_profile(info(**a), info(**b))
    assert found == profile
    assert reason.startswith(why)
    assert choose_profile(info(**b), info(**a))[0] == profile


def test_a_side_without_a_manifest_is_taken_to_compute_in_float32() -> None:
    assert choose_profile(None, None)[0] == "same-graph-f32"
    assert "no manifest says" in choose_profile(None, None)[1]
    profile, why = choose_profile(None, info())
    assert profile == "same-graph-f32"
    assert "A has no manifest" in why
    assert choose_profile(info(arithmetic="float16"), None) == ("same-graph-f16", "A computes in float16 or TF32")
    assert choose_profile(info(weights="float"), None)[0] == "quant-vs-float"


def test_the_formats_of_the_weights_count(graph: Callable[[str], str]) -> None:
    """Float weights against those of a file that holds floats: nothing was lost. Beside K-quants activations lie in blocks of 256."""
    f32, q4_0, q4_k = (graph(fmt) for fmt in ("F32", "Q4_0", "Q4_K"))
    assert choose_profile(info(f32, weights="float"), info(f32))[0] == "same-graph-f32"
    assert choose_profile(info(f32, weights="float"), info(q4_0))[0] == "quant-vs-float"
    assert choose_profile(info(q4_0), info(q4_0, arithmetic="q8-activations"))[0] == "cross-engine-q8act"
    # What a quantiser of its own made of a float file is no rounding; with a quantised file it is that file's weights.
    itself = info("", weights="quantised", arithmetic="bfloat16")
    assert choose_profile(info(f32), itself) == ("quant-vs-float", "B has quantised the weights that A has in float")
    assert choose_profile(itself, info(f32))[0] == "quant-vs-float"
    assert choose_profile(info(q4_0), itself)[0] == "same-graph-bf16"
    profile, why = choose_profile(info(q4_k), info(q4_k, arithmetic="q8-activations"))
    assert (profile, why) == ("cross-engine-q8k", "B rounds activations to 8 bits, in blocks of 256 beside K-quants")


def test_the_profile_of_one_trace_against_an_exact_replay(tiny_model: Callable[..., Path]) -> None:
    plain, quantised, super_blocks = (build_graph(load_model(tiny_model(format=fmt))) for fmt in ("F32", "Q4_0", "Q4_K"))
    expected = dict(
        zip(ARITHMETICS, ["same-graph-f32", "same-graph-f32", "same-graph-f16", "same-graph-bf16", "cross-engine-q8act"], strict=True)
    )
    for arithmetic, profile in expected.items():
        assert own_profile(info(arithmetic=arithmetic), quantised) == profile
    assert own_profile(info(arithmetic="q8-activations"), super_blocks) == "cross-engine-q8k"
    assert own_profile(info(weights="float"), quantised) == "quant-vs-float"
    assert own_profile(info(weights="float"), plain) == "same-graph-f32"
    assert own_profile(info("", weights="quantised"), plain) == "quant-vs-float"
    assert own_profile(info("", weights="quantised"), quantised) == "same-graph-f32"
    assert own_profile(None, quantised) == "same-graph-f32"


@pytest.mark.parametrize("says", [{"arithmetic": "int4"}, {"weights": "some"}, {"arithmetic": 3}])
def test_what_a_manifest_says_has_to_be_known(tmp_path: Path, says: dict[str, str]) -> None:
    a = write_trace(tmp_path / "a", {(0, "ffn_up"): values(3, 8)})
    b = write_trace(tmp_path / "b", {(0, "ffn_up"): values(3, 8)}, extra=says)
    with pytest.raises(ComparisonError, match=r"expected .*; name the tolerances with profile="):
        diff(a, b)
    assert diff(a, b, profile="same-graph-f16").profile == "same-graph-f16"


@pytest.mark.contract("DIFF-PROFILE-1")
def test_the_report_says_which_profile_and_why(tmp_path: Path) -> None:
    x = values(30, 96)
    a = write_trace(tmp_path / "a", {(0, "ffn_up"): x})
    b = write_trace(tmp_path / "b", {(0, "ffn_up"): noisy(x, 1e-3)}, extra={"arithmetic": "float16"})
    report = diff(a, b)
    assert report.exit_code == 0
    assert report.profile == "same-graph-f16"
    assert "tolerances of same-graph-f16: B computes in float16 or TF32" in report.notes
    assert report.to_json()["profile_reason"] == "B computes in float16 or TF32"
    report = diff(a, b, profile="same-graph-f32")
    assert report.exit_code == 1
    assert "tolerances of same-graph-f32: as asked for" in report.notes


# -- limits that a user sets -------------------------------------------------------------------------------------------


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Trace, Trace]:
    x = values(30, 96)
    ids = np.tile(np.array([[1, 2]], np.float32), (30, 1))
    others = ids.copy()
    others[4, 1] = 7
    a = write_trace(tmp_path / "a", {(0, "ffn_up"): x, (0, "ffn_gate"): x, (0, "attn_out"): x, (0, "moe_router_indices"): ids})
    y = noisy(x, 1e-3)
    b = write_trace(tmp_path / "b", {(0, "ffn_up"): y, (0, "ffn_gate"): y, (0, "attn_out"): y, (0, "moe_router_indices"): others})
    return a, b


def diverged(sides: tuple[Trace, Trace], *tolerances: str) -> set[str]:
    return {row.key[2] for row in diff(*sides, tolerances=tolerances).rows if row.classification in DIVERGED}


@pytest.mark.contract("DIFF-TOL-1")
def test_a_limit_holds_for_the_stages_whose_whole_name_matches(sides: tuple[Trace, Trace]) -> None:
    assert diverged(sides) == {"attn_out", "ffn_gate", "ffn_up", "moe_router_indices"}
    assert diverged(sides, "ffn_.*=nmse:1e-5") == {"attn_out", "moe_router_indices"}
    assert diverged(sides, "ffn_.*=nmse:1e-5", "ffn_up=nmse:1e-8") == {"attn_out", "ffn_up", "moe_router_indices"}, "the last counts"
    assert diverged(sides, "ffn_.*=nmse:1e-8", "ffn_up=nmse:1e-5") == {"attn_out", "ffn_gate", "moe_router_indices"}
    assert diverged(sides, ".*=nmse:1e-5") == {"moe_router_indices"}, "ids have no NMSE"
    assert diverged(sides, ".*=nmse:1e-5", "moe_.*=ids:0.1") == set()


@pytest.mark.contract("DIFF-TOL-1")
def test_a_report_says_which_limits_were_set(sides: tuple[Trace, Trace]) -> None:
    report = diff(*sides, tolerances=["ffn_.*=nmse:1e-5"])
    row = report.row((0, 0, "ffn_up"))
    assert (row.limit, row.override) == (1e-5, "ffn_.*=nmse:1e-5")
    assert row.to_json()["override"] == "ffn_.*=nmse:1e-5"
    assert report.row((0, 0, "attn_out")).override is None
    assert "limits marked * (2 tensors) are set by 'ffn_.*=nmse:1e-5'" in report.notes


def test_a_limit_that_is_set_holds_where_all_inputs_are_identical_too(tmp_path: Path) -> None:
    x = values(30, 96)
    a = write_trace(tmp_path / "a", {(0, "ffn_norm"): x, (0, "ffn_gate"): x})
    b = write_trace(tmp_path / "b", {(0, "ffn_norm"): x, (0, "ffn_gate"): noisy(x, 5e-6)})
    assert diff(a, b).row((0, 0, "ffn_gate")).limit == find_tolerance("same-graph-f32", "ffn_gate").own
    assert diff(a, b).exit_code == 1
    assert diff(a, b, tolerances=["ffn_gate=nmse:1e-10"]).exit_code == 0


@pytest.mark.contract("DIFF-TOL-1")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ffn_up", "expected REGEX=nmse:VALUE"),
        ("=nmse:1", "expected REGEX=nmse:VALUE"),
        ("ffn_up=1e-6", "expected REGEX=nmse:VALUE"),
        ("ffn_up=cosine:0.9", "expected REGEX=nmse:VALUE"),
        ("ffn_(=nmse:1e-6", "is not a regular expression"),
        ("ffn_up=nmse:small", "'small' is not a number of at least 0"),
        ("ffn_up=nmse:-1", "is not a number of at least 0"),
        ("ffn_up=nmse:nan", "is not a number of at least 0"),
        ("ffn_up=nmse:inf", "is not a number of at least 0"),
        ("moe_router_indices=ids:1.5", "'1.5' is not a share from 0 to 1"),
        (
            "ffn_down=nmse:1",
            "applies to no stage of either trace (did you mean 'ffn_out'?); their stages: attn_out, ffn_gate, ffn_up, moe_router_indices",
        ),
        ("ffn=nmse:1", "applies to no stage of either trace"),
        ("moe_router_indices=nmse:1", "moe_router_indices is measured by ids"),
        ("ffn_up=ids:0.5", "ffn_up is measured by nmse"),
    ],
)
def test_tolerances_that_say_nothing_are_refused(sides: tuple[Trace, Trace], text: str, message: str) -> None:
    with pytest.raises(ComparisonError, match=re.escape(message)):
        diff(*sides, tolerances=[text])


def test_a_pattern_may_hold_an_equals_sign_and_a_colon() -> None:
    override = parse_override("(?:ffn_up|a=b)=nmse:2e-7")
    assert override.value == 2e-7
    assert override.applies("ffn_up")
    assert override.applies("a=b")
    assert not override.applies("ffn_up2")


@pytest.mark.parametrize("profile", PROFILES)
def test_without_an_override_the_table_counts(profile: str) -> None:
    tolerances = Tolerances(profile, (), ())
    assert tolerances.find("ffn_up") is find_tolerance(profile, "ffn_up")
    assert tolerances.override("ffn_up") is None


def test_bare_directories(tmp_path: Path) -> None:
    for name in "ab":
        write_bare(tmp_path / name, {(0, "ffn_up"): values(3, 8)})
    report = diff(tmp_path / "a", tmp_path / "b")
    assert report.profile == "same-graph-f32"
    assert any("both are taken to compute in float32" in note for note in report.notes)
