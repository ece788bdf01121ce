"""A verdict is a plain one only where all was read and compared, and the run could have shown a fault."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.comparison import diff as compare
from aprgraph.runtime.diff import diff
from tests.support.cli import run_cli
from tests.support.traces import noisy, trace_model, values, write_bare, write_trace

GATE, UP = values(3, 8), values(3, 8, seed=1)


def misnamed(directory: Path, count: int, *, right: int) -> Path:
    """A dump of ``right`` layers in the right place and ``count`` in folders of another name."""
    write_bare(directory, {(layer, "ffn_gate"): GATE for layer in range(right)})
    write_bare(directory / "other", {(right + layer, "ffn_gate"): GATE for layer in range(count)})
    for folder in (directory / "other").iterdir():
        folder.rename(directory / folder.name.replace("-", "_"))
    (directory / "other").rmdir()
    return directory


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return write_trace(tmp_path / "ours", {(layer, "ffn_gate"): GATE for layer in range(6)}).directory


@pytest.mark.contract("DIFF-PLAIN-1")
def test_files_that_were_not_read_stand_in_the_verdict(tmp_path: Path, ours: Path) -> None:
    report = diff(ours, misnamed(tmp_path / "theirs", 2, right=4))
    assert report.exit_code == 0
    assert report.verdict == (
        "Alike as far as was read: all 4 compared tensors agree bit for bit; 2 more not measured. "
        "2 files of theirs (B) were not read, the first layer_4/ffn_gate.bin: no place of a stage; did you mean layer-4/ffn_gate.bin?"
    )


@pytest.mark.contract("DIFF-PLAIN-1", "DIFF-EXIT-1")
@pytest.mark.parametrize("swap", [False, True])
def test_where_more_was_not_read_than_compared_that_is_no_result(tmp_path: Path, ours: Path, swap: bool) -> None:
    theirs = misnamed(tmp_path / "theirs", 4, right=2)
    report = diff(*((theirs, ours) if swap else (ours, theirs)))
    assert report.exit_code == 3
    assert report.verdict.startswith("Alike as far as was read, which is too little to go by: 2 of 6 tensors agree bit for bit")
    assert f"4 files of theirs ({'A' if swap else 'B'}) were not read" in report.verdict
    write_bare(theirs, {(0, "ffn_gate"): UP})
    assert diff(ours, theirs).exit_code == 1, "what differs, differs"


def test_the_command_line_says_so_first(tmp_path: Path, ours: Path) -> None:
    result = run_cli("diff", ours, misnamed(tmp_path / "theirs", 4, right=2))
    assert result.code == 3
    lines = result.out.splitlines()
    assert lines[0].startswith("Alike as far as was read, which is too little to go by: ")
    assert lines[1].startswith("NOTES  ")
    assert "did you mean layer-2/ffn_gate.bin?" in lines[1]


def test_a_tensor_that_was_read_is_not_missing_in_another_form(tmp_path: Path, ours: Path) -> None:
    theirs = write_bare(tmp_path / "theirs", {(layer, "ffn_gate"): GATE for layer in range(6)})
    for layer in range(6):
        np.save(theirs / f"layer-{layer}" / "ffn_gate.npy", GATE)
    report = diff(ours, theirs)
    assert report.verdict == "Alike: all 6 compared tensors agree bit for bit."
    assert report.exit_code == 0


def test_files_beside_a_manifest_are_a_note(tmp_path: Path, ours: Path) -> None:
    theirs = write_trace(tmp_path / "theirs", {(layer, "ffn_gate"): GATE for layer in range(6)}).directory
    write_bare(theirs, {(7, "ffn_up"): UP})
    report = diff(ours, theirs)
    assert report.verdict.startswith("Alike: ")
    assert any(note.startswith("1 file beside the manifest of B not read, the first layer-7/ffn_up.bin") for note in report.notes)


@pytest.mark.contract("DIFF-PLAIN-1")
def test_a_small_part_of_what_was_recorded_is_named_as_one(tmp_path: Path, ours: Path) -> None:
    theirs = write_trace(tmp_path / "theirs", {(layer, "ffn_gate"): GATE for layer in range(2)})
    assert diff(ours, theirs).verdict == "Alike as far as was compared: 2 of 6 tensors agree bit for bit; 4 more not measured."


@pytest.mark.contract("DIFF-PLAIN-1")
@pytest.mark.parametrize("swap", [False, True])
def test_the_last_position_alone_is_a_part_of_what_was_recorded(tmp_path: Path, swap: bool) -> None:
    whole = {(layer, "ffn_gate"): values(4, 8, seed=layer) for layer in range(6)} | {(None, "lm_head"): values(9)}
    last = {key: x[-1:] if x.ndim > 1 else x for key, x in whole.items()}
    half = {key: x if key[0] in (0, 1, 2) else last[key] for key, x in whole.items()}
    sides = {name: write_trace(tmp_path / name, one, tokens=(1, 2, 3, 4)) for name, one in (("w", whole), ("last", last), ("half", half))}
    name = "Last (A)" if swap else "Last (B)"
    report = diff(*((sides["last"], sides["w"]) if swap else (sides["w"], sides["last"])))
    assert report.exit_code == 0
    assert report.verdict == (
        f"Alike as far as was compared: all 7 compared tensors agree bit for bit. {name} holds one position alone of most "
        "tensors, so that 6 of 24 rows were compared: a fault at other positions may not show."
    )
    assert diff(sides["w"], sides["half"]).verdict.startswith("Alike: "), "more than half were compared"


@pytest.mark.contract("DIFF-PLAIN-2")
def test_one_token_cannot_show_what_position_0_does_not(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    path = tiny_model()
    trace_model(tmp_path / "a", path, tokens=(3,))
    trace_model(tmp_path / "b", path, tokens=(3,), overrides={"llama.rope.freq_base": 500.0})
    report = diff(tmp_path / "a", tmp_path / "b")
    assert report.verdict.startswith(
        "Alike as far as one token can show: all 35 compared tensors agree bit for bit. A prompt of one token cannot"
    )
    assert report.verdict.endswith(" The graphs differ at %rope_angles: base = 10000.0 in A, 500.0 in B.")
    (tmp_path / "b" / "trace.json").unlink()
    assert "one token can show" in diff(tmp_path / "b", tmp_path / "a").verdict
    # Without any manifest the softmax tells how many positions there are.
    (tmp_path / "a" / "trace.json").unlink()
    assert "one token can show" in diff(tmp_path / "b", tmp_path / "a").verdict
    assert "one token can show" in compare(tmp_path / "a", tmp_path / "b", model=path, tokens=[3]).headline


@pytest.mark.contract("DIFF-PLAIN-2")
def test_decoded_tokens_show_it(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    compiled = aprgraph.load(tiny_model()).compile("reference", tmp_path / "m.aprg")
    for name in "ab":
        compiled.run("all", "0..2", tokens=(3,), directory=tmp_path / name, max_tokens=2, steps="0..2")
    assert diff(tmp_path / "a", tmp_path / "b").verdict.startswith("Alike: ")


def test_what_differs_is_not_said_of_one_token(tmp_path: Path) -> None:
    a = write_trace(tmp_path / "a", {(0, "ffn_gate"): values(1, 8)}, tokens=(3,))
    b = write_trace(tmp_path / "b", {(0, "ffn_gate"): values(1, 8, seed=1)}, tokens=(3,))
    assert "one token" not in diff(a, b).verdict


@pytest.mark.contract("DIFF-PLAIN-3")
@pytest.mark.parametrize(
    ("family", "key", "value", "where"),
    [
        ("gemma3", "attention.layer_norm_rms_epsilon", 1e-2, "%layer0.attn_norm and 12 more nodes: eps = "),
        ("llama", "rope.freq_base", 500.0, "%rope_angles: base = 10000.0 in A, 500.0 in B"),
    ],
)
def test_what_the_graphs_compute_otherwise_stands_in_the_headline(
    tmp_path: Path, tiny_model: Callable[..., Path], family: str, key: str, value: float, where: str
) -> None:
    path = tiny_model(family=family)
    a = trace_model(tmp_path / "a", path)
    b = trace_model(tmp_path / "b", path, overrides={f"{family}.{key}": value})
    assert f" The graphs differ at {where}" in diff(a, b).verdict
    assert f" The graphs differ at {where}" in compare(a, b, model=path).headline


@pytest.mark.contract("DIFF-PLAIN-3")
def test_other_formats_of_weights_are_one_note(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    a = trace_model(tmp_path / "a", tiny_model(family="qwen3"))
    b = trace_model(tmp_path / "b", tiny_model(family="qwen3", format="Q8_0"))
    report = diff(a, b)
    assert "graphs differ" not in report.verdict
    assert "weights lie in other formats: F32 in A, Q8_0 in B (16 weights)" in report.notes


def test_a_window_that_the_run_never_fills_is_a_note(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    path = tiny_model(family="gemma3", layers=6)
    short = trace_model(tmp_path / "short", path, layers=6)
    found = [note for note in diff(short, short).notes if "window" in note]
    assert found == [
        "the sliding window of 5 positions (layers 0..4) was not exercised: the run has 5, and up to that many a wrong window shows nowhere"
    ]
    longer = trace_model(tmp_path / "longer", path, layers=6, tokens=(3, 1, 4, 1, 5, 9))
    assert not any("window" in note for note in diff(longer, longer).notes)


def test_long_factors_that_the_run_never_reaches_are_a_note(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    path = tiny_model(family="phi3", rope_long_and_short=True, original_context=16)
    compiled = aprgraph.load(path).compile("reference", tmp_path / "m.aprg")
    for count, expected in ((8, True), (20, False)):
        trace = compiled.run("all", "0..2", tokens=range(1, count + 1), directory=tmp_path / f"{count}")
        assert any("LongRoPE's long factors" in note for note in diff(trace, trace).notes) == expected


@pytest.mark.contract("DIFF-PLAIN-4")
def test_noise_as_large_as_the_values_says_little(tmp_path: Path) -> None:
    x = values(8, 64)
    a = write_trace(tmp_path / "a", {(0, "ffn_norm"): noisy(x, 0.8)})
    b = write_trace(tmp_path / "b", {(0, "ffn_norm"): noisy(x, 0.8, seed=2)})
    report = diff(a, b, tolerances=["ffn_norm=nmse:1.5"])
    assert report.exit_code == 0
    assert report.verdict.startswith("Alike as far as so much noise lets show: layer 0 ffn_norm agrees")
