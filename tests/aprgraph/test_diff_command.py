"""`aprgraph diff` with the model at hand: the sentence, the table, what to tap next, the guilty stage, the page."""

from __future__ import annotations

import errno
import gc
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import TraceError
from tests.support.blame import spoil, traced
from tests.support.cli import fails, run_cli
from tests.support.traces import noisy, values, write_bare, write_trace

Tiny = Callable[..., Path]


@pytest.fixture
def model(tiny_model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, with two traces of it here: ours, and theirs, in which layer 1 attn_out is off."""
    monkeypatch.chdir(tmp_path)
    path = tiny_model()
    traced(tmp_path / "ours", path)
    spoil(traced(tmp_path / "theirs", path), "attn_out", 1, lambda values: noisy(values, 1e-2))
    return path


@pytest.mark.parametrize(("sides", "guilty"), [(("ours", "theirs"), "B"), (("theirs", "ours"), "A")])
def test_the_sentence_and_the_errors_of_both_sides(sides: tuple[str, str], guilty: str, model: Path) -> None:
    result = run_cli("diff", *sides, "--model", model)
    lines = result.out.splitlines()
    assert (result.code, result.err) == (1, "")
    other = "B" if guilty == "A" else "A"
    assert lines[0] == f"theirs ({guilty}) is wrong; ours ({other}) is right."
    assert lines[1] == "WHERE  layer 1 attn_out: local error 9.6e-05 (limit 1e-11)"
    assert f"WHOSE  theirs ({guilty}); ours ({other}) is right there (1e-15)" in lines
    header = next(index for index, line in enumerate(lines) if "local A" in line)
    errors = ["1e-15", "9.6e-05"] if guilty == "B" else ["9.6e-05", "1e-15"]
    assert lines[header + 2].split() == [guilty, "WRONG", "layer", "1", "attn_out", *errors, "1e-11"]
    assert any(line.split()[:6] == ["▶", guilty, "WRONG", "layer", "1", "attn_out"] for line in lines)


def test_what_to_do_next_is_the_command_that_was_given_with_one_option_more(model: Path) -> None:
    given = ("diff", "ours", "theirs", "--model", str(model))
    lines = run_cli(*given, "--profile", "same-graph-f32").out.splitlines()
    assert f"       aprgraph {' '.join(given)} --profile same-graph-f32 --repro guilty" in lines
    assert "NEXT   which side is wrong, and the mistake that explains it:" in run_cli("diff", "ours", "theirs").out.splitlines()
    assert "NEXT" not in run_cli(*given, "--repro", "guilty").out


def test_nothing_to_blame(model: Path, tmp_path: Path) -> None:
    traced(tmp_path / "again", model)
    result = run_cli("diff", "ours", "again", "--model", model, "--repro", "guilty")
    assert result.code == 0
    assert "The model explains the 35 tensors of ours (A) and the 35 of again (B)" in result.out
    assert result.err == "nothing to reproduce: no replay found anything wrong\n"
    assert not (tmp_path / "guilty").exists()
    assert run_cli("diff", "ours", "again", "--suggest").err == "nothing to tap: nothing differs\n"


def test_suggest_repro_html_and_json(model: Path, tmp_path: Path) -> None:
    assert run_cli("diff", "ours", "theirs", "--suggest").out == ""
    for name in ("ours", "theirs"):
        few = traced(tmp_path / f"few-{name}", model, taps="attn_norm,attn_out")
        if name == "theirs":
            spoil(few, "attn_out", 1, lambda values: noisy(values, 1e-2))
    result = run_cli("diff", "few-ours", "few-theirs", "--suggest")
    assert result.code == 1
    taps = "attn_norm,qkv_matmul,q_post_rope,k_post_rope,attn_scores,attn_softmax,attention,attn_out"
    assert result.out == f"--taps {taps} --layers 1..2\n"
    result = run_cli("diff", "ours", "theirs", "-m", model, "--repro", "guilty", "--html", "report.html", "--json")
    assert (result.code, result.err) == (1, "layer 1 attn_out of theirs (B) alone: python guilty/repro.py\n")
    document = json.loads(result.out)
    assert document["headline"] == document["blame"]["sentence"] != document["verdict"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "theirs (B) is wrong; ours (A) is right." in page
    assert (tmp_path / "guilty/repro.py").is_file()


def test_a_page_without_a_model(model: Path, tmp_path: Path) -> None:
    assert run_cli("diff", "ours", "theirs", "--html", "report.html").code == 1
    assert "<dt>WHERE</dt><dd><p>layer 1 attn_out: NMSE " in (tmp_path / "report.html").read_text(encoding="utf-8")
    # Two files of different stages are compared because they were named.
    assert run_cli("diff", "ours/layer-0/attn_out.bin", "theirs/layer-1/attn_out.bin", "--html", "files.html").code == 1
    assert (tmp_path / "files.html").is_file()


@pytest.mark.parametrize("guilty", ["A", "B"])
def test_a_side_that_is_wrong_by_elimination(guilty: str, model: Path, tmp_path: Path) -> None:
    """One side holds the last position alone, of two tensors: nothing is replayed, the other is right, and the first tensors agree."""
    whole = aprgraph.Trace.open("ours")
    last = {(1, stage): np.array(whole.tensor(stage, 1))[-1:] for stage in ("ffn_norm", "ffn_gate")}
    write_bare(tmp_path / "part", {**last, (1, "ffn_gate"): noisy(last[1, "ffn_gate"], 1e-2)})
    sides = ("part", "ours") if guilty == "A" else ("ours", "part")
    result = run_cli("diff", *sides, "--model", model, "--html", "report.html", "--repro", "guilty")
    assert (result.code, result.err) == (1, "nothing to reproduce: no replay found anything wrong\n")
    sentence = f"part ({guilty}) is wrong at layer 1 ffn_gate: the other side is right there, and what both are computed from agrees (it could not be replayed: "
    assert result.out.startswith(f"part ({guilty}) is wrong.\n")
    assert f"WHOSE  {sentence}" in result.out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"part ({guilty}) is wrong at layer 1 ffn_gate" in page
    assert "blk.1.ffn_gate.weight" in page


def test_a_page_replaces_pages_alone(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.gguf"
    copy.write_bytes(model.read_bytes())
    somebodys = tmp_path / "somebodys.html"
    somebodys.write_text("<!DOCTYPE html><title>mine</title>")
    for place in (somebodys, copy, tmp_path / "ours/trace.json", tmp_path / "theirs/layer-0/attn_out.bin"):
        before = place.read_bytes()
        assert f"{place}: is there, and is no page that aprgraph wrote; give another place with --html" in fails(
            "diff", "ours", "theirs", "--html", place
        )
        assert place.read_bytes() == before
    (tmp_path / "link.html").symlink_to("page.html")
    for _ in range(2):
        assert run_cli("diff", "ours", "theirs", "--html", "link.html").code == 1
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_missing_folders_are_made(model: Path) -> None:
    assert run_cli("diff", "ours", "theirs", "--html", "a/b/report.html").code == 1
    assert Path("a/b/report.html").is_file()


def test_a_verdict_is_printed_also_where_what_comes_with_it_cannot_be_written(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up while the analysis runs."""

    def full(*_: object, **__: object) -> None:
        raise TraceError.unwritable("x", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    monkeypatch.setattr("aprgraph.runtime.report.write_page", full)
    monkeypatch.setattr("aprgraph.runtime.blame.repro.write_repro", full)
    result = run_cli("diff", "ours", "theirs", "--model", model, "--html", "page.html", "--repro", "guilty")
    assert result.code == 2
    assert "theirs (B) is wrong; ours (A) is right." in result.out
    advice = "x: cannot be written: No space left on device; free some space, or give another place with"
    assert result.err == f"error: {advice} --repro; {advice} --html\n"
    assert json.loads(run_cli("diff", "ours", "theirs", "--html", "page.html", "--json").out)["exit_code"] == 1


def test_suggestions_as_json(model: Path) -> None:
    document = json.loads(run_cli("diff", "ours", "theirs", "--suggest", "--json").out)
    assert document == {"options": None, "why_none": "what differs is one stage"}
    document = json.loads(run_cli("audit", "theirs", "--model", model, "--suggest", "--json").out)
    assert document == {"options": None, "why_none": "what is wrong is one stage"}


def test_places_are_checked_before_anything_takes_time(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")
    for arguments in (
        ("diff", "ours", "theirs", "--model", model),
        ("audit", "nowhere", "--model", model),
        ("bisect", model, "--a", "x", "--b", "x"),
    ):
        assert "mine: is not an empty folder" in fails(*arguments, "--repro", "mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "1,2"], "--tokens is for the replay of a model; name it with --model"),
        (["--repro", "guilty"], "--repro is for the replay of a model; name it with --model"),
        (["--override-kv", "llama.x=int:1"], "--override-kv is for the replay of a model; name it with --model"),
        (["--model", "nowhere.gguf"], "nowhere.gguf"),
        (
            ["--html", "/proc/nowhere/report.html"],
            "/proc/nowhere: cannot be written: No such file or directory; give another place with --html",
        ),
        (["--html", "."], "."),
    ],
)
def test_errors(arguments: list[str], message: str, model: Path, tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    assert message in fails("diff", "ours", "theirs", *arguments)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_model_that_it_is_not_a_run_of(tiny_model: Tiny, model: Path) -> None:
    result = run_cli("diff", "ours", "theirs", "--model", tiny_model(seed=5))
    assert result.code == 1
    lines = result.out.splitlines()
    assert lines[0].startswith("ours (A) and theirs (B) are traces of another model than ")
    assert f"WHOSE  neither: its manifest names {model.name}, not " in result.out
    assert f"       aprgraph diff ours theirs --model {model.name}" in lines


def test_large_traces_are_not_searched_for_cycles_all_the_time(tmp_path: Path) -> None:
    """A sixth of the time of 50,000 tensors."""
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    try:
        for side in ("a", "b"):
            write_trace(tmp_path / side, {(0, "ffn_up"): values(3, 4)})
        assert run_cli("diff", tmp_path / "a", tmp_path / "b").code == 0
        assert gc.get_threshold()[0] == 50_000
    finally:
        gc.set_threshold(*before)
