"""A verdict in parts: where, whose, why, next, notes; and traces of another model, of which nothing else is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import ComparisonError
from aprgraph.option_words import option_words
from aprgraph.runtime.explain import MOST_NODES
from aprgraph.runtime.summary import Summary, is_command
from aprgraph.runtime.trace.reader import Trace
from tests.support.blame import TOKENS, bare, spoil, traced, with_nan

LAYERS = 3
Tiny = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tiny_model: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, right runs of it, and one with another base of RoPE."""
    place = tmp_path_factory.mktemp("summary")
    shutil.copy(tiny_model(layers=LAYERS), place / "model.gguf")
    traced(place / "ours", place / "model.gguf", layers="0..3")
    shutil.copytree(place / "ours", place / "again")
    loaded = aprgraph.load(place / "model.gguf", {"llama.rope.freq_base": 500000.0})
    compiled = loaded.compile("reference", place / "other.aprg")
    compiled.run("all", "0..3", tokens=TOKENS, directory=place / "theirs")
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return folder / "model.gguf"


def parts(summary: Summary) -> dict[str, tuple[str, ...]]:
    return dict(summary.parts)


def spoilt(folder: Path, tmp_path: Path, stage: str, layer: int, fault: Callable[[np.ndarray], np.ndarray]) -> Trace:  # type: ignore[type-arg]
    shutil.copytree(folder / "ours", tmp_path / "spoilt")
    trace = Trace.open(tmp_path / "spoilt")
    spoil(trace, stage, layer, fault)
    return trace


@pytest.mark.contract("BLAME-PARTS-1")
def test_one_mistake_in_every_layer(folder: Path, model: Path) -> None:
    """Stages and layers of which the same is to be said are one line, and nothing else is accused."""
    report = aprgraph.diff(folder / "ours", folder / "theirs", model=model)
    found = report.summary
    assert found.outcome == "theirs (B) is wrong; ours (A) is right."
    assert list(parts(found)) == ["WHERE", "WHOSE", "WHY", "NEXT", "NOTES"]
    where, differ = found.where
    assert where.startswith("q_post_rope and k_post_rope of the layers 0 to 2, at positions 1 to 6: local error up to ")
    assert differ == "48 of 51 compared tensors differ, from layer 0 q_post_rope on"
    assert found.whose[0].startswith("theirs (B); ours (A) is right there (")
    assert found.whose[1] == "6 of 51 tensors are wrong, 42 more differ and follow from what is wrong"
    because, graphs = found.why
    assert because.startswith("RoPE's base is 500000 in place of 10000: fits to ")
    assert because.endswith(" at q_post_rope and k_post_rope of the layers 0 to 2, which is all that is wrong")
    assert graphs == "the graphs differ at %rope_angles: base = 10000.0 in A, 500000.0 in B"
    audited = aprgraph.audit(folder / "theirs", model).summary
    assert audited.outcome == "theirs: wrong at 6 of 51 tensors."
    assert (audited.why, audited.whose) == ((because,), ("theirs, and not the model file",))


@pytest.mark.contract("BLAME-PARTS-1")
def test_lines_are_no_longer_than_they_may_be(folder: Path, model: Path, tmp_path: Path) -> None:
    """Each label stands once; what goes on is indented further than what begins; commands are in one piece."""
    found = aprgraph.diff(folder / "ours", spoilt(folder, tmp_path, "ffn_out", 1, with_nan), model=model).summary
    lines = found.text(80, option_words).splitlines()
    commands = [line.text(option_words) for line in found.next if is_command(line)]  # type: ignore[attr-defined]
    assert len(commands) == 1
    assert all(len(line) <= 80 for line in lines if line.strip() not in commands)
    assert [line[:7].strip() for line in lines[1:] if line[0] != " "] == ["WHERE", "WHOSE", "WHY", "NEXT", "NOTES"]
    texts = [text for _, part in found.parts for text in part]
    begun = [line for line in lines[1:] if line[7] != " "]
    assert len(begun) == len(texts)
    assert str(found).splitlines()[0] == found.outcome
    assert "".join("".join(lines[1:]).split()).startswith("WHERElayer1ffn_out:itholds1NaN")
    assert found.lines() == [f"{name if index == 0 else '':<7}{line}" for name, part in found.parts for index, line in enumerate(part)]


@pytest.mark.contract("BLAME-PARTS-1")
def test_nothing_fits(folder: Path, model: Path, tmp_path: Path) -> None:
    """What was tried, and where it lies."""
    noise = np.random.default_rng(0)
    trace = spoilt(folder, tmp_path, "attn_out", 1, lambda values: values + np.float32(0.05) * noise.standard_normal(values.shape))
    first, lies = aprgraph.audit(trace, model).summary.why
    assert first.startswith("no explanation fits layer 1 attn_out and post_attn_residual: none of the ")
    assert first.endswith(" kinds of mistakes that are known of linear and add (docs/explanations.md)")
    assert (
        lies
        == "the cause, of layer 1 attn_out, lies in layer1.attn_out, which reads blk.1.attn_output.weight; computed from layer 1 attention"
    )


@pytest.mark.contract("BLAME-PARTS-1")
def test_nothing_fits_in_a_long_way(model: Path, tmp_path: Path) -> None:
    """Of two layers before a recorded tensor not all is looked at, and no more is said to have been tried."""
    noise = np.random.default_rng(0)
    trace = traced(tmp_path / "few", model, taps="post_ffn_residual", layers=f"1..{LAYERS}")
    spoil(trace, "post_ffn_residual", 1, lambda values: values + np.float32(0.05) * noise.standard_normal(values.shape))
    found = aprgraph.audit(trace, model)
    tried, so_far, *_ = found.summary.why
    assert " kinds of mistakes that are known of " in tried
    assert "embed" not in tried
    longest = max(len(local.region) for local in found.wrong)
    assert longest > MOST_NODES
    assert (
        so_far
        == f"of up to {longest} nodes between recorded tensors the last {MOST_NODES} were looked at: record more stages to look at all"
    )


@pytest.mark.contract("BLAME-PARTS-1")
def test_without_a_model(folder: Path) -> None:
    alike, parted = aprgraph.diff(folder / "ours", folder / "again").summary, aprgraph.diff(folder / "ours", folder / "theirs").summary
    assert alike.outcome == "Alike: all 51 compared tensors agree bit for bit."
    assert list(parts(alike)) == ["NOTES"]
    assert parted.outcome == "Diverged: 48 of 51 compared tensors differ."
    assert parted.where[0].startswith("layer 0 q_post_rope: NMSE ")
    assert parted.where[-1] == "46 more differ beside and behind them"
    assert parted.whose == ("the two alone do not tell; a replay of the model does",)
    assert parted.next[-1] == "aprgraph.diff(…, model='model.gguf')"


def test_right(folder: Path, model: Path) -> None:
    assert aprgraph.audit(folder / "ours", model).summary == Summary(
        "ours: right, the model explains all 51 tensors that could be replayed."
    )


@pytest.mark.contract("BLAME-OTHER-1")
def test_a_trace_of_another_model(folder: Path, model: Path, tiny_model: Tiny, tmp_path: Path) -> None:
    other = tiny_model(layers=LAYERS, seed=7)
    trace = traced(tmp_path / "stranger", other, layers="0..3")
    found = aprgraph.audit(trace, model)
    why = "the 17 tensors that a weight matrix of model.gguf makes have nothing to do with what it gives"
    assert found.sentence == f"stranger: a trace of another model: its manifest names {other.name}, not model.gguf; {why}."
    assert found.summary.whose == (f"neither: its manifest names {other.name}, not model.gguf",)
    assert found.summary.next[-1] == f"aprgraph.audit({found.trace!r}, {other.name!r})"
    assert (found.exit_code, found.suspect) == (1, None)
    report = aprgraph.diff(folder / "ours", trace, model=model)
    assert report.summary.outcome == "stranger (B) is a trace of another model than model.gguf."
    both = aprgraph.diff(folder / "ours", folder / "again", model=other)
    assert both.summary.outcome == f"ours (A) and again (B) are traces of another model than {other.name}."
    assert both.summary.where == ("Alike: all 51 compared tensors agree bit for bit.",)
    without = aprgraph.audit(bare(trace), model, tokens=TOKENS)
    assert without.sentence.startswith("stranger: looks like a trace of another model than model.gguf: the 17 tensors that ")
    assert without.summary.whose == ("not known",)


@pytest.mark.contract("BLAME-OTHER-1")
def test_another_family_and_another_size(folder: Path, tiny_model: Tiny) -> None:
    qwen = tiny_model(family="qwen2", layers=LAYERS)
    found = aprgraph.audit(folder / "ours", qwen)
    assert found.sentence.startswith(f"ours: a trace of another model: its manifest names model.gguf (llama), not {qwen.name} (qwen2); ")
    wide = tiny_model(hidden=128)
    said = (
        rf"ours is a trace of another model than {wide.name}: its manifest names model.gguf, and its hidden states \(layer 0 embedding\) "
    )
    with pytest.raises(ComparisonError, match=rf"{said}have 64 columns where {wide.name} has 128; give the model that it is a run of"):
        aprgraph.audit(folder / "ours", wide)
    with pytest.raises(ComparisonError, match=said):
        aprgraph.diff(folder / "ours", folder / "again", model=wide)
    arrays = {name: np.array(Trace.open(folder / "ours")[name]) for name in ("layer0.embedding", "layer0.attn_norm", "layer0.attn_out")}
    with pytest.raises(ComparisonError, match=rf"is a trace of another model than {wide.name}: its hidden states "):
        aprgraph.audit(arrays, wide, tokens=TOKENS)


@pytest.mark.contract("BLAME-OTHER-1")
def test_what_is_no_other_model(folder: Path, model: Path, tiny_model: Tiny, tmp_path: Path) -> None:
    """An engine with mistakes, one that computes nothing right of the very file, and a run on other tokens."""
    shutil.copytree(folder / "ours", tmp_path / "garbage")
    garbage, noise = Trace.open(tmp_path / "garbage"), np.random.default_rng(0)
    for entry in list(garbage):
        spoil(garbage, entry.stage, entry.layer, lambda values: noise.standard_normal(values.shape).astype(np.float32))
    assert aprgraph.audit(garbage, model).other_model is None
    other_base = tiny_model(layers=LAYERS, rope_base=700.0)
    mistaken = aprgraph.audit(folder / "ours", other_base)
    assert (mistaken.other_model, mistaken.exit_code) == (None, 1)
    tokens = aprgraph.audit(bare(traced(tmp_path / "tokens", model, layers="0..3")), model, tokens=TOKENS[::-1])
    assert {local.label for local in tokens.wrong} == {"layer 0 embedding"}
    assert tokens.other_model is None


def test_nothing_that_could_be_replayed(folder: Path, model: Path) -> None:
    """Why not is said once."""
    arrays = {"layer1.ffn_up": np.array(Trace.open(folder / "ours")["layer1.ffn_up"])}
    found = aprgraph.audit(arrays, model).summary
    assert found.outcome == "arrays: nothing could be replayed."
    assert found.why == ("layer 1 ffn_up: what it is computed from was not recorded, and the tokens are not known; give them with tokens=",)
    assert [line for line in found.notes if "replayed" in line] == []
