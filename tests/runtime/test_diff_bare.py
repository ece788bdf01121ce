"""Traces without manifests: what is certain of their shapes is used, and what is not is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.words import layer_ranges
from aprgraph.runtime.diff import Class, DiffReport, diff
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.diff.shapes import find_shapes
from aprgraph.runtime.trace.reader import Trace
from tests.support.traces import Tensor, trace_model, values, write_bare, write_trace


def bared(
    directory: Path, trace: Trace, *, layers: Sequence[int] | None = None, last: Sequence[str] = (), drop: Sequence[str] = ()
) -> Path:
    """``trace`` as another program writes it: without a manifest, of some layers, ``last`` for the last position only."""
    tensors = {}
    for entry in trace.entries:
        if entry.stage in drop or (layers is not None and entry.layer is not None and entry.layer not in layers):
            continue
        tensor = trace.load(entry)
        tensors[entry.layer, entry.stage] = tensor[-1:] if entry.stage in last else tensor
    return write_bare(directory, tensors)


def both_ways(a: Path, b: Path) -> DiffReport:
    report, swapped = diff(a, b), diff(b, a)
    assert [row.classification for row in report.rows] == [row.classification for row in swapped.rows]
    return report


#: What `apr` dumps of a GGUF mixture of experts for the last position only, and what it does not know.
APR_LAST = ("moe_router", "moe_ffn_out")
APR_LACKS = (
    "moe_router_logits",
    "moe_router_indices",
    "moe_expert_gate",
    "moe_expert_up",
    "moe_expert_swigl",
    "moe_expert_out",
    "q_norm",
    "k_norm",
)


@pytest.mark.contract("DIFF-BARE-1")
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3moe"])
def test_a_manifest_on_one_side_tells_the_shapes_of_both(tmp_path: Path, tiny_model: Callable[..., Path], family: str) -> None:
    ours = trace_model(tmp_path / "ours", tiny_model(family=family))
    theirs = bared(tmp_path / "theirs", ours, last=APR_LAST, drop=APR_LACKS)
    report = both_ways(tmp_path / "ours", theirs)
    assert report.exit_code == 0
    for row in report.rows_compared:
        assert isinstance(row.metrics, TensorMetrics)
        assert row.metrics.positions is not None, row.label
        assert row.metrics.positions.size == (1 if row.key[2] in (*APR_LAST, "lm_head") else 5), row.label
        assert row.metrics.channels is not None
    last = [note for note in report.notes if "one position only" in note]
    assert len(last) == (family == "qwen3moe")
    if last:
        assert last[0].startswith("B holds one position only")
        assert "layer 0 moe_router, layer 0 moe_ffn_out" in last[0]
    assert any("B has no manifest" in note for note in report.notes)


@pytest.mark.contract("DIFF-BARE-1")
def test_a_bare_side_that_holds_all_positions_where_the_other_holds_the_last(tmp_path: Path) -> None:
    logits, norm = values(3, 50), values(3, 8)
    write_trace(tmp_path / "a", {(None, "final_norm"): norm, (None, "lm_head"): logits[-1:]})
    write_bare(tmp_path / "b", {(None, "final_norm"): norm, (None, "lm_head"): logits})
    report = both_ways(tmp_path / "a", tmp_path / "b")
    assert {row.classification for row in report.rows} == {Class.IDENTICAL}
    assert any(note.startswith("A holds one position only") for note in report.notes)


@pytest.mark.contract("DIFF-BARE-1")
def test_two_bare_traces_are_told_by_the_softmax(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """Its rows sum to 1: size over sum is the number of positions."""
    ours = trace_model(tmp_path / "ours", tiny_model(family="qwen3moe"))
    a = bared(tmp_path / "a", ours, drop=APR_LACKS)
    b = bared(tmp_path / "b", ours, last=["moe_ffn_out"], drop=APR_LACKS)
    report = both_ways(a, b)
    assert report.exit_code == 0
    assert report.row((0, 0, "qkv_matmul")).shape == ours.tensor("qkv_matmul", 0).shape
    assert report.row((0, 1, "attn_scores")).shape == ours.tensor("attn_scores", 1).shape
    assert report.row((0, 0, "moe_ffn_out")).shape == (1, 64)
    assert any("one position only" in note and "moe_ffn_out" in note for note in report.notes)
    wrong = np.array(ours.tensor("ffn_norm", 1))
    wrong[3] *= 1.01
    write_bare(b, {(1, "ffn_norm"): wrong})
    row = both_ways(a, b).row((0, 1, "ffn_norm"))
    assert isinstance(row.metrics, TensorMetrics)
    assert row.metrics.positions is not None
    assert row.metrics.positions.worst == (3,)


def test_the_softmax_of_a_model_that_is_not_causal_tells_as_well(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    ours = trace_model(tmp_path / "ours", tiny_model(causal=False))
    report = both_ways(bared(tmp_path / "a", ours), bared(tmp_path / "b", ours))
    assert report.row((0, 0, "qkv_matmul")).shape == ours.tensor("qkv_matmul", 0).shape
    assert report.row((0, 1, "attn_scores")).shape == ours.tensor("attn_scores", 1).shape


@pytest.mark.contract("DIFF-BARE-1")
def test_without_anything_that_tells_tensors_are_flat_and_a_note_says_so(tmp_path: Path) -> None:
    for name in "ab":
        write_bare(tmp_path / name, {(0, "ffn_gate"): values(3, 8), (0, "ffn_up"): values(3, 8, seed=1)})
    report = both_ways(tmp_path / "a", tmp_path / "b")
    assert report.exit_code == 0
    assert report.rows[0].metrics is not None
    assert report.rows[0].metrics.positions is None  # type: ignore[union-attr]
    assert any("compared as a whole, not by position and channel" in note for note in report.notes)


@pytest.mark.parametrize("damage", ["nan", "scaled", "later", "transposed"])
def test_a_softmax_that_is_none_tells_nothing(tmp_path: Path, damage: str) -> None:
    weights = np.tril(np.ones((2, 4, 4)))
    softmax = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
    broken = {
        "nan": np.where(softmax == 1, np.nan, softmax),
        "scaled": softmax * 0.9,
        "later": softmax[:, ::-1, ::-1],
        "transposed": softmax.transpose(0, 2, 1),
    }[damage].astype(np.float32)
    for name, tensor in (("a", softmax), ("b", broken)):
        write_bare(tmp_path / name, {(0, "attn_softmax"): tensor, (0, "ffn_norm"): values(4, 6)})
    shaped_a, shaped_b = find_shapes(Trace.open(tmp_path / "a"), Trace.open(tmp_path / "b"))
    assert (shaped_a.positions, shaped_b.positions) == ({0: 4}, {})
    assert not shaped_b.known


def test_one_position_is_certain_too(tmp_path: Path) -> None:
    for name in "ab":
        write_bare(tmp_path / name, {(0, "attn_softmax"): np.ones((3, 1, 1), np.float32), (0, "ffn_norm"): values(1, 6)})
    assert both_ways(tmp_path / "a", tmp_path / "b").row((0, 0, "ffn_norm")).shape == (1, 6)


def test_another_number_of_positions_is_named(tmp_path: Path) -> None:
    a: dict[tuple[int, str], Tensor] = {(0, "ffn_gate"): values(3, 8), (0, "ffn_norm"): values(3, 4)}
    write_trace(tmp_path / "a", a)
    write_bare(tmp_path / "b", {(0, "ffn_gate"): values(7, 8), (0, "ffn_norm"): values(7, 4)})
    report = both_ways(tmp_path / "a", tmp_path / "b")
    assert {row.classification for row in report.rows} == {Class.SHAPE}
    assert report.rows[0].reason == "A is 3 x 4, B is 7 x 4"
    assert report.notes[-1].endswith("A holds 3 positions, B 7.")


def test_sizes_that_no_number_of_positions_explains_are_shapes_that_do_not_fit(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", {(0, "ffn_gate"): values(3, 8), (0, "ffn_norm"): values(3, 4)})
    write_bare(tmp_path / "b", {(0, "ffn_gate"): values(3, 9), (0, "ffn_norm"): values(3, 4)})
    found = {row.key[2]: row.classification for row in both_ways(tmp_path / "a", tmp_path / "b").rows}
    assert found == {"ffn_gate": Class.SHAPE, "ffn_norm": Class.IDENTICAL}


def test_decoded_steps_without_a_manifest(tmp_path: Path) -> None:
    tensors = {(0, "ffn_gate"): values(3, 8), (0, "ffn_gate", 1): values(1, 8), (0, "attn_scores", 1): values(2, 1, 4)}
    write_trace(tmp_path / "a", tensors)
    write_bare(tmp_path / "b", tensors)
    report = both_ways(tmp_path / "a", tmp_path / "b")
    assert report.exit_code == 0
    assert report.row((1, 0, "attn_scores")).shape == (2, 1, 4)
    assert report.row((1, 0, "ffn_gate")).shape == (1, 8)


@pytest.mark.contract("DIFF-UNMEASURED-1")
@pytest.mark.parametrize("bare", [True, False])
def test_fewer_layers_on_one_side_are_one_note(tmp_path: Path, tiny_model: Callable[..., Path], bare: bool) -> None:
    path = tiny_model(layers=5)
    ours = trace_model(tmp_path / "ours", path, layers=5)
    theirs = bared(tmp_path / "theirs", ours, layers=(0, 1)) if bare else trace_model(tmp_path / "theirs", path, layers=2).directory
    report = both_ways(tmp_path / "ours", theirs)
    assert report.exit_code == 0
    assert {row.classification for row in report.rows if row.key[1] in (2, 3, 4)} == {Class.UNMEASURED}
    note = "B has layers 0..1 of the 5 recorded; layers 2..4, which A has, are not compared"
    assert note in report.notes
    assert note.replace("B has", "A has").replace("which A", "which B") in diff(theirs, tmp_path / "ours").notes


def test_layers_in_words() -> None:
    assert layer_ranges([4]) == "layer 4"
    assert layer_ranges([3, 0, 1, 2]) == "layers 0..3"
    assert layer_ranges([0, 2, 3, 9]) == "layers 0, 2..3 and 9"
