"""Embedding models as users meet them: what `run` prints and refuses, and two embeddings compared."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import TokenError
from tests.support.checkpoints import gguf_of
from tests.support.cli import run_cli
from tests.support.compiled import compiled

MODEL, LAST = gguf_of("gemma-embedding-f32"), gguf_of("qwen3-embedding-f32")
TOKENS = "17,3,88,41"


@pytest.mark.contract("EMBEDDING-NUMBERS-1")
def test_run_prints_the_embedding() -> None:
    model = compiled(MODEL, "reference")
    vector = model.embedding(tokens=[17, 3, 88, 41])
    assert vector.shape == (24,)
    assert np.linalg.norm(vector) == pytest.approx(1)
    found = run_cli("run", model.artifact.directory, "--tokens", TOKENS)
    first = ", ".join(f"{value:.6g}" for value in vector[:8])
    assert found.out.splitlines() == ["embedding of 4 positions (pooled_normed): 24 elements", f"length 1: {first}, …"]
    document = json.loads(run_cli("run", model.artifact.directory, "--tokens", TOKENS, "--json").out)
    assert (document["stage"], document["tokens"]) == ("pooled_normed", [17, 3, 88, 41])
    np.testing.assert_array_equal(np.float32(document["embedding"]), vector)


def test_without_pooling_there_is_one_of_each_position(tmp_path: Path) -> None:
    overrides = {"gemma-embedding.pooling_type": 0}
    model = aprgraph.load(MODEL, overrides).compile("reference", tmp_path / "m.aprg")
    assert model.embedding(tokens=[17, 3, 88]).shape == (3, 24)
    lines = run_cli("run", tmp_path / "m.aprg", "--tokens", "17,3,88").out.splitlines()
    assert lines[0] == "no pooling, an embedding of each position (final_norm): 24 elements"
    assert [line.partition(":")[0] for line in lines[1:]] == ["position 0", "position 1", "position 2"]
    logits = aprgraph.load(LAST, {"qwen3.pooling_type": 0}).compile("reference", tmp_path / "l.aprg")
    assert logits.logits([17, 3]).shape == (96,)
    with pytest.raises(TokenError, match="gives logits and no embedding"):
        logits.embedding(tokens=[17, 3])


@pytest.mark.contract("EMBEDDING-REFUSED-1")
@pytest.mark.parametrize(
    ("path", "given", "said"),
    [
        (MODEL, ("-n", "2"), "--max-tokens 2: .* is an embedding model and gives no logits, so no text goes on from it"),
        (MODEL, ("--positions", "all"), "positions all: .* gives no logits, of one position or of all; leave it out"),
        (MODEL, ("--prefill-chunk", "2"), "--prefill-chunk 2: .* makes one embedding of all positions, so the 4 positions run in one pass"),
        (LAST, ("-n", "2"), "--max-tokens 2: .* is an embedding model"),
        (MODEL, ("--taps", "lm_head"), "lm_head"),
    ],
)
def test_what_needs_logits_or_the_text_in_parts_is_refused(path: Path, given: tuple[str, ...], said: str) -> None:
    found = run_cli("run", compiled(path, "reference").artifact.directory, "--tokens", TOKENS, *given)
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
    assert re.search(said, found.err)
    if given[0] != "--taps":
        with pytest.raises(TokenError, match="is an embedding model and gives no logits; use embedding"):
            compiled(path, "reference").logits([1, 2])


@pytest.mark.contract("EMBEDDING-DIFF-1")
def test_two_embeddings_are_compared(tmp_path: Path) -> None:
    """A pooling that leaves out the first position, with its dense layers and length, is found with the model and without."""
    model = compiled(MODEL, "reference")
    ours = model.run("all", "0..3", tokens=(17, 3, 88, 41), directory=tmp_path / "ours")
    arrays = {f"layer{entry.layer}.{entry.stage}" if entry.layer is not None else entry.stage: ours.load(entry) for entry in ours.entries}
    rows, dense = ours.tensor("final_norm"), [model.model.file.tensors[f"dense_{number}.weight"] for number in (2, 3)]
    pooled = rows[1:].mean(axis=0)
    up, down = (model.model.file.tensor_bytes(one).view(np.float32).reshape(one.dims) for one in dense)
    arrays |= {"pooled": pooled, "pooled_up": up @ pooled, "pooled_down": down @ (up @ pooled)}
    arrays["pooled_normed"] = arrays["pooled_down"] / np.linalg.norm(arrays["pooled_down"])
    aprgraph.Trace.write(tmp_path / "theirs", arrays, tokens=(17, 3, 88, 41), model="theirs", target="theirs")
    values = aprgraph.diff(tmp_path / "ours", tmp_path / "theirs")
    assert [row.label for row in values.rows_compared if row.error and row.label.startswith("pooled")][:1] == ["pooled"]
    assert values.exit_code == 1
    found = run_cli("diff", tmp_path / "ours", tmp_path / "theirs", "--model", MODEL)
    assert found.out.startswith("theirs (B) is wrong; ours (A) is right.\nWHERE  pooled: local error ")
    vectors = [np.float64(one) for one in (ours.tensor("pooled_normed"), arrays["pooled_normed"])]
    cosine = vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])
    said = f"pooled_normed: the two embeddings have a cosine of {cosine:.6f} (1 - {1 - cosine:.1e})"
    assert said in found.out
    assert said in run_cli("diff", tmp_path / "ours", tmp_path / "theirs").out


@pytest.mark.contract("EMBEDDING-DIFF-1")
def test_embeddings_that_are_alike_or_zero_have_their_cosine_said_too(tmp_path: Path) -> None:
    row = np.float32([0.6, 0.8, 0.0])
    for name, values in (("a", row), ("b", row + np.float32(1e-7)), ("c", 0 * row), ("d", np.float32([0.8, 0.6, 0.0]))):
        aprgraph.Trace.write(tmp_path / name, {"pooled_normed": values}, tokens=(1, 2), model="m", target="t")

    def said(other: str) -> str:
        lines = run_cli("diff", tmp_path / "a", tmp_path / other).out.splitlines()
        return next(line for line in lines if line.startswith("pooled_normed: the two embeddings "))

    assert said("a").endswith(" are the same, bit for bit")
    assert re.search(r" a cosine of 1\.000000 \(1 - \d\.\de-1\d\)$", said("b"))
    assert said("c").endswith(" no cosine, as one is all zeros or not finite")
    assert said("d").endswith(" a cosine of 0.960000 (1 - 4.0e-02)")
    page = tmp_path / "page.html"
    run_cli("diff", tmp_path / "a", tmp_path / "d", "--html", page)
    assert "a cosine of 0.960000" in page.read_text(encoding="utf-8")
