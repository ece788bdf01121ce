"""`aprgraph run --apr`: what `apr trace` would save of the same model, on the same tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.stages import STAGE_BY_NAME
from tests.support.cli import fails, run_cli

#: "What is 2+2?" in the tiny models' tokenizer, which makes a token of a byte.
PROMPT = "What is 2+2?"


@pytest.mark.contract("CAPTURE-APR-1")
def test_the_stages_and_the_prompt_of_apr(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    model = tiny_model(family="qwen3moe", experts=4, layers=2, bos=True)
    arguments = ("run", model, "--apr", "--layers", "0..2", "--target", "reference", "-o", tmp_path / "out")
    assert run_cli(*arguments).code == 0
    manifest = json.loads((tmp_path / "out/trace.json").read_text())
    loaded = aprgraph.load(model)
    with_bos = loaded.encode(PROMPT)
    assert manifest["tokens"] == with_bos[1:] == loaded.encode(PROMPT, affixes=False)
    assert manifest["plan"] == "apr 0..2"
    stages = {tensor["stage"] for tensor in manifest["tensors"]}
    assert stages == {node.stage for node in loaded.graph.staged() if not STAGE_BY_NAME[str(node.stage)].addition}
    assert {"moe_router", "moe_router_indices", "moe_ffn_out"} <= stages


def test_python_gives_the_same(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    model = tiny_model(bos=True)
    assert run_cli("run", model, "--apr", "--target", "reference", "-o", tmp_path / "a").code == 0
    compiled = aprgraph.load(model).compile("reference", tmp_path / "m.aprg")
    trace = compiled.run("apr", tokens=compiled.encode(PROMPT, affixes=False), directory=tmp_path / "b")
    theirs = aprgraph.Trace.open(tmp_path / "a")
    assert [entry.key for entry in trace.entries] == [entry.key for entry in theirs.entries]
    assert all(np.array_equal(trace.load(entry), theirs.load(entry)) for entry in trace.entries)


def test_other_prompts_and_stages_can_be_given(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    model = tiny_model(bos=True)
    arguments = ("run", model, "--apr", "--prompt", "ab", "--taps", "embedding", "--target", "reference", "-o", tmp_path / "out")
    assert run_cli(*arguments).code == 0
    manifest = json.loads((tmp_path / "out/trace.json").read_text())
    assert len(manifest["tokens"]) == 2
    assert manifest["plan"] == "embedding 0..1"


def test_a_chat_is_no_raw_prompt(tiny_model: Callable[..., Path]) -> None:
    assert "give one of them" in fails("run", tiny_model(), "--apr", "--chat")
