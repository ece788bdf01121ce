"""A right trace of another engine against a model file that is broken: the file is named as a suspect, and what gives it away."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.model import load_model
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.runtime.blame import audit
from aprgraph.runtime.trace.reader import Trace
from tests.support.blame import TOKENS, traced
from tests.zoo.faults.attention import SCORES_IN_TURN
from tests.zoo.faults.patches import with_attrs
from tests.zoo.planting import Patch, Plant
from tests.zoo.runs import run
from tests.zoo.subjects import subject

Tiny = Callable[..., Path]


def another_engines(directory: Path, model: Path) -> Trace:
    """What an engine that has the right checkpoint records: the same numbers, of no file that is known."""
    right = traced(directory.parent / f"{directory.name}-run", model)
    return Trace.write(
        directory, {(entry.layer, entry.stage): right.load(entry) for entry in right.entries}, tokens=TOKENS, arithmetic="float32"
    )


def broken(model: Path, path: Path, tensor: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:  # type: ignore[type-arg]
    """A copy of ``model`` with the bytes of one tensor changed; ``change`` gets rows of bytes, or the numbers of an F32 tensor."""
    shutil.copy(model, path)
    file = GGUFFile(path)
    info = file.tensors[tensor]
    raw = np.array(file.tensor_bytes(info))
    values = change(raw.view(np.float32) if info.format.name == "F32" else raw)
    with path.open("r+b") as target:
        target.seek(info.offset)
        target.write(values.tobytes())
    return path


@pytest.mark.contract("BLAME-FILE-1")
def test_a_norm_that_holds_one_more(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model(family="gemma3")
    theirs = another_engines(tmp_path / "theirs", model)
    file = broken(model, tmp_path / "broken.gguf", "blk.1.attn_norm.weight", lambda weight: weight + np.float32(1))
    ours = traced(tmp_path / "ours", file)
    report = aprgraph.diff(ours, theirs, model=file)
    assert report.exit_code == 1
    assert report.headline.startswith("theirs (B) is not a run of broken.gguf at layer 1 attn_norm (local error ")
    (note,) = [one for one in report.summary.notes if "original checkpoint" in one]
    # Another epsilon does not look like that, and is not named.
    assert note == "if theirs (B) has the original checkpoint, the fault is in broken.gguf: blk.1.attn_norm.weight"
    assert report.summary.whose[0].startswith("theirs (B), or broken.gguf: nothing says that it was computed from that very file")
    assert "checkpoint" not in report.headline  # what explains it names what is superfluous then
    assert re.search(
        r"At layer 1 attn_norm it fits to \de-1\d if the norm's weight is 1 less than the file's in every channel\.", report.headline
    )
    found = audit(theirs, load_model(file))
    assert found.sentence.startswith("theirs: not a run of broken.gguf at layer 1 attn_norm")
    assert found.suspect is not None
    assert found.suspect.weights == ("blk.1.attn_norm.weight",)


@pytest.mark.contract("BLAME-FILE-1")
def test_a_base_that_is_not_in_the_file(tiny_model: Tiny, tmp_path: Path) -> None:
    theirs = another_engines(tmp_path / "theirs", tiny_model(family="qwen2"))
    file = tiny_model(family="qwen2", rope_base=None)
    report = aprgraph.diff(traced(tmp_path / "ours", file), theirs, model=file)
    assert "is not a run of" in report.headline
    assert "The file does not say qwen2.rope.freq_base (absent: 10000 was taken)." in report.headline
    assert "the file does not say qwen2.rope.freq_base (absent: 10000 was taken)" in report.summary.why
    where = "At q_post_rope and k_post_rope of the layers 0 to 1"
    assert re.search(rf"{where} it fits to \de-1\d if RoPE's base is 1e\+06 in place of 10000\.", report.headline)


@pytest.mark.contract("BLAME-FILE-1")
def test_a_key_that_could_not_have_made_it_is_not_named(tmp_path: Path) -> None:
    """Query heads that read other KV heads are no other scale; scores of another scale may be one that the file does not say."""
    model = subject("llama")
    keys = "llama.attention.scale (absent: 0.25 was taken)"

    def written(name: str, patch: Patch) -> Trace:
        faulty = run(model, 1000, Plant({"layer1.attn_scores": patch}))
        arrays = {key[1:]: value for key, (_, value) in faulty.tensors.items()}
        return Trace.write(tmp_path / name, arrays, tokens=faulty.tokens, arithmetic="float32")

    scaled = audit(written("scaled", with_attrs(scale=0.5)), model.model)
    assert scaled.suspect is not None
    assert scaled.suspect.guessed == (keys,)
    in_turn = audit(written("in-turn", SCORES_IN_TURN), model.model)
    assert in_turn.suspect is None
    assert "attention.scale" not in f"{in_turn.sentence}{in_turn.summary}"
    assert in_turn.summary.whose == ("in-turn, and not the model file",)


def test_two_engines_that_agree_accuse_the_file(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    a, b = (another_engines(tmp_path / name, model) for name in ("a", "b"))
    file = broken(model, tmp_path / "broken.gguf", "blk.0.ffn_norm.weight", lambda weight: weight * 2)
    report = aprgraph.diff(a, b, model=file)
    assert report.headline.startswith("a (A) and b (B) agree, and both are wrong at layer 0 ffn_norm")
    assert "If they have the original checkpoint, the fault is in broken.gguf: blk.0.ffn_norm.weight" in report.headline


@pytest.mark.contract("BLAME-FILE-2")
def test_a_run_of_the_file_itself_is_wrong_by_itself(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    compiled = aprgraph.load(model, {"llama.attention.layer_norm_rms_epsilon": 0.5}).compile("reference", tmp_path / "m.aprg")
    theirs = compiled.run("all", "0..2", tokens=TOKENS, directory=tmp_path / "theirs")
    report = aprgraph.diff(traced(tmp_path / "ours", model), theirs, model=model)
    assert report.headline.startswith("theirs (B) is wrong at attn_norm of the layers 0 to 1")
    assert "checkpoint" not in report.headline
    assert " if epsilon is 0.5 in place of 1e-05." in report.headline


@pytest.mark.contract("BLAME-FILE-1")
def test_a_lost_column_of_blocks_is_seen_in_the_file(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model(format="Q8_0", hidden=256, ffn=256)
    theirs = another_engines(tmp_path / "theirs", model)

    def without_the_first_column_of_blocks(rows: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        rows[:, :34] = 0
        return rows

    file = broken(model, tmp_path / "broken.gguf", "blk.1.ffn_down.weight", without_the_first_column_of_blocks)
    found = audit(theirs, load_model(file))
    assert found.suspect is not None
    assert found.suspect.weights == ("blk.1.ffn_down.weight",)
    assert len(found.suspect.seen) == 1
    assert "In the file, blk.1.ffn_down.weight: parts of weights are 0 where their neighbours are not: " in found.sentence
    # A sound file is not accused of anything that was seen in it.
    other = audit(another_engines(tmp_path / "other", file), load_model(model))
    assert other.suspect is not None
    assert other.suspect.seen == ()


@pytest.mark.parametrize("block_format", ["F16", "BF16"])
def test_a_float32_checkpoint_against_its_own_file_in_half_precision(block_format: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """Not a run of the file, strictly; and what it costs to round weights is said to be that."""
    theirs = another_engines(tmp_path / "theirs", tiny_model())
    found = audit(theirs, load_model(tiny_model(format=block_format)))
    assert found.exit_code == 1
    assert f"these weights are {block_format}, and errors of up to " in found.sentence
    assert "are what rounding to that costs: the other side may have them in float32" in found.sentence
    other = audit(another_engines(tmp_path / "other", tiny_model(seed=1)), load_model(tiny_model(format=block_format)))
    assert "rounding to that costs" not in other.sentence
