"""What is paired with what, what stays unmeasured, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import ComparisonError, TraceError
from aprgraph.runtime.diff import Class, DiffReport, diff
from aprgraph.runtime.trace.reader import Trace
from tests.support.traces import noisy, values, write_bare, write_trace

GATE, UP = values(3, 8), values(3, 8, seed=1)
LOGITS = values(1, 50)


def classes(report: DiffReport) -> dict[str, Class]:
    return {row.label: row.classification for row in report.rows}


def test_tensors_are_paired_by_step_layer_and_stage(tmp_path: Path) -> None:
    tensors = {(0, "ffn_gate"): GATE, (1, "ffn_gate"): UP, (0, "ffn_gate", 1): values(1, 8), (None, "lm_head"): LOGITS}
    write_trace(tmp_path / "a", tensors)
    write_bare(tmp_path / "b", dict(reversed(tensors.items())))
    report = diff(tmp_path / "a", tmp_path / "b")
    assert [row.label for row in report.rows] == ["layer 0 ffn_gate", "layer 1 ffn_gate", "lm_head", "step 1 layer 0 ffn_gate"]
    assert set(classes(report).values()) == {Class.IDENTICAL}
    assert report.exit_code == 0
    assert "B has no manifest" in report.notes[0]


def test_steps_behind_the_one_where_two_texts_part_are_unmeasured(tmp_path: Path) -> None:
    """Their numbers differ because their tokens do."""
    tensors = {(0, "ffn_gate"): GATE, **{(0, "ffn_gate", step): values(1, 8, seed=step) for step in (1, 2, 3)}}
    for name, generated in (("a", [4, 5, 6, 7]), ("b", [4, 9, 6, 7])):
        write_trace(tmp_path / name, tensors, extra={"generated": generated})
    report = diff(tmp_path / "a", tmp_path / "b")
    found = [(row.label, row.classification) for row in report.rows]
    assert found == [
        ("layer 0 ffn_gate", Class.IDENTICAL),
        ("step 1 layer 0 ffn_gate", Class.IDENTICAL),
        ("step 2 layer 0 ffn_gate", Class.UNMEASURED),
        ("step 3 layer 0 ffn_gate", Class.UNMEASURED),
    ]


@pytest.mark.contract("DIFF-UNMEASURED-1")
def test_a_stage_that_one_side_lacks_is_unmeasured(tmp_path: Path) -> None:
    a = write_trace(tmp_path / "a", {(0, "ffn_gate"): GATE, (0, "ffn_up"): UP})
    b = write_trace(tmp_path / "b", {(0, "ffn_gate"): GATE, (0, "ffn_norm"): UP})
    report = diff(a, b)
    found = classes(report)
    assert found == {"layer 0 ffn_norm": Class.UNMEASURED, "layer 0 ffn_gate": Class.IDENTICAL, "layer 0 ffn_up": Class.UNMEASURED}
    assert report.exit_code == 0
    assert "2 more not measured" in report.verdict
    assert [row.reason for row in report.rows] == ["only B recorded it", None, "only A recorded it"]


@pytest.mark.contract("DIFF-UNMEASURED-1")
def test_nothing_in_common_is_exit_3(tmp_path: Path) -> None:
    a = write_trace(tmp_path / "a", {(0, "ffn_gate"): GATE})
    b = write_trace(tmp_path / "b", {(1, "ffn_gate"): GATE})
    report = diff(a, b)
    assert report.exit_code == 3
    assert report.verdict.startswith("Nothing was measured: only A recorded it")


@pytest.mark.contract("DIFF-UNMEASURED-1")
def test_statistics_alone_and_empty_tensors_are_not_measured(tmp_path: Path) -> None:
    tensors = {(0, "ffn_gate"): GATE, (0, "ffn_up"): np.empty((0, 8), np.float32)}
    write_trace(tmp_path / "a", tensors)
    write_trace(tmp_path / "b", tensors, stats_only=True)
    report = diff(tmp_path / "a", tmp_path / "b")
    assert set(classes(report).values()) == {Class.UNMEASURED}
    assert report.exit_code == 3
    assert "B has statistics only" in report.verdict
    assert [row.reason for row in diff(tmp_path / "a", tmp_path / "a").rows] == [None, "it has no elements"]


@pytest.mark.contract("DIFF-UNMEASURED-1")
def test_two_empty_traces_are_exit_3(tmp_path: Path) -> None:
    report = diff(write_trace(tmp_path / "a", {}), write_trace(tmp_path / "b", {}))
    assert report.exit_code == 3
    assert report.verdict == "Nothing was measured: both traces are empty."


def test_only_files_that_the_manifest_lists_count(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", {(0, "ffn_gate"): GATE})
    write_bare(tmp_path / "a", {(0, "ffn_up"): UP})
    write_bare(tmp_path / "b", {(0, "ffn_gate"): GATE, (0, "ffn_up"): -UP})
    assert classes(diff(tmp_path / "a", tmp_path / "b"))["layer 0 ffn_up"] is Class.UNMEASURED


@pytest.mark.contract("DIFF-TOKENS-1")
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((1, 2, 9), r"at position 2 \(of 3 and 3\) the first has token 3, the second token 9"),
        ((1, 2), r"at position 2 \(of 3 and 2\) .* the second no token there"),
    ],
)
def test_traces_of_different_tokens_are_refused(tmp_path: Path, tokens: tuple[int, ...], message: str) -> None:
    a = write_trace(tmp_path / "a", {(0, "ffn_gate"): GATE})
    b = write_trace(tmp_path / "b", {(0, "ffn_gate"): GATE}, tokens=tokens)
    with pytest.raises(ComparisonError, match=message):
        diff(a, b)
    with pytest.raises(ComparisonError, match=r"different tokens"):
        diff(tmp_path / "a/layer-0/ffn_gate.bin", tmp_path / "b/layer-0/ffn_gate.bin")


def test_other_model_files_are_compared_and_noted(tmp_path: Path) -> None:
    a = write_trace(tmp_path / "a", {(0, "ffn_gate"): GATE})
    b = write_trace(tmp_path / "b", {(0, "ffn_gate"): GATE}, fingerprint="other")
    report = diff(a, b)
    assert report.exit_code == 0
    assert (
        report.verdict == "Alike: layer 0 ffn_gate agrees bit for bit. The traces are of different model files (their fingerprints differ)."
    )


@pytest.mark.contract("DIFF-SHAPE-1")
@pytest.mark.parametrize("other", [(8, 3), (3, 9), (4, 8)])
def test_shapes_that_do_not_fit(tmp_path: Path, other: tuple[int, ...]) -> None:
    a = write_trace(tmp_path / "a", {(0, "ffn_gate"): GATE, (0, "ffn_up"): UP})
    b = write_trace(tmp_path / "b", {(0, "ffn_gate"): values(*other), (0, "ffn_up"): UP})
    for report in (diff(a, b), diff(b, a)):
        assert classes(report) == {"layer 0 ffn_gate": Class.SHAPE, "layer 0 ffn_up": Class.IDENTICAL}
        assert report.exit_code == 1
        assert "3 x 8" in report.verdict
        assert " x ".join(map(str, other)) in report.verdict


@pytest.mark.parametrize(("row", "seems"), [(0, "position 0"), (1, "position 1"), (2, None), (None, None)])
@pytest.mark.parametrize("swap", [True, False])
def test_one_position_that_is_not_the_last_is_told_by_the_values(tmp_path: Path, row: int | None, seems: str | None, swap: bool) -> None:
    whole = {(0, "attn_norm"): values(3, 8), (0, "ffn_up"): UP, (0, "attn_softmax"): values(2, 3, 3)}
    alone = {key: tensor[row : row + 1] if row is not None else values(1, *tensor.shape[1:], seed=9) for key, tensor in whole.items()}
    if row is not None:
        alone[0, "attn_softmax"] = whole[0, "attn_softmax"][:, row : row + 1]
    else:
        alone[0, "attn_softmax"] = values(2, 1, 3, seed=9)
    sides = [write_trace(tmp_path / "whole", whole), write_trace(tmp_path / "alone", alone)]
    report = diff(*(sides[::-1] if swap else sides))
    found = [note for note in report.notes if "seems to hold" in note]
    holder = "A" if swap else "B"
    words = "not the last: 3 tensors of the 3 that were looked at agree there; record the last position, or all of them"
    assert found == ([] if seems is None else [f"{holder} seems to hold {seems}, {words}"])


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("swap", [True, False])
def test_a_side_that_holds_the_last_position_only(tmp_path: Path, bare: bool, swap: bool) -> None:
    whole = {(0, "moe_router"): values(3, 4), (None, "lm_head"): values(3, 50), (0, "attn_softmax"): values(2, 3, 3), (0, "ffn_up"): UP}
    last = {(0, "moe_router"): whole[0, "moe_router"][-1:], (None, "lm_head"): whole[None, "lm_head"][-1:], (0, "ffn_up"): UP}
    last[0, "attn_softmax"] = whole[0, "attn_softmax"][:, -1:, :]
    write_trace(tmp_path / "whole", whole)
    (write_bare if bare else write_trace)(tmp_path / "last", last)
    sides = [tmp_path / "whole", tmp_path / "last"]
    report = diff(*(sides[::-1] if swap else sides))
    assert set(classes(report).values()) == {Class.IDENTICAL}
    note = next(note for note in report.notes if "one position only, which is taken for the last" in note)
    assert note.startswith("A" if swap else "B")
    assert "layer 0 moe_router" in note
    assert "lm_head" in note
    assert "ffn_up" not in note


def test_another_position_than_the_last_is_not_taken_for_it(tmp_path: Path) -> None:
    whole = values(3, 50)
    write_trace(tmp_path / "a", {(None, "lm_head"): whole})
    write_bare(tmp_path / "b", {(None, "lm_head"): whole[:1]})
    assert diff(tmp_path / "a", tmp_path / "b").exit_code == 1


def test_without_any_manifest_the_last_position_is_not_certain(tmp_path: Path) -> None:
    whole = values(3, 8)
    write_bare(tmp_path / "a", {(0, "moe_ffn_out"): whole})
    write_bare(tmp_path / "b", {(0, "moe_ffn_out"): whole[-1:]})
    row = diff(tmp_path / "a", tmp_path / "b").rows[0]
    assert row.classification is Class.SHAPE
    assert "may hold the last position only" in str(row.reason)


def test_two_single_files(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", {(0, "ffn_gate"): GATE, (0, "ffn_up"): UP})
    write_bare(tmp_path / "b", {(0, "ffn_gate"): -GATE})
    report = diff(tmp_path / "a/layer-0/ffn_gate.bin", str(tmp_path / "b/layer-0/ffn_gate.bin"))
    assert classes(report) == {"layer 0 ffn_gate": Class.INTRODUCED}
    assert report.rows[0].shape == (3, 8), "the manifest above the file tells its shape"
    assert report.verdict.endswith("1 tensor compared.")
    assert diff(tmp_path / "a/layer-0/ffn_up.bin", tmp_path / "a/layer-0/ffn_up.bin").verdict == "Alike: layer 0 ffn_up agrees bit for bit."


def test_single_files_of_other_names_are_compared_with_a_note(tmp_path: Path) -> None:
    write_bare(tmp_path, {(0, "ffn_gate"): GATE, (3, "ffn_up"): GATE})
    (tmp_path / "layer-3/ffn_up.bin").rename(tmp_path / "mine.bin")
    report = diff(tmp_path / "layer-0/ffn_gate.bin", tmp_path / "mine.bin")
    assert report.exit_code == 0
    assert any("B is layer 3 mine" in note for note in report.notes)


def test_relative_single_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_trace(tmp_path / "a", {(0, "ffn_gate"): GATE, (None, "lm_head"): LOGITS})
    monkeypatch.chdir(tmp_path / "a" / "layer-0")
    assert diff("ffn_gate.bin", "../layer-0/ffn_gate.bin").rows[0].shape == (3, 8)
    monkeypatch.chdir(tmp_path / "a")
    assert diff("lm_head.bin", Path("./lm_head.bin")).rows[0].shape == (1, 50)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "a", {(0, "ffn_gate"): GATE})
    with pytest.raises(TraceError, match=r"nowhere: no such file"):
        diff(tmp_path / "a", tmp_path / "nowhere")
    with pytest.raises(ComparisonError, match=r"is a file and .* a directory"):
        diff(tmp_path / "a/layer-0/ffn_gate.bin", tmp_path / "a")
    with pytest.raises(ComparisonError, match=r"is a file and .* a directory"):
        diff(trace, tmp_path / "a/layer-0/ffn_gate.bin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match=r"neither a manifest"):
        diff(tmp_path / "empty", tmp_path / "a")
    with pytest.raises(ComparisonError, match=r"top is 0"):
        diff(trace, trace, top=0)
    with pytest.raises(ComparisonError, match=r"unknown tolerance profile"):
        diff(trace, trace, profile="none")


@pytest.mark.contract("APRT-DAMAGE-1")
@pytest.mark.parametrize("damage", ["truncated", "longer", "magic", "layer", "count", "missing"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    trace = write_trace(tmp_path / "a", {(0, "ffn_gate"): GATE, (0, "ffn_up"): UP})
    write_trace(tmp_path / "b", {(0, "ffn_gate"): GATE, (0, "ffn_up"): UP})
    path = tmp_path / "b/layer-0/ffn_up.bin"
    raw = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "truncated": raw[:-1],
                "longer": raw + b"\0",
                "magic": b"APRX" + raw[4:],
                "layer": raw[:4] + b"\7" + raw[5:],
                "count": raw[:8] + bytes([23, 0, 0, 0]) + raw[12:-4],
            }[damage]
        )
    with pytest.raises(TraceError, match=r"b/layer-0/ffn_up.bin"):
        diff(trace, tmp_path / "b")


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", {(0, "ffn_gate"): GATE})
    manifest = tmp_path / "a" / "trace.json"
    manifest.write_text(manifest.read_text()[:-20])
    with pytest.raises(TraceError, match=r"trace.json"):
        diff(tmp_path / "a", tmp_path / "a")


def test_the_manifest_is_read_not_guessed(tmp_path: Path) -> None:
    """A manifest whose shapes are wrong for its files is an error, not a comparison of something else."""
    write_trace(tmp_path / "a", {(0, "ffn_gate"): GATE})
    manifest = tmp_path / "a" / "trace.json"
    document = json.loads(manifest.read_text())
    document["tensors"][0]["shape"] = [3, 9]
    manifest.write_text(json.dumps(document))
    with pytest.raises(TraceError, match=r"24 elements, but the manifest says 3 x 9"):
        diff(tmp_path / "a", tmp_path / "a")


def test_open_traces_and_paths_give_the_same_report(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", {(0, "ffn_gate"): GATE})
    write_trace(tmp_path / "b", {(0, "ffn_gate"): noisy(GATE)})
    by_path = diff(str(tmp_path / "a"), tmp_path / "b")
    opened = diff(Trace.open(tmp_path / "a"), Trace.open(tmp_path / "b"))
    assert by_path.to_json() == opened.to_json()
    assert classes(by_path) == {"layer 0 ffn_gate": Class.NOISE}
