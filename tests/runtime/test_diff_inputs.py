"""A stage is held to what its inputs explain where the limit of a whole model is wide: faults in quantised weights, RoPE beside 8-bit activations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.runtime.diff import Class, DiffReport, diff
from aprgraph.runtime.diff.inputs import GAINS, HELD_TO_INPUTS, gain_of
from aprgraph.runtime.diff.tolerances import PROFILES, find_tolerance
from aprgraph.runtime.diff.weight_noise import FORMAT_NOISE, format_noise
from tests.runtime.test_diff_noise_models import trace_in
from tests.support.arithmetic import F64, through_format, to_float16, to_q8_0
from tests.support.quantised import FAULTS, FLOAT_MANIFEST, Fault, Quantised, lost_block_column, lost_row
from tests.support.traces import values, write_bare, write_trace

TOKENS = (3, 1, 4, 1, 5, 9, 2, 6)
#: Where each fault shows first, by the tensor that has it.
FIRST = {
    "attn_v.weight": "qkv_matmul",
    "attn_output.weight": "attn_out",
    "ffn_gate.weight": "ffn_gate",
    "ffn_up.weight": "ffn_up",
    "ffn_down.weight": "ffn_out",
}


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Quantised:
    return Quantised(tiny_model(hidden=256, ffn=256, head_size=16, layers=3))


def firsts(report: DiffReport) -> list[tuple[int | None, str]]:
    return [(first.key[1], first.key[2]) for first in report.first]


@pytest.mark.contract("DIFF-INPUTS-1")
@pytest.mark.parametrize("tensor", FIRST)
def test_faults_in_the_blocks_of_a_weight_are_named_at_its_stage(quantised: Quantised, tensor: str) -> None:
    theirs = quantised.float_trace(TOKENS)
    for number, (name, fault) in enumerate(FAULTS.items()):
        layer = number % 3
        ours = quantised.trace("Q8_0", TOKENS, {f"blk.{layer}.{tensor}": fault})
        report = diff(*((ours, theirs) if number % 2 else (theirs, ours)))
        assert firsts(report) == [(layer, FIRST[tensor])], (name, report.verdict)
        assert report.row((0, layer, FIRST[tensor])).classification is Class.INTRODUCED
        assert report.exit_code == 1


@pytest.mark.contract("DIFF-INPUTS-1")
def test_a_lost_row_is_seen_under_noise_of_four_bits(quantised: Quantised) -> None:
    theirs = quantised.float_trace(TOKENS)
    for layer in range(3):
        report = diff(quantised.trace("Q4_0", TOKENS, {f"blk.{layer}.ffn_up.weight": lost_row}), theirs)
        assert firsts(report) == [(layer, "ffn_up")]
        assert "channel 5 0 at every position on one side alone" in report.verdict


@pytest.mark.contract("DIFF-NOISE-1")
@pytest.mark.parametrize("fmt", ["Q8_0", "Q5_0", "Q4_0", "Q4_K"])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_weights_of_every_format_are_noise(quantised: Quantised, fmt: str, count: int) -> None:
    tokens = [int(token) for token in np.random.default_rng(count).integers(3, 280, count)]
    for says in (FLOAT_MANIFEST, {"weights": "float", "arithmetic": "bfloat16"}):
        report = diff(quantised.trace(fmt, tokens), quantised.float_trace(tokens, says))
        assert report.exit_code == 0, report.verdict
    assert report.profile == "quant-vs-float"
    worst = max(row.error / row.limit for row in report.rows_compared if row.error is not None and row.limit)
    assert worst > 0.02, "limits are far above what was measured"


@pytest.mark.contract("DIFF-INPUTS-1")
def test_limits_are_those_of_the_formats_in_the_graph(quantised: Quantised) -> None:
    theirs = quantised.float_trace(TOKENS)
    limits = {fmt: diff(quantised.trace(fmt, TOKENS), theirs).row((0, 1, "ffn_norm")).limit for fmt in ("Q8_0", "Q5_0", "Q4_0")}
    assert limits["Q8_0"] == pytest.approx(200 * FORMAT_NOISE["Q8_0"], rel=1e-4)
    assert limits["Q5_0"] == pytest.approx(200 * FORMAT_NOISE["Q5_0"], rel=1e-4)
    assert limits["Q4_0"] == pytest.approx(200 * FORMAT_NOISE["Q4_0"], rel=1e-4)
    (note,) = [note for note in diff(quantised.trace("Q8_0", TOKENS), theirs).notes if note.startswith("limits are")]
    assert note.endswith("what these cost one matmul: Q8_0 (2.9e-05)")


@pytest.mark.contract("DIFF-PLAIN-4")
def test_what_may_hide_in_the_noise_of_four_bits_is_said(quantised: Quantised) -> None:
    """A column of blocks that is 0 costs less than what is allowed there."""
    theirs = quantised.float_trace(TOKENS)
    assert diff(quantised.trace("Q8_0", TOKENS), theirs).verdict.startswith("Alike: ")
    for faults in ({}, {"blk.1.ffn_down.weight": lost_block_column}):
        report = diff(quantised.trace("Q4_0", TOKENS, faults), theirs)
        assert report.exit_code == 0 or faults
        if not report.exit_code:
            assert report.verdict.startswith("Alike as far as so much noise lets show: ")
            assert "An NMSE of more than 0.1 would pass for noise at " in report.verdict
    report = diff(quantised.trace("Q4_0", TOKENS), theirs, tolerances=[".*=nmse:0.5"])
    assert report.verdict.startswith("Alike: "), "who sets limits knows them"


@pytest.mark.contract("DIFF-INPUTS-1")
def test_where_no_graph_tells_the_formats_they_are_taken_for_four_bits(tmp_path: Path, quantised: Quantised) -> None:
    bare = {}
    for name, trace in (
        ("good", quantised.trace("Q4_0", TOKENS)),
        ("bad", quantised.trace("Q8_0", TOKENS, {"blk.1.ffn_down.weight": _halved})),
    ):
        bare[name] = write_bare(tmp_path / name, {(entry.layer, entry.stage): trace.load(entry) for entry in trace.entries})
    theirs = quantised.float_trace(TOKENS)
    report = diff(bare["good"], theirs)
    assert report.profile == "quant-vs-float"
    assert report.exit_code == 0
    assert any("taken to be of 4 bits or more" in note for note in report.notes)
    assert firsts(diff(bare["bad"], theirs)) == [(1, "ffn_out")]


def _halved(w: F64) -> F64:
    w = w.copy()
    w[:, :128] = 0
    return w


@pytest.mark.contract("DIFF-INPUTS-1", "DIFF-TOL-1")
def test_a_limit_that_is_set_holds(quantised: Quantised) -> None:
    ours, theirs = quantised.trace("Q8_0", TOKENS, {"blk.1.ffn_down.weight": lost_block_column}), quantised.float_trace(TOKENS)
    report = diff(ours, theirs, tolerances=["ffn_out=nmse:0.5"])
    assert (1, "ffn_out") not in firsts(report)
    assert report.row((0, 1, "ffn_out")).limit == 0.5


@pytest.mark.contract("DIFF-INPUTS-1")
def test_without_all_inputs_the_limit_of_the_model_holds(quantised: Quantised) -> None:
    ours, theirs = quantised.trace("Q8_0", TOKENS, {"blk.1.ffn_down.weight": lost_block_column}), quantised.float_trace(TOKENS)
    without = [entry for entry in ours.entries if entry.stage != "ffn_swigl"]
    ours.entries = tuple(without)
    row = diff(ours, theirs).row((0, 1, "ffn_out"))
    assert row.classification is Class.INTRODUCED
    assert row.limit == pytest.approx(200 * FORMAT_NOISE["Q8_0"], rel=1e-4)


@pytest.mark.contract("DIFF-INPUTS-2")
def test_a_wrong_base_shows_beside_activations_in_8_bits(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """By so little that the limit of a whole model lets it pass."""
    path = tiny_model(format="Q8_0")
    trace = partial(trace_in, tokens=TOKENS)
    rounded = {"inputs": to_q8_0, "attention_inputs": to_float16}
    ours = trace(tmp_path / "ours", path)
    right = trace(tmp_path / "right", path, rounded, {"arithmetic": "q8-activations"})
    wrong = trace(tmp_path / "wrong", path, rounded, {"arithmetic": "q8-activations"}, overrides={"llama.rope.freq_base": 7000.0})
    assert diff(ours, right).exit_code == 0
    report = diff(ours, wrong)
    assert firsts(report) == [(0, "q_post_rope"), (0, "k_post_rope")]
    row = report.row((0, 0, "q_post_rope"))
    assert row.error is not None
    assert row.limit < row.error < find_tolerance("cross-engine-q8act", "q_post_rope").limit
    assert "5 times what its inputs carry" in str(row.reason)


@pytest.mark.parametrize(
    ("formats", "profile"),
    [
        (("F32", "Q8_0"), "quant-vs-float"),
        (("Q4_0", "Q8_0"), "quant-vs-float"),
        (("F32", "F16"), "same-graph-f16"),
        (("F16", "BF16"), "same-graph-bf16"),
    ],
)
def test_two_files_of_one_model_in_other_formats(quantised: Quantised, formats: tuple[str, str], profile: str) -> None:
    a, b = (quantised.trace(fmt, TOKENS) for fmt in formats)
    for sides, names in (((a, b), formats), ((b, a), formats[::-1])):
        report = diff(*sides)
        assert report.profile == profile
        assert report.profile_reason == f"weights lie in {names[0]} in A, in {names[1]} in B"
        assert report.exit_code == 0, report.verdict


@pytest.mark.parametrize("fault", [lost_block_column, lost_row])
def test_two_quantised_files_one_of_which_is_damaged(quantised: Quantised, fault: Fault) -> None:
    report = diff(quantised.trace("Q5_0", TOKENS), quantised.trace("Q8_0", TOKENS, {"blk.0.ffn_up.weight": fault}))
    assert firsts(report) == [(0, "ffn_up")]


def test_a_channel_of_zeros_on_one_side_is_a_lost_row_and_a_small_one_is_not(tmp_path: Path) -> None:
    a = values(8, 64)
    small = a.copy()
    small[:, 3] *= 1e-3
    for name, whole, broken, code in (("lost", a, a.copy(), 1), ("small", small, small.copy(), 0)):
        broken[:, 3] = 0
        sides = [write_trace(tmp_path / f"{name}-{side}", {(0, "ffn_gate"): tensor}) for side, tensor in (("a", whole), ("b", broken))]
        for one, other in (sides, sides[::-1]):
            report = diff(one, other, profile="quant-vs-float")
            assert report.exit_code == code


def test_every_gain_says_what_it_was_measured_at() -> None:
    assert set(HELD_TO_INPUTS) < set(PROFILES)
    gains = {stage: gain for stage in STAGE_BY_NAME if (gain := gain_of(stage)) is not None}
    assert set(gains.values()) == set(GAINS)
    for stage, gain in gains.items():
        assert find_tolerance("quant-vs-float", stage)
        assert 1 < gain.many < gain.few
        assert "easured at most" in gain.derivation


@pytest.mark.contract("DIFF-NOISE-1")
@pytest.mark.parametrize("fmt", ["F16", "BF16", "Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1", "Q4_K"])
def test_what_a_format_costs_one_matmul_is_what_the_table_says(fmt: str) -> None:
    generator = np.random.default_rng(53)
    x, w = generator.standard_normal((32, 1024)), generator.standard_normal((256, 1024))
    other = w.astype(np.float16).astype(np.float64) if fmt == "F16" else through_format(w, fmt)
    y, z = x @ w.T, x @ other.T
    assert np.square(y - z).sum() / np.square(y).sum() == pytest.approx(format_noise(fmt), rel=0.3)
