"""NaN that comes from the weights: a trace of it may be right, and the file is broken all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import aprgraph
from aprgraph.bisection import bisect_compiled
from aprgraph.comparison import diff
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.runtime.blame import LocalState, audit
from aprgraph.runtime.check.nonfinite import weights_behind
from tests.support.blame import TOKENS, spoil, traced, with_nan
from tests.support.planted import Bytes, nan_scales, planted

Tiny = Callable[..., Path]
_HELD = "blk.1.ffn_down.weight holds 3 blocks with NaN scales (rows 0, 5, 63)"


@pytest.fixture
def broken(tiny_model: Tiny, tmp_path: Path) -> Path:
    """A model in Q8_0, three blocks of whose layer 1's ffn_down have NaN for a scale."""
    change = nan_scales((0, 1), (5, 0), (63, 2), block_bytes=34)
    return planted(tiny_model(format="Q8_0"), tmp_path / "broken.gguf", blk__1__ffn_down__weight=change)


@pytest.mark.contract("BLAME-BROKEN-1")
def test_a_right_trace_of_a_broken_model_is_not_plainly_right(broken: Path, tmp_path: Path) -> None:
    found = audit(traced(tmp_path / "t", broken), load_model(broken))
    assert found.wrong == ()
    assert found.exit_code == 1
    broken_words = f"the model file is broken: {_HELD}, so that layer 1 ffn_out is NaN or Inf, first at position 0, column 0"
    assert f"tensors that could be replayed, but {broken_words}" in found.sentence
    assert found.notes[0].startswith(f"{broken_words}; ")
    assert f"`aprgraph.check({str(broken)!r})`" in found.notes[0]
    assert found.to_json()["broken"] == broken_words


@pytest.mark.contract("BLAME-BROKEN-1")
def test_factors_of_rope_that_are_0_break_a_model(tiny_model: Tiny, tmp_path: Path) -> None:
    """Its trace is right, and NaN."""

    def zero(rows: Bytes) -> None:
        rows[...] = 0

    path = planted(tiny_model(rope_freqs=True), tmp_path / "broken.gguf", rope_freqs__weight=zero)
    found = audit(traced(tmp_path / "t", path), load_model(path))
    assert found.wrong == ()
    assert (
        "the model file is broken: rope_freqs.weight holds 0 in elements 0 to 7, by which RoPE's frequencies are divided" in found.sentence
    )


@pytest.mark.contract("BLAME-BROKEN-1")
def test_two_traces_of_a_broken_model(broken: Path, tmp_path: Path) -> None:
    a, b = (traced(tmp_path / name, broken) for name in "ab")
    report = diff(a.directory, b.directory, model=load_model(broken))
    assert report.blame is not None
    assert _HELD in report.blame.notes[0]
    assert f"But the model file is broken: {_HELD}" in report.blame.sentence
    assert report.exit_code == 1


@pytest.mark.contract("BLAME-BROKEN-1")
def test_a_broken_model_accuses_nobody_of_what_it_makes_nan(broken: Path, tiny_model: Tiny, tmp_path: Path) -> None:
    """One side ran the broken file, the other the sound one that it was made of."""
    bad, good = traced(tmp_path / "bad", broken), traced(tmp_path / "good", tiny_model(format="Q8_0"))
    found = audit(good, load_model(broken))
    assert found.wrong == ()
    (unknown,) = (local for local in found.locals if local.state is LocalState.UNKNOWN)
    assert (unknown.label, unknown.reason) == ("layer 1 ffn_out", f"the model file makes it NaN or Inf: {_HELD}")
    report = diff(good.directory, bad.directory, model=load_model(broken))
    assert report.blame is not None
    assert report.blame.wrong == ()
    assert " is wrong at" not in report.blame.sentence
    assert _HELD in report.blame.sentence


@pytest.mark.contract("BLAME-BROKEN-1")
def test_a_nan_of_the_trace_is_not_the_model_s(tiny_model: Tiny, tmp_path: Path) -> None:
    """It is planted in the input of a matrix that is sound."""
    model = tiny_model(format="Q8_0")
    trace = traced(tmp_path / "t", model)
    spoil(trace, "ffn_swigl", 1, with_nan)
    found = audit(trace, load_model(model))
    assert found.broken is None
    assert "broken" not in found.sentence


@pytest.mark.contract("BLAME-BROKEN-1")
def test_a_bisection_of_a_broken_model(broken: Path, tmp_path: Path) -> None:
    """Both sides are NaN alike."""
    side = aprgraph.load(broken).compile("reference", tmp_path / "m.aprg")
    found = bisect_compiled(side.model, side, side, TOKENS, tmp_path / "bisection")
    assert f"But the model file is broken: {_HELD}" in found.sentence
    assert found.report.exit_code == 1


def test_the_weights_behind_a_node(tiny_model: Tiny) -> None:
    graph = build_graph(load_model(tiny_model()))
    assert weights_behind(graph, "layer1.ffn_out", {"layer1.ffn_swigl"}) == ("blk.1.ffn_down.weight",)
    assert weights_behind(graph, "layer0.attn_norm") == ("token_embd.weight", "blk.0.attn_norm.weight")
    assert len(weights_behind(graph, "lm_head")) == sum(node.op == "weight" for node in graph)
