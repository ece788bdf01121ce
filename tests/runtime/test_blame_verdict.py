"""Two traces against the model: who is wrong where, who only passed it on, and the sentence that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.comparison import diff
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes.fix_context import fix_context
from aprgraph.graph.text import print_graph
from aprgraph.runtime.blame import Verdict, audit
from aprgraph.runtime.comparison.with_blame import blame
from aprgraph.runtime.trace.manifest import TraceInfo
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.writer import TraceWriter
from tests.support.arithmetic import run_in, to_bfloat16
from tests.support.blame import TOKENS, bare, spoil, traced, with_nan
from tests.support.traces import noisy, trace_model, write_bare

Tiny = Callable[..., Path]

EPS = {"llama.attention.layer_norm_rms_epsilon": 0.3}


def run(directory: Path, model: Path, overrides: Mapping[str, object] | None = None, *, taps: str = "all", layers: str = "0..2") -> Trace:
    """A trace by the reference target, of the model with other hyperparameters, which its manifest says, but nobody looks at."""
    compiled = aprgraph.load(model, overrides).compile("reference", directory.parent / f"{directory.name}.aprg")  # type: ignore[arg-type]
    return compiled.run(taps, layers, tokens=TOKENS, directory=directory)


@pytest.mark.contract("BLAME-SIDE-1")
@pytest.mark.parametrize("guilty", ["A", "B"])
def test_the_side_that_is_wrong_is_named_and_what_follows_follows(guilty: str, tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model()
    right, wrong = run(tmp_path / "right", path), run(tmp_path / "wrong", path, EPS)
    sides = (wrong, right) if guilty == "A" else (right, wrong)
    found = blame(*sides, load_model(path))
    due = Verdict.A_WRONG if guilty == "A" else Verdict.B_WRONG
    norms = {(0, 0, "attn_norm"), (0, 1, "attn_norm"), (0, 0, "ffn_norm"), (0, 1, "ffn_norm"), (0, None, "final_norm")}
    assert {key for key, verdict in found.verdicts.items() if verdict is due} == norms
    assert found.verdicts[0, 0, "embedding"] is Verdict.RIGHT
    others = Counter(verdict for key, verdict in found.verdicts.items() if key not in norms)
    assert others == {Verdict.RIGHT: 1, Verdict.FOLLOWS: len(found.verdicts) - 6}
    assert found.sentence.startswith(f"wrong ({guilty}) is wrong at attn_norm of the layers 0 to 1 (local error ")
    other = "B" if guilty == "A" else "A"
    assert f"; right ({other}) " in found.sentence
    assert "ffn_norm of the layers 0 to 1" in found.sentence
    assert "final_norm" in found.sentence


@pytest.mark.contract("BLAME-SIDE-1")
def test_both_sides_wrong_at_different_places(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model()
    a, b = traced(tmp_path / "a", path), traced(tmp_path / "b", path)
    spoil(a, "ffn_out", 0, lambda values: noisy(values, 1e-3))
    spoil(b, "attn_out", 1, lambda values: noisy(values, 1e-3))
    found = blame(a, b, load_model(path))
    assert found.verdicts[0, 0, "ffn_out"] is Verdict.A_WRONG
    assert found.verdicts[0, 1, "attn_out"] is Verdict.B_WRONG
    assert found.sentence.startswith("Both are wrong: a (A) at layer 0 ffn_out")
    assert "; b (B) at layer 1 attn_out" in found.sentence


@pytest.mark.contract("BLAME-ALIKE-1")
def test_two_sides_that_agree_and_are_both_wrong(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model()
    a, b = run(tmp_path / "a", path, EPS), run(tmp_path / "b", path, EPS)
    report = diff(a, b, model=path)
    assert report.blame is not None
    assert report.blame.verdicts[0, 0, "attn_norm"] is Verdict.BOTH_WRONG
    assert report.headline.startswith("a (A) and b (B) agree, and both are wrong at attn_norm of the layers 0 to 1")
    assert (report.diverged, report.exit_code) == (0, 1)


def test_two_sides_that_are_right(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model()
    report = diff(traced(tmp_path / "a", path), trace_model(tmp_path / "b", path, tokens=TOKENS), model=path)
    assert report.blame is not None
    assert set(report.blame.verdicts.values()) == {Verdict.RIGHT}
    assert report.exit_code == 0
    count = len(report.rows)
    expected = f"The model explains the {count} tensors of a (A) and the {count} of b (B) that could be replayed."
    assert report.headline == f"{report.verdict} {expected}"


@pytest.mark.contract("BLAME-SUM-1")
def test_errors_that_add_up_without_anyone_being_wrong(tiny_model: Tiny, tmp_path: Path) -> None:
    """B rounds what it multiplies to bfloat16, as its manifest says: each stage is right by that, the end off by what they come to."""
    path = tiny_model(layers=3)
    model = load_model(path)
    a = traced(tmp_path / "a", path, layers="0..3")
    graph = fix_context(build_graph(model), len(TOKENS))
    writer = TraceWriter(tmp_path / "b")
    for node, value in run_in(graph, model, TOKENS, inputs=to_bfloat16):
        if node.stage is not None:
            writer.write(node.name, node.stage, node.layer, 0, value.astype(np.float32))
    info = TraceInfo({"name": path.name}, "other", TOKENS, "all", "last", print_graph(graph), {"arithmetic": "bfloat16"})
    b = writer.finish(info)
    report = diff(a, b, tolerances=["post_ffn_residual|final_norm|lm_head=nmse:1e-7"])
    assert report.diverged
    found = blame(a, b, model, report)
    assert (found.a.wrong, found.b.wrong, found.b.profile) == ((), (), "same-graph-bf16")
    assert {row.key for row in report.rows if found.verdicts[row.key] is Verdict.ADDS_UP} >= {first.key for first in report.first}
    assert Verdict.UNKNOWN not in found.verdicts.values()
    assert found.sentence.startswith("Neither side is wrong at any stage: each is within the tolerance of its own arithmetic")


@pytest.mark.contract("BLAME-ELIMINATION-1")
@pytest.mark.parametrize("guilty", ["A", "B"])
def test_a_side_that_cannot_be_replayed_is_judged_by_the_other(guilty: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """Of one side there is the last position of two tensors: what they are computed from agrees, and the other side is right."""
    path = tiny_model()
    whole = traced(tmp_path / "whole", path)
    last = {(1, stage): np.array(whole.tensor(stage, 1))[-1:] for stage in ("ffn_norm", "ffn_gate")}
    part = Trace.open(write_bare(tmp_path / "part", {**last, (1, "ffn_gate"): noisy(last[1, "ffn_gate"], 1e-2)}))
    found = blame(*((part, whole) if guilty == "A" else (whole, part)), load_model(path))
    assert (found.a.wrong, found.b.wrong) == ((), ())
    assert found.verdicts[0, 1, "ffn_gate"].value == f"{guilty} WRONG"
    assert found.sentence.startswith(f"part ({guilty}) is wrong at layer 1 ffn_gate: the other side is right there")
    alike = Trace.open(write_bare(tmp_path / "alike", last))
    assert set(blame(whole, alike, load_model(path)).verdicts.values()) <= {Verdict.RIGHT, Verdict.UNKNOWN}


def test_tokens_that_nobody_knows_accuse_nobody(tiny_model: Tiny, tmp_path: Path) -> None:
    """A right run of other tokens, which no manifest names: that A is right does not make B wrong."""
    path = tiny_model()
    a = traced(tmp_path / "a", path)
    compiled = aprgraph.load(path).compile("reference", tmp_path / "b.aprg")
    b = compiled.run("all", "0..2", tokens=(*TOKENS[:-1], 77), directory=tmp_path / "b")
    report = diff(a.directory, bare(b), model=path)
    assert report.blame is not None
    assert report.blame.verdicts[0, 0, "embedding"] is Verdict.UNKNOWN
    assert report.blame.wrong == ()
    assert "Which side is wrong cannot be said" in report.headline
    assert "the tokens are not known" in report.headline


def test_a_profile_that_was_asked_for_holds_whatever_the_manifest_says(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model()
    a = traced(tmp_path / "a", path)
    halves = {(entry.layer, entry.stage): np.array(a.load(entry)).astype(np.float16) for entry in a.entries}
    b = aprgraph.Trace.write(tmp_path / "b", halves, tokens=TOKENS, arithmetic="float16")
    found = blame(a, b, load_model(path))
    assert (found.a.wrong, found.b.wrong, found.b.profile) == ((), (), "same-graph-f16")
    strict = blame(a, b, load_model(path), profile="same-graph-f32")
    assert strict.b.wrong[0].key == (0, 0, "embedding")
    assert strict.sentence.startswith(f"b (B) is not a run of {path.name} at layer 0 embedding")
    named = "as asked for; its manifest names"
    assert f"{b.directory} is held to same-graph-f32, {named} float16, which would be same-graph-f16" in strict.notes
    loose = blame(a, b, load_model(path), profile="cross-engine-q8act")
    assert (loose.a.profile, loose.b.profile) == ("cross-engine-q8act", "cross-engine-q8act")
    assert loose.notes[:2] == (
        f"{a.directory} is held to cross-engine-q8act, {named} the target reference, which would be same-graph-f32",
        f"{b.directory} is held to cross-engine-q8act, {named} float16, which would be same-graph-f16",
    )


def test_a_profile_takes_the_place_of_an_arithmetic_that_is_not_known(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model()
    trace = traced(tmp_path / "a", path)
    manifest = tmp_path / "a" / "trace.json"
    manifest.write_text(manifest.read_text().replace('"tokens"', '"arithmetic": "fp8", "tokens"', 1))
    found = audit(Trace.open(trace.directory), load_model(path), profile="same-graph-f32")
    assert (found.wrong, found.notes[0].partition("; ")[2]) == ((), "its manifest names 'fp8', which is not known")


def test_a_nan_is_the_reason_that_is_named(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model()
    a, b = traced(tmp_path / "a", path), traced(tmp_path / "b", path)
    spoil(b, "attention", 1, with_nan)
    found = blame(a, b, load_model(path))
    assert found.sentence.startswith(
        "b (B) is wrong at layer 1 attention (it holds 1 NaN, the replay none, first at position 2, column 3; a (A) "
    )


def test_what_is_not_known_is_said(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model()
    a = traced(tmp_path / "a", path, taps="attn_out")
    b = write_bare(tmp_path / "b", {(1, "attn_out"): noisy(np.array(a.tensor("attn_out", 1)), 1e-3).ravel()})
    bare(a)
    report = diff(a.directory, b, model=path)
    assert report.blame is not None
    assert report.blame.verdicts[0, 1, "attn_out"] is Verdict.UNKNOWN
    assert "Which side is wrong cannot be said" in report.headline
    assert report.exit_code == 1
    with_tokens = diff(a.directory, b, model=path, tokens=TOKENS)
    assert with_tokens.headline.startswith(f"b (B) is not a run of {path.name} at layer 1 attn_out")


@pytest.mark.contract("BLAME-GRAPH-1")
def test_two_right_runs_of_different_graphs(tiny_model: Tiny, tmp_path: Path) -> None:
    """LongRoPE: tokens that are generated beyond the original context change the prompt's own angles."""
    model = tiny_model(family="phi3", rope_long_and_short=True, original_context=8)
    short, long = traced(tmp_path / "short", model), traced(tmp_path / "long", model, max_tokens=4)
    for sides in ((short, long), (long, short)):
        report = aprgraph.diff(*sides, model=model)
        found = report.blame
        assert found is not None
        assert (report.exit_code, found.a.wrong, found.b.wrong) == (1, (), ())
        assert report.headline.startswith("Neither side is wrong: each is right by its own graph, and the two ran different ones.")
        assert "the graphs differ at %rope_angles: it is computed from %rope_factors_" in report.headline
        parted = {key[2] for key, verdict in found.verdicts.items() if verdict is Verdict.OTHER_GRAPH}
        assert parted == {"q_post_rope", "k_post_rope"}
        assert Verdict.ADDS_UP not in found.verdicts.values()
    # A part of such a run is replayed as its manifest's graph says, whatever its own length.
    assert long.info is not None
    part = Trace(long.directory, long.entries, replace(long.info, extra={}))
    assert aprgraph.audit(part, model).exit_code == 0
