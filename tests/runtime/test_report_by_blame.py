"""With the model all of a report goes by blame: headline, terminal, page, JSON and graph count the same, and point at the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprgraph.comparison import diff
from aprgraph.runtime.blame.wrong_rows import audit_rows, wrong_rows
from aprgraph.runtime.comparison import Comparison
from aprgraph.runtime.comparison.pointed import matter, one_a_stage, suspects
from aprgraph.runtime.diff.caveats import Aside, Caveat
from aprgraph.runtime.diff.prompt import Prompt, prompt_of
from aprgraph.runtime.report import render_page
from aprgraph.runtime.trace.manifest import TraceInfo
from aprgraph.runtime.trace.reader import Trace
from tests.runtime.test_report import Element, read_page
from tests.support.blame import TOKENS, bare
from tests.support.cli import fails, run_cli
from tests.support.traces import trace_model, values, write_trace

Tiny = Callable[..., Path]
LAYERS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Tiny) -> Path:
    """Two traces of one model, with another RoPE base in ``theirs``: q and k of every layer are wrong there."""
    place = tmp_path_factory.mktemp("by-blame")
    path = tiny_model(layers=LAYERS)
    (place / "model.gguf").symlink_to(path)
    trace_model(place / "ours", path, layers=LAYERS, tokens=TOKENS)
    trace_model(place / "theirs", path, layers=LAYERS, tokens=TOKENS, overrides={"llama.rope.freq_base": 500000.0})
    return place


@pytest.fixture(scope="module")
def report(folder: Path) -> Comparison:
    return diff(folder / "ours", folder / "theirs", model=folder / "model.gguf")


@pytest.fixture(scope="module")
def page(folder: Path, report: Comparison) -> Element:
    return read_page(render_page(report, Trace.open(folder / "ours"), Trace.open(folder / "theirs")))


@pytest.mark.contract("BLAME-REPORT-1")
def test_headline_terminal_page_json_and_graph_count_the_same(
    folder: Path, report: Comparison, page: Element, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    wrong = 2 * LAYERS
    expected = {"B WRONG": wrong, "FOLLOWS": len(report.rows) - wrong - 3, "RIGHT": 3}
    assert report.tally == expected
    assert f"; {wrong} of {len(report.rows)} tensors are wrong, {expected['FOLLOWS']} more differ and follow" in report.headline
    counts = ", ".join(f"{count} {word}" for word, count in expected.items())
    terminal = run_cli("diff", "ours", "theirs", "--model", "model.gguf").out
    assert f"tensors: {counts}" in terminal.splitlines()
    facts = {one.every("dt")[0].text: one.every("dd")[0].text for one in page.every("div") if len(one.children) == 2 and one.every("dt")}
    assert facts["tensors"] == counts
    assert sum(1 for cell in page.every("td") if "data-row" in cell.attributes and "guilty" in cell.attributes["class"]) == wrong
    assert report.to_json()["blame"]["counts"] == expected
    document = json.loads(run_cli("graph", "--diff", "ours", "theirs", "--model", "model.gguf", "--format", "json").out)
    assert {entry["class"]: entry["count"] for entry in document["legend"]} == expected
    # The picture in the page shows a part, and counts the whole.
    legend = next(one for one in page.by_id("graph").every("g") if one.attributes.get("id") == "legend")
    assert {tuple(re.findall(r"^([A-Z ]+) (\d+):", text.text)[0]) for text in legend.every("text")} == {
        (word, str(count)) for word, count in expected.items()
    }


@pytest.mark.contract("BLAME-REPORT-1")
def test_what_can_explain_everything_is_marked_in_every_picture(folder: Path, page: Element, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name, mark in (
        ("svg", ">suspect</text>"),
        ("dot", "suspect: can explain all that is wrong"),
        ("mermaid", "suspect: can explain all that is wrong"),
        ("graphml", ">suspect<"),
        ("text", "// suspect: can explain all that is wrong\n  %rope_angles = "),
    ):
        text = run_cli("graph", "--diff", "ours", "theirs", "-m", "model.gguf", "--format", name).out
        assert mark in text or (name == "graphml" and 'attr.name="suspect"' in text), name
    document = json.loads(run_cli("graph", "--diff", "ours", "theirs", "-m", "model.gguf", "--format", "json").out)
    assert [node["label"] for node in document["nodes"] if node["suspect"]] == ["rope_angles"]
    (badge,) = [one for one in page.by_id("graph").every("text") if one.attributes.get("class") == "badge-text"]
    assert badge.text == "suspect"


def test_what_merely_follows_is_as_quiet_as_what_is_right(report: Comparison, page: Element) -> None:
    cells = {int(cell.attributes["data-row"]): cell for cell in page.every("td") if "data-row" in cell.attributes}
    for number, row in enumerate(report.rows):
        level = int(re.findall(r"level-(\d)", cells[number].attributes["class"])[0])
        assert (level >= 4) == (report.word(row) == "B WRONG"), row.label
    overview = next(one.attributes for one in page.every("svg") if "overview" in one.attributes["class"])
    assert f"All tensors in execution order, local errors: {len(report.rows)} tensors, {2 * LAYERS} of them wrong" in overview["aria-label"]
    heights = {int(number): float(y) for number, _, y in (point.split(",") for point in overview["data-points"].split())}
    wrong = [number for number, row in enumerate(report.rows) if report.word(row) == "B WRONG"]
    assert max(heights[number] for number in wrong) < min(y for number, y in heights.items() if number not in wrong)


def test_rows_that_say_the_same_are_one_row_a_stage(folder: Path, report: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert report.blame is not None
    rows = wrong_rows(report.blame)
    assert [(row.verdict, row.group.label) for row in rows] == [
        ("B WRONG", "q_post_rope, layers 0..2"),
        ("B WRONG", "k_post_rope, layers 0..2"),
    ]
    errors = [report.blame.b.by_key[0, layer, "q_post_rope"].error or 0.0 for layer in range(LAYERS)]
    assert rows[0].b == f"{min(errors):.1e}..{max(errors):.1e}"
    assert rows[0].worst == f"layer {errors.index(max(errors))}"
    assert len(wrong_rows(report.blame, each=True)) == 2 * LAYERS
    assert [row.group.label for row in audit_rows(report.blame.b, report.blame.b.wrong)] == [row.group.label for row in rows]
    assert [group.label for group, _ in one_a_stage(suspects(report))] == [row.group.label for row in rows]
    assert {row.key for row in matter(report)} > {(0, 0, "q_post_rope"), (0, 0, "k_post_rope")}
    short = run_cli("diff", "ours", "theirs", "-m", "model.gguf").out
    assert short.count("B WRONG  q_post_rope, layers 0..2") == 1
    lies = "q_post_rope, layers 0..2: the cause, of layer 0 q_post_rope, lies in layer0.q_post_rope, rope_angles"
    assert lies not in short  # what explains it says more
    assert lies in run_cli("diff", "ours", "theirs", "-m", "model.gguf", "--all").out
    every = run_cli("diff", "ours", "theirs", "-m", "model.gguf", "--all").out
    assert all(f"B WRONG  layer {layer} q_post_rope " in every for layer in range(LAYERS))
    audit = run_cli("audit", "theirs", "-m", "model.gguf").out
    assert audit.count("WRONG  q_post_rope, layers 0..2") == 1
    assert "q_post_rope, layers 0..2" not in run_cli("audit", "theirs", "-m", "model.gguf", "--all").out


def test_tensors_of_which_something_else_is_to_be_said_have_a_row_of_their_own(report: Comparison) -> None:
    assert report.blame is not None
    odd = report.blame.b.by_key[0, 1, "q_post_rope"]
    others = tuple(replace(one, reason="it holds 1 NaN, the replay none") if one is odd else one for one in report.blame.b.locals)
    rows = wrong_rows(replace(report.blame, b=replace(report.blame.b, locals=others)))
    assert [row.group.label for row in rows] == ["q_post_rope, layers 0 and 2", "k_post_rope, layers 0..2", "layer 1 q_post_rope"]
    assert all(row.why.endswith(" if RoPE's base is 500000 in place of 10000") for row in rows[:2])
    assert rows[2].why.startswith("B: it holds 1 NaN, the replay none")


def test_the_prompt_is_shown(folder: Path, report: Comparison, page: Element, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    ids = ", ".join(map(str, TOKENS))
    assert str(report.prompt).startswith(f'{len(TOKENS)} tokens: {ids} ("')
    assert str(report.prompt) in page.every("header")[0].text
    assert f"prompt: {report.prompt}" in run_cli("audit", "theirs", "-m", "model.gguf").out
    assert f"prompt: {len(TOKENS)} tokens: {ids}" in run_cli("diff", "ours", "theirs").out.splitlines()
    assert report.to_json()["tokens"] == list(TOKENS)
    info = TraceInfo({}, "x", tuple(range(40)), "all", "last", "", {"generated": [7, 8]})
    assert str(prompt_of([None, info])).endswith("9, 10, 11, …; then 2 generated: 7, 8")
    assert str(prompt_of([None])) == "tokens not known"
    assert str(Prompt((1,), text="a\n\x1b[2J")) == '1 token: 1 ("a⏎�[2J")'
    assert str(Prompt((1, 2), text="\x01��a")) == "2 tokens: 1, 2", "what nobody can read says nothing"
    long = str(Prompt((1,), text="system prompt " * 20 + "What is 2+2?"))
    assert long.endswith('What is 2+2?")')
    assert len(long) < 170


def test_tokens_that_were_given_are_shown(folder: Path, tmp_path: Path) -> None:
    x = values(2, 64)
    theirs = bare(write_trace(tmp_path / "theirs", {(0, "attn_norm"): x}))
    found = diff(theirs, theirs, model=folder / "model.gguf", tokens=(5, 6))
    assert found.prompt.tokens == (5, 6)


def test_what_makes_the_verdict_less_certain_is_said_first(report: Comparison) -> None:
    notes = ("plain", Aside("for the record"), Caveat("not read"), "plain", Caveat("not shown"))
    found = replace(report, notes=notes, blame=None)
    assert found.all_notes == ("not read", "not shown", "plain", "for the record")
    assert json.loads(json.dumps(found.to_json()))["notes"] == list(notes)


def test_sides_are_called_by_their_names_in_the_page(page: Element) -> None:
    text = page.text
    assert "theirs (B) is not a run of " in text
    assert "local error of ours (A)" in text
    assert "B WRONG: theirs (B) is wrong here, given its inputs" in text
    legend = next(one for one in page.by_id("graph").every("g") if one.attributes.get("id") == "legend")
    assert "theirs (B) is wrong here" in legend.text
    assert page.every("title")[0].text == "diverged: ours and theirs, aprgraph diff"


def test_graph_with_a_model_needs_two_traces(folder: Path) -> None:
    message = fails("graph", folder / "ours", "--model", folder / "model.gguf")
    assert "it judges two traces, and there is no --diff" in message
    assert "nowhere.gguf" in fails("graph", "--diff", folder / "ours", folder / "theirs", "--model", "nowhere.gguf")


def test_two_traces_without_a_graph_are_drawn_by_the_model(folder: Path, tmp_path: Path) -> None:
    sides = [bare(write_trace(tmp_path / name, {(0, "attn_norm"): np.ones((2, 64), np.float32)})) for name in ("a", "b")]
    document = json.loads(run_cli("graph", "--diff", *sides, "--model", folder / "model.gguf", "--format", "json").out)
    assert any(node["stage"] == "attn_norm" for node in document["nodes"])


def test_the_page_of_two_bare_traces_draws_the_graph_of_the_model(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model()
    sides = [
        bare(trace_model(tmp_path / name, path, taps="qkv_matmul,q_post_rope", tokens=TOKENS, overrides=overrides))
        for name, overrides in (("ours", {}), ("theirs", {"llama.rope.freq_base": 500000.0}))
    ]
    found = diff(*sides, model=path, tokens=TOKENS)
    (drawing,) = read_page(render_page(found, *map(Trace.open, sides))).by_id("graph").every("svg")
    drawn = {one.attributes["id"] for one in drawing.every("g") if one.attributes.get("class") == "node"}
    assert {"node-layer0.qkv_matmul", "node-layer0.q_post_rope", "node-rope_angles"} <= drawn


def test_odd_manifests_are_drawn_and_nothing_in_them_is_obeyed_by_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_trace(tmp_path / "a", {(0, "ffn_up"): values(3, 8), (1, "ffn_up"): values(3, 8)})
    write_trace(tmp_path / "b", {(0, "ffn_up"): values(3, 8), (1, "ffn_up"): values(3, 8)})
    path = tmp_path / "b" / "trace.json"
    document = json.loads(path.read_text())
    document["target"] = "\x1b[31mred"
    path.write_text(json.dumps(document))
    result = run_cli("diff", "a", "b", "--html", "page.html")
    assert result.code == 0
    assert "�[31mred" in result.out
    assert "\x1b" not in result.out
    assert "<!DOCTYPE html>" in (tmp_path / "page.html").read_text(encoding="utf-8")
